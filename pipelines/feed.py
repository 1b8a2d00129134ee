"""The training loader: a run's dataset as a stream of batches, in an order that is exact to the row and can be resumed.

The order is a pure function of the manifest, the weights, the seed and the epoch (``feed_order``), and so is who hands
out which rows (``feed_plan``).  Cost beyond decoding: some 25 CPU-µs an image of 26 KB.  Memory of each worker:
``window_bytes`` of row groups, or four groups where that is more, and the batches in flight.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from pairsieve.filters._preprocess import Preprocess, normalised
from pairsieve.pipelines.feed_decode import Crop, Pictures
from pairsieve.pipelines.feed_order import Order
from pairsieve.pipelines.feed_plan import Pieces, Topology, after, divide, remaining, rows_of, whole
from pairsieve.pipelines.feed_read import Reader
from pairsieve.pipelines.feed_source import open_source
from pairsieve.pipelines.feed_state import Identity, check_pieces, loaded, saved
from pairsieve.pipelines.feed_texts import Wanted
from pairsieve.pipelines.feed_weights import read_weights
from pairsieve.pipelines.feed_window import windows
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import MissingExtraError, PairsieveError, UserError

try:
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info
except ImportError as error:
    raise MissingExtraError("PairDataset needs torch: pip install 'pairsieve[train]'") from error

from pairsieve.pipelines.feed_batch import (
    Batch,
    Called,
    Columns,
    Decoded,
    Decoder,
    Group,
    Images,
    NoImages,
    Packed,
    batches,
)

Colours = tuple[tuple[float, float, float], tuple[float, float, float]]
Tokenizer = Callable[[list[str]], Any]
CLIP_COLOURS: Colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of OpenAI's CLIP."""
WINDOW_BYTES = 256_000_000


