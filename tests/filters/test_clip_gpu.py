"""On a GPU: scores near the CPU's, the same bits whatever the neighbours, and memory that runs out for real."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from pairsieve.filters.clip_score import ClipScore  # noqa: E402
from tests.support_clip import CLIP, SIGLIP, opened, pairs_of, write_model  # noqa: E402

Photo = Callable[..., bytes]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small models."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / "vit", CLIP), write_model(folder / "sig", SIGLIP)]


@pytest.fixture(scope="module")
def pool(photo: Photo) -> pa.RecordBatch:
    """Enough pairs for many batches, a few broken."""
    images: list[bytes | None] = [photo(30 + i % 40, 60 - i % 30, seed=i) for i in range(400)]
    texts: list[str | None] = [f"circle {i}" + " on blue" * (i * 7 % 40) for i in range(400)]
    images[3], images[50], texts[7] = None, b"x", " "
    return pairs_of(images, texts)


def on_gpu(models: list[Path], **chosen: Any) -> ClipScore:
    """A filter with both models on the GPU."""
    made = ClipScore(model=str(models[0]), also={"s": {"model": str(models[1])}}, device="cuda", **chosen)
    made.open()
    return made


def test_near_the_cpu(models: list[Path], pool: pa.RecordBatch) -> None:
    """Float32 scores and embeddings are the CPU's to 1e-5; float16, which is what auto means here, to 5e-3."""
    want = opened(models[0], also={"s": {"model": str(models[1])}}, embeddings=True, flipped=True).score(pool)
    for precision, near in (("fp32", 1e-5), ("fp16", 5e-3), ("auto", 5e-3)):
        found = on_gpu(models, precision=precision, embeddings=True, flipped=True, batch_size=32).score(pool)
        assert found["clip_score_error"].equals(want["clip_score_error"])
        for name in ("clip_score", "clip_score_flipped", "clip_score_s"):
            one, other = (side[name].to_numpy(zero_copy_only=False) for side in (found, want))
            np.testing.assert_allclose(one, other, atol=near)
    assert found["clip_score"].equals(on_gpu(models, precision="fp16", batch_size=32).score(pool)["clip_score"])


@pytest.mark.parametrize("threads", [1, 8])
def test_bits(models: list[Path], pool: pa.RecordBatch, threads: int) -> None:
    """Parts, threads, order and neighbours leave the bits alone, with more batches on the way than there are slots."""
    made = on_gpu(models, batch_size=16, threads=threads)
    whole = made.score(pool)

    def parts() -> Iterator[pa.RecordBatch]:
        for start in range(0, 400, 37):
            yield pool.slice(start, 37)

    found = list(made.score_all(parts()))
    for name, values in whole.items():
        assert pa.concat_arrays([part[name] for part in found]).equals(values), name
    turned = made.score(pool.take(pa.array(np.roll(np.arange(400), 5))))["clip_score"]
    assert turned.take(pa.array(np.roll(np.arange(400), -5))).equals(whole["clip_score"])
    made.close()


def test_memory_runs_out(models: list[Path], pool: pa.RecordBatch) -> None:
    """With less memory than a batch takes it is run in parts, and every pair has its score."""
    want = on_gpu(models, precision="fp32", batch_size=16).score(pool)["clip_score"].to_numpy(zero_copy_only=False)
    made = on_gpu(models, precision="fp32", batch_size=4096)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (160 << 20)) / total)
    try:
        found = made.score(pool)["clip_score"].to_numpy(zero_copy_only=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert made._clips[0]._images[False].rows_at_once < 4096
