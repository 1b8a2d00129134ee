"""What the command line costs before it works: ``--help``, the start page, a Tab; whole processes, CPU and peak memory.

python -m tests.benchmarks.cli [REPEATS]
"""

import os
import subprocess
import sys
from statistics import median

CASES = {
    "`import typer`, for comparison": (["-c", "import typer"], {}),
    "`pairsieve`": (["-m", "pairsieve"], {}),
    "`pairsieve --help`": (["-m", "pairsieve", "--help"], {}),
    "Tab behind `pairsieve filters clip`": (
        ["-m", "pairsieve"],
        {"_PAIRSIEVE_COMPLETE": "complete_bash", "COMP_WORDS": "pairsieve filters clip", "COMP_CWORD": "2"},
    ),
    "Tab behind `pairsieve query `": (
        ["-m", "pairsieve"],
        {"_PAIRSIEVE_COMPLETE": "complete_bash", "COMP_WORDS": "pairsieve query ", "COMP_CWORD": "2"},
    ),
}


def cost(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU-milliseconds and MB at the peak of one process."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return (usage.ru_utime + usage.ru_stime) * 1e3, usage.ru_maxrss / 1e3


def main(repeats: int = 11) -> None:
    """A table; each figure is a median."""
    print("| | CPU-ms | peak MB |\n|---|---:|---:|")
    for name, (arguments, environment) in CASES.items():
        seen = [cost(arguments, environment) for _ in range(repeats)]
        print(f"| {name} | {median(ms for ms, _ in seen):.0f} | {median(mb for _, mb in seen):.0f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
