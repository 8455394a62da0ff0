"""No file that a stranger made gets anything done, believed, or written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support import whole_process
from tests.support.attempts import Attempts, Weights
from tests.support.hostile_files import CANARY, CASES, Case
from tests.support.sandbox import SECRET, Run, Sandbox, sandbox
from tests.support.strangers import Snapshot, Strangers

pytestmark = pytest.mark.slow

MEGABYTES = 600
SECONDS = 20
# 20 problems, each shortened, and a piece of advice.
CHARACTERS = 25_000

Test = TypeVar("Test", bound=Callable[..., object])

REFUSED = [case for case in CASES.values() if 0 not in case.exit_codes]
EITHER = [case for case in CASES.values() if 0 in case.exit_codes and len(case.exit_codes) > 1]
WITHOUT_EFFECT = [case for case in CASES.values() if case.exit_codes == (0,)]
ARMED = [case for case in CASES.values() if case.armed]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.getbasetemp()) as opened:
        yield opened


@pytest.fixture(scope="module")
def attempts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    """The attempts on all cases that this run of the tests asks for, begun at once."""
    opened = Attempts(tmp_path_factory.mktemp("attempts"), SECONDS)
    given = (getattr(item, "callspec", None) for item in request.session.items)
    asked = (callspec.params for callspec in given if callspec is not None and "attempt_on" in callspec.params)
    opened.begin((params["attempt_on"], params.get("as_json", False)) for params in asked)
    yield opened
    opened.close()


# What rich draws a progress bar with: the cursor hidden and shown, a line deleted, a line up, colours.
_DRAWN_BY_A_BAR = re.compile(r"\x1b\[\?25[hl]|\x1b\[2K|\x1b\[1A|\x1b\[[0-9;]*m|\r")


def complaints(run: Run, files: Mapping[str, str] | None = None) -> list[str]:
    """What a run did that no file may make it do."""
    told = {"stdout": run.stdout, "stderr": run.stderr, **(files or {})}
    shown = _DRAWN_BY_A_BAR.sub("", run.stdout + run.stderr).replace("\n", "")
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


def problems_with_refusal(case: Case, run: Run, path: Path | str) -> list[str]:
    """What is wrong with how a file was refused: the code, the two lines, or the reason."""
    lines = run.stderr.splitlines()
    reason = lines[0].replace(str(path), "PATH") if lines else ""
    found = {
        f"exit code {run.exit_code}": run.exit_code not in case.exit_codes,
        f"{len(lines)} lines": len(lines) != 2,
        f"no reason like {case.word!r}": re.search(case.word, reason) is None,
        "another first line": not reason.startswith("w2vc: "),
        f"{len(run.stderr)} characters": len(run.stderr) > CHARACTERS,
        "something on stdout": run.stdout != "",
    }
    return [f"{problem}: {run.stderr[:1000]}" for problem, is_so in found.items() if is_so]


def named(cases: list[Case]) -> Callable[[Test], Test]:
    return pytest.mark.parametrize("attempt_on", cases, ids=lambda case: case.name)


@named(REFUSED)
def test_a_hostile_file_is_refused_with_its_reason_and_nothing_is_done(attempt_on: Case, attempts: Attempts) -> None:
    attempt = attempts.of(attempt_on)
    assert not complaints(attempt.run)
    assert not problems_with_refusal(attempt_on, attempt.run, attempt.path)
    assert attempt.output is None
    assert not attempt.changed


@named(WITHOUT_EFFECT)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_trick_without_effect_changes_nothing(attempt_on: Case, as_json: bool, attempts: Attempts) -> None:
    attempt = attempts.of(attempt_on, as_json=as_json)
    assert attempt.run.exit_code == 0, attempt.run.stderr
    assert attempt_on.word in attempt.run.stdout
    assert not complaints(attempt.run, attempt.texts)
    assert not attempt.changed
    if as_json:
        assert strict_json(attempt.run.stdout)["written"] is True
    assert differences(attempt_on, attempt.weights, attempts.right_weights(attempt_on)) == {}


@named(EITHER)
def test_a_file_that_could_mislead_one_reader_is_refused_or_read_as_torch_reads_it(
    attempt_on: Case, attempts: Attempts
) -> None:
    attempt = attempts.of(attempt_on)
    assert not complaints(attempt.run, attempt.texts)
    assert not attempt.changed
    if attempt.run.exit_code == 0:
        assert differences(attempt_on, attempt.weights, attempts.right_weights(attempt_on)) == {}
    else:
        assert attempt.output is None
        assert not problems_with_refusal(attempt_on, attempt.run, attempt.path)


def differences(case: Case, weights: Weights, right: Weights) -> dict[str, str]:
    """The tensors of an output that are not what the case says, and how they differ."""
    found = dict.fromkeys(weights.keys() ^ right.keys(), "is there on one side only")
    for name in weights.keys() & right.keys():
        expected = np.full_like(weights[name], case.changed[name]) if name in case.changed else right[name]
        if not np.array_equal(weights[name], expected, equal_nan=True):
            found[name] = f"begins with {weights[name].ravel()[:3]}, not with {expected.ravel()[:3]}"
    return found


def strict_json(text: str) -> dict[str, object]:
    def refuse(word: str) -> object:
        raise ValueError(f"{word} is no JSON")

    values: dict[str, object] = json.loads(text, parse_constant=refuse)
    return values


def made(case: Case, folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    case.make(path)
    return path


def test_values_that_are_not_finite_are_converted_and_counted(box: Sandbox, tmp_path: Path) -> None:
    path = made(CASES["weights_that_are_infinite"], tmp_path)
    report = json.loads(box.run(["convert", str(path), str(tmp_path / "out"), "--json"]).stdout)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    infinite = {name: int(np.isinf(weight).sum()) for name, weight in weights.items() if np.isinf(weight).any()}
    assert list(report["not_finite"].values()) == list(infinite.values())
    assert list(infinite) == ["lm_head.weight"]


def test_code_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    path = made(CASES["code_os_system"], tmp_path)
    program = "import sys, w2vc\ntry: w2vc.convert(*sys.argv[1:])\nexcept w2vc.W2vcError: print('torch' in sys.modules)"
    arguments = [sys.executable, "-c", program, str(path), str(tmp_path / "out")]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert run.stdout == "False\n", run.stderr


# ---------------------------------------------------------------------------------------------------------------
# Whole processes, from the first import on, in a folder that is full of a stranger's modules

# Of each cause one; those that need torch to be refused take three seconds each.
WORST = [
    "code_os_system",
    "storage_longer_than_its_record",
    "twenty_megabytes_of_dicts",
    "bit_flipped_in_a_tensor",
    "pipe",
    "cfg_with_a_hundred_thousand_keys",
    "resolver_of_the_environment",
    "metadata_with_negation_bit",
    "thousands_of_globals_that_are_called",
    "sparse_tensor_of_300_gigabytes_and_a_wrong_config",
    "interpolations_of_a_megabyte",
    "dropout_of_7",
    "items_set_on_the_state_dict",
    "s3prl_form_with_depth",
]
# Each is converted; of the other ways of running w2vc each has a part of them.
ON_A_TERMINAL, VERIFIED, INSPECTED = WORST[::3], WORST[1::2], WORST[::2]
# ``inspect`` reads no tensor.
SEEN_WHEN_READ = {"bit_flipped_in_a_tensor"}


@dataclass(frozen=True)
class Place:
    """A folder full of a stranger's modules, from which w2vc is run.

    Attributes:
        folder: the current one.
        strangers: what lies there, and whether any of it ran.
        script: starts w2vc.
    """

    folder: Path
    strangers: Strangers
    script: Path

    def run(self, *arguments: str, terminal: bool = False) -> Run:
        return whole_process.run(self.script, list(arguments), self.folder, terminal=terminal)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder, elsewhere = tmp_path / "downloads", tmp_path / "bin"
    folder.mkdir()
    elsewhere.mkdir()
    return Place(folder, Strangers.in_folder(folder), whole_process.write_script(elsewhere))


@pytest.mark.parametrize("name", WORST)
def test_convert_refuses_within_the_limits_wherever_it_is_started(name: str, place: Place) -> None:
    path = made(CASES[name], place.folder)
    before = Snapshot.of(place.folder)
    run = place.run("convert", path.name, "out")
    assert not complaints(run)
    assert not problems_with_refusal(CASES[name], run, path.name)
    assert place.strangers.that_ran() == []
    assert Snapshot.of(place.folder) == before


@pytest.mark.parametrize("name", ON_A_TERMINAL)
def test_convert_refuses_on_a_terminal_for_the_same_reason(name: str, place: Place) -> None:
    path = made(CASES[name], place.folder)
    before = Snapshot.of(place.folder)
    run = place.run("convert", path.name, "out", terminal=True)
    shown = " ".join(without_colours(run.stderr).split())  # it may be wrapped
    assert not complaints(replace(run, stderr=shown))
    assert run.exit_code in CASES[name].exit_codes
    before_it, said, _ = shown.partition("w2vc: ")
    assert said
    assert not before_it or "━" in before_it  # a progress bar, where the machine was slow
    assert re.search(CASES[name].word, shown)
    assert len(shown) < CHARACTERS
    assert place.strangers.that_ran() == []
    assert Snapshot.of(place.folder) == before


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("name", VERIFIED)
def test_verify_refuses_within_the_limits_wherever_it_is_started(
    name: str, place: Place, converted: Callable[[str], Path]
) -> None:
    path = made(CASES[name], place.folder)
    before = Snapshot.of(place.folder)
    run = place.run("verify", path.name, str(converted("relative_ctc")))
    assert not complaints(run)
    assert not problems_with_refusal(CASES[name], run, path.name)
    assert place.strangers.that_ran() == []
    assert Snapshot.of(place.folder) == before


@pytest.mark.parametrize("name", INSPECTED)
def test_inspect_refuses_what_it_can_see_and_runs_nothing(name: str, place: Place) -> None:
    path = made(CASES[name], place.folder)
    before = Snapshot.of(place.folder)
    run = place.run("inspect", path.name)
    assert not complaints(run)
    if name not in SEEN_WHEN_READ:
        assert not problems_with_refusal(CASES[name], run, path.name)
    assert place.strangers.that_ran() == []
    assert Snapshot.of(place.folder) == before


@pytest.mark.parametrize("terminal", [False, True], ids=["piped", "terminal"])
def test_batch_refuses_each_with_its_reason_and_runs_nothing(terminal: bool, place: Place) -> None:
    checkpoints = place.folder / "checkpoints"
    checkpoints.mkdir()
    for name in WORST:
        CASES[name].make(checkpoints / f"{name}.pt")
    before = Snapshot.of(place.folder)
    run = place.run(
        "batch", checkpoints.name, "--output", "out", "--jobs", "2", "--report", "report.jsonl", terminal=terminal
    )
    assert place.strangers.that_ran() == []
    assert run.exit_code == 7, run.stderr
    assert "Traceback" not in run.stderr
    assert SECRET not in run.stdout + run.stderr
    assert not run.timed_out
    assert run.seconds < SECONDS * len(WORST)
    assert run.megabytes < MEGABYTES
    if not terminal:
        assert len(run.stderr.splitlines()) == len(WORST), run.stderr
    rows = [strict_json(line) for line in (place.folder / "report.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {Path(str(row["input"])).stem: " ".join(row["why"]) for row in rows if "input" in row}  # type: ignore[arg-type]  # texts
    assert [name for name in WORST if not re.search(CASES[name].word, told[name])] == []
    assert Snapshot.of(place.folder).without("out").without("report.jsonl") == before
    assert not list(place.folder.glob("out/*"))


# ---------------------------------------------------------------------------------------------------------------
# The corpus itself


UNSPECIFIC = [
    "",
    "w2vc: PATH",
    "w2vc: a bug in w2vc",
    "w2vc: PATH can't be read by torch.load: RuntimeError: unknown",
    "w2vc: PATH is damaged",
    "w2vc: PATH: the pickle",
    "w2vc: PATH: cfg.model",
    "Traceback (most recent call last): File x, line 1, in <module> ValueError: invalid value",
]


def test_no_refusal_passes_on_any_text() -> None:
    lax = {case.name: [text for text in UNSPECIFIC if re.search(case.word, text)] for case in [*REFUSED, *EITHER]}
    assert {name: texts for name, texts in lax.items() if texts} == {}


def test_the_corpus_only_grows() -> None:
    assert len(CASES) > 900
    assert set(WORST) <= CASES.keys()


# ---------------------------------------------------------------------------------------------------------------
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
        ("takes_much_memory", " MB"),
        ("takes_much_time", "it took"),
        ("waits_for_ever", "it took"),
    ],
)
def test_the_sandbox_notices(misdeed: str, complaint: str, box: Sandbox) -> None:
    victim = box.folder.parent / f"{box.folder.name}-victim"
    victim.touch()
    run = box.run([str(victim)], act=f"tests.support.misdeeds:{misdeed}", seconds=2)
    assert any(complaint in found and not found.startswith("traceback") for found in complaints(run))
    assert victim.read_bytes() == b""
    victim.unlink()


@pytest.mark.parametrize("case", ARMED, ids=lambda case: case.name)
def test_the_payload_is_armed(case: Case, box: Sandbox, tmp_path: Path) -> None:
    """Python's own unpickler would run it: so what refuses it refuses something."""
    path = made(case, tmp_path)
    run = box.run([str(path)], act="tests.support.misdeeds:unpickles", seconds=5)
    canary = box.folder / CANARY
    assert run.noticed or run.timed_out or run.exit_code == 0 or canary.exists(), run.stderr
    canary.unlink(missing_ok=True)
