"""The two readers of a file piece by piece: the gate, what torch made of it, and what is taken for a state dict."""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import struct
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import FIXTURES, checkpoint
from tests.support.forgery import (
    PROTOCOL_2,
    STOP,
    Part,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_storage,
    a_tensor,
    a_tuple,
    plainly,
    text,
    zipped,
)
from tests.support.limits import limit
from w2vc.errors import DamagedError, MissingError, NotACheckpointError, UsageError
from w2vc.reading import opening, torch_reader
from w2vc.reading.archive import Archive, examine, open_checkpoint
from w2vc.reading.checkpoint import Checkpoint, Progress, read_checkpoint
from w2vc.reading.confirmation import _short, confirm
from w2vc.reading.kinds import kind_of, kind_of_zip
from w2vc.reading.opening import bytes_on_disk, identity_of, read_exactly
from w2vc.reading.program import read_program
from w2vc.reading.stand_ins import stand_ins
from w2vc.reading.torch_reader import load_with_bytes

PATH = Path("a.pt")

# ---------------------------------------------------------------------------------------------------------------
# Kinds of files

UNKNOWN = "of an unknown kind (or its beginning is damaged)"
TAR = b"a".ljust(257, b"\0") + b"ustar"

STARTS: list[tuple[bytes, str]] = [
    (b"\0", "full of zeros (an unfinished download?)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK\x05\xff", UNKNOWN),
    (b"PK\x07\x08", "a part of a split zip archive"),
    (b"PK\x07\xff", UNKNOWN),
    (b"BZh", "compressed with bzip2"),
    (b"BZ\xff", UNKNOWN),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x1f\xff", UNKNOWN),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"GGUF", "a GGUF model"),
    (b"GGU\xff", UNKNOWN),
    (b"RIFF\xff\xff\xff\xffWAVE", "a WAV recording"),
    (b"RIFF\xff\xff\xff\xffAVI ", UNKNOWN),
    (b"XIFF\xff\xff\xff\xffWAVE", UNKNOWN),
    (b"fLaC\xff", "a recording"),
    (b"fLa\xff", UNKNOWN),
    (b"OggS\xff", "a recording"),
    (b"Ogg\xff", UNKNOWN),
    (b"ID3\xff", "a recording"),
    (b"ID\xff\xff", UNKNOWN),
    (TAR, "a tar archive"),
    (TAR[:-1] + b"\xff", UNKNOWN),
    (b"sys_info\0" + TAR[9:], "in the tar format of torch before 0.1.10"),
    (b"pickle\0" + TAR[7:], "in the tar format of torch before 0.1.10"),
    (b"tensors\0" + TAR[8:], "in the tar format of torch before 0.1.10"),
    (b"storages\0" + TAR[9:], "in the tar format of torch before 0.1.10"),
    (b"sys_info\0\xff", UNKNOWN),
    (b'\x01\0\0\0\0\0\0\0{"', "a safetensors file"),
    (struct.pack("<Q", 2**40 - 1) + b'{"', "a safetensors file"),
    (struct.pack("<Q", 2**40) + b'{"', UNKNOWN),
    (bytes(8) + b'{"', UNKNOWN),
    (b"\x01\0\0\0\0\0\0\0{}", UNKNOWN),
    (b"\x80\x02}.", "a Python pickle that torch.save didn't write"),
    (b"\x80\x05\x95", "a Python pickle that torch.save didn't write"),
    (b"\x80\x06\x95", UNKNOWN),
    (b"\x80", "a text"),
    (b"\x81\x02", UNKNOWN),
    (b"\x08\x07\x12", "an ONNX model or another protobuf message"),
    (b"\x08\x07\x3a", "an ONNX model or another protobuf message"),
    (b"\x08\x07\x13", UNKNOWN),
    (b"\x09\x07\x12", UNKNOWN),
    (b"<html>\xff", "a web page (HTML): the download gave a page instead of the file"),
    (b"\n <!DOCTYPE HTML>\xff", "a web page (HTML): the download gave a page instead of the file"),
    (b"<!doctype htm\xff", UNKNOWN),
    (b" <?xml\xff", "an XML document"),
    (b' {"a": "bcdef"}', "a JSON text"),
    (b"[[1], [2]]", "a JSON text"),
    (b"[x] is a text", "a text"),
    (b"a\ttext\n", "a text"),
    (b"a text\x00 with zeros", UNKNOWN),
    (b"\xff{}", UNKNOWN),
    (("x" + "\u0451" * 300).encode()[:512], "a text"),
    ("\u0451\u0451\u0451\u0451\u0451".encode()[1:], UNKNOWN),
    (b"ab\x01defgh", UNKNOWN),
    (b"abcd\x01efg", UNKNOWN),
    (b"abcde\x01fg", "a text"),
]


@pytest.mark.parametrize(("start", "word"), STARTS)
def test_a_file_is_told_by_its_first_bytes(start: bytes, word: str) -> None:
    # The last three characters may be cut ones, and say nothing.
    assert kind_of(start + (b"\xff" * 4 if word == UNKNOWN else b""))[0] == word


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a/data.pkl", "a/version"], None),
        (["a/data.pkl", "a/constants.pkl"], "TorchScript"),
        (["a/data.pkl", "a/code/x.py"], "TorchScript"),
        (["a/data.pkl", "a/codes"], None),
        (["a/.data/extern_modules"], "torch.package"),
        (["a/.data/version"], "without data.pkl"),
        (["a/extern_modules"], "without data.pkl"),
        (["a.npy", "b.npy"], "(.npz)"),
        (["a.npy", "b.txt"], "without data.pkl"),
        (["model.weights.h5", "config.json"], "Keras"),
        (["data.pkl", "x"], "lie in no folder"),
        (["version", "x"], "lie in no folder"),
        (["versions", "x"], "without data.pkl"),
        ([], "without data.pkl"),
    ],
)
def test_a_zip_is_told_by_the_names_in_it(names: list[str], word: str | None) -> None:
    found = kind_of_zip(names)
    assert found is None if word is None else found is not None and word in found[0]


