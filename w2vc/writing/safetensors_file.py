"""The layout of a safetensors file: eight bytes of length, a header in JSON, then the tensors without gaps.

Source: the format's description in the safetensors repository (``README.md``, "Format"). Written directly, since the
tensors' bytes are copied and never pass through this process; the library opens and checks what was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vc.reading.checkpoint import ITEM_BYTES

DTYPE_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
"""safetensors' names of the dtypes that an output can have."""

# The library's own limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE).
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Layout:
    """Where each tensor's bytes go.

    Attributes:
        header: the file's first bytes, length field included; a multiple of eight.
        offsets: by name, from the beginning of the file.
        size: of the whole file in bytes.
    """

    header: bytes
    offsets: Mapping[str, int]
    size: int


def layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> Layout:
    """Lay tensors out in the given order, wider items first so that each is aligned.

    Args:
        tensors: name, dtype and shape of each.
        metadata: for the header's ``__metadata__``; ``format`` has to be in it.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    starts: dict[str, int] = {}
    end = 0
    for name, dtype, shape in sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor[1]]):
        start, end = end, end + _nbytes(dtype, shape)
        entries[name] = {"dtype": DTYPE_CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        starts[name] = start
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + start for name, start in starts.items()}, len(header) + end)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and offsets by tensor, and ``__metadata__``.

    Raises:
        ValueError: the file is none, or is cut off before the header's end.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER:
            raise ValueError(f"{path} is no safetensors file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file")  # noqa: TRY004 - the file is wrong, not a caller's type
    return header


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = ITEM_BYTES[dtype]
    for size in shape:
        count *= size
    return count
