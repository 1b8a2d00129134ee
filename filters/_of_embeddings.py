"""The setting ``embeddings`` of filters that read one stored column of image embeddings."""

from collections.abc import Mapping

import pyarrow as pa
from pydantic import Field

from pairsieve.filters._tensors import check_column
from pairsieve.filters.base import AnyFilter, UnknownColumnError


class OfEmbeddings(AnyFilter):
    """A filter whose ``score`` reads the column alone."""

    embeddings: str = Field("clip_image", description="column of image embeddings: lists of floats")

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return (self.embeddings,)

    def column_width(self, available: Mapping[str, pa.DataType]) -> int | None:
        """Numbers of an embedding, where the type tells; raises ``ValueError`` where it is none of embeddings."""
        if self.embeddings not in available:
            raise UnknownColumnError(self.embeddings, available)
        return check_column(available[self.embeddings], self.embeddings)
