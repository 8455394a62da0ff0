"""Checkpoints taken apart and put together again otherwise: zips and pickles that lie.

A forged file begins with one that real fairseq wrote: its pickle is read into inert objects, changed, and written
again, in a zip whose every field can be set.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PROTOCOL_2 = b"\x80\x02"
STOP = b"."


# ---------------------------------------------------------------------------------------------------------------
# Pickles


@dataclass(frozen=True)
class Raw:
    """Opcodes that leave one object on the stack."""

    opcodes: bytes


class Made:
    """An object of a class that the pickle names: its arguments, items and state."""

    module = ""
    name = ""

    def __new__(cls, *arguments: Any) -> Made:
        made = super().__new__(cls)
        made.arguments = arguments
        made.items = {}
        made.state = None
        return made

    def __init__(self, *_arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.items: dict[Any, Any]
        self.state: Any

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass(frozen=True)
class Storage:
    """A persistent id: ``("storage", class, key, location, number of elements)``."""

    identity: tuple[Any, ...]

    @property
    def key(self) -> str:
        return str(self.identity[2])


class _Reader(pickle.Unpickler):
    """Reads a pickle without importing what it names."""

    def find_class(self, module: str, name: str) -> type[Made]:
        return type(name, (Made,), {"module": module, "name": name})

    def persistent_load(self, identity: Any) -> Storage:
        return Storage(identity)


def read(program: bytes) -> dict[str, Any]:
    """What a checkpoint's ``data.pkl`` builds, in inert objects."""
    saved = _Reader(io.BytesIO(program)).load()
    assert isinstance(saved, dict)
    return saved


class _Writer:
    """Writes inert objects as a pickle of protocol 2; texts and classes once, everything else as often as it is met."""

    def __init__(self, memo_from: int = 0) -> None:
        self.written = bytearray()
        self.memo: dict[object, int] = {}
        self.memo_from = memo_from

    def write(self, value: Any) -> None:
        if isinstance(value, Raw):
            self.written += value.opcodes
        elif isinstance(value, (str, type)):
            self.write_once(value)
        elif isinstance(value, Storage):
            self.write(value.identity)
            self.written += b"Q"
        elif isinstance(value, Made):
            self.write_made(value)
        elif isinstance(value, dict):
            self.written += b"}"
            self.write_items(value)
        elif isinstance(value, (list, tuple)):
            self.written += b"](" if isinstance(value, list) else b"("
            self.write_each(value)
            self.written += b"e" if isinstance(value, list) else b"t"
        else:
            self.written += plainly(value)

    def write_once(self, value: str | type) -> None:
        key = value if isinstance(value, str) else (value.module, value.name)  # type: ignore[attr-defined]  # a Made
        if key in self.memo:
            self.written += b"j" + struct.pack("<I", self.memo[key])
            return
        self.written += text(value) if isinstance(value, str) else a_global(*key)
        self.memo[key] = self.memo_from + len(self.memo)
        self.written += b"r" + struct.pack("<I", self.memo[key])

    def write_made(self, value: Made) -> None:
        self.write(type(value))
        self.write(value.arguments)
        self.written += b"R"
        if value.items:
            self.write_items(value.items)
        if value.state is not None:
            self.write(value.state)
            self.written += b"b"

    def write_items(self, items: Mapping[Any, Any]) -> None:
        self.written += b"("
        self.write_each(part for pair in items.items() for part in pair)
        self.written += b"u"

    def write_each(self, values: Iterable[Any]) -> None:
        for value in values:
            self.write(value)


def program(value: Any) -> bytes:
    """A whole pickle of an inert object."""
    writer = _Writer()
    writer.write(value)
    return PROTOCOL_2 + bytes(writer.written) + STOP


def opcodes(value: Any) -> bytes:
    """The opcodes of an inert object, to be put into another pickle: its memo begins far behind the other's."""
    writer = _Writer(memo_from=200_000)
    writer.write(value)
    return bytes(writer.written)


def made(module: str, name: str, *arguments: Any) -> Made:
    """An object of a class that the pickle names."""
    kind: type[Made] = type(name, (Made,), {"module": module, "name": name})
    return kind(*arguments)


