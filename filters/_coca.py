"""CoCa's captioner by open_clip: its own blocks, run a token at a time.

open_clip 3.3's ``generate`` does not run with transformers 5, and has no cache: it runs the text so far again for every
token.  Here each token passes once through the text tower and the decoder above it, with the weights of their blocks.
As in open_clip a caption ends with its end token or with token 0, which stands for padding.  Imported by what opens a
model, never before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from pairsieve.filters._caption_source import CaptionSource
from pairsieve.filters._decode_tree import Begun, Tree
from pairsieve.filters._pictures_shared import weights_digest
from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.schemas.errors import UserError

Keys = tuple[torch.Tensor, torch.Tensor]


class CocaCaptioner:
    """open_clip's ``CoCa`` with its tokenizer and prompt."""

    prompt: Sequence[int]
    ends: Sequence[int]
    barred: Sequence[int]
    wanted: Preprocess | None

    def __init__(self, model: Any, tokenizer: Any, prompt: str) -> None:
        """Take a model in evaluation mode that is on its device."""
        self._model, self._tokenizer, self._wanted = model, tokenizer, Preprocess.of(model)
        self.wanted = self._wanted
        self.device = model.logit_scale.device
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        self._prompt = [start, *(tokenizer.encode(prompt) if prompt.strip() else [])]
        self.prompt, self.prompt_tokens = sorted(set(self._prompt)), len(self._prompt)
        self.ends, self.barred = [end, model.pad_id], [end]
        self.most_tokens = min(model.context_length, len(model.text.positional_embedding)) - 1
        self._text, self._decoder = model.text.transformer.resblocks, model.text_decoder

    @staticmethod
    def load(source: CaptionSource, prompt: str, dtype: torch.dtype, device: torch.device) -> "CocaCaptioner":
        """Load by open_clip's name; raises what open_clip raises."""
        import open_clip

        assert source.clip is not None
        model = open_clip.create_model(
            source.clip.name,
            pretrained=source.clip.pretrained,
            device=device,
            precision="fp32",
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(source.clip.name)
        if not hasattr(model, "text_decoder") or not hasattr(model.text, "token_embedding"):
            raise UserError("it is no CoCa model with a text tower of open_clip's own")
        widths = {len(one.ln_final.weight) for one in (model.text, model.text_decoder)}
        if widths != {len(block.ln_1_kv.weight) for block in model.text_decoder.cross_attn}:
            raise UserError("its decoder is not as wide as its text tower")
        if not hasattr(tokenizer, "sot_token_id"):
            raise UserError("its tokenizer is not open_clip's own")
        return CocaCaptioner(model.eval(), tokenizer, prompt)

    def prepare(self, data: bytes) -> Any:
        """Not needed: pictures are made as ``wanted``."""
        raise NotImplementedError

    def tower(self, pictures: torch.Tensor) -> torch.Tensor:
        """[n, queries, width]: what captions look at."""
        found: torch.Tensor = self._model._encode_image(normalised(pictures, self._wanted, torch.float32))[1]
        return found

    def tower_kind(self) -> tuple[object, ...]:
        """The tower's weights and pictures."""
        return weights_digest(self._model.visual, {}), self._wanted

    def begin(self, encoded: Sequence[torch.Tensor]) -> list[Begun]:
        """Run the start and the prompt for each image."""
        image = torch.stack(list(encoded))
        crossed = [_image_keys(block, image) for block in self._decoder.cross_attn]
        ids = torch.tensor([self._prompt], device=self.device).expand(len(image), -1)
        size = ids.shape[1]
        mask = torch.ones((size, size), dtype=torch.bool, device=self.device).tril()
        held: list[Keys] = []

        def write(_: int, keys: torch.Tensor, values: torch.Tensor) -> Keys:
            held.append((keys, values))
            return keys, values

        logits = self._run(ids, torch.arange(size, device=self.device), mask, write, crossed)[:, -1]
        return [
            Begun(
                [(keys[row], values[row]) for keys, values in held],
                [(keys[row], values[row]) for keys, values in crossed],
                logits[row].float(),
                size,
                size,
            )
            for row in range(len(image))
        ]

    def step(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, tree: Tree) -> torch.Tensor:
        """The captions of an image are positions of one sequence, so that they share its keys."""
        return self._run(ids, positions, mask, tree.write, tree.crossed)

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokenizer makes of them."""
        found: str = self._tokenizer.decode(list(tokens))
        return found

    def _run(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, write: Any, crossed: Sequence[Keys]
    ) -> torch.Tensor:
        """Logits of tokens [n, m] at their positions, through the text tower and the decoder."""
        tower, decoder = self._model.text, self._decoder
        found = tower.token_embedding(ids) + tower.positional_embedding[positions]
        for layer, block in enumerate(self._text):
            found = _attend(block, found, mask, lambda k, v, at=layer: write(at, k, v))
        pairs = zip(decoder.resblocks, decoder.cross_attn, crossed, strict=True)
        for layer, (block, cross, keys) in enumerate(pairs, start=len(self._text)):
            found = _attend(block, found, mask, lambda k, v, at=layer: write(at, k, v))
            found = _look(cross, found, keys)
        found = decoder.ln_final(found)
        logits: torch.Tensor = found @ decoder.text_projection if decoder.text_projection is not None else found
        return logits


def _attend(block: Any, found: torch.Tensor, mask: torch.Tensor, write: Any) -> torch.Tensor:
    """A block over the tokens so far: itself and those that the mask shows."""
    attention = block.attn
    projected = functional.linear(block.ln_1(found), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (_heads(one, attention.num_heads) for one in projected.chunk(3, dim=-1))
    keys, values = write(key, value)
    seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return _rest(block, found, attention.out_proj(_joined(seen)))


def _look(block: Any, found: torch.Tensor, keys: Keys) -> torch.Tensor:
    """A block over the image."""
    attention, width = block.attn, block.attn.embed_dim
    bias = attention.in_proj_bias
    query = functional.linear(block.ln_1(found), attention.in_proj_weight[:width], bias[:width])
    seen = functional.scaled_dot_product_attention(_heads(query, attention.num_heads), keys[0], keys[1])
    return _rest(block, found, attention.out_proj(_joined(seen)))


def _image_keys(block: Any, image: torch.Tensor) -> Keys:
    """An image's keys and values for one block's cross-attention."""
    attention, width = block.attn, block.attn.embed_dim
    given = block.ln_1_kv(image)
    projected = functional.linear(given, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    key, value = (_heads(one, attention.num_heads) for one in projected.chunk(2, dim=-1))
    return key, value


def _rest(block: Any, found: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """What follows attention in a block."""
    found = found + block.ls_1(attended)
    result: torch.Tensor = found + block.ls_2(block.mlp(block.ln_2(found)))
    return result


def _heads(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """[n, heads, m, width / heads] of [n, m, width]."""
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def _joined(rows: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_heads``."""
    return rows.transpose(1, 2).flatten(-2)