# ---------------------------------------------------------------------------------------------------------------
# Bytes


class InPieces(io.BytesIO):
    """Gives three bytes at a time, as a network's file system may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(3, 3 if size is None or size < 0 else size))


class Broken(io.BytesIO):
    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, "no luck")


class Endless(io.BytesIO):
    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence:
            raise OSError(errno.EINVAL, "no end")
        return super().seek(offset, whence)


def test_bytes_are_read_exactly_however_many_reads_that_takes() -> None:
    assert read_exactly(InPieces(b"0123456789"), PATH, 1, 8) == b"12345678"
    assert read_exactly(InPieces(b"0123456789"), PATH, 2, 8) == b"23456789"
    assert read_exactly(InPieces(b"0123456789"), PATH, 10, 0) == b""
    with pytest.raises(DamagedError, match=r"a\.pt: ends where more was expected, at byte 3"):
        read_exactly(InPieces(b"0123456789"), PATH, 3, 8)
    with pytest.raises(DamagedError, match=r"a\.pt: can't be read at byte 3: no luck"):
        read_exactly(Broken(b"0123456789"), PATH, 3, 8)


def test_a_file_without_an_end_is_no_checkpoint() -> None:
    with pytest.raises(NotACheckpointError, match="has no size: no end"):
        examine(Endless(b""), PATH)


@pytest.mark.parametrize(("size", "blocks", "found"), [(1000, 1, 512), (1000, 2, 1000), (512, 1, 512), (9, 0, 0)])
def test_a_block_on_the_disk_has_512_bytes(size: int, blocks: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = types.SimpleNamespace(st_size=size, st_blocks=blocks)
    monkeypatch.setattr(opening, "os", types.SimpleNamespace(fstat=lambda _file: stated))
    file: Any = types.SimpleNamespace(fileno=lambda: 3)
    assert bytes_on_disk(file) == found


def test_a_file_that_was_modified_or_replaced_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = {"st_dev": 1, "st_ino": 2, "st_size": 3, "st_mtime_ns": 4, "st_atime_ns": 5}
    found = []
    for name in ("none", *stated):
        changed = types.SimpleNamespace(**{**stated, name: 9})
        monkeypatch.setattr(opening, "os", types.SimpleNamespace(fstat=lambda _file, changed=changed: changed))
        found.append(identity_of(0))
    assert len(set(found)) == 5
    assert found[0] == found[-1]


def test_what_cant_be_opened_is_told_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="can't be opened: No such file"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(NotACheckpointError, match="is a directory, not a file"):
        open_checkpoint(tmp_path)


# ---------------------------------------------------------------------------------------------------------------
# The gate

PICKLE = PROTOCOL_2 + a_dict(text("model"), a_tensor(a_storage("0", 3), (3,), (1,))) + STOP
NUMBERS = struct.pack("<3f", 1, 2, 3)


def parts(*more: Part, **notes: bytes) -> list[Part]:
    held = [Part("a/data.pkl", PICKLE), Part("a/data/0", NUMBERS)]
    return [*held, *(Part(f"a/{name}", data) for name, data in notes.items()), *more]


def examined(data: bytes) -> Archive:
    return examine(io.BytesIO(data), PATH)


def test_a_fingerprint_is_what_its_docstring_says() -> None:
    archive = examined(zipped(parts(version=b"3")))
    expected = struct.pack("<2Q", len(PICKLE), 0) + PICKLE
    for name in ("data.pkl", "data/0", "version"):
        record = archive.records[name]
        expected += f"{len(name)}:{name} {record.size} {record.crc32:08x}\n".encode()
    assert archive.fingerprint == hashlib.sha256(expected).hexdigest()
    again = examined(zipped(list(reversed(parts(version=b"3")))))
    assert again.fingerprint == archive.fingerprint


def test_the_fingerprint_of_a_legacy_file_has_no_checksums() -> None:
    file = io.BytesIO()
    torch.save({"model": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    pickles = data[: -8 - 12]
    (record,) = examined(data).records.values()
    listed = f"{len(record.name)}:{record.name} 12 none\n".encode()
    expected = struct.pack("<2Q", len(pickles), len(data)) + pickles + listed
    assert examined(data).fingerprint == hashlib.sha256(expected).hexdigest()


NOTES: list[tuple[str, bytes, bool]] = [
    ("version", b"1", True),
    ("version", b"3\n", True),
    ("version", b"10", True),
    ("version", b"11", False),
    ("version", b"0", False),
    ("version", b"-1", False),
    ("version", b"0" * 8 + b"3", True),
    ("version", b"0" * 9 + b"3", False),
    (".format_version", b"1", True),
    (".format_version", b"999", True),
    (".format_version", b"1000", False),
    (".format_version", b"0", False),
    (".storage_alignment", b"1", True),
    (".storage_alignment", b"64", True),
    (".storage_alignment", b"96", False),
    (".storage_alignment", b"0", False),
    (".storage_alignment", b"x", False),
    (".data/serialization_id", b"0" * 63 + b"a", True),
    (".data/serialization_id", b"0" * 64, True),
    (".data/serialization_id", b"0" * 65, False),
    (".data/serialization_id", b"", False),
    ("byteorder", b"little", True),
    ("byteorder", b"little\n", True),
    ("byteorder", b"big", False),
    ("BYTEORDER", b"big", False),
    ("Version", b"11", False),
]


@pytest.mark.parametrize(("name", "note", "passes"), NOTES)
def test_a_small_record_says_what_torch_writes(name: str, note: bytes, passes: bool) -> None:
    data = zipped(parts(Part(f"a/{name}", note)))
    if passes:
        assert examined(data).records[name].size == len(note)
    else:
        with pytest.raises(DamagedError, match=f"(?i)a.pt: {name}: "):
            examined(data)


def described(data: bytes, form: str, *numbers: int) -> bytes:
    return data + struct.pack(form, b"PK\x07\x08", *numbers)


CRC32 = examined(zipped(parts())).records["data/0"].crc32 or 0


def with_storage(**changes: Any) -> bytes:
    return zipped([replace(part, **changes) if part.name == "a/data/0" else part for part in parts(version=b"3")])


def patched(place: int, new: bytes) -> bytes:
    data = bytearray(zipped(parts()))
    data[len(data) + place : len(data) + place + len(new)] = new
    return bytes(data)


def in_entry(place: int, new: bytes) -> bytes:
    """With other bytes in the directory's first entry."""
    data = zipped(parts())
    return patched(data.index(b"PK\x01\x02") + place - len(data), new)


