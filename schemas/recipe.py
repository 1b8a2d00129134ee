"""A recipe as data: pool, filters, output, seed.  Reading YAML with line numbers is ``pipelines/recipe_file``."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Rows: TypeAlias = Annotated[int, Field(gt=0, lt=2**31)]
"""Rows of a file: their numbers are 32 bits."""
Bytes: TypeAlias = Annotated[int, Field(gt=0, lt=2**63)]


class Part(BaseModel):
    """A part of a recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class UrlsPool(Part):
    """Lists of image URLs with captions: csv, tsv, jsonl, parquet or txt, also compressed."""

    path: str = Field(description="one file or a glob, local or any fsspec URL")
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt"] = Field("auto", description="auto: by file name")
    url_col: str = Field("url", description="column of image URLs")
    caption_col: str | None = Field("text", description="column of captions; null: none")
    uid_col: str | None = Field(
        None, description="column of ready 128-bit uids; default: column 'uid' where it holds such"
    )
    columns: tuple[str, ...] | None = Field(None, description="other columns to keep; default: all")
    shard_rows: Rows = Field(10_000, description="pairs in a shard, the unit of work and resume")


class DatacompPool(Part):
    """DataComp's metadata: Parquet files, each with features of its rows in an ``.npz`` beside it; read in place."""

    path: str = Field(description="folder (part_*/ folders in it too), file or glob, local or any fsspec URL")
    features: tuple[str, ...] | None = Field(
        None, description="arrays of the .npz to give as columns, l14_img for one; default: all of the first file's"
    )
    columns: tuple[str, ...] | None = Field(None, description="columns besides uid, url, text; default: all")
    shard_rows: Rows = Field(
        500_000, description="a file is a shard; one of more than twice so many rows is cut at its row groups"
    )


class PairsPool(Part):
    """Parquet files that hold the image bytes beside the captions; read in place."""

    path: str = Field(description="one file or a glob, local or any fsspec URL")
    image_col: str = Field("image", description="column of encoded image bytes, or of {bytes, path} structs")
    url_col: str | None = Field("url", description="column of URLs, where there is one")
    caption_col: str | None = Field("text", description="column of captions; null: none")
    uid_col: str | None = Field(
        None, description="column of ready 128-bit uids; default: column 'uid' where it holds such"
    )
    columns: tuple[str, ...] | None = Field(None, description="other columns to keep; default: all light ones")
    shard_rows: Rows = Field(10_000, description="rows of a shard at least, in whole row groups")


class WebdatasetPool(Part):
    """WebDataset tars, a shard each; read in place."""

    path: str = Field(description="one tar or a glob, local or any fsspec URL")
    image_ext: tuple[str, ...] = Field(("jpg", "jpeg", "png", "webp", "gif"), description="members that are the image")
    text_ext: str = Field("txt", description="the member that is the caption")
    json_ext: str = Field("json", description="the member with more fields, kept as column 'json'")
    json_text: tuple[str, ...] = Field(("caption", "text"), description="json fields to take the caption from")


class Img2datasetPool(Part):
    """The output folder of img2dataset (webdataset, files or parquet format), captions kept."""

    path: str = Field(description="the folder, local or any fsspec URL")
    caption_col: str = Field("caption", description="column of captions in its Parquet files")


POOLS: dict[str, type[Part]] = {
    "urls": UrlsPool,
    "datacomp": DatacompPool,
    "pairs": PairsPool,
    "webdataset": WebdatasetPool,
    "img2dataset": Img2datasetPool,
}
"""Kinds of pool by their name in a recipe."""

Columns: TypeAlias = tuple[str, ...] | None


class DatasetOutput(Part):
    """Training shards: kept pairs, shuffled by a keyed hash, in files of equal size."""

    file_bytes: Bytes = Field(536_870_912, description="about this many bytes in a file")
    rows_per_file: Rows | None = Field(None, description="instead of file_bytes: at most this many pairs in a file")
    columns: Columns = Field(None, description="columns besides uid, image, text; default: all that are there")


class Output(Part):
    """What a run writes besides scores and verdicts."""

    dataset: DatasetOutput | None = Field(None, description="training shards under dataset/")
    subset: Annotated[str, Field(pattern=r"^[^/\\]+\.npy$")] | None = Field(
        None, description="file name of the kept uids in DataComp's u8,u8 format"
    )
    copies: str | None = Field(None, description="column of integers: how often a kept pair stands in the subset")


class StepSpec(Part):
    """One step of ``filters:`` before its filter class is known."""

    filter: str = Field(description="file name in filters/, or package.module:Class")
    id: str | None = Field(None, alias="as", pattern=r"^[a-z][a-z0-9_]*$", description="the step's name")
    of: Literal["pool", "survivors"] = Field("survivors", description="pool: measure every pair, not only survivors")
    settings: dict[str, Any] = Field({}, description="the filter's own settings")


class Recipe(Part):
    """A recipe whose parts are checked; steps still name their filters."""

    pool_kind: str
    pool: Any
    filters: tuple[StepSpec, ...] = ()
    output: Output = Output(dataset=DatasetOutput(), subset="subset.npy")
    seed: Annotated[int, Field(ge=0, lt=2**63, description="of the keyed hash that shuffles the dataset")] = 0
