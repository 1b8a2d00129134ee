"""Edited recipes on one run directory: everything decided equals a fresh run, and only what is new is measured."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import ShardError
from tests.support import numbered_rows, write_csv
from tests.support_chaos import outputs, scores
from tests.support_filters import Counted as Filtering
from tests.support_oracle import (
    FORMS,
    PREFER,
    Counted,
    Duplicates,
    Outcome,
    Place,
    Row,
    Step,
    Top,
    Where,
    Words,
    connected,
    judge,
)

MORE = int(os.environ.get("PAIRSIEVE_EXAMPLES", "1"))
"""How many times as many examples: for a longer search than the suite has time for."""
FIRST = Row("http://e.org/first", "a b", 0.5)
"""Says that scores are floats and texts are texts, whatever the other rows hold."""

URLS = st.sampled_from([*["http://e.org/1", "http://e.org/2", "http://e.org/3"] * 8, "", "  ", None])
TEXTS = st.sampled_from([*["a b", "a  b", "a b c", "d e f g h"] * 4, "a", " c ", "", " ", None])
SCORES = st.sampled_from([*[0.0, 0.25, 0.5, 0.75, 1.0] * 3, -1.0, None])
ROWS = st.builds(Row, URLS, TEXTS, SCORES, st.sampled_from([*[False] * 20, True]))
BYS = st.sampled_from([None, (("text",),), (("url",),), (("text",), ("url",)), (("url", "text"),)])
THRESHOLDS = st.sampled_from([0, 0, 1, 1, 2, 3, 4])
TOPS = st.sampled_from([None, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
LEASTS = st.sampled_from([None, None, None, 0.0, 0.25, 0.5])
KS = st.sampled_from([-1.0, 0.0, 0.25, 0.5])
"""Most pairs pass most steps, so that later steps have something to do."""


@dataclass(frozen=True)
class Recipe:
    """A recipe with its pool."""

    rows: tuple[Row, ...]
    shard_rows: int
    steps: tuple[Step, ...]
    seed: int = 0
    output: Mapping[str, Any] = field(default_factory=dict)

    def data(self, folder: Path) -> dict[str, Any]:
        """As data; the pool's list is written where it differs."""
        lines = ["no record" if row.bad else json.dumps(_fields(row)) for row in self.rows]
        content, file = "".join(f"{line}\n" for line in lines), folder / "list.jsonl"
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
        pool = {"urls": {"path": str(file), "shard_rows": self.shard_rows}}
        filters = [step.spec(str(folder / "log")) for step in self.steps]
        return {"pool": pool, "filters": filters, "seed": self.seed, "output": dict(self.output)}

    def judged(self) -> Outcome:
        """What it must come to."""
        return judge(self.rows, self.shard_rows, self.steps)


def _fields(row: Row) -> dict[str, Any]:
    return {"url": row.url, "text": row.text, "score": row.score}


@st.composite
def steps(draw: st.DrawFn, key: int, before: tuple[int, ...]) -> Step:
    """Any step; it may read one of ``before``."""
    name, of_pool, other = f"s{key}", draw(st.booleans()), draw(st.sampled_from([None, *before]))
    kind = draw(st.sampled_from([Words, Counted, Where, Duplicates, Duplicates, Top, Top]))
    if kind is Words:
        return Words(key, name, of_pool, draw(THRESHOLDS), draw(st.sampled_from([4, 64])))
    if kind is Counted:
        return Counted(key, name, of_pool, draw(st.integers(1, 2)), other, None, draw(THRESHOLDS))
    if kind is Where:
        return Where(key, name, False, draw(st.sampled_from(sorted(FORMS))), draw(KS), other)
    if kind is Duplicates:
        return Duplicates(key, name, of_pool, draw(BYS), draw(st.sampled_from(list(PREFER))))
    return Top(key, name, of_pool, draw(TOPS), draw(LEASTS))


OUTPUTS = st.fixed_dictionaries(
    {
        "subset": st.sampled_from(["subset.npy", "other.npy", None]),
        "dataset": st.sampled_from([None, {}, {"rows_per_file": 2}, {"rows_per_file": 3, "columns": ["score"]}]),
    }
)


