"""The zip that torch.save writes since 1.6: where each record lies, with which checksum.

torch.load trusts the container's numbers: it checks no CRC-32, and given a storage length that the record doesn't have
it hands out another record's bytes. So whatever torch.save would never have written is refused here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import NotACheckpointError, shown
from w2vc.reading.budget import LIMITS
from w2vc.reading.kinds import SAVE_AGAIN, kind_of_zip
from w2vc.reading.record import Record
from w2vc.reading.source import GET_AGAIN
from w2vc.reading.zip_directory import Entry, ZipDirectory

_HEADER = struct.Struct("<4s5H3L2H")
_HEADER_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_DESCRIPTORS = (struct.Struct("<4s3L"), struct.Struct("<4sL2Q"))
_STORED = 0
_FLAGS_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_FLAG_DESCRIPTOR = 0x0008
_FLAG_UTF8 = 0x0800
# caffe2/serialize/versions.h, kMaxSupportedFileFormatVersion.
_VERSION_LIMIT = 10
# ``version``, ``byteorder`` and the like are a word each.
_NOTE_BYTES_LIMIT = 64


class ZipContainer:
    """A zip file under examination: its records are found by their own headers, which must agree with the directory."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.zip = ZipDirectory(file, path, size)

    def _locate(self, entry: Entry, limit: int) -> tuple[Record, int]:
        """Return the record's place, from its local header, and where what belongs to it ends.

        Args:
            entry: of the directory.
            limit: where records must have ended.
        """
        self._check_storage(entry)
        if entry.header_offset + _HEADER.size > limit:
            raise self.zip.damaged(f"has the header of record {shown(entry.name)} outside of its place")
        fields = _HEADER.unpack(self.zip.read(entry.header_offset, _HEADER.size))
        signature, _needed, flags, method, _time, _date, crc32, compressed_size, size, name_length, extra_length = (
            fields
        )
        if signature != _HEADER_SIGNATURE or (flags, method) != (entry.flags, entry.method):
            raise self.zip.damaged(f"has a header of record {shown(entry.name)} that contradicts the directory")
        offset = entry.header_offset + _HEADER.size + name_length + extra_length
        if offset + entry.size > limit:
            raise self.zip.damaged(f"ends before record {shown(entry.name)} does")
        tail = self.zip.read(entry.header_offset + _HEADER.size, name_length + extra_length)
        if tail[:name_length].decode("utf-8", "replace") != entry.name:
            raise self.zip.damaged(f"has record {shown(entry.name)} of the directory under another name")
        self._check_sizes(entry, crc32, self.zip.widen(entry.name, tail[name_length:], (size, compressed_size)))
        return Record(entry.name, offset, entry.size, entry.crc32), self._descriptor_end(entry, offset)

    def _check_storage(self, entry: Entry) -> None:
        if entry.flags & _FLAGS_ENCRYPTED:
            raise self.zip.damaged(f"has record {shown(entry.name)} encrypted", SAVE_AGAIN)
        if entry.flags & ~(_FLAG_DESCRIPTOR | _FLAG_UTF8):
            raise self.zip.damaged(f"has record {shown(entry.name)} with odd flags: {entry.flags:#06x}")
        if entry.method != _STORED:
            raise self.zip.damaged(
                f"has record {shown(entry.name)} compressed; torch.save never compresses", SAVE_AGAIN
            )
        if entry.compressed_size != entry.size:
            raise self.zip.damaged(f"has two sizes for record {shown(entry.name)}")

    def _check_sizes(self, entry: Entry, crc32: int, sizes: tuple[int, ...]) -> None:
        """Require the directory's numbers in the header, or zeros if a descriptor follows the bytes."""
        stated = (crc32, *sizes)
        follows = entry.flags & _FLAG_DESCRIPTOR and not any(stated)
        if not follows and stated != (entry.crc32, entry.size, entry.compressed_size):
            raise self.zip.damaged(f"has sizes of record {shown(entry.name)} that contradict the directory")

    def _descriptor_end(self, entry: Entry, offset: int) -> int:
        """Return where the record ends, its data descriptor included, which must say what the directory says."""
        end = offset + entry.size
        if not entry.flags & _FLAG_DESCRIPTOR:
            return end
        stated = (_DESCRIPTOR_SIGNATURE, entry.crc32, entry.size, entry.size)
        # The directory follows, which is longer.
        found = self.zip.read(end, _DESCRIPTORS[-1].size)
        for form in _DESCRIPTORS:
            if form.unpack_from(found) == stated:
                return end + form.size
        raise self.zip.damaged(f"has a data descriptor after record {shown(entry.name)} that contradicts the directory")

    def records(self) -> dict[str, Record]:
        """Return all records, by name without the root folder."""
        entries = self.zip.directory()
        other = kind_of_zip(entry.name for entry in entries)
        if other is not None:
            word, advice = other
            raise NotACheckpointError(f"{self.zip.path}: is {word}, not a checkpoint of torch", advice=advice)
        self._check_names(entries)
        end, _behind = self.zip.end()
        located = [(entry.header_offset, *self._locate(entry, end.directory_offset)) for entry in entries]
        self._check_overlap(located, end.directory_offset)
        return self._named({record.name: record for _start, record, _end in located})

    def _check_names(self, entries: list[Entry]) -> None:
        if len({entry.name.partition("/")[0] for entry in entries}) > 1:
            raise self.zip.damaged("has more than one root folder", SAVE_AGAIN)
        seen: set[str] = set()
        for entry in entries:
            # torch finds records without regard to case.
            folded = entry.name.lower()
            if folded in seen:
                raise self.zip.damaged(f"has record {shown(entry.name)} twice")
            seen.add(folded)

    def _check_overlap(self, located: list[tuple[int, Record, int]], limit: int) -> None:
        previous, end = "", 0
        for start, record, record_end in sorted(located, key=lambda item: item[0]):
            if start < end:
                raise self.zip.damaged(f"has records that overlap: {shown(previous)} and {shown(record.name)}")
            previous, end = record.name, record_end
        if end > limit:
            raise self.zip.damaged(f"has record {shown(previous)} reaching into the directory")

    def _named(self, records: Mapping[str, Record]) -> dict[str, Record]:
        """Return the records without the root folder, and without CRCs if all are zero (torch can leave them out)."""
        has_crcs = any(record.crc32 for record in records.values())
        named = {}
        for full_name, record in records.items():
            name = full_name.partition("/")[2]
            named[name] = replace(record, name=name, crc32=record.crc32 if has_crcs else None)
        return named

    def content(self, record: Record) -> bytes:
        """Return a small record's bytes, with their CRC checked."""
        content = self.zip.read(record.offset, record.size)
        if record.crc32 is not None and zlib.crc32(content) != record.crc32:
            raise self.zip.damaged(f"{record.name}: the CRC-32 is wrong, so bits have changed")
        return content


