"""Dictionaries that lie, or take all memory and time."""

from __future__ import annotations

from tests.support.hostile.cases import changed_dictionary, hostile, numbers


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
