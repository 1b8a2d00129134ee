"""From a checked recipe to a plan: steps with their columns and fingerprints, cut into passes.

Nothing but the pool's schema is needed, so a plan is made before any data is read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from pairsieve.filters.base import AnyFilter, GroupFilter, PoolFilter, UnknownColumnError, scoring_settings
from pairsieve.filters.load import load, names, short_name
from pairsieve.pipelines.recipe_file import Key, Source
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.recipe import Recipe, StepSpec

RESERVED_IDS = frozenset({"added", "pool", "pairs", "scores", "verdicts", "dataset", "derived", "subset", "shards"})

MOST_STEPS = 64
"""Steps of a pass: pairs go through a chain of generators, which Python lets be no deeper than it calls functions."""
MOST_FILES = 1000
"""Files of a step that are named one by one in what identifies it."""


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    ``passes`` are index ranges of steps that run together over one shard.  ``pool_names`` maps the
    pool's columns as recipes see them to their names in ``pairs/``: a column that a step writes too
    is seen as ``source_<name>``.
    """

    recipe: Recipe
    steps: tuple[Step, ...]
    passes: tuple[range, ...]
    pool_types: Mapping[str, pa.DataType]
    pool_names: Mapping[str, str]

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Every column, of the pool and of all steps."""
        found = dict(self.pool_types)
        for step in self.steps:
            found |= step.given
        return found

    @property
    def pool_reads(self) -> set[str]:
        """Columns of the pool, by its own names, that steps or the dataset read."""
        spec = self.recipe.output.dataset
        used = {name for step in self.steps for name in (*step.reads, *step.keep_reads, *step.summary_reads)}
        used |= set((spec.columns if spec else None) or ())
        return {self.pool_names[name] for name in used if name in self.pool_names}

    @property
    def adding(self) -> tuple[int, Step] | None:
        """The step that adds pairs, the last one, with its place."""
        return (len(self.steps) - 1, self.steps[-1]) if self.steps and self.steps[-1].adds else None

    @property
    def about_texts(self) -> set[str]:
        """Columns of a pair's own text, which an added pair has none of: steps' that read it, directly or by others',
        lists of texts to draw from, and what the last step compares its text by."""
        found = {"text"}
        for step in self.steps:
            if found.intersection((*step.reads, *step.summary_reads)):
                found |= set(step.given)
            found |= {name for name, kind in step.given.items() if columns.is_texts(kind)}
            found |= set(step.filter.own_scores()) if isinstance(step.filter, PoolFilter) else set()
        return found - {"text"}

    def producer(self, column: str) -> Step | None:
        """The step that measures or derives a column; None = the pool."""
        return next((step for step in self.steps if column in step.given), None)


def make_plan(
    source: Source, recipe: Recipe, filters: Sequence[AnyFilter], pool_types: Mapping[str, pa.DataType]
) -> Plan:
    """Check the recipe against the pool's columns; raises ``RecipeError`` at the line of the mistake."""
    pool_names = _visible(pool_types, recipe, filters)
    pool_types = {seen: pool_types[stored] for seen, stored in pool_names.items()}
    available: dict[str, pa.DataType] = {"uid": pa.string(), **pool_types}
    fingerprints: dict[str, str] = {}
    steps: list[Step] = []
    for i, (spec, made) in enumerate(zip(recipe.filters, filters, strict=True)):
        key: Key = ("filters", i, spec.filter)
        if steps and steps[-1].adds:
            raise source.error(key, f"{steps[-1].id} adds pairs, so it must be the last step; {_AFTER}")
        step = _step(source, key, spec, made, available, fingerprints, steps)
        steps.append(step)
        available |= step.given
        fingerprints |= dict.fromkeys(step.stored, step.fingerprint)
    if steps and steps[-1].adds:
        _check_adding(source, ("filters", len(steps) - 1, steps[-1].name), steps[-1], available)
    if steps and steps[-1].adds:
        available |= {field.name: field.type for field in columns.ADDED if field.name in columns.OF_ADDED}
    hidden = {name for step in steps for name in step.derived if name not in step.shown}
    _check_output(source, recipe, {name: kind for name, kind in available.items() if name not in hidden})
    return Plan(recipe, tuple(steps), _passes(steps), pool_types, pool_names)


