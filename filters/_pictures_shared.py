"""What several steps of one pass share of an image: its pictures, and a vision tower's output.

``Pictures`` decodes an image once for all steps that opened with it: the first that comes makes the pictures of the
later ones from the same decoding, whatever their models want.  ``Encodings`` runs a tower once for all steps whose
tower has the same weights, pictures and batches.  (BLIP's captioner and its filter are different fine-tunings, so the
two share pictures; two steps with one checkpoint share both.)  What a step gets has the bits that it would have made
alone.

A JPEG of 640×480 (107 KB) costs three steps (384, 384 and 224 pixels) 7 CPU-ms alone; here the first takes 3.3 and the
others 0.03 to 0.06, hashing included.
"""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xxhash

from pairsieve.filters._clip_batches import repeatable
from pairsieve.filters._preprocess import Pixels, Preprocess, pixels
from pairsieve.filters._shared import Reader, Shared, digest
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    import torch

CPU_IMAGES = 1
"""Images that a tower is given at once on a CPU: nothing is padded, and of four a ViT-B/16 takes 1.2 times as long for
each at 384 pixels, 0.9 times at 224 (CPU time, one core); bits are the same."""
CPU_PIXELS, CPU_SMALL_IMAGES = 224 * 224, 16
"""Smaller images are given together, up to so many pixels and so many images: at 64 pixels a captioner of 0.7 million
weights takes 8.7 CPU-ms an image alone and 3.3 in batches, for most of it is calls."""
GPU_IMAGES = 64
"""On a GPU, halved where its memory is too small."""

T = TypeVar("T")
Tower = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class _Kind:
    """How a picture is made."""

    wanted: Preprocess
    fast: bool


