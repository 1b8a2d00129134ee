"""Filters by name: the folder is the list, a user's own filter is ``module:Class``."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pairsieve.filters.base import Filter, Opened, Threshold, scoring_settings
from pairsieve.filters.load import describe, load, names
from pairsieve.filters.where import Where

OWN = """
import pyarrow as pa
from pairsieve.filters.base import AnyFilter, Filter

class Short(Filter):
    '''Keep short captions.'''
    reads = ("text",)
    most: int = 3
    def keep(self, pairs):
        return pa.array([True] * pairs.num_rows)

class NoVerdict(Filter):
    '''Lacks keep.'''

class NoKind(AnyFilter):
    '''None of the three kinds.'''

class Foreign:
    '''No filter at all.'''
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, as the current directory."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_filters.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def (")
    (tmp_path / "own_raises.py").write_text("raise RuntimeError('first\\nsecond')")
    (tmp_path / "own_asks.py").write_text("import os\nos.no_such_thing")
    return tmp_path


@pytest.mark.parametrize("name", names())
def test_one_filter_a_file(name: str) -> None:
    """Every file holds one documented filter that is named after it."""
    kind = load(name)
    assert kind.__name__ == "".join(part.capitalize() for part in name.split("_"))
    assert kind.__doc__ and kind.__doc__.strip().split("\n")[0].endswith((".", ";", ","))


@pytest.mark.parametrize("name", names())
def test_settings_described(name: str) -> None:
    """Every setting of every filter has a description and a type."""
    assert [row["name"] for row in describe(load(name)) if not row["what"] or not row["type"]] == []


def test_roles() -> None:
    """What only decides is shown as a threshold, what only costs time as runtime, the rest as scoring."""
    roles = {row["name"]: row["role"] for row in describe(load("clip_score"))}
    assert (roles["min"], roles["top"], roles["device"], roles["model"]) == (
        "threshold",
        "threshold",
        "runtime",
        "scoring",
    )


def test_thresholds_not_scoring() -> None:
    """A setting that only decides is no part of what is measured."""

    class Both(Filter):
        """Two settings."""

        decides: Threshold[int] = 1
        measures: int = 2

        def keep(self, pairs: pa.RecordBatch) -> pa.Array:
            return pa.nulls(pairs.num_rows)

    assert scoring_settings(Both()) == {"measures": 2}


def test_near_name() -> None:
    """A mistyped name is met with the one that was meant."""
    with pytest.raises(LookupError, match="did you mean 'caption_words'"):
        load("caption_word")


@pytest.mark.parametrize("name", ["base", "load", "_top", "zzz", "", "../where", "where.py"])
def test_no_filter(name: str) -> None:
    """What is no filter's file name is refused, also files of the folder that hold none."""
    with pytest.raises(LookupError, match="no filter"):
        load(name)


def test_own(own: Path) -> None:
    """A filter in a file of the current directory can be named."""
    assert load("own_filters:Short").__doc__ == "Keep short captions."


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_filters:NoVerdict", "no concrete"),
        ("own_filters:NoKind", "no concrete"),
        ("own_filters:Foreign", "no concrete"),
        ("own_filters:Shorrt", "did you mean 'Short'"),
        ("pairsieve.filters.base:Filter", "no concrete"),
        ("no_such_module_at_all:X", "cannot import"),
        ("own_broken:X", "SyntaxError"),
        ("own_raises:X", "RuntimeError: first$"),
        ("own_asks:X", "AttributeError"),
        (":X", "cannot import"),
        ("..:X", "cannot import"),
        ("own_filters:", "has no"),
    ],
)
def test_own_refused(own: Path, name: str, says: str) -> None:
    """Whatever is wrong with a user's filter is one line that says what."""
    with pytest.raises(LookupError, match=says) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_opened_is_a_copy() -> None:
    """Opening a filter leaves the plan's own able to travel."""
    made, opened = Where(expression="true"), Opened()
    held = opened.get("where", made)
    assert held is opened.get("where", made) is not made
    assert pickle.loads(pickle.dumps(made)) == made
    opened.close()
