"""The only ``torch.load``: the second reader, which has to confirm what the walk over the pickle found.

To confirm, no storage's bytes are read (``skip_data``). ``verify`` takes the tensors themselves from here, bytes
included, so that it doesn't depend on where w2vc believes them to lie. Nothing private of torch is relied on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

from w2vc.errors import DamagedError
from w2vc.reading.archive import Archive
from w2vc.reading.budget import LIMITS
from w2vc.reading.confirmation import confirm
from w2vc.reading.opening import read_exactly
from w2vc.reading.source import GET_AGAIN
from w2vc.reading.stand_ins import stand_ins

if TYPE_CHECKING:
    from torch import Tensor, UntypedStorage

# torch's allow-list belongs to the process, and each load needs its own.
_LOCK = threading.Lock()
# Storages begin so far apart that no two share an address.
_ALIGNMENT = 64


def confirm_with_torch(file: BinaryIO, archive: Archive) -> None:
    """Have torch read the file, too, and compare.

    Raises:
        DamagedError: torch can't read it, or reads something else: then the file says two things.
    """
    import torch  # here, so that the gate answers before torch is imported

    classes = stand_ins(archive.program.globals.values())
    with _reading(archive, classes), torch.serialization.skip_data():
        saved = torch.load(_readable(file, archive), map_location=_places(archive), weights_only=True)
    confirm(archive.program, saved, classes, archive.path)


def load_with_bytes(file: BinaryIO, archive: Archive, keys: Sequence[str] = ("model",)) -> dict[str, Tensor]:
    """Return a state dict's tensors as torch gives them, by name; those of a group are named ``GROUP.NAME``.

    A zip file is mapped: its pages are read when they are used, and the kernel can drop them again. A legacy file is
    read whole.

    Args:
        file: of the archive, opened by whoever made sure that it is still the one that was confirmed.
        archive: what the gate found; torch has confirmed it.
        keys: those that lead to the state dict.

    Raises:
        DamagedError: torch can't read it.
    """
    import torch

    is_zip = archive.container == "zip"
    source: Any = _path_of(file, archive) if is_zip else BufferedReader(_WithoutNumber(file))
    with _reading(archive, stand_ins(archive.program.globals.values())):
        saved = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)
    model: Any = saved
    for key in keys:
        model = dict.get(model, key) if _is_dict(model) else None
    return {**(dict(_tensors(model)) if _is_dict(model) else {}), **dict(_adapters(saved.get("adapter")))}


def _adapters(adapters: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of each language's adapter (MMS) under the keys that ``SourceTensor.key`` gives them."""
    for language, adapter in dict.items(adapters) if _is_dict(adapters) else ():
        model = dict.get(adapter, "model") if _is_dict(adapter) else None
        if _is_dict(model):
            yield from ((f"adapter.{language}.{name}", tensor) for name, tensor in _tensors(model))


@contextmanager
def _reading(archive: Archive, classes: Mapping[str, type]) -> Iterator[None]:
    """Let one thread at a time load, with these classes allowed; whatever torch raises is the file's fault."""
    with _LOCK, _only_these_globals(classes):
        try:
            yield
        except Exception as error:
            raise DamagedError(
                f"{archive.path} can't be read by torch.load: {type(error).__name__}: {_first_line(error)}",
                advice=GET_AGAIN,
            ) from error


def _path_of(file: BinaryIO, archive: Archive) -> Path:
    """Return a path to map: of the open file itself where the system has one, so that it can't become another."""
    own = Path(f"/proc/self/fd/{file.fileno()}")
    return own if own.exists() else archive.path


class _WithoutNumber(RawIOBase):
    """A file without a descriptor: torch takes one that has it for a tar first (``_legacy_load``)."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto(buffer))  # type: ignore[attr-defined]  # it is opened unbuffered

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _tensors(model: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict and of the dicts within it, whatever else is there left out."""
    import torch

    for name, value in dict.items(model):
        if isinstance(value, torch.Tensor):
            yield str(name), value
        elif _is_dict(value):
            tensors = ((inner, held) for inner, held in dict.items(value) if isinstance(held, torch.Tensor))
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in tensors)


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return type(value) in (dict, OrderedDict)


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
    storages = [record.offset for record in archive.records.values()]
    end = min(storages, default=archive.size + _LEGACY_LENGTH) - _LEGACY_LENGTH
    return BytesIO(read_exactly(file, archive.path, 0, end))


# Each storage of a legacy file follows its length.
_LEGACY_LENGTH = 8


def _places(archive: Archive) -> Any:
    """Return a ``map_location`` that gives each storage another address, in memory that is never touched.

    torch would keep all storages at once, each as large as its record. Here they overlap, so that together they need
    little more addresses than the largest, and none of the memory. Where the largest is larger than any model's, there
    may not be so many addresses: torch's meta device needs none, but there one can't tell which storages are one.
    """
    import torch

    sizes = [storage.nbytes for storage in archive.program.storages]
    largest, reach = max(sizes, default=0), _ALIGNMENT * len(sizes)
    if largest > LIMITS["addresses"].most and archive.container == "zip":
        return "meta"
    space = torch.UntypedStorage(reach + largest)  # type: ignore[no-untyped-call]  # torch has no types here
    starts = iter(range(0, reach, _ALIGNMENT))

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
