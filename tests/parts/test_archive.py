"""What the gate finds in a checkpoint's container, and what it refuses."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.forgery import Part, zipped
from w2vc.errors import DamagedError, MissingError, NotACheckpointError, UnsafeError
from w2vc.reading.archive import Archive, examine, open_checkpoint
from w2vc.reading.budget import LIMITS, Limit

FIXTURES = sorted((Path(__file__).parent.parent.parent / "fixtures").glob("**/*.pt"))
PATH = Path("a.pt")


def checkpoint() -> dict[str, object]:
    model = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(3, dtype=torch.float16), empty=torch.zeros(0))
    return {"model": model, "shared": model["a"].t(), "parameter": torch.nn.Parameter(torch.ones(2))}


def saved(value: object = None, *, in_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint() if value is None else value, file, _use_new_zipfile_serialization=in_zip)
    return file.getvalue()


def examined(data: bytes) -> Archive:
    return examine(io.BytesIO(data), PATH)


class Watched(io.BytesIO):
    """Notes which bytes are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.ranges.append((start, start + len(data)))
        return data


STORAGE = struct.pack("<3f", 1, 2, 3)


def a_pickle() -> bytes:
    data = saved({"model": torch.ones(3)})
    record = examined(data).records["data.pkl"]
    return data[record.offset : record.offset + record.size]


def parts() -> list[Part]:
    return [Part("a/data.pkl", a_pickle()), Part("a/data/0", STORAGE), Part("a/version", b"3\n")]


def changed(name: str, **changes: object) -> bytes:
    return zipped([replace(p, **changes) if p.name == name else p for p in parts()])  # type: ignore[arg-type]  # any field


def added(name: str, data: bytes) -> bytes:
    return zipped([*parts(), Part(name, data)])


# Good files


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: str(path.parent.name))
def test_what_real_fairseq_wrote_passes(path: Path) -> None:
    with open_checkpoint(path) as file:
        archive = examine(file, path)
        assert file.tell() == 0
    assert archive.size == path.stat().st_size
    assert archive.program.storages


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_each_storage_s_bytes_lie_where_the_gate_says(in_zip: bool) -> None:
    data = saved(in_zip=in_zip)
    archive = examined(data)
    assert archive.container == ("zip" if in_zip else "legacy")
    held = set()
    for storage in archive.program.storages:
        record = archive.records[f"data/{storage.key}"]
        content = data[record.offset : record.offset + record.size]
        assert record.crc32 == (zlib.crc32(content) if in_zip else None)
        held.add(content)
    assert held == {
        struct.pack("<6f", *range(6)),
        struct.pack("<3e", 1, 1, 1),
        struct.pack("<2f", 1, 1),
        b"",
    }


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_no_tensor_byte_is_read(in_zip: bool) -> None:
    # Larger than what the legacy format's reading may run past the pickles.
    data = saved({"model": {"a": torch.ones(100_000), "b": torch.zeros(100_000)}}, in_zip=in_zip)
    file = Watched(data)
    archive = examine(file, PATH)
    largest = [record for record in archive.records.values() if record.size == 400_000]
    assert len(largest) == 2
    # The legacy format's pickles have no length: reading may run past their end, into the first storage.
    spared = largest if in_zip else largest[1:]
    for record in spared:
        assert all(end <= record.offset or start >= record.offset + record.size for start, end in file.ranges)
    assert sum(end - start for start, end in file.ranges) < 80_000


def test_no_tensor_byte_of_a_real_checkpoint_is_read() -> None:
    file = Watched(FIXTURES[0].read_bytes())
    archive = examine(file, PATH)
    tensors = [record for name, record in archive.records.items() if name.startswith("data/") and record.size > 24]
    # The end is looked for first, in bytes that may belong to anything: the last 42 of the file.
    ranges = [(start, end) for start, end in file.ranges if 512 < start < archive.size - 42]
    assert tensors
    for record in tensors:
        assert not any(start < record.offset + record.size and end > record.offset for start, end in ranges)


