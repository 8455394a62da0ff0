"""Files that try to have code run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.forgery import (
    PROTOCOL_2,
    Part,
    Raw,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_tuple,
    plainly,
    text,
    zipped,
)
from tests.support.hostile.cases import CANARY, HEAD, LEGACY, ZIP, add, changed_cfg, changed_model, hostile, writing

WRITE = f"open({CANARY!r}, 'w').close()"
TOUCH = f"touch {CANARY}"


def _payloads() -> dict[str, tuple[bytes, str, bool]]:
    """Name: opcodes, the word in the error, whether Python's own unpickler would run it."""
    touch, write, no_names = text(TOUCH), text(WRITE), a_dict()
    nested = plainly(PROTOCOL_2 + a_call("os", "system", touch) + b".")
    ordered = a_global("collections", "OrderedDict")
    system = a_global("os", "system")
    return {
        "os_system": (a_call("os", "system", touch), "os.system", True),
        "posix_system": (a_call("posix", "system", touch), "posix.system", True),
        "nt_system": (a_call("nt", "system", touch), "nt.system", False),
        "os_execv": (a_call("os", "execv", text("/bin/true"), a_list(text("true"))), "os.execv", True),
        "os_remove": (a_call("os", "remove", text("checkpoint.pt")), "os.remove", True),
        "builtins_eval": (a_call("builtins", "eval", write), "builtins.eval", True),
        "eval_of_python_2": (a_call("__builtin__", "eval", write), "builtins.eval", False),
        "builtins_exec": (a_call("builtins", "exec", write), "builtins.exec", True),
        "builtins_open": (a_call("builtins", "open", text(CANARY), text("w")), "builtins.open", True),
        "builtins_import": (a_call("builtins", "__import__", text("antigravity")), "builtins.__import__", True),
        "builtins_map": (a_call("builtins", "map", a_global("builtins", "eval"), a_list(write)), "eval", False),
        "builtins_breakpoint": (a_call("builtins", "breakpoint"), "builtins.breakpoint", False),
        "getattr_of_a_module": (
            a_call("builtins", "getattr", a_call("builtins", "__import__", text("os")), text("system")),
            "builtins.__import__",
            False,
        ),
        "getattr_of_a_dunder": (a_call("builtins", "getattr", ordered, text("__init__")), "builtins.getattr", False),
        "getattr_of_a_getattr": (
            a_call("builtins", "getattr", a_call("builtins", "getattr", ordered, text("fromkeys")), text("x")),
            "builtins.getattr",
            False,
        ),
        "call_of_a_calls_result": (
            a_call("builtins", "getattr", ordered, text("fromkeys")) + a_tuple(a_list()) + b"R",
            "result of another call",
            False,
        ),
        "subprocess_popen": (a_call("subprocess", "Popen", a_list(text("touch"), text(CANARY))), "subprocess", True),
        "subprocess_getoutput": (a_call("subprocess", "getoutput", touch), "subprocess.getoutput", True),
        "commands_of_python_2": (a_call("commands", "getoutput", touch), "commands.getoutput", False),
        "pty_spawn": (a_call("pty", "spawn", a_list(text("touch"), text(CANARY))), "pty.spawn", True),
        "multiprocessing": (a_call("multiprocessing.util", "spawnv_passfds"), "multiprocessing.util", False),
        "posixsubprocess": (a_call("_posixsubprocess", "fork_exec"), "_posixsubprocess.fork_exec", False),
        "runpy_run_code": (a_call("runpy", "_run_code", write, no_names), "runpy._run_code", True),
        "timeit": (a_call("timeit", "timeit", write), "timeit.timeit", True),
        "cprofile_run": (a_call("cProfile", "run", write), "cProfile.run", True),
        "pdb_run": (a_call("pdb", "run", write), "pdb.run", False),
        "code_interpreter": (a_call("code", "InteractiveInterpreter"), "code.InteractiveInterpreter", False),
        "importlib_import_module": (a_call("importlib", "import_module", text("antigravity")), "importlib", True),
        "pkgutil_resolve_name": (a_call("pkgutil", "resolve_name", text("os:system")), "pkgutil", False),
        "pydoc_locate": (a_call("pydoc", "locate", text("antigravity")), "pydoc.locate", True),
        "zipimport": (a_call("zipimport", "zipimporter", text("checkpoint.pt")), "zipimport", False),
        "ensurepip": (a_call("ensurepip", "bootstrap"), "ensurepip.bootstrap", False),
        "torch_hub_load": (a_call("torch.hub", "load", text("owner/name"), text("model")), "torch.hub.load", False),
        "torch_load": (a_call("torch", "load", text("checkpoint.pt")), "needs: torch.load", False),
        "torch_load_from_bytes": (
            a_call("torch.storage", "_load_from_bytes", nested),
            "torch.storage._load_from_bytes",
            False,
        ),
        "torch_jit_load": (a_call("torch.jit", "load", text("checkpoint.pt")), "torch.jit.load", False),
        "torch_cpp_extension": (a_call("torch.utils.cpp_extension", "load"), "torch.utils.cpp_extension", False),
        "torch_ops": (a_global("torch", "ops"), "torch.ops", False),
        "numpy_load": (a_call("numpy", "load", text("a.npy"), b"N", b"\x88"), "numpy.load", True),
        "numpy_runstring": (
            a_call("numpy.testing._private.utils", "runstring", write, no_names),
            "numpy.testing",
            True,
        ),
        "numpy_ctypeslib": (a_call("numpy.ctypeslib", "load_library", text("x"), text(".")), "ctypeslib", False),
        "operator_methodcaller": (a_call("operator", "methodcaller", text("system"), touch), "methodcaller", False),
        "operator_attrgetter": (a_call("operator", "attrgetter", text("system")), "attrgetter", False),
        "functools_partial_of_code": (a_call("functools", "partial", system, touch), "os.system", False),
        "functools_reduce_of_code": (
            a_call("functools", "reduce", a_global("builtins", "eval"), a_list(write, no_names)),
            "builtins.eval",
            True,
        ),
        "functools_reduce_of_a_stand_in": (
            a_call("functools", "reduce", a_global("fork", "run"), a_tuple(write, no_names)),
            "functools.reduce",
            False,
        ),
        "itertools": (a_call("itertools", "starmap", a_global("builtins", "eval"), a_list()), "eval", False),
        "codecs_open": (a_call("codecs", "open", text(CANARY), text("w")), "codecs.open", True),
        "codecs_decode": (a_call("_codecs", "decode", text("78"), text("hex")), "_codecs.decode", False),
        "codecs_encode_with_another_codec": (a_call("_codecs", "encode", text("x"), text("idna")), "_codecs", False),
        "io_open": (a_call("io", "open", text(CANARY), text("w")), "io.open", True),
        "pathlib_calls_are_inert": (a_call("pathlib", "PosixPath", text("/etc/passwd")), "", False),
        "shutil_rmtree": (a_call("shutil", "rmtree", text("out")), "shutil.rmtree", True),
        "tempfile": (a_call("tempfile", "mkdtemp", text(""), text(""), text("/tmp")), "tempfile.mkdtemp", True),  # noqa: S108 - never made
        "webbrowser_open": (a_call("webbrowser", "open", text("http://localhost")), "webbrowser.open", True),
        "urlopen": (a_call("urllib.request", "urlopen", text("http://127.0.0.1:9")), "urllib.request", True),
        "socket": (a_call("socket", "create_connection", a_tuple(text("127.0.0.1"), b"K\x09")), "socket", True),
        "smtplib": (a_call("smtplib", "SMTP", text("127.0.0.1"), b"K\x09"), "smtplib.SMTP", True),
        "sqlite3": (a_call("sqlite3", "connect", text(CANARY)), "sqlite3.connect", True),
        "dbm": (a_call("dbm", "open", text(CANARY), text("c")), "dbm.open", True),
        "ctypes": (a_call("ctypes", "CDLL", text("libc.so.6")), "ctypes.CDLL", True),
        "pickle_in_a_pickle": (a_call("pickle", "loads", nested), "pickle.loads", True),
        "pickle_in_a_pickle_of_python_2": (a_call("cPickle", "loads", nested), "cPickle.loads", False),
        "marshal": (a_call("marshal", "loads", plainly(b"N")), "marshal.loads", True),
        "code_object": (a_global("types", "CodeType"), "types.CodeType", False),
        "function": (a_global("types", "FunctionType"), "types.FunctionType", False),
        "logging_config": (a_call("logging.config", "listen"), "logging.config", False),
        "exit": (a_call("os", "_exit", b"K\x00"), "os._exit", False),
        "segmentation_fault": (a_call("faulthandler", "_sigsegv"), "faulthandler._sigsegv", False),
        "dotted_module": (a_global("os.path", "os"), "os.path.os", False),
        "dotted_name": (a_global("collections", "OrderedDict.fromkeys"), "no name of a class", False),
        "name_with_a_null": (a_global("os\0", "system"), "no name of a class", False),
        "name_in_other_letters": (a_global("\u00f6s", "system"), "no name of a class", False),
        "name_with_an_escape": (a_global("fork", "\x1b[2J"), "no name of a class", False),
        "name_of_a_megabyte": (a_global("fork" * 2**18, "x"), "more than", False),
        "stack_global": (
            text("os") + text("system") + b"\x93" + a_tuple(touch) + b"R",
            "STACK_GLOBAL",
            True,
        ),
        "inst_opcode": (b"(" + touch + b"ios\nsystem\n", "INST", True),
        "obj_opcode_with_code": (b"(" + system + touch + b"o", "os.system", True),
        "newobj_ex_opcode_with_code": (system + a_tuple(touch) + a_dict() + b"\x92", "os.system", False),
        "obj_opcode": (b"(" + ordered + b"o", "OBJ", False),
        "newobj_ex_opcode": (ordered + b")" + a_dict() + b"\x92", "NEWOBJ_EX", False),
        "newobj_of_torchs_own": (a_global("torch._utils", "_rebuild_tensor_v2") + b")\x81", "without calling", False),
        "ext1_opcode": (b"\x82\x01", "EXT1", False),
        "ext4_opcode": (b"\x84\x01\0\0\0", "EXT4", False),
        "persid_opcode": (b"Pstorage\n", "PERSID", False),
        "buffer_opcode": (b"\x97", "NEXT_BUFFER", False),
        "copyreg_add_extension": (
            a_call("copyreg", "add_extension", text("os"), text("system"), b"K\x01"),
            "copyreg.add_extension",
            False,
        ),
        "copyreg_newobj": (a_call("copyreg", "__newobj__", system, touch), "copyreg.__newobj__", False),
        "copyreg_reconstructor": (
            a_call("copyreg", "_reconstructor", a_global("builtins", "eval"), a_global("builtins", "object"), b"N"),
            "builtins.eval",
            False,
        ),
        "state_of_a_class": (ordered + a_dict(text("update"), b"N") + b"b", "sets the state of a global", False),
        "setstate_that_is_code": (
            a_call("fork.meters", "Meter") + a_dict(text("__setstate__"), system) + b"b" + touch + b"b",
            "os.system",
            False,
        ),
        "setstate_that_is_a_stand_in": (
            a_call("fork.meters", "Meter")
            + a_dict(text("__setstate__"), a_global("fork", "run"), text("__class__"), a_global("fork", "Other"))
            + b"b"
            + touch
            + b"b",
            "",
            False,
        ),
        "reduce_in_a_state": (
            a_call("fork.meters", "Meter") + a_dict(text("__reduce__"), a_global("fork", "run")) + b"b",
            "",
            False,
        ),
        "rebuild_from_type_of_code": (
            a_call("torch._tensor", "_rebuild_from_type_v2", system, a_global("torch", "Tensor"), a_tuple(touch), b"N"),
            "os.system",
            False,
        ),
        "rebuild_from_type_of_a_stand_in": (
            a_call(
                "torch._tensor",
                "_rebuild_from_type_v2",
                a_global("fork", "run"),
                a_global("torch", "Tensor"),
                a_tuple(touch),
                b"N",
            ),
            "_rebuild_from_type_v2",
            False,
        ),
        "classes_of_other_packages_are_inert": (
            a_list(a_call("dill._dill", "_load_type", touch), a_call("joblib", "load", touch), a_global("fork", "x")),
            "",
            False,
        ),
    }


