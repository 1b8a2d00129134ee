"""What README.md and docs/*.md hold besides prose: fenced blocks, the commands in them, and what checks need."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer.main

from pairsieve.pipelines.cli import app

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.M | re.S)
PROGRAM = ("pairsieve", ".venv/bin/pairsieve")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language, what it holds."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block of shell, as words; ``text`` is as it is written."""

    block: Block
    text: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        """Where it stands, and its beginning: a test's name."""
        return f"{self.block.page.stem}: {' '.join(self.text.split())[:90]}"


def blocks(*languages: str, pages: Sequence[Path] = PAGES) -> Iterator[Block]:
    """Every fenced block of these languages."""
    for page in pages:
        text = page.read_text()
        for found in _FENCE.finditer(text):
            if found["language"] in languages:
                yield Block(page, text[: found.start()].count("\n") + 1, found["language"], found["text"])


def commands(pages: Sequence[Path] = PAGES) -> list[Command]:
    """Every command of blocks ``sh`` and ``console``; of the latter the lines after ``$``."""
    return [command for block in blocks("sh", "console", "bash", pages=pages) for command in _of(block)]


def _of(block: Block) -> Iterator[Command]:
    text = re.sub(r"\\\n\s*", " ", block.text)
    for line in text.splitlines():
        if block.language == "console" and not line.startswith("$ "):
            continue
        for part in re.split(r" && ", line.removeprefix("$ ")):
            if words := tuple(takewhile(lambda word: word not in _REDIRECTS, shlex.split(part, comments=True))):
                yield Command(block, part.strip(), words)


_REDIRECTS = (">", "2>", "|", "<", "&")


def ours() -> list[Command]:
    """Those of the program itself, each once."""
    found = {command.words[1:]: command for command in reversed(commands()) if command.words[0] in PROGRAM}
    return sorted(found.values(), key=str)


def parse(words: Sequence[str]) -> None:
    """Raise where the command line has no such command, option or number of arguments; nothing is run."""
    command: Any = typer.main.get_command(app)
    name, left = "pairsieve", list(words)
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        name = left.pop(0)
        inner = command.get_command(command.context_class(command), name)
        if inner is None:
            raise LookupError(f"no command {name!r}")
        command = inner
    with command.make_context(name, left):
        pass
