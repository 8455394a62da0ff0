"""Whatever happens in mid-work: the complete directory stands at the output's place, or nothing does."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import w2vc
from tests.conftest import checkpoint
from tests.support.moments import Children, Moments
from tests.support.readme import ROOT
from w2vc.errors import OutputExistsError, OutputWriteError
from w2vc.writing.output_directory import _exchange as exchange
from w2vc.writing.output_directory import check_free, output_directory

# A hundred kills in all.
KILLS_BEFORE, KILLS_DURING, KILLS_AFTER = 20, 70, 10
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


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    opened = Children()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def duration(children: Children, large: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """About how many seconds a conversion takes."""
    started = time.monotonic()
    assert children.run("convert", large, tmp_path_factory.mktemp("duration") / "out") == 0
    return time.monotonic() - started


@pytest.fixture(scope="module")
def moments(children: Children, large: Path, tmp_path_factory: pytest.TempPathFactory) -> Moments:
    """Of a conversion to a free place."""
    return children.moments("convert", large, tmp_path_factory.mktemp("moments") / "out")


def spread(number: int, first: int, last: int) -> Iterator[int]:
    """So many moments, at random in as many equal parts of what lies between two."""
    choice = random.Random(f"{number} {first}")  # noqa: S311 - to be repeated, not to be secret
    for part in range(number):
        yield int(first + (last - first) * (part + choice.random()) / number)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ---------------------------------------------------------------------------------------------------------------
# Signals

# What the count of calls may differ by from run to run, as threads and random names are about.
SLACK = 500


@pytest.mark.slow
def test_a_kill_before_anything_is_written_leaves_nothing(
    children: Children, large: Path, moments: Moments, tmp_path: Path
) -> None:
    for moment in spread(KILLS_BEFORE, 1, moments.building - SLACK):
        assert children.run("convert", large, tmp_path / "out", at=moment) == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_kill_at_any_moment_of_the_writing_leaves_all_or_nothing_and_the_rerun_succeeds(
    children: Children, large: Path, right: dict[str, bytes], moments: Moments, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    half_made = 0
    for moment in spread(KILLS_DURING, moments.building + SLACK, moments.placed - SLACK):
        assert children.run("convert", large, output, at=moment) == -signal.SIGKILL
        half_made += bool(hidden(tmp_path))
        if output.exists():
            assert contents(output) == right
            shutil.rmtree(output)
    assert half_made > 0.9 * KILLS_DURING
    assert children.run("convert", large, output) == 0
    assert contents(output) == right
    assert hidden(tmp_path) == []


@pytest.mark.slow
def test_a_kill_after_the_writing_leaves_it_complete(
    children: Children, large: Path, right: dict[str, bytes], moments: Moments, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for moment in spread(KILLS_AFTER, moments.placed + SLACK, moments.end - SLACK):
        assert children.run("convert", large, output, at=moment) == -signal.SIGKILL
        assert contents(output) == right
        shutil.rmtree(output)


@pytest.mark.slow
def test_a_kill_while_an_output_is_replaced_leaves_the_old_or_the_new_one(
    children: Children, large: Path, right: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "old")
    old = contents(tmp_path / "old")

    def replace() -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(tmp_path / "old", output)

    replace()
    moments = children.moments("convert", large, output, "--force")
    found = []
    for moment in spread(KILLS_BEFORE, moments.building, moments.end - SLACK):
        replace()
        assert children.run("convert", large, output, "--force", at=moment) == -signal.SIGKILL
        found.append(contents(output))
    assert all(one in (old, right) for one in found)
    assert old in found
    assert right in found
    assert children.run("convert", large, output, "--force") == 0
    assert contents(output) == right
    assert hidden(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name)
def test_a_signal_leaves_nothing_behind(
    number: int, children: Children, large: Path, right: dict[str, bytes], moments: Moments, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # From where the handlers are there.
    for moment in spread(SIGNALS, SLACK, moments.placed - SLACK):
        assert children.run("convert", large, output, at=moment, send=number) == 130
        assert hidden(tmp_path) == []
        if output.exists():
            assert contents(output) == right
            shutil.rmtree(output)


_INTERRUPTED_LIBRARY = """
import os, signal, sys
import safetensors
from w2vc.command.main import main

if sys.argv.pop(1) == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
opened = safetensors.safe_open

