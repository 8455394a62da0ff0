"""The gate: is this file what it claims to be, and where does each record lie, with which checksum.

torch.load trusts the container's numbers: it checks no CRC-32, and given a storage length that the record doesn't have
it hands out another record's bytes. So the container is read here first, with nothing but the standard library, and
whatever torch.save would never have written is refused. No tensor byte is read.

Two containers exist: the zip that torch.save writes since 1.6, and the legacy one before it (a few pickles, then the
storages' bytes one after the other); ``torch/serialization.py``, ``_save`` and ``_legacy_save``.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from w2vc.errors import DamagedError, MissingError, NotACheckpointError, UnsafeError
from w2vc.reading.pickle_program import (
    PICKLE_BYTES_LIMIT,
    PickleProgram,
    PickleSource,
    StorageUse,
    read_next_program,
    read_next_value,
    read_program,
)

# The largest fairseq models have some ten thousand storages, optimizer included.
RECORDS_LIMIT = 1_000_000
# A directory entry has 46 bytes and a name; 64 MiB hold the million.
DIRECTORY_BYTES_LIMIT = 64 * 2**20
# torch names its records after the file and the storage's number; file systems end at 255.
RECORD_NAME_LIMIT = 1000
# torch aligns storages to 64 bytes unless told otherwise; beyond a large page there is no sense in it.
STORAGE_ALIGNMENT_LIMIT = 2**20
# caffe2/serialize/versions.h, kMaxSupportedFileFormatVersion.
VERSION_LIMIT = 10
# ``version``, ``byteorder`` and the like are a word each.
NOTE_BYTES_LIMIT = 64
# How much of a file tells its kind: a tar's magic lies at byte 257.
KIND_BYTES = 512
# Legacy pickles have no length; this is how far reading may run past their end, into the tensors.
LEGACY_READ_AHEAD = 2**16


@dataclass(frozen=True)
class Record:
    """Bytes in the file that have a name.

    Attributes:
        name: without the archive's root folder: ``data.pkl``, ``data/0``.
        offset: where they begin in the file.
        size: how many they are.
        crc32: their CRC-32; None where the container has none.
    """

    name: str
    offset: int
    size: int
    crc32: int | None


@dataclass(frozen=True)
class Archive:
    """A checkpoint file that passed the gate.

    Attributes:
        path: of the file, for messages.
        size: of the file, in bytes.
        container: which of torch's two formats it is.
        records: by name; a storage's is ``data/KEY`` in both containers. Storages of legacy files are their bytes
            without the length that stands before them.
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


_TAKE_THE_CHECKPOINT = "pass the checkpoint file that fairseq's training wrote or that was published with the model"
_GET_AGAIN = "download or copy the checkpoint again and compare its checksum"
_SAVE_AGAIN = 'load it where it was made and save it again with torch.save(checkpoint, "checkpoint.pt")'
_DISTRUST = "fairseq never writes this; get the checkpoint from a source that you trust"
_UNPACK = "unpack it and pass the checkpoint inside"


# ---------------------------------------------------------------------------------------------------------------------
# Opening and reading
# ---------------------------------------------------------------------------------------------------------------------

_OTHER_THAN_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered, so that only what is asked for is read.

    Never waits: a pipe without a writer is refused like every other thing that isn't a file.

    Raises:
        MissingError: there is no such file, or it may not be read.
        NotACheckpointError: it isn't a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _cannot_open(path: Path, error: OSError | ValueError) -> MissingError | NotACheckpointError:
    try:
        _require_regular(path, path.stat().st_mode)
    except (OSError, ValueError):
        pass
    except NotACheckpointError as other:
        return other
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return MissingError(f"{path}: can't be opened: {reason}", advice="check the path and the permission to read it")


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((word for test, word in _OTHER_THAN_FILES if test(mode)), "not a regular file")
    raise NotACheckpointError(f"{path}: is {kind}, not a file", advice=_TAKE_THE_CHECKPOINT)