def commented() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part in parts():
            info = zipfile.ZipInfo(part.name)
            info.comment = b"said"
            archive.writestr(info, part.data)
    return file.getvalue()


ZEROS = {"crc32": 0, "size": 0, "compressed_size": 0}


def with_descriptor(form: str, *stated: int, last: bool = False, header: Mapping[str, int] = ZEROS) -> bytes:
    """The storage's record with a descriptor, which the directory doesn't count as the record's bytes."""
    part = Part(
        "a/data/0", described(NUMBERS, form, *stated), 8, crc32=CRC32, size=12, compressed_size=12, header=header
    )
    held = [Part("a/data.pkl", PICKLE), part]
    return zipped(held if last else [*held, Part("a/version", b"3")])


ZIPS: dict[str, tuple[bytes, str]] = {
    "as it is": (with_storage(), ""),
    "names in UTF-8": (with_storage(flags=0x0800), ""),
    "a short descriptor": (with_descriptor("<4s3L", CRC32, 12, 12), ""),
    "a long descriptor": (with_descriptor("<4sL2Q", CRC32, 12, 12), ""),
    "a short descriptor at the end": (with_descriptor("<4s3L", CRC32, 12, 12, last=True), ""),
    "another checksum in a descriptor": (with_descriptor("<4s3L", CRC32 ^ 1, 12, 12), "a data descriptor"),
    "another size in a descriptor": (with_descriptor("<4sL2Q", CRC32, 12, 13), "a data descriptor"),
    "encrypted": (with_storage(flags=0x0001), "encrypted"),
    "strongly encrypted": (with_storage(flags=0x0040), "encrypted"),
    "with an encrypted directory": (with_storage(flags=0x2000), "encrypted"),
    "an odd flag": (with_storage(flags=0x0002), "odd flags: 0x0002"),
    "another compression": (with_storage(method=1), "compressed"),
    "zip64's number": (with_storage(size=12, compressed_size=12, extra=struct.pack("<2H", 7, 0)), ""),
    "a block of the extra fields cut": (with_storage(extra=struct.pack("<2H", 7, 1)), "broken extra fields"),
    "too few bytes for a block": (with_storage(extra=b"\7\0\0"), "broken extra fields"),
    "size by zip64": (
        with_storage(size=2**32 - 1, compressed_size=2**32 - 1, extra=struct.pack("<2H2Q", 1, 16, 12, 12)),
        "",
    ),
    "one size by zip64": (with_storage(size=2**32 - 1, extra=struct.pack("<2HQ", 1, 8, 12), compressed_size=12), ""),
    "zip64 cut": (
        with_storage(size=2**32 - 1, compressed_size=12, extra=struct.pack("<2H7s", 1, 7, bytes(7))),
        "lacks the zip64 numbers",
    ),
    "another size by zip64": (
        with_storage(size=2**32 - 1, compressed_size=2**32 - 1, extra=struct.pack("<2H2Q", 1, 16, 12, 13)),
        "two sizes",
    ),
    "no root folder in common": (zipped([*parts(), Part("b/version", b"3")]), "more than one root folder"),
    "the same name in capitals": (zipped([*parts(), Part("a/DATA/0", NUMBERS)]), "twice"),
    "a folder": (with_storage(attributes=0x10), "marked as a folder"),
    "other attributes": (with_storage(attributes=0x20), ""),
    "a comment": (zipped(parts())[:-2] + b"\1\0", "is cut off, or something was appended"),
    "of several disks": (zipped(parts(), disk=1), "a part of a split zip"),
    "counted otherwise": (zipped(parts(), here=1), "a part of a split zip"),
    "a descriptor announced behind the header's numbers": (with_descriptor("<4s3L", CRC32, 12, 12, header={}), ""),
    "a descriptor announced behind some of them": (
        with_descriptor("<4s3L", CRC32, 12, 12, header={"crc32": 0}),
        "sizes of record 'a/data/0' that contradict the directory",
    ),
    "its directory on another disk": (patched(-22 + 6, b"\1"), "a part of a split zip"),
    "an entry of the directory on another disk": (in_entry(34, b"\1\0"), "a broken directory entry at its byte 0"),
    "an entry on the disk of zip64": (in_entry(34, b"\xff\xff"), ""),
    "an entry of another kind": (in_entry(2, b"\0"), "a broken directory entry at its byte 0"),
    "an entry that reaches beyond": (in_entry(33, b"\xff"), "a broken directory entry at its byte 0"),
    "entries with comments": (commented(), ""),
    "one count full": (zipped(parts(), entries=0xFFFF), "too large for a zip directory without zip64"),
    "all entries full": (zipped(parts(), entries=0xFFFF, here=0xFFFF), "too large for a zip directory without zip64"),
    "the directory's size full": (zipped(parts(), size=2**32 - 1), "too large for a zip directory without zip64"),
}


