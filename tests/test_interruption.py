"""Whatever happens in mid-work: the complete directory stands at the output's place, or nothing does."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import w2vc
from tests.conftest import checkpoint
from w2vc.errors import OutputExistsError, OutputWriteError
from w2vc.output_directory import output_directory

KILLS = 100
SIGNALS = 12


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def right(large: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("right") / "out"
    w2vc.convert(large, output)
    return contents(output)


# ---------------------------------------------------------------------------------------------------------------
# Children

_ZYGOTE = """
import os, signal, sys
import torch, torch.utils.serialization, omegaconf, safetensors.torch, w2vc.cli, w2vc.conversion, w2vc.write
from w2vc.acceptance import load_classes
load_classes(with_tokenizer=True)
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    arguments = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        sys.argv = ["w2vc", *arguments]
        try:
            w2vc.cli.main()
        except SystemExit as end:
            os._exit(end.code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Children:
    """Starts ``w2vc`` in forks of a process that has imported everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, "-c", _ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, *arguments: object, after: float | None = None, send: int = signal.SIGKILL) -> int:
        """The exit code of a run that gets a signal after so many seconds, if it is still there."""
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, arguments)) + "\n")
        self._process.stdin.flush()
        child = int(self._line())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, send)
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    opened = Children()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def duration(children: Children, large: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that a conversion takes; the longest of three, so that no moment is left out."""
    folder = tmp_path_factory.mktemp("duration")
    took = []
    for number in range(3):
        started = time.monotonic()
        assert children.run("convert", large, folder / str(number)) == 0
        took.append(time.monotonic() - started)
    return max(took)


@dataclass
class Tally:
    """How many runs ended with nothing, with the whole directory, and with something hidden left behind."""

    nothing: int = 0
    complete: int = 0
    hidden: int = 0


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ---------------------------------------------------------------------------------------------------------------
# Signals


def test_a_kill_at_any_moment_leaves_all_or_nothing_and_the_rerun_succeeds(
    children: Children, large: Path, right: dict[str, bytes], duration: float, tmp_path: Path
) -> None:
    moments = random.Random(3)  # noqa: S311 - to be repeated, not to be secret
    tally = Tally()
    output = tmp_path / "out"
    for _ in range(KILLS):
        children.run("convert", large, output, after=moments.uniform(0, 1.05 * duration))
        tally.hidden += bool(hidden(tmp_path))
        if output.exists():
            assert contents(output) == right
            tally.complete += 1
            shutil.rmtree(output)
        else:
            tally.nothing += 1
    assert children.run("convert", large, output) == 0
    assert contents(output) == right
    assert hidden(tmp_path) == []
    # The moments were spread over the whole of it.
    assert tally.nothing > KILLS / 4, tally
    assert tally.hidden > KILLS / 20, tally


def test_a_kill_while_an_output_is_replaced_leaves_the_old_or_the_new_one(
    children: Children, large: Path, right: dict[str, bytes], duration: float, tmp_path: Path
) -> None:
    moments = random.Random(4)  # noqa: S311 - to be repeated, not to be secret
    output = tmp_path / "out"
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "old")
    old = contents(tmp_path / "old")
    for _ in range(KILLS // 6):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(tmp_path / "old", output)
        children.run("convert", large, output, "--force", after=moments.uniform(0.5, 1.1) * duration)
        assert contents(output) in (old, right)
    assert children.run("convert", large, output, "--force") == 0
    assert contents(output) == right
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name)
def test_a_signal_leaves_all_or_nothing_and_nothing_hidden(
    number: int, children: Children, large: Path, right: dict[str, bytes], duration: float, tmp_path: Path
) -> None:
    moments = random.Random(number)  # noqa: S311 - to be repeated, not to be secret
    output = tmp_path / "out"
    codes = []
    for _ in range(SIGNALS):
        # Before a twentieth of it, the handlers may not be there yet.
        after = moments.uniform(0.05, 1.0) * duration
        codes.append(children.run("convert", large, output, after=after, send=number))
        assert hidden(tmp_path) == []
        if output.exists():
            assert contents(output) == right
            shutil.rmtree(output)
    assert set(codes) <= {0, 130}
    assert 130 in codes