def _read(file: BinaryIO, path: Path, offset: int, count: int) -> bytes:
    """Exactly ``count`` bytes from ``offset``, however many reads that takes."""
    pieces = []
    try:
        file.seek(offset)
        while count:
            piece = file.read(count)
            if not piece:
                raise DamagedError(f"{path}: ends where more was expected, at byte {offset}", advice=_GET_AGAIN)
            pieces.append(piece)
            count -= len(piece)
    except OSError as error:
        message = f"{path}: can't be read at byte {offset}: {error.strerror}"
        raise DamagedError(message, advice="check the disk or the network that the file is on") from error
    return b"".join(pieces)


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
            raise NotACheckpointError(f"{path}: has no size: {error.strerror}", advice=_TAKE_THE_CHECKPOINT) from error
        start = _read(file, path, 0, min(size, KIND_BYTES))
        if start.startswith(_ZIP_START):
            return _examine_zip(file, path, size)
        if _LEGACY_MAGIC in start[:_LEGACY_MAGIC_WITHIN]:
            return _examine_legacy(file, path, size)
        word, advice = _kind(start)
        raise NotACheckpointError(f"{path}: is {word}, not a checkpoint of torch", advice=advice)
    finally:
        file.seek(0)


# ---------------------------------------------------------------------------------------------------------------------
# Other kinds of files
# ---------------------------------------------------------------------------------------------------------------------

_ZIP_START = b"PK\x03\x04"
# torch/serialization.py: MAGIC_NUMBER as a little-endian integer and STOP, in whatever protocol.
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019") + b"."
_LEGACY_MAGIC_WITHIN = 32
_JSON = re.compile(rb"\s*(\{|\[\s*[\[{\"0-9-])")
_ANCIENT_TAR_MEMBERS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")

# (test of the first bytes, word, advice); the first that fits counts.
_KINDS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (lambda start: not start, "empty", _GET_AGAIN),
    (lambda start: not start.strip(b"\0"), "full of zeros (an unfinished download?)", _GET_AGAIN),
    (
        lambda start: start.startswith(b"version https://git-lfs"),
        "a git-lfs pointer, which stands for the real file",
        "run `git lfs pull` where it was cloned",
    ),
    (
        lambda start: start[257:262] == b"ustar" and start.startswith(_ANCIENT_TAR_MEMBERS),
        "in the tar format of torch before 0.1.10",
        _SAVE_AGAIN,
    ),
    (lambda start: start[257:262] == b"ustar", "a tar archive", _UNPACK),
    (
        lambda start: start[8:10] == b'{"' and 0 < struct.unpack_from("<Q", start)[0] < 2**40,
        "a safetensors file",
        _TAKE_THE_CHECKPOINT,
    ),
    (lambda start: start.startswith(b"PK\x05\x06"), "an empty zip archive", _GET_AGAIN),
    (lambda start: start.startswith(b"PK\x07\x08"), "a part of a split zip archive", _UNPACK),
    (lambda start: start.startswith(b"\x1f\x8b"), "compressed with gzip", _UNPACK),
    (lambda start: start.startswith(b"BZh"), "compressed with bzip2", _UNPACK),
    (lambda start: start.startswith(b"\xfd7zXZ\0"), "compressed with xz", _UNPACK),
    (lambda start: start.startswith(b"\x28\xb5\x2f\xfd"), "compressed with zstd", _UNPACK),
    (lambda start: start.startswith(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", _UNPACK),
    (lambda start: start.startswith(b"Rar!"), "a rar archive", _UNPACK),
    (lambda start: start.startswith(b"\x89HDF\r\n\x1a\n"), "an HDF5 file (Keras, TensorFlow)", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"\x93NUMPY"), "a numpy array (.npy)", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"GGUF"), "a GGUF model", _TAKE_THE_CHECKPOINT),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WAVE", "a WAV recording", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith((b"fLaC", b"OggS", b"ID3")), "a recording", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"%PDF-"), "a PDF document", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")), "a picture", _TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"\x7fELF"), "a program", _TAKE_THE_CHECKPOINT),
    (
        lambda start: start[0] == 0x80 and start[1:2] <= b"\x05" and len(start) > 1,
        "a Python pickle that torch.save didn't write",
        _TAKE_THE_CHECKPOINT,
    ),
    (
        lambda start: start[0] == 0x08 and start[2:3] in (b"\x12", b"\x3a"),
        "an ONNX model or another protobuf message",
        _TAKE_THE_CHECKPOINT,
    ),
    (
        lambda start: start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
        "a web page (HTML): the download gave a page instead of the file",
        "download the file itself, signed in if that is needed",
    ),
    (lambda start: start.lstrip().startswith(b"<?xml"), "an XML document", _GET_AGAIN),
    (lambda start: _is_text(start) and _JSON.match(start) is not None, "a JSON text", _TAKE_THE_CHECKPOINT),
    (lambda start: _is_text(start), "a text", _TAKE_THE_CHECKPOINT),
)


