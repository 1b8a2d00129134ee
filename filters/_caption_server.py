"""Captions by a large vision-language model behind a chat server: what ``caption`` asks with ``server``.

The server is the cost.  Here an image is decoded once, to see whether it is one, and sent as it is or made smaller.
"""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from pairsieve.filters import _chat_columns
from pairsieve.filters._chat import Ask, Asks, Chat, ChatServer, Found
from pairsieve.filters._chat_prompts import Prompt

WORDS = 128
"""Of a text in the prompt."""


class ServerFlow:
    """A server that is asked for captions; as ``_caption_flow.Flow`` for a model of our own."""

    def __init__(self, server: ChatServer, prompt: Prompt, count: int, seed: int) -> None:
        """Nothing is asked yet."""
        self._prompt, self._count, self._seed = prompt, count, seed
        self._chat, self._is_together = Chat(server), server.together

    def close(self) -> None:
        """End what is in flight."""
        self._chat.close()

    def columns(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        """Columns of each part, in order."""
        for _, found in self._chat.stream(batches, self._asks):
            yield _chat_columns.columns("caption", [_unasked(row) for row in found], "no_caption")

    def _asks(self, pairs: pa.RecordBatch) -> list[Asks]:
        """The questions of each image, by number."""
        bits = _chat_columns.numbered_bits(pairs["uid"], self._seed, self._count).tolist()
        names = [hole.column for hole in self._prompt.holes]
        texts = [pairs[name].to_pylist() for name in names]
        values = [dict(zip(names, row, strict=True)) for row in zip(*texts, strict=True)] or [{}] * pairs.num_rows
        rows = zip(pairs["image"], values, bits, strict=True)
        return [self._of(image.as_py(), own, numbers) for image, own, numbers in rows]

    def _of(self, image: bytes | None, values: Mapping[str, object], bits: list[int]) -> Asks:
        """One image's questions, or why there are none."""
        prompt = self._prompt.filled(values, bits[0], WORDS)
        if image is None or prompt is None:
            return "no_image" if image is None else "no_text"
        if self._is_together:
            return [Ask(prompt, bits[0], image, self._count)]
        return [Ask(prompt, own, image) for own in bits]


_OURS = ("no_image", "no_text", "broken_image", "too_many_pixels")


def _unasked(row: Found) -> Found:
    """An image that nobody was asked about has cost no server anything."""
    return Found(error=row.error) if row.error in _OURS else row
