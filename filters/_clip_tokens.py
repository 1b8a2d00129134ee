"""Captions as a CLIP model's tokens, as open_clip's tokenizer makes them, and how many did not fit.

open_clip's own byte-pair tokenizer takes 60 to 150 µs a caption with the interpreter lock held, most of it to mend
text; words are remembered here and plain ASCII, where nothing can be mended, is not looked at: about 10 µs.  Other
tokenizers run as they are.  A text is cut at its end where it is too long, never masked or shuffled, whatever the
model was trained with.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CHARACTERS = 10_000
"""So much of a caption is tokenized: far more than 77 tokens hold, and the time is quadratic in a word's length."""
MOST_WORDS = 1 << 18
"""Words that are remembered, some 60 MB; then all are forgotten."""

_BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c != "\x85")
"""What a text may begin with and no tokenizer sees; \x85 is mended to an ellipsis first."""

Ids = NDArray[np.int64]


class Tokens:
    """An open_clip tokenizer; safe in threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Take the tokenizer for its own: text reduction is switched off."""
        from open_clip.tokenizer import SimpleTokenizer

        self.context = int(tokenizer.context_length)
        self._tokenizer, self._lock = tokenizer, threading.Lock()
        self._words: dict[str, tuple[int, ...]] = {}
        self._is_simple = type(tokenizer) is SimpleTokenizer
        if self._is_simple:
            tokenizer.reduction_fn = None
            self._special = {tokenizer.decoder[i]: tokenizer.decoder[i] for i in tokenizer.all_special_ids}
            self._lowers = tokenizer.clean_fn.__name__ == "_clean_lower"

    @property
    def key(self) -> tuple[Any, ...]:
        """Tokenizers of one key give the same tokens."""
        if not self._is_simple:
            return (id(self),)
        return (self.context, self._tokenizer.clean_fn.__name__, self._tokenizer.vocab_size)

    def ids(self, texts: Sequence[str]) -> Ids:
        """int64[n, context], padded as the model wants it."""
        return self._simple(texts, self.context)[0] if self._is_simple else self._other(texts)

    def ids_and_cut(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int32]]:
        """``ids``, and int32[n]: tokens of each text's first 10,000 characters for which there was no room."""
        if self._is_simple:
            return self._simple(texts, MOST_CHARACTERS * 4)
        return self._other(texts), self._cut_by_other(texts)

    def _simple(self, texts: Sequence[str], most: int) -> tuple[Ids, NDArray[np.int32]]:
        """As ``SimpleTokenizer.__call__``; of each text at most about ``most`` tokens are made."""
        begin, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        ids, cut = np.zeros((len(texts), self.context), np.int64), np.zeros(len(texts), np.int32)
        room = self.context - 2
        for i, text in enumerate(texts):
            found = self._encode(text, most)
            cut[i] = max(0, len(found) - room)
            row = (begin, *found[:room], end)
            ids[i, : len(row)] = row
        return ids, cut

    def _encode(self, text: str, most: int) -> list[int]:
        """As ``SimpleTokenizer.encode``, word by word until there are ``most`` tokens."""
        text = _beginning(text)
        is_plain = self._lowers and text.isascii() and text.isprintable() and "&" not in text
        clean = text.lower() if is_plain else self._tokenizer.clean_fn(text)
        found: list[int] = []
        for match in self._tokenizer.pat.finditer(clean):
            word = match.group()
            found += self._words.get(word) or self._learn(word)
            if len(found) >= most:
                break
        return found

    def _learn(self, word: str) -> tuple[int, ...]:
        """A word's tokens, remembered."""
        own = self._tokenizer
        if len(self._words) >= MOST_WORDS:
            self._words, own.cache = {}, dict(self._special)
        spelt = "".join(own.byte_encoder[byte] for byte in word.encode("utf-8"))
        tokens = tuple(own.encoder[piece] for piece in own.bpe(spelt).split(" "))
        self._words[word] = tokens
        return tokens

    def _other(self, texts: Sequence[str]) -> Ids:
        if not texts:
            return np.zeros((0, self.context), np.int64)
        with self._lock:  # fast tokenizers cannot be called while they are called
            return np.asarray(self._tokenizer([_beginning(text) for text in texts]).numpy(), np.int64)

    def _cut_by_other(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Tokens without room, for a tokenizer of transformers: what it makes of the text without truncation."""
        clean = [self._tokenizer.clean_fn(_beginning(text)) for text in texts]
        is_bare = self._tokenizer.tokenizer_mode == "clips"  # begins, ends and classifies by itself
        room = self.context - 3 * is_bare
        if not texts:
            return np.zeros(0, np.int32)
        with self._lock:
            rows = self._tokenizer.tokenizer(
                clean, add_special_tokens=not is_bare, truncation=False, padding=False, verbose=False
            )["input_ids"]
        return np.array([max(0, len(row) - room) for row in rows], np.int32)


def _beginning(text: str) -> str:
    """As much of a text as is tokenized."""
    return text.lstrip(_BLANKS)[:MOST_CHARACTERS]
