"""An export that is stopped anywhere: the same command ends with the same bytes.  On object stores and Ray too."""

import sys
from pathlib import Path
from typing import Any

import pytest

import pairsieve
from pairsieve import Csv, HuggingFace, Webdataset
from tests.pipelines.test_reshard_stops import Fuse, Stopped, started, wait_for
from tests.s3 import Faults, S3Server, download
from tests.support_exports import digests, numbered

SETTINGS: dict[str, Any] = {
    "webdataset": Webdataset(rows_per_shard=15, loader_workers=1, with_json=True),
    "csv": Csv(rows_per_shard=15, prefix=""),
    "hf": HuggingFace(rows_per_shard=15),
}
ANY_FORMAT = pytest.mark.parametrize("kind", list(SETTINGS))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pairs in two files."""
    return numbered(tmp_path_factory.mktemp("run"), 40)


@ANY_FORMAT
def test_a_stop_at_every_file_changes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stopped at the first file, then at the next, and so on to the end: every time it goes on from there."""
    made = SETTINGS[kind]
    pairsieve.export(run, tmp_path / "whole" / "out", made, workers=1)
    wanted, fuse, stops = digests(tmp_path / "whole" / "out"), Fuse(monkeypatch), 0
    for fuse.is_before in (True, False):
        for number in range(1, 60):
            fuse.left = number
            out = tmp_path / f"{fuse.is_before}-{number}" / "out"
            try:
                pairsieve.export(run, out, made, workers=1)
            except Stopped:
                stops += 1
                fuse.left = 10**9
                assert not (out / "_manifest.json").exists() or digests(out).keys() >= wanted.keys()
                pairsieve.export(run, out, made, workers=1)
                assert digests(out) == wanted, f"stopped at file {number}"
            else:
                break
    assert stops > 15


@ANY_FORMAT
def test_a_stop_while_another_export_is_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing by which training would find a mixture of the two is there, and the end is the same."""
    earlier: dict[str, Any] = {
        "webdataset": Webdataset(rows_per_shard=4, loader_workers=1),
        "csv": Csv(rows_per_shard=4),
        "hf": HuggingFace("mit", 4),
    }
    pairsieve.export(run, tmp_path / "whole" / "out", SETTINGS[kind], workers=1)
    wanted, out = digests(tmp_path / "whole" / "out"), tmp_path / "out"
    pairsieve.export(run, out, earlier[kind], workers=1)
    with monkeypatch.context() as patch:
        Fuse(patch).left = 6
        with pytest.raises(Stopped):
            pairsieve.export(run, out, SETTINGS[kind], workers=1)
    assert not any((out / name).exists() for name in ("_manifest.json", "sizes.json", "train.csv", "README.md"))
    pairsieve.export(run, out, SETTINGS[kind], workers=1)
    assert digests(out) == wanted


def test_killed_exports_go_on(tmp_path: Path) -> None:
    """SIGKILL to all processes while they write, twice, in one folder: the end is the same."""
    run = numbered(tmp_path, 600)
    pairsieve.export(run, tmp_path / "whole", Webdataset(rows_per_shard=20), workers=1)
    command = [sys.executable, "-m", "pairsieve", "export", "webdataset", str(run)]
    command += ["--rows-per-shard", "20", "--workers", "2", "-q"]
    for pattern, count in (("*.rows.npy", 2), ("*.tar", 5)):
        with started(command, tmp_path / "out") as process:
            wait_for(tmp_path / "out", pattern, count, process)
    with started(command, tmp_path / "out") as process:
        assert process.wait(120) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["webdataset", "hf"])
def test_object_stores_hold_the_same_bytes(s3: S3Server, run: Path, tmp_path: Path, kind: str) -> None:
    """Run and export on a store that answers badly: what a disk would hold."""
    import fsspec

    bucket = s3.make_bucket()
    fs, path = fsspec.core.url_to_fs(bucket)
    for file in (one for one in run.rglob("*") if one.is_file()):
        fs.put_file(str(file), f"{path}/run/{file.relative_to(run)}")
    s3.set(Faults(errors=0.05, cuts=0.02, slow=0.1, delay=0.01, seed=1))
    pairsieve.export(f"{bucket}/run", f"{bucket}/out", SETTINGS[kind], workers=1)
    s3.set(Faults())
    pairsieve.export(run, tmp_path / "whole" / "out", SETTINGS[kind], workers=1)
    assert digests(download(f"{bucket}/out", tmp_path / "held")) == digests(tmp_path / "whole" / "out")


def test_ray_writes_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """The other engine runs the same tasks."""
    pairsieve.export(run, tmp_path / "local", SETTINGS["webdataset"], engine="local")
    pairsieve.export(run, tmp_path / "ray", SETTINGS["webdataset"], workers=2, engine="ray")
    assert digests(tmp_path / "local") == digests(tmp_path / "ray")
