"""Decode images that strangers made, to upright RGB: as seen in a browser, on white.

The size is checked from the header before anything is decoded.  Orientation is applied, alpha is
composited on white, 16 bits become 8 by their high byte, CMYK and palettes become RGB, colour
profiles other than sRGB are converted to it (or ignored where they are broken), of animations the
first frame counts, and a truncated file is broken, however much of it would decode.

A JPEG is decoded by libjpeg-turbo straight (simplejpeg), at 1/2, 1/4 or 1/8 of its size where the caller allows, all
else and what it warns of by Pillow; the pixels are the same.  A 640×480 JPEG costs 1.2 CPU-ms (OpenCV 1.4, Pillow
1.7), 4 to 15 bytes per pixel for a JPEG, 30 for the worst (WebP with alpha); hostile files of the largest size take up
to 15 s.  The interpreter lock is free meanwhile.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from pairsieve.filters import _exif
from pairsieve.filters._codes import Code, printable
from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._headers import HEAD_BYTES, BrokenImageError, Header, read_header, refusal, refusal_of, sniff

Pixels: TypeAlias = npt.NDArray[np.uint8]
T = TypeVar("T")
Size: TypeAlias = tuple[int, int]
"""Width and height."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a gigabyte as RGB."""

# Made directly: ``Image.open`` would try more formats, and warn about sizes instead of refusing.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


SPARE = 2.0
"""A JPEG that is decoded small still has so many times the wanted pixels, both ways.

Its decoder averages otherwise than ``INTER_AREA`` does: photo-like pictures are then at least 40 dB PSNR from what full
decoding gives (1.5: 35 dB)."""


@dataclass(frozen=True)
class Decoded:
    """An upright picture, and whether the file itself shows the same picture everywhere.

    ``pixels`` are RGB, uint8[height, width, 3], or grey, uint8[height, width], or, where ``decode_image`` was told
    what is wanted of it, maybe BGRX with a fourth sample of no meaning.  ``size`` is that of the file's picture; one
    that was decoded at one ``scale``-th of it has ``size / scale`` pixels, the last row and column maybe in part.
    """

    pixels: Pixels
    kind: str  # the format of the file
    faithful: bool  # neither turned nor composited
    exif: bytes = b""
    scale: int = 1
    whole: Size | None = None

    @property
    def size(self) -> Size:
        """Width and height of the picture."""
        return self.whole or (self.pixels.shape[1], self.pixels.shape[0])


Hold: TypeAlias = Callable[[str, Size], AbstractContextManager[None]]
Wanted: TypeAlias = Callable[[Size], Size | None]
"""Of an upright picture of a size the size that it is going to be reduced to, null where all its pixels are wanted."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture, height × width × RGB; raises ``BrokenImageError`` and nothing else."""
    pixels = decode_image(data, max_pixels).pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def decode_image(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    wanted: Wanted | None = None,
    memory: DecodeMemory | None = None,
) -> Decoded:
    """The picture and what is known of its file; raises ``BrokenImageError`` and nothing else.

    ``wanted`` allows a JPEG to be decoded small; decoding waits until ``memory`` has room for it.
    """
    hold = memory.hold if memory else _no_wait
    return _guarded(data, lambda kind: _decode(kind, data, max_pixels, wanted, hold))


def _no_wait(kind: str, size: Size) -> AbstractContextManager[None]:
    return nullcontext()


def _guarded(data: bytes, work: Callable[[str], T]) -> T:
    """What ``work`` makes of a file of an allowed format; raises ``BrokenImageError`` and nothing else."""
    kind = sniff(data[:HEAD_BYTES])
    code = refusal_of(kind)
    if kind is None or code:
        raise BrokenImageError(code or Code.NOT_AN_IMAGE, f"begins as {kind or 'no image'}")
    try:
        return work(kind)
    except BrokenImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImageError(Code.TOO_MANY_PIXELS, printable(str(error))) from error
    except Exception as error:  # decoders raise whatever a hostile file leads them to
        raise BrokenImageError(Code.BROKEN_IMAGE, printable(f"{kind}: {error}")) from error


@dataclass(frozen=True)
class Seen:
    """What a file says of itself: its format, the size of its picture as it lies, EXIF."""

    kind: str
    size: Size
    exif: bytes


def look(data: bytes, max_pixels: int = MAX_PIXELS) -> Seen:
    """What the file says; raises ``BrokenImageError``.  Nothing is decoded, so its rest may be broken."""
    return _guarded(data, lambda kind: _look(kind, data, max_pixels))


def _look(kind: str, data: bytes, max_pixels: int) -> Seen:
    header = read_header(kind, data)
    _check_size(header.size, max_pixels)
    if header.size is not None and kind != "webp":  # whose EXIF lies at its end
        return Seen(kind, header.size, header.exif)
    with _OPENERS[kind](BytesIO(header.body)) as image:
        _check_size(image.size, max_pixels)
        return Seen(kind, image.size, image.info.get("exif", b""))


