"""The export for open_clip and everything that reads webdataset: USTAR tars of equal size, and ``sizes.json``.

Bytes that depend on the samples alone: no time, no owner, no PAX record.  Cost: an image is read, hashed and written.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from pairsieve.pipelines.export_cut import Part
from pairsieve.pipelines.export_parts import Samples, Writer
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.tar_write import entry, tail


@dataclass
class Tars(Writer):
    """Write ``00000000.tar`` and so on; ``fields`` are the columns of the json, if there is one."""

    fields: tuple[str, ...] = ()

    def name_of(self, part: Part) -> str:
        """``00000012.tar``."""
        return tar_name(part.index)

    def write(self, part: Part) -> FileEntry:
        """One tar."""
        name = self.name_of(part)
        digest, size, rows = hashlib.sha256(), 0, 0
        with self.out.create(name, exclusive=False) as file:
            for samples in self.samples(part):
                rows += len(samples.keys)
                for piece in self._pieces(samples):
                    digest.update(piece)
                    size += file.write(piece)
            end = tail(size)
            digest.update(end)
            size += file.write(end)
        return FileEntry(file=name, rows=rows, size=size, sha256=digest.hexdigest())

    def _pieces(self, samples: Samples) -> Iterator[bytes]:
        told = samples.table.select(self.fields).to_pylist() if self.fields else None
        for i, (ending, image) in enumerate(samples.images()):
            members: list[tuple[str, Any]] = [(ending, image), ("txt", samples.captions[i].encode())]
            if told is not None:
                members.append(("json", as_json(told[i])))
            yield from entry(samples.keys[i], members)


def tar_name(index: int) -> str:
    """``00000012.tar``."""
    return f"{index:08d}.tar"


def count_of(rows: int, rows_per_shard: int, loaders: int) -> int:
    """How many tars: none larger than asked, and as many for each of training's loaders."""
    return -(-rows // (rows_per_shard * loaders)) * loaders


def sizes(files: Sequence[FileEntry]) -> dict[str, int]:
    """``sizes.json``, in which open_clip looks for the samples of each tar."""
    return {one.file: one.rows for one in files}


def as_json(fields: dict[str, Any]) -> bytes:
    """One line of strict JSON: what is no number there is null, times are texts."""
    return json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, date | datetime | time | timedelta | Decimal) else value
