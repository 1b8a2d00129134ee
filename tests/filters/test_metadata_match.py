"""metadata_match: settings, columns, languages, several captions, and a real run in several processes."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.filters import _match
from pairsieve.filters.base import deciding_settings, scoring_settings
from pairsieve.filters.metadata_match import MetadataMatch
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import UserError
from tests.support import digests, kept_texts, recipe, write_csv
from tests.support_match import linear_scan, write_entries

ENTRIES = {"en": ["dog", "a dog", "cat"], "zh": ["狗", "猫"], "other": ["x", "dog"]}
FLAT = [entry for entries in ENTRIES.values() for entry in entries]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def metadata(tmp_path: Path) -> str:
    """Entries of three languages."""
    return write_entries(tmp_path / "metadata.json", ENTRIES)


def scored(made: MetadataMatch, columns: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[str | None]]:
    """What the filter writes for these columns, and its verdicts."""
    batch = pa.record_batch(dict(columns))
    available = {field.name: field.type for field in batch.schema}
    made.check(available)
    made.open()
    found = made.score(batch)
    assert {name: column.type for name, column in found.items()} == made.outputs(available)
    for column in found.values():
        column.validate(full=True)
    light = {name: column for name, column in found.items() if not name.startswith("matched")}
    reasons: list[str | None] = made.keep(pa.record_batch(light)).to_pylist()
    return {name: column.to_pylist() for name, column in found.items()}, reasons


def test_ids_and_reasons(metadata: str) -> None:
    """Ids are places in the file through all languages; a pair without one goes, and one without a caption."""
    found, reasons = scored(MetadataMatch(metadata=metadata), {"text": ["a dog", "狗", "白狗", "", None]})
    assert found == {"matched_entries": [[0, 1, 6], [3], [], [], None], "entry_matches": [3, 1, 0, 0, None]}
    assert reasons == [None, None, "unmatched", "unmatched", "no_text"]


def test_keep_unmatched(metadata: str) -> None:
    """Only pairs without a caption go."""
    made = MetadataMatch(metadata=metadata, keep_unmatched=True)
    assert scored(made, {"text": ["dog", "house", None]})[1] == [None, None, "no_text"]


def test_the_language_decides_which_entries(metadata: str) -> None:
    """Codes are translated or taken as they are; unknown ones and nulls meet the entries of ``other``."""
    made = MetadataMatch(metadata=metadata, rule="v2", language="lang", languages={"zho": "zh"})
    texts, codes = ["a dog 狗", "a dog 狗", "a dog 狗", "a dog x", None], ["en", "zho", "de", None, "en"]
    found, _ = scored(made, {"text": texts, "lang": codes})
    assert found["matched_entries"] == [[0, 1], [3], [6], [5, 6], None]
    assert found["entry_language"] == ["en", "zh", "other", "other", "en"]


def test_a_language_without_metadata(tmp_path: Path) -> None:
    """Where there is no ``other``, such a pair matches nothing, for a reason of its own."""
    path = write_entries(tmp_path / "m.json", {"en": ["dog"]})
    columns = {"text": ["dog", "dog", "cat", None], "lang": ["en", "de", "en", None]}
    found, reasons = scored(MetadataMatch(metadata=path, language="lang"), columns)
    assert found["matched_entries"] == [[0], [], [], None]
    assert reasons == [None, "no_metadata", "unmatched", "no_text"]
    kept = scored(MetadataMatch(metadata=path, language="lang", keep_unmatched=True), columns)[1]
    assert kept == [None, None, None, "no_text"]


def test_several_captions(metadata: str) -> None:
    """A list for each caption in the order of the columns, null for a null; and their union."""
    columns = {
        "text": ["a dog", None, "狗", None],
        "more": pa.array([["cat", None, "x dog"], [], None, [None]], pa.list_(pa.string())),
    }
    found, reasons = scored(MetadataMatch(metadata=metadata, text=("text", "more")), columns)
    assert found["matched_entries"] == [[0, 1, 2, 5, 6], None, [3], None]
    assert found["matched_by_text"] == [[[0, 1, 6], [2], None, [0, 5, 6]], [None], [[3]], [None, None]]
    assert reasons == [None, "no_text", None, "no_text"]


CAPTIONS = st.none() | st.lists(st.sampled_from(["dog", "a", "cat", "狗", "x", ""]), max_size=4).map(" ".join)
ROWS = st.tuples(CAPTIONS, st.none() | st.lists(CAPTIONS, max_size=5), st.sampled_from(["en", "zh", "de", None]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(ROWS, max_size=8), st.integers(0, 3), st.booleans())
def test_any_captions(metadata: str, rows: list[Any], start: int, by_language: bool) -> None:
    """Slices of any columns have, caption by caption, what the literal rule finds among the entries of the language."""
    names = ["text", "more", "lang"]
    kinds = pa.string(), pa.large_list(pa.large_string()), pa.string()
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    made = MetadataMatch(metadata=metadata, text=("more", "text"), language="lang" if by_language else None)
    batch = pa.record_batch(columns, names=names).slice(start)
    found, _ = scored(made, {name: batch[name] for name in names})
    bounds = {"en": (0, 3), "zh": (3, 5), "de": (5, 7), None: (5, 7)}
    for row, union, lists in zip(rows[start:], found["matched_entries"], found["matched_by_text"], strict=True):
        first, last = bounds[row[2]] if by_language else (0, 7)
        entries = [entry if first <= i < last else "\tnever" for i, entry in enumerate(FLAT)]
        wanted = [linear_scan(text, entries) for text in [*(row[1] or []), row[0]]]
        assert lists == wanted
        assert union == (None if all(w is None for w in wanted) else sorted({i for w in wanted for i in w or []}))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_other_types_of_text(metadata: str, kind: pa.DataType) -> None:
    """Every Arrow type of text is matched alike."""
    texts = pa.array(["a dog", None, "cat"])
    made = MetadataMatch(metadata=metadata)
    assert scored(made, {"text": texts.cast(kind)}) == scored(made, {"text": texts})


@pytest.mark.parametrize("rows", [0, 3])
def test_no_texts(metadata: str, rows: int) -> None:
    """An empty batch, and one without a caption, are fine."""
    made = MetadataMatch(metadata=metadata, language="lang")
    found, reasons = scored(made, {"text": pa.nulls(rows), "lang": pa.nulls(rows, pa.string())})
    assert found["matched_entries"] == [None] * rows and reasons == ["no_text"] * rows


@pytest.mark.parametrize("ending", [".json", ".txt", ".parquet"])
def test_kinds_of_files(tmp_path: Path, ending: str) -> None:
    """The same entries in the same order, whatever the kind of file."""
    path = tmp_path / f"m{ending}"
    if ending == ".json":
        path.write_text(json.dumps(FLAT))
    elif ending == ".txt":
        path.write_bytes("\ufeff".encode() + "\r\n".join(FLAT).encode() + b"\n")
    else:
        pq.write_table(pa.table({"count": range(len(FLAT)), "entry": pa.array(FLAT).dictionary_encode()}), path)
    assert scored(MetadataMatch(metadata=str(path)), {"text": ["a dog"]})[0]["matched_entries"] == [[0, 1, 6]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.json", b"{}", "holds no entry"),
        ("m.json", b"[1]", "something other than a list of strings"),
        ("m.json", b'{"en": ["a"], "de": "b"}', "other than a list of strings under 'de'"),
        ("m.json", b'{"en": ["a"], "en": []}', "names a language twice"),
        ("m.json", b'["\\ud800"]', "no Unicode text"),
        ("m.json", b"[NaN]", "holds NaN"),
        ("m.json", b"[" * 100_000, "is no JSON"),
        ("m.json", b"\xff", "is no JSON"),
        ("m.json", b'["a"', "is no JSON"),
        ("m.txt", b"a\n\nb", "nothing in line 2"),
        ("m.txt", b"a\xff", "not UTF-8 at byte 1"),
        ("m.txt", b"", "holds no entry"),
        ("m.parquet", b"PAR1", "cannot be read"),
        ("m.csv", b"a", "none of the kinds"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """A file that is no metadata is one line before anything runs."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        MetadataMatch(metadata=str(tmp_path / name)).check({"text": pa.string()})
    assert "\n" not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"word": ["a"]}, "no column 'entry', only 'word'"),
        ({"entry": ["a", None]}, "nulls in the column 'entry'"),
        ({"entry": [1]}, "'entry' of int64"),
        ({"entry": ["a", "b"], "language": ["en", None]}, "1 entries without a 'language'"),
        ({"entry": pa.array([b"\xff"], pa.binary()).view(pa.string())}, "cannot be read: .*UTF8"),
    ],
)
def test_wrong_tables(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    """So is a Parquet file of something else."""
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=says):
        MetadataMatch(metadata=str(tmp_path / "m.parquet")).check({"text": pa.string()})


