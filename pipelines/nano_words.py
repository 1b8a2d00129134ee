"""The vocabulary of the nano track: open_clip's tokens, of which only those that occur in the pool have an embedding.

A model of 900 tokens trains in a fraction of the time of one of 49,408, and no token that is left out ever occurs.
Tokens keep their order, since open_clip's CLIP takes the text's feature where the highest one stands, its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

CONTEXT = 24
"""Tokens of a text; what is longer is cut, as open_clip cuts at 77."""


class Vocabulary:
    """Turns texts into int64[n, CONTEXT]; tokens that it does not have are left out of a text."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """``tokens`` are open_clip's, in ascending order, padding (0) first."""
        self.tokens = np.array(tokens, np.int64)
        self._known: dict[str, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """All tokens of some texts, with those of begin and end."""
        tokenizer = _tokenizer()
        found = {0, tokenizer.sot_token_id, tokenizer.eot_token_id}
        for text in set(texts):
            found.update(tokenizer.encode(text))
        return cls(sorted(found))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts as a model takes them."""
        import torch

        return torch.from_numpy(np.stack([self._row(text) for text in texts]))

    def _row(self, text: str) -> NDArray[np.int64]:
        if text not in self._known:
            self._known[text] = self._encoded(text)
        return self._known[text]

    def _encoded(self, text: str) -> NDArray[np.int64]:
        begin, end = self._own.sot_token_id, self._own.eot_token_id
        inner = [t for t in self._own.encode(text) if t in self._places][: CONTEXT - 2]
        row = np.zeros(CONTEXT, np.int64)
        row[: len(inner) + 2] = [self._places[token] for token in (begin, *inner, end)]
        return row

    @cached_property
    def _own(self) -> Any:
        return _tokenizer()

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: place for place, token in enumerate(self.tokens.tolist())}


@cache
def _tokenizer() -> Any:
    """Made in 0.2 s."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT)
