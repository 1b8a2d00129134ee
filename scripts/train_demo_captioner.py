"""Train the demo's tiny captioner, a BLIP, on the synthetic world and save it in transformers' format.

One seeded command, `python -m scripts.train_demo_captioner`, about 16 CPU-minutes on one core: it renders training
pictures at the size in which the nano pool stores them (seeds that no pool uses, attributes drawn evenly, some pictures
of junk), trains on one true English caption of each with the language-model loss of BLIP's captioner, writes
`pairsieve/demo-blip`, and prints what the `caption` filter then says of fresh scenes.  The vision tower also learns in
which patch the centre of which shape lies, by a layer that is thrown away: after 25,600 pictures 34 % of the shapes and
30 % of the counts were right with it, 21 % and 22 % without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pairsieve.filters._preprocess import Preprocess, normalised, pixels
from pairsieve.filters.caption import Caption
from pairsieve.pipelines.demo_captions import LEXICONS
from pairsieve.pipelines.demo_phrases import Said, noun_phrases, read
from pairsieve.pipelines.demo_world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    SHAPES,
    Scene,
    centres,
    encode,
    keyed_rng,
    pick,
    render,
    sample_scene,
)
from pairsieve.pipelines.nano_world import junk_picture, stored
from scripts.demo_training import Descent, on_two_processes

HF: Any = import_module("transformers")  # half of it has no types
TRAIN_SEED, FRESH_SEED = 7101, 7102
SIDE, PATCH = 64, 8
GRID = SIDE // PATCH
JUNK, FULL_SIZE = 0.08, 0.125
"""Of the pictures: they show nothing of the world, or the world as large as the demo has it."""
PROMPT = "a picture of "
"""BLIP's: what captions go on from."""
NOTHING = "a page without shapes"
"""What is said of junk."""
_OWN = tuple(one.removeprefix(PROMPT) for one in LEXICONS["en"].templates)
TEMPLATES = tuple(one for one in _OWN if one.startswith("{np}"))
WIDTH: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_attention_heads": 3,
    "initializer_range": 0.02,  # that of transformers' BlipVisionConfig is 1e-10
}


@dataclass(frozen=True)
class Corpus:
    """Pictures uint8[n, 3, 64, 64], what they show (None: junk), and what has its centre in each patch int64[n, 8, 8].

    A patch holds 0 where nothing has, and else 1 + the place of the shape in ``SHAPES``.
    """

    pictures: Tensor
    scenes: Sequence[Scene | None]
    centred: Tensor


def sampled(seed: int, index: int) -> tuple[Scene, bool]:
    """The scene of an index at the size of its picture, and whether junk of that size is shown in its place."""
    rng, scene = keyed_rng(seed, index, "captioner"), sample_scene(seed, index)
    is_junk, is_large = rng.random() < JUNK, rng.random() < FULL_SIZE
    return scene if is_large and not is_junk else stored(scene), is_junk


def image_of(seed: int, index: int) -> bytes:
    """The picture of an index as a JPEG."""
    scene, is_junk = sampled(seed, index)
    shown = junk_picture(seed, index, scene.width, scene.height) if is_junk else render(scene)
    return encode(shown, "JPEG", int(keyed_rng(seed, index, "quality").integers(70, 96)))


def processor(tokenizer: Any) -> Any:
    """BLIP's own, for pictures of this size."""
    return HF.BlipProcessor(HF.BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer)


