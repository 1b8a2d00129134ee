"""CLIP scoring beside the bare forward pass, clip-retrieval's way and Data-Juicer's, in one interleaved run.

    python -m tests.benchmarks.clip [pairs] [rounds] [architecture]

Random weights of an architecture (ViT-B-32), JPEGs of 512 pixels, captions as long as the web's.  Each way scores the
same pairs in every round and its best round counts.  On a CPU all have one torch thread and the figure is pairs per
CPU-second; on a GPU it is pairs per second, with the share of time in which the GPU computed.

The bare forward pass has its pictures and tokens in memory, in the filter's batches, texts at the full context.
clip-retrieval's way: a DataLoader with a worker that runs the transform, batches of 64, both encoders.  Data-Juicer's
way: one pair at a time through transformers' processor and CLIPModel (ViT-B/32 only; where transformers is installed).
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import torch
from PIL import Image
from safetensors.torch import save_file

from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_batches import Rows
from pairsieve.filters._preprocess import pixels
from pairsieve.filters._products import fixed
from pairsieve.filters.clip_score import ClipScore
from tests.support_phash import encoded, scene

CUDA = torch.cuda.is_available()
WORDS = "a red photo of the old house with two dogs on green grass near blue water in summer best price".split()  # noqa: SIM905


def captions(count: int) -> list[str]:
    """Texts of 2 to 60 words, 9 in the middle."""
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(2.2, 0.6, count), 2, 60).astype(int)
    return [" ".join(rng.choice(WORDS, size)) for size in sizes]


def weights(architecture: str, folder: str) -> str:
    """A file of random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    path = str(Path(folder) / "weights.safetensors")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


@dataclass
class Took:
    """Seconds of one way's best round."""

    wall: float = float("inf")
    cpu: float = float("inf")
    busy: float = 0.0


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


class Busy:
    """Time in which the GPU computed towers, by events around their forward passes."""

    def __init__(self, *towers: Any) -> None:
        """Watch the towers."""
        self.events: list[tuple[Any, Any]] = []
        for tower in towers if CUDA else ():
            tower.register_forward_pre_hook(self._begin)
            tower.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        pair[0].record()
        self.events.append((pair[0], pair[1]))

    def _end(self, *_: Any) -> None:
        self.events[-1][1].record()

    def seconds(self) -> float:
        """Since the last call."""
        if self.events:
            torch.cuda.synchronize()
        found = sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
        self.events = []
        return float(found)


def bare(clip: Clip, pictures: Any, ids: Any, shorten: bool) -> None:
    """Both encoders in the filter's batches on what is in the device's memory; texts in full, or as the filter does."""
    size = clip.batch_size
    to = Rows(len(ids))
    with fixed():
        for start in range(0, len(pictures), size):
            clip._encode_images(pictures[start : start + size])
        if not shorten:
            for start in range(0, len(ids), size):
                clip._text_encoder(clip.tokens.context)(ids[start : start + size])
    if shorten:
        clip.put_texts(ids.cpu().numpy(), to, np.arange(len(ids)))
        clip.flush()
    if CUDA:
        torch.cuda.synchronize()


class Pairs(torch.utils.data.Dataset[tuple[Any, Any]]):
    """What clip-retrieval's loader reads."""

    def __init__(self, files: list[bytes], texts: list[str], transform: Any, tokenize: Any) -> None:
        """Pairs in memory."""
        self.files, self.texts, self.transform, self.tokenize = files, texts, transform, tokenize

    def __len__(self) -> int:
        """How many."""
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """A transformed picture and its tokens."""
        return self.transform(Image.open(BytesIO(self.files[i]))), self.tokenize([self.texts[i]])[0]


def clip_retrieval(model: Any, data: Pairs, device: str) -> None:
    """Embeddings of both sides, a batch of 64 at a time."""
    loader = torch.utils.data.DataLoader(data, batch_size=64, num_workers=16 if CUDA else 1, pin_memory=CUDA)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        for images, tokens in loader:
            for found in (model.encode_image(images.to(device)), model.encode_text(tokens.to(device))):
                (found / found.norm(dim=-1, keepdim=True)).cpu().numpy()
    torch.set_num_threads(threads)


def data_juicer(device: str) -> Callable[[list[bytes], list[str]], None] | None:
    """One pair at a time through transformers, as its ``image_text_similarity_filter``; None without transformers."""
    if find_spec("transformers") is None:
        return None
    peer = import_module("transformers")
    own = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): i for piece, i in own.encoder.items()}
    tokenizer = peer.CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks))
    model = peer.CLIPModel(peer.CLIPConfig()).to(device).eval()
    processor = peer.CLIPProcessor(peer.CLIPImageProcessor(), tokenizer)

    def score(files: list[bytes], texts: list[str]) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for data, text in zip(files, texts, strict=True):
            image = Image.open(BytesIO(data)).convert("RGB")
            inputs = processor(
                text=text, images=image, return_tensors="pt", truncation=True, max_length=77, padding=True
            )
            with torch.no_grad():
                (model(**inputs.to(device)).logits_per_text / 100.0).detach().cpu()
        torch.set_num_threads(threads)

    return score


