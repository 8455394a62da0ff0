"""The command line: the only printing, and the only exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from w2vc.command.batch import EXAMPLE as BATCH_EXAMPLE
from w2vc.command.batch import batch
from w2vc.command.terminal import printable
from w2vc.errors import (
    DifferenceError,
    OutputError,
    RefusedError,
    UnreadableError,
    UsageError,
    W2vcError,
)
from w2vc.version import __version__
from w2vc.writing.output_directory import abandon

if TYPE_CHECKING:
    from w2vc.verifying.verification import Verification
    from w2vc.writing.writer import Watch

USAGE = 2
INTERRUPTED = 130

EXIT_CODES: dict[type[W2vcError], int] = {
    UsageError: USAGE,
    UnreadableError: 3,
    RefusedError: 4,
    OutputError: 5,
    DifferenceError: 6,
}

app = typer.Typer(
    name="w2vc",
    help="Convert fairseq wav2vec2-conformer checkpoints to Hugging Face transformers: exact or refused.",
    epilog="Exit codes: 0 done, 1 a bug in w2vc, 2 wrong usage, 3 the checkpoint can't be read, 4 it can't be "
    "converted exactly, 5 the output can't be written, 6 verify found a difference, 7 some of a batch failed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DictionaryOption = Annotated[
    Path | None,
    typer.Option(
        "--dict",
        "--dict_path",
        metavar="FILE_OR_DIR",
        help="fairseq's dict.txt; not needed if the checkpoint carries it.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "--config_path", metavar="CONFIG_JSON", help="Take values of training and decoding from here."
    ),
]
PretrainedOption = Annotated[
    Path | None,
    typer.Option(metavar="CHECKPOINT", help="The pretrained checkpoint, where this one carries no architecture."),
]
PrefixOption = Annotated[
    str | None, typer.Option(metavar="PREFIX", help="Where in somebody else's state dict the encoder is.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
EmaOption = Annotated[bool, typer.Option("--ema", help="Take the EMA weights instead of the model's.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"w2vc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: w2vc convert checkpoint_best.pt my-model --dict dict.ltr.txt")
def convert(
    checkpoint: Annotated[Path | None, typer.Argument(help="The .pt file that fairseq saved.")] = None,
    output: Annotated[Path | None, typer.Argument(help="The directory to make.")] = None,
    dictionary: DictionaryOption = None,
    head: Annotated[
        str, typer.Option(help="auto, ctc, pretraining, projection, or none for the encoder alone.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, float16, bfloat16, or keep.")] = "float32",
    ema: EmaOption = False,
    config: ConfigOption = None,
    pretrained: PretrainedOption = None,
    prefix: PrefixOption = None,
    card: Annotated[bool, typer.Option("--card/--no-card", help="Write a model card (README.md).")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier conversion.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan everything, write nothing.")] = False,
    verified: Annotated[bool, typer.Option("--verify", help="Verify the result, as w2vc verify does.")] = False,
    as_json: JsonOption = False,
    checkpoint_path: Annotated[Path | None, typer.Option("--checkpoint_path", hidden=True)] = None,
    dump_folder_path: Annotated[Path | None, typer.Option("--pytorch_dump_folder_path", hidden=True)] = None,
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
        raise UsageError("--verify and --dry-run are given both", advice="A dry run writes nothing to verify.")
    with _Progress("Writing") as progress:
        conversion = run(
            source,
            target,
            dictionary=dictionary,
            head="pretraining" if not_finetuned and head == "auto" else head,
            dtype=dtype,
            ema=ema,
            config=config,
            pretrained=pretrained,
            prefix=prefix,
            card=card,
            force=force,
            dry_run=dry_run,
            watch=progress.watch,
        )
    if not verified:
        _print(conversion.values(), conversion.lines(), as_json)
        return
    verification = _verified(source, target, dictionary, ema, config, pretrained, prefix, None)
    values = {**conversion.values(), "verification": verification.values()}
    _print(values, chain(conversion.lines(), verification.lines()), as_json)
    verification.raise_if_different()


@app.command(epilog="Example: w2vc verify checkpoint_best.pt my-model --wav speech.wav")
def verify(
    checkpoint: Annotated[Path, typer.Argument(help="The .pt file that fairseq saved.")],
    output: Annotated[Path, typer.Argument(help="The directory that w2vc convert made.")],
    dictionary: DictionaryOption = None,
    ema: EmaOption = False,
    config: ConfigOption = None,
    pretrained: PretrainedOption = None,
    prefix: PrefixOption = None,
    wav: Annotated[Path | None, typer.Option(metavar="FILE", help="A recording, instead of built-in signals.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a converted directory against its checkpoint: every tensor, file, output and symbol."""
    verification = _verified(checkpoint, output, dictionary, ema, config, pretrained, prefix, wav)
    _print(verification.values(), verification.lines(), as_json)
    verification.raise_if_different()


def _verified(
    checkpoint: Path,
    output: Path,
    dictionary: Path | None,
    ema: bool,
    config: Path | None,
    pretrained: Path | None,
    prefix: str | None,
    wav: Path | None,
) -> Verification:
    from w2vc.verifying.comparison import verify as run

    with _Progress("Comparing") as progress:
        return run(
            checkpoint,
            output,
            dictionary=dictionary,
            ema=ema,
            config=config,
            pretrained=pretrained,
            prefix=prefix,
            wav=wav,
            watch=progress.watch,
        )


