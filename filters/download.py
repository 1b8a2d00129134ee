"""Download images, resize them, and record what became of every URL."""

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    model_validator,
)

from pairsieve.filters import _area
from pairsieve.filters._client import Client
from pairsieve.filters._codes import Code
from pairsieve.filters._decode_memory import DecodeMemory
from pairsieve.filters._download_batches import Batches, Columns, use
from pairsieve.filters._download_checks import are_boxes, is_text, name_server, network
from pairsieve.filters._download_names import ELSEWHERE
from pairsieve.filters._download_rows import HashName, Maker, Outcome, Wish
from pairsieve.filters._fetch import Policy
from pairsieve.filters._host_limits import MOST as MOST_CONNECTIONS
from pairsieve.filters._host_tally import HostTally, by_code
from pairsieve.filters._images import MAX_PIXELS
from pairsieve.filters._resize import EncodeFormat, Interpolation, ResizeMode, Resizer
from pairsieve.filters.base import Filter, Resources, Runtime, Threshold, UnknownColumnError

_BINARY_END = 2**31  # bytes that a pa.binary() array cannot hold
_CONTACT = re.compile(r"https?://\S|[^\s@]+@[^\s@]+\.")
MANY_DNS_FAILURES = 0.05
"""Share of URLs without an address from which the look-up is to blame, not the list."""


