"""Files that try to have code run, to lie, to take all memory and time, or that are damaged or of another kind.

Each is a row of ``CASES``: what it tries, what must become of it, and a word that the error must hold. All but the
files of other kinds are forged from a checkpoint that real fairseq wrote. To look at them:

    python -m tests.support.hostile_files FOLDER
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.forgery import (
    PROTOCOL_2,
    Base,
    Made,
    Part,
    Raw,
    Storage,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_storage,
    a_tensor,
    a_tuple,
    altered,
    base,
    model,
    plainly,
    program,
    text,
    zipped,
)
from tests.support.sandbox import SECRET_NAME

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
ZIP = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
LEGACY = (FIXTURES / "eras" / "legacy_format_ctc.pt").read_bytes()
RELATIVE = base(FIXTURES / "relative_ctc" / "checkpoint.pt")

Category = Literal["code execution", "lies", "bombs", "damage", "wrong file types"]

CANARY = "canary"
"""What a payload that ran would have made, in the current directory."""


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        name: what it tries.
        category: of what kind it is.
        exit_code: what ``w2vc convert`` must end with; 0 where the trick is without effect and the weights are right.
        word: what the error must say, or the report where the exit code is 0.
        make: puts it at a path.
        armed: Python's own unpickler would run its payload.
        same_weights: where it converts, the weights are those of the file that it was forged from.
    """

    name: str
    category: Category
    exit_code: int
    word: str
    make: Callable[[Path], object]
    armed: bool = False
    same_weights: bool = True


CASES: dict[str, Case] = {}


def _add(case: Case) -> None:
    assert case.name not in CASES, case.name
    CASES[case.name] = case


def hostile(
    category: Category, exit_code: int, word: str, *, armed: bool = False, same_weights: bool = True
) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Makes a case of a function that gives the file's bytes."""

    def register(function: Callable[[], bytes]) -> Callable[[], bytes]:
        def make(path: Path) -> object:
            return path.write_bytes(function())

        _add(Case(function.__name__, category, exit_code, word, make, armed, same_weights))
        return function

    return register


def hostile_place(
    category: Category, exit_code: int, word: str
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Makes a case of a function that puts something at a path."""

    def register(function: Callable[[Path], object]) -> Callable[[Path], object]:
        _add(Case(function.__name__, category, exit_code, word, function))
        return function

    return register


def make_all(folder: Path) -> None:
    """Writes every file into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES.values():
        case.make(folder / f"{case.name}.pt")


# ---------------------------------------------------------------------------------------------------------------
# Code

_WRITE = f"open({CANARY!r}, 'w').close()"
_TOUCH = f"touch {CANARY}"


def _payloads() -> dict[str, tuple[bytes, str, bool]]:
    """Name: opcodes, the word in the error, whether Python's own unpickler would run it."""
    touch, write, no_names = text(_TOUCH), text(_WRITE), a_dict()
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
        "torch_load": (a_call("torch", "load", text("checkpoint.pt")), "torch.load", False),
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
        "state_of_a_tensor": (
            a_tensor(a_storage("0", 1, ("torch", "FloatStorage")), (1,), (1,)) + a_dict(text("__dict__"), b"N") + b"b",
            "0",
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


for _name, (_opcodes, _word, _armed) in _payloads().items():
    _add(
        Case(
            f"code_{_name}",
            "code execution",
            3 if _word else 0,
            _word,
            lambda path, opcodes=_opcodes: path.write_bytes(ZIP.with_item(opcodes)),  # type: ignore[misc]  # a default
            _armed,
        )
    )


@hostile("code execution", 3, "os.system", armed=True)
def code_as_a_dicts_key() -> bytes:
    return ZIP.with_item(a_dict(a_call("os", "system", text(_TOUCH)), b"N"))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_the_cfg() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=Raw(a_call("os", "system", text(_TOUCH)))))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_place_of_a_tensor() -> bytes:
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(a_call("os", "system", text(_TOUCH)))}))


@hostile("code execution", 3, "os.system", armed=True)
def code_in_place_of_everything() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + a_call("os", "system", text(_TOUCH)) + b"."}))


@hostile("code execution", 3, "os.system")
def code_in_a_damaged_pickle() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + a_call("os", "system", text(_TOUCH)) + b"00"}))


@hostile("code execution", 3, "os.system")
def code_in_a_legacy_file() -> bytes:
    return LEGACY.replace(b"cargparse\nNamespace\n", b"cos\nsystem\n").replace(
        b"ccollections\nOrderedDict\n", b"cos\nsystem\n", 1
    )


@hostile("code execution", 3, "os.system")
def code_in_a_legacy_files_preamble() -> bytes:
    at = LEGACY.index(b"\x80\x02}")
    return LEGACY[:at] + PROTOCOL_2 + a_call("os", "system", text(_TOUCH)) + b"." + LEGACY[at:]


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


# Configs that want to be evaluated

HEAD = "w2v_encoder.proj.weight"


def changed_cfg(change: Callable[[dict[str, Any]], object], start: Base = ZIP) -> bytes:
    """A checkpoint with another cfg."""
    saved = start.saved()
    change(saved["cfg"])
    return start.with_saved(saved)