def race(ways: dict[str, tuple[Callable[[], None], Busy | None]], rounds: int) -> dict[str, Took]:
    """Each way's best round, one after the other within a round."""
    found = {name: Took() for name in ways}
    for _ in range(rounds):
        for name, (work, busy) in ways.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            took = Took(time.perf_counter() - wall, cpu_seconds() - cpu, busy.seconds() if busy else 0.0)
            best = found[name]
            if (took.wall if CUDA else took.cpu) < (best.wall if CUDA else best.cpu):
                found[name] = took
    return found


def parts(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """What the engine gives."""
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def drain(made: ClipScore, batch: pa.RecordBatch, rows: int) -> None:
    """Score everything."""
    for _ in made.score_all(parts(batch, rows)):
        pass


def stages(clip: Clip, files: list[bytes], texts: list[str]) -> dict[str, float]:
    """CPU-seconds of decoding and of tokenizing."""
    began = cpu_seconds()
    for data in files:
        pixels(data, [clip.wanted], False)
    decoded = cpu_seconds()
    for data in files:
        pixels(data, [clip.wanted], True)
    fast = cpu_seconds()
    clip.tokens.ids(texts)
    return {"decode": decoded - began, "decode, fast": fast - decoded, "tokenize": cpu_seconds() - fast}


def main(count: int, rounds: int, architecture: str) -> None:
    """Run and print."""
    device, unit = ("cuda", "s") if CUDA else ("cpu", "CPU-s")
    files = [encoded(scene(seed, 512, 512), quality=85) for seed in range(min(count, 256))]
    files = [files[i % len(files)] for i in range(count)]
    texts = captions(count)
    batch = pa.record_batch({"image": pa.array(files, pa.binary()), "text": pa.array(texts)})
    with TemporaryDirectory() as folder:
        chosen: dict[str, Any] = {"model": architecture, "pretrained": weights(architecture, folder)}
        made, fast = (ClipScore(**chosen, preprocess=kind) for kind in ("exact", "fast"))
        made.open()
        fast.open()
        clip = made._clips[0]
        model, transform = open_clip.create_model_from_pretrained(
            architecture, pretrained=chosen["pretrained"], device=device
        )
    pictures = torch.from_numpy(np.stack([pixels(data, [clip.wanted], False)[0] for data in files])).to(device)
    ids = torch.from_numpy(clip.tokens.ids(texts)).to(device)
    text_tower = getattr(clip.model, "text", None) or clip.model.transformer
    busy = Busy(clip.model.visual, text_tower)
    rows = 4096 if CUDA else 256
    data = Pairs(files, texts, transform, open_clip.get_tokenizer(architecture))
    ways: dict[str, tuple[Callable[[], None], Busy | None]] = {
        "bare forward pass": (partial(bare, clip, pictures, ids, False), busy),
        "… with shortened texts": (partial(bare, clip, pictures, ids, True), busy),
        "clip_score": (partial(drain, made, batch, rows), busy),
        "clip_score, fast": (partial(drain, fast, batch, rows), None),
        "clip-retrieval's way": (partial(clip_retrieval, model.eval(), data, device), None),
    }
    if architecture == "ViT-B-32" and (peer := data_juicer(device)):
        ways["Data-Juicer's way"] = (partial(peer, files, texts), None)
    lengths = np.bincount(np.searchsorted(clip._towers.lengths, clip._towers.needed(ids.cpu().numpy())))
    print(f"{architecture}, {clip.dtype}, {device}, batches of {clip.batch_size}; {count} pairs, {rounds} rounds;")
    print(f"texts at {clip._towers.lengths} places: {lengths.tolist()}; the best round of each:")
    found = race(ways, rounds)
    seconds = {name: took.wall if CUDA else took.cpu for name, took in found.items()}
    for name, took in found.items():
        share = f"{seconds['bare forward pass'] / seconds[name]:7.2f} × bare"
        used = f", GPU computes {took.busy / took.wall:.0%}" if took.busy else ""
        print(f"  {name:26} {count / seconds[name]:9.2f} pairs/{unit} {count / took.wall:9.2f} pairs/s {share}{used}")
    spent = stages(clip, files, texts) | {"forward": found["… with shortened texts"].cpu}
    whole = spent["decode"] + spent["tokenize"] + spent["forward"]
    for name, took_here in spent.items():
        print(
            f"  {name:26} {took_here / count * 1e3:9.2f} CPU-ms a pair ({took_here / whole:.1%} of clip_score's work)"
        )
    made.close()
    fast.close()


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 64, int(given[1]) if given[1:] else 3, given[2] if given[2:] else "ViT-B-32")
