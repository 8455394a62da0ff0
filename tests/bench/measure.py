"""What one command costs: time, memory and bytes read, as the kernel counts them.

This module and whoever calls it stay small (no torch): the kernel counts the memory of the process that starts a
command into the command's own peak.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_POLL_SECONDS = 0.02
_IN_KIBIBYTES = 1024


@dataclass(frozen=True)
class Measurement:
    """What one command cost.

    Attributes:
        wall: seconds from its start to its end.
        cpu: seconds in user and system mode together, of the process, its threads and the children it waited for.
        peak: the largest resident set in bytes, of any one process of them; code of shared libraries included.
        anonymous: the same without pages that are backed by files, so libraries and mapped files don't count. Looked at
            every 20 ms, of the first process alone.
        read: bytes that the first process and its threads asked the system for: ``rchar`` of ``/proc/PID/io``, in which
            Linux counts ``read``, ``pread`` and ``copy_file_range``, but no page of a mapped file.
        from_disk: bytes that had to come from the disk for it, in which mapped files count too; 0 with a warm cache.
        output: what it printed.
    """

    wall: float
    cpu: float
    peak: int
    anonymous: int
    read: int
    from_disk: int
    output: str


def measured(command: Sequence[object]) -> Measurement:
    """Runs a command to its end.

    Raises:
        RuntimeError: it failed; with the last it said.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the benchmark's own commands
            [*map(str, command)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=complaints,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        with _AnonymousMemory(process.pid) as memory:
            # Leaves a zombie, whose counters can still be read.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            wall = time.perf_counter() - started
        counted = _counters(Path(f"/proc/{process.pid}/io"))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read().decode()
        complaints.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{complaints.read().decode()[-3000:]}")
    return Measurement(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * _IN_KIBIBYTES,
        anonymous=memory.peak,
        read=counted["rchar"],
        from_disk=counted["read_bytes"],
        output=output,
    )


def medians(measurements: Iterable[Measurement]) -> Measurement:
    """Each figure's median; what was printed by the last one."""
    every = list(measurements)
    return Measurement(
        wall=statistics.median(one.wall for one in every),
        cpu=statistics.median(one.cpu for one in every),
        peak=round(statistics.median(one.peak for one in every)),
        anonymous=round(statistics.median(one.anonymous for one in every)),
        read=round(statistics.median(one.read for one in every)),
        from_disk=round(statistics.median(one.from_disk for one in every)),
        output=every[-1].output,
    )


def interleaved(
    commands: Mapping[str, Callable[[], Measurement]], runs: int, done: Callable[[str, Measurement], None]
) -> dict[str, list[Measurement]]:
    """Takes every measurement once, then every one again, and so on: a slow minute then hits all of them alike.

    A first round fills the page cache and Python's compiled files, and isn't counted.

    Args:
        commands: what to measure, by name.
        runs: how many rounds.
        done: told of each measurement that counts.
    """
    found: dict[str, list[Measurement]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            measurement = command()
            if run:
                found[name].append(measurement)
                done(name, measurement)
    return found


def settle() -> None:
    """Has everything written that waits to be, so that the next command doesn't pay for the last one."""
    os.sync()


def say(text: str) -> None:
    """Tells on stderr how far it is: stdout is for the tables."""
    sys.stderr.write(f"{text}\n")


def forget(path: Path) -> None:
    """Drops a file from the page cache; it has to be written out."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def forget_all(folder: Path) -> None:
    """Drops every file below a folder from the page cache, and has written out before what waits to be."""
    settle()
    for path in files(folder):
        forget(path)


def files(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def bring_into_cache(path: Path, count: int | None = None) -> None:
    """Reads a file's first ``count`` bytes, or all: the kernel may have dropped some of them in the meantime."""
    left = path.stat().st_size if count is None else count
    piece = bytearray(2**22)
    with path.open("rb", buffering=0) as file:
        while left > 0 and (taken := file.readinto(memoryview(piece)[:left])):
            left -= taken


_TOUCH = "import mmap, sys; mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"


def have_free_memory(count: int) -> None:
    """Has the machine give memory that nothing has used for a while, and take it back.

    A virtual machine gets its memory from its host page by page, and gives it back when it is idle: the first command
    that needs it would pay seconds for that, whichever it is.

    Args:
        count: bytes.
    """
    subprocess.run([sys.executable, "-c", _TOUCH, str(count)], check=True)  # noqa: S603 - our own


def cached(path: Path) -> int:
    """How many bytes of a file are in the page cache."""
    return int(measured(("fincore", "--bytes", "--noheadings", "--output", "RES", path)).output)


def _counters(path: Path) -> dict[str, int]:
    pairs = (line.split(":") for line in path.read_text(encoding="ascii").splitlines())
    return {name: int(value) for name, value in pairs}


class _AnonymousMemory:
    """Looks at a process's ``RssAnon`` within the block; ``peak`` is the largest, in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _AnonymousMemory:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            with suppress(OSError):
                for line in self._status.read_text(encoding="utf-8").splitlines():
                    if line.startswith("RssAnon:"):
                        self.peak = max(self.peak, int(line.split()[1]) * _IN_KIBIBYTES)