def changed_model(change: Callable[[dict[str, Any]], object], start: Base = ZIP, **records: bytes) -> bytes:
    """A checkpoint with another state dict, and with more records (``data_x`` for ``data/x``)."""
    saved = start.saved()
    change(model(saved))
    return start.with_saved(saved, {name.replace("_", "/", 1): data for name, data in records.items()})


@hostile("code execution", 4, "task.normalize")
def resolver_of_the_environment() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=f"${{oc.env:{SECRET_NAME}}}"))


@hostile("code execution", 4, "layer_norm_first")
def resolver_that_decodes() -> bytes:
    return changed_cfg(
        lambda cfg: cfg["model"]["w2v_args"]["model"].update(layer_norm_first="${oc.decode:${oc.env:HOME}}")
    )


@hostile("code execution", 4, "blank_weight")
def resolver_that_creates() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(blank_weight="${oc.create:{a:1}}"))


@hostile("code execution", 4, "conv_feature_layers")
def resolver_in_the_convolutions() -> bytes:
    return changed_cfg(
        lambda cfg: cfg["model"]["w2v_args"]["model"].update(conv_feature_layers=f"${{oc.env:{SECRET_NAME},x}}")
    )


@hostile("code execution", 4, "sample_rate")
def resolver_within_an_interpolation() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(sample_rate=f"${{task.${{oc.env:{SECRET_NAME}}}}}"))


@hostile("code execution", 4, "model.w2v_args")
def resolver_in_place_of_the_architecture() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(w2v_args="${oc.create:{model:{}}}"))


@hostile("code execution", 4, "post_process")
def resolver_at_the_end_of_an_interpolation() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["common"]["wandb_project"] = f"x${{oc.env:{SECRET_NAME}}}"
        cfg["criterion"]["post_process"] = "${common.wandb_project}"

    return changed_cfg(change)


@hostile("code execution", 0, "")
def resolver_in_a_key_without_effect() -> bytes:
    return changed_cfg(lambda cfg: cfg["common"].update(wandb_project=f"${{oc.env:{SECRET_NAME}}}"))


@hostile("code execution", 0, "")
def resolver_in_a_key_of_the_cfg() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({f"${{oc.env:{SECRET_NAME}}}": 1}))


@hostile("code execution", 4, "conv_feature_layers")
def convolutions_that_call() -> bytes:
    return changed_convolutions(f"__import__('os').system({_TOUCH!r}) or [(12, 10, 5)]")


@hostile("code execution", 4, "conv_feature_layers")
def convolutions_that_comprehend() -> bytes:
    return changed_convolutions("[(12, k, 5) for k in (10, 3)]")


def changed_convolutions(source: str) -> bytes:
    """A checkpoint with another text for its feature extractor."""
    return changed_cfg(lambda cfg: cfg["model"]["w2v_args"]["model"].update(conv_feature_layers=source))


# ---------------------------------------------------------------------------------------------------------------
# Bombs


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_repeated_a_billion_times() -> bytes:
    return changed_convolutions("[(12, 10, 5)] * 1000000000")


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_repeated_over_and_over() -> bytes:
    return changed_convolutions("[(12, 10, 5)]" + " * 64" * 1500)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_added_deeply() -> bytes:
    return changed_convolutions("[(12, 10, 5)]" + "+[]" * 3000)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_in_many_parentheses() -> bytes:
    return changed_convolutions("(" * 4000 + ")" * 4000)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_with_many_signs() -> bytes:
    return changed_convolutions("-" * 9999)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_of_three_megabytes() -> bytes:
    return changed_convolutions("[" + "(12, 10, 5)," * 250_000 + "]")


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_with_a_long_number() -> bytes:
    return changed_convolutions("[(12, 10, " + "9" * 9000 + ")]")


def numbers(count: int, behind: bytes = b"") -> Raw:
    """Opcodes of that many different texts, in a list or a dict; ``behind`` is a value for each."""
    return Raw(b"".join(b"X\7\0\0\0%07d%b" % (number, behind) for number in range(count)))


def changed_dictionary(change: Callable[[list[Any]], object]) -> bytes:
    """A checkpoint with other symbols."""
    saved = ZIP.saved()
    change(saved["task_state"]["target_dictionary"].state["symbols"])
    return ZIP.with_saved(saved)


@hostile("bombs", 4, "symbols")
def dictionary_of_a_million_symbols() -> bytes:
    return changed_dictionary(lambda symbols: symbols.append(numbers(1_000_000)))


@hostile("bombs", 3, "text of")
def dictionary_with_a_giant_symbol() -> bytes:
    return changed_dictionary(lambda symbols: symbols.append("a" * 2**23))


@hostile("bombs", 4, "symbols")
def dictionary_with_large_symbols() -> bytes:
    return changed_dictionary(lambda symbols: symbols.extend(["a" * 2**21, "b" * 2**21]))


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_with_a_million_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update({numbers(1_000_000, b"N"): Raw(b"")}))


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_with_a_hundred_thousand_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update({numbers(100_000, b"N"): Raw(b"")}))


@hostile("bombs", 0, "")
def cfg_with_ten_thousand_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["common"].update({numbers(10_000, b"N"): Raw(b"")}))


@hostile("bombs", 3, "deeper")
def cfg_ninety_deep() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        for _ in range(90):
            cfg["inner"] = cfg = {}

    return changed_cfg(change)


