"""What a plan looks like: tables for people, one JSON object for scripts."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pairsieve.filters.base import deciding_settings
from pairsieve.pipelines.dataset import dataset_types
from pairsieve.pipelines.describe import cells
from pairsieve.pipelines.figures import Figure, duration, rounded, short, size
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.plan_report import Report, StepPlan
from pairsieve.pipelines.step import Step


def plan_page(plan: Plan, report: Report, refusals: Sequence[str] = ()) -> Iterator[RenderableType]:
    """The pool and the steps; what is to do, and why; what it costs; outputs; warnings, and what cannot run."""
    yield Text(f"pool: {plan.recipe.pool_kind}, {_pool(report)}; columns: {', '.join(plan.pool_types)}")
    yield steps_table(plan)
    yield Text(_run(report))
    if plan.steps:
        yield _work_table(plan, report)
    if any(step.cost and step.cost.is_known for step in report.steps):
        yield _cost_table(report)
    yield from map(Text, _totals(plan, report))
    for note in report.notes:
        yield Text(f"note: {note}")
    for warning in report.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    for refusal in refusals:
        yield Text(f"cannot run: {refusal}", style="red")


def steps_table(plan: Plan) -> Table:
    """The steps pass by pass: what they read, write and decide by."""
    table = Table(title="Steps")
    for name in ("pass", "step", "filter", "reads", "writes", "decides by", "of"):
        table.add_column(name, overflow="fold")
    for number, steps in enumerate(plan.passes, 1):
        for k in steps:
            table.add_row(*cells(str(number), *_step_row(plan.steps[k])))
        table.add_section()
    return table


def _step_row(step: Step) -> tuple[str, ...]:
    deciding = deciding_settings(step.filter)
    shown = ", ".join(f"{name}: {value}" for name, value in deciding.items() if value not in (None, ""))
    reads = dict.fromkeys((*step.reads, *step.keep_reads, *step.summary_reads))
    writes = (*step.stored, *step.shown, *(["(pairs)"] if step.adds else []))
    return step.id, step.name, ", ".join(reads), ", ".join(writes), shown, "pool" if step.of_pool else "survivors"


def _pool(report: Report) -> str:
    rows, shards = report.size.rows, report.size.shards
    cut = f"{shards} {'shard' if shards.value == 1 else 'shards'}" if shards is not None else ""
    if rows is None:
        return f"{cut}, pairs not counted (only reading tells)"
    return f"{rows} pairs{f' in {cut}' if cut else ''}"


def _run(report: Report) -> str:
    """The state of the run directory."""
    if report.out is None:
        return "run directory: none given (--out shows what one re-uses)"
    found = report.reuse
    if report.is_pool_unread:
        return f"run directory: {report.out}; the pool changed, and it is too large to see here which shards differ"
    if found is None:
        return f"run directory: {report.out}, new"
    seen = f"; seen: {found.replayed:,} of {found.shards:,} shards" if found.replayed < found.shards else ""
    return f"run directory: {report.out}, {found.state}{seen}"


def _work_table(plan: Plan, report: Report) -> Table:
    table = Table(title="What a run would do")
    table.add_column("step", overflow="fold")
    for name in ("pairs that reach it", "re-used", "to measure"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for step, row in zip(plan.steps, report.steps, strict=True):
        work = row.work
        figures = (str(work.reused), str(work.todo)) if step.measures else ("-", "-")
        why = "\n".join(work.why) if step.measures else "only decides"
        table.add_row(*cells(step.id, str(work.reach), *figures, why))
    return table


def _cost_table(report: Report) -> Table:
    of = f"{report.workers} workers"
    table = Table(title="What it costs to measure")
    table.add_column("step", overflow="fold")
    walls = [of] if report.workers and report.workers > 1 else []
    names = ["to measure", "per 1,000 pairs", "one worker", *walls, "stored"]
    gpus = any(row.cost is not None and row.cost.gpu_seconds for row in report.steps)
    for name in [*names, *(["GPU"] if gpus else [])]:
        table.add_column(name, justify="right")
    table.add_column("known from", overflow="fold")
    for row in report.steps:
        if row.cost is not None:
            table.add_row(*cells(*_cost_row(row, bool(walls), gpus)))
    return table


def _cost_row(row: StepPlan, has_wall: bool, has_gpus: bool) -> Iterator[str]:
    cost = row.cost
    assert cost is not None
    yield row.id
    yield str(row.work.todo)
    yield "?" if cost.seconds is None else f"{short(cost.seconds * 1000)} s"
    yield _time(cost.worker_seconds)
    if has_wall:
        yield _time(cost.wall_seconds)
    yield "?" if cost.bytes is None else size(cost.bytes)
    if has_gpus:
        yield "-" if cost.gpu_seconds is None else f"{short(cost.gpu_seconds / 3600)} GPU-h"
    yield cost.source


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def _totals(plan: Plan, report: Report) -> Iterator[str]:
    """Time, kept pairs, bytes, outputs."""
    if any(row.cost for row in report.steps):
        yield f"measuring: {_total(report)}"
    if report.kept is not None:
        yield f"kept: {_ranged(report.kept)} pairs"
    if report.disk_bytes is not None:
        sort = f", of it {size(report.sort_bytes.value)} for sorting" if report.sort_bytes is not None else ""
        yield f"disk: about {size(report.disk_bytes.value)} more at the peak{sort}"
    yield from _outputs(plan, report)
    if report.reuse is not None:
        yield from report.reuse.leftovers


def _total(report: Report) -> str:
    known = [row.cost for row in report.steps if row.cost is not None and row.cost.is_known]
    if not known:
        return "time not known"
    worker = sum(cost.worker_seconds or 0.0 for cost in known)
    wall = [cost.wall_seconds for cost in known if cost.wall_seconds is not None]
    lacks = [row.id for row in report.steps if row.cost is not None and row.cost.worker_seconds is None]
    text = f"{'about ' if worker >= 1 else ''}{duration(worker)} of one worker"
    if report.workers is not None and report.workers > 1:
        text += f", {duration(sum(wall))} with {report.workers}"
    gpu = sum(cost.gpu_seconds or 0.0 for cost in known)
    text += f", {short(gpu / 3600)} GPU-hours" if gpu else ""
    return f"{text}; not counted: {', '.join(lacks)}" if lacks else text


def _ranged(figure: Figure) -> str:
    if figure.kind != "about" or figure.least is None or figure.most is None:
        return str(figure)
    if figure.most - figure.least > figure.value > 0:  # it tells nothing
        return str(figure)
    least, most = (rounded(bound, figure.digits) for bound in (figure.least, figure.most))
    return f"{figure} ({least:,.0f} to {most:,.0f})"


def _outputs(plan: Plan, report: Report) -> Iterator[str]:
    output = plan.recipe.output
    found = report.reuse
    said = found.dataset if found is not None else "written" if output.dataset is not None else ""
    if output.dataset is not None:
        final = report.dataset_bytes
        weight = f", {'at most ' if final.is_bound else ''}about {size(final.value)}" if final is not None else ""
        yield f"dataset/ {said}{weight}; seed {plan.recipe.seed}; columns: {', '.join(dataset_types(plan))}"
    elif said:
        yield f"dataset/ {said}"
    if output.subset:
        yield f"{output.subset} written"
    if output.dataset is None and not output.subset:
        yield "output: scores and verdicts only"


def plan_json(plan: Plan, report: Report, refusals: Sequence[str] = ()) -> dict[str, Any]:
    """The same as JSON values; seconds, bytes and pairs as plain numbers."""
    found = report.reuse
    return {
        "out": report.out,
        "pool": {
            "kind": plan.recipe.pool_kind,
            "rows": _figure(report.size.rows),
            "shards": _figure(report.size.shards),
            "bytes": report.size.bytes,
            "columns": list(plan.pool_types),
        },
        "run": None
        if found is None
        else {"state": found.state, "shards": found.shards, "replayed_shards": found.replayed},
        "workers": report.workers,
        "sample": {"rows": report.sample.rows, "shards": report.sample.shards} if report.sample else None,
        "steps": [
            _step_json(number, plan.steps[k], report.steps[k])
            for number, steps in enumerate(plan.passes, 1)
            for k in steps
        ],
        "kept": _figure(report.kept),
        "dataset_bytes": _figure(report.dataset_bytes),
        "sort_bytes": _figure(report.sort_bytes),
        "disk_bytes": _figure(report.disk_bytes),
        "dataset": found.dataset if found is not None else None,
        "leftovers": list(found.leftovers) if found is not None else [],
        "notes": list(report.notes),
        "warnings": list(report.warnings),
        "refusals": list(refusals),
    }


def _step_json(number: int, step: Step, row: StepPlan) -> dict[str, Any]:
    return {
        "id": step.id,
        "filter": step.name,
        "pass": number,
        "measures": step.measures,
        "reach": _figure(row.work.reach),
        "reused": _figure(row.work.reused),
        "to_measure": _figure(row.work.todo),
        "why": list(row.work.why),
        "cost": asdict(row.cost) if row.cost is not None else None,
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    value = None if figure.kind == "unknown" else figure.value
    return {"value": value, "kind": figure.kind, "least": figure.least, "most": figure.most}
