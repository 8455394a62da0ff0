"""What a hostile file is, the list of all of them, and the ways in which one is made of a real checkpoint."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.support.forgery import Base, Made, Raw, Storage, altered, base, model

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
ZIP = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
LEGACY = (FIXTURES / "eras" / "legacy_format_ctc.pt").read_bytes()
PRETRAINED = base(FIXTURES / "relative_pretraining" / "checkpoint.pt")
PLAIN_ATTENTION = base(FIXTURES / "plain_attention_ctc" / "checkpoint.pt")
DEEP_CONVOLUTION = base(FIXTURES / "deep_pos_conv_pretraining" / "checkpoint.pt")

Category = Literal["code execution", "lies", "bombs", "damage", "values", "wrong file types", "surroundings"]

CANARY = "canary"
"""What a payload that ran would have made, in the current directory."""


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        name: what it tries.
        category: of what kind it is.
        exit_codes: what ``w2vc convert`` may end with; 0 where the trick may be without effect.
        word: what the error must say, a pattern; where the exit code can only be 0, what the report must say.
        make: puts it at a path, and around it whatever belongs to it.
        armed: Python's own unpickler would run its payload.
        changed: where it converts, the tensors of the output that differ from those of the file that it was forged
            from, and the number that each of them is full of.
        original: the fixture that it was forged from.
        arguments: more arguments of ``w2vc convert``; ``{folder}`` stands for the folder of the file.
    """

    name: str
    category: Category
    exit_codes: tuple[int, ...]
    word: str
    make: Callable[[Path], object]
    armed: bool = False
    changed: Mapping[str, float] = field(default_factory=dict)
    original: str = ZIP.name
    arguments: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def add(
    name: str,
    category: Category,
    exit_codes: int | tuple[int, ...],
    word: str,
    make: Callable[[Path], object],
    **more: Any,
) -> None:
    """Adds a case to the list."""
    assert name not in CASES, name
    codes = (exit_codes,) if isinstance(exit_codes, int) else exit_codes
    CASES[name] = Case(name, category, codes, word, make, **more)


def writing(make: Callable[..., bytes], *arguments: Any) -> Callable[[Path], object]:
    """Puts the bytes that a function gives for these arguments at a path, when it is time."""
    return lambda path: path.write_bytes(make(*arguments))


def hostile(
    category: Category, exit_codes: int | tuple[int, ...], word: str, **more: Any
) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Makes a case of a function that gives the file's bytes."""

    def register(function: Callable[[], bytes]) -> Callable[[], bytes]:
        add(function.__name__, category, exit_codes, word, writing(function), **more)
        return function

    return register


def hostile_place(
    category: Category, exit_codes: int | tuple[int, ...], word: str, **more: Any
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Makes a case of a function that puts something at a path."""

    def register(function: Callable[[Path], object]) -> Callable[[Path], object]:
        add(function.__name__, category, exit_codes, word, function, **more)
        return function

    return register


# ---------------------------------------------------------------------------------------------------------------
# Changes to a real checkpoint

HEAD = "w2v_encoder.proj.weight"


def changed_cfg(change: Callable[[dict[Any, Any]], object], start: Base = ZIP) -> bytes:
    """A checkpoint with another cfg."""
    saved = start.saved()
    change(saved["cfg"])
    return start.with_saved(saved)


def changed_model(change: Callable[[dict[Any, Any]], object], start: Base = ZIP, **records: bytes) -> bytes:
    """A checkpoint with another state dict, and with more records (``data_x`` for ``data/x``)."""
    saved = start.saved()
    change(model(saved))
    return start.with_saved(saved, {name.replace("_", "/", 1): data for name, data in records.items()})


def changed_convolutions(source: str) -> bytes:
    """A checkpoint with another text for its feature extractor."""
    return changed_cfg(lambda cfg: cfg["model"]["w2v_args"]["model"].update(conv_feature_layers=source))


def numbers(count: int, behind: bytes = b"") -> Raw:
    """Opcodes of that many different texts, in a list or a dict; ``behind`` is a value for each."""
    return Raw(b"".join(b"X\7\0\0\0%07d%b" % (number, behind) for number in range(count)))


def changed_dictionary(change: Callable[[list[Any]], object]) -> bytes:
    """A checkpoint with other symbols."""
    saved = ZIP.saved()
    change(saved["task_state"]["target_dictionary"].state["symbols"])
    return ZIP.with_saved(saved)


def doubled(times: int, kind: bytes = b"\x86") -> bytes:
    """Opcodes of a pair of a pair of a pair ... each of which is the same object twice."""
    body = b"]"
    for number in range(times):
        body += b"r" + struct.pack("<I", 70_000 + number) + b"j" + struct.pack("<I", 70_000 + number) + kind
    return body


def one_tensor(**changes: Any) -> bytes:
    """A checkpoint whose head has another offset, size, stride or storage."""

    def change(tensors: dict[str, Any]) -> None:
        tensors[HEAD] = altered(tensors[HEAD], **changes)

    return changed_model(change)


def head() -> Made:
    """The head's weight, as it was saved."""
    tensor = model(ZIP.saved())[HEAD]
    assert isinstance(tensor, Made)
    return tensor


def head_storage(**changes: Any) -> Storage:
    """The storage of the head's weight with another ``kind``, ``key``, ``location`` or ``numel``."""
    names = ("storage", "kind", "key", "location", "numel")
    identity = dict(zip(names, head().arguments[0].identity, strict=True)) | changes
    return Storage(tuple(identity.values()))


def a_kind(name: str) -> type[Made]:
    """A class of torch's, by name."""
    return type(name, (Made,), {"module": "torch", "name": name})


def filled(word: bytes) -> bytes:
    """A checkpoint whose head is full of one number, with its checksum right."""
    name = f"data/{head().arguments[0].key}"
    return ZIP.with_part(name, data=word * (len(ZIP.records[name]) // 4))


def flipped(data: bytes, position: int) -> bytes:
    """The bytes with one bit changed."""
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def place(name: str) -> int:
    """Where a record's bytes begin in the real file."""
    with zipfile.ZipFile(io.BytesIO(ZIP.data)) as archive:
        offset = archive.getinfo(f"{ZIP.root}/{name}").header_offset
    name_length, extra_length = struct.unpack_from("<2H", ZIP.data, offset + 26)
    return int(offset + 30 + name_length + extra_length)
