"""Everything that has to hold: linters, types, tests, branch coverage, lower bounds, installers, a newcomer's path.

    python -m tests

The second environment has the lowest supported version of every dependency but torch, which it shares with this one, as
it does the tools. So each output is compared between the oldest and the newest supported transformers, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "tests" / "constraints-lowest.txt"

WITH_LOWEST = (
    # transformers
    "tests/promises/test_parity.py",
    "tests/parts/test_tensors.py",
    "tests/promises/test_dictionaries.py",
    "tests/commands/test_verify.py",
    "tests/commands/test_load.py",
    # typer, rich, omegaconf, safetensors, numpy
    "tests/commands/test_errors.py",
    "tests/commands/test_screens.py",
    "tests/commands/test_conversion.py",
    "tests/commands/test_main.py::test_wrong_usage_gets_two_lines",
    # distributed
    "tests/commands/test_batch.py::test_a_json_lines_manifest_means_the_same",
    "tests/commands/test_batch.py::test_a_killed_worker_loses_nothing",
    "tests/commands/test_batch.py::test_over_dask_a_lost_workers_checkpoints_are_done_elsewhere_and_all_is_as_here",
    "tests/commands/test_batch.py::test_a_dask_address_without_a_scheduler_is_an_error_of_two_lines",
)
"""What depends on other packages; the rest of the tests is about files and takes long."""


def run(*command: object) -> None:
    """Runs one step; its failure ends everything."""
    print("+", *command, flush=True)  # noqa: T201 - this is a command line
    finished = subprocess.run([*map(str, command)], check=False, cwd=ROOT)  # noqa: S603 - our own commands
    if finished.returncode:
        sys.exit(finished.returncode)


def lowest(environment: Path) -> Path:
    """Makes an environment with the lowest supported versions; gives its Python."""
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    packages = [
        line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *packages)
    own = Path(sysconfig.get_paths(vars={"base": str(environment)})["purelib"])
    # Behind its own packages, so that those come first.
    (own / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


def main() -> None:
    """Runs every step."""
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")
    run(sys.executable, "-m", "mypy")
    # What they leave uncovered, nobody's quick loop would notice.
    run(sys.executable, "-m", "coverage", "run", "-m", "pytest", "-m", "not slow")
    run(sys.executable, "-m", "coverage", "report")
    run(sys.executable, "-m", "pytest", "-m", "slow")
    with tempfile.TemporaryDirectory() as folder:
        python = lowest(Path(folder) / "lowest")
        run(python, "-m", "tests.support.matrix", sys.executable, python)
        run(python, "-m", "pytest", *WITH_LOWEST)
    run(sys.executable, "-m", "tests.support.installers")
    run(sys.executable, "-m", "tests.support.newcomer")


if __name__ == "__main__":
    main()
