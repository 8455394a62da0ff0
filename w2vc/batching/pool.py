"""Worker processes on this machine: started once, used for one checkpoint after the other, made anew if one dies.

Nothing that is shared has a lock, so that a worker that the system kills can't leave one locked for the others: each
job has two numbers on a board in shared memory, and one more says that all are to stop.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from w2vc.batching.jobs import Job
from w2vc.batching.work import Result, lost, without_output, work
from w2vc.errors import UsageError

WORKER_BYTES = 2**29
"""What a worker needs: torch and transformers imported, and the buffers of one conversion."""

# How often progress is looked at, in seconds.
_TICK = 0.2
_ATTEMPTS_ALONE = 2


@dataclass(frozen=True)
class Running:
    """A conversion that is going on: how many of how many bytes are written."""

    checkpoint: Path
    done: int
    whole: int


# ---------------------------------------------------------------------------------------------------------------
# How many


def default_workers(jobs: int) -> int:
    """As many as processors and memory allow, those of a container or a cluster's job, and no more than jobs."""
    return max(1, min(len(os.sched_getaffinity(0)), _processor_quota(), _available_bytes() // WORKER_BYTES, jobs))


_UNLIMITED = 2**62


def _processor_quota() -> int:
    """How many processors the control groups may use at a time (Linux's ``cgroup-v2.rst``, ``sched-bwc.rst``)."""
    quotas = [_UNLIMITED]
    for group in _control_groups("cpu"):
        of_version_1 = _text(f"{group}/cpu.cfs_quota_us") + " " + _text(f"{group}/cpu.cfs_period_us")
        numbers = (_text(f"{group}/cpu.max") or of_version_1).split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and numbers[1] != "0":
            quotas.append(max(1, round(int(numbers[0]) / int(numbers[1]))))
    return min(quotas)


def _available_bytes() -> int:
    """The least of what is free and what the control groups are allowed (``cgroup-v2.rst``, ``memory.rst``)."""
    texts = [
        _text(f"{group}/{name}").strip()
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
    for line in _text("/proc/self/cgroup").splitlines():
        _number, controllers, place = line.split(":", 2)
        for name in controllers.split(","):
            if name in roots:
                yield from (f"{roots[name]}{above}" for above in (place, *map(str, PurePosixPath(place).parents)))


_CONTROL_GROUPS = "/sys/fs/cgroup"


def _cached_bytes() -> int:
    """What the system would give back from its cache: ``Cached`` in ``/proc/meminfo``."""
    lines = _text("/proc/meminfo").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Cached:")), 0)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------------------------------
# The pool


class Pool:
    """Runs jobs in worker processes.

    A worker that dies takes the pool with it (``BrokenProcessPool``). Whatever was running then is tried again alone,
    so that it shows which checkpoint it was; what hadn't begun goes on in a new pool.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, *, force: bool) -> None:
        self._jobs = jobs
        self._workers = workers
        self._force = force
        self._waiting = list(range(len(jobs)))
        self._context = get_context("spawn")
        self._board = self._context.RawArray(ctypes.c_int64, 1 + 2 * len(jobs))

    def running(self) -> tuple[Running, ...]:
        """What is going on now."""
        return tuple(
            Running(self._jobs[index].checkpoint, self._board[_done(index)], self._board[_whole(index)])
            for index in self._waiting
            if self._has_begun(index)
        )

    def results(self) -> Generator[Result | None, None, None]:
        """The results as they come, and None several times a second. Closing the iterator stops the workers.

        Raises:
            UsageError: the workers die before they begin.
        """
        in_vain = 0
        while self._waiting:
            broke = yield from self._round(self._waiting, self._workers)
            suspects = [index for index in self._waiting if self._has_begun(index)]
            in_vain = in_vain + 1 if broke and not suspects else 0
            if in_vain == _ATTEMPTS_ALONE:
                raise UsageError(
                    "the worker processes die before they begin",
                    advice="What they say stands above. Is there memory for as many as --jobs says? In a script, call "
                    'batch() only under `if __name__ == "__main__":`.',
                )
            for index in suspects:
                yield from self._alone(index)

    def _has_begun(self, index: int) -> bool:
        return self._board[_whole(index)] > 0

    def _alone(self, index: int) -> Iterator[Result | None]:
        for _attempt in range(_ATTEMPTS_ALONE):
            broke = yield from self._round([index], 1)
            if not broke:
                return
        self._waiting.remove(index)
        yield lost(self._jobs[index], f"its worker process died, and again each of {_ATTEMPTS_ALONE} times alone")

    def _round(self, indices: Sequence[int], workers: int) -> Generator[Result | None, None, bool]:
        """Runs some of the jobs in one pool; whether that broke is the generator's value."""
        for index in indices:
            self._board[_done(index)] = self._board[_whole(index)] = 0
        pool = ProcessPoolExecutor(workers, self._context, _start_worker, (self._board,))
        try:
            futures, broke = self._submitted(pool, indices)
            left = set(futures)
            while left:
                finished, left = wait(left, _TICK, FIRST_COMPLETED)
                for future in finished:
                    result = self._result(futures[future], future)
                    broke = broke or result is None
                    yield result
                if not finished:
                    yield None
            return broke
        finally:
            self._board[_STOP] = 1
            pool.shutdown(wait=True, cancel_futures=True)
            self._board[_STOP] = 0

    def _submitted(self, pool: ProcessPoolExecutor, indices: Sequence[int]) -> tuple[dict[Future[Result], int], bool]:
        futures: dict[Future[Result], int] = {}
        with _interrupts_held():
            for index in list(indices):
                try:
                    futures[pool.submit(_work, index, self._jobs[index], self._force)] = index
                except BrokenExecutor:
                    return futures, True
        return futures, False

    def _result(self, index: int, future: Future[Result]) -> Result | None:
        """The result, or None if the pool broke."""
        try:
            result = future.result()
        except BrokenExecutor:
            return None
        except Exception as error:
            result = without_output(self._jobs[index], error)
        self._waiting.remove(index)
        return result


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to the whole group: the processes that are started in here never get it, this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------------------------
# The board: one number to stop all, and for each job how many bytes of how many are done; (0, 0) before it begins.

_STOP = 0


def _done(index: int) -> int:
    return 1 + 2 * index


def _whole(index: int) -> int:
    return 2 + 2 * index


# ---------------------------------------------------------------------------------------------------------------
# In a worker


class Stopped(BaseException):
    """Ends a conversion from outside; its output directory disappears with it. No ``Exception``, being no failure."""


class _Worker:
    """What a worker process keeps between jobs."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._busy = threading.Lock()
        self._terminated = False

    def work(self, index: int, job: Job, force: bool) -> Result:
        try:
            with self._busy:
                watch = self._watch(index)
                watch(0, max(job.size, 1))
                return work(job, force, watch)
        finally:
            if self._terminated:
                os._exit(128 + signal.SIGTERM)

    def _watch(self, index: int) -> Callable[[int, int], None]:
        def watch(done: int, whole: int) -> None:
            if self._board[_STOP] or self._terminated:
                raise Stopped
            self._board[_done(index)], self._board[_whole(index)] = done, whole

        return watch

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        """On SIGTERM: at once if idle, otherwise after the conversion has cleared away what it had begun."""
        self._terminated = True
        if not self._busy.locked():
            os._exit(128 + signal.SIGTERM)

    def end_with_parent(self) -> None:
        """A worker whose parent was killed would wait for work for ever."""
        parent = parent_process()
        if parent is None:
            return
        connection.wait([parent.sentinel])
        self._board[_STOP] = 1
        with self._busy:
            os._exit(1)


_worker: _Worker | None = None


def _start_worker(board: Any) -> None:
    global _worker  # a process pool has no other place for what its workers keep
    # As many conversions as processors run already. torch reads this when it is imported, with the first conversion.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Registered before torch is imported, so called when all else is done: leaves out half a second of its teardown.
    atexit.register(os._exit, 0)
    _worker = _Worker(board)
    signal.signal(signal.SIGTERM, _worker.terminate)
    threading.Thread(target=_worker.end_with_parent, daemon=True).start()


def _work(index: int, job: Job, force: bool) -> Result:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker.work(index, job, force)