def _kind(start: bytes) -> tuple[str, str]:
    """Word and advice for a file that isn't torch's, by its first bytes."""
    fitting = ((word, advice) for test, word, advice in _KINDS if test(start))
    return next(fitting, ("of an unknown kind (or its beginning is damaged)", _TAKE_THE_CHECKPOINT))


def _is_text(start: bytes) -> bool:
    # A character may be cut at the end.
    text = start.decode("utf-8", "replace")[:-3]
    return "\ufffd" not in text and all(character.isprintable() or character.isspace() for character in text)


def _kind_of_zip(names: Iterable[str]) -> tuple[str, str] | None:
    """Word and advice for a zip that isn't a checkpoint, by its records' names; None if it looks like one."""
    names = set(names)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a TorchScript archive (torch.jit.save), which holds code", _TAKE_THE_CHECKPOINT
    if "data.pkl" in inner:
        return None
    if any(name.startswith(".data/") and "extern_modules" in name for name in inner):
        return "a torch.package archive, which holds code", _TAKE_THE_CHECKPOINT
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz)", _TAKE_THE_CHECKPOINT
    if "model.weights.h5" in names:
        return "a Keras model", _TAKE_THE_CHECKPOINT
    if "[Content_Types].xml" in names:
        return "an office document", _TAKE_THE_CHECKPOINT
    if names & {"data.pkl", "version"}:
        return "a zip archive whose records lie in no folder", _SAVE_AGAIN
    return "a zip archive without data.pkl", _UNPACK


# ---------------------------------------------------------------------------------------------------------------------
# Zip: structures (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3)
# ---------------------------------------------------------------------------------------------------------------------


class _End(NamedTuple):
    """End of central directory; all but the signature and the comment's length."""

    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    directory_size: int
    directory_offset: int


class _Entry(NamedTuple):
    """One record's entry in the central directory, with zip64's numbers in their places."""

    name: str
    flags: int
    method: int
    crc32: int
    compressed_size: int
    size: int
    header_offset: int


_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\x06\x06"
_END64_COUNTED_FROM = 12
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ENTRY_SIGNATURE = b"PK\x01\x02"
_HEADER = struct.Struct("<4s5H3L2H")
_HEADER_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_DESCRIPTORS = (struct.Struct("<4s3L"), struct.Struct("<4sL2Q"))
_ZIP64_EXTRA = 1
_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF
_STORED = 0
_FLAGS_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_FLAG_DESCRIPTOR = 0x0008
_FLAG_UTF8 = 0x0800
# torch's zip reader takes a record so marked for a folder and gives out memory that it never filled.
_ATTRIBUTE_FOLDER = 0x10


