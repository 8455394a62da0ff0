"""A record: bytes in the file that have a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """Bytes in the file that have a name.

    Attributes:
        name: without the archive's root folder: ``data.pkl``, ``data/0``.
        offset: where they begin in the file.
        size: how many they are.
        crc32: their CRC-32; None where the container has none.
    """

    name: str
    offset: int
    size: int
    crc32: int | None
