"""Members of a tar: the quick reader gives what Python's tarfile gives, or leaves the tar to it."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.tar_index import index
from pairsieve.pipelines.tar_scan import Found, _any, _plain, open_tar, samples
from pairsieve.pipelines.tar_write import entry, header, tail
from pairsieve.schemas.errors import PoolError

NAMES = st.one_of(
    st.text("ab/.é-", min_size=1, max_size=12),
    st.text("ab.", min_size=90, max_size=140),
    st.from_regex(r"[a-c]{1,2}\.(jpg|json|TXT)", fullmatch=True),
)
KINDS = [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Tars in every format, with members of every kind."""
    out = io.BytesIO()
    kind = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=out, mode="w", format=kind) as file:
        for name in draw(st.lists(NAMES, max_size=6)):
            info = tarfile.TarInfo(name)
            info.type = draw(st.sampled_from(KINDS))
            info.mtime = draw(st.sampled_from([0, 1.5, 1e9 + 0.25]))
            info.linkname = "x" if info.type == tarfile.SYMTYPE else ""
            content = draw(st.binary(max_size=1200)) if info.isreg() else b""
            info.size = len(content)
            try:
                file.addfile(info, io.BytesIO(content))
            except ValueError:  # too long for USTAR
                continue
    return out.getvalue()


def old_index(content: bytes) -> list[tuple[str, set[str]]]:
    """Keys and endings by the pools' own reader."""
    return [(sample.key, sample.endings) for sample in index(io.BytesIO(content), ("jpg",), "txt", "json")]


@given(archives())
def test_quick_reader_agrees_with_tarfile(content: bytes) -> None:
    """Where the quick reader answers at all, its members are tarfile's."""
    quick = _plain(content)
    assert quick is None or quick == _any(content)


@given(archives())
def test_samples_are_those_of_pools(content: bytes) -> None:
    """Keys and endings are grouped as when the tar is a pool."""
    try:
        wanted = old_index(content)
    except tarfile.TarError as error:  # names that make tarfile read its own archive otherwise
        with pytest.raises(type(error)):
            list(samples(content))
        return
    assert [(one.key, {ending for ending, _, _ in one.members}) for one in samples(content)] == wanted


@given(archives(), st.data())
def test_damage_is_never_read_over(content: bytes, data: st.DataObject) -> None:
    """A changed byte or a cut gives what tarfile makes of it, or its error; the quick reader never goes on alone."""
    at = data.draw(st.integers(0, len(content) - 1))
    broken = content[:at] if data.draw(st.booleans()) else content[:at] + b"\x07" + content[at + 1 :]
    quick = _plain(broken)
    if quick is not None:
        assert quick == _any(broken)


def test_quick_reader_takes_what_webdataset_writes(tmp_path: Path) -> None:
    """Plain members, also after a PAX header with a time, need no tarfile."""
    for kind, mtime in ((tarfile.USTAR_FORMAT, 0.0), (tarfile.GNU_FORMAT, 0.0), (tarfile.PAX_FORMAT, 1.5)):
        with tarfile.open(tmp_path / "x.tar", "w", format=kind) as file:
            info = tarfile.TarInfo("a.jpg")
            info.size, info.mtime = 3, mtime
            file.addfile(info, io.BytesIO(b"abc"))
        content = (tmp_path / "x.tar").read_bytes()
        assert _plain(content) is not None
        with open_tar(str(tmp_path / "x.tar")) as mapped:
            ((found),) = samples(mapped)
            assert found == Found("a", (("jpg", content.index(b"abc"), 3),))


@given(st.binary(min_size=1, max_size=100).filter(lambda name: b"\0" not in name), st.integers(0, 8**11 - 1))
def test_headers_are_tarfiles_own(name: bytes, size: int) -> None:
    """Byte by byte what tarfile writes for a member without owner and time."""
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.size = size
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize(("name", "size"), [(b"x" * 101, 1), (b"x", 8**11)])
def test_what_ustar_cannot_hold_is_refused(name: bytes, size: int) -> None:
    """Never a PAX header instead."""
    with pytest.raises(PoolError, match="does not fit a USTAR header"):
        header(name, size)


@given(st.lists(st.tuples(st.sampled_from(["jpg", "json", "txt"]), st.binary(max_size=1500)), max_size=5))
def test_entries_are_read_back(members: list[tuple[str, bytes]]) -> None:
    """What is written is what tarfile reads."""
    content = b"".join(entry("k" * 90, members))
    whole = content + tail(len(content))
    with tarfile.open(fileobj=io.BytesIO(whole)) as file:
        read = [(m.name.rpartition(".")[2], file.extractfile(m).read()) for m in file]  # type: ignore[union-attr]
    assert read == members
    assert len(whole) % tarfile.RECORDSIZE == 0
