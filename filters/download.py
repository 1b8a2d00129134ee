"""Download images, resize them, and record what became of every URL."""

import hashlib
import ipaddress
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Self

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

from pairsieve.filters import _exif
from pairsieve.filters._client import LEFT as LEFT_URL
from pairsieve.filters._client import Client
from pairsieve.filters._codes import Code, status
from pairsieve.filters._fetch import Fetched, Policy
from pairsieve.filters._host_limits import MOST as MOST_CONNECTIONS
from pairsieve.filters._host_tally import HostTally, by_code
from pairsieve.filters._images import MAX_PIXELS, BrokenImageError, decode_image
from pairsieve.filters._resize import EncodeFormat, Interpolation, ResizeMode, Resizer
from pairsieve.filters.base import LEFT, Filter, Resources, Runtime, Threshold

_BINARY_END = 2**31  # bytes that a pa.binary() array cannot hold
AHEAD = 2
"""Batches that are fetched while the slowest URLs of the one before them end."""
_CONTACT = re.compile(r"https?://\S|[^\s@]+@[^\s@]+\.")
MANY_DNS_FAILURES = 0.05
"""Share of URLs without an address from which the look-up is to blame, not the list."""


def _name_server(text: str) -> str:
    """Check a name server: an IP address, perhaps with a port."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "")
    ipaddress.ip_address(host or text)
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port is no number from 1 to 65535")
    return text


def _network(text: str) -> str:
    """Check a CIDR network; ``ipaddress`` words the error."""
    return str(ipaddress.ip_network(text))


class Download(Filter):
    """Fetch the image of each URL and store it resized; drop pairs whose image cannot be had or does not fit.

    Settings bear img2dataset's names, with the defaults that DataComp used.  A pair's image is the
    same whatever else is in its batch, and one URL is asked for once per batch.  Addresses that are not
    public are refused, on every redirect too, and so are sites that opt out in ``X-Robots-Tag``.

    ``download_code`` is one of a closed set (``_codes.Code``) and the reason of a dropped pair;
    ``status`` is img2dataset's.  ``sha256`` is of the file as it was sent.  Stored pictures are upright,
    opaque and three-channel, and carry no metadata, unless ``skip_reencode`` keeps a file as it was.

    Settings of speed and patience (``timeout``, ``retries``, limits) are no part of what is measured: after an edit
    nothing is fetched again, ``pairsieve retry`` asks for what failed.  A URL that takes longer than ``patience`` is
    left for a pass of its own at the end, so that slow hosts do not hold up others.

    A worker holds at most ``max_memory`` bytes of bodies and one body more, ``threads`` decoded pictures and the
    stored images of three batches.
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
    robots_txt: bool = Field(False, description="ask each site's robots.txt first")
    name_servers: Runtime[tuple[Annotated[str, AfterValidator(_name_server)], ...]] = Field(
        (), description="DNS servers to ask, as 127.0.0.1 or 127.0.0.1:5353; []: as the system does"
    )
    environment_proxies: Runtime[bool] = Field(
        False, description="use http_proxy and https_proxy, which then must refuse private addresses"
    )
    max_memory: Runtime[PositiveInt] = Field(
        1_000_000_000, description="bytes of bodies that one worker holds; one more body may go beyond"
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
    disallowed_header_directives: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that rule an image out; [] ignores the header",
    )
    allow_addresses: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description="networks (CIDR) that may be reached although they are not public, e.g. 10.1.0.0/16"
    )
    min_image_size: Threshold[NonNegativeInt] = Field(0, description="smallest shortest side of the original")
    max_image_area: Threshold[NonNegativeFloat | None] = Field(None, description="most pixels of the original")
    max_aspect_ratio: Threshold[PositiveFloat | None] = Field(None, description="longest side over shortest, at most")

    _client: Client["_Outcome"] | None = PrivateAttr(None)
    _tally: HostTally = PrivateAttr(default_factory=HostTally)

    @model_validator(mode="after")
    def _quality_fits(self) -> Self:
        most = 9 if self.encode_format == "png" else 100
        if self.quality > most:
            raise ValueError(f"encode_quality of {self.encode_format} is 0 to {most}")
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
            user_agent=self.user_agent,
            networks=self.allow_addresses,
            disallowed=self.disallowed_header_directives,
            name_servers=self.name_servers,
            host_concurrency=self.host_concurrency,
            host_rate=self.host_rate,
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
        )

    def resources(self) -> Resources:
        return Resources(cpus=float(self.threads))

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        columns = {**self.writes, "image": self._image_type()}
        return columns | {"exif": pa.string()} if self.extract_exif else columns

    def _image_type(self) -> pa.DataType:
        """binary, or large_binary where the images of a full batch might need 2 GiB."""
        largest = 7 * self.image_size**2 // 2 + 10_000  # noise, as the least able encoder writes it
        bounded = self.resize_mode in ("border", "keep_ratio_largest") and not self.skip_reencode
        return pa.binary() if bounded and largest * self.batch_rows < _BINARY_END else pa.large_binary()

    def prepare(self) -> tuple[str, ...]:
        if _CONTACT.search(self.user_agent):
            return ()
        return ("user_agent names no contact; add an address or a URL, so that sites can reach you",)

    def open(self) -> None:
        self._tally = HostTally()
        self._client = self._new_client()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self) -> Client["_Outcome"]:
        use = partial(
            _outcome, max_pixels=self.max_pixels, resizer=self.resizer, want_exif=self.extract_exif, tally=self._tally
        )
        return Client(self.policy, use, self.threads)

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        return next(self.score_all(iter([pairs])))

    def score_all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        return self._measured(batches, None)

    def score_first(self, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, pa.Array]]:
        return self._measured(batches, self.patience)

    def _measured(self, batches: Iterator[pa.RecordBatch], patience: float | None) -> Iterator[dict[str, pa.Array]]:
        """Fetch batch after batch, some batches ahead of the one that is given back."""
        client = self._client or self._new_client()
        under_way = deque[tuple[Sequence[str | None], Future[list[_Outcome]]]]()
        try:
            for pairs in batches:
                urls = pairs["url"].to_pylist()
                under_way.append((urls, client.begin(list(dict.fromkeys(urls)), patience)))
                if len(under_way) > AHEAD:
                    yield self._columns(*under_way.popleft(), patience is not None)
            while under_way:
                yield self._columns(*under_way.popleft(), patience is not None)
        finally:
            if self._client is None:
                client.close()

    def _columns(
        self, urls: Sequence[str | None], found: "Future[list[_Outcome]]", may_leave: bool
    ) -> dict[str, pa.Array]:
        """What is written of a batch, once its last URL has ended."""
        outcomes = dict(zip(dict.fromkeys(urls), found.result(), strict=True))
        rows = [outcomes[url] for url in urls]
        columns = {name: pa.array([getattr(r, name) for r in rows], kind) for name, kind in self.outputs({}).items()}
        return columns | {LEFT: pa.array([row is _LEFT for row in rows], pa.bool_())} if may_leave else columns

    def facts(self) -> pa.Table | None:
        return self._tally.take()

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


