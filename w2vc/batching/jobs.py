"""What a batch has to do: which checkpoints go where, with which options. Nothing is started before all of it is known.

An output's name follows from its input alone: below OUTPUT comes what follows the given folder, or the part of a
pattern before its first wildcard, without ``.pt``; for a single file its name without ``.pt``; in a manifest the
``output`` column, where there is one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vc.batching.manifests import Row, is_manifest, read_manifest
from w2vc.errors import OutputWriteError, UsageError, shown
from w2vc.options import Options, read_options
from w2vc.paths import AnyPath, absolute, given_path

_ENDING = ".pt"
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        checkpoint: absolute path of the file.
        output: absolute path of the directory to make.
        options: how to convert.
        size: of the file in bytes; 0 where it can't be known.
        problems: why it can't be done: what is wrong with the manifest's row.
    """

    checkpoint: Path
    output: Path
    options: Options
    size: int
    problems: tuple[str, ...] = ()

    def reads(self) -> tuple[Path, ...]:
        """Every file and folder that is named for it."""
        return (self.checkpoint, *self.options.files())

    def plain(self) -> dict[str, object]:
        """The job as plain values, which ``from_plain`` reads again in another process."""
        places = {"checkpoint": str(self.checkpoint), "output": str(self.output)}
        return {**places, "options": self.options.values(), "size": self.size, "problems": self.problems}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Job:
        """Return the job that ``plain`` was made of."""
        options = read_options(values["options"])
        return cls(
            Path(values["checkpoint"]), Path(values["output"]), options, values["size"], tuple(values["problems"])
        )


