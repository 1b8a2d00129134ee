"""Rewrite texts with a language model behind a chat server, as LaCLIP, CapsFusion and VeCLIP do.

The server is the cost.  Beside it a request takes 0.4 ms of a core here, so a worker asks up to 2,400 a second.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, PrivateAttr

from pairsieve.filters import _chat_columns
from pairsieve.filters._chat import Ask, Asks, Chat, ChatServer, Found
from pairsieve.filters._chat_answers import cleaned
from pairsieve.filters._chat_prompts import Prompt
from pairsieve.filters.base import Filter, Threshold

Columns = dict[str, pa.Array]


class Rewrite(Filter):
    """Ask a language model for ``count`` rewrites by each prompt; ``rewrite`` holds them in the order of the prompts.

    A prompt is a template: ``{text}`` is the pair's own text, ``{caption}`` the first text of that column,
    ``{caption:lines}`` all of them as numbered lines.  LaCLIP (arXiv 2305.20088): ``temperature: 0.9``, ``top_p:
    0.95``, three ``examples``, one prompt for each of four styles, ``min_words: 2``.  CapsFusion (2310.20550) merges
    ``{text}`` with one caption.

    Columns: ``rewrite`` (a null in it where an answer was empty or failed; null where no rewrite came at all),
    ``rewrite_failed`` (how many are missing because the server failed), ``rewrite_prompt_tokens`` and
    ``rewrite_completion_tokens`` (as the server counted them), and ``rewrite_error``, why a pair has no rewrite:
    ``no_text`` (a text that a prompt needs is missing; nothing was asked), ``no_rewrite`` (only empty answers),
    ``server_timeout``, ``server_busy`` (429, 503), ``server_error`` (other 5xx, connection broken), ``server_refused``
    (4xx), ``server_garbage``.  With ``required: true`` such a pair is dropped, for that reason.
    """

    batch_rows = 256
    loads_model = True

    server: ChatServer = Field(description="where the model is served, and how it is asked")
    prompts: tuple[Prompt, ...] = Field(
        min_length=1,
        max_length=64,
        description="templates, or {prompt, examples, shots}; ``count`` rewrites by each",
    )
    count: PositiveInt = Field(1, le=100, description="rewrites by each prompt")
    words: PositiveInt = Field(128, le=10_000, description="words of each text in a prompt; the rest is cut off")
    min_words: NonNegativeInt = Field(
        0, description="the pair's own text stands in for a rewrite of fewer words; LaCLIP: 2; an empty one is null"
    )
    seed: int = Field(0, ge=0, lt=2**62, description="of the requests' seeds and examples")
    required: Threshold[bool] = Field(False, description="drop pairs without any rewrite")

    _chat: Chat | None = PrivateAttr(None)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return self._names

    @property
    def _names(self) -> tuple[str, ...]:
        """Columns that are read: the text where it stands in, and what the prompts name."""
        own = ("text",) if self.min_words else ()
        return tuple(dict.fromkeys([*own, *(hole.column for prompt in self.prompts for hole in prompt.holes)]))

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return _chat_columns.types("rewrite")

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        for prompt in self.prompts:
            prompt.check(available)

    def open(self) -> None:
        self._chat = Chat(self.server)

    def close(self) -> None:
        if self._chat:
            self._chat.close()
        self._chat = None

    def score(self, pairs: pa.RecordBatch) -> Columns:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Generator[Columns, None, None]:
        """``score`` of each part, in order; later parts are asked about while earlier ones are answered."""
        assert self._chat is not None
        for pairs, found in self._chat.stream(batches, self._asks):
            yield _chat_columns.columns("rewrite", self._with_originals(pairs, found), "no_rewrite")

    def _asks(self, pairs: pa.RecordBatch) -> list[Asks]:
        """The questions of each row, by prompt and number."""
        bits = _chat_columns.numbered_bits(pairs["uid"], self.seed, len(self.prompts) * self.count).tolist()
        columns = [pairs[name].to_pylist() for name in self._names]
        rows = zip(*columns, strict=True) if columns else iter([()] * pairs.num_rows)
        return [self._of(dict(zip(self._names, row, strict=True)), own) for row, own in zip(rows, bits, strict=True)]

    def _of(self, values: Mapping[str, Any], bits: list[int]) -> Asks:
        """One row's questions, or ``no_text``."""
        count = 1 if self.server.together else self.count
        asks: list[Ask] = []
        for i, prompt in enumerate(self.prompts):
            for own in bits[i * self.count : i * self.count + count]:
                text = prompt.filled(values, own, self.words)
                if text is None:
                    return "no_text"
                asks.append(Ask(text, own, count=self.count // count))
        return asks

    def _with_originals(self, pairs: pa.RecordBatch, found: list[Found]) -> list[Found]:
        """The pair's own text for rewrites that are too short."""
        if not self.min_words:
            return found
        texts = map(cleaned, pairs["text"].to_pylist())
        return [replace(row, texts=self._long(row, own)) for row, own in zip(found, texts, strict=True)]

    def _long(self, row: Found, own: str | None) -> tuple[str | None, ...]:
        return tuple(own if text and len(text.split()) < self.min_words else text for text in row.texts)

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        if not self.required:
            return pa.nulls(pairs.num_rows, pa.string())
        return pairs["rewrite_error"]