class _Zip:
    """A zip file under examination: reads its structures, refuses what torch.save wouldn't write."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file = file
        self.path = path
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        return _read(self.file, self.path, offset, count)

    def damaged(self, problem: str, advice: str = _GET_AGAIN) -> DamagedError:
        return DamagedError(f"{self.path}: {problem}", advice=advice)

    def end(self) -> tuple[_End, int]:
        """The directory's place, and where the structures behind it begin.

        The end record is looked for at the very end only: torch writes no comment, and where different readers could
        find different directories, none of them can be trusted.
        """
        position = self.size - _END.size
        fields = _END.unpack(self.read(position, _END.size)) if position > 0 else (b"",)
        if fields[0] != _END_SIGNATURE or fields[-1] != 0:
            raise self.damaged("is cut off, or something was appended: the zip's directory isn't at its end")
        end = _End(*fields[1:-1])
        locator = position - _LOCATOR.size
        if locator > 0:
            found, _disk, end64, _disks = _LOCATOR.unpack(self.read(locator, _LOCATOR.size))
            if found == _LOCATOR_SIGNATURE:
                return self.end64(end, end64, locator), end64
        if _FULL16 in end[:4] or _FULL32 in end[4:]:
            raise self.damaged("is too large for a zip directory without zip64")
        return end, position

    def end64(self, end: _End, position: int, locator: int) -> _End:
        """The zip64 end record, which must lie right before its locator and agree with the short one."""
        if position + _END64.size != locator:
            raise self.damaged("has a zip64 directory end that isn't where it should be")
        signature, length, _made, _needed, *fields = _END64.unpack(self.read(position, _END64.size))
        if signature != _END64_SIGNATURE or length != _END64.size - _END64_COUNTED_FROM:
            raise self.damaged("has a broken zip64 directory end")
        end64 = _End(*fields)
        full = (*([_FULL16] * 4), *([_FULL32] * 2))
        if any(short not in (long, limit) for short, long, limit in zip(end, end64, full, strict=True)):
            raise self.damaged("has two directory ends that contradict one another")
        return end64

    def directory(self) -> list[_Entry]:
        end, behind = self.end()
        if end.disk or end.directory_disk or end.entries_here != end.entries:
            raise self.damaged("is a part of a split zip archive", _UNPACK)
        if end.entries > RECORDS_LIMIT or end.directory_size > DIRECTORY_BYTES_LIMIT:
            message = f"{self.path}: has {end.entries} records in a directory of {end.directory_size} bytes"
            raise UnsafeError(message, advice=_DISTRUST)
        if end.directory_offset + end.directory_size != behind:
            raise self.damaged("has a directory that doesn't lie right before the archive's end")
        return self.entries(self.read(end.directory_offset, end.directory_size), end.entries)

    def entries(self, directory: bytes, count: int) -> list[_Entry]:
        entries = []
        position = 0
        for _ in range(count):
            entry, position = self.entry(directory, position)
            entries.append(entry)
        if position != len(directory):
            raise self.damaged("has more in its directory than the records that it counts")
        return entries

    def entry(self, directory: bytes, position: int) -> tuple[_Entry, int]:
        if position + _ENTRY.size > len(directory):
            raise self.damaged("has fewer records in its directory than it counts")
        fields = _ENTRY.unpack_from(directory, position)
        signature, _made, _needed, flags, method, _time, _date, crc32, compressed_size, size = fields[:10]
        name_length, extra_length, comment_length, disk, _inner, attributes, header_offset = fields[10:]
        name_at = position + _ENTRY.size
        extra_at = name_at + name_length
        behind = extra_at + extra_length + comment_length
        if signature != _ENTRY_SIGNATURE or behind > len(directory) or disk not in (0, _FULL16):
            raise self.damaged(f"has a broken directory entry at its byte {position}")
        name = self.name(directory[name_at:extra_at])
        if attributes & _ATTRIBUTE_FOLDER:
            raise self.damaged(f"has record {name!r} marked as a folder")
        extra = directory[extra_at : extra_at + extra_length]
        size, compressed_size, header_offset = self.widen(name, extra, (size, compressed_size, header_offset))
        return _Entry(name, flags, method, crc32, compressed_size, size, header_offset), behind

    def name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or len(name) > RECORD_NAME_LIMIT or {"", ".", ".."} & set(parts):
            raise self.damaged(f"has a record with an odd name: {raw[:80]!a}")
        return name

    def widen(self, name: str, extra: bytes, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Put zip64's numbers where the 32-bit fields are full, in the order of the fields."""
        wide = self.zip64(name, extra)
        widened = []
        for number in numbers:
            if number == _FULL32:
                if len(wide) < 8:
                    raise self.damaged(f"lacks the zip64 numbers of record {name!r}")
                number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
            widened.append(number)
        return tuple(widened)

    def zip64(self, name: str, extra: bytes) -> bytes:
        """The zip64 block among a record's extra fields, empty if there is none."""
        blocks = []
        while extra:
            kind, length = struct.unpack_from("<2H", extra) if len(extra) >= 4 else (0, _FULL16)
            if 4 + length > len(extra):
                raise self.damaged(f"has broken extra fields at record {name!r}")
            if kind == _ZIP64_EXTRA:
                blocks.append(extra[4 : 4 + length])
            extra = extra[4 + length :]
        if len(blocks) > 1:
            raise self.damaged(f"has the zip64 numbers of record {name!r} twice")
        return blocks[0] if blocks else b""

    def locate(self, entry: _Entry, limit: int) -> tuple[Record, int]:
        """The record's place, from its local header, and where what belongs to it ends.

        Args:
            entry: of the directory.
            limit: where records must have ended.
        """
        self.check_storage(entry)
        if entry.header_offset + _HEADER.size > limit:
            raise self.damaged(f"has the header of record {entry.name!r} outside of its place")
        fields = _HEADER.unpack(self.read(entry.header_offset, _HEADER.size))
        signature, _needed, flags, method, _time, _date, crc32, compressed_size, size, name_length, extra_length = (
            fields
        )
        if signature != _HEADER_SIGNATURE or (flags, method) != (entry.flags, entry.method):
            raise self.damaged(f"has a header of record {entry.name!r} that contradicts the directory")
        offset = entry.header_offset + _HEADER.size + name_length + extra_length
        if offset + entry.size > limit:
            raise self.damaged(f"ends before record {entry.name!r} does")
        tail = self.read(entry.header_offset + _HEADER.size, name_length + extra_length)
        if tail[:name_length].decode("utf-8", "replace") != entry.name:
            raise self.damaged(f"has record {entry.name!r} of the directory under another name")
        self.check_sizes(entry, crc32, self.widen(entry.name, tail[name_length:], (size, compressed_size)))
        return Record(entry.name, offset, entry.size, entry.crc32), self.descriptor_end(entry, offset)

    def check_storage(self, entry: _Entry) -> None:
        if entry.flags & _FLAGS_ENCRYPTED:
            raise self.damaged(f"has record {entry.name!r} encrypted", _SAVE_AGAIN)
        if entry.flags & ~(_FLAG_DESCRIPTOR | _FLAG_UTF8):
            raise self.damaged(f"has record {entry.name!r} with odd flags: {entry.flags:#06x}")
        if entry.method != _STORED:
            raise self.damaged(f"has record {entry.name!r} compressed; torch.save never compresses", _SAVE_AGAIN)
        if entry.compressed_size != entry.size:
            raise self.damaged(f"has two sizes for record {entry.name!r}")

    def check_sizes(self, entry: _Entry, crc32: int, sizes: tuple[int, ...]) -> None:
        """The header's numbers are the directory's, or zeros if a descriptor follows the bytes, as torch writes it."""
        stated = (crc32, *sizes)
        follows = entry.flags & _FLAG_DESCRIPTOR and not any(stated)
        if not follows and stated != (entry.crc32, entry.size, entry.compressed_size):
            raise self.damaged(f"has sizes of record {entry.name!r} that contradict the directory")

    def descriptor_end(self, entry: _Entry, offset: int) -> int:
        """Where the record ends, its data descriptor included, which must say what the directory says."""
        end = offset + entry.size
        if not entry.flags & _FLAG_DESCRIPTOR:
            return end
        stated = (_DESCRIPTOR_SIGNATURE, entry.crc32, entry.size, entry.size)
        found = self.read(end, min(_DESCRIPTORS[-1].size, self.size - end))
        for form in _DESCRIPTORS:
            if len(found) >= form.size and form.unpack_from(found) == stated:
                return end + form.size
        raise self.damaged(f"has something else than the checksum of record {entry.name!r} behind it")

    def records(self) -> dict[str, Record]:
        """All records, by name without the root folder."""
        entries = self.directory()
        other = _kind_of_zip(entry.name for entry in entries)
        if other is not None:
            word, advice = other
            raise NotACheckpointError(f"{self.path}: is {word}, not a checkpoint of torch", advice=advice)
        self.check_names(entries)
        end, _behind = self.end()
        located = [(entry.header_offset, *self.locate(entry, end.directory_offset)) for entry in entries]
        self.check_overlap(located, end.directory_offset)
        return self.named({record.name: record for _start, record, _end in located})

    def check_names(self, entries: list[_Entry]) -> None:
        if len({entry.name.partition("/")[0] for entry in entries}) > 1:
            raise self.damaged("has more than one root folder", _SAVE_AGAIN)
        seen: set[str] = set()
        for entry in entries:
            # torch finds records without regard to case.
            folded = entry.name.lower()
            if folded in seen:
                raise self.damaged(f"has record {entry.name!r} twice")
            seen.add(folded)

    def check_overlap(self, located: list[tuple[int, Record, int]], limit: int) -> None:
        previous, end = "", 0
        for start, record, record_end in sorted(located, key=lambda item: item[0]):
            if start < end:
                raise self.damaged(f"has records that overlap: {previous!r} and {record.name!r}")
            previous, end = record.name, record_end
        if end > limit:
            raise self.damaged(f"has record {previous!r} reaching into the directory")

    def named(self, records: Mapping[str, Record]) -> dict[str, Record]:
        """Without the root folder; and without CRCs if all are zero, as ``set_crc32_options(False)`` leaves them."""
        has_crcs = any(record.crc32 for record in records.values())
        named = {}
        for full_name, record in records.items():
            name = full_name.partition("/")[2]
            named[name] = replace(record, name=name, crc32=record.crc32 if has_crcs else None)
        return named

    def content(self, record: Record) -> bytes:
        """A small record's bytes, with their CRC checked."""
        content = self.read(record.offset, record.size)
        if record.crc32 is not None and zlib.crc32(content) != record.crc32:
            raise self.damaged(f"{record.name}: the CRC-32 is wrong, so bits have changed")
        return content


