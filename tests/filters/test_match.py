"""Matching: the kernels against a literal scan of the entries, and against pyahocorasick."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import ahocorasick
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.filters import _match_substrings, _match_tables, _match_words
from pairsieve.filters._match import ALL, Matcher, Rule
from pairsieve.filters._match_ends import CJK_MARKS, is_unspaced, spaced_ends
from pairsieve.filters._texts import frozen
from tests.support_match import ATOMS, ENTRIES, TEXTS, linear_scan, pattern, spaced, write_entries

RULES: tuple[Rule, ...] = ("v1", "v2")
Match = Callable[..., list[list[int] | None]]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRSIEVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("metadata")


@pytest.fixture(scope="module", name="match")
def matching(folder: Path) -> Match:
    """Ids for captions, with tables made for the entries and no trace left."""

    def match(entries: list[str], texts: list[str | None] | pa.Array, rule: Rule = "v1") -> list[list[int] | None]:
        made = Matcher.load(write_entries(folder / "entries.json", entries), rule)
        found = made.match(texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string()))
        found.validate(full=True)
        ids: list[list[int] | None] = found.to_pylist()
        return ids

    return match


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES, st.lists(st.none() | TEXTS, max_size=10), st.data())
def test_as_a_linear_scan(
    match: Match, rule: Rule, entries: list[str], texts: list[str | None], data: st.DataObject
) -> None:
    """Ids are those of the literal rule, ascending, for any entries and captions, sliced and of both string types."""
    texts = [*texts, *data.draw(st.lists(st.lists(st.sampled_from([*entries, *ATOMS])).map(" ".join), max_size=3))]
    kind, start = data.draw(st.sampled_from([pa.string(), pa.large_string()])), data.draw(st.integers(0, len(texts)))
    wanted = [linear_scan(text, entries, rule) for text in texts[start:]]
    assert match(entries, pa.array(texts, kind).slice(start), rule) == wanted


def word(chance: random.Random, least: int, most: int) -> str:
    """Some parts of words."""
    return "".join(chance.choices(ATOMS, k=chance.randint(least, most)))


@pytest.mark.parametrize("rule", RULES)
def test_hard_cases(match: Match, rule: Rule) -> None:
    """Many repeated, nested and empty entries, and captions made of them, are matched as the literal rule says."""
    chance, hits = random.Random(0), 0
    for turn in range(12):
        entries = [word(chance, turn % 2, 4) for _ in range(chance.choice((1, 3, 30, 150)))]
        texts: list[str | None] = [word(chance, 0, 13) for _ in range(100)]
        texts += [" ".join(chance.choices(entries, k=2)) for _ in range(20)]
        texts += ["", " ", None, " ".join(entries * 20), "".join(entries * 20)]
        found = match(entries, texts, rule)
        assert found == [linear_scan(text, entries, rule) for text in texts]
        hits += sum(map(len, filter(None, found)))
    assert hits > 1000


def test_the_traps(match: Match) -> None:
    """What the reference names: dead entries, marks, double spaces, tabs, quotes, case, nested and equal entries."""
    entries = ["Washington, D.C.", "D . C", "St . Louis", "new york", "york", "dog", "--", "...", "dog", ".", ""]
    texts = ["Washington, D.C.", "D.C", "St. Louis", "new  york", "new\tyork", "new, york", "new\r\nyork"]
    texts += ["dog's (dog) dog-house Dog dogs", "a dog.dog", "a -- b ... c", "", "x"]
    wanted = [[1, 9, 10], [1, 9], [9, 10], [4, 10], [3, 4], [4, 10], [4, 10], [], [5, 8, 9], [6, 9, 10], [10], []]
    assert match(entries, texts) == wanted == [linear_scan(text, entries) for text in texts]


def test_second_rule(match: Match) -> None:
    """A Han, Thai or punctuation end needs no space, kana and Hangul ends do; a mixed entry has one free end."""
    entries = ["猫", "ไทย", "ねこ", "고양이", "'s", "(dog)", "C猫", "猫C", "。", "dog"]
    texts = [
        "白猫だ",
        "ประเทศไทยนะ",
        "ねこだ",
        "ねこ",
        "고양이 고양이는",
        "dog's",
        "a(dog)b",
        "aC猫b C猫b",
        "猫C 猫Cb",
        "dog。",
    ]
    wanted = [[0], [1], [], [2], [3], [4], [5], [0, 6], [0, 7], [8]]
    assert match(entries, texts, "v2") == wanted


def test_ends_of_the_second_rule() -> None:
    """Marks are the 32 of ASCII and 25 of CJK; scripts with spaces, digits, kana and Hangul are not free."""
    assert len(set(CJK_MARKS)) == 25
    assert all(map(is_unspaced, "!~、一鿿㐀豈\U00020000\U0003134aกໂཀကក"))
    assert not any(map(is_unspaced, "aé0あアー가ㄱЖΩ अ\u00a0\u3000 ・〜"))
    before, behind = spaced_ends(pa.array(["", "a猫", "猫a", " 猫", "\U00020000"]))
    assert before.tolist() == [True, True, False, True, False]
    assert behind.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1_000_003])
def test_a_megabyte(match: Match, rule: Rule, size: int) -> None:
    """Captions of a megabyte, of few words or many, of one word or of hits without end, are matched exactly."""
    entries = [
        "a",
        *(" ".join("a" * n) for n in range(2, 30)),
        *(f"w{i}" for i in range(200)),
        "猫",
        "猫" * 30,
        "x" * size,
    ]
    chance = random.Random(size)
    many = " ".join(f"w{i}" for i in chance.choices(range(240), k=size // 6))
    texts = [("a " * size)[:size], "猫" * (size // 3), "x" * size, "x" * (size + 1), many, "," * size, " " * size]
    assert match(entries, texts, rule) == [linear_scan(text, entries, rule) for text in texts]


def test_hits_beyond_the_sorted_few(match: Match) -> None:
    """However many entries a caption hits, they are ascending and distinct."""
    entries = [f"w{i}" for i in range(3000)]
    texts = [" ".join(f"w{i * 7919 % n}" for i in range(2 * n)) for n in (1, 63, 64, 65, 129, 3000)]
    assert match(entries, texts) == [list(range(n)) for n in (1, 63, 64, 65, 129, 3000)]


def test_long_entries(match: Match) -> None:
    """An entry of more words than a block of the kernel, at the end of a caption that fills several blocks."""
    entries = ["b " * 2000 + "c", "c"]
    assert match(entries, ["b " * 5000 + "c", "b " * 1999 + "c", "b " * 5000]) == [[0, 1], [1], []]


def test_foreign_buffers(match: Match) -> None:
    """Text that ends where its memory ends, without Arrow's padding, is read no further."""
    data = np.frombuffer(b"dog a dog", np.uint8)
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 3, 9], np.int32)), pa.py_buffer(data)]
    )
    assert match(["dog", "a dog"], texts) == [[0], [0, 1]]