class PairDataset(IterableDataset[dict[str, Any]]):
    """Batches of a dataset that a run has written.

    ``path`` is a run, or its ``dataset/`` folder, local or any fsspec URL.  A batch is a dict: ``image``, ``text``,
    ``uid``, the further ``columns``, and ``broken``, how many of its rows stand for one whose image is.

    Iterating goes through what is left of the epoch; then the next epoch stands ready.  An iteration that was left goes
    on where it was.  With ``workers`` it runs a torch ``DataLoader`` over copies of itself; ``state_dict`` then counts
    the batches that it has handed out.  In a ``DataLoader(data, batch_size=None, num_workers=n)`` of your own each
    worker takes its share; call ``set_epoch`` before each epoch, and save ``state_dict(batches=done, workers=n)``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 256,
        image_size: int = 224,
        decode: Literal["exact", "fast", "bytes"] | Decoder | None = "exact",
        crop: Crop = "random",
        scale: tuple[float, float] = (0.9, 1.0),
        normalize: bool | Colours = False,
        text: str | Sequence[str] | None = None,
        pick: str | None = None,
        draw: Literal["weighted", "first"] = "weighted",
        tokenizer: Tokenizer | None = None,
        columns: Sequence[str] = (),
        weights: str | None = None,
        workers: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        drop_last: bool = False,
        shuffle: bool = True,
        window_bytes: int = WINDOW_BYTES,
        verify: bool = False,
    ) -> None:
        """Read the manifest, and the weights where there are any; raises ``UserError`` for what cannot be.

        Args:
            path: a run or its dataset folder.
            batch_size: pairs of a batch on each rank; the last one of an epoch may be smaller, unless ``drop_last``.
            image_size: side of the pictures.
            decode: ``exact`` or ``fast`` (large JPEGs are decoded small) to uint8[n, 3, side, side]; ``bytes`` to one
                uint8 tensor and ``offsets``; a function of (bytes, a key of 64 random bits); None for texts alone.
            crop: ``random`` as open_clip trains, keyed by seed, epoch and row, or ``center``.
            scale: shares of the area that a random crop keeps.
            normalize: float32 pictures by CLIP's mean and standard deviation, or by your own; else uint8.
            text: column of texts, or several that hold a pair's; by default ``texts`` where ``choose`` has written it,
                else ``text``.  Of several texts one is drawn in each epoch.
            pick: column of integers that say which of the texts it is, such as ``metadata_balance_caption``.
            draw: ``weighted``, or the ``first`` text that is not null.
            tokenizer: makes ``batch["text"]`` of a list of texts.
            columns: further columns of the dataset: floats as tensors, others as lists.
            weights: column that says how often a row comes in an epoch on average.
            workers: processes that read and decode; 0 for this one.
            seed: of the order, the crops and the draws.
            rank: of this process; by default torch.distributed's, else the environment's RANK, else 0.
            world: number of ranks; by default torch.distributed's, else the environment's WORLD_SIZE, else 1.
            drop_last: leave out the last batch of an epoch where it is smaller.
            shuffle: else rows come as they lie.
            window_bytes: memory of each worker for row groups.
            verify: check the checksums of what is read.
        """
        self._source = open_source(os.fspath(path))
        self._columns = Columns(self._wanted(text, pick, draw), tuple(columns), decode is not None)
        self._check_columns()
        self.batch_size, self.workers = _at_least(1, "batch_size", batch_size), _at_least(0, "workers", workers)
        self.drop_last, self.verify, self._tokenizer = drop_last, verify, tokenizer
        self.rank, self.world = _place(rank, world)
        self._decode = _decoding(decode, Pictures(_at_least(1, "image_size", image_size), crop, scale))
        self._finish = _finishing(normalize)
        held = _at_least(1, "window_bytes", window_bytes)
        self._identity = Identity(
            dataset=self._source.manifest.fingerprint,
            seed=_at_least(0, "seed", seed) % 2**63,
            window_bytes=held,
            shuffle=shuffle,
            weights=weights,
        )
        self._weights = None if weights is None else read_weights(self._source, weights)
        self.broken, self._is_ours, self._iteration = 0, False, 0
        self._pieces: Pieces | None = None  # what was left when the iteration, or the loader's worker, began
        self._begun: tuple[int, Pieces | None] = 0, None  # from which ``state_dict(batches=…)`` counts
        self._stand(0, None)
        self._known_order: Order | None = None

    # --- settings ---

    def _wanted(self, text: str | Sequence[str] | None, pick: str | None, draw: str) -> Wanted:
        if text is None:
            text = "texts" if "texts" in self._source.manifest.columns else "text"
        if draw not in ("weighted", "first"):
            raise UserError(f"draw: {draw!r} is neither 'weighted' nor 'first'")
        names = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"text: {text!r} names no column; give the name of one, or a list of names")
        return Wanted(names, pick, draw == "first")

    def _check_columns(self) -> None:
        columns = self._columns
        for name in columns.texts.columns:
            self._source.require(name, "text")
        for name in columns.others:
            self._source.require(name, "columns")
        if columns.texts.pick is not None:
            kind = self._source.require(columns.texts.pick, "pick")
            if not kind.startswith(("int", "uint")):
                raise UserError(f"pick: column {columns.texts.pick!r} is {kind}, not integers; name another column")
        if columns.has_image and IMAGE not in self._source.manifest.columns:
            raise UserError(f"{self._source.root} holds no images; decode=None gives its texts")
        if taken := {"image", "offsets", "text", "uid", "broken"} & set(columns.others):
            raise UserError(f"columns: {min(taken)!r} is in every batch; leave it out")

    # --- position ---

    def __len__(self) -> int:
        """Batches that are left of the epoch, on each rank."""
        return self._topology(self.workers).batches(rows_of(self._here())) - self._given

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; of the same one nothing changes, so that a position that was loaded stays."""
        if epoch != self.epoch:
            self._stand(_at_least(0, "epoch", epoch), None)
        elif epoch != self._begun[0]:  # it came by itself
            self._begun = self.epoch, self._pieces

    def _stand(self, epoch: int, pieces: Pieces | None, given: int = 0) -> None:
        """Take a position, which iterations that are open do not move any more."""
        self.epoch, self._given = epoch, given
        self._pieces = pieces
        self._begun = epoch, pieces
        self._iteration += 1

    def state_dict(self, batches: int | None = None, workers: int | None = None) -> dict[str, Any]:
        """The position as plain numbers, the same on every rank.

        Any number of ranks and workers loads it, with any batch size.  It counts batches that this object has handed
        out; where a loader of your own has, say how many since the epoch began or a state was loaded, and by how many
        workers.
        """
        if (info := get_worker_info()) is not None:
            return saved(self._identity, self.epoch, self._pieces, self._given, (info.id, info.num_workers))
        topology = self._topology(self.workers if workers is None else _at_least(0, "workers", workers))
        epoch, pieces = (self.epoch, self._pieces) if batches is None else self._begun
        steps = self._given if batches is None else _at_least(0, "batches", batches)
        if not steps:
            return saved(self._identity, epoch, pieces)
        left = self._left(epoch, pieces)
        if steps >= topology.batches(rows_of(left)):
            return saved(self._identity, epoch + 1, None)
        return saved(self._identity, epoch, after(left, topology, steps))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved; raises ``UserError`` for one of another dataset, seed, window or weights."""
        found = loaded(state, self._identity)
        info = get_worker_info()
        if found.worker is not None and (info is None or (info.id, info.num_workers) != found.worker):
            raise UserError("load_state_dict: a loader's worker has saved this; load it by a loader of as many workers")
        if found.left is not None:
            check_pieces(found.left, self._order_of(found.epoch).rows)
        self._stand(found.epoch, found.left, found.given)

    def _topology(self, workers: int) -> Topology:
        return Topology(self.world, max(1, workers), self.batch_size, self.drop_last)

    def _left(self, epoch: int, pieces: Pieces | None) -> Pieces:
        """The pieces, or the whole epoch."""
        return (whole(0, self._order_of(epoch).rows),) if pieces is None else pieces

    def _here(self) -> Pieces:
        """What was left of the epoch when it was last begun or loaded."""
        return self._left(self.epoch, self._pieces)

    def _order_of(self, epoch: int) -> Order:
        if self._known_order is None or self._known_order.epoch != epoch:
            layout, own = self._source.layout, self._identity
            window = layout.window(own.window_bytes)
            self._known_order = Order(layout, own.seed, epoch, window, own.shuffle, self._weights)
        return self._known_order

    # --- batches ---

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of what is left of the epoch."""
        info = get_worker_info()
        if info is None:
            self._settle()
        self._iteration += 1
        iteration = self._iteration  # an older one, and one before another position, moves nothing
        if info is None:
            given = self._loader() if self.workers else self._share(0, 1)
        else:
            given = self._told(info.id, info.num_workers) if self._is_ours else self._share(info.id, info.num_workers)
        for batch in given:
            if info is None and "error" in batch:
                raise batch["error"]
            self._given += iteration == self._iteration
            self.broken += batch["broken"]
            yield batch
        if iteration == self._iteration:
            self._go_on()

    def _settle(self) -> None:
        """Take what is left now for what there was; an epoch whose last batch has been taken is over."""
        topology = self._topology(self.workers)
        if self._given and self._given == topology.batches(rows_of(self._here())):
            self._go_on()
        if self._given:
            self._pieces, self._given = after(self._here(), topology, self._given), 0
        if self._begun[0] != self.epoch:
            self._begun = self.epoch, self._pieces

    def _go_on(self) -> None:
        """To the next epoch; ``state_dict(batches=…)`` counts from where this one began, until the next does."""
        self.epoch, self._pieces, self._given = self.epoch + 1, None, 0

    def _loader(self) -> Iterator[dict[str, Any]]:
        """Batches of workers that have copies of this."""
        self._order_of(self.epoch).ends  # noqa: B018 (counted once, here, not by every worker)
        if isinstance(self._decode, Pictures):
            self._decode.prepare()
        worker = copy.copy(self)
        worker._is_ours = True
        yield from DataLoader(worker, batch_size=None, num_workers=self.workers)

    def _told(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """A share; an error goes to the main process as it is, not as torch's traceback of a traceback."""
        try:
            yield from self._share(worker, workers)
        except PairsieveError as error:
            yield {"error": error, "broken": 0}

    def _share(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """Batches of one worker's share."""
        division = divide(self._here(), self._topology(workers))
        share = remaining(division.shares[self.rank][worker], self._given * self.batch_size)
        order, reader = self._order_of(self.epoch), Reader(self._source, self._columns.needed, self.verify)

        def read(slot: int) -> Group:
            return Group(*reader.group(int(order.groups[slot])), self._columns)

        return batches(windows(order, share, read), rows_of(share), self.batch_size, self._begin)

    def _begin(self, rows: int) -> Batch:
        return Batch(rows, self._images(rows), self._tokenizer)

    def _images(self, rows: int) -> Images:
        if isinstance(self._decode, Pictures):
            return Decoded(rows, self._decode, self._finish)
        if self._decode is None:
            return NoImages()
        return Packed(rows) if self._decode == "bytes" else Called(self._decode)


def _decoding(decode: Any, pictures: Pictures) -> Any:
    """What makes something of images: pictures, ``bytes``, a function, or None."""
    if decode is None or decode == "bytes" or (callable(decode) and not isinstance(decode, str)):
        return decode
    if decode not in ("exact", "fast"):
        raise UserError(f"decode: {decode!r} is none of 'exact', 'fast' and 'bytes', nor a function, nor None")
    if pictures.crop not in ("random", "center"):
        raise UserError(f"crop: {pictures.crop!r} is neither 'random' nor 'center'")
    low, high = pictures.scale
    if not 0 < low <= high <= 1:
        raise UserError(f"scale: {pictures.scale} are not shares of an image's area, such as (0.9, 1.0)")
    missing = [name for name in ("numba", "simplejpeg") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"decoding needs {', '.join(missing)}: pip install 'pairsieve[train]'")
    return Pictures(pictures.size, pictures.crop, pictures.scale, decode == "fast")


def _finishing(normalize: bool | Colours) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is done to a batch of pictures, uint8[n, 3, side, side]."""
    if normalize is False:
        return _as_it_is
    mean, std = CLIP_COLOURS if normalize is True else _colours(normalize)
    return partial(normalised, wanted=Preprocess((1, 1), mean, std), dtype=torch.float32)


def _colours(given: Any) -> Colours:
    """Mean and standard deviation of three colours; raises ``UserError`` for anything else."""
    try:
        mean, std = (tuple(float(number) for number in side) for side in given)
    except (TypeError, ValueError):
        mean = std = ()
    if len(mean) != 3 or len(std) != 3 or not np.isfinite((*mean, *std)).all() or min(std) <= 0:
        raise UserError(f"normalize: {given!r} is neither True nor False, nor ((mean of R, G, B), (their deviation))")
    return mean, std


def _as_it_is(batch: torch.Tensor) -> torch.Tensor:
    return batch


def _at_least(least: int, name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name}: {value!r} is no whole number of {least} or more")
    return int(value)


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of ranks; raises ``UserError`` for a rank that is none of them."""
    if (rank is None) != (world is None):
        raise UserError("give both 'rank' and 'world', or neither")
    if rank is None or world is None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            rank, world = distributed.get_rank(), distributed.get_world_size()
        else:
            rank, world = (_from_environment(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    rank, world = _at_least(0, "rank", rank), _at_least(1, "world", world)
    if rank >= world:
        raise UserError(f"rank {rank} of {world}: ranks are 0 to world - 1")
    return rank, world


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UserError(f"the environment's {name} is {value!r}, no number; unset it, or give 'rank' and 'world'")
    return int(value)
