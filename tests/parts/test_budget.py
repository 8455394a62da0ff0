"""Each limit lets pass what is just below it, and refuses what is just above."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.forgery import PROTOCOL_2, STOP, a_call, a_dict, a_global, a_list, a_tuple, plainly, text
from tests.support.limits import limit
from w2vc.errors import DictionaryError, UnsafeError, UsageError
from w2vc.reading.budget import LIMITS
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, dictionary_of_symbols, parse_dictionary, read_dictionary
from w2vc.reading.program import read_program
from w2vc.reading.sections import in_sections
from w2vc.reading.values import plain


def read(body: bytes) -> object:
    return read_program(PROTOCOL_2 + body + STOP, "a.pt: data.pkl")


def read_plain(body: bytes) -> object:
    program = read_program(PROTOCOL_2 + body + STOP, "a.pt: data.pkl")
    return plain(program.root, program.globals, "a.pt: cfg")


def globals_named(count: int) -> bytes:
    return a_list(*(a_global("fork", f"Class{number}") for number in range(count)))


def one_global_used(count: int) -> bytes:
    return a_list(*[a_call("fork", "Class")] * count, a_global("fork", "Other"))


def tuple_used_as_a_key(count: int) -> bytes:
    """A tuple of nine numbers: a hash of it visits ten objects."""
    return a_list(a_tuple(*[b"K\x01"] * 9) + b"q\x00", *[b"}h\x00Ns"] * count)


LARGE = 2**61 - 1

# (row of the table, a lower limit for the test, pickle by number, the largest number that passes)
PICKLES: list[tuple[str, int, Callable[[int], bytes], int]] = [
    ("pickle bytes", 100, lambda n: text("a" * n), 100 - 8),
    ("opcodes", 50, lambda n: b"](" + b"N" * n + b"e", 50 - 6 + 1),
    ("depth", 10, lambda n: b"]" * n + b"a" * (n - 1), 9),
    ("unfolded objects", 100, lambda n: a_list(*[b"N"] * n), 100 - 3),
    ("globals", 5, globals_named, 5),
    ("allow-list entries", 20, one_global_used, 4),
    ("global name", 20, lambda n: a_global("f" * n, "x"), 19),
    ("text", 30, lambda n: text("a" * n), 30),
    ("integer", 5, lambda n: b"\x8a" + bytes([n]) + b"\x01" * n, 5),
    ("chosen hashes", 40, tuple_used_as_a_key, 4),
    ("chosen hashes", 5, lambda n: a_dict(*[plainly(LARGE * i) + b"N" for i in range(1, n + 1)]), 5),
    ("chosen hashes", 5, lambda n: a_dict(*[plainly(i + 0.5) + b"N" for i in range(n)]), 5),
    ("chosen hashes", 5, lambda n: a_call("builtins", "set", a_list(*[plainly(i + 0.5) for i in range(n)])), 5),
    (
        "chosen hashes",
        5,
        lambda n: a_dict(*[a_call("builtins", "complex", plainly(i), b"K\x01") + b"N" for i in range(n)]),
        5,
    ),
    ("chosen hashes", 40, lambda n: a_dict(*[a_call("torch", "Size", a_tuple(*[b"K\x01"] * 7)) + b"N"] * n), 5),
    ("dimensions", 5, lambda n: a_call("torch", "Size", a_tuple(*[b"K\x01"] * n)), 5),
]


@pytest.mark.parametrize(
    ("name", "most", "body", "passes"), PICKLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_pickle_is_refused_just_above_each_limit(
    name: str, most: int, body: Callable[[int], bytes], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    read(body(passes))
    with pytest.raises(UnsafeError):
        read(body(passes + 1))


CONFIGS: list[tuple[str, int, Callable[[int], bytes], int]] = [
    ("config values", 20, lambda n: a_list(*[b"N"] * n), 19),
    ("config text", 100, lambda n: a_list(text("a" * 10) + b"q\x00", *[b"h\x00"] * (n - 1)), 10),
    ("config depth", 5, lambda n: b"]" * n + b"a" * (n - 1), 6),
    ("interpolation", 20, lambda n: text("${" + "a" * (n - 3) + "}"), 20),
]


@pytest.mark.parametrize(("name", "most", "body", "passes"), CONFIGS, ids=[row[0] for row in CONFIGS])
def test_a_config_is_refused_just_above_each_limit(
    name: str, most: int, body: Callable[[int], bytes], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    read_plain(body(passes))
    with pytest.raises(UnsafeError):
        read_plain(body(passes + 1))


def nested(count: int) -> dict[str, object]:
    config: dict[str, object] = {"arch": "wav2vec_ctc"}
    for _ in range(count - 1):
        config = {"arch": "wav2vec_ctc", "w2v_args": config}
    return config


def test_flat_configs_in_one_another_are_refused_and_never_multiply() -> None:
    most = LIMITS["nested configs"].most
    assert in_sections(nested(most), "cfg") is not None
    with pytest.raises(UnsafeError, match="configs within one another"):
        in_sections(nested(most + 1), "cfg")
    sections = in_sections({"w2v_args": {"arch": "x"}, "arch": "y"}, "cfg")
    assert sections is not None
    assert "w2v_args" not in str(sections["task"])


DICTIONARIES: list[tuple[str, int, Callable[[int], list[str]], int]] = [
    ("symbols", 10, lambda n: [f"s{number}" for number in range(n - 4)], 10),
    ("symbol", 10, lambda n: ["a" * n], 10),
    ("repeated symbols", 3, lambda n: ["a"] * (n + 1), 3),
]


@pytest.mark.parametrize(("name", "most", "symbols", "passes"), DICTIONARIES, ids=[row[0] for row in DICTIONARIES])
def test_a_dictionary_is_refused_just_above_each_limit(
    name: str, most: int, symbols: Callable[[int], list[str]], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    assert of_checkpoint(symbols(passes)) == of_file(symbols(passes)) == len(symbols(passes)) + len(SPECIAL_SYMBOLS)
    for made in (of_checkpoint, of_file):
        with pytest.raises(DictionaryError, match="more than"):
            made(symbols(passes + 1))


def of_checkpoint(symbols: list[str]) -> int:
    return len(dictionary_of_symbols([*SPECIAL_SYMBOLS, *symbols], "a.pt"))


def of_file(symbols: list[str]) -> int:
    return len(parse_dictionary("".join(f"{symbol} 1 #fairseq:overwrite\n" for symbol in symbols), "dict.txt"))


def test_a_dictionary_file_larger_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "dictionary bytes", 20)
    (tmp_path / "dict.txt").write_text("a 1\n" * 5)
    with pytest.raises(DictionaryError, match="is there already"):
        read_dictionary(tmp_path / "dict.txt")
    (tmp_path / "dict.txt").write_text("a 1\n" * 5 + "\n")
    with pytest.raises(UsageError, match="larger than"):
        read_dictionary(tmp_path / "dict.txt")


def test_a_million_wrong_lines_are_not_all_listed() -> None:
    with pytest.raises(DictionaryError) as caught:
        parse_dictionary("\n" * 1_000_000, "dict.txt")
    assert len(caught.value.problems) == 6


def test_every_limit_says_its_reason() -> None:
    for name, row in LIMITS.items():
        assert row.most > 0, name
        assert len(row.why) > 20, name


def test_one_object_with_many_attributes_is_refused_where_it_is_used_often(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "config attributes", 40)
    node = a_call("fork", "Node") + a_dict(text("_content") + b"N", text("a") + b"N", text("b") + b"N") + b"bq\x00"
    for times, passes in ((6, True), (7, False)):
        body = a_list(node, *[b"h\x00"] * (times - 1))
        if passes:
            assert read_plain(body) == [None] * times
        else:
            with pytest.raises(UnsafeError, match="deeper or larger than any config"):
                read_plain(body)
