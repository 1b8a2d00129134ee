"""Which samples go into which part of an export."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.export_cut import cut
from pairsieve.pipelines.export_survey import Seen, occurrences

Files = Sequence[Sequence[tuple[str, int]]]
"""Of each file the rows: uid, and how many samples it gives."""


def seen(files: Files) -> list[Seen]:
    """What a survey finds."""
    found = []
    for i, rows in enumerate(files):
        counts, uids = [count for _, count in rows], [uid for uid, _ in rows]
        rounds = tuple(sum(count > j for count in counts) for j in range(max(counts)))
        found.append(Seen(i, len(rows), rounds, uids[0], uids[-1], int(occurrences(pa.array(uids))[-1]) + 1))
    return found


rows = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), min_size=1, max_size=6)


@given(st.lists(rows, min_size=1, max_size=5), st.integers(1, 9))
def test_parts_hold_every_sample_once_in_order(files: Files, asked: int) -> None:
    """First samples of all rows, then second ones; sizes one apart at most."""
    wanted = [(f, j, r) for j in range(3) for f, rows in enumerate(files) for r, (_, n) in enumerate(rows) if n > j]
    if not wanted:
        return
    parts = cut(seen(files), min(asked, len(wanted)))
    found = []
    for part in parts:
        for one in part.slices:
            held = [r for r, (_, count) in enumerate(files[one.file]) if count > one.number]
            found += [(one.file, one.number, r) for r in held[one.start : one.start + one.count]]
    assert found == wanted
    assert max(part.rows for part in parts) - min(part.rows for part in parts) <= 1


@given(st.lists(rows, min_size=1, max_size=6))
def test_a_uid_is_counted_on_through_files(files: Files) -> None:
    """What a slice knows of the files before it is how often its first uid stood at their end."""
    flat = [uid for rows in files for uid, _ in rows]
    wanted, starts = occurrences(pa.array(flat)).tolist(), np.cumsum([0, *map(len, files)])
    for part in cut(seen(files), 1):
        for one in part.slices:
            assert one.before == wanted[starts[one.file]]


@given(st.lists(st.sampled_from(["x", "y", "z"]), max_size=12), st.integers(0, 12))
def test_occurrences_count_neighbours(uids: list[str], end: int) -> None:
    """As a loop does, in one piece or in two."""
    wanted, last = list[int](), None
    for uid in uids:
        wanted.append(wanted[-1] + 1 if uid == last else 0)
        last = uid
    first, second = uids[:end], uids[end:]
    begun = occurrences(pa.array(first, pa.string())).tolist()
    rest = (first[-1], begun[-1] + 1) if first else ("", 0)
    assert begun + occurrences(pa.array(second, pa.string()), *rest).tolist() == wanted
