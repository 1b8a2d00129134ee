"""Prompt templates with a closed syntax: ``{text}``, ``{caption}``, ``{caption:lines}``, ``{examples}``, ``{{``.

A placeholder is the name of a column of texts; what is put in is never read as a template.  About 2 µs a prompt.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeAlias

import numpy as np
import pyarrow as pa
from pydantic import Field, GetJsonSchemaHandler, NonNegativeInt, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pairsieve.filters._chat_answers import cleaned
from pairsieve.filters._text_lists import is_texts
from pairsieve.filters.base import Settings, UnknownColumnError
from pairsieve.schemas.uid import item_hash

EXAMPLES = "examples"
"""The placeholder of worked examples."""
Value: TypeAlias = str | Sequence[str | None] | None

_PART = re.compile(r"\{\{|\}\}|\{([^{}:]+)(?::([^{}]*))?\}|[{}]")
Text = Annotated[str, Field(min_length=1, max_length=65_536)]


@dataclass(frozen=True)
class Hole:
    """A placeholder: a column, and whether all of its texts are wanted as numbered lines, or the first."""

    column: str
    is_lines: bool

    def filled(self, value: Value, words: int) -> str | None:
        """The column's value in the prompt, each text cut to so many words; null where there is no text."""
        texts = [value] if isinstance(value, str) or value is None else value
        found = [" ".join(text.split()[:words]) for text in map(cleaned, texts) if text]
        if self.is_lines:
            return "\n".join(f"{i}. {text}" for i, text in enumerate(found, 1)) or None
        return found[0] if found else None


@lru_cache(maxsize=256)
def parsed(template: str) -> tuple[str | Hole, ...]:
    """The parts of a template; raises ``ValueError`` with one line for braces that mean nothing."""
    parts: list[str | Hole] = []
    end = 0
    for match in _PART.finditer(template):
        parts.append(template[end : match.start()])
        end = match.end()
        if match[0] in ("{{", "}}"):
            parts.append(match[0][0])
        elif match[1] is None:
            raise ValueError(f"prompt: a single {match[0]!r} at {match.start()}; write {match[0] * 2!r} for the sign")
        elif match[2] not in (None, "lines"):
            raise ValueError(f"prompt: {match[0]!r}: after a column there is only ':lines'")
        else:
            parts.append(Hole(match[1], match[2] == "lines"))
    return (*(part for part in parts if part), template[end:])


class Prompt(Settings):
    """A template, and worked examples of which each request shows ``shots``, drawn by the pair's keyed bits.

    In a recipe a template alone will do.
    """

    prompt: Text = Field(description="template; {text} is the pair's text, {name} a column of texts, its first")
    examples: tuple[tuple[Text, Text], ...] = Field(
        (), max_length=1000, description="pairs of a text and its rewrite, for {examples}: 'text => rewrite' lines"
    )
    shots: NonNegativeInt = Field(3, description="examples that a request shows")

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"prompt": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """For editors: a template alone will do."""
        return {"anyOf": [{"type": "string"}, handler(core)]}

    @field_validator("prompt")
    @classmethod
    def _is_template(cls, prompt: str) -> str:
        parsed(prompt)
        return prompt

    @property
    def holes(self) -> tuple[Hole, ...]:
        """Its placeholders of columns."""
        return tuple(p for p in parsed(self.prompt) if isinstance(p, Hole) and p.column != EXAMPLES)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        """Refuse placeholders that are no columns of texts; raises ``ValueError`` with one line."""
        for hole in self.holes:
            if hole.column not in available:
                raise UnknownColumnError(hole.column, available)
            if not is_texts(available[hole.column]):
                raise ValueError(f"prompt: column {hole.column!r} ({available[hole.column]}) holds no texts")
        if bool(self.examples) != any(isinstance(p, Hole) and p.column == EXAMPLES for p in parsed(self.prompt)):
            raise ValueError("prompt: 'examples' and the placeholder {examples} go together")

    def filled(self, values: Mapping[str, Any], bits: int, words: int) -> str | None:
        """The prompt of a row; null where a text that it needs is missing."""
        found: list[str] = []
        for part in parsed(self.prompt):
            text = part if isinstance(part, str) else self._filled(part, values, bits, words)
            if text is None:
                return None
            found.append(text)
        return "".join(found)

    def _filled(self, hole: Hole, values: Mapping[str, Any], bits: int, words: int) -> str | None:
        return self._shown(bits) if hole.column == EXAMPLES else hole.filled(values[hole.column], words)

    def _shown(self, bits: int) -> str:
        """As many examples as are shown, in the order of their hashes."""
        numbers = np.arange(len(self.examples), dtype=np.uint64)
        order = np.argsort(item_hash(np.full(len(numbers), bits, np.uint64), numbers), kind="stable")
        return "\n\n".join(" => ".join(self.examples[i]) for i in order[: self.shots])