def measuring(found: Sequence[Step]) -> tuple[int, ...]:
    """Keys of the steps whose column another may read."""
    return tuple(step.key for step in found if isinstance(step, Words | Counted))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """2 to 5 steps, one of which counts what it measures, over 5 to 18 rows in shards of 3 to 6."""
    rows = (FIRST, *draw(st.lists(ROWS, min_size=4, max_size=17)))
    count = draw(st.integers(2, 5))
    counting = draw(st.integers(0, count - 1))
    found: list[Step] = []
    for key in range(count):
        step = draw(steps(key, measuring(found)))
        found.append(Counted(key, f"s{key}", step.of_pool, 1) if key == counting else step)
    return Recipe(rows, draw(st.integers(3, 6)), connected(found), draw(st.integers(0, 1)), draw(OUTPUTS))


def new_settings(draw: st.DrawFn, step: Step, scoring: bool) -> Step:
    """The step with other settings: those that only decide, or those that measure where it has such."""
    if isinstance(step, Counted) and scoring:
        return replace(step, unit=3 - step.unit)
    if isinstance(step, Duplicates) and scoring:
        return replace(step, by=draw(BYS))
    if isinstance(step, Words | Counted):
        return replace(step, least=draw(THRESHOLDS))
    if isinstance(step, Where):
        return replace(step, form=draw(st.sampled_from(sorted(FORMS))), k=draw(KS))
    if isinstance(step, Duplicates):
        return replace(step, prefer=draw(st.sampled_from(list(PREFER))))
    assert isinstance(step, Top)
    return replace(step, top=draw(TOPS), least=draw(LEASTS))


def edited_steps(draw: st.DrawFn, found: tuple[Step, ...], how: str) -> tuple[Step, ...]:
    """The steps after one edit."""
    at = draw(st.integers(0, max(0, len(found) - 1)))
    if how == "add" or not found:
        key = 1 + max((step.key for step in found), default=-1)
        place = draw(st.sampled_from([len(found), at]))
        return (*found[:place], draw(steps(key, measuring(found[:place]))), *found[place:])
    if how == "remove":
        return (*found[:at], *found[at + 1 :])
    if how == "reorder":
        return tuple(draw(st.permutations(found)))
    other = (
        replace(found[at], name=f"{found[at].name}x")
        if how == "rename"
        else replace(found[at], of_pool=not found[at].of_pool and not isinstance(found[at], Where))
        if how == "scope"
        else new_settings(draw, found[at], how == "scoring")
    )
    return (*found[:at], other, *found[at + 1 :])


def edited_rows(draw: st.DrawFn, rows: tuple[Row, ...], how: str) -> tuple[Row, ...]:
    """The pool after one edit; the first row stays."""
    if how == "append":
        return (*rows, *draw(st.lists(ROWS, min_size=1, max_size=4)))
    at = draw(st.integers(1, max(1, len(rows) - 1)))
    new = () if how == "delete" else (draw(ROWS),)
    return (*rows[:at], *new, *rows[at + 1 :])


CHANGES = (
    *["threshold"] * 4,
    *["scoring", "output", "seed", "change"] * 2,
    *["add", "remove", "reorder", "rename", "scope", "append", "delete"],
)


@st.composite
def edits(draw: st.DrawFn, recipe: Recipe) -> Recipe:
    """The recipe after one to three changes, of itself or of its pool."""
    for how in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        note(how)
        recipe = changed(draw, recipe, how)
    return recipe


def changed(draw: st.DrawFn, recipe: Recipe, how: str) -> Recipe:
    """The recipe after one change."""
    if how in ("append", "delete", "change"):
        return replace(recipe, rows=edited_rows(draw, recipe.rows, how))
    if how == "seed":
        return replace(recipe, seed=1 - recipe.seed)
    if how == "output":
        return replace(recipe, output=draw(OUTPUTS))
    return replace(recipe, steps=connected(edited_steps(draw, recipe.steps, how)))


