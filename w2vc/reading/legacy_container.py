"""The container that torch.save wrote before 1.6: a few pickles, then the storages' bytes one after the other.

``torch/serialization.py``, ``_legacy_save``.
"""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import DamagedError, UnsafeError, shown
from w2vc.reading.budget import DISTRUST
from w2vc.reading.kinds import KIND_BYTES
from w2vc.reading.opening import bytes_on_disk, read_exactly
from w2vc.reading.program import PickleProgram, read_next_program, read_next_value
from w2vc.reading.record import Record
from w2vc.reading.source import GET_AGAIN, PickleSource

LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019") + b"."
"""torch/serialization.py: MAGIC_NUMBER as a little-endian integer and STOP, in whatever protocol."""
LEGACY_MAGIC_WITHIN = 32
"""How far from the beginning of the file it is looked for."""
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LENGTH = struct.Struct("<q")
# Legacy pickles have no length; this is how far reading may run past their end, into the tensors.
_READ_AHEAD = 2**16


def read_legacy(file: BinaryIO, path: Path, size: int) -> tuple[PickleProgram, dict[str, Record], bytes]:
    """Return what the main pickle would build, where each storage's bytes lie, and the bytes of all pickles.

    Raises:
        DamagedError: cut off, altered, or contradicting itself.
        UnsafeError: names code, would take memory or time without bound, or is a tar archive, too.
    """

    def more() -> bytes:
        position = len(source.data)
        return read_exactly(file, path, position, min(_READ_AHEAD, size - position))

    _refuse_tar(path, read_exactly(file, path, 0, min(size, KIND_BYTES)))
    source = PickleSource(b"", str(path), more, on_disk=bytes_on_disk(file))
    _check_preamble(path, source)
    program = read_next_program(source, legacy=True)
    keys = read_next_value(source)
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise DamagedError(f"{path}: the list of storages isn't one of texts", advice=GET_AGAIN)
    if sorted(keys) != sorted(storage.key for storage in program.storages):
        raise DamagedError(f"{path}: the list of storages isn't the pickle's", advice=GET_AGAIN)
    pickles = bytes(source.data[: source.position])
    return program, _locate(file, path, size, source.position, keys, program), pickles


def _refuse_tar(path: Path, start: bytes) -> None:
    """Refuse what tarfile would open: torch tries that first, and it may read gigabytes."""
    try:
        tarfile.TarInfo.frombuf(start.ljust(KIND_BYTES, b"\0"), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise UnsafeError(f"{path}: is a file of torch's legacy format and a tar archive at once", advice=DISTRUST)


def _check_preamble(path: Path, source: PickleSource) -> None:
    """Check the magic number, protocol version, and the machine that saved it; ``_legacy_save``."""
    if (read_next_value(source), read_next_value(source)) != (_MAGIC_NUMBER, _PROTOCOL):
        raise DamagedError(f"{path}: the legacy format's preamble is broken", advice=GET_AGAIN)
    machine = read_next_value(source)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        advice = "Load it on a little-endian machine (x86-64, ARM) and save it there with torch.save."
        raise DamagedError(f"{path}: w2vc reads little-endian checkpoints only, and this is none", advice=advice)


def _locate(
    file: BinaryIO, path: Path, size: int, position: int, keys: list[str], program: PickleProgram
) -> dict[str, Record]:
    """Return the records: each is its length in elements and its bytes, in the keys' order, up to the file's end."""
    records: dict[str, Record] = {}
    storages = {storage.key: storage for storage in program.storages}
    for key in keys:
        if position + _LENGTH.size > size:
            raise DamagedError(f"{path}: ends before the storage {shown(key)}", advice=GET_AGAIN)
        (numel,) = _LENGTH.unpack(read_exactly(file, path, position, _LENGTH.size))
        if numel != storages[key].numel:
            message = (
                f"{path}: the storage {shown(key)} has {numel} elements, but the pickle says {storages[key].numel}"
            )
            raise DamagedError(message, advice=GET_AGAIN)
        position += _LENGTH.size
        records[f"data/{key}"] = Record(f"data/{key}", position, storages[key].nbytes, None)
        position += storages[key].nbytes
    if position != size:
        raise DamagedError(f"{path}: has {size} bytes where its storages end at byte {position}", advice=GET_AGAIN)
    return records
