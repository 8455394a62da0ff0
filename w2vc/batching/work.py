"""One conversion of a batch, from a job to a result: what runs on a worker, wherever that is."""

from __future__ import annotations

import gc
import os
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from w2vc.batching.jobs import Job
from w2vc.batching.manifests import COLUMNS
from w2vc.conversion import convert_with
from w2vc.errors import OutputExistsError, RefusedError, UsageError, W2vcError
from w2vc.planning.provenance import WEIGHTS, find_record, is_made_from, read_fingerprint
from w2vc.reading.archive import Archive, examine, open_checkpoint
from w2vc.writing.acceptance import load_classes
from w2vc.writing.writer import Watch

Status = Literal["converted", "skipped", "refused", "failed"]
STATUSES: tuple[Status, ...] = ("converted", "skipped", "refused", "failed")


@dataclass(frozen=True)
class Result:
    """What became of one checkpoint.

    Attributes:
        checkpoint, output: absolute paths.
        status: ``converted``; ``skipped``, being complete and up to date; ``refused``, since transformers can't express
            the model; ``failed`` for every other reason.
        fingerprint: of the checkpoint, where it could be read.
        model_class: transformers' class, where it was converted.
        exact: whether no weight lost a bit, where it was converted.
        kind: the error's class; ``bug`` for one that w2vc doesn't raise on purpose.
        why: what is wrong, where something is.
        advice: what to do next, where something is wrong.
        seconds: wall time.
        bytes_written: of all files of the output.
    """

    checkpoint: Path
    output: Path
    status: Status
    fingerprint: str | None = None
    model_class: str | None = None
    exact: bool | None = None
    kind: str | None = None
    why: tuple[str, ...] = ()
    advice: str | None = None
    seconds: float = 0.0
    bytes_written: int = 0

    @property
    def is_good(self) -> bool:
        """Whether a complete output is there."""
        return self.status in ("converted", "skipped")

    def plain(self) -> dict[str, object]:
        """The result as plain values, which ``from_plain`` reads again in another process."""
        return {**asdict(self), "checkpoint": str(self.checkpoint), "output": str(self.output)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Result:
        """Return the result that ``plain`` was made of."""
        places = {name: Path(values[name]) for name in ("checkpoint", "output")}
        return cls(**{**values, **places, "why": tuple(values["why"])})

    def values(self) -> dict[str, object]:
        """For a line of the report."""
        return {
            "input": str(self.checkpoint),
            "fingerprint": self.fingerprint,
            "output": str(self.output),
            "status": self.status,
            "model_class": self.model_class,
            "exact": self.exact,
            "kind": self.kind,
            "why": list(self.why),
            "advice": self.advice,
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes_written,
        }


def work(job: Job, force: bool, watch: Watch | None = None) -> Result:
    """Convert one checkpoint, unless that has been done; never raises for what is wrong with a single one.

    Args:
        job: what to do.
        force: do it again even if it has been done.
        watch: progress callback (bytes done, total bytes); what it raises comes through if it is no ``Exception``.
    """
    started = time.monotonic()
    try:
        if job.problems:
            raise UsageError(job.problems, advice=f"Correct the row; the columns are {', '.join(COLUMNS)}.")
        result = None if force else _skipped(job)
        if result is None:
            _import_libraries()
            started = time.monotonic()
            result = _converted(job, force, watch)
    except Exception as error:
        result = without_output(job, error, None)
    if result.fingerprint is None:
        # Looked at again when what the error held is gone: both together would take twice the memory.
        gc.collect()
        with suppress(Exception):  # the result tells of what came before it
            result = replace(result, fingerprint=read_fingerprint(job.checkpoint))
    return replace(result, seconds=time.monotonic() - started)


def _import_libraries() -> None:
    """Import what every conversion needs, once in a process: the first checkpoint isn't charged with it."""
    import torch  # noqa: F401 - the checkpoint's reader imports it again

    load_classes("PretrainedConfig", with_tokenizer=True)


def _skipped(job: Job) -> Result | None:
    """Return the result if the output is complete and up to date; look at the checkpoint only if there is an output.

    Without checksums two checkpoints that differ in their weights alone have the same fingerprint.
    """
    found = find_record(job.output)
    if found is None or not found.complete:
        return None
    with open_checkpoint(job.checkpoint) as file:
        archive = examine(file, job.checkpoint)
    if not _has_checksums(archive) or not is_made_from(found.record, archive.fingerprint, job.checkpoint, job.options):
        return None
    return Result(job.checkpoint, job.output, "skipped", archive.fingerprint)


def _has_checksums(archive: Archive) -> bool:
    return all(record.crc32 is not None for record in archive.records.values() if record.size)


def _converted(job: Job, force: bool, watch: Watch | None) -> Result:
    # An earlier conversion is out of date; anything else there is not for a batch to remove.
    replaces = force or find_record(job.output) is not None
    try:
        conversion = convert_with(job.options, job.checkpoint, job.output, force=replaces, watch=watch)
    except OutputExistsError:
        # A worker that was given up for lost may yet have come to its end.
        skipped = None if force else _skipped(job)
        if skipped is not None:
            return skipped
        if replaces or find_record(job.output) is None:
            raise
        conversion = convert_with(job.options, job.checkpoint, job.output, force=True, watch=watch)
    _leave_page_cache(job.output / WEIGHTS)
    return Result(
        job.checkpoint,
        job.output,
        "converted",
        conversion.fingerprint,
        conversion.plan.model_class,
        conversion.plan.is_exact,
        bytes_written=0 if conversion.written is None else conversion.written.bytes_written,
    )


def _leave_page_cache(path: Path) -> None:
    """Give back the memory in which the system keeps a finished file's bytes.

    They are on the disk. Hundreds of outputs would push out of memory whatever else the machine works with.
    """
    with suppress(OSError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_BUG = "This is a bug in w2vc; `w2vc convert` with the same checkpoint shows all of it. The others went on."
_MEMORY = "Run fewer at a time with --jobs, or give the process more memory."
_LOST = "Look into the system's log (is memory short?), then run again with fewer --jobs."


def without_output(job: Job, error: BaseException, fingerprint: str | None = None) -> Result:
    """The result of a job that came to nothing."""
    status: Status = "refused" if isinstance(error, RefusedError) else "failed"
    kind, why, advice = _reason(error)
    return Result(job.checkpoint, job.output, status, fingerprint, kind=kind, why=why, advice=advice)


def _reason(error: BaseException) -> tuple[str, tuple[str, ...], str]:
    if isinstance(error, W2vcError):
        return type(error).__name__, error.problems, error.advice
    if isinstance(error, MemoryError):
        return "MemoryError", ("There is not enough memory.",), _MEMORY
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return "bug", (f"{type(error).__name__}: {error}{place}",), _BUG


def lost(job: Job, what: str) -> Result:
    """The result of a job whose worker died each time it was tried."""
    return Result(job.checkpoint, job.output, "failed", kind="WorkerLost", why=(what,), advice=_LOST)