@dataclass(frozen=True)
class _Outcome:
    """One row of what ``Download`` writes."""

    download_code: str
    status: str
    error_message: str | None
    http_status: int | None
    final_url: str | None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    sha256: str | None = None
    exif: str | None = None


_LEFT = _Outcome(Code.TIMEOUT.value, status(Code.TIMEOUT), None, None, None)
"""Of a URL that is left for the tail pass."""


def _row(fetched: Fetched, code: Code, message: str | None) -> _Outcome:
    return _Outcome(code.value, status(code), message, fetched.http_status, fetched.final_url)


def _outcome(fetched: Fetched, max_pixels: int, resizer: Resizer, want_exif: bool, tally: HostTally) -> _Outcome:
    """The row of one URL, counted; never raises."""
    if fetched is LEFT_URL:
        return _LEFT
    outcome = _made(fetched, max_pixels, resizer, want_exif)
    size = len(fetched.body or b"")
    tally.add(fetched.host, outcome.download_code, fetched.requests, size, fetched.seconds)
    return outcome


def _made(fetched: Fetched, max_pixels: int, resizer: Resizer, want_exif: bool) -> _Outcome:
    """The row of one URL: its body decoded, resized and encoded."""
    if fetched.body is None:
        return _row(fetched, fetched.code, fetched.error_message)
    try:
        image = decode_image(fetched.body, max_pixels)
        stored = resizer.store(fetched.body, image)
    except BrokenImageError as error:
        return _row(fetched, error.code, str(error))
    return replace(
        _row(fetched, Code.SUCCESS, None),
        image=stored.data,
        width=stored.width,
        height=stored.height,
        original_width=image.pixels.shape[1],
        original_height=image.pixels.shape[0],
        sha256=hashlib.sha256(fetched.body).hexdigest(),
        exif=_exif.wanted_json(image.exif) if want_exif else None,
    )
