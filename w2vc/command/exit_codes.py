"""The exit codes, and which error has which."""

from __future__ import annotations

from w2vc.errors import DifferenceError, OutputError, RefusedError, UnreadableError, UsageError, W2vcError

USAGE = 2
RESOURCES = 5
SOME_FAILED = 7

EXIT_CODES: dict[type[W2vcError], int] = {
    UsageError: USAGE,
    UnreadableError: 3,
    RefusedError: 4,
    OutputError: RESOURCES,
    DifferenceError: 6,
}

MEANINGS = {
    0: "done",
    1: "a bug in w2vc",
    2: "wrong usage",
    3: "the checkpoint can't be read",
    4: "it can't be converted exactly",
    5: "the output can't be written, or memory is short",
    6: "verify found a difference",
    7: "some of a batch failed",
    130: "interrupted",
}
"""What each exit code means, for the help."""


def exit_code(error: W2vcError) -> int:
    """Return the exit code of an error's branch."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
