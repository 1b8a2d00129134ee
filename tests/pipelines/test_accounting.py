"""The check at the end of a run reads the files, and believes nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines.accounting import check
from pairsieve.pipelines.pools import load_manifest
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import AccountingError
from tests.support import numbered_rows, recipe, write_csv


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """A finished run of 150 pairs in two shards."""
    return run(recipe(write_csv(tmp_path / "list.csv", numbered_rows(150)), "caption_words"), tmp_path / "run")


def verify(result: Result, kept: int = 0) -> None:
    """Check the run again, claiming ``kept`` pairs more."""

    store = Store(result.root)
    identity = json.loads(store.read("pairs/_pool.json"))["identity"]
    shards = load_manifest(store, identity)
    assert shards is not None
    check(store, shards, replace(result.tally, kept=result.tally.kept + kept))


def tamper(result: Result, table: pa.Table) -> None:
    """Replace the verdicts of the first shard."""
    pq.write_table(table, Path(result.root) / "verdicts" / "00000.parquet")


def verdicts(result: Result) -> pa.Table:
    """The verdicts of the first shard."""
    return pq.read_table(Path(result.root) / "verdicts" / "00000.parquet")


def test_good_run_passes(result: Result) -> None:
    """What a run has just written adds up."""
    verify(result)


@pytest.mark.parametrize("rows", [slice(0, 99), slice(1, 100)])
def test_lost_verdict_is_an_error(result: Result, rows: slice) -> None:
    """One verdict too few is found, wherever it is missing."""
    tamper(result, verdicts(result)[rows])
    with pytest.raises(AccountingError, match="shard 00000 has 99 verdicts for 100 candidates"):
        verify(result)


def test_second_verdict_is_an_error(result: Result) -> None:
    """Two verdicts on one candidate are found, though the number is right."""
    table = verdicts(result)
    tamper(result, pa.concat_tables([table[:99], table[:1]]))
    with pytest.raises(AccountingError, match="shard 00000"):
        verify(result)


def test_drop_without_reason_is_an_error(result: Result) -> None:
    """A drop must say why."""
    table = verdicts(result)
    tamper(result, table.set_column(4, "reason", pa.nulls(len(table), pa.string())))
    with pytest.raises(AccountingError, match="drops without a reason"):
        verify(result)


def test_wrong_count_is_an_error(result: Result) -> None:
    """kept + dropped must be the pool."""
    with pytest.raises(AccountingError, match="is not the pool of 150"):
        verify(result, kept=1)
