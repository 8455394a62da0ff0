"""What can be asked of a conversion: each option is defined here, and nowhere else.

The functions of ``w2vc``, the command line, the manifests of ``batch`` and the record by which it resumes are made from
the fields of ``Options``. A new option is a field here and its type in ``OptionValues``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from w2vc.errors import UsageError, shown
from w2vc.paths import AnyPath, absolute, given_path

HeadOption = Literal["auto", "ctc", "pretraining", "projection", "none"]
DtypeOption = Literal["float32", "float16", "bfloat16", "keep"]

DTYPE_ALIASES: Mapping[str, DtypeOption] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Other names of dtypes, as training scripts call them."""


class OptionValues(TypedDict, total=False):
    """The options as they are given: the attributes of ``Options``."""

    dictionary: AnyPath | None
    head: str
    dtype: str
    ema: bool
    config: AnyPath | None
    pretrained: AnyPath | None
    prefix: str | None
    language: str | None
    card: bool


@dataclass(frozen=True)
class Asked:
    """How an option is asked for on the command line and in a manifest.

    Attributes:
        help: one sentence.
        flags: of the command line.
        metavar: the name of the value in the help; empty for switches and choices.
        choices: the values that there are; empty where there is no list.
        aliases: other names of choices.
        is_path: the value is a path.
    """

    help: str
    flags: tuple[str, ...]
    metavar: str = ""
    choices: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    is_path: bool = False


def _asked(*arguments: Any, **more: Any) -> dict[str, Asked]:
    """Metadata of a field: how the option is asked for."""
    return {"asked": Asked(*arguments, **more)}


@dataclass(frozen=True)
class Options:
    """How to convert; the defaults are those of the command line.

    Attributes:
        dictionary: ``dict.txt``, or the folder that holds it; None takes the checkpoint's own, or the one next to it.
        head: ``auto``, ``ctc``, ``pretraining``, ``projection``, or ``none`` for the encoder alone.
        dtype: of the written weights: ``float32``, ``float16``, ``bfloat16``, or ``keep`` for the checkpoint's own.
        ema: take the EMA weights.
        config: a ``config.json`` whose values of training and decoding are taken instead of the checkpoint's.
        pretrained: the pretrained checkpoint, where this one doesn't carry its architecture.
        prefix: where in somebody else's state dict the encoder is; a dot alone is the top level.
        card: write a model card.
        language: which of the model's languages to load it with, where there are several; None takes the first.
    """

    dictionary: Path | None = field(
        default=None,
        metadata=_asked(
            "fairseq's dict.txt; not needed if the checkpoint carries it.",
            ("--dict", "--dict_path"),
            "FILE_OR_DIR",
            is_path=True,
        ),
    )
    head: HeadOption = field(
        default="auto",
        metadata=_asked("The head to write; none is the encoder alone.", ("--head",), choices=get_args(HeadOption)),
    )
    dtype: DtypeOption = field(
        default="float32",
        metadata=_asked(
            "Of the written weights; fp32, fp16 and bf16 are taken, too.",
            ("--dtype",),
            choices=get_args(DtypeOption),
            aliases=DTYPE_ALIASES,
        ),
    )
    ema: bool = field(default=False, metadata=_asked("Take the EMA weights instead of the model's.", ("--ema",)))
    config: Path | None = field(
        default=None,
        metadata=_asked(
            "Take values of training and decoding from here.",
            ("--config", "--config_path"),
            "CONFIG_JSON",
            is_path=True,
        ),
    )
    pretrained: Path | None = field(
        default=None,
        metadata=_asked(
            "The pretrained checkpoint, where this one carries no architecture.",
            ("--pretrained",),
            "CHECKPOINT",
            is_path=True,
        ),
    )
    prefix: str | None = field(
        default=None, metadata=_asked("Where in somebody else's state dict the encoder is.", ("--prefix",), "PREFIX")
    )
    language: str | None = field(
        default=None,
        metadata=_asked("The language to convert, where there are several adapters.", ("--language",), "LANG"),
    )
    card: bool = field(default=True, metadata=_asked("Write a model card (README.md).", ("--card/--no-card",)))

    def __post_init__(self) -> None:
        problems = [problem for each in fields(self) for problem in _problems(each, getattr(self, each.name))]
        if problems:
            raise UsageError(problems, advice="Correct it and run again.")

    def files(self) -> tuple[Path, ...]:
        """The files and folders that are read for a conversion, besides the checkpoint."""
        named = (getattr(self, each.name) for each in fields(self) if asked(each).is_path)
        return tuple(path for path in named if path is not None)

    def values(self) -> dict[str, str | bool | None]:
        """The options as plain values, which ``read_options`` reads again."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: os.fspath(value) if isinstance(value, Path) else value for name, value in named}


def asked(option: Field[Any]) -> Asked:
    """How the option of a field of ``Options`` is asked for."""
    found: Asked = option.metadata["asked"]
    return found


OPTIONS: Mapping[str, Asked] = {each.name: asked(each) for each in fields(Options)}
"""How each option is asked for, by its name in Python."""


def read_options(values: Mapping[str, object], *, folder: Path | None = None) -> Options:
    """Make the options of values of any kind.

    Args:
        values: by the options' names.
        folder: where relative paths start; paths are made absolute with it, and stay as they are without.

    Raises:
        UsageError: there is no such option, or a value isn't one that it has; tells of all.
    """
    problems = [f"There is no option {name}." for name in values if name not in OPTIONS]
    advice = f"The options are {', '.join(OPTIONS)}." if problems else "Correct it and run again."
    given: dict[str, Any] = {}
    for name in OPTIONS.keys() & values.keys():
        try:
            given[name] = _value(name, values[name], folder)
        except UsageError as error:
            problems += error.problems
    try:
        options = Options(**given)
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError(problems, advice=advice)
    return options


def _value(name: str, value: object, folder: Path | None) -> object:
    how = OPTIONS[name]
    if isinstance(value, str):
        value = how.aliases.get(value, value)
    if how.is_path and isinstance(value, (str, os.PathLike)):
        path = given_path(value, how.flags[0])
        return path if folder is None else absolute(folder / path)
    return value


def _problems(option: Field[Any], value: object) -> list[str]:
    """What is wrong with an option's value."""
    how = asked(option)
    if how.choices:
        text = f"{value:.100}" if isinstance(value, str) else shown(value, 100)
        return [] if value in how.choices else [f"{_name(how)} is {text}, not one of {', '.join(how.choices)}."]
    kind: type = bool if isinstance(option.default, bool) else Path if how.is_path else str
    if isinstance(value, kind) or (value is None and option.default is None):
        return [] if value != "" else [f"{_name(how)} is empty."]
    expected = {bool: "true or false", Path: "a path", str: "a text"}[kind]
    return [f"{_name(how)} is {shown(value, 100)}, not {expected}."]


def _name(how: Asked) -> str:
    return how.flags[0].split("/")[0]
