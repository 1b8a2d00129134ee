"""Rows put together to batches: pictures decoded into one tensor, or encoded images packed into one.

A row whose image gives no picture is replaced by the next row of its row group whose image does, image, text and all,
so that every batch has its size and a run its batches; which row that is depends on neither batches nor workers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pairsieve.pipelines.feed_decode import DRAWS, Pictures
from pairsieve.pipelines.feed_memory import new_bytes
from pairsieve.pipelines.feed_order import Entries, Hashes
from pairsieve.pipelines.feed_pages import Values
from pairsieve.pipelines.feed_texts import Texts, Wanted
from pairsieve.schemas import uid
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import UserError

Draws = NDArray[np.float64]
Decoder = Callable[[bytes, int], Any]


@dataclass(frozen=True)
class Columns:
    """What of a dataset goes into batches."""

    texts: Wanted
    others: tuple[str, ...]
    has_image: bool

    @property
    def needed(self) -> list[str]:
        """The columns to read."""
        images = [IMAGE] if self.has_image else []
        return list(dict.fromkeys(["uid", *images, *self.texts.needed, *self.others]))


class Group:
    """A row group in memory."""

    def __init__(self, table: pa.Table, images: Values | None, columns: Columns) -> None:
        """Take the table apart; the images may have been read by themselves."""
        self.uids: list[str] = table["uid"].to_pylist()
        self.texts = Texts(table, columns.texts)
        self.others = {name: _values(table[name]) for name in columns.others}
        self.images = images or (_binary(table[IMAGE]) if columns.has_image else _none(len(table)))


def _none(rows: int) -> Values:
    """Where no images are read."""
    return Values(np.zeros(0, np.uint8), [0] * rows, [0] * rows)


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """Floats as an array, NaN for null; all else as Python has it."""
    return column.to_numpy() if pa.types.is_floating(column.type) else column.to_pylist()  # type: ignore[no-any-return]


def _binary(column: pa.ChunkedArray) -> Values:
    """The values of a binary column, where they lie."""
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    _, offsets, data = array.buffers()
    kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    ends: list[int] = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1].tolist()
    return Values(np.frombuffer(data or b"", np.uint8), ends, ends[1:])


class Images(Protocol):
    """The images of one batch, each of which may take some ``draws``."""

    draws: int

    def add(self, data: NDArray[np.uint8], draws: Draws, key: int) -> bool:
        """Take another image; false where it is broken."""

    def settle(self) -> None:
        """Let go of memory that is not the batch's own."""

    def tensors(self) -> dict[str, Any]:
        """What the batch holds of them."""