@pytest.mark.parametrize(
    ("given_settings", "says"),
    [
        ({"metadata": "nowhere.json"}, "there is no file 'nowhere.json'"),
        ({"metadata": "a\0.json"}, "there is no file"),
        ({"rule": "v3"}, "'v1' or 'v2'"),
        ({"text": ()}, "at least one"),
        ({"text": ("text", "text")}, "once"),
        ({"text": "caption"}, "no column 'caption'"),
        ({"text": "number"}, "column 'number' is int32"),
        ({"text": "numbers"}, "column 'numbers' is list<"),
        ({"languages": {"eng": "en"}}, "name it as 'language'"),
        ({"language": "lng"}, "did you mean 'lang'"),
        ({"language": "number"}, "column 'number' is int32, not strings"),
        ({"language": "lang", "languages": {"deu": "de"}}, "deu: the metadata has no language 'de'; it has en, zh"),
    ],
)
def test_wrong_settings(metadata: str, given_settings: dict[str, Any], says: str) -> None:
    """A mistake in a recipe is one line before anything runs."""
    available = {"text": pa.string(), "lang": pa.string(), "number": pa.int32(), "numbers": pa.list_(pa.int8())}
    with pytest.raises((ValueError, UserError), match=says):
        MetadataMatch(**{"metadata": metadata, **given_settings}).check(available)


