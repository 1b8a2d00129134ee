"""Plans of runs that exist: what is re-used, what is measured and why; exact counts are exact, nothing is touched."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pairsieve.filters.load import load as load_filter
from pairsieve.pipelines import reuse
from pairsieve.pipelines.estimate import estimate
from pairsieve.pipelines.plan_report import Report, StepPlan
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.run import load, run
from pairsieve.schemas.errors import ShardError
from tests.support import numbered_rows, recipe, write_csv
from tests.support_pools import write_pairs

LENGTH = "tests.support_filters:TextLength"
TOP = {"clip_score": {"column": "score", "top": 0.4}}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """350 pairs, 4 shards."""
    return write_csv(tmp_path / "list.csv", numbered_rows(350))


def planned(made: dict[str, Any], out: Path | str, sample: int = 0) -> Report:
    """The plan of a recipe into a directory."""
    opened, plan, _ = load(made)
    return estimate(opened, plan, out=str(out), sample_rows=sample, workers=1, progress=Silent())


def step(report: Report, name: str) -> StepPlan:
    """One step of a plan."""
    return next(found for found in report.steps if found.id == name)


def why(report: Report, name: str) -> str:
    """The reasons of a step, as one text."""
    return "; ".join(step(report, name).work.why)


def todo(report: Report) -> dict[str, int]:
    """Pairs to measure by step, all of them exact."""
    assert all(found.work.todo.kind == "exact" for found in report.steps)
    return {found.id: int(found.work.todo.value) for found in report.steps if found.work.todo.value}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and time."""
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_nothing_to_do(pool: Path, tmp_path: Path) -> None:
    """After a run nothing is to be measured, and the dataset stays as it is."""
    made = recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates", TOP)
    done = run(made, tmp_path / "run", workers=1)
    found = planned(made, tmp_path / "run")
    assert todo(found) == {}
    assert found.kept is not None and (found.kept.kind, found.kept.value) == ("exact", done.kept)
    assert found.reuse is not None and found.reuse.is_dataset_kept


def test_new_directory(pool: Path, tmp_path: Path) -> None:
    """A directory that holds no run makes everything new; it is not made."""
    found = planned(recipe(pool, "caption_words"), tmp_path / "run")
    assert (found.reuse, todo(found), why(found, "caption_words")) == (None, {"caption_words": 350}, "never measured")
    assert not (tmp_path / "run").exists()


