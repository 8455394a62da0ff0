"""Runs w2vc in a process that would notice what a hostile file has it do.

One process imports everything once (``python -m tests.support.sandbox``) and forks a child for each request, so that
hundreds of runs take seconds. The child reports, as it happens, every process, connection, import, execution and
change of files that has no place in a conversion, and is denied it; its parent measures time and memory.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib
import inspect
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent

SECRET_NAME = "W2VC_TEST_SECRET"  # noqa: S105 - bait, not a password
SECRET = "this-value-is-in-no-file"  # noqa: S105 - bait, not a password


@dataclass(frozen=True)
class Run:
    """What one run did.

    Attributes:
        exit_code: negative for the signal that ended it.
        seconds: of processor time that it took.
        megabytes: of memory at its peak, what was imported before included.
        noticed: what it did that a conversion has no reason to do.
        stdout, stderr: what it printed.
        timed_out: it had to be ended.
    """

    exit_code: int
    seconds: float
    megabytes: float
    noticed: tuple[str, ...]
    stdout: str
    stderr: str
    timed_out: bool


class Sandbox:
    """Starts runs, one at a time, that may write below ``folder`` and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, SECRET_NAME: SECRET, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, arguments: list[str], *, act: str = "", seconds: float = 20) -> Run:
        """Runs ``w2vc`` with these arguments, or a function of the tests instead.

        Args:
            arguments: of the command line, or of the function.
            act: ``module:function``, called with the arguments.
            seconds: of processor time after which it is ended; of waiting, after three times as many.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": arguments, "act": act, "seconds": seconds, "folder": str(self.folder)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Run(**{**answer, "noticed": tuple(answer["noticed"])})

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """A sandbox whose runs may write below ``folder`` and nowhere else."""
    opened = Sandbox(folder)
    try:
        yield opened
    finally:
        opened.close()


# ---------------------------------------------------------------------------------------------------------------
# In the child: noticing

# Whatever begins so is noticed and denied.
_NEVER = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn", "os.startfile", "os.kill"),
    *("subprocess.", "pty.", "socket.", "ssl.", "urllib.", "http.", "ftplib.", "smtplib.", "telnetlib.", "webbrowser."),
    *("ctypes.", "code.", "function.__new__", "pickle.", "sqlite3.", "winreg.", "signal.", "syslog."),
    *("mmap.__new__", "sys.setprofile", "sys.settrace", "sys.addaudithook", "builtins.input"),
)
# What changes the file system, and which of its arguments are paths.
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), (0, 1)),
    **dict.fromkeys(("shutil.rmtree", "os.chdir", "os.setxattr", "os.removexattr", "os.mkfifo", "os.mknod"), (0,)),
    **dict.fromkeys(("shutil.copyfile", "shutil.move", "shutil.copytree"), (0, 1)),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """An audit hook: tells a pipe what it sees."""

    def __init__(self, report: int, folder: str) -> None:
        self.report = report
        self.folder = os.path.realpath(folder)
        self.code = tuple(
            os.path.realpath(place) for place in (*sys.path, sys.prefix, sys.base_prefix) if place and place != "."
        )
        self.packages = {name.partition(".")[0] for name in sys.modules} | set(_IMPORTED_BY_CONVERSIONS)
        self.inside = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside:
            return
        self.inside = True
        try:
            problem = self.problem(event, arguments)
        finally:
            self.inside = False
        if problem:
            os.write(self.report, (f"{event} {problem}".replace("\n", " ")[:300] + "\n").encode("utf-8", "replace"))
            raise PermissionError(f"the sandbox denies {event}")

    def problem(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event.startswith(_NEVER):
            return str(arguments)
        if event == "open":
            return self.of_open(arguments[0], arguments[2])
        if event in _CHANGES:
            outside = [arguments[place] for place in _CHANGES[event] if not self.may_change(arguments[place])]
            return str(outside) if outside else ""
        if event == "import":
            package = str(arguments[0]).partition(".")[0]
            return "" if package in self.packages else str(arguments[0])
        if event == "exec":
            return self.of_exec(arguments[0])
        if event.startswith("marshal.load"):
            # _getframe: this function, __call__, and whoever loads code.
            return "" if "importlib" in sys._getframe(2).f_code.co_filename else "code"
        return ""

    def of_open(self, path: object, flags: object) -> str:
        writes = isinstance(flags, int) and flags & _WRITING
        return str(path) if writes and isinstance(path, (str, bytes)) and not self.may_change(path) else ""

    def may_change(self, path: object) -> bool:
        if isinstance(path, int):  # a descriptor that was opened before, and looked at then
            return True
        real = os.path.realpath(os.fsdecode(str(path) if not isinstance(path, bytes) else path))
        return real in (os.devnull, self.folder) or real.startswith(self.folder + os.sep)

    def of_exec(self, code: object) -> str:
        name = code.co_filename if isinstance(code, CodeType) else repr(code)
        if name == "<string>":
            # _getframe: this function, problem, __call__, and whoever executes the text.
            return "" if sys._getframe(3).f_code.co_filename in _EXECUTE_TEXTS else f"text {code!r}"
        known = name.startswith("<frozen") or os.path.realpath(name).startswith(self.code)
        return "" if known else f"{name} {code!r}"


# Named tuples, dataclasses and annotations are texts that the standard library executes.
_EXECUTE_TEXTS = frozenset(str(module.__file__) for module in (collections, dataclasses, inspect, typing))
# Packages that a conversion may import late.
_IMPORTED_BY_CONVERSIONS = ("encodings", "unicodedata", "linecache", "traceback")


# ---------------------------------------------------------------------------------------------------------------
# The process that forks


def import_everything() -> None:
    """What a conversion imports, so that children begin where a conversion reads the file."""
    import difflib  # noqa: F401 - see above
    import tracemalloc  # noqa: F401 - warnings import it when they are shown

    import omegaconf  # noqa: F401 - see above
    import safetensors.torch  # noqa: F401 - see above
    import torch
    import torch.utils.serialization  # imported by torch.load

    from w2vc.writing.acceptance import load_classes

    load_classes("Wav2Vec2ConformerConfig", with_tokenizer=True)
    torch.set_num_threads(1)
    # What the command line itself imports when it is used.
    with contextlib.redirect_stderr(io.StringIO()):
        _command_line(["convert", "", ""])


def _serve() -> None:
    import_everything()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(**json.loads(line))) + "\n")
        sys.stdout.flush()


def _forked(arguments: list[str], act: str, seconds: float, folder: str) -> dict[str, Any]:
    reading, writing = os.pipe()
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_child(arguments, act, seconds, folder, writing, out, err)
    os.close(writing)
    status, timed_out, usage = _wait(child, _WAITING * seconds)
    with os.fdopen(reading, "rb") as pipe:
        noticed = pipe.read().decode().splitlines()
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
        "noticed": noticed,
        "stdout": _contents(out),
        "stderr": _contents(err),
        "timed_out": timed_out,
    }


def _wait(child: int, seconds: float) -> tuple[int, bool, resource.struct_rusage]:
    """Status, whether it had to be killed, and what it used."""
    descriptor = os.pidfd_open(child)
    import select

    timed_out = not select.select([descriptor], [], [], seconds)[0]
    if timed_out:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    _child, status, usage = os.wait4(child, 0)
    out_of_time = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    return status, timed_out or out_of_time, usage


def _contents(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "backslashreplace")


# A bomb that goes off mustn't take the machine with it.
_ADDRESS_SPACE = 6 * 2**30
# Other processes may hold the machine: a run that uses no processor time gets this many times its seconds.
_WAITING = 3


def _be_the_child(arguments: list[str], act: str, seconds: float, folder: str, report: int, out: int, err: int) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        run = _act(act) if act else _command_line
        watch = _Watch(report, folder)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.addaudithook(watch)
        code = run(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _act(name: str) -> Callable[[list[str]], int]:
    module, _, function = name.partition(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return found


def _command_line(arguments: list[str]) -> int:
    from w2vc.command.main import _run

    sys.argv = ["w2vc", *arguments]
    return _run()


if __name__ == "__main__":
    _serve()
