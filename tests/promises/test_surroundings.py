"""Whatever surrounds a run, its exit code is kept: folders full of modules, streams that are closed or full."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import w2vc
from tests.conftest import checkpoint
from w2vc.batching.pool import import_path
from w2vc.errors import UsageError
from w2vc.reading.opening import read_small_file

SOURCE = checkpoint("relative_ctc")
ROOT = str(Path(w2vc.__file__).parent.parent)
MODULE = [sys.executable, "-m", "w2vc"]
# As the console script does: its own folder, not the current one, is the first to import from.
SCRIPT = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-I", "-c"]
SCRIPT += [f"import sys; sys.path.insert(0, {ROOT!r}); from w2vc.command.main import main; main()"]


def run(*arguments: object, command: list[str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    environment = {**os.environ, "PYTHONPATH": ROOT, **options.pop("env", {})}
    return subprocess.run(  # noqa: S603 - ours
        [*(command or SCRIPT), *map(str, arguments)], check=False, env=environment, **options
    )


def two_lines(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert len(result.stderr.splitlines()) == 2, result.stderr
    assert "bug in w2vc" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


# ---------------------------------------------------------------------------------------------------------------
# A current folder full of modules

OTHERS = "numpy torch transformers safetensors omegaconf yaml regex typer click rich soundfile distributed tensorflow"
OTHERS += (
    " sitecustomize usercustomize accelerate sklearn scipy kenlm phonemizer typing_extensions tokenizers w2vc_extra"
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of every name there is, which tells if it is imported, and two checkpoints."""
    folder = tmp_path_factory.mktemp("downloads")
    for name in {*sys.stdlib_module_names, *OTHERS.split()}:
        canary = f"open({str(folder)!r} + '/RAN-{name}', 'w').close()\n"
        (folder / f"{name}.py").write_text(canary, encoding="utf-8")
    shutil.copyfile(SOURCE, folder / "model.pt")
    shutil.copyfile(checkpoint("relative_pretraining"), folder / "other.pt")
    return folder


def ran(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("RAN-*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "model.pt", "out", "--force"),
        ("inspect", "model.pt"),
        ("verify", "model.pt", "out"),
        ("batch", ".", "--output", "many", "--jobs", "2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_module_of_the_current_folder_is_imported(arguments: tuple[str, ...], downloads: Path) -> None:
    result = run(*arguments, cwd=downloads, env={"PYTHONPATH": ""})
    assert result.returncode == 0, result.stderr
    assert ran(downloads) == set()


@pytest.mark.slow
def test_python_m_imports_from_the_current_folder_at_most_what_python_itself_does(downloads: Path) -> None:
    """``runpy`` and what it needs are imported before any code of ours; -P keeps Python from that, too."""
    probe = "import runpy, sys; print(*sys.modules)"
    before = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    result = run("batch", "model.pt", "--output", "python-m", "--jobs", "1", cwd=downloads, command=MODULE)
    unavoidable = {f"RAN-{name.split('.')[0]}" for name in before.stdout.split()}
    found = ran(downloads)
    for canary in found:
        (downloads / canary).unlink()
    assert found <= unavoidable, result.stderr


def test_what_workers_import_from_is_what_we_do_without_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), str(tmp_path / "link"), "sub", "/usr/lib"])
    assert import_path() == [str(tmp_path / "sub"), "/usr/lib"]


