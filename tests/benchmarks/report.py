"""The report of a large run: seconds, CPU, peak memory and bytes of the page, in a process of its own.

    python -m tests.benchmarks.report FOLDER [rows, 10,000,000]

FOLDER/run is ``tests.benchmarks.big_run``'s, made where it is not there yet.  Ends with exit code 1 where the report
takes a minute of CPU, 2 GB or 10 MB.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.big_run import big_run

MOST_SECONDS, MOST_MIB, MOST_BYTES = 60, 2000, 10_000_000
CHILD = """
import json, resource, sys, time
from pairsieve.pipelines.report import report
made = report(sys.argv[1], sys.argv[2])
print(json.dumps({"cpu": time.process_time(), "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                  "bytes": made.bytes, "unread": made.unread, "left": made.funnel[-1].left}))
"""


def measure(run: Path, out: Path) -> dict[str, float]:
    """What a report costs."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(run), str(out)], check=True, capture_output=True, text=True
    ).stdout
    found = json.loads(done)
    assert not found["unread"], found["unread"]
    return {"wall": time.monotonic() - began, **{name: found[name] for name in ("cpu", "mib", "bytes", "left")}}


def main() -> None:
    """Make the run where it is missing, report, and print a row of the table."""
    if len(sys.argv) < 2:
        sys.exit(str(__doc__))
    folder = Path(sys.argv[1])
    rows = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 10_000_000
    if not (folder / "run" / "catalog.duckdb").exists():
        big_run(folder, rows)
    found = measure(folder / "run", folder / "report.html")
    print("| pairs | CPU-s | s | peak MiB | page, kB |")
    print(f"| {rows:,} | {found['cpu']:.1f} | {found['wall']:.1f} | {found['mib']:,} | {found['bytes'] / 1e3:.0f} |")
    is_good = found["cpu"] < MOST_SECONDS and found["mib"] < MOST_MIB and found["bytes"] < MOST_BYTES
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
