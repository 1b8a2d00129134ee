"""Plans: columns, passes, and fingerprints that change exactly when measured values would."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.filters.base import Filter
from pairsieve.pipelines.plan import Plan, make_plan
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.recipe_file import from_data, shipped
from pairsieve.pipelines.run import load, run
from pairsieve.schemas.errors import RecipeError
from tests.support import kept_texts, recipe, write_csv

TYPES = {"url": pa.string(), "text": pa.string(), "score": pa.float32(), "width": pa.int32(), "height": pa.int32()}
OWN = """
import pyarrow as pa
from pairsieve.filters.base import Filter, Runtime, Threshold

class First(Filter):
    writes = {"first": pa.int32()}
    scale: int = 1
    least: Threshold[int] = 0
    threads: Runtime[int] = 1
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)

class Second(Filter):
    reads = ("first",)
    writes = {"second_x": pa.int32()}
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)

class Chooses(Filter):
    optional = ("first", "score")
    writes = {"chosen": pa.int32()}
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters of the user's in the current directory."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plan_filters.py").write_text(OWN)


def plan(*filters: Any, types: dict[str, pa.DataType] | None = None, **rest: Any) -> Plan:
    """The plan of some steps over a pool of these columns."""
    source = from_data({"pool": {"urls": "pool.csv"}, "filters": list(filters), **rest})
    return make_plan(source, *check(source), types or TYPES)


def prints(**first: Any) -> list[str]:
    """Fingerprints of two steps, the second reading the first."""
    return [step.fingerprint for step in plan({"plan_filters:First": first}, "plan_filters:Second").steps]


@pytest.mark.parametrize("free", [{"least": 5}, {"threads": 8}, {"as": "other"}, {"of": "pool"}])
def test_free_settings(free: dict[str, Any]) -> None:
    """Thresholds, runtime settings, names and scope measure the same values."""
    assert prints(**free) == prints()


def test_scoring_settings() -> None:
    """A setting that changes values changes its step's fingerprint, and that of the steps that read it."""
    one, other = prints(), prints(scale=2)
    assert one[0] != other[0] and one[1] != other[1]


def test_unrelated_steps() -> None:
    """A step's fingerprint does not depend on steps that it does not read."""
    alone = plan("caption_words").steps[0].fingerprint
    after = plan({"where": "score > 0.5"}, {"plan_filters:First": {"scale": 3}}, "caption_words").steps[2].fingerprint
    assert alone == after


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that says it measures otherwise now is measured again."""
    before = prints()
    from pairsieve.filters.load import load as load_filter

    monkeypatch.setattr(load_filter("plan_filters:First"), "version", 2)
    assert prints()[0] != before[0]


def test_optional_reads() -> None:
    """A column that a filter uses where it exists is part of the fingerprint."""
    step = plan("plan_filters:Chooses").steps[0]
    more = plan("plan_filters:First", "plan_filters:Chooses").steps[1]
    assert (step.reads, more.reads) == (("score",), ("first", "score"))
    assert step.fingerprint != more.fingerprint


def test_passes() -> None:
    """Steps run together up to one whose verdict needs the whole scope."""
    steps: list[Any] = [
        "caption_words",
        {"exact_duplicates": {"by": "url"}},
        {"where": "score > 0"},
        {"clip_score": {"column": "score", "top": 0.5}},
        {"clip_score": {"as": "again", "column": "score", "min": 0.5}},
        "image_shape",
    ]
    assert [list(steps) for steps in plan(*steps).passes] == [[0, 1], [2, 3], [4, 5]]
    assert plan().passes == ()


def test_no_pass_is_deeper_than_python_calls(tmp_path: Path) -> None:
    """So many steps are several passes; each pair meets every one of them."""
    steps = [{"caption_words": {"as": f"step{i}", "least": i // 32}} for i in range(100)]
    assert [len(steps) for steps in plan(*steps).passes] == [64, 36]
    pool = write_csv(tmp_path / "pool.csv", [{"url": f"http://x/{i}", "text": "a " * i} for i in range(6)])
    assert kept_texts(run(recipe(pool, *steps), tmp_path / "run", workers=1)) == ["a a a ", "a a a a ", "a a a a a "]


def test_renamed_pool_columns() -> None:
    """A pool's column that a step writes too is seen as ``source_<name>``, in any case, and never lost."""
    types = {"url": pa.string(), "text": pa.string(), "Caption_Words": pa.int32(), "source_Caption_Words": pa.int32()}
    made = plan({"where": "source_source_caption_words > 1"}, "caption_words", types=types)
    assert made.pool_names == {
        "url": "url",
        "text": "text",
        "source_source_Caption_Words": "Caption_Words",
        "source_Caption_Words": "source_Caption_Words",
    }
    assert made.steps[0].keep_reads == ("source_source_Caption_Words",)


