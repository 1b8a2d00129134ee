"""The bytes behind a demo pool's paths: images, damaged images, pages and errors, made on demand and never kept.

A reply costs one rendering, some 5 ms. The same pair gives the same bytes every time.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pairsieve.pipelines.demo_pool import Defect, DemoPool, PlantedPair
from pairsieve.pipelines.demo_world import ImageFormat, Pixels, encode, keyed_rng, pick, render, rescale

Pace = Literal["plain", "slow", "endless"]
BOMB_SIDE = 60_000
ERROR_STATUSES = (500, 503)
CONTENT_TYPES: dict[ImageFormat, str] = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Reply:
    """What the server says to a path; for a paced reply the body is what it starts with."""

    status: int
    content_type: str
    body: bytes
    robots: tuple[str, ...] = ()
    pace: Pace = "plain"


def picture(pair: PlantedPair) -> Pixels:
    """Paint what a pair's image shows, at the size it is served in."""
    pixels = render(pair.scene)
    return pixels if pair.scale == 1.0 else rescale(pixels, pair.scale)


def image_bytes(pair: PlantedPair) -> bytes:
    """Return the intact image file of a pair, whatever its defect does to it afterwards."""
    return encode(picture(pair), pair.image_format, pair.quality)


def reply_to(pool: DemoPool, path: str) -> Reply | None:
    """Return what a server says to a path, the same bytes every time; None for a path that the pool does not have."""
    pair = pool.by_path.get(path)
    return None if pair is None else make_reply(pair, pool.seed)


def make_reply(pair: PlantedPair, seed: int) -> Reply:
    """Return what a server says to a pair's path."""
    content_type = CONTENT_TYPES[pair.image_format]
    rng = keyed_rng(seed, pair.index, "reply")
    if pair.defect == "not_found":
        return Reply(404, "text/plain", b"not found\n")
    if pair.defect == "server_error":
        return Reply(pick(rng, ERROR_STATUSES), "text/plain", b"something went wrong\n")
    if pair.defect == "html_page":
        return Reply(200, pick(rng, ("text/html", content_type)), html_page(pair.index))
    if pair.defect == "huge_image_header":
        return Reply(200, content_type, bomb(BOMB_SIDE))
    if pair.defect == "broken_file":
        return Reply(200, content_type, _garbage(pair.image_format, rng))
    body = image_bytes(pair)
    if pair.defect == "truncated_file":
        return Reply(200, content_type, body[: int(len(body) * rng.uniform(0.3, 0.7))])
    paces: dict[Defect | None, Pace] = {"slow_response": "slow", "endless_response": "endless"}
    return Reply(200, content_type, body, pair.robots, paces.get(pair.defect, "plain"))


def html_page(index: int) -> bytes:
    """Return the page which hosts like to serve in place of an image that is gone."""
    page = (
        f"<!DOCTYPE html>\n<html><head><title>Gone</title></head><body><p>Item {index} has moved.</p></body></html>\n"
    )
    return page.encode()


def _garbage(image_format: ImageFormat, rng: np.random.Generator) -> bytes:
    """Put noise after the first bytes of a JPEG or PNG file."""
    magic = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" if image_format == "JPEG" else b"\x89PNG\r\n\x1a\n"
    return magic + rng.bytes(int(rng.integers(2_000, 12_000)))


def bomb(side: int) -> bytes:
    """Build a PNG of about a hundred bytes whose header claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\x00" * 4096)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