@pytest.mark.parametrize(("data", "words"), ZIPS.values(), ids=ZIPS.keys())
def test_a_zip_passes_as_torch_writes_it_and_not_otherwise(data: bytes, words: str) -> None:
    if words:
        with pytest.raises(DamagedError, match=words):
            examined(data)
    else:
        archive = examined(data)
        record = archive.records["data/0"]
        assert data[record.offset : record.offset + record.size] == NUMBERS


# ---------------------------------------------------------------------------------------------------------------
# What torch made

OWN = a_call("fork", "Class")
Made = Callable[[Mapping[str, Any]], object]


def own(*arguments: object, states: tuple[object, ...] = ()) -> Made:
    def made(classes: Mapping[str, Any]) -> object:
        found = classes["fork.Class"](*arguments)
        for state in states:
            found.__setstate__(state)
        return found

    return made


def same(value: object) -> Made:
    return lambda _classes: value


def shared(pair: type) -> Made:
    one: list[object] = []
    return lambda _classes: pair([one, one])


def tensor_at(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = 4) -> torch.Tensor:
    return torch.zeros(numel).as_strided(size, stride, offset)


TENSOR = a_tensor(a_storage("0", 4), (2,), (2,), 1)
BYTES = a_call("_codecs", "encode", text("ab"), text("latin1"))
ORDERED = a_call("collections", "OrderedDict")
NAN = b"G" + struct.pack(">d", float("nan"))
ALIKE: dict[str, tuple[bytes, Made]] = {
    "a scalar": (b"K\x01", same(1)),
    "nan": (NAN, same(float("nan"))),
    "a dict": (a_dict(text("a"), b"]"), same({"a": []})),
    "equal keys": (a_dict(b"K\x01", text("a"), b"\x88", text("b")), same({1: "b"})),
    "a list": (a_list(b"N", a_tuple(b"K\x01")), same([None, (1,)])),
    "texts": (a_list(text("a"), text("b")), same(["a", "b"])),
    "an OrderedDict": (ORDERED + text("a") + b"Ns", same(OrderedDict(a=None))),
    "a Counter": (a_call("collections", "Counter") + text("a") + b"K\x02s", same(Counter(a=2))),
    "a set": (a_call("builtins", "set", a_list(b"K\x01", b"K\x01", text("a"))), same({1, "a"})),
    "a set of bytes": (a_call("builtins", "set", a_list(BYTES, BYTES, b"N")), same({b"ab", None})),
    "an empty set": (b"\x8f", same(set())),
    "bytes": (BYTES, same(b"ab")),
    "a bytearray": (a_call("builtins", "bytearray", BYTES), same(bytearray(b"ab"))),
    "no bytes": (a_call("builtins", "bytearray"), same(bytearray())),
    "a complex number": (a_call("builtins", "complex", b"K\x01", b"K\x02"), same(1 + 2j)),
    "a size": (a_call("torch", "Size", a_tuple(b"K\x02")), same(torch.Size([2]))),
    "a device": (a_call("torch", "device", text("cuda"), b"K\x01"), same(torch.device("cuda", 1))),
    "a layout": (a_call("torch.serialization", "_get_layout", text("torch.strided")), same(torch.strided)),
    "a dtype": (a_global("torch", "float16"), same(torch.float16)),
    "a class": (a_global("fork", "Class"), lambda classes: classes["fork.Class"]),
    "an object": (OWN, own()),
    "an object of arguments": (a_call("fork", "Class", b"K\x01"), own(1)),
    "an object with a state": (OWN + a_dict(text("a"), b"N") + b"b", own(states=({"a": None},))),
    "a dict of one's own": (OWN + text("a") + b"Ns", same(OrderedDict(a=None))),
    "a list of one's own": (OWN + b"Na", same([None])),
    "one object twice": (b"](]q\x00h\x00e", shared(list)),
    "a tensor": (TENSOR, same(tensor_at(1, (2,), (2,)))),
}


def compared(body: bytes, made: Made) -> None:
    program = read_program(PROTOCOL_2 + body + STOP, "a.pt")
    classes = stand_ins(program.globals.values())
    confirm(program, made(classes), classes, PATH)


@pytest.mark.parametrize(("body", "made"), ALIKE.values(), ids=ALIKE.keys())
def test_what_torch_makes_of_each_kind_of_value_is_the_same(body: bytes, made: Made) -> None:
    compared(body, made)


