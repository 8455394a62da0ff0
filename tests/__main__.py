"""Everything that has to hold: linters, types, tests, an older transformers, installers, a newcomer's path.

    python -m tests

The second environment has a transformers of its own and shares everything else, torch above all, with this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "tests" / "constraints-oldest.txt"

WITH_OLDEST = (
    "tests/promises/test_parity.py",
    "tests/parts/test_tensors.py",
    "tests/promises/test_dictionaries.py",
    "tests/commands/test_verify.py",
)


def run(*command: object) -> None:
    """Runs one step; its failure ends everything."""
    print("+", *command, flush=True)  # noqa: T201 - this is a command line
    finished = subprocess.run([*map(str, command)], check=False, cwd=ROOT)  # noqa: S603 - our own commands
    if finished.returncode:
        sys.exit(finished.returncode)


def oldest(environment: Path) -> Path:
    """Makes an environment with the oldest supported transformers; gives its Python."""
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
    run(sys.executable, "-m", "pytest")
    with tempfile.TemporaryDirectory() as folder:
        python = oldest(Path(folder) / "oldest")
        run(python, "-m", "tests.support.matrix", sys.executable, python)
        run(python, "-m", "pytest", *WITH_OLDEST)
    run(sys.executable, "-m", "tests.support.installers")
    run(sys.executable, "-m", "tests.support.newcomer")


if __name__ == "__main__":
    main()