_AFTER = "put this one above it, or run a second recipe whose pool is this one's dataset"


def _check_adding(source: Source, key: Key, step: Step, available: Mapping[str, pa.DataType]) -> None:
    """Refuse what would hide the columns of added pairs, or add pairs to those that earlier steps dropped."""
    if step.of_pool:
        raise source.error(key, f"{step.id} adds pairs to survivors only; leave 'of: pool' out")
    taken = {name.casefold(): name for name in available}
    for name in columns.OF_ADDED:
        if name in taken:
            what = f"adds pairs with a column {name!r}, and there is {taken[name]!r} already"
            raise source.error(key, f"{step.id}: {what}; leave it out by the pool's 'columns:', or rename it")


def _visible(pool_types: Mapping[str, pa.DataType], recipe: Recipe, filters: Sequence[AnyFilter]) -> dict[str, str]:
    """The pool's columns by the name that recipes use."""
    written: set[str] = set()
    for spec, made in zip(recipe.filters, filters, strict=True):
        written |= {name.casefold() for name in _stored_names(spec, made, pool_types).values()}
        if isinstance(made, GroupFilter):  # the view ``scores`` calls the survivor so
            written.add(f"{spec.id or short_name(spec.filter)}_of".casefold())
    fixed = ("url", "text", columns.IMAGE)
    found = {n: n for n in pool_types if n.casefold() not in written or n in fixed}
    for stored in pool_types:
        if stored not in found.values():
            found[_free(f"source_{stored}", found, written)] = stored
    return {seen: found[seen] for seen in sorted(found, key=lambda seen: list(pool_types).index(found[seen]))}


def _free(name: str, taken: Mapping[str, str], written: Set[str]) -> str:
    """The name, with more of its prefix where a column is called so already."""
    used = {n.casefold() for n in taken} | written
    while name.casefold() in used:
        name = f"source_{name}"
    return name


def _stored_names(spec: StepSpec, made: AnyFilter, available: Mapping[str, pa.DataType]) -> dict[str, str]:
    """Own column -> stored column: a leading filter name becomes the step's id."""
    name = short_name(spec.filter)
    outputs = [*made.outputs(available), *_derived(made, available)]
    return {own: (spec.id or name) + own.removeprefix(name) if own.startswith(name) else own for own in outputs}


