"""fairseq's dictionary: which symbol has which index.

Read by w2vc's own reader with the semantics of ``fairseq/data/dictionary.py`` (``Dictionary.add_from_file``), or taken
from the dictionary that the checkpoint itself carries (``task_state``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2vc.errors import DictionaryError, UsageError, shown
from w2vc.reading.budget import LIMITS
from w2vc.reading.opening import read_small_file

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
"""Indices 0 to 3 of every dictionary (``Dictionary.__init__``)."""

_OVERWRITE = "#fairseq:overwrite"
_MOST_LINES_SHOWN = 5
_LINE_FORMAT = "a line is 'symbol count', with ' #fairseq:overwrite' after it where a symbol is repeated on purpose"


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
    """Read a ``dict.txt`` as ``Dictionary.add_from_file`` does.

    Args:
        text: the file's text, line ends as they are in the file.
        origin: what to call it in errors.

    Raises:
        DictionaryError: with every line that fairseq wouldn't read.
    """
    symbols = list(SPECIAL_SYMBOLS)
    known = set(symbols)
    problems: list[str] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if len(problems) > _MOST_LINES_SHOWN or len(symbols) > LIMITS["symbols"].most:
            break
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
        more = ["and other lines"] if len(problems) > _MOST_LINES_SHOWN else []
        raise DictionaryError(
            [*problems[:_MOST_LINES_SHOWN], *more],
            advice=f"Give the dictionary that fairseq trained with: {_LINE_FORMAT}.",
        )
    _require_size(symbols, origin)
    return Dictionary(tuple(symbols), origin)


def _shown(line: str) -> str:
    return shown(line[:100].rstrip("\r\n"), 40)


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


def dictionary_of_symbols(symbols: Sequence[object] | None, origin: str) -> Dictionary:
    """Return the dictionary with these symbols, as a checkpoint carries them.

    Args:
        symbols: the list; None where there is none.
        origin: what to call it in errors.

    Raises:
        DictionaryError: it is no list of texts, doesn't begin as fairseq's do, or is larger than any.
    """
    texts = [symbol for symbol in symbols or () if type(symbol) is str]
    _require_size(texts, origin)
    if symbols is None or len(texts) != len(symbols) or any(map(_SURROGATE.search, texts)):
        raise DictionaryError(
            f"{origin} has no list of symbols, each a text in Unicode", advice="Give the dictionary with --dict."
        )
    if tuple(texts[: len(SPECIAL_SYMBOLS)]) != SPECIAL_SYMBOLS:
        found = ", ".join(shown(symbol, 40) for symbol in texts[:4])
        raise DictionaryError(
            f"{origin} begins with {found or 'nothing'}, not with {', '.join(SPECIAL_SYMBOLS)}",
            advice="w2vc reads fairseq's own kind of dictionary only; give it with --dict if there is one.",
        )
    return Dictionary(tuple(texts), origin)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _require_size(symbols: Sequence[str], origin: str) -> None:
    """Raise DictionaryError where there are more symbols, or longer ones, than in any real dictionary."""
    found = {
        "symbols": len(symbols),
        "symbol": max(map(len, symbols), default=0),
        "dictionary bytes": sum(map(len, symbols)),
        "repeated symbols": len(symbols) - len(set(symbols)),
    }
    problems = [
        f"{origin} has {count} {LIMITS[name].what}, more than {LIMITS[name].most}"
        for name, count in found.items()
        if count > LIMITS[name].most
    ]
    if problems:
        raise DictionaryError(problems, advice="Give the dictionary that fairseq trained with.")


def read_dictionary(path: Path) -> Dictionary:
    """Read a ``dict.txt`` file.

    Raises:
        UsageError: the file can't be read.
        DictionaryError: it is not UTF-8, or not a dictionary.
    """
    most = LIMITS["dictionary bytes"].most
    data = read_small_file(path, "dictionary", most, "Give a dict.txt file, or its folder.")
    _require_lines(data, path)
    try:
        return parse_dictionary(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise DictionaryError(
            f"the dictionary {path} is not UTF-8 (byte {error.start})",
            advice="Give a dict.txt in UTF-8, as fairseq does.",
        ) from error


def _require_lines(data: bytes, path: Path) -> None:
    """Raise DictionaryError where a line is longer than any, before the text is made of them: it takes more memory."""
    line_ends = data.count(b"\n") + data.count(b"\r")
    if line_ends > 2 * LIMITS["symbols"].most:
        raise DictionaryError(
            f"the dictionary {path} has {line_ends} lines, more than any with a symbol and a count in each",
            advice="Is it a dictionary at all?",
        )
    longest = max(map(len, io.BytesIO(data.replace(b"\r", b"\n"))), default=0)
    if longest > 5 * LIMITS["symbol"].most:
        raise DictionaryError(
            f"the dictionary {path} has a line of {longest} bytes, longer than any symbol and a count",
            advice="Is it a dictionary at all?",
        )


def dictionary_file(place: Path, labels: str | None) -> Path:
    """Return the file that ``--dict`` means: itself, or in a folder ``dict.<labels>.txt`` or the only ``dict.*.txt``.

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


def dictionary_next_to(checkpoint: Path, labels: str | None) -> Path | None:
    """Return ``dict.<labels>.txt`` next to the checkpoint, if any (``AudioFinetuningTask.load_target_dictionary``)."""
    if labels is None or not _safe(labels):
        return None
    neighbour = checkpoint.parent / f"dict.{labels}.txt"
    return neighbour if neighbour.is_file() else None


def read_neighbour(path: Path) -> Dictionary:
    """Read a dictionary that nobody named: what is wrong with it is the model's problem, not one of usage."""
    try:
        return read_dictionary(path)
    except UsageError as error:
        advice = "Move it away, or put the model's dictionary in its place."
        raise DictionaryError(error.problems, advice=advice) from error


def _safe(labels: str) -> bool:
    """Raise if labels, which come from the checkpoint, can't be a part of a path."""
    return re.fullmatch(r"[\w.-]{1,64}", labels) is not None


def agreed(found: Iterable[Dictionary]) -> Dictionary | None:
    """Return the first of several dictionaries, once all of them have been found to be the same.

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
    """Return what lies between the symbols that both begin with and those that both end with, in one pass."""
    ours, theirs = left.symbols, right.symbols
    shorter = min(len(ours), len(theirs))
    start = next((at for at in range(shorter) if ours[at] != theirs[at]), shorter)
    left_over = shorter - start
    same = next((at for at in range(left_over) if ours[-1 - at] != theirs[-1 - at]), left_over)
    between = f"{_some(ours[start : len(ours) - same])} against {_some(theirs[start : len(theirs) - same])}"
    return f"{left.origin} has {len(left)} symbols, {right.origin} has {len(right)}: from index {start} {between}"


def _some(symbols: Sequence[str]) -> str:
    return " ".join(shown(symbol, 40) for symbol in symbols[:5]) + (" ..." if len(symbols) > 5 else "") or "nothing"
