"""One model of the nano track: a small CLIP of open_clip's, trained from nothing on a fixed number of samples.

As in DataComp nothing but the data differs between recipes: model, optimiser, schedule and samples seen are the same.
One thread, float32: about 90 CPU-seconds, and on machines of one kind the same weights every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from open_clip import ClipLoss
from open_clip.model import CLIP
from open_clip_train.scheduler import cosine_lr
from torch.nn import functional as F

from pairsieve.pipelines.feed import CLIP_COLOURS, PairDataset
from pairsieve.pipelines.nano_settings import Training
from pairsieve.pipelines.nano_words import CONTEXT, Vocabulary
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def create(words: int, seed: int, training: Training) -> CLIP:
    """A model of a seed: a ModifiedResNet of four blocks and a small text transformer, 0.6 M parameters together."""
    torch.manual_seed(seed)
    width = training.vision_width
    vision = {"image_size": training.image_size, "layers": [1, 1, 1, 1], "width": width, "head_width": 4 * width}
    text = {
        "context_length": CONTEXT,
        "vocab_size": words,
        "width": training.text_width,
        "heads": 2,
        "layers": training.text_layers,
    }
    model = CLIP(embed_dim=training.embed_dim, vision_cfg=vision, text_cfg=text)
    model.visual.to(memory_format=torch.channels_last)
    return model


def normalised(pixels: Tensor) -> Tensor:
    """float32 pictures by CLIP's mean and deviation, from uint8[n, 3, size, size]."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CLIP_COLOURS)
    scaled = (pixels.float() / 255 - mean) / std
    return scaled.contiguous(memory_format=torch.channels_last)


def train(dataset: str, words: Vocabulary, seed: int, training: Training) -> CLIP:
    """Train on a run's dataset, for as many epochs as it takes; raises ``UserError`` for less than a batch of pairs."""
    with one_thread():
        model = create(len(words), seed, training)
        model.train()
        steps = training.samples // training.batch_size
        optimizer = _optimizer(model, training)
        schedule = cosine_lr(optimizer, training.learning_rate, training.warmup, steps)
        loss = ClipLoss()
        for step, batch in zip(range(steps), _batches(dataset, seed, training), strict=False):
            schedule(step)
            optimizer.zero_grad(set_to_none=True)
            images = F.normalize(model.encode_image(normalised(batch["image"])), dim=-1)
            texts = model.encode_text(words(batch["text"]), normalize=True)
            loss(images, texts, model.logit_scale.exp().clamp(max=training.greatest_scale)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return model.eval()


def _optimizer(model: CLIP, training: Training) -> torch.optim.AdamW:
    """Gains and biases are not decayed, as open_clip's trainer has it."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98))


def _batches(dataset: str, seed: int, training: Training) -> Iterator[dict[str, Any]]:
    """Whole batches without end; the remainder of an epoch rests."""
    data = PairDataset(
        dataset,
        batch_size=training.batch_size,
        image_size=training.image_size,
        seed=seed,
        rank=0,
        world=1,
        drop_last=True,
    )
    if not len(data):
        raise UserError(f"{dataset}: keeps fewer pairs than the {training.batch_size} of a batch; loosen the recipe")
    while True:
        yield from data


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in an order that does not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
