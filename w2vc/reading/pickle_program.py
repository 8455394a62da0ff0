"""What a checkpoint's pickle would build and name, found out without building or importing anything.

A pickle is a program for a stack machine. This module walks the program's opcodes with a symbolic stack: plain
scalars stand for themselves, everything else is a light node. The opcodes are those that torch's own restricted
unpickler reads (``torch/_weights_only_unpickler.py``, ``Unpickler.load``) and no others.

Every global that the program names is one of

- ``"torch"``: torch's unpickler has it and runs it; it is in ``_TORCH_CALLS`` or ``_TORCH_VALUES``, and its
  arguments are checked here;
- ``"known"``: a harmless value of the standard library or numpy, in ``_KNOWN``; what stands for it is the
  loader's choice;
- ``"stand-in"``: anybody's class (fairseq's, omegaconf's, a fork's); it can only become an inert stand-in;
- refused: the rest of the standard library, torch and numpy.
"""

from __future__ import annotations

import pickletools
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from w2vc.errors import DamagedError, UnreadableError, UnsafeError

# The pickle of a 620 M parameter checkpoint with its optimizer is 375 KB; a dictionary of a million symbols adds 30 MB.
PICKLE_BYTES_LIMIT = 64 * 2**20
# A dictionary of 260 000 symbols takes 1.3 million opcodes, the largest models 0.2 million. 4 million take seconds.
OPCODE_LIMIT = 4_000_000
# What the program would hold in memory. A dictionary of 260 000 symbols is 60 MB, the largest models are 30 MB.
BUILT_BYTES_LIMIT = 192 * 2**20
# fairseq nests about 20 deep, omegaconf's nodes included. CPython's recursion limit is 1000, and hashing a nested tuple
# has no limit at all: it overflows the C stack.
DEPTH_LIMIT = 100
# Objects counted once for each way that leads to them: what a traversal, a comparison or a hash would have to visit.
# The largest models have a million, a dictionary of 260 000 symbols as many.
UNFOLDED_LIMIT = 20_000_000
# The longest text in fairseq's checkpoints (a config's source, a latin-1 encoded random state) is some KB.
TEXT_BYTES_LIMIT = 4 * 2**20
# UUIDs are integers of 128 bits and the widest in use; with the sign, 17 bytes.
INTEGER_BYTES_LIMIT = 17
# Keys whose hash a file can choose (large integers, floats, tuples): 10 000 that collide take 2 s, 60 000 take minutes.
# fairseq has none; old optimizer states have parameters' addresses, some thousand.
CHOSEN_HASH_LIMIT = 10_000
# Integers below this can't be made to collide in CPython's dict: it is the range of the hash table's own indices.
SMALL_INTEGER = 2**32
# torch has no tensors with more dimensions (aten/src/ATen/native: kDimsLimit of the iterators is 64).
DIMENSIONS_LIMIT = 64
# Sizes, strides and lengths are signed 64-bit integers in torch.
INT64_LIMIT = 2**63
# Module and class names are below 100 characters everywhere; a global is a line of its own.
NAME_LIMIT = 500
# One opcode's object, its reference and its memo entry, in CPython: what a scalar costs, and what a node costs.
SCALAR_BYTES = 40
NODE_BYTES = 200
# An entry of a dict or set takes up to 100 bytes at the moment when the table grows.
ENTRY_BYTES = 100
# A tensor: the Python object, the C++ object, its sizes and strides.
TENSOR_BYTES = 1000

GlobalKind = Literal["torch", "known", "stand-in"]


@dataclass(frozen=True)
class GlobalUse:
    """How the program uses the global ``module.name``, named as torch names it: ``builtins``, not ``__builtin__``.

    Attributes:
        kind: who builds it, see the module's docstring.
        called: an object is made from it (REDUCE or NEWOBJ); otherwise it is a value itself.
        gets_items: SETITEM or SETITEMS on an object made by it. torch does that to plain dicts, ``OrderedDict`` and
            ``Counter`` only, so the stand-in has to *return* one of these.
        gets_elements: APPEND or APPENDS on an object made by it. torch does that to plain lists only.
        gets_state: BUILD on an object made by it.
        state_is_mapping: each such state is a dict, or a pair of dicts or None (attributes, slots).
        hashed: an object made by it is the key of a dict or in a set.
    """

    module: str
    name: str
    kind: GlobalKind
    called: bool = False
    gets_items: bool = False
    gets_elements: bool = False
    gets_state: bool = False
    state_is_mapping: bool = True
    hashed: bool = False


@dataclass(frozen=True)
class StorageUse:
    """A storage that the program names by a persistent id (``torch/serialization.py``, ``persistent_id``).

    Attributes:
        key: the name of its bytes; the zip's record is ``data/KEY``.
        storage_type: torch's class, as ``FloatStorage``.
        location: ``cpu``, ``cuda:0``, …
        numel: length in elements of that type.
        view: legacy format only: (key, offset, length) of a view, in elements.
    """

    key: str
    storage_type: str
    location: str
    numel: int
    view: tuple[str, int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.numel * STORAGE_ITEM_BYTES[self.storage_type]


@dataclass(frozen=True)
class PickleProgram:
    """What a pickle would build.

    Attributes:
        size: bytes, from the first opcode to STOP.
        globals: how each global is used, by ``module.name``.
        storages: each storage once, in the order of first appearance.
        model_storages: those that lie under the key ``model``; empty where the program builds no dict with that key.
    """

    size: int
    globals: Mapping[str, GlobalUse]
    storages: tuple[StorageUse, ...]
    model_storages: tuple[StorageUse, ...] = ()


# Bytes per element; torch/storage.py, _dtype_to_storage_type_map. An UntypedStorage counts bytes.
STORAGE_ITEM_BYTES: Mapping[str, int] = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "UntypedStorage": 1,
}


