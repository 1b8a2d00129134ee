"""PairDataset on real files, with real worker processes: what it hands out, and where it goes on."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import pairsieve
from pairsieve.pipelines import feed_read
from pairsieve.pipelines.feed import PairDataset
from tests.support_feed import flat, numbers, pictures, uid_of, write_dataset

GROUPS = [[7, 9, 8], [10, 3], [6, 6, 6, 5]]
ROWS = sum(map(sum, GROUPS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 rows in 9 row groups of 3 files, with scores."""
    scores = pa.array(np.arange(ROWS) / 7, pa.float32())
    lists = pa.array([None if i == 4 else i for i in range(ROWS)], pa.int64())
    return write_dataset(tmp_path_factory.mktemp("run"), GROUPS, clip_score=scores, number=lists)


def feed(folder: str, **more: Any) -> PairDataset:
    """A loader of encoded images, in small windows."""
    return PairDataset(folder, **{"decode": "bytes", "batch_size": 4, "window_bytes": 1, **more})


def images(batch: dict[str, Any]) -> list[bytes]:
    """The encoded images of a batch."""
    ends = batch["offsets"].tolist()
    return [bytes(batch["image"][a:b].numpy()) for a, b in pairwise(ends)]


def test_it_is_a_public_name() -> None:
    """And comes when it is first used."""
    assert pairsieve.PairDataset is PairDataset
    code = "import sys, pairsieve, pairsieve.pipelines.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_every_pair_with_its_own_image_and_text(folder: str, workers: int) -> None:
    """Image, text, uid and columns of a row stay together; the next epoch comes by itself, in another order."""
    data = feed(folder, workers=workers, columns=("clip_score", "number"))
    epochs = [list(data), list(data)]
    assert data.epoch == 2
    for batches in epochs:
        assert sorted(flat(numbers(batches))) == list(range(ROWS))
        for batch, rows in zip(batches, numbers(batches), strict=True):
            assert images(batch) == [f"image {i}".encode() for i in rows]
            assert batch["text"] == [f"text {i}" for i in rows]
            assert batch["number"] == [None if i == 4 else i for i in rows]
            assert torch.equal(batch["clip_score"], torch.tensor(rows) / 7)
            assert batch["broken"] == 0
    assert numbers(epochs[0]) != numbers(epochs[1])


def test_workers_change_the_order_and_nothing_else(folder: str) -> None:
    """A fresh loader of the same settings gives the same batches."""
    streams = {w: [numbers(feed(folder, workers=w, seed=5)) for _ in range(2)] for w in (0, 1, 2)}
    assert all(one == other for one, other in streams.values())
    assert streams[0][0] == streams[1][0]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 14), st.integers(0, 2), st.integers(1, 9), st.integers(0, 2), st.booleans())
def test_a_killed_loader_goes_on_in_another(
    folder: str, steps: int, workers: int, batch: int, others: int, alike: bool
) -> None:
    """The same topology gives the rest of the stream, another every row that is left, once; the state is JSON."""
    whole = numbers(feed(folder, workers=workers))
    first = feed(folder, workers=workers)
    stream = iter(first)
    head = numbers(next(stream) for _ in range(steps))
    state = json.loads(json.dumps(first.state_dict()))
    stream.close()  # type: ignore[attr-defined]
    again = feed(folder, workers=workers) if alike else feed(folder, workers=others, batch_size=batch)
    again.load_state_dict(state)
    rest = numbers(again)
    if alike:
        assert head + rest == whole
    assert sorted(flat(head + rest)) == list(range(ROWS))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_that_was_left_goes_on(folder: str, workers: int) -> None:
    """Where it was, in the same object."""
    data, found = feed(folder, workers=workers), []
    for _ in range(3):
        for batch in data:
            found.append(batch)
            if len(found) % 5 == 0:
                break
    assert numbers(found) == numbers(feed(folder, workers=workers))
    assert len(list(data)) == 15
    assert data.epoch == 2


def test_the_state_after_the_last_batch_is_the_next_epoch(folder: str) -> None:
    """So that nothing is iterated in vain."""
    data = feed(folder)
    for _ in data:
        state = data.state_dict()
    assert state["epoch"] == 1
    assert state == data.state_dict() == feed(folder).state_dict() | {"epoch": 1}


def test_length_is_what_is_left(folder: str) -> None:
    """Batches of this rank."""
    data = feed(folder, workers=2)
    assert len(data) == 15
    stream = iter(data)
    next(stream)
    assert len(data) == 14
    state = data.state_dict()
    again = feed(folder, batch_size=7)
    again.load_state_dict(state)
    assert len(again) == len(list(again)) == 8
    assert len(feed(folder, rank=0, world=4, batch_size=4, drop_last=True)) == 3


