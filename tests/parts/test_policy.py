"""Which globals a pickle may name, with what each is called, and what becomes of its objects: row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.forgery import PROTOCOL_2, STOP, a_call, a_dict, a_global, a_list, a_storage, a_tuple, plainly, text
from tests.support.limits import limit
from w2vc.errors import DamagedError, UnsafeError
from w2vc.reading.arguments import fits, is_empty, tensors_extras
from w2vc.reading.globals_used import GlobalUse
from w2vc.reading.keys import weight
from w2vc.reading.nodes import Node, entries, identity, is_mapping, is_node
from w2vc.reading.policy import (
    ITEM_BYTES_OF_DTYPES,
    MAY_CHANGE,
    STORAGE_CLASSES,
    STORAGE_DTYPES,
    as_torch_names_it,
    classify,
)
from w2vc.reading.program import PickleProgram, read_next_value, read_program
from w2vc.reading.source import PickleSource
from w2vc.reading.stand_ins import MappingStandIn, SequenceStandIn, StandIn, kind_of_stand_in, stand_ins
from w2vc.reading.storages import StorageUse, TensorUse


def program(body: bytes) -> PickleProgram:
    return read_program(PROTOCOL_2 + body + STOP, "a.pt")


# ---------------------------------------------------------------------------------------------------------------
# Names

KNOWN = """
argparse.Namespace builtins.bool builtins.bytes builtins.dict builtins.float builtins.frozenset builtins.getattr
builtins.int builtins.list builtins.object builtins.range builtins.slice builtins.str builtins.tuple builtins.type
builtins.Ellipsis builtins.NotImplemented collections.UserDict collections.UserList collections.UserString
collections.defaultdict collections.deque collections.abc.Mapping typing.List typing.Any copyreg._reconstructor
dataclasses._MISSING_TYPE datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone
decimal.Decimal enum.Enum enum.Flag enum.IntEnum enum.IntFlag enum.StrEnum fractions.Fraction functools.partial
functools.reduce _functools.partial _functools.reduce operator.getitem operator.or_ _operator.getitem _operator.or_
pathlib.Path pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib.WindowsPath
pathlib._local.Path pathlib._local.PosixPath pathlib._local.PurePath pathlib._local.PurePosixPath
pathlib._local.PureWindowsPath pathlib._local.WindowsPath time.struct_time types.GenericAlias types.SimpleNamespace
uuid.SafeUUID uuid.UUID numpy.dtype numpy.ndarray numpy.bool numpy.bool_ numpy.bytes_ numpy.str_ numpy.void
numpy.object_ numpy.float16 numpy.float32 numpy.float64 numpy.int64 numpy.uint8 numpy.datetime64
numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar numpy._core.multiarray._reconstruct
numpy._core.multiarray.scalar numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer
numpy.random._pickle.__bit_generator_ctor numpy.random._pickle.__generator_ctor
numpy.random._pickle.__randomstate_ctor numpy.random._mt19937.MT19937 numpy.random._pcg64.PCG64
numpy.random._pcg64.PCG64DXSM numpy.random._philox.Philox numpy.random._sfc64.SFC64
"""


@pytest.mark.parametrize("path", KNOWN.split())
def test_a_harmless_value_of_the_standard_library_or_numpy_is_known(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert classify(module, name) == "known"
    assert classify(module, f"{name}x") in (None, "known" if module in ("collections.abc", "typing") else None)


@pytest.mark.parametrize("module", ["__builtin__", "builtins", "numpy", "numpy.ma", "torch", "torch.nn", "os", "imp"])
def test_the_rest_of_a_guarded_module_is_refused(module: str) -> None:
    assert classify(module, "anything") is None
    assert classify(f"my_{module}", "anything") == "stand-in"


@pytest.mark.parametrize("path", [*STORAGE_CLASSES, "torch.Tensor", "torch.float8_e8m0fnu", "torch.Size"])
def test_what_torch_builds_is_torchs(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert classify(module, name) == "torch"


@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_an_untyped_storage_is_named_where_torch_has_it_only(module: str) -> None:
    assert classify(module, "UntypedStorage") is None
    assert classify(module, "FloatStorage") == "torch"
    assert classify("torch.storage", "UntypedStorage") == "torch"


@pytest.mark.parametrize("name", ITEM_BYTES_OF_DTYPES)
def test_an_element_has_as_many_bytes_as_torchs(name: str) -> None:
    kind = getattr(torch, name, None)  # float8_e8m0fnu is newer than the oldest torch
    assert kind is None or ITEM_BYTES_OF_DTYPES[name] == kind.itemsize
    assert ITEM_BYTES_OF_DTYPES["float8_e8m0fnu"] == 1


def test_a_storage_class_has_the_elements_of_torchs() -> None:
    from torch.storage import _dtype_to_storage_type_map

    theirs = {name: str(kind) for kind, name in _dtype_to_storage_type_map().items() if not name.startswith("Q")}
    assert {name: f"torch.{kind}" for name, kind in STORAGE_DTYPES.items()} == {
        **theirs,
        "UntypedStorage": "torch.uint8",
    }


RENAMED = [
    ("__builtin__", "xrange", "builtins", "range"),
    ("__builtin__", "reduce", "functools", "reduce"),
    ("__builtin__", "unicode", "builtins", "str"),
    ("__builtin__", "long", "builtins", "int"),
    ("__builtin__", "basestring", "builtins", "str"),
    ("__builtin__", "set", "builtins", "set"),
    ("copy_reg", "_reconstructor", "copyreg", "_reconstructor"),
    ("_abcoll", "Mapping", "collections.abc", "Mapping"),
    ("UserDict", "UserDict", "collections", "UserDict"),
    ("UserDict", "IterableUserDict", "collections", "UserDict"),
    ("UserList", "UserList", "collections", "UserList"),
    ("UserString", "UserString", "collections", "UserString"),
    ("fork", "Class", "fork", "Class"),
]


@pytest.mark.parametrize(("module", "name", "to_module", "to_name"), RENAMED)
def test_what_python_2_called_otherwise_is_renamed_as_by_torch(
    module: str, name: str, to_module: str, to_name: str
) -> None:
    from torch._utils import IMPORT_MAPPING, NAME_MAPPING

    assert as_torch_names_it(module, name) == (to_module, to_name)
    theirs: Any = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    assert theirs == (to_module, to_name)


def test_what_torch_makes_may_change_where_it_is_a_dict_only() -> None:
    assert {
        "collections.OrderedDict": {"gets_items", "gets_state"},
        "collections.Counter": {"gets_items"},
    } == MAY_CHANGE


def test_of_much_code_ten_names_are_listed() -> None:
    def told(count: int) -> str:
        with pytest.raises(UnsafeError) as caught:
            program(a_list(*(a_global("os", f"f{number:02}") for number in reversed(range(count)))))
        return str(caught.value).partition("needs: ")[2].partition(" ")[2]

    assert told(10).endswith("os.f09")
    assert told(11).endswith("os.f09 and 1 more")
    assert told(12).endswith("os.f09 and 2 more")


# ---------------------------------------------------------------------------------------------------------------
# Calls

ENCODED = a_call("_codecs", "encode", text("ab"), text("latin1"))
LENGTHS = a_tuple(b"K\x02")
TENSOR = (a_storage(), b"K\x00", LENGTHS, LENGTHS)
MADE = a_call("torch._utils", "_rebuild_tensor", *TENSOR)
FLOAT = a_global("torch", "float32")
CLASS = a_global("fork", "Class")
LARGEST = plainly(2**63 - 1)
BEYOND = plainly(2**63)
STATE = a_tuple(b"N", b"}")
MAKER, KIND = a_global("torch._utils", "_rebuild_tensor"), a_global("torch", "Tensor")
MADE_AGAIN = a_call("torch._tensor", "_rebuild_from_type_v2", MAKER, KIND, a_tuple(*TENSOR), b"}")
OWN = a_call("fork", "Class")

Arguments = tuple[bytes, ...]
Row = tuple[str, list[Arguments], list[Arguments]]


def row(path: str, may: list[Arguments], never: list[Arguments]) -> Row:
    return path, may, never


# (global, arguments that it may have, arguments that it never has)
CALLS: list[Row] = [
    (
        "torch._utils._rebuild_tensor",
        [TENSOR, (a_storage(numel=2**40), LARGEST, b")", b")")],
        [
            TENSOR[:3],
            (*TENSOR, b"\x89"),
            (b"N", *TENSOR[1:]),
            (TENSOR[0], plainly(-1), LENGTHS, LENGTHS),
            (TENSOR[0], BEYOND, LENGTHS, LENGTHS),
            (TENSOR[0], b"\x88", LENGTHS, LENGTHS),
            (TENSOR[0], b"K\x00", a_list(b"K\x02"), LENGTHS),
            (TENSOR[0], b"K\x00", LENGTHS, b"N"),
            (TENSOR[0], b"K\x00", a_tuple(b"G" + bytes(8)), LENGTHS),
        ],
    ),
    (
        "torch._utils._rebuild_tensor_v2",
        [(*TENSOR, b"\x89", b"}"), (*TENSOR, b"\x88", b"N"), (*TENSOR, b"\x89", b"N", b"}")],
        [TENSOR, (*TENSOR, b"K\x00", b"N"), (*TENSOR, b"\x89", b"]"), (*TENSOR, b"\x89", b"N", b"]")],
    ),
    (
        "torch._utils._rebuild_tensor_v3",
        [(*TENSOR, b"\x89", b"}", FLOAT), (*TENSOR, b"\x89", b"N", FLOAT, b"N")],
        [
            (*TENSOR, b"\x89", b"}"),
            (*TENSOR, b"\x89", b"}", KIND),
            (*TENSOR, b"\x89", b"}", text("torch.float32")),
            (*TENSOR, b"N", b"}", FLOAT),
            (*TENSOR, b"\x89", b"]", FLOAT),
            (*TENSOR, b"\x89", b"}", FLOAT, b"]"),
        ],
    ),
    (
        "torch._utils._rebuild_parameter",
        [(MADE, b"\x88", b"}"), (MADE, b"\x89", b"N"), (MADE_AGAIN, b"\x88", b"}")],
        [
            (MAKER, b"\x88", b"}"),
            (b"N", b"\x88", b"}"),
            (OWN, b"\x88", b"}"),
            (TENSOR[0], b"\x88", b"}"),
            (MADE, b"K\x01", b"}"),
            (MADE, b"\x88", b"]"),
            (MADE, b"\x88"),
        ],
    ),
    (
        "torch._utils._rebuild_parameter_with_state",
        [(MADE, b"\x88", b"}", b"}"), (MADE, b"\x88", b"N", STATE), (MADE, b"\x88", b"N", b"N")],
        [
            (MADE, b"\x88", b"}"),
            (MADE, b"\x88", b"}", b"]"),
            (MADE, b"\x88", b"}", a_tuple(b"N")),
            (MADE, b"\x88", b"}", a_tuple(b"N", b"N", b"N")),
            (MADE, b"\x88", b"}", a_tuple(b"N", b"K\x01")),
            (MADE, b"\x88", b"]", b"}"),
            (MADE, b"N", b"}", b"}"),
            (b"N", b"\x88", b"}", b"}"),
        ],
    ),
    (
        "torch._tensor._rebuild_from_type_v2",
        [
            (MAKER, KIND, a_tuple(*TENSOR), b"}"),
            (MAKER, a_global("torch.nn.parameter", "Parameter"), a_tuple(*TENSOR), STATE),
        ],
        [
            (MAKER, KIND, a_tuple(*TENSOR[:3]), b"}"),
            (MAKER, KIND, a_list(*TENSOR), b"}"),
            (MAKER, CLASS, a_tuple(*TENSOR), b"}"),
            (CLASS, KIND, a_tuple(*TENSOR), b"}"),
            (MADE, KIND, a_tuple(*TENSOR), b"}"),
            (b"N", KIND, a_tuple(*TENSOR), b"}"),
            (MAKER, KIND, a_tuple(*TENSOR), b"]"),
        ],
    ),
    ("collections.OrderedDict", [()], [(b"]",)]),
    ("collections.Counter", [(), (b"}",)], [(b"]",), (b"}", b"}")]),
    ("builtins.set", [(), (b"]",)], [(b"}",), (b")",)]),
    ("builtins.complex", [(b"K\x01", b"G" + bytes(8))], [(), (b"K\x01",), (b"\x88", b"K\x01"), (b"K\x01", b"\x88")]),
    ("builtins.bytearray", [(), (ENCODED,)], [(text("a"),), (b"K\x01",), (MADE,), (b"]",)]),
    (
        "_codecs.encode",
        [(text("\xff"), text("latin1")), (text(""), text("latin1"))],
        [(text("\u0100"), text("latin1")), (text("a"),), (text("a"), text("latin-1")), (b"N", text("latin1"))],
    ),
    ("torch.Size", [(LENGTHS,), (b")",), (a_tuple(*[b"K\x01"] * 64),)], [(a_tuple(*[b"K\x01"] * 65),), (a_list(),)]),
    (
        "torch.device",
        [(text("cpu"),), (text("cuda"), b"K\x00")],
        [(), (b"K\x00",), (text("cuda"), plainly(-1)), (text("cuda"), b"N")],
    ),
    (
        "torch.serialization._get_layout",
        [(text("torch.strided"),), (text("torch." + "x" * 93),)],
        [(text("torch." + "x" * 94),), (text("strided"),), (b"N",)],
    ),
    ("builtins.bytes", [()], [(b"K\x01",)]),
    ("builtins.frozenset", [(), (b"]",)], [(b"}",)]),
    (
        "builtins.getattr",
        [(CLASS, text("RED")), (CLASS, text("_red"))],
        [
            (CLASS, text("__class__")),
            (CLASS, text("a.b")),
            (CLASS, b"N"),
            (b"N", text("RED")),
            (CLASS,),
            (a_call("fork", "Class"), text("RED")),
        ],
    ),
    ("builtins.object", [()], [(b"N",)]),
    (
        "builtins.range",
        [(LARGEST, plainly(1 - 2**63), b"K\x01")],
        [(BEYOND, b"K\x01", b"K\x01"), (b"K\x01", b"K\x01", plainly(-(2**63))), (b"K\x01", b"\x88", b"K\x01")],
    ),
    ("builtins.slice", [(b"N", b"]", text("a"))], [(b"N", b"N")]),
    ("builtins.type", [(b"N",), (CLASS,)], [(), (text("a"),), (a_call("fork", "Class"),)]),
    *[row(f"builtins.{name}", [], [()]) for name in ("bool", "dict", "float", "int", "list", "str", "tuple")],
    ("builtins.Ellipsis", [], [()]),
    ("builtins.NotImplemented", [], [()]),
    (
        "collections.defaultdict",
        [(), (b"N",), (CLASS,), (a_call("functools", "partial", CLASS),)],
        [(text("a"),), (b"]",), (b"N", b"N")],
    ),
    (
        "copyreg._reconstructor",
        [(CLASS, CLASS, b"N")],
        [(b"N", CLASS, b"N"), (CLASS, b"N", b"N"), (a_call("fork", "Class"), CLASS, b"N")],
    ),
    *[
        row(
            f"{module}.getitem",
            [(a_global("typing", "List"), b"N"), (a_global("collections.abc", "Mapping"), b"N")],
            [(CLASS, b"N"), (b"}", b"N"), (a_call("typing", "List"), b"N")],
        )
        for module in ("_operator", "operator")
    ],
    *[row(f"{module}.or_", [], [()]) for module in ("_operator", "operator")],
    *[
        row(
            f"{module}.reduce",
            [(a_global("operator", "or_"), b")"), (a_global("_operator", "or_"), b")")],
            [(a_global("operator", "getitem"), b")"), (a_global("operator", "or_"), b"]"), (b"N", b")")],
        )
        for module in ("_functools", "functools")
    ],
    ("fork.Class", [(), (b"N", b"]", CLASS)], []),
    ("datetime.date", [(ENCODED,)], []),
]


def arguments_of(parts: tuple[bytes, ...]) -> Any:
    return program(a_tuple(*parts)).root.items


@pytest.mark.parametrize(("path", "may", "never"), CALLS, ids=[row[0] for row in CALLS])
def test_a_global_is_called_with_what_it_may_have_and_nothing_else(
    path: str, may: list[tuple[bytes, ...]], never: list[tuple[bytes, ...]]
) -> None:
    module, _, name = path.rpartition(".")
    of_torch = classify(module, name) == "torch"
    assert [parts for parts in may if not fits(path, arguments_of(parts), of_torch=of_torch)] == []
    assert [parts for parts in never if fits(path, arguments_of(parts), of_torch=of_torch)] == []


def test_what_torch_calls_and_nobody_listed_is_never_called() -> None:
    assert not fits("torch.load", (), of_torch=True)


EXTRAS: list[tuple[str, tuple[bytes, ...], int]] = [
    ("torch._utils._rebuild_tensor", TENSOR, 0),
    ("torch._utils._rebuild_tensor_v2", (*TENSOR, b"\x89", text("x")), 1),
    ("torch._utils._rebuild_tensor_v2", (*TENSOR, b"\x89", text("x"), text("x")), 2),
    ("torch._utils._rebuild_tensor_v3", (*TENSOR, b"\x89", text("x"), FLOAT), 1),
    ("torch._utils._rebuild_tensor_v3", (*TENSOR, b"\x89", text("x"), FLOAT, text("x")), 2),
    ("torch._utils._rebuild_parameter", (MADE, b"\x89", text("x")), 1),
    ("torch._utils._rebuild_parameter_with_state", (MADE, b"\x89", text("x"), text("x")), 2),
    ("torch._tensor._rebuild_from_type_v2", (MAKER, KIND, a_tuple(*TENSOR), text("x")), 1),
    (
        "torch._tensor._rebuild_from_type_v2",
        (a_global("torch._utils", "_rebuild_tensor_v2"), KIND, a_tuple(*TENSOR, b"\x89", text("x")), text("x")),
        2,
    ),
]


@pytest.mark.parametrize(("path", "parts", "count"), EXTRAS)
def test_everything_of_a_tensor_but_its_numbers_has_to_be_empty(
    path: str, parts: tuple[bytes, ...], count: int
) -> None:
    assert tensors_extras(path, arguments_of(parts)) == ["x"] * count


ORDERED = a_call("collections", "OrderedDict")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"N", True),
        (b"\x89", False),
        (b"K\x00", False),
        (b"}", True),
        (a_dict(text("a"), b"N"), False),
        (ORDERED, True),
        (ORDERED + b"}b", False),
        (b")", True),
        (a_tuple(b"N", b"}"), True),
        (a_tuple(b"}", a_dict(text("a"), b"N")), False),
    ],
)
def test_empty_is_none_or_a_mapping_of_nothing(value: bytes, expected: bool) -> None:
    assert is_empty(program(value).root) is expected


@pytest.mark.parametrize(
    "extra", [a_dict(text("hook"), b"N"), ORDERED + a_dict(text("_metadata"), b"N") + b"b"], ids=["items", "attributes"]
)
def test_a_tensor_with_something_behind_its_numbers_is_refused_at_the_end(extra: bytes) -> None:
    with pytest.raises(UnsafeError, match="a tensor with hooks"):
        program(a_call("torch._utils", "_rebuild_tensor_v2", *TENSOR, b"\x89", extra))


# ---------------------------------------------------------------------------------------------------------------
# Keys

UNHASHABLE: dict[str, tuple[bytes, str]] = {
    "a list": (b"]", "a list as a key"),
    "a dict": (b"}", "a dict as a key"),
    "a set": (b"\x8f", "a set as a key"),
    "a called set": (a_call("builtins", "set"), r"a builtins\.set as a key"),
    "a bytearray": (a_call("builtins", "bytearray"), r"a builtins\.bytearray as a key"),
    "a slice": (a_call("builtins", "slice", b"N", b"N", b"N"), r"a builtins\.slice as a key"),
    "an OrderedDict": (ORDERED, r"a collections\.OrderedDict as a key"),
    "a Counter": (a_call("collections", "Counter"), r"a collections\.Counter as a key"),
    "a tensor": (MADE, r"a torch\._utils\._rebuild_tensor as a key"),
    "a device": (a_call("torch", "device", text("cpu")), r"a torch\.device as a key"),
    "a storage": (a_storage(), "as a key"),
}
HASHABLE = [
    b"N",
    b"\x88",
    b"K\x01",
    text("a"),
    CLASS,
    a_call("fork", "Class"),
    ENCODED,
    a_call("builtins", "complex", b"K\x01", b"K\x01"),
    a_call("torch", "Size", b")"),
    a_tuple(ENCODED, a_tuple(CLASS)),
]


@pytest.mark.parametrize(("key", "words"), UNHASHABLE.values(), ids=UNHASHABLE.keys())
@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "in a tuple"])
def test_what_has_no_hash_is_no_key(key: bytes, words: str, wrapped: bool) -> None:
    with pytest.raises(DamagedError, match=words):
        program(a_dict(a_tuple(b"N", a_tuple(key), b"N") if wrapped else key, b"N"))


@pytest.mark.parametrize("key", HASHABLE)
def test_what_has_a_hash_is_a_key(key: bytes) -> None:
    assert len(program(a_dict(key, b"N")).root.items) == 2


def test_a_class_with_objects_as_keys_is_noted() -> None:
    assert program(a_dict(a_call("fork", "Class"), b"N")).globals["fork.Class"].hashed
    assert program(a_dict(a_tuple(a_call("fork", "Class")), b"N")).globals["fork.Class"].hashed
    assert program(a_call("builtins", "set", a_list(a_call("fork", "Class")))).globals["fork.Class"].hashed


def test_a_tuple_weighs_what_its_hash_visits() -> None:
    flat = Node("tuple")
    flat.weight = 7
    assert weight(()) == 1
    assert weight((1, None, Node("list"))) == 4
    assert weight((flat, flat)) == 15
    assert weight((1,) * 200) == 201
    flat.weight = 2**80
    assert weight((flat,)) == 2**62


def test_small_integers_are_free_as_keys_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "chosen hashes", 0)
    program(a_dict(plainly(2**32 - 1), b"N", plainly(1 - 2**32), b"N", b"\x88", b"N", text("a"), b"N"))
    for key in (2**32, -(2**32), 0.5):
        with pytest.raises(UnsafeError, match="can be made to collide"):
            program(a_dict(plainly(key), b"N"))


def test_keys_are_equal_where_python_takes_them_for_one() -> None:
    def key(body: bytes) -> Any:
        return identity(program(body).root)

    assert key(ENCODED) == b"ab"
    assert key(a_call("builtins", "complex", b"K\x01", b"K\x02")) == 1 + 2j
    assert key(a_call("torch", "Size", a_tuple(b"K\x02", b"K\x03"))) == (2, 3)
    assert key(a_tuple(b"K\x02", a_tuple(b"K\x03", ENCODED))) == (2, (3, b"ab"))
    node = Node("global", (), "fork.Class")
    assert identity(node) == identity(node)
    assert hash(identity(node)) == hash(identity(node))
    assert identity(node) != identity(Node("global", (), "fork.Class"))
    assert identity(node) != node


def test_of_equal_keys_the_first_stays_with_the_last_value() -> None:
    node = program(a_dict(b"K\x01", text("a"), b"\x88", text("b"), text("x"), b"N", b"K\x01", text("c"))).root
    assert list(entries(node).values()) == [(1, "c"), ("x", None)]
    assert type(next(iter(entries(node).values()))[0]) is int


def test_a_node_begins_with_nothing_and_gives_all_that_it_holds() -> None:
    node = Node("instance", [1], "a.B", (2,))
    node.states = (3,)
    assert [*node.children()] == [2, 1, 3]
    assert (node.weight, node.fact) == (1, None)
    assert is_node(node, "instance")
    assert is_node(node, "instance", "a.B")
    assert not is_node(node, "instance", "a.C")
    assert not is_node(node, "list")
    assert not is_node(1, "list")
    assert is_mapping(program(ORDERED).root)
    assert is_mapping(program(b"}").root)
    assert not is_mapping(program(a_call("collections", "Counter")).root)


# ---------------------------------------------------------------------------------------------------------------
# Objects

USES: list[tuple[GlobalUse, type]] = [
    (GlobalUse("a", "B", "stand-in"), StandIn),
    (GlobalUse("a", "B", "stand-in", gets_items=True), MappingStandIn),
    (GlobalUse("a", "B", "stand-in", gets_elements=True), SequenceStandIn),
    (GlobalUse("a", "B", "stand-in", gets_state=True, hashed=True), StandIn),
    (GlobalUse("collections", "defaultdict", "known"), MappingStandIn),
    (GlobalUse("collections", "deque", "known"), SequenceStandIn),
    (GlobalUse("my.collections", "deque", "stand-in"), StandIn),
]


@pytest.mark.parametrize(("use", "kind"), USES)
def test_a_stand_in_fits_what_is_done_with_it(use: GlobalUse, kind: type) -> None:
    assert kind_of_stand_in(use) is kind
    (made,) = stand_ins([use]).values()
    assert issubclass(made, kind)
    assert made.__name__ == use.name


def test_stand_ins_are_made_for_what_isnt_torchs_and_hold_nothing_else() -> None:
    uses = [GlobalUse("torch", "Tensor", "torch"), GlobalUse("argparse", "Namespace", "known")]
    classes = stand_ins([*uses, GlobalUse("a.b", "C", "stand-in")])
    assert list(classes) == ["argparse.Namespace", "a.b.C"]
    made: Any = classes["a.b.C"](1, 2)
    made.__setstate__({"x": 3})
    assert (made.arguments, made.states) == ((1, 2), [{"x": 3}])
    assert not hasattr(made, "__dict__")


def test_a_global_is_not_used_in_any_way_until_it_is() -> None:
    use = program(CLASS).globals["fork.Class"]
    assert use == GlobalUse("fork", "Class", "stand-in", False, False, False, False)
    assert (use.gets_items, use.gets_elements, use.gets_state, use.hashed) == (False,) * 4


ODD: dict[str, tuple[bytes, type[Exception], str]] = {
    "an OrderedDict in its own attribute": (
        ORDERED + b"q\x00" + a_dict(text("_metadata"), b"h\x00") + b"b",
        UnsafeError,
        "into itself",
    ),
    "a name in no encoding": (b"c\xff\nname\n", UnsafeError, "is no name of a class"),
    "a list of one's own in itself": (OWN + b"q\x00h\x00a", UnsafeError, "into itself"),
    "a list of one's own as a key": (a_tuple(OWN + b"Na", a_dict(OWN, b"N")), DamagedError, "gives it items"),
    "a dict of one's own as a key": (a_tuple(OWN + b"NNs", a_dict(OWN, b"N")), DamagedError, "gives it items"),
    "items and elements": (a_tuple(OWN + b"Na", OWN + b"NNs"), DamagedError, "a list with attributes"),
    "elements and a state": (OWN + b"Na}b", DamagedError, "a list with attributes"),
    "a tuple in itself": (b"](h\x00tq\x00", DamagedError, "refers to object 0"),
    "five states": (OWN + b"}b" * 5, UnsafeError, "more than 4 times"),
    "another attribute of an OrderedDict": (
        ORDERED + a_dict(text("_metadata"), b"N", text("x"), b"N") + b"b",
        UnsafeError,
        "other attributes",
    ),
    "an attribute that is no text": (ORDERED + a_dict(b"K\x01", b"N") + b"b", UnsafeError, "other attributes"),
}


@pytest.mark.parametrize(("body", "kind", "words"), ODD.values(), ids=ODD.keys())
def test_what_torch_cant_do_with_an_object_is_refused(body: bytes, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        program(body)


def test_an_object_may_hold_itself_and_have_up_to_four_states() -> None:
    assert program(OWN + b"q\x00" + a_dict(text("me"), b"h\x00") + b"b").root.name == "fork.Class"
    assert len(program(OWN + b"}b" * 4).root.states) == 4
    assert program(ORDERED + a_dict(text("_metadata"), b"N") + b"b").root.states[0].items == ["_metadata", None]


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (a_list(b"N", b"N"), 3),
        (a_tuple(b"]", b"]"), 5),
        (a_call("fork", "Class", b"N", b"N", b"N"), 4),
        (a_dict(text("a"), b"N"), 3),
        (OWN + a_dict(text("a"), b"N") + b"b", 5),
        (b"]q\x00h\x00\x86", 5),
    ],
)
def test_each_reference_counts_when_it_is_unfolded(body: bytes, objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each node counts itself and what is in it; the whole lies in a list.
    limit(monkeypatch, "unfolded objects", objects + 2)
    program(body)
    limit(monkeypatch, "unfolded objects", objects + 1)
    with pytest.raises(UnsafeError, match=f"more than {objects + 1} objects if each reference were followed"):
        program(body)


@pytest.mark.parametrize(("more", "passes"), [(3, True), (4, False)])
def test_the_depth_below_what_is_used_twice_counts_again(
    more: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five deep by itself, and so many more where it is used again; the whole lies in a list in a list.
    limit(monkeypatch, "depth", 10)
    body = a_list(b"]" * 5 + b"a" * 4 + b"q\x00", b"]" * more + b"h\x00" + b"a" * more)
    if passes:
        assert program(body).root.kind == "list"
    else:
        with pytest.raises(UnsafeError, match="nests objects more than 10 deep"):
            program(body)


# ---------------------------------------------------------------------------------------------------------------
# Storages and tensors


def use_of(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, dtype: str = "float32") -> TensorUse:
    return TensorUse(StorageUse("0", "FloatStorage", "cpu", 100), dtype, offset, size, stride, is_parameter=False)


@pytest.mark.parametrize(
    ("tensor", "end"),
    [
        (use_of((), ()), 4),
        (use_of((), (), 3), 16),
        (use_of((2, 3), (3, 1)), 24),
        (use_of((2, 3), (10, 2), 1), 64),
        (use_of((2, 3), (0, 1), 1), 16),
        (use_of((2, 0), (3, 1), 99), 0),
        (use_of((3,), (2,), 1, "float64"), 48),
    ],
)
def test_a_tensor_ends_behind_its_last_element(tensor: TensorUse, end: int) -> None:
    assert tensor.end == end


def tensor_of(body: bytes) -> TensorUse:
    found = program(body).root.fact
    assert type(found) is TensorUse
    return found


def test_each_maker_makes_the_tensor_that_its_arguments_say() -> None:
    numbers = (a_storage("7", 9), b"K\x01", a_tuple(b"K\x02"), a_tuple(b"K\x03"))
    storage = StorageUse("7", "FloatStorage", "cpu", 9)
    plain = TensorUse(storage, "float32", 1, (2,), (3,), is_parameter=False)
    parameter = TensorUse(storage, "float32", 1, (2,), (3,), is_parameter=True)
    made = a_call("torch._utils", "_rebuild_tensor", *numbers)
    again: Callable[[str, str], bytes] = lambda module, name: a_call(  # noqa: E731 - two rows below need it
        "torch._tensor", "_rebuild_from_type_v2", MAKER, a_global(module, name), a_tuple(*numbers), b"}"
    )
    assert tensor_of(made) == plain
    assert tensor_of(a_call("torch._utils", "_rebuild_tensor_v2", *numbers, b"\x89", b"N")) == plain
    other = tensor_of(a_call("torch._utils", "_rebuild_tensor_v3", *numbers, b"\x89", b"N", a_global("torch", "int32")))
    assert other == TensorUse(storage, "int32", 1, (2,), (3,), is_parameter=False)
    assert tensor_of(a_call("torch._utils", "_rebuild_parameter", made, b"\x89", b"N")) == parameter
    assert tensor_of(a_call("torch._utils", "_rebuild_parameter_with_state", made, b"\x89", b"N", b"}")) == parameter
    assert tensor_of(again("torch", "Tensor")) == plain
    assert tensor_of(again("torch.nn.parameter", "Parameter")) == parameter


def test_a_storage_is_as_long_as_it_says_and_no_longer_than_torch_counts() -> None:
    (storage,) = program(a_storage("k", 2**61 - 1, place="cuda:0")).storages
    assert (storage.key, storage.location, storage.dtype, storage.nbytes) == ("k", "cuda:0", "float32", 2**63 - 4)
    assert program(a_storage("k", 0)).storages[0].nbytes == 0
    for numel in (2**61, -1):
        with pytest.raises(DamagedError, match="impossible length"):
            program(a_storage("k", numel))
    with pytest.raises(DamagedError, match="two types, lengths or places"):
        program(a_list(a_storage("k"), a_storage("k", place="cuda:0")))
    with pytest.raises(DamagedError, match="more sizes than strides, or fewer"):
        program(a_call("torch._utils", "_rebuild_tensor", a_storage(), b"K\x00", LENGTHS, b")"))


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "model_weight"])
def test_the_models_tensors_are_those_under_a_usual_key(key: str) -> None:
    tensor = a_call("torch._utils", "_rebuild_tensor", a_storage("1"), b"K\x00", LENGTHS, LENGTHS)
    other = a_call("torch._utils", "_rebuild_tensor", a_storage("2"), b"K\x01", LENGTHS, LENGTHS)
    inner = a_dict(text("a"), tensor + b"q\x00", text("b"), a_list(other, b"h\x00"), text("c"), b"N")
    found = program(a_dict(text("optimizer"), MADE, b"K\x01", b"N", text(key), inner)).model_tensors
    assert [tensor.storage.key for tensor in found] == ["1", "2"]
    assert program(a_dict(text(f"{key}s"), inner)).model_tensors == ()
    assert program(inner).model_tensors == ()
    assert program(tensor).model_tensors == ()
    if key != "model":
        assert program(a_dict(text(key), MADE, text("model"), inner)).model_tensors == found


def test_a_program_is_shown_without_what_it_builds() -> None:
    found = program(b"N")
    assert "root" not in repr(found)
    assert found == program(b"\x88")
    assert found != program(b"K\x01")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"K\x07", 7),
        (a_list(text("a"), b"N", a_list(b"\x88")), ["a", None, [True]]),
        (a_tuple(b"K\x01"), [1]),
        (a_dict(text("a"), b"K\x01", text("a"), b"K\x02", text("b"), b"}"), {"a": 2, "b": {}}),
    ],
)
def test_the_small_pickles_of_a_legacy_file_are_scalars_lists_and_dicts(body: bytes, value: object) -> None:
    assert read_next_value(PickleSource(PROTOCOL_2 + body + STOP, "a.pt")) == value


LEGACY_STORAGE = (
    a_tuple(text("storage"), a_global("torch", "FloatStorage"), text("0"), text("cpu"), b"K\x01", b"N") + b"Q"
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (CLASS, "only texts and numbers"),
        (a_dict(b"K\x01", b"N"), "a key that isn't a text"),
        (a_dict(text("a"), b"N", b"K\x01", b"N"), "a key that isn't a text"),
        (
            a_tuple(text("storage"), a_global("torch", "FloatStorage"), text("0"), text("cpu"), b"K\x01", b"N") + b"Q",
            "only",
        ),
    ],
)
def test_a_small_pickle_of_something_else_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        read_next_value(PickleSource(PROTOCOL_2 + body + STOP, "a.pt"))
