"""Runs w2vc as people do: a process from its first import on, in whatever folder they happen to be.

``python -m`` would put that folder on Python's path by itself. So what is started is the script that an installer
makes of ``[project.scripts]``, which doesn't.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.sandbox import REPOSITORY, SECRET, SECRET_NAME, Run

_SCRIPT = """
import sys
from w2vc.command.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
# Stands between: a process that is started by a large one inherits its peak of memory.
_MEASURED = """
import json, os, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
told = {"exit_code": code, "seconds": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}
os.write(int(sys.argv[1]), json.dumps(told).encode())
"""


def write_script(folder: Path) -> Path:
    """Write what an installer makes of w2vc's entry point; returns its path."""
    script = folder / "w2vc"
    script.write_text(_SCRIPT, encoding="utf-8")
    return script


def run(
    script: Path,
    arguments: list[str],
    folder: Path,
    *,
    terminal: bool = False,
    seconds: float = 90,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run ``w2vc`` with these arguments in a folder.

    Args:
        script: from ``write_script``.
        arguments: of the command line.
        folder: the current one.
        terminal: stdout and stderr are terminals, not pipes.
        seconds: of waiting, after which it is ended.
        environment: more variables.
    """
    pair: Callable[[], tuple[int, int]] = pty.openpty if terminal else os.pipe
    pairs = [os.pipe(), pair(), pair()]
    told, out, err = (writing for _reading, writing in pairs)
    command = [sys.executable, "-I", "-S", "-c", _MEASURED, str(told), sys.executable, str(script), *arguments]
    process = subprocess.Popen(  # noqa: S603 - ours
        command,
        cwd=folder,
        env={**_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        pass_fds=(told,),
        start_new_session=True,
    )
    for writing in (told, out, err):
        os.close(writing)
    texts, timed_out = _read([reading for reading, _writing in pairs], seconds)
    if timed_out:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    used: dict[str, Any] = json.loads(texts[0] or '{"exit_code": -9, "seconds": 0, "megabytes": 0}')
    stdout, stderr = (text.replace("\r\n", "\n") for text in texts[1:])
    return Run(**used, noticed=(), stdout=stdout, stderr=stderr, timed_out=timed_out)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    ours = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", SECRET_NAME: SECRET, "TERM": "xterm"}
    return {**kept, **ours, "LANG": "C.UTF-8"}


def _read(descriptors: list[int], seconds: float) -> tuple[list[str], bool]:
    """What comes out of each until all are closed, and whether that took too long."""
    found = dict.fromkeys(descriptors, b"")
    left, end = set(descriptors), time.monotonic() + seconds
    while left:
        ready = select.select(list(left), [], [], max(0.0, end - time.monotonic()))[0]
        if not ready:
            break
        for descriptor in ready:
            piece = _piece(descriptor)
            found[descriptor] += piece
            if not piece:
                left.remove(descriptor)
    for descriptor in descriptors:
        os.close(descriptor)
    return [found[descriptor].decode("utf-8", "backslashreplace") for descriptor in descriptors], bool(left)


def _piece(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # a terminal whose other side is closed
        return b""