def test_a_file_without_crcs_has_none() -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        archive = examined(saved())
    finally:
        torch.serialization.set_crc32_options(before)
    assert {record.crc32 for record in archive.records.values()} == {None}


def test_a_plain_zip_as_other_tools_write_it_passes() -> None:
    archive = examined(zipped(parts()))
    assert archive.records.keys() == {"data.pkl", "data/0", "version"}
    assert archive.records["data/0"].crc32 == zlib.crc32(STORAGE)


def test_a_file_beyond_4_gib_has_its_records_found(tmp_path: Path) -> None:
    path = tmp_path / "big.pt"
    # Pages that nobody touches, and a file that torch leaves sparse.
    big = torch.empty(2**32 + 64, dtype=torch.int8)
    with torch.serialization.skip_data():
        torch.save({"first": torch.ones(3), "big": big, "last": torch.ones(5)}, path)
    with open_checkpoint(path) as file:
        archive = examine(file, path)
    assert archive.size > 2**32
    assert archive.records["data/1"].size == 2**32 + 64
    assert archive.records["data/2"].offset > 2**32
    assert path.stat().st_blocks * 512 < 2**20


def test_the_fingerprint_is_the_same_for_a_copy_and_another_for_another_model() -> None:
    first, second = saved({"model": torch.ones(3)}), saved({"model": torch.zeros(3)})
    assert examined(first).fingerprint == examine(io.BytesIO(first), Path("elsewhere")).fingerprint
    assert examined(first).fingerprint != examined(second).fingerprint
    assert len(examined(saved(in_zip=False)).fingerprint) == 64


# Other things than checkpoints

KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "zeros": (bytes(4096), "full of zeros"),
    "text": (b"hello, this is no checkpoint\n", "a text"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "xml": (b"<?xml version='1.0'?><a/>", "an XML document"),
    "json": (b'{"model": 1}', "a JSON text"),
    "json list": (b"[1, 2]", "a JSON text"),
    "git-lfs": (b"version https://git-lfs\noid sha256:00\nsize 1\n", "a git-lfs pointer"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a":{}}' + b" " * 20, "a safetensors file"),
    "tar": (b"a.txt".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), "a tar archive"),
    "torch's tar": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), "torch before 0.1.10"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "bzip2": (b"BZh91AY", "bzip2"),
    "xz": (b"\xfd7zXZ\0\0", "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\0", "zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0", "7z"),
    "rar": (b"Rar!\x1a\x07", "rar"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
    "npy": (b"\x93NUMPY\x01\0", "numpy array"),
    "gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x00", "ONNX"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "a WAV recording"),
    "flac": (b"fLaC\0\0", "a recording"),
    "program, which nobody takes for a checkpoint": (b"\x7fELF\x02\x01", "an unknown kind"),
    "pickle": (pickle.dumps({"model": 1}), "a Python pickle that torch.save didn't write"),
    "noise": (bytes(range(128, 256)) * 3, "an unknown kind"),
    "empty zip": (zipped([]), "an empty zip archive"),
    "split zip": (b"PK\x07\x08PK\x03\x04", "split zip"),
    "torchscript": (added("a/constants.pkl", b"x"), "TorchScript"),
    "torchscript code": (added("a/code/m.py", b"x"), "TorchScript"),
    "torch.package": (zipped([Part("a/.data/extern_modules", b"")]), "torch.package"),
    "npz": (zipped([Part("a.npy", b"\x93NUMPY")]), "npz"),
    "keras": (zipped([Part("model.weights.h5", b""), Part("config.json", b"{}")]), "Keras"),
    "other zip": (zipped([Part("a/readme.txt", b"hello")]), "without data.pkl"),
    "no folder": (zipped([Part("data.pkl", b"N."), Part("version", b"3")]), "in no folder"),
}


