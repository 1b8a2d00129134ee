"""MetaCLIP's rules of matching, literally: the entries one after the other, each looked for in the spaced caption."""

import json
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from pairsieve.filters._match_ends import is_unspaced

ATOMS = (
    *("a", "b", "ab", "A", " ", " ", " ", "  ", "\t", "\n", "\r", "\r\n", *",.;:?!`", "-", "'", "(", "--", "\v", "\0"),
    *("é", "e\u0301", "猫", "犬猫", "。", "ก", "가", "か", "\u00a0", "\u3000", "\U0001f600", "\U00020000", "\u2019"),
    *("x" * 6, "x" * 7, "x" * 8, "x" * 9, "x" * 16, "x" * 17, "x" * 16 + "y", "x" * 24, "x" * 25, "z" * 70),
)
"""Parts of words of every size that the tables tell apart, blanks, marks, and characters of 1 to 4 bytes."""
TEXTS = st.lists(
    st.sampled_from(ATOMS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=12
).map("".join)
ENTRIES = st.lists(TEXTS | st.sampled_from(ATOMS), min_size=1, max_size=30)


def spaced(caption: str) -> str:
    """A caption as the rule reads it."""
    for blank in "\t\n\r":
        caption = caption.replace(blank, " ")
    for mark in ",.;:?!`":
        caption = caption.replace(mark, f" {mark} ")
    return f" {caption} "


def pattern(entry: str, rule: str) -> str:
    """What is looked for."""
    is_free = [rule == "v2" and bool(entry) and is_unspaced(end) for end in (entry[:1], entry[-1:])]
    return ("" if is_free[0] else " ") + entry + ("" if is_free[1] else " ")


def linear_scan(caption: str | None, entries: Sequence[str], rule: str = "v1") -> list[int] | None:
    """The rule; None of a null."""
    if caption is None:
        return None
    text = spaced(caption)
    return [i for i, entry in enumerate(entries) if pattern(entry, rule) in text]


def write_entries(path: Path, entries: object) -> str:
    """A metadata file of JSON: a list, or lists by language."""
    path.write_text(json.dumps(entries))
    return str(path)
