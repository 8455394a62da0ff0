"""What the walk over a pickle's opcodes finds, and what it refuses."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import pathlib
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.forgery import PROTOCOL_2, STOP, a_call, a_global, a_list, a_tuple, text
from w2vc.errors import DamagedError, UnsafeError
from w2vc.reading.budget import LIMITS, Limit
from w2vc.reading.globals_used import GlobalUse
from w2vc.reading.policy import classify
from w2vc.reading.program import read_next_program, read_program
from w2vc.reading.source import PickleSource
from w2vc.reading.storages import StorageUse


def integer(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def a_storage(
    key: str = "0", kind: tuple[str, str] = ("torch", "FloatStorage"), numel: bytes = b"K\x06", *more: bytes
) -> bytes:
    return a_tuple(text("storage"), a_global(*kind), text(key), text("cpu"), numel, *more) + b"Q"


def a_program(body: bytes) -> bytes:
    return PROTOCOL_2 + body + STOP


def use_in(body: bytes, path: str) -> GlobalUse:
    return read_program(a_program(body), "a.pt: data.pkl").globals[path]


class Color(enum.Enum):
    RED = "red"


class Meter:
    def __init__(self) -> None:
        self.n = 1


class Items(dict[str, int]):
    pass


class Elements(list[int]):
    pass


def test_everything_a_checkpoint_may_hold_beside_tensors_passes() -> None:
    values = {
        "numpy": [np.float64(1.5), np.int64(3), np.arange(6).reshape(2, 3).T, np.bool_(True), np.dtype("f4")],
        "collections": [collections.Counter("aab"), collections.deque([1, 2]), collections.defaultdict(list, a=[1])],
        "ordered": collections.OrderedDict(a=1),
        "args": argparse.Namespace(seed=1, lr=[0.5]),
        "path": pathlib.PurePosixPath("a/b"),
        "time": [dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc), dt.timedelta(1)],
        "id": uuid.UUID(int=2**127),
        "enum": Color.RED,
        "bytes": [b"", b"\xff\x00", bytearray(b"x")],
        "sets": [{1, 2}, frozenset([3])],
        "scalars": [None, True, -1, 2**40, 1.5, 1j, range(3), slice(1, 2), ..., type(None), int],
        "types": list[int],
        "meter": Meter(),
        "random": np.random.RandomState(0).get_state(),
    }
    program = read_program(pickle.dumps(values, protocol=2), "a.pt: data.pkl")
    assert program.globals["collections.Counter"].kind == "torch"
    assert program.globals["argparse.Namespace"].kind == "known"
    assert program.globals[f"{__name__}.Meter"].kind == "stand-in"


def test_the_use_of_a_class_tells_which_stand_in_fits_it() -> None:
    data = pickle.dumps([Items(a=1), Elements([1]), Meter(), {Color.RED: 1}, Meter], protocol=2)
    uses = read_program(data, "a.pt").globals
    assert uses[f"{__name__}.Items"].gets_items
    assert uses[f"{__name__}.Elements"].gets_elements
    meter = uses[f"{__name__}.Meter"]
    assert meter.gets_state
    assert not meter.gets_items
    assert uses[f"{__name__}.Color"].hashed
    assert not use_in(a_global("a", "Class"), "a.Class").gets_state


def test_python_2_names_are_told_as_torch_renames_them() -> None:
    body = a_list(a_global("__builtin__", "long"), a_global("__builtin__", "set"))
    assert read_program(a_program(body), "a").globals.keys() == {"builtins.int", "builtins.set"}


def test_storages_are_told_once_in_order_of_appearance() -> None:
    body = a_list(a_storage("7"), a_storage("3", ("torch", "HalfStorage")), a_storage("7"))
    storages = read_program(a_program(body), "a").storages
    assert storages == (StorageUse("7", "FloatStorage", "cpu", 6), StorageUse("3", "HalfStorage", "cpu", 6))
    assert [storage.nbytes for storage in storages] == [24, 12]


def test_the_next_pickle_of_the_legacy_format_is_found() -> None:
    first = a_program(a_storage("7", ("torch", "FloatStorage"), b"K\x06", b"N"))
    source = PickleSource(first + a_program(b"N"), "a.pt")
    program = read_next_program(source, legacy=True)
    assert program.storages == (StorageUse("7", "FloatStorage", "cpu", 6),)
    assert program.size == source.position == len(first)


def test_a_view_of_a_legacy_storage_is_refused() -> None:
    # Its key could be used again as a storage's own, so that the storages after it are counted wrong.
    body = a_storage("7", ("torch", "FloatStorage"), b"K\x06", a_tuple(text("8"), b"K\x01", b"K\x02"))
    with pytest.raises(DamagedError, match="names a view of the storage '7'"):
        read_next_program(PickleSource(a_program(body), "a.pt"), legacy=True)


def test_an_omegaconf_node_may_hold_its_parent() -> None:
    # DictConfig's state holds a node whose state holds the DictConfig: omegaconf 2.0 writes _parent.
    node = a_global("omegaconf.nodes", "AnyNode") + b")\x81}" + text("_parent") + b"h\x00sb"
    config = a_global("omegaconf.dictconfig", "DictConfig") + b")\x81q\x00}" + text("_content") + b"}" + text("a")
    assert use_in(config + node + b"ssb", "omegaconf.dictconfig.DictConfig").gets_state


REFUSED_GLOBALS = [
    *[("builtins", name) for name in ("eval", "exec", "compile", "open", "__import__", "apply", "globals", "setattr")],
    *[("__builtin__", name) for name in ("eval", "exec", "execfile", "file", "input")],
    *[("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("commands", "getoutput")],
    *[
        ("sys", "modules"),
        ("importlib", "import_module"),
        ("runpy", "run_path"),
        ("pty", "spawn"),
        ("cPickle", "loads"),
    ],
    *[("pickle", "loads"), ("marshal", "loads"), ("ctypes", "CDLL"), ("socket", "socket"), ("shutil", "rmtree")],
    *[("operator", "attrgetter"), ("operator", "methodcaller"), ("types", "FunctionType")],
    *[("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"), ("torch.utils.cpp_extension", "load")],
    *[("torch._utils", "_rebuild_wrapper_subclass"), ("torch._utils", "_rebuild_sparse_tensor")],
    *[
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.f2py", "compile"),
    ],
    *[
        ("copyreg", "add_extension"),
        ("pathlib", "os"),
        ("logging.config", "listen"),
        ("codecs", "open"),
        ("imp", "load"),
    ],
    *[("asyncio", "create_subprocess_shell"), ("multiprocessing.util", "spawnv_passfds"), ("telnetlib", "Telnet")],
]


@pytest.mark.parametrize(("module", "name"), REFUSED_GLOBALS)
def test_a_global_that_runs_or_loads_is_refused_by_name(module: str, name: str) -> None:
    with pytest.raises(UnsafeError, match=name):
        read_program(a_program(a_call(module, name, text("true"))), "a.pt: data.pkl")


def test_all_refused_globals_are_listed_in_one_error() -> None:
    body = a_list(a_call("os", "system", text("true")), a_global("builtins", "eval"), a_call("nt", "system"))
    with pytest.raises(UnsafeError, match=r"builtins\.eval, nt\.system, os\.system"):
        read_program(a_program(body), "a.pt")


def test_a_refused_global_is_told_even_where_the_pickle_is_broken_after_it() -> None:
    with pytest.raises(UnsafeError, match=r"os\.system"):
        read_program(PROTOCOL_2 + a_call("os", "system", text("true")), "a.pt")


def test_no_module_of_the_standard_library_becomes_a_stand_in() -> None:
    assert [module for module in sys.stdlib_module_names if classify(module, "anything") == "stand-in"] == []


def test_anybody_s_class_becomes_a_stand_in() -> None:
    assert [classify(module, "Meter") for module in ("fairseq.logging.meters", "my_fork", "__main__")] == [
        "stand-in"
    ] * 3


@pytest.mark.parametrize(
    ("module", "name"),
    [("", "eval"), ("os.", "system"), ("a", "b.c"), ("a", ""), ("a b", "c"), ("a", "<lambda>"), ("\u043es", "system")],
)
def test_a_name_that_is_no_class_s_is_refused(module: str, name: str) -> None:
    with pytest.raises(UnsafeError, match="is no name of a class"):
        read_program(a_program(a_global(module, name)), "a.pt")


def test_a_name_without_end_is_refused() -> None:
    with pytest.raises(UnsafeError, match="more than 500 characters"):
        read_program(a_program(b"c" + b"a" * 600 + b"\na\n"), "a.pt")


ENCODED = a_call("_codecs", "encode", text("abc"), text("latin1"))
STORAGE = a_storage()
TENSOR = (STORAGE, b"K\x00", a_tuple(b"K\x06"), a_tuple(b"K\x01"))
ODD_CALLS: dict[str, bytes] = {
    "encode with another codec": a_call("_codecs", "encode", text("abc"), text("zlib_codec")),
    "encode of what latin-1 lacks": a_call("_codecs", "encode", text("\u0451"), text("latin1")),
    "encode of a number": a_call("_codecs", "encode", b"K\x01", text("latin1")),
    "bytearray of a length": a_call("builtins", "bytearray", integer(2**40)),
    "bytes of a length": a_call("builtins", "bytes", integer(2**40)),
    "set of a text": a_call("builtins", "set", text("abc")),
    "complex of a text": a_call("builtins", "complex", text("1")),
    "size of texts": a_call("torch", "Size", a_tuple(text("1"))),
    "size of many dimensions": a_call("torch", "Size", a_tuple(*[b"K\x01"] * 65)),
    "device of a number": a_call("torch", "device", b"K\x01"),
    "a dtype called": a_call("torch", "float32"),
    "a storage class called": a_call("torch", "FloatStorage", integer(2**40)),
    "a tensor class called": a_call("torch", "Tensor", integer(2**40)),
    "a parameter made": a_global("torch.nn.parameter", "Parameter") + b")\x81",
    "a tensor of no storage": a_call("torch._utils", "_rebuild_tensor_v2", b"N", *TENSOR[1:], b"\x89", b"}"),
    "a tensor of negative size": a_call(
        "torch._utils", "_rebuild_tensor", *TENSOR[:2], a_tuple(integer(-1)), TENSOR[3]
    ),
    "a tensor with hooks": a_call("torch._utils", "_rebuild_tensor_v2", *TENSOR, b"\x89", a_list()),
    "a parameter of no tensor": a_call("torch._utils", "_rebuild_parameter", STORAGE, b"\x89", b"}"),
    "a rebuild of another function": a_call(
        "torch._tensor", "_rebuild_from_type_v2", a_global("torch", "device"), a_global("torch", "Tensor"), b")", b"}"
    ),
    "getattr of an object": a_call("builtins", "getattr", text("a"), text("b")),
    "getattr of a magic name": a_call("builtins", "getattr", a_global("a", "B"), text("__subclasses__")),
    "type with bases": a_call("builtins", "type", text("a"), b")", b"}"),
    "list of a range": a_call("builtins", "list", a_call("builtins", "range", b"K\x00", integer(2**50), b"K\x01")),
    "getitem of a dict": a_call("_operator", "getitem", b"}", text("a")),
    "reduce by a class": a_call("functools", "reduce", a_global("a", "B"), a_tuple(b"K\x01")),
    "a result called": a_call("a", "B") + b")R",
    "an object of a result": a_call("a", "B") + b")\x81",
    "a state for a tensor": a_call("torch._utils", "_rebuild_tensor", *TENSOR) + b"}b",
    "a state for an OrderedDict that is no dict": a_call("collections", "OrderedDict") + a_list() + b"b",
    "items for a set": a_call("builtins", "set") + b"K\x01K\x02s",
    "elements for a Counter": a_call("collections", "Counter") + b"K\x01a",
}


@pytest.mark.parametrize("body", ODD_CALLS.values(), ids=ODD_CALLS.keys())
def test_a_known_name_with_arguments_it_never_has_is_refused(body: bytes) -> None:
    with pytest.raises(UnsafeError):
        read_program(a_program(body), "a.pt")


@pytest.mark.parametrize(
    "body",
    [
        ENCODED,
        a_call("builtins", "bytearray", ENCODED),
        a_call("torch._utils", "_rebuild_tensor_v2", *TENSOR, b"\x89", a_call("collections", "OrderedDict")),
        a_call("builtins", "getattr", a_global("a", "Color"), text("RED")),
        a_call("_operator", "getitem", a_global("typing", "List"), a_global("builtins", "int")),
        a_call("collections", "OrderedDict") + b"}b",
    ],
)
def test_the_same_names_as_torch_save_writes_them_pass(body: bytes) -> None:
    assert read_program(a_program(body), "a.pt").size > 0


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "without an end": (PROTOCOL_2 + b"N", "cut off"),
    "cut in a text": (PROTOCOL_2 + text("abcdef")[:-2], "cut off"),
    "nothing made": (PROTOCOL_2 + STOP, "leaves something"),
    "two things made": (a_program(b"NN"), "leaves something"),
    "an open mark": (a_program(b"N("), "leaves something"),
    "no mark": (a_program(b"Nt"), "takes more from its stack"),
    "an empty stack": (a_program(b"\x85"), "takes more from its stack"),
    "across a mark": (a_program(b"N(\x85"), "takes more from its stack"),
    "a memo miss": (a_program(b"h\x05"), "refers to object 5"),
    "bytes behind it": (a_program(b"N") + b"N", "1 bytes follow"),
    "protocol in its midst": (a_program(b"N\x80\x02"), "in its midst"),
    "text that isn't UTF-8": (a_program(b"X\x01\x00\x00\x00\xff"), "isn't UTF-8"),
    "a key without a value": (a_program(b"}(Nu"), "without a value"),
    "items for a list": (a_program(b"]NNs"), "as if it were a dict"),
    "elements for a dict": (a_program(b"}Na"), "appends to a dict"),
    "elements for a number": (a_program(b"K\x01Na"), "changes a int"),
    "a state for a dict": (a_program(b"}}b"), "sets the state of a dict"),
    "a list as a key": (a_program(b"}]Ns"), "list as a key"),
    "a list within a tuple as a key": (a_program(b"}]\x85Ns"), "list as a key"),
    "an OrderedDict as a key": (a_program(b"}" + a_call("collections", "OrderedDict") + b"Ns"), "as a key"),
    "a tensor beyond its storage": (
        a_program(a_call("torch._utils", "_rebuild_tensor", STORAGE, b"K\x01", *TENSOR[2:])),
        "reaches beyond its storage",
    ),
    "a dict of one's own as a key": (a_program(a_call("a", "B") + b"q\x00NNs}h\x00Ns\x86"), "as a key, and gives"),
    "a list with attributes": (a_program(a_call("a", "B") + b"Na}b"), "a list with attributes"),
    "a call without a tuple": (a_program(a_global("a", "B") + b"]R"), "isn't a tuple"),
    "a persistent id that is a text": (a_program(text("0") + b"Q"), "isn't a storage's"),
    "a persistent module": (
        a_program(a_tuple(text("module"), a_global("a", "B"), b"N", b"N", b"N") + b"Q"),
        "persistent",
    ),
    "a storage with a view in a zip": (
        a_program(a_storage("0", ("torch", "FloatStorage"), b"K\x06", b"N")),
        "persistent",
    ),
    "a storage of a class of its own": (a_program(a_storage("0", ("a", "FloatStorage"))), "isn't one of torch's"),
    "a storage of quantized numbers": (a_program(a_storage("0", ("a", "QInt8Storage"))), "isn't one of torch's"),
    "a storage with a length of True": (a_program(a_storage("0", numel=b"\x88")), "isn't a storage's"),
    "a storage with a negative length": (a_program(a_storage("0", numel=integer(-1))), "impossible length"),
    "a storage of more bytes than int64 counts": (a_program(a_storage("0", numel=integer(2**61))), "impossible length"),
    "a storage with two lengths": (a_program(a_list(a_storage("0"), a_storage("0", numel=b"K\x07"))), "two types"),
}


@pytest.mark.parametrize(("data", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pickle_is_refused_in_its_own_words(data: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        read_program(data, "a.pt")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_another_protocol_is_refused_with_its_number_and_the_way_out(protocol: int) -> None:
    with pytest.raises(DamagedError, match=f"pickle protocol {protocol}; .* protocol 2") as caught:
        read_program(pickle.dumps({"model": {}}, protocol=protocol), "a.pt")
    assert "torch.save" in caught.value.advice


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"0", "POP"),
        (b"i", "INST"),
        (b"o", "OBJ"),
        (b"\x82", "EXT1"),
        (b"P", "PERSID"),
        (b"\x95", "FRAME"),
        (b"\x93", "STACK"),
    ],
)
def test_an_opcode_that_torch_doesn_t_read_is_refused_by_name(code: bytes, name: str) -> None:
    with pytest.raises(DamagedError, match=f"has opcode {name}"):
        read_program(a_program(b"N" + code), "a.pt")


COLLIDING = [number * (2**61 - 1) + 1 for number in range(1, LIMITS["chosen hashes"].most + 2)]
SELF = "into itself"
BOMBS: dict[str, tuple[bytes, str]] = {
    "a tuple a million deep": (b")" + b"\x85" * 1_000_000, "would build more"),
    "a tuple a thousand deep": (b")" + b"\x85" * 1000, f"more than {LIMITS['depth'].most} deep"),
    "a deep tuple as a key": (b"})" + b"\x85" * 5_000 + b"Ns", f"more than {LIMITS['depth'].most} deep"),
    "a deep list": (b"]" * 500 + b"a" * 499, f"more than {LIMITS['depth'].most} deep"),
    "deep through a memo": (
        a_list(*[b"]" + (b"h" + bytes([n - 1]) if n else b"N") + b"aq" + bytes([n]) for n in range(150)]),
        f"more than {LIMITS['depth'].most} deep",
    ),
    "millions of dicts": (b"}" * 2_000_000, f"more than {LIMITS['built bytes'].most} bytes"),
    "marks without end": (b"(" * 2_000_000, f"more than {LIMITS['built bytes'].most} bytes"),
    "a billion laughs": (
        a_list(b"]q\x00", *[b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60)]),
        "if each reference were followed",
    ),
    "a giant integer": (b"\x8a\xff" + b"\x01" * 255, "integer of 255 bytes"),
    "a giant text": (text("a" * (LIMITS["text"].most + 1)), "text of"),
    "colliding integers as keys": (b"}(" + b"".join(integer(key) + b"N" for key in COLLIDING) + b"u", "collide"),
    "colliding integers in a set": (a_call("builtins", "set", a_list(*map(integer, COLLIDING))), "collide"),
    "copies of one text": (
        text("a" * 1_000_000)
        + b"q\x00"
        + a_list(*[a_call("_codecs", "encode", b"h\x00", text("latin1"))] * 500)
        + b"\x86",
        "would build more",
    ),
    "copies of one list": (
        a_list(*[b"K\x01"] * 50_000) + b"q\x00" + a_list(*[a_call("builtins", "set", b"h\x00")] * 1000) + b"\x86",
        "would build more",
    ),
    "a list in itself": (b"]q\x00h\x00a", SELF),
    "a dict in itself": (b"}q\x00" + text("a") + b"h\x00s", SELF),
    "an OrderedDict in itself": (a_call("collections", "OrderedDict") + b"q\x00" + text("a") + b"h\x00s", SELF),
    "a stand-in that is a dict in itself": (a_call("a", "Items") + b"q\x00" + text("a") + b"h\x00s", SELF),
}


@pytest.mark.slow
@pytest.mark.parametrize(("body", "words"), BOMBS.values(), ids=BOMBS.keys())
def test_what_would_take_memory_or_time_without_bound_is_refused_in_seconds(body: bytes, words: str) -> None:
    began = time.process_time()  # of this process alone, whatever else the machine is busy with
    with pytest.raises(UnsafeError, match=words):
        read_program(a_program(body), "a.pt")
    assert time.process_time() - began < 10


def test_a_pickle_larger_than_any_checkpoint_s_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "pickle bytes", Limit(10, "bytes", ""))
    with pytest.raises(UnsafeError, match="a pickle of 26 bytes; the limit is 10"):
        read_program(a_program(a_list(*[b"N"] * 20)), "a.pt")


@pytest.mark.slow
def test_a_dictionary_of_260_000_symbols_passes() -> None:
    symbols = [f"symbol{number}" for number in range(260_000)]
    state = {"symbols": symbols, "count": list(range(260_000)), "indices": {s: n for n, s in enumerate(symbols)}}
    assert read_program(pickle.dumps(state, protocol=2), "a.pt").globals == {}


def test_an_optimizer_s_state_as_old_torch_wrote_it_passes() -> None:
    state = {140_000_000_000_000 + 64 * number: {"step": number, "betas": (0.9, 0.98)} for number in range(5000)}
    groups = [{"params": list(range(100_000)), "lr": 0.1}]
    assert read_program(pickle.dumps({"state": state, "param_groups": groups}, protocol=2), "a.pt").size > 0


def test_every_opcode_read_is_one_that_torch_s_restricted_unpickler_reads() -> None:
    from torch import _weights_only_unpickler as unpickler

    from w2vc.reading.machine import _HANDLERS, STOP

    named = (getattr(unpickler, name) for name in dir(unpickler) if name.isupper())
    assert {*_HANDLERS, STOP} == {code[0] for code in named if isinstance(code, bytes) and len(code) == 1}


def test_every_name_left_to_torch_is_one_that_torch_has() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    from w2vc.reading.policy import TORCH_CALLS, TORCH_VALUES

    allowed: dict[str, Callable[..., object]] = _get_allowed_globals()
    assert {*TORCH_CALLS, *TORCH_VALUES} - allowed.keys() == set()


def test_the_walk_needs_no_torch() -> None:
    code = "import w2vc.reading.program, w2vc.reading.archive, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code
