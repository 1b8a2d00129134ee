"""What results of single tasks amount to: ImageNet, shifts, VTAB, retrieval and the average of 38, as DataComp has it.

The figures are plain means, as in ``aggregate_scores.py`` of github.com/mlfoundations/datacomp.  Whatever
would make a mean another one in silence is an error: a task that is missing, twice there with two
values, not a number, or in percent.  Cost: a file is read once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pairsieve.pipelines.track_tasks import AVERAGED, TASKS, Group, Task, of_group
from pairsieve.schemas.errors import UserError

AVERAGE = "average"
FIGURES = (*get_args(Group), AVERAGE)
"""What is reported, in order."""


@dataclass
class Results:
    """Results of one model: values by task name, from 0 to 1; ``label`` names it, ``place`` its file.

    ``absent`` are tasks that the file names and gives no number for, with what it gives; ``unknown`` names
    that are no task; ``notes`` what a reader should know.
    """

    label: str
    place: str
    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict, repr=False)
    _skipped: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, task: Task, value: object, place: str) -> None:
        """Take a task's value; raises ``UserError`` for a second other one, for text, and beyond 0 and 1.

        None and NaN are noted as absent.
        """
        if task.metric is None:
            return
        if value is None or (isinstance(value, float) and math.isnan(value)):
            self.skip(task, "no value" if value is None else "NaN", place)
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{place}: {task.name}: {value!r} is no number")
        if not 0 <= value <= 1:
            percent = "; is it percent? divide by 100" if 1 < value <= 100 else ""
            raise UserError(f"{place}: {task.name}: {value} is not between 0 and 1{percent}")
        self._take(task, float(value), place)

    def skip(self, task: Task, what: str, place: str) -> None:
        """Note a task that is named without a value that counts."""
        if task.name not in self.values:
            self.absent[task.name] = what
            self._skipped[task.name] = place

    def why(self, name: str) -> str:
        """The name of a missing task; of one that is named without a value that counts, what it has, and where."""
        return f"{name} ({self.absent[name]}, {self._skipped[name]})" if name in self.absent else name

    def _take(self, task: Task, value: float, place: str) -> None:
        known = self.values.get(task.name)
        if known is not None and known != value:
            raise UserError(
                f"{place}: {task.name} is {value} here, but {known} in {self._places[task.name]}; keep one of them"
            )
        if known is not None:
            self.notes.append(f"{task.name} is there twice, with one value")
        self.absent.pop(task.name, None)
        self.values[task.name] = value
        self._places.setdefault(task.name, place)


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over ``count`` of ``of`` tasks; None where no task is there."""

    value: float | None
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's figures, by name (``FIGURES``), and the tasks that they lack."""

    results: Results
    figures: Mapping[str, Figure]
    missing: tuple[str, ...]


def score(results: Results, allow_missing: bool = False) -> Scored:
    """The figures of one model; raises ``UserError`` where tasks are missing, unless that is allowed."""
    missing = tuple(task.name for task in AVERAGED if task.name not in results.values)
    if missing and not allow_missing:
        raise UserError(_refusal(results, missing))
    figures = {group: _mean(results, of_group(group)) for group in get_args(Group)}
    return Scored(results, {**figures, AVERAGE: _mean(results, AVERAGED)}, missing)


def _mean(results: Results, tasks: Sequence[Task]) -> Figure:
    values = [results.values[task.name] for task in tasks if task.name in results.values]
    return Figure(math.fsum(values) / len(values) if values else None, len(values), len(tasks))


def _refusal(results: Results, missing: Sequence[str]) -> str:
    """Which tasks are missing, first those that are named and why, and what may be meant by a name that is none."""
    told = [results.why(name) for name in sorted(missing, key=lambda name: name not in results.absent)]
    shown = ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")
    near = (get_close_matches(name, missing, n=1) for name in results.unknown)
    hints = [f"; is {name!r} {found[0]}?" for name, found in zip(results.unknown, near, strict=True) if found]
    return (
        f"{results.place}: {results.label}: {len(missing)} of the {len(AVERAGED)} tasks are missing: {shown}"
        f"{''.join(hints[:1])}; evaluate them, or average what there is with --allow-missing"
    )


def as_json(scored: Scored) -> dict[str, Any]:
    """One model as a JSON object: figures, how many tasks each has, values by task."""
    found = scored.results
    return {
        "label": found.label,
        "place": found.place,
        **{name: figure.value for name, figure in scored.figures.items()},
        "tasks_of": {name: [figure.count, figure.of] for name, figure in scored.figures.items()},
        "missing": list(scored.missing),
        "unknown": found.unknown,
        "notes": found.notes,
        "tasks": {task.name: found.values[task.name] for task in TASKS if task.name in found.values},
    }