@pytest.mark.parametrize(("data", "words"), KINDS.values(), ids=KINDS.keys())
def test_another_kind_of_file_is_told_by_its_own_word(data: bytes, words: str) -> None:
    with pytest.raises(NotACheckpointError, match=words) as caught:
        examined(data)
    assert caught.value.advice


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotACheckpointError, match="a named pipe"):
        open_checkpoint(tmp_path / "pipe")


def test_a_directory_and_a_device_and_a_socket_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for path, words in ((tmp_path, "a directory"), (Path("/dev/null"), "device"), (Path("socket"), "a socket")):
            with pytest.raises(NotACheckpointError, match=words):
                open_checkpoint(path)


@pytest.mark.parametrize("name", ["nothing.pt", "file/a.pt", "a" * 300, "a\0b"])
def test_a_path_that_leads_nowhere_is_told_as_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingError, match="can't be opened"):
        open_checkpoint(tmp_path / name)


# Damage and lies in zips


def zip64_extra(*numbers: int) -> bytes:
    return struct.pack("<2H", 1, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers)


FULL = 0xFFFFFFFF
PICKLE = a_pickle()
GOOD = zipped(parts())
TORCH_S = saved({"model": torch.ones(3)})


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


LIES: dict[str, tuple[bytes, str]] = {
    "cut off": (TORCH_S[:-1], "cut off"),
    "cut in half": (TORCH_S[: len(TORCH_S) // 2], "cut off"),
    "cut to its first bytes": (TORCH_S[:20], "cut off"),
    "bytes appended": (TORCH_S + b"\0", "cut off, or something was appended"),
    "bytes prepended": (b"PK\x03\x04" + TORCH_S, "right before|where it should be|broken"),
    "a bit of data.pkl flipped": (
        flipped(TORCH_S, examined(TORCH_S).records["data.pkl"].offset + 9),
        "CRC-32 is wrong",
    ),
    "a bit of a note flipped": (flipped(TORCH_S, examined(TORCH_S).records["version"].offset), "CRC-32 is wrong"),
    "a bit of a descriptor flipped": (
        flipped(TORCH_S, examined(TORCH_S).records["data/0"].offset + 12 + 5),
        "data descriptor",
    ),
    "compressed": (changed("a/data/0", method=8), "compressed"),
    "encrypted": (changed("a/data/0", flags=1), "encrypted"),
    "strongly encrypted": (changed("a/data/0", flags=0x41), "encrypted"),
    "odd flags": (changed("a/data/0", flags=0x20), "odd flags"),
    "marked as a folder": (changed("a/data/0", attributes=0x10), "marked as a folder"),
    "two sizes": (changed("a/data/0", compressed_size=8), "two sizes"),
    "another name in the header": (changed("a/data/0", header={"name": "a/data/1"}), "under another name"),
    "another method in the header": (changed("a/data/0", header={"method": 8}), "contradicts the directory"),
    "other flags in the header": (changed("a/data/0", header={"flags": 0x800}), "contradicts the directory"),
    "another size in the header": (changed("a/data/0", header={"size": 8}), "contradict the directory"),
    "another CRC in the header": (changed("a/data/0", header={"crc32": 1}), "contradict the directory"),
    "zeros in the header": (changed("a/data/0", header={"size": 0, "crc32": 0}), "contradict the directory"),
    "no descriptor": (changed("a/data/0", flags=8), "data descriptor"),
    "larger than the file": (changed("a/data/0", size=10_000), "ends before record"),
    "a place outside": (changed("a/data/0", offset=10_000_000), "outside of its place"),
    "a place in another record": (changed("a/data/0", offset=3), "contradicts the directory"),
    "the place of another": (zipped([*parts(), replace(parts()[1], name="a/data/1", offset=0)]), "under another name"),
    "twice": (zipped([*parts(), parts()[1]]), "twice"),
    "twice but for case": (added("a/DATA/0", STORAGE), "twice"),
    "two roots": (added("b/data/1", STORAGE), "more than one root"),
    "a dot in a name": (added("a/./data/0", STORAGE), "odd name"),
    "a way out in a name": (added("a/../../data", STORAGE), "odd name"),
    "a folder": (added("a/data/", b""), "odd name"),
    "a backslash in a name": (added("a\\data", b""), "odd name"),
    "a control character in a name": (added("a/\x1b[2J", b""), "odd name"),
    "a long name": (added("a/" + "n" * 2000, b""), "odd name"),
    "fewer entries counted": (zipped(parts(), here=2, entries=2), "more in its directory"),
    "more entries counted": (zipped(parts(), here=4, entries=4), "fewer records in its directory"),
    "other entries here": (zipped(parts(), here=2), "split"),
    "another disk": (zipped(parts(), disk=1), "split"),
    "the directory elsewhere": (zipped(parts(), offset=1), "right before"),
    "zip64's numbers missing": (changed("a/data/0", size=FULL), "lacks the zip64 numbers"),
    "zip64's numbers broken": (changed("a/data/0", extra=b"\x01\0\xff\xff"), "broken extra"),
    "zip64's numbers twice": (changed("a/data/0", extra=zip64_extra(12) * 2), "twice"),
    "zip64's numbers beyond the file": (changed("a/data/0", size=FULL, extra=zip64_extra(2**40, 2**40)), "ends before"),
    "full numbers without zip64": (zipped(parts(), offset=FULL), "without zip64"),
    "big-endian": (added("a/byteorder", b"big"), "byte order is 'big'"),
    "big-endian in capitals": (added("a/BYTEORDER", b"big"), "byte order is 'big'"),
    "no serialization id": (added("a/.data/serialization_id", b"\xff"), "serialization id"),
    "no known byte order": (added("a/byteorder", b"middle"), "byte order"),
    "no alignment": (added("a/.storage_alignment", b"0"), "alignment"),
    "an odd alignment": (added("a/.storage_alignment", b"48"), "alignment"),
    "a giant alignment": (added("a/.storage_alignment", b"1073741824"), "alignment"),
    "an alignment of many digits": (added("a/.storage_alignment", b"9" * 10_000), "alignment"),
    "a format from the future": (added("a/.format_version", b"x"), "format's version"),
    "a version from the future": (changed("a/version", data=b"11"), "archive's version"),
    "a storage without a record": (zipped([part for part in parts() if part.name != "a/data/0"]), "has no record"),
    "a storage longer than its record": (changed("a/data/0", data=STORAGE[:-1]), "has 11 bytes"),
    "a storage shorter than its record": (changed("a/data/0", data=STORAGE * 2), "has 24 bytes"),
    "bytes behind the pickle": (changed("a/data.pkl", data=PICKLE + b"N."), "bytes follow the pickle"),
    "an empty pickle": (changed("a/data.pkl", data=b""), "cut off"),
}


@pytest.mark.parametrize(("data", "words"), LIES.values(), ids=LIES.keys())
def test_a_zip_that_is_damaged_or_contradicts_itself_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words) as caught:
        examined(data)
    assert str(PATH) in str(caught.value)


def test_overlapping_records_are_refused() -> None:
    inner = zipped([Part("a/data/1", STORAGE)])[: 30 + 8 + 12]
    outer = [*parts(), Part("a/data/2", inner)]
    place = len(b"".join(b"0" * 30 + p.name.encode() + p.data for p in parts())) + 30 + len("a/data/2")
    with pytest.raises(DamagedError, match="overlap"):
        examined(zipped([*outer, Part("a/data/1", STORAGE, offset=place)]))


def test_all_missing_and_wrong_storages_are_listed_in_one_error() -> None:
    data = saved({"a": torch.ones(3), "b": torch.ones(4)})
    record = examined(data).records["data.pkl"]
    pickled = data[record.offset : record.offset + record.size]
    with pytest.raises(DamagedError) as caught:
        examined(zipped([Part("a/data.pkl", pickled), Part("a/data/0", b"1234")]))
    assert len(caught.value.problems) == 2


def test_a_directory_that_claims_millions_of_records_is_refused() -> None:
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 2**50, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, FULL, FULL, 0)
    with pytest.raises(UnsafeError, match="records in a directory"):
        examined(b"PK\x03\x04" + end64 + locator + end)


