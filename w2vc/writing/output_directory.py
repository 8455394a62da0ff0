"""A directory that appears complete, in one rename, or not at all.

It is built as a hidden sibling of its final place and locked while it is built, so that what a killed process left
behind is distinguished from what another process is building, and removed by the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import signal
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from w2vc.errors import OutputError, OutputExistsError, OutputWriteError
from w2vc.paths import absolute
from w2vc.writing.interrupts import interrupts_kept
from w2vc.writing.ownership import held, is_complete, mark, not_ours, remove_ours, unmark

_PLACE = "Give an output in a folder that you may write to, with enough free space."
_ANOTHER = "Give another OUTPUT, or move it away."
_FORCE_ONLY = "--force replaces earlier conversions only: give another OUTPUT, or move it away."


def check_free(output: Path, *, force: bool, protected: Iterable[Path] = ()) -> None:
    """Refuse a place that is taken, before any work is done.

    An empty directory counts as free: nothing is lost when it is replaced.

    Args:
        output: the place.
        force: an earlier conversion may be replaced.
        protected: files that the conversion reads, which are never replaced.

    Raises:
        OutputExistsError: something is there, or with ``force`` something that w2vc didn't write or that is protected.
        OutputWriteError: nothing can be made there.
    """
    _check_name(output)
    with _as_output_error(output):
        mode = _mode(output)
        if mode is None:
            _check_parent(output)
            return
        if stat.S_ISLNK(mode):
            raise _is_a_link(output)
        if not stat.S_ISDIR(mode):
            raise OutputExistsError(f"{output} exists and is no directory.", advice=_ANOTHER)
        _check_directory(output, force=force, protected=protected)


def _check_name(output: Path) -> None:
    hidden = next((part for part in output.parts if _HIDDEN.fullmatch(part)), None)
    if hidden is not None:
        raise OutputWriteError(
            f"{output} can't be written: {hidden} is a name for what w2vc is building, which it clears away.",
            advice="Give an output with another name.",
        )
    try:
        os.fsencode(output).decode()
    except UnicodeDecodeError:
        raise OutputWriteError(
            f"{output} can't be written: its name is not UTF-8, and safetensors opens no such file.",
            advice="Give an output whose whole path is UTF-8.",
        ) from None


def _mode(path: Path) -> int | None:
    """What kind of thing bears a name; None if nothing does."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_parent(output: Path) -> None:
    """Raise if the nearest folder above that exists is none, or may not be written to."""
    above = next((place for place in output.parents if _mode(place) is not None), output)
    if not above.is_dir():
        raise OutputWriteError(f"{output} would lie below {above}, which is no directory.", advice=_PLACE)
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{above} may not be written to")
    if len(os.fsencode(output.name)) > os.pathconf(above, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _is_a_link(output: Path) -> OutputExistsError:
    target = Path(os.path.realpath(output))
    what = "the directory" if target.is_dir() else "the file" if target.exists() else "something that isn't there:"
    return OutputExistsError(
        f"{output} is a link to {what} {target}, and links are never replaced.",
        advice=f"Give the directory itself: {target}." if target.is_dir() else _ANOTHER,
    )


def _check_directory(output: Path, *, force: bool, protected: Iterable[Path]) -> None:
    if _is_current(output):
        raise OutputExistsError(
            f"OUTPUT is the current folder, {output}, which a complete one would take the place of.",
            advice=f"Give a directory inside it, such as model, or change to {output.parent} and give {output.name!r}.",
        )
    if not any(output.iterdir()):
        return
    reason = not_ours(output)
    if reason is not None:
        raise OutputExistsError(
            f"{reason}." if force else f"{output} exists and is not empty.", advice=_FORCE_ONLY if force else _ANOTHER
        )
    if not force:
        raise OutputExistsError(
            f"{output} holds an earlier conversion.", advice="Give another OUTPUT, or replace it with --force."
        )
    lost = held(output, protected)
    if lost is not None:
        raise OutputExistsError(
            f"{lost} is read for this conversion and would be lost with {output}.",
            advice="Give another OUTPUT, or move the file out of it.",
        )


def _is_current(output: Path) -> bool:
    with contextlib.suppress(OSError):
        return output.samefile(os.curdir)
    return False


# ---------------------------------------------------------------------------------------------------------------
# Building

_building: set[Path] = set()
_parents: set[Path] = set()


def abandon() -> None:
    """Remove what this process is building, at whatever point it is: for one that ends at once."""
    for building in tuple(_building):
        remove_ours(building)
    _remove_empty(tuple(_parents))


@contextlib.contextmanager
def output_directory(output: Path, *, force: bool, protected: Sequence[Path] = ()) -> Iterator[Path]:
    """Give a directory to build in; at the end of the block it becomes ``output``, or with an exception disappears.

    Args:
        output: the place.
        force: replace an earlier conversion.
        protected: files that are never replaced or removed.

    Raises:
        OutputError: the place is taken, by now or before; or it can't be written.
    """
    output = absolute(output)
    check_free(output, force=force, protected=protected)
    made: list[Path] = []
    try:
        with _as_output_error(output):
            building, lock = _make_building(output, made, protected)
        try:
            with _as_output_error(output):
                yield building
                for path in building.iterdir():
                    sync(path)
                unmark(building)
                sync(building)
                _put_in_place(building, output, force=force, protected=protected)
                sync(output.parent)
                clear_leftovers([output], protected)
        finally:
            # After the rename this is what stood at the place before, if anything did.
            remove_ours(building, protected)
            _building.discard(building)
            _close(lock)
    finally:
        _remove_empty(made)
        _parents.difference_update(made)


@contextlib.contextmanager
def _as_output_error(output: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputExistsError(
                f"{output} was made by something else in the meantime.", advice="Look at what is there, then run again."
            ) from error
        if error.errno == errno.EBUSY:
            raise OutputWriteError(
                f"{output} is a mount point, which no directory can take the place of.",
                advice=f"Give a directory inside it: {output / 'model'}.",
            ) from error
        raise OutputWriteError(f"{output} can't be written: {error.strerror}.", advice=_PLACE) from error


# Each conversion to the same place comes in between once.
_ATTEMPTS = 100


def _make_building(output: Path, made: list[Path], protected: Sequence[Path]) -> tuple[Path, int]:
    """Make the hidden directory and the folders above it; return it and its lock's descriptor."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _make_parents(output.parent, made)
            clear_leftovers([output], protected)
            building = output.parent / f"{_hidden_prefix(output.name)}{secrets.token_hex(_DIGITS // 2)}"
            _building.add(building)
            return building, _make_locked(building)
        except FileNotFoundError:
            # Another conversion that came to nothing has taken the folder away that it had made.
            _building.discard(building)
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make the folders that are missing; note those that were, the outermost first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            made.append(place)
            _parents.add(place)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of some folders that hold nothing, the innermost first."""
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):
            folder.rmdir()


_LONGEST_VISIBLE = 100
_DIGITS = 12
_HIDDEN = re.compile(rf"\..+\.w2vc-[0-9a-f]{{{_DIGITS}}}", re.DOTALL)


def _hidden_prefix(name: str) -> str:
    """How the hidden directories for an output begin: with its name, or with as much of it as leaves room."""
    shown = name
    while len(os.fsencode(shown)) > _LONGEST_VISIBLE:
        shown = shown[:-1]
    if shown != name:
        shown += "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f".{shown}.w2vc-"


def _make_locked(building: Path) -> int:
    """Make the directory; until it is locked, another conversion may take it for a leftover and clear it away."""
    while True:
        building.mkdir()
        with contextlib.suppress(FileNotFoundError):
            directory = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # some network file systems have no locks; then leftovers stay
                fcntl.flock(directory, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                mark(building)
                return directory
            os.close(directory)


def clear_leftovers(outputs: Iterable[Path], protected: Sequence[Path]) -> None:
    """Remove what killed conversions left behind: hidden siblings of their outputs that nobody holds the lock of.

    A complete model stays while nothing bears its name: where directories can't be exchanged, a kill between two
    renames leaves an earlier output so.

    Args:
        outputs: absolute paths of what was to be made. Each folder is looked into once.
        protected: files that are never removed.
    """
    folders: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for output in outputs:
        folders[output.parent][_hidden_prefix(output.name)] = output
    for folder, known in folders.items():
        with contextlib.suppress(OSError):
            for leftover in list(folder.iterdir()):
                place = known.get(leftover.name[:-_DIGITS])
                if place is not None and _HIDDEN.fullmatch(leftover.name):
                    _remove_unlocked(leftover, place, protected)


def _remove_unlocked(leftover: Path, output: Path, protected: Sequence[Path]) -> None:
    with contextlib.suppress(OSError), _opened(leftover) as directory:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _mode(output) is not None or not is_complete(leftover):
            remove_ours(leftover, protected)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Open a directory; behind the block nobody has its lock, not even a process that was forked meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        _close(descriptor)


def _close(locked: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(locked, fcntl.LOCK_UN)
    os.close(locked)


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk.

    Raises:
        OSError: something of it can't be written; the kernel reports that only once.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(building: Path, output: Path, *, force: bool, protected: Sequence[Path]) -> None:
    """Rename; with force both change places in one step where an earlier output is: one of them is always there.

    Another conversion to the same output may come in between. A rename takes the place of nothing but an empty
    directory, so that it fails then, and we decide again.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        check_free(output, force=force, protected=protected)
        try:
            if force and output.is_dir() and any(output.iterdir()):
                with _held_at_its_place(output), _interrupts_delayed():
                    _exchange(building, output)
                    if not_ours(building) is None:
                        return
                    _exchange(building, output)  # somebody put a file there; looking again tells of it
            else:
                building.rename(output)
                return
        except OSError as error:
            if error.errno not in _CAME_IN_BETWEEN or attempt == _ATTEMPTS:
                raise
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


@contextlib.contextmanager
def _interrupts_delayed() -> Iterator[None]:
    """Let the block come to its end before Ctrl-C or SIGTERM is acted on."""
    interrupts: list[int] = []
    try:
        with interrupts_kept() as interrupts:
            yield
    finally:
        if interrupts:
            signal.raise_signal(interrupts[0])


@contextlib.contextmanager
def _held_at_its_place(output: Path) -> Iterator[None]:
    """Hold the lock of an earlier output, so that nobody takes it for a leftover when it bears a hidden name.

    Raises:
        FileNotFoundError: while this waited for the lock, something else was put there.
    """
    with _opened(output) as directory:
        _wait_for_lock(directory)
        if not os.path.samestat(os.fstat(directory), output.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield


# Seconds: time enough for another conversion to remove what it replaced.
_LONGEST_WAIT = 10.0
_LOOKS_AGAIN_AFTER = 0.01


def _wait_for_lock(directory: int) -> None:
    """Take a lock; go on without one that is held for longer than a conversion does, by ``flock DIRECTORY w2vc ...``.

    Then nobody takes the directory for a leftover either: whoever holds the lock, it is held.
    """
    end = time.monotonic() + _LONGEST_WAIT
    with contextlib.suppress(OSError):  # some network file systems have no locks
        while time.monotonic() < end:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOKS_AGAIN_AFTER)
            else:
                return


_CAME_IN_BETWEEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(building: Path, output: Path) -> None:
    """Let two directories change places."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = os.fsencode(building), os.fsencode(output)
        if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # A file system that can't: for a moment there is nothing.
    aside = building.with_name(building.name[:-_DIGITS] + secrets.token_hex(_DIGITS // 2))
    with _interrupts_delayed():
        output.rename(aside)
        try:
            building.rename(output)
        except OSError:
            with contextlib.suppress(OSError):  # something new is there, then
                aside.rename(output)
            raise
        aside.rename(building)
