"""A directory that appears complete, in one rename, or not at all.

It is built as a hidden sibling of its final place and locked while it is built, so that what a killed process left
behind is told from what another process is building, and cleared away by the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from w2vc.errors import OutputError, OutputExistsError, OutputWriteError
from w2vc.writing.interrupts import interrupts_kept

WRITTEN_FILES = frozenset(
    {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
        *("tokenizer_config.json", "vocab.json"),
    }
)
"""All that w2vc ever writes into an output; ``--force`` replaces a directory only if it holds nothing else."""

_PLACE = "Give an output in a directory that you may write to, with enough free space."


def check_free(output: Path, *, force: bool) -> None:
    """Refuses a place that is taken, before any work is done.

    An empty directory counts as free: nothing is lost when it is replaced.

    Raises:
        OutputExistsError: something is there, or with ``force`` something that w2vc didn't write.
        OutputWriteError: the parent is no directory.
    """
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        raise OutputExistsError(f"{output} exists and is no directory", advice="Give another OUTPUT, or move it away.")
    with _as_output_error(output):
        is_empty, strangers = not any(output.iterdir()), _strangers(output)
    if not is_empty and not force:
        raise OutputExistsError(
            f"{output} exists and is not empty",
            advice="Give another OUTPUT, or replace an earlier conversion with --force.",
        )
    if strangers:
        raise OutputExistsError(
            f"{output} holds files that w2vc didn't write: {', '.join(strangers[:5])}",
            advice="--force replaces earlier conversions only: give another OUTPUT, or move those files away.",
        )


def _strangers(output: Path) -> list[str]:
    """The names of what w2vc didn't write."""
    return sorted({path.name for path in output.iterdir()} - WRITTEN_FILES)


_building: set[Path] = set()


def abandon() -> None:
    """Removes what this process is building, at whatever point it is: for one that ends at once."""
    for building in tuple(_building):
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def output_directory(output: Path, *, force: bool) -> Iterator[Path]:
    """Gives a directory to build in; at the end of the block it becomes ``output``, or with an exception disappears.

    Raises:
        OutputError: the place is taken, by now or before; or it can't be written.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - Path.resolve would follow a link that stands at the end
    check_free(output, force=force)
    with _as_output_error(output):
        _make_parent(output)
        _clear_leftovers(output)
    building = output.parent / f".{output.name[:100]}.w2vc-{secrets.token_hex(6)}"
    _building.add(building)
    try:
        with _as_output_error(output):
            lock = _make_locked(building)
        try:
            with _as_output_error(output):
                yield building
                for path in building.iterdir():
                    sync(path)
                sync(building)
                _put_in_place(building, output, force=force)
                sync(output.parent)
        finally:
            os.close(lock)
    finally:
        # After the rename this is what stood at the place before, if anything did.
        shutil.rmtree(building, ignore_errors=True)
        _building.discard(building)


@contextlib.contextmanager
def _as_output_error(output: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputExistsError(
                f"{output} was made by something else in the meantime", advice="Look at what is there, then run again."
            ) from error
        if error.errno == errno.EBUSY:
            raise OutputWriteError(
                f"{output} is a mount point, which no directory can take the place of",
                advice=f"Give a directory inside it: {output / 'model'}.",
            ) from error
        raise OutputWriteError(f"{output} can't be written: {error.strerror}", advice=_PLACE) from error


def _make_parent(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputWriteError(f"{output} would lie below something that is no directory", advice=_PLACE) from error


def _make_locked(building: Path) -> int:
    """Makes the directory; until it is locked, another conversion may take it for a leftover and clear it away."""
    while True:
        building.mkdir()
        with contextlib.suppress(FileNotFoundError):
            directory = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # some network file systems have no locks; then leftovers stay
                fcntl.flock(directory, fcntl.LOCK_EX)
            if building.exists():
                return directory
            os.close(directory)


def _clear_leftovers(output: Path) -> None:
    """Removes what killed conversions to the same output left behind: siblings that nobody holds the lock of."""
    for leftover in output.parent.glob(f".{_literal(output.name[:100])}.w2vc-" + "[0-9a-f]" * 12):
        with contextlib.suppress(OSError):
            directory = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _strangers(leftover):
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(directory)


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def sync(path: Path) -> None:
    """Has a file or directory on the disk.

    Raises:
        OSError: something of it can't be written, which nobody else is told of any more.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ATTEMPTS = 10


def _put_in_place(building: Path, output: Path, *, force: bool) -> None:
    """Renames; with force both change places in one step where an earlier output stands: one of them is always there.

    Another conversion to the same output may come in between. A rename takes the place of nothing but an empty
    directory, so that it fails then, and it is decided anew what is to be done.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        check_free(output, force=force)
        try:
            if force and output.is_dir() and any(output.iterdir()):
                _exchange(building, output)
                if not _strangers(building):
                    return
                _exchange(building, output)  # somebody put a file there; looking again tells of it
            else:
                building.rename(output)
                return
        except OSError as error:
            if error.errno not in _CAME_IN_BETWEEN or attempt == _ATTEMPTS:
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


_CAME_IN_BETWEEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(building: Path, output: Path) -> None:
    """Has two directories change places."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(building), os.fsencode(output)
        if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # A file system that can't: for a moment nothing stands there.
    aside = building.with_name(building.name[:-12] + secrets.token_hex(6))
    with interrupts_kept() as interrupts:
        output.rename(aside)
        try:
            building.rename(output)
        except OSError:
            with contextlib.suppress(OSError):  # something new is there, then
                aside.rename(output)
            raise
        aside.rename(building)
    if interrupts:
        signal.raise_signal(interrupts[0])