@pytest.mark.slow
def test_a_script_may_call_batch_without_a_guard(tmp_path: Path) -> None:
    shutil.copyfile(checkpoint("relative_pretraining"), tmp_path / "a.pt")
    (tmp_path / "script.py").write_text("import w2vc\nprint(w2vc.batch(['a.pt'], 'out', jobs=1).is_good)\n")
    result = run("script.py", command=[sys.executable], cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr


# ---------------------------------------------------------------------------------------------------------------
# Streams


def shell(line: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash, in which W2VC is the command."""
    script = f'w2vc() {{ {shlex.join(SCRIPT)} "$@"; }}; {line}'
    return run(*arguments, command=["bash", "-c", script, "bash"], **options)


@pytest.mark.slow
def test_closed_streams_change_nothing(tmp_path: Path) -> None:
    for number, closed in enumerate(("<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")):
        output = tmp_path / str(number)
        assert shell(f'w2vc convert "$1" "$2" {closed}', SOURCE, output).returncode == 0
        w2vc.verify(SOURCE, output).raise_if_different()
        assert shell(f'w2vc convert "$1" "$2" {closed}', SOURCE, output).returncode == 5


@pytest.mark.slow
def test_a_result_that_cannot_be_printed_is_an_error_and_an_error_keeps_its_code(tmp_path: Path) -> None:
    result = shell('w2vc inspect "$1" > /dev/full', SOURCE)
    two_lines(result, 5, "The result can't be printed: No space left on device.")
    assert shell("w2vc --help > /dev/full").returncode == 5
    assert shell('w2vc inspect "$1" > /dev/full 2> /dev/full', tmp_path / "none.pt").returncode == 3
    assert shell('w2vc inspect "$1" --json > /dev/full', tmp_path / "none.pt").returncode == 3
    assert shell('w2vc batch "$1" -o "$2" 2> /dev/full', SOURCE, tmp_path / "out").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("line", ['w2vc inspect "$1" --tensors', "w2vc --help", "w2vc convert --help"])
def test_a_reader_that_has_left_is_no_error(line: str) -> None:
    result = shell(f"{line} | true; echo ${{PIPESTATUS[0]}}", SOURCE)
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.slow
def test_a_reader_that_has_left_hides_no_difference_and_stops_no_batch(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("relative_pretraining"), tmp_path / "other")
    result = shell('w2vc verify "$1" "$2" 2>&1 | true; echo ${PIPESTATUS[0]}', SOURCE, tmp_path / "other")
    assert result.stdout == "6\n"
    result = shell('w2vc batch "$1" -o "$2" 2>&1 | true; echo ${PIPESTATUS[0]}', SOURCE, tmp_path / "out")
    assert result.stdout == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_stream_that_takes_only_ascii_gets_ascii(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "modell-\N{LATIN SMALL LETTER U WITH DIAERESIS}.pt"
    shutil.copyfile(SOURCE, source)
    result = run("convert", source, tmp_path / "\N{SNOWMAN}", env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    two_lines(run("inspect", tmp_path / "\N{SNOWMAN}.pt", env=environment), 3)


@pytest.mark.slow
def test_names_that_are_no_unicode_are_read_and_shown_escaped_but_not_written(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    shutil.copyfile(SOURCE, folder + b"/\xff\xfe.pt")
    shutil.copyfile(SOURCE, tmp_path / "good.pt")
    assert run("convert", os.fsdecode(folder + b"/\xff\xfe.pt"), tmp_path / "converted").returncode == 0
    # safetensors opens no file of such a name: a directory that bears it could never be loaded.
    result = run("batch", tmp_path, "--output", tmp_path / "out", "--report", tmp_path / "report.jsonl")
    assert result.returncode == 7, result.stderr
    assert r"out/\udcff\udcfe can't be written: its name is not UTF-8" in result.stderr
    assert os.listdir(folder + b"/out") == [b"good"]  # noqa: PTH208 - in bytes
    two_lines(run("convert", tmp_path / os.fsdecode(b"\xff\xfe\x1b[2J"), tmp_path / "o"), 3, r"\udcff")


# ---------------------------------------------------------------------------------------------------------------
# Files that are none


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


ODD = ("pipe", "/dev/zero", "/dev/stdin", "/dev/full", "/proc/kcore", "/proc/kmsg", "/proc/self/mem", ".", "endless")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "place"),
    # A folder is no manifest, but one of the things that a batch takes.
    [
        (option, place)
        for option in ("--dict", "--config", "manifest")
        for place in ODD
        if (option, place) != ("manifest", ".")
    ],
)
def test_what_is_no_small_file_is_refused_at_once(option: str, place: str, pipe: Path) -> None:
    folder = pipe.parent
    with (folder / "endless").open("wb") as file:
        file.truncate(2**40)
    given = place if place.startswith("/") else str(folder / place)
    if option == "manifest":
        (folder / "list.csv").symlink_to(given)
        result = run("batch", folder / "list.csv", "--output", folder / "out", stdin=subprocess.DEVNULL)
    else:
        result = run("convert", SOURCE, folder / "out", option, given, stdin=subprocess.DEVNULL)
    two_lines(result, 2)
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "."])
def test_a_recording_that_is_no_file_is_refused_at_once(
    place: str, pipe: Path, converted: Callable[[str], Path]
) -> None:
    given = place if place.startswith("/") else str(pipe.parent / place)
    two_lines(run("verify", SOURCE, converted("relative_ctc"), "--wav", given, stdin=subprocess.DEVNULL), 2)


@pytest.mark.slow
def test_a_checkpoint_that_is_none_has_the_code_of_unreadable_ones(pipe: Path) -> None:
    for place in (pipe, "/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/environ", pipe.parent):
        two_lines(run("convert", place, pipe.parent / "out", stdin=subprocess.DEVNULL), 3)


@pytest.mark.slow
def test_a_checkpoint_that_may_not_be_read_has_the_code_of_unreadable_ones(tmp_path: Path) -> None:
    secret = tmp_path / "secret.pt"
    shutil.copyfile(SOURCE, secret)
    secret.chmod(0)
    without_rights = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    two_lines(run("inspect", secret, command=[*without_rights, *SCRIPT]), 3, "Permission denied")


def test_a_small_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(101))
    with pytest.raises(UsageError, match="larger than 100 bytes"):
        read_small_file(tmp_path / "file", "manifest", 100, "")
    assert read_small_file(tmp_path / "file", "manifest", 101, "") == bytes(101)
    assert read_small_file(Path("/proc/self/status"), "manifest", 10**5, "").startswith(b"Name:")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "text", "other.jsonl", "folder", "pipe", "/dev/null", "dataset"])
def test_a_report_is_never_written_into_another_file(what: str, pipe: Path) -> None:
    folder = pipe.parent
    shutil.copyfile(SOURCE, folder / "checkpoint")
    (folder / "text").write_text("years of work\n")
    (folder / "other.jsonl").write_text('{"checkpoint": "a.pt"}\n')
    (folder / "dataset").write_text('{"input": "/x", "output": "y"}')
    (folder / "folder").mkdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    report = what if what.startswith("/") else str(folder / what)
    two_lines(run("batch", SOURCE, "--output", folder / "out", "--report", report), 5, "report")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert not (folder / "out").exists()


# ---------------------------------------------------------------------------------------------------------------
# Little memory, no threads


def test_without_another_thread_to_be_had_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    w2vc.convert(SOURCE, tmp_path / "expected")
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    w2vc.convert(SOURCE, tmp_path / "out")
    for path in (tmp_path / "expected").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


LITTLE = (MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't start new thread"))


@pytest.mark.parametrize("error", LITTLE, ids=lambda error: type(error).__name__)
def test_a_lack_of_memory_is_said_in_two_lines_and_leaves_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from w2vc.command.running import run as run_here

    def raise_it(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("w2vc.writing.writer.accept", raise_it)
    assert run_here(["convert", str(SOURCE), str(tmp_path / "out")]) == 5
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# Ctrl-C before anything is ready


@pytest.mark.slow
@pytest.mark.parametrize("command", ["module", "script"])
def test_ctrl_c_at_the_very_beginning_is_no_traceback(command: str, tmp_path: Path) -> None:
    """The signal comes at the import of typer, which takes most of the time before the first byte is read."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), ROOT])
    program = MODULE if command == "module" else [sys.executable, "-c", "from w2vc.command.main import main; main()"]
    result = run("inspect", SOURCE, command=program, env={"PYTHONPATH": path})
    two_lines(result, 130, "Interrupted")


# ---------------------------------------------------------------------------------------------------------------
# Terminals


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_an_error_on_a_terminal_is_wrapped_with_a_hanging_indent(columns: int, tmp_path: Path) -> None:
    with terminal(columns) as (ours, theirs):
        result = run(
            *("convert", checkpoint("target_glu_pretraining"), tmp_path / "out"),
            capture_output=False,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={"NO_COLOR": "1", "COLUMNS": str(columns)},
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
    lines = shown.decode().splitlines()
    assert result.returncode == 4
    assert lines[0].startswith("w2vc: ")
    assert all(line.startswith("      ") for line in lines[1:])
    assert max(map(len, lines)) <= columns
    assert len(lines) > 2


@pytest.mark.slow
def test_an_error_with_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    result = run("convert", checkpoint("cropped_ctc"), tmp_path / "out", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["exit_code"], result.returncode) == ("UnsupportedModelError", 4, 4)
    assert "crop_seq_to_multiple" in error["problems"][0]
    assert error["advice"]
    assert json.loads(run("convert", "--nonsense", "--json").stdout)["error"]["exit_code"] == 2
    w2vc.convert(checkpoint("relative_pretraining"), tmp_path / "other")
    different = run("verify", SOURCE, tmp_path / "other", "--json")
    assert different.returncode == 6
    assert "error" not in json.loads(different.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("file.pt", "out put"), ("Did you mean `w2vc convert file.pt 'out put'`?",)),
        (("convrt", "x"), ("Did you mean `w2vc convert`?",)),
        (("convert", "x.pt", "out", "--dtype", "int8"), ("--dtype is int8", "float32, float16, bfloat16, keep")),
        (("convert", "x.pt", "out", "--head", "asr"), ("--head is asr", "auto, ctc, pretraining, projection, none")),
        (("convert", "x.pt", ""), ("OUTPUT is empty",)),
        (("batch", "missing.pt", "-o", "out"), ("There is no file or folder missing.pt",)),
    ],
)
def test_wrong_usage_is_answered_with_what_was_meant(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    two_lines(run(*arguments, cwd=tmp_path), 2, *words)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "choices"), [("--dtype b", "bfloat16 bf16"), ("--head p", "pretraining projection")])
def test_a_shell_completes_choices(line: str, choices: str) -> None:
    asked = {"COMP_WORDS": f"w2vc convert a.pt out {line}", "COMP_CWORD": "5"}
    result = run(env={"_W2VC_COMPLETE": "complete_bash", **asked})
    assert result.stdout.split() == choices.split(), result.stderr


@pytest.mark.parametrize(("alias", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16"), ("fp32", "float32")])
def test_dtypes_have_the_names_of_training_scripts_too(alias: str, dtype: str, tmp_path: Path) -> None:
    assert w2vc.convert(SOURCE, tmp_path / "out", dtype=alias, dry_run=True).values()["dtype"] == dtype


@pytest.mark.slow
def test_every_option_is_named_once() -> None:
    from w2vc.batching.manifests import COLUMNS
    from w2vc.command.app import app
    from w2vc.options import OPTIONS, OptionValues

    assert set(OptionValues.__annotations__) == set(OPTIONS)
    assert set(COLUMNS) == {"checkpoint", "output", *OPTIONS}
    assert len(app.registered_commands) == 4
    for name in ("convert", "inspect", "batch"):
        text = run(name, "--help").stdout
        assert all(how.flags[0].split("/")[0] in text for how in OPTIONS.values())
        assert "<" not in text
