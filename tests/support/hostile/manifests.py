"""Manifests for ``batch`` that lie, or take all memory and time; each names ``good.pt``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_FAILED = 7
_USAGE = 2


@dataclass(frozen=True)
class Manifest:
    """One file for ``batch``.

    Attributes:
        name: of the file, whose ending says what it is.
        make: puts it at a path.
        exit_code: what ``w2vc batch`` ends with.
        words: what it says about the file, a pattern.
        failed: how many rows fail; the one of ``good.pt`` doesn't.
    """

    name: str
    make: Callable[[Path], object]
    exit_code: int
    words: str
    failed: int = 0


def csv(text: str | bytes, exit_code: int = _FAILED, words: str = "", failed: int = 1) -> Manifest:
    """A manifest of rows with commas."""
    return _manifest("list.csv", text, exit_code, words, failed)


def rows(*texts: str | bytes, exit_code: int = _FAILED, words: str = "", failed: int = 1) -> Manifest:
    """A manifest of JSON lines, the one of ``good.pt`` after these."""
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return _manifest("list.jsonl", b"\n".join([*encoded, b'{"checkpoint": "good.pt"}']), exit_code, words, failed)


def _manifest(name: str, text: str | bytes, exit_code: int, words: str, failed: int) -> Manifest:
    data = text.encode() if isinstance(text, str) else text
    return Manifest(name, lambda path: path.write_bytes(data), exit_code, words, 0 if exit_code != _FAILED else failed)


def _large(beginning: bytes, piece: bytes, count: int, end: bytes = b"") -> Callable[[Path], object]:
    """Writes a piece very often."""
    return lambda path: path.write_bytes(beginning + piece * count + end)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 10 * 2**30)


_GOOD = "checkpoint\ngood.pt\n"
_LONG = "x" * 100_000
_WIDE = ",".join(f"column{number}" for number in range(100_000))

MANIFESTS: Mapping[str, Manifest] = {
    # Names
    "a NUL": csv(b"checkpoint\ngood.pt\na\0b.pt\n", words="line 3: .*(holds a NUL|line contains NUL)"),
    "a NUL in JSON": rows(r'{"checkpoint": "a\u0000b.pt"}', words="line 1: checkpoint holds a NUL"),
    "a surrogate": rows(r'{"checkpoint": "\ud800.pt"}', words="line 1: checkpoint can't be the name of a file"),
    "a surrogate as an output": rows(
        r'{"checkpoint": "good.pt", "output": "\udfff"}', words="line 1: output can't be the name of a file"
    ),
    "a surrogate in bytes": csv(b"checkpoint\ngood.pt\n\xed\xa0\x80.pt\n", _USAGE, r"is not UTF-8 \(byte 19\)"),
    "a name of 100,000 characters": csv(f"{_GOOD}{_LONG}\n", words="line 3: checkpoint has 100,000 bytes, and a path"),
    "an output of 100,000 characters": csv(
        f"checkpoint,output\ngood.pt,good\ngood.pt,{_LONG}\n", words="line 3: output has 100,000 bytes, and a path"
    ),
    "a name that steers the terminal": rows(r'{"checkpoint": "\u001b[2J\u0007.pt"}', words=r"\\x1b\[2J\\x07\.pt"),
    "a slash after the name": csv(f"{_GOOD}good.pt/\n", 0, "1 checkpoint: 1 converted"),
    "a blank after the name": rows('{"checkpoint": "good.pt "}', words=r"good\.pt "),
    "the manifest itself": csv(f"{_GOOD}list.csv\n", words=r"list\.csv"),
    "the output folder": csv(f"{_GOOD}out\n", words=r"out"),
    "the folder of all": csv(f"{_GOOD}.\n", words=r"not a name below --output"),
    "the memory of the process": csv(f"{_GOOD}/proc/self/mem\n", words=r"/proc/[0-9]+/mem"),
    "an output in the memory of the process": csv(
        "checkpoint,output\ngood.pt,\ngood.pt,/proc/self/mem\n", words="not a name below --output"
    ),
    "an output above all": csv("checkpoint,output\ngood.pt,\ngood.pt,a/../../b\n", words="not a name below --output"),
    "an output in the good one's": csv(
        "checkpoint,output\ngood.pt,good\ngood.pt,good/inside\n", _USAGE, "would lie inside"
    ),
    "a dictionary of 100,000 characters": csv(
        f"checkpoint,output,dictionary\ngood.pt,,\ngood.pt,b,{_LONG}\n",
        words="line 3: --dict has 100,000 bytes, and a path",
    ),
    # JSON
    "a hundred thousand brackets": rows("[" * 100_000, words="line 1: It is not JSON"),
    "objects in objects": rows('{"checkpoint":' * 100_000, words="line 1: It is not JSON"),
    "NaN": rows('{"checkpoint": NaN}', words="line 1: The checkpoint is nan, not a text"),
    "NaN as an option": rows('{"checkpoint": "good.pt", "ema": NaN}', words="--ema is nan, not true or false"),
    "a number beyond all": rows('{"checkpoint": 1e999}', words="line 1: The checkpoint is inf, not a text"),
    "a huge integer": rows('{"checkpoint": ' + "9" * 1_000_000 + "}", words="line 1: "),
    "a huge integer that Python shows": rows('{"checkpoint": ' + "9" * 4300 + "}", words="line 1: "),
    "a huge integer as an option": rows('{"checkpoint": "good.pt", "ema": ' + "9" * 4300 + "}", words="--ema is 999"),
    "a million lists as an option": rows(
        '{"checkpoint": "good.pt", "ema": [' + "[]," * 1_000_000 + "[]]}", words="line 1: It is not JSON: it has 3,00"
    ),
    "lists as deep as JSON may be": rows(
        *('{"checkpoint": "good.pt", "ema": ' + "[" * depth + "]" * depth + "}" for depth in (900, 950, 980, 990)),
        words="--ema is a list, not true or false",
        failed=4,
    ),
    "a truth value as a number": rows('{"checkpoint": "good.pt", "ema": 1}', words="--ema is 1, not true or false"),
    "a truth value as another word": rows('{"checkpoint": "good.pt", "ema": "maybe"}', words="--ema is 'maybe'"),
    "a truth value as a checkpoint": rows('{"checkpoint": true}', words="line 1: The checkpoint is True, not a text"),
    "a key twice": rows(
        '{"checkpoint": "missing.pt", "checkpoint": "good.pt", "output": "b"}',
        words="line 1: .*checkpoint.* is there twice",
    ),
    "a hundred thousand keys": rows(
        json.dumps({"checkpoint": "good.pt", **{f"key{number}": 1 for number in range(100_000)}}),
        words="line 1: It is not JSON: it has 1,[0-9,]+ characters or more",
    ),
    "nothing but blanks": Manifest("list.jsonl", _large(b"", b" \n", 1_000_000), _USAGE, "No checkpoint is given"),
    # CSV
    "a column twice": csv("checkpoint,checkpoint\ngood.pt,a.pt\n", _USAGE, "The column 'checkpoint' is there twice"),
    "a hundred thousand columns": csv(
        f"checkpoint,{_WIDE}\ngood.pt\n", _USAGE, "Its header is not CSV: it has 1,[0-9,]+ characters or more"
    ),
    "a hundred thousand fields": csv(_GOOD + "," * 100_000 + "x\n", words="100001 fields under 1 columns"),
    "a quote that is never closed": csv(f'{_GOOD}"' + "row,\n" * 10_000, words="line [0-9]+: It is not CSV"),
    "a quote around more than fits, and rows without end": Manifest(
        "list.csv", _large(b'checkpoint\ngood.pt\n"', b"row\n", 8_000_000), _USAGE, "has more than 100,000 rows"
    ),
    "a row of fields that goes on in the next lines": Manifest(
        "list.csv",
        _large(_GOOD.encode() + b'"', b'"' + b"," * 100_000 + b'"\n', 3),
        _FAILED,
        "It is not CSV: it has 200,007 characters or more",
        2,
    ),
    "thirty million fields in a line": Manifest(
        "list.csv", _large(_GOOD.encode(), b",", 30_000_000, b"x\n"), _FAILED, "30,000,002 characters or more", 1
    ),
    "a million rows of nothing": Manifest(
        "list.csv", _large(b"checkpoint,output\n", b",\n", 1_000_000, b"good.pt,\n"), 0, "1 checkpoint: 1 converted"
    ),
    "line ends of CR only": csv("checkpoint\rgood.pt\r", 0, "1 checkpoint: 1 converted"),
    "a mark of its byte order": csv(b"\xef\xbb\xbfcheckpoint\ngood.pt\n", 0, "1 checkpoint: 1 converted"),
    "a mark of its byte order, twice": csv(
        b"\xef\xbb\xbf\xef\xbb\xbfcheckpoint\ngood.pt\n", _USAGE, "There is no column 'checkpoint'"
    ),
    "UTF-16": csv(_GOOD.encode("utf-16"), _USAGE, r"is not UTF-8 \(byte 0\).*Save it as UTF-8"),
    "UTF-16 without a mark": csv(_GOOD.encode("utf-16-le"), _USAGE, "There is no column 'checkpoint'"),
    "a header alone": csv("checkpoint\n", _USAGE, "No checkpoint is given"),
    "a header of NUL": csv(b"\0\ngood.pt\n", _USAGE, "There is no column|It is not CSV"),
    "more than any manifest has": Manifest("list.csv", _sparse, _USAGE, "larger than 33,554,432 bytes"),
}
"""By what is odd about each."""
