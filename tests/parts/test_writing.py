"""The parts of the writer one by one: bytes to files, directories to their places, signals kept back."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import math
import os
import signal
import threading
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from w2vc.errors import DamagedError, OutputExistsError, OutputWriteError
from w2vc.families.family import FirstRow, Scale
from w2vc.planning.plan import Make, Move
from w2vc.reading.record import Record
from w2vc.reading.tensors import SourceTensor
from w2vc.writing import kernel_copy, output_directory, ownership, record_check, writer
from w2vc.writing.background import Background
from w2vc.writing.interrupts import interrupts_kept
from w2vc.writing.record_check import RecordCheck
from w2vc.writing.safetensors_file import DTYPE_CODES, layout, read_header

# ---------------------------------------------------------------------------------------------------------------
# Bytes


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A file of a hundred different bytes, and an empty one."""
    (tmp_path / "source").write_bytes(bytes(range(100)))
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


def no_copy(code: int) -> Callable[..., int]:
    def refuse(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


WITHOUT = ("EXDEV", "EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM", "EBADF")


@pytest.mark.parametrize("how", ["in the kernel", "without", *WITHOUT])
def test_a_range_is_copied_in_pieces_whatever_the_system_can(
    how: str, files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "without":
        monkeypatch.delattr(os, "copy_file_range")
    elif how in WITHOUT:
        monkeypatch.setattr(os, "copy_file_range", no_copy(getattr(errno, how)))
    monkeypatch.setattr(kernel_copy, "_KERNEL_PIECE", 7)
    monkeypatch.setattr(kernel_copy, "_PIECE", 5)
    source, target = files
    pieces = list(kernel_copy.copy_range(source, 10, target, 3, 20))
    assert pieces == ([7, 7, 6] if how == "in the kernel" else [5, 5, 5, 5])
    assert os.pread(target, 99, 0) == bytes(3) + bytes(range(10, 30))
    with pytest.raises(DamagedError, match="ends before"):
        list(kernel_copy.copy_range(source, 95, target, 0, 6))
    assert list(kernel_copy.copy_range(source, 95, target, 0, 5)) == [5]


def test_a_disk_that_fails_is_no_reason_to_copy_otherwise(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", no_copy(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        list(kernel_copy.copy_range(*files[:1], 0, files[1], 0, 5))


def test_room_is_made_even_where_the_file_system_cannot_reserve_it(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_copy.reserve(files[1], 50)
    assert os.fstat(files[1]).st_size == 50
    monkeypatch.setattr(os, "posix_fallocate", no_copy(errno.EOPNOTSUPP))
    kernel_copy.reserve(files[1], 70)
    assert os.fstat(files[1]).st_size == 70
    monkeypatch.setattr(os, "posix_fallocate", no_copy(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        kernel_copy.reserve(files[1], 90)


def test_all_is_read_and_written_however_little_the_system_takes(
    files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda file, views, at: read(file, [views[0][:3]], at))
    monkeypatch.setattr(os, "pwrite", lambda file, view, at: write(file, view[:3], at))
    buffer = bytearray(10)
    kernel_copy.read_into(files[0], memoryview(buffer), 20)
    assert buffer == bytes(range(20, 30))
    kernel_copy.write_at(files[1], bytes(buffer), 2)
    assert os.pread(files[1], 99, 0) == bytes(2) + buffer
    with pytest.raises(DamagedError, match="ends before"):
        kernel_copy.read_into(files[0], memoryview(buffer), 91)
    monkeypatch.setattr(os, "preadv", no_copy(errno.EIO))
    with pytest.raises(DamagedError, match="the checkpoint can't be read: Input/output error"):
        kernel_copy.read_into(files[0], memoryview(buffer), 0)


@pytest.mark.parametrize(
    ("size", "waits"),
    [(0, 0.01), (250_000_000, 0.01), (25_000_000_000, 1.0)],  # a tenth of what the copying takes
)
def test_what_is_written_goes_to_the_disk_meanwhile_in_parts(
    size: int, waits: float, files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    synced: list[int] = []
    looks = iter([False, False, True])

    def wait(part: float) -> bool:
        asked.append(part)
        return next(looks)

    monkeypatch.setattr(threading, "Event", lambda: types.SimpleNamespace(wait=wait, set=lambda: None))
    thread = types.SimpleNamespace()

    def make(target: Callable[[], None], **options: object) -> Any:
        assert options.get("daemon") is True
        thread.start, thread.join = target, lambda: None
        return thread

    monkeypatch.setattr(threading, "Thread", make)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    with kernel_copy.written_back_meanwhile(files[1], size):
        pass
    assert asked == pytest.approx([waits] * 3)
    assert synced == [files[1]] * 2


def test_work_is_done_in_the_background_and_is_over_at_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    go, done = threading.Event(), []

    def work(value: int, more: int = 0) -> int:
        assert go.wait(5)
        done.append(threading.current_thread())
        return value + more

    with Background() as threads:
        future = threads.submit(work, 3, more=4)
        assert not future.done()
        go.set()
    assert future.result(0) == 7
    assert done[0] is not threading.current_thread()
    assert done[0].daemon
    with Background() as threads:
        failed = threads.submit(math.sqrt, -1)
    assert isinstance(failed.exception(0), ValueError)

    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with Background() as threads:
        assert threads.submit(work, 5).result(0) == 5
    assert done[-1] is threading.current_thread()


# ---------------------------------------------------------------------------------------------------------------
# Signals


def test_signals_are_kept_back_and_their_handlers_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    acted: list[int] = []
    try:
        signal.signal(signal.SIGINT, lambda number, _frame: acted.append(number))
        signal.signal(signal.SIGTERM, lambda number, _frame: acted.append(number))
        handlers = [signal.getsignal(number) for number in before]
        with interrupts_kept() as came:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            assert came == [signal.SIGTERM, signal.SIGINT]
        assert acted == []
        assert [signal.getsignal(number) for number in before] == handlers
        with output_directory._interrupts_delayed():
            signal.raise_signal(signal.SIGINT)
            assert acted == []
        assert acted == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts_kept() as came:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
        assert came == []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_in_another_thread_there_is_nothing_to_keep() -> None:
    found: list[list[int]] = []

    def look() -> None:
        with interrupts_kept() as came:
            found.append(came)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[]]


# ---------------------------------------------------------------------------------------------------------------
# Whose a directory is

NAMES = (
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
    "model.safetensors",
)


def weights(directory: Path) -> None:
    """Weights without a tensor that say that w2vc made them."""
    directory.mkdir(exist_ok=True)
    header = json.dumps({"__metadata__": {"converted_by": "w2vc 1"}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("name", [*NAMES, "adapter.deu.safetensors", "adapter.azj-script_latin.safetensors"])
def test_every_name_that_w2vc_writes_is_its_own(name: str, tmp_path: Path) -> None:
    weights(tmp_path / "out")
    with (tmp_path / "out" / name).open("ab"):
        pass
    assert ownership.not_ours(tmp_path / "out") is None
    ownership.remove_ours(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes", "adapter..safetensors", "adapter.deu.safetensors.old", "readme.md", "vocab"])
def test_another_name_is_nobodys_to_remove(name: str, tmp_path: Path) -> None:
    weights(tmp_path)
    (tmp_path / name).touch()
    assert ownership.not_ours(tmp_path) == f"{tmp_path} holds what w2vc didn't write: {name}"
    ownership.remove_ours(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, "model.safetensors"}


def test_without_weights_of_ours_what_is_there_is_named(tmp_path: Path) -> None:
    for name in ("b", "a", "config.json"):
        (tmp_path / name).touch()
    assert ownership.not_ours(tmp_path) == f"{tmp_path} holds a, b, and no model that w2vc wrote"
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    assert ownership.not_ours(tmp_path) == f"{tmp_path} holds config.json, and no model that w2vc wrote"


@pytest.mark.parametrize("count", [5, 6, 7])
def test_five_strangers_are_named_and_the_others_counted(count: int) -> None:
    names = [str(number) for number in reversed(range(count))]
    more = f" and {count - 5} more" if count > 5 else ""
    assert ownership._shown(names) == f"0, 1, 2, 3, 4{more}"
    assert ownership._shown(["x" * 200]) == "x" * 100


def test_a_link_in_the_place_of_a_file_is_a_stranger(tmp_path: Path) -> None:
    weights(tmp_path / "out")
    (tmp_path / "mine").touch()
    (tmp_path / "out" / "config.json").symlink_to(tmp_path / "mine")
    assert "config.json" in (ownership.not_ours(tmp_path / "out") or "")
    ownership.remove_ours(tmp_path / "out")
    assert (tmp_path / "mine").exists()
    assert (tmp_path / "out" / "config.json").is_symlink()


def test_a_marked_directory_is_removed_whole_unless_a_stranger_or_what_is_protected_is_there(tmp_path: Path) -> None:
    for name in ("plain", "stranger", "protected", "other's mark"):
        (tmp_path / name).mkdir()
        ownership.mark(tmp_path / name)
        (tmp_path / name / "config.json").touch()
    (tmp_path / "stranger" / "notes").touch()
    (tmp_path / "other's mark" / ownership.MARKER).write_text("plain")
    protected = tmp_path / "protected" / "config.json"
    for name in ("plain", "stranger", "protected", "other's mark"):
        ownership.remove_ours(tmp_path / name, [protected])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other's mark", "protected", "stranger"]
    assert protected.exists()
    assert (tmp_path / "stranger" / "config.json").exists()
    ownership.unmark(tmp_path / "protected")
    assert [path.name for path in (tmp_path / "protected").iterdir()] == ["config.json"]


def test_an_empty_directory_may_go_whoever_made_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ownership.remove_ours(tmp_path / "empty")
    ownership.remove_ours(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_what_would_be_lost_with_a_directory_is_found_under_any_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "file").touch()
    (out / "entry").touch()
    (tmp_path / "other").touch()
    os.link(out / "entry", tmp_path / "same")
    (tmp_path / "link").symlink_to(out / "entry")
    (tmp_path / "folder").symlink_to(out / "deep")
    kept = [tmp_path / "other", tmp_path / "missing", tmp_path]
    assert ownership.held(out, kept) is None
    for lost in (out, out / "deep", out / "deep" / "file", tmp_path / "same", tmp_path / "link", tmp_path / "folder"):
        assert ownership.held(out, [*kept, lost]) == lost


# ---------------------------------------------------------------------------------------------------------------
# The place of an output


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("model", ".model.w2vc-"),
        ("x" * 100, f".{'x' * 100}.w2vc-"),
        ("é" * 50, f".{'é' * 50}.w2vc-"),
    ],
)
def test_a_hidden_directory_begins_with_the_outputs_name(name: str, prefix: str) -> None:
    assert output_directory._hidden_prefix(name) == prefix


def test_of_a_long_name_as_much_is_kept_as_leaves_room_and_no_two_are_mixed_up() -> None:
    found = {output_directory._hidden_prefix("é" * 51 + end) for end in ("a", "b")}
    assert len(found) == 2
    assert all(prefix.startswith(f".{'é' * 50}~") and len(prefix) == 1 + 50 + 9 + 6 for prefix in found)


def test_folders_that_were_made_are_noted_from_the_outside_in_and_removed_if_empty(tmp_path: Path) -> None:
    made: list[Path] = []
    output_directory._make_parents(tmp_path / "a" / "b", made)
    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    output_directory._make_parents(tmp_path / "a" / "b", made)
    assert len(made) == 2
    assert set(made) <= output_directory._parents
    (tmp_path / "a" / "file").touch()
    output_directory._remove_empty(made)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    output_directory._parents.difference_update(made)


def test_what_is_being_built_is_locked_and_marked(tmp_path: Path) -> None:
    lock = output_directory._make_locked(tmp_path / "building")
    assert (tmp_path / "building" / ownership.MARKER).read_text() == "building"
    other = os.open(tmp_path / "building", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        (".out.w2vc-0123456789ab", True),
        (".out.w2vc-0123456789a", False),
        (".out.w2vc-0123456789abc", False),
        (".out.w2vc-0123456789ag", False),
        (".other.w2vc-0123456789ab", False),
        ("0123456789ab", False),
    ],
)
def test_only_leftovers_of_the_same_output_are_cleared_away(name: str, goes: bool, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    ownership.mark(tmp_path / name)
    output_directory.clear_leftovers([tmp_path / "out"], ())
    assert (tmp_path / name).exists() is not goes


def test_leftovers_that_somebody_builds_or_that_hold_what_is_read_stay(tmp_path: Path) -> None:
    held = tmp_path / ".out.w2vc-0123456789ab"
    lock = output_directory._make_locked(held)
    output_directory.clear_leftovers([tmp_path / "out"], ())
    assert held.exists()
    os.close(lock)
    (held / "config.json").touch()
    output_directory.clear_leftovers([tmp_path / "out"], [held / "config.json"])
    assert (held / "config.json").exists()
    output_directory.clear_leftovers([tmp_path / "out"], ())
    assert not held.exists()


def taken(tmp_path: Path, output: Path, *, force: bool = False) -> str:
    with pytest.raises((OutputExistsError, OutputWriteError)) as caught:
        output_directory.check_free(output, force=force)
    assert caught.value.advice
    return f"{type(caught.value).__name__}: {caught.value}".replace(str(tmp_path), "")


def test_a_place_that_is_taken_is_refused_for_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty", "full", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "full" / "notes").touch()
    for name, target in (("to_file", "file"), ("to_folder", "folder"), ("to_nothing", "nothing")):
        (tmp_path / name).symlink_to(tmp_path / target)
    weights(tmp_path / "ours")
    for free in ("empty", "new", "new/deep"):
        output_directory.check_free(tmp_path / free, force=False)
    output_directory.check_free(tmp_path / "ours", force=True)
    expected = {
        "file": "OutputExistsError: /file exists and is no directory.",
        "full": "OutputExistsError: /full exists and is not empty.",
        "ours": "OutputExistsError: /ours holds an earlier conversion.",
        "to_file": "OutputExistsError: /to_file is a link to the file /file, and links are never replaced.",
        "to_folder": "OutputExistsError: /to_folder is a link to the directory /folder, and links are never replaced.",
        "to_nothing": "OutputExistsError: /to_nothing is a link to something that isn't there: /nothing, and links are "
        "never replaced.",
        "file/x/y": "OutputWriteError: /file/x/y would lie below /file, which is no directory.",
    }
    assert {name: taken(tmp_path, tmp_path / name) for name in expected} == expected
    assert taken(tmp_path, tmp_path / "full", force=True).endswith("/full holds notes, and no model that w2vc wrote.")
    monkeypatch.chdir(tmp_path / "empty")
    assert "OUTPUT is the current folder, /empty" in taken(tmp_path, tmp_path / "empty", force=True)


def test_a_place_where_nothing_can_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    output_directory.check_free(tmp_path / ("x" * longest), force=False)
    assert "File name too long" in taken(tmp_path, tmp_path / ("x" * (longest + 1)))
    assert "its name is not UTF-8" in taken(tmp_path, tmp_path / "\udcff")
    asked: list[int] = []

    def access(_path: Path, mode: int) -> bool:
        asked.append(mode)
        return False

    monkeypatch.setattr(os, "access", access)
    assert "may not be written to" in taken(tmp_path, tmp_path / "x")
    assert set(asked) == {os.W_OK | os.X_OK}


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EEXIST, OutputExistsError, "made by something else in the meantime"),
        (errno.ENOTEMPTY, OutputExistsError, "made by something else in the meantime"),
        (errno.EBUSY, OutputWriteError, "is a mount point"),
        (errno.ENOSPC, OutputWriteError, "No space left on device"),
    ],
)
def test_an_error_of_the_system_is_one_of_the_output(code: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught, output_directory._as_output_error(Path("/out")):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind
    own = OutputExistsError("mine", advice="")
    with pytest.raises(OutputExistsError, match="mine"), output_directory._as_output_error(Path("/out")):
        raise own


def test_two_directories_change_places_with_the_system_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / ".other.w2vc-0123456789ab", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        (place / place.name).touch()

    def inside() -> tuple[list[str], list[str]]:
        return [path.name for path in one.iterdir()], [path.name for path in other.iterdir()]

    before = inside()
    output_directory._exchange(one, other)
    assert inside() == before[::-1]
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: object())
    output_directory._exchange(one, other)
    assert inside() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with output_directory.output_directory(tmp_path / "new" / "out", force=False) as building:
        (building / "config.json").touch()
        hidden = str(building)
        assert building in output_directory._building
    files = [f"{hidden}/config.json", f"{hidden}/{ownership.MARKER}"]
    assert sorted(synced[:-2]) == sorted(files)
    assert synced[-2:] == [hidden, str(tmp_path / "new")]
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["config.json"]
    assert not output_directory._building
    assert not output_directory._parents


def touch_and(then: Callable[[], object], path: Path) -> None:
    path.touch()
    then()


def test_an_error_while_it_is_built_leaves_nothing(tmp_path: Path) -> None:
    placed = output_directory.output_directory(tmp_path / "new" / "out", force=False)
    with pytest.raises(ZeroDivisionError), placed as building:
        touch_and(lambda: 1 // 0, building / "config.json")
    assert list(tmp_path.iterdir()) == []


def test_what_is_built_is_gone_when_it_is_abandoned(tmp_path: Path) -> None:
    placed = output_directory.output_directory(tmp_path / "new" / "out", force=False)
    with pytest.raises(OutputWriteError), placed as building:
        touch_and(output_directory.abandon, building / "config.json")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# Layout and elements


def test_the_layout_is_the_formats() -> None:
    tensors = [("h", "float16", (3,)), ("i", "int64", ()), ("f", "float32", (2, 3)), ("b", "bfloat16", (0, 4))]
    made = layout(tensors, {"format": "pt", "é": "x"})
    length = int.from_bytes(made.header[:8], "little")
    assert len(made.header) == 8 + length
    assert length % 8 == 0
    assert json.loads(made.header[8:]) == {
        "__metadata__": {"format": "pt", "é": "x"},
        "i": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        "f": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
        "h": {"dtype": "F16", "shape": [3], "data_offsets": [32, 38]},
        "b": {"dtype": "BF16", "shape": [0, 4], "data_offsets": [38, 38]},
    }
    assert "é".encode() in made.header
    assert b", " not in made.header
    assert made.header.startswith(b'{"__metadata__":{"format"', 8)
    assert made.offsets == {
        name: len(made.header) + start for name, start in (("i", 0), ("f", 8), ("h", 32), ("b", 38))
    }
    assert made.size == len(made.header) + 38
    assert DTYPE_CODES == {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        bytes(8),
        (1).to_bytes(8, "little") + b"7",
        (100_000_001).to_bytes(8, "little") + b"{}",
        b"\2" + bytes(7) + b"[]",
    ],
)
def test_what_has_no_header_is_no_safetensors_file(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(ValueError, match="no safetensors file"):
        read_header(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"\2" + bytes(7) + b"{}more")
    assert read_header(tmp_path / "file") == {}


def source(shape: tuple[int, ...], dtype: str = "float32", stride: tuple[int, ...] | None = None) -> SourceTensor:
    natural = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return SourceTensor("x", shape, natural if stride is None else stride, dtype, Record("data/0", 0, 999, None), 0)


@pytest.mark.parametrize(
    ("edit", "start", "expected"),
    [
        (None, 0, [1, 2, 3, 4]),
        (Scale(0.5), 0, [0.5, 1, 1.5, 2]),
        (FirstRow("add", 10.0), 0, [11, 12, 13, 4]),
        (FirstRow("add", 10.0), 2, [11, 2, 3, 4]),
        (FirstRow("add", 10.0), 3, [1, 2, 3, 4]),
        (FirstRow("add", 10.0), 7, [1, 2, 3, 4]),
        (FirstRow("set", -7.0), 1, [-7, -7, 3, 4]),
    ],
)
def test_an_edit_changes_the_elements_that_it_means(edit: Any, start: int, expected: list[float]) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = writer._edited(values, source((4, 3)), edit, start, torch.float16)
    assert found.dtype == torch.float16
    assert found.tolist() == expected


def test_an_edit_of_a_single_number_changes_it() -> None:
    found = writer._edited(torch.tensor([1.0]), source(()), FirstRow("add", 2.0), 0, torch.float32)
    assert found.tolist() == [3.0]


@pytest.mark.parametrize(
    ("dtype", "given", "stride", "edit", "copied"),
    [
        ("float32", "float32", (3, 1), None, True),
        ("float32", "float16", (3, 1), None, False),
        ("float32", "float32", (1, 2), None, False),
        ("float32", "float32", (3, 1), Scale(1.0), False),
    ],
)
def test_only_what_stays_as_it_is_is_copied(
    dtype: str, given: str, stride: tuple[int, ...], edit: Any, copied: bool
) -> None:
    assert writer._as_it_is(Move("y", (2, 3), dtype, source((2, 3), given, stride), (), edit)) is copied


@pytest.mark.parametrize(
    ("content", "expected"),
    [("zeros", [0] * 6), ("ones", [1] * 6), ("constant", [2.5] * 6), ("identity", [1, 0, 0, 0, 1, 0])],
)
def test_what_is_made_has_its_content(content: Any, expected: list[float]) -> None:
    made = b"".join(writer._made(Make("y", (2, 3), "float16", content, "why", 2.5)))
    assert torch.frombuffer(bytearray(made), dtype=torch.float16).tolist() == expected
    assert b"".join(writer._made(Make("y", (0, 3), "float16", content, "why"))) == b""


def test_every_byte_that_is_done_is_reported() -> None:
    told: list[tuple[int, int]] = []
    done = writer._Done(10, lambda count, whole: told.append((count, whole)))
    for count in (3, 4, 3):
        done.add(count)
    assert told == [(3, 10), (7, 10), (10, 10)]
    writer._Done(10, None).add(3)


# ---------------------------------------------------------------------------------------------------------------
# Checks of records

KINDS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", KINDS)
def test_values_that_are_not_finite_are_counted_by_their_exponents(dtype: str) -> None:
    kind = KINDS[dtype]
    largest = torch.finfo(kind).max
    values = torch.tensor([0.0, 1.0, -1.0, largest, -largest, math.inf, -math.inf, math.nan], dtype=kind)
    for tensor, expected in ((values, 3), (values[:5], 0), (values[:6], 1), (values[3:4].repeat(9), 0)):
        bytes_ = memoryview(bytearray(tensor.view(torch.uint8).numpy().tobytes()))
        assert record_check._not_finite(bytes_, dtype) == expected


def checked(tmp_path: Path, contents: bytes, size: int, crc32: int | None, dtype: str = "float32") -> RecordCheck:
    (tmp_path / "file").write_bytes(b"1234" + contents)
    record = Record("data/0", 4, size, crc32)
    with RecordCheck() as check:
        check._source = os.open(tmp_path / "file", os.O_RDONLY)
        check._add(record, dtype)
        check._add(record, dtype)
        assert len(check._waiting) == 1
        check.work()
    return check


def test_a_record_is_checked_by_its_checksum_and_its_values(tmp_path: Path) -> None:
    contents = torch.tensor([1.0, math.inf, 3.0]).numpy().tobytes()
    right = zlib.crc32(contents)
    good = checked(tmp_path, contents, 12, right)
    assert not good.is_hopeless
    assert list(good._not_finite.values()) == [1]
    wrong = checked(tmp_path, contents, 12, right ^ 1)
    assert wrong.is_hopeless
    assert [record.name for record in wrong._wrong] == ["data/0"]
    assert not checked(tmp_path, contents, 12, None).is_hopeless
    assert not checked(tmp_path, contents, 12, right, "int64")._not_finite
    assert checked(tmp_path, contents, 99, right).is_hopeless  # it ends before


def test_each_source_of_a_plan_is_a_user_of_its_record() -> None:
    one, two, three = (
        SourceTensor(name, (1,), (1,), "float32", Record(f"data/{name}", 0, 4, None), 0) for name in ("a", "b", "c")
    )
    moved = (Move("x", (1,), "float32", one, (two,)), Make("m", (1,), "float32", "ones", "why"))
    plan = types.SimpleNamespace(weights={"first": moved, "second": (Move("y", (1,), "float32", three), moved[0])})
    assert record_check._users(plan) == {  # type: ignore[arg-type]  # enough of one
        one.storage: [one, one],
        two.storage: [two, two],
        three.storage: [three],
    }