def _is_number_up_to(limit: int) -> Callable[[bytes], bool]:
    return lambda note: note.isdigit() and len(note) < 10 and 1 <= int(note) <= limit


def _is_alignment(note: bytes) -> bool:
    if not _is_number_up_to(LIMITS["storage alignment"].most)(note):
        return False
    return int(note).bit_count() == 1


# Small records that say how the others are to be read, whether their word is a good one, and what is wrong otherwise.
_NOTES: Mapping[str, tuple[Callable[[bytes], bool], str, str]] = {
    "version": (_is_number_up_to(_VERSION_LIMIT), "the archive's version is {}, unknown to torch", SAVE_AGAIN),
    ".format_version": (_is_number_up_to(999), "the format's version is {}, unknown to torch", SAVE_AGAIN),
    ".storage_alignment": (_is_alignment, "the storages' alignment is {}", GET_AGAIN),
    ".data/serialization_id": (bytes.isalnum, "the serialization id is {}", GET_AGAIN),
    "byteorder": (
        lambda note: note == b"little",
        "the byte order is {}; w2vc reads little-endian checkpoints only",
        "load it on a little-endian machine (x86-64, ARM) and save it there with torch.save",
    ),
}


def check_notes(archive: ZipContainer, records: Mapping[str, Record]) -> None:
    """Raise DamagedError where a small record says that the others are to be read otherwise than w2vc does."""
    # torch finds records without regard to case.
    folded = {name.lower(): record for name, record in records.items()}
    for name, (is_good, problem, advice) in _NOTES.items():
        if name not in folded:
            continue
        note = archive.content(folded[name]) if folded[name].size <= _NOTE_BYTES_LIMIT else b"(long)"
        if not is_good(note.strip()):
            raise archive.zip.damaged(f"{name}: {problem.format(ascii(note.decode('latin-1')))}", advice)
