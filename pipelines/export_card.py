"""The card of a Hugging Face export: what it holds, how it was made, whose the images are, how to load it.

Whatever stands in recipes, reasons and column names is escaped, so that none of it can be read as markup.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from pairsieve.pipelines import export_tables
from pairsieve.pipelines.export_job import ExportManifest
from pairsieve.pipelines.export_settings import HuggingFace
from pairsieve.pipelines.export_source import Dataset
from pairsieve.pipelines.recipe_public import public
from pairsieve.pipelines.store import Store
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.run import RunManifest

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
LONGEST = 200
"""Characters of a cell."""
_PLAIN = re.compile(r"[A-Za-z0-9 ,_]*(?:[.:-][A-Za-z0-9 ,_]+)*\.?")
_MARKUP = re.compile(r"([!-/:-@\[-`{-~])")
Funnel = Sequence[tuple[str, str, int]]


def card(dataset: Dataset, settings: HuggingFace, manifest: ExportManifest, name: str) -> str:
    """The whole of ``README.md``."""
    schema = export_tables.schema_of(dataset.kinds)
    head = front_matter(
        settings, manifest.written, sum(one.size for one in manifest.files), name, IMAGE in schema.names
    )
    funnel = funnel_of(dataset.store)
    parts = [
        f"---\n{head}---\n\n# {escaped(name)}\n",
        _intro(manifest.written, len(manifest.files), funnel),
        _loading(name),
        "## Columns\n\n" + _table(("column", "type"), [(one.name, _kind(one)) for one in schema]),
        _dropped(funnel, manifest.left_out),
        _rights(dataset.run),
        _recipe(dataset.run),
    ]
    return "\n".join(parts)


def funnel_of(store: Store) -> Funnel:
    """(step or nothing, reason, pairs) of a run's verdicts: the kept ones first, then by number."""
    found: Counter[tuple[str, str]] = Counter()
    for name in store.names("verdicts", ".parquet"):
        table = store.table(f"verdicts/{name}", ["dropped_by", "reason"])
        counts = table.group_by(["dropped_by", "reason"]).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            found[row["dropped_by"] or "", row["reason"] or ""] += row["count_all"]
    rows = [(step, reason, pairs) for (step, reason), pairs in found.items()]
    return sorted(rows, key=lambda one: (one[0] != "", -one[2], one))


def front_matter(settings: HuggingFace, rows: int, size: int, name: str, has_image: bool) -> str:
    """What the Hub and ``datasets`` read of the card, as YAML."""
    files = [{"split": "train", "path": f"{export_tables.FOLDER}/train-*"}]
    told = {
        "license": settings.license,
        "pretty_name": "".join(c if c.isprintable() else " " for c in name),
        "task_categories": ["zero-shot-image-classification", "image-to-text", "text-to-image"] if has_image else [],
        "size_categories": [next((label for most, label in _SIZES if rows < most), "n>1T")],
        "tags": ["image-text", "clip", "pairsieve"] if has_image else ["pairsieve"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "splits": [{"name": "train", "num_bytes": size, "num_examples": rows}],
            "download_size": size,
            "dataset_size": size,
        },
    }
    return str(yaml.safe_dump({key: value for key, value in told.items() if value}, sort_keys=False))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line, a table's cell too."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    return line if _PLAIN.fullmatch(line) and "__" not in line and "www." not in line else _MARKUP.sub(r"\\\1", line)


def fenced(text: str, language: str) -> str:
    """A block of code, with a fence that is nowhere in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _kind(field: Any) -> str:
    return "image" if field.name == IMAGE else str(field.type)


def _intro(rows: int, files: int, funnel: Funnel) -> str:
    seen = sum(pairs for _, _, pairs in funnel)
    return (
        f"{rows:,} image–text pairs of {seen:,} candidates, in {files:,} Parquet file{'s' * (files != 1)}, chosen by "
        "pairsieve with the recipe below. `uid` names a pair.\n"
    )


def _loading(name: str) -> str:
    code = f'from datasets import load_dataset\n\npairs = load_dataset({name!r}, split="train")'
    said = (
        "With the path of this folder, or its name on the Hub; `streaming=True` reads without downloading all of it.\n"
    )
    return f"## Load\n\n{fenced(code, 'python')}\n{said}"


def _dropped(funnel: Funnel, left_out: dict[str, int]) -> str:
    rows = [(step or "kept", reason, f"{pairs:,}") for step, reason, pairs in funnel]
    rows += [("kept, but not exported", reason, f"{pairs:,}") for reason, pairs in sorted(left_out.items())]
    return "## What became of the candidates\n\n" + _table(("step", "reason", "pairs"), rows)


def _rights(run: RunManifest) -> str:
    """Whose the images are, and which opt-outs were asked for."""
    directives = [name for step in run.steps if step.filter == "download" for name in _directives(step.measures)]
    heeded = (
        "While downloading, images whose servers forbid it by `X-Robots-Tag` were left out: "
        f"{', '.join(map(escaped, dict.fromkeys(directives)))}.\n"
        if directives
        else "This run asked no server for opt-outs: its images were not downloaded by it, or the header was ignored.\n"
    )
    return (
        "## Licence and rights\n\n"
        "Images and captions belong to their owners, under whatever terms their pages state; no right to them is "
        "granted by this collection, and the licence named above is that of the collection alone. Who uses them has to "
        "see to it that the use is allowed where they live. Pictures may show people, and captions may be wrong or "
        "offensive. A request to remove a pair should name its `uid`, or its URL where there is one.\n\n" + heeded
    )


def _directives(measures: dict[str, Any] | None) -> list[str]:
    settings = (measures or {}).get("settings", {})
    return [str(name) for name in settings.get("disallowed_header_directives", ())]


def _recipe(run: RunManifest) -> str:
    text = yaml.safe_dump(public(run.recipe), sort_keys=False, allow_unicode=True)
    versions = ", ".join(f"{escaped(name)} {escaped(number)}" for name, number in run.versions.items())
    said = f"Seed {run.seed}; {versions}. Credentials and local folders are left out."
    return f"## Recipe\n\n{said}\n\n{fenced(text, 'yaml')}"