DIFFERENT: list[tuple[bytes, Made, str]] = [
    (b"K\x01", same(2), "the checkpoint is read in two ways (1 or 2)"),
    (b"K\x01", same(True), "(1 or True)"),
    (b"G" + struct.pack(">d", 0.0), same(-0.0), "(0.0 or -0.0)"),
    (NAN, same(0.5), "(nan or 0.5)"),
    (text("a"), same("b"), "('a' or 'b')"),
    (b"}", same(OrderedDict()), "(a dict or a OrderedDict)"),
    (ORDERED, same({}), "(a OrderedDict or a dict)"),
    (a_call("collections", "Counter"), same({}), "(a Counter or a dict)"),
    (a_dict(text("a"), b"N"), same({}), "(1 entries or 0)"),
    (a_dict(b"K\x01", text("a"), b"\x88", text("b")), same({1: "a"}), "(1: 'b' or 'a')"),
    (a_dict(b"K\x01", text("a"), b"\x88", text("b")), same({True: "b"}), "(1: 1 or True)"),
    (a_dict(b"K\x01", b"N", b"\x88", b"N"), same({1: None, 2: None}), "(True: True or 2)"),
    (a_dict(text("a"), b"N"), same({"b": None}), "('a': 'a' or 'b')"),
    (a_dict(text("a"), a_list(b"N", b"K\x01")), same({"a": [None, 2]}), "the checkpoint['a'] is read"),
    (a_dict(text("a"), a_list(b"N", a_dict(text("b"), b"N"))), same({"a": [None, {"b": 1}]}), "['a'][1] is read"),
    (b"]", same(()), "(a list or a tuple)"),
    (b")", same([]), "(a tuple or a list)"),
    (a_list(b"N"), same([None, None]), "(1 elements or 2)"),
    (a_list(b"N", b"K\x01"), same([None, 2]), "(1 or 2)"),
    (a_list(text("a"), text("b")), same(["a", "c"]), "('b' or 'c')"),
    (a_list(text("a"), b"N"), same(["a", "b"]), "(None or 'b')"),
    (b"\x8f", same([]), "(a set or a list)"),
    (a_call("builtins", "set", a_list(b"K\x01")), same({1, 2}), "(other elements)"),
    (a_call("builtins", "set", a_list(b"K\x01")), same({2}), "(other elements)"),
    (BYTES, same(b"ac"), "(another _codecs.encode)"),
    (BYTES, same("ab"), "(a bytes or a str)"),
    (a_call("builtins", "bytearray", BYTES), same(bytearray()), "(another builtins.bytearray)"),
    (a_call("builtins", "bytearray"), same(bytearray(1)), "(another builtins.bytearray)"),
    (a_call("builtins", "complex", b"K\x00", b"K\x00"), same(complex(0.0, -0.0)), "(another builtins.complex)"),
    (a_call("builtins", "complex", b"K\x00", b"K\x00"), same(complex(1, 0)), "(another builtins.complex)"),
    (a_call("torch", "Size", a_tuple(b"K\x02")), same(torch.Size([3])), "(another torch.Size)"),
    (a_call("torch", "device", text("cpu")), same(torch.device("cuda")), "(another torch.device)"),
    (
        a_call("torch.serialization", "_get_layout", text("torch.strided")),
        same(torch.sparse_coo),
        "(another torch.serialization._get_layout)",
    ),
    (a_global("torch", "float16"), same(torch.float32), "(another dtype)"),
    (a_global("torch", "float16"), same(None), "(another dtype)"),
    (a_global("fork", "Class"), same(int), "(the class fork.Class or another)"),
    (OWN, same(object()), "(a Class or a object)"),
    (a_call("fork", "Class", b"K\x01"), own(2), "(1 or 2)"),
    (a_call("fork", "Class", b"K\x01"), own(), "(1 elements or 0)"),
    (OWN + b"}b", own(), "(1 elements or 0)"),
    (OWN + a_dict(text("a"), b"N") + b"b", own(states=({"a": 1},)), "('a': None or 1)"),
    (OWN + text("a") + b"Ns", same({"a": None}), "(a OrderedDict or a dict)"),
    (OWN + b"Na", same([1]), "(None or 1)"),
    (b"](]q\x00h\x00e", same([[], []]), "(one object, or two)"),
    (a_storage("0", 4), same([]), "(a TypedStorage or a list)"),
    (TENSOR, same(None), "(a Tensor or a NoneType)"),
    (TENSOR, same(tensor_at(1, (1,), (2,))), "(two sizes of a tensor: (2,) or (1,))"),
    (TENSOR, same(tensor_at(1, (2,), (1,))), "(two strides of a tensor: (2,) or (1,))"),
    (TENSOR, same(tensor_at(0, (2,), (2,))), "(two offsets of a tensor: 1 or 0)"),
    (TENSOR, same(tensor_at(1, (2,), (2,)).view(torch.int32)), "dtypes of a tensor: torch.float32 or torch.int32)"),
    (TENSOR, same(torch._neg_view(tensor_at(1, (2,), (2,)))), "(two negations of a tensor: False or True)"),
    (TENSOR, same(tensor_at(1, (2,), (2,), 5)), "(a storage of 16 bytes or 20)"),
    (TENSOR, same(torch.nn.Parameter(tensor_at(1, (2,), (2,)))), "(a Tensor or a Parameter)"),
    (
        a_tensor(a_storage("0", 100), (2,) * 30, (0,) * 30),
        same(torch.zeros(100).as_strided((2,) * 29 + (3,), (0,) * 30)),
        f"(two sizes of a tensor: {str((2,) * 30)[:57]}... or {str((2,) * 29)[:57]}...)",
    ),
    (
        a_list(a_tensor(a_storage("0", 4), (4,), (1,)), a_tensor(a_storage("1", 4), (4,), (1,))),
        lambda _classes: [one := torch.zeros(4), one.view(4)],
        "(the storage '0' or another)",
    ),
    (
        a_list(a_tensor(a_storage("0", 4), (4,), (1,)), a_tensor(a_storage("0", 4), (4,), (1,))),
        same([torch.zeros(4), torch.zeros(4)]),
        "(the storage '0' or another)",
    ),
]


@pytest.mark.parametrize(("body", "made", "words"), DIFFERENT)
def test_what_torch_makes_otherwise_is_told_with_its_place(body: bytes, made: Made, words: str) -> None:
    with pytest.raises(DamagedError) as caught:
        compared(body, made)
    assert str(caught.value).startswith("a.pt says two things: the checkpoint")
    assert words in str(caught.value)


@pytest.mark.parametrize(("numel", "device"), [(0, "cpu"), (4, "meta")])
def test_storages_without_an_address_are_never_taken_for_one(numel: int, device: str) -> None:
    tensors = [a_tensor(a_storage(key, numel), (0,), (1,)) for key in ("0", "1")]
    compared(a_list(*tensors), lambda _classes: [torch.zeros(numel, device=device)[:0] for _ in range(2)])


def test_what_differs_is_shown_in_sixty_characters() -> None:
    assert _short("x" * 60) == "x" * 60
    assert _short("x" * 61) == "x" * 57 + "..."


