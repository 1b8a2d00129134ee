"""The export for open_clip's csv dataset: image files, and a tab-separated list of paths and captions.

open_clip reads the list with pandas, which takes some texts for something else: ``NA`` or ``null`` for no value
(training would see *nan*), ``007`` for a number where all are numbers.  Such a caption gets a no-break space at its
end, which open_clip's tokenizers strip.  A null character would end a caption, and becomes a space.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pairsieve.pipelines.export_cut import Part
from pairsieve.pipelines.export_parts import Samples, Writer
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.schemas.errors import DamagedFileError

LIST, IMAGES = "train.csv", "images"
HEADER = b"filepath\ttitle\n"
STRIPPED = "\u00a0"
"""No-break space."""
_NO_VALUES = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    }
)
"""What pandas.read_csv takes for a missing value."""


@dataclass
class Files(Writer):
    """Write ``images/00000`` and so on, with the lines of each in ``folder`` until all are done."""

    prefix: str = ""

    def name_of(self, part: Part) -> str:
        """``images/00012``."""
        return f"{IMAGES}/{part.index:05d}"

    def write(self, part: Part) -> FileEntry:
        """One folder of images.  All reach the disk before the note that they are there."""
        name = self.name_of(part)
        self.out.remove(name)  # what a stopped export left
        folder = Path(self.out.path(name))
        folder.mkdir(parents=True)
        lines, size, rows = io.StringIO(), 0, 0
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        for samples in self.samples(part):
            rows += len(samples.keys)
            for file, image, caption in _files(samples):
                size += (folder / file).write_bytes(image)
                writer.writerow((f"{self.prefix}{name}/{file}", as_title(caption)))
        content = lines.getvalue().encode("utf-8", "surrogateescape")
        self.out.write(self._lines_name(part.index), content)
        os.sync()
        return FileEntry(file=name, rows=rows, size=size, sha256=hashlib.sha256(content).hexdigest())

    def is_whole(self, entry: FileEntry) -> bool:
        """Whether the images are there, as long as they were, and while the export goes on their lines too."""
        sizes = self.out.sizes(entry.file)
        has_images = len(sizes) == entry.rows and sum(sizes.values()) == entry.size
        return has_images and (not self.folder or self._lines(entry) is not None)

    def finish(self, files: Sequence[FileEntry]) -> None:
        """Join the lines of all parts."""
        with self.out.create(LIST, exclusive=False) as out:
            out.write(HEADER)
            for one in files:
                if (lines := self._lines(one)) is None:
                    raise DamagedFileError(f"{self.out.root}/{one.file}: its lines are damaged; run the command again")
                out.write(lines)

    def _lines(self, entry: FileEntry) -> bytes | None:
        """The lines of a part, if they are as they were written."""
        name = self._lines_name(int(entry.file.rpartition("/")[2]))
        content = self.out.read(name) if self.out.exists(name) else b""
        return content if hashlib.sha256(content).hexdigest() == entry.sha256 else None

    def _lines_name(self, index: int) -> str:
        return f"{self.folder}/{index:05d}.csv"


def _files(samples: Samples) -> Iterator[tuple[str, memoryview, str]]:
    """File name, image, caption."""
    for key, (ending, image), caption in zip(samples.keys, samples.images(), samples.captions, strict=True):
        yield f"{key}.{ending}", image, caption


def as_title(caption: str) -> str:
    """The caption so that pandas reads it as a text, and open_clip's tokenizers find the same tokens in it."""
    text = caption.replace("\0", " ")
    return text + STRIPPED if _is_taken_otherwise(text) else text


def _is_taken_otherwise(text: str) -> bool:
    """Whether pandas takes it for a missing value, a number or a truth value."""
    bare = text.strip()
    if not bare or bare in _NO_VALUES or bare.lower() in ("true", "false"):
        return True
    with suppress(ValueError):
        float(bare)
        return True
    return False
