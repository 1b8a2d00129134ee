"""pairsieve export img2dataset: its names, keys, columns and samples, read back and against its own writer."""

import json
import tarfile
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import pairsieve
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.export_downloads import export_downloads
from pairsieve.pipelines.export_downloads_shard import Layout
from pairsieve.pipelines.export_settings import Img2dataset
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import DamagedFileError, UserError
from tests.support_exports import digests, picture

ROWS = 25


class Site(BaseHTTPRequestHandler):
    """Pictures by number; a page instead of every fifth, nothing for every seventh."""

    def do_GET(self) -> None:
        """Answer."""
        number = int(self.path.strip("/").partition(".")[0])
        body = b"<html>" * 40 if number % 5 == 4 else picture(number, side=20 if number == 12 else 40)
        self.send_response(404 if number % 7 == 6 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def download(site: str, root: Path, shard_rows: int = 10, filters: tuple[Any, ...] = (), **settings: Any) -> Path:
    """A finished run over ROWS pairs, with a column of the pool's own."""
    root.mkdir(parents=True, exist_ok=True)
    texts = [None if i == 1 else f"thing {i} \u00e9" for i in range(ROWS)]
    urls = [None if i == 3 else f"{site}/{i}.jpg" for i in range(ROWS)]
    pq.write_table(
        pa.table({"url": urls, "text": texts, "licence": [f"cc-{i}" for i in range(ROWS)]}), root / "p.parquet"
    )
    recipe = {
        "pool": {"urls": {"path": str(root / "p.parquet"), "shard_rows": shard_rows}},
        "filters": [
            {"download": {"allow_addresses": ["127.0.0.0/8"], "user_agent": "t (t@example.org)", **settings}},
            *filters,
        ],
        "output": {"subset": "kept.npy"},
    }
    run(recipe, root / "run", workers=1, engine="local")
    return root / "run"


@pytest.fixture(scope="module")
def done(site: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that drops a small picture, and whose second step drops captions of numbers up to 9 and the null one."""
    where = {"where": "text IS NOT NULL AND CAST(regexp_extract(text, '[0-9]+') AS INTEGER) > 9"}
    settings = {"image_size": 32, "extract_exif": True, "min_image_size": 30}
    return download(site, tmp_path_factory.mktemp("run"), filters=(where,), **settings)


@pytest.fixture(scope="module")
def out(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    folder = tmp_path_factory.mktemp("out") / "out"
    export_downloads(done, folder, workers=1)
    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet files in order."""
    return [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def samples_of(out: Path) -> dict[str, dict[str, bytes]]:
    """Members by key and ending."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as file:
            for member in file:
                key, _, ending = member.name.partition(".")
                content = file.extractfile(member)
                assert content is not None
                found.setdefault(key, {})[ending] = content.read()
    return found


def test_files_are_named_as_img2dataset_names_them(out: Path) -> None:
    """A tar, a Parquet file and counts for each shard of the run."""
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith((".", "_")))
    assert names == [f"{i:05d}{end}" for i in range(3) for end in (".parquet", ".tar", "_stats.json")]


def test_keys_tell_the_place(out: Path) -> None:
    """Shard and row, with as many digits as the largest shard of 10 rows takes, and five for shards."""
    assert [row["key"] for row in rows_of(out)] == [f"{i:06d}" for i in range(ROWS)]


def test_keys_of_ten_thousand_rows() -> None:
    """img2dataset's default: shard 12, row 37 is 000120037."""
    layout = Layout("download", "", (), {}, {}, 10_000, 5, False)
    assert layout.key(12, 37) == "000120037"


def test_columns_are_img2datasets(out: Path) -> None:
    """The pool's own first, then caption and url, then what the download found, in its types."""
    schema = pq.read_schema(out / "00000.parquet")
    own = ["key", "status", "error_message", "width", "height", "original_width", "original_height", "exif", "sha256"]
    assert schema.names == ["uid", "licence", "caption", "url", *own]
    assert {str(schema.field(name).type) for name in own[3:7]} == {"int32"}
    assert {str(schema.field(name).type) for name in [*own[:3], *own[7:]]} == {"string"}


def test_every_candidate_has_a_row_with_its_outcome(out: Path) -> None:
    """Kept ones succeeded; failed and dropped ones say why, in img2dataset's statuses."""
    rows = rows_of(out)
    assert [row["licence"] for row in rows] == [f"cc-{i}" for i in range(ROWS)]
    outcomes = {i: (row["status"], row["error_message"]) for i, row in enumerate(rows)}
    assert outcomes[3] == ("failed_to_download", "pool: no_url")
    assert outcomes[6] == ("failed_to_download", "HTTP status 404")
    assert outcomes[4] == ("failed_to_resize", "the first bytes are no image's")
    assert outcomes[5] == ("failed_to_resize", "where: false")
    assert outcomes[12] == ("failed_to_resize", "image too small")
    kept = [i for i in range(10, ROWS) if i % 5 != 4 and i % 7 != 6 and i != 12]
    assert [i for i, (status, _) in outcomes.items() if status == "success"] == kept


def test_tars_hold_what_succeeded(out: Path) -> None:
    """Image, caption and the row as JSON, under the row's key."""
    rows = {row["key"]: row for row in rows_of(out) if row["status"] == "success"}
    samples = samples_of(out)
    assert list(samples) == list(rows)
    for key, members in samples.items():
        assert list(members) == ["jpg", "json", "txt"]
        assert json.loads(members["json"]) == rows[key]
        assert members["txt"].decode() == rows[key]["caption"]


def test_stats_add_up(out: Path) -> None:
    """img2dataset's names, counts over messages, no time."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*_stats.json"))]
    rows = rows_of(out)
    for name, status in (("successes", "success"), ("failed_to_download",) * 2, ("failed_to_resize",) * 2):
        assert sum(one[name] for one in found) == sum(row["status"] == status for row in rows)
    assert [sum(one["status_dict"].values()) for one in found] == [one["count"] for one in found] == [10, 10, 5]


def test_the_pool_reads_it_back(out: Path, tmp_path: Path) -> None:
    """As a pool of img2dataset's: the same uids, captions, failures, images."""
    recipe = {"pool": {"img2dataset": {"path": str(out)}}, "filters": [], "output": {"dataset": {"rows_per_file": 50}}}
    run(recipe, tmp_path / "again", workers=1, engine="local")
    found = [row for file in (tmp_path / "again/dataset").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    wanted = {row["uid"]: row for row in rows_of(out) if row["status"] == "success"}
    samples = samples_of(out)
    assert {row["uid"]: (row["text"], row["image"]) for row in found} == {
        uid: (row["caption"], samples[row["key"]]["jpg"]) for uid, row in wanted.items()
    }


def test_downloaded_ones_are_all_there_if_asked(done: Path, tmp_path: Path) -> None:
    """With --downloaded the verdicts of later steps do not matter; a null caption is an empty file."""
    export_downloads(done, tmp_path / "out", Img2dataset(downloaded=True), workers=1)
    rows = rows_of(tmp_path / "out")
    got = [i for i, row in enumerate(rows) if row["status"] == "success"]
    assert got == [i for i in range(ROWS) if i != 3 and i % 5 != 4 and i % 7 != 6]
    assert samples_of(tmp_path / "out")["000001"]["txt"] == b""


def test_its_own_writer_writes_the_same(out: Path, tmp_path: Path) -> None:
    """img2dataset's WebDatasetSampleWriter, given these rows, makes the same samples and the same table."""
    package = find_spec("img2dataset")
    if not package or not package.submodule_search_locations or not find_spec("webdataset"):
        pytest.skip("img2dataset and webdataset are needed: pip install --no-deps -r tests/peers.txt")
    spec = spec_from_file_location("peer_writer", Path(package.submodule_search_locations[0]) / "writer.py")
    assert spec and spec.loader
    peer = module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(peer)
    samples = samples_of(out)
    for shard in range(3):
        table = pq.read_table(out / f"{shard:05d}.parquet")
        writer = peer.WebDatasetSampleWriter(shard, str(tmp_path), True, 5, table.schema, "jpg")
        for row in table.to_pylist():
            image = samples.get(row["key"], {}).get("jpg")
            writer.write(image, row["key"], row["caption"], dict(row))
        writer.close()
    theirs = samples_of(tmp_path)
    assert [pq.read_table(p).to_pylist() for p in sorted(tmp_path.glob("*.parquet"))] == [
        pq.read_table(p).to_pylist() for p in sorted(out.glob("*.parquet"))
    ]
    assert {key: (m["jpg"], m["txt"], json.loads(m["json"])) for key, m in theirs.items()} == {
        key: (m["jpg"], m["txt"], json.loads(m["json"])) for key, m in samples.items()
    }


def test_bytes_do_not_depend_on_workers_or_on_a_stop(done: Path, out: Path, tmp_path: Path) -> None:
    """Two workers, or shards that a stopped export has left, damaged or not: the same files."""
    export_downloads(done, tmp_path / "two", workers=2)
    assert digests(tmp_path / "two") == digests(out)
    (tmp_path / "two/_manifest.json").unlink()
    (tmp_path / "two/00001.tar").write_bytes(b"half")
    export_downloads(done, tmp_path / "two", workers=1)
    assert digests(tmp_path / "two") == digests(out)


def test_a_finished_export_is_verified(done: Path, tmp_path: Path) -> None:
    """A file that was changed afterwards is written again, and what is not of it is named."""
    first = export_downloads(done, tmp_path / "out", workers=1)
    before = digests(tmp_path / "out")
    path = tmp_path / "out/00002.parquet"
    path.write_bytes(path.read_bytes()[::-1])
    assert export_downloads(done, tmp_path / "out", workers=1) == first
    assert digests(tmp_path / "out") == before
    (tmp_path / "out/00003.tar").write_bytes(b"")
    (tmp_path / "out/_manifest.json").unlink()
    with pytest.raises(UserError, match=r"holds '00003\.tar', which is none of its 9 files"):
        export_downloads(done, tmp_path / "out", workers=1)


def test_other_settings_replace_it(done: Path, tmp_path: Path) -> None:
    """Nothing of an export with other names survives."""
    export_downloads(done, tmp_path / "out", Img2dataset(oom_shard_count=7), workers=1)
    assert (tmp_path / "out/0000000.tar").exists()
    export_downloads(done, tmp_path / "out", workers=1)
    assert not (tmp_path / "out/0000000.tar").exists()


@pytest.mark.parametrize("digits", [5, 6])
def test_a_file_of_others_is_named(done: Path, tmp_path: Path, digits: int) -> None:
    """By the command that verifies and by one of other settings; nothing is removed."""
    export_downloads(done, tmp_path / "out", workers=1)
    (tmp_path / "out/00099.tar").write_bytes(b"mine")
    before = digests(tmp_path / "out")
    with pytest.raises(UserError, match=r"holds '00099\.tar', which is none of its 9 files; remove it"):
        export_downloads(done, tmp_path / "out", Img2dataset(oom_shard_count=digits), workers=1)
    assert digests(tmp_path / "out") == before


def test_names_of_the_pool_that_are_img2datasets_are_left_out(site: str, tmp_path: Path) -> None:
    """A pool's own width, or status, is not taken for the image's."""
    pq.write_table(
        pa.table({"url": [f"{site}/0.jpg"], "text": ["a"], "status": ["old"], "key": [7]}), tmp_path / "p.parquet"
    )
    step = {"download": {"allow_addresses": ["127.0.0.0/8"], "compute_hash": "md5", "user_agent": "t (t@example.org)"}}
    pool = {"urls": {"path": str(tmp_path / "p.parquet")}}
    recipe = {"pool": pool, "filters": [step], "output": {"subset": "s.npy"}}
    run(recipe, tmp_path / "run", workers=1, engine="local")
    export_downloads(tmp_path / "run", tmp_path / "out", workers=1)
    (row,) = rows_of(tmp_path / "out")
    assert (row["key"], row["status"]) == ("00000", "success")
    assert "md5" in row and "sha256" not in row and "exif" not in row


def test_it_is_a_public_name() -> None:
    """From Python too."""
    assert pairsieve.export_downloads is export_downloads
    assert pairsieve.Img2dataset is Img2dataset


def test_command(done: Path, tmp_path: Path) -> None:
    """It says what it wrote, and how it is read."""
    found = CliRunner().invoke(app, ["export", "img2dataset", str(done), str(tmp_path / "o"), "-q", "--workers", "1"])
    assert found.exit_code == 0, found.output
    assert "25 rows in 3 shards" in found.output


def test_what_cannot_be_exported_is_said(done: Path, tmp_path: Path) -> None:
    """No run, no such step, a folder of somebody else's, the run's own."""
    with pytest.raises(UserError, match="no run here"):
        export_downloads(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="--step other: no download step of the run; there are download"):
        export_downloads(done, tmp_path / "out", Img2dataset(step="other"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"holds 'letter.txt', which no export wrote"):
        export_downloads(done, tmp_path / "full")
    with pytest.raises(UserError, match="is the run's own"):
        export_downloads(done, done / "dataset/x")
    with pytest.raises(UserError, match="give 1 or more"):
        Img2dataset(oom_shard_count=0)


def test_what_a_later_run_measured_is_in_its_place(site: str, tmp_path: Path) -> None:
    """Images in further parts of a shard come by row, not by part; a pool that is read in place has its columns too."""
    uids = [f"{i:032x}" for i in range(20)]
    urls = [f"{site}/{i}.jpg" for i in range(20)]
    (tmp_path / "pool").mkdir()
    table = pa.table({"uid": uids, "url": urls, "text": [f"{i}" for i in range(20)], "original_width": [9] * 20})
    pq.write_table(table, tmp_path / "pool/0.parquet", row_group_size=5)
    step = {"download": {"allow_addresses": ["127.0.0.0/8"], "user_agent": "t (t@example.org)"}}
    for where in ("CAST(text AS INTEGER) % 2 = 0", "true"):
        pool = {"datacomp": {"path": str(tmp_path / "pool"), "shard_rows": 5}}
        recipe = {"pool": pool, "filters": [{"where": where}, step], "output": {"subset": "s.npy"}}
        run(recipe, tmp_path / "run", workers=1, engine="local")
    assert (tmp_path / "run/scores/download/00001.1.parquet").exists()
    export_downloads(tmp_path / "run", tmp_path / "out", workers=1)
    rows = rows_of(tmp_path / "out")
    assert [row["uid"] for row in rows] == uids
    kept = [i for i in range(20) if i % 5 != 4 and i % 7 != 6]
    assert list(samples_of(tmp_path / "out")) == [rows[i]["key"] for i in kept]
    assert {row["original_width"] for row in rows} == {20, 40, None}


def test_a_run_without_a_download_is_refused(tmp_path: Path) -> None:
    """With the command that fits."""
    pq.write_table(pa.table({"url": ["http://e.org/1"], "text": ["a"]}), tmp_path / "p.parquet")
    recipe = {"pool": {"urls": {"path": str(tmp_path / "p.parquet")}}, "filters": [], "output": {"subset": "s.npy"}}
    run(recipe, tmp_path / "run", workers=1, engine="local")
    with pytest.raises(UserError, match="has no download step"):
        export_downloads(tmp_path / "run", tmp_path / "out")


def test_damaged_scores_are_refused(site: str, tmp_path: Path) -> None:
    """Nothing wrong is exported, and nothing of the run is removed."""
    made = download(site, tmp_path)
    path = made / "scores/download/00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"scores/download/00001\.parquet: is not as it was written"):
        export_downloads(made, tmp_path / "out", workers=1)
    assert path.exists()
