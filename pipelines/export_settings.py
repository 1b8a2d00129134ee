"""What an export may be asked for: the settings of each format, checked when they are made."""

import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from pairsieve.schemas.errors import UserError

Captions = Literal["draw", "first", "each"]
"""Of a list of texts: one by its weight, the first, or a sample for each of them."""
FormatName = Literal["webdataset", "csv", "hf"]
Downloads = Literal["img2dataset"]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class Webdataset:
    """Tars as open_clip, img2dataset and DataComp read them: ``<key>.<jpg|png|webp>``, ``<key>.txt``, ``<key>.json``.

    ``with_json`` adds the light columns of the pair.  There are as many tars as ``rows_per_shard`` asks for, and a
    multiple of ``world_size`` times ``loader_workers``, so that each of training's loaders gets as many.
    """

    name: ClassVar[FormatName] = "webdataset"
    image_kinds: ClassVar[tuple[str, ...]] = ("jpeg", "png", "webp")

    captions: Captions = "draw"
    text: str | None = None
    with_json: bool = False
    rows_per_shard: int = 10_000
    world_size: int = 1
    loader_workers: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ``UserError`` for what cannot be."""
        _check_captions(self.captions)
        for option in ("rows_per_shard", "world_size", "loader_workers"):
            _check_count(option, getattr(self, option))


@dataclass(frozen=True)
class Csv:
    """Image files, and a tab-separated ``train.csv`` with ``filepath`` and ``title``: open_clip's csv dataset.

    ``prefix`` stands before every path; None: the absolute path of the export.  A folder holds ``rows_per_shard``
    images.
    """

    name: ClassVar[FormatName] = "csv"
    image_kinds: ClassVar[tuple[str, ...]] = ("jpeg", "png", "webp", "gif", "avif", "bmp", "tiff")

    captions: Captions = "draw"
    text: str | None = None
    prefix: str | None = None
    rows_per_shard: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ``UserError`` for what cannot be."""
        _check_captions(self.captions)
        _check_count("rows_per_shard", self.rows_per_shard)
        if self.prefix is not None and "\0" in self.prefix:
            raise UserError("prefix: holds a null byte, which no path does")


@dataclass(frozen=True)
class HuggingFace:
    """A folder for ``datasets.load_dataset``: Parquet with an ``Image()`` column, and a card.

    All columns stay, texts as they are.  A file holds ``rows_per_shard`` rows; None: about 500 MB.  ``license`` is
    that of the card, a name of the Hub's.
    """

    name: ClassVar[FormatName] = "hf"
    image_kinds: ClassVar[tuple[str, ...]] = Csv.image_kinds

    license: str = "unknown"
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        """Raise ``UserError`` for what cannot be."""
        if _LICENSE.fullmatch(self.license) is None:
            raise UserError(
                f"license: {self.license!r} is no name of the Hub's; write one such as cc-by-4.0, or unknown"
            )
        if self.rows_per_shard is not None:
            _check_count("rows_per_shard", self.rows_per_shard)


@dataclass(frozen=True)
class Img2dataset:
    """img2dataset's folder of a run's downloads: ``00000.tar``, ``00000.parquet`` with every row, ``00000_stats.json``.

    ``downloaded``: images of pairs that later steps dropped too.  ``step`` is the download step, where there are
    several; shard numbers have ``oom_shard_count`` digits.
    """

    name: ClassVar[Downloads] = "img2dataset"

    downloaded: bool = False
    step: str | None = None
    oom_shard_count: int = 5

    def __post_init__(self) -> None:
        """Raise ``UserError`` for what cannot be."""
        _check_count("oom_shard_count", self.oom_shard_count)


Settings: TypeAlias = Webdataset | Csv | HuggingFace
FORMATS: dict[str, type[Settings]] = {"webdataset": Webdataset, "csv": Csv, "hf": HuggingFace}


def settings_of(format: FormatName | Settings) -> Settings:
    """The settings, those of a name by default; raises ``UserError`` for an unknown one."""
    if not isinstance(format, str):
        return format
    if format not in FORMATS:
        raise UserError(f"format {format!r}: there are {', '.join(FORMATS)}")
    return FORMATS[format]()


def as_data(settings: Settings | Img2dataset) -> dict[str, Any]:
    """The settings as they stand in a manifest."""
    return asdict(settings)


def _check_captions(value: str) -> None:
    if value not in get_args(Captions):
        raise UserError(f"captions {value!r}: there are {', '.join(get_args(Captions))}")


def _check_count(option: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{option} {value}: give 1 or more")
