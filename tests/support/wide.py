"""A checkpoint of 32 MB: a real one with wider feed-forward layers, whose tensors have several megabytes each."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.conftest import FIXTURES
from tests.support.forgery import Made, base, model
from tests.support.fuzz import slim

_WIDTH = 50_000


def write_wide_checkpoint(path: Path) -> None:
    """Writes it; each of its wide tensors is full of one number."""
    path.write_bytes(slim(FIXTURES / "eras" / "plain_dict_ctc.pt"))
    whole = base(path)
    saved = whole.saved()
    records: dict[str, bytes | None] = {}
    for number, (name, tensor) in enumerate(model(saved).items()):
        if ".ffn" in name and ".w_" in name:
            _widen(tensor, f"wide{number}", records)
    path.write_bytes(whole.with_saved(saved, records))


def _widen(tensor: Made, key: str, records: dict[str, bytes | None]) -> None:
    """Gives the tensor ``_WIDTH`` in place of the feed-forward layer's width, and a storage of its own."""
    storage, _offset, size, _stride, *rest = tensor.arguments
    wide = tuple(_WIDTH if length == 28 else length for length in size)
    stride = (wide[-1], 1) if len(wide) == 2 else (1,)
    count = wide[0] * (wide[1] if len(wide) == 2 else 1)
    word, kind, _key, place, _numel = storage.identity
    tensor.arguments = (type(storage)((word, kind, key, place, count)), 0, wide, stride, *rest)
    records[f"data/{key}"] = struct.pack("<f", len(records) + 0.5) * count
