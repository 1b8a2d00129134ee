"""Pairs that a step adds: accounted for, in the dataset, in every view, and the same whatever the workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pairsieve import run
from pairsieve.filters._text_lists import SCORES, TEXTS
from pairsieve.pipelines import accounting
from pairsieve.pipelines.dataset_spill import Spill
from pairsieve.pipelines.estimate import estimate
from pairsieve.pipelines.ingest import ingest
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.provenance import diff, why
from pairsieve.pipelines.run import load
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas import uid
from pairsieve.schemas.errors import AccountingError, RecipeError

ROWS = 30
CHOOSE = {"choose": {"texts": ["text", "caption"], "by": "match", "min": 0.5}}


def pool(folder: Path) -> dict[str, Any]:
    """Three shards of pairs with captions and scores; every fifth pair has none."""
    folder.mkdir(exist_ok=True)
    table = pa.table(
        {
            "uid": [f"{i:032x}" for i in range(ROWS)],
            "image": pa.array([bytes([i]) for i in range(ROWS)], pa.binary()),
            "text": [f"web {i}" for i in range(ROWS)],
            "width": pa.array(range(ROWS), pa.int32()),
            "match": pa.array([(i % 10) / 10 for i in range(ROWS)], pa.float32()),
            "caption": pa.array([None if i % 5 == 0 else [f"a {i}", f"b {i}"] for i in range(ROWS)], TEXTS),
            "match_caption": pa.array([None if i % 5 == 0 else [0.9, (i % 7) / 10] for i in range(ROWS)], SCORES),
        }
    )
    if not (folder / "pool.parquet").exists():
        pq.write_table(table, folder / "pool.parquet", row_group_size=10)
    columns = ["width", "match", "caption", "match_caption"]
    return {"pairs": {"path": str(folder / "pool.parquet"), "shard_rows": 10, "columns": columns}}


def curate(tmp_path: Path, *steps: Any, out: str = "run", **more: Any) -> Result:
    """Run over the pool."""
    recipe = {"pool": pool(tmp_path), "filters": list(steps), "output": {"dataset": {}, "subset": "s.npy"}}
    return run(recipe, tmp_path / out, engine="local", **more)


def wanted(least: float = 0.5) -> list[tuple[int, str, float | None]]:
    """(parent, text, score) of each pair that stays, the scores of added ones only."""
    found: list[tuple[int, str, float | None]] = []
    for i in range(ROWS):
        found += [(i, f"web {i}", None)] if i % 10 / 10 >= least else []
        if i % 5:
            found += [(i, f"a {i}", 0.9)] + ([(i, f"b {i}", i % 7 / 10)] if i % 7 / 10 >= least else [])
    return found


def stays(result: Result) -> list[tuple[int, str, float | None]]:
    """The same of a run's dataset."""
    table = pq.read_table(f"{result.root}/dataset")
    parents = pc.coalesce(table["parent"], table["uid"]).to_pylist()
    scores = [None if s is None else round(s, 4) for s in table["text_score"].to_pylist()]
    return sorted(zip([int(p, 16) for p in parents], table["text"].to_pylist(), scores, strict=True), key=str)


def test_the_dataset_holds_every_text_that_stays_with_its_image(tmp_path: Path) -> None:
    """The image and the columns about it are the parent's."""
    result = curate(tmp_path, CHOOSE)
    assert stays(result) == sorted(wanted(), key=str)
    table = pq.read_table(f"{result.root}/dataset")
    parents = [int(p, 16) for p in pc.coalesce(table["parent"], table["uid"]).to_pylist()]
    assert table["image"].to_pylist() == [bytes([p]) for p in parents]
    assert table["width"].to_pylist() == parents
    sources = ["text" if parent is None else "caption" for parent in table["parent"].to_pylist()]
    assert table["text_source"].to_pylist() == sources


def test_kept_and_dropped_are_the_pool_and_what_was_added(tmp_path: Path) -> None:
    """Each candidate has one verdict, in the tally, in the table and in the funnel."""
    result = curate(tmp_path, CHOOSE)
    added = 2 * ROWS * 4 // 5
    assert (result.rows, result.added, result.kept) == (ROWS, added, len(wanted()))
    assert sum(result.tally.dropped.values()) == ROWS + added - result.kept
    counts = result.query(
        "SELECT count(*), count(DISTINCT uid), count(*) - count(dropped_by) FROM verdicts"
    ).to_pylist()
    assert list(counts[0].values()) == [ROWS + added, ROWS + added, result.kept]
    assert result.funnel[-1] == ("choose", ROWS + added, ROWS + added - result.kept)