class Download(Filter):
    """Fetch the image of each URL and store it resized; drop pairs whose image cannot be had or does not fit.

    Settings bear img2dataset's names, with the defaults that DataComp used.  A pair's image is the
    same whatever else is in its batch, and one URL is asked for once per batch.  Addresses that are not
    public are refused, on every redirect too, and so are sites that opt out in ``X-Robots-Tag``.

    ``download_code`` is one of a closed set (``_codes.Code``) and the reason of a dropped pair;
    ``status`` is img2dataset's.  The hash is of the file as it was sent.  Stored pictures are upright, opaque, RGB or
    grey, and carry no metadata, unless ``skip_reencode`` or ``disable_all_reencoding`` keeps a file as it was.

    Settings of speed and patience (``timeout``, ``retries``, limits) are no part of what is measured: after an edit
    nothing is fetched again, ``pairsieve retry`` asks for what failed.  A URL that takes longer than ``patience`` is
    left for a pass of its own at the end, so that slow hosts do not hold up others.

    A worker holds at most ``max_memory`` bytes of bodies and one body more, ``max_decode_memory`` bytes of pictures
    that are being decoded (or one picture), ``threads`` decoded ones and the stored images of three batches.
    """

    reads = ("url",)
    writes = {
        "image": pa.binary(),
        "status": pa.string(),
        "error_message": pa.string(),
        "download_code": pa.string(),
        "http_status": pa.int16(),
        "final_url": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "sha256": pa.string(),
    }
    batch_rows = 2048
    leaves = True
    version = 2
    elsewhere: ClassVar[Mapping[str, str]] = ELSEWHERE

    image_size: PositiveInt = Field(512, description="target side in pixels")
    resize_mode: ResizeMode = Field(
        "keep_ratio_largest",
        description="no; keep_ratio (shortest side = image_size); keep_ratio_largest (longest side); "
        "center_crop (keep_ratio, then a square); border (keep_ratio_largest, then white to a square)",
    )
    resize_only_if_bigger: bool = Field(True, description="leave images alone whose side is not above image_size")
    upscale_interpolation: Interpolation = Field("lanczos", description="how images are enlarged")
    downscale_interpolation: Interpolation = Field("area", description="how images are reduced")
    encode_format: EncodeFormat = Field("jpg", description="format of stored images: jpg, png or webp")
    encode_quality: NonNegativeInt | None = Field(
        None, description="jpg, webp: quality 0-100, by default 95; png: compression 0-9, by default 6"
    )
    skip_reencode: bool = Field(
        False, description="store the file as sent, with its metadata, if it has the format and needs no change"
    )
    disable_all_reencoding: bool = Field(
        False, description="store every file as sent, not decoded, with its metadata, if it begins as an image"
    )
    exact: bool = Field(
        False,
        description="decode every pixel, so that pictures are img2dataset's bit by bit; else a JPEG of four times the "
        "wanted size or more is decoded at 1/2, 1/4 or 1/8",
    )
    bbox_col: str | None = Field(
        None, description="column of lists of boxes [left, top, right, bottom], fractions of the sides, to blur: faces"
    )
    compute_hash: HashName | None = Field("sha256", description="hash of the file as sent, and the name of its column")
    verify_hash: tuple[str, HashName] | None = Field(
        None, description="[column, md5, sha256 or sha512]: a file of another hash than the column's is refused"
    )
    extract_exif: bool = Field(False, description="store camera fields of EXIF as JSON; never position or names")
    timeout: Runtime[PositiveFloat] = Field(
        20.0, description="seconds for one URL in all, redirects and retries included"
    )
    patience: Runtime[PositiveFloat] = Field(
        5.0, description="seconds after which a URL is left for a pass of its own at the end, where it has timeout"
    )
    low_speed_limit: Runtime[NonNegativeFloat] = Field(1000.0, description="bytes a second that a body must come with")
    low_speed_time: Runtime[PositiveFloat] = Field(
        10.0, description="seconds for which it may come more slowly, or not at all"
    )
    retries: Runtime[NonNegativeInt] = Field(
        0, description="further attempts after time-outs, DNS or connection errors, 429, 5xx; Retry-After counts"
    )
    host_concurrency: Runtime[PositiveInt | None] = Field(
        32, le=MOST_CONNECTIONS, description="connections to one host at a time, of all workers of a machine"
    )
    host_rate: Runtime[PositiveFloat | None] = Field(
        None, description="requests a second to one host, of all workers of a machine"
    )
    max_host_failures: Runtime[PositiveInt | None] = Field(
        None,
        description="time-outs, failed connections and 429 in a row after which a worker asks for no more URLs of the "
        "host: host_down; which ones these are depends on the order; null asks for every URL",
    )
    robots_txt: bool = Field(False, description="ask each site's robots.txt first")
    name_servers: Runtime[tuple[Annotated[str, AfterValidator(name_server)], ...]] = Field(
        (), description="DNS servers to ask, as 127.0.0.1 or 127.0.0.1:5353; []: as the system does"
    )
    environment_proxies: Runtime[bool] = Field(
        False, description="use http_proxy and https_proxy, which then must refuse private addresses"
    )
    max_memory: Runtime[PositiveInt] = Field(
        1_000_000_000, description="bytes of bodies that one worker holds; one more body may go beyond"
    )
    max_decode_memory: Runtime[PositiveInt] = Field(
        2_000_000_000, description="bytes of pictures that one worker decodes at a time; one picture may go beyond"
    )
    concurrency: Runtime[PositiveInt] = Field(256, description="URLs that one worker fetches at a time")
    threads: Runtime[PositiveInt] = Field(2, description="threads of one worker that decode and resize")
    max_bytes: PositiveInt = Field(20_000_000, description="largest body in bytes")
    max_pixels: PositiveInt = Field(MAX_PIXELS, description="largest picture that is decoded, or made by resizing")
    max_redirects: NonNegativeInt = Field(5, description="redirects that are followed")
    user_agent: str = Field(
        "pairsieve (image-text datasets)",
        pattern=r"^[!-~][ -~]*$",
        description="User-Agent header; name a contact here; its first word is the name opt-outs may address",
    )
    user_agent_token: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]+$", description="one more name that opt-outs may address, put before user_agent"
    )
    disallowed_header_directives: tuple[str, ...] = Field(
        ("noai", "noimageai", "noml", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that rule an image out; [] ignores the header",
    )
    allow_addresses: tuple[Annotated[str, AfterValidator(network)], ...] = Field(
        (), description="networks (CIDR) that may be reached although they are not public, e.g. 10.1.0.0/16"
    )
    min_image_size: Threshold[NonNegativeInt] = Field(0, description="smallest shortest side of the original")
    max_image_area: Threshold[NonNegativeFloat | None] = Field(None, description="most pixels of the original")
    max_aspect_ratio: Threshold[PositiveFloat | None] = Field(None, description="longest side over shortest, at most")

    _client: Client[list[Outcome]] | None = PrivateAttr(None)
    _tally: HostTally | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _quality_fits(self) -> Self:
        most = 9 if self.encode_format == "png" else 100
        if self.quality > most:
            raise ValueError(f"encode_quality of {self.encode_format} is 0 to {most}")
        return self

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.disable_all_reencoding and self.bbox_col is not None:
            raise ValueError("disable_all_reencoding keeps files as sent, so bbox_col cannot blur; leave one out")
        if self.verify_hash is not None and self.verify_hash[1] != self.compute_hash:
            raise ValueError(
                f"verify_hash compares {self.verify_hash[1]}, and compute_hash computes {self.compute_hash or 'none'}; "
                "make them the same"
            )
        return self

    @property
    def quality(self) -> int:
        """The quality asked for, else the format's default."""
        default = 6 if self.encode_format == "png" else 95
        return default if self.encode_quality is None else self.encode_quality

    @property
    def policy(self) -> Policy:
        """How URLs are fetched."""
        return Policy(
            timeout=self.timeout,
            low_speed_limit=self.low_speed_limit,
            low_speed_time=self.low_speed_time,
            retries=self.retries,
            concurrency=self.concurrency,
            max_bytes=self.max_bytes,
            max_memory=self.max_memory,
            max_redirects=self.max_redirects,
            user_agent=f"{self.user_agent_token} {self.user_agent}" if self.user_agent_token else self.user_agent,
            networks=self.allow_addresses,
            disallowed=self.disallowed_header_directives,
            name_servers=self.name_servers,
            host_concurrency=self.host_concurrency,
            host_rate=self.host_rate,
            max_host_failures=self.max_host_failures,
            robots_txt=self.robots_txt,
            environment_proxies=self.environment_proxies,
        )

    @property
    def resizer(self) -> Resizer:
        """How images are resized and encoded."""
        return Resizer(
            image_size=self.image_size,
            resize_mode=self.resize_mode,
            resize_only_if_bigger=self.resize_only_if_bigger,
            upscale_interpolation=self.upscale_interpolation,
            downscale_interpolation=self.downscale_interpolation,
            encode_format=self.encode_format,
            encode_quality=self.quality,
            skip_reencode=self.skip_reencode,
            max_pixels=self.max_pixels,
            exact=self.exact,
        )

    @property
    def maker(self) -> Maker:
        """What becomes of a body."""
        return Maker(
            self.resizer,
            self.max_pixels,
            hash=self.compute_hash,
            verify=self.verify_hash[1] if self.verify_hash else None,
            want_exif=self.extract_exif,
            as_sent=self.disable_all_reencoding,
            memory=DecodeMemory(self.max_decode_memory),
        )

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        wished = (self.bbox_col, self.verify_hash[0] if self.verify_hash else None)
        return tuple(dict.fromkeys((*self.reads, *(name for name in wished if name is not None))))

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        for name in self.inputs(available):
            if name not in available:
                raise UnknownColumnError(name, available)
        if self.verify_hash and not is_text(kind := available[self.verify_hash[0]]):
            raise ValueError(f"verify_hash: column {self.verify_hash[0]!r} is {kind}, not hexadecimal texts")
        if self.bbox_col is not None and not are_boxes(available[self.bbox_col]):
            raise ValueError(
                f"bbox_col: column {self.bbox_col!r} is {available[self.bbox_col]}, not lists of boxes of four numbers"
            )

    def imports(self) -> tuple[str, ...]:
        return ("pairsieve.filters._area_kernels",) if find_spec("numba") is not None else ()

    def resources(self) -> Resources:
        return Resources(cpus=float(self.threads))

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        columns = {name: kind for name, kind in self.writes.items() if name != "sha256"} | {"image": self._image_type()}
        hashed = {self.compute_hash: pa.string()} if self.compute_hash else {}
        return columns | hashed | ({"exif": pa.string()} if self.extract_exif else {})

    def _image_type(self) -> pa.DataType:
        """binary, or large_binary where the images of a full batch might need 2 GiB."""
        largest = 7 * self.image_size**2 // 2 + 10_000  # noise, as the least able encoder writes it
        is_made = not self.skip_reencode and not self.disable_all_reencoding
        bounded = self.resize_mode in ("border", "keep_ratio_largest") and is_made
        return pa.binary() if bounded and largest * self.batch_rows < _BINARY_END else pa.large_binary()

    def prepare(self) -> tuple[str, ...]:
        if _CONTACT.search(self.user_agent):
            return ()
        return ("user_agent names no contact; add an address or a URL, so that sites can reach you",)

    def open(self) -> None:
        _area.prepare()
        self._tally = HostTally()
        self._client = self._new_client()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self) -> Client[list[Outcome]]:
        return Client(self.policy, use(self.maker, HostTally(), (Wish(),)), self.threads)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        return self._measured(batches, None)

    def score_first(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        return self._measured(batches, self.patience)

    def _measured(self, batches: Iterator[pa.RecordBatch], patience: float | None) -> Iterator[dict[str, pa.Array]]:
        client = self._client or self._new_client()
        verified = self.verify_hash[0] if self.verify_hash else None
        columns = Columns(self.bbox_col, verified, self.outputs({}), self.compute_hash)
        try:
            yield from Batches(client, columns, self.maker, self._tally or HostTally()).measured(batches, patience)
        finally:
            if self._client is None:
                client.close()

    def facts(self) -> pa.Table | None:
        return None if self._tally is None else self._tally.take()

    @staticmethod
    def total(facts: pa.Table) -> pa.Table:
        return by_code(facts)

    def advice(self, facts: pa.Table) -> tuple[str, ...]:
        urls = dict(zip(facts["code"].to_pylist(), facts["urls"].to_pylist(), strict=True))
        asked, lost = sum(urls.values()), urls.get(Code.DNS_FAILURE.value, 0)
        if lost < MANY_DNS_FAILURES * asked or lost <= urls.get(Code.SUCCESS.value, 0) * MANY_DNS_FAILURES:
            return ()
        rest = asked - urls.get(Code.SUCCESS.value, 0)
        return (
            f"{lost:,} of {asked:,} URLs had no address ({lost / max(1, rest):.0%} of failures); "
            "run a caching name server on this machine, set name_servers: [127.0.0.1], then "
            "pairsieve retry RUN --reasons dns",
        )

    def keep(self, pairs: pa.RecordBatch) -> pa.Array:
        width, height = (pairs[f"original_{side}"].cast(pa.float64()) for side in ("width", "height"))
        shortest, longest = pc.min_element_wise(width, height), pc.max_element_wise(width, height)
        code = pc.fill_null(pairs["download_code"], Code.NULL_URL.value)
        tests = [
            (pc.not_equal(code, Code.SUCCESS.value), code),
            (pc.less(shortest, self.min_image_size), Code.IMAGE_TOO_SMALL.value),
            (pc.greater(pc.multiply(width, height), self.max_image_area), Code.IMAGE_AREA_TOO_LARGE.value),
            (pc.greater(pc.divide(longest, shortest), self.max_aspect_ratio), Code.ASPECT_RATIO_TOO_LARGE.value),
        ]
        failed, reasons = zip(*tests, strict=True)
        return pc.case_when(pc.make_struct(*failed), *reasons).cast(pa.string())