@hostile("bombs", 3, "itself")
def cfg_that_holds_itself() -> bytes:
    return ZIP.with_item(b"}r\xff\xff\x00\x00" + text("task") + b"j\xff\xff\x00\x00s", "cfg")


@hostile("bombs", 3, "itself")
def namespace_that_holds_itself() -> bytes:
    namespace = a_call("argparse", "Namespace") + b"r\xff\xff\x00\x00"
    return ZIP.with_item(namespace + a_dict(text("task"), b"j\xff\xff\x00\x00") + b"b", "cfg")


def doubled(times: int, kind: bytes = b"\x86") -> bytes:
    """Opcodes of a pair of a pair of a pair ... each of which is the same object twice."""
    body = b"]"
    for number in range(times):
        body += b"r" + struct.pack("<I", 70_000 + number) + b"j" + struct.pack("<I", 70_000 + number) + kind
    return body


@hostile("bombs", 3, "if each reference were followed")
def references_that_double_forty_times() -> bytes:
    return ZIP.with_item(doubled(40))


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_of_references_that_double() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(data=Raw(doubled(19))))


@hostile("bombs", 4, "refers to")
def interpolation_of_itself() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize="${task.normalize}"))


@hostile("bombs", 4, "refers to")
def interpolations_in_a_circle() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["task"]["normalize"] = "${model.normalize}"
        cfg["model"]["normalize"] = "${task.normalize}"

    return changed_cfg(change)


@hostile("bombs", 4, "refers to")
def interpolations_in_a_long_row() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["common"].update({f"k{number}": f"${{common.k{number + 1}}}" for number in range(5000)})
        cfg["task"]["normalize"] = "${common.k0}"

    return changed_cfg(change)


@hostile("bombs", 4, "normalize")
def interpolation_of_a_section() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize="${task}"))


@hostile("bombs", 3, "nests")
def tuples_a_hundred_thousand_deep() -> bytes:
    return ZIP.with_item(b")" + b"\x85" * 100_000)


@hostile("bombs", 3, "pickle")
def tuple_a_million_deep_as_a_key() -> bytes:
    return ZIP.with_item(a_dict(b")" + b"\x85" * 1_000_000, b"N"))


@hostile("bombs", 3, "pickle")
def tuple_a_million_deep_in_a_set() -> bytes:
    return ZIP.with_item(a_call("builtins", "set", a_list(b")" + b"\x85" * 1_000_000)))


@hostile("bombs", 3, "nests")
def lists_ten_thousand_deep() -> bytes:
    return ZIP.with_item(b"]" * 10_000 + b"a" * 9_999)


@hostile("bombs", 3, "pickle")
def twenty_megabytes_of_dicts() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + b"}" * 20_000_000 + b"."}))


@hostile("bombs", 3, "limit")
def pickle_of_seventy_megabytes() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + b"N" * (70 * 2**20)}))


@hostile("bombs", 3, "collide")
def integers_that_collide() -> bytes:
    modulus = sys.hash_info.modulus
    keys = [plainly(number * modulus) + b"N" for number in range(1, 60_001)]
    return ZIP.with_item(a_dict(*keys))


@hostile("bombs", 3, "integer of")
def integer_of_two_hundred_bytes() -> bytes:
    return ZIP.with_item(b"\x8a\xc8" + b"\x7f" * 200)


@hostile("bombs", 3, "LONG4")
def integer_that_claims_two_gigabytes() -> bytes:
    return ZIP.with_item(b"\x8b\xff\xff\xff\x7f")


@hostile("bombs", 3, "text of")
def text_that_claims_four_gigabytes() -> bytes:
    return ZIP.with_item(b"X\xff\xff\xff\xff")


@hostile("bombs", 3, "bytes of Python objects")
def encoded_copies_of_a_text() -> bytes:
    once = text("a" * 2**20) + b"r\xff\xff\x00\x00"
    again = a_call("_codecs", "encode", b"j\xff\xff\x00\x00", text("latin1"))
    return ZIP.with_item(a_list(once, *[again] * 2000))


@hostile("bombs", 3, "opcodes")
def nulls_by_the_million() -> bytes:
    return ZIP.with_item(b"](" + b"N" * 4_500_000 + b"e")


@hostile("bombs", 3, "compressed")
def deflate_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(bytes(2**28)) + packer.flush()
    record = Part("archive/data/0", packed, method=8, size=2**28, compressed_size=len(packed))
    return zipped([part if part.name != record.name else record for part in ZIP.parts()])


@hostile("bombs", 3, "repeats")
def stride_of_zero() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        tensors[HEAD] = altered(tensors[HEAD], size=(2**40, 20), stride=(0, 1))

    return changed_model(change)


@hostile("bombs", 3, "beyond its storage")
def storage_that_claims_a_terabyte() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        tensors[HEAD] = altered(tensors[HEAD], size=(2**38, 1), stride=(1, 1))

    return changed_model(change)


@hostile_place("bombs", 3, "directory isn't at its end")
def sparse_file_of_a_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.write(ZIP.data[:1000])
        file.truncate(2**40)


@hostile("bombs", 3, "records in a directory")
def directory_of_ten_million_records() -> bytes:
    full, wide = 0xFFFFFFFF, (10**7, 10**7, 46 * 10**7, 30)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *wide)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 30, 1)
    return (
        b"PK\x03\x04"
        + bytes(26)
        + end64
        + locator
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, full, full, 0)
    )


