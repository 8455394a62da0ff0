"""What each opcode leaves on the stack, and what exactly it is charged with."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest

from tests.support.forgery import (
    PROTOCOL_2,
    STOP,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_storage,
    a_tuple,
    plainly,
    text,
)
from tests.support.limits import limit
from w2vc.errors import DamagedError, UnsafeError
from w2vc.reading.machine import Machine
from w2vc.reading.program import read_next_value
from w2vc.reading.source import PickleSource


def run(body: bytes) -> tuple[Any, Machine]:
    machine = Machine(PickleSource(PROTOCOL_2 + body + STOP, "a.pt"), legacy=False)
    return machine.run(), machine


SCALARS: list[tuple[bytes, object]] = [
    (b"N", None),
    (b"\x88", True),
    (b"\x89", False),
    (b"J\xff\xff\xff\xff", -1),
    (b"J\xff\xff\xff\x7f", 2**31 - 1),
    (b"K\xff", 255),
    (b"M\xff\xfe", 0xFEFF),
    (b"\x8a\x00", 0),
    (b"\x8a\x01\xff", -1),
    (b"\x8a\x02\xff\x00", 255),
    (b"\x8a\x11" + bytes(16) + b"\x01", 2**128),
    (b"G" + struct.pack(">d", -0.1), -0.1),
    (b"X\x02\x00\x00\x00\xd1\x91", "\u0451"),
    (b"X\x03\x00\x00\x00\xed\xa0\x80", "\ud800"),
    (b"U\x02\xd1\x91", "\u0451"),
    (b"U\x00", ""),
]


@pytest.mark.parametrize(("body", "value"), SCALARS)
def test_a_scalar_is_pushed_as_pickle_reads_it(body: bytes, value: object) -> None:
    found, _ = run(body)
    assert found == value
    assert type(found) is type(value)


NODES: list[tuple[bytes, str, list[object]]] = [
    (b"]", "list", []),
    (b"}", "dict", []),
    (b"\x8f", "set", []),
    (b")", "tuple", []),
    (b"K\x01\x85", "tuple", [1]),
    (b"K\x01K\x02\x86", "tuple", [1, 2]),
    (b"K\x01K\x02K\x03\x87", "tuple", [1, 2, 3]),
    (b"(K\x01K\x02t", "tuple", [1, 2]),
    (b"(t", "tuple", []),
    (b"]K\x01aK\x02a", "list", [1, 2]),
    (b"](K\x01K\x02e(K\x03e", "list", [1, 2, 3]),
    (b"}K\x01K\x02s", "dict", [1, 2]),
    (b"}(K\x01K\x02K\x03K\x04u", "dict", [1, 2, 3, 4]),
    (b"K\x07q\x09h\x09\x86", "tuple", [7, 7]),
    (b"K\x07r\x00\x01\x00\x00j\x00\x01\x00\x00\x86", "tuple", [7, 7]),
    (a_call("builtins", "set", a_list(b"K\x01")), "instance", [1]),
    (a_call("builtins", "set"), "instance", []),
    (a_call("collections", "Counter", a_dict(text("a"), b"K\x02")), "instance", ["a", 2]),
    (a_call("builtins", "frozenset", a_list(b"K\x01")), "instance", []),
    (a_global("fork", "Class") + b")\x81K\x01a", "instance", [1]),
    (a_global("fork", "Class") + b")\x81K\x01K\x02s", "instance", [1, 2]),
    (a_global("fork", "Class"), "global", []),
    (a_storage(), "storage", []),
]


@pytest.mark.parametrize(("body", "kind", "items"), NODES)
def test_a_container_holds_what_pickle_gives_it(body: bytes, kind: str, items: list[object]) -> None:
    found, _ = run(body)
    assert (found.kind, [*found.items]) == (kind, items)


def test_a_copy_stays_as_it_was_when_its_original_grows() -> None:
    original = b"]q\x00K\x01a"
    found, _ = run(a_tuple(original + a_global("builtins", "set") + b"h\x00\x85R", b"h\x00K\x02a"))
    kept, copied, grown = found.items
    assert kept is grown
    assert [copied.items, grown.items] == [[1], [1, 2]]


def test_an_object_keeps_its_arguments_and_states_in_order() -> None:
    found, _ = run(a_call("fork", "Class", b"K\x01", text("a")) + b"}bNb")
    assert found.arguments == (1, "a")
    assert [state if state is None else state.kind for state in found.states] == ["dict", None]


BROKEN: list[tuple[bytes, str]] = [
    (b"U\x01\xff", "has a text that isn't UTF-8"),
    (b"U\x03\xed\xa0\x80", "has a text that isn't UTF-8"),
    (b"\xff", "has opcode 0xff, which"),
    (b"\x05", "has opcode 0x05, which"),
    (b"p1\n", "has opcode PUT, which"),
    (b"\x85", "takes more from its stack"),
    (b"N\x86", "takes more from its stack"),
    (b"NN\x87", "takes more from its stack"),
    (b"N(N\x86", "takes more from its stack"),
    (b"q\x00", "takes more from its stack"),
    (b"}Ns", "changes a NoneType|takes more"),
    (b"t", "takes more from its stack"),
    (b"(N", "leaves something on its stack"),
    (b"NN", "leaves something on its stack"),
    (b"", "leaves something on its stack"),
    (b"]NNs", "gives a list items as if it were a dict"),
    (b"}(Nu", "gives a dict a key without a value"),
    (b"}(NNNu", "gives a dict a key without a value"),
    (b")Na", "appends to a tuple"),
    (b"NNa", "changes a NoneType"),
    (b"]}b", "sets the state of a list"),
    (a_global("fork", "Class") + b"NR", "calls fork.Class with something that isn't a tuple"),
    (b"h\x00", "refers to object 0"),
]


@pytest.mark.parametrize(("body", "words"), BROKEN)
def test_what_no_pickle_of_torchs_does_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        run(body)


UNSAFE: list[tuple[bytes, str]] = [
    (b"N)R", "calls something that isn't a global"),
    (b"N)\x81", "makes an object of something that isn't a class"),
    (a_call("fork", "Class") + b")\x81", "makes an object of something that isn't a class"),
    (
        a_global("collections", "OrderedDict") + b")\x81",
        "makes an object of collections.OrderedDict without calling it",
    ),
    (a_call("collections", "OrderedDict") + b"Nb", "made to something that isn't a dict"),
    (a_call("collections", "Counter") + b"}b", "sets the state of an object that collections.Counter made"),
    (a_call("builtins", "set") + b"Na", "gives elements to an object that builtins.set made"),
    (a_call("builtins", "complex", b"K\x01", b"K\x02") + b"NNs", "gives items to an object that builtins.complex"),
]


@pytest.mark.parametrize(("body", "words"), UNSAFE)
def test_what_would_make_torch_do_something_else_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(UnsafeError, match=words):
        run(body)


# ---------------------------------------------------------------------------------------------------------------
# Prices

SCALAR, NODE, ENTRY, TENSOR = 40, 200, 100, 1000
GLOBAL = SCALAR + 10 * NODE
"""Where it is named first."""
A = sys.getsizeof("a")
LATIN1 = sys.getsizeof("latin1")
CALL = NODE + NODE
"""A mark, and the tuple of the arguments."""
ENCODED = a_call("_codecs", "encode", text("a"), text("latin1"))
# The arguments are texts, which lie on the stack and are copied.
BYTES = GLOBAL + CALL + 2 * (A + LATIN1) + 16 + NODE
OWN = a_call("fork", "Class")
OBJECT = GLOBAL + CALL + NODE

PRICES: dict[str, tuple[bytes, int]] = {
    "a scalar": (b"N", SCALAR),
    "an integer": (plainly(2**40), SCALAR),
    "a text": (text("a"), A),
    "a wide text": (text("\U0001f600"), sys.getsizeof("\U0001f600")),
    "a short text": (b"U\x01a", A),
    "a list": (b"]", NODE),
    "one element": (b"]Na", NODE + SCALAR + 16),
    "two elements": (a_list(b"N", b"N"), NODE + NODE + 2 * SCALAR + 32),
    "one entry": (b"}NNs", NODE + 2 * SCALAR + ENTRY),
    "two entries": (a_dict(b"N", b"N", b"K\x01", b"N"), NODE + NODE + 4 * SCALAR + 2 * ENTRY),
    "a pair": (b"NN\x86", 2 * SCALAR + 16 + NODE),
    "a tuple of a mark's": (a_tuple(b"N"), NODE + SCALAR + 8 + NODE),
    "the memo": (b"Nq\x00h\x00\x86", SCALAR + ENTRY + 8 + 16 + NODE),
    "a global": (a_global("fork", "Class"), GLOBAL),
    "a global twice": (a_global("fork", "Class") * 2 + b"\x86", GLOBAL + SCALAR + 16 + NODE),
    "an object": (OWN, OBJECT),
    "an object of a text": (a_call("fork", "Class", text("a")), OBJECT + 2 * A + 8),
    "an object of a list": (a_call("fork", "Class", b"]Na"), OBJECT + NODE + SCALAR + 16 + 8 + ENTRY),
    "an object of a pair": (a_call("fork", "Class", b"NN\x86"), OBJECT + 2 * SCALAR + 16 + NODE + 8 + 16),
    "bytes": (ENCODED, BYTES),
    "a bytearray": (a_call("builtins", "bytearray", ENCODED), OBJECT + BYTES + 8 + A),
    "bytes as a key": (a_dict(ENCODED, b"N"), NODE + NODE + BYTES + SCALAR + ENTRY + A),
    "a set": (a_call("builtins", "set", b"]Na"), OBJECT + NODE + SCALAR + 16 + 8 + ENTRY),
    "a state": (OWN + b"}NNsb", OBJECT + NODE + 2 * SCALAR + ENTRY + ENTRY + SCALAR),
    "a state of two parts": (
        OWN + b"}NNs}\x86b",
        OBJECT + NODE + 2 * SCALAR + ENTRY + NODE + 16 + NODE + ENTRY + SCALAR,
    ),
    "a state that is no dict": (OWN + b"Nb", OBJECT + SCALAR + SCALAR),
    "a storage": (
        a_storage("a"),
        NODE + sys.getsizeof("storage") + GLOBAL + A + sys.getsizeof("cpu") + SCALAR + 40 + NODE + TENSOR,
    ),
}


@pytest.mark.parametrize(("body", "price"), PRICES.values(), ids=PRICES.keys())
def test_everything_has_its_price(body: bytes, price: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "built bytes", price)
    run(body)
    limit(monkeypatch, "built bytes", price - 1)
    with pytest.raises(UnsafeError, match=f"more than {price - 1} bytes of Python objects"):
        run(body)


@pytest.mark.parametrize(
    ("body", "price", "copied"),
    [
        (b"N", SCALAR, 0),
        (a_list(b"N", b"N"), PRICES["two elements"][1], NODE + 2 * SCALAR),
        (a_dict(text("a"), b"N", text("b"), b"]"), 3 * NODE + 2 * A + SCALAR + 2 * ENTRY, 2 * NODE + 4 * SCALAR),
    ],
)
def test_a_plain_value_of_the_legacy_format_is_charged_for_its_copy_too(
    body: bytes, price: int, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickle = PROTOCOL_2 + body + STOP
    limit(monkeypatch, "built bytes", price + copied)
    read_next_value(PickleSource(pickle, "a.pt"))
    limit(monkeypatch, "built bytes", price + copied - 1)
    with pytest.raises(UnsafeError, match=f"more than {price + copied - 1} bytes of Python objects"):
        read_next_value(PickleSource(pickle, "a.pt"))


@pytest.mark.parametrize(
    ("body", "times"),
    [
        (a_global("fork", "Class"), 1),
        (a_global("fork", "Class") * 2 + b"\x86", 2),
        (OWN, 2),
        (a_global("fork", "Class") + b")\x81", 2),
        (OWN + b"}b", 3),
        (a_call("builtins", "set"), 0),
        (a_tuple(OWN, a_global("fork", "Other")), 6),
    ],
)
def test_each_use_of_a_class_makes_torch_build_its_list_anew(
    body: bytes, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, machine = run(body)
    limit(monkeypatch, "allow-list entries", times)
    machine.globals.check_look_ups()
    limit(monkeypatch, "allow-list entries", times - 1)
    with pytest.raises(UnsafeError, match="entries of torch's allow-list"):
        machine.globals.check_look_ups()


@pytest.mark.parametrize(
    ("body", "hashes"),
    [
        (OWN + a_dict(plainly(0.5), b"N") + b"b", 2),
        (OWN + a_tuple(a_dict(plainly(0.5), b"N"), a_dict(plainly(0.5), b"N")) + b"b", 4),
        (a_call("collections", "Counter", a_dict(plainly(0.5), plainly(0.5))), 2),
        (a_call("builtins", "set", a_list(plainly(0.5), plainly(1.5))), 2),
        (a_dict(plainly(0.5), plainly(1.5)), 1),
    ],
)
def test_every_hash_is_counted_when_it_is_taken(body: bytes, hashes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "chosen hashes", hashes)
    run(body)
    limit(monkeypatch, "chosen hashes", hashes - 1)
    with pytest.raises(UnsafeError, match="can be made to collide"):
        run(body)