# ---------------------------------------------------------------------------------------------------------------------
# Nodes of the symbolic stack
# ---------------------------------------------------------------------------------------------------------------------


class _Node:
    """Anything that isn't a scalar: what it is, what it holds, and which global made it.

    ``items`` are the elements; of a dict, keys and values in turn; of an instance, its arguments, state and elements.
    """

    __slots__ = ("items", "kind", "name")

    def __init__(self, kind: str, items: Sequence[Any] = (), name: str = "") -> None:
        self.kind = kind  # list, dict, set, tuple, global, instance, storage
        self.items = items
        self.name = name


def _is_node(value: object, kind: str, name: str | None = None) -> bool:
    return isinstance(value, _Node) and value.kind == kind and (name is None or value.name == name)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments of the calls that torch makes
# ---------------------------------------------------------------------------------------------------------------------

_Check = Callable[[object], bool]


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value < INT64_LIMIT


def _is_lengths(value: object) -> bool:
    return (
        isinstance(value, _Node)
        and value.kind == "tuple"
        and len(value.items) <= DIMENSIONS_LIMIT
        and all(map(_is_length, value.items))
    )


def _is_index(value: object) -> bool:
    return type(value) is int and abs(value) < INT64_LIMIT


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_none(value: object) -> bool:
    return value is None


def _is_any(_value: object) -> bool:
    return True


def _is_latin1(value: object) -> bool:
    return value == "latin1"


def _is_latin1_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or max(value) <= "\xff")


def _is_attribute(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and not value.startswith("__")


def _is_list(value: object) -> bool:
    return _is_node(value, "list")


def _is_dict(value: object) -> bool:
    return _is_node(value, "dict")


def _is_tuple(value: object) -> bool:
    return _is_node(value, "tuple")


def _is_storage(value: object) -> bool:
    return _is_node(value, "storage")


def _is_tensor(value: object) -> bool:
    return isinstance(value, _Node) and value.kind == "instance" and value.name in _TENSOR_MAKERS


def _is_encoded(value: object) -> bool:
    return _is_node(value, "instance", "_codecs.encode")


def _is_mapping(value: object) -> bool:
    return _is_dict(value) or _is_node(value, "instance", "collections.OrderedDict")


def _is_mapping_or_none(value: object) -> bool:
    return value is None or _is_mapping(value)


def _is_state(value: object) -> bool:
    if not _is_tuple(value):
        return _is_mapping_or_none(value)
    assert isinstance(value, _Node)  # noqa: S101 - _is_tuple said so; mypy can't follow
    return len(value.items) == 2 and all(map(_is_mapping_or_none, value.items))


def _is_class(value: object) -> bool:
    return _is_node(value, "global")


def _is_factory(value: object) -> bool:
    return value is None or (isinstance(value, _Node) and value.kind in ("global", "instance"))


def _is_dtype(value: object) -> bool:
    return isinstance(value, _Node) and value.kind == "global" and value.name in _TORCH_DTYPES


def _is_tensor_class(value: object) -> bool:
    return isinstance(value, _Node) and value.kind == "global" and value.name in _TENSOR_CLASSES


def _is_generic(value: object) -> bool:
    return (
        isinstance(value, _Node) and value.kind == "global" and value.name.startswith(("typing.", "collections.abc."))
    )


def _is_union_operator(value: object) -> bool:
    return isinstance(value, _Node) and value.kind == "global" and value.name in ("_operator.or_", "operator.or_")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TENSOR_ARGUMENTS: tuple[_Check, ...] = (_is_storage, _is_length, _is_lengths, _is_lengths)

# Signatures that torch.save writes, by function; torch/_utils.py, torch/_tensor.py, torch/nn/parameter.py.
_TENSOR_MAKERS: Mapping[str, tuple[tuple[_Check, ...], ...]] = {
    "torch._utils._rebuild_tensor": (_TENSOR_ARGUMENTS,),
    "torch._utils._rebuild_tensor_v2": (
        (*_TENSOR_ARGUMENTS, _is_bool, _is_mapping),
        (*_TENSOR_ARGUMENTS, _is_bool, _is_mapping, _is_mapping_or_none),
    ),
    "torch._utils._rebuild_tensor_v3": (
        (*_TENSOR_ARGUMENTS, _is_bool, _is_mapping, _is_dtype),
        (*_TENSOR_ARGUMENTS, _is_bool, _is_mapping, _is_dtype, _is_mapping_or_none),
    ),
    "torch._utils._rebuild_parameter": ((_is_tensor, _is_bool, _is_mapping),),
    "torch._utils._rebuild_parameter_with_state": ((_is_tensor, _is_bool, _is_mapping, _is_state),),
}


# Those that count in elements of the storage's own type.
_TYPED_TENSOR_MAKERS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})


def _reach(offset: int, size: _Node, stride: _Node) -> int:
    """How many elements of its storage a tensor needs, from the storage's beginning."""
    if 0 in size.items:
        return 0
    steps: int = sum((length - 1) * step for length, step in zip(size.items, stride.items, strict=False))
    return offset + 1 + steps


