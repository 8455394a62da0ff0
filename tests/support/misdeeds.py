"""What a file might have w2vc do, done on purpose, to see that the sandbox notices."""

from __future__ import annotations

import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from tests.support.sandbox import SECRET_NAME


def starts_a_process(_arguments: list[str]) -> int:
    return subprocess.run(["true"], check=False).returncode  # noqa: S607 - it is denied


def starts_a_shell(_arguments: list[str]) -> int:
    return os.system("true")  # noqa: S605, S607 - it is denied


def forks(_arguments: list[str]) -> int:
    if os.fork() == 0:
        os._exit(0)
    return 0


def connects(_arguments: list[str]) -> int:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))
    return 0


def writes_elsewhere(arguments: list[str]) -> int:
    Path(arguments[0]).write_text("x", encoding="utf-8")
    return 0


def removes_elsewhere(arguments: list[str]) -> int:
    Path(arguments[0]).unlink()
    return 0


def loads_a_library(_arguments: list[str]) -> int:
    import ctypes

    ctypes.CDLL("libm.so.6")
    return 0


def imports_a_stranger(_arguments: list[str]) -> int:
    import antigravity

    return len(antigravity.__name__)


def executes_a_text(_arguments: list[str]) -> int:
    exec("x = 1")  # noqa: S102 - it is denied
    return 0


def sends_a_signal(_arguments: list[str]) -> int:
    os.kill(os.getppid(), signal.SIGCONT)
    return 0


def crashes(_arguments: list[str]) -> int:
    os.abort()


def tells_a_secret(_arguments: list[str]) -> int:
    sys.stderr.write(os.environ[SECRET_NAME])
    return 0


def steers_the_terminal(_arguments: list[str]) -> int:
    sys.stderr.write("\x1b[2J")
    return 0


def takes_much_memory(_arguments: list[str]) -> int:
    return len(bytearray(b"x") * (700 * 2**20)) and 0


def takes_much_time(_arguments: list[str]) -> int:
    while True:
        pass


def waits_for_ever(_arguments: list[str]) -> int:
    time.sleep(3600)
    return 0


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, _identity: Any) -> object:
        return None


def unpickles(arguments: list[str]) -> int:
    """Does with a checkpoint what Python's own unpickler does."""
    with zipfile.ZipFile(arguments[0]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        _Unpickler(io.BytesIO(archive.read(name))).load()
    return 0
