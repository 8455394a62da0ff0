"""fairseq's dictionary: which symbol stands at which index.

Read by w2vc's own reader with the semantics of ``fairseq/data/dictionary.py`` (``Dictionary.add_from_file``), or taken
from the dictionary that the checkpoint itself carries (``task_state``).
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2vc.errors import DictionaryError, UsageError
from w2vc.paths import read_small_file

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
"""Indices 0 to 3 of every dictionary (``Dictionary.__init__``)."""

_OVERWRITE = "#fairseq:overwrite"
# The largest vocabularies in use have some hundred thousand symbols of some ten bytes.
_MOST_BYTES = 64 * 2**20
_LINE_FORMAT = "a line is 'symbol count', with ' #fairseq:overwrite' behind it where a symbol is repeated on purpose"


@dataclass(frozen=True)
class Dictionary:
    """The symbols of a fairseq dictionary by index, and where they were found.

    ``symbols`` may hold the same text twice (``#fairseq:overwrite``); encoding then takes the later index.
    """

    symbols: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def blank(self) -> int:
        """The index of CTC's blank: of ``<s>`` (``AudioFinetuningTask.blank_symbol``), the last one if repeated."""
        return max(index for index, symbol in enumerate(self.symbols) if symbol == "<s>")


def parse_dictionary(text: str, origin: str) -> Dictionary:
    """Reads a ``dict.txt`` as ``Dictionary.add_from_file`` does.

    Args:
        text: the file's text, line ends as they are in the file.
        origin: what to call it in errors.

    Raises:
        DictionaryError: with every line that fairseq wouldn't read.
    """
    symbols = list(SPECIAL_SYMBOLS)
    known = set(symbols)
    problems = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        parsed = _parse_line(line)
        if parsed is None:
            problems.append(f"{origin}, line {number}: {_shown(line)} is not a symbol and a count")
            continue
        symbol, overwrite = parsed
        if symbol in known and not overwrite:
            problems.append(f"{origin}, line {number}: {_shown(symbol)} is there already")
        symbols.append(symbol)
        known.add(symbol)
    if problems:
        raise DictionaryError(
            _first(problems), advice=f"Give the dictionary that fairseq trained with: {_LINE_FORMAT}."
        )
    return Dictionary(tuple(symbols), origin)


def _parse_line(line: str) -> tuple[str, bool] | None:
    """The symbol of one line and whether it may repeat an earlier one; None if fairseq wouldn't read it."""
    symbol, space, field = line.rstrip().rpartition(" ")
    overwrite = bool(space) and field == _OVERWRITE
    if overwrite:
        symbol, space, field = symbol.rpartition(" ")
    if not space:
        return None
    try:
        int(field)
    except ValueError:
        return None
    return symbol, overwrite


def _shown(text: str) -> str:
    text = text.rstrip("\r\n")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _first(problems: Sequence[str], most: int = 5) -> list[str]:
    left_out = len(problems) - most
    return [*problems[:most], f"and {left_out} lines more"] if left_out > 0 else list(problems)


def read_dictionary(path: Path) -> Dictionary:
    """Reads a ``dict.txt`` file.

    Raises:
        UsageError: the file can't be read.
        DictionaryError: it is not UTF-8, or not a dictionary.
    """
    data = read_small_file(path, "dictionary", _MOST_BYTES, "Give a dict.txt file, or its folder.")
    try:
        return parse_dictionary(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise DictionaryError(
            f"the dictionary {path} is not UTF-8 (byte {error.start})",
            advice="Give a dict.txt in UTF-8, as fairseq does.",
        ) from error


def dictionary_file(place: Path, labels: str | None) -> Path:
    """The file that ``--dict`` means: itself, or in a folder ``dict.<labels>.txt`` or the only ``dict.*.txt``.

    Raises:
        UsageError: the folder has no such file, or several.
    """
    if not place.is_dir():
        return place
    if labels is not None and _safe(labels) and (place / f"dict.{labels}.txt").is_file():
        return place / f"dict.{labels}.txt"
    found = sorted(path for path in place.glob("dict*.txt") if path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(
            f"the folder {place} has {len(found)} dictionaries ({names})",
            advice="Give the file itself with --dict FILE.",
        )
    return found[0]


def dictionary_beside(checkpoint: Path, labels: str | None) -> Path | None:
    """``dict.<labels>.txt`` in the checkpoint's folder, if any (``AudioFinetuningTask.load_target_dictionary``)."""
    if labels is None or not _safe(labels):
        return None
    beside = checkpoint.parent / f"dict.{labels}.txt"
    return beside if beside.is_file() else None


def _safe(labels: str) -> bool:
    """Labels come from the checkpoint, and become a part of a path."""
    return re.fullmatch(r"[\w.-]{1,64}", labels) is not None


def agreed(found: Iterable[Dictionary]) -> Dictionary | None:
    """The first of several dictionaries, once all of them have been found to be the same.

    Raises:
        DictionaryError: two of them differ; shows where.
    """
    dictionaries = list(found)
    for other in dictionaries[1:]:
        if other.symbols != dictionaries[0].symbols:
            raise DictionaryError(
                f"two dictionaries differ: {_difference(dictionaries[0], other)}",
                advice="Give the right one with --dict and move the other away, or use the checkpoint's own.",
            )
    return dictionaries[0] if dictionaries else None


def _difference(left: Dictionary, right: Dictionary) -> str:
    unequal = [
        (left.symbols[a:b], right.symbols[c:d], a)
        for tag, a, b, c, d in _opcodes(left.symbols, right.symbols)
        if tag != "equal"
    ]
    shown = "; ".join(f"at {at} {_some(ours)} against {_some(theirs)}" for ours, theirs, at in unequal[:3])
    more = f"; and {len(unequal) - 3} differences more" if len(unequal) > 3 else ""
    return (
        f"{left.origin} has {len(left)} symbols, {right.origin} has {len(right)}: {shown}{more}"
        if shown
        else f"{left.origin} and {right.origin}"
    )


def _opcodes(left: Sequence[str], right: Sequence[str]) -> Sequence[tuple[str, int, int, int, int]]:
    if len(left) + len(right) > 5000:  # difflib takes quadratic time
        at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
        return [("replace", at, min(at + 3, len(left)), at, min(at + 3, len(right)))]
    return list(difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes())


def _some(symbols: Sequence[str]) -> str:
    return " ".join(_shown(symbol) for symbol in symbols[:5]) + (" ..." if len(symbols) > 5 else "") or "nothing"