def images_at_once(wanted: Preprocess, device: str) -> int:
    """How many pictures a tower is given in one batch: the same for every step that has it, a power of two."""
    if device == "cuda":
        return GPU_IMAGES
    most = max(CPU_IMAGES, min(CPU_SMALL_IMAGES, CPU_PIXELS // (wanted.size[0] * wanted.size[1])))
    return 1 << (most.bit_length() - 1)


class Pictures:
    """The pictures that a step's models want of images; safe in threads."""

    def __init__(self, shared: Shared | None, wanted: Sequence[Preprocess], fast: bool = False) -> None:
        """Join the readers, in ``open``; without a shared memory everything is decoded here."""
        self._wanted, self._fast = tuple(wanted), fast
        self._reader = Reader(shared or Shared(0), [_Kind(one, fast) for one in self._wanted])

    def name(self, data: bytes | None) -> bytes:
        """The digest of an image, for ``Encodings``."""
        return digest(data) if data is not None else b""

    def of(self, data: bytes | None, name: bytes | None = None) -> list[Pixels | str]:
        """For each model the picture, uint8[3, height, width], or why there is none: see ``pixels``.

        ``name`` is the image's digest where that is known already.
        """
        if data is None or not any(isinstance(kind, _Kind) for kind in self._reader.others()):
            return _each(data, self._wanted, self._fast)
        name = name or digest(data)
        found = [self._reader.get(kind, name) for kind in self._reader.kinds]
        lacking = [one for one, held in zip(self._wanted, found, strict=True) if held is None]
        made = self._made(data, name, lacking) if lacking else {}
        return [made[one] if held is None else held for one, held in zip(self._wanted, found, strict=True)]

    def close(self) -> None:
        """Read no more."""
        self._reader.leave()

    def _made(self, data: bytes, name: bytes, lacking: Sequence[Preprocess]) -> dict[Preprocess, Pixels | str]:
        """The pictures that are not held, and with them those that later steps want, which are held."""
        later = [kind.wanted for kind in self._reader.later() if isinstance(kind, _Kind) and kind.fast == self._fast]
        every = list(dict.fromkeys([*lacking, *later]))
        made = dict(zip(every, _each(data, every, self._fast), strict=True))
        for one, picture in made.items():
            size = 100 if isinstance(picture, str) else picture.nbytes
            self._reader.put(_Kind(one, self._fast), name, picture, size)
        return made


def _each(data: bytes | None, wanted: Sequence[Preprocess], fast: bool) -> list[Pixels | str]:
    """A picture for each model, or why there is none: what one cannot take may do for others."""
    found = pixels(data, wanted, fast)
    if not isinstance(found, str):
        return list(found)
    if len(wanted) == 1 or data is None:
        return [found] * len(wanted)
    singly = (pixels(data, [one], fast) for one in wanted)
    return [one if isinstance(one, str) else one[0] for one in singly]


class Encodings:
    """A vision tower's output of images: of several in one batch of a fixed shape, or as another step left it."""

    def __init__(
        self,
        shared: Shared | None,
        tower: Tower,
        kind: Hashable,
        device: "torch.device",
        batch: int | None = None,
    ) -> None:
        """Join the readers, in ``open``.

        ``tower`` takes uint8[n, 3, height, width] on the device and gives [n, tokens, width]; ``kind`` says all that
        its output depends on besides the images: ``weights_digest``, ``Preprocess``, dtype.
        """
        self.batch = batch or (GPU_IMAGES if device.type == "cuda" else CPU_IMAGES)
        self._tower, self._device, self._rows = tower, device, self.batch
        self._kind = ("encoding", kind, str(device), self.batch)
        self._reader = Reader(shared or Shared(0), [self._kind])

    def of(self, names: Sequence[bytes], pictures: Sequence[Pixels]) -> list["torch.Tensor"]:
        """[tokens, width] on the device of each image, by the digests of its bytes and its pictures."""
        is_shared = self._kind in self._reader.others()
        found = {i: self._reader.get(self._kind, name) for i, name in enumerate(names)} if is_shared else {}
        lacking = [i for i in range(len(names)) if found.get(i) is None]
        for start in range(0, len(lacking), self.batch):
            places = lacking[start : start + self.batch]
            for i, made in zip(places, self._encoded([pictures[i] for i in places]), strict=True):
                found[i] = made.clone() if self._kind in self._reader.later() else made
                self._reader.put(self._kind, names[i], found[i], made.numel() * made.element_size())
        return [found[i] for i in range(len(names))]

    def close(self) -> None:
        """Read no more."""
        self._reader.leave()

    def _encoded(self, pictures: Sequence[Pixels]) -> "torch.Tensor":
        """[batch, tokens, width]: the last rows are padding where fewer were given."""
        import torch

        rows = np.zeros((self.batch, *pictures[0].shape), np.uint8)
        for i, one in enumerate(pictures):
            rows[i] = one
        given = torch.from_numpy(rows).to(self._device)
        found, self._rows = halving(
            lambda part: torch.cat([self._tower(some) for some in torch.split(given, part)]), self._rows
        )
        return found[: len(pictures)]


def halving(work: Callable[[int], T], rows: int) -> tuple[T, int]:
    """What ``work`` makes with so many rows at once, and how many it could be: halved while memory runs out.

    On a GPU other shapes may give other last bits.  Raises ``UserError`` where one row is too many.
    """
    import torch

    while True:
        try:
            with repeatable():
                return work(rows), rows
        except torch.OutOfMemoryError as error:
            if rows == 1:
                why = str(error).split("\n")[0]
                raise UserError(f"the model does not fit into the device's memory with one pair: {why}") from None
            rows //= 2
        torch.cuda.empty_cache()  # outside of the handler, which holds on to what did not fit


def weights_digest(module: Any, config: Mapping[str, Any]) -> bytes:
    """16 bytes that name what a module computes: its weights by name, and its configuration; 0.1 s a gigabyte.

    Where a checkpoint came from, and which version of a library wrote it, is not of it.
    """
    import torch

    known = {key: value for key, value in config.items() if key not in _NOT_COMPUTED}
    named = xxhash.xxh3_128(json.dumps([type(module).__name__, known], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        named.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        named.update(plain.view(torch.uint8).numpy() if plain.numel() else b"")
    return named.digest()


_NOT_COMPUTED = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