def test_text_that_is_not_utf8(match: Match) -> None:
    """Damaged UTF-8, which Parquet may hold, matches by its bytes or not at all."""
    parts = [b"\xff dog", b"\xe7\x8c dog", b"dog \xe7", b"\xf0\x9f\x98", b"\xe7\x8c\xab\x8c"]
    texts = pa.array(parts, pa.binary()).view(pa.string())
    assert match(["dog", "猫"], texts, "v2") == [[0], [0], [0], [], [1]]


def test_words_of_the_same_hash() -> None:
    """Words whose first eight bytes are the hash's seed all have hash 0, and still only equal ones match."""
    seed = int(_match_words.SEED).to_bytes(8, "little")
    words = [seed + bytes([65 + i]) * (i % 20) for i in range(1, 20)]
    buffers = _match_tables.padded_buffers(pa.array(words, pa.binary()).view(pa.string()))
    arrays = _match_tables.Words.build(*buffers, frozen(np.arange(0, 19, 2, dtype=np.int32)))
    keys = arrays["table"][: 2 * arrays["words"][0] : 2]
    assert np.count_nonzero(keys == _match_words.LONG) == 10
    rows, ids = _match_tables.Words.of({name: frozen(array) for name, array in arrays.items()}).match(*buffers)
    assert ids.tolist() == list(range(0, 19, 2)) and np.diff(rows).tolist() == [1, 0] * 9 + [1]


def test_no_captions(match: Match) -> None:
    """None at all, and nulls alone."""
    assert match(["dog"], []) == []
    assert match(["dog"], pa.nulls(2, pa.string())) == [None, None]


def test_metadata_that_matches_nothing(match: Match) -> None:
    """Entries that no caption can hold."""
    assert match(["a,b", "a\tb"], ["a,b", "a\tb", ""]) == [[], [], []]


def automaton(entries: list[str], rule: str) -> ahocorasick.Automaton:
    """pyahocorasick's, as MetaCLIP's faster matcher uses it."""
    made = ahocorasick.Automaton()
    for i, entry in enumerate(entries):
        made.add_word(pattern(entry, rule), i)
    made.make_automaton()
    return made


@pytest.mark.parametrize("rule", RULES)
def test_as_pyahocorasick(match: Match, rule: Rule) -> None:
    """50,000 captions over 20,000 entries in two kinds of script have the ids that pyahocorasick finds."""
    chance = random.Random(1)
    words = ["".join(chance.choices("etaoinshr猫犬山水人", k=chance.randint(1, 5))) for _ in range(8000)]
    entries = sorted({" ".join(chance.choices(words, k=chance.choice((1, 1, 1, 2, 2, 3, 4)))) for _ in range(20_000)})
    texts = ["".join(w + chance.choice("  ,.'") for w in chance.choices(words, k=6)) for _ in range(50_000)]
    peer = automaton(entries, rule)
    wanted = [sorted({i for _, i in peer.iter(spaced(text))}) for text in texts]
    assert match(entries, texts, rule) == wanted and sum(map(len, wanted)) > 50_000


def test_tables_are_small(folder: Path) -> None:
    """40,000 entries take less than 8 MB: 200 bytes each."""
    entries = [f"word{i} and {i % 77}" for i in range(40_000)]
    made = Matcher.load(write_entries(folder / "many.json", entries), "v1").tables[ALL].words
    assert made.table.nbytes + made.long.nbytes + made.chain.nbytes < 8_000_000


def test_kernels_say_what_they_assume() -> None:
    """Python's side and the kernels agree on how far a kernel may read."""
    assert _match_tables.PADDING >= 64 and _match_words.BLOCK > 2 * 64 + 3 and ord(" ") == _match_substrings.SPACE