def test_set_epoch(folder: str) -> None:
    """Another epoch begins anew; the same one keeps a position that was loaded."""
    data = feed(folder)
    data.set_epoch(3)
    third = numbers(data)
    assert data.epoch == 4
    data.set_epoch(3)
    assert numbers(data) == third
    data.set_epoch(3)
    stream = iter(data)
    next(stream)
    data.load_state_dict(data.state_dict())
    data.set_epoch(3)
    assert numbers(data) == third[1:]


def test_ranks_are_equal_and_apart(folder: str) -> None:
    """Each has as many batches, together they have every row but fewer than ``world``; their states are the same."""
    ranks = [feed(folder, rank=rank, world=7, workers=rank % 2 * 2) for rank in range(7)]
    found = [numbers(rank) for rank in ranks[::2]]
    assert {len(rank) for rank in found} == {2}
    every = [numbers(feed(folder, rank=rank, world=7)) for rank in range(7)]
    assert len(set(flat(flat(every)))) == len(flat(flat(every))) == 56  # type: ignore[arg-type]
    states = []
    for rank in range(3):
        data = feed(folder, rank=rank, world=3, workers=2)
        stream = iter(data)
        next(stream)
        states.append(data.state_dict())
        stream.close()  # type: ignore[attr-defined]
    assert states[0] == states[1] == states[2]


