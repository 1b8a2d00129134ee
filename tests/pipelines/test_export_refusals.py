"""Exports that cannot be: one line with place, cause and next step, and nothing written or removed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pairsieve
from pairsieve import Csv, HuggingFace, Webdataset
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.run import run as run_recipe
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError, PairsieveError, RunBusyError, UserError
from tests.pipelines.test_reshard_stops import Fuse, Stopped
from tests.support import numbered_rows, recipe, write_csv
from tests.support_exports import digests, make_run, numbered, pictures


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Twelve pairs."""
    return numbered(tmp_path, 12)


def refused(run: Path | str, out: Path | str, said: str, settings: Any = "webdataset") -> None:
    """One line, and nothing at ``out`` that was not there."""
    before = digests(Path(out)) if Path(out).is_dir() else {}
    with pytest.raises(PairsieveError, match=said) as error:
        pairsieve.export(run, out, settings, workers=1)
    assert "\n" not in str(error.value)
    assert (digests(Path(out)) if Path(out).is_dir() else {}) == before


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """Nothing there, or something else."""
    refused(tmp_path / "none", tmp_path / "out", "no run here")
    refused(tmp_path, tmp_path / "out", "no run here")


def test_a_run_without_a_dataset(tmp_path: Path) -> None:
    """The line says what to write in the recipe."""
    pool = write_csv(tmp_path / "x.csv", numbered_rows(5))
    run_recipe(recipe(pool, output={"subset": "s.npy"}), tmp_path / "run", workers=1)
    refused(tmp_path / "run", tmp_path / "out", r"no dataset; write 'output: \{dataset: true\}'")


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    """Its dataset may be another recipe's."""
    (run / "catalog.duckdb").unlink()
    refused(run, tmp_path / "out", "not finished")


def test_a_run_that_kept_nothing(tmp_path: Path) -> None:
    """There is nothing to export."""
    run = make_run(tmp_path, pictures(3), ["a"] * 3, [{"caption_words": {"least": 9}}])
    refused(run, tmp_path / "out", "kept no pair")


@pytest.mark.parametrize("kind", ["webdataset", "csv"])
def test_a_dataset_without_images(tmp_path: Path, kind: str) -> None:
    """The line names the step that brings them."""
    run = make_run(tmp_path, None, ["a", "b"], extra={"url": ["http://e.org/1", "http://e.org/2"]})
    refused(run, tmp_path / "out", "no column 'image'; add a 'download' step", kind)


def test_a_dataset_of_which_nothing_can_be_exported(tmp_path: Path) -> None:
    """It says why, with examples."""
    run = make_run(tmp_path, [b"<html>"] * 3, ["a"] * 3)
    with pytest.raises(UserError, match="nothing can be exported: 3 rows with bytes that begin no image"):
        pairsieve.export(run, tmp_path / "out", workers=1)


def test_fewer_samples_than_tars(run: Path, tmp_path: Path) -> None:
    """open_clip wants a tar for each loader, and a sample in each."""
    with pytest.raises(UserError, match="12 samples do not fill the 64 tars"):
        pairsieve.export(run, tmp_path / "out", Webdataset(world_size=8, loader_workers=8), workers=1)


OTHERS = pytest.mark.parametrize(
    ("first", "other"),
    [
        (Webdataset(), Webdataset(captions="first")),
        (Csv(), Csv(captions="first")),
        (HuggingFace(), HuggingFace("mit")),
    ],
)


def test_a_refused_export_leaves_the_one_that_is_there(run: Path, tmp_path: Path) -> None:
    """Settings that cannot be, or a dataset of which nothing can be exported: the finished export is as it was."""
    pairsieve.export(run, tmp_path / "out", workers=1)
    refused(run, tmp_path / "out", "12 samples do not fill the 400 tars", Webdataset(world_size=100))
    bad = make_run(tmp_path / "bad", [b"<html>"] * 3, ["a"] * 3)
    refused(bad, tmp_path / "out", "nothing can be exported")
    assert pairsieve.export(run, tmp_path / "out", workers=1).written == 12


def test_a_damaged_manifest(run: Path, tmp_path: Path) -> None:
    """One line."""
    (run / "dataset/_manifest.json").write_text("{")
    refused(run, tmp_path / "out", "_manifest.json is damaged; run the recipe again")


