"""A worker process: takes a job from its socket, converts, says how far it is and what became of it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from w2vc.batching.jobs import Job
from w2vc.batching.work import work

# How often progress is sent, in seconds.
_TICK = 0.1
_MESSAGE_BYTES = 2**16


class Stopped(BaseException):
    """A conversion is ended from outside and leaves no directory. No ``Exception``: it is no failure."""


def serve(descriptor: int) -> None:
    """Do the jobs that come on a socket until it is closed; then end the process.

    Args:
        descriptor: of this process's end of the socket.
    """
    # As many conversions as processors run already. torch reads this when it is imported, with the first conversion.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Registered before torch is imported, so called when all else is done: leaves out half a second of its teardown.
    atexit.register(os._exit, 0)
    with socket.socket(fileno=descriptor) as channel:
        server = _Server(channel)
        signal.signal(signal.SIGTERM, server.terminate)
        try:
            server.serve()
        except (Stopped, OSError):
            os._exit(128 + signal.SIGTERM)


class _Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._is_busy = False
        self._is_terminated = False
        self._told = 0.0

    def serve(self) -> None:
        self._send({"ready": True})
        for message in self._messages():
            self._is_busy = True
            result = work(Job.from_plain(message["job"]), bool(message["force"]), self._watch)
            self._send({"result": result.plain()})
            self._is_busy = False
            if self._is_terminated:
                raise Stopped

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Act on SIGTERM: at once if idle, otherwise after the conversion has cleared away what it had begun."""
        self._is_terminated = True
        if not self._is_busy:
            os._exit(128 + signal.SIGTERM)

    def _messages(self) -> Iterator[dict[str, Any]]:
        begun = b""
        while piece := self._channel.recv(_MESSAGE_BYTES):
            *lines, begun = (begun + piece).split(b"\n")
            yield from map(json.loads, lines)

    def _send(self, message: dict[str, object]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _watch(self, done: int, whole: int) -> None:
        if self._is_terminated or self._is_abandoned():
            raise Stopped
        now = time.monotonic()
        if now - self._told >= _TICK:
            self._told = now
            try:
                self._send({"done": done, "whole": whole})
            except OSError:
                raise Stopped from None

    def _is_abandoned(self) -> bool:
        """Whether the other end is closed: the batch was stopped, or its process killed."""
        try:
            return not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
