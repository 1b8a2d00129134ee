"""Train the demo's tiny CLIP on the synthetic world and save it in open_clip's local-dir format.

One seeded command, `python -m scripts.train_demo_clip`, about 15 minutes on 2 cores: it renders training pictures
(seeds the demo pool does not use), trains with the known truth of every (image, caption) pair of a batch as the
contrastive target, writes `pairsieve/demo-clip`, loads it again from there and prints how it ranks the demo pool.
Only tokens that occur are trained; the other rows of the embedding table are zero.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose  # type: ignore[import-untyped]

from pairsieve.pipelines.demo_captions import LANGUAGES, caption, names_background
from pairsieve.pipelines.demo_pool import PlantedPair, build_pool
from pairsieve.pipelines.demo_replies import image_bytes
from pairsieve.pipelines.demo_world import BACKGROUNDS, COLOURS, SHAPES, Scene, keyed_rng, render, sample_scene
from scripts.demo_training import Descent, on_two_processes

TRAIN_SEED = 7001
IMAGE_SIZE = 64
VOCABULARY = 49408
CONTEXT = 77
CAPTIONS_PER_IMAGE = 6
ENGLISH_PER_IMAGE = 2
MODEL: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 10, "head_width": 40},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 3},
}
PREPROCESS: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "size": IMAGE_SIZE,
}


@dataclass(frozen=True)
class Corpus:
    """Pictures (uint8, N x 3 x H x W), their attributes, their captions' tokens and whether those name the ground."""

    pictures: Tensor
    attributes: Tensor
    tokens: Tensor
    grounded: Tensor


def preprocess() -> Compose:
    """Build open_clip's own inference transform for this model."""
    options = {key: value for key, value in PREPROCESS.items() if key != "size"}
    transform = open_clip.image_transform(PREPROCESS["size"], is_train=False, **options)
    assert isinstance(transform, Compose)
    return transform


def _picture(index: int) -> NDArray[np.uint8]:
    """Render one training picture and bring it to model size, through the part of the transform before floats."""
    image = Image.fromarray(render(sample_scene(TRAIN_SEED, index)))
    for step in preprocess().transforms[:2]:
        image = step(image)
    return np.asarray(image, dtype=np.uint8)


def render_pictures(count: int) -> Tensor:
    """Render all training pictures on two processes (about 4 ms each)."""
    return torch.from_numpy(np.stack(on_two_processes(_picture, count))).permute(0, 3, 1, 2).contiguous()


def write_captions(scene: Scene, index: int) -> list[tuple[str, bool]]:
    """Write a training picture's captions, two in English and the others in a rotation of the other languages."""
    others = LANGUAGES[1:]
    rotation = [others[(index + k) % len(others)] for k in range(CAPTIONS_PER_IMAGE - ENGLISH_PER_IMAGE)]
    captions = []
    for number, language in enumerate([LANGUAGES[0]] * ENGLISH_PER_IMAGE + rotation):
        text = caption(scene, language, keyed_rng(TRAIN_SEED, index, f"caption {number}"))
        captions.append((text, names_background(text, scene, language)))
    return captions


def build_corpus(pictures: Tensor) -> Corpus:
    """Attach attributes and captions to rendered pictures, checking that the demo pool holds none of the pairs."""
    held_out = {(pair.scene, pair.text) for pair in build_pool()}
    attributes, texts, grounded = [], [], []
    for index in range(len(pictures)):
        scene = sample_scene(TRAIN_SEED, index)
        captions = write_captions(scene, index)
        assert not any((scene, text) in held_out for text, _ in captions), "a demo pair is in the training set"
        ground = BACKGROUNDS.index(scene.background)
        attributes.append([SHAPES.index(scene.shape), COLOURS.index(scene.colour), scene.count, ground])
        texts += [text for text, _ in captions]
        grounded.append([named for _, named in captions])
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    tokens = torch.cat([tokenizer(texts[k : k + 1000]) for k in range(0, len(texts), 1000)])
    tokens = tokens.view(len(pictures), CAPTIONS_PER_IMAGE, CONTEXT)
    return Corpus(pictures, torch.tensor(attributes), tokens, torch.tensor(grounded))


def create(config: dict[str, Any]) -> open_clip.CLIP:
    """Make a randomly initialised open_clip model of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "demo_clip.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder)
        model = open_clip.create_model("demo_clip", pretrained=None)
    assert isinstance(model, open_clip.CLIP)
    return model


def shrink(corpus: Corpus) -> tuple[Corpus, Tensor, int]:
    """Renumber the tokens that occur, in their order since the pooled one is the highest, and cut the padding."""
    used, renumbered = torch.unique(corpus.tokens, return_inverse=True)
    length = int((corpus.tokens != 0).sum(-1).max())
    return Corpus(corpus.pictures, corpus.attributes, renumbered[..., :length], corpus.grounded), used, length


def expand(trained: dict[str, Tensor], used: Tensor) -> dict[str, Tensor]:
    """Put the trained token and position rows back into tables of the full size, as fp16."""
    state = dict(trained)
    table = torch.zeros(VOCABULARY, state["token_embedding.weight"].shape[1])
    table[used] = state["token_embedding.weight"]
    positions = torch.zeros(CONTEXT, table.shape[1])
    positions[: len(state["positional_embedding"])] = state["positional_embedding"]
    state |= {"token_embedding.weight": table, "positional_embedding": positions}
    state.pop("attn_mask", None)
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def truth(attributes: Tensor, grounded: Tensor) -> Tensor:
    """Say of which image (row) each caption (column) is true."""
    same = attributes[:, None, :] == attributes[None, :, :]
    return same[..., :3].all(-1) & (same[..., 3] | ~grounded[None, :])


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE over rows where the other true captions of an image are left out of its denominator."""
    own = torch.eye(len(logits), dtype=torch.bool)
    return F.cross_entropy(logits.masked_fill(positive & ~own, float("-inf")), torch.arange(len(logits)))