@hostile("bombs", 4, "not one of a conformer's")
def ten_thousand_tensors() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        tensors.update({f"more.{number}": tensors[HEAD] for number in range(10_000)})

    return changed_model(change)


@hostile("bombs", 4, "layers")
def layer_number_of_a_hundred_thousand() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        start = "w2v_encoder.w2v_model.encoder.layers."
        tensors.update(
            {f"{start}99999.{name[len(start) + 2 :]}": tensors[name] for name in [*tensors] if start in name}
        )

    return changed_model(change)


# ---------------------------------------------------------------------------------------------------------------
# Lies


def one_tensor(**changes: Any) -> bytes:
    """A checkpoint whose head has another offset, size, stride or storage."""

    def change(tensors: dict[str, Any]) -> None:
        tensors[HEAD] = altered(tensors[HEAD], **changes)

    return changed_model(change)


def head() -> Made:
    """The head's weight, as it was saved."""
    tensor = model(ZIP.saved())[HEAD]
    assert isinstance(tensor, Made)
    return tensor


def head_storage(**changes: Any) -> Storage:
    """The storage of the head's weight with another ``kind``, ``key``, ``location`` or ``numel``."""
    names = ("storage", "kind", "key", "location", "numel")
    identity = dict(zip(names, head().arguments[0].identity, strict=True)) | changes
    return Storage(tuple(identity.values()))


def a_kind(name: str) -> type[Made]:
    """A class of torch's, by name."""
    return type(name, (Made,), {"module": "torch", "name": name})


@hostile("lies", 3, "but the pickle says")
def storage_longer_than_its_record() -> bytes:
    return one_tensor(storage=head_storage(numel=10_000))


@hostile("lies", 3, "but the pickle says")
def storage_shorter_than_its_record() -> bytes:
    return one_tensor(storage=head_storage(numel=1), size=(1, 1), stride=(1, 1))


@hostile("lies", 3, "impossible length")
def storage_of_negative_length() -> bytes:
    return one_tensor(storage=head_storage(numel=-4), size=(0, 0), stride=(1, 1))


@hostile("lies", 3, "impossible length")
def storage_of_2_to_the_63() -> bytes:
    return one_tensor(storage=head_storage(numel=2**62))


@hostile("lies", 3, "two types")
def storage_with_two_types() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        other = head_storage(kind=a_kind("IntStorage"))
        tensors["w2v_encoder.proj.copy"] = altered(tensors[HEAD], storage=other)

    return changed_model(change)


@hostile("lies", 3, "but the pickle says")
def storage_of_another_width() -> bytes:
    return one_tensor(storage=head_storage(kind=a_kind("HalfStorage")))


@hostile("lies", 4, "holds int32")
def storage_of_another_type() -> bytes:
    return one_tensor(storage=head_storage(kind=a_kind("IntStorage")))


@hostile("lies", 3, "has no record")
def storage_without_a_record() -> bytes:
    return one_tensor(storage=head_storage(key="nowhere"))


@hostile("lies", 3, "has no record")
def storage_outside_of_its_folder() -> bytes:
    return one_tensor(storage=head_storage(key="../data.pkl"))


@hostile("lies", 3, "has no record")
def storage_named_like_a_path() -> bytes:
    return one_tensor(storage=head_storage(key="../../../../etc/passwd"))


@hostile("lies", 3, "storage")
def storage_of_a_class_of_the_files_own() -> bytes:
    return one_tensor(storage=head_storage(kind=type("Evil", (Made,), {"module": "fork", "name": "Evil"})))


@hostile("lies", 3, "dense storages")
def quantized_storage() -> bytes:
    kind = type("QInt8Storage", (Made,), {"module": "fork", "name": "QInt8Storage"})
    return one_tensor(storage=head_storage(kind=kind))


@hostile("lies", 3, "beyond its storage")
def offset_beyond_the_storage() -> bytes:
    return one_tensor(offset=1)


@hostile("lies", 3, "arguments that it never has")
def negative_offset() -> bytes:
    return one_tensor(offset=-1)


@hostile("lies", 3, "arguments that it never has")
def negative_size() -> bytes:
    return one_tensor(size=(-1, 20))


@hostile("lies", 3, "arguments that it never has")
def negative_stride() -> bytes:
    return one_tensor(stride=(-20, 1))


@hostile("lies", 3, "beyond its storage")
def stride_beyond_the_storage() -> bytes:
    return one_tensor(stride=(21, 1))


@hostile("lies", 3, "beyond its storage")
def sizes_whose_product_overflows() -> bytes:
    return one_tensor(size=(2**32, 2**32), stride=(2**32, 1))


@hostile("lies", 3, "")
def more_sizes_than_strides() -> bytes:
    return one_tensor(size=(*head().arguments[2], 1))


@hostile("lies", 3, "arguments that it never has")
def tensor_of_a_hundred_dimensions() -> bytes:
    return one_tensor(size=(1,) * 100, stride=(1,) * 100)


@hostile("lies", 4, "shape")
def tensor_of_another_shape() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        name = "w2v_encoder.w2v_model.encoder.layers.0.ffn1.w_1.weight"
        rows, columns = tensors[name].arguments[2]
        tensors[name] = altered(tensors[name], size=(columns, rows), stride=(rows, 1))

    return changed_model(change)


