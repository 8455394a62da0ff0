"""Many checkpoints, whatever becomes of single ones: in worker processes here, or over another executor.

What is complete and was made of the same checkpoint with the same options is skipped
(``planning/provenance.py``), so that a batch that was interrupted, or grew, is finished by running it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2vc.batching.capacity import default_workers
from w2vc.batching.jobs import Job, check_writable, find_jobs
from w2vc.batching.pool import Pool, Running
from w2vc.batching.report import open_report
from w2vc.batching.work import STATUSES, Result, lost, work
from w2vc.errors import UsageError
from w2vc.options import read_options
from w2vc.paths import AnyPath
from w2vc.writing.output_directory import clear_leftovers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from w2vc.options import OptionValues

# How often progress is reported, in seconds.
_TICK = 0.2


@dataclass(frozen=True)
class BatchProgress:
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
        found = [f"{values[status]} {status}" for status in (*STATUSES, "unfinished") if values[status]]
        counts = ", ".join(found) or "nothing to do"
        nothing = "; nothing new was converted" if values["skipped"] and not values["converted"] else ""
        what = "checkpoint" if self.jobs == 1 else "checkpoints"
        return f"{self.jobs} {what}: {counts}{nothing}, in {self.seconds:.1f} s"


def batch(
    inputs: Iterable[AnyPath],
    output: AnyPath,
    *,
    jobs: int | None = None,
    force: bool = False,
    part: tuple[int, int] | None = None,
    report: AnyPath | None = None,
    executor: Executor | None = None,
    on_result: Callable[[Result], None] | None = None,
    on_progress: Callable[[BatchProgress], None] | None = None,
    **options: Unpack[OptionValues],
) -> BatchSummary:
    """Convert many checkpoints; one that fails or is refused doesn't stop the others.

    Args:
        inputs: files, folders, patterns and manifests (see ``find_jobs``).
        output: the folder for the outputs.
        jobs: how many worker processes; None takes as many as processors and memory allow.
        force: convert again what is up to date, too.
        part: (i, n) takes the i-th of n parts, counted from 1, for arrays of jobs.
        report: a file to which a JSON line is appended for each checkpoint, and a last one with the sums.
        executor: does the work instead of processes here; w2vc and the files have to be where its workers are.
        on_result: called with the result of each checkpoint.
        on_progress: called several times a second with how far it is.
        options: as for ``convert``; what a manifest's row says goes before them.

    Returns:
        What became of each.

    Raises:
        UsageError: the inputs, a manifest or an option is wrong, or outputs are in one another's way.
        OutputError: the output folder or the report can't be written.
    """
    started = time.monotonic()
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs is {jobs}.", advice="Give 1 or more, or leave it out.")
    todo = find_jobs(inputs, output, read_options(options, folder=Path()), part)
    results: list[Result] = []
    with open_report(report) as tell:
        try:
            with closing(_results(todo, output, jobs, force, executor, on_progress)) as coming:
                for result in coming:
                    results.append(result)
                    tell(result.values())
                    if on_result is not None:
                        on_result(result)
            # A dying worker may have held the lock of what it built when its checkpoint was converted again.
            good = [result.output for result in results if result.is_good]
            clear_leftovers(good, [path for job in todo for path in job.reads()])
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
    on_progress: Callable[[BatchProgress], None] | None,
) -> Generator[Result, None, None]:
    """Yield the results as they come; report the progress meanwhile."""
    running: Callable[[], tuple[Running, ...]] = tuple
    if executor is not None:
        coming = _from_executor(todo, executor, force)
    else:
        check_writable(output)
        pool = Pool(todo, min(workers or default_workers(len(todo)), max(len(todo), 1)), force=force)
        running, coming = pool.running, pool.results()
    finished = 0
    with closing(coming):
        for result in coming:
            finished += result is not None
            if on_progress is not None:
                on_progress(BatchProgress(finished, len(todo), running()))
            if result is not None:
                yield result


def _from_executor(todo: Sequence[Job], executor: Executor, force: bool) -> Generator[Result | None, None, None]:
    """Yield results from the caller's executor; it repeats lost work by itself, or says that it can't."""
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