def test_languages_need_metadata_with_languages(tmp_path: Path) -> None:
    """A list of entries belongs to no language."""
    made = MetadataMatch(metadata=write_entries(tmp_path / "m.json", FLAT), language="lang")
    with pytest.raises(ValueError, match="does not say of which language"):
        made.check({"text": pa.string(), "lang": pa.string()})


def test_only_keep_unmatched_is_a_threshold(metadata: str) -> None:
    """The rest decides what is measured."""
    made = MetadataMatch(metadata=metadata)
    assert deciding_settings(made) == {"keep_unmatched": False}
    assert set(scoring_settings(made)) == {"metadata", "rule", "text", "language", "languages"}
    assert made.files() == (metadata,)


def test_planning_imports_no_numba(metadata: str) -> None:
    """Loading and checking the filter is light."""
    code = (
        "import sys, pyarrow as pa; from pairsieve.filters.metadata_match import MetadataMatch as M;"
        f"M(metadata={metadata!r}).check({{'text': pa.string()}}); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())})


# --- runs ---


def captions(count: int) -> list[dict[str, Any]]:
    """Some that match, some that do not, some without a text."""
    chance = random.Random(0)
    words = ["dog", "a", "cat", "狗", "x", "house", "cat,"]
    return [{"url": f"http://e.org/{i}.jpg", "text": " ".join(chance.choices(words, k=i % 5))} for i in range(count)]


def test_runs_do_not_depend_on_workers(metadata: str, tmp_path: Path) -> None:
    """One process or two give the same bytes, and the lists of the literal rule."""
    pool = write_csv(tmp_path / "pool.csv", captions(950))
    steps = recipe(pool, {"metadata_match": metadata})
    one = run(steps, tmp_path / "one", workers=1)
    run(steps, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    verdicts = one.query("SELECT shard, row, text, entry_matches, dropped_by FROM scores ORDER BY shard, row")
    lists = [pq.read_table(path) for path in sorted((tmp_path / "one" / "scores" / "metadata_match").glob("*.parquet"))]
    stored = pa.concat_tables(lists)["matched_entries"]
    table = verdicts.append_column("matched_entries", stored).to_pylist()
    assert len(table) == 950
    for row in table:
        wanted = linear_scan(row["text"], FLAT)
        assert row["matched_entries"] == wanted and row["entry_matches"] == (None if wanted is None else len(wanted))
        assert (row["dropped_by"] is None) == bool(wanted)


def test_keep_unmatched_measures_nothing_again(metadata: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored lists are kept, though the verdicts change."""
    pool = write_csv(tmp_path / "pool.csv", captions(200))
    first = len(kept_texts(run(recipe(pool, {"metadata_match": metadata}), tmp_path / "run", workers=1)))
    monkeypatch.setattr(MetadataMatch, "score", lambda *_: pytest.fail("measured again"))
    steps = recipe(pool, {"metadata_match": {"metadata": metadata, "keep_unmatched": True}})
    assert len(kept_texts(run(steps, tmp_path / "run", workers=1))) > first


def test_other_metadata_is_measured_again(metadata: str, tmp_path: Path) -> None:
    """The content of the file is part of the fingerprint, whatever its name."""
    pool = write_csv(tmp_path / "pool.csv", captions(200))
    steps = recipe(pool, {"metadata_match": metadata})
    before = run(steps, tmp_path / "run", workers=1).query("SELECT sum(entry_matches) AS n FROM scores").to_pylist()
    Path(metadata).write_text('{"en": ["house"]}')
    after = run(steps, tmp_path / "run", workers=1).query("SELECT sum(entry_matches) AS n FROM scores").to_pylist()
    assert before != after and after[0]["n"] > 0


# --- tables that processes share ---


def _match_in_process(metadata: str, log: str) -> None:
    built = _match._built

    def counted(*arguments: Any) -> Any:
        with Path(log).open("a") as file:
            file.write("built\n")
        return built(*arguments)

    setattr(_match, "_built", counted)  # noqa: B010
    made = MetadataMatch(metadata=metadata)
    made.open()
    assert made.score(pa.record_batch({"text": ["a dog"]}))["matched_entries"].to_pylist() == [[0, 1, 6]]
    (mapped,) = {line for line in Path("/proc/self/maps").read_text().splitlines() if ".arrays" in line}
    with Path(log).open("a") as file:
        file.write(" ".join(mapped.split()[1::3]) + "\n")


def test_processes_share_one_map(metadata: str, tmp_path: Path) -> None:
    """Of three processes one makes the tables; all map the same file, for reading only."""
    context = multiprocessing.get_context("spawn")
    log = str(tmp_path / "log")
    processes = [context.Process(target=_match_in_process, args=(metadata, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    lines = sorted(Path(log).read_text().splitlines())
    assert lines[0] == "built" and len(set(lines[1:])) == 1 and len(lines) == 4 and lines[1].startswith("r--")


def test_a_cache_that_cannot_be_written(metadata: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs the time, never the run."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "file" / "below"))
    assert scored(MetadataMatch(metadata=metadata), {"text": ["dog"]})[0]["matched_entries"] == [[0, 6]]


def test_damaged_tables_are_made_again(metadata: str, tmp_path: Path) -> None:
    """A changed byte, a cut file, or nonsense in the cache is noticed."""
    made = MetadataMatch(metadata=metadata)
    wanted = scored(made, {"text": ["a dog"]})
    (file,) = (tmp_path / "cache").glob("*.arrays")
    whole = file.read_bytes()
    turned = bytearray(whole)
    turned[-200] ^= 1
    head = whole.index(b"\n", whole.index(b"\n") + 1)
    for content in (
        bytes(turned),
        whole[:-64],
        whole[:head],
        b"",
        b"nonsense",
        whole[:19] + b"[]\n",
        whole[:19] + b"{}\n",
    ):
        made.close()
        file.unlink()
        file.write_bytes(content)
        assert scored(made, {"text": ["a dog"]}) == wanted
        assert file.read_bytes() == whole
