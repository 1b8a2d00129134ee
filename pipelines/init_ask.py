"""The five questions of ``pairsieve init``, on standard error: what is given by options is not asked.

A wrong answer is refused with a line and asked again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import typer

from pairsieve.pipelines.init_look import KINDS, Found, look
from pairsieve.pipelines.init_recipe import ANY, PURPOSES, STRICTNESS, WRITES, Answers
from pairsieve.schemas.errors import UserError

T = TypeVar("T")
_CLIP = ("ViT-B-32", "laion2b_s34b_b79k")


@dataclass(frozen=True)
class Given:
    """What the options said; None is asked, or takes its default where nobody is to be asked."""

    path: str | None = None
    pool: str | None = None
    url_col: str | None = None
    caption_col: str | None = None
    purpose: str | None = None
    language: str | None = None
    strict: str | None = None
    metadata: str | None = None
    write: str | None = None
    clip_model: str | None = None
    clip_pretrained: str | None = None


def answers(given: Given, is_asking: bool) -> Answers:
    """All answers; raises ``UserError`` for an option that makes no sense, or a missing path with nobody to ask."""
    ask = Asker(is_asking)
    pool = ask.pool(given)
    purpose = ask.choice("2. What are the pairs for?", "--purpose", given.purpose, PURPOSES, "clip")
    language = ask("3. Languages of the captions (en, or en,de; or any)", "--language", given.language, "en", languages)
    strict = ask.choice("4. How strict?", "--strict", given.strict, _strictness(pool, given), "basic")
    metadata = "metadata.parquet"
    if strict == "balance":
        metadata = ask(
            "   File of the entries (pairsieve metadata makes one)", "--metadata", given.metadata, metadata, str
        )
    default = "subset" if pool.kind == "datacomp" else "dataset"
    write: Any = ask.choice("5. What is to be written?", "--write", given.write, WRITES, default)
    model, pretrained = _clip(given)
    return Answers(pool, purpose, language, strict, write, metadata, model, pretrained)


def _strictness(pool: Found, given: Given) -> Mapping[str, str]:
    """What the pool allows: without captions there is nothing to compare images with, or to balance."""
    if pool.has_captions:
        return STRICTNESS
    if given.strict in STRICTNESS and given.strict != "basic":
        raise UserError(f"--strict {given.strict}: needs captions, and no column holds any; name one by --caption-col")
    return {"basic": "image sizes and duplicates; there are no captions to go by"}


def _clip(given: Given) -> tuple[str, str | None]:
    """The model: the usual one with its weights, or the one that is named with those that are."""
    if given.clip_model is None:
        return _CLIP[0], given.clip_pretrained or _CLIP[1]
    return given.clip_model, given.clip_pretrained


def languages(text: str) -> tuple[str, ...]:
    """Codes from ``en,de``; none for ``any``.  Raises ``UserError`` for a language that the model does not know."""
    codes = tuple(dict.fromkeys(code.strip() for code in text.split(",") if code.strip()))
    if [code.casefold() for code in codes] == [ANY]:
        return ()
    if not codes:
        raise UserError(f"{text!r}: give codes such as en or en,de, or any")
    from pairsieve.filters._cld3 import LANGUAGES

    if odd := next((code for code in codes if not _is_code(code, LANGUAGES)), None):
        raise UserError(f"{odd!r} is no code of a language; give en, de, fr, zh …, or any")
    return codes


def _is_code(code: str, known: Collection[str]) -> bool:
    return code in known or (len(code) == 3 and code.isascii() and code.isalpha() and code.islower())


class Asker:
    """Asks at the terminal, or takes what is given and the defaults."""

    def __init__(self, is_asking: bool) -> None:
        """Without asking, a missing answer is its default."""
        self._is_asking = is_asking

    def __call__(self, question: str, option: str, given: str | None, default: str, check: Callable[[str], T]) -> T:
        """The answer as ``check`` gives it; what it refuses with ``UserError`` is asked again."""
        if given is not None or not self._is_asking:
            try:
                return check(default if given is None else given)
            except UserError as error:
                raise UserError(f"{option} {error}") from None
        return self._prompt(question, default, check)

    def choice(self, question: str, option: str, given: str | None, known: Mapping[str, str], default: str) -> Any:
        """One of a few, by name or number; each is shown with what it means."""
        names = list(known)
        if given is None and self._is_asking:
            typer.echo(question, err=True)
            for number, (name, what) in enumerate(known.items(), 1):
                typer.echo(f"   {number}  {name:<12} {what}", err=True)

        def check(text: str) -> str:
            chosen = text.strip().casefold()
            if chosen.isdecimal() and chosen.isascii() and 1 <= int(chosen) <= len(names):
                return names[int(chosen) - 1]
            if chosen not in names:
                raise UserError(f"{text}: there are {', '.join(names)}")
            return chosen

        return self("  ", option, given, default, check)

    def pool(self, given: Given) -> Found:
        """Where the pairs come from: the path, then what it is taken for, which may be put right."""
        if given.pool is not None and given.pool not in KINDS:
            raise UserError(f"--pool {given.pool}: there are {', '.join(KINDS)}")
        if given.path is None and not self._is_asking:
            raise UserError("--path is missing: a list of URLs, or a folder of DataComp, img2dataset, tars or Parquet")
        question = "1. Where do the pairs lie? A list of URLs, or a folder of DataComp, img2dataset, tars, Parquet"
        found = self(question, "--path", given.path, "", lambda path: look(path, given.pool))
        if given.pool is None and given.path is None:
            typer.echo(f"   it looks like {found}", err=True)
            kind = self("   Is that it? (yes, or another kind)", "--pool", None, "yes", _kind_or_yes)
            found = found if kind == "yes" else look(found.path, kind)
        return _with(found, given)

    def _prompt(self, question: str, default: str, check: Callable[[str], T]) -> T:
        while True:
            text = typer.prompt(question, default=default or None, err=True, type=str)
            try:
                return check(text)
            except UserError as error:
                typer.echo(f"   {error}", err=True)


def _kind_or_yes(text: str) -> str:
    chosen = text.strip().casefold()
    if chosen in ("y", "yes"):
        return "yes"
    if chosen not in KINDS:
        raise UserError(f"{text}: yes, or one of {', '.join(KINDS)}")
    return chosen


def _with(found: Found, given: Given) -> Found:
    """The columns that options name instead of those guessed."""
    named = {"url_col": given.url_col, "caption_col": given.caption_col}
    for name, value in named.items():
        if value is not None and found.columns and value not in found.columns:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {value}: no such column; there are {', '.join(found.columns)}")
    return replace(found, url_col=given.url_col or found.url_col, caption_col=given.caption_col or found.caption_col)