def test_looser_threshold(pool: Path, tmp_path: Path) -> None:
    """The pairs that a threshold lets through are counted, and it is named."""
    run(recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates"), tmp_path / "run", workers=1)
    found = planned(recipe(pool, {"caption_words": {"least": 1}}, "exact_duplicates"), tmp_path / "run")
    assert todo(found) == {"exact_duplicates": 70}
    assert why(found, "exact_duplicates") == "more pairs come through: caption_words.least changed from 2 to 1"


def test_where(pool: Path, tmp_path: Path) -> None:
    """So are those of an expression, and of a step that is gone."""
    steps: list[Any] = [{"where": "score >= 0.5"}, {"caption_words": {"least": 2}}, "exact_duplicates"]
    run(recipe(pool, *steps), tmp_path / "run", workers=1)
    looser = planned(recipe(pool, {"where": "score >= 0.25"}, *steps[1:]), tmp_path / "run")
    text = "where.expression changed from score >= 0.5 to score >= 0.25"
    assert why(looser, "caption_words") == f"more pairs come through: {text}"
    gone = planned(recipe(pool, steps[0], steps[2]), tmp_path / "run")
    assert why(gone, "exact_duplicates") == "more pairs come through: step caption_words is no longer above it"


def test_scoring_setting(pool: Path, tmp_path: Path) -> None:
    """A setting that measures is named with both values, and its step is the only one to do."""
    for log in ("one", "two"):
        made = recipe(pool, {LENGTH: {"log": str(tmp_path / log)}}, "caption_words")
        found = planned(made, tmp_path / "run")
        if log == "one":
            run(made, tmp_path / "run", workers=1)
    assert todo(found) == {"TextLength": 350}
    text = f"setting log changed from {tmp_path / 'one'} to {tmp_path / 'two'}"
    assert why(found, "TextLength")[:60] == text[:60]
    assert found.reuse is not None and found.reuse.dataset == "rewritten: what is measured changes"


OWN = """
import pyarrow as pa
from pairsieve.filters.base import Filter

class First(Filter):
    writes = {"first": pa.binary()}
    scale: int = 1
    def score(self, pairs):
        return {"first": pa.array([b"x"] * pairs.num_rows)}
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)

class Second(Filter):
    reads = ("first",)
    writes = {"second": pa.int32()}
    model: str
    def files(self):
        return (self.model,)
    def score(self, pairs):
        return {"second": pa.array([1] * pairs.num_rows, pa.int32())}
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two filters of a user's, the second reading the first's bytes and a model file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "reuse_filters.py").write_text(OWN)
    (tmp_path / "weights.bin").write_text("1")
    return [{"reuse_filters:First": {}}, {"reuse_filters:Second": {"model": str(tmp_path / "weights.bin")}}]


def test_model_file(own: list[Any], pool: Path, tmp_path: Path) -> None:
    """Another content of a model file is named."""
    run(recipe(pool, *own), tmp_path / "run", workers=1)
    (tmp_path / "weights.bin").write_text("2")
    found = planned(recipe(pool, *own), tmp_path / "run")
    assert (todo(found), why(found, "Second")) == ({"Second": 350}, "the content of weights.bin changed")


def test_version(own: list[Any], pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that measures otherwise by now says so by its version."""
    run(recipe(pool, *own), tmp_path / "run", workers=1)
    monkeypatch.setattr(load_filter("reuse_filters:Second"), "version", 2)
    found = planned(recipe(pool, *own), tmp_path / "run")
    assert why(found, "Second") == "the filter's version changed from 1 to 2"


def test_chain_and_warning(own: list[Any], pool: Path, tmp_path: Path) -> None:
    """A step that reads what is measured again says which; stored bytes that would be replaced are warned of."""
    run(recipe(pool, *own), tmp_path / "run", workers=1)
    found = planned(recipe(pool, {"reuse_filters:First": {"scale": 2}}, own[1]), tmp_path / "run")
    assert why(found, "Second") == "it reads column first of step First, which is to be measured again"
    (warning,) = found.warnings
    said = "First: setting scale changed from 1 to 2, so 350 pairs are measured again and replace what is stored"
    assert warning.startswith(said) and "column first" in warning


def test_changed_pool(pool: Path, tmp_path: Path) -> None:
    """Shards whose pairs changed are counted, and only theirs are to measure."""
    made = recipe(pool, "caption_words")
    run(made, tmp_path / "run", workers=1)
    rows = numbered_rows(350)
    rows[320]["text"] = "another caption"
    write_csv(pool, rows)
    found = planned(made, tmp_path / "run")
    assert todo(found) == {"caption_words": 50}
    assert why(found, "caption_words") == "the pool changed (1 of 4 shards differ)"


def test_grown_parquet_pool(tmp_path: Path) -> None:
    """A Parquet list that is read in place grows by a file: only its shards are to measure."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        rows = {"uid": [f"{number:032x}"], "url": ["http://e.org/1"], "text": ["a b c"]}
        pq.write_table(pa.table(rows), tmp_path / "pool" / f"{number}.parquet")
        found = planned(recipe(tmp_path / "pool", "caption_words"), tmp_path / "run")
        if number == 1:
            run(recipe(tmp_path / "pool", "caption_words"), tmp_path / "run", workers=1)
    assert todo(found) == {"caption_words": 1}
    assert why(found, "caption_words") == "the pool changed (1 of 3 shards differ)"


@pytest.mark.parametrize(("how", "says"), [("missing", "1 file is missing"), ("damaged", "1 file is damaged")])
def test_bad_file(pool: Path, tmp_path: Path, how: str, says: str) -> None:
    """Score files that are gone or damaged are counted."""
    made = recipe(pool, "caption_words", "exact_duplicates")
    run(made, tmp_path / "run", workers=1)
    file = tmp_path / "run" / "scores" / "caption_words" / "00001.parquet"
    file.unlink() if how == "missing" else file.write_bytes(file.read_bytes()[:-9])
    found = planned(made, tmp_path / "run")
    work = step(found, "caption_words").work
    assert (work.todo.kind, work.todo.value, work.why) == ("exact", 100, (says,))
    assert str(step(found, "exact_duplicates").work.todo) == "about 0"  # as many stay as did in the run before


def test_damaged_pairs(pool: Path, tmp_path: Path) -> None:
    """A damaged file of the pool's columns is read again from the pool; scores stay of use."""
    made = recipe(pool, "caption_words")
    run(made, tmp_path / "run", workers=1)
    file = tmp_path / "run" / "pairs" / "00001.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    before = contents(tmp_path / "run")
    assert todo(planned(made, tmp_path / "run")) == {}
    assert contents(tmp_path / "run") == before


def test_stopped_run(pool: Path, tmp_path: Path) -> None:
    """What a stopped run has not measured is told from what it has."""
    fragile = {"at": "a picture of thing number 151", "how": "raise", "mended": str(tmp_path / "mended")}
    made = recipe(pool, "caption_words", {"tests.support_filters:Fragile": fragile}, "exact_duplicates")
    with pytest.raises(ShardError):
        run(made, tmp_path / "run", workers=1)
    found = planned(made, tmp_path / "run")
    assert found.reuse is not None and found.reuse.state == "a run that was stopped"
    assert str(step(found, "Fragile").work.todo) == "about 80"
    assert why(found, "Fragile") == "not measured yet: the run was stopped"


def test_renamed_step(pool: Path, tmp_path: Path) -> None:
    """Scores lie under the name of their step: another name measures again, and the plan says how not to."""
    run(recipe(pool, {"caption_words": {"as": "length"}}), tmp_path / "run", workers=1)
    found = planned(recipe(pool, "caption_words"), tmp_path / "run")
    assert why(found, "caption_words").startswith("never measured under this name; 'as: length' re-uses")
    assert planned(recipe(pool, {"caption_words": {"as": "length"}}), tmp_path / "run").reuse is not None


def test_left_over_scores(pool: Path, tmp_path: Path) -> None:
    """Scores of a step that is gone stay through a run, as the plan says, and serve when it comes back."""
    run(recipe(pool, "caption_words", "exact_duplicates"), tmp_path / "run", workers=1)
    without = recipe(pool, "exact_duplicates")
    found = planned(without, tmp_path / "run")
    assert found.reuse is not None
    (line,) = found.reuse.leftovers
    assert line.startswith("scores/caption_words: no step of this recipe; its scores (4 files")
    run(without, tmp_path / "run", workers=1)
    assert todo(planned(recipe(pool, "caption_words", "exact_duplicates"), tmp_path / "run")) == {}


OUTPUTS = [
    ({"seed": 1}, "rewritten: seed changed from 0 to 1"),
    ({"output": {"dataset": {"rows_per_file": 9}}}, "rewritten: its settings or the pairs that are kept changed"),
    ({"output": {"dataset": {"columns": []}}}, "rewritten: its columns changed"),
    ({"output": {"subset": "k.npy"}}, "removed: this recipe writes none"),
]


@pytest.mark.parametrize(("change", "says"), OUTPUTS)
def test_outputs(pool: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """A dataset that does not stay says why."""
    run(recipe(pool, "caption_words"), tmp_path / "run", workers=1)
    found = planned(recipe(pool, "caption_words", **change), tmp_path / "run").reuse
    assert found is not None and (found.is_dataset_kept, found.dataset) == (False, says)


def test_fewer_pairs_in_the_dataset(pool: Path, tmp_path: Path) -> None:
    """A tighter threshold measures nothing; how many pairs then stay is told exactly."""
    run(recipe(pool, {"caption_words": {"least": 1}}), tmp_path / "run", workers=1)
    found = planned(recipe(pool, {"caption_words": {"least": 2}}), tmp_path / "run")
    assert found.reuse is not None and found.reuse.dataset == "rewritten: 280 pairs are kept instead of 350"


def test_other_filesystem(pool: Path, tmp_path: Path) -> None:
    """A run on an fsspec URL is planned as a local one, and nothing in it changes."""
    made = recipe(pool, {"caption_words": {"least": 2}}, "exact_duplicates", TOP)
    run(made, "memory://planned/1", workers=1)
    files = fsspec.filesystem("memory")
    before = {name: files.cat_file(name) for name in files.find("/planned")}
    assert todo(planned(made, "memory://planned/1")) == {}
    looser = recipe(pool, {"caption_words": {"least": 1}}, "exact_duplicates", TOP)
    assert todo(planned(looser, "memory://planned/1")) == {"exact_duplicates": 70}
    assert {name: files.cat_file(name) for name in files.find("/planned")} == before


def test_many_shards(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many shards some are looked at, half-done ones in their share, and the figures say 'about'."""
    monkeypatch.setattr(reuse, "FEW", 6)
    monkeypatch.setattr(reuse, "FILES", 6)
    made = recipe(pool, "caption_words")
    made["pool"]["urls"]["shard_rows"] = 10
    run(made, tmp_path / "run", workers=1)
    for number in range(1, 35, 2):
        (tmp_path / "run" / "scores" / "caption_words" / f"{number:05d}.parquet").unlink()
    found = planned(made, tmp_path / "run")
    work = step(found, "caption_words").work
    assert found.reuse is not None and (found.reuse.replayed, found.reuse.shards) == (6, 35)
    assert (work.todo.kind, work.todo.value, work.reused.value) == ("about", 170, 180)
    assert work.why == ("17 files are missing",)


@pytest.mark.parametrize(("few", "says"), [(64, "5"), (3, "about ")])
def test_changed_file_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, says: str) -> None:
    """Of a pool with images that changed, all shards are read again where they are few, else some."""
    for name in "abcdef":
        (tmp_path / name).mkdir()
        pool = write_pairs(tmp_path / name)
        (tmp_path / name / "x.parquet").rename(tmp_path / f"{name}.parquet")
    pool["pairs"] = {"path": f"{tmp_path}/?.parquet", "shard_rows": 6}
    made = {"pool": pool, "filters": [{"image_shape": {}}], "output": {"subset": "kept.npy"}}
    run(made, tmp_path / "run", workers=1)
    os.utime(tmp_path / "c.parquet", (1, 1))
    monkeypatch.setattr(reuse, "FEW", few)
    monkeypatch.setattr(reuse, "FILES", few)
    before = contents(tmp_path / "run")
    found = planned(made, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert str(step(found, "image_shape").work.reach) == ("30" if few == 64 else "about 30")
    assert str(step(found, "image_shape").work.todo).startswith(says)


def test_changed_list_that_is_too_large(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large list that changed is not read for a plan, which then says what it does not know."""
    made = recipe(pool, "caption_words")
    run(made, tmp_path / "run", workers=1)
    write_csv(pool, numbered_rows(351))
    monkeypatch.setattr(reuse, "SMALL", 100)
    found = planned(made, tmp_path / "run")
    assert found.is_pool_unread and str(step(found, "caption_words").work.todo) == "at most 351"
    assert why(found, "caption_words") == "the pool changed; where its pairs are the same, scores are re-used"


@st.composite
def recipes(draw: st.DrawFn) -> list[Any]:
    """Steps of each kind; settings that decide and settings that measure."""
    words = {"caption_words": {"least": draw(st.integers(0, 6)), "most": draw(st.sampled_from([6, 64]))}}
    length = {LENGTH: {"log": draw(st.sampled_from(["a", "b"])), "least": draw(st.integers(0, 27))}}
    middle = draw(st.permutations([words, length]))
    where = {"where": f"score >= {draw(st.integers(0, 4)) / 5}"}
    double = {"exact_duplicates": {"by": draw(st.sampled_from(["text", "url"]))}}
    of = draw(st.sampled_from(["pool", "survivors"]))
    top = {"clip_score": {"column": "score", "top": draw(st.sampled_from([0.2, 0.5, 1])), "of": of}}
    last = {"exact_duplicates": {"as": "last", "by": [["url", "score"]]}}
    rest = [found for found in (where, double, top, last) if draw(st.booleans())]
    return [*middle, *draw(st.permutations(rest))]


EDITS = ("nothing", "caption", "shorter", "longer", "lost file", "cut file")


def edit(how: str, rows: list[dict[str, Any]], folder: Path, number: int) -> list[dict[str, Any]]:
    """Change the pool, or lose a file of the run."""
    files = sorted((folder / "run" / "scores").rglob("*.parquet"))
    if how in ("lost file", "cut file") and files:
        file = files[number % len(files)]
        file.unlink() if how == "lost file" else file.write_bytes(file.read_bytes()[:-number])
    if how == "caption":
        return [{**row, "text": "another"} if i == number % len(rows) else row for i, row in enumerate(rows)]
    return rows[: len(rows) // 2 + 1] if how == "shorter" else numbered_rows(len(rows) + 9) if how == "longer" else rows


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=recipes(),
    second=recipes(),
    rows=st.integers(1, 60),
    how=st.sampled_from(EDITS),
    number=st.integers(1, 50),
)
def test_exact_counts_are_what_the_run_measures(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any], rows: int, how: str, number: int
) -> None:
    """Whatever was edited, a count that claims to be exact is the run's, the first ones are exact, and bounds hold."""
    folder = tmp_path_factory.mktemp("edit")
    listed = numbered_rows(rows)

    def made(steps: list[Any], pool: list[dict[str, Any]]) -> dict[str, Any]:
        found = recipe(write_csv(folder / "list.csv", pool), *steps, output={"subset": "kept.npy"})
        found["pool"]["urls"]["shard_rows"] = 7
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(made(first, listed), folder / "run", workers=1)
        then = made(second, edit(how, listed, folder, number))
        before = contents(folder / "run")
        found = planned(then, folder / "run")
        assert contents(folder / "run") == before
        measured = run(then, folder / "run", workers=1)
    is_first = True
    for one in found.steps:
        work, count = one.work, measured.measured.get(one.id, 0)
        event(work.todo.kind)
        assert work.todo.kind == "exact" or not is_first
        assert work.todo.kind != "exact" or work.todo.value == count
        assert work.todo.kind == "exact" or (work.todo.least or 0) <= count <= (work.todo.most or 0)
        is_first &= not work.todo.value
    if is_first:
        assert found.kept is not None and (found.kept.kind, found.kept.value) == ("exact", measured.kept)