@pytest.mark.parametrize(
    ("end64", "words"),
    [
        ({"signature": b"PK\x06\x09"}, "broken zip64"),
        ({"length": 45}, "broken zip64"),
        ({"entries": 2}, "contradict one another"),
        ({"offset": 1}, "contradict one another"),
    ],
)
def test_a_zip64_directory_end_that_disagrees_is_refused(end64: dict[str, bytes | int], words: str) -> None:
    end = GOOD[-22:]
    _signature, _disk, _directory_disk, here, entries, size, offset, _comment = struct.unpack("<4s4H2LH", end)
    numbers = {"signature": b"PK\x06\x06", "length": 44, "made": 45, "needed": 45, "disk": 0, "directory_disk": 0}
    numbers |= {"here": here, "entries": entries, "size": size, "offset": offset, **end64}
    wide = struct.pack("<4sQ2H2L4Q", *numbers.values())
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(GOOD) - 22, 1)
    with pytest.raises(DamagedError, match=words):
        examined(GOOD[:-22] + wide + locator + end)


def test_a_giant_pickle_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "pickle bytes", Limit(10, "bytes", ""))
    with pytest.raises(UnsafeError, match="the limit is 10"):
        examined(GOOD)


def test_code_in_the_pickle_is_refused_by_name() -> None:
    evil = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    with pytest.raises(UnsafeError, match=r"a\.pt: data\.pkl: .*os\.system"):
        examined(changed("a/data.pkl", data=evil))


