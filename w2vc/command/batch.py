"""``w2vc batch``: the command, and what it shows while it runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from w2vc.command import terminal
from w2vc.command.exit_codes import SOME_FAILED
from w2vc.command.parameters import JsonOption, path_parser, with_options
from w2vc.command.terminal import printable
from w2vc.errors import UsageError
from w2vc.writing.interrupts import interrupts_kept

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from w2vc.batching.batch import BatchProgress
    from w2vc.batching.work import Result

_CONNECT_SECONDS = 10

EXAMPLE = "Example: w2vc batch checkpoints/ --output models/ --dict dict.ltr.txt --report report.jsonl"


@with_options()
def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Files, folders, quoted patterns, or manifests (.csv, .jsonl)."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", parser=path_parser("--output"), help="The folder for the outputs."
        ),
    ],
    options: Mapping[str, Any],
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Worker processes; as many as processors and memory allow."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Convert again what is up to date, too.")] = False,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do the I-th of N parts only, for arrays of jobs.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path_parser("--report"),
            help="Append a JSON line for each checkpoint, and one for all.",
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Dask cluster: its scheduler's address.")
    ] = None,
    as_json: JsonOption = False,
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
            force=force,
            part=None if part is None else _part(part),
            report=report,
            executor=executor,
            on_result=display.result,
            on_progress=on_progress,
            **options,
        )
    if as_json:
        results = [result.values() for result in summary.results]
        terminal.show(json.dumps({**summary.values(), "results": results}))
    else:
        terminal.show(summary.text())
    return 0 if summary.is_good else SOME_FAILED


def _part(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and len(text) < 40):
        raise UsageError(f"--part is {text}.", advice="Give two numbers, such as 3/8 for the third of eight parts.")
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
        terminal.tell(printable(self._so_far + _line(result)) + "\n")


class _Bars(_Lines):
    """Bars for the whole and for each that is running; above them, wrapped, what was refused or failed."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars
        self._whole = bars.add_task("All", total=None, count="")
        self._running: dict[Path, TaskID] = {}

    def progress(self, progress: BatchProgress) -> None:
        count = f"{progress.finished} of {progress.jobs}"
        self._bars.update(self._whole, completed=progress.finished, total=progress.jobs, count=count)
        running = {one.checkpoint: one for one in progress.running}
        for checkpoint in self._running.keys() - running.keys():
            self._bars.remove_task(self._running.pop(checkpoint))
        names = dict(zip(running, distinct_names(list(running)), strict=True))
        for checkpoint, one in running.items():
            if checkpoint not in self._running:
                self._running[checkpoint] = self._bars.add_task("", count="")
            count = f"{size(one.done, one.whole)} of {size(one.whole, one.whole)} {unit(one.whole)}"
            name = terminal.printable(names[checkpoint])
            task = self._running[checkpoint]
            self._bars.update(task, description=name, completed=one.done, total=one.whole, count=count)
        self._bars.refresh()

    def result(self, result: Result) -> None:
        if not result.is_good:
            self._bars.console.print(_refusal(result), soft_wrap=True)


def distinct_names(paths: list[Path]) -> list[str]:
    """Return the ends of paths, as short as they can be and still differ; the same number of parts of each."""
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        names = [str(Path(*path.parts[-count:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


def unit(whole: int) -> str:
    """Return the unit in which a number of bytes is shown."""
    return next(name for least, name in _UNITS if whole >= least or least == 1)


def size(count: int, whole: int) -> str:
    """Return a number of bytes in the unit of the whole."""
    least = next(least for least, _name in _UNITS if whole >= least or least == 1)
    return f"{count / least:.1f}" if whole < 10 * least and least > 1 else f"{count / least:,.0f}"


def _problems(result: Result) -> list[str]:
    return terminal.shortened([problem.removeprefix(f"{result.checkpoint}: ") for problem in result.why])


def _line(result: Result) -> str:
    if result.is_good:
        return f"{result.status} {result.checkpoint} -> {result.output} ({result.seconds:.1f} s)"
    return f"{result.status} {result.checkpoint}: {terminal.joined(_problems(result))} {result.advice}"


def _refusal(result: Result) -> Any:
    """What a terminal is shown of a checkpoint that has no output: its name, the problems and the advice below it."""
    from rich.text import Text

    lines = [*_problems(result), result.advice or ""]
    below = "\n".join(f"      {terminal.wrapped(printable(line))}" for line in lines)
    name = printable(os.path.relpath(result.checkpoint))
    return Text.assemble((result.status, "bold red"), f" {name}\n{below}")


@contextmanager
def _display() -> Iterator[_Lines]:
    if not terminal.is_terminal(sys.stderr):
        yield _Lines()
        return
    from rich.console import Console

    bars, display = make_bars(Console(stderr=True, highlight=False, markup=False))
    with bars:
        yield display


def make_bars(console: Console) -> tuple[Bars, _Bars]:
    """Return bars on a console, and what draws them.

    Nothing is drawn by a thread: there may be no more to be had, and the batch tells several times a second.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}"))
    bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, auto_refresh=False)
    return bars, _Bars(bars)