class Decoded:
    """Pictures: ``image``, uint8[n, 3, size, size]."""

    draws = DRAWS

    def __init__(self, rows: int, pictures: Pictures, finish: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Memory for so many."""
        self._pictures, self._finish, self._count = pictures, finish, 0
        self._out = new_bytes(rows, 3, pictures.size, pictures.size)
        self._into = self._out.numpy()

    def add(self, data: NDArray[np.uint8], draws: Draws, key: int) -> bool:
        """See ``Images``."""
        found = self._pictures.picture(data, draws)
        if found is not None:
            self._into[self._count] = found
            self._count += 1
        return found is not None

    def settle(self) -> None:
        """Nothing is held."""

    def tensors(self) -> dict[str, Any]:
        """See ``Images``."""
        return {"image": self._finish(self._out[: self._count])}


class Packed:
    """Encoded images one after another: ``image``, uint8[bytes]; ``offsets``, int64[n + 1], where each begins."""

    draws = 0

    def __init__(self, rows: int) -> None:
        """Of so many rows none yet."""
        self._rows, self._views, self._ends = rows, list[NDArray[np.uint8]](), [0]
        self._out, self._copied = torch.empty(0, dtype=torch.uint8), 0

    def add(self, data: NDArray[np.uint8], draws: Draws, key: int) -> bool:
        """See ``Images``."""
        if len(data):
            self._views.append(data)
            self._ends.append(self._ends[-1] + len(data))
        return len(data) > 0

    def settle(self) -> None:
        """Copy what lies in row groups."""
        if self._views:
            self._reserve(self._ends[-1])
            np.concatenate(self._views, out=self._out.numpy()[self._copied : self._ends[-1]])
            self._views, self._copied = [], self._ends[-1]

    def _reserve(self, size: int) -> None:
        """Room for the bytes so far; where rows are to come, for what they may need, so that few copies are made."""
        if size > len(self._out):
            count = len(self._ends) - 1
            wanted = size if count == self._rows else size + int(1.1 * size / count * (self._rows - count))
            larger = new_bytes(wanted)
            larger[: self._copied] = self._out[: self._copied]
            self._out = larger

    def tensors(self) -> dict[str, Any]:
        """See ``Images``."""
        self.settle()
        return {"image": self._out[: self._copied], "offsets": torch.tensor(self._ends)}


class Called:
    """What a function of the user's makes of each image: stacked where it is tensors or arrays, else a list."""

    draws = 0

    def __init__(self, decode: Decoder) -> None:
        """Nothing yet."""
        self._decode, self._found, self.error = decode, list[Any](), ""

    def add(self, data: NDArray[np.uint8], draws: Draws, key: int) -> bool:
        """See ``Images``."""
        try:
            self._found.append(self._decode(data.tobytes(), key))
        except Exception as error:  # whatever it raises, the image is broken for it
            self.error = f" ({type(error).__name__}: {error})"
            return False
        return True

    def settle(self) -> None:
        """Nothing is held."""

    def tensors(self) -> dict[str, Any]:
        """See ``Images``."""
        first = self._found[0]
        if isinstance(first, torch.Tensor):
            return {"image": torch.stack(self._found)}
        return {"image": torch.from_numpy(np.stack(self._found)) if isinstance(first, np.ndarray) else self._found}


class NoImages:
    """A batch of texts."""

    draws = 0

    def add(self, data: NDArray[np.uint8], draws: Draws, key: int) -> bool:
        """See ``Images``."""
        return True

    def settle(self) -> None:
        """Nothing is held."""

    def tensors(self) -> dict[str, Any]:
        """See ``Images``."""
        return {}


@dataclass
class Batch:
    """Rows of one batch, as they come."""

    size: int
    images: Images
    tokenizer: Callable[[list[str]], Any] | None
    uids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    others: dict[str, list[Any]] = field(default_factory=dict)
    broken: int = 0

    @property
    def missing(self) -> int:
        """How many rows it still takes."""
        return self.size - len(self.uids)

    def extend(self, entries: Entries, groups: Mapping[int, Group]) -> None:
        """Take some rows; nothing of their groups is held on to.  Raises ``UserError`` where no image is whole."""
        draws = draws_of(entries.hashes, 1 + self.images.draws)
        for slot, row, key, numbers in zip(*(a.tolist() for a in entries), draws, strict=True):
            group = groups[slot]
            if not self.images.add(group.images[row], numbers[1:], key):
                row = self._replaced(group, row, numbers[1:], key)
            self.uids.append(group.uids[row])
            self.texts.append(group.texts.of(row, numbers[0]))
            for name, values in group.others.items():
                self.others.setdefault(name, []).append(values[row])
        if self.missing:
            self.images.settle()

    def _replaced(self, group: Group, row: int, draws: Draws, key: int) -> int:
        """The next row of the group whose image is not broken, which has been taken."""
        self.broken += 1
        for other in (*range(row + 1, len(group.uids)), *range(row)):
            if self.images.add(group.images[other], draws, key):
                return int(other)
        why = getattr(self.images, "error", "")
        raise UserError(
            f"no image of a whole row group can be decoded, that of uid {group.uids[row]} among them{why}; "
            "check 'decode', or look at one with decode='bytes'"
        )

    def finish(self) -> dict[str, Any]:
        """The batch as it is handed out."""
        text: Any = self.texts if self.tokenizer is None else self.tokenizer(self.texts)
        others = {name: _joined(values) for name, values in self.others.items()}
        return {**self.images.tensors(), "text": text, "uid": self.uids, **others, "broken": self.broken}


def _joined(values: list[Any]) -> Any:
    """A tensor of floats of one column, of its own type; other values as a list."""
    return torch.from_numpy(np.array(values)) if isinstance(values[0], np.floating) else values


def batches(
    stream: Iterable[tuple[Entries, Mapping[int, Group]]], rows: int, size: int, begin: Callable[[int], Batch]
) -> Iterator[dict[str, Any]]:
    """What comes, in batches of ``size``; the last of the ``rows`` may be a smaller one."""
    batch = begin(min(size, rows))
    for entries, groups in stream:
        at = 0
        while at < len(entries.rows):
            taken = min(batch.missing, len(entries.rows) - at)
            batch.extend(entries.pick(slice(at, at + taken)), groups)
            at += taken
            if not batch.missing:
                rows -= batch.size
                yield batch.finish()
                batch = begin(min(size, rows))
        del entries, groups  # the next ones are being read


def draws_of(hashes: Hashes, count: int) -> Draws:
    """float64[n, count] in [0, 1): what each row's text is drawn by, then its crop."""
    items = np.arange(1, count + 1, dtype=np.uint64)
    return uid.fractions(uid.item_hash(hashes[:, None], items))