# Legacy files


def legacy_with(pickled: Callable[[bytes], bytes], tail: Callable[[bytes], bytes] = bytes) -> bytes:
    """A legacy file, its five pickles and its storages changed."""
    data = saved({"model": torch.ones(3)}, in_zip=False)
    storages = 8 + 12
    return pickled(data[:-storages]) + tail(data[-storages:])


LEGACY_LIES: dict[str, tuple[bytes, str]] = {
    "cut off in the pickles": (legacy_with(lambda p: p[:100], lambda _: b""), "cut off|ends where more"),
    "cut off before the storages": (legacy_with(bytes, lambda _: b""), "ends before the storage"),
    "cut off in a storage": (legacy_with(bytes, lambda t: t[:-1]), "where its storages end"),
    "bytes appended": (legacy_with(bytes, lambda t: t + b"\0"), "where its storages end"),
    "another length": (legacy_with(bytes, lambda t: struct.pack("<q", 4) + t[8:]), "has 4 elements"),
    "a negative length": (legacy_with(bytes, lambda t: struct.pack("<q", -3) + t[8:]), "has -3 elements"),
    "big-endian": (
        legacy_with(lambda p: p.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")),
        "little-endian",
    ),
    "another version": (legacy_with(lambda p: p.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.")), "preamble"),
    "no keys": (legacy_with(lambda p: p[: p.rindex(b"\x80\x02")] + b"\x80\x02]."), "list of storages"),
    "keys that are no list": (legacy_with(lambda p: p[: p.rindex(b"\x80\x02")] + b"\x80\x02N."), "list of storages"),
    "keys that name a class": (legacy_with(lambda p: p[: p.rindex(b"\x80\x02")] + b"\x80\x02ca\nB\n."), "only texts"),
}


@pytest.mark.parametrize(("data", "words"), LEGACY_LIES.values(), ids=LEGACY_LIES.keys())
def test_a_legacy_file_that_is_damaged_or_contradicts_itself_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        examined(data)


def test_a_legacy_file_of_another_pickle_protocol_is_refused_with_its_number() -> None:
    file = io.BytesIO()
    torch.save({"a": 1}, file, _use_new_zipfile_serialization=False, pickle_protocol=4)
    with pytest.raises(DamagedError, match="pickle protocol 4"):
        examined(file.getvalue())