def _is_rebuild(arguments: Sequence[object]) -> bool:
    """Whether these are arguments of ``torch._tensor._rebuild_from_type_v2``: function, class, its arguments, state."""
    if len(arguments) != 4:
        return False
    function, kind, inner, state = arguments
    return (
        isinstance(function, _Node)
        and function.kind == "global"
        and _is_tensor_class(kind)
        and isinstance(inner, _Node)
        and inner.kind == "tuple"
        and _fits(inner.items, _TENSOR_MAKERS.get(function.name, ()))
        and _is_state(state)
    )


def _fits(arguments: Sequence[object], signatures: Sequence[Sequence[_Check]]) -> bool:
    return any(
        len(arguments) == len(signature)
        and all(check(value) for check, value in zip(signature, arguments, strict=True))
        for signature in signatures
    )


# What torch's unpickler calls. The other functions that it has (sparse, quantized and nested tensors, subclasses) don't
# occur in fairseq's checkpoints.
_TORCH_CALLS: Mapping[str, tuple[tuple[_Check, ...], ...]] = {
    **_TENSOR_MAKERS,
    "collections.OrderedDict": ((),),
    "collections.Counter": ((), (_is_dict,)),
    "builtins.set": ((), (_is_list,)),
    "builtins.complex": ((_is_number, _is_number),),
    "builtins.bytearray": ((), (_is_encoded,)),
    "_codecs.encode": ((_is_latin1_text, _is_latin1),),
    "torch.Size": ((_is_lengths,),),
    "torch.device": ((_is_text,), (_is_text, _is_length)),
}
_REBUILD = "torch._tensor._rebuild_from_type_v2"
_TENSOR_CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})
_TORCH_DTYPES = frozenset(
    f"torch.{name}"
    for name in _words(
        """
        float16 float32 float64 bfloat16 complex32 complex64 complex128 bool uint8 uint16 uint32 uint64 int8 int16
        int32 int64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
        """
    )
)
_STORAGE_CLASSES: Mapping[str, str] = {
    **{
        f"{module}.{name}": name
        for module in ("torch", "torch.cuda")
        for name in STORAGE_ITEM_BYTES
        if "Untyped" not in name
    },
    "torch.storage.UntypedStorage": "UntypedStorage",
}
_TORCH_VALUES = _TORCH_DTYPES | _TENSOR_CLASSES | _STORAGE_CLASSES.keys()

# ---------------------------------------------------------------------------------------------------------------------
# Harmless values of the standard library and numpy
# ---------------------------------------------------------------------------------------------------------------------


_PATHS = _words("Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath")
_NUMPY_ARRAYS = _words("_reconstruct scalar")
_NUMPY_RANDOM = _words("MT19937 PCG64 PCG64DXSM Philox SFC64")

_KNOWN: Mapping[str, frozenset[str]] = {
    "argparse": _words("Namespace"),
    # getattr(Class, "NAME") is how Python 3.11 and later write a member of an enum.
    "builtins": _words(
        "bool bytes dict float frozenset getattr int list object range slice str tuple type Ellipsis NotImplemented"
    ),
    "collections": _words("UserDict UserList UserString defaultdict deque"),
    # How subclasses of C types are written, and by protocols 0 and 1 all objects.
    "copyreg": _words("_reconstructor"),
    "dataclasses": _words("_MISSING_TYPE"),
    "datetime": _words("date datetime time timedelta timezone"),
    "decimal": _words("Decimal"),
    "enum": _words("Enum Flag IntEnum IntFlag StrEnum"),
    "fractions": _words("Fraction"),
    # A partial is inert until it is called, and nothing calls it: a default dict's factory may be one.
    # The types in omegaconf's metadata: X | Y is reduce(or_, (X, Y)), and List[int] is getitem(List, int).
    **{module: _words("partial reduce") for module in ("_functools", "functools")},
    **{module: _words("getitem or_") for module in ("_operator", "operator")},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "time": _words("struct_time"),
    "types": _words("GenericAlias SimpleNamespace"),
    "uuid": _words("SafeUUID UUID"),
    "numpy": _words(
        """
        dtype ndarray bool bool_ bytes_ str_ void object_ float16 float32 float64 longdouble complex64 complex128
        datetime64 timedelta64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 longlong ulonglong intc
        """
    ),
    "numpy.core.multiarray": _NUMPY_ARRAYS,
    "numpy._core.multiarray": _NUMPY_ARRAYS,
    "numpy.core.numeric": _words("_frombuffer"),
    "numpy._core.numeric": _words("_frombuffer"),
    "numpy.random._pickle": _words("__bit_generator_ctor __generator_ctor __randomstate_ctor"),
    **{f"numpy.random._{name}": _NUMPY_RANDOM for name in ("mt19937", "pcg64", "philox", "sfc64")},
}
# Every name in these is a type, or a special form of one.
_KNOWN_WHOLE_MODULES = frozenset({"collections.abc", "typing"})

# Calls of known names whose arguments decide what they do. Classes that are values only are never called.
_KNOWN_CALLS: Mapping[str, tuple[tuple[_Check, ...], ...]] = {
    "builtins.bytes": ((),),
    "builtins.frozenset": ((), (_is_list,)),
    "builtins.getattr": ((_is_class, _is_attribute),),
    "builtins.object": ((),),
    "builtins.range": ((_is_index, _is_index, _is_index),),
    "builtins.slice": ((_is_any, _is_any, _is_any),),
    "builtins.type": ((_is_none,), (_is_class,)),
    **{f"builtins.{name}": () for name in ("bool", "dict", "float", "int", "list", "str", "tuple")},
    "builtins.Ellipsis": (),
    "builtins.NotImplemented": (),
    "collections.defaultdict": ((), (_is_factory,)),
    "copyreg._reconstructor": ((_is_class, _is_class, _is_any),),
    **{f"{module}.getitem": ((_is_generic, _is_any),) for module in ("_operator", "operator")},
    **{f"{module}.or_": () for module in ("_operator", "operator")},
    **{f"{module}.reduce": ((_is_union_operator, _is_tuple),) for module in ("_functools", "functools")},
}