@pytest.mark.parametrize("place", [100, -100])
def test_a_damaged_dataset(run: Path, tmp_path: Path, place: int) -> None:
    """A wrong bit in an image or the footer is found; no tar is written."""
    (file,) = (run / "dataset").glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"not as it was written.*; run the recipe again"):
        pairsieve.export(run, tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_folder_with_other_files(run: Path, tmp_path: Path) -> None:
    """Nobody's files are mixed in or removed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000000.tar").write_bytes(b"mine")
    refused(run, out, "holds '00000000.tar', which no export wrote")


def test_a_folder_with_another_format(run: Path, tmp_path: Path) -> None:
    """Not replaced."""
    pairsieve.export(run, tmp_path / "out", "csv", workers=1)
    refused(run, tmp_path / "out", "holds an export as csv")


def test_a_stranger_among_the_tars(run: Path, tmp_path: Path) -> None:
    """A glob would read it too; it is named, not removed, and the export is not finished."""
    pairsieve.export(run, tmp_path / "out", workers=1)
    (tmp_path / "out/00000009.tar").write_bytes(b"mine")
    (tmp_path / "out/_manifest.json").unlink()
    refused_again = "holds '00000009.tar', which is none of its 4 files; remove it"
    with pytest.raises(UserError, match=refused_again):
        pairsieve.export(run, tmp_path / "out", workers=1)
    assert (tmp_path / "out/00000009.tar").read_bytes() == b"mine"
    assert not (tmp_path / "out/_manifest.json").exists()


FOREIGN = {"webdataset": "00000099.tar", "csv": "images/mine", "hf": "data/mine.parquet"}


@OTHERS
def test_a_stranger_beside_a_finished_export(run: Path, tmp_path: Path, first: Any, other: Any) -> None:
    """Named by the command that verifies, and by one of other settings, which removes nothing."""
    pairsieve.export(run, tmp_path / "out", first, workers=1)
    name = FOREIGN[first.name]
    (tmp_path / "out" / name).write_bytes(b"mine")
    refused(run, tmp_path / "out", f"holds '{name}', which is none of its . files; remove it", first)
    refused(run, tmp_path / "out", f"holds '{name}'", other)


def test_a_stranger_beside_an_unfinished_export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stopped export has written is replaced by other settings, what it has not is named."""
    with monkeypatch.context() as patch:
        Fuse(patch).left = 6
        with pytest.raises(Stopped):
            pairsieve.export(run, tmp_path / "out", Webdataset(rows_per_shard=1), workers=1)
    assert list((tmp_path / "out").glob("*.tar"))
    (tmp_path / "out/00000099.tar").write_bytes(b"mine")
    refused(run, tmp_path / "out", "holds '00000099.tar'")
    (tmp_path / "out/00000099.tar").unlink()
    assert len(pairsieve.export(run, tmp_path / "out", workers=1).files) == 4
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4


@pytest.mark.parametrize("inside", ["", "dataset/out", "_work/x", "out"])
def test_a_folder_of_the_run(run: Path, inside: str) -> None:
    """A later run would remove it, or what is being written there."""
    refused(run, run / inside, "is the run's own")


def test_csv_is_local(run: Path) -> None:
    """open_clip opens paths."""
    with pytest.raises(UserError, match="reads local files"):
        pairsieve.export(run, "memory://out", "csv", workers=1)


def test_two_exports_at_once(run: Path, tmp_path: Path) -> None:
    """The second is refused while the first works."""
    with locked(Store(str(tmp_path / "out"))), pytest.raises(RunBusyError, match="another pairsieve works"):
        pairsieve.export(run, tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Webdataset(captions="all"), "captions 'all': there are draw, first, each"),  # type: ignore[arg-type]
        (lambda: Webdataset(rows_per_shard=0), "rows_per_shard 0: give 1 or more"),
        (lambda: Webdataset(world_size=0), "world_size 0"),
        (lambda: Csv(prefix="a\0b"), "null byte"),
        (lambda: HuggingFace(license="MIT; rm"), "no name of the Hub's"),
        (lambda: HuggingFace(rows_per_shard=-1), "rows_per_shard -1"),
        (lambda: pairsieve.export("x", "y", "tar"), "format 'tar': there are webdataset, csv, hf"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be(make: Any, said: str) -> None:
    """Refused when they are made."""
    with pytest.raises(UserError, match=said):
        make()


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command line."""
    return subprocess.run([sys.executable, "-m", "pairsieve", "export", *arguments], capture_output=True, text=True)


def test_the_command_line_tells_how_to_read_it(run: Path, tmp_path: Path) -> None:
    """What it wrote, and what training is given."""
    found = command("webdataset", str(run), str(tmp_path / "out"), "--with-json", "-q")
    assert found.returncode == 0 and found.stderr == ""
    assert "wrote 12 samples in 4 parts of 3 to 3" in found.stdout
    assert f"--train-data '{tmp_path}/out/{{00000000..00000003}}.tar'" in found.stdout


def test_the_command_line_refuses_in_one_line(run: Path, tmp_path: Path) -> None:
    """Exit code 2, no traceback."""
    found = command("csv", str(run), str(tmp_path / "out"), "--captions", "some", "-q")
    assert found.returncode == 2 and found.stderr == "error: captions 'some': there are draw, first, each\n"
