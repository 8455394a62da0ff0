"""What a setting may be ends exactly where its domain says, and what is inside comes out with its own type."""

from __future__ import annotations

import math

import pytest

from w2vc.reading import domains
from w2vc.reading.domains import LARGEST_NUMBER, LARGEST_SIZE, Domain

BEYOND = math.nextafter(LARGEST_NUMBER, math.inf)
SMALLEST = math.ulp(0.0)
TEXT_END = "a" * 10_000
LABEL_END = "a" * 100

# What is inside a domain comes first, then what is outside.
DOMAINS: dict[str, tuple[Domain, list[object], list[object]]] = {
    "flag": (domains.flag, [True, False, 1, 0], [2, -1, 1.0, 0.0, "true", None]),
    "size": (domains.size, [1, 2.0, LARGEST_SIZE], [0, -1, LARGEST_SIZE + 1, 1.5, True, "1", math.inf, math.nan, None]),
    "count": (domains.count, [0, 1, LARGEST_SIZE], [-1, LARGEST_SIZE + 1, False, 0.5]),
    "width": (domains.width, [-1, 0, LARGEST_SIZE], [-2, LARGEST_SIZE + 1, -1.5]),
    "probability": (
        domains.probability,
        [0, 0.0, 1, 1.0, SMALLEST],
        [-SMALLEST, math.nextafter(1.0, 2.0), True, "0.5", math.nan],
    ),
    "number": (domains.number, [0, -0.5, LARGEST_NUMBER, -LARGEST_NUMBER], [BEYOND, -BEYOND, math.inf, math.nan, True]),
    "positive": (domains.positive, [SMALLEST, 1, LARGEST_NUMBER], [0, 0.0, -SMALLEST, BEYOND, True]),
    "text": (domains.text, ["", TEXT_END, "\ud7ff\ue000"], [TEXT_END + "a", "\ud800", "\udfff", b"", 1, None]),
    "label": (domains.label, ["", LABEL_END], [LABEL_END + "a", "a/b", "a\\b", "a\0b", 1]),
    "labels": (domains.labels, ["ltr", ["ltr", 1], ("ltr",)], [[], ["a/b"], b"ltr", [1], {"ltr": 1}, 1]),
    "first number": (domains.first_number, [[], [0.5], (1, "x")], ["1", b"1", ["1"], [True], [BEYOND], 1, None]),
    "one of": (domains.one_of("sum", ""), ["sum", ""], ["Sum", "mean", None, 1]),
    "nullable": (domains.nullable(domains.label), ["ltr"], ["a/b", 1]),
    "texts": (
        domains.texts,
        [{}, {"0": "a"}, {1: 2}, {"a": 0.0}],
        [{"a": 0.5}, {"a": None}, {"\ud800": "a"}, [], {"a": ["b"]}, None],
    ),
    "sizes": (
        domains.sizes,
        [[], [1, LARGEST_SIZE], [1] * 100],
        [[1] * 101, [0], [1.0], [True], [LARGEST_SIZE + 1], (1,), None],
    ),
    "anything": (domains.anything, [1, "x", [None], {}], []),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_ends_exactly_where_it_says(name: str) -> None:
    domain, inside, outside = DOMAINS[name]
    assert [value for value in inside if domain.accept(value) is None] == []
    assert [value for value in outside if domain.accept(value) is not None] == []


def test_a_value_has_the_type_of_its_domain() -> None:
    types = {domains.flag: bool, domains.size: int, domains.probability: float, domains.number: float}
    for domain, kind in types.items():
        assert type(domain.accept(1)) is kind
    assert type(domains.size.accept(3.0)) is int
    assert domains.labels.accept(["phn", "ltr"]) == "phn"
    assert domains.first_number.accept([3, 4]) == 3.0
    assert domains.first_number.accept([]) == 0.0


def test_null_is_inside_only_where_the_words_say_so() -> None:
    every = {name: value for name, value in vars(domains).items() if isinstance(value, Domain)}
    assert {name for name, domain in every.items() if domain.takes_null} == set()
    null = domains.nullable(domains.size)
    assert null.takes_null
    assert null.words == f"{domains.size.words}, or null"
    assert domains.one_of("sum", "").words == "one of sum, an empty text"
