"""No file that a stranger made gets anything done, believed, or written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.hostile_files import CANARY, CASES, FIXTURES, Case
from tests.support.sandbox import SECRET, Run, Sandbox, sandbox

MEGABYTES = 600
SECONDS = 20

REFUSED = [case for case in CASES.values() if case.exit_code != 0]
WITHOUT_EFFECT = [case for case in CASES.values() if case.exit_code == 0]
ARMED = [case for case in CASES.values() if case.armed]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.getbasetemp()) as opened:
        yield opened


@pytest.fixture(scope="module")
def right_weights(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    output = tmp_path_factory.mktemp("right") / "out"
    run = box.run(["convert", str(FIXTURES / "eras" / "plain_dict_ctc.pt"), str(output)])
    assert run.exit_code == 0, run.stderr
    weights: dict[str, np.ndarray] = load_file(output / "model.safetensors")
    return weights


def complaints(run: Run, files: dict[str, str] | None = None) -> list[str]:
    """What a run did that no file may make it do."""
    told = {"stdout": run.stdout, "stderr": run.stderr, **(files or {})}
    shown = (run.stdout + run.stderr).replace("\n", "")
    found = {
        **{f"noticed: {what}": True for what in run.noticed},
        f"it took {run.seconds:.0f} s": run.timed_out or run.seconds > SECONDS,
        f"it took {run.megabytes:.0f} MB": run.megabytes > MEGABYTES,
        f"signal {-run.exit_code}": run.exit_code < 0 and not run.timed_out,
        f"traceback: {run.stderr}": "Traceback" in run.stderr or run.exit_code == 1,
        "control characters on the terminal": not shown.isprintable(),
        f"the secret in {[name for name, text in told.items() if SECRET in text]}": SECRET in "".join(told.values()),
    }
    return [complaint for complaint, is_so in found.items() if is_so]


def made(case: Case, folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    case.make(path)
    return path


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused_in_two_lines(case: Case, stderr: str) -> bool:
    lines = stderr.splitlines()
    return len(lines) == 2 and lines[0].startswith("w2vc: ") and re.search(case.word, lines[0]) is not None


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_with_its_reason_and_nothing_is_done(
    case: Case, box: Sandbox, tmp_path: Path
) -> None:
    path = made(case, tmp_path)
    before = listed(tmp_path), listed_at_top(box)
    run = box.run(["convert", str(path), str(tmp_path / "out")], seconds=SECONDS)
    assert not complaints(run)
    assert (listed(tmp_path), listed_at_top(box)) == before
    assert run.exit_code == case.exit_code, run.stderr
    assert refused_in_two_lines(case, run.stderr), run.stderr
    assert len(run.stderr) < 25_000
    assert run.stdout == ""


def listed_at_top(box: Sandbox) -> set[str]:
    """What lies where the payloads would leave their mark: the sandbox's current directory."""
    return {path.name for path in box.folder.iterdir()}


@pytest.mark.parametrize("case", WITHOUT_EFFECT, ids=lambda case: case.name)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_trick_without_effect_changes_nothing(
    case: Case, as_json: bool, box: Sandbox, right_weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path, output = made(case, tmp_path), tmp_path / "out"
    run = box.run(["convert", str(path), str(output), *(["--json"] if as_json else [])], seconds=SECONDS)
    files = {file.name: file.read_bytes().decode("utf-8", "replace") for file in output.glob("*")}
    assert not complaints(run, files)
    assert run.exit_code == 0, run.stderr
    assert case.word in run.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "out"}
    if as_json:
        assert json.loads(run.stdout)["written"] is True
    weights = load_file(output / "model.safetensors")
    assert weights.keys() == right_weights.keys()
    same = all(np.array_equal(weights[name], right_weights[name]) for name in weights)
    assert same is case.same_weights


def test_values_that_are_not_finite_are_converted_and_counted(box: Sandbox, tmp_path: Path) -> None:
    path = made(CASES["weights_that_are_infinite"], tmp_path)
    report = json.loads(box.run(["convert", str(path), str(tmp_path / "out"), "--json"]).stdout)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    infinite = {name: int(np.isinf(weight).sum()) for name, weight in weights.items() if np.isinf(weight).any()}
    assert list(report["not_finite"].values()) == list(infinite.values())
    assert list(infinite) == ["lm_head.weight"]


# The worst of each category in a process of its own, from the first import on.

WORST = [
    "code_os_system",
    "storage_longer_than_its_record",
    "twenty_megabytes_of_dicts",
    "bit_flipped_in_a_tensor",
    "pipe",
    "cfg_with_a_hundred_thousand_keys",
]
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.parametrize("name", WORST)
def test_the_command_itself_refuses_within_the_limits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = made(case, tmp_path)
    command = [sys.executable, "-m", "w2vc", "convert", str(path), str(tmp_path / "out")]
    run = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", _MEASURED, *command], capture_output=True, text=True, check=False, timeout=3 * SECONDS
    )
    assert run.returncode == case.exit_code, run.stderr
    assert refused_in_two_lines(case, run.stderr), run.stderr
    assert int(run.stdout) < MEGABYTES
    assert listed(tmp_path) == {"checkpoint.pt"}


def test_code_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    path = made(CASES["code_os_system"], tmp_path)
    program = "import sys, w2vc\ntry: w2vc.convert(*sys.argv[1:])\nexcept w2vc.W2vcError: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert run.stdout == "False\n", run.stderr


# The sandbox itself


@pytest.mark.parametrize(
    ("misdeed", "complaint"),
    [
        ("starts_a_process", "subprocess.Popen"),
        ("starts_a_shell", "os.system"),
        ("forks", "os.fork"),
        ("connects", "socket"),
        ("writes_elsewhere", "open"),
        ("removes_elsewhere", "os.remove"),
        ("loads_a_library", "ctypes"),
        ("imports_a_stranger", "import antigravity"),
        ("executes_a_text", "exec"),
        ("sends_a_signal", "os.kill"),
        ("crashes", "signal 6"),
        ("tells_a_secret", "the secret"),
        ("steers_the_terminal", "control characters"),
        ("takes_much_memory", "MB"),
        ("takes_much_time", "it took"),
    ],
)
def test_the_sandbox_notices(misdeed: str, complaint: str, box: Sandbox) -> None:
    victim = box.folder.parent / f"{box.folder.name}-victim"
    victim.touch()
    run = box.run([str(victim)], act=f"tests.misdeeds:{misdeed}", seconds=2)
    assert any(complaint in found for found in complaints(run))
    assert victim.read_bytes() == b""
    victim.unlink()


@pytest.mark.parametrize("case", ARMED, ids=lambda case: case.name)
def test_the_payload_is_armed(case: Case, box: Sandbox, tmp_path: Path) -> None:
    """Python's own unpickler would run it: so what refuses it refuses something."""
    path = made(case, tmp_path)
    run = box.run([str(path)], act="tests.misdeeds:unpickles", seconds=5)
    canary = box.folder / CANARY
    assert complaints(run) or canary.exists()
    canary.unlink(missing_ok=True)