def safe_open(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        return opened(*arguments, **options)
    except BaseException:
        raise ValueError("out of a library that was putting things in order")

safetensors.safe_open = safe_open
main()
"""


def interrupted_library(how: str, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _INTERRUPTED_LIBRARY, how, "convert", str(checkpoint("relative_ctc")), str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603 - ours


@pytest.mark.slow
def test_ctrl_c_within_a_library_is_told_as_nothing_else(tmp_path: Path) -> None:
    run = interrupted_library("taken", tmp_path / "out")
    assert (run.returncode, run.stdout) == (130, "")
    assert run.stderr == "w2vc: Interrupted.\n      Nothing was left behind; run the same command again.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_that_whoever_started_it_has_ignored_stays_ignored(tmp_path: Path) -> None:
    run = interrupted_library("ignored", tmp_path / "out")
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name
)
def test_a_signal_within_a_system_call_leaves_all_or_nothing(
    number: int, children: Children, large: Path, right: dict[str, bytes], duration: float, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    choice = random.Random(number)  # noqa: S311 - to be repeated, not to be secret
    for _ in range(SIGNALS):
        # Before a twentieth of it, the handlers may not be there yet.
        code = children.run_for(choice.uniform(0.05, 1.0) * duration, "convert", large, output, send=number)
        assert code in (0, -signal.SIGKILL if number == signal.SIGKILL else 130)
        assert number == signal.SIGKILL or hidden(tmp_path) == []
        if output.exists():
            assert contents(output) == right
            shutil.rmtree(output)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_folder_without_permission_gives_exit_5_and_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    code = _as_nobody(lambda: w2vc.convert(checkpoint("relative_ctc"), folder / "out"), folder)
    assert code == 5
    assert list(folder.iterdir()) == []


def _as_nobody(act: Callable[[], object], folder: Path) -> int:
    """The exit code of an error, in a child without the rights of root."""
    from w2vc.command.exit_codes import exit_code
    from w2vc.writing.acceptance import load_classes

    load_classes("Wav2Vec2ConformerConfig", with_tokenizer=True)
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        fill(first, "{}")
        build(tmp_path / "out", force=False)
        assert (first / "config.json").exists()
        shutil.rmtree(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text(encoding="utf-8") == "{}"
    assert hidden(tmp_path) == []


def fill(directory: Path, text: str) -> None:
    """The least that is known for an output of w2vc: weights that say so, and a text to tell it by."""
    header = json.dumps({"__metadata__": {"converted_by": "w2vc 0.1.0"}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (directory / "config.json").write_text(text, encoding="utf-8")


def put(output: Path, text: str) -> None:
    output.mkdir()
    fill(output, text)


def build(output: Path, *, force: bool, text: str = "ours") -> None:
    with output_directory(output, force=force) as building:
        fill(building, text)


def config_of(output: Path) -> str:
    """The text that an output of ours is told by; all else has to be as it was made."""
    assert {path.name for path in output.iterdir()} == {"model.safetensors", "config.json"}
    return (output / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("moment", ["after the look", "before the rename"])
def test_an_output_that_another_puts_there_at_the_last_moment_is_replaced_only_by_force(
    moment: str, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    look, rename = check_free, Path.rename

    def put_theirs() -> None:
        if not output.exists():
            put(output, "theirs")

    def look_too_early(place: Path, **how: Any) -> None:
        look(place, **how)
        if hidden(tmp_path):  # the last look, not the first
            put_theirs()

    def rename_too_late(self: Path, target: Path) -> Path:
        put_theirs()
        return rename(self, target)

    if moment == "after the look":
        monkeypatch.setattr("w2vc.writing.output_directory.check_free", look_too_early)
    else:
        monkeypatch.setattr(Path, "rename", rename_too_late)
    if force:
        build(output, force=True)
    else:
        refused_with(OutputExistsError, "earlier conversion", lambda: build(output, force=False))
    assert config_of(output) == ("ours" if force else "theirs")
    assert hidden(tmp_path) == []


def test_a_file_that_somebody_puts_into_an_output_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"

    def late(building: Path, output: Path) -> None:
        if not (building / "notes.txt").exists():
            (output / "notes.txt").write_text("theirs", encoding="utf-8")
        exchange(building, output)

    put(output, "old")
    monkeypatch.setattr("w2vc.writing.output_directory._exchange", late)
    refused_with(OutputExistsError, "notes.txt", lambda: build(output, force=True))
    assert (output / "notes.txt").read_text(encoding="utf-8") == "theirs"
    (output / "notes.txt").unlink()
    assert config_of(output) == "old"
    assert hidden(tmp_path) == []


def test_what_another_clears_away_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    cleared: list[str] = []

    def late(descriptor: int, operation: int) -> None:
        if not cleared:
            cleared.extend(hidden(tmp_path))
            shutil.rmtree(tmp_path / cleared[0])
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    build(tmp_path / "out", force=False)
    assert len(cleared) == 1
    assert config_of(tmp_path / "out") == "ours"
    assert hidden(tmp_path) == []


def test_an_output_that_another_takes_away_at_the_last_moment_is_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(building: Path, output: Path) -> None:
        shutil.rmtree(output)
        exchange(building, output)

    monkeypatch.setattr("w2vc.writing.output_directory._exchange", late)
    put(tmp_path / "out", "theirs")
    build(tmp_path / "out", force=True)
    assert config_of(tmp_path / "out") == "ours"
    assert hidden(tmp_path) == []


# Where directories can't change places in one step.


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: object())


@pytest.mark.usefixtures("without_exchange")
def test_an_output_is_replaced_where_directories_cannot_be_exchanged(tmp_path: Path) -> None:
    put(tmp_path / "out", "theirs")
    build(tmp_path / "out", force=True)
    assert config_of(tmp_path / "out") == "ours"
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("without_exchange")
def test_an_output_that_cannot_be_replaced_without_exchange_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, renamed = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    put(tmp_path / "out", "theirs")
    monkeypatch.setattr(Path, "rename", second_fails)
    refused_with(OutputWriteError, "Input/output error", lambda: build(tmp_path / "out", force=True))
    assert config_of(tmp_path / "out") == "theirs"
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("without_exchange")
def test_ctrl_c_between_the_two_renames_without_exchange_waits_for_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    put(tmp_path / "out", "theirs")
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", force=True)
    assert config_of(tmp_path / "out") == "ours"
    assert hidden(tmp_path) == []


def test_what_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    def build_beside() -> None:
        with output_directory(tmp_path / "out", force=False) as building:
            fill(building, "{}")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("x", encoding="utf-8")

    refused_with(OutputExistsError, "not empty", build_beside)
    assert contents(tmp_path / "out") == {"theirs": b"x"}
    assert hidden(tmp_path) == []
