"""The report of a batch: a line of JSON for each checkpoint, appended to a file that is a report, and to no other."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from w2vc.errors import OutputError, OutputExistsError, OutputWriteError
from w2vc.paths import AnyPath, given_path

_FIRST_LINE_BYTES = 2**20
# What the lines begin with, and what they hold (``Result.values``, and the summary).
_BEGINNINGS = (b'{"input": "/', b'{"summary": {')
_KEYS = ({"input", "fingerprint", "output", "status"}, {"summary"})


@contextmanager
def open_report(path: AnyPath | None) -> Iterator[Callable[[dict[str, object]], None]]:
    """Give a function that appends one line, which is in the file when it returns.

    Raises:
        OutputExistsError: the file is no report.
        OutputWriteError: it can't be written.
    """
    if path is None:
        yield lambda _values: None
        return
    place = given_path(path, "--report")
    file = _open(place)

    def tell(values: dict[str, object]) -> None:
        try:
            _write(file, json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise _unwritable(place, error) from error

    try:
        yield tell
    finally:
        os.close(file)


def _open(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode) or not _is_report(os.pread(file, _FIRST_LINE_BYTES, 0)):
            raise OutputExistsError(
                f"{path} is no report of an earlier batch.",
                advice="Give a new file, or an earlier report, with --report.",
            )
        if _ends_within_a_line(file):
            _write(file, b"\n")
    except BaseException as error:
        os.close(file)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise _unwritable(path, error) from error
        raise
    return file


def _is_report(start: bytes) -> bool:
    """Whether a file that begins so is empty, or a report, be it one whose first line was never completed."""
    if not start:
        return True
    line, end, _rest = start.partition(b"\n")
    if any(line.startswith(beginning) or beginning.startswith(line) for beginning in _BEGINNINGS):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return not end or line.startswith(_BEGINNINGS)
        return isinstance(values, dict) and any(keys <= values.keys() for keys in _KEYS)
    return False


def _ends_within_a_line(descriptor: int) -> bool:
    """Whether an earlier batch was killed while it wrote."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _unwritable(path: Path, error: OSError) -> OutputWriteError:
    return OutputWriteError(
        f"The report {path} can't be written: {error.strerror}.", advice="Give another file with --report."
    )
