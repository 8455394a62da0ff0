"""Files of other kinds, and what is no file at all."""

from __future__ import annotations

import gzip
import os
import pickle
import socket
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.support.forgery import PROTOCOL_2, Part, a_call, program, text, zipped
from tests.support.hostile.cases import FIXTURES, ZIP, add, hostile_place
from tests.support.hostile.code import TOUCH

_OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "one_zero": (b"\0", "zeros"),
    "zeros": (bytes(10_000), "zeros"),
    "git_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-lfs"),
    "web_page": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    "json": (b'{"error": "Entry not found"}', "JSON"),
    "words": (b"Access denied\n", "a text"),
    "safetensors": (struct.pack("<Q", 16) + b'{"a":{"x":[0]}} ', "safetensors"),
    "gzip": (gzip.compress(ZIP.data[:2000]), "gzip"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), "xz"),
    "bzip2": (b"BZh9" + bytes(100), "bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
    "seven_zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
    "numpy_array": (b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "numpy"),
    "numpy_archive": (zipped([Part("a.npy", b"\x93NUMPY")]), "numpy"),
    "recording": (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
    "program": (b"\x7fELF" + bytes(100), "unknown kind"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "onnx": (b"\x08\x07\x12\x07pytorch", "ONNX"),
    "gguf": (b"GGUF" + bytes(100), "GGUF"),
    "plain_pickle": (pickle.dumps({"model": 1}, protocol=2), "pickle that torch"),
    "plain_pickle_with_code": (PROTOCOL_2 + a_call("os", "system", text(TOUCH)) + b".", "pickle that torch"),
    "zip_without_a_pickle": (zipped([Part("a/b", b"c")]), "zip archive without data.pkl"),
    "zip_without_a_folder": (zipped([Part("data.pkl", program({})), Part("version", b"3")]), "no folder"),
    "zip_that_is_empty": (zipped([]), "empty zip"),
    "noise": (bytes((number * 73 + 141) % 256 for number in range(3000)), "unknown kind"),
}


def _writing(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


for _name, (_data, _word) in _OTHER_KINDS.items():
    add(f"file_{_name}", "wrong file types", 3, _word, _writing(_data))


@hostile_place("wrong file types", 3, "tar")
def file_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(FIXTURES / "dictionaries", "dictionaries")


@hostile_place("wrong file types", 3, "a named pipe")
def pipe(path: Path) -> None:
    os.mkfifo(path)


@hostile_place("wrong file types", 3, "a directory")
def directory(path: Path) -> None:
    path.mkdir()


@hostile_place("wrong file types", 3, "symbolic links")
def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@hostile_place("wrong file types", 3, "can't be opened")
def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


@hostile_place("wrong file types", 3, "a character device")
def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@hostile_place("wrong file types", 3, "a character device")
def random_device(path: Path) -> None:
    path.symlink_to("/dev/urandom")


@hostile_place("wrong file types", 3, "a socket")
def listening_socket(path: Path) -> None:
    # The path of a socket can't be long.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@hostile_place("wrong file types", 3, "can't be opened")
def nothing_at_all(_path: Path) -> None:
    pass