def test_a_verdict_too_few_is_noticed(tmp_path: Path) -> None:
    """The files are counted, not the tally believed."""
    result = curate(tmp_path, CHOOSE)
    store = Store(result.root)
    shards = load_shards(tmp_path, result)
    accounting.check(store, shards, result.tally, adds=True)
    table = store.table("added/00001.parquet")
    store.remove("added/00001.parquet")
    store.write_table("added/00001.parquet", table.slice(1))
    with pytest.raises(AccountingError, match="shard 00001 has 26 verdicts for 25 candidates"):
        accounting.check(store, shards, result.tally, adds=True)


def load_shards(tmp_path: Path, result: Result) -> list[PoolShard]:
    """The records of the pool's shards."""
    opened, _, _ = load({"pool": pool(tmp_path), "filters": [CHOOSE]})
    return ingest(opened, Store(result.root), lambda task, items: map(task, items))


def test_an_added_pair_has_a_uid_of_parent_and_text(tmp_path: Path) -> None:
    """The same in any run, none that the pool has, and in the subset."""
    result = curate(tmp_path, CHOOSE)
    found = result.query("SELECT * FROM added ORDER BY shard, row")
    assert found["uid"].combine_chunks() == uid.of_added(
        found["parent"].combine_chunks(), found["text"].combine_chunks()
    )
    assert found["row"].to_pylist()[:3] == [10, 11, 12]
    kept = result.query("SELECT uid FROM verdicts WHERE dropped_by IS NULL ORDER BY uid")["uid"].combine_chunks()
    assert np.load(f"{result.root}/s.npy").tolist() == uid.to_numbers(kept).tolist()


def test_workers_and_a_second_run_give_the_same_bytes(tmp_path: Path) -> None:
    """Another threshold and back again, too."""
    one = curate(tmp_path, CHOOSE, out="one", workers=1)
    two = curate(tmp_path, CHOOSE, out="two", workers=2)
    other = {"choose": {**CHOOSE["choose"], "min": 0.2}}
    changed = curate(tmp_path, other, out="two")
    assert stays(changed) == sorted(wanted(0.2), key=str)
    two = curate(tmp_path, CHOOSE, out="two")
    for folder in ("added", "verdicts", "dataset", "derived/choose"):
        for file in sorted(Path(one.root, folder).iterdir()):
            assert file.read_bytes() == Path(two.root, folder, file.name).read_bytes(), file


def test_a_recipe_without_the_step_leaves_nothing_of_it(tmp_path: Path) -> None:
    """Neither files nor a view."""
    curate(tmp_path, CHOOSE)
    result = curate(tmp_path, {"where": "width > 3"})
    assert not Path(result.root, "added").exists() or not list(Path(result.root, "added").iterdir())
    assert result.query("SELECT count(*) AS n FROM duckdb_views() WHERE view_name = 'added'")["n"].to_pylist() == [0]
    assert "parent" not in pq.read_table(f"{result.root}/dataset").schema.names


def test_the_view_of_all_scores_has_a_row_for_every_candidate(tmp_path: Path) -> None:
    """What was measured of the web text is none of a caption's."""
    result = curate(tmp_path, {"caption_words": {"least": 1}}, CHOOSE)
    found = result.query("SELECT * FROM scores ORDER BY shard, row")
    assert len(found) == result.rows + result.added
    own = pc.is_null(found["parent"])
    assert pc.all(pc.equal(pc.is_valid(found["caption_words"]), own)).as_py()
    assert pc.all(pc.is_valid(found["width"])).as_py()
    assert "choose_added" not in found.schema.names


def test_only_survivors_get_company(tmp_path: Path) -> None:
    """A pair that an earlier step dropped adds nothing."""
    result = curate(tmp_path, {"where": "width >= 20"}, CHOOSE)
    assert {parent for parent, *_ in stays(result)} <= set(range(20, 30))
    assert result.added == 2 * 8


def test_parents_are_those_beside_the_image(tmp_path: Path) -> None:
    """Also where as many pairs are added as the shard has rows between their parents."""
    table = {"uid": [f"{i:032x}" for i in range(3)], "caption": pa.array([["a", "b"], [], ["c"]], TEXTS)}
    pq.write_table(pa.table({**table, "image": [b"x"] * 3, "text": ["x"] * 3}), tmp_path / "p.parquet")
    spec = {"path": str(tmp_path / "p.parquet"), "columns": ["caption"]}
    result = run({"pool": {"pairs": spec}, "filters": [{"choose": {"texts": ["caption"]}}]}, tmp_path / "run")
    found = result.query("SELECT parent, parent_row, text FROM added ORDER BY row").to_pylist()
    assert [(int(r["parent"], 16), r["parent_row"], r["text"]) for r in found] == [
        (0, 0, "a"),
        (0, 0, "b"),
        (2, 2, "c"),
    ]


