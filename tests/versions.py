"""Every supported Python with the lowest and the newest torch, as a Markdown table.

    python -m tests.versions [PYTHON ...]

For each pair: a fresh environment below TMPDIR, the README's first command in a fresh clone, and some of the tests with
what it installed. torch is chosen by this file instead of the constraints: where only CUDA builds are to be had, that
is some gigabytes for each pair, so an environment is deleted before the next one is made. PYTHON is a version such
as 3.12; without any, every supported one is tried.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.readme import ROOT, active, blocks

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

TRIAL = (
    "tests/commands/test_screens.py",
    "tests/commands/test_errors.py",
    "tests/commands/test_batch.py::test_a_json_lines_manifest_means_the_same",
    (
        "tests/commands/test_batch.py"
        "::test_a_checkpoint_whose_worker_dies_each_time_is_found_and_the_others_are_converted[while it reads]"
    ),
    "tests/promises/test_parity.py",
)
"""Every command as a person sees it; each error; outputs compared with what fairseq computed."""

MODELS = (
    "relative_ctc",
    "rotary_pretraining",
    "post_norm_ctc",
    "wav2vec2_large_ctc",
    "mms_one_language_ctc",
    "hubert_ctc",
    "data2vec_ctc",
)
"""At least one of each family, for what the trial converts."""

SCREENS = ("help", "error", "inspect", "verify_bad")
"""What typer and rich could draw otherwise, and each command that the README's first one isn't."""


class TrialError(Exception):
    """A step that failed, and the last thing it said."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    python: str
    torch: str
    transformers: str
    result: str

    def __str__(self) -> str:
        return f"| {self.python} | {self.torch} | {self.transformers} | {self.result} |"


def lowest_torch() -> str:
    """Return what the lower bound in pyproject.toml admits at least, as a requirement."""
    found = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    return f"torch=={found[1]}.*"


def interpreter(version: str) -> str | None:
    """Return the path of a Python, where this machine has it or uv can download it."""
    uv = [sys.executable, "-m", "uv", "python"]
    subprocess.run([*uv, "install", "--quiet", version], check=False, capture_output=True)  # noqa: S603 - our own
    found = subprocess.run([*uv, "find", "--no-project", version], check=False, capture_output=True, text=True)  # noqa: S603
    return found.stdout.strip() or None


def run(command: list[str], **options: object) -> str:
    """Run one step and return what it printed; raise with its last line where it fails."""
    result = subprocess.run(command, check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload]  # noqa: S603 - options are passed through
    if result.returncode:
        print(result.stdout, result.stderr, sep="\n", file=sys.stderr, flush=True)  # noqa: T201 - a command line
        said = [line for line in f"{result.stdout}\n{result.stderr}".splitlines() if line.strip()]
        raise TrialError(said[-1] if said else f"exit code {result.returncode}")
    return str(result.stdout)


def clone(folder: Path) -> Path:
    """Clone the repository, and let the constraints leave torch as it is."""
    path = folder / "w2vc"
    run(["git", "clone", "--quiet", str(ROOT), str(path)])
    constraints = path / "tests" / "constraints-newest.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines(keepends=True)
    constraints.write_text("".join(line for line in lines if not line.startswith("torch==")), encoding="utf-8")
    return path


def versions(python: Path) -> tuple[str, str]:
    """Return the versions of torch and transformers in an environment."""
    program = "from importlib.metadata import version as v; print(v('torch'), v('transformers'))"
    torch, transformers = run([str(python), "-c", program]).split()
    return torch, transformers


def trial(python: str, torch: str, folder: Path) -> Row:
    """Install and try one pair."""
    started = time.monotonic()
    environment = folder / "environment"
    own = environment / "bin" / "python"
    found = (torch, "?")
    try:
        run([python, "-m", "venv", str(environment)])
        # uv links files instead of copying them, where its cache is on the same disk.
        run([sys.executable, "-m", "uv", "pip", "install", "--python", str(own), torch])
        path = clone(folder)
        options = {"cwd": path, "env": active(environment)}
        run(["bash", "-c", blocks("sh")[0]], **options)
        found = versions(own)
        run([str(own), "-m", "pip", "install", "-c", "tests/constraints-newest.txt", "pytest"], **options)
        # Otherwise this would be imported, and not what is installed.
        shutil.rmtree(path / "w2vc")
        run([str(own), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TRIAL, "-k", _chosen()], **options)
    except TrialError as error:
        return Row(_version(own), *found, f"fails: {error}")
    return Row(_version(own), *found, f"passes ({time.monotonic() - started:.0f} s)")


def _chosen() -> str:
    """Return an expression for pytest that leaves out other models and other screens."""
    brackets = [f"[{name}]" for name in (*MODELS, *(f"{screen}-80" for screen in SCREENS))]
    return " or ".join(["test_errors", "manifest", "worker", *brackets])


def _version(python: Path) -> str:
    return run([str(python), "-c", "import platform; print(platform.python_version())"]).strip()


def rows(pythons: Sequence[str]) -> Iterator[Row]:
    """Yield each row when it is known."""
    for version in pythons:
        python = interpreter(version)
        if python is None:
            yield Row(version, "", "", "not here")
            continue
        for torch in (lowest_torch(), "torch"):
            with tempfile.TemporaryDirectory() as own:
                yield trial(python, torch, Path(own))


def main(pythons: Sequence[str]) -> None:
    """Print the table, row by row; exit with 1 if anything failed."""
    failed = False
    print("| Python | torch | transformers | trial |\n| --- | --- | --- | --- |", flush=True)  # noqa: T201
    for row in rows(pythons):
        failed |= row.result.startswith("fails")
        print(row, flush=True)  # noqa: T201 - this is a command line
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:] or PYTHONS)