def plainly(value: object) -> bytes:
    """The opcodes of a value, as the standard library writes them."""
    return pickle.dumps(value, protocol=2)[len(PROTOCOL_2) : -len(STOP)]


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def a_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def a_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def a_list(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def a_dict(*keys_and_values: bytes) -> bytes:
    return b"}(" + b"".join(keys_and_values) + b"u"


def a_call(module: str, name: str, *arguments: bytes) -> bytes:
    return a_global(module, name) + a_tuple(*arguments) + b"R"


def a_tensor(
    storage: bytes, size: Sequence[int], stride: Sequence[int], offset: int = 0, *, function: str = "_rebuild_tensor_v2"
) -> bytes:
    """The opcodes of a tensor over a storage."""
    lengths = (plainly(offset), *(a_tuple(*map(plainly, numbers)) for numbers in (size, stride)))
    return a_call("torch._utils", function, storage, *lengths, b"\x89", a_call("collections", "OrderedDict"))


def a_storage(
    key: str = "new", numel: int = 4, kind: tuple[str, str] = ("torch", "FloatStorage"), place: str = "cpu"
) -> bytes:
    """The opcodes of a storage."""
    return a_tuple(text("storage"), a_global(*kind), text(key), text(place), plainly(numel)) + b"Q"


# ---------------------------------------------------------------------------------------------------------------
# Zips


@dataclass(frozen=True)
class Part:
    """One record, and what the directory says of it; ``header`` is what its own header says otherwise."""

    name: str
    data: bytes
    flags: int = 0
    method: int = 0
    crc32: int | None = None
    size: int | None = None
    compressed_size: int | None = None
    extra: bytes = b""
    attributes: int = 0
    offset: int | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[int, int, int]:
        crc32 = zlib.crc32(self.data) if self.crc32 is None else self.crc32
        size = len(self.data) if self.size is None else self.size
        return crc32, size if self.compressed_size is None else self.compressed_size, size


def zipped(parts: Iterable[Part], **end: int) -> bytes:
    """A zip of these records; ``end`` changes what its last structure says."""
    file, directory, count = bytearray(), bytearray(), 0
    for part in parts:
        count += 1
        offset = len(file) if part.offset is None else part.offset
        told = replace(part, **part.header)
        file += struct.pack("<4s5H", b"PK\x03\x04", 20, told.flags, told.method, 0, 0)
        file += struct.pack("<3L2H", *told.numbers, len(told.name.encode()), len(told.extra))
        file += told.name.encode() + told.extra + part.data
        directory += struct.pack("<4s6H", b"PK\x01\x02", 20, 20, part.flags, part.method, 0, 0)
        directory += struct.pack("<3L5H", *part.numbers, len(part.name.encode()), len(part.extra), 0, 0, 0)
        directory += struct.pack("<2L", part.attributes, offset) + part.name.encode() + part.extra
    numbers = {"disk": 0, "here": count, "entries": count, "size": len(directory), "offset": len(file), **end}
    return bytes(file + directory + struct.pack("<4sHHHHLLH", b"PK\x05\x06", *_end_fields(numbers), 0))


def _end_fields(numbers: Mapping[str, int]) -> tuple[int, ...]:
    return (numbers["disk"], 0, numbers["here"], numbers["entries"], numbers["size"], numbers["offset"])


@dataclass(frozen=True)
class Base:
    """A real checkpoint, to forge others from.

    Attributes:
        name: of the file, with its folder's.
        data: the file.
        root: the zip's root folder.
        records: the zip's records in their order, by name without the root.
    """

    name: str
    data: bytes
    root: str
    records: Mapping[str, bytes]

    def saved(self) -> dict[str, Any]:
        """A fresh copy of what the checkpoint holds, to be changed."""
        return read(self.records["data.pkl"])

    def parts(self, changed: Mapping[str, bytes | None] | None = None) -> list[Part]:
        """Its records, some of them replaced, added, or with None left out."""
        records = {**self.records, **(changed or {})}
        return [Part(f"{self.root}/{name}", data) for name, data in records.items() if data is not None]

    def with_part(self, name: str, **changes: Any) -> bytes:
        """The file with one record's fields changed."""
        full = f"{self.root}/{name}"
        return zipped(replace(part, **changes) if part.name == full else part for part in self.parts())

    def with_saved(self, saved: Any, changed: Mapping[str, bytes | None] | None = None) -> bytes:
        """The file with another content."""
        return zipped(self.parts({"data.pkl": program(saved), **(changed or {})}))

    def with_item(self, opcodes: bytes, key: str = "extra") -> bytes:
        """The file with one more entry beside ``cfg`` and ``model``."""
        return zipped(self.parts({"data.pkl": self.records["data.pkl"][: -len(STOP)] + text(key) + opcodes + b"s."}))


def base(path: Path) -> Base:
    """A checkpoint taken apart."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0]
        return Base(
            f"{path.parent.name}/{path.name}",
            path.read_bytes(),
            root,
            {name[len(root) + 1 :]: archive.read(name) for name in names},
        )


def model(saved: Mapping[str, Any]) -> dict[Any, Any]:
    """The state dict in what a checkpoint holds: tensors by name."""
    found = saved["model"]
    items = found.items if isinstance(found, Made) else found
    assert isinstance(items, dict)
    return items


def altered(tensor: Made, **changes: Any) -> Made:
    """A tensor with other ``storage``, ``offset``, ``size`` or ``stride``."""
    places = {"storage": 0, "offset": 1, "size": 2, "stride": 3}
    arguments = list(tensor.arguments)
    for name, value in changes.items():
        arguments[places[name]] = value
    return type(tensor)(*arguments)


def sparsely_zipped(path: Path, parts: Iterable[Part], name: str, size: int, *, crc32: int) -> None:
    """Write a zip of these records and of one more, of this many zeros that take no place on the disk."""
    start = zipped(parts)
    count, _here, directory_size, at = struct.unpack_from("<2H2L", start, len(start) - 14)
    directory = start[at : at + directory_size]
    extra = struct.pack("<2H2Q", 1, 16, size, size)
    fields = struct.pack("<5H3L2H", 45, 0, 0, 0, 0, crc32, _FULL, _FULL, len(name), len(extra))
    header = b"PK\x03\x04" + fields + name.encode() + extra
    entry = b"PK\x01\x02" + struct.pack("<H", 45) + fields + struct.pack("<3H2L", 0, 0, 0, 0, at)
    directory += entry + name.encode() + extra
    end = at + len(header) + size
    tail = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count + 1, count + 1, len(directory), end)
    tail += struct.pack("<4sLQL", b"PK\x06\x07", 0, end + len(directory), 1)
    tail += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, _FULL, _FULL, 0)
    with path.open("wb") as file:
        file.write(start[:at] + header)
        file.seek(end)
        file.write(directory + tail)


_FULL = 0xFFFFFFFF