def _with_item(opcodes: bytes) -> Callable[[Path], object]:
    return writing(lambda: ZIP.with_item(opcodes))


for _name, (_opcodes, _word, _armed) in _payloads().items():
    add(f"code_{_name}", "code execution", 3 if _word else 0, _word, _with_item(_opcodes), armed=_armed)


@hostile("code execution", 3, "os.system", armed=True)
def code_as_a_dicts_key() -> bytes:
    return ZIP.with_item(a_dict(a_call("os", "system", text(TOUCH)), b"N"))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_the_cfg() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=Raw(a_call("os", "system", text(TOUCH)))))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_place_of_a_tensor() -> bytes:
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(a_call("os", "system", text(TOUCH)))}))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_place_of_everything() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + a_call("os", "system", text(TOUCH)) + b"."}))


@hostile("code execution", 3, "os.system")
def code_in_a_damaged_pickle() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + a_call("os", "system", text(TOUCH)) + b"00"}))


@hostile("code execution", 3, "os.system")
def code_in_a_legacy_file() -> bytes:
    return LEGACY.replace(b"cargparse\nNamespace\n", b"cos\nsystem\n").replace(
        b"ccollections\nOrderedDict\n", b"cos\nsystem\n", 1
    )


@hostile("code execution", 3, "os.system")
def code_in_a_legacy_files_preamble() -> bytes:
    at = LEGACY.index(b"\x80\x02}")
    return LEGACY[:at] + PROTOCOL_2 + a_call("os", "system", text(TOUCH)) + b"." + LEGACY[at:]


@hostile("code execution", 3, "TorchScript")
def torchscript_archive() -> bytes:
    code = b"def forward(self):\n  return ops.aten.save(0, 'canary')\n"
    return zipped(
        [
            Part("model/data.pkl", PROTOCOL_2 + a_global("__torch__", "M") + b")\x81."),
            Part("model/code/__torch__.py", code),
            Part("model/constants.pkl", PROTOCOL_2 + b")."),
            Part("model/version", b"3\n"),
        ]
    )


@hostile("code execution", 3, "TorchScript")
def checkpoint_with_torchscript_beside_it() -> bytes:
    return zipped(ZIP.parts({"constants.pkl": PROTOCOL_2 + b").", "code/__torch__.py": b"pass\n"}))


@hostile("code execution", 3, "torch.package")
def torch_package_archive() -> bytes:
    return zipped([Part("p/.data/extern_modules", b"os\n"), Part("p/.data/version", b"6\n"), Part("p/m.py", b"")])
