"""Runs w2vc in processes that a signal meets at a moment of its own work, whatever the clock says.

One process imports everything once (``python -m tests.support.moments``) and forks a child for each run. A moment is
a call of a Python function, or the end of one in C, counted from the first: there Python looks for signals itself,
and the same number is the same place in the work, however fast the machine is. Audit events (``signalling/``)
would be too few: while the large checkpoint's directory is made, there are some 50 of them and 12,000 calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from tests.support.sandbox import import_everything


@dataclass
class Moments:
    """How many calls a conversion had made when something happened.

    Attributes:
        building: the hidden directory was there.
        placed: it had taken the output's place.
        end: all was done.
    """

    building: int = 0
    placed: int = 0
    end: int = 0


class Children:
    """Starts ``w2vc`` in forks of a process that has imported everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.moments"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _begin(self, arguments: tuple[object, ...], **options: object) -> int:
        assert self._process.stdin is not None
        request = {"arguments": [str(argument) for argument in arguments], **options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def run(self, *arguments: object, at: int = 0, send: int = signal.SIGKILL) -> int:
        """The exit code of a run that sends itself a signal at a moment; 0 is never."""
        self._begin(arguments, at=at, send=send)
        return int(self._line())

    def run_for(self, seconds: float, *arguments: object, send: int = signal.SIGKILL) -> int:
        """The exit code of a run that gets a signal after so many seconds, if it is still there."""
        child = self._begin(arguments)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, send)
        return int(self._line())

    def moments(self, *arguments: object) -> Moments:
        """The moments of a run that nothing interrupts."""
        self._begin(arguments, count=True)
        moments = Moments(**json.loads(self._line()))
        assert int(self._line()) == 0
        return moments

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# ---------------------------------------------------------------------------------------------------------------
# In the process, and in its forks


def _serve() -> None:
    import_everything()
    print("ready", flush=True)  # noqa: T201 - to the tests
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _convert(**request)
        print(child, flush=True)  # noqa: T201 - to the tests
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - to the tests


def _convert(arguments: list[str], at: int = 0, send: int = 0, count: bool = False) -> None:
    from w2vc.command.main import main

    answers = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.argv = ["w2vc", *arguments]
    if count:
        _count_moments(lambda moments: os.write(answers, json.dumps(asdict(moments)).encode() + b"\n"))
    elif at:
        _signal_at(at, send)
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)


def _at_each_call(act: Callable[[], None]) -> None:
    def look(_frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return"):
            act()

    sys.setprofile(look)


def _signal_at(moment: int, number: int) -> None:
    left = moment

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    _at_each_call(step)


def _count_moments(tell: Callable[[Moments], object]) -> None:
    moments = Moments()

    def step() -> None:
        moments.end += 1

    def mark(event: str, arguments: tuple[object, ...]) -> None:
        if event == "fcntl.flock" and not moments.building:
            moments.building = moments.end
        elif event == "os.rename" and ".w2vc-" in str(arguments[0]):
            moments.placed = moments.end

    end = os._exit

    def told(code: int) -> None:
        sys.setprofile(None)
        tell(moments)
        end(code)

    os._exit = told  # type: ignore[assignment]  # main's last call
    sys.addaudithook(mark)
    _at_each_call(step)


if __name__ == "__main__":
    _serve()