def test_the_rank_comes_from_the_environment(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun sets it; arguments win."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (feed(folder).rank, feed(folder).world) == (1, 3)
    assert (feed(folder, rank=0, world=2).rank, feed(folder, rank=0, world=2).world) == (0, 2)


DISTRIBUTED = """
import sys, torch, pairsieve
rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
data = pairsieve.PairDataset(sys.argv[1], decode="bytes", batch_size=5)
print(data.rank, data.world, *[uid for batch in data for uid in batch["uid"]])
torch.distributed.destroy_process_group()
"""


def test_the_rank_comes_from_torch_distributed(folder: str, tmp_path: Path) -> None:
    """In two processes of a real group, which share the rows."""
    command = [sys.executable, "-c", DISTRIBUTED, folder]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = [one.communicate(timeout=120)[0].split() for one in both]
    assert [one[:2] for one in said] == [["0", "2"], ["1", "2"]]
    assert sorted(said[0][2:] + said[1][2:]) == [uid_of(i) for i in range(ROWS)]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_loader_of_the_users_own(folder: str, workers: int) -> None:
    """Workers share the rows, and a state by the number of batches goes on, in ours or another of theirs."""
    data = feed(folder)
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    found = numbers(loader)
    assert found == numbers(feed(folder, workers=workers))
    data.set_epoch(0)
    state = data.state_dict(batches=6, workers=workers)
    again = feed(folder)
    again.load_state_dict(state)
    assert numbers(DataLoader(again, batch_size=None, num_workers=workers)) == found[6:]
    ours = feed(folder, workers=2)
    ours.load_state_dict(state)
    assert sorted(flat(found[:6] + numbers(ours))) == list(range(ROWS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("is_told", [False, True])
def test_batches_of_a_loader_of_the_users_own(folder: str, workers: int, is_told: bool) -> None:
    """They are counted from where the epoch began, also where the loader's iteration has moved the object itself."""
    data, wanted = feed(folder), feed(folder)
    loader = DataLoader(data, batch_size=None, num_workers=workers)
    for epoch in range(2):
        wanted.set_epoch(epoch)
        if is_told or workers:
            data.set_epoch(epoch)
        for done, _ in enumerate(loader, 1):
            if done == 6:
                assert data.state_dict(batches=done, workers=workers) == wanted.state_dict(done, workers)
        assert data.state_dict(batches=done, workers=workers) == feed(folder).state_dict() | {"epoch": epoch + 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_open_iteration_moves_no_later_position(folder: str, workers: int) -> None:
    """``set_epoch``, ``load_state_dict`` and a second iteration leave the first one behind."""
    data = feed(folder, workers=workers)
    stream = iter(data)
    next(stream)
    loaded = data.state_dict()
    data.set_epoch(3)
    assert len(list(stream)) == 14
    assert data.state_dict() == feed(folder).state_dict() | {"epoch": 3}
    stream = iter(data)
    next(stream)
    data.load_state_dict(loaded)
    assert len(list(stream)) == 14 and data.state_dict() == loaded
    first, second = iter(data), iter(data)
    given = [next(first), next(second)]
    list(first)
    assert len(numbers([*given[1:], *second])) == 13 and data.epoch == 1


@pytest.mark.filterwarnings("ignore:'set_vital':UserWarning")  # torchdata 0.11 with newer torch
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_stateful_loader(folder: str, workers: int) -> None:
    """Its workers save where they are, and go on exactly."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    whole = numbers(stateful(feed(folder), batch_size=None, num_workers=workers))
    loader = stateful(feed(folder), batch_size=None, num_workers=workers)
    stream = iter(loader)
    head = numbers(next(stream) for _ in range(5))
    state = loader.state_dict()
    again = stateful(feed(folder), batch_size=None, num_workers=workers)
    again.load_state_dict(state)
    assert head + numbers(again) == whole


def test_a_spawned_worker(folder: str) -> None:
    """The loader travels by pickle where processes are not forked."""
    loader = DataLoader(feed(folder), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert numbers(loader) == numbers(feed(folder))


def test_no_shuffling(folder: str) -> None:
    """Rows come as they lie."""
    assert flat(numbers(feed(folder, shuffle=False))) == list(range(ROWS))


def test_resuming_reads_what_is_left(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups that have been handed out are not read again."""
    read: list[int] = []
    group = feed_read.Reader.group

    def counted(reader: feed_read.Reader, number: int) -> Any:
        read.append(number)
        return group(reader, number)

    monkeypatch.setattr(feed_read.Reader, "group", counted)
    data = feed(folder)
    data.load_state_dict(data.state_dict(batches=12))
    list(data)
    assert 1 <= len(read) <= 4
    assert len(set(read)) == len(read)


def test_the_dataset_folder_and_the_run_are_the_same(folder: str) -> None:
    """Either may be named, also as a Path."""
    found = numbers(feed(folder))
    assert numbers(feed(f"{folder}/dataset")) == found
    assert numbers(PairDataset(Path(folder) / "dataset", decode="bytes", batch_size=4, window_bytes=1)) == found


def test_texts_alone(folder: str) -> None:
    """``decode=None`` reads no image."""
    batch = next(iter(feed(folder, decode=None)))
    assert sorted(batch) == ["broken", "text", "uid"]


def test_a_tokenizer(folder: str) -> None:
    """It is given a batch's texts, in the worker."""

    def tokens(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[int(text.split()[1]), os.getpid()] for text in texts])

    for batch, rows in zip(data := list(feed(folder, tokenizer=tokens, workers=1)), numbers(data), strict=True):
        assert batch["text"][:, 0].tolist() == rows
        assert os.getpid() not in batch["text"][:, 1].tolist()


def test_weights_say_how_often_a_row_comes(tmp_path: Path) -> None:
    """With whole numbers exactly so, over ranks and workers, and the state is exact."""
    weights = [i % 4 for i in range(ROWS)]
    folder = write_dataset(tmp_path, GROUPS, weight=pa.array(weights, pa.float64()))
    ranks = [numbers(feed(folder, weights="weight", rank=rank, world=2, workers=2)) for rank in (0, 1)]
    came = np.bincount(flat(flat(ranks)), minlength=ROWS)  # type: ignore[arg-type]
    assert came.tolist() == weights
    data = feed(folder, weights="weight")
    whole = numbers(feed(folder, weights="weight"))
    stream = iter(data)
    head = numbers(next(stream) for _ in range(7))
    again = feed(folder, weights="weight", workers=1)
    again.load_state_dict(data.state_dict())
    assert head + numbers(again) == whole


MEMORY = """
import resource, sys, pairsieve
for name in ("small", "large"):
    data = pairsieve.PairDataset(f"{sys.argv[1]}/{name}", decode="bytes", batch_size=16, window_bytes=24_000_000)
    rows = sum(len(batch["uid"]) for batch in data)
    print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_of_a_worker(tmp_path: Path) -> None:
    """A process that has gone through 16 MB needs less than a window of 24 MB more for ten times as much."""
    noise = np.random.default_rng(0).bytes(100_000)
    for name, groups in (("small", 4), ("large", 40)):
        write_dataset(tmp_path / name, [[40] * groups], [noise] * (40 * groups))
    said = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, check=True, text=True)
    (rows, small), (others, large) = (map(int, line.split()) for line in said.stdout.splitlines())
    assert (rows, others) == (160, 1600)
    assert large - small < 24_000_000


def test_pictures_are_the_same_everywhere(tmp_path: Path) -> None:
    """Whatever the workers, the batches and the place where it went on: by seed, epoch and row alone."""
    folder = write_dataset(tmp_path, GROUPS, pictures(ROWS))

    def seen(**more: Any) -> dict[str, bytes]:
        data = PairDataset(folder, image_size=24, window_bytes=1, **more)
        data.load_state_dict(data.state_dict())
        return {u: bytes(i.numpy()) for batch in data for u, i in zip(batch["uid"], batch["image"], strict=True)}

    one = seen(batch_size=4)
    assert one == seen(batch_size=9, workers=2) == seen(batch_size=60)
    assert one != seen(batch_size=4, seed=1)
    assert len(set(one.values())) > 40  # of eight images


def test_the_examples_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run as they stand."""
    monkeypatch.chdir(tmp_path)
    rows = 300
    chances = pa.array(np.linspace(0.1, 1, rows))
    write_dataset("runs/first", [[50] * 6], pictures(rows))
    write_dataset("runs/metaclip", [[50] * 6], pictures(rows), metadata_balance_probability=chances)
    text = (Path(__file__).parents[2] / "docs" / "feed.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/feed.md", "exec"), names)
        if "json" in block:
            assert len(names["data"]) == 2
    assert names["images"].shape == (44, 3, 224, 224)
    assert names["state"]["epoch"] == 2
