"""Embeddings of sentences by a BERT-like encoder: the mean of its tokens' last states, of length one.

As sentence-transformers computes them for all-MiniLM-L6-v2 and its kin, in float32.  Texts run in batches of one shape
by their length, so that a text's bits depend on itself alone.  At the size of all-MiniLM-L6-v2 a caption takes 5.5 ms
of one core, where plain batches of 32 take 5.0.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsieve.filters._clip_batches import Batches, Rows
from pairsieve.filters._products import device_of
from pairsieve.filters._transformers_source import TransformersSource
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

LENGTHS = (16, 32, 64, 128)
"""Places of a batch, besides the most: captions have about 12 tokens."""
ROWS = {"cpu": 16, "cuda": 1024}
"""Texts a batch."""
TOKENS = 256
"""At most, [CLS] and [SEP] included, where the model's own files do not say another number."""
MOST_CHARACTERS = 65_536
"""So much of a text is tokenized."""
ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "roberta",
    "xlm-roberta",
)
"""Kinds of model that embed texts with the mean of their tokens."""
POOLING, LIMITS = "1_Pooling/config.json", "sentence_bert_config.json"


class SentenceSource(TransformersSource):
    """An encoder by name; also in sentence-transformers' format, which is transformers' with small files beside."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        max_length=4096,
        description="local directory, or org/name on the hub",
    )

    def check(self) -> None:
        super().check()
        if (kind := self.config()["model_type"]) not in ENCODERS:
            raise ValueError(f"model: {self.model!r} is a {kind}; a sentence encoder is one of {', '.join(ENCODERS)}")

    def beside(self, name: str) -> Mapping[str, Any]:
        """A small file of sentence-transformers' own; ``{}`` where there is none."""
        try:
            file = self.folder / name if self.folder else Path(self._hub_file(name))
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, UserError):
            return {}
        return found if isinstance(found, dict) else {}


class Sentences:
    """A loaded encoder; ``embed`` is the work."""

    def __init__(self, model: Any, tokenizer: Any, most: int, device: "torch.device") -> None:
        """Take a model in evaluation mode that is on the device."""
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._lengths = [*(n for n in LENGTHS if n < most), most]
        self._batches: dict[int, Batches] = {}

    @staticmethod
    def load(source: SentenceSource, device: str, who: str) -> "Sentences":
        """Load it; raises ``UserError`` with one line for whatever goes wrong."""
        chosen = device_of(device)
        return source.loaded(who, lambda: _load(source, chosen))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, d] of length one; equal texts are computed once."""
        places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        to = Rows(len(places))
        if not places:
            return np.zeros((0, 0), np.float32)
        self._put(self._ids([text.strip()[:MOST_CHARACTERS] for text in places]), to)
        for batches in self._batches.values():
            batches.flush()
        assert to.values is not None
        return to.values[[places[text] for text in texts]]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        most = self._lengths[-1]
        found: list[list[int]] = self._tokenizer(texts, truncation=True, max_length=most, padding=False)["input_ids"]
        return found

    def _put(self, ids: list[list[int]], to: Rows) -> None:
        """Send texts on their way by length; a place without a token is -1."""
        needed = np.searchsorted(self._lengths, [len(own) for own in ids])
        for number in np.unique(needed):
            at, length = np.flatnonzero(needed == number), self._lengths[number]
            rows = np.full((len(at), length), -1, np.int64)
            for row, i in enumerate(at):
                rows[row, : len(ids[i])] = ids[i]
            self._of(length).put(rows, to, at)

    def _of(self, length: int) -> Batches:
        import torch

        if length not in self._batches:
            rows = ROWS[self._device.type]
            self._batches[length] = Batches(self._encode, (length,), torch.int64, rows, self._device)
        return self._batches[length]

    def _encode(self, ids: "torch.Tensor") -> "torch.Tensor":
        """float32[n, d] of int64[n, places]."""
        from torch.nn.functional import normalize

        mask = ids >= 0
        padded = ids.masked_fill(~mask, self._tokenizer.pad_token_id)
        states = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state.float()
        weights = mask[..., None].to(states.dtype)
        return normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)


def _load(source: SentenceSource, device: "torch.device") -> Sentences:
    import torch
    import transformers

    from pairsieve.filters._transformers_models import TransformersLibrary, checked

    pooling = source.beside(POOLING)
    if pooling and not pooling.get("pooling_mode_mean_tokens"):
        raise UserError("it does not take the mean of its tokens; give an encoder that does, as all-MiniLM-L6-v2")
    known: Any = transformers
    place, where = source.place()
    model = TransformersLibrary(source).model("AutoModel", torch.float32, device)
    words = int(model.config.vocab_size)
    tokenizer = checked(known.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **where), words)
    return Sentences(model, tokenizer, _most(source.beside(LIMITS), model.config), device)


def _most(limits: Mapping[str, Any], config: Any) -> int:
    """Tokens that the model takes."""
    said = limits.get("max_seq_length")
    asked = said if isinstance(said, int) and said > 2 else TOKENS
    return int(min(asked, getattr(config, "max_position_embeddings", None) or asked))
