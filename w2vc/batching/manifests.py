"""Manifests: a row for each checkpoint, in CSV with a header or as JSON lines.

A row that is wrong has its problems with it, and the others go on; only what makes all rows doubtful is raised.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from w2vc.errors import UsageError
from w2vc.options import OPTIONS
from w2vc.reading.opening import read_small_file

COLUMNS = ("checkpoint", "output", *OPTIONS)
"""What a manifest may say of each checkpoint; only the first is needed."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# What reading takes is bounded by these: a row costs two kilobytes, JSON's smallest values twenty times their text.
_MOST_ROWS = 100_000
_MOST_BYTES = 2**25
# Of one row's text. Five paths, each as long as the system allows and all of it escaped, have 120,000.
_LONGEST_ROW = 2**17
_ADVICE = f"Give a file with a row for each checkpoint; the columns are {', '.join(COLUMNS)}."


@dataclass(frozen=True)
class Row:
    """What a manifest says of one checkpoint.

    Attributes:
        line: where it is in the file, counted from 1.
        values: by column; what is empty is left out.
        problems: what is wrong with it.
    """

    line: int
    values: Mapping[str, object]
    problems: tuple[str, ...] = ()


def is_manifest(path: Path) -> bool:
    """Return whether an input is a manifest, by its name."""
    return path.suffix in _READERS and not path.is_dir()


def read_manifest(path: Path) -> list[Row]:
    """Return the rows of a manifest.

    Raises:
        UsageError: it can't be read, is not UTF-8, has too many rows, or its header names unknown columns.
    """
    data = read_small_file(path, "manifest", _MOST_BYTES, _ADVICE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The manifest {path} is not UTF-8 (byte {error.start}).", advice="Save it as UTF-8."
        ) from error
    try:
        rows = list(islice(_READERS[path.suffix](text), _MOST_ROWS + 1))
        if len(rows) > _MOST_ROWS:
            raise UsageError(f"It has more than {_MOST_ROWS:,} rows.", advice="Split it into several manifests.")
    except UsageError as error:
        raise UsageError([f"{path}: {problem}" for problem in error.problems], advice=error.advice) from error
    return rows


def _csv_rows(text: str) -> Iterator[Row]:
    lines = _Lines(text)
    header: list[str] | None = None
    for fields in _records(lines):
        if isinstance(fields, csv.Error):
            if header is None:
                raise UsageError(f"Its header is not CSV: {fields}.", advice=_ADVICE)
            yield Row(lines.number, {}, (f"It is not CSV: {fields}.",))
            continue
        values = [field.strip() for field in fields]
        if not any(values):
            continue
        if header is None:
            header = _header(values)
        elif len(values) > len(header):
            yield Row(lines.number, {}, (f"It has {len(values)} fields under {len(header)} columns.",))
        else:
            named = zip(header, values, strict=False)
            yield _row(lines.number, {name: value for name, value in named if value})


class _Lines:
    """The lines of a text, counted; raises where a row becomes too long, and goes on with the next line."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self._length = 0
        self.number = 0

    def begin_row(self) -> None:
        """A row has one line, or several where there are quotes."""
        self._length = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self._length += len(line)
        if self._length > _LONGEST_ROW:
            raise csv.Error(_too_long(self._length))
        return line


def _too_long(length: int) -> str:
    return f"it has {length:,} characters or more, and a row has {_LONGEST_ROW:,} at most"


def _records(lines: _Lines) -> Iterator[list[str] | csv.Error]:
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _header(names: list[str]) -> list[str]:
    problems = [f"There is no column {name!r:.100}." for name in dict.fromkeys(names) if name not in COLUMNS]
    problems += [f"The column {name!r:.100} is there twice." for name in COLUMNS if names.count(name) > 1]
    if "checkpoint" not in names:
        problems.append("There is no column 'checkpoint'.")
    if problems:
        raise UsageError(problems[:20], advice=_ADVICE)
    return names


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            if len(line) > _LONGEST_ROW:
                raise ValueError(_too_long(len(line)))
            values = json.loads(line, object_pairs_hook=_object)
        except UsageError as error:
            yield Row(number, {}, error.problems)
            continue
        except (ValueError, RecursionError) as error:
            yield Row(number, {}, (f"It is not JSON: {error}.",))
            continue
        if isinstance(values, dict):
            yield _row(number, {name: value for name, value in values.items() if value is not None})
        else:
            yield Row(number, {}, ("It is not a JSON object.",))


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _times),) = Counter(name for name, _value in pairs).most_common(1)
        raise UsageError(f"The column {name!r:.100} is there twice.", advice=_ADVICE)
    return values


def _row(line: int, values: Mapping[str, object]) -> Row:
    unknown = [name for name in values if name not in COLUMNS]
    problems = tuple(f"There is no column {name!r:.100}." for name in unknown[:20])
    return Row(line, {name: _value(name, value) for name, value in values.items() if name in COLUMNS}, problems)


def _value(name: str, value: object) -> object:
    """A column's value, where it is a truth in words as that truth."""
    is_switch = name in OPTIONS and not OPTIONS[name].metavar and not OPTIONS[name].choices
    return _BOOLEANS.get(value.lower(), value) if is_switch and isinstance(value, str) else value


_READERS: dict[str, Callable[[str], Iterator[Row]]] = {".csv": _csv_rows, ".jsonl": _json_rows}
