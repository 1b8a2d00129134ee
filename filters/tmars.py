"""T-MARS: mask the text in an image and score what is left with CLIP.

The cost is a text detector's and a CLIP model's, an image of each, and 10 ms for masking; the detector is the larger
part on a CPU.  Images without text get the score that ``clip_score`` gives them, bit for bit.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr, model_validator

from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_batches import Rows
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._detector import Detector, DetectorSource, Pixels, Polygon, found_in
from pairsieve.filters._preprocess import FORMATS, QUIET, picture_of, pixels
from pairsieve.filters._products import resources_of
from pairsieve.filters._ranked import Ranked, missing
from pairsieve.filters.base import Resources

RING = 8
"""``surround``: pixels around a piece of text that give it their colour."""


class Tmars(ClipModel, Ranked):
    """Cosine of the image without its text and the caption (T-MARS, arXiv 2307.03132); keep by ``min`` or ``top``.

    A detector finds the text, its pixels get one colour, and CLIP scores the image again: pairs that only their text
    holds together fall.  Text is masked in the image as it is stored, before CLIP's own preprocessing.

    Columns: ``tmars`` (float32, null where there is none), ``tmars_error`` (``no_image``, ``broken_image``,
    ``too_many_pixels``, ``no_text``), ``tmars_boxes`` (pieces of text found), ``tmars_area`` (share of the image that
    they cover).  Reasons: those errors, ``no_score``, ``below_min``, ``below_top``; with ``exclude``, ``not_below``.
    """

    reads = ("image", "text")
    writes = {
        "tmars": pa.float32(),
        "tmars_error": pa.string(),
        "tmars_boxes": pa.int32(),
        "tmars_area": pa.float32(),
    }
    batch_rows = 256
    extra = "caption"
    loads_model = True

    detector: str = Field(
        min_length=1,
        max_length=4096,
        description="directory or org/name of a PP-OCR detector in transformers' format, a DB model as .onnx, or "
        "package.module:Class of yours",
    )
    size: PositiveInt = Field(736, ge=32, le=4096, multiple_of=32, description="of an ONNX detector's square input")
    threshold: float = Field(0.3, gt=0, lt=1, description="probability above which a pixel is text")
    box_threshold: float = Field(0.6, ge=0, lt=1, description="mean probability of a piece of text")
    unclip: float = Field(1.5, ge=1, le=5, description="how far a piece is grown: DB models find text shrunk")
    dilate: NonNegativeInt = Field(0, le=256, description="further pixels around each piece")
    fill: Literal["mean", "surround"] = Field(
        "mean", description="mean: the image's mean colour, as T-MARS; surround: the mean of the pixels around a piece"
    )
    batch_size: PositiveInt | None = Field(
        None,
        le=65_536,
        description="rows a batch of the CLIP model; null: 16 on a CPU, as many as fit up to 512 on a GPU",
    )

    _clip: Clip | None = PrivateAttr(None)
    _detector: Detector | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _has_model(self) -> "Tmars":
        if self.model is None:
            raise ValueError("give the CLIP model as 'model'")
        _ = self.source  # refuses what does not go together
        return self

    @property
    def _found_by(self) -> DetectorSource:
        return DetectorSource(
            name=self.detector,
            size=self.size,
            threshold=self.threshold,
            box_threshold=self.box_threshold,
            unclip=self.unclip,
        )

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.model_modules(), *self._found_by.modules()]))

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        self.check_model()
        self._found_by.check()

    def files(self) -> tuple[str, ...]:
        return (*self.model_files(), *self._found_by.files())

    def resources(self) -> Resources:
        return resources_of(self.device)

    def imports(self) -> tuple[str, ...]:
        return self.needs()

    def open(self) -> None:
        self._detector = self._found_by.open(self.device)
        self._clip = self.load(self.batch_size)

    def close(self) -> None:
        self._clip, self._detector = None, None

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        assert self._clip is not None
        texts = pairs["text"].to_pylist()
        made = [self._masked(image.as_py(), text) for image, text in zip(pairs["image"], texts, strict=True)]
        rows = np.array([i for i, one in enumerate(made) if not isinstance(one, str)], np.int64)
        image, text = Rows(len(made)), Rows(len(made))
        if len(rows):
            self._clip.put_images(np.stack([one[0] for one in made if not isinstance(one, str)]), image, rows)
            self._clip.put_texts(self._clip.tokens.ids([texts[i] for i in rows]), text, rows)
            self._clip.flush()
        errors = [one if isinstance(one, str) else None for one in made]
        return {
            "tmars": _cosines(image, text, rows),
            "tmars_error": pa.array(errors, pa.string()),
            "tmars_boxes": pa.array([None if isinstance(one, str) else one[1] for one in made], pa.int32()),
            "tmars_area": pa.array([None if isinstance(one, str) else one[2] for one in made], pa.float32()),
        }

    def _masked(self, data: bytes | None, text: str | None) -> tuple[Pixels, int, float] | str:
        """The picture as CLIP wants it with its text masked, pieces of text, and their share; or why there is none."""
        assert self._clip is not None and self._detector is not None
        plain = pixels(data, [self._clip.wanted], fast=False)
        if isinstance(plain, str) or data is None:
            return plain if isinstance(plain, str) else "no_image"
        if not text or not text.strip():
            return "no_text"
        try:
            with QUIET, Image.open(BytesIO(data), formats=FORMATS) as image:
                whole = np.asarray(image.convert("RGB"))
        except Exception:  # decoders raise whatever a hostile file leads them to
            return "broken_image"
        found = found_in(self._detector, whole)
        covered = mask_of(found, whole.shape[:2], self.dilate)
        if not covered.any():
            return plain[0], len(found), 0.0
        painted = Image.fromarray(masked(whole, covered, self.fill))
        return picture_of(painted, self._clip.wanted), len(found), float(covered.mean())

    def keep(self, pairs: pa.RecordBatch, settled: Mapping[str, Any]) -> pa.Array:
        reasons = super().keep(pairs, settled)
        if self.min is None and self.top is None:
            return reasons
        lost = pc.and_(missing(pairs["tmars"]), pc.is_valid(pairs["tmars_error"]))
        return pc.if_else(lost, pairs["tmars_error"], reasons.cast(pa.string()))


def mask_of(polygons: Sequence[Polygon], shape: tuple[int, int], dilate: int) -> NDArray[np.bool_]:
    """bool[height, width]: where text stands, grown by some pixels; corners outside the image are cut off."""
    covered = np.zeros(shape, np.uint8)
    for polygon in polygons:
        corners = np.nan_to_num(np.asarray(polygon, np.float64), posinf=0, neginf=0).reshape(-1, 2)
        corners = np.clip(corners.round(), -32_768, 32_767).astype(np.int32)
        if len(corners) > 2:
            cv2.fillPoly(covered, [corners], 1)
    if dilate and covered.any():
        covered = cv2.dilate(covered, np.ones((2 * dilate + 1, 2 * dilate + 1), np.uint8))
    return covered.astype(bool)


def masked(whole: Pixels, covered: NDArray[np.bool_], fill: str) -> Pixels:
    """The image with one colour where text stands, or one for each piece that hangs together."""
    painted = whole.copy()
    if fill == "mean":
        painted[covered] = whole.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        return painted
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(covered.astype(np.uint8))
    for part in range(1, count):
        left, top, width, height = (int(side) for side in boxes[part, :4])
        window = slice(max(0, top - RING), top + height + RING), slice(max(0, left - RING), left + width + RING)
        own = parts[window] == part
        near = cv2.dilate(own.astype(np.uint8), _NEAR).astype(bool) & ~covered[window]
        around = whole[window][near] if near.any() else whole.reshape(-1, 3)
        painted[window][own] = around.mean(axis=0).round().astype(np.uint8)
    return painted


_NEAR = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)


def _cosines(image: Rows, text: Rows, rows: NDArray[np.int64]) -> pa.Array:
    """float32[n], null where there is no pair."""
    found = np.full(image.count, np.nan, np.float32)
    if image.values is not None and text.values is not None:
        products = image.values[rows].astype(np.float64) * text.values[rows]
        found[rows] = products.sum(axis=1).astype(np.float32)
    return pa.array(found, mask=np.isnan(found))
