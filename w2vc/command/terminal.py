"""What is shown: results on stdout, progress and errors on stderr, whatever these two are connected to.

Names come from files and could steer a terminal, so that no control character is shown. A reader that has left, a full
disk or a closed stream never stops the work.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

_INDENT = " " * 6
_NARROWEST, _WIDEST = 20, 120
_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 1000

bar_is_shown = False
"""Whether a bar is on the terminal, which an interrupt has to clear away."""

unprinted: OSError | None = None
"""Why a result couldn't be printed, other than that nobody reads it."""


def printable(text: str) -> str:
    """Return a text without control characters and line ends."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def take_streams() -> None:
    """Let stdout and stderr take every character, escaped where their encoding hasn't got it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def show(line: str) -> None:
    """Print a line of a result on stdout."""
    global unprinted  # noqa: PLW0603 - there is one stdout
    try:
        if sys.stdout is not None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has enough of it (head, less)
        _silence(sys.stdout)
    except OSError as error:
        unprinted = error
        _silence(sys.stdout)


def tell(text: str) -> None:
    """Print on stderr, if anybody can read anything there."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def _silence(stream: TextIO) -> None:
    """Lead a stream to nowhere, so that what it still holds doesn't fail again at the end."""
    with suppress(OSError, ValueError):
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether somebody looks on."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def width() -> int:
    """Return how many columns there are."""
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))


def bold(text: str) -> str:
    """Return a text in bold, unless somebody wants no colours."""
    return text if "NO_COLOR" in os.environ else f"\x1b[1m{text}\x1b[0m"


# ---------------------------------------------------------------------------------------------------------------
# Errors


def complain(problems: Sequence[str], advice: str) -> None:
    """Tell of an error: in two plain lines, or on a terminal wrapped and with colours."""
    shown = [printable(problem) for problem in shortened(problems)]
    if is_terminal(sys.stderr):
        tell(_for_people(shown, printable(advice)))
    else:
        tell(f"w2vc: {joined(shown)}\n{_INDENT}{printable(advice)}\n")


def joined(problems: Sequence[str]) -> str:
    """Return sentences in one line."""
    return " ".join(problem if problem.endswith((".", "?", "!")) else f"{problem}." for problem in problems)


def shortened(problems: Sequence[str]) -> list[str]:
    """Return so many problems of such a length as can be read, whatever the file made of them."""
    shown = [_cut(" ".join(problem.split())) for problem in problems[:_MOST_PROBLEMS]]
    left_out = len(problems) - len(shown)
    return [*shown, f"And {left_out} more."] if left_out else shown


def _cut(problem: str) -> str:
    return problem if len(problem) <= _LONGEST_PROBLEM else problem[: _LONGEST_PROBLEM - 3] + "..."


def _for_people(problems: Sequence[str], advice: str) -> str:
    red, bold, plain = ("", "", "") if "NO_COLOR" in os.environ else ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
    lines = [f"{red}w2vc:{plain} {bold}{wrapped(problems[0])}{plain}"] if problems else []
    lines += [f"{_INDENT}{bold}{wrapped(problem)}{plain}" for problem in problems[1:]]
    return "\n".join([*lines, _INDENT + wrapped(advice)]) + "\n"


def wrapped(text: str, indent: str = _INDENT) -> str:
    """Return a text wrapped to the terminal's width, each line but the first indented; the first is so already."""
    lines = textwrap.wrap(
        text, width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=True
    )
    return "\n".join(lines).removeprefix(indent)
