"""A zip's central directory (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3): which records there are, and where."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from w2vc.errors import DamagedError, UnsafeError, shown
from w2vc.reading.budget import DISTRUST, LIMITS, Budget
from w2vc.reading.kinds import UNPACK
from w2vc.reading.opening import bytes_on_disk, read_exactly
from w2vc.reading.source import GET_AGAIN


class End(NamedTuple):
    """End of central directory; all but the signature and the comment's length."""

    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    directory_size: int
    directory_offset: int


class Entry(NamedTuple):
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
_ZIP64_EXTRA = 1
_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF
# torch's zip reader takes a record so marked for a folder and gives out memory that it never filled.
_ATTRIBUTE_FOLDER = 0x10


class ZipDirectory:
    """The directory, read from a file's end; what torch.save wouldn't write there is refused."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file = file
        self.path = path
        self.size = size
        self.on_disk = bytes_on_disk(file)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file."""
        return read_exactly(self.file, self.path, offset, count)

    def damaged(self, problem: str, advice: str = GET_AGAIN) -> DamagedError:
        """Return the error for a file that torch.save didn't write like this."""
        return DamagedError(f"{self.path}: {problem}", advice=advice)

    def end(self) -> tuple[End, int]:
        """Return where the directory is, and where the structures after it begin.

        The end record is looked for at the very end only: torch writes no comment, and where different readers could
        find different directories, none of them can be trusted.
        """
        position = self.size - _END.size
        fields = _END.unpack(self.read(position, _END.size)) if position > 0 else (b"",)
        if fields[0] != _END_SIGNATURE or fields[-1] != 0:
            raise self.damaged("is cut off, or something was appended: the zip's directory isn't at its end")
        end = End(*fields[1:-1])
        locator = position - _LOCATOR.size
        if locator > 0:
            found, _disk, end64, _disks = _LOCATOR.unpack(self.read(locator, _LOCATOR.size))
            if found == _LOCATOR_SIGNATURE:
                return self._end64(end, end64, locator), end64
        if _FULL16 in end[:4] or _FULL32 in end[4:]:
            raise self.damaged("is too large for a zip directory without zip64")
        return end, position

    def _end64(self, end: End, position: int, locator: int) -> End:
        """Return the zip64 end record, which must lie right before its locator and agree with the short one."""
        if position + _END64.size != locator:
            raise self.damaged("has a zip64 directory end that isn't where it should be")
        signature, length, _made, _needed, *fields = _END64.unpack(self.read(position, _END64.size))
        if signature != _END64_SIGNATURE or length != _END64.size - _END64_COUNTED_FROM:
            raise self.damaged("has a broken zip64 directory end")
        end64 = End(*fields)
        full = (*([_FULL16] * 4), *([_FULL32] * 2))
        if any(short not in (long, limit) for short, long, limit in zip(end, end64, full, strict=True)):
            raise self.damaged("has two directory ends that contradict one another")
        return end64

    def directory(self) -> list[Entry]:
        """Return all entries."""
        end, after = self.end()
        if end.disk or end.directory_disk or end.entries_here != end.entries:
            raise self.damaged("is a part of a split zip archive", UNPACK)
        budget = Budget(str(self.path), self.on_disk)
        if end.entries > budget.most("records") or end.directory_size > budget.most("directory bytes"):
            message = f"{self.path}: has {end.entries} records in a directory of {end.directory_size} bytes"
            raise UnsafeError(message, advice=DISTRUST)
        if end.directory_offset + end.directory_size != after:
            raise self.damaged("has a directory that doesn't lie right before the archive's end")
        return self._entries(self.read(end.directory_offset, end.directory_size), end.entries)

    def _entries(self, directory: bytes, count: int) -> list[Entry]:
        entries = []
        position = 0
        for _ in range(count):
            entry, position = self._entry(directory, position)
            entries.append(entry)
        if position != len(directory):
            raise self.damaged("has more in its directory than the records that it counts")
        return entries

    def _entry(self, directory: bytes, position: int) -> tuple[Entry, int]:
        if position + _ENTRY.size > len(directory):
            raise self.damaged("has fewer records in its directory than it counts")
        fields = _ENTRY.unpack_from(directory, position)
        signature, _made, _needed, flags, method, _time, _date, crc32, compressed_size, size = fields[:10]
        name_length, extra_length, comment_length, disk, _inner, attributes, header_offset = fields[10:]
        name_at = position + _ENTRY.size
        extra_at = name_at + name_length
        after = extra_at + extra_length + comment_length
        if signature != _ENTRY_SIGNATURE or after > len(directory) or disk not in (0, _FULL16):
            raise self.damaged(f"has a broken directory entry at its byte {position}")
        name = self._name(directory[name_at:extra_at])
        if attributes & _ATTRIBUTE_FOLDER:
            raise self.damaged(f"has record {shown(name)} marked as a folder")
        extra = directory[extra_at : extra_at + extra_length]
        size, compressed_size, header_offset = self.widen(name, extra, (size, compressed_size, header_offset))
        return Entry(name, flags, method, crc32, compressed_size, size, header_offset), after

    def _name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        parts = name.split("/")
        if (
            not name.isprintable()
            or "\\" in name
            or len(name) > LIMITS["record name"].most
            or {"", ".", ".."} & set(parts)
        ):
            raise self.damaged(f"has a record with an odd name: {raw[:80]!a}")
        return name

    def widen(self, name: str, extra: bytes, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Put zip64's numbers where the 32-bit fields are full, in the order of the fields."""
        wide = self._zip64(name, extra)
        widened = []
        for number in numbers:
            if number == _FULL32:
                if len(wide) < 8:
                    raise self.damaged(f"lacks the zip64 numbers of record {shown(name)}")
                widened.append(int.from_bytes(wide[:8], "little"))
                wide = wide[8:]
            else:
                widened.append(number)
        return tuple(widened)

    def _zip64(self, name: str, extra: bytes) -> bytes:
        """Return the zip64 block among a record's extra fields, empty if there is none."""
        blocks = []
        while extra:
            kind, length = struct.unpack_from("<2H", extra) if len(extra) >= 4 else (0, _FULL16)
            if 4 + length > len(extra):
                raise self.damaged(f"has broken extra fields at record {shown(name)}")
            if kind == _ZIP64_EXTRA:
                blocks.append(extra[4 : 4 + length])
            extra = extra[4 + length :]
        if len(blocks) > 1:
            raise self.damaged(f"has the zip64 numbers of record {shown(name)} twice")
        return blocks[0] if blocks else b""
