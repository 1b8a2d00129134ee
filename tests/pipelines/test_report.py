"""The report: its counts are the run's, its samples what they say, and it is written for any run there is."""

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pairsieve
from pairsieve.pipelines.cli import app
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.report import Report, report
from pairsieve.pipelines.report_charts import CHARTS, Chart
from pairsieve.pipelines.report_funnel import funnel
from pairsieve.pipelines.report_gather import TILES, Gathered
from pairsieve.pipelines.report_samples import by_reason
from pairsieve.pipelines.report_source import open_run
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.errors import UserError
from tests.pipelines.test_cli_json import DOCUMENTED
from tests.s3 import S3Server
from tests.support import recipe, write_csv
from tests.support_downloads import recipe as downloads
from tests.support_downloads import url_list
from tests.support_pools import write_img2dataset, write_pairs, write_webdataset
from tests.support_report import ROWS, STEPS, curate, picture
from tests.support_web import serving

MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished run with pictures, six steps, hostile captions and URLs."""
    return curate(tmp_path_factory.mktemp("report"), *STEPS)


@pytest.fixture(scope="module")
def written(curated: Result) -> Report:
    """Its report."""
    return pairsieve.report(curated.root)


def text_of(made: Report) -> str:
    """The page."""
    return Path(made.file).read_text(encoding="utf-8")


def rows_of(folder: Path, count: int, *steps: Any) -> Result:
    """A run over a list of ``count`` URLs, without pictures."""
    rows = [{"url": f"http://e.org/{i}.jpg", "text": f"words of row {i}", "score": i / 7} for i in range(count)]
    return run(recipe(write_csv(folder / "list.csv", rows), *steps), folder / "run", workers=1)


def test_the_funnel_is_the_runs(curated: Result, written: Report) -> None:
    """Step by step; and what each leaves is what reaches the next."""
    assert [(line.step, line.reached, line.dropped) for line in written.funnel] == curated.funnel
    lines = written.funnel
    assert all(one.left == other.reached for one, other in pairwise(lines))
    assert lines[0].reached == ROWS and lines[-1].left == curated.kept


VERDICTS = st.lists(
    st.tuples(st.sampled_from(["pool", "one", "two", "three", None]), st.sampled_from("abc")), max_size=60
)


@given(VERDICTS)
@settings(max_examples=25, deadline=None)
def test_every_pair_is_in_the_funnel_once(verdicts: list[tuple[str | None, str]]) -> None:
    """Whatever the verdicts are: who reaches a step is who was not dropped before it."""
    order = ["pool", "one", "two", "three"]
    with TemporaryDirectory() as folder:
        write_bare_run(Path(folder), order[1:], verdicts)
        with open_run(folder) as source:
            lines = funnel(source, by_reason(source), [])
    places = [order.index(step) if step else len(order) for step, _ in verdicts]
    assert [(line.step, line.dropped) for line in lines] == [(step, places.count(k)) for k, step in enumerate(order)]
    assert [line.reached for line in lines] == [sum(place >= k for place in places) for k in range(len(order))]
    assert lines[-1].left == places.count(len(order))


def write_bare_run(folder: Path, steps: list[str], verdicts: list[tuple[str | None, str]]) -> None:
    """The manifest and the verdicts of a run, and nothing else."""
    records = [{"id": step, "filter": "where", "fingerprint": "", "deciding": {}} for step in steps]
    pool = {"rows": len(verdicts), "shards": 1}
    made = {"recipe": {}, "seed": 0, "versions": {}, "pool": pool, "steps": records}
    (folder / "run.yaml").write_text(yaml.safe_dump(made))
    rows = [
        {"uid": f"{i:032x}", "shard": 0, "row": i, "dropped_by": step, "reason": reason if step else None}
        for i, (step, reason) in enumerate(verdicts)
    ]
    (folder / "verdicts").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, columns.VERDICTS), folder / "verdicts" / "00000.parquet")


def test_everything_could_be_read(written: Report) -> None:
    """Of a finished run nothing is left out, and nothing is said of its state."""
    assert (written.unread, written.state) == ((), ())


def test_the_same_run_gives_the_same_bytes(curated: Result, written: Report, tmp_path: Path) -> None:
    """Also when written elsewhere, and when the run has a report already."""
    before = Path(written.file).read_bytes()
    again = pairsieve.report(curated.root, tmp_path / "other.html")
    assert Path(again.file).read_bytes() == before


def test_counts_of_charts_are_the_views(curated: Result) -> None:
    """Every chart counts each pair of its view once, in the bin where it lies."""
    with open_run(curated.root) as source:
        for entry in Gathered(source, Silent()).entries:
            chart = entry.chart
            values = curated.query(f'SELECT {chart.sql}::VARCHAR AS v FROM "{chart.view}"')["v"].to_pylist()
            assert chart.pairs() == len(values)
            if chart.axis is not None:
                check_bins(chart, np.array([np.nan if v is None else float(v) for v in values]))


def check_bins(chart: Chart, values: Any) -> None:
    """As many values below each edge as lie there, but for those on the edge itself."""
    assert chart.axis is not None
    real = values[np.isfinite(values)]
    inside = {b: 0 for b in range(-1, chart.axis.bins + 1)}
    for (_, place, _), pairs in chart.counts.items():
        if place is not None:
            inside[place] += pairs
    assert sum(inside.values()) == len(real)
    for i, edge in enumerate(chart.axis.edges()):
        slack = 1e-9 * max(1.0, abs(edge))
        below = sum(pairs for place, pairs in inside.items() if place < i)
        assert (real < edge - slack).sum() <= below <= (real <= edge + slack).sum()


def test_thresholds_part_the_pairs_as_the_steps_did(curated: Result) -> None:
    """Of the pairs that reached a step, those that fail its thresholds on one column are among those it dropped."""
    with open_run(curated.root) as source:
        entries = [entry.chart for entry in Gathered(source, Silent()).entries if entry.chart.cuts]
    dropped = {step: lost for step, _, lost in curated.funnel}
    names = [step.id for step in curated.plan.steps]
    for chart in entries:
        step = int(chart.step or 0)
        gone = chart.pairs(step, passes=False) + chart.pairs(step, passes=None)
        if names[step] in ("caption_words", "clip_score", "random_sample"):
            assert gone == dropped[names[step]]
        else:
            assert 0 < gone <= dropped[names[step]]
    assert {names[int(chart.step or 0)] for chart in entries} == {*names} - {"exact_duplicates"}


def test_nearest_pairs_are_the_nearest(curated: Result) -> None:
    """Compared with all pairs that reached the step, sorted in Python."""
    order = ["pool", *(step.id for step in curated.plan.steps)]
    with open_run(curated.root) as source:
        entries = [entry for entry in Gathered(source, Silent()).entries if entry.near]
    assert len(entries) == 6
    for entry in entries:
        chart, step = entry.chart, order[int(entry.chart.step or 0) + 1]
        sql = f"""
            SELECT {chart.sql}::DOUBLE AS v, v.dropped_by AS gone, v.shard, v.row
            FROM "{chart.view}" s JOIN verdicts v ON s.shard = v.shard AND s.row = v.row
        """
        reached = [
            (row["v"], row["shard"], row["row"])
            for row in curated.query(sql).to_pylist()
            if row["v"] is not None
            and np.isfinite(row["v"])
            and (row["gone"] is None or order.index(row["gone"]) >= order.index(step))
        ]
        for near in entry.near:
            passes = {">=": np.greater_equal, "<=": np.less_equal, "<": np.less, ">": np.greater}[near.cut.sign]
            limit = np.float32(near.cut.value) if near.cut.kind == "FLOAT" else near.cut.value
            for side, picks in ((True, near.passing), (False, near.fail)):
                those = [place for place in reached if bool(passes(place[0], limit)) is side]
                wanted = sorted(those, key=lambda place: (abs(place[0] - float(limit)), *place[1:]))[:6]
                assert {(pick.shard, pick.row) for pick in picks} == {place[1:] for place in wanted}


def test_samples_of_a_reason_have_that_reason(curated: Result) -> None:
    """And there are as many pairs of each reason as the verdicts say."""
    counts = curated.query("SELECT dropped_by, reason, count(*) AS n FROM verdicts GROUP BY ALL").to_pylist()
    verdicts = {(r["shard"], r["row"]): (r["dropped_by"], r["reason"]) for r in verdicts_of(curated)}
    with open_run(curated.root) as source:
        reasons = Gathered(source, Silent()).reasons
    assert {(r.step, r.reason or None): r.pairs for r in reasons} == {
        (c["dropped_by"], c["reason"]): c["n"] for c in counts
    }
    for reason in reasons:
        why = (reason.step, reason.reason or None)
        assert reason.picks and {verdicts[pick.shard, pick.row] for pick in reason.picks} == {why}


def verdicts_of(curated: Result) -> list[dict[str, Any]]:
    """All of them."""
    return [dict(row) for row in curated.query("SELECT * FROM verdicts").to_pylist()]


def test_clusters_are_shown_with_their_survivor(curated: Result) -> None:
    """The first pair of a cluster is the one that stayed, the others name it."""
    rows = {(r["shard"], r["row"]): r for r in verdicts_of(curated)}
    with open_run(curated.root) as source:
        found = Gathered(source, Silent()).duplicates
    assert found.steps == (("exact_duplicates", 17, 17, 1, 17),)
    assert len(found.largest) == 6 and len(found.others) == 6
    for cluster in (*found.largest, *found.others):
        stays, *lost = (rows[pick.shard, pick.row] for pick in cluster.picks)
        assert stays["uid"] == cluster.survivor and stays["dropped_by"] != "exact_duplicates"
        assert [row["duplicate_of"] for row in lost] == [cluster.survivor]


def test_alone_is_what_the_step_would_drop_of_the_pool(curated: Result, written: Report) -> None:
    """A step whose scores every pair has; null where only survivors were measured."""
    found = {line.step: line.alone for line in written.funnel}
    kept = curated.query("SELECT count(*) FILTER (score >= 0.37::FLOAT AND NOT isnan(score)) AS n FROM pairs")
    assert found["clip_score"] == ROWS - kept["n"][0].as_py()
    assert found["caption_words"] == 1 and found["random_sample"] is None


def test_pictures_are_small_and_broken_ones_say_why(written: Report) -> None:
    """No byte of a stored file is in the page, and what cannot be decoded is a tile with its reason."""
    page = text_of(written)
    assert page.count("data:image/webp;base64,") > 50
    assert "data:image/jpeg" not in page
    assert 100 * 1024 < written.bytes < MOST_BYTES


def test_the_worst_captions_and_pictures_fit(tmp_path: Path) -> None:
    """Noise that does not compress, texts of signs: no tile takes more than its part of a page."""
    count = 60
    columns_ = {
        "uid": [f"{i:032x}" for i in range(count)],
        "image": [picture(i, 400) for i in range(count)],
        "text": ["\u202e" * 100_000] * count,
        "url": ["\u2066&" * 4000] * count,
    }
    pq.write_table(pa.table(columns_), tmp_path / "pool.parquet")
    spec = {"path": str(tmp_path / "pool.parquet"), "columns": ["url"]}
    steps = [{"random_sample": {"fraction": 0.5}}]
    made = report(run({"pool": {"pairs": spec}, "filters": steps}, tmp_path / "run", workers=1).root)
    tiles = text_of(made).count('class="tile"')
    assert made.unread == () and tiles > 40
    assert made.bytes / tiles < 13_000 < (MOST_BYTES - CHARTS * 15_000) / TILES


@pytest.mark.parametrize("count", [1, 3])
def test_runs_without_pictures(tmp_path: Path, count: int) -> None:
    """Of one row, and of a few."""
    result = rows_of(tmp_path, count, {"caption_words": {"least": 1}}, {"random_sample": {"fraction": 0.5}})
    made = report(result.root)
    assert made.unread == () and made.funnel[-1].left == result.kept
    assert "<img" not in text_of(made)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_nothing_kept_and_everything_kept(tmp_path: Path, fraction: float) -> None:
    """Both are runs as any other."""
    result = rows_of(tmp_path, 30, {"random_sample": {"fraction": fraction}})
    made = report(result.root)
    assert (made.unread, made.funnel[-1].left) == ((), 30 * fraction)
    assert f">{30 * fraction:.0f}</b> of <b>30</b> pairs kept" in text_of(made)


def test_a_recipe_without_steps(tmp_path: Path) -> None:
    """The pool alone."""
    made = report(rows_of(tmp_path, 12).root)
    assert made.unread == () and [line.step for line in made.funnel] == ["pool"]


def test_a_pool_read_in_place(tmp_path: Path) -> None:
    """DataComp's way: a Parquet list with uids, scores in it, no images."""
    count = 400
    columns = {
        "uid": [f"{i:032x}" for i in range(count)],
        "url": [f"http://e{i % 3}.org/{i}" for i in range(count)],
        "text": [f"text {i}" for i in range(count)],
        "clip": pa.array(np.linspace(0, 1, count), pa.float32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet", row_group_size=100)
    made = {
        "pool": {"urls": {"path": str(tmp_path / "list.parquet"), "shard_rows": 100}},
        "filters": [{"clip_score": {"column": "clip", "top": 0.25}}],
    }
    result = run(made, tmp_path / "run", workers=1)
    found = report(result.root)
    assert found.unread == () and [cut.value for cut in found.cuts] == [result.settled["clip_score"]["threshold"]]
    assert "text 299" in text_of(found) and "e1.org" in text_of(found)
    (tmp_path / "list.parquet").rename(tmp_path / "elsewhere.parquet")
    moved = report(result.root)
    assert [line.partition(":")[0] for line in moved.unread] == ["pairs"] and moved.funnel[-1].left == result.kept
    page = text_of(moved)
    assert page.count('class="tile"') >= 24 and "text 299" not in page
    assert str(tmp_path) not in page and "…/list.parquet" in page


def test_two_hundred_steps_fit(tmp_path: Path) -> None:
    """With long captions and pictures: charts and tiles are bounded, no step is left out of the funnel."""
    curate(tmp_path, {"random_sample": {"as": "draw_0", "fraction": 0.999}}, rows=60)
    root = tmp_path / "run"
    found = yaml.safe_load((root / "run.yaml").read_text())
    found["steps"] = [{**found["steps"][0], "id": f"draw_{i}"} for i in range(200)]
    (root / "run.yaml").write_text(yaml.safe_dump(found))
    (root / "catalog.duckdb").unlink()  # so that views are made of the files
    for i in range(1, 200):
        (root / "scores" / f"draw_{i}").mkdir()
        for file in (root / "scores" / "draw_0").iterdir():
            table = pq.read_table(file).rename_columns(["uid", "shard", "row", f"draw_{i}_random_number"])
            pq.write_table(table, root / "scores" / f"draw_{i}" / file.name)
    made = report(root)
    page = text_of(made)
    assert made.unread == () and made.bytes < MOST_BYTES
    assert page.count('class="tile"') <= TILES and page.count('<tr><th scope="row">draw_') >= 200
    assert page.count('<svg class="chart"') <= CHARTS and "<code>draw_199_random_number</code>" in page


def test_a_run_that_was_stopped(curated: Result, tmp_path: Path) -> None:
    """Without a catalog, and with the verdicts of half of the shards: told in a line, and counted as far as it goes."""
    shutil.copytree(curated.root, tmp_path / "run")
    (tmp_path / "run" / "catalog.duckdb").unlink()
    for shard in (2, 3):
        (tmp_path / "run" / "verdicts" / f"{shard:05d}.parquet").unlink()
    made = report(tmp_path / "run")
    assert made.state == ("this run is not finished: what follows is what it has stored so far",)
    assert made.unread == () and made.funnel[0].reached == ROWS / 2
    assert "120 of 240 pairs have a verdict" in text_of(made)


def test_a_run_that_has_no_verdicts_yet(curated: Result, tmp_path: Path) -> None:
    """Scores are shown all the same."""
    shutil.copytree(curated.root, tmp_path / "run")
    (tmp_path / "run" / "catalog.duckdb").unlink()
    shutil.rmtree(tmp_path / "run" / "verdicts")
    made = report(tmp_path / "run")
    assert made.unread == () and "not decided yet" in text_of(made)


def test_a_damaged_file_costs_its_section_only(curated: Result, tmp_path: Path) -> None:
    """What could not be read is named, in the page and by the command."""
    shutil.copytree(curated.root, tmp_path / "run")
    (tmp_path / "run" / "scores" / "random_sample" / "00001.parquet").write_bytes(b"PAR1 no such thing PAR1")
    made = report(tmp_path / "run")
    assert {line.partition(":")[0] for line in made.unread} == {
        "what is stored in scores_random_sample",
        "distributions of scores_random_sample",
    }
    assert [(line.step, line.reached) for line in made.funnel] == [line[:2] for line in curated.funnel]
    assert "What could not be read" in text_of(made)


def test_pictures_of_a_pool_that_has_moved(tmp_path: Path) -> None:
    """The report is made, and says where the images would be."""
    result = curate(tmp_path, {"caption_words": {"least": 3}})
    (tmp_path / "pool.parquet").rename(tmp_path / "elsewhere.parquet")
    made = report(result.root)
    assert "in the pool, which is not where it was" in text_of(made) and "<img" not in text_of(made)


@pytest.mark.parametrize("write", [write_pairs, write_webdataset, write_img2dataset])
def test_pictures_of_every_kind_of_pool(tmp_path: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    """They are read where the pool has them; the last pair has none."""
    (tmp_path / "pool").mkdir()
    result = run({"pool": write(tmp_path / "pool"), "filters": ["caption_words"]}, tmp_path / "run", workers=1)
    made = report(result.root)
    assert made.unread == () and text_of(made).count("data:image/webp") >= 5
    assert "images are in the pool" in text_of(made)


def test_texts_that_were_added(tmp_path: Path) -> None:
    """Beside their parent's own, each with its fate."""
    texts = pa.array([[f"written {i}", f"another {i}"] for i in range(20)], pa.list_(pa.string()))
    own = [f"own {i}" for i in range(20)]
    table = pa.table({"uid": [f"{i:032x}" for i in range(20)], "image": [b"x"] * 20, "text": own, "caption": texts})
    pq.write_table(table, tmp_path / "pool.parquet")
    spec = {"path": str(tmp_path / "pool.parquet"), "columns": ["caption"]}
    steps = [{"choose": {"texts": ["text", "caption"], "most": 2}}]
    result = run({"pool": {"pairs": spec}, "filters": steps}, tmp_path / "run", workers=1)
    made = report(result.root)
    assert made.unread == ()
    assert [(line.step, line.reached, line.dropped) for line in made.funnel] == result.funnel
    assert "Pairs that were added" in text_of(made) and len(re.findall(r"written \d+<", text_of(made))) >= 8


def test_head_and_tail_of_a_balance(tmp_path: Path) -> None:
    """Entries with their counts, and all matches in three parts."""
    words = ["photo", "a dog", "zebra", "image of sea", "quiz", "the sky", "", "jazz"]
    rows = [{"url": f"http://e.org/{i}", "text": " ".join(words[(i * k) % 8] for k in range(1, 4))} for i in range(300)]
    names = tmp_path / "letters.json"
    names.write_text(json.dumps([chr(i) for i in range(128)]))
    balance = {"metadata_balance": {"t": 40, "entries": "letters", "metadata": str(names)}}
    steps = ("tests.support_filters:Letters", balance)
    result = run(recipe(write_csv(tmp_path / "list.csv", rows), *steps), tmp_path / "run", workers=1)
    with open_run(result.root) as source:
        (found,) = Gathered(source, Silent()).balances
    entries = result.query("SELECT * FROM metadata_balance_entries ORDER BY count DESC, entry_id").to_pylist()
    assert sum(part[1] for part in found.parts) == 128
    assert sum(part[2] for part in found.parts) == sum(entry["count"] for entry in entries)
    assert [entry[:3:2] for entry in found.head] == [
        (entry["entry"], entry["count"]) for entry in entries if entry["probability"] < 1
    ][:15]
    assert "Most frequent of the head" in text_of(report(result.root))


def test_downloads_are_told_by_outcome_and_host(tmp_path: Path) -> None:
    """As ``pairsieve hosts`` tells them; pictures are those that were stored."""
    with serving() as site:
        urls = [site.url(f"/ok/{i}" if i % 2 else f"/status/404/{i}") for i in range(12)]
        result = run(downloads(url_list(tmp_path, urls), 6, [], timeout=5), tmp_path / "run", workers=1)
    made = report(result.root)
    page = text_of(made)
    assert made.unread == () and "What became of the URLs" in page and "http_404" in page
    assert page.count("data:image/webp") >= 6


def test_a_run_on_an_object_store(s3: S3Server, tmp_path: Path) -> None:
    """Read there, and written there; its pictures too."""
    root = f"{s3.make_bucket()}/run"
    result = curate(tmp_path, {"caption_words": {"least": 3}}, {"random_sample": {"fraction": 0.5}}, rows=60, root=root)
    made = report(root)
    assert made.unread == () and made.file == f"{root}/report.html" and made.funnel[-1].left == result.kept
    page = Store(root).read("report.html").decode()
    assert page.count("data:image/webp") > 15 and f"pairsieve why {root} UID" in page


def test_queries_of_the_page_can_be_asked(curated: Result, written: Report) -> None:
    """As they stand, whatever columns are called."""
    asked = [shlex.split(html.unescape(text)) for text in re.findall(r"<pre>(pairsieve .*?)</pre>", text_of(written))]
    assert len(asked) > 15 and {words[:3] == ["pairsieve", "query", "."] for words in asked} == {True}
    for *_, sql in asked:
        curated.query(sql)


def test_a_damaged_file_of_pictures(tmp_path: Path) -> None:
    """Its tiles say so."""
    with serving() as site:
        urls = [site.url(f"/ok/{i}") for i in range(4)]
        result = run(downloads(url_list(tmp_path, urls), 2, [], timeout=5), tmp_path / "run", workers=1)
    (tmp_path / "run" / "scores" / "download" / "00001.parquet").write_bytes(b"PAR1 damaged PAR1")
    page = text_of(report(result.root))
    assert "the file with this image cannot be read" in page and "data:image/webp" in page
    (tmp_path / "run" / "scores" / "download" / "00000.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert report(result.root).unread[0].startswith("scores_download: ")


def test_a_run_that_is_at_work(curated: Result, tmp_path: Path) -> None:
    """Somebody holds it: told beside what there is."""
    shutil.copytree(curated.root, tmp_path / "run")
    (tmp_path / "run" / "catalog.duckdb").unlink()
    with locked(Store(str(tmp_path / "run"))):
        made = report(tmp_path / "run")
    assert made.state[1:] == ("another process works in this run now",)


def test_secrets_and_paths_of_the_recipe_stay_out(curated: Result, written: Report) -> None:
    """A report is passed on."""
    folder = str(Path(curated.root).parent)
    assert folder not in text_of(written) and "…/pool.parquet" in text_of(written)


def test_the_report_goes_where_it_is_told(curated: Result, tmp_path: Path) -> None:
    """To a file of one's own, in a folder that is made; the command says where."""
    done = CliRunner().invoke(app, ["report", curated.root, "--out", str(tmp_path / "new" / "page.html"), "--quiet"])
    assert done.exit_code == 0 and "page.html" in done.output.replace("\n", "")
    assert (tmp_path / "new" / "page.html").stat().st_size > 1000


def test_the_command_says_what_was_counted(curated: Result) -> None:
    """As JSON."""
    done = CliRunner().invoke(app, ["report", curated.root, "--json", "--quiet"])
    found = json.loads(done.output)
    assert [(line["step"], line["reached"], line["dropped"]) for line in found["funnel"]] == [
        tuple(line) for line in curated.funnel
    ]
    assert {line["step"] for line in found["thresholds"]} >= {"clip_score", "where"}
    assert found.keys() == DOCUMENTED["report"]


@pytest.mark.parametrize("out", [".", "folder/"])
def test_a_folder_is_no_file(curated: Result, tmp_path: Path, out: str) -> None:
    """One line with the next step."""
    with pytest.raises(UserError, match=r"is a folder; name a file, such as .*report\.html"):
        report(curated.root, f"{tmp_path}/{out}")


def test_where_there_is_no_run(tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(UserError, match=r"no run here \(run\.yaml is missing\)"):
        report(tmp_path)


def test_a_damaged_catalog(curated: Result, tmp_path: Path) -> None:
    """One line, which says what mends it."""
    shutil.copytree(curated.root, tmp_path / "run")
    (tmp_path / "run" / "catalog.duckdb").write_bytes(b"nothing of a database")
    with pytest.raises(UserError, match=r"catalog\.duckdb is damaged; run the recipe again"):
        report(tmp_path / "run")


def test_nothing_of_the_run_is_changed(curated: Result, tmp_path: Path) -> None:
    """Not a byte, but for the report itself."""
    shutil.copytree(curated.root, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    (tmp_path / "run" / "scores" / "caption_words" / "00000.parquet").write_bytes(b"damaged")
    report(tmp_path / "run")
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert {name for name in after if after[name] != before.get(name)} <= {"report.html", "00000.parquet"}
    assert (tmp_path / "run" / "scores" / "caption_words" / "00000.parquet").read_bytes() == b"damaged"
