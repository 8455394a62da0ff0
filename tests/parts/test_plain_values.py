"""What of a config's stored objects, dictionaries and tensors w2vc takes, value by value."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.forgery import PROTOCOL_2, STOP, a_call, a_dict, a_global, a_list, a_storage, a_tensor, a_tuple, text
from tests.support.limits import limit
from w2vc.errors import DictionaryError, UnsafeError, UsageError
from w2vc.families.cfg import Cfg, short
from w2vc.reading import domains
from w2vc.reading.budget import LIMITS, Budget
from w2vc.reading.dictionary import (
    SPECIAL_SYMBOLS,
    Dictionary,
    agreed,
    dictionary_file,
    dictionary_next_to,
    dictionary_of_symbols,
    parse_dictionary,
    read_dictionary,
)
from w2vc.reading.program import read_program
from w2vc.reading.record import Record
from w2vc.reading.sections import in_sections
from w2vc.reading.tensors import ITEM_BYTES, SourceTensor
from w2vc.reading.values import attributes, described, elements, fields, is_mapping, plain, real_number, whole_number


def read(body: bytes) -> tuple[Any, Any]:
    program = read_program(PROTOCOL_2 + body + STOP, "a.pt")
    return program.root, program.globals


def plainly(body: bytes) -> Any:
    return plain(*read(body), "a.pt: cfg")


def number(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


OWN = a_call("fork", "Class")
PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
BOTH = a_tuple(a_dict(text("a"), b"K\x01"), a_dict(text("b"), b"K\x02"))


def with_state(*items: bytes) -> bytes:
    return OWN + a_dict(*items) + b"b"


def numpy_scalar(code: bytes, raw: bytes, *, module: str = "numpy.core.multiarray", order: str = "<") -> bytes:
    """As numpy pickles one with protocol 2."""
    state = a_tuple(b"K\x03", text(order), b"N", b"N", b"N", b"K\x01", b"K\x01", b"K\x00")
    dtype = a_call("numpy", "dtype", code, b"\x89", b"\x88") + (state + b"b" if order else b"")
    return a_call(module, "scalar", dtype, a_call("_codecs", "encode", text(raw.decode("latin-1")), text("latin1")))


PLAIN: dict[str, tuple[bytes, object]] = {
    "none": (b"N", None),
    "a truth value": (b"\x88", True),
    "a text": (text("a"), "a"),
    "a list": (a_list(b"N", text("a")), [None, "a"]),
    "a tuple": (a_tuple(b"K\x01", b"K\x02"), [1, 2]),
    "a set": (b"\x8f", []),
    "a called set": (a_call("builtins", "set", a_list(b"K\x01")), [1]),
    "a deque": (a_call("collections", "deque"), []),
    "a list of one's own": (OWN + b"K\x01a", [1]),
    "a dict": (a_dict(text("a"), b"K\x01"), {"a": 1}),
    "an OrderedDict": (a_call("collections", "OrderedDict") + text("a") + b"K\x01s", {"a": 1}),
    "a Counter": (a_call("collections", "Counter") + text("a") + b"K\x01s", {"a": 1}),
    "a defaultdict": (a_call("collections", "defaultdict", b"N"), {}),
    "a dict of one's own": (OWN + text("a") + b"K\x01s", {"a": 1}),
    "numbers as keys": (a_dict(b"K\x01", text("x"), text("1"), text("y")), {"1": "y"}),
    "a number behind its text": (a_dict(text("1"), text("y"), b"K\x01", text("x")), {"1": "y"}),
    "other keys": (
        a_dict(b"N", b"K\x00", number(0.5), b"K\x01", a_tuple(b"N"), b"K\x02"),
        {"None": 0, "0.5": 1, "object": 2},
    ),
    "a class": (a_global("fork", "Class"), "fork.Class"),
    "a dtype": (a_global("torch", "float16"), "torch.float16"),
    "bytes": (a_call("_codecs", "encode", text("ab"), text("latin1")), "bytes"),
    "a size": (a_call("torch", "Size", a_tuple(b"K\x02", b"K\x03")), [2, 3]),
    "a device": (a_call("torch", "device", text("cuda"), b"K\x01"), "cuda:1"),
    "a device without a number": (a_call("torch", "device", text("cpu")), "cpu"),
    "a layout": (a_call("torch.serialization", "_get_layout", text("torch.strided")), "torch.strided"),
    "a complex number": (a_call("builtins", "complex", b"K\x01", b"K\x02"), "a builtins.complex"),
    "a tensor": (a_tensor(a_storage(), (2,), (1,)), "a torch._utils._rebuild_tensor_v2"),
    "a namespace": (a_call("argparse", "Namespace") + a_dict(text("lr"), number(0.5)) + b"b", {"lr": 0.5}),
    "attributes and slots": (OWN + BOTH + b"b", {"a": 1, "b": 2}),
    "slots alone": (OWN + a_tuple(b"N", a_dict(text("b"), b"K\x02")) + b"b", {"b": 2}),
    "several states": (with_state(text("a"), b"K\x01") + a_dict(text("b"), b"K\x02") + b"b", {"a": 1, "b": 2}),
    "an omegaconf container": (
        with_state(text("_content"), a_dict(text("a"), b"K\x01"), text("_val"), b"N"),
        {"a": 1},
    ),
    "an omegaconf node": (with_state(text("_metadata"), b"N", text("_val"), b"K\x07"), 7),
    "an enum's member": (a_call("fork", "Color", text("red")), "red"),
    "an enum's member in Python 3.11": (a_call("builtins", "getattr", a_global("fork", "Color"), text("RED")), "RED"),
    "an object of several arguments": (a_call("fork", "Class", b"K\x01", b"K\x02"), [1, 2]),
    "an object of nothing": (OWN, "fork.Class"),
    "a state of nothing": (OWN + b"Nb", "fork.Class"),
    "a state that is a text": (OWN + text("a") + b"b", "fork.Class"),
    "a state that is a list": (OWN + b"]b", "fork.Class"),
    **{
        f"{module}.{name}": (a_call(module, name, text("/"), text("a"), text("b")), "/a/b")
        for module in ("pathlib", "pathlib._local")
        for name in PATHS
    },
    "a path of no parts": (a_call("pathlib", "PosixPath"), ""),
    "a path of something else": (a_call("pathlib", "PosixPath", text("a"), b"K\x01"), "pathlib.PosixPath"),
    "a long path": (a_call("pathlib", "PosixPath", text("a" * 41_943)), "pathlib.PosixPath"),
    "a path as long as any": (a_call("pathlib", "PosixPath", text("a" * 41_942)), "a" * 41_942),
    "numpy's of today": (
        numpy_scalar(text("f8"), struct.pack("<d", 0.5), module="numpy._core.multiarray"),
        0.5,
    ),
    "numpy without a state": (numpy_scalar(text("f8"), struct.pack("<d", 0.5), order=""), 0.5),
    "numpy of no order": (numpy_scalar(text("i1"), b"\xff", order="|"), -1),
    "numpy the other way round": (
        numpy_scalar(text("f8"), struct.pack(">d", 0.5), order=">"),
        "numpy.core.multiarray.scalar",
    ),
    "numpy of too few bytes": (numpy_scalar(text("f8"), bytes(7)), "numpy.core.multiarray.scalar"),
    "numpy of another kind": (numpy_scalar(text("c16"), bytes(16)), "numpy.core.multiarray.scalar"),
    "numpy of no code": (numpy_scalar(b"N", bytes(8)), "numpy.core.multiarray.scalar"),
    "numpy of no bytes": (
        a_call("numpy.core.multiarray", "scalar", a_call("numpy", "dtype", text("f8")), text("12345678")),
        "numpy.core.multiarray.scalar",
    ),
    "numpy of no dtype": (
        a_call("numpy.core.multiarray", "scalar", a_call("fork", "dtype", text("f8"))),
        "numpy.core.multiarray.scalar",
    ),
    "numpy of nothing": (a_call("numpy.core.multiarray", "scalar"), "numpy.core.multiarray.scalar"),
}


@pytest.mark.parametrize(("body", "value"), PLAIN.values(), ids=PLAIN.keys())
def test_a_stored_object_becomes_what_it_holds(body: bytes, value: object) -> None:
    found = plainly(body)
    assert found == value
    assert type(found) is type(value)


NUMPY = {
    "f8": ("<d", 0.5),
    "f4": ("<f", 0.5),
    "f2": ("<e", 0.5),
    "b1": ("<?", True),
    "i8": ("<q", -(2**40)),
    "i4": ("<i", -(2**20)),
    "i2": ("<h", -300),
    "i1": ("<b", -7),
    "u8": ("<Q", 2**63),
    "u4": ("<I", 2**31),
    "u2": ("<H", 2**15),
    "u1": ("<B", 200),
}


@pytest.mark.parametrize("code", NUMPY)
def test_a_number_of_numpys_is_a_number(code: str) -> None:
    form, value = NUMPY[code]
    body = numpy_scalar(text(code), struct.pack(form, value))
    assert plainly(body) == value
    root, _ = read(body)
    is_whole, is_truth = type(value) is int, type(value) is bool
    assert whole_number(root) == (value if is_whole else None)
    assert real_number(root) == (None if is_truth else value)


@pytest.mark.parametrize(
    ("body", "whole", "real"),
    [
        (b"K\x07", 7, 7.0),
        (number(0.5), None, 0.5),
        (b"\x88", None, None),
        (b"N", None, None),
        (text("7"), None, None),
        (a_list(b"K\x07"), None, None),
        (OWN, None, None),
    ],
)
def test_a_number_is_taken_for_one_and_nothing_else(body: bytes, whole: int | None, real: float | None) -> None:
    root, _ = read(body)
    assert whole_number(root) == whole
    assert real_number(root) == real
    assert real is None or type(real_number(root)) is float


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"N", "a NoneType"),
        (text("x"), "a str"),
        (b"]", "a list"),
        (OWN, "a fork.Class"),
        (a_global("fork", "Class"), "a fork.Class"),
        (a_tensor(a_storage(), (2,), (1,)), "a tensor"),
    ],
)
def test_a_value_is_described_by_its_kind(body: bytes, words: str) -> None:
    assert described(read(body)[0]) == words


def test_each_kind_of_value_is_looked_into_as_what_it_is() -> None:
    mixed = read(a_dict(text("a"), b"N", b"K\x01", b"N"))
    assert fields(*mixed) == {"a": None}
    assert (elements(*mixed), attributes(*mixed)) == (None, None)
    listed = read(a_tuple(b"K\x01", text("a")))
    assert elements(*listed) == [1, "a"]
    assert (fields(*listed), attributes(*listed)) == (None, None)
    for body, held in ((OWN, {}), (with_state(text("a"), b"N"), {"a": None})):
        assert attributes(*read(body)) == held
        assert (fields(*read(body)), elements(*read(body))) == (None, None)
    for body in (b"N", text("a"), a_global("fork", "Class"), a_call("torch", "device", text("cpu"))):
        assert (fields(*read(body)), elements(*read(body)), attributes(*read(body))) == (None, None, None)
    for body in (OWN + b"Na", OWN + b"NNs", a_call("collections", "deque"), a_call("collections", "OrderedDict")):
        assert attributes(*read(body)) is None
    assert is_mapping(*read(a_call("collections", "Counter")))
    assert not is_mapping(*read(a_call("builtins", "set")))


def test_the_attributes_of_a_state_of_two_parts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # A pair, and two items in each of its parts.
    limit(monkeypatch, "config attributes", 6)
    assert plainly(OWN + BOTH + b"b") == {"a": 1, "b": 2}
    limit(monkeypatch, "config attributes", 5)
    with pytest.raises(UnsafeError, match="deeper or larger than any config"):
        plainly(OWN + BOTH + b"b")


def test_the_texts_of_keys_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "config text", 4)
    assert plainly(a_dict(text("abcd"), b"N")) == {"abcd": None}
    with pytest.raises(UnsafeError, match="deeper or larger than any config"):
        plainly(a_dict(text("abcd"), text("e")))


# ---------------------------------------------------------------------------------------------------------------
# Sections and single values

FLAT = {"arch": "x", "lr": 1, "w2v_args": {"model": {"_name": "y"}}}
REST = {"arch": "x", "lr": 1}


@pytest.mark.parametrize(
    ("config", "sections"),
    [
        (None, None),
        ([1], None),
        ({"model": {"a": 1}, "task": {"b": 2}}, {"model": {"a": 1}, "task": {"b": 2}}),
        (
            FLAT,
            {
                "task": REST,
                "criterion": REST,
                "checkpoint": REST,
                "model": {"_name": "x", **FLAT},
            },
        ),
        (
            {"model": {"w2v_args": {"arch": "y"}}},
            {
                "model": {
                    "w2v_args": {
                        "task": {"arch": "y"},
                        "criterion": {"arch": "y"},
                        "checkpoint": {"arch": "y"},
                        "model": {"_name": "y", "arch": "y"},
                    }
                }
            },
        ),
        ({"model": {"w2v_args": "text"}}, {"model": {"w2v_args": "text"}}),
    ],
)
def test_a_config_comes_in_sections(config: object, sections: object) -> None:
    assert in_sections(config, "cfg") == sections


CFG = {
    "task": {"normalize": True, "labels": "${task.kind}", "kind": "ltr", "data": "???", "env": "${oc.env:HOME}"},
    "model": {
        "short": [1, 2.5, None],
        "none": [],
        "nested": [[1]],
        "full": list(range(20)),
        "long": list(range(21)),
        "self": "${model.self}",
        "lost": "${model.nothing}",
        "inner": ["${oc.env:HOME}"],
        "half": "a ${task.kind}",
        "rate": "fast",
    },
    "text": "x",
}
VALUES: list[tuple[str, object]] = [
    ("task.normalize", True),
    ("task.labels", "ltr"),
    ("task.data", None),
    ("task.env", None),
    ("task.nothing", None),
    ("nothing.at.all", None),
    ("task", "(a section of 5 keys)"),
    ("model.short", [1, 2.5, None]),
    ("model.none", []),
    ("model.nested", "(a list of 1 values)"),
    ("model.full", list(range(20))),
    ("model.long", "(a list of 21 values)"),
    ("model.inner", ["(a resolver)"]),
    ("model.half", None),
]


@pytest.mark.parametrize(("path", "value"), VALUES)
def test_a_single_value_is_taken_from_a_config(path: str, value: object) -> None:
    cfg = Cfg(CFG)
    assert cfg.value(path) == value
    assert cfg.problems == []


@pytest.mark.parametrize("path", ["model.self", "model.lost"])
def test_what_leads_nowhere_is_a_problem(path: str) -> None:
    cfg = Cfg(CFG)
    assert cfg.value(path) is None
    assert cfg.keys(path) == []
    assert cfg.take(path, domains.text, "d") == "d"
    assert cfg.problems == [f"cfg.{path} refers to a key that isn't there or to itself"] * 3


def test_a_section_has_keys_and_anything_else_none() -> None:
    cfg = Cfg(CFG)
    assert cfg.keys("task") == ["normalize", "labels", "kind", "data", "env"]
    assert [cfg.keys(name) for name in ("text", "nothing", "model.short")] == [[], [], []]
    assert cfg.problems == []


@pytest.mark.parametrize(
    ("path", "domain", "value", "problem"),
    [
        ("task.normalize", domains.flag, True, ""),
        ("task.nothing", domains.flag, "default", ""),
        ("task.data", domains.text, "default", ""),
        (
            "task.env",
            domains.text,
            "default",
            "cfg.task.env would be made by a resolver of omegaconf, which w2vc never runs",
        ),
        ("model.rate", domains.number, "default", "cfg.model.rate is 'fast', which is not a finite number"),
        ("model.long", domains.size, "default", "cfg.model.long is '(a list of 21 values)', which is not a whole"),
    ],
)
def test_a_value_is_held_to_its_domain(path: str, domain: domains.Domain, value: object, problem: str) -> None:
    cfg = Cfg(CFG)
    assert cfg.take(path, domain, "default") == value
    assert [found[: len(problem)] for found in cfg.problems] == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 58, f"'{'a' * 58}'"),
        ("a" * 59, f"'{'a' * 56}..."),
        (b"ab", "b'ab'"),
        ([1] * 20, repr([1] * 20)),
        ([1] * 21, repr([1] * 21)[:57] + "..."),
    ],
)
def test_a_wrong_value_is_shown_in_sixty_characters(value: object, shown: str) -> None:
    assert short(value) == shown
    assert len(shown) <= 60


# ---------------------------------------------------------------------------------------------------------------
# Dictionaries

A = Dictionary((*SPECIAL_SYMBOLS, "a", "b", "c"), "A")


def of(*symbols: str) -> Dictionary:
    return Dictionary((*SPECIAL_SYMBOLS, *symbols), "B")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (of("a", "x", "c"), "A has 7 symbols, B has 7: from index 5 'b' against 'x'"),
        (of("a", "c"), "A has 7 symbols, B has 6: from index 5 'b' against nothing"),
        (of("a", "b", "c", "d"), "from index 7 nothing against 'd'"),
        (of("x", "a", "b", "c"), "from index 4 nothing against 'x'"),
        (of(*"uvwxy"), "from index 4 'a' 'b' 'c' against 'u' 'v' 'w' 'x' 'y'"),
        (of(*"uvwxyz"), "against 'u' 'v' 'w' 'x' 'y' ..."),
        (of("a", "a", "b", "c"), "from index 5 nothing against 'a'"),
    ],
)
def test_two_dictionaries_that_differ_are_shown_where(other: Dictionary, words: str) -> None:
    with pytest.raises(DictionaryError) as caught:
        agreed([A, replace(A, origin="C"), other])
    assert str(caught.value).endswith(words)


def test_the_first_of_equal_dictionaries_is_taken() -> None:
    assert agreed([A, replace(A, origin="C")]) is A
    assert agreed([]) is None
    assert len(A) == 7
    assert A.blank == 0
    assert of("a", "<s>", "b").blank == 5


LINES: list[tuple[str, tuple[str, ...] | str]] = [
    ("a 1\nb 2\n", ("a", "b")),
    ("a 1\r\nb 2\rc 3", ("a", "b", "c")),
    ("a b 1\n", ("a b",)),
    ("a -1  \n", ("a",)),
    (" 1\n", ("",)),
    ("<unk> 1 #fairseq:overwrite\n", ("<unk>",)),
    ("a 1\na 2 #fairseq:overwrite\n", ("a", "a")),
    ("a 1\na 2\n", "line 2: 'a' is there already"),
    ("a\n", "line 1: 'a' is not a symbol and a count"),
    ("a 1.5\n", "line 1: 'a 1.5' is not a symbol and a count"),
    ("a #fairseq:overwrite\n", "line 1: 'a #fairseq:overwrite' is not a symbol and a count"),
    ("\n", "line 1: '' is not a symbol and a count"),
    (f"{'x' * 99}\r\n", f"line 1: '{'x' * 40}'... is not a symbol and a count"),
    ("<s> 1\n", "line 1: '<s>' is there already"),
]


@pytest.mark.parametrize(("lines", "expected"), LINES)
def test_a_line_is_read_as_fairseq_reads_it(lines: str, expected: tuple[str, ...] | str) -> None:
    if isinstance(expected, tuple):
        assert parse_dictionary(lines, "D") == Dictionary((*SPECIAL_SYMBOLS, *expected), "D")
    else:
        with pytest.raises(DictionaryError) as caught:
            parse_dictionary(lines, "D")
        assert caught.value.problems == (f"D, {expected}",)


@pytest.mark.parametrize(("count", "told"), [(4, 4), (5, 5), (6, 6), (60, 6)])
def test_five_wrong_lines_are_named(count: int, told: int) -> None:
    with pytest.raises(DictionaryError) as caught:
        parse_dictionary("a 1\n" + "b\n" * count, "D")
    problems = caught.value.problems
    assert len(problems) == told
    assert problems[min(told, 5) - 1] == f"D, line {min(count, 5) + 1}: 'b' is not a symbol and a count"
    assert (problems[-1] == "and other lines") is (told == 6)


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        (None, "has no list of symbols"),
        ([*SPECIAL_SYMBOLS, 1], "has no list of symbols"),
        ([*SPECIAL_SYMBOLS, "\ud800"], "has no list of symbols"),
        ([], "begins with nothing, not with <s>, <pad>, </s>, <unk>"),
        (["<s>", "<pad>", "</s>"], "begins with '<s>', '<pad>', '</s>', not with"),
        (["<pad>", "<s>", "</s>", "<unk>", "a"], "begins with '<pad>', '<s>', '</s>', '<unk>', not with"),
    ],
)
def test_what_is_no_dictionary_of_fairseqs_is_refused(symbols: Any, words: str) -> None:
    with pytest.raises(DictionaryError) as caught:
        dictionary_of_symbols(symbols, "O")
    assert str(caught.value).startswith(f"O {words}")


def test_a_dictionary_of_symbols_keeps_them_and_its_origin() -> None:
    symbols = [*SPECIAL_SYMBOLS, "\ud7ff", "\ue000", "a"]
    assert dictionary_of_symbols(symbols, "O") == Dictionary(tuple(symbols), "O")


def test_the_symbols_of_a_dictionary_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "dictionary bytes", 20)
    dictionary_of_symbols([*SPECIAL_SYMBOLS, "a" * 3], "O")
    with pytest.raises(DictionaryError, match="O has 21 bytes of dictionary, more than 20"):
        dictionary_of_symbols([*SPECIAL_SYMBOLS, "a" * 4], "O")


def test_the_dictionary_in_a_folder_is_the_labels_or_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has 0 dictionaries \(none\)"):
        dictionary_file(tmp_path, None)
    (tmp_path / "dict.ltr.txt").write_text("")
    (tmp_path / "dict.folder.txt").mkdir()
    (tmp_path / "words.txt").write_text("")
    for labels in (None, "ltr", "phn", "folder", "../x"):
        assert dictionary_file(tmp_path, labels) == tmp_path / "dict.ltr.txt"
    (tmp_path / "dict.phn.txt").write_text("")
    assert dictionary_file(tmp_path, "phn") == tmp_path / "dict.phn.txt"
    with pytest.raises(UsageError, match=r"has 2 dictionaries \(dict\.ltr\.txt, dict\.phn\.txt\)"):
        dictionary_file(tmp_path, "wrd")
    assert dictionary_file(tmp_path / "dict.phn.txt", "ltr") == tmp_path / "dict.phn.txt"


def test_the_dictionary_next_to_a_checkpoint_is_the_labels(tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("")
    (tmp_path / "dict.folder.txt").mkdir()
    (tmp_path / ("dict." + "a" * 65 + ".txt")).write_text("")
    checkpoint = tmp_path / "a.pt"
    assert dictionary_next_to(checkpoint, "ltr") == tmp_path / "dict.ltr.txt"
    for labels in (None, "phn", "folder", f"../{tmp_path.name}/ltr", "a" * 65):
        assert dictionary_next_to(checkpoint, labels) is None


def test_a_dictionary_that_isnt_utf_8_is_told_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"a 1\n\xff 1\n")
    with pytest.raises(DictionaryError, match=r"is not UTF-8 \(byte 4\)"):
        read_dictionary(tmp_path / "d.txt")
    (tmp_path / "d.txt").write_bytes("\N{LATIN SMALL LETTER E WITH ACUTE} 1\n".encode())
    assert read_dictionary(tmp_path / "d.txt").origin == str(tmp_path / "d.txt")


# ---------------------------------------------------------------------------------------------------------------
# Tensors


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, **more: Any) -> SourceTensor:
    return SourceTensor("n", shape, stride, "float32", Record("data/0", 0, 1000, None), offset, **more)


def test_an_element_has_the_bytes_of_torchs() -> None:
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    assert {name: getattr(torch, name).itemsize for name in names.split()} == ITEM_BYTES


@pytest.mark.parametrize(
    ("shape", "stride", "elements", "span", "contiguous"),
    [
        ((), (), 1, 4, True),
        ((2, 3), (3, 1), 6, 24, True),
        ((2, 3), (1, 2), 6, 24, False),
        ((2, 3), (4, 1), 6, 28, False),
        ((2, 3), (3, 2), 6, 32, False),
        ((2, 1, 3), (3, 77, 1), 6, 24, True),
        ((1, 3), (99, 1), 3, 12, True),
        ((2, 0), (7, 7), 0, 0, True),
        ((0, 2), (7, 7), 0, 0, True),
        ((3,), (0,), 3, 4, False),
        ((2, 3, 4), (12, 4, 1), 24, 96, True),
        ((2, 3, 4), (8, 4, 1), 24, 80, False),
    ],
)
def test_a_tensor_knows_where_its_elements_lie(
    shape: tuple[int, ...], stride: tuple[int, ...], elements: int, span: int, contiguous: bool
) -> None:
    found = tensor(shape, stride)
    assert (found.elements, found.nbytes, found.span) == (elements, elements * 4, span)
    assert found.is_contiguous is contiguous


def test_a_part_of_a_part_knows_its_place_in_the_whole() -> None:
    whole = tensor((5, 3), (3, 1), 8)
    part = whole.narrowed(2)
    assert (part.shape, part.stride, part.offset, part.index) == ((1, 3), (3, 1), 8 + 24, 2)
    assert part.narrowed(1).index == 3
    assert part.narrowed(0).index == 2
    row = whole.selected(4)
    assert (row.shape, row.stride, row.offset, row.index) == ((3,), (1,), 8 + 48, 4)
    held = torch.arange(15).reshape(5, 3)
    assert part.of(held).tolist() == [[6, 7, 8]]
    assert row.of(held).tolist() == [12, 13, 14]
    assert whole.narrowed(0).of(held).tolist() == [[0, 1, 2]]
    assert whole.of(held) is held


def test_a_tensor_has_the_name_that_its_file_gives_it() -> None:
    assert (tensor((), ()).name_in_file, tensor((), ()).key) == ("n", "n")
    assert (tensor((), (), prefix="a.b.").name_in_file, tensor((), (), prefix="a.b.").key) == ("a.b.n", "a.b.n")
    assert tensor((), (), adapter="eng").key == "adapter.eng.n"
    assert tensor((), (), adapter="eng").name_in_file == "n"


# ---------------------------------------------------------------------------------------------------------------
# The budget

GROWING = {
    *("records", "directory bytes", "pickle bytes", "opcodes", "built bytes", "unfolded objects"),
}


def test_what_costs_in_proportion_to_the_file_grows_and_nothing_else() -> None:
    assert {name for name, row in LIMITS.items() if row.grows} == GROWING


@pytest.mark.parametrize(
    ("on_disk", "times"), [(0, 1), (2**30 - 1, 1), (2**30, 2), (3 * 2**30, 4), (16 * 2**30, 17), (2**50, 17)]
)
def test_each_gigabyte_on_the_disk_allows_as_much_again(on_disk: int, times: int) -> None:
    found = Budget("a.pt", on_disk)
    assert found.most("records") == LIMITS["records"].most * times
    assert found.most("tensors") == LIMITS["tensors"].most


def test_what_is_charged_adds_up_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "globals", 5)
    limit(monkeypatch, "built bytes", 5)
    found = Budget("a.pt")
    spend: list[tuple[Callable[[], None], str]] = [
        (lambda: found.charge("globals"), "a.pt has more than 5 different globals"),
        (lambda: found.build(1), "a.pt would build more than 5 bytes of Python objects"),
    ]
    for once, words in spend:
        for _ in range(5):
            once()
        with pytest.raises(UnsafeError) as caught:
            once()
        assert str(caught.value) == words
    found.require("text", LIMITS["text"].most, "a text")
    with pytest.raises(UnsafeError, match=f"a.pt has a text of {LIMITS['text'].most + 1} bytes; the limit is 4194304"):
        found.require("text", LIMITS["text"].most + 1, "a text")