def test_many_texts_of_large_images_need_not_fit_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted runs are cut by their bytes, within the texts of one shard too; the dataset is the same."""
    whole = curate(tmp_path, CHOOSE, out="whole", workers=1)
    monkeypatch.setattr("pairsieve.pipelines.dataset_spill.RUN_BYTES", 3)
    sizes: list[int] = []
    real = Spill._batch

    def batch(self: Spill, shard: Any, start: int, rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        return real(self, shard, start, rows, *rest)

    monkeypatch.setattr(Spill, "_batch", batch)
    parts = curate(tmp_path, CHOOSE, out="parts", workers=1)
    assert max(sizes) == 3 and sum(sizes) == len(wanted())
    assert pq.read_table(f"{parts.root}/dataset") == pq.read_table(f"{whole.root}/dataset")


def test_what_is_about_the_web_text_is_none_of_a_captions(tmp_path: Path) -> None:
    """Its scores in the pool, its own verdict, and lists to draw from of an earlier step."""
    both = {"choose": {**CHOOSE["choose"], "as": "drawn", "into": "list"}}
    result = curate(tmp_path, both, {"choose": {"texts": ["caption"], "by": "match"}})
    table = pq.read_table(f"{result.root}/dataset")
    assert table.num_rows and not pc.any(pc.is_valid(table["texts"])).as_py()
    assert "choose_reason" not in table.schema.names and "drawn_reason" not in table.schema.names
    own = curate(tmp_path, CHOOSE, out="own")
    table = pq.read_table(f"{own.root}/dataset")
    assert table["match"].is_null() == table["parent"].is_valid()


def test_invalid_text_within_a_list_is_replaced(tmp_path: Path) -> None:
    """As in a plain column, and the run goes on."""
    texts = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), pa.array([b"a\xff", b"b"]).view(pa.string()))
    pq.write_table(pa.table({"image": [b"x"], "text": ["x"], "caption": texts}), tmp_path / "p.parquet")
    spec = {"path": str(tmp_path / "p.parquet"), "columns": ["caption"]}
    result = run({"pool": {"pairs": spec}, "filters": [{"choose": {"texts": ["caption"]}}]}, tmp_path / "run")
    assert sorted(result.query("SELECT text FROM added")["text"].to_pylist()) == ["a\ufffd", "b"]


@pytest.mark.parametrize("name", ["Parent", "text_score"])
def test_a_column_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    """Of the pool or of a step, before anything runs."""
    pool(tmp_path)
    with pytest.raises(RecipeError, match=f"there is '{name}' already"):
        run(with_column(tmp_path, name), tmp_path / "run")


def with_column(folder: Path, name: str) -> dict[str, Any]:
    """The pool with one more column."""
    table = pq.read_table(folder / "pool.parquet")
    pq.write_table(table.append_column(name, table["width"]), folder / "more.parquet")
    spec = {"path": str(folder / "more.parquet"), "columns": ["match", "caption", "match_caption", name]}
    return {"pool": {"pairs": spec}, "filters": [CHOOSE]}


def test_texts_reach_a_dataset_of_few_columns(tmp_path: Path) -> None:
    """They are what training is for; a column of added pairs may be named as well."""
    recipe = {"pool": pool(tmp_path), "filters": [{"choose": {**CHOOSE["choose"], "into": "list"}}]}
    result = run({**recipe, "output": {"dataset": {"columns": ["width"]}}}, tmp_path / "list")
    assert pq.read_table(f"{result.root}/dataset").schema.names == ["uid", "image", "text", "width", "texts"]
    recipe = {"pool": pool(tmp_path), "filters": [CHOOSE], "output": {"dataset": {"columns": ["parent"]}}}
    names = pq.read_table(f"{run(recipe, tmp_path / 'pairs').root}/dataset").schema.names
    assert names == ["uid", "image", "text", "parent", "text_source", "text_score"]


def test_why_tells_the_story_of_an_added_pair(tmp_path: Path) -> None:
    """Its parent's, up to the step that added it."""
    result = curate(tmp_path, {"where": "width >= 0"}, CHOOSE)
    row = result.query("SELECT * FROM added WHERE text = 'b 1'").to_pylist()[0]
    story = why(result.root, row["uid"])[0]
    assert (story.dropped_by, story.reason) == ("choose", "below_min")
    assert story.pair["parent"] == f"{1:032x}" and story.pair["text"] == "b 1" and story.pair["width"] == 1
    assert [chapter.outcome for chapter in story.chapters] == ["stays", "dropped: below_min"]
    assert why(result.root, f"{1:032x}")[0].reason == "below_min"


