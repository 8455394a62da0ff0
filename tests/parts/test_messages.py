"""What an error says of a file is bounded, and is what the file says as far as it goes."""

from __future__ import annotations

import pytest

from w2vc.errors import DamagedError, shown

SHOWN: list[tuple[object, str]] = [
    ("a\x1b", "'a\\x1b'"),
    ("a" * 60, f"'{'a' * 60}'"),
    ("a" * 61, f"'{'a' * 60}'..."),
    (b"a" * 60, f"b'{'a' * 60}'"),
    (b"a" * 61, f"b'{'a' * 60}'..."),
    (None, "None"),
    (True, "True"),
    (7, "7"),
    (0.5, "0.5"),
    (10**62, "1" + "0" * 62),
    (10**63, "1" + "0" * 62),
    ([], "a list"),
    ({}, "a dict"),
]


@pytest.mark.parametrize(("value", "text"), SHOWN)
def test_a_value_is_shown_quoted_and_cut(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_value_is_cut_where_it_is_asked_for() -> None:
    assert shown("abc", 2) == "'ab'..."
    assert shown("abc", 3) == "'abc'"


def test_an_error_says_all_of_its_problems() -> None:
    error = DamagedError(["one", "two"], advice="Do this.")
    assert str(error) == "one; two"
    assert error.problems == ("one", "two")
    assert DamagedError("one", advice="").problems == ("one",)
    assert str(DamagedError([], advice="")) == ""


def test_twenty_problems_are_listed_and_more_are_counted() -> None:
    twenty = [str(number) for number in range(20)]
    assert DamagedError(twenty, advice="").problems == tuple(twenty)
    assert DamagedError([*twenty, "20"], advice="").problems == (*twenty[:19], "and 2 more problems")
    assert DamagedError(twenty * 10, advice="").problems == (*twenty[:19], "and 181 more problems")


@pytest.mark.parametrize(("count", "length"), [(1, 1000), (6, 1000), (10, 600), (20, 300), (21, 300), (1000, 300)])
def test_a_long_problem_keeps_its_beginning_and_its_end(count: int, length: int) -> None:
    fits, longer = "a" * (length - 1) + "z", "a" * length + "z"
    assert DamagedError([fits] * count, advice="").problems[0] == fits
    cut = DamagedError([longer] * count, advice="").problems[0]
    end = length // 3
    assert cut == "a" * (length - end - 3) + "..." + "a" * (end - 1) + "z"
    assert len(cut) == length
