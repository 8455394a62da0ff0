"""Other kinds of files than checkpoints: those that people pass by mistake, and what to say about each."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable

from w2vc.reading.opening import TAKE_THE_CHECKPOINT
from w2vc.reading.source import GET_AGAIN

SAVE_AGAIN = 'Load it where it was made and save it again with torch.save(checkpoint, "checkpoint.pt").'
UNPACK = "Unpack it and pass the checkpoint inside."
KIND_BYTES = 512
"""How much of a file tells its kind: a tar's magic lies at byte 257."""

_JSON = re.compile(rb"\s*(\{|\[\s*[\[{\"0-9-])")
_ANCIENT_TAR_MEMBERS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")

# (test of the first bytes, word, advice); the first that fits counts.
_KINDS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (lambda start: not start, "empty", GET_AGAIN),
    (lambda start: not start.strip(b"\0"), "full of zeros (an unfinished download?)", GET_AGAIN),
    (
        lambda start: start.startswith(b"version https://git-lfs"),
        "a git-lfs pointer, which refers to the real file",
        "run `git lfs pull` where it was cloned",
    ),
    (
        lambda start: start[257:262] == b"ustar" and start.startswith(_ANCIENT_TAR_MEMBERS),
        "in the tar format of torch before 0.1.10",
        SAVE_AGAIN,
    ),
    (lambda start: start[257:262] == b"ustar", "a tar archive", UNPACK),
    (
        lambda start: start[8:10] == b'{"' and 0 < struct.unpack_from("<Q", start)[0] < 2**40,
        "a safetensors file",
        TAKE_THE_CHECKPOINT,
    ),
    (lambda start: start.startswith(b"PK\x05\x06"), "an empty zip archive", GET_AGAIN),
    (lambda start: start.startswith(b"PK\x07\x08"), "a part of a split zip archive", UNPACK),
    (lambda start: start.startswith(b"\x1f\x8b"), "compressed with gzip", UNPACK),
    (lambda start: start.startswith(b"BZh"), "compressed with bzip2", UNPACK),
    (lambda start: start.startswith(b"\xfd7zXZ\0"), "compressed with xz", UNPACK),
    (lambda start: start.startswith(b"\x28\xb5\x2f\xfd"), "compressed with zstd", UNPACK),
    (lambda start: start.startswith(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", UNPACK),
    (lambda start: start.startswith(b"Rar!"), "a rar archive", UNPACK),
    (lambda start: start.startswith(b"\x89HDF\r\n\x1a\n"), "an HDF5 file (Keras, TensorFlow)", TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"\x93NUMPY"), "a numpy array (.npy)", TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith(b"GGUF"), "a GGUF model", TAKE_THE_CHECKPOINT),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WAVE", "a WAV recording", TAKE_THE_CHECKPOINT),
    (lambda start: start.startswith((b"fLaC", b"OggS", b"ID3")), "a recording", TAKE_THE_CHECKPOINT),
    (
        lambda start: start[0] == 0x80 and start[1:2] <= b"\x05" and len(start) > 1,
        "a Python pickle that torch.save didn't write",
        TAKE_THE_CHECKPOINT,
    ),
    (
        lambda start: start[0] == 0x08 and start[2:3] in (b"\x12", b"\x3a"),
        "an ONNX model or another protobuf message",
        TAKE_THE_CHECKPOINT,
    ),
    (
        lambda start: start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
        "a web page (HTML): the download gave a page instead of the file",
        "Download the file itself, signed in if that is needed.",
    ),
    (lambda start: start.lstrip().startswith(b"<?xml"), "an XML document", GET_AGAIN),
    (lambda start: _is_text(start) and _JSON.match(start) is not None, "a JSON text", TAKE_THE_CHECKPOINT),
    (lambda start: _is_text(start), "a text", TAKE_THE_CHECKPOINT),  # noqa: PLW0108 - it is defined below
)


def kind_of(start: bytes) -> tuple[str, str]:
    """Return word and advice for a file that isn't torch's, by its first bytes."""
    fitting = ((word, advice) for test, word, advice in _KINDS if test(start))
    return next(fitting, ("of an unknown kind (or its beginning is damaged)", TAKE_THE_CHECKPOINT))


def _is_text(start: bytes) -> bool:
    # A character may be cut at the end.
    text = start.decode("utf-8", "replace")[:-3]
    return "\ufffd" not in text and all(character.isprintable() or character.isspace() for character in text)


def kind_of_zip(names: Iterable[str]) -> tuple[str, str] | None:
    """Return word and advice for a zip that isn't a checkpoint, by its records' names; None if it looks like one."""
    names = set(names)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a TorchScript archive (torch.jit.save), which holds code", TAKE_THE_CHECKPOINT
    if "data.pkl" in inner:
        return None
    if any(name.startswith(".data/") and "extern_modules" in name for name in inner):
        return "a torch.package archive, which holds code", TAKE_THE_CHECKPOINT
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz)", TAKE_THE_CHECKPOINT
    if "model.weights.h5" in names:
        return "a Keras model", TAKE_THE_CHECKPOINT
    if names & {"data.pkl", "version"}:
        return "a zip archive whose records lie in no folder", SAVE_AGAIN
    return "a zip archive without data.pkl", UNPACK