@hostile("lies", 4, "proj.weight")
def tensor_without_dimensions() -> bytes:
    return one_tensor(size=(), stride=())


@hostile("lies", 3, "of a kind that w2vc doesn't read")
def complex_tensor() -> bytes:
    elements = head().arguments[0].identity[4] // 2
    storage = head_storage(kind=a_kind("ComplexFloatStorage"), numel=elements)
    return one_tensor(storage=storage, size=(elements // 20, 20))


@hostile("lies", 3, "_rebuild_sparse_tensor")
def sparse_tensor() -> bytes:
    call = a_call("torch._utils", "_rebuild_sparse_tensor", a_global("torch", "sparse_coo"), a_tuple())
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(call)}))


@hostile("lies", 3, "_rebuild_qtensor")
def quantized_tensor() -> bytes:
    call = a_call("torch._utils", "_rebuild_qtensor", a_tuple())
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(call)}))


@hostile("lies", 3, "_rebuild_nested_tensor")
def nested_tensor() -> bytes:
    call = a_call("torch._utils", "_rebuild_nested_tensor", a_tuple())
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(call)}))


@hostile("lies", 3, "_rebuild_meta_tensor_no_storage")
def meta_tensor() -> bytes:
    call = a_call("torch._utils", "_rebuild_meta_tensor_no_storage", a_global("torch", "float32"), a_tuple(), a_tuple())
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(call)}))


@hostile("lies", 3, "not a tensor")
def number_in_place_of_a_tensor() -> bytes:
    return changed_model(lambda tensors: tensors.update({HEAD: 7}))


@hostile("lies", 3, "not a tensor")
def stand_in_in_place_of_a_tensor() -> bytes:
    call = a_call("fork", "LazyTensor", text(HEAD))
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(call)}))


def renamed(name: Any) -> bytes:
    """A checkpoint with one more tensor, of this name."""
    return changed_model(lambda tensors: tensors.update({name: tensors[HEAD]}))


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_with_a_line_end() -> bytes:
    return renamed("w2v_encoder.proj\n.weight")


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_that_steers_the_terminal() -> bytes:
    return renamed("\x1b[2J\x1b]0;owned\x07")


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_that_reads_backwards() -> bytes:
    return renamed("w2v_encoder.\u202eproj")


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_with_a_surrogate() -> bytes:
    return renamed("w2v_encoder.\udc80")


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_that_is_empty() -> bytes:
    return renamed("")


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_that_is_a_number() -> bytes:
    return renamed(7)


@hostile("lies", 3, "has a name that no tensor has")
def tensor_name_of_three_megabytes() -> bytes:
    return renamed("a" * 3 * 2**20)


@hostile("lies", 3, "text of")
def tensor_name_of_ten_megabytes() -> bytes:
    return renamed("a" * 10**7)


@hostile("lies", 3, "safetensors keeps for itself")
def tensor_name_of_safetensors_metadata() -> bytes:
    return renamed("__metadata__")


@hostile("lies", 4, "not one of a conformer's")
def tensor_of_no_conformer() -> bytes:
    return renamed("w2v_encoder.w2v_model.backdoor.weight")


@hostile("lies", 4, "would both become")
def two_tensors_for_one_place() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        name = "w2v_encoder.w2v_model.encoder.pos_conv.0.weight_g"
        tensors["w2v_encoder.w2v_model.encoder.pos_conv.0.parametrizations.weight.original0"] = tensors[name]

    return changed_model(change)


@hostile("lies", 4, "the tensor")
def tensors_name_with_other_digits() -> bytes:
    start = "w2v_encoder.w2v_model.encoder.layers."
    return changed_model(lambda tensors: tensors.update({f"{start}\u0661.ffn1.w_1.weight": tensors[HEAD]}))


@hostile("lies", 3, "big")
def big_endian() -> bytes:
    return zipped(ZIP.parts({"byteorder": b"big"}))


@hostile("lies", 3, "alignment")
def storage_alignment_of_zero() -> bytes:
    return zipped(ZIP.parts({".storage_alignment": b"0", ".format_version": b"1"}))