# Modules of Python 2, and of Python 3 versions other than the running one: what is refused mustn't depend on that.
_OTHER_STANDARD_MODULES = _words(
    """
    BaseHTTPServer Bastion CGIHTTPServer ConfigParser Cookie DocXMLRPCServer HTMLParser MimeWriter Queue
    SimpleHTTPServer SimpleXMLRPCServer SocketServer StringIO Tkinter UserDict UserList UserString anydbm bsddb cPickle
    cStringIO commands compiler cookielib copy_reg dbhash dircache dl dumbdbm dummy_thread dummy_threading exceptions
    fpformat future_builtins gdbm hotshot htmlentitydefs htmllib httplib ihooks imputil itertools macpath md5 mhlib
    mimetools mimify multifile mutex new os2 parser popen2 posixfile repr rexec rfc822 robotparser sets sgmllib sha
    statvfs symbol thread tkMessageBox urllib2 urlparse user whichdb xmlrpclib formatter binhex
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils ensurepip imghdr imp
    lib2to3 mailcap msilib nis nntplib ossaudiodev pathlib pipes smtpd sndhdr spwd sunau telnetlib tomllib uu venv
    xdrlib zoneinfo _posixsubprocess _pyrepl _winapi nt posix winreg
    """
)
_GUARDED_MODULES = sys.stdlib_module_names | _OTHER_STANDARD_MODULES | {"__builtin__", "numpy", "torch"}

# How torch's unpickler renames what Python 2 called otherwise; torch/_utils.py, IMPORT_MAPPING and NAME_MAPPING. Of
# these renames, only those are here whose result isn't refused: the others are refused under their own names.
_RENAMED_MODULES: Mapping[str, str] = {"__builtin__": "builtins", "copy_reg": "copyreg", "_abcoll": "collections.abc"}
_RENAMED: Mapping[tuple[str, str], tuple[str, str]] = {
    ("__builtin__", "xrange"): ("builtins", "range"),
    ("__builtin__", "reduce"): ("functools", "reduce"),
    ("__builtin__", "unicode"): ("builtins", "str"),
    ("__builtin__", "long"): ("builtins", "int"),
    ("__builtin__", "basestring"): ("builtins", "str"),
    ("UserDict", "UserDict"): ("collections", "UserDict"),
    ("UserDict", "IterableUserDict"): ("collections", "UserDict"),
    ("UserList", "UserList"): ("collections", "UserList"),
    ("UserString", "UserString"): ("collections", "UserString"),
}
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def classify(module: str, name: str) -> GlobalKind | None:
    """Who builds ``module.name``, see the module's docstring; None if it is refused."""
    path = f"{module}.{name}"
    if path in _TORCH_CALLS or path in _TORCH_VALUES or path == _REBUILD:
        return "torch"
    if module in _KNOWN_WHOLE_MODULES or name in _KNOWN.get(module, ()):
        return "known"
    return None if module.split(".")[0] in _GUARDED_MODULES else "stand-in"


# ---------------------------------------------------------------------------------------------------------------------
# Source of the opcodes
# ---------------------------------------------------------------------------------------------------------------------


class PickleSource:
    """Bytes with one pickle after the other; ``more`` gives the next piece, and nothing at the end.

    Attributes:
        data: what has been read so far.
        position: where the next pickle begins.
    """

    def __init__(self, data: bytes, what: str, more: Callable[[], bytes] | None = None) -> None:
        self.data = bytearray(data)
        self.position = 0
        self.what = what
        self._more = more or bytes

    def take(self, count: int) -> bytearray:
        """The next ``count`` bytes. Raises DamagedError where there are fewer."""
        end = self.position + count
        while end > len(self.data):
            self._grow()
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def line(self) -> str:
        """The next line, without its end. Raises UnsafeError where it is longer than any name."""
        end = self.data.find(b"\n", self.position, self.position + NAME_LIMIT)
        while end < 0:
            if len(self.data) >= self.position + NAME_LIMIT:
                raise UnsafeError(f"{self.what}: names a global of more than {NAME_LIMIT} characters", advice=_DISTRUST)
            self._grow()
            end = self.data.find(b"\n", self.position, self.position + NAME_LIMIT)
        line = self.data[self.position : end]
        self.position = end + 1
        return line.decode("utf-8", "backslashreplace")

    def _grow(self) -> None:
        piece = self._more()
        if not piece:
            raise DamagedError(f"{self.what}: the pickle is cut off after {len(self.data)} bytes", advice=_GET_AGAIN)
        if len(self.data) + len(piece) > PICKLE_BYTES_LIMIT:
            raise UnsafeError(f"{self.what}: the pickle is larger than {PICKLE_BYTES_LIMIT} bytes", advice=_DISTRUST)
        self.data += piece


_DISTRUST = "fairseq never writes this; get the checkpoint from a source that you trust"
_GET_AGAIN = "download or copy the checkpoint again and compare its checksum"
_SAVE_AGAIN = (
    'load it where it was made and save it with torch.save(checkpoint, "checkpoint.pt"), which writes pickle protocol 2'
)


# ---------------------------------------------------------------------------------------------------------------------
# The walk
# ---------------------------------------------------------------------------------------------------------------------


