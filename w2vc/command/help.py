"""The help, in our own layout: the same with every version of typer, which arguments are required, which choices."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from typer import Exit
from typer.core import TyperCommand, TyperGroup

from w2vc.command.terminal import show

_LEFT = 26
_WIDEST = 100


class Command(TyperCommand):
    """A command with our help."""

    def get_help(self, ctx: Any) -> NoReturn:
        """Print the help and end; typer's own printing fails where nobody reads it."""
        show(help_text(self, ctx, ctx.info_name))
        raise Exit


class Group(TyperGroup):
    """All commands, with our help."""

    def get_help(self, ctx: Any) -> NoReturn:
        """Print the help and end."""
        commands = [(name, (command.help or "").split("\n")[0]) for name, command in self.commands.items()]
        show(help_text(self, ctx, None, commands))
        raise Exit


def help_text(command: Any, ctx: Any, name: str | None, commands: Iterable[tuple[str, str]] = ()) -> str:
    """Return the help of a command, or of all of them."""
    params = command.get_params(ctx)
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option" and not param.hidden]
    required = [f"{param.opts[0]} {param.metavar}" for param in options if param.required]
    usage = ["w2vc", name, "[OPTIONS]", *required, *(param.metavar for param in arguments)]
    if name is None:
        usage += ["COMMAND", "..."]
    paragraphs = (command.help or "").split("\n\n")
    lines = [f"Usage: {' '.join(filter(None, usage))}", ""]
    for paragraph in paragraphs:
        lines += [*textwrap.wrap(paragraph, _width(), break_on_hyphens=False), ""]
    lines += _section("Commands", commands)
    lines += _section("Arguments", ((param.metavar, param.help or "") for param in arguments))
    lines += _section("Options", map(_option, options))
    if command.epilog:
        lines += _epilog(command.epilog)
    return "\n".join(lines).rstrip()


def _width() -> int:
    return min(_WIDEST, shutil.get_terminal_size().columns)


def _section(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = [line for left, right in rows for line in _row(left, right)]
    return [f"{title}:", *lines, ""] if lines else []


def _row(left: str, right: str) -> Iterator[str]:
    pieces = textwrap.wrap(right, max(20, _width() - _LEFT), break_on_hyphens=False) or [""]
    if len(left) + 4 > _LEFT:
        yield f"  {left}"
    else:
        yield f"  {left:<{_LEFT - 2}}{pieces.pop(0)}".rstrip()
    yield from (" " * _LEFT + piece for piece in pieces)


def _option(param: Any) -> tuple[str, str]:
    """How an option is given, and what it does."""
    shown = [name for name in (*param.opts, *param.secondary_opts) if "_" not in name]
    value = "" if getattr(param, "is_flag", False) else param.metavar or "TEXT"
    said = f" [default: {param.default}]" if "|" in value else ""
    said += " [required]" if param.required else ""
    names = sorted(shown, key=len) if not param.secondary_opts else shown
    return f"{', '.join(names)} {value}".rstrip(), (param.help or "") + said


def _epilog(text: str) -> list[str]:
    """What follows the options: an example as it is, or a table whose rows are lines with a tab."""
    lines: list[str] = []
    for line in text.split("\n"):
        left, tab, right = line.partition("\t")
        lines.append(f"  {left:>3}  {right}" if tab else line)
    return lines