def _decode(kind: str, data: bytes, max_pixels: int, wanted: Wanted | None, hold: Hold) -> Decoded:
    header = read_header(kind, data)
    _check_size(header.size, max_pixels)
    if kind == "jpeg" and _is_srgb(header.profile):
        try:
            return _jpeg(header, wanted, hold)
        except ValueError:  # it warns, or knows no such colours: Pillow knows what still is a picture
            pass
    return _by_pillow(kind, header, max_pixels, hold)


def _jpeg(header: Header, wanted: Wanted | None, hold: Hold) -> Decoded:
    """A JPEG in grey or RGB; raises ``ValueError`` for any other, and for what is wrong with it."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(header.body)
    if colours not in ("YCbCr", "RGB", "Gray") or header.size != (width, height):
        raise ValueError(colours)
    turned = _exif.orientation(header.exif)
    whole = (height, width) if turned > 4 else (width, height)
    target = wanted(whole) if wanted else None
    scale = 1 if target is None else _scale(whole, target, turned == 1)
    layout = "GRAY" if colours == "Gray" else "RGB" if wanted is None else "BGRX"
    small = {"min_width": -(-width // scale), "min_height": -(-height // scale)} if scale > 1 else {}
    with hold("jpeg", whole):
        pixels = simplejpeg.decode_jpeg(header.body, layout, fastdct=False, fastupsample=False, **small)
        pixels = _upright(pixels[:, :, 0] if layout == "GRAY" else pixels, turned)
    return Decoded(pixels, "jpeg", turned == 1, header.exif, scale, whole)


def _scale(whole: Size, target: Size, upright: bool) -> int:
    """One over the scale that a JPEG can be decoded at; of one that is to be turned no pixel at an edge is in part."""
    ratio = min(side / new for side, new in zip(whole, target, strict=True))
    fits = (scale for scale in (8, 4, 2) if upright or not any(side % scale for side in whole))
    return next((scale for scale in fits if ratio >= scale * SPARE), 1)


def _by_pillow(kind: str, header: Header, max_pixels: int, hold: Hold) -> Decoded:
    if header.size is not None:  # else it is known once the file is open; WebP's decoder takes memory for that
        with hold(kind, header.size):
            return _opened(kind, header, max_pixels, _no_wait)
    return _opened(kind, header, max_pixels, hold)


def _opened(kind: str, header: Header, max_pixels: int, hold: Hold) -> Decoded:
    with _OPENERS[kind](BytesIO(header.body)) as image:
        _check_size(image.size, max_pixels)
        exif = header.exif or image.info.get("exif", b"")
        turned = _exif.orientation(exif)
        with hold(kind, image.size):
            image.load()
            pixels, composited = _flat(image, keeps_grey=kind in ("jpeg", "png"))
            pixels = _upright(pixels, turned)
    return Decoded(pixels, kind, faithful=turned == 1 and not composited, exif=exif)


def _upright(pixels: Pixels, turned: int) -> Pixels:
    return np.ascontiguousarray(_TURNS[turned](pixels)) if turned != 1 else pixels


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size and size[0] * size[1] > max_pixels:
        raise BrokenImageError(Code.TOO_MANY_PIXELS, f"{size[0]}×{size[1]} pixels")
    if size and not size[0] * size[1]:
        raise BrokenImageError(Code.BROKEN_IMAGE, "no pixels")


def _flat(image: Image.Image, keeps_grey: bool) -> tuple[Pixels, bool]:
    """Opaque RGB or grey pixels, and whether that took compositing."""
    if image.mode.startswith("I"):
        return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8), False
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        rgb = _to_srgb(image.convert("RGB"), image.info.get("icc_profile"))
        return _on_white(np.asarray(rgb), np.asarray(image.getchannel("A"))), True
    profile = image.info.get("icc_profile")
    if keeps_grey and image.mode in ("1", "L") and _is_srgb(profile):
        return np.asarray(image.convert("L")), False
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    return np.asarray(_to_srgb(image, profile)), False


def _is_srgb(profile: bytes | None) -> bool:
    """Whether there is nothing to convert."""
    named = (profile or b"")[:8192].replace(b"\0", b"")  # the name is UTF-16 in newer profiles
    return not profile or b"sRGB" in named


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB by the file's colour profile; without one, or with a broken one, as it stands."""
    if profile and not _is_srgb(profile):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a profile of another colour space, or none at all
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Composite, exactly rounded, a band at a time to need no second picture of wider numbers."""
    out = np.empty_like(rgb)
    for top in range(0, len(rgb), 64):
        cover = alpha[top : top + 64, :, None].astype(np.uint32)
        out[top : top + 64] = (rgb[top : top + 64] * cover + 255 * (255 - cover) + 127) // 255
    return out


__all__ = ["MAX_PIXELS", "BrokenImageError", "Decoded", "Pixels", "Size", "decode", "decode_image", "refusal", "sniff"]
