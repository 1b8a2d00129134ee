"""Before a run on Ray: does every node have the code, the run's storage, the pool and the models?

A node that writes to storage of its own would lose what it measured, and only the end of the run would tell.
Costs one task a node (a worker process there, a second), two small files in the run, a byte of the pool.
"""

import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from pairsieve.filters.base import AnyFilter
from pairsieve.pipelines.ray_worker import Problem, Site, code_digest, problem
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError

ANSWER = 180.0
"""Seconds in which all nodes must have answered."""
WRITERS = ("pyarrow", "numpy", "pillow", "opencv-python-headless")
MODELS = ("torch", "torchvision")
"""Distributions that every node must have in the driver's version; the latter where a filter needs them."""


def site_of(store: Store, filters: Sequence[AnyFilter], fs: Any, first: str) -> Site:
    """What every node must see: ``first`` is an input file.  Writes one small file, by which the storage is known."""
    mark = (f"_work/nodes/{uuid4().hex}", uuid4().bytes)
    store.write(*mark)
    return Site(
        code=code_digest(),
        versions=_versions(filters),
        classes=sorted({(type(made).__module__, type(made).__qualname__) for made in filters}),
        root=store.root,
        store=pickle.dumps(store),
        mark=mark,
        first=first,
        pool=pickle.dumps((fs, first)),
        models=[(name, Path(name).stat().st_size) for name in sorted({n for made in filters for n in _models(made)})],
    )


def _versions(filters: Sequence[AnyFilter]) -> dict[str, str]:
    """Versions of what writes the files and measures the scores."""
    names = [*WRITERS, *(MODELS if any("torch" in made.needs() for made in filters) else ())]
    return {name: version(name) for name in names}


def _models(made: AnyFilter) -> Iterator[str]:
    """Model files, besides those of the package, which each node has where it has the package."""
    return (name for name in made.files() if not Path(name).is_relative_to(package()))


def package() -> Path:
    """The folder of pairsieve as this process imports it."""
    return Path(str(import_module("pairsieve").__file__)).parent


def raise_for(problems: Sequence[tuple[str, Problem]]) -> None:
    """Raise ``UserError`` for nodes that cannot take part: the first one's name, what is wrong there, the next step."""
    if problems:
        node, found = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"node {node}{more}: {found.line}")


def problems(ray: Any, site: Site) -> Iterator[tuple[str, Problem]]:
    """(node, what is wrong there), for nodes that have CPUs to work with."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.cloudpickle.register_pickle_by_value(sys.modules[problem.__module__])
    ask = ray.remote(problem)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    here = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [ask.options(num_cpus=0, max_retries=0, scheduling_strategy=s).remote(site) for s in here]
    until = time.monotonic() + ANSWER
    for node, answer in zip(nodes, answers, strict=True):
        try:
            found = ray.get(answer, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.RayError as error:
            kind = type(error).__name__
            line = f"runs no task of ours ({kind}); check the node's Ray"
            found = Problem(line) if _is_alive(ray, node["NodeID"]) else None
        if found is not None:
            yield node["NodeName"], found


def _is_alive(ray: Any, node: str) -> bool:
    """Whether a node is still there: one that left meanwhile is no problem."""
    return any(found["Alive"] for found in ray.nodes() if found["NodeID"] == node)
