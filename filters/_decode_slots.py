"""Images whose captions are being written: a fixed number of slots, an image's captions beside each other in one.

Every step computes the next token of all captions in all slots; an image that is done leaves its slot to the next, so
that slots are full but at the end.  Shapes never change, so a caption's bits do not depend on what else is there; the
numbers that it draws by are given with its image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._decode import Decoding, drawn, greedy, processed
from pairsieve.filters._decode_beams import Beams, advance, best
from pairsieve.filters._decode_tree import Begun, Tree

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
LEAST_ROWS = 4
"""A product of fewer rows takes another way through a CPU's library, with other last bits (see ``_clip``)."""


class Writer(Protocol):
    """A model that writes: what ``Slots`` needs of it."""

    prompt: Sequence[int]
    """Tokens of the prompt, which the repetition penalty counts: each once."""
    ends: Sequence[int]
    """Tokens that end a caption."""
    barred: Sequence[int]
    """Tokens that may not come before the least length."""

    def step(self, ids: "torch.Tensor", positions: "torch.Tensor", mask: "torch.Tensor", tree: Tree) -> "torch.Tensor":
        """Logits [slots, rows, vocabulary] after tokens int64[slots, rows]; mask bool[slots, 1, rows, places]."""


@dataclass
class _Slot(Generic[T]):
    """An image on its way."""

    owner: T
    begun: Begun
    numbers: NDArray[np.float64]  # [rows, most]
    written: NDArray[np.int64]  # [rows, most]
    beams: Beams | None
    length: int = 0


