"""Which entries of a metadata file each caption holds: MetaCLIP's rules, over Arrow strings.

The tables of 500,000 entries take half a CPU-second to make and 29 MiB.  They are kept in the user's cache folder
and mapped into memory, so that all processes of a machine hold them once.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pairsieve.filters._cache import Arrays, mapped
from pairsieve.filters._match_ends import spaced_ends
from pairsieve.filters._match_tables import Bytes, Ids, Substrings, Words, padded_buffers
from pairsieve.filters._metadata import Entries, local_path, read_entries
from pairsieve.filters._texts import frozen

Rule = Literal["v1", "v2"]
VERSION = 2
"""Of the tables; raise it where they change for the same metadata."""
ALL = ""
"""The language of entries that have none."""


@dataclass(frozen=True)
class Tables:
    """What finds the entries of one language: those between spaces, and the others."""

    words: Words
    substrings: Substrings | None

    def match(self, texts: pa.Array) -> pa.Array:
        """list<int32>: ids of the entries that each text (string or large_string) holds; null for a null."""
        from pairsieve.filters._match_lists import both

        if texts.null_count:
            texts, missing = texts.fill_null(""), texts.is_null()
        else:
            missing = None
        data, offsets = padded_buffers(texts)
        rows, ids = self.words.match(data, offsets)
        if self.substrings is not None:
            more = self.substrings.match(data, offsets)
            merged, out = np.empty_like(rows), np.empty(len(ids) + len(more[1]), np.int32)
            end = both(frozen(rows), frozen(ids), frozen(more[0]), frozen(more[1]), merged, out)
            ids = out[:end]
            rows = merged
        return lists(rows, pa.array(ids), missing)


def lists(rows: Ids, values: pa.Array, missing: pa.Array | None) -> pa.Array:
    """A list array of its offsets and values, without a copy; null where ``missing`` is true."""
    bitmap = None if missing is None else pc.invert(missing).buffers()[1]
    kind = pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(rows) - 1, [bitmap, pa.py_buffer(rows)], children=[values])


@dataclass(frozen=True)
class Matcher:
    """The tables of a metadata file by language; of the language '' where they are not kept apart."""

    tables: dict[str, Tables]

    @classmethod
    def load(cls, path: str, rule: Rule, by_language: bool = False) -> "Matcher":
        """From the cache, or the file; raises ``UserError`` where it cannot be used."""
        file = local_path(path)
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()
        what = f"tables of matching {VERSION}, {rule}, {by_language}, {content}, {file.suffix.lower()}"
        arrays = mapped(what, (), lambda: dict(_built(read_entries(path), rule, by_language)))
        names = json.loads(arrays["languages"].tobytes())
        return cls({name: _opened(arrays, f"{i}.") for i, name in enumerate(names)})

    def match(self, texts: pa.Array, language: str = ALL) -> pa.Array:
        """list<int32>: ids of the entries that each text holds; null for a null."""
        return self.tables[language].match(texts)

    def match_each(self, texts: pa.Array, languages: pa.Array) -> pa.Array:
        """As ``match`` with the language of each text; where it is null nothing matches."""
        encoded = languages.dictionary_encode("encode")
        code, parts, places = encoded.indices.to_numpy(), [], []
        for i, name in enumerate(encoded.dictionary.to_pylist()):
            places.append(np.flatnonzero(code == i))
            own = texts if len(places[-1]) == len(texts) else texts.take(pa.array(places[-1]))
            parts.append(_nothing(own) if name is None else self.match(own, name))
        if len(parts) == 1:
            return parts[0]
        back = np.empty(len(texts), np.int64)
        back[np.concatenate([np.empty(0, np.int64), *places])] = np.arange(len(texts))
        return pa.concat_arrays([pa.array([], pa.list_(pa.int32())), *parts]).take(pa.array(back))


def _nothing(texts: pa.Array) -> pa.Array:
    """Empty lists; null for a null."""
    missing = texts.is_null() if texts.null_count else None
    return lists(np.zeros(len(texts) + 1, np.int32), pa.array([], pa.int32()), missing)


def _opened(arrays: Arrays, prefix: str) -> Tables:
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return Tables(Words.of(own), Substrings.of(own) if "states" in own else None)


def _built(entries: Entries, rule: Rule, by_language: bool) -> Iterator[tuple[str, Any]]:
    """The arrays of all languages, by name."""
    data, offsets = padded_buffers(entries.text)
    ends = _ends(entries.text, rule)
    names = entries.languages if by_language else (ALL,)
    yield "languages", np.frombuffer(json.dumps(names).encode(), np.uint8)
    for i, (ids, _) in enumerate(zip(_ids(entries, by_language), names, strict=True)):
        for name, array in _arrays(data, offsets, ids, ends).items():
            yield f"{i}.{name}", array


def _arrays(data: Bytes, offsets: Any, ids: Ids, ends: Bytes) -> dict[str, Any]:
    """The tables of one language, whose entries are ``ids``."""
    is_word = ends[ids] == 3
    found = Words.build(data, offsets, frozen(ids[is_word]))
    if not is_word.all():
        found |= Substrings.build(data, offsets, frozen(ids[~is_word]), ends)
    return found


def _ends(text: pa.Array, rule: Rule) -> Bytes:
    """1 for an entry with a space before it, 2 behind it, 3 both."""
    if rule == "v1":
        return frozen(np.full(len(text), 3, np.uint8))
    before, behind = spaced_ends(text)
    return frozen((before + 2 * behind).astype(np.uint8))


def _ids(entries: Entries, by_language: bool) -> Iterator[Ids]:
    """The entries of each language, ascending."""
    if not by_language or entries.language is None:
        yield np.arange(len(entries.text), dtype=np.int32)
        return
    code = entries.language.dictionary_encode().indices.to_numpy()
    order = np.argsort(code, kind="stable").astype(np.int32)
    yield from np.split(order, np.cumsum(np.bincount(code))[:-1])
