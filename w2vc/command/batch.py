"""``w2vc batch``: the command, and what it shows while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from w2vc.command.terminal import printable
from w2vc.errors import UsageError
from w2vc.writing.interrupts import interrupts_kept

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from w2vc.batching.batch import BatchProgress
    from w2vc.batching.work import Result

SOME_FAILED = 7

_CONNECT_SECONDS = 10

EXAMPLE = "Example: w2vc batch checkpoints/ --output models/ --dict dict.ltr.txt --report report.jsonl"


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, folders, quoted patterns, or manifests (.csv, .jsonl)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder for the outputs.")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Worker processes; as many as processors and memory allow.")
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option("--dict", metavar="FILE_OR_DIR", help="fairseq's dict.txt, for all that need one.")
    ] = None,
    head: Annotated[str, typer.Option(help="auto, ctc, pretraining, or none for the encoder alone.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, float16, bfloat16, or keep.")] = "float32",
    ema: Annotated[bool, typer.Option("--ema", help="Take the EMA weights instead of the models'.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG_JSON", help="Take values of training and decoding from here, for all."),
    ] = None,
    card: Annotated[bool, typer.Option("--card/--no-card", help="Write model cards (README.md).")] = True,
    force: Annotated[bool, typer.Option("--force", help="Convert again what is up to date, too.")] = False,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do the I-th of N parts only, for arrays of jobs.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a JSON line for each checkpoint, and one for all.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Dask cluster: its scheduler's address.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Convert many checkpoints; what is done already is skipped, what fails doesn't stop the others."""
    from w2vc.batching.batch import batch as run

    with _executor(dask) as executor, _display() as display, interrupts_kept() as interrupts:

        def on_progress(progress: BatchProgress) -> None:
            # Raised at any other point it could leave a lock held that a result needs, and wait for that for ever.
            if interrupts:
                raise KeyboardInterrupt
            display.progress(progress)

        summary = run(
            inputs,
            output,
            jobs=jobs,
            dictionary=dictionary,
            head=head,
            dtype=dtype,
            ema=ema,
            config=config,
            card=card,
            force=force,
            part=None if part is None else _part(part),
            report=report,
            executor=executor,
            on_result=display.result,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps({**summary.values(), "results": [result.values() for result in summary.results]}))
    else:
        typer.echo(summary.text())
    return 0 if summary.is_good else SOME_FAILED


def _part(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise UsageError(f"--part is {text}", advice="Give two numbers, such as 3/8 for the third of eight parts.")
    return int(first), int(second)


@contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
    """Dask's executor, if an address is given."""
    if address is None:
        yield None
        return
    try:
        # Its functions have no types, and where it isn't installed mypy wouldn't find it.
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise UsageError("--dask needs the package distributed", advice='pip install "w2vc[dask]"') from error
    try:
        # A client whose address is no good holds its process up for a minute when it is discarded.
        distributed.comm.get_address_host_port(address)
        client = distributed.Client(address, set_as_default=False, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"there is no Dask scheduler at {address}: {error}", advice="Give an address such as tcp://HOST:8786."
        ) from error
    with client:
        # A conversion has an effect, so that equal calls are not one (pure); what a lost worker had is done elsewhere.
        yield client.get_executor(pure=False)


class _Lines:
    """A line on stderr for each checkpoint that is done with."""

    def __init__(self) -> None:
        self._so_far = ""

    def progress(self, progress: BatchProgress) -> None:
        self._so_far = f"[{progress.finished}/{progress.jobs}] "

    def result(self, result: Result) -> None:
        self.show(self._so_far + _line(result))

    def show(self, line: str) -> None:
        typer.echo(printable(line), err=True)


class _Bars(_Lines):
    """Bars for the whole and for each that is running; lines above them for what was refused or failed."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars
        self._whole = bars.add_task("All", total=None, count="")
        self._running: dict[Path, TaskID] = {}

    def progress(self, progress: BatchProgress) -> None:
        super().progress(progress)
        count = f"{progress.finished} of {progress.jobs}"
        self._bars.update(self._whole, completed=progress.finished, total=progress.jobs, count=count)
        running = {one.checkpoint: one for one in progress.running}
        for checkpoint in self._running.keys() - running.keys():
            self._bars.remove_task(self._running.pop(checkpoint))
        for checkpoint, one in running.items():
            if checkpoint not in self._running:
                name = printable(f"{checkpoint.parent.name}/{checkpoint.name}")
                self._running[checkpoint] = self._bars.add_task(name, count="")
            count = f"{one.done / 1e6:,.0f} of {one.whole / 1e6:,.0f} MB"
            self._bars.update(self._running[checkpoint], completed=one.done, total=one.whole, count=count)

    def result(self, result: Result) -> None:
        if not result.is_good:
            super().result(result)

    def show(self, line: str) -> None:
        self._bars.console.print(printable(line), soft_wrap=True)


def _line(result: Result) -> str:
    if result.is_good:
        return f"{result.status} {result.checkpoint} -> {result.output} ({result.seconds:.1f} s)"
    why = "; ".join(problem.removeprefix(f"{result.checkpoint}: ") for problem in result.why)
    return f"{result.status} {result.checkpoint}: {why}. {result.advice}"


@contextmanager
def _display() -> Iterator[_Lines]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"))
    console = Console(stderr=True, highlight=False, markup=False)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        yield _Bars(bars)
