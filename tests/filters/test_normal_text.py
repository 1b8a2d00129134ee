"""Normal texts: the kernel gives what Python gives, for any text."""

import unicodedata
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.filters._normal_text import mapped_code_points, normal, normal_texts
from tests.support_minhash import TEXTS


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own, so that the table is made as it is now."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRSIEVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        mapped_code_points.cache_clear()
        yield
    mapped_code_points.cache_clear()


def kernel(texts: list[str | None]) -> list[str]:
    """What the kernel gives."""
    return normal_texts(pa.array(texts, pa.string())).strings()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A dog, on the BEACH!", "a dog on the beach"),
        ("  tabs\tand\nlines  ", "tabs and lines"),
        ("snake_case-and/or", "snake case and or"),
        ("don’t & won't", "don t won t"),
        ("Ｆｕｌｌ ｗｉｄｔｈ ﬁt ①", "full width fit 1"),
        ("STRASSE Straße", "strasse strasse"),
        ("cafe\u0301 CAF\u00c9", "caf\u00e9 caf\u00e9"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("猫🐈。犬", "猫 犬"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("-- … 🐈❤️", ""),
        ("", ""),
    ],
)
def test_examples(text: str, wanted: str) -> None:
    """Case, marks, symbols, spaces, compatible and invisible forms."""
    assert normal(text) == wanted
    assert kernel([text]) == [wanted]


def test_every_code_point() -> None:
    """Alone, and between two letters: the kernel agrees with Python on the planes in use, and both are idempotent."""
    planes = (*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE1000))
    wanted = [normal(chr(c)) for c in planes]
    assert kernel([chr(c) for c in planes]) == wanted
    assert kernel([*wanted]) == wanted
    some = [
        f"e{chr(c)}e" for c, text in zip(planes, wanted, strict=True) if text != chr(c) or unicodedata.combining(text)
    ]
    assert kernel([*some]) == list(map(normal, some))


@given(st.lists(TEXTS, max_size=8))
def test_any_text(texts: list[str]) -> None:
    """The kernel gives the definition, wherever a text lies in its batch."""
    wanted = list(map(normal, texts))
    assert kernel(list(texts)) == wanted
    assert kernel(list(wanted)) == wanted


@given(
    st.lists(
        st.text(st.sampled_from("aA é\u0301\u0345\u1161\u11a8\u1100\uac00ﬁ\ufdfaıİ\u0390\u03a3\u3099か\u00a0")),
        max_size=6,
    )
)
def test_chained_code_points(texts: list[str]) -> None:
    """So with marks, Hangul letters and forms that become several, in any order; and what is normal stays so."""
    wanted = list(map(normal, texts))
    assert kernel(list(texts)) == wanted
    assert [normal(text) for text in wanted] == wanted


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices(kind: pa.DataType) -> None:
    """A part of an array, with nulls before, within and behind it."""
    texts = pa.array([None, "A", "B\u0301é", None, "", "C"] * 3, kind)
    for first in range(6):
        assert normal_texts(texts.slice(first, 7)).strings() == [
            normal(text or "") for text in texts.slice(first, 7).to_pylist()
        ]
    assert normal_texts(texts.slice(0, 0)).strings() == []


def test_not_utf8() -> None:
    """Bytes that are no text become U+FFFD, a symbol: cut off, too long, half a pair, no lead byte."""
    raw = [
        b"a\xc3",
        b"\xe2\x82",
        b"a\xc0\x80b",
        b"\xed\xa0\x80",
        b"x\xff",
        b"\x80y",
        b"\xf4\x90\x80\x80",
        b"\xf0\x80\x80\xafz",
    ]
    offsets = [0]
    for one in raw:
        offsets.append(offsets[-1] + len(one))
    buffers = [None, pa.py_buffer(pa.array(offsets, pa.int32()).buffers()[1]), pa.py_buffer(b"".join(raw))]
    texts = pa.Array.from_buffers(pa.string(), len(raw), buffers)
    assert normal_texts(texts).strings() == [normal(one.decode("utf-8", "replace")) for one in raw]


def test_pieces_that_grow() -> None:
    """A code point of 3 bytes that becomes 33 does not overrun the output."""
    assert kernel(["\ufdfa" * 1000, "a"]) == [normal("\ufdfa" * 1000), "a"]
