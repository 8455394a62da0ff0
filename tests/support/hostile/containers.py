"""Zips and legacy files that lie, take all memory and time, or are damaged."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.support.forgery import PROTOCOL_2, Part, a_list, altered, model, program, text, zipped
from tests.support.hostile.cases import (
    HEAD,
    LEGACY,
    ZIP,
    add,
    flipped,
    head,
    head_storage,
    hostile,
    hostile_place,
    place,
)


@hostile("bombs", 3, "compressed")
def deflate_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(bytes(2**28)) + packer.flush()
    record = Part("archive/data/0", packed, method=8, size=2**28, compressed_size=len(packed))
    return zipped([part if part.name != record.name else record for part in ZIP.parts()])


@hostile_place("bombs", 3, "directory isn't at its end")
def sparse_file_of_a_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.write(ZIP.data[:1000])
        file.truncate(2**40)


@hostile("bombs", 3, "records in a directory")
def directory_of_ten_million_records() -> bytes:
    full, wide = 0xFFFFFFFF, (10**7, 10**7, 46 * 10**7, 30)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *wide)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 30, 1)
    return (
        b"PK\x03\x04"
        + bytes(26)
        + end64
        + locator
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, full, full, 0)
    )


@hostile("lies", 3, "big")
def big_endian() -> bytes:
    return zipped(ZIP.parts({"byteorder": b"big"}))


@hostile("lies", 3, "alignment")
def storage_alignment_of_zero() -> bytes:
    return zipped(ZIP.parts({".storage_alignment": b"0", ".format_version": b"1"}))


@hostile("lies", 3, "but the pickle says")
def newer_format_with_one_length_altered() -> bytes:
    saved = ZIP.saved()
    tensor = model(saved)[HEAD]
    model(saved)[HEAD] = altered(tensor, storage=head_storage(numel=head().arguments[0].identity[4] + 16))
    return ZIP.with_saved(saved, {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"})


@hostile("lies", 3, "compressed")
def deflated_tensor() -> bytes:
    data = ZIP.records["data/0"]
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    crc32 = zlib.crc32(data)
    return ZIP.with_part("data/0", data=packed, method=8, size=len(data), compressed_size=len(packed), crc32=crc32)


@hostile("lies", 3, "compressed")
def zip_packed_anew_by_another_tool() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ZIP.parts():
            archive.writestr(part.name, part.data)
    return file.getvalue()


@hostile("lies", 3, "encrypted")
def encrypted_tensor() -> bytes:
    return ZIP.with_part("data/0", flags=1)


@hostile("lies", 3, "zip64")
def zip64_numbers_missing() -> bytes:
    return ZIP.with_part("data/0", size=0xFFFFFFFF, compressed_size=0xFFFFFFFF)


@hostile("lies", 3, "ends before")
def zip64_numbers_beyond_the_file() -> bytes:
    extra = struct.pack("<2H2Q", 1, 16, 2**40, 2**40)
    return ZIP.with_part("data/0", size=0xFFFFFFFF, compressed_size=0xFFFFFFFF, extra=extra)


@hostile("lies", 3, "twice")
def record_that_is_there_twice() -> bytes:
    parts = ZIP.parts()
    return zipped([*parts, parts[1]])


@hostile("lies", 3, "twice")
def record_that_is_there_twice_but_for_case() -> bytes:
    return zipped(ZIP.parts({"DATA/0": ZIP.records["data/0"]}))


@hostile("lies", 3, "overlap|under another name|outside|contradict")
def record_inside_another() -> bytes:
    return ZIP.with_part("data/1", offset=50_000)


@hostile("lies", 3, "overlap")
def overlapping_records() -> bytes:
    inner = zipped([Part("archive/data/x", b"1234")])[: 30 + len("archive/data/x") + 4]
    parts = [*ZIP.parts(), Part("archive/data/y", inner)]
    start = sum(30 + len(part.name) + len(part.data) for part in parts) - len(inner)
    return zipped([*parts, Part("archive/data/x", b"1234", offset=start)])


@hostile("lies", 3, "outside of its place")
def record_beyond_the_file() -> bytes:
    return ZIP.with_part("data/1", offset=2**31)


@hostile("lies", 3, "contradict")
def header_with_another_size() -> bytes:
    return ZIP.with_part("data/1", header={"size": 4, "compressed_size": 4})


@hostile("lies", 3, "under another name")
def header_with_another_name() -> bytes:
    return ZIP.with_part("data/1", header={"name": "archive/data/2"})


@hostile("lies", 3, "contradict")
def header_with_another_checksum() -> bytes:
    return ZIP.with_part("data/1", header={"crc32": 1})


@hostile("lies", 3, "folder")
def record_marked_as_a_folder() -> bytes:
    return ZIP.with_part("data/1", attributes=0x10)


@hostile("lies", 3, "odd name")
def record_with_a_way_out() -> bytes:
    return zipped(ZIP.parts({"../../../etc/cron.d/x": b""}))


@hostile("lies", 3, "odd name")
def record_that_steers_the_terminal() -> bytes:
    return zipped(ZIP.parts({"\x1b]0;owned\x07": b""}))


@hostile("lies", 3, "root")
def two_checkpoints_in_one_zip() -> bytes:
    return zipped([*ZIP.parts(), Part("other/data.pkl", ZIP.records["data.pkl"])])


@hostile("lies", 3, "right before|isn't at its end")
def two_directories() -> bytes:
    return ZIP.data + zipped([Part("archive/data.pkl", program({}))])


@hostile("lies", 3, "split")
def part_of_a_split_zip() -> bytes:
    return zipped(ZIP.parts(), disk=1)


@hostile("lies", 3, "records")
def directory_that_counts_fewer() -> bytes:
    return zipped(ZIP.parts(), here=5, entries=5)


@hostile("damage", 3, "checksum of")
def bit_flipped_in_a_tensor() -> bytes:
    return flipped(ZIP.data, place(f"data/{head().arguments[0].key}") + 7)


@hostile("damage", 3, "CRC-32 is wrong")
def bit_flipped_in_the_pickle() -> bytes:
    return flipped(ZIP.data, place("data.pkl") + 700)


@hostile("damage", 3, "version: ")
def bit_flipped_in_the_version() -> bytes:
    return flipped(ZIP.data, place("version"))


@hostile("damage", 3, "header of record")
def bit_flipped_in_a_header() -> bytes:
    return flipped(ZIP.data, ZIP.data.index(b"PK\x03\x04", 30) + 8)


@hostile("damage", 3, "two sizes|contradict")
def bit_flipped_in_the_directory() -> bytes:
    return flipped(ZIP.data, ZIP.data.rindex(b"PK\x01\x02") + 20)


@hostile("damage", 3, "directory end")
def bit_flipped_in_the_end() -> bytes:
    return flipped(ZIP.data, len(ZIP.data) - 8)


@hostile("damage", 3, "checksum of")
def zeros_in_place_of_a_tensor() -> bytes:
    name = f"data/{head().arguments[0].key}"
    start, size = place(name), len(ZIP.records[name])
    return ZIP.data[:start] + bytes(size) + ZIP.data[start + size :]


def _truncated(count: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(ZIP.data[:count])


for _share in (1, 10, 40, 75, 99):
    _count = len(ZIP.data) * _share // 100
    add(f"truncated_to_{_share}_percent", "damage", 3, "cut off", _truncated(_count))
add("truncated_by_one_byte", "damage", 3, "cut off", _truncated(len(ZIP.data) - 1))
add("truncated_to_its_first_word", "damage", 3, "cut off", _truncated(4))
add("truncated_to_three_bytes", "damage", 3, "not a checkpoint", _truncated(3))
add("truncated_to_one_byte", "damage", 3, "a text", _truncated(1))


@hostile("damage", 3, "appended")
def garbage_at_the_end() -> bytes:
    return ZIP.data + b"garbage"


@hostile("damage", 3, "where it should be|right before|contradict|broken")
def garbage_at_the_beginning() -> bytes:
    return b"PK\x03\x04garbage!" + ZIP.data


@hostile("damage", 3, "appended|cut off")
def zeros_at_the_end() -> bytes:
    return ZIP.data + bytes(4096)


@hostile("damage", 3, "directory end")
def line_ends_converted_on_the_way() -> bytes:
    return ZIP.data.replace(b"\n", b"\r\n")


@hostile("damage", 3, "directory end|where it should be")
def page_missing_in_the_middle() -> bytes:
    return ZIP.data[:8192] + ZIP.data[12288:]


@hostile("damage", 3, "ends where|cut off|storages end|before the storage")
def legacy_file_cut_off() -> bytes:
    return LEGACY[:-100]


@hostile("damage", 3, "cut off|ends where")
def legacy_file_cut_off_in_its_pickle() -> bytes:
    return LEGACY[:3000]


@hostile("damage", 3, "storages end")
def legacy_file_with_garbage_behind_it() -> bytes:
    return LEGACY + b"garbage"


def _legacy_storages() -> int:
    from w2vc.reading.archive import examine

    records = examine(io.BytesIO(LEGACY), Path("legacy")).records.values()
    return min(record.offset for record in records) - 8


@hostile("damage", 3, "elements")
def legacy_file_with_another_length() -> bytes:
    at = _legacy_storages()
    return LEGACY[:at] + struct.pack("<q", 2**40) + LEGACY[at + 8 :]


@hostile("damage", 3, "elements")
def legacy_file_with_a_negative_length() -> bytes:
    at = _legacy_storages()
    return LEGACY[:at] + struct.pack("<q", -1) + LEGACY[at + 8 :]


@hostile("damage", 3, "list of storages")
def legacy_file_with_another_key() -> bytes:
    at = LEGACY.rindex(b"\x80\x02]", 0, _legacy_storages())
    return LEGACY[:at] + PROTOCOL_2 + a_list(text("1"), text("1")) + b"." + LEGACY[_legacy_storages() :]


@hostile("damage", 3, "little-endian")
def legacy_file_of_a_big_endian_machine() -> bytes:
    return LEGACY.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1)


@hostile("damage", 3, "preamble")
def legacy_file_of_another_version() -> bytes:
    return LEGACY.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.", 1)
