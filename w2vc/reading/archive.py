"""The gate: is this file what it claims to be, and where does each record lie, with which checksum.

The container is read with nothing but the standard library, before torch is imported, and whatever torch.save would
never have written is refused. No tensor byte is read.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from w2vc.errors import DamagedError, NotACheckpointError, shown
from w2vc.reading.budget import Budget
from w2vc.reading.kinds import KIND_BYTES, kind_of
from w2vc.reading.legacy_container import LEGACY_MAGIC, LEGACY_MAGIC_WITHIN, read_legacy
from w2vc.reading.opening import TAKE_THE_CHECKPOINT, open_checkpoint, read_exactly
from w2vc.reading.program import PickleProgram, read_program
from w2vc.reading.record import Record
from w2vc.reading.source import GET_AGAIN
from w2vc.reading.storages import StorageUse
from w2vc.reading.zip_container import ZipContainer, check_notes

__all__ = ["Archive", "Record", "examine", "open_checkpoint"]

ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class Archive:
    """A checkpoint file that passed the gate.

    Attributes:
        path: of the file, for messages.
        size: of the file, in bytes.
        container: which of torch's two formats it is.
        records: by name; a storage's is ``data/KEY`` in both containers. Storages of legacy files are their bytes
            without the length that precedes them.
        program: what the pickle would build and name.
        fingerprint: SHA-256 in hexadecimal digits over the pickle and the records' names, sizes and CRCs: the same for
            a copy under another name, another for any other checkpoint with CRCs.
    """

    path: Path
    size: int
    container: Literal["zip", "legacy"]
    records: Mapping[str, Record]
    program: PickleProgram
    fingerprint: str


def examine(file: BinaryIO, path: Path) -> Archive:
    """Check a checkpoint's container and pickle; tensor bytes are never read.

    Args:
        file: open for reading (``open_checkpoint``); its position is 0 afterwards.
        path: of the file, for messages.

    Raises:
        NotACheckpointError: another kind of file.
        DamagedError: cut off, altered, or contradicting itself.
        UnsafeError: names code, or would take memory or time without bound.
    """
    try:
        try:
            size = file.seek(0, os.SEEK_END)
        except OSError as error:  # what /proc calls files needn't have an end
            raise NotACheckpointError(f"{path}: has no size: {error.strerror}", advice=TAKE_THE_CHECKPOINT) from error
        start = read_exactly(file, path, 0, min(size, KIND_BYTES))
        if start.startswith(ZIP_START):
            return _examine_zip(file, path, size)
        if LEGACY_MAGIC in start[:LEGACY_MAGIC_WITHIN]:
            return _examine_legacy(file, path, size)
        word, advice = kind_of(start)
        raise NotACheckpointError(f"{path}: is {word}, not a checkpoint of torch", advice=advice)
    finally:
        file.seek(0)


def _examine_zip(file: BinaryIO, path: Path, size: int) -> Archive:
    archive = ZipContainer(file, path, size)
    records = archive.records()
    check_notes(archive, records)
    pickle_record = records["data.pkl"]
    Budget(str(path), archive.zip.on_disk).require("pickle bytes", pickle_record.size, "a pickle")
    pickled = archive.content(pickle_record)
    program = read_program(pickled, f"{path}: data.pkl", archive.zip.on_disk)
    _check_storages(path, program.storages, records)
    return Archive(path, size, "zip", records, program, _fingerprint(pickled, records, 0))


def _examine_legacy(file: BinaryIO, path: Path, size: int) -> Archive:
    program, records, pickles = read_legacy(file, path, size)
    return Archive(path, size, "legacy", records, program, _fingerprint(pickles, records, size))


def _check_storages(path: Path, storages: Iterable[StorageUse], records: Mapping[str, Record]) -> None:
    problems = []
    for storage in storages:
        record = records.get(f"data/{storage.key}")
        if record is None:
            problems.append(f"{path}: the storage {shown(storage.key)} has no record")
        elif record.size != storage.nbytes:
            stated = f"{storage.numel} elements of a {storage.storage_type} ({storage.nbytes} bytes)"
            problems.append(f"{path}: {shown(record.name)} has {record.size} bytes, but the pickle says {stated}")
    if problems:
        raise DamagedError(problems, advice=GET_AGAIN)


def _fingerprint(pickled: bytes, records: Mapping[str, Record], size: int) -> str:
    digest = hashlib.sha256(struct.pack("<2Q", len(pickled), size) + pickled)
    for name in sorted(records):
        record = records[name]
        crc32 = "none" if record.crc32 is None else f"{record.crc32:08x}"
        digest.update(f"{len(name)}:{name} {record.size} {crc32}\n".encode())
    return digest.hexdigest()
