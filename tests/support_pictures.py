"""Pictures like photos, and how far two pictures are apart."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]


def natural(width: int, height: int, seed: int = 0, slope: float = 1.5, grain: float = 3.0) -> Pixels:
    """RGB noise whose amplitude falls with frequency ** slope, as in photos (1 to 1.5), with a camera's grain."""
    random = np.random.default_rng(seed)
    high, wide = (-(-side // 64) * 64 for side in (height, width))  # sides of small factors, which are quick
    spectrum = np.fft.rfft2(random.standard_normal((high, wide, 3)), axes=(0, 1))
    down, across = np.fft.fftfreq(high)[:, None, None], np.fft.rfftfreq(wide)[None, :, None]
    frequency = np.maximum(np.hypot(down, across), 1 / max(wide, high))
    shades = np.fft.irfft2(spectrum / frequency**slope, s=(high, wide), axes=(0, 1))[:height, :width]
    shades = (shades - shades.mean()) / shades.std()
    grey = shades.mean(axis=2, keepdims=True) * 1.5 + 0.35 * shades  # colours change less than brightness
    noisy = 128 + 50 * grey + grain * random.standard_normal(grey.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def jpeg(pixels: Pixels, quality: int = 88) -> bytes:
    """RGB or grey pixels as a JPEG file."""
    shown = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
    return bytes(cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two pictures; infinite for equal ones."""
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
