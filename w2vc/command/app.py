"""The commands: what they take, and how their results are printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from w2vc.command import terminal
from w2vc.command.batch import EXAMPLE as BATCH_EXAMPLE
from w2vc.command.batch import batch
from w2vc.command.exit_codes import MEANINGS
from w2vc.command.help import Command, Group
from w2vc.command.parameters import CheckpointArgument, JsonOption, path_parser, with_options
from w2vc.errors import UsageError
from w2vc.version import __version__

if TYPE_CHECKING:
    from w2vc.verifying.verification import Verification
    from w2vc.writing.writer import Watch

result_is_printed = False
"""Whether the one object of ``--json`` is printed, so that an error is no second one."""

app = typer.Typer(
    cls=Group,
    name="w2vc",
    help="Convert fairseq's speech encoders to Hugging Face transformers: exact or refused.",
    epilog="\n".join(["Exit codes:", *(f"{code}\t{meaning}" for code, meaning in MEANINGS.items())]),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        terminal.show(f"w2vc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


OutputArgument = Annotated[
    Path,
    typer.Argument(metavar="OUTPUT", parser=path_parser("OUTPUT"), help="The directory that w2vc convert made."),
]


@app.command(cls=Command, epilog="Example: w2vc convert checkpoint_best.pt my-model --dict dict.ltr.txt")
@with_options()
def convert(
    options: Mapping[str, Any],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", parser=path_parser("CHECKPOINT"), help="The .pt file that fairseq saved."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Argument(metavar="OUTPUT", parser=path_parser("OUTPUT"), help="The directory to make."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier conversion.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan everything, write nothing.")] = False,
    verified: Annotated[bool, typer.Option("--verify", help="Verify the result, as w2vc verify does.")] = False,
    as_json: JsonOption = False,
    checkpoint_path: Annotated[
        Path | None, typer.Option("--checkpoint_path", hidden=True, parser=path_parser("--checkpoint_path"))
    ] = None,
    dump_folder_path: Annotated[
        Path | None,
        typer.Option("--pytorch_dump_folder_path", hidden=True, parser=path_parser("--pytorch_dump_folder_path")),
    ] = None,
    not_finetuned: Annotated[bool, typer.Option("--not_finetuned", hidden=True)] = False,
) -> None:
    """Convert a checkpoint to a directory that transformers loads.

    The options of the script that transformers used to ship are taken, too: --checkpoint_path,
    --pytorch_dump_folder_path, --dict_path, --config_path and --not_finetuned.
    """
    from w2vc.conversion import convert as run

    source = _given(checkpoint, checkpoint_path, "CHECKPOINT")
    target = _given(output, dump_folder_path, "OUTPUT")
    if verified and dry_run:
        raise UsageError("--verify and --dry-run are given both.", advice="A dry run writes nothing to verify.")
    if not_finetuned and options["head"] == "auto":
        options = {**options, "head": "pretraining"}
    with _Bar("Writing") as bar:
        conversion = run(source, target, force=force, dry_run=dry_run, watch=bar.watch, **options)
    if not verified:
        _print(conversion.values(), conversion.lines(), as_json)
        return
    verification = _verified(source, target, options)
    values = {**conversion.values(), "verification": verification.values()}
    _print(values, chain(conversion.lines(), verification.lines()), as_json)
    verification.raise_if_different()


_VERIFIED_OPTIONS = ("dictionary", "head", "ema", "config", "pretrained", "language")
"""What decides what is compared; all else is read from the output."""


@app.command(cls=Command, epilog="Example: w2vc verify checkpoint_best.pt my-model --wav speech.wav")
@with_options(*_VERIFIED_OPTIONS)
def verify(
    checkpoint: CheckpointArgument,
    output: OutputArgument,
    options: Mapping[str, Any],
    wav: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_parser("--wav"), help="A recording, instead of built-in signals."),
    ] = None,
    atol: Annotated[
        float | None, typer.Option(metavar="BOUND", help="The largest relative error of outputs, instead of 2e-6.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a converted directory with its checkpoint: every tensor, file, output and symbol."""
    verification = _verified(checkpoint, output, options, wav, atol)
    _print(verification.values(), verification.lines(), as_json)
    verification.raise_if_different()


def _verified(
    checkpoint: Path, output: Path, options: Mapping[str, Any], wav: Path | None = None, atol: float | None = None
) -> Verification:
    from w2vc.verifying.comparison import verify as run

    given = {name: options[name] for name in _VERIFIED_OPTIONS}
    with _Bar("Comparing") as bar:
        return run(checkpoint, output, wav=wav, atol=atol, watch=bar.watch, **given)


@app.command(cls=Command, epilog="Example: w2vc inspect checkpoint_best.pt --json")
@with_options()
def inspect(
    checkpoint: CheckpointArgument,
    options: Mapping[str, Any],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor and where it goes.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key of the cfg and what w2vc does with it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint is, and whether it converts."""
    from w2vc.conversion import inspect as run

    inspection = run(checkpoint, tensors=tensors, keys=keys, **options)
    _print(inspection.values(), inspection.lines(), as_json)


app.command(cls=Command, epilog=BATCH_EXAMPLE)(batch)

COMMANDS = ("convert", "verify", "inspect", "batch")


def _given(argument: Path | None, option: Path | None, name: str) -> Path:
    if argument is not None and option is not None:
        raise UsageError(f"{name} is given twice: {argument} and {option}.", advice="Give it once.")
    value = argument if argument is not None else option
    if value is None:
        raise UsageError(f"{name} is missing.", advice="Try: w2vc convert --help")
    return value


# ---------------------------------------------------------------------------------------------------------------
# Printing


def _print(values: Mapping[str, object], lines: Iterable[tuple[str, str]], as_json: bool) -> None:
    global result_is_printed  # noqa: PLW0603 - one command is run in a process
    if as_json:
        # In ASCII: names come from the file, and needn't even be Unicode.
        terminal.show(json.dumps(values))
        result_is_printed = True
    elif terminal.is_terminal(sys.stdout):
        _print_table(lines)
    else:
        for heading, text in lines:
            terminal.show(f"{heading:<12}{terminal.printable(text)}")


_HEADINGS = 12


def _print_table(lines: Iterable[tuple[str, str]]) -> None:
    """Two columns, the second one wrapped."""
    for heading, text in lines:
        shown = terminal.wrapped(terminal.printable(text), " " * _HEADINGS)
        terminal.show(f"{terminal.bold(f'{heading:<{_HEADINGS - 2}}')}  {shown}")


class _Bar:
    """A bar on stderr for work that takes more than a second; nothing where stderr is no terminal.

    It is drawn from where the work is done, without a thread: there may be no more to be had.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._drawn = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            terminal.bar_is_shown = False

    @property
    def watch(self) -> Watch | None:
        """What to call with the progress, if anybody looks."""
        return self._show if terminal.is_terminal(sys.stderr) else None

    def _show(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if now - self._started < 1 or now - self._drawn < 0.1:
            return
        self._drawn = now
        if self._bar is None:
            self._bar = _make_bar()
            terminal.bar_is_shown = True
            self._bar.start()
            self._bar.add_task(self._what, total=whole)
        self._bar.update(self._bar.task_ids[0], completed=done, refresh=True)


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