def test_a_place_is_told_in_eight_keys() -> None:
    body = b"K\x01"
    held: Any = 2
    for depth in range(11):
        body, held = a_dict(text(str(depth)), body), {str(depth): held}
    place = "".join(f"['{depth}']" for depth in (8, 7, 6, 5, 4, 3, 2, 1))
    with pytest.raises(DamagedError) as caught:
        compared(body, same(held))
    assert str(caught.value) == f"a.pt says two things: the checkpoint{place} is read in two ways ('0': 1 or 2)"


# ---------------------------------------------------------------------------------------------------------------
# torch.load


def test_each_storage_gets_an_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(3), "b": torch.ones(1), "c": torch.zeros(0), "d": torch.ones(100)}, file)
    place = torch_reader._places(examined(file.getvalue()))
    storages = [torch.ones(count, dtype=torch.uint8).untyped_storage() for count in (12, 4, 400)]
    placed = [place(storage, "cpu") for storage in storages]
    addresses = [storage.data_ptr() for storage in placed]
    assert [storage.nbytes() for storage in placed] == [12, 4, 400]
    assert [address - addresses[0] for address in addresses] == [0, 64, 128]
    empty = torch.ones(0).untyped_storage()
    assert place(empty, "cpu") is empty
    legacy = io.BytesIO()
    torch.save({"a": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    limit(monkeypatch, "addresses", 11)
    assert torch_reader._places(examined(legacy.getvalue())) != "meta"


HELD = {
    "extra_state": {"ema": OrderedDict(w=torch.full((2,), 7.0))},
    "model": OrderedDict(w=torch.ones(2), _ema={"v": torch.zeros(3), "n": 1, 5: torch.ones(1)}, step=3),
    "adapter": {"eng": {"model": {"w": torch.full((2,), 2.0)}}, "fra": {"other": 1}, "deu": None},
}


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("model",), ["w", "_ema.v", "_ema.5"]),
        (("extra_state", "ema"), ["w"]),
        (("nothing", "here"), []),
        (("extra_state", "ema", "w"), []),
    ],
)
def test_torch_gives_the_tensors_that_lie_under_some_keys(
    keys: tuple[str, ...], names: list[str], in_zip: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save(HELD, path, _use_new_zipfile_serialization=in_zip)
    with open_checkpoint(path) as file:
        archive = examine(file, path)
        found = load_with_bytes(file, archive, keys)
        assert keys != ("model",) or load_with_bytes(file, archive).keys() == found.keys()
    assert list(found) == [*names, "adapter.eng.w"]
    assert found["adapter.eng.w"].tolist() == [2.0, 2.0]
    if names:
        assert found["w"].tolist() == ([1.0, 1.0] if keys == ("model",) else [7.0, 7.0])


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_to_confirm_a_file_torch_is_given_its_pickles_without_the_numbers(in_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": torch.ones(3)}, path, _use_new_zipfile_serialization=in_zip)
    with open_checkpoint(path) as file:
        archive = examine(file, path)
        file.seek(9)
        given = torch_reader._readable(file, archive)
        assert given.tell() == 0
        assert (given is file) is in_zip
        assert in_zip or given.read() == path.read_bytes()[: -8 - 12]


def test_the_pickles_of_a_legacy_file_without_storages_are_all_of_it(tmp_path: Path) -> None:
    torch.save({"model": 1}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with open_checkpoint(tmp_path / "a.pt") as file:
        given = torch_reader._readable(file, examine(file, tmp_path / "a.pt"))
        assert given.read() == (tmp_path / "a.pt").read_bytes()


def test_what_lay_on_another_device_is_read_into_memory(tmp_path: Path) -> None:
    head = a_tensor(a_storage("0", 3, place="cuda:7"), (3,), (1,))
    body = a_dict(text("cfg"), plainly(SECTIONS), text("model"), a_dict(text("w"), head))
    path = tmp_path / "a.pt"
    version = Part("a/version", b"3")
    path.write_bytes(zipped([Part("a/data.pkl", PROTOCOL_2 + body + STOP), Part("a/data/0", NUMBERS), version]))
    assert list(read_checkpoint(path).tensors) == ["w"]
    with open_checkpoint(path) as file:
        assert load_with_bytes(file, examine(file, path))["w"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("said", "line"),
    [("", ""), ("one\ntwo", "one"), ("a\x1bb\tc", "a?b?c"), ("x" * 200, "x" * 200), ("x" * 201, "x" * 200)],
)
def test_of_an_error_of_torchs_one_short_line_is_told(said: str, line: str) -> None:
    assert torch_reader._first_line(RuntimeError(said)) == line


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (a_list(b"K\x01"), "isn't one of texts"),
        (a_list(text("a"), b"N"), "isn't one of texts"),
        (a_dict(text("a"), b"N"), "isn't one of texts"),
        (text("a"), "isn't one of texts"),
        (a_list(text("a")), "isn't the pickle's"),
        (b"]", ""),
    ],
)
def test_a_legacy_file_lists_its_storages(keys: bytes, words: str) -> None:
    file = io.BytesIO()
    torch.save({"model": 1}, file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    data = data[: data.rindex(PROTOCOL_2)] + PROTOCOL_2 + keys + STOP
    if words:
        with pytest.raises(DamagedError, match=words):
            examined(data)
    else:
        assert examined(data).records == {}


# ---------------------------------------------------------------------------------------------------------------
# What is taken for a model

STATE = {"w": torch.ones(2), "b": torch.zeros(3)}
SECTIONS = {"model": {"_name": "wav2vec_ctc"}, "task": {"normalize": True}}


def read(tmp_path: Path, held: object, **asked: Any) -> Checkpoint:
    torch.save(held, tmp_path / "a.pt")
    return read_checkpoint(tmp_path / "a.pt", **asked)


FORMS: dict[str, tuple[dict[Any, Any], str, tuple[str, ...], str, dict[str, object]]] = {
    "fairseq's": ({"cfg": SECTIONS, "model": STATE}, "fairseq's", ("model",), "dict", SECTIONS),
    "bare": (STATE, "a bare state dict", (), "none", {}),
    "bare, with a counter": ({**STATE, "step": 3, "names": ["a"]}, "a bare state dict", (), "none", {}),
    "two state dicts": ({"generator": STATE, "critic": STATE}, "a bare state dict", (), "none", {}),
    "two usual keys": ({"model": STATE, "state_dict": STATE}, "a bare state dict", (), "none", {}),
    "under state_dict": ({"state_dict": STATE, "epoch": 1}, "under 'state_dict'", ("state_dict",), "none", {}),
    "under model": ({"model": STATE}, "a state dict under 'model'", ("model",), "none", {}),
    "under model_state_dict": (
        {"model_state_dict": STATE},
        "a state dict under 'model_state_dict'",
        ("model_state_dict",),
        "none",
        {},
    ),
    "under model_weight": ({"model_weight": STATE}, "under 'model_weight'", ("model_weight",), "none", {}),
    "lightning": (
        {"state_dict": STATE, "pytorch-lightning_version": "2"},
        "a checkpoint of Lightning's",
        ("state_dict",),
        "none",
        {},
    ),
    "s3prl": (
        {"model_weight": STATE, "model_cfg": {"a": 1}, "task_cfg": {"b": 2}},
        "a checkpoint of s3prl's",
        ("model_weight",),
        "dict",
        {"model": {"a": 1}, "task": {"b": 2}},
    ),
    "s3prl without a task": (
        {"model_weight": STATE, "model_cfg": {"a": 1}},
        "a state dict under 'model_weight'",
        ("model_weight",),
        "none",
        {},
    ),
    "s3prl with a config that is none": (
        {"model_weight": STATE, "model_cfg": {"a": 1}, "task_cfg": None},
        "a checkpoint of s3prl's",
        ("model_weight",),
        "none",
        {},
    ),
    "arguments of another program": (
        {"args": {"lr": 0.1}, "model": STATE},
        "a state dict under 'model'",
        ("model",),
        "dict",
        {},
    ),
    "arguments of fairseq's": ({"args": {"arch": "x"}, "model": STATE}, "fairseq's", ("model",), "dict", {}),
    "arguments in sections": (
        {"args": {"model": {"_name": "y"}}, "model": STATE},
        "fairseq's",
        ("model",),
        "dict",
        {"model": {"_name": "y"}},
    ),
    "arguments that are none": ({"args": None, "model": STATE}, "under 'model'", ("model",), "none", {}),
}


@pytest.mark.parametrize(("held", "words", "keys", "form", "cfg"), FORMS.values(), ids=FORMS.keys())
def test_a_state_dict_is_found_wherever_somebody_put_it(
    held: dict[Any, Any], words: str, keys: tuple[str, ...], form: str, cfg: dict[str, object], tmp_path: Path
) -> None:
    found = read(tmp_path, held)
    assert found.form.endswith(words)
    assert found.is_fairseqs is (words == "fairseq's")
    assert found.keys == keys
    if cfg or form == "none":
        assert (found.cfg_form, found.cfg) == (form, cfg)
    assert {name.rpartition(".")[2] for name in found.tensors} == {"w", "b"}
    assert [tensor.elements for tensor in found.tensors.values()][:2] == [2, 3]


def test_a_namespace_is_fairseqs_where_it_names_an_architecture(tmp_path: Path) -> None:
    found = read(tmp_path, {"args": argparse.Namespace(arch="x", lr=1), "model": STATE})
    assert (found.form, found.cfg_form, found.model_name) == ("fairseq's", "Namespace", "x")
    assert found.cfg["task"] == {"arch": "x", "lr": 1}
    for name in ("cfg", "args"):
        named = read(tmp_path, {name: argparse.Namespace(model={"_name": "y"}), "model": STATE})
        assert (named.form, named.model_name) == ("fairseq's", "y")
    others: list[object] = [argparse.Namespace(lr=1), argparse.Namespace(), {}]
    for other in others:
        assert read(tmp_path, {"args": other, "model": STATE}).form == "a state dict under 'model'"
    # What omegaconf would hold instead of a section.
    for key in ("cfg", "args"):
        odd = read(tmp_path, {key: argparse.Namespace(_content=[1]), "model": STATE})
        assert (odd.form, odd.cfg_form, odd.cfg) == ("a state dict under 'model'", "none", {})


def test_cfg_is_preferred_over_args(tmp_path: Path) -> None:
    both = {"args": {"arch": "x"}, "cfg": SECTIONS, "model": STATE}
    assert read(tmp_path, both).model_name == "wav2vec_ctc"
    assert read(tmp_path, {**both, "cfg": None}).model_name == "x"


@pytest.mark.parametrize("model", [{"_name": 7}, {"_name": "a b"}, {"other": "x"}, "text", None])
def test_a_model_without_a_name_is_unnamed(model: object, tmp_path: Path) -> None:
    assert read(tmp_path, {"cfg": {"task": {"a": 1}, "model": model}, "model": STATE}).model_name == "unnamed"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"\n": torch.ones(2)}, r"a\.pt: the state dict\['\\n'\]"),
        ({"model": {"\n": torch.ones(2)}}, r"a\.pt: model\['"),
    ],
)
def test_a_wrong_name_in_somebody_elses_state_dict_is_told_with_its_place(
    held: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DamagedError, match=f"{words}.* has a name that no tensor has"):
        read(tmp_path, held)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([STATE], "holds a list, not a checkpoint of fairseq"),
        ({"cfg": SECTIONS}, "has no state dict under 'model'"),
        ({"cfg": SECTIONS, "model": {}}, "has no tensor under 'model'"),
        ({"model": {}}, "has neither 'cfg' nor 'args'"),
        ({"model": {"step": 3}, 7: 8}, r"\(its keys: 'model'\)"),
        ({}, r"\(its keys: none\)"),
        (dict.fromkeys("abcdefg"), r"\(its keys: 'a', 'b', 'c', 'd', 'e', 'f'\)"),
    ],
)
def test_what_holds_no_model_is_no_checkpoint(held: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match=words):
        read(tmp_path, held)