def batches(corpus: Corpus, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield keyed random batches: pictures mirrored half of the time (every shape is symmetric), one caption each."""
    mean, std = (torch.tensor(PREPROCESS[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    for step in range(steps):
        rng = keyed_rng(TRAIN_SEED, step, "batch")
        rows = torch.from_numpy(rng.choice(len(corpus.pictures), size, replace=False))
        choice = torch.from_numpy(rng.integers(0, CAPTIONS_PER_IMAGE, size))
        pictures = corpus.pictures[rows].float() / 255
        mirror = torch.from_numpy(rng.random(size) < 0.5).view(-1, 1, 1, 1)
        pictures = torch.where(mirror, pictures.flip(-1), pictures)
        yield (
            (pictures - mean) / std,
            corpus.attributes[rows],
            corpus.tokens[rows, choice],
            corpus.grounded[rows, choice],
        )


def fit(model: open_clip.CLIP, corpus: Corpus, steps: int, size: int, rate: float) -> None:
    """Train with AdamW under a one-cycle schedule; the convolutions run in bfloat16."""
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    descent, start = Descent(model.parameters(), steps, rate, decay=0.02), time.monotonic()
    for step, (pictures, attributes, tokens, grounded) in enumerate(batches(corpus, size, steps)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.encode_image(pictures.contiguous(memory_format=torch.channels_last))
        said = model.encode_text(tokens, normalize=True)
        logits = model.logit_scale.exp().clamp(max=30) * F.normalize(seen.float(), dim=-1) @ said.T
        positive = truth(attributes, grounded)
        loss = (contrast(logits, positive) + contrast(logits.T, positive.T)) / 2
        descent.step(loss)
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True)


def train(pictures: int, steps: int, size: int, rate: float) -> dict[str, Tensor]:
    """Render, train on the reduced vocabulary and return the state of the full model."""
    corpus, used, length = shrink(build_corpus(render_pictures(pictures)))
    print(
        f"{pictures} pictures, {len(used)} of {VOCABULARY} tokens occur, the longest caption has {length}", flush=True
    )
    model = create({**MODEL, "text_cfg": {**MODEL["text_cfg"], "context_length": length, "vocab_size": len(used)}})
    fit(model, corpus, steps, size, rate)
    return expand(model.state_dict(), used)


def save(state: dict[str, Tensor], folder: Path) -> None:
    """Write the two files that open_clip's local-dir loader reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = folder / "open_clip_model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes it private, and the file is part of the package
    print(f"wrote {folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB")


def score_pairs(folder: Path, pairs: Sequence[PlantedPair]) -> NDArray[np.float64]:
    """Return the cosine of each pair under the saved weights, from the image bytes a server would send."""
    reference = f"local-dir:{folder.resolve()}"
    model, transform = open_clip.create_model_from_pretrained(reference, precision="fp32")
    tokenizer, scores = open_clip.get_tokenizer(reference), []
    model.eval()
    for start in range(0, len(pairs), 100):
        block = pairs[start : start + 100]
        images = torch.stack([transform(Image.open(io.BytesIO(image_bytes(pair)))) for pair in block])
        with torch.inference_mode():
            seen = model.encode_image(images, normalize=True)
            said = model.encode_text(tokenizer([pair.text or "" for pair in block]), normalize=True)
            scores.append((seen * said).sum(-1).double().numpy())
    return np.concatenate(scores)


def auc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """Return the chance that a good pair scores above a bad one, a tie counting half."""
    difference = good[:, None] - bad[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def report(folder: Path) -> None:
    """Print how the saved weights rank good pairs of the default demo pool over swapped ones."""
    pairs = [pair for pair in build_pool() if pair.defect in (None, "swapped_caption")]
    scores = score_pairs(folder, pairs)
    swapped = np.array([pair.defect is not None for pair in pairs])
    languages = np.array([pair.language for pair in pairs])
    print(f"good {scores[~swapped].mean():.3f} +- {scores[~swapped].std():.3f}, ", end="")
    print(f"swapped {scores[swapped].mean():.3f} +- {scores[swapped].std():.3f}")
    print(f"AUC {auc(scores[~swapped], scores[swapped]):.5f}")
    for language in LANGUAGES:
        here = languages == language
        good, bad = scores[here & ~swapped], scores[here & swapped]
        print(f"  {language} {auc(good, bad):.5f} ({len(good)} good, {len(bad)} swapped)")
    for percent in (10, 20, 30):
        below = scores < np.percentile(scores, percent)
        print(
            f"below percentile {percent}: {below[swapped].mean():.1%} of swapped, {below[~swapped].mean():.1%} of good"
        )


def main() -> None:
    """Train, save and report; with --report only the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "pairsieve" / "demo-clip")
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--report", action="store_true", help="evaluate the weights that are there, do not train")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(TRAIN_SEED)
    if not arguments.report:
        save(train(arguments.pictures, arguments.steps, size=256, rate=3e-3), arguments.out)
    report(arguments.out)


if __name__ == "__main__":
    main()