# ---------------------------------------------------------------------------------------------------------------------
# Zip: torch's records
# ---------------------------------------------------------------------------------------------------------------------


def _is_number_up_to(limit: int) -> Callable[[bytes], bool]:
    return lambda note: note.isdigit() and len(note) < 10 and 1 <= int(note) <= limit


def _is_alignment(note: bytes) -> bool:
    if not _is_number_up_to(STORAGE_ALIGNMENT_LIMIT)(note):
        return False
    return int(note).bit_count() == 1


# Small records that say how the others are to be read, whether their word is a good one, and what is wrong otherwise.
_NOTES: Mapping[str, tuple[Callable[[bytes], bool], str, str]] = {
    "version": (_is_number_up_to(VERSION_LIMIT), "the archive's version is {}, unknown to torch", _SAVE_AGAIN),
    ".format_version": (_is_number_up_to(999), "the format's version is {}, unknown to torch", _SAVE_AGAIN),
    ".storage_alignment": (_is_alignment, "the storages' alignment is {}", _GET_AGAIN),
    ".data/serialization_id": (bytes.isalnum, "the serialization id is {}", _GET_AGAIN),
    "byteorder": (
        lambda note: note == b"little",
        "the byte order is {}; w2vc reads little-endian checkpoints only",
        "load it on a little-endian machine (x86-64, ARM) and save it there with torch.save",
    ),
}


