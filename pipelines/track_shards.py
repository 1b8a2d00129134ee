"""Training shards as open_clip's trainer names them: brace ranges of tars, each of which is there.

open_clip expands ``/data/{00000..00126}.tar`` and reads shards at random; one that is not there is a
line in its log, and training goes on with less data.  So every name in a range is looked for first, and what
the files beside the tars tell (``sizes.json``, ``meta.json``, ``*_stats.json``) must agree with the tars.
Cost: folders are listed, and of img2dataset's outputs on this machine all ``*_stats.json`` are read.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pairsieve.pipelines.reshard_inputs import list_inputs
from pairsieve.pipelines.store import filesystem, is_local
from pairsieve.schemas.errors import PoolError, UserError

UNEVEN = 2.0
"""How many times as many samples the largest shard may have as the smallest before that is told."""
_NUMBERED = re.compile(r"(.*?)(\d+)\.tar", re.DOTALL)
_FORMAT = re.compile(r"([\w.-]*)\{:0?(\d{1,2})d\}\.tar")
_PATTERN = re.compile(r"[{}$\\\n]|::")
"""What webdataset reads in a path as a pattern, a variable or a separator."""
_PLAIN_URL = re.compile(r"s3://[\w./=+@:-]+")
"""URLs that mean nothing else to a shell."""


@dataclass(frozen=True, slots=True)
class Source:
    """One folder of shards: the ranges that open_clip is given, shards, samples where that is known, and notes."""

    folder: str
    ranges: tuple[str, ...]
    shards: int
    samples: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """All sources, with the weight of each source's shards, or None: all shards alike."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...] | None = None

    @property
    def train_data(self) -> str:
        """The value of ``--train-data``."""
        return "::".join(one for source in self.sources for one in source.ranges)

    @property
    def factors(self) -> str | None:
        """The value of ``--train-data-upsampling-factors``: a weight for each range."""
        if self.weights is None:
            return None
        pairs = zip(self.sources, self.weights, strict=True)
        return "::".join(f"{weight:g}" for source, weight in pairs for _ in source.ranges)

    @property
    def samples(self) -> int | None:
        """All samples, where every source tells."""
        counts = [source.samples for source in self.sources]
        return None if None in counts else sum(count or 0 for count in counts)


def find_data(given: str, weights: str | None = None, allow_missing: bool = False) -> Data:
    """The shards of ``A::B::…`` and their weights ``1::0.5::…``; raises ``UserError`` and ``PoolError``."""
    folders = given.split("::")
    if not all(folder.strip() for folder in folders):
        raise UserError(f"--data {given!r}: an empty name in it; give folders of tars, such as A::B")
    factors = None if weights is None else tuple(_weight(weights, one) for one in weights.split("::"))
    if factors is not None and len(factors) != len(folders):
        raise UserError(
            f"--data-weights {weights}: {len(factors)} weights for {len(folders)} folders; give one for each"
        )
    return Data(tuple(find_source(folder, allow_missing) for folder in folders), factors)


def _weight(weights: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"--data-weights {weights}: {text!r} is no weight; give positive numbers, such as 1::0.5")
    return value


def find_source(given: str, allow_missing: bool = False) -> Source:
    """The shards of a folder or glob.  Raises ``PoolError`` where shards are missing, unless that is allowed."""
    listing = list_inputs(given)
    if listing.kind != ".tar":
        raise PoolError(
            f"{given}: holds Parquet shards, and open_clip reads tars; "
            "pairsieve export webdataset or pairsieve reshard --format tar writes them"
        )
    fs, root = filesystem(given)
    local = is_local(fs)
    paths = [one.url.removeprefix("file://") if local else one.url for one in listing.inputs]
    beside = _Beside()
    if fs.isdir(root):  # of a glob only the numbering tells
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            beside.look(fs, fs._strip_protocol(folder), folder, {p for p in paths if p.rpartition("/")[0] == folder})
    base = paths[0].removesuffix(listing.inputs[0].name)
    missing = {path.removeprefix(base) for path in beside.missing} | set(listing.gaps)
    if missing and not allow_missing:
        raise PoolError(
            f"{given}: missing or unfinished: {_some(sorted(missing))}; open_clip would only log that: "
            "write these shards again, or train on what there is with --allow-missing"
        )
    return _source(given, [path for path in paths if path not in beside.unfinished], beside.sizes, local)


def _source(given: str, paths: Sequence[str], sizes: Mapping[str, int], local: bool) -> Source:
    if not paths:
        raise PoolError(f"{given}: no finished shard in it; name a folder of tars")
    for path in paths:
        _check_path(given, path, local)
    known = [sizes[path] for path in paths if path in sizes]
    samples = sum(known) if len(known) == len(paths) else None
    found = ranges(paths)
    return Source(given, tuple(found if local else map(_piped, found)), len(paths), samples, _notes(given, known))


