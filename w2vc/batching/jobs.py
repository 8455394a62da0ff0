"""What a batch has to do: which checkpoints go where, with which options. Nothing is started before all of it is known.

An output's name follows from its input alone: below OUTPUT stands what follows the given folder, or the part of a
pattern before its first wildcard, without ``.pt``; for a single file its name without ``.pt``; in a manifest the
``output`` column, where there is one.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from w2vc.errors import OutputWriteError, UsageError
from w2vc.families.family import Head
from w2vc.options import AnyPath, Options
from w2vc.planning.plan import Dtype

HEADS = ("auto", *get_args(Head))
DTYPES = get_args(Dtype)
COLUMNS = ("checkpoint", "output", "dictionary", "head", "dtype", "config", "ema")
"""What a manifest may say of each checkpoint; only the first is needed."""

_MANIFESTS = (".csv", ".jsonl")
_ENDING = ".pt"
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# A manifest of a million rows has some hundred megabytes.
_MANIFEST_BYTES = 2**28
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        checkpoint: absolute path of the file.
        output: absolute path of the directory to make.
        options: how to convert.
        size: of the file in bytes; 0 where it can't be told.
    """

    checkpoint: Path
    output: Path
    options: Options
    size: int


def find_jobs(
    inputs: Iterable[AnyPath], output: AnyPath, options: Options, part: tuple[int, int] | None = None
) -> tuple[Job, ...]:
    """All conversions that the inputs mean, the largest first.

    Args:
        inputs: files; folders, which are searched for ``*.pt`` without what is hidden; patterns that no shell has
            expanded; manifests (``.csv`` with a header, ``.jsonl``). A file that is named, or that a pattern matches,
            is taken whatever it is called; what else lies in a folder (logs, dictionaries) is not.
        output: the folder for the outputs.
        options: for all that a manifest doesn't say otherwise.
        part: (i, n) takes the i-th of n parts, counted from 1; every part has the same share of large ones.

    Raises:
        UsageError: nothing to do, a wrong manifest or option, or outputs that are in one another's way; lists all.
        OutputError: OUTPUT is no folder.
    """
    root = absolute(output)
    if root.exists() and not root.is_dir():
        raise OutputWriteError(f"{root} is no folder", advice="Give a folder for the outputs with --output.")
    _check_options(options, part)
    found = list(dict.fromkeys(job for given in _once(inputs, root, options) for job in given))
    if not found:
        raise UsageError("no checkpoint is given", advice="Give files, folders with *.pt files, patterns or manifests.")
    _check_outputs(found)
    ordered = sorted(found, key=lambda job: (-job.size, job.output))
    return tuple(ordered if part is None else ordered[part[0] - 1 :: part[1]])


def check_writable(output: AnyPath) -> None:
    """Finds out before any work is done that nothing could be written.

    Raises:
        OutputError: OUTPUT, or the nearest folder above it that exists, may not be written to.
    """
    folder = next(folder for folder in (absolute(output), *absolute(output).parents) if folder.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputWriteError(f"{folder} may not be written to", advice="Give another folder with --output.")


def _check_options(options: Options, part: tuple[int, int] | None) -> None:
    problems = list(_option_problems(options))
    if options.dictionary is not None and not options.dictionary.exists():
        problems.append(f"the dictionary {options.dictionary} doesn't exist")
    if options.config is not None and not options.config.exists():
        problems.append(f"the config {options.config} doesn't exist")
    if part is not None and not 1 <= part[0] <= part[1]:
        problems.append(f"--part is {part[0]}/{part[1]}: the first number goes from 1 to the second")
    if problems:
        raise UsageError(problems, advice="Try: w2vc batch --help")


def _option_problems(options: Options) -> Iterator[str]:
    for name, value, allowed in (("head", options.head, HEADS), ("dtype", options.dtype, DTYPES)):
        if value not in allowed:
            yield f"{name} is {value}, not one of {', '.join(allowed)}"


# ---------------------------------------------------------------------------------------------------------------
# Files, folders and patterns


def _once(inputs: Iterable[AnyPath], root: Path, options: Options) -> Iterator[list[Job]]:
    """The jobs of each input, without files that an earlier input gave already."""
    taken: set[Path] = set()
    for given in inputs:
        path = Path(given)
        if path.suffix in _MANIFESTS:
            yield _manifest(path, root, options)
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


def _checkpoints(given: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """The checkpoints that an input means, and each one's name below OUTPUT."""
    if given.is_dir():
        found = [(path, _name(path, absolute(given))) for path in _below(absolute(given), root)]
        if not found:
            raise UsageError(
                f"the folder {given} holds no {_ENDING} file",
                advice="Checkpoints of another name are taken if they are named themselves or by a quoted pattern.",
            )
        yield from found
    elif glob.has_magic(str(given)) and not os.path.lexists(given):
        yield from _matching(given, root)
    else:
        yield absolute(given), _without_ending(given.name)


def _below(folder: Path, root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != root)
        yield from (here / name for name in sorted(files) if name.endswith(_ENDING) and not name.startswith("."))


def _matching(pattern: Path, root: Path) -> Iterator[tuple[Path, str]]:
    # Path.glob has neither absolute patterns nor shells' rule that * matches nothing hidden.
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207
    if not matches:
        raise UsageError(f"nothing matches {pattern}", advice="Look at the pattern, and from where it is meant.")
    parts = pattern.parts
    fixed = absolute(Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))]))
    for match in map(absolute, matches):
        for path in _below(match, root) if match.is_dir() else (match,):
            yield path, _name(path, fixed)


