"""From a map of the probability of text to boxes in an image: PP-OCR's way, by transformers' own processor."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pairsieve.filters._detector import MOST_POLYGONS, DetectorSource, Polygon


def boxes(processor: Any, found: Any, shape: tuple[int, int], source: DetectorSource) -> Sequence[Polygon]:
    """Rotated boxes in an image of (height, width), of what a model found there (``last_hidden_state``)."""
    import torch

    (one,) = processor.post_process_object_detection(
        found,
        threshold=source.threshold,
        target_sizes=[torch.tensor(shape)],
        box_threshold=source.box_threshold,
        max_candidates=MOST_POLYGONS,
        unclip_ratio=source.unclip,
    )
    return [np.asarray(box, np.float32).reshape(-1, 2) for box in one["boxes"].cpu().numpy()]
