"""Text detection by a DB model (differentiable binarisation) as an ONNX file: OpenCV's network, PP-OCR's boxes.

The model's input is float32[1, 3, size, size], blue, green, red, (value - mean) / 255 with the means of OpenCV's own DB
models; the image is squashed to it.  Its output is one map, the probability of text, of any size.  OpenCV's own
``TextDetectionModel_DB`` is not used: in 5.0 it refuses maps of four dimensions, which all published files give.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._detector import DetectorSource, Pixels, Polygon
from pairsieve.filters._detector_boxes import boxes
from pairsieve.schemas.errors import UserError

MEAN = (122.67891434, 116.66876762, 104.00698793)
"""In the order that OpenCV documents for its DB models."""


class OnnxDetector:
    """A network of OpenCV's."""

    def __init__(self, source: DetectorSource) -> None:
        """Load the file; raises ``UserError`` where OpenCV does not read it."""
        from transformers import PPOCRV5ServerDetImageProcessor

        self._source = source
        self._processor: Any = PPOCRV5ServerDetImageProcessor()
        try:
            self._net = cv2.dnn.readNetFromONNX(source.name)
        except cv2.error as error:
            why = " ".join(str(error).split())[:300]
            raise UserError(f"tmars: cannot load the detector {source.name!r}: {why}") from None

    def polygons(self, pixels: Pixels) -> Sequence[Polygon]:
        """See ``Detector``; raises ``UserError`` where the model's output is no map of text."""
        import torch

        found = SimpleNamespace(last_hidden_state=torch.from_numpy(self._probabilities(pixels)))
        return boxes(self._processor, found, pixels.shape[:2], self._source)

    def _probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """float32[1, 1, height, width]."""
        side = (self._source.size, self._source.size)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # sums in another order have other bits
        try:
            self._net.setInput(cv2.dnn.blobFromImage(pixels, 1.0 / 255.0, side, MEAN, swapRB=True))
            found = np.asarray(self._net.forward(), np.float32)
        except cv2.error as error:
            why = " ".join(str(error).split())[:300]
            raise UserError(f"tmars: the detector fails: {why}; is it a DB model of this 'size'?") from None
        finally:
            cv2.setNumThreads(threads)
        if found.ndim not in (2, 3, 4) or found.size != found.shape[-1] * found.shape[-2]:
            raise UserError(f"tmars: the detector gives {found.shape}, no map of text; is it a DB model?")
        return np.nan_to_num(found).reshape(1, 1, *found.shape[-2:])