Measured: TypeAlias = tuple[Any, int, tuple[Row, ...], int]
"""A measurement: the settings that it depends on, its shard, the shard's pairs, its row."""


class Memory:
    """Which measurements a run directory holds, by the documented rules.

    ``ever`` is all that was measured with whatever it depends on; ``sure`` is what the last run held, by
    step and with the names of the columns that it depends on.  Between the two pairsieve is free: scores of
    a renamed or removed step, or of settings that come back, may be used again or not.
    """

    def __init__(self) -> None:
        """Nothing is measured."""
        self.ever: set[Measured] = set()
        self.sure: dict[str, set[Measured]] = {}

    def expect(
        self, recipe: Recipe, outcome: Outcome, lost: Set[int], given_up: bool = False
    ) -> dict[int, tuple["Counter[str]", "Counter[str]"]]:
        """For each counting step the uids that must be measured now, and those that may be.

        What was under way in the shards that a failed run ``lost`` may be measured twice.  A run that was
        ``given_up`` may have measured anything of its own, and kept what it had.
        """
        by_key = {step.key: step for step in recipe.steps}
        found, sure = {}, {}
        for step in recipe.steps:
            if not isinstance(step, Counted):
                continue
            reached = outcome.measured[step.key]
            loose = {place: _measured(recipe, _settings(step, by_key, False), place) for place in reached}
            strict = {place: _measured(recipe, _settings(step, by_key, True), place) for place in reached}
            held = self.sure.get(step.name, set())
            must = [place for place in reached if loose[place] not in self.ever]
            may = [place for place in reached if strict[place] not in held]
            twice = [place for place in may if place[0] in lost]
            found[step.key] = _uids(outcome, must), _uids(outcome, may + twice)
            self.ever |= set(loose.values())
            now = {_measured(recipe, _settings(step, by_key, True), place) for place in outcome.given}
            sure[step.name] = (held & now) | (set() if given_up else set(strict.values()))
        self.sure = sure
        return found


def _settings(step: Counted, by_key: Mapping[int, Step], named: bool) -> tuple[Any, ...]:
    """What a value depends on; with names, as a score file is known."""
    other = None if step.adds is None else by_key[step.adds]
    if other is None:
        return (step.unit,)
    inner = _settings(other, by_key, named) if isinstance(other, Counted) else ("words",)
    return (step.unit, inner, other.name if named else "")


def _measured(recipe: Recipe, depends: Any, place: Place) -> Measured:
    shard, row = place
    start = shard * recipe.shard_rows
    return depends, shard, recipe.rows[start : start + recipe.shard_rows], row


def _uids(outcome: Outcome, found: list[Place]) -> "Counter[str]":
    return Counter(outcome.rows[place].uid for place in found)


