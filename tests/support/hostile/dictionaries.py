"""Dictionaries that lie, or take all memory and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.forgery import Raw, a_call, a_dict, a_list, text
from tests.support.hostile.cases import ZIP, add, changed_dictionary, hostile, numbers, writing


@hostile("bombs", 4, "symbols")
def dictionary_of_a_million_symbols() -> bytes:
    return changed_dictionary(lambda symbols: symbols.append(numbers(1_000_000)))


@hostile("bombs", 3, "text of")
def dictionary_with_a_giant_symbol() -> bytes:
    return changed_dictionary(lambda symbols: symbols.append("a" * 2**23))


@hostile("bombs", 4, "symbols")
def dictionary_with_large_symbols() -> bytes:
    return changed_dictionary(lambda symbols: symbols.extend(["a" * 2**21, "b" * 2**21]))


@hostile("lies", 4, "symbols")
def dictionary_with_a_surrogate() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, "\ud800"))


@hostile("lies", 4, "symbols")
def dictionary_with_a_number() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, 7))


@hostile("lies", 4, "begins with")
def dictionary_whose_first_symbols_steer_the_terminal() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(0, "\x1b[2J"))


@hostile("lies", 0, "")
def dictionary_with_control_characters() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, "\x1b[2J\x07\u202e"))


_SLOT = b"\x60\xea\x00\x00"


@hostile("bombs", 4, "symbols")
def dictionary_of_a_million_equal_symbols() -> bytes:
    symbols = Raw(text("again") + b"r" + _SLOT + (b"j" + _SLOT) * 1_000_000)
    return changed_dictionary(lambda found: found.append(symbols))


@hostile("bombs", (3, 4), "symbols|text of|would build")
def dictionary_of_one_long_symbol_very_often() -> bytes:
    symbols = Raw(text("long" * 700_000) + b"r" + _SLOT + (b"j" + _SLOT) * 100_000)
    return changed_dictionary(lambda found: found.append(symbols))


@hostile("bombs", (3, 4), "symbols|begins with|text of")
def dictionary_whose_first_symbols_are_megabytes() -> bytes:
    return changed_dictionary(lambda found: found.__setitem__(0, "x" * 3_000_000))


@hostile("bombs", (3, 4), "symbols|begins with")
def dictionary_whose_first_symbol_is_a_giant_list() -> bytes:
    long = a_list(text("long" * 700_000) + b"r" + _SLOT, *[b"j" + _SLOT] * 100_000)
    return changed_dictionary(lambda found: found.__setitem__(0, Raw(long)))


def _with_symbols(value: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        saved = ZIP.saved()
        saved["task_state"]["target_dictionary"].state["symbols"] = value
        return ZIP.with_saved(saved)

    return make


_FOUR = [text(symbol) for symbol in ("<s>", "<pad>", "</s>", "<unk>")]
for _name, _symbols in {
    "none": None,
    "a_text": "<s><pad></s><unk>",
    "a_tuple": ("<s>", "<pad>", "</s>", "<unk>"),
    "a_dict": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3},
    "a_stand_in": Raw(a_call("fork", "Symbols")),
    "an_ordered_dict_with_methods": Raw(
        a_call("collections", "OrderedDict") + a_dict(text("__iter__"), text("x")) + b"b"
    ),
    "a_list_of_four_and_a_stand_in": Raw(a_list(*_FOUR, a_call("fork", "Symbol"))),
    "a_list_in_itself": Raw(b"]r" + _SLOT + b"j" + _SLOT + b"a"),
}.items():
    add(f"symbols_that_are_{_name}", "lies", (3, 4), "symbols|itself|state|attribute", writing(_with_symbols(_symbols)))
