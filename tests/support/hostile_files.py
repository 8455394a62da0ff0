"""Files that try to have code run, to lie, to take all memory and time, or that are damaged or of another kind.

Each is a row of ``CASES``: what it tries, what must become of it, and words that the error must hold. All but the
files of other kinds are forged from checkpoints that real fairseq wrote; ``hostile/`` has them by what they attack. To
look at them:

    python -m tests.support.hostile_files FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.hostile import (  # noqa: F401 - each adds its cases
    budgets,
    code,
    configs,
    containers,
    dictionaries,
    forms,
    kinds,
    pickles,
    surroundings,
    tensors,
    two_readers,
    values,
)
from tests.support.hostile.cases import CANARY, CASES, FIXTURES, Case

__all__ = ["CANARY", "CASES", "FIXTURES", "Case"]


def make_all(folder: Path) -> None:
    """Writes each case into a folder of its own."""
    for case in CASES.values():
        place = folder / case.name
        place.mkdir(parents=True, exist_ok=True)
        case.make(place / "checkpoint.pt")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