@hostile("lies", 3, "byte")
def newer_format_with_one_length_altered() -> bytes:
    saved = ZIP.saved()
    tensor = model(saved)[HEAD]
    model(saved)[HEAD] = altered(tensor, storage=head_storage(numel=head().arguments[0].identity[4] + 16))
    return ZIP.with_saved(saved, {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"})


@hostile("lies", 3, "compressed")
def deflated_tensor() -> bytes:
    data = ZIP.records["data/0"]
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    crc32 = zlib.crc32(data)
    return ZIP.with_part("data/0", data=packed, method=8, size=len(data), compressed_size=len(packed), crc32=crc32)


@hostile("lies", 3, "compressed")
def zip_packed_anew_by_another_tool() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ZIP.parts():
            archive.writestr(part.name, part.data)
    return file.getvalue()


@hostile("lies", 3, "encrypted")
def encrypted_tensor() -> bytes:
    return ZIP.with_part("data/0", flags=1)


@hostile("lies", 3, "zip64")
def zip64_numbers_missing() -> bytes:
    return ZIP.with_part("data/0", size=0xFFFFFFFF, compressed_size=0xFFFFFFFF)


@hostile("lies", 3, "ends before")
def zip64_numbers_beyond_the_file() -> bytes:
    extra = struct.pack("<2H2Q", 1, 16, 2**40, 2**40)
    return ZIP.with_part("data/0", size=0xFFFFFFFF, compressed_size=0xFFFFFFFF, extra=extra)


@hostile("lies", 3, "twice")
def record_that_is_there_twice() -> bytes:
    parts = ZIP.parts()
    return zipped([*parts, parts[1]])


@hostile("lies", 3, "twice")
def record_that_is_there_twice_but_for_case() -> bytes:
    return zipped(ZIP.parts({"DATA/0": ZIP.records["data/0"]}))


@hostile("lies", 3, "overlap|under another name|outside|contradict")
def record_inside_another() -> bytes:
    return ZIP.with_part("data/1", offset=50_000)


@hostile("lies", 3, "overlap")
def overlapping_records() -> bytes:
    inner = zipped([Part("archive/data/x", b"1234")])[: 30 + len("archive/data/x") + 4]
    parts = [*ZIP.parts(), Part("archive/data/y", inner)]
    start = sum(30 + len(part.name) + len(part.data) for part in parts) - len(inner)
    return zipped([*parts, Part("archive/data/x", b"1234", offset=start)])


@hostile("lies", 3, "outside of its place")
def record_beyond_the_file() -> bytes:
    return ZIP.with_part("data/1", offset=2**31)


@hostile("lies", 3, "contradict")
def header_with_another_size() -> bytes:
    return ZIP.with_part("data/1", header={"size": 4, "compressed_size": 4})


@hostile("lies", 3, "under another name")
def header_with_another_name() -> bytes:
    return ZIP.with_part("data/1", header={"name": "archive/data/2"})


@hostile("lies", 3, "contradict")
def header_with_another_checksum() -> bytes:
    return ZIP.with_part("data/1", header={"crc32": 1})


@hostile("lies", 3, "folder")
def record_marked_as_a_folder() -> bytes:
    return ZIP.with_part("data/1", attributes=0x10)


@hostile("lies", 3, "odd name")
def record_with_a_way_out() -> bytes:
    return zipped(ZIP.parts({"../../../etc/cron.d/x": b""}))


@hostile("lies", 3, "odd name")
def record_that_steers_the_terminal() -> bytes:
    return zipped(ZIP.parts({"\x1b]0;owned\x07": b""}))


@hostile("lies", 3, "root")
def two_checkpoints_in_one_zip() -> bytes:
    return zipped([*ZIP.parts(), Part("other/data.pkl", ZIP.records["data.pkl"])])


@hostile("lies", 3, "right before|isn't at its end")
def two_directories() -> bytes:
    return ZIP.data + zipped([Part("archive/data.pkl", program({}))])


@hostile("lies", 3, "split")
def part_of_a_split_zip() -> bytes:
    return zipped(ZIP.parts(), disk=1)


@hostile("lies", 3, "records")
def directory_that_counts_fewer() -> bytes:
    return zipped(ZIP.parts(), here=5, entries=5)


@hostile("lies", 4, "no dictionary")
def labels_with_a_way_out() -> bytes:
    saved = ZIP.saved()
    del saved["task_state"]["target_dictionary"]
    saved["cfg"]["task"]["labels"] = "../../../../../etc/passwd"
    return ZIP.with_saved(saved)


@hostile("lies", 4, "no dictionary")
def labels_that_steer_the_terminal() -> bytes:
    saved = ZIP.saved()
    del saved["task_state"]["target_dictionary"]
    saved["cfg"]["task"]["labels"] = "\x1b[31m\x1b]0;owned\x07\n\n"
    return ZIP.with_saved(saved)


@hostile("lies", 4, "symbols")
def dictionary_with_a_surrogate() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, "\ud800"))


@hostile("lies", 4, "symbols")
def dictionary_with_a_number() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, 7))


@hostile("lies", 4, "begins with")
def dictionary_whose_first_symbols_steer_the_terminal() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(0, "\x1b[2J"))


@hostile("lies", 0, "")
def dictionary_with_control_characters() -> bytes:
    return changed_dictionary(lambda symbols: symbols.__setitem__(5, "\x1b[2J\x07\u202e"))


@hostile("lies", 0, "fairseq 0.12.2 doesn't")
def cfg_key_that_steers_the_terminal() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({"\x1b[2J\x9b\x7f": 1}))


@hostile("lies", 0, "fairseq 0.12.2 doesn't")
def cfg_key_with_a_surrogate() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({"\ud800": 1}))


@hostile("lies", 3, "the checksum of")
def not_a_number_with_a_wrong_checksum() -> bytes:
    name = f"data/{head().arguments[0].key}"
    return ZIP.with_part(name, data=b"\xff" * len(ZIP.records[name]), crc32=7)