class Log:
    """What the counting steps wrote down since it was last read."""

    def __init__(self, file: Path) -> None:
        """Nothing is read."""
        self.file, self.read = file, 0

    def new(self) -> dict[int, "Counter[str]"]:
        """uids by the key of the step."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found: dict[int, Counter[str]] = {}
        for line in lines[self.read :]:
            key, uid = line.split()
            found.setdefault(int(key), Counter())[uid] += 1
        self.read = len(lines)
        return found


def break_off(recipe: Recipe, wanted: Outcome, at: Place | None, made: Mapping[str, Any], folder: Path) -> set[int]:
    """A run that fails at a pair, where a place is given and a step measures it; gives the shards that it loses."""
    if at is None:
        return set()
    uid, breaks = wanted.rows[at].uid, folder / "log.breaks"
    breaks.write_text(uid)
    with suppress(ShardError):
        run(made, folder / "run", workers=1)
    breaks.unlink()
    return {shard for (shard, _), row in wanted.rows.items() if row.uid == uid}


def check_measured(expected: Mapping[int, tuple["Counter[str]", "Counter[str]"]], new: Mapping[int, Any]) -> None:
    """All that had to be measured was, and nothing without need."""
    assert new.keys() <= expected.keys()
    for key, (must, may) in expected.items():
        found = new.get(key, Counter())
        assert must <= found, f"step {key}: not measured: {must - found}"
        assert found <= may, f"step {key}: measured without need: {found - may}"


def verdicts_of(folder: Path) -> Iterator[tuple[Place, tuple[str, str] | None]]:
    """Verdicts as they lie on disk."""
    for file in sorted((folder / "verdicts").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            verdict = None if row["dropped_by"] is None else (row["dropped_by"], row["reason"])
            yield (row["shard"], row["row"]), verdict


def values_of(folder: Path, step: str) -> dict[Place, Any]:
    """A step's values as they lie on disk, all parts; no place may stand there twice."""
    found: dict[Place, Any] = {}
    for file in sorted((folder / "scores" / step).glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            place = (row["shard"], row["row"])
            assert place not in found, f"{step}: {place} is measured twice"
            found[place] = row[step]
    return found


def check_outcome(recipe: Recipe, wanted: Outcome, result: Result, folder: Path) -> None:
    """Verdicts, tally, subset and stored values are those of the oracle."""
    assert dict(verdicts_of(folder)) == wanted.verdicts
    assert dict(result.tally.dropped) == Counter(v for v in wanted.verdicts.values() if v is not None)
    assert (result.rows, result.kept) == (len(wanted.rows), len(wanted.alive))
    if recipe.output["subset"]:
        kept = [f"{int(high):016x}{int(low):016x}" for high, low in np.load(folder / recipe.output["subset"])]
        assert kept == sorted(wanted.rows[place].uid for place in wanted.alive)
    for step in recipe.steps:
        if isinstance(step, Words | Counted):
            stored = values_of(folder, step.name)
            for place, value in wanted.values[step.key].items():
                assert stored[place] == value, f"{step.name} at {place}"


def decided(folder: Path) -> dict[str, str]:
    """Digests of everything in a run but scores, whose parts tell of the edits."""
    return {name: digest for name, digest in outputs(folder).items() if not name.startswith("scores/")}


def few(examples: int) -> settings:
    """Settings of a property whose examples take seconds: one that fails is shown as it was found, not shrunk."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    found = [Phase.explicit, Phase.reuse, Phase.generate]
    return settings(max_examples=examples * MORE, deadline=None, suppress_health_check=slow, phases=found)


@few(8)
@given(data=st.data())
def test_edited_recipe_equals_a_fresh_run_and_measures_what_is_new(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """After each of up to three edits the outcome is the oracle's, and after the last a fresh run's, byte by byte.

    Some runs fail at a pair first, and are started again or given up for the next edit.
    """
    folder = tmp_path_factory.mktemp("edited")
    memory, log = Memory(), Log(folder / "log")
    recipe = data.draw(recipes())
    last = data.draw(st.integers(1, 3))
    for number in range(last + 1):
        recipe = data.draw(edits(recipe)) if number else recipe
        made, wanted = recipe.data(folder), recipe.judged()
        lost = break_off(recipe, wanted, data.draw(st.sampled_from([None, None, *wanted.given])), made, folder)
        if lost and number < last and data.draw(st.booleans()):
            note("given up")
            memory.expect(recipe, wanted, lost, given_up=True)
            log.new()
            continue
        result = run(made, folder / "run", workers=1)
        check_measured(memory.expect(recipe, wanted, lost), log.new())
        check_outcome(recipe, wanted, result, folder / "run")
    fresh = run(made, folder / "fresh", workers=1)
    assert decided(folder / "run") == decided(folder / "fresh")
    assert result.tally == fresh.tally


@few(10)
@given(recipe=recipes())
def test_unchanged_recipe_measures_nothing(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    """A second run of a recipe measures no pair and touches no score file."""
    folder = tmp_path_factory.mktemp("same")
    log, made = Log(folder / "log"), recipe.data(folder)
    first = run(made, folder / "run", workers=1)
    log.new()
    before, digests = scores(folder / "run"), outputs(folder / "run")
    again = run(made, folder / "run", workers=1)
    assert not log.new()
    assert scores(folder / "run") == before
    assert outputs(folder / "run") == digests
    assert again.tally == first.tally


COUNTED = "tests.support_filters:Counted"


@dataclass
class Five:
    """A pool of five shards of four pairs, and a recipe of three counting steps of which ``b`` reads ``a``."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=lambda: numbered_rows(20))

    def __post_init__(self) -> None:
        """Write the pool and the model."""
        self.model, self.log = self.folder / "model", Log(self.folder / "log")
        self.model.write_text("1")
        write_csv(self.folder / "list.csv", self.rows)

    def run(self, **of_a: Any) -> Result:
        """Run the recipe; ``of_a`` are settings of the first step."""
        common = {"log": str(self.log.file)}
        named = {"a": {"model": str(self.model), **of_a}, "b": {"adds": "a"}, "c": {}}
        tags = {name: str(i) for i, name in enumerate(named)}
        steps = [{COUNTED: {"as": n, "tag": tags[n], **common, **own}} for n, own in named.items()]
        pool = {"urls": {"path": str(self.folder / "list.csv"), "shard_rows": 4}}
        return run({"pool": pool, "filters": steps}, self.folder / "run", workers=1)

    def measured(self, result: Result) -> dict[str, list[int]]:
        """Since it was last asked: the shards that each step measured, whole and once."""
        pairs = result.query("SELECT uid, shard FROM pairs").to_pylist()
        shards = {pair["uid"]: pair["shard"] for pair in pairs}
        found = {}
        for key, uids in self.log.new().items():
            counts = Counter(shards[uid] for uid in uids.elements())
            assert set(counts.values()) == {4}
            found["abc"[key]] = sorted(counts)
        return found


ALL = [0, 1, 2, 3, 4]


@pytest.fixture
def five(tmp_path: Path) -> Five:
    """Five shards, once run."""
    made = Five(tmp_path)
    assert made.measured(made.run()) == {"a": ALL, "b": ALL, "c": ALL}
    return made


def test_model_file_with_other_content_is_measured_by_anew(five: Five) -> None:
    """The step whose model changed measures again, and what reads its column; nothing else."""
    five.model.write_text("2")
    result = five.run()
    assert five.measured(result) == {"a": ALL, "b": ALL}
    table = result.query("SELECT DISTINCT a - c AS model, b - a - c AS rest FROM scores")
    assert table.to_pylist() == [{"model": 2, "rest": 0}]


def test_model_file_touched_or_moved_costs_nothing(five: Five) -> None:
    """A model's content counts, not the time of its file."""
    os.utime(five.model, (1, 1))
    assert five.measured(five.run()) == {}


def test_raised_version_measures_anew(five: Five, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that says it measures another value does so in every step; another filter's scores stay."""
    words: dict[str, Any] = {"caption_words": {"least": 0}}
    counted = {COUNTED: {"log": str(five.log.file), "tag": "0"}}
    pool = {"urls": {"path": str(five.folder / "list.csv"), "shard_rows": 4}}
    made = {"pool": pool, "filters": [words, counted]}
    run(made, five.folder / "other", workers=1)
    five.log.new()
    before = scores(five.folder / "other")
    monkeypatch.setattr(Filtering, "version", 2)
    result = run(made, five.folder / "other", workers=1)
    assert five.measured(result) == {"a": ALL}
    after = scores(five.folder / "other")
    assert {name.split("/")[1] for name in before if before[name] != after[name]} == {"Counted"}


def test_scoring_setting_measures_the_step_and_its_readers(five: Five) -> None:
    """Another scoring setting of a step makes what reads its column stale too."""
    assert five.measured(five.run(unit=3)) == {"a": ALL, "b": ALL}


def test_threshold_measures_nothing(five: Five) -> None:
    """A threshold that drops pairs, and one that lets them through again, cost nothing."""
    assert five.measured(five.run(least=25)) == {}
    assert five.measured(five.run(least=0)) == {}


def test_touched_list_measures_nothing(five: Five) -> None:
    """A list of the same content is the same pool, whatever its time."""
    os.utime(five.folder / "list.csv", (1, 1))
    assert five.measured(five.run()) == {}


def test_one_changed_row_measures_its_shard(five: Five) -> None:
    """One other caption in the third of five shards: every step measures that shard, and no other."""
    five.rows[9]["text"] = "another caption"
    write_csv(five.folder / "list.csv", five.rows)
    assert five.measured(five.run()) == {"a": [2], "b": [2], "c": [2]}


def test_touched_image_file_measures_its_shards(tmp_path: Path) -> None:
    """Images lie in the pool's files, known by path, size and time: one that is written anew is measured again."""
    for part in range(3):
        rows = numbered_rows(12)[4 * part : 4 * part + 4]
        table = {"image": [b"x"] * 4, "text": [row["text"] for row in rows], "url": [row["url"] for row in rows]}
        (tmp_path / "pool").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / "pool" / f"{part}.parquet")
    log = Log(tmp_path / "log")
    step = {COUNTED: {"log": str(log.file), "tag": "0"}}
    made = {"pool": {"pairs": {"path": str(tmp_path / "pool")}}, "filters": [step]}
    run(made, tmp_path / "run", workers=1)
    assert log.new()[0].total() == 12
    os.utime(tmp_path / "pool" / "1.parquet", (1, 1))
    result = run(made, tmp_path / "run", workers=1)
    shards = result.query("SELECT uid, shard FROM pairs").to_pylist()
    again = log.new()[0]
    assert {pair["shard"] for pair in shards if pair["uid"] in again} == {1}
    assert again.total() == 4


def test_derived_files_of_a_step_that_is_gone_go(tmp_path: Path) -> None:
    """What an earlier recipe's duplicates left is not there after a run without that step."""
    rows = numbered_rows(6)
    pool = {"urls": {"path": str(write_csv(tmp_path / "list.csv", [*rows, *rows]))}}
    run({"pool": pool, "filters": [{"exact_duplicates": {"as": "one"}}]}, tmp_path / "run", workers=1)
    assert (tmp_path / "run" / "derived" / "one").exists()
    run({"pool": pool, "filters": ["exact_duplicates"]}, tmp_path / "run", workers=1)
    assert {p.name for p in (tmp_path / "run" / "derived").iterdir()} == {"exact_duplicates"}


def test_subset_of_an_earlier_recipe_goes_after_a_failed_run(five: Five) -> None:
    """A run that failed with the edited recipe does not make the earlier recipe's subset stay for ever."""
    pool = {"urls": {"path": str(five.folder / "list.csv"), "shard_rows": 4}}
    broken = {"log": str(five.log.file), "tag": "0", "breaks": str(five.folder / "breaks")}
    assert (five.folder / "run" / "subset.npy").exists()
    uid = five.run().query("SELECT uid FROM pairs LIMIT 1")["uid"][0].as_py()
    (five.folder / "breaks").write_text(uid)
    made = {"pool": pool, "filters": [{COUNTED: broken}], "output": {"subset": "other.npy"}}
    with pytest.raises(ShardError, match="this pair is too much"):
        run(made, five.folder / "run", workers=1)
    (five.folder / "breaks").unlink()
    run(made, five.folder / "run", workers=1)
    assert [p.name for p in (five.folder / "run").glob("*.npy")] == ["other.npy"]


def test_another_use_of_a_filter_above_a_named_step(tmp_path: Path) -> None:
    """Names of columns depend on the steps above: what is stored under other names is measured again, either way."""
    pool = write_csv(tmp_path / "list.csv", numbered_rows(120))
    named = {"caption_words": {"as": "b", "least": 3}}
    one = {"pool": {"urls": str(pool)}, "filters": [named]}
    two = {"pool": {"urls": str(pool)}, "filters": [{"caption_words": {"as": "a", "least": 1}}, named]}
    for made in (one, two, one):
        edited = run(made, tmp_path / "run", workers=1)
        fresh = run(made, tmp_path / f"fresh-{len(made['filters'])}", workers=1)
        assert edited.tally == fresh.tally
        sql = "SELECT * FROM scores ORDER BY shard, row"
        assert edited.query(sql).equals(fresh.query(sql))
