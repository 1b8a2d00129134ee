"""WordNet 3.0 without nltk: where it lies, its lemmas and its irregular forms.

Only ``index.*`` and ``*.exc`` are read, which takes 0.15 s and 25 MB.
"""

import os
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pairsieve.schemas.errors import UserError

VERSION = "3.0"
PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
"""Parts of speech in nltk's order."""
_FILES = (*(f"index.{name}" for name in PARTS.values()), *(f"{name}.exc" for name in PARTS.values()))
_MOST_BYTES = 1 << 26
"""Of one file; the largest has 5 MB."""
_COPYRIGHT = re.compile(rb"WordNet (\d+(?:\.\d+)?) Copyright", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where WordNet's files lie: a folder, or a folder within a zip file as nltk downloads it."""

    path: Path
    inner: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that decide what is found."""
        return (str(self.path),) if self.inner is not None else tuple(str(self.path / name) for name in _FILES)

    def read(self, name: str) -> bytes:
        """One file; raises ``UserError`` where it cannot be read."""
        try:
            if self.inner is None:
                return (self.path / name).read_bytes()[:_MOST_BYTES]
            with zipfile.ZipFile(self.path) as members, members.open(self.inner + name) as member:
                return member.read(_MOST_BYTES)
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            what = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"wordnet: {self.path}: {name} cannot be read: {what}; install WordNet 3.0 again") from None


def find(given: str | None) -> Source:
    """The WordNet at a path, or in the usual places; raises ``UserError`` where there is none, or not version 3.0."""
    if given is not None:
        found = _source(Path(given).expanduser())
        if found is None:
            raise UserError(f"wordnet: {given}: holds no index.noun; name WordNet's dict folder or nltk's wordnet.zip")
    else:
        found = next((source for place in _places() if (source := _source(place))), None)
        if found is None:
            raise UserError("wordnet: not found; apt install wordnet-base, or python -m nltk.downloader wordnet")
    version = _version(found.read("index.noun"))
    if version != VERSION:
        text = f"{found.path} is version {version or 'unknown'}, and offsets are those of {VERSION}"
        raise UserError(f"wordnet: {text}; name a WordNet {VERSION}")
    return found


def _places() -> Iterator[Path]:
    """WordNet's own variables, where nltk looks for its data, where Debian and Princeton install."""
    if folder := os.environ.get("WNSEARCHDIR"):
        yield Path(folder)
    if folder := os.environ.get("WNHOME"):
        yield Path(folder)
    prefixes = [f"{sys.prefix}{part}" for part in ("", "/share", "/lib")]
    shared = ["/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"]
    given = [Path(name) for name in os.environ.get("NLTK_DATA", "").split(os.pathsep) if name]
    for data in (*given, *(Path(name) / "nltk_data" for name in (str(Path.home()), *prefixes, *shared))):
        yield data / "corpora" / "wordnet"
        yield data / "corpora" / "wordnet.zip"
    yield from map(Path, ("/usr/share/wordnet", "/usr/local/share/wordnet", "/usr/local/WordNet-3.0"))


def _source(path: Path) -> Source | None:
    """The WordNet in a folder, its ``dict`` folder, or a zip file."""
    for folder in (path, path / "dict"):
        if (folder / "index.noun").is_file():
            return Source(folder)
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            names = [name for name in members.namelist() if re.fullmatch(r"([^/]+/)?index\.noun", name)]
        return Source(path, names[0].removesuffix("index.noun")) if names else None
    return None


def _version(content: bytes) -> str | None:
    said = _COPYRIGHT.search(content[:4096])
    return said[1].decode() if said else None


@dataclass(frozen=True)
class WordNet:
    """For each part of speech: the first synset's offset of each lemma, and the irregular forms."""

    first: dict[str, dict[str, int]]
    irregular: dict[str, dict[str, list[str]]]

    @classmethod
    def load(cls, source: Source) -> "WordNet":
        """Read the index and the exception lists; raises ``UserError`` for damaged ones."""
        first = {part: _index(source, f"index.{name}") for part, name in PARTS.items()}
        return cls(first, {part: _irregular(source, f"{name}.exc") for part, name in PARTS.items()})


def _index(source: Source, name: str) -> dict[str, int]:
    """Lemma -> offset of its first synset (wndb(5WN)): lemma, part, synsets, pointers, pointer…, two counts, offset…"""
    found = {}
    for number, line in enumerate(source.read(name).decode("utf-8", "replace").split("\n"), 1):
        if line.startswith(" ") or not line:
            continue
        fields = line.split()
        try:
            found[fields[0]] = int(fields[6 + int(fields[3])])
        except (ValueError, IndexError):
            raise UserError(f"wordnet: {source.path}: {name}, line {number} is damaged; install it again") from None
    return found


def _irregular(source: Source, name: str) -> dict[str, list[str]]:
    """Inflected form -> its base forms."""
    lines = source.read(name).decode("utf-8", "replace").split("\n")
    return {form: bases for form, *bases in (line.split() for line in lines if line.strip())}


def synset_names(source: Source) -> Iterator[str]:
    """The first lemma of every synset as it stands in ``data.*`` (wndb(5WN)), in nltk's order of parts of speech."""
    for part in PARTS.values():
        name = f"data.{part}"
        for number, line in enumerate(source.read(name).decode("utf-8", "replace").split("\n"), 1):
            if line.startswith(" ") or not line:
                continue
            fields = line.split(" ", 5)
            if len(fields) < 6:
                raise UserError(f"wordnet: {source.path}: {name}, line {number} is damaged; install it again")
            yield fields[4]