def _examine_zip(file: BinaryIO, path: Path, size: int) -> Archive:
    archive = _Zip(file, path, size)
    records = archive.records()
    _check_notes(archive, records)
    pickle_record = records["data.pkl"]
    if pickle_record.size > PICKLE_BYTES_LIMIT:
        message = f"{path}: data.pkl has {pickle_record.size} bytes; the limit is {PICKLE_BYTES_LIMIT}"
        raise UnsafeError(message, advice=_DISTRUST)
    pickled = archive.content(pickle_record)
    program = read_program(pickled, f"{path}: data.pkl")
    _check_storages(path, program.storages, records)
    return Archive(path, size, "zip", records, program, _fingerprint(pickled, records, 0))


def _check_notes(archive: _Zip, records: Mapping[str, Record]) -> None:
    # torch finds records without regard to case.
    folded = {name.lower(): record for name, record in records.items()}
    for name, (is_good, problem, advice) in _NOTES.items():
        if name not in folded:
            continue
        note = archive.content(folded[name]) if folded[name].size <= NOTE_BYTES_LIMIT else b"(long)"
        if not is_good(note.strip()):
            raise archive.damaged(f"{name}: {problem.format(ascii(note.decode('latin-1')))}", advice)


def _check_storages(path: Path, storages: Iterable[StorageUse], records: Mapping[str, Record]) -> None:
    problems = []
    for storage in storages:
        record = records.get(f"data/{storage.key}")
        if record is None:
            problems.append(f"{path}: the storage {storage.key!r} has no record")
        elif record.size != storage.nbytes:
            stated = f"{storage.numel} elements of a {storage.storage_type} ({storage.nbytes} bytes)"
            problems.append(f"{path}: {record.name} has {record.size} bytes, but the pickle says {stated}")
    if problems:
        raise DamagedError(problems, advice=_GET_AGAIN)


