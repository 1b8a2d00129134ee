"""Labels of a classifier with the prompts that describe each: out of a recipe, a text file or JSON."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from pairsieve.filters._templates import filled, templates_of
from pairsieve.schemas.errors import UserError

MOST_BYTES = 10_000_000
MOST_LABELS = 100_000
MOST_CHARACTERS = 200
"""Of a label, which is stored with each pair."""

Labels = str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]]
Prompts = dict[str, tuple[str, ...]]


def labels_file(labels: Labels) -> str | None:
    """The path of a file of labels, where the setting is one."""
    if not isinstance(labels, str):
        return None
    return str(Path(labels).expanduser()) if labels.startswith("~/") else labels


def names_of(labels: Labels) -> Prompts:
    """Label -> what it is called in prompts; raises ``ValueError`` or ``UserError`` for what is no list of labels."""
    file = labels_file(labels)
    found = labels if file is None else _read(file)
    names: Prompts = _named(found) if isinstance(found, Mapping) else {each: (each,) for each in found}
    if len(names) < len(found):
        ((twice, _),) = Counter(found).most_common(1)
        raise ValueError(f"labels: {twice[:80]!r} is there twice")
    if not 1 <= len(names) <= MOST_LABELS:
        raise ValueError(f"labels: there are {len(names)}; give 1 to {MOST_LABELS:,}")
    for label, each in names.items():
        if not 0 < len(label) <= MOST_CHARACTERS or not label.isprintable():
            raise ValueError(f"labels: {label[:40]!r}: give 1 to {MOST_CHARACTERS} printable characters")
        if not each or not all(name.strip() for name in each):
            raise ValueError(f"labels: {label[:80]!r} has no prompt; write one, or a list of labels without prompts")
    return names


def prompts_of(labels: Labels, templates: str | Sequence[str] | None) -> Prompts:
    """Label -> prompts: each template filled with each of its names.

    Without templates the prompts of a mapping are taken as they are, and a list of labels gets ``simple``.
    """
    names = names_of(labels)
    if templates is None and is_mapping(labels):
        return names
    chosen = templates_of("simple" if templates is None else templates)
    return {label: tuple(filled(t, name) for name in each for t in chosen) for label, each in names.items()}


def is_mapping(labels: Labels) -> bool:
    """Whether labels come with prompts of their own."""
    file = labels_file(labels)
    return isinstance(labels if file is None else _read(file), Mapping)


def check_known(setting: str, wanted: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse a label that is none of the classifier's."""
    for name in wanted:
        if name not in labels:
            near = get_close_matches(name, labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(labels)[:8])}, …"
            raise ValueError(f"{setting}: there is no label {name[:80]!r}; {hint}")


def _named(found: Mapping[str, str | Sequence[str]]) -> Prompts:
    return {label: (each,) if isinstance(each, str) else tuple(each) for label, each in found.items()}


def _read(file: str) -> Sequence[str] | Mapping[str, str | Sequence[str]]:
    """A label a line, or JSON: a list of labels, or an object of label -> prompts."""
    path = Path(file)
    if "\0" in file or not path.is_file():
        raise UserError(f"labels: there is no file {file[:200]!r}; write a list for a single label: [{file[:80]}]")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"labels: {file} is larger than any list of labels ({MOST_BYTES:,} bytes)")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not file.lower().endswith(".json"):
            return [line.strip() for line in text.split("\n") if line.strip()]
        return _checked(json.loads(text))
    except (ValueError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise UserError(f"labels: {file}: {what}; give a label a line, or JSON: labels, or label: prompts") from None


def _checked(content: object) -> Sequence[str] | Mapping[str, str | Sequence[str]]:
    if isinstance(content, list) and all(isinstance(each, str) for each in content):
        return content
    if isinstance(content, dict) and all(_is_prompts(each) for each in content.values()):
        return content
    raise ValueError("holds no list of strings, nor an object of strings or lists of them")


def _is_prompts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
