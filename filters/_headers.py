"""Read what the first bytes of an image file say, without decoding: format, size, metadata.

JPEG and PNG files are also cut down to what decoding needs, so that captions, thumbnails and EXIF
blocks of strangers never reach the decoder's parsers.  Costs tens of microseconds and, where
something was cut, a copy of the file.
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pairsieve.filters._codes import Code

HEAD_BYTES = 64
"""So many first bytes decide the format."""

FORMATS = ("jpeg", "png", "webp", "gif", "avif")
"""Formats that are decoded."""

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\0\0\1\0", "ico"),
    (b"8BPS", "psd"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL ", "jxl"),
    (b"\0\0\0\x0cjP  ", "jpeg2000"),
)
_MOST_SCANS = 100  # progressive files have about ten; each costs a pass over all pixels
_MOST_CHUNKS = 65_536
_PNG_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"IDAT", b"IEND"})


class BrokenImageError(ValueError):
    """These bytes give no image; ``code`` says what a table records."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Header:
    """What a file's header holds: its size where that is known, EXIF, a JPEG's colour profile, the file to decode."""

    body: bytes
    size: tuple[int, int] | None = None
    exif: bytes = b""
    profile: bytes = b""


def sniff(head: bytes) -> str | None:
    """The image format that the first bytes begin; null where it is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _iso_format(head)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _iso_format(head: bytes) -> str | None:
    """AVIF or HEIC by the brands of the first box."""
    box = head[: min(int.from_bytes(head[:4], "big"), HEAD_BYTES)]
    brands = {box[at : at + 4] for at in range(8, len(box), 4) if at != 12}
    if brands & {b"avif", b"avis"}:
        return "avif"
    return "heic" if brands & {b"heic", b"heix", b"hevc", b"mif1", b"msf1"} else None


def refusal(head: bytes, formats: Collection[str] = FORMATS) -> Code | None:
    """Why a file that begins so is not decoded; null where it is."""
    return refusal_of(sniff(head), formats)


def refusal_of(kind: str | None, formats: Collection[str] = FORMATS) -> Code | None:
    """The same of a format that is known."""
    if kind is None:
        return Code.NOT_AN_IMAGE
    return None if kind in formats else Code.IMAGE_FORMAT_REFUSED


def read_header(kind: str, data: bytes) -> Header:
    """The header of a file of this format; raises ``BrokenImageError``."""
    if kind == "jpeg":
        return _jpeg(data)
    if kind == "png":
        return _png(data)
    if kind == "gif" and len(data) >= 10:
        return Header(data, struct.unpack_from("<HH", data, 6))
    if kind == "webp":
        return Header(data, _webp_size(data))
    return Header(data)


def _jpeg(data: bytes) -> Header:
    """Keep the segments that decoding needs: all but APPn and comments, of those colour only."""
    whole, kept, exif, size, profile = memoryview(data), [data[:2]], b"", None, list[bytes]()
    single = b"\0"  # of a sequential file its components: a first scan that has all of them is the only one
    for marker, at, end in _segments(data):
        payload = data[at + 4 : end]
        if marker == 0xDA:
            if payload[:1] != single and data.count(b"\xff\xda", at) > _MOST_SCANS:
                raise BrokenImageError(Code.BROKEN_IMAGE, f"more than {_MOST_SCANS} scans")
            is_whole = sum(map(len, kept)) == at
            body = data if is_whole else b"".join([*kept, whole[at:]])
            return Header(body, size, exif, b"".join(part[14:] for part in sorted(profile)))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(payload) >= 5:
            size = (int.from_bytes(payload[3:5], "big"), int.from_bytes(payload[1:3], "big"))
            single = payload[5:6] if marker in (0xC0, 0xC1) else b"\0"
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            exif = exif or payload[6:]
        if payload.startswith(b"ICC_PROFILE\0"):
            profile.append(payload)  # sorted by the number that follows the name
        colour = marker in (0xE0, 0xEE) or payload.startswith(b"ICC_PROFILE\0")
        if colour or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
    raise BrokenImageError(Code.BROKEN_IMAGE, "ends before the first scan")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan; bytes between segments are skipped."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        at = end


def _png(data: bytes) -> Header:
    """Keep the chunks that decoding needs; a file without its end is broken."""
    kept, exif, at = [data[:8]], b"", 8
    for _ in range(_MOST_CHUNKS):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data):
            break
        if kind in _PNG_NEEDED:
            kept.append(data[at:end])
        if kind == b"eXIf":
            exif = exif or data[at + 8 : end - 4]
        if kind == b"IEND":
            return Header(b"".join(kept), _png_size(data), exif)
        at = end
    raise BrokenImageError(Code.BROKEN_IMAGE, "ends before its last chunk")


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise BrokenImageError(Code.BROKEN_IMAGE, "does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas: WebP's decoder allocates it before anybody can ask for its size."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
