"""Text detection by a model of transformers with a processor of its own: PP-OCRv5 and v6 of PaddleOCR.

Weights are read from safetensors only.  Images differ in shape, so each goes alone: 0.9 s on one core for the mobile
model and an image of 960×720.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._detector import DetectorSource, Pixels, Polygon
from pairsieve.filters._detector_boxes import boxes
from pairsieve.filters._products import device_of
from pairsieve.filters._transformers_models import TransformersLibrary


class TransformersDetector:
    """A model with its processor, in float32."""

    def __init__(self, source: DetectorSource, device: str) -> None:
        """Load by name; raises what transformers raises."""
        self._source, self._device = source, device_of(device)
        self._model = TransformersLibrary(source.source).model(
            "AutoModelForObjectDetection", torch.float32, self._device
        )
        name, where = source.source.place()
        hf: Any = import_module("transformers")
        self._processor = hf.AutoImageProcessor.from_pretrained(name, trust_remote_code=False, **where)

    def polygons(self, pixels: Pixels) -> Sequence[Polygon]:
        """See ``Detector``."""
        with repeatable():
            given = self._processor(images=[pixels], return_tensors="pt")
            found = self._model(pixel_values=given["pixel_values"].to(self._device))
        return boxes(self._processor, found, pixels.shape[:2], self._source)