def find_jobs(
    inputs: Iterable[AnyPath], output: AnyPath, options: Options, part: tuple[int, int] | None = None
) -> tuple[Job, ...]:
    """Return all conversions that the inputs mean, the largest first.

    Args:
        inputs: files; folders, which are searched for ``*.pt`` without what is hidden; patterns that no shell has
            expanded; manifests (``.csv`` with a header, ``.jsonl``). A file that is named, or that a pattern matches,
            is taken whatever it is called; what else lies in a folder (logs, dictionaries) is not.
        output: the folder for the outputs.
        options: for all that a manifest doesn't say otherwise.
        part: (i, n) takes the i-th of n parts, counted from 1; every part has the same share of large ones.

    Raises:
        UsageError: nothing to do, an input that isn't there, a manifest that can't be read, a wrong option, or outputs
            that are in one another's way; lists all.
        OutputError: OUTPUT is no folder.
    """
    root = absolute(given_path(output, "--output"))
    if root.exists() and not root.is_dir():
        raise OutputWriteError(f"{root} is no folder.", advice="Give a folder for the outputs with --output.")
    _check_options(options, part)
    given = [given_path(path, "INPUT") for path in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    _check_inputs(given)
    found = list(dict.fromkeys(job for jobs in _once(given, root, options) for job in jobs))
    if not found:
        raise UsageError(
            "No checkpoint is given.", advice="Give files, folders with *.pt files, patterns or manifests."
        )
    _check_outputs([job for job in found if not job.problems])
    ordered = sorted(found, key=lambda job: (-job.size, job.output))
    return tuple(ordered if part is None else ordered[part[0] - 1 :: part[1]])


def check_writable(output: AnyPath) -> None:
    """Find out before any work is done that nothing could be written.

    Raises:
        OutputError: OUTPUT, or the nearest folder above it that exists, may not be written to.
    """
    folder = next(folder for folder in (absolute(output), *absolute(output).parents) if folder.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputWriteError(f"{folder} may not be written to.", advice="Give another folder with --output.")


def _check_options(options: Options, part: tuple[int, int] | None) -> None:
    problems = [f"{path} doesn't exist." for path in options.files() if not path.exists()]
    if part is not None and not 1 <= part[0] <= part[1]:
        problems.append(f"--part is {part[0]}/{part[1]}: the first number goes from 1 to the second.")
    if problems:
        raise UsageError(problems, advice="Try: w2vc batch --help")


def _check_inputs(inputs: Iterable[Path]) -> None:
    """Raise if an input isn't there: somebody has mistyped it."""
    missing = [path for path in inputs if not os.path.lexists(path) and not glob.has_magic(str(path))]
    if missing:
        raise UsageError(
            _shortened([f"There is no file or folder {path}." for path in missing]),
            advice="Correct the name; nothing was started.",
        )


# ---------------------------------------------------------------------------------------------------------------
# Files, folders and patterns


def _once(inputs: Iterable[Path], root: Path, options: Options) -> Iterator[list[Job]]:
    """The jobs of each input, without files that an earlier input gave already."""
    taken: set[Path] = set()
    for path in inputs:
        if is_manifest(path):
            yield [_row_job(row, path, root, options) for row in read_manifest(path)]
            continue
        jobs = []
        for checkpoint, name in _checkpoints(path, root):
            if checkpoint not in taken:
                taken.add(checkpoint)
                jobs.append(_job(checkpoint, root / name, options))
        yield jobs


def _job(checkpoint: Path, output: Path, options: Options) -> Job:
    try:
        size = checkpoint.stat().st_size
    except OSError:  # the conversion says what is wrong with it; the others go on
        size = 0
    return Job(checkpoint, output, options, size)


def _row_job(row: Row, manifest: Path, root: Path, options: Options) -> Job:
    """The job of a manifest's row; paths of checkpoints and options start from its folder, outputs from OUTPUT."""
    folder = absolute(manifest).parent
    problems = list(row.problems)
    texts = {name: row.values.get(name, "") for name in ("checkpoint", "output")}
    for name, value in texts.items():
        try:
            if not isinstance(value, str):
                problems.append(f"The {name} is {shown(value, 100)}, not a text.")
            elif value:
                given_path(value, name)
        except UsageError as error:
            problems += error.problems
    if not texts["checkpoint"] and not problems:
        problems.append("There is no checkpoint in it.")
    given = {name: value for name, value in row.values.items() if name not in texts}
    try:
        options = read_options({**options.values(), **given}, folder=folder)
    except UsageError as error:
        problems += error.problems
    name = str(texts["output"]) or _without_ending(Path(str(texts["checkpoint"])).name)
    if not problems and (Path(name).is_absolute() or ".." in Path(name).parts or Path(name) == Path()):
        problems.append(f"The output {name!r:.100} is not a name below --output.")
    if problems:
        place = f"{absolute(manifest)}, line {row.line}"
        return Job(Path(place), root, Options(), 0, tuple(f"{place}: {problem}" for problem in problems))
    return _job(absolute(folder / str(texts["checkpoint"])), root / name, options)


def _checkpoints(given: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """The checkpoints that an input means, and each one's name below OUTPUT."""
    if given.is_dir():
        found = [(path, _name(path, absolute(given))) for path in _below(absolute(given), root)]
        if not found:
            raise UsageError(
                f"The folder {given} holds no {_ENDING} file.",
                advice="Checkpoints of another name are taken if they are named themselves or by a quoted pattern.",
            )
        yield from found
    elif glob.has_magic(str(given)) and not os.path.lexists(given):
        yield from _matching(given, root)
    else:
        yield absolute(given), _without_ending(given.name)


def _below(folder: Path, root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_raise_unreadable):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != root)
        yield from (here / name for name in sorted(files) if name.endswith(_ENDING) and not name.startswith("."))


def _raise_unreadable(error: OSError) -> None:
    raise UsageError(
        f"The folder {error.filename} can't be read: {error.strerror}.",
        advice="Give folders that you may read, or name the checkpoints themselves.",
    ) from error


def _matching(pattern: Path, root: Path) -> Iterator[tuple[Path, str]]:
    # Path.glob has neither absolute patterns nor shells' rule that * matches nothing hidden.
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207
    if not matches:
        raise UsageError(f"Nothing matches {pattern}.", advice="Look at the pattern, and from where it is meant.")
    parts = pattern.parts
    fixed = absolute(Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))]))
    for match in map(absolute, matches):
        for path in _below(match, root) if match.is_dir() else (match,):
            yield path, _name(path, fixed)


def _name(path: Path, folder: Path) -> str:
    return _without_ending(str(path.relative_to(folder)))


def _without_ending(name: str) -> str:
    return name.removesuffix(_ENDING) or name


# ---------------------------------------------------------------------------------------------------------------
# Outputs that would be in one another's way


def _check_outputs(jobs: list[Job]) -> None:
    """Raise unless every job has its own output, and none would take the place of what is read."""
    by_output: dict[Path, list[Job]] = {}
    for job in jobs:
        by_output.setdefault(job.output, []).append(job)
    problems = [
        f"{output} would be the output of {' and '.join(str(job.checkpoint) for job in same)}."
        for output, same in by_output.items()
        if len(same) > 1
    ]
    problems += [
        f"{output} would lie inside {above}, another checkpoint's output."
        for output in by_output
        for above in output.parents
        if above in by_output
    ]
    problems += [
        f"{place} would be an output, but {path}, which is read, is there."
        for path in dict.fromkeys(path for job in jobs for path in job.reads())
        for place in (path, *path.parents)
        if place in by_output
    ]
    if problems:
        raise UsageError(
            _shortened(problems),
            advice="Nothing was started. Give their folder or a quoted pattern, which keeps folders apart, "
            "or a manifest with an output column.",
        )


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - _PROBLEMS_SHOWN
    return [*problems[:_PROBLEMS_SHOWN], f"And {more} more."] if more > 0 else problems
