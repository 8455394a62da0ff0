"""Worker processes on this machine: started once, used for one checkpoint after the other, made anew if one dies.

They are started here and not by ``multiprocessing``, which runs ``python -c``: its first path is the current folder,
so that a ``socket.py`` in a folder of downloads would run. Ours are isolated (``-I``), are given the import path,
and take the same w2vc as this process, wherever it is. Each has a socket to this process, on which one
line of JSON is one message; when it is closed at either end, the other one knows.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import w2vc
from w2vc.batching.jobs import Job
from w2vc.batching.work import Result, lost
from w2vc.errors import UsageError

# How often progress is looked at, in seconds.
_TICK = 0.2
_ATTEMPTS_ALONE = 2
_MESSAGE_BYTES = 2**16


@dataclass(frozen=True)
class Running:
    """A conversion that is going on: how many of how many bytes are written."""

    checkpoint: Path
    done: int
    whole: int


class Pool:
    """Worker processes and the jobs that they run.

    Whatever a worker was doing when it died is tried again alone when the others are done, so that it shows whether
    the checkpoint was the reason or the lack of memory.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, *, force: bool) -> None:
        self._jobs = jobs
        self._force = force
        self._wanted = workers
        self._waiting = deque(range(len(jobs)))
        self._suspects: deque[int] = deque()
        self._deaths = dict.fromkeys(range(len(jobs)), 0)
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._in_vain = 0

    def running(self) -> tuple[Running, ...]:
        """Return what is going on now."""
        return tuple(
            Running(self._jobs[worker.index].checkpoint, worker.done, worker.whole)
            for worker in self._workers
            if worker.index is not None
        )

    def results(self) -> Generator[Result | None, None, None]:
        """Yield the results as they come, and None several times a second. Closing it stops the workers.

        Raises:
            UsageError: no worker can be started, or they die before they begin.
        """
        try:
            while self._waiting or self._suspects or self.running():
                self._start_missing()
                self._hand_out()
                ready = self._selector.select(_TICK)
                for key, _events in ready:
                    yield from self._hear(key.data)
                if not ready:
                    yield None
        finally:
            self._stop()

    # -----------------------------------------------------------------------------------------------------------
    # Workers

    def _start_missing(self) -> None:
        left = len(self._waiting) + bool(self._suspects) + len(self.running())
        while len(self._workers) < min(self._wanted, left):
            try:
                worker = _Worker()
            except OSError as error:
                if self._workers:
                    self._wanted = len(self._workers)
                    return
                raise UsageError(
                    f"No worker process can be started: {error.strerror}.",
                    advice="Is there memory for one more, and may this user have more processes?",
                ) from error
            self._workers.append(worker)
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.is_ready and worker.index is None:
                if self._waiting:
                    self._give(worker, self._waiting.popleft())
                elif self._suspects and not self.running():
                    self._give(worker, self._suspects.popleft())

    def _give(self, worker: _Worker, index: int) -> None:
        worker.give(index, self._jobs[index], self._force)

    def _hear(self, worker: _Worker) -> Iterator[Result]:
        messages = worker.receive()
        for message in messages or ():
            if "result" in message:
                worker.index = None
                yield Result.from_plain(message["result"])
            elif "whole" in message:
                worker.done, worker.whole = message["done"], message["whole"]
            else:
                worker.is_ready, self._in_vain = True, 0
        if messages is None:
            yield from self._bury(worker)

    def _bury(self, worker: _Worker) -> Iterator[Result]:
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        worker.end()
        index = worker.index
        if index is None:
            self._count_death_in_vain(worker)
            return
        self._deaths[index] += 1
        if self._deaths[index] <= _ATTEMPTS_ALONE:
            self._suspects.append(index)
        else:
            yield lost(self._jobs[index], f"Its worker process died, and again each of {_ATTEMPTS_ALONE} times alone.")

    def _count_death_in_vain(self, worker: _Worker) -> None:
        """Raise if workers die one after the other before they begin; make do with the others while there are any."""
        self._in_vain += not worker.is_ready
        if self._workers and not worker.is_ready:
            self._wanted = len(self._workers)
        elif self._in_vain > _ATTEMPTS_ALONE:
            raise UsageError(
                "The worker processes die before they begin.",
                advice="Look at what they say above. Is there memory for as many as --jobs says?",
            )

    def _stop(self) -> None:
        for worker in self._workers:
            worker.channel.close()
        for worker in self._workers:
            worker.end()
        self._selector.close()


# ---------------------------------------------------------------------------------------------------------------
# One worker, seen from here

# What it runs. The package is loaded from its own folder, so that this folder's parent needn't be on the path.
_PROGRAM = """\
import sys
sys.path[:] = {path}
import importlib.util
spec = importlib.util.spec_from_file_location("w2vc", {package}, submodule_search_locations=[{folder}])
sys.modules["w2vc"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from w2vc.batching.worker import serve
serve({descriptor})
"""


class _Worker:
    """A worker process.

    Attributes:
        channel: our end of its socket.
        is_ready: it has said that it waits for work.
        index: of the job that it has; None if it has none.
        done, whole: how many of how many bytes of it are written.
    """

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.is_ready = False
        self.index: int | None = None
        self.done = self.whole = 0
        self._begun = b""
        try:
            with theirs, _interrupts_held():
                self._process = subprocess.Popen(  # noqa: S603 - this very Python
                    worker_command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            self.channel.close()
            raise

    def give(self, index: int, job: Job, force: bool) -> None:
        self.index, self.done, self.whole = index, 0, max(job.size, 1)
        with suppress(OSError):  # it died meanwhile, of which its socket tells next
            self.channel.sendall(json.dumps({"job": job.plain(), "force": force}).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that came; None if the process is no more."""
        try:
            piece = self.channel.recv(_MESSAGE_BYTES)
        except OSError:
            piece = b""
        if not piece:
            return None
        *lines, self._begun = (self._begun + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        self.channel.close()
        self._process.wait()


def worker_command(descriptor: int) -> list[str]:
    """Return the command of a worker whose end of the socket is this descriptor."""
    package = Path(w2vc.__file__).absolute()
    program = _PROGRAM.format(
        path=ascii(import_path()),
        package=ascii(str(package)),
        folder=ascii(str(package.parent)),
        descriptor=descriptor,
    )
    return [sys.executable, "-I", f"-Xutf8={sys.flags.utf8_mode}", "-c", program]


def import_path() -> list[str]:
    """Return where this process imports from, without the current folder."""
    here = os.path.realpath(os.curdir)
    return [os.path.abspath(place) for place in sys.path if place and os.path.realpath(place) != here]  # noqa: PTH100


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, which goes to the whole group: processes started in here never get it, this one does later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