class _Walk:
    """One pickle's symbolic run."""

    def __init__(self, source: PickleSource, *, legacy: bool) -> None:
        self.source = source
        self.what = source.what
        self.legacy = legacy
        self.start = source.position
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, GlobalUse] = {}
        self.global_nodes: dict[str, _Node] = {}
        self.refused: dict[str, None] = {}
        self.storages: dict[str, StorageUse] = {}
        self.built_bytes = 0
        self.chosen_hashes = 0

    def run(self) -> Any:
        """Walk to STOP and return what would be built."""
        handlers = _HANDLERS
        take = self.source.take
        try:
            for _ in range(OPCODE_LIMIT):
                code = take(1)[0]
                if code == _STOP:
                    return self.stopped()
                handler = handlers.get(code)
                if handler is None:
                    self.damaged(f"has opcode {_opcode_name(code)}, which torch.save never writes")
                handler(self)
        except IndexError:
            self.damaged("takes more from its stack than is there")
        return self.unsafe(f"has more than {OPCODE_LIMIT} opcodes")

    def stopped(self) -> Any:
        if self.marks or len(self.stack) != 1:
            self.damaged("leaves something on its stack")
        return self.stack[0]

    def damaged(self, problem: str) -> NoReturn:
        raise DamagedError(f"{self.what}: the pickle {problem}", advice=_GET_AGAIN)

    def unsafe(self, problem: str) -> NoReturn:
        raise UnsafeError(f"{self.what}: the pickle {problem}", advice=_DISTRUST)

    def charge(self, count: int) -> None:
        self.built_bytes += count
        if self.built_bytes > BUILT_BYTES_LIMIT:
            self.unsafe(f"would build more than {BUILT_BYTES_LIMIT} bytes of Python objects")

    # Scalars and the stack

    def scalar(self, value: object) -> None:
        self.charge(SCALAR_BYTES)
        self.stack.append(value)

    def node(self, kind: str, items: Sequence[Any], name: str = "") -> _Node:
        self.charge(NODE_BYTES)
        node = _Node(kind, items, name)
        self.stack.append(node)
        return node

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        self.charge(NODE_BYTES)
        self.marks.append(self.stack)
        self.stack = []

    def text(self, length: int, errors: str) -> None:
        if length > TEXT_BYTES_LIMIT:
            self.unsafe(f"has a text of {length} bytes; the limit is {TEXT_BYTES_LIMIT}")
        try:
            value = str(self.source.take(length), "utf-8", errors)
        except UnicodeDecodeError:
            self.damaged("has a text that isn't UTF-8")
        # A single wide character makes four bytes of each other one.
        self.charge(sys.getsizeof(value))
        self.stack.append(value)

    def long(self) -> None:
        length = self.source.take(1)[0]
        if length > INTEGER_BYTES_LIMIT:
            self.unsafe(f"has an integer of {length} bytes; the limit is {INTEGER_BYTES_LIMIT}")
        self.scalar(int.from_bytes(self.source.take(length), "little", signed=True))

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.damaged(f"refers to object {index}, which it hasn't made")
        self.charge(8)
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.charge(ENTRY_BYTES)
        self.memo[index] = self.stack[-1]

    def protocol(self) -> None:
        number = self.source.take(1)[0]
        if self.source.position != self.start + 2:
            self.damaged("states its protocol in its midst")
        if number != 2:
            raise DamagedError(
                f"{self.what}: saved with pickle protocol {number}; fairseq and torch.save write protocol 2",
                advice=_SAVE_AGAIN,
            )

    # Containers

    def tuple_of_last(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.charge(8 * count)
        self.node("tuple", items)

    def tuple_of_marked(self) -> None:
        items = tuple(self.marked())
        self.charge(8 * len(items))
        self.node("tuple", items)

    def append(self, items: list[Any]) -> None:
        target = self.target()
        if target.kind == "instance":
            self.use(target.name, "gives elements to", "gets_elements")
        elif target.kind != "list":
            self.damaged(f"appends to a {target.kind}")
        self.charge(16 * len(items))
        self.hold(target, items)

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            self.damaged("gives a dict a key without a value")
        target = self.target()
        if target.kind == "instance":
            self.use(target.name, "gives items to", "gets_items")
        elif target.kind != "dict":
            self.damaged(f"gives a {target.kind} items as if it were a dict")
        self.charge(ENTRY_BYTES * (len(items) // 2))
        for key in items[::2]:
            self.hash(key)
        self.hold(target, items)

    def target(self) -> _Node:
        target = self.stack[-1]
        if not isinstance(target, _Node):
            self.damaged(f"changes a {type(target).__name__}")
        return target

    def hold(self, target: _Node, items: Sequence[Any]) -> None:
        if isinstance(target.items, list):
            target.items.extend(items)
        else:
            target.items = [*target.items, *items]

    def hash(self, key: object) -> None:
        """Account for a key of a dict or an element of a set. Nested tuples are measured at the end."""
        if isinstance(key, _Node):
            self.hash_node(key)
        elif type(key) is float or (type(key) is int and abs(key) >= SMALL_INTEGER):
            self.chosen_hash()

    def hash_node(self, key: _Node) -> None:
        if key.kind == "tuple":
            self.chosen_hash()
            self.check_hashable(key)
        elif key.kind == "instance" and key.name not in _UNHASHABLE:
            self.note(key.name, "hashed")
        elif key.kind not in ("global", "storage"):
            self.damaged(f"has a {key.name or key.kind} as a key")

    def check_hashable(self, key: _Node) -> None:
        """Look for lists and dicts within a tuple, in a walk that visits no tuple twice."""
        pending, seen = [key], {id(key)}
        while pending:
            for item in pending.pop().items:
                if not isinstance(item, _Node) or id(item) in seen:
                    continue
                seen.add(id(item))
                if item.kind == "tuple":
                    self.chosen_hash()
                    pending.append(item)
                else:
                    self.hash_node(item)

    def chosen_hash(self) -> None:
        self.chosen_hashes += 1
        if self.chosen_hashes > CHOSEN_HASH_LIMIT:
            self.unsafe(f"has more than {CHOSEN_HASH_LIMIT} keys that can be made to collide (large integers, tuples)")

    # Globals and what is made from them

    def global_(self) -> None:
        module, name = self.source.line(), self.source.line()
        if not _MODULE.fullmatch(module) or not _NAME.fullmatch(name):
            self.unsafe(f"names the global {module!r} {name!r}, which is no name of a class")
        module, name = _RENAMED.get((module, name), (_RENAMED_MODULES.get(module, module), name))
        path = f"{module}.{name}"
        if path not in self.globals:
            self.first_use(module, name)
        self.stack.append(self.global_nodes[path])
        self.charge(SCALAR_BYTES)

    def first_use(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        kind = classify(module, name)
        if kind is None:
            self.refused[path] = None
        self.globals[path] = GlobalUse(module, name, kind or "stand-in")
        self.global_nodes[path] = _Node("global", (), path)
        self.charge(10 * NODE_BYTES)

    def use(self, path: str, how: str, mark: str) -> None:
        """Note what is done with a global's object; of torch's own, only dicts change after they are made."""
        if self.globals[path].kind == "torch" and mark not in _TORCH_DICTS.get(path, ()):
            self.unsafe(f"{how} an object that {path} made")
        self.note(path, mark)

    def note(self, path: str, mark: str, *, value: bool = True) -> None:
        use = self.globals[path]
        if getattr(use, mark) is not value:
            changes: dict[str, Any] = {mark: value}
            self.globals[path] = replace(use, **changes)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not _is_node(function, "global"):
            self.unsafe("calls something that isn't a global, but the result of another call")
        self.call(function, arguments)

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not _is_node(kind, "global"):
            self.unsafe("makes an object of something that isn't a class")
        if self.globals[kind.name].kind == "torch":
            self.unsafe(f"makes an object of {kind.name} without calling it")
        self.call(kind, arguments)

    def call(self, function: _Node, arguments: object) -> None:
        if not isinstance(arguments, _Node) or arguments.kind != "tuple":
            self.damaged(f"calls {function.name} with something that isn't a tuple")
        self.check_arguments(function.name, arguments.items)
        self.charge_copies(function.name, arguments.items)
        self.note(function.name, "called")
        self.node("instance", arguments.items, function.name)

    def check_arguments(self, path: str, arguments: Sequence[Any]) -> None:
        if path == _REBUILD:
            fits = _is_rebuild(arguments)
        elif self.globals[path].kind == "torch":
            fits = _fits(arguments, _TORCH_CALLS.get(path, ()))
        elif path in _KNOWN_CALLS:
            fits = _fits(arguments, _KNOWN_CALLS[path])
        else:
            return
        if not fits:
            self.unsafe(f"calls {path} with arguments that it never has in a checkpoint")
        if path in _TYPED_TENSOR_MAKERS and _reach(*arguments[1:4]) > arguments[0].items[0]:
            self.damaged("has a tensor that reaches beyond its storage")

    def charge_copies(self, path: str, arguments: Sequence[Any]) -> None:
        """Account for what a call copies from its arguments, each time: a list named once can be used often."""
        if path in _TENSOR_MAKERS:
            self.charge(TENSOR_BYTES)
        for argument in arguments:
            if isinstance(argument, str):
                self.charge(sys.getsizeof(argument))
            elif isinstance(argument, _Node):
                self.charge(self.copied_bytes(argument))
        if path in _HASHING and arguments:
            items = arguments[0].items
            for key in items if arguments[0].kind == "list" else items[::2]:
                self.hash(key)

    def copied_bytes(self, argument: _Node) -> int:
        if argument.name == "_codecs.encode" and argument.kind == "instance":
            return sys.getsizeof(argument.items[0])
        return ENTRY_BYTES * len(argument.items)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.target()
        if target.kind != "instance":
            self.damaged(f"sets the state of a {target.kind}")
        if target.name in _TORCH_DICTS and not _is_dict(state):
            self.unsafe(f"sets the state of an object that {target.name} made to something that isn't a dict")
        self.use(target.name, "sets the state of", "gets_state")
        if not _is_state(state):
            self.note(target.name, "state_is_mapping", value=False)
        self.hold(target, [state])

    # Storages

    def persistent(self) -> None:
        identity = self.stack.pop()
        fields = identity.items if _is_node(identity, "tuple") else ()
        storage = self.storage(fields)
        if storage is None:
            self.damaged("has a persistent id that isn't a storage's")
        known = self.storages.setdefault(storage.key, storage)
        if known != replace(storage, view=known.view):
            self.damaged(f"names the storage {storage.key!r} with two types, lengths or places")
        self.charge(TENSOR_BYTES)
        self.node("storage", (storage.numel if storage.view is None else storage.view[2],), storage.key)

    def storage(self, fields: Sequence[Any]) -> StorageUse | None:
        if len(fields) != (6 if self.legacy else 5) or fields[0] != "storage":
            return None
        kind, key, location, numel = fields[1:5]
        view = self.view(fields[5]) if self.legacy else None
        if not _is_node(kind, "global") or not _is_text(key) or not _is_text(location) or type(numel) is not int:
            return None
        if kind.name not in _STORAGE_CLASSES:
            self.damaged(f"has a storage of the type {kind.name}, which isn't one of torch's dense storages")
        storage = StorageUse(key, _STORAGE_CLASSES[kind.name], location, numel, view)
        if view is not None and view[1] + view[2] > numel:
            self.damaged(f"has the storage {key!r} with a view that reaches beyond it")
        if not 0 <= storage.nbytes < INT64_LIMIT or numel < 0:
            self.damaged(f"has the storage {key!r} with the impossible length {numel}")
        return storage

    def view(self, fields: object) -> tuple[str, int, int] | None:
        if fields is None:
            return None
        if not isinstance(fields, _Node) or fields.kind != "tuple" or not _fits(fields.items, (_VIEW,)):
            self.damaged("has a storage with a view that isn't (key, offset, length)")
        key, offset, length = fields.items
        return key, offset, length


_VIEW: tuple[_Check, ...] = (_is_text, _is_length, _is_length)
# What may be done to the dicts that torch makes; the state of a state dict's OrderedDict is its _metadata.
_TORCH_DICTS: Mapping[str, frozenset[str]] = {
    "collections.OrderedDict": frozenset({"gets_items", "gets_state"}),
    "collections.Counter": frozenset({"gets_items"}),
}
_HASHING = frozenset({"builtins.set", "builtins.frozenset", "collections.Counter"})
_UNHASHABLE = frozenset({"builtins.set", "builtins.bytearray", "builtins.slice", *_TORCH_DICTS})


def _integer(walk: _Walk, form: str) -> int:
    value: int = struct.unpack(form, walk.source.take(struct.calcsize(form)))[0]
    return value


def _pair(walk: _Walk) -> list[Any]:
    value, key = walk.stack.pop(), walk.stack.pop()
    return [key, value]


_STOP = ord(".")
# By the opcode's byte; names as in the standard library's pickle.py.
_HANDLERS: Mapping[int, Callable[[_Walk], object]] = {
    code[0]: handler
    for code, handler in {
        b"\x80": _Walk.protocol,  # PROTO
        b"(": _Walk.mark,  # MARK
        b"N": lambda walk: walk.scalar(None),  # NONE
        b"\x88": lambda walk: walk.scalar(True),  # NEWTRUE
        b"\x89": lambda walk: walk.scalar(False),  # NEWFALSE
        b"J": lambda walk: walk.scalar(_integer(walk, "<i")),  # BININT
        b"K": lambda walk: walk.scalar(walk.source.take(1)[0]),  # BININT1
        b"M": lambda walk: walk.scalar(_integer(walk, "<H")),  # BININT2
        b"\x8a": _Walk.long,  # LONG1
        b"G": lambda walk: walk.scalar(struct.unpack(">d", walk.source.take(8))[0]),  # BINFLOAT
        b"X": lambda walk: walk.text(_integer(walk, "<I"), "surrogatepass"),  # BINUNICODE
        b"U": lambda walk: walk.text(walk.source.take(1)[0], "strict"),  # SHORT_BINSTRING
        b"}": lambda walk: walk.node("dict", []),  # EMPTY_DICT
        b"]": lambda walk: walk.node("list", []),  # EMPTY_LIST
        b"\x8f": lambda walk: walk.node("set", []),  # EMPTY_SET
        b")": lambda walk: walk.node("tuple", ()),  # EMPTY_TUPLE
        b"t": _Walk.tuple_of_marked,  # TUPLE
        b"\x85": lambda walk: walk.tuple_of_last(1),  # TUPLE1
        b"\x86": lambda walk: walk.tuple_of_last(2),  # TUPLE2
        b"\x87": lambda walk: walk.tuple_of_last(3),  # TUPLE3
        b"a": lambda walk: walk.append([walk.stack.pop()]),  # APPEND
        b"e": lambda walk: walk.append(walk.marked()),  # APPENDS
        b"s": lambda walk: walk.set_items(_pair(walk)),  # SETITEM
        b"u": lambda walk: walk.set_items(walk.marked()),  # SETITEMS
        b"h": lambda walk: walk.get(walk.source.take(1)[0]),  # BINGET
        b"j": lambda walk: walk.get(_integer(walk, "<I")),  # LONG_BINGET
        b"q": lambda walk: walk.put(walk.source.take(1)[0]),  # BINPUT
        b"r": lambda walk: walk.put(_integer(walk, "<I")),  # LONG_BINPUT
        b"c": _Walk.global_,  # GLOBAL
        b"R": _Walk.reduce,  # REDUCE
        b"\x81": _Walk.new_object,  # NEWOBJ
        b"b": _Walk.build,  # BUILD
        b"Q": _Walk.persistent,  # BINPERSID
    }.items()
}


def _opcode_name(code: int) -> str:
    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    return names.get(code, f"0x{code:02x}")


# ---------------------------------------------------------------------------------------------------------------------
# Depth and unfolded size of the whole
# ---------------------------------------------------------------------------------------------------------------------


def _check_uses(walk: _Walk) -> None:
    """Refuse what torch's unpickler can't do: it gives items to plain dicts, and elements to plain lists, only."""
    for path, use in walk.globals.items():
        if use.hashed and (use.gets_items or use.gets_elements):
            walk.damaged(f"has a {path} as a key, and gives it items")
        if use.gets_elements and (use.gets_state or use.gets_items):
            raise DamagedError(
                f"{walk.what}: the pickle has a {path}, a list with attributes, which torch can't load safely",
                advice="load it where it was made, replace these objects by plain lists, and save it again",
            )


def _measure(walk: _Walk, root: object) -> None:
    """Refuse what is too deep, too large when unfolded, or contains itself, in one iterative depth-first search.

    A reference back to a stand-in that is still open is a leaf: omegaconf's nodes hold their parents (``_parent``).
    """
    sizes: dict[int, tuple[int, int]] = {}  # id of a finished node: unfolded size, height
    opened: set[int] = set()
    path: list[tuple[_Node, Any, list[int]]] = []

    def enter(node: _Node) -> None:
        if len(path) >= DEPTH_LIMIT:
            walk.unsafe(f"nests objects more than {DEPTH_LIMIT} deep")
        opened.add(id(node))
        path.append((node, iter(node.items), [1 + len(node.items), 1]))

    enter(_Node("list", [root]))
    while path:
        node, items, totals = path[-1]
        for item in items:
            if not isinstance(item, _Node):
                continue
            if id(item) in opened:
                if not _may_hold_itself(walk, item):
                    walk.unsafe(f"puts a {item.name or item.kind} into itself")
                continue
            if id(item) not in sizes:
                enter(item)
                break
            _add(walk, totals, sizes[id(item)], len(path))
        else:
            path.pop()
            opened.remove(id(node))
            sizes[id(node)] = (totals[0], totals[1])
            if path:
                _add(walk, path[-1][2], sizes[id(node)], len(path))


def _add(walk: _Walk, totals: list[int], item: tuple[int, int], depth: int) -> None:
    totals[0] += item[0]
    totals[1] = max(totals[1], item[1] + 1)
    if totals[0] > UNFOLDED_LIMIT:
        walk.unsafe(f"would be more than {UNFOLDED_LIMIT} objects if each reference were followed")
    if depth + item[1] > DEPTH_LIMIT:
        walk.unsafe(f"nests objects more than {DEPTH_LIMIT} deep")


def _may_hold_itself(walk: _Walk, node: _Node) -> bool:
    if node.kind != "instance":
        return False
    use = walk.globals[node.name]
    return use.kind != "torch" and not use.gets_items and not use.gets_elements


# ---------------------------------------------------------------------------------------------------------------------
# The whole
# ---------------------------------------------------------------------------------------------------------------------


def _check_globals(walk: _Walk) -> None:
    if walk.refused:
        names = ", ".join(sorted(walk.refused))
        raise UnsafeError(f"{walk.what}: the pickle names code that no checkpoint needs: {names}", advice=_DISTRUST)


def _walk(source: PickleSource, *, legacy: bool) -> tuple[_Walk, Any]:
    walk = _Walk(source, legacy=legacy)
    try:
        root = walk.run()
        _check_uses(walk)
        _measure(walk, root)
    except UnreadableError:
        # Whatever else is wrong with it: code is what people must hear of first.
        _check_globals(walk)
        raise
    _check_globals(walk)
    return walk, root


def read_next_program(source: PickleSource, *, legacy: bool) -> PickleProgram:
    """The pickle at the source's position, which moves behind it.

    Args:
        source: the bytes.
        legacy: persistent ids are those of the legacy format: with a sixth field, the view.

    Raises:
        DamagedError: it is no pickle, or not one that torch.save writes.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    walk, root = _walk(source, legacy=legacy)
    model = tuple(walk.storages[key] for key in _storages_under(root, "model"))
    return PickleProgram(source.position - walk.start, dict(walk.globals), tuple(walk.storages.values()), model)


def _storages_under(root: object, wanted: str) -> Sequence[str]:
    """The keys of the storages that a dict's value holds, in the order of first appearance."""
    if not isinstance(root, _Node) or root.kind != "dict":
        return ()
    left = [value for key, value in zip(root.items[::2], root.items[1::2], strict=True) if key == wanted]
    keys: dict[str, None] = {}
    seen: set[int] = set()
    while left:
        node = left.pop()
        if not isinstance(node, _Node) or id(node) in seen:
            continue
        seen.add(id(node))
        if node.kind == "storage":
            keys.setdefault(node.name)
        left.extend(reversed(node.items))
    return tuple(keys)


def read_program(data: bytes, what: str) -> PickleProgram:
    """What the pickle in a zip's ``data.pkl`` would build.

    Args:
        data: the whole record.
        what: the file and record, for error messages.

    Raises:
        DamagedError: it is no pickle, or not one that torch.save writes.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    if len(data) > PICKLE_BYTES_LIMIT:
        raise UnsafeError(f"{what}: the pickle is larger than {PICKLE_BYTES_LIMIT} bytes", advice=_DISTRUST)
    program = read_next_program(PickleSource(data, what), legacy=False)
    if program.size != len(data):
        raise DamagedError(f"{what}: {len(data) - program.size} bytes follow the pickle", advice=_GET_AGAIN)
    return program


def read_next_value(source: PickleSource) -> object:
    """The value of a pickle of scalars, lists and dicts with text keys, which the legacy format has around the object.

    Raises:
        DamagedError: it is no pickle, or one of something else.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    walk, root = _walk(source, legacy=True)
    if walk.globals or walk.storages:
        walk.damaged("has objects where only texts and numbers belong")
    return _plain(root)


def _plain(value: object) -> object:
    if not isinstance(value, _Node):
        return value
    items = [_plain(item) for item in value.items]
    if value.kind == "dict":
        return dict(zip(map(str, items[::2]), items[1::2], strict=True))
    return items