def _fingerprint(pickled: bytes, records: Mapping[str, Record], size: int) -> str:
    digest = hashlib.sha256(struct.pack("<2Q", len(pickled), size) + pickled)
    for name in sorted(records):
        record = records[name]
        crc32 = "none" if record.crc32 is None else f"{record.crc32:08x}"
        digest.update(f"{len(name)}:{name} {record.size} {crc32}\n".encode())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Legacy
# ---------------------------------------------------------------------------------------------------------------------

_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LEGACY_LENGTH = struct.Struct("<q")


def _examine_legacy(file: BinaryIO, path: Path, size: int) -> Archive:
    def more() -> bytes:
        position = len(source.data)
        return _read(file, path, position, min(LEGACY_READ_AHEAD, size - position))

    source = PickleSource(b"", str(path), more)
    _check_legacy_preamble(source)
    program = read_next_program(source, legacy=True)
    keys = read_next_value(source)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storage.key for storage in program.storages):
        raise DamagedError(f"{path}: the list of storages isn't the pickle's", advice=_GET_AGAIN)
    pickled = bytes(source.data[: source.position])
    records = _locate_legacy(file, path, size, source.position, keys, program)
    return Archive(path, size, "legacy", records, program, _fingerprint(pickled, records, size))


def _check_legacy_preamble(source: PickleSource) -> None:
    """Magic number, protocol version, and the machine that saved it; ``_legacy_save``."""
    if (read_next_value(source), read_next_value(source)) != (_LEGACY_MAGIC_NUMBER, _LEGACY_PROTOCOL):
        raise DamagedError(f"{source.what}: the legacy format's preamble is broken", advice=_GET_AGAIN)
    machine = read_next_value(source)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        advice = "load it on a little-endian machine (x86-64, ARM) and save it there with torch.save"
        raise DamagedError(f"{source.what}: w2vc reads little-endian checkpoints only, and this is none", advice=advice)


def _locate_legacy(
    file: BinaryIO, path: Path, size: int, position: int, keys: list[str], program: PickleProgram
) -> dict[str, Record]:
    """Each storage is its length in elements and its bytes, in the order of the keys, up to the file's end."""
    records: dict[str, Record] = {}
    storages = {storage.key: storage for storage in program.storages}
    for key in keys:
        if position + _LEGACY_LENGTH.size > size:
            raise DamagedError(f"{path}: ends before the storage {key!r}", advice=_GET_AGAIN)
        (numel,) = _LEGACY_LENGTH.unpack(_read(file, path, position, _LEGACY_LENGTH.size))
        if numel != storages[key].numel:
            message = f"{path}: the storage {key!r} has {numel} elements, but the pickle says {storages[key].numel}"
            raise DamagedError(message, advice=_GET_AGAIN)
        position += _LEGACY_LENGTH.size
        records[f"data/{key}"] = Record(f"data/{key}", position, storages[key].nbytes, None)
        position += storages[key].nbytes
    if position != size:
        raise DamagedError(f"{path}: has {size} bytes where its storages end at byte {position}", advice=_GET_AGAIN)
    return records