FULL = {
    "cfg": {**SECTIONS, "checkpoint": {"best_checkpoint_metric": "wer"}},
    "model": STATE,
    "extra_state": {
        "ema": {"w": torch.full((2,), 7.0), "b": torch.zeros(3)},
        "train_iterator": {"epoch": 5},
        "best": 2,
    },
    "optimizer_history": [{"num_updates": 1}, {"num_updates": 9}],
    "last_optimizer_state": {"exp_avg": torch.ones(10)},
}


def test_a_checkpoint_says_how_training_stood(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    assert found.progress == Progress(9, 5, "wer", 2.0)
    assert found.has_ema
    assert not found.is_shard
    assert found.optimizer_bytes == 40 + 20
    assert found.model_name == "wav2vec_ctc"
    assert found.archive.program.root is None
    bare = read(tmp_path, {"cfg": {"checkpoint": 3, "model": {"_name": "a b"}}, "model": STATE})
    assert bare.progress == Progress(None, None, None, None)
    assert not bare.has_ema
    assert bare.optimizer_bytes == 0
    assert bare.model_name == "unnamed"
    odd = {"cfg": {"checkpoint": {"best_checkpoint_metric": 3}}, "model": STATE, "optimizer_history": []}
    assert read(tmp_path, odd).progress == Progress(None, None, None, None)
    assert read(tmp_path, {**odd, "shard_metadata": {}}).is_shard


def test_ema_weights_lie_where_fairseq_puts_them(tmp_path: Path) -> None:
    found = read(tmp_path, FULL, ema=True)
    assert found.keys == ("extra_state", "ema")
    assert found.optimizer_bytes == 40 + 20
    model = read(tmp_path, FULL)
    assert found.tensors.keys() == model.tensors.keys()
    assert found.tensors["w"].storage != model.tensors["w"].storage
    with pytest.raises(UsageError, match="has no EMA weights"):
        read(tmp_path, {**FULL, "extra_state": {"ema": {}}}, ema=True)


def test_the_adapter_of_a_language_is_read_where_it_has_a_model(tmp_path: Path) -> None:
    languages = {"eng": {"model": {"w": torch.ones(2)}}, "fra": {"model": None}, "deu": 7}
    found = read(tmp_path, {**FULL, "adapter": languages})
    assert list(found.adapters) == ["eng"]
    assert found.adapters["eng"].tensors["w"].adapter == "eng"
    assert found.optimizer_bytes == 40 + 20


def test_a_file_is_passed_on_when_the_gate_has_let_it_pass(tmp_path: Path) -> None:
    seen: list[tuple[int, Archive]] = []
    found = read(tmp_path, FULL, passed=lambda file, archive: seen.append((file.fileno(), archive)))
    assert [archive.fingerprint for _file, archive in seen] == [found.archive.fingerprint]
    assert found.identity[2] == (tmp_path / "a.pt").stat().st_size


def test_torch_has_the_last_word_on_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_given, **_asked: {})
    with pytest.raises(DamagedError, match="says two things"):
        read(tmp_path, FULL)


