"""Kill a run of the demo's size at 30 seeded points, a directory each, resume it and compare every byte.

    python -m tests.benchmarks.chaos [pairs] [points] [seed]

The way they strike is that of ``tests/pipelines/test_chaos.py``, where a smaller run is struck once in the wait for
each kind of file.  Exit code 0 if all points hold, else 1.  About 10 minutes on two cores.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support_chaos import POINTS, SEED, Point, Reference, World, points, punish, reference, world

PAIRS = 3000


def main(pairs: int = PAIRS, count: int = POINTS, seed: int = SEED) -> int:
    """All points, in the order of the run; gives the number of those that do not hold."""
    with tempfile.TemporaryDirectory() as name, world(Path(name), pairs) as served:
        began = time.monotonic()
        wanted = reference(served, Path(name) / "reference")
        print(f"{pairs:,} pairs; uninterrupted: {len(wanted.waits) - 1} files in {time.monotonic() - began:.1f} s")
        print(f"{'point':>5}  {'victim':9}  {'files':>5}  {'delay s':>7}  {'seconds':>7}  identical", flush=True)
        held = [strike(served, wanted, point) for point in sorted(points(seed, count), key=wanted.order)]
    print(f"{sum(held)} of {len(held)}")
    return len(held) - sum(held)


def strike(served: World, wanted: Reference, point: Point) -> bool:
    """One point in a directory of its own; prints its line, and whatever is wrong."""
    out, began = served.folder / f"point-{point.number}", time.monotonic()
    report = punish(served, wanted, out, [point])
    seconds, holds = time.monotonic() - began, bool(report.strikes) and not report.faults
    files = report.strikes[0][1] if report.strikes else "-"
    delay = wanted.place(point).delay
    line = f"{point.number:5}  {point.victim:9}  {files:>5}  {delay:7.3f}  {seconds:7.1f}  {'yes' if holds else 'no'}"
    print("\n".join([line, *(f"       {fault}" for fault in report.faults)]), flush=True)
    shutil.rmtree(out, ignore_errors=True)
    return holds


if __name__ == "__main__":
    sys.exit(min(1, main(*map(int, sys.argv[1:]))))
