"""CPUs, memory, limits, GPUs and Ray of this machine.

torch is imported in a process of its own and only where the machine shows a GPU: it takes seconds, and a broken
driver may end it.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pairsieve.pipelines import machine
from pairsieve.pipelines.doctor import DEADLINE, Finding, note, ok

MEMORY = 2 << 30
"""Bytes that a run of two workers is glad to have."""
FILES = 4_096
"""Open files: ``download`` holds a connection for each URL under way."""
SHARED = 1 << 30
_TORCH = """
import json, torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda,
                  "devices": [[one.name, one.total_memory] for one in found]}))
"""


def cpu() -> Iterator[Finding]:
    """CPUs that may be used, and those of the machine."""
    usable, whole = machine.cpus(), os.cpu_count() or 1
    of = "" if usable == whole else f" of the machine's {whole} (its affinity, or a container's quota)"
    yield ok("CPU", f"{_counted(usable, 'CPU')}{of}; as many workers by default")


def memory() -> Iterator[Finding]:
    """Memory that may be used, and what of it is free."""
    usable, free = machine.memory(), _free()
    said = f"{_size(usable)}, {_size(min(usable, free))} of it free"
    if min(usable, free) < MEMORY:
        yield note("memory", said, "run with --workers 1, or end what else takes memory")
    else:
        yield ok("memory", said)


def limits() -> Iterator[Finding]:
    """Open files and processes."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FILES and files != resource.RLIM_INFINITY:
        step = f"before downloads: ulimit -n {min(hard, 65_536) if hard > 0 else 65_536}"
        yield note("limits", f"{files:,} open files a process", step)
    else:
        yield ok("limits", "open files: no limit" if files == resource.RLIM_INFINITY else f"{files:,} open files")


def gpu() -> Iterator[Finding]:
    """GPUs, the driver, and what torch sees of them."""
    seen, driver = machine.gpus(), _driver()
    if not seen:
        hidden = next((f"; {name} hides them" for name in ("CUDA_VISIBLE_DEVICES",) if os.environ.get(name) == ""), "")
        yield note("GPU", f"none{hidden}; models run on CPUs, tens of pairs a second")
        return
    if find_spec("torch") is None:
        yield note("GPU", f"{_counted(seen, 'GPU')}{driver}, but no torch", "pip install 'pairsieve[clip]'")
        return
    yield _by_torch(seen, driver)


def _by_torch(seen: int, driver: str) -> Finding:
    done = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=DEADLINE - 1, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:200]
        return note(
            "GPU", f"{_counted(seen, 'GPU')}{driver}; torch fails: {why}", "mend the driver, or reinstall torch"
        )
    told = json.loads(done.stdout)
    if not told["devices"]:
        said = f"{_counted(seen, 'GPU')}{driver}, but torch {told['version']} (CUDA {told['cuda']}) sees none"
        return note("GPU", said, "install a build of torch for this driver: https://pytorch.org/get-started")
    names = ", ".join(f"{name} ({_size(size)})" for name, size in told["devices"])
    return ok("GPU", f"{names}{driver}; torch {told['version']}, CUDA {told['cuda']}")


def ray() -> Iterator[Finding]:
    """Whether Ray may be used, and what it finds to share memory with."""
    if find_spec("ray") is None:
        yield note("Ray", "not installed; runs use local processes", "for a cluster: pip install 'pairsieve[ray]'")
        return
    address = os.environ.get("RAY_ADDRESS")
    where = f"; RAY_ADDRESS names {address}" if address else "; no cluster is named (--ray-address)"
    shared = _shared()
    if shared is not None and shared < SHARED:
        yield note(
            "Ray", f"installed{where}; /dev/shm has {_size(shared)}", "docker run --shm-size=2g, or --engine local"
        )
    else:
        yield ok("Ray", f"installed{where}")


def _free() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return machine.memory()


def _driver() -> str:
    """The version of NVIDIA's driver, where it says it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = next((word for word in text.split() if word[:1].isdigit() and "." in word), "")
    return f", driver {found}" if found else ""


def _shared() -> int | None:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count / (1 << 30):,.1f} GiB"
