"""The index of a tar: members of every dialect, and no forged or broken tar that passes or hangs."""

import io
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import tar_index
from pairsieve.pipelines.pool_webdataset import read_index
from pairsieve.pipelines.tar_index import Sample, index
from pairsieve.schemas.errors import PoolError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar(members: Sequence[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def samples(data: bytes) -> list[Sample]:
    """The index of a tar."""
    return list(index(io.BytesIO(data), ("jpg", "png"), "txt", "json"))


def image(data: bytes, sample: Sample) -> bytes | None:
    """The bytes that a sample points to."""
    return None if sample.offset is None or sample.size is None else data[sample.offset :][: sample.size]


PAIRS = [("000.jpg", b"J" * 700), ("000.txt", b"cat"), ("000.json", b'{"a": 1}'), ("001.png", b"P"), ("002.txt", b"x")]


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_every_dialect_gives_the_same_samples(kind: int) -> None:
    """USTAR, GNU and PAX, with names longer than their header field."""
    folder = "f" * 90 + "/" + "g" * 60 + "/"
    data = tar([(folder + name, content) for name, content in PAIRS], kind)
    found = samples(data)
    assert [(s.key, s.text, s.json) for s in found] == [
        (f"{folder}000", "cat", '{"a": 1}'),
        (f"{folder}001", None, None),
        (f"{folder}002", "x", None),
    ]
    assert [image(data, s) for s in found] == [b"J" * 700, b"P", None]
    assert found[0].fields == {"a": 1}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_very_long_names_are_read(kind: int) -> None:
    """Beyond what USTAR can hold."""
    name = "d/" * 200 + "æ猫" * 100
    assert [s.key for s in samples(tar([(f"{name}.jpg", b"x")], kind))] == [name]


def test_the_key_ends_at_the_first_dot() -> None:
    """WebDataset's rule: dots in folders do not count, endings have any case, hidden files are no samples."""
    names = ["v1.0/a.seg.png", "v1.0/a.JPG", "b.jpeg.txt", "README", ".DS_Store", "x/._a.jpg"]
    found = samples(tar([(name, b"1") for name in names]))
    assert [(s.key, s.offset is not None, s.endings) for s in found] == [
        ("v1.0/a", True, {"seg.png", "jpg"}),
        ("b", False, {"jpeg.txt"}),
    ]


def test_a_repeated_member_begins_a_new_sample() -> None:
    """No image is lost because its key came before."""
    found = samples(tar([("a.jpg", b"1"), ("a.txt", b"one"), ("a.jpg", b"2"), ("a.txt", b"two")]))
    assert [(s.key, s.text) for s in found] == [("a", "one"), ("a", "two")]


def test_the_first_of_several_images_counts() -> None:
    """A sample is one pair."""
    data = tar([("a.png", b"P"), ("a.jpg", b"J")])
    assert [image(data, s) for s in samples(data)] == [b"P"]


def test_links_folders_and_sparse_members_are_no_images() -> None:
    """Their bytes do not lie where an offset could point."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, kind in [("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.DIRTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        sparse = tarfile.TarInfo("d.jpg")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 4
        file.addfile(sparse, io.BytesIO(b"1234"))
        file.addfile(tarfile.TarInfo("e.txt"))
    assert [(s.key, s.offset) for s in samples(out.getvalue())] == [("e", None)]


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_a_huge_text_is_not_read(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair gets a reason, its neighbours are untouched."""
    monkeypatch.setattr(tar_index, "MAX_TEXT", 10)
    found = samples(tar([("a.jpg", b"x"), (f"a.{ending}", b"12345678901"), ("b.txt", b"1234567890")]))
    assert [(s.text, s.json, s.reason) for s in found] == [(None, None, "text_too_large"), ("1234567890", None, None)]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_json_that_is_no_mapping_is_kept_as_text(content: bytes) -> None:
    """Broken, nested too deep, or with a number that Python refuses."""
    (sample,) = samples(tar([("a.json", content)]))
    assert sample.fields == {}
    assert sample.json == content.decode("utf-8", "replace")


def test_names_that_are_no_utf8_are_replaced() -> None:
    """Old archives hold Latin-1 names."""
    data = tar([("caf\udce9.jpg", b"x"), ("caf\udce9.txt", b"y")], tarfile.GNU_FORMAT)
    assert [(s.key, s.text) for s in samples(data)] == [("caf�", "y")]


def test_a_tar_cut_anywhere_is_an_error() -> None:
    """Also between two members, where ``tarfile`` itself sees nothing wrong."""
    data = tar(PAIRS)
    end = len(data.rstrip(b"\0")) + 512 & ~511
    for length in [*range(0, end + 1, 256), 1, 511, end - 1]:
        with pytest.raises((tarfile.TarError, OSError, EOFError)):
            samples(data[:length])
    assert len(samples(data[: end + 1024])) == 3


def test_what_follows_the_end_mark_is_not_lost_in_silence() -> None:
    """``cat a.tar b.tar`` is no tar of both."""
    data = tar(PAIRS)
    with pytest.raises(tarfile.ReadError, match="though data follow"):
        samples(data + data)


def test_a_broken_header_in_the_middle_is_an_error() -> None:
    """``tarfile`` would stop there as if it were the end."""
    data = bytearray(tar([("a.jpg", b"x"), ("b.jpg", b"y"), ("c.jpg", b"z")]))
    data[1024:1034] = b"\xff" * 10
    with pytest.raises(tarfile.ReadError, match="no header at byte 1,024, though data follow"):
        samples(bytes(data))


def forged(**pax: str) -> bytes:
    """A member whose PAX records say what they like."""
    info = tarfile.TarInfo("q.jpg")
    info.pax_headers = dict(pax)
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def negative(kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header whose size is -2048 in base 256."""
    data = bytearray(tar([("a.jpg", b"x")]))
    data[156:157] = kind
    data[124:136], data[148:156] = b"\xff" * 10 + b"\xf8\0", b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


HOSTILE = {
    "negative size": negative(),
    "negative name": negative(tarfile.GNUTYPE_LONGNAME),
    "negative PAX size": tar([("a.jpg", b"x")])[:1024] + forged(size="-2048"),
    "far back": forged(size="-99999999"),
    "sparse map of words": forged(**{"GNU.sparse.size": "x", "GNU.sparse.map": "a,b"}),
    "long names without end": tarfile.TarInfo("n" * 200).tobuf(tarfile.GNU_FORMAT)[:1024] * 3000 + bytes(1024),
    "huge PAX record": forged(comment="x" * 2_000_000),
    "gzip": b"\x1f\x8b" + bytes(600),
    "text": b"no tar at all " * 100,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_forged_tar_is_one_line_with_its_name(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """It neither hangs nor raises anything else."""
    path = tmp_path_factory.mktemp("forged") / "x.tar"
    path.write_bytes(data)
    with pytest.raises(PoolError, match=r"x\.tar: broken tar: .*; fetch it again, or leave it out$") as caught:
        read_index(str(path), ("jpg",), "txt", "json")
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("negative size", "a member of -2,048 bytes"),
        ("negative PAX size", "a member of -2,048 bytes"),
        ("negative name", "a header of -2,048 bytes"),
        ("huge PAX record", "a header of 2,000,017 bytes"),
    ],
)
def test_sizes_that_no_tar_has_are_not_followed(name: str, message: str) -> None:
    """They would lead back to earlier members for ever, or fill the memory."""
    with pytest.raises(tarfile.ReadError, match=message):
        samples(HOSTILE[name])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_gives_anything_but_samples_or_an_error(data: st.DataObject) -> None:
    """Random bytes in random places of a tar; every image that is found lies within the file."""
    content = bytearray(tar(PAIRS))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 5119))
        patch = data.draw(st.binary(min_size=1, max_size=20))
        content[place : place + len(patch)] = patch
    try:
        found = samples(bytes(content))
    except (tarfile.TarError, OSError, EOFError, ValueError, IndexError, RecursionError):
        return
    assert all(s.offset is None or s.offset + (s.size or 0) <= len(content) for s in found)


def test_an_empty_tar_has_no_samples() -> None:
    """It is whole."""
    assert samples(tar([])) == []
