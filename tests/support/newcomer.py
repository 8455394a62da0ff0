"""A newcomer's path: from a clean clone and the README alone to a transcript, timed.

    python -m tests.support.newcomer

Clones the repository, runs the README's first command in a fresh virtual environment without the test extras, then its
first snippet, and prints how long each took.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.readme import ROOT, active, blocks


def step(what: str, command: list[str], **options: object) -> str:
    """Runs one step, prints its time, gives what it printed."""
    started = time.monotonic()
    result = subprocess.run(command, check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload]  # noqa: S603 - options are passed through
    if result.returncode:
        sys.exit(f"{what} failed:\n{result.stdout}\n{result.stderr}")
    print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)  # noqa: T201 - this is a command line
    return str(result.stdout)


def main() -> None:
    """Walks the path."""
    with tempfile.TemporaryDirectory() as folder:
        clone, environment = Path(folder) / "w2vc", Path(folder) / "environment"
        step("clone", ["git", "clone", "--quiet", str(ROOT), str(clone)])
        step("make a virtual environment", [sys.executable, "-m", "venv", str(environment)])
        options = {"cwd": clone, "env": active(environment)}
        step("install and convert (the README's first command)", ["bash", "-c", blocks("sh")[0]], **options)
        printed = step("transcribe (the README's first snippet)", ["python", "-c", blocks("python")[0]], **options)
    print(f"transcript: {printed.splitlines()[-1]}")  # noqa: T201 - this is a command line


if __name__ == "__main__":
    main()