def test_renamed_in_a_run(tmp_path: Path) -> None:
    """The pool's own values are read under the new name, the step's under the old."""
    table = {"url": ["u", "v"], "text": ["a b c", "a b c"], "caption_words": [7, 9]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    steps = ["caption_words", {"where": "caption_words = 3 and source_caption_words = 9"}]
    recipe = {"pool": {"urls": tmp_path / "p.parquet"}, "filters": steps, "output": {"subset": "k.npy"}}
    found = run(recipe, tmp_path / "out", workers=1)
    assert found.kept == 1


def test_stored_names() -> None:
    """A column that begins with its filter's name is stored under the step's name."""
    step = plan({"caption_words": {"as": "length"}}).steps[0]
    assert step.writes["caption_words"] == ("length", pa.int32())
    twice = plan({"exact_duplicates": {"as": "a", "by": "url"}}, {"exact_duplicates": {"as": "b", "by": "url"}})
    assert [list(step.keys) for step in twice.steps] == [["a_url"], ["b_url"]]


def test_numbered_steps() -> None:
    """A filter that stores nothing may appear again without a name."""
    assert [step.id for step in plan(*[{"where": "true"}] * 3).steps] == ["where", "where_2", "where_3"]


def test_two_files_of_a_name(tmp_path: Path) -> None:
    """Two model files of the same name in different folders both count."""

    def fingerprint(*contents: str) -> str:
        for folder, content in zip("ab", contents, strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "model.bin").write_text(content)

        class Two(Filter):
            """Reads two files."""

            def files(self) -> tuple[str, ...]:
                return tuple(str(tmp_path / folder / "model.bin") for folder in "ab")

            def keep(self, pairs: pa.RecordBatch) -> pa.Array:
                return pa.nulls(pairs.num_rows)

        source = from_data({"pool": {"urls": "x"}, "filters": [{"where": "true"}]})
        recipe, _ = check(source)
        return make_plan(source, recipe, [Two()], TYPES).steps[0].fingerprint

    assert len({fingerprint("1", "2"), fingerprint("3", "2"), fingerprint("1", "3")}) == 3


def test_of_pool() -> None:
    """Steps of the whole pool may read the pool, the first step, and each other."""
    everything = {"of": "pool"}
    made = plan("caption_words", {"image_shape": everything}, {"where": {"expression": "short_side > 1", **everything}})
    assert [step.of_pool for step in made.steps] == [False, True, True]


ELSEWHERE = ("datacomp_", "metaclip_", "clip_", "llava_", "blip", "laion_coco", "capsfusion", "sieve", "tmars", "nano_")
"""Recipes that need files: ``test_datacomp``, ``test_metaclip``, ``test_clip_outputs``, ``test_capfilt_recipes`` and
``test_track_nano`` have them."""


@pytest.mark.parametrize("name", [name for name in sorted(shipped()) if not name.startswith(ELSEWHERE)])
def test_shipped_recipes(name: str, tmp_path: Path) -> None:
    """Every shipped recipe can be planned over a pool of its kind."""
    pq.write_table(pa.table({"url": ["u"], "text": ["t"], "image": pa.array([b"x"])}), tmp_path / "p.parquet")
    _, made, _ = load(name, [f"pool={{urls: {{path: {tmp_path / 'p.parquet'}}}}}"])
    assert made.passes


def test_a_filter_twice() -> None:
    """The second step's columns bear its name, where another step has them already."""
    made = plan("caption_words", {"caption_words": {"as": "again", "tokenizer": "fasttext"}})
    assert list(made.steps[0].stored) == ["caption_words", "caption_characters"]
    assert list(made.steps[1].stored) == ["again", "again_caption_characters"]
    assert made.steps[1].light == {"again": "caption_words", "again_caption_characters": "caption_characters"}


def test_a_pipe_among_a_filters_files_is_refused(tmp_path: Path) -> None:
    """Its digest would be waited for without end."""
    (tmp_path / "pictures").mkdir()
    os.mkfifo(tmp_path / "pictures" / "a.png")
    made = {"decontaminate": {"by": "hashes", "references": {"s": str(tmp_path / "pictures")}}}
    rows = [{"url": "http://e.org/1", "text": "a"}]
    with pytest.raises(RecipeError, match=r"a\.png: is no regular file; leave it out"):
        run(recipe(write_csv(tmp_path / "list.csv", rows), "download", made), tmp_path / "run", workers=1)