def _check_path(given: str, path: str, local: bool) -> None:
    """Refuse what webdataset or a shell would read otherwise."""
    if local and (odd := _PATTERN.search(path)):
        raise PoolError(
            f"{path}: open_clip reads {odd[0]!r} in a path as a pattern; link the folder under another name"
        )
    if not local and not _PLAIN_URL.fullmatch(path):
        raise PoolError(f"{given}: open_clip reads local tars, or s3:// URLs of plain letters; copy the shards here")


def _piped(pattern: str) -> str:
    """How webdataset reads from S3: by the AWS command line, as in DataComp's training."""
    return f"pipe:aws s3 cp {pattern} -"


def _notes(given: str, sizes: Sequence[int]) -> tuple[str, ...]:
    filled = [size for size in sizes if size]
    if not filled or max(filled) < UNEVEN * min(filled):
        return ()
    return (
        f"{given}: shards of {min(filled):,} to {max(filled):,} samples; open_clip draws shards, whatever their size: "
        f"a sample of the smallest is seen {max(filled) / min(filled):.0f} times as often as one of the largest; "
        "pairsieve reshard writes equal ones",
    )


def ranges(paths: Iterable[str]) -> list[str]:
    """Brace patterns that expand to exactly these paths: one for each run of numbers."""
    found: list[str] = []
    numbered: dict[tuple[str, int], list[int]] = {}
    for path in paths:
        if match := _NUMBERED.fullmatch(path):
            numbered.setdefault((match[1], len(match[2])), []).append(int(match[2]))
        else:
            found.append(path)
    for (prefix, width), numbers in sorted(numbered.items()):
        found += [_range(prefix, width, first, last) for first, last in _runs(sorted(numbers))]
    return found


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return [(run[0], run[-1]) for run in runs]


def _range(prefix: str, width: int, first: int, last: int) -> str:
    if first == last:
        return f"{prefix}{first:0{width}d}.tar"
    return f"{prefix}{{{first:0{width}d}..{last:0{width}d}}}.tar"


@dataclass
class _Beside:
    """What the files beside tars tell: missing names, tars whose download is not finished, samples by path."""

    missing: list[str] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)

    def look(self, fs: Any, place: str, folder: str, tars: set[str]) -> None:
        """Look at one folder; raises ``PoolError`` for tars that are not of it, and for one not written to its end."""
        names = {str(path).rstrip("/").rpartition("/")[2] for path in fs.ls(place, detail=False)}
        there = {path.rpartition("/")[2] for path in tars}
        if "_job.json" in names and "_manifest.json" not in names:
            raise PoolError(f"{folder}: its shards are not all written; run the same pairsieve command again")
        sizes = _sizes(_read(fs, place, "sizes.json"), folder) if "sizes.json" in names else {}
        promised = set(sizes) | (_of_meta(_read(fs, place, "meta.json"), folder) if "meta.json" in names else set())
        if stale := sorted(there - promised if promised else ()):
            raise PoolError(f"{folder}: {_some(stale)}: the files beside it know nothing of it; remove it")
        stats = {name.removesuffix("_stats.json") + ".tar" for name in names if name.endswith("_stats.json")}
        unfinished = there - stats if stats and not sizes else set()
        self.missing += [f"{folder}/{name}" for name in ((promised | stats) - there) | unfinished]
        self.unfinished |= {f"{folder}/{name}" for name in unfinished}
        if stats and not sizes and is_local(fs):
            sizes = {name: n for name in there & stats if (n := _successes(place, name)) is not None}
        self.sizes |= {f"{folder}/{name}": size for name, size in sizes.items()}


def _read(fs: Any, place: str, name: str) -> Any:
    try:
        return json.loads(fs.cat_file(f"{place}/{name}"))
    except (ValueError, RecursionError):
        raise PoolError(f"{place}/{name}: is not JSON; write the shards again, or remove it") from None


def _sizes(found: Any, folder: str) -> dict[str, int]:
    """Samples of each tar, of a ``sizes.json``."""
    is_table = isinstance(found, dict) and all(type(size) is int and size >= 0 for size in found.values())
    if not is_table:
        raise PoolError(f'{folder}/sizes.json: holds no {{"00000.tar": samples, …}}; write the shards again')
    return dict(found)


def _of_meta(found: Any, folder: str) -> set[str]:
    """The names that a ``meta.json`` of DataComp's resharder promises."""
    form = found.get("output_shard_format") if isinstance(found, dict) else None
    count = found.get("output_shard_count") if isinstance(found, dict) else None
    match = _FORMAT.fullmatch(form) if isinstance(form, str) else None
    if match is None or type(count) is not int or not 0 <= count <= 10_000_000:
        raise PoolError(f"{folder}/meta.json: tells no count and format of shards; write the shards again")
    return {f"{match[1]}{number:0{int(match[2])}d}.tar" for number in range(count)}


def _successes(place: str, tar: str) -> int | None:
    """Samples of a tar, of img2dataset's ``_stats.json``; None where it does not tell."""
    try:
        found = json.loads(Path(place, tar.removesuffix(".tar") + "_stats.json").read_bytes())["successes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if type(found) is int and found >= 0 else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
