"""What this machine lets this process use: CPUs, memory, GPUs; limits of containers count.

Reads a few files under ``/proc``, ``/sys`` and ``/dev``; no GPU library is imported (torch takes seconds).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
DEVICES = Path("/dev")
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(ceil(quota) for quota in _cpu_quotas())]))


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits()])


def gpus() -> int:
    """GPUs that this process may use: devices of NVIDIA, or AMD, or one under WSL, less what is hidden from it."""
    found = len([p for p in DEVICES.glob("nvidia[0-9]*") if p.name[6:].isdigit()])
    if not found and (DEVICES / "kfd").exists():
        found = len(list((DEVICES / "dri").glob("renderD*")))
    if not found and (DEVICES / "dxg").exists():
        found = 1
    for name in _HIDING:
        if name in os.environ:
            found = min(found, _shown(os.environ[name]))
    return found


def _shown(listed: str) -> int:
    """Devices in a list of visible ones, which ends at the first ``-1``; a slice of a GPU counts as one."""
    names = [name.strip() for name in listed.split(",")]
    names = names[: names.index("-1")] if "-1" in names else names
    return len([name for name in names if name and name != "NoDevFiles"])


def _cpu_quotas() -> Iterator[float]:
    """CPU quotas of this process's groups, in CPUs."""
    for group in _groups("cpu"):
        with suppress(OSError, ValueError):
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text().split()
            else:
                quota = (group / "cpu.cfs_quota_us").read_text()
                period = (group / "cpu.cfs_period_us").read_text()
            if float(quota) > 0:  # "max" is no number, -1 is no limit
                yield float(quota) / float(period)


def _memory_limits() -> Iterator[int]:
    """Memory limits of this process's groups, in bytes."""
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no number
                yield int((group / name).read_text())


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, up to the root; of the controller alone in version 1."""
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = CGROUPS / controllers if controllers else CGROUPS
            folder = root / path.lstrip("/")
            yield from (p for p in (folder, *folder.parents) if p.is_relative_to(root))