def filled(word: bytes) -> bytes:
    """A checkpoint whose head is full of one number, with its checksum right."""
    name = f"data/{head().arguments[0].key}"
    return ZIP.with_part(name, data=word * (len(ZIP.records[name]) // 4))


@hostile("lies", 0, HEAD, same_weights=False)
def weights_that_are_not_numbers() -> bytes:
    return filled(struct.pack("<f", float("nan")))


@hostile("lies", 0, HEAD, same_weights=False)
def weights_that_are_infinite() -> bytes:
    return filled(struct.pack("<f", float("-inf")))


@hostile("lies", 3, "no state dict")
def no_model() -> bytes:
    saved = ZIP.saved()
    del saved["model"]
    return ZIP.with_saved(saved)


@hostile("lies", 3, "no state dict")
def model_that_is_a_list() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": [1, 2]})


@hostile("lies", 3, "no state dict")
def model_that_is_a_stand_in() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": Raw(a_call("fork", "Model"))})


@hostile("lies", 3, "no tensor")
def model_that_is_empty() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": {}})


@hostile("lies", 3, "neither 'cfg' nor 'args'")
def no_cfg() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": None})


@hostile("lies", 3, "neither 'cfg' nor 'args'")
def cfg_that_is_a_text() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": "${oc.env:HOME}"})


@hostile("lies", 4, "w2v_args")
def cfg_whose_sections_are_texts() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": {"model": "x", "task": "y"}})


@hostile("lies", 4, "normalize")
def cfg_value_of_another_type() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=[1, 2]))


@hostile("lies", 4, "blank_weight")
def cfg_number_that_is_infinite() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(blank_weight=float("inf")))


@hostile("lies", 4, "sample_rate")
def cfg_number_that_is_not_a_number() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(sample_rate=float("nan")))


@hostile("lies", 3, "not a checkpoint of fairseq")
def list_in_place_of_everything() -> bytes:
    return ZIP.with_saved([1, 2, 3])


@hostile("lies", 3, "not a checkpoint of fairseq")
def stand_in_in_place_of_everything() -> bytes:
    return ZIP.with_saved(Raw(a_call("fork", "Trainer")))


@hostile("lies", 3, "not a checkpoint of fairseq")
def bare_state_dict() -> bytes:
    return ZIP.with_saved(ZIP.saved()["model"])


# ---------------------------------------------------------------------------------------------------------------
# Damage


def flipped(data: bytes, position: int) -> bytes:
    """The bytes with one bit changed."""
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def place(name: str) -> int:
    """Where a record's bytes begin in the real file."""
    with zipfile.ZipFile(io.BytesIO(ZIP.data)) as archive:
        offset = archive.getinfo(f"{ZIP.root}/{name}").header_offset
    name_length, extra_length = struct.unpack_from("<2H", ZIP.data, offset + 26)
    return int(offset + 30 + name_length + extra_length)


@hostile("damage", 3, "checksum of")
def bit_flipped_in_a_tensor() -> bytes:
    return flipped(ZIP.data, place(f"data/{head().arguments[0].key}") + 7)


@hostile("damage", 3, "CRC-32 is wrong")
def bit_flipped_in_the_pickle() -> bytes:
    return flipped(ZIP.data, place("data.pkl") + 700)


@hostile("damage", 3, "version")
def bit_flipped_in_the_version() -> bytes:
    return flipped(ZIP.data, place("version"))


@hostile("damage", 3, "")
def bit_flipped_in_a_header() -> bytes:
    return flipped(ZIP.data, ZIP.data.index(b"PK\x03\x04", 30) + 8)


@hostile("damage", 3, "")
def bit_flipped_in_the_directory() -> bytes:
    return flipped(ZIP.data, ZIP.data.rindex(b"PK\x01\x02") + 20)


@hostile("damage", 3, "")
def bit_flipped_in_the_end() -> bytes:
    return flipped(ZIP.data, len(ZIP.data) - 8)


@hostile("damage", 3, "checksum of")
def zeros_in_place_of_a_tensor() -> bytes:
    name = f"data/{head().arguments[0].key}"
    start, size = place(name), len(ZIP.records[name])
    return ZIP.data[:start] + bytes(size) + ZIP.data[start + size :]


