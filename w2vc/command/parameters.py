"""Arguments and options of the commands, made from ``w2vc.options``, so that each option is defined there alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from w2vc.options import OPTIONS, Asked, Options
from w2vc.paths import given_path


def path_parser(name: str) -> Callable[[str], Path]:
    """Return what reads a path: typer's own would take an empty text for the current folder, and look at files."""

    def path(text: str) -> Path:
        return given_path(text, name)

    return path


CheckpointArgument = Annotated[
    Path,
    typer.Argument(metavar="CHECKPOINT", parser=path_parser("CHECKPOINT"), help="The .pt file that fairseq saved."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _parameter(name: str, how: Asked) -> inspect.Parameter:
    default = getattr(Options(), name)
    kind: Any = bool if isinstance(default, bool) else str if default is not None else str | None
    more: dict[str, Any] = {"help": how.help}
    if how.choices:
        more |= {"metavar": "|".join(how.choices), "autocompletion": _completion(how)}
    if how.is_path:
        kind, more = Path | None, {**more, "parser": path_parser(how.flags[0])}
    if how.metavar:
        more["metavar"] = how.metavar
    annotation = Annotated[kind, typer.Option(*how.flags, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _completion(how: Asked) -> Callable[[str], list[str]]:
    """Return what a shell asks for the choices that begin as somebody has begun to type."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in (*how.choices, *how.aliases) if choice.startswith(incomplete)]

    return complete


Function = Callable[..., Any]


def with_options(*names: str) -> Callable[[Function], Function]:
    """Give a command these options in place of its parameter ``options``, which gets their values.

    Args:
        names: of options; none means all of ``OPTIONS``.
    """
    return functools.partial(_with_options, names or tuple(OPTIONS))


def _with_options(names: tuple[str, ...], command: Function) -> Function:
    @functools.wraps(command)
    def called(**given: Any) -> Any:
        options = {name: given.pop(name) for name in names}
        return command(**given, options=options)

    parameters = []
    # typing.get_type_hints would hide Annotated within Optional where the default is None, in Python 3.10.
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            parameters += [_parameter(name, OPTIONS[name]) for name in names]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect looks for it
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del called.__wrapped__  # else its annotations would be taken
    return called
