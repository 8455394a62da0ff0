"""Many checkpoints, whatever becomes of single ones: in worker processes here, or over another executor.

What is complete and was made of the same checkpoint with the same options is skipped (``batch_record.py``), so that a
batch that was interrupted, or grew, is finished by running it again.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass

from w2vc.batching.jobs import Job, absolute, check_writable, find_jobs
from w2vc.batching.pool import Pool, Running, default_workers
from w2vc.batching.work import STATUSES, Result, lost, work
from w2vc.errors import OutputWriteError, UsageError
from w2vc.options import AnyPath, Options

# How often somebody who looks on is told what is going on, in seconds.
_TICK = 0.2


@dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes:
        finished: how many checkpoints are done with, in whatever way.
        jobs: how many there are.
        running: those that are being converted now; empty with an executor of the caller's, which can't be looked into.
    """

    finished: int
    jobs: int
    running: tuple[Running, ...] = ()


@dataclass(frozen=True)
class BatchSummary:
    """What became of a batch.

    Attributes:
        results: one a checkpoint, in the order in which they came to an end.
        jobs: how many checkpoints there were to do.
        seconds: wall time.
    """

    results: tuple[Result, ...]
    jobs: int
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every checkpoint has a complete output."""
        return len(self.results) == self.jobs and all(result.is_good for result in self.results)

    def values(self) -> dict[str, object]:
        """For the report's last line."""
        counts: dict[str, object] = {
            status: sum(result.status == status for result in self.results) for status in STATUSES
        }
        return {
            "checkpoints": self.jobs,
            **counts,
            "unfinished": self.jobs - len(self.results),
            "bytes": sum(result.bytes_written for result in self.results),
            "seconds": round(self.seconds, 3),
        }

    def text(self) -> str:
        """For people, in one line."""
        values = self.values()
        counts = ", ".join(f"{values[status]} {status}" for status in (*STATUSES, "unfinished") if values[status])
        nothing = "; nothing new was converted" if values["skipped"] and not values["converted"] else ""
        return f"{self.jobs} checkpoints: {counts}{nothing}, in {self.seconds:.1f} s"


def batch(
    inputs: Iterable[AnyPath],
    output: AnyPath,
    *,
    jobs: int | None = None,
    dictionary: AnyPath | None = None,
    head: str = "auto",
    dtype: str = "float32",
    ema: bool = False,
    config: AnyPath | None = None,
    card: bool = True,
    force: bool = False,
    part: tuple[int, int] | None = None,
    report: AnyPath | None = None,
    executor: Executor | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> BatchSummary:
    """Converts many checkpoints; one that fails or is refused doesn't stop the others.

    Worker processes import the script that calls this, as ``multiprocessing`` does: there, call it only under
    ``if __name__ == "__main__":``.

    Args:
        inputs: files, folders, patterns and manifests (see ``batch_jobs.find_jobs``).
        output: the folder for the outputs.
        jobs: how many worker processes; None takes as many as processors and memory allow.
        dictionary: as for ``convert``, like the next five; what a manifest's row says goes before them.
        head: ``auto``, ``ctc``, ``pretraining`` or ``none``.
        dtype: ``float32``, ``float16``, ``bfloat16`` or ``keep``.
        ema: take the EMA weights.
        config: a ``config.json`` of transformers.
        card: write model cards.
        force: convert again what is up to date, too.
        part: (i, n) takes the i-th of n parts, counted from 1, for arrays of jobs.
        report: a file to which a JSON line is appended for each checkpoint, and a last one with the sums.
        executor: does the work instead of processes here; w2vc and the files have to be where its workers are.
        on_result: told of each checkpoint that is done with.
        on_progress: told several times a second how far it is.

    Returns:
        What became of each.

    Raises:
        UsageError: the inputs, a manifest or an option is wrong, or outputs are in one another's way.
        OutputError: the output folder or the report can't be written.
    """
    started = time.monotonic()
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs is {jobs}", advice="Give 1 or more, or leave it out.")
    words, values = (None if path is None else absolute(path) for path in (dictionary, config))
    options = Options(words, head, dtype, ema, values, card=card)
    todo = find_jobs(inputs, output, options, part)
    results: list[Result] = []
    with _report(report) as tell:
        try:
            with closing(_results(todo, output, jobs, force, executor, on_progress)) as coming:
                for result in coming:
                    results.append(result)
                    tell(result.values())
                    if on_result is not None:
                        on_result(result)
        finally:
            summary = BatchSummary(tuple(results), len(todo), time.monotonic() - started)
            tell({"summary": summary.values()})
    return summary


def _results(
    todo: Sequence[Job],
    output: AnyPath,
    workers: int | None,
    force: bool,
    executor: Executor | None,
    on_progress: Callable[[Progress], None] | None,
) -> Generator[Result, None, None]:
    """The results as they come; tells of the progress meanwhile."""
    running: Callable[[], tuple[Running, ...]] = tuple
    if executor is not None:
        coming = _elsewhere(todo, executor, force)
    else:
        check_writable(output)
        pool = Pool(todo, min(workers or default_workers(len(todo)), max(len(todo), 1)), force=force)
        running, coming = pool.running, pool.results()
    finished = 0
    with closing(coming):
        for result in coming:
            finished += result is not None
            if on_progress is not None:
                on_progress(Progress(finished, len(todo), running()))
            if result is not None:
                yield result


def _elsewhere(todo: Sequence[Job], executor: Executor, force: bool) -> Generator[Result | None, None, None]:
    """Results from an executor of the caller's; it does lost work again by itself, or says that it can't."""
    futures: dict[Future[Result], Job] = {}
    try:
        for job in todo:
            futures[executor.submit(work, job, force)] = job
        left = set(futures)
        while left:
            finished, left = wait(left, _TICK, FIRST_COMPLETED)
            yield from (_outcome(futures[future], future) for future in finished)
            if not finished:
                yield None
    finally:
        for future in futures:
            future.cancel()


def _outcome(job: Job, future: Future[Result]) -> Result:
    try:
        return future.result()
    except Exception as error:
        # ``work`` raises nothing, so that this is the executor's.
        return lost(job, f"the executor gave it up: {type(error).__name__}: {error}")


# ---------------------------------------------------------------------------------------------------------------
# The report


@contextmanager
def _report(path: AnyPath | None) -> Iterator[Callable[[dict[str, object]], None]]:
    """Gives a function that appends one line, which is in the file when it returns."""
    if path is None:
        yield lambda _values: None
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error

    def tell(values: dict[str, object]) -> None:
        try:
            _write(file, json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    try:
        if _ends_within_a_line(file):
            _write(file, b"\n")
        yield tell
    finally:
        os.close(file)


def _ends_within_a_line(descriptor: int) -> bool:
    """Whether an earlier batch was killed while it wrote."""
    details = os.fstat(descriptor)
    if not stat.S_ISREG(details.st_mode) or details.st_size == 0:
        return False
    return os.pread(descriptor, 1, details.st_size - 1) != b"\n"


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _unwritable(path: AnyPath, error: OSError) -> OutputWriteError:
    return OutputWriteError(
        f"the report {path} can't be written: {error.strerror}", advice="Give another file with --report."
    )
