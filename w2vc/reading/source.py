"""Where the opcodes come from: bytes with one pickle after the other."""

from __future__ import annotations

from collections.abc import Callable

from w2vc.errors import DamagedError, UnsafeError
from w2vc.reading.budget import DISTRUST, LIMITS, Budget

GET_AGAIN = "Download or copy the checkpoint again and compare its checksum."
"""The advice for a file that is cut off or altered."""


class PickleSource:
    """Bytes of one pickle after the other; ``more`` gives the next piece, and nothing at the end.

    Attributes:
        data: what has been read so far.
        position: where the next pickle begins.
        what: the pickle, for messages.
        on_disk: how many bytes its file has there.
    """

    def __init__(self, data: bytes, what: str, more: Callable[[], bytes] | None = None, *, on_disk: int = 0) -> None:
        self.data = bytearray(data)
        self.position = 0
        self.what = f"{what}: the pickle"
        self.on_disk = on_disk
        self._more = more or bytes

    def take(self, count: int) -> bytearray:
        """Return the next ``count`` bytes. Raise DamagedError where there are fewer."""
        end = self.position + count
        while end > len(self.data):
            self._grow()
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def line(self) -> str:
        """Return the next line, without its end. Raise UnsafeError where it is longer than any name."""
        longest = LIMITS["global name"].most
        end = self.data.find(b"\n", self.position, self.position + longest)
        while end < 0:
            if len(self.data) >= self.position + longest:
                raise UnsafeError(f"{self.what} names a global of more than {longest} characters", advice=DISTRUST)
            self._grow()
            end = self.data.find(b"\n", self.position, self.position + longest)
        line = self.data[self.position : end]
        self.position = end + 1
        return line.decode("utf-8", "backslashreplace")

    def _grow(self) -> None:
        piece = self._more()
        if not piece:
            raise DamagedError(f"{self.what} is cut off after {len(self.data)} bytes", advice=GET_AGAIN)
        most = Budget(self.what, self.on_disk).most("pickle bytes")
        if len(self.data) + len(piece) > most:
            raise UnsafeError(f"{self.what} is larger than {most} bytes", advice=DISTRUST)
        self.data += piece