def _truncated(count: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(ZIP.data[:count])


for _share in (1, 10, 40, 75, 99):
    _count = len(ZIP.data) * _share // 100
    _add(Case(f"truncated_to_{_share}_percent", "damage", 3, "cut off", _truncated(_count)))
_add(Case("truncated_by_one_byte", "damage", 3, "cut off", _truncated(len(ZIP.data) - 1)))
_add(Case("truncated_to_its_first_word", "damage", 3, "cut off", _truncated(4)))
_add(Case("truncated_to_three_bytes", "damage", 3, "not a checkpoint", _truncated(3)))
_add(Case("truncated_to_one_byte", "damage", 3, "a text", _truncated(1)))


@hostile("damage", 3, "appended")
def garbage_at_the_end() -> bytes:
    return ZIP.data + b"garbage"


@hostile("damage", 3, "where it should be|right before|contradict|broken")
def garbage_at_the_beginning() -> bytes:
    return b"PK\x03\x04garbage!" + ZIP.data


@hostile("damage", 3, "appended|cut off")
def zeros_at_the_end() -> bytes:
    return ZIP.data + bytes(4096)


@hostile("damage", 3, "")
def line_ends_converted_on_the_way() -> bytes:
    return ZIP.data.replace(b"\n", b"\r\n")


@hostile("damage", 3, "")
def page_missing_in_the_middle() -> bytes:
    return ZIP.data[:8192] + ZIP.data[12288:]


@hostile("damage", 3, "bytes follow the pickle")
def pickle_with_a_second_one_behind_it() -> bytes:
    return zipped(ZIP.parts({"data.pkl": ZIP.records["data.pkl"] + program({})}))


@hostile("damage", 3, "cut off")
def pickle_cut_off() -> bytes:
    return zipped(ZIP.parts({"data.pkl": ZIP.records["data.pkl"][:-100]}))


@hostile("damage", 3, "ends where|cut off|storages end|before the storage")
def legacy_file_cut_off() -> bytes:
    return LEGACY[:-100]


@hostile("damage", 3, "cut off|ends where")
def legacy_file_cut_off_in_its_pickle() -> bytes:
    return LEGACY[:3000]


@hostile("damage", 3, "storages end")
def legacy_file_with_garbage_behind_it() -> bytes:
    return LEGACY + b"garbage"


def _legacy_storages() -> int:
    from w2vc.reading.archive import examine

    records = examine(io.BytesIO(LEGACY), Path("legacy")).records.values()
    return min(record.offset for record in records) - 8


@hostile("damage", 3, "elements")
def legacy_file_with_another_length() -> bytes:
    at = _legacy_storages()
    return LEGACY[:at] + struct.pack("<q", 2**40) + LEGACY[at + 8 :]


@hostile("damage", 3, "elements")
def legacy_file_with_a_negative_length() -> bytes:
    at = _legacy_storages()
    return LEGACY[:at] + struct.pack("<q", -1) + LEGACY[at + 8 :]


@hostile("damage", 3, "list of storages")
def legacy_file_with_another_key() -> bytes:
    at = LEGACY.rindex(b"\x80\x02]", 0, _legacy_storages())
    return LEGACY[:at] + PROTOCOL_2 + a_list(text("1"), text("1")) + b"." + LEGACY[_legacy_storages() :]


@hostile("damage", 3, "little-endian")
def legacy_file_of_a_big_endian_machine() -> bytes:
    return LEGACY.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1)


@hostile("damage", 3, "preamble")
def legacy_file_of_another_version() -> bytes:
    return LEGACY.replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.", 1)


def _of_protocol(number: int) -> Callable[[Path], object]:
    body = pickle.dumps({"model": {}, "cfg": {"a": 1}}, protocol=number)
    return lambda path: path.write_bytes(zipped(ZIP.parts({"data.pkl": body})))


for _number, _word in ((0, "opcode"), (1, "model"), (3, "protocol 3"), (4, "protocol 4"), (5, "protocol 5")):
    _add(Case(f"pickle_protocol_{_number}", "damage", 3, _word, _of_protocol(_number)))


# ---------------------------------------------------------------------------------------------------------------
# Other kinds of files

_OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "one_zero": (b"\0", "zeros"),
    "zeros": (bytes(10_000), "zeros"),
    "git_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-lfs"),
    "web_page": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    "json": (b'{"error": "Entry not found"}', "JSON"),
    "words": (b"Access denied\n", "a text"),
    "safetensors": (struct.pack("<Q", 16) + b'{"a":{"x":[0]}} ', "safetensors"),
    "gzip": (gzip.compress(ZIP.data[:2000]), "gzip"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), "xz"),
    "bzip2": (b"BZh9" + bytes(100), "bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
    "seven_zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
    "numpy_array": (b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "numpy"),
    "numpy_archive": (zipped([Part("a.npy", b"\x93NUMPY")]), "numpy"),
    "recording": (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
    "program": (b"\x7fELF" + bytes(100), "program"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "onnx": (b"\x08\x07\x12\x07pytorch", "ONNX"),
    "gguf": (b"GGUF" + bytes(100), "GGUF"),
    "plain_pickle": (pickle.dumps({"model": 1}, protocol=2), "pickle"),
    "plain_pickle_with_code": (PROTOCOL_2 + a_call("os", "system", text(_TOUCH)) + b".", "pickle"),
    "zip_without_a_pickle": (zipped([Part("a/b", b"c")]), "zip archive without data.pkl"),
    "zip_without_a_folder": (zipped([Part("data.pkl", program({})), Part("version", b"3")]), "no folder"),
    "zip_that_is_empty": (zipped([]), "empty zip"),
    "noise": (bytes((number * 73 + 141) % 256 for number in range(3000)), "unknown kind"),
}


def _writing(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


for _name, (_data, _word) in _OTHER_KINDS.items():
    _add(Case(f"file_{_name}", "wrong file types", 3, _word, _writing(_data)))


@hostile_place("wrong file types", 3, "tar")
def file_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(FIXTURES / "dictionaries", "dictionaries")


@hostile_place("wrong file types", 3, "a named pipe")
def pipe(path: Path) -> None:
    os.mkfifo(path)


@hostile_place("wrong file types", 3, "a directory")
def directory(path: Path) -> None:
    path.mkdir()


@hostile_place("wrong file types", 3, "symbolic links")
def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@hostile_place("wrong file types", 3, "can't be opened")
def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


@hostile_place("wrong file types", 3, "a character device")
def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@hostile_place("wrong file types", 3, "a character device")
def random_device(path: Path) -> None:
    path.symlink_to("/dev/urandom")


@hostile_place("wrong file types", 3, "a socket")
def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket can't be long
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


@hostile_place("wrong file types", 3, "can't be opened")
def nothing_at_all(_path: Path) -> None:
    pass


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
