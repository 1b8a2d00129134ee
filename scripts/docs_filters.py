"""The filter reference: a page for each filter, made from its class and its example; a second in all."""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import yaml

from pairsieve.filters import _codes
from pairsieve.filters.base import AnyFilter, PoolFilter, Resources
from pairsieve.filters.load import describe, load, names
from pairsieve.pipelines.describe import kind_of
from scripts.docs_schema import escaped, prose, settings_tables, table

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
FOLDER = "filter-reference"
ROLES = {
    "scoring": "measures",
    "threshold": "decides",
    "runtime": "speed",
}
KINDS = {
    "pair": "It looks at one pair at a time.",
    "pool": "Its verdict may look at all pairs that reach it.",
    "group": "It keeps one pair of a group, wherever the others lie.",
}
_STORED = pa.list_(pa.float16())
_TEXTS = pa.list_(pa.string())
STOCK: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("url", "text", "caption", "lang"), pa.string()),
    **dict.fromkeys(("width", "height", "original_width", "original_height"), pa.int32()),
    **dict.fromkeys(("clip_image", "clip_text", "l14_img", "l14_txt"), _STORED),
    **dict.fromkeys(("clip_score", "clip_l14_similarity_score", "itm"), pa.float32()),
    "uid": pa.binary(16),
    "image": pa.binary(),
    "sha256": pa.string(),
    "phash": pa.binary(8),
    "matched_entries": pa.list_(pa.int32()),
    "noun_phrases": _TEXTS,
}
"""Columns that examples may read, with the types that pools and earlier steps give them."""


def example(name: str) -> str:
    """A filter's example: a whole recipe that validates."""
    return (EXAMPLES / f"{name}.yaml").read_text()


def instance(name: str) -> AnyFilter:
    """The filter as its example sets it."""
    made = load(name)
    for step in yaml.safe_load(example(name))["filters"]:
        if name in (step if isinstance(step, dict) else (step,)):
            body = step[name] if isinstance(step, dict) else {}
            body = body if isinstance(body, dict) else {made.shorthand or "": body} if body is not None else {}
            return made.model_validate({k: v for k, v in body.items() if k not in ("as", "of")})
    raise LookupError(f"the example of {name} does not use it")


def pages() -> Iterator[tuple[str, str]]:
    """Path within the site and Markdown of every page."""
    yield f"{FOLDER}/index.md", index()
    for name in names():
        yield f"{FOLDER}/{name}.md", page(name)


def index() -> str:
    """All filters, a line each."""
    rows = [(f"[`{name}`]({name}.md)", kind_of(load(name)), _summary(load(name))) for name in names()]
    return f"""# Filters

Every filter, made from its class. A step is one filter with its settings; [recipes](../recipes.md#filters) says what
all steps have in common (`as:`, `of:`), [write a filter](../write-a-filter.md) how to add your own. The same on a
terminal: `pairsieve filters`, `pairsieve filters clip_score`.

{table(["filter", "sees", "what it does"], rows)}

*pair*: one pair at a time. *pool*: also all pairs that reach the step, as a top fraction must. *group*: pairs that
share a key.
"""


def page(name: str) -> str:
    """One filter: what it does, example, settings, columns, reasons, what a worker needs."""
    made, sample = load(name), instance(name)
    roles = {row["name"]: ROLES[row["role"]] for row in describe(made)}
    return f"""# {name}

{prose(made.__doc__)}

{KINDS[kind_of(made)]}{_extra(made)}

## Example

```yaml
{example(name).strip()}
```

## Settings

A setting that *measures* is part of what is stored: another value measures again. One that *decides* is compared with
stored scores: another value measures nothing again. *Speed* changes neither.

{settings_tables(made, roles)}

## Columns

{_columns(made, sample)}

## Reasons

{_reasons(name, made)}

## A worker needs

{_needs(sample.resources())}
"""


def _summary(made: type[AnyFilter]) -> str:
    return prose((made.__doc__ or "").strip().split("\n")[0])


def _extra(made: type[AnyFilter]) -> str:
    return f" It needs `pip install 'pairsieve[{made.extra}]'`." if made.extra else ""


def _columns(made: type[AnyFilter], sample: AnyFilter) -> str:
    """What it reads, writes and derives, with the example's settings."""
    rows = [("reads", f"`{name}`", "") for name in sample.inputs(STOCK)]
    rows += [("compares", f"`{name}`", "") for name in sample.keep_inputs(STOCK)]
    rows += [("writes", f"`{name}`", f"`{kind}`") for name, kind in sample.outputs(STOCK).items()]
    if isinstance(sample, PoolFilter):
        rows += [("derives", f"`{name}`", f"`{kind}`") for name, kind in sample.derived(STOCK).items()]
    if not rows:
        return "None of its own: it compares columns that are there."
    return "With the settings of the example:\n\n" + table(["", "column", "type"], rows)


def _reasons(name: str, made: type[AnyFilter]) -> str:
    """What its docstring says of reasons and of errors that become reasons; of ``download`` its closed set."""
    if name == "download":
        return "Why a pair is dropped, and `download_code` of every pair:\n\n" + _code_table()
    text = " ".join((made.__doc__ or "").split())
    wanted = (
        r"\breasons?\b|_error``|\berrors\b"
        if re.search(r"th(ose|at|ese) (errors|reason)|eason\w*: those", text)
        else r"\breasons?\b"
    )
    sentences = [one for one in re.split(r"(?<=[.]) (?=[A-Z`])", text) if re.search(wanted, one, re.I)]
    return prose(" ".join(sentences))


def _code_table() -> str:
    """The codes of a download with the comments beside them."""
    found = re.findall(r'^    [A-Z0-9_]+ = "(\w+)"(?:  # (.*))?$', inspect.getsource(_codes.Code), re.M)
    return table(["code", "when"], [(f"`{code}`", escaped(why)) for code, why in found])


def _needs(found: Resources) -> str:
    """CPUs, GPUs and memory, as the example asks for them."""
    parts = [f"{found.cpus:g} CPU{'s' if found.cpus != 1 else ''}"]
    if found.gpus:
        parts.append(f"{found.gpus:g} GPU{' where there is one' if found.gpu_optional else ''}")
    if found.memory:
        parts.append(f"{found.memory / 1e9:.1f} GB of memory")
    return f"With the settings of the example: {', '.join(parts)}."
