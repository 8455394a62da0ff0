"""Ctrl-C and SIGTERM where they may not come between two lines."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_kept() -> Iterator[list[int]]:
    """Collect signals' numbers in a list, instead of acting on them, until the end of the block.

    A mask would not do: the system then gives the signal to another thread, and Python has the main one act on it.
    In other threads there is nothing to keep, as none of Python's handlers ever runs there.
    """
    came: list[int] = []

    def keep(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        # One that is ignored stays so, and one that just ends the process is as good as a kill.
        taken = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
        before = {number: signal.signal(number, keep) for number in taken}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