WRONG: list[tuple[bytes, str]] = [
    (a_dict(text(""), TENSOR), "[''] has a name that no tensor has"),
    (a_dict(text("a\n"), TENSOR), "has a name that no tensor has"),
    (a_dict(text("__metadata__"), TENSOR), "['__metadata__'] has the name that safetensors keeps for itself"),
    (a_dict(text("w"), TENSOR, text("x"), b"K\x01"), "model['x'] is a int, not a tensor"),
    (a_dict(text("w"), TENSOR, text("x"), b"]"), "model['x'] is a list, not a tensor"),
    (a_dict(text("w"), TENSOR, b"K\x01", TENSOR), "model has a key that is no text"),
    (
        a_dict(text("w"), a_tensor(a_storage("0", 4, ("torch", "ComplexFloatStorage")), (1,), (1,))),
        "model['w'] is of a kind that w2vc doesn't read (complex64)",
    ),
    (a_dict(text("w"), a_tensor(a_storage("0", 4), (5,), (0,))), "model['w'] repeats 16 bytes to 20"),
    (a_dict(text("g"), a_dict(text("x"), b"N")), "model['g.x'] is a NoneType, not a tensor"),
]


@pytest.mark.parametrize(("model", "words"), WRONG)
def test_what_is_no_tensor_has_no_place_in_a_state_dict(model: bytes, words: str, tmp_path: Path) -> None:
    size = 32 if b"Complex" in model else 16
    body = a_dict(text("cfg"), plainly({"model": {"_name": "x"}}), text("model"), model)
    pickled = Part("a/data.pkl", PROTOCOL_2 + body + STOP)
    (tmp_path / "a.pt").write_bytes(zipped([pickled, Part("a/data/0", bytes(size)), Part("a/version", b"3")]))
    with pytest.raises(DamagedError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert words in str(caught.value)


def test_a_dictionary_inside_is_told_by_its_place() -> None:
    found = read_checkpoint(FIXTURES / "eras" / "plain_dict_ctc.pt")
    assert found.dictionary is not None
    assert found.dictionary.origin.endswith("plain_dict_ctc.pt: task_state.target_dictionary")
    many = read_checkpoint(checkpoint("mms_released_ctc"))
    origins = {name: adapter.dictionary.origin for name, adapter in many.adapters.items() if adapter.dictionary}
    for name, origin in origins.items():
        assert origin.endswith(f".pt: adapter['{name}'].task_state.target_dictionary")
    assert len(origins) == len(many.adapters) > 1
