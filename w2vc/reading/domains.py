"""What a value may be: its type, its range, and the words for both.

A ``Domain`` is applied to every value of a cfg or of ``--config`` that is used, so that nothing outside its range goes
further. Ranges are those within which fairseq and transformers compute something; sizes are bounded far above any real
model's, so that no number in a small file decides about gigabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# The widest layers of real models have some ten thousand channels; the longest masks and kernels some hundred frames.
LARGEST_SIZE = 2**20
# Of float32, in which fairseq computes.
LARGEST_NUMBER = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True)
class Domain:
    """The values that one setting may have.

    Attributes:
        accept: the value, converted to the type that is used; None where it is outside.
        words: what is inside, for an error: "X is 7, which is not WORDS".
        takes_null: None is inside, too.
    """

    accept: Callable[[object], Any]
    words: str
    takes_null: bool = False


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else {0: False, 1: True}.get(value) if isinstance(value, int) else None


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST_NUMBER:
        return None
    return float(value)


def _whole_in(lowest: int, highest: int) -> Callable[[object], int | None]:
    def accept(value: object) -> int | None:
        found = _whole(value)
        return found if found is not None and lowest <= found <= highest else None

    return accept


def _number_in(lowest: float, highest: float) -> Callable[[object], float | None]:
    def accept(value: object) -> float | None:
        found = _number(value)
        return found if found is not None and lowest <= found <= highest else None

    return accept


def _positive(value: object) -> float | None:
    found = _number(value)
    return found if found is not None and found > 0 else None


def _text(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > 10_000:
        return None
    return None if any("\ud800" <= character <= "\udfff" for character in value) else value


def _label(value: object) -> str | None:
    found = _text(value)
    return found if found is not None and len(found) <= 100 and not set(found) & set("/\\\0") else None


def _labels(value: object) -> str | None:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return _label(next(iter(value), None))
    return _label(value)


def _first_number(value: object) -> float | None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return None
    return _number(next(iter(value), 0.0))


flag = Domain(_flag, "true or false")
size = Domain(_whole_in(1, LARGEST_SIZE), f"a whole number from 1 to {LARGEST_SIZE:,}")
count = Domain(_whole_in(0, LARGEST_SIZE), f"a whole number from 0 to {LARGEST_SIZE:,}")
width = Domain(_whole_in(-1, LARGEST_SIZE), f"a whole number up to {LARGEST_SIZE:,}")
probability = Domain(_number_in(0.0, 1.0), "a probability from 0 to 1")
number = Domain(_number, "a finite number")
positive = Domain(_positive, "a finite number above 0")
text = Domain(_text, "a text in Unicode")
label = Domain(_label, "a short text in Unicode without slashes")
labels = Domain(_labels, f"{label.words}, or a list of them")
first_number = Domain(_first_number, "a list of finite numbers")
anything = Domain(lambda value: value, "anything")


def one_of(*values: str) -> Domain:
    """The domain of some texts."""
    shown = ", ".join(value or "an empty text" for value in values)
    return Domain(lambda value: value if isinstance(value, str) and value in values else None, f"one of {shown}")


def nullable(domain: Domain) -> Domain:
    """The domain with null added."""
    return Domain(domain.accept, f"{domain.words}, or null", takes_null=True)


def _texts(value: object) -> dict[str, object] | None:
    """A mapping of short texts to short texts or whole numbers, as many as a head may have classes."""
    if not isinstance(value, dict) or len(value) > LARGEST_SIZE:
        return None
    simple = all(_label_or_number(key) and _label_or_number(item) for key, item in value.items())
    return value if simple else None


def _label_or_number(value: object) -> bool:
    return _text(value) is not None or _whole(value) is not None


def _sizes(value: object) -> list[int] | None:
    if not isinstance(value, list) or len(value) > 100:
        return None
    return value if all(size.accept(item) is not None and type(item) is int for item in value) else None


texts = Domain(_texts, "an object of texts or whole numbers")
sizes = Domain(_sizes, "a list of sizes")
