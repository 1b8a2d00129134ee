"""Run a recipe.  The same command continues a run that was stopped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairsieve.pipelines import catalog, recipe_file
from pairsieve.pipelines.engines import EngineName, Engines
from pairsieve.pipelines.forget import Wanted
from pairsieve.pipelines.ingest import open_pool
from pairsieve.pipelines.lock import MARK, locked
from pairsieve.pipelines.plan import Plan, make_plan
from pairsieve.pipelines.pools import Pool
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.recipe import check
from pairsieve.pipelines.runner import Result, Runner
from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError


def load(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[Pool, Plan, recipe_file.Source]:
    """A recipe (file, shipped name, or data) with its pool opened and its plan made."""
    if isinstance(recipe, Mapping):
        source = recipe_file.from_data(recipe, overrides)
    else:
        source = recipe_file.read(recipe, overrides)
    checked, filters = check(source)
    pool = open_pool(checked)
    plan = make_plan(source, checked, filters, pool.types())
    pool.require(plan.pool_reads)
    return pool, plan, source


def run(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
    forget: Wanted | None = None,
) -> Result:
    """Run a recipe into a directory (local or any fsspec URL), or continue there; gives the finished run.

    ``recipe`` is a file, the name of a shipped recipe, or the recipe as data.  Of the pairs that ``forget``
    wants, nothing that was measured counts (see ``retry``).  Raises
    ``RecipeError``, ``PoolError`` or ``MissingExtraError`` before anything runs, ``RunBusyError``
    where another process works in ``out``, ``ShardError`` when shards failed and the rest is done.
    """
    pool, plan, source = load(recipe, overrides)
    store = open_run(str(out), pool)
    if engine == "local" and ray_address is not None:
        raise UserError(f"--ray-address {ray_address} goes with --engine ray, not local")
    progress = progress or Silent()
    with locked(store, progress.say) as check_lock, explained(store.root):
        store.clean()
        store.remove(catalog.CATALOG)
        runner = Runner(store, pool, plan, progress, check_lock, forget)
        with Engines(engine, store, ray_address, workers) as engines:
            engines.check(plan, pool)
            return runner.run(engines, source)


OURS = ("pairs", "scores", "facts", "derived", "added", "verdicts", "dataset", "_work")
"""Folders of a run: what they hold is written, replaced and removed by runs."""


def open_run(out: str, pool: Pool) -> Store:
    """The store of a run; raises ``UserError`` where running there could touch somebody else's files."""
    if not out.strip():
        raise UserError("--out is empty; name a directory for the run")
    if odd := sorted(set(out) & set(",*?[]")):
        raise UserError(f"--out {out}: DuckDB reads {' '.join(odd)} in a path as a pattern; choose another name")
    store = Store(out)
    held = [name for name in OURS if store.exists(name)]
    if held and not store.exists(MARK):
        raise UserError(f"--out {out}: holds {held[0]!r}, which no run of pairsieve wrote; choose another directory")
    for file in pool.files:
        url = str(pool.fs.unstrip_protocol(file))
        if any(url.startswith(str(store.fs.unstrip_protocol(store.path(name))) + "/") for name in OURS):
            raise UserError(f"--out {out}: the pool's {file} lies in it, and the run would replace it; choose another")
    return store