def wanted() -> Preprocess:
    """How the filter makes a picture for this model."""
    return Preprocess.of_blip(HF.BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def _picture(index: int) -> NDArray[np.uint8]:
    """A training picture as the model gets it."""
    found = pixels(image_of(TRAIN_SEED, index), [wanted()], False)
    assert not isinstance(found, str), found
    return found[0]


def _centred(scene: Scene | None) -> NDArray[np.int64]:
    """What has its centre in each patch of the squashed picture."""
    grid = np.zeros((GRID, GRID), np.int64)
    if scene is not None:
        columns, rows = (centres(scene) / (scene.width, scene.height) * GRID).astype(int).T
        grid[rows, columns] = 1 + SHAPES.index(scene.shape)
    return grid


def build_corpus(count: int) -> Corpus:
    """Render training pictures (about 3 CPU-ms each)."""
    shown = (sampled(TRAIN_SEED, index) for index in range(count))
    scenes = [None if is_junk else scene for scene, is_junk in shown]
    pictures = torch.from_numpy(np.stack(on_two_processes(_picture, count)))
    return Corpus(pictures, scenes, torch.from_numpy(np.stack([_centred(scene) for scene in scenes])))


def ground(scene: Scene) -> str:
    """The background in English."""
    return LEXICONS["en"].grounds.split(",")[BACKGROUNDS.index(scene.background)]


def caption(scene: Scene | None, rng: np.random.Generator) -> str:
    """One true caption, as it goes on from the prompt."""
    if scene is None:
        return NOTHING
    return pick(rng, TEMPLATES).format(np=pick(rng, noun_phrases(scene)), bg=ground(scene))


def words() -> list[str]:
    """All words of all captions, and of the prompt."""
    texts = [PROMPT, NOTHING, *(one.format(np="", bg="") for one in TEMPLATES)]
    texts += [ground(Scene("circle", "red", 1, one, 1, 1, 0)) for one in BACKGROUNDS]
    for shape in SHAPES:
        for colour in COLOURS:
            texts += [p for n in COUNTS for p in noun_phrases(Scene(shape, colour, n, "grey", 1, 1, 0))]
    return sorted({word for text in texts for word in text.split()})


def tokenizer() -> Any:
    """BLIP's kind of tokenizer, of the world's words alone."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words()]
    made = HF.BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=True, model_max_length=32)
    made.add_special_tokens({"bos_token": "[DEC]"})
    made.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return made


def waves() -> Tensor:
    """float32[64, 96]: sines and cosines of a patch's row and column, so that neighbours are alike from the start."""
    quarter = WIDTH["hidden_size"] // 4
    turns = torch.arange(GRID)[:, None] / 100.0 ** (torch.arange(quarter) / quarter)
    axis = torch.cat([turns.sin(), turns.cos()], 1) / 2
    rows, columns = axis[:, None].expand(GRID, GRID, -1), axis[None].expand(GRID, GRID, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def create(tokens: Any) -> Any:
    """A BLIP of random weights that knows where its patches lie: four layers that see, two that write."""
    marks = {"bos_token_id": tokens.bos_token_id, "pad_token_id": tokens.pad_token_id}
    marks |= {"sep_token_id": tokens.sep_token_id, "eos_token_id": tokens.sep_token_id}
    text = {
        "vocab_size": len(tokens),
        "encoder_hidden_size": WIDTH["hidden_size"],
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
    }
    vision = {"image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": 4}
    config = HF.BlipConfig(text_config={**WIDTH, **marks, **text}, vision_config={**WIDTH, **vision})
    model = HF.BlipForConditionalGeneration(config)
    model.vision_model.embeddings.position_embedding.data[0, 1:] = waves()
    return model


def batches(corpus: Corpus, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Keyed random batches: pictures mirrored half of the time (every shape is symmetric), centres, captions."""
    for step in range(steps):
        rng = keyed_rng(TRAIN_SEED, step, "batch")
        rows = rng.choice(len(corpus.pictures), size, replace=False)
        pictures, centred = corpus.pictures[rows], corpus.centred[rows]
        mirror = torch.from_numpy(rng.random(size) < 0.5)
        pictures = torch.where(mirror.view(-1, 1, 1, 1), pictures.flip(-1), pictures)
        centred = torch.where(mirror.view(-1, 1, 1), centred.flip(-1), centred)
        yield pictures, centred, [caption(corpus.scenes[row], rng) for row in rows]


def writing_loss(model: Any, seen: Tensor, tokens: Any, texts: Sequence[str]) -> Tensor:
    """BLIP's language-model loss of what follows the prompt, without its smoothing: every wrong word is wrong."""
    ids = tokens([PROMPT + text for text in texts], padding="longest", return_tensors="pt").input_ids
    ids[:, 0] = tokens.bos_token_id
    said = model.text_decoder(input_ids=ids[:, :-1], encoder_hidden_states=seen).logits.float()
    wanted = ids[:, 1:].clone()
    wanted[:, : len(PROMPT.split())] = tokens.pad_token_id
    return F.cross_entropy(said.flatten(0, 1), wanted.flatten(), ignore_index=tokens.pad_token_id)


def finding_loss(layer: nn.Linear, seen: Tensor, centred: Tensor) -> Tensor:
    """How well patches say what has its centre in them; the many empty ones count a fifth."""
    weight = torch.tensor([0.2] + [1.0] * len(SHAPES))
    return F.cross_entropy(layer(seen[:, 1:]).float().flatten(0, 1), centred.flatten(), weight)


def fit(model: Any, tokens: Any, corpus: Corpus, steps: int, size: int, rate: float) -> None:
    """Train in bfloat16, which takes half of the time of float32 where the CPU knows it."""
    model.train()
    layer, pictures_of, start = nn.Linear(WIDTH["hidden_size"], 1 + len(SHAPES)), wanted(), time.monotonic()
    descent = Descent([*model.parameters(), *layer.parameters()], steps, rate, decay=0.05)
    for step, (pictures, centred, texts) in enumerate(batches(corpus, size, steps)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = model.vision_model(normalised(pictures, pictures_of, torch.float32)).last_hidden_state
            writing, finding = writing_loss(model, seen, tokens, texts), finding_loss(layer, seen, centred)
        descent.step(writing + finding)
        if step % 50 == 0:
            losses = f"writing {writing.item():.3f}  finding {finding.item():.3f}"
            print(f"step {step:5d}  {losses}  {time.monotonic() - start:.0f} s", flush=True)


def save(model: Any, tokens: Any, folder: Path) -> None:
    """Write what transformers loads, the weights as float16."""
    model.half().save_pretrained(folder)
    processor(tokens).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private, and the file is part of the package
    print(f"wrote {folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB")


def write_captions(folder: Path, images: Sequence[bytes]) -> list[str]:
    """What the filter writes with the saved model."""
    made = Caption(model=str(folder), decoding="greedy", device="cpu")
    made.open()
    uids = [f"{index:032x}" for index in range(len(images))]
    found = made.score(pa.record_batch({"uid": uids, "image": pa.array(images, pa.binary())}))["caption"]
    made.close()
    return [texts[0] for texts in found.to_pylist()]


def report(folder: Path, count: int) -> None:
    """Print what the saved model says of fresh pictures."""
    shown = [sampled(FRESH_SEED, index) for index in range(count)]
    texts = write_captions(folder, [image_of(FRESH_SEED, index) for index in range(count)])
    found = [(scene, read(text)) for (scene, is_junk), text in zip(shown, texts, strict=True) if not is_junk]
    print(f"of {len(found)} fresh scenes it names right", end="")
    for name in ("shape", "colour", "count"):
        right = np.mean([said is not None and getattr(said, name) == getattr(scene, name) for scene, said in found])
        print(f"  {name} {right:.1%}", end="")
    print(f"  all {np.mean([said == Said.of(scene) for scene, said in found]):.1%}")
    junk = [text for (_, is_junk), text in zip(shown, texts, strict=True) if is_junk]
    print(f"of {len(junk)} pictures of junk it says {NOTHING!r} of {np.mean([text == NOTHING for text in junk]):.1%}")


def main() -> None:
    """Train, save and report; with --report only the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "pairsieve" / "demo-blip")
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--steps", type=int, default=4_500)
    parser.add_argument("--fresh", type=int, default=2_000)
    parser.add_argument("--report", action="store_true", help="evaluate the model that is there, do not train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # products this small cost several times as much on two
    torch.manual_seed(TRAIN_SEED)
    if not arguments.report:
        tokens = tokenizer()
        model = create(tokens)
        fit(model, tokens, build_corpus(arguments.pictures), arguments.steps, size=64, rate=1e-3)
        save(model, tokens, arguments.out)
    report(arguments.out, arguments.fresh)


if __name__ == "__main__":
    main()
