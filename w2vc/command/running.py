"""Run a command, and turn whatever happens into an exit code and words."""

from __future__ import annotations

import difflib
import errno
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from w2vc.command import terminal
from w2vc.command.exit_codes import RESOURCES, USAGE, exit_code
from w2vc.command.main import INTERRUPTED
from w2vc.errors import UsageError, W2vcError

# Set by a shell that asks what a command line could go on with (typer's completion).
_COMPLETION = "_W2VC_COMPLETE"
_MEMORY = "Give the process more memory, or run fewer at a time."
_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "can't start new thread")


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    terminal.take_streams()
    code = _run(arguments)
    if terminal.unprinted is not None and code == 0:
        terminal.complain(
            [f"The result can't be printed: {terminal.unprinted.strerror}."], "What was to be done is done."
        )
        return RESOURCES
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        from w2vc.command.app import COMMANDS, app

        _check_command(arguments, COMMANDS)
        if not arguments and _COMPLETION not in os.environ:
            app(["--help"], prog_name="w2vc", standalone_mode=False)
            return USAGE
        result = app(list(arguments), prog_name="w2vc", standalone_mode=False)
    except KeyboardInterrupt:
        result = INTERRUPTED
    except Exception as error:
        return _told(error, arguments)
    if result == INTERRUPTED:  # typer's own word for Ctrl-C, too
        terminal.complain(["Interrupted."], "Nothing was left behind; run the same command again.")
    return result if isinstance(result, int) else 0


def _check_command(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Raise if the first argument is no command, with the one that was meant."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in commands:
        return
    first = arguments[0]
    if "/" in first or "." in first or Path(first).exists():
        meant = f"Did you mean `w2vc convert {shlex.join(arguments)}`? Try: w2vc --help"
    else:
        near = difflib.get_close_matches(first[:100], commands, n=1)
        meant = (f"Did you mean `w2vc {near[0]}`? " if near else "") + "Try: w2vc --help"
    raise UsageError(f"There is no command {first}.", advice=meant)


def _told(error: Exception, arguments: Sequence[str]) -> int:
    """Tell of an error; return its exit code."""
    kind, code, problems, advice = _explained(error)
    if code == 1:
        terminal.tell("".join(traceback.format_exception(error)))
    elif problems:
        terminal.complain(problems, advice)
    if "--json" in arguments and problems and not terminal_has_result():
        values = {"kind": kind, "exit_code": code, "problems": list(problems), "advice": advice}
        terminal.show(json.dumps({"error": values}))
    return code


def terminal_has_result() -> bool:
    """Return whether the one object of ``--json`` is printed already."""
    app = sys.modules.get("w2vc.command.app")
    return bool(getattr(app, "result_is_printed", False))


def _explained(error: Exception) -> tuple[str, int, Sequence[str], str]:
    """Kind, exit code, problems and advice of an error."""
    kind = type(error).__name__
    if isinstance(error, W2vcError):
        return kind, exit_code(error), terminal.shortened(error.problems), error.advice
    if _is_of_memory(error):
        return "MemoryError", RESOURCES, ["There is not enough memory, or there are too many processes."], _MEMORY
    # Newer versions of typer carry a click of their own, so that there is no class to name here.
    if hasattr(error, "format_message"):
        command = getattr(getattr(error, "ctx", None), "info_name", None)
        command = f"w2vc {command}" if command in ("convert", "verify", "inspect", "batch") else "w2vc"
        return "UsageError", USAGE, [error.format_message()], f"Try: {command} --help"
    return kind, 1, [f"{kind}: {error}"], "This is a bug in w2vc."


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOMEM, errno.EAGAIN)
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError)) and any(words in text for words in _NO_MEMORY)
    )
