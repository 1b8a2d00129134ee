"""Where text stands in an image: a small interface, and which detector a setting means.

A detector is a text-detection model in transformers' format (PP-OCRv5 and v6 of PaddleOCR), a DB model as ONNX, or a
class of the user's.  FAST, which T-MARS used, is published as a pickled checkpoint of a research repository and is in
no library; export it to ONNX, or write a class around it.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsieve.filters._transformers_source import TransformersSource
from pairsieve.filters.base import Settings
from pairsieve.schemas.errors import UserError

Pixels = NDArray[np.uint8]
Polygon = NDArray[np.float32]
LARGEST_SIDE = 4096
"""Pixels of an image that a detector is given."""
MOST_POLYGONS = 1000
"""Of an image; further ones are left alone."""


class Detector(Protocol):
    """What finds text: a pure function of the pixels, so that a pair's score depends on the pair alone."""

    def polygons(self, pixels: Pixels) -> Sequence[Polygon]:
        """float[n, 2] (x, y) corners, in pixels, of each piece of text in uint8[height, width, RGB]."""
        ...


class DetectorSource(Settings):
    """A detector by name; see the module."""

    name: str = Field(min_length=1, max_length=4096)
    size: int = Field(736, ge=32, le=4096, multiple_of=32)
    threshold: float = Field(0.3, gt=0, lt=1)
    box_threshold: float = Field(0.6, ge=0, lt=1)
    unclip: float = Field(1.5, ge=1, le=5)

    @property
    def is_onnx(self) -> bool:
        """Whether it is a file for OpenCV."""
        return self.name.lower().endswith(".onnx")

    @property
    def is_class(self) -> bool:
        """Whether it is a class of the user's."""
        module, _, name = self.name.partition(":")
        return name.isidentifier() and all(part.isidentifier() for part in module.split("."))

    @property
    def source(self) -> TransformersSource:
        """The model in transformers' format."""
        return TransformersSource(model=self.name)

    def modules(self) -> tuple[str, ...]:
        """Packages that it imports beside those of every installation."""
        return () if self.is_class else ("torch", "torchvision", "transformers")

    def files(self) -> tuple[str, ...]:
        """Local files that decide what it finds; of a class of the user's none are known."""
        if self.is_onnx:
            return (self.name,)
        return () if self.is_class else self.source.files()

    def check(self) -> None:
        """Refuse what cannot be a detector, before anything runs; raises ``ValueError`` or ``UserError``."""
        if self.is_onnx and not Path(self.name).is_file():
            raise ValueError(f"detector: there is no file {self.name!r}")
        if not self.is_onnx and not self.is_class:
            kind = _config(self.source).get("model_type")
            if not (isinstance(kind, str) and kind.startswith("pp_ocr") and kind.endswith("_det")):
                raise ValueError(
                    f"detector: {self.name!r} is of type {kind!r}; text is found by pp_ocrv5_*_det and later"
                )

    def open(self, device: str) -> Detector:
        """The loaded detector; raises ``UserError`` with one line."""
        if self.is_onnx:
            from pairsieve.filters._detector_onnx import OnnxDetector

            return OnnxDetector(self)
        if self.is_class:
            return _made(self.name)
        from pairsieve.filters._detector_transformers import TransformersDetector

        return self.source.loaded("tmars: detector", lambda: TransformersDetector(self, device))


def found_in(detector: Detector, whole: Pixels) -> list[Polygon]:
    """The text of an image, which a detector sees with a longest side of ``LARGEST_SIDE`` at most."""
    height, width = whole.shape[:2]
    scale = LARGEST_SIDE / max(height, width)
    if scale >= 1:
        return list(detector.polygons(whole))
    small = cv2.resize(
        whole, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    back = np.array([width / small.shape[1], height / small.shape[0]], np.float32)
    return [np.asarray(polygon, np.float32).reshape(-1, 2) * back for polygon in detector.polygons(small)]


def _config(source: TransformersSource) -> Mapping[str, Any]:
    try:
        source.check()
        return source.config()
    except ValueError as error:
        raise ValueError(f"detector: {str(error).removeprefix('model: ')}") from None


def _made(name: str) -> Detector:
    """An instance of the user's class, made without arguments."""
    module, _, kind = name.partition(":")
    try:
        made = getattr(import_module(module), kind)()
    except Exception as error:  # it is the user's code; whatever it raises
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"tmars: cannot make the detector {name}: {why}") from None
    if not callable(getattr(made, "polygons", None)):
        raise UserError(f"tmars: the detector {name} has no method 'polygons(pixels)'")
    found: Detector = made
    return found