def test_diff_counts_added_pairs(tmp_path: Path) -> None:
    """By their uids."""
    one = curate(tmp_path, CHOOSE, out="one")
    two = curate(tmp_path, {"choose": {**CHOOSE["choose"], "min": 0.2}}, out="two")
    found = diff(one.root, two.root)
    assert (found.one, found.other) == (len(wanted()), len(wanted(0.2)))
    assert found.only_other == {("choose", "below_min"): len(wanted(0.2)) - len(wanted())}


def test_a_list_of_texts_goes_into_the_dataset(tmp_path: Path) -> None:
    """No pair is added; training draws one of the texts by its weight."""
    choose = {**CHOOSE["choose"], "into": "list", "weights": {"text": 0.8, "caption": 0.2}}
    result = curate(tmp_path, {"choose": choose})
    table = pq.read_table(f"{result.root}/dataset")
    found = {int(u, 16): texts for u, texts in zip(table["uid"].to_pylist(), table["texts"].to_pylist(), strict=True)}
    expected: dict[int, list[str]] = {}
    for parent, text, _ in wanted():
        expected.setdefault(parent, []).append(text)
    assert {parent: [t["text"] for t in texts] for parent, texts in found.items()} == expected
    assert result.added == 0 and "parent" not in table.schema.names


def test_other_weights_make_another_dataset(tmp_path: Path) -> None:
    """The same pairs stay, and yet it is written again."""
    choose = {**CHOOSE["choose"], "into": "list"}
    curate(tmp_path, {"choose": choose})
    result = curate(tmp_path, {"choose": {**choose, "weights": {"text": 0.5, "caption": 0.5}}})
    weights = {t["weight"] for texts in pq.read_table(f"{result.root}/dataset")["texts"].to_pylist() for t in texts}
    assert weights == {1.0, 0.5, 0.25}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([CHOOSE, {"where": "width > 1"}], "choose adds pairs, so it must be the last step"),
        ([{"choose": {**CHOOSE["choose"], "of": "pool"}}], "survivors only"),
        ([{"choose": {**CHOOSE["choose"], "texts": ["text", "captions"]}}], "did you mean 'caption'"),
    ],
)
def test_recipes_that_cannot_work_are_refused(tmp_path: Path, steps: list[Any], message: str) -> None:
    """At the line of the step."""
    with pytest.raises(RecipeError, match=message):
        curate(tmp_path, *steps)


def test_no_pairs_at_all_are_added_to_an_empty_scope(tmp_path: Path) -> None:
    """And the run ends well."""
    result = curate(tmp_path, {"where": "width > 1000"}, CHOOSE)
    assert (result.kept, result.added) == (0, 0)
    assert result.query("SELECT count(*) AS n FROM added")["n"].to_pylist() == [0]


def test_plan_counts_added_pairs_exactly_where_all_is_measured(tmp_path: Path) -> None:
    """Of the run as it is, and of another threshold."""
    curate(tmp_path, CHOOSE)
    for least, verb in ((0.5, "kept as it is"), (0.2, "rewritten")):
        recipe = {"pool": pool(tmp_path), "filters": [{"choose": {**CHOOSE["choose"], "min": least}}]}
        recipe["output"] = {"dataset": {}, "subset": "s.npy"}
        opened, plan, _ = load(recipe)
        report = estimate(opened, plan, out=str(tmp_path / "run"), sample_rows=0, progress=Silent())
        assert report.kept is not None and report.reuse is not None
        assert (report.kept.value, report.kept.kind) == (len(wanted(least)), "exact")
        assert report.reuse.dataset.startswith(verb)


def test_plan_estimates_added_pairs_from_a_sample(tmp_path: Path) -> None:
    """More pairs may stay than the pool has."""
    opened, plan, _ = load({"pool": pool(tmp_path), "filters": [{"choose": {**CHOOSE["choose"], "min": 0.0}}]})
    report = estimate(opened, plan, progress=Silent())
    assert report.kept is not None and report.kept.value == len(wanted(0.0)) > ROWS