def _derived(made: AnyFilter, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """What a pool filter derives."""
    return made.derived(available) if isinstance(made, PoolFilter) else {}


def _step(
    source: Source,
    key: Key,
    spec: StepSpec,
    made: AnyFilter,
    available: Mapping[str, pa.DataType],
    fingerprints: Mapping[str, str],
    before: Sequence[Step],
) -> Step:
    step_id = _id(source, key, spec, made, available, before)
    try:
        reads = made.inputs(available)
        _require(reads, available, step_id)
        _refuse_derived(reads, before)
        summary_reads = made.summary_inputs(available) if isinstance(made, PoolFilter) else ()
        _require(summary_reads, available, step_id)
        made.check(available)
        made.check_after([step.filter for step in before])
        keep_reads = made.keep_inputs(available)
        found = _writes(spec, made, available, before)
        derives = {own: found.pop(own) for own in _derived(made, available)}
        _refuse_heavy(keep_reads, available)
        identity = _identity(made, {name: fingerprints.get(name, "pool") for name in reads})
    except UnknownColumnError as error:
        raise source.error(key, f"{step_id}: {error}{_who_writes(error.column)}") from None
    except (ValueError, UserError, OSError) as error:
        raise source.error(key, f"{step_id}: {error}") from None
    all_reads = (*reads, *keep_reads, *summary_reads)
    _require_whole_pool(source, key, spec, step_id, all_reads, before, made.whole_shard)
    return Step(
        id=step_id,
        name=spec.filter,
        filter=made,
        of_pool=spec.of == "pool",
        reads=reads,
        keep_reads=keep_reads,
        writes=found,
        keys=_keys(made, found, available),
        derives=derives,
        summary_reads=summary_reads,
        identity=identity,
        reads_pool_only=not any(name in step.given for step in before for name in all_reads),
    )


def _id(
    source: Source,
    key: Key,
    spec: StepSpec,
    made: AnyFilter,
    available: Mapping[str, pa.DataType],
    before: Sequence[Step],
) -> str:
    """``as:``, or the filter's name; a filter that stores nothing may appear again, numbered."""
    taken = {step.id for step in before}
    wanted = spec.id or short_name(spec.filter)
    if wanted in RESERVED_IDS:
        raise source.error((*key, "as"), f"as: {wanted!r} is a name of pairsieve's own; choose another")
    if wanted not in taken:
        return wanted
    if spec.id is None and not made.outputs(available) and not _derived(made, available):
        return next(f"{wanted}_{n}" for n in range(2, len(taken) + 3) if f"{wanted}_{n}" not in taken)
    raise source.error(key, f"{wanted}: a step above has this name; give one of them 'as: NAME'")


def _writes(
    spec: StepSpec, made: AnyFilter, available: Mapping[str, pa.DataType], before: Sequence[Step]
) -> dict[str, tuple[str, pa.DataType]]:
    """Own column -> (stored column, type)."""
    taken = {name.casefold() for name in available}
    names = _stored_names(spec, made, available)
    if spec.id:  # a filter used twice: what does not begin with its name gets the step's in front where it must
        names = {own: f"{spec.id}_{stored}" if stored.casefold() in taken else stored for own, stored in names.items()}
    for stored in names.values():
        if stored.casefold() in taken:
            by = next((step.id for step in before if step.name == spec.filter and stored in step.given), None)
            if by is not None:
                raise ValueError(f"writes {stored!r}, as the step {by!r} does; give this one another name: 'as: NAME'")
            raise ValueError(f"writes {stored!r}, which exists already; drop that column, or the step that writes it")
        if stored in columns.RESERVED:
            raise ValueError(f"writes {stored!r}, a name of pairsieve's own")
        taken.add(stored.casefold())
    types = made.outputs(available) | _derived(made, available)
    return {own: (names[own], kind) for own, kind in types.items()}


def _keys(
    made: AnyFilter, writes: Mapping[str, tuple[str, pa.DataType]], available: Mapping[str, pa.DataType]
) -> dict[str, str]:
    """Stored key columns of a group filter with the reason that each gives."""
    if not isinstance(made, GroupFilter):
        return {}
    return {writes[own][0]: reason for own, reason in made.key_columns(available).items()}


def _require(reads: Sequence[str], available: Mapping[str, pa.DataType], step_id: str) -> None:
    for name in reads:
        if name not in available:
            near = get_close_matches(name, available, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"columns here: {', '.join(sorted(available))}"
            help_ = _who_writes(name) or f"; {meant}"
            raise ValueError(f"reads {name!r}, which neither the pool nor a step above gives{help_}")


def _who_writes(column: str) -> str:
    """``; put '- name' above it`` where a filter of ours writes the column, else nothing."""
    found = next((name for name in names() if column in _usual_outputs(name)), None)
    return f"; put '- {found}' above it" if found else ""


def _usual_outputs(name: str) -> Mapping[str, pa.DataType]:
    """What a filter writes by its class, or with default settings where it has such."""
    kind = load(name)
    try:
        writes = dict(kind.writes) | (dict(kind.derives) if issubclass(kind, PoolFilter) else {})
        return writes or kind().outputs({})
    except ValidationError:
        return {}


def _refuse_heavy(reads: Sequence[str], available: Mapping[str, pa.DataType]) -> None:
    """Verdicts compare small columns; bytes and embeddings are measured, not compared."""
    for name in reads:
        if columns.is_heavy(available[name]):
            raise ValueError(
                f"{name!r} ({available[name]}) is too large to compare in every run; measure it in a filter"
            )


def _refuse_derived(reads: Sequence[str], before: Sequence[Step]) -> None:
    """A score depends on its pair alone; what is derived depends on the others."""
    for name in reads:
        if by := next((step.id for step in before if name in step.derived), None):
            raise ValueError(
                f"reads {name!r}, which {by} derives from the whole pool; only verdicts may compare it (a 'where')"
            )


def _require_whole_pool(
    source: Source, key: Key, spec: StepSpec, step_id: str, reads: Sequence[str], before: Sequence[Step], is_whole: bool
) -> None:
    """A step ``of: pool`` may only read what is measured for the whole pool."""
    if spec.of != "pool":
        if is_whole:
            raise source.error(key, f"{step_id}: write 'of: pool': its scores depend on all pairs of a shard")
        return
    if is_whole and (later := [(name, step.id) for step in before for name in reads if name in step.given]):
        name, producer = later[0]
        raise source.error(key, f"{step_id}: reads columns of the pool only, but {name!r} is of the step {producer}")
    for i, step in enumerate(before):
        if i and not step.of_pool and (partial := [name for name in reads if name in step.given]):
            raise source.error(
                key,
                f"{step_id}: of: pool needs {partial[0]!r} of every pair, but {step.id} measures it for survivors of "
                f"{before[0].id} only; give {step.id} 'of: pool', or move it to the top",
            )


def _identity(made: AnyFilter, reads: Mapping[str, str]) -> str:
    kind = type(made)
    content: dict[str, Any] = {
        "filter": f"{kind.__module__}:{kind.__qualname__}",
        "version": kind.version,
        "settings": scoring_settings(made),
        "files": _digests(made.files()),
        "reads": dict(reads),
    }
    return json.dumps(content, sort_keys=True)


def _digests(files: Sequence[str]) -> list[tuple[str, str]]:
    """Names and digests; of very many one digest, as these stand in the footer of every score file."""
    found = [(Path(name).name, _digest_file(name)) for name in files]
    if len(found) <= MOST_FILES:
        return found
    return [(f"{len(found)} files", hashlib.sha256(json.dumps(found).encode()).hexdigest())]


def _digest_file(name: str) -> str:
    if not Path(name).is_file():  # a pipe would be waited for without end
        raise UserError(f"{name}: is no regular file; leave it out")
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _passes(steps: Sequence[Step]) -> tuple[range, ...]:
    """Consecutive steps run together; a barrier ends its pass, because what follows needs its verdict."""
    found, start = [], 0
    for i, step in enumerate(steps):
        if step.is_barrier or i == len(steps) - 1 or i - start == MOST_STEPS - 1:
            found.append(range(start, i + 1))
            start = i + 1
    return tuple(found)


def _check_output(source: Source, recipe: Recipe, available: Mapping[str, pa.DataType]) -> None:
    copies = recipe.output.copies
    if copies is not None and not pa.types.is_integer(available.get(copies, pa.null())):
        why = f"{available[copies]}, not integers" if copies in available else UnknownColumnError(copies, available)
        raise source.error(("output", "copies"), f"output.copies: {copies!r}: {why}")
    wanted = recipe.output.dataset.columns if recipe.output.dataset else None
    for i, name in enumerate(wanted or ()):
        if name not in available:
            error = UnknownColumnError(name, available)
            raise source.error(("output", "dataset", "columns", i), f"output.dataset.columns: {error}")
