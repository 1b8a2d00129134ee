"""Files of a run that are not as they were written: found, and made again, byte for byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import DamagedFileError
from tests.support import digests, numbered_rows, recipe, write_csv

STEPS = [{"caption_words": {"least": 2}}, {"exact_duplicates": {}}, {"clip_score": {"column": "score", "top": 0.4}}]
FILES = [
    "pairs/00001.parquet",
    "scores/caption_words/00002.parquet",
    "scores/exact_duplicates/00000.parquet",
    "dataset/00002.parquet",
    "verdicts/00003.parquet",
    "subset.npy",
]


def flip(file: Path) -> None:
    """Change one bit in the middle; size and time stay as they were."""
    times = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(file: Path) -> None:
    """Lose the last bytes, as after a crash of the machine."""
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    """Lose all bytes."""
    file.write_bytes(b"")


def exchange(file: Path) -> None:
    """Put a whole file of another shard in its place."""
    other = next((p for p in sorted(file.parent.iterdir()) if p.suffix == file.suffix and p != file), None)
    file.write_bytes(b"" if other is None else other.read_bytes())


def directory(file: Path) -> None:
    """Leave a directory of that name."""
    file.unlink()
    (file / "inside").mkdir(parents=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A recipe and its finished run."""
    folder = tmp_path_factory.mktemp("whole")
    pool = write_csv(folder / "list.csv", numbered_rows(350))
    made = recipe(pool, *STEPS, output={"dataset": {"rows_per_file": 40}, "subset": "subset.npy"})
    run(made, folder / "run", workers=1)
    return made, folder / "run"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flip, cut, empty, exchange, directory, Path.unlink])
def test_damaged_file_is_made_again(
    tmp_path: Path, whole: tuple[dict[str, Any], Path], name: str, harm: Callable[[Path], None]
) -> None:
    """The same command gives the bytes of an undamaged run."""
    if harm is directory and "/" not in name:
        pytest.skip("beside a run's folders a directory may be somebody's: it is refused")
    made, finished = whole
    shutil.copytree(finished, tmp_path / "run")
    harm(tmp_path / "run" / name)
    again = run(made, tmp_path / "run", workers=1)
    assert digests(tmp_path / "run") == digests(finished)
    assert again.query("SELECT count(*) AS n FROM scores")["n"][0].as_py() == 350


def test_only_the_damaged_shard_is_measured_again(tmp_path: Path) -> None:
    """The others are not touched."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(350))
    made = recipe(pool, "caption_words")
    assert run(made, tmp_path / "run", workers=1).measured == {"caption_words": 350}
    flip(tmp_path / "run" / "scores" / "caption_words" / "00001.parquet")
    assert run(made, tmp_path / "run", workers=1).measured == {"caption_words": 100}
    assert run(made, tmp_path / "run", workers=1).measured == {"caption_words": 0}


def test_damaged_pairs_cost_no_measurement(tmp_path: Path) -> None:
    """The pool is read once more; what was measured stands."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(350))
    run(recipe(pool, "caption_words"), tmp_path / "run", workers=1)
    flip(tmp_path / "run" / "pairs" / "00001.parquet")
    assert run(recipe(pool, "caption_words"), tmp_path / "run", workers=1).measured == {"caption_words": 0}


def image_pool(folder: Path) -> dict[str, Any]:
    """A recipe over 60 pairs with image bytes of 2 kB, which one step stores."""
    images = [os.urandom(2000) for _ in range(60)]
    table = {"image": images, "text": [f"a picture number {i}" for i in range(60)]}
    pq.write_table(pa.table(table), folder / "pool.parquet", row_group_size=20)
    pool = {"pairs": {"path": str(folder / "pool.parquet"), "shard_rows": 20}}
    return {
        "pool": pool,
        "filters": ["tests.support_filters:Stored", {"where": "size > 0"}],
        "output": {"subset": "s.npy"},
    }


def test_damaged_images_are_found_when_they_are_read(tmp_path: Path) -> None:
    """A flipped bit in stored images stops no run that does not read them, and is mended by one that does."""
    made = image_pool(tmp_path)
    run(made, tmp_path / "run", workers=1)
    part = tmp_path / "run" / "scores" / "Stored" / "00001.parquet"
    whole = part.read_bytes()
    flip(part)
    assert run(made, tmp_path / "run", workers=1).measured == {"Stored": 0}
    made["filters"].append("tests.support_filters:ReadStored")
    assert run(made, tmp_path / "run", workers=1).measured == {"Stored": 20, "ReadStored": 60}
    assert part.read_bytes() == whole


def test_a_file_that_cannot_be_mended_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives back other bytes than it was given ends in a line, not in a loop."""
    from pairsieve.pipelines import pools

    def refuse(*_: Any) -> None:
        raise DamagedFileError("pairs/00000.parquet is not as it was written")

    monkeypatch.setattr(pools.PairsFile, "__init__", refuse)
    pool = write_csv(tmp_path / "list.csv", numbered_rows(5))
    with pytest.raises(DamagedFileError, match="is not as it was written"):
        run(recipe(pool, "caption_words"), tmp_path / "run", workers=1)
