"""What a model of the nano track knows: zero-shot classification, retrieval and a linear probe, all between 0 and 1.

Zero-shot as in CLIP (arXiv 2103.00020): a class is the mean of its prompts' embeddings.  Some 5 CPU-seconds a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from pairsieve.pipelines.nano_settings import METRICS
from pairsieve.pipelines.nano_tests import ATTRIBUTES, Shown, prompts
from pairsieve.pipelines.nano_train import normalised, one_thread
from pairsieve.pipelines.nano_words import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from open_clip.model import CLIP
    from torch import Tensor

ROWS = 250
PENALTY = 1e-3
"""Of the probe's squared weights, per picture."""


@dataclass(frozen=True)
class Tests:
    """The pictures that every model is asked about.

    ``seen`` have compositions that the pool has, ``held_out`` none of them; a probe is trained on ``probe`` and asked
    about ``seen``; ``pairs`` are places in ``seen`` whose ``captions`` fit no other of them.
    """

    seen: Shown
    held_out: Shown
    probe: Shown
    pairs: Sequence[int]
    captions: Sequence[str]


def evaluate(model: CLIP, words: Vocabulary, tests: Tests) -> dict[str, float]:
    """Each of ``METRICS``, and their ``average``."""
    with one_thread():
        with torch.inference_mode():
            seen, held_out, probe = (embed(model, shown) for shown in (tests.seen, tests.held_out, tests.probe))
            found = {
                name: accuracy(seen, classes(model, words, name), tests.seen.labels[:, place])
                for place, name in enumerate(ATTRIBUTES)
            }
            compositions = classes(model, words, "composition")
            found["composition"] = accuracy(seen, compositions, tests.seen.compositions)
            found["held_out"] = accuracy(held_out, compositions, tests.held_out.compositions)
            captions = model.encode_text(words(tests.captions), normalize=True)
            found["retrieval"] = recall(seen[list(tests.pairs)], captions)
        found["probe"] = _mean_probe(probe.clone(), tests.probe, seen.clone(), tests.seen)
    return found | {"average": float(np.mean([found[name] for name in METRICS]))}


def embed(model: CLIP, shown: Shown) -> Tensor:
    """float32[n, d]: normalised embeddings of pictures."""
    parts = [torch.from_numpy(shown.pixels[at : at + ROWS]) for at in range(0, len(shown.pixels), ROWS)]
    return torch.cat([model.encode_image(normalised(part), normalize=True) for part in parts])


def classes(model: CLIP, words: Vocabulary, attribute: str) -> Tensor:
    """float32[classes, d]: the mean of each class's prompts, normalised."""
    means = [model.encode_text(words(texts), normalize=True).mean(0) for texts in prompts(attribute)]
    return F.normalize(torch.stack(means), dim=-1)


def accuracy(embeddings: Tensor, classes: Tensor, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Share of pictures whose class is the nearest."""
    return float(((embeddings @ classes.T).argmax(1).numpy() == labels).mean())


def recall(images: Tensor, texts: Tensor) -> float:
    """Recall at 1 of row i of one for row i of the other, the mean of both directions."""
    scores, own = images @ texts.T, torch.arange(len(images))
    return float(((scores.argmax(1) == own).double().mean() + (scores.argmax(0) == own).double().mean()) / 2)


def _mean_probe(train: Tensor, train_shown: Shown, test: Tensor, test_shown: Shown) -> float:
    """The mean over the attributes."""
    columns = range(len(ATTRIBUTES))
    return float(np.mean([probe(train, train_shown.labels[:, c], test, test_shown.labels[:, c]) for c in columns]))


def probe(
    train: Tensor,
    train_labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    test: Tensor,
    test_labels: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> float:
    """Accuracy of a logistic regression on frozen embeddings, fitted by L-BFGS (CLIP's linear probe)."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / deviation, (test - mean) / deviation
    target = torch.from_numpy(train_labels)
    weight = torch.zeros(train.shape[1], int(train_labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(train @ weight + bias, target) + PENALTY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(((test @ weight + bias).argmax(1).numpy() == test_labels).mean())
