"""What the passes of a plan need against what an engine has: refuse before anything runs, never wait for ever.

A worker keeps the filters of its whole pass open, so their memory adds up; they work one after the
other, so CPUs and GPUs are those of the most demanding one.
"""

from collections.abc import Container, Sequence
from dataclasses import replace

from pairsieve.pipelines import machine
from pairsieve.pipelines.engine import Capacity, Machine, Needs
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.step import Step
from pairsieve.schemas import columns
from pairsieve.schemas.errors import UserError

GIB = 2**30


def needs_of(steps: Sequence[Step]) -> Needs:
    """What each worker of a pass needs."""
    measuring = [step.filter for step in steps if step.measures]
    resources = [made.resources() for made in measuring]
    return Needs(
        cpus=max((r.cpus for r in resources), default=1.0),
        gpus=max((r.gpus for r in resources), default=0.0),
        stateful=any(made.loads_model for made in measuring),
        gpu_optional=all(r.gpu_optional for r in resources if r.gpus),
        memory=sum(r.memory for r in resources),
        is_light=all(is_light(step) for step in steps if step.measures),
    )


def is_light(step: Step) -> bool:
    """Whether a step of ours measures small columns alone: no large model, no image, nobody else's code."""
    made = step.filter
    is_ours = type(made).__module__.startswith("pairsieve.")
    is_small = made.opens_fast or not made.loads_model
    return is_ours and is_small and step.is_light and columns.IMAGE not in step.reads


def local_capacity() -> Capacity:
    """What this machine has."""
    here = Machine(machine.cpus(), machine.gpus(), machine.memory())
    return Capacity((here,), "this machine")


def fitted(needs: Needs, capacity: Capacity) -> Needs:
    """The needs with an optional GPU settled: asked for where some machine has one to give, else left out."""
    settled = replace(needs, gpu_optional=False)
    return replace(settled, gpus=0.0) if needs.gpu_optional and not capacity.slots(needs) else settled


def refusals(plan: Plan, capacity: Capacity, measured: Container[str] = ()) -> list[str]:
    """A line for each step that no machine can run, besides the steps ``measured``; empty = all can run.

    Each step may fit by itself and its pass not: then a line names them together.
    """
    found: list[str] = []
    for indices in plan.passes:
        steps = [step for k in indices if (step := plan.steps[k]).measures and step.id not in measured]
        alone = [line for step in steps if (line := refusal(step.id, needs_of([step]), capacity))]
        together = refusal(" + ".join(step.id for step in steps), needs_of(steps), capacity)
        found += alone or ([together] if together else [])
    return found


def require(plan: Plan, capacity: Capacity, measured: Container[str] = ()) -> None:
    """Raise ``UserError`` for the first step that no machine can run."""
    for line in refusals(plan, capacity, measured):
        raise UserError(line)


def refusal(name: str, needs: Needs, capacity: Capacity) -> str | None:
    """Why no machine can hold one worker of these needs: what it needs, what there is, what to do; None = one can."""
    needs = fitted(needs, capacity)
    if capacity.slots(needs):
        return None
    most = Machine(
        max((m.cpus for m in capacity.machines), default=0),
        max((m.gpus for m in capacity.machines), default=0),
        max((m.memory for m in capacity.machines), default=0),
    )
    smaller = "lower what it asks for, or run on a larger one"
    if needs.gpus > most.gpus:
        has = f"{most.gpus:g} GPUs at most" if most.gpus else "no GPU"
        help_ = "write device: auto where the filter has it, or run where there is one"
    elif needs.cpus > most.cpus:
        has, help_ = f"{most.cpus:g} CPUs at most", smaller
    elif needs.memory > most.memory:
        has, help_ = f"{most.memory / GIB:.1f} GiB at most", smaller
    else:
        has, help_ = "no single node with all of it", smaller
    return f"{name} needs {_asked(needs)} for each worker, and {capacity.place} has {has}; {help_} (--ray-address)"


def _asked(needs: Needs) -> str:
    """``4 CPUs, 1 GPU, 8.0 GiB of memory``."""
    parts = [f"{needs.cpus:g} CPU{'s' if needs.cpus > 1 else ''}"]
    parts += [f"{needs.gpus:g} GPU{'s' if needs.gpus > 1 else ''}"] if needs.gpus else []
    parts += [f"{needs.memory / GIB:.1f} GiB of memory"] if needs.memory else []
    return ", ".join(parts)