class Slots(Generic[T]):
    """Writes captions of images whose prompts take up to ``room`` places."""

    def __init__(self, writer: Writer, decoding: Decoding, slots: int, room: int) -> None:
        """Memory is taken at the first image."""
        self._writer, self._decoding, self._room = writer, decoding, room
        self._rows = decoding.rows
        self._count = max(slots, -(-LEAST_ROWS // self._rows))
        self._slots: list[_Slot[T] | None] = [None] * self._count
        self._tree: Tree | None = None
        self._places = room + self._rows * max(1, decoding.most - 1)
        self._seen = np.zeros((self._count, self._rows, self._places), bool)
        self._fed = np.zeros((3, self._count, self._rows), np.int64)  # tokens, positions, places
        heads = np.array(writer.prompt or [0], np.int64)
        self._head = len(heads)
        self._history = np.broadcast_to(heads[0], (self._count, self._rows, self._head + decoding.most)).copy()
        self._history[:, :, : self._head] = heads
        for slot in range(self._count):
            self._empty(slot)

    @property
    def has_room(self) -> bool:
        """Whether an image can come."""
        return None in self._slots

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return all(slot is None for slot in self._slots)

    def owners(self) -> list[T]:
        """Of the images that are on their way."""
        return [slot.owner for slot in self._slots if slot is not None]

    def put(self, owner: T, begun: Begun, numbers: NDArray[np.float64]) -> list[tuple[T, list[list[int]]]]:
        """Take an image after its prompt, with the numbers float64[rows, most] that its captions draw by.

        Gives what ``step`` gives: a caption of one token is done at once.
        """
        at = self._slots.index(None)
        if self._tree is None:
            self._tree = Tree.like(begun, self._count, self._places)
        self._tree.plant(at, begun)
        rows, most = self._rows, self._decoding.most
        beams = Beams.of(rows) if self._decoding.kind == "beam" else None
        self._slots[at] = _Slot(owner, begun, numbers, np.zeros((rows, most), np.int64), beams)
        self._seen[at] = False
        self._seen[at, :, : begun.places] = True
        self._history[at, :, self._head :] = self._history[at, 0, 0]
        return self._take([at], begun.logits.expand(1, rows, -1))

    def step(self) -> list[tuple[T, list[list[int]]]]:
        """Compute the next token of everything; gives the images that are done with the tokens of their captions."""
        import torch

        assert self._tree is not None
        device = self._tree.slots.device
        ids, positions, self._tree.at = torch.from_numpy(self._fed).to(device)
        mask = torch.from_numpy(self._seen).to(device)[:, None]
        logits = self._writer.step(ids, positions, mask, self._tree).float()
        return self._take([i for i, slot in enumerate(self._slots) if slot is not None], logits)

    def _take(self, at: list[int], logits: "torch.Tensor") -> list[tuple[T, list[list[int]]]]:
        """Choose the next tokens of the slots, float32[slots or len(at), rows, vocabulary]."""
        if len(logits) != len(at):
            logits = logits[at]
        is_sound = (logits < float("inf")).flatten(1).all(dim=1).cpu().numpy()  # neither NaN nor infinite
        choose = self._choose_beams if self._decoding.kind == "beam" else self._choose
        choose(at, logits)
        done = []
        for i, sound in zip(at, is_sound.tolist(), strict=True):
            if not sound or self._is_done(i):
                slot = self._slots[i]
                assert slot is not None
                done.append((slot.owner, self._texts(slot) if sound else [[] for _ in range(self._decoding.count)]))
                self._slots[i] = None
                self._empty(i)
        return done

    def _choose(self, at: list[int], logits: "torch.Tensor") -> None:
        """One token for each caption."""
        import torch

        slots = [self._slot(i) for i in at]
        found = self._processed(at, slots, logits)
        if self._decoding.kind == "greedy":
            chosen = greedy(found)
        else:
            numbers = np.concatenate([slot.numbers[:, slot.length] for slot in slots])
            chosen = drawn(found, torch.from_numpy(numbers).to(found.device), self._decoding)
        for i, slot, tokens in zip(at, slots, chosen.cpu().numpy().reshape(len(at), self._rows), strict=True):
            self._grow(i, slot, None, tokens)

    def _choose_beams(self, at: list[int], logits: "torch.Tensor") -> None:
        """The best continuations of each image's beams."""
        import torch

        slots = [self._slot(i) for i in at]
        found = self._processed(at, slots, logits.log_softmax(dim=-1)).view(logits.shape)
        running = np.stack([slot.beams.scores for slot in slots if slot.beams])
        ends = frozenset(self._writer.ends)
        values, places = best(found, torch.from_numpy(running).to(found.device), len(ends))
        size = logits.shape[-1]
        for i, slot, value, place in zip(at, slots, values.cpu().numpy(), places.cpu().numpy(), strict=True):
            assert slot.beams is not None
            parents, tokens = advance(slot.beams, value, place, size, ends, self._decoding)
            self._grow(i, slot, np.array(parents), np.array(tokens, np.int64))

    def _processed(self, at: list[int], slots: "list[_Slot[T]]", logits: "torch.Tensor") -> "torch.Tensor":
        import torch

        device, flat = logits.device, logits.flatten(0, 1)
        may_end = np.repeat([slot.length >= self._decoding.least for slot in slots], self._rows)
        history = self._history[at].reshape(len(flat), -1) if self._decoding.penalty != 1 else self._history[:0, 0]
        return processed(
            flat,
            torch.from_numpy(history).to(device),
            torch.from_numpy(may_end).to(device),
            torch.tensor(list(self._writer.barred), device=device),
            self._decoding,
        )

    def _grow(self, i: int, slot: "_Slot[T]", parents: NDArray[np.int64] | None, tokens: NDArray[np.int64]) -> None:
        """Append a token to each row of a slot, which goes on from its parent."""
        t = slot.length
        if parents is not None:
            self._seen[i], self._history[i] = self._seen[i, parents], self._history[i, parents]
        slot.written[:, t] = tokens
        self._history[i, :, self._head + t] = tokens
        slot.length += 1
        if slot.length < self._decoding.most:
            places = self._room + t * self._rows + np.arange(self._rows)
            self._seen[i, np.arange(self._rows), places] = True
            self._fed[0, i], self._fed[1, i], self._fed[2, i] = tokens, slot.begun.position + t, places

    def _is_done(self, i: int) -> bool:
        slot = self._slot(i)
        if slot.length >= self._decoding.most or slot.beams is not None:
            return slot.length >= self._decoding.most or (slot.beams is not None and slot.beams.is_done)
        return bool(np.isin(slot.written[:, : slot.length], self._writer.ends).any(axis=1).all())

    def _texts(self, slot: "_Slot[T]") -> list[list[int]]:
        """The tokens of each caption, up to its end."""
        if slot.beams is not None:
            rows = [tokens for _, tokens in slot.beams.ended[: self._decoding.count]]
        else:
            rows = slot.written[:, : slot.length].tolist()
        found = [_until(row, frozenset(self._writer.ends)) for row in rows]
        return found + [[] for _ in range(self._decoding.count - len(found))]

    def _slot(self, i: int) -> "_Slot[T]":
        slot = self._slots[i]
        assert slot is not None
        return slot

    def _empty(self, i: int) -> None:
        """Rows of an empty slot see themselves only."""
        places = self._room + np.arange(self._rows)
        self._seen[i] = False
        self._seen[i, np.arange(self._rows), places] = True
        self._fed[:2, i], self._fed[2, i] = 0, places


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens before the first end."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