def _name(path: Path, folder: Path) -> str:
    return _without_ending(str(path.relative_to(folder)))


def _without_ending(name: str) -> str:
    return name.removesuffix(_ENDING) or name


def absolute(path: AnyPath) -> Path:
    """A path that means the same to workers in other folders."""
    # Path.resolve would follow a link at the end, whose own name is the one that people know.
    path = Path(os.path.abspath(path))  # noqa: PTH100
    return path.parent.resolve() / path.name


# ---------------------------------------------------------------------------------------------------------------
# Manifests


def _manifest(path: Path, root: Path, options: Options) -> list[Job]:
    """The jobs of a manifest; paths of checkpoints, dictionaries and configs start from its folder, outputs from
    OUTPUT.
    """
    rows: Callable[[str], Iterator[_Row]] = _csv_rows if path.suffix == ".csv" else _json_rows
    problems: list[str] = []
    jobs = []
    for row in rows(_text(path)):
        if not row.problems:
            job, row_problems = _row_job(row.values, absolute(path).parent, root, options)
            row = replace(row, problems=row_problems)
            jobs.append(job)
        problems += [f"{path}, line {row.line}: {problem}" for problem in row.problems]
    if problems:
        raise UsageError(_shortened(problems), advice=f"The columns are: {', '.join(COLUMNS)}.")
    return jobs


@dataclass(frozen=True)
class _Row:
    line: int
    values: Mapping[str, object]
    problems: tuple[str, ...] = ()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MANIFEST_BYTES + 1)
        if len(data) > _MANIFEST_BYTES:
            raise UsageError(f"the manifest {path} is larger than {_MANIFEST_BYTES} bytes", advice="Split it.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"the manifest {path} can't be read: {error.strerror}", advice="Give a file with a row for each checkpoint."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the manifest {path} is not UTF-8 (byte {error.start})", advice="Save it as UTF-8."
        ) from error


def _csv_rows(text: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            values = [field.strip() for field in fields]
            if header is None:
                header = values
                twice = sorted({name for name in header if header.count(name) > 1})
                yield from (_Row(1, {}, (f"the column {name!r} is there twice",)) for name in twice)
            elif len(values) > len(header):
                yield _Row(reader.line_num, {}, (f"{len(values)} fields under {len(header)} columns",))
            else:
                yield _Row(reader.line_num, {name: value for name, value in zip(header, values, strict=False) if value})
    except csv.Error as error:
        yield _Row(reader.line_num, {}, (f"not CSV: {error}",))


def _json_rows(text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Row(number, {}, (f"not JSON: {error}",))
            continue
        if isinstance(values, dict):
            yield _Row(number, {name: value for name, value in values.items() if value is not None})
        else:
            yield _Row(number, {}, ("not a JSON object",))


def _row_job(values: Mapping[str, object], folder: Path, root: Path, options: Options) -> tuple[Job, tuple[str, ...]]:
    """The job of a row, and what is wrong with it."""
    problems = []
    if unknown := sorted(set(values) - set(COLUMNS)):
        problems.append(f"unknown columns: {', '.join(map(repr, unknown))}")
    texts = {}
    for name in COLUMNS[:-1]:
        value = values.get(name, "")
        if not isinstance(value, str):
            problems.append(f"{name} is {value!r}, not a text")
        texts[name] = str(value)
    ema = values.get("ema", options.ema)
    ema = _BOOLEANS.get(str(ema).lower())
    if ema is None:
        problems.append(f"ema is {values['ema']!r}, not true or false")
    if not texts["checkpoint"]:
        problems.append("no checkpoint")
    name = texts["output"] or _without_ending(Path(texts["checkpoint"]).name)
    if Path(name).is_absolute() or ".." in Path(name).parts or Path(name) == Path():
        problems.append(f"the output {name!r} is not a name below --output")
    given = Options(
        dictionary=absolute(folder / texts["dictionary"]) if texts["dictionary"] else options.dictionary,
        head=texts["head"] or options.head,
        dtype=texts["dtype"] or options.dtype,
        ema=bool(ema),
        config=absolute(folder / texts["config"]) if texts["config"] else options.config,
        card=options.card,
    )
    problems += _option_problems(given)
    return _job(absolute(folder / texts["checkpoint"]), root / name, given), tuple(problems)


# ---------------------------------------------------------------------------------------------------------------
# Outputs that would be in one another's way


def _check_outputs(jobs: list[Job]) -> None:
    """Holds that every job has an output of its own, and that none would take the place of a checkpoint."""
    by_output: dict[Path, list[Job]] = {}
    for job in jobs:
        by_output.setdefault(job.output, []).append(job)
    problems = [
        f"{output} would be the output of {' and '.join(str(job.checkpoint) for job in same)}"
        for output, same in by_output.items()
        if len(same) > 1
    ]
    for output in by_output:
        for above in output.parents:
            if above in by_output:
                problems.append(f"{output} would lie inside {above}, another checkpoint's output")
    for job in jobs:
        for place in (job.checkpoint, *job.checkpoint.parents):
            if place in by_output:
                problems.append(f"{place} would be an output, but the checkpoint {job.checkpoint} is there")
    if problems:
        raise UsageError(
            _shortened(problems),
            advice="Nothing was started. Give their folder or a quoted pattern, which keeps folders apart, "
            "or a manifest with an output column.",
        )


def _shortened(problems: list[str]) -> list[str]:
    more = len(problems) - _PROBLEMS_SHOWN
    return [*problems[:_PROBLEMS_SHOWN], f"and {more} more"] if more > 0 else problems
