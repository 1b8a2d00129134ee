"""Captions by models that write with their own ``generate``: one image after another, all captions of it at once.

The model is the cost, and it stands still while an image is prepared: nothing is batched, so that an image's captions
depend on the image, its uid and the settings alone, whatever the model makes of padding.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._caption_flow import Part, by_processor, numbers_of
from pairsieve.filters._caption_texts import clean
from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._decode import Decoding
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.filters._generating import Generating


class OtherFlow:
    """A model of kind ``other`` and how it writes; as ``_caption_flow.Flow`` for the kinds with a path of their own."""

    def __init__(self, model: "Generating", decoding: Decoding, seed: int) -> None:
        """Nothing is started."""
        self._model, self._decoding, self._seed = model, decoding, seed

    def close(self) -> None:
        """Nothing is left behind."""

    def stream(self, parts: Iterable[pa.RecordBatch]) -> Iterator[Part]:
        """Each part's captions, in order."""
        for pairs in parts:
            part = Part.of(pairs.num_rows)
            numbers = numbers_of(pairs["uid"], self._seed, self._decoding)
            for row, image in enumerate(pairs["image"]):
                self._caption(part, row, image.as_py(), numbers[row])
            yield part

    def _caption(self, part: Part, row: int, data: bytes | None, numbers: NDArray[np.float64]) -> None:
        """Write one image's captions, or why there are none."""
        inputs = "no_image" if data is None else by_processor(self._model.prepare, data)
        if isinstance(inputs, str):
            part.refuse(row, inputs)
        else:
            part.take(row, [clean(text) for text in self._written(inputs, numbers)])

    def _written(self, inputs: object, numbers: NDArray[np.float64]) -> list[str]:
        """The captions as the model writes them; whatever it raises becomes a ``UserError`` of one line."""
        import torch

        try:
            with repeatable():
                return [self._model.text(row) for row in self._model.write(inputs, self._decoding, numbers)]
        except torch.OutOfMemoryError:
            advice = "take fewer captions an image, or a smaller model"
            raise UserError(f"caption: one image does not fit into the device's memory; {advice}") from None
        except Exception as error:  # of images, settings and models that passed their trial: whatever a library raises
            why = (str(error).strip() or type(error).__name__).split("\n")[0][:300]
            raise UserError(f"caption: the model's own generate() fails: {why}") from error
