"""What runs inside Ray's workers.

It travels there by value and imports nothing of pairsieve at its top, so that a node without
pairsieve, or with another one, can say so in a line instead of failing to start a worker.
"""

import hashlib
import pickle
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from uuid import uuid4

PACKAGES = ("", "schemas", "filters", "pipelines")
PATIENCE = 2.0
"""Seconds that a file of the driver's may take to show on another node: network filesystems cache folders."""


class Site(TypedDict):
    """What every node must see.

    ``code`` is the digest of pairsieve's own files; ``versions`` are those of packages that decide
    bytes and scores; ``classes`` are (module, class) of the filters;
    ``store`` and ``pool`` are pickled, because a node may lack what they are made of: the run's
    store, and the pool's filesystem with its first file; ``mark`` is a file of the run; ``models``
    are local files that filters load, with their sizes.
    """

    code: str
    versions: dict[str, str]
    classes: list[tuple[str, str]]
    root: str
    store: bytes
    mark: tuple[str, bytes]
    first: str
    pool: bytes
    models: list[tuple[str, int]]


class Problem(NamedTuple):
    """What keeps a node from taking part, with the next step; ``is_code``: pairsieve itself is missing or another."""

    line: str
    is_code: bool = False


class Worker:
    """A Ray actor: keeps its task, and with it the models that the task has opened."""

    def __init__(self) -> None:
        """No task yet."""
        self._token = ""
        self._task: Any = None

    def hello(self, site: Site | None) -> tuple[str, str | None]:
        """The node that this worker runs on, and what is wrong there."""
        import ray

        found = None if site is None else problem(site)
        return ray.get_runtime_context().get_node_id(), None if found is None else found.line

    def call(self, token: str, task: list[Any], item: bytes, label: str) -> bytes:
        """The result of the task, or its failure, on one item.

        ``task`` holds a reference, so that a large pool travels once to each worker, not with each item.
        """
        import ray

        from pairsieve.pipelines.engine import guarded, label_of

        if token != self._token:
            self._task = None  # lets go of the models before others are opened
            self._task, self._token = pickle.loads(ray.get(task[0])), token
        shard = pickle.loads(item)
        return pickle.dumps(guarded(self._task, shard, label_of(label, shard)))


def problem(site: Site) -> Problem | None:
    """What is wrong here; None = nothing."""
    if line := _code(site):
        return Problem(line, is_code=True)
    line = _versions(site) or _classes(site) or _storage(site) or _pool(site) or _models(site)
    return Problem(line) if line else None


def code_digest() -> str:
    """Digest of pairsieve's Python files as this process imports them."""
    root = Path(str(import_module("pairsieve").__file__)).parent
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((root / package).glob("*.py")):
            digest.update(f"{package}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _code(site: Site) -> str | None:
    help_ = "install the same one on every node, or send it with the job (docs/cluster.md)"
    try:
        import_module("pairsieve.pipelines.run")  # with the packages that it needs
        same = code_digest() == site["code"]
    except Exception as error:  # whatever importing raises
        return f"pairsieve cannot be imported ({_line(error)}); {help_}"
    return None if same else f"another pairsieve than the driver's is installed; {help_}"


def _versions(site: Site) -> str | None:
    for name, wanted in site["versions"].items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            return f"{name} {found}, but the driver has {wanted}; every node must have the same, or bytes differ"
    return None


def _classes(site: Site) -> str | None:
    for module, name in site["classes"]:
        try:
            getattr(import_module(module), name.split(".")[0])
        except Exception as error:  # whatever importing the user's code raises
            help_ = "put its module on every node, or send it with the job: --working-dir (docs/cluster.md)"
            return f"the filter {module}:{name} cannot be imported ({_line(error)}); {help_}"
    return None


def _storage(site: Site) -> str | None:
    help_ = "--out must be storage that every node shares: a network filesystem, or an object store's URL"
    name, content = site["mark"]
    try:
        store = pickle.loads(site["store"])
        until = time.monotonic() + PATIENCE
        while not (found := store.exists(name)) and store.local and time.monotonic() < until:
            time.sleep(PATIENCE / 10)
        if not found or store.read(name) != content:
            return f"{site['root']} is not the storage that the driver writes to; {help_}"
        store.write(f"{name}.{uuid4().hex}", b"")
    except Exception as error:  # filesystems raise what their client libraries raise
        return f"{site['root']} cannot be used ({_line(error)}); {help_}"
    return None


def _pool(site: Site) -> str | None:
    help_ = "the pool must lie where every node reads it: a network filesystem, or an object store's URL"
    try:
        fs, path = pickle.loads(site["pool"])
        if fs.info(path)["type"] == "file":
            with fs.open(path, "rb") as file:
                file.read(1)
    except Exception as error:  # as above
        return f"the pool's {site['first']} cannot be read ({_line(error)}); {help_}"
    return None


def _models(site: Site) -> str | None:
    for name, size in site["models"]:
        file = Path(name)
        if not file.is_file() or file.stat().st_size != size:
            how = "another than the driver's" if file.is_file() else "missing"
            return f"the model file {name} is {how}; the same must lie under this path on every node"
    return None


def _line(error: Exception) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