@app.command(epilog="Example: w2vc inspect checkpoint_best.pt --json")
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="The .pt file that fairseq saved.")],
    dictionary: DictionaryOption = None,
    ema: EmaOption = False,
    pretrained: PretrainedOption = None,
    prefix: PrefixOption = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor and what becomes of it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint is, and whether it converts."""
    from w2vc.conversion import inspect as run

    inspection = run(
        checkpoint, dictionary=dictionary, ema=ema, pretrained=pretrained, prefix=prefix, tensors=tensors
    )
    _print(inspection.values(), inspection.lines(), as_json)


app.command(epilog=BATCH_EXAMPLE)(batch)


def _given(argument: Path | None, option: Path | None, name: str) -> Path:
    if argument is not None and option is not None:
        raise UsageError(f"{name} is given twice: {argument} and {option}", advice="Give it once.")
    value = argument if argument is not None else option
    if value is None:
        raise UsageError(f"{name} is missing", advice="Try: w2vc convert --help")
    return value


# ---------------------------------------------------------------------------------------------------------------
# Printing


def _print(values: Mapping[str, object], lines: Iterable[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        # In ASCII: names come from the file, and needn't even be Unicode.
        print(json.dumps(values))
    elif sys.stdout.isatty():
        _print_table(lines)
    else:
        for heading, text in lines:
            print(f"{heading:<12}{printable(text)}")


def _print_table(lines: Iterable[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for heading, text in lines:
        table.add_row(Text(heading, style="bold"), Text(printable(text)))
    Console(highlight=False).print(table)


class _Progress:
    """A bar on stderr for work that takes more than a second; nothing where stderr is no terminal."""

    is_shown = False

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._bar: object = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_exception: object) -> None:
        from rich.progress import Progress

        if isinstance(self._bar, Progress):
            self._bar.stop()
            _Progress.is_shown = False

    @property
    def watch(self) -> Watch | None:
        """What to tell of the progress, if anybody looks."""
        return self._show if sys.stderr.isatty() else None

    def _show(self, done: int, whole: int) -> None:
        if time.monotonic() - self._started < 1:
            return
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        if not isinstance(self._bar, Progress):
            self._bar = Progress(
                *Progress.get_default_columns()[:2],
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            _Progress.is_shown = True
            self._bar.start()
            self._bar.add_task(self._what, total=whole)
        self._bar.update(self._bar.task_ids[0], completed=done)


# ---------------------------------------------------------------------------------------------------------------
# Exit codes


def main() -> NoReturn:
    """Runs the command line and exits with the code of what happened."""
    _take_signals()
    # Nothing here ever needs a network; transformers is told so before it is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    code = _run()
    if "torch" not in sys.modules:
        sys.exit(code)
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    # Nothing is left to be done, and torch takes up to half a second to be taken down.
    os._exit(code)


def _take_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as below nohup
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Ends at once, with nothing left behind.

    An exception instead of this would come out of any line of any library: as another one, where that was putting
    things in order, or never, where it left a lock held that a thread waits for.
    """
    try:
        abandon()
        if _Progress.is_shown:
            os.write(2, _LINE_CLEARED_CURSOR_SHOWN)
        os.write(2, _two_lines(*_INTERRUPTED).encode())
    finally:
        os._exit(INTERRUPTED)


_LINE_CLEARED_CURSOR_SHOWN = b"\r\x1b[2K\x1b[?25h"
_INTERRUPTED = ("interrupted", "Nothing was left behind; run the same command again.")


def _run() -> int:
    try:
        result = app(standalone_mode=False)
    except KeyboardInterrupt:
        result = INTERRUPTED
    except Exception as error:
        return _told(error)
    if result == INTERRUPTED:  # typer's own word for Ctrl-C, too
        _complain(*_INTERRUPTED)
    return result if isinstance(result, int) else 0


def _told(error: Exception) -> int:
    """Tells of an error; its exit code. What w2vc doesn't raise on purpose comes through."""
    if isinstance(error, W2vcError):
        _complain(_listed(error.problems), error.advice)
        return exit_code(error)
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has enough of it (head, less): no reason to complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    # Newer versions of typer carry a click of their own, so that there is no class to name here.
    if not hasattr(error, "format_message"):
        raise error
    context = getattr(error, "ctx", None)
    if not error.format_message():  # no command at all: the help has been shown
        return USAGE
    _complain(error.format_message(), f"Try: {getattr(context, 'command_path', 'w2vc')} --help")
    return USAGE


def exit_code(error: W2vcError) -> int:
    """The exit code of an error's branch."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


def _complain(problem: str, advice: str) -> None:
    one_line = " ".join(problem.split())
    sys.stderr.write(_two_lines(printable(one_line), printable(advice)))


def _two_lines(problem: str, advice: str) -> str:
    return f"w2vc: {problem}\n      {advice}\n"


_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 1000


def _listed(problems: Sequence[str]) -> str:
    """The problems in one line of a length that can be read, whatever the file made of them."""
    shown = [_shortened(problem) for problem in problems[:_MOST_PROBLEMS]]
    left_out = len(problems) - len(shown)
    return "; ".join([*shown, f"and {left_out} more"] if left_out else shown)


def _shortened(problem: str) -> str:
    return problem if len(problem) <= _LONGEST_PROBLEM else problem[: _LONGEST_PROBLEM - 3] + "..."
