"""Which globals a pickle may name, and who builds them.

- ``"torch"``: torch's unpickler has it and runs it; ``arguments.py`` checks what it is called with;
- ``"known"``: a harmless value of the standard library or numpy, in ``_KNOWN``; a stand-in takes its place;
- ``"stand-in"``: anybody's class (fairseq's, omegaconf's, a fork's); it can only become an inert stand-in;
- refused: the rest of the standard library, torch and numpy.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Literal

GlobalKind = Literal["torch", "known", "stand-in"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------------------------------------------------------
# torch's own (torch/_weights_only_unpickler.py, _get_allowed_globals)

ITEM_BYTES_OF_DTYPES: Mapping[str, int] = {
    **dict.fromkeys(_words("bool uint8 int8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"), 1),
    "float8_e8m0fnu": 1,
    **dict.fromkeys(_words("float16 bfloat16 int16 uint16"), 2),
    **dict.fromkeys(_words("float32 int32 uint32 complex32"), 4),
    **dict.fromkeys(_words("float64 int64 uint64 complex64"), 8),
    "complex128": 16,
}
"""Bytes per element of torch's dtypes, by name without ``torch.``."""

STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}
"""The dtype of each storage class (torch/storage.py, ``_dtype_to_storage_type_map``); an untyped one counts bytes."""

DTYPES = frozenset(f"torch.{name}" for name in ITEM_BYTES_OF_DTYPES)
TENSOR_CLASSES = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})
STORAGE_CLASSES: Mapping[str, str] = {
    **{
        f"{module}.{name}": name
        for module in ("torch", "torch.cuda")
        for name in STORAGE_DTYPES
        if name != "UntypedStorage"
    },
    "torch.storage.UntypedStorage": "UntypedStorage",
}
TORCH_VALUES = DTYPES | TENSOR_CLASSES | STORAGE_CLASSES.keys()

TENSOR_MAKERS = frozenset(
    f"torch._utils.{name}"
    for name in _words(
        """
        _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state
        """
    )
)
REBUILD = "torch._tensor._rebuild_from_type_v2"
"""What subclasses of tensors, and tensors with attributes, are saved with; it calls one of the makers."""
# The other functions that torch's unpickler has (sparse, quantized and nested tensors, subclasses) don't occur in
# fairseq's checkpoints.
TORCH_CALLS = (
    TENSOR_MAKERS
    | {REBUILD}
    | _words(
        """
        collections.OrderedDict collections.Counter builtins.set builtins.complex builtins.bytearray _codecs.encode
        torch.Size torch.device torch.serialization._get_layout
        """
    )
)
MAY_CHANGE: Mapping[str, frozenset[str]] = {
    "collections.OrderedDict": frozenset({"gets_items", "gets_state"}),
    "collections.Counter": frozenset({"gets_items"}),
}
"""What may be done to objects that torch makes, after they are made; the others can't change."""

# ---------------------------------------------------------------------------------------------------------------
# Harmless values of the standard library and numpy

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
    """Return who builds ``module.name``, see the module's docstring; None if it is refused."""
    path = f"{module}.{name}"
    if path in TORCH_CALLS or path in TORCH_VALUES:
        return "torch"
    if module in _KNOWN_WHOLE_MODULES or name in _KNOWN.get(module, ()):
        return "known"
    return None if module.partition(".")[0] in _GUARDED_MODULES else "stand-in"


def as_torch_names_it(module: str, name: str) -> tuple[str, str] | None:
    """Return a global's module and name as torch renames them; None where they are no names of Python's."""
    if not _MODULE.fullmatch(module) or not _NAME.fullmatch(name):
        return None
    return _RENAMED.get((module, name), (_RENAMED_MODULES.get(module, module), name))
