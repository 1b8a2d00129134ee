"""The export for Hugging Face's ``datasets``: Parquet files whose schema says that ``image`` is an image.

Image bytes are stored as they are, neither compressed nor in a dictionary; row groups are those of the run, about 8 MB.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.export_cut import Part
from pairsieve.pipelines.export_parts import Samples, Writer
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.schemas import columns
from pairsieve.schemas.columns import IMAGE

FOLDER = "data"
IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""What ``datasets.Image()`` is stored as."""
PART_BYTES = 500_000_000
"""Of a file, as ``datasets`` cuts them."""


@dataclass
class Tables(Writer):
    """Write ``data/train-00000-of-00012.parquet`` and so on."""

    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))

    def name_of(self, part: Part) -> str:
        """As the Hub numbers files."""
        return table_name(part.index, part.of)

    def write(self, part: Part) -> FileEntry:
        """One file; its digest is made of it once it is whole, from the page cache."""
        name = self.name_of(part)
        with self.out.create(name, exclusive=False) as file:
            # not through ``file``: Arrow writes a path without passing through Python
            with (
                pa.OSFile(f"/dev/fd/{file.fileno()}", "wb") as sink,
                pq.ParquetWriter(sink, self.schema, **packing(self.schema)) as writer,
            ):
                for table in self._tables(part):
                    writer.write_table(table, row_group_size=len(table))
            digest, size = digest_of(file)
        return FileEntry(file=name, rows=part.rows, size=size, sha256=digest)

    def _tables(self, part: Part) -> Iterator[pa.Table]:
        for samples in self.samples(part):
            found = [self._column(samples, one) for one in self.schema]
            yield pa.table(found, schema=self.schema)

    def _column(self, samples: Samples, column: pa.Field) -> Any:
        values = samples.table[column.name]
        if column.name != IMAGE:
            return values.cast(column.type)
        images = values.cast(pa.binary()).combine_chunks()
        paths = [f"{key}.{ending}" for key, (ending, _) in zip(samples.keys, samples.images(), strict=True)]
        return pa.StructArray.from_arrays([images, pa.array(paths, pa.string())], fields=list(IMAGE_TYPE))


def digest_of(file: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and size of an open file."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def table_name(index: int, of: int) -> str:
    """The Hub's way to number files."""
    return f"{FOLDER}/train-{index:05d}-of-{of:05d}.parquet"


def schema_of(kinds: dict[str, pa.DataType]) -> pa.Schema:
    """Of the files: the columns that ``datasets`` can hold, none of them required."""
    found = {name: IMAGE_TYPE if name == IMAGE else _plain(kind) for name, kind in kinds.items()}
    fields = [pa.field(name, kind) for name, kind in found.items() if kind is not None]
    told = {"info": {"features": {IMAGE: {"_type": "Image"}}}} if IMAGE in kinds else {}
    return pa.schema(fields, metadata={"huggingface": json.dumps(told)} if told else None)


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """The type that ``datasets`` stores it as; None for maps and unions, which it has none for."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _plain(kind.value_type)
        if inner is None:
            return None
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(one.name, _plain(one.type)) for one in kind]
        return pa.struct(fields) if fields and all(inner is not None for _, inner in fields) else None
    return None if pa.types.is_nested(kind) or pa.types.is_null(kind) else kind


def packing(schema: pa.Schema) -> dict[str, Any]:
    """As a run's own files are packed; and in pages cut by content, so that the Hub stores what did not change once."""
    found = columns.packing(schema)
    found["compression"] = found["compression"] | {f"{IMAGE}.bytes": "none"}
    return found | {"write_page_index": True, "use_content_defined_chunking": True}
