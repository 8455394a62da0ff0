"""How many conversions may run at a time: what processors, memory and the control groups around us allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

WORKER_BYTES = 2**29
"""What a worker needs: torch and transformers imported, and the buffers of one conversion."""


def default_workers(jobs: int) -> int:
    """As many as processors and memory allow, those of a container or a cluster's job, and no more than jobs."""
    return max(1, min(len(os.sched_getaffinity(0)), _processor_quota(), _available_bytes() // WORKER_BYTES, jobs))


_UNLIMITED = 2**62


def _processor_quota() -> int:
    """How many processors the control groups may use at a time (Linux's ``cgroup-v2.rst``, ``sched-bwc.rst``)."""
    quotas = [_UNLIMITED]
    for group in _control_groups("cpu"):
        of_version_1 = _contents(f"{group}/cpu.cfs_quota_us") + " " + _contents(f"{group}/cpu.cfs_period_us")
        numbers = (_contents(f"{group}/cpu.max") or of_version_1).split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and numbers[1] != "0":
            quotas.append(max(1, round(int(numbers[0]) / int(numbers[1]))))
    return min(quotas)


def _available_bytes() -> int:
    """The least of what is free and what the control groups are allowed (``cgroup-v2.rst``, ``memory.rst``)."""
    texts = [
        _contents(f"{group}/{name}").strip()
        for group in _control_groups("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached_bytes()
    return min([free, *(int(text) for text in texts if text.isdigit())])


def _control_groups(controller: str) -> Iterator[str]:
    """The folders of the control groups that this process is in, in the second or first version, up to their roots.

    In a container the root is its own group, whatever the path to it is called; Slurm's and systemd's groups lie below.
    """
    roots = {"": _CONTROL_GROUPS, controller: f"{_CONTROL_GROUPS}/{controller}"}
    yield from roots.values()
    for line in _contents("/proc/self/cgroup").splitlines():
        _number, controllers, place = line.split(":", 2)
        for name in controllers.split(","):
            if name in roots:
                yield from (f"{roots[name]}{above}" for above in (place, *map(str, PurePosixPath(place).parents)))


_CONTROL_GROUPS = "/sys/fs/cgroup"


def _cached_bytes() -> int:
    """What the system would give back from its cache: ``Cached`` in ``/proc/meminfo``."""
    lines = _contents("/proc/meminfo").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Cached:")), 0)


def _contents(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
