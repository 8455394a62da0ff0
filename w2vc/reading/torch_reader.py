"""The only ``torch.load``: the second reader, which has to confirm what the walk over the pickle found.

No storage's bytes are read (``skip_data``), and nothing private of torch is relied on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from w2vc.errors import DamagedError
from w2vc.reading.archive import Archive
from w2vc.reading.confirmation import confirm
from w2vc.reading.opening import read_exactly
from w2vc.reading.source import GET_AGAIN
from w2vc.reading.stand_ins import stand_ins

if TYPE_CHECKING:
    from torch import UntypedStorage

# torch's allow-list belongs to the process, and each load needs its own.
_LOCK = threading.Lock()
# Storages begin so far apart that each is at an address of its own.
_ALIGNMENT = 64


def confirm_with_torch(file: BinaryIO, archive: Archive) -> None:
    """Have torch read the file, too, and compare.

    Raises:
        DamagedError: torch can't read it, or reads something else: then the file says two things.
    """
    import torch  # here, so that the gate answers before torch is imported

    classes = stand_ins(archive.program.globals.values())
    with _LOCK, _only_these_globals(classes), torch.serialization.skip_data():
        try:
            saved = torch.load(_readable(file, archive), map_location=_places(archive), weights_only=True)
        except Exception as error:
            raise DamagedError(
                f"{archive.path} can't be read by torch.load: {type(error).__name__}: {_first_line(error)}",
                advice=GET_AGAIN,
            ) from error
    confirm(archive.program, saved, classes, archive.path)


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0][:200]
    return "".join(character if character.isprintable() else "?" for character in line)


def _readable(file: BinaryIO, archive: Archive) -> BinaryIO:
    """What torch is given: the file, or the pickles of a legacy one.

    It would look whether a legacy file is a tar, and read its pickles byte by byte from the disk. Behind them it needs
    nothing.
    """
    if archive.container == "zip":
        file.seek(0)
        return file
    storages = [record.offset for name, record in archive.records.items() if name.startswith("data/")]
    end = min(storages, default=archive.size + _LEGACY_LENGTH) - _LEGACY_LENGTH
    return BytesIO(read_exactly(file, archive.path, 0, end))


# Before each storage of a legacy file stands its length.
_LEGACY_LENGTH = 8


def _places(archive: Archive) -> Any:
    """Return a ``map_location`` that gives each storage an address of its own, in memory that is never touched.

    torch would keep all storages at once, each as large as its record. Here they overlap, so that together they need
    little more addresses than the largest, and none of the memory.
    """
    import torch

    sizes = [storage.nbytes for storage in archive.program.storages]
    length = max(sizes, default=0) + _ALIGNMENT * (len(sizes) + 1)
    space = torch.UntypedStorage(length)  # type: ignore[no-untyped-call]  # torch has no types here
    starts = iter(range(0, _ALIGNMENT * (len(sizes) + 1), _ALIGNMENT))

    def place(storage: UntypedStorage, _location: str) -> UntypedStorage:
        if storage.nbytes() == 0:
            return storage
        start = next(starts, 0)
        placed: UntypedStorage = space[start : start + storage.nbytes()]
        return placed

    return place


@contextmanager
def _only_these_globals(classes: Mapping[str, type]) -> Iterator[None]:
    """Allow torch's unpickler the stand-ins, and nothing that the surrounding program has allowed."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    ours = [(made, path) for path, made in classes.items()]
    before = get_safe_globals()
    clear_safe_globals()
    try:
        add_safe_globals(ours)  # type: ignore[arg-type]  # pairs are documented, but not typed
        yield
    finally:
        # What others have added meanwhile stays.
        since = set(get_safe_globals()).difference(ours)
        clear_safe_globals()
        add_safe_globals([*before, *since])