# ---------------------------------------------------------------------------------------------------------------
# Places that can't be written


def refused_with(error: type[Exception], words: str, act: Callable[[], object]) -> None:
    with pytest.raises(error, match=words):
        act()


@contextlib.contextmanager
def small_file_system(place: Path, size: int) -> Iterator[bool]:
    """Mounts a file system of so many bytes, where that is permitted."""
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(os.fsencode(place), 2)


def test_a_full_disk_gives_exit_5_and_is_left_empty(children: Children, large: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 8 * 2**20) as mounted:
        if not mounted:  # the same through a limit on the size of files
            prefix = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)); "
            program = prefix + "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import w2vc.__main__"
            command = [sys.executable, "-c", program, "convert", str(large), str(tmp_path / "disk" / "out")]
            code = subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - ours
        else:
            code = children.run("convert", large, tmp_path / "disk" / "out")
        assert code == 5
        assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_an_error_of_the_file_system_leaves_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputWriteError, match=os.strerror(number)):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_gives_exit_5_and_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    code = _as_nobody(lambda: w2vc.convert(checkpoint("relative_ctc"), folder / "out"), folder)
    assert code == 5
    assert list(folder.iterdir()) == []


def _as_nobody(act: Callable[[], object], folder: Path) -> int:
    """The exit code of an error, in a child without the rights of root."""
    from w2vc.acceptance import load_classes
    from w2vc.cli import exit_code

    load_classes(with_tokenizer=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                _give_up_rights()
            act()
        except w2vc.W2vcError as error:
            code = exit_code(error)
        finally:
            os._exit(code)
    _child, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _give_up_rights() -> None:
    """Stays root by name, so that the checkpoint's folders can be read, and loses root's way around permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0, os.strerror(ctypes.get_errno())


def test_an_output_on_another_file_system_is_complete(large: Path, right: dict[str, bytes]) -> None:
    folder = Path("/dev/shm") / f"w2vc-{os.getpid()}"  # noqa: S108 - its own folder, by the process's number
    folder.mkdir()
    try:
        w2vc.convert(large, folder / "out")
        assert contents(folder / "out") == right
        assert hidden(folder) == []
    finally:
        shutil.rmtree(folder)


# ---------------------------------------------------------------------------------------------------------------
# Two at once


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "force"])
def test_of_two_conversions_to_the_same_output_one_wins_and_it_is_complete(
    options: tuple[str, ...], large: Path, right: dict[str, bytes], tmp_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    output = tmp_path / "out"
    pair = [Children(), Children()]
    try:
        for _ in range(2):
            shutil.rmtree(output, ignore_errors=True)
            with ThreadPoolExecutor(2) as threads:
                runs = [threads.submit(one.run, "convert", large, output, *options) for one in pair]
                codes = sorted(run.result() for run in runs)
            assert codes == ([0, 0] if options else [0, 5])
            assert contents(output) == right
            assert hidden(tmp_path) == []
    finally:
        for one in pair:
            one.close()


def test_what_another_process_is_building_is_not_cleared_away(tmp_path: Path) -> None:
    with output_directory(tmp_path / "out", force=False) as first:
        (first / "config.json").write_text("{}", encoding="utf-8")
        with output_directory(tmp_path / "out", force=False) as second:
            (second / "config.json").write_text("[]", encoding="utf-8")
        assert (first / "config.json").exists()
        shutil.rmtree(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text(encoding="utf-8") == "{}"
    assert hidden(tmp_path) == []


def test_what_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    def build() -> None:
        with output_directory(tmp_path / "out", force=False) as building:
            (building / "config.json").write_text("{}", encoding="utf-8")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("x", encoding="utf-8")

    refused_with(OutputExistsError, "not empty", build)
    assert contents(tmp_path / "out") == {"theirs": b"x"}
    assert hidden(tmp_path) == []
