"""Texts as BLIP's and BLIP-2's matching heads were trained on: cleaned, cut, tokenized; 40 µs a text.

The cleaning and its limits are those of BLIP's and LAVIS's own data loaders.  BLIP's filter reads [ENC] where a BERT
text has [CLS]: transformers' forward pass and BLIP's own demo leave [CLS], which its head was not trained with.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST_CHARACTERS = 65_536
"""So much of a text is looked at; 30 words are found in far less, unless it is no text."""

_SIGNS = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
_GAP = re.compile(r"\s{2,}")


@dataclass(frozen=True)
class TextRules:
    """How a kind of model reads a text: at most so many words and tokens, and what stands first."""

    words: int
    tokens: int
    has_enc: bool


RULES = {"blip": TextRules(30, 35, True), "blip-2": TextRules(50, 32, False)}
"""By ``model_type``: BLIP's retrieval loaders (CapFilt's filter is fine-tuned there), and LAVIS's Blip2ITM."""


def cleaned(text: str, words: int) -> str:
    """In small letters, without the signs ``.!"()*#:;~``, and of at most so many words; may be empty."""
    plain = text.lstrip()[:MOST_CHARACTERS].lower().translate(_SIGNS)
    parts = _GAP.sub(" ", plain).rstrip("\n").strip(" ").split(" ")
    return " ".join(parts[:words])


class ItmTokens:
    """A BERT tokenizer as a matching head wants it."""

    def __init__(self, tokenizer: Any, rules: TextRules, words_known: int, places: int, clean: bool) -> None:
        """Take a model's tokenizer, the size of its word embeddings and the number of its places."""
        self._tokenizer, self._clean, self._words = tokenizer, clean, rules.words
        self.most = min(rules.tokens, places)
        # the real checkpoints' tokenizers are plain BERT's: [DEC] and [ENC] are the last two embeddings
        self.enc = tokenizer.get_vocab().get("[ENC]", words_known - 1) if rules.has_enc else None
        self.known, self._unknown = words_known, tokenizer.unk_token_id  # '<image>' in a text has no embedding here

    def prepared(self, text: str | None) -> str:
        """What is tokenized of a text; empty where there is nothing to score."""
        if text is None:
            return ""
        return cleaned(text, self._words) if self._clean else text.strip()[:MOST_CHARACTERS]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of prepared texts, cut at ``most``, not padded; none where only [CLS] and [SEP] would be."""
        if not texts:
            return []
        found = self._tokenizer(list(texts), truncation=True, max_length=self.most, padding=False)["input_ids"]
        return [[i if i < self.known else self._unknown for i in ids] if len(ids) > 2 else [] for ids in found]
