"""Where torch made something else of a file than the walk over its pickle found, the file is refused."""

from __future__ import annotations

import struct
import tarfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.forgery import PROTOCOL_2, STOP, Part, a_call, a_dict, a_list, a_storage, a_tensor, text, zipped
from tests.support.fuzz import FIXTURES
from tests.support.limits import limit
from w2vc.errors import DamagedError, UnreadableError, UnsafeError
from w2vc.reading.checkpoint import read_checkpoint

CTC = FIXTURES / "eras" / "plain_dict_ctc.pt"
HEAD, BIAS = "w2v_encoder.proj.weight", "w2v_encoder.proj.bias"


def altered_by(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]) -> None:
    """Has torch.load give something else."""
    load = torch.load

    def loaded(*arguments: Any, **options: Any) -> Any:
        saved = load(*arguments, **options)
        change(saved)
        return saved

    monkeypatch.setattr(torch, "load", loaded)


def in_model(name: str, change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], object]:
    return lambda saved: saved["model"].__setitem__(name, change(saved["model"][name]))


class Subclass(torch.Tensor):
    pass


def with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.stride = lambda: (1, 2)  # type: ignore[assignment, method-assign]  # as a state from the file would do
    return tensor


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "strides": (in_model(HEAD, lambda tensor: tensor.as_strided(tensor.shape, (1, 1))), "strides"),
    "sizes": (in_model(HEAD, lambda tensor: tensor.as_strided((1, 1), (1, 1))), "sizes"),
    "offset": (in_model(HEAD, lambda tensor: tensor.flatten()[1:].as_strided((1, 1), (1, 1))), "sizes|offsets"),
    "dtype": (in_model(HEAD, lambda tensor: tensor.view(torch.int32)), "dtypes"),
    "negation": (in_model(HEAD, torch._neg_view), "negations"),
    "the storage of another": (
        lambda saved: saved["model"].__setitem__(BIAS, saved["model"][HEAD].as_strided((32,), (1,))),
        "storage",
    ),
    "a subclass": (in_model(HEAD, lambda tensor: tensor.as_subclass(Subclass)), "a Tensor or a Subclass"),
    "a parameter": (in_model(HEAD, torch.nn.Parameter), "a Tensor or a Parameter"),
    "an attribute": (in_model(HEAD, with_attribute), "attributes"),
    "a name": (lambda saved: saved["model"].__setitem__("x", saved["model"].pop(HEAD)), "'x'|w2v_encoder"),
    "one tensor more": (lambda saved: saved["model"].__setitem__("x", torch.ones(1)), "entries"),
    "a value of the cfg": (lambda saved: saved["cfg"]["task"].__setitem__("normalize", False), "True or False"),
    "a type of a value": (lambda saved: saved["cfg"]["task"].__setitem__("normalize", 1), "True or 1"),
    "a dict of another kind": (lambda saved: saved.__setitem__("cfg", OrderedDict(saved["cfg"])), "OrderedDict"),
    "a count of updates": (
        lambda saved: saved["optimizer_history"][-1].__setitem__("num_updates", 4),
        "num_updates",
    ),
    "a symbol": (
        lambda saved: saved["task_state"]["target_dictionary"].states[0]["symbols"].__setitem__(5, "x"),
        "or 'x'",
    ),
    "a list's length": (lambda saved: saved["optimizer_history"].append(None), "elements"),
}


@pytest.mark.parametrize(("change", "words"), ALTERED.values(), ids=ALTERED.keys())
def test_a_file_that_torch_reads_otherwise_is_refused(
    change: Callable[[dict[str, Any]], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered_by(monkeypatch, change)
    with pytest.raises(DamagedError, match=f"says two things: .*({words})"):
        read_checkpoint(CTC)


# Checkpoints made by hand


def read(tmp_path: Path, **values: bytes) -> Any:
    """A checkpoint with a model of one tensor and a small cfg, some of its values replaced."""
    head = a_tensor(a_storage("0", 4), (2, 2), (2, 1))
    parts = {"cfg": a_dict(text("model"), a_dict(text("_name"), text("x"))), "model": a_dict(text("w"), head), **values}
    body = a_dict(*(opcodes for key, value in parts.items() for opcodes in (text(key), value)))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(
        zipped(
            [
                Part("a/data.pkl", PROTOCOL_2 + body + STOP),
                Part("a/data/0", struct.pack("<4f", 1, 2, 3, 4)),
                Part("a/data/1", struct.pack("<4f", 5, 6, 7, 8)),
                Part("a/version", b"3\n"),
            ]
        )
    )
    return read_checkpoint(path)


def test_a_tensor_is_in_the_record_of_its_storage_s_key(tmp_path: Path) -> None:
    # Used in another order than they lie in the file, and of one size: an offset computed in order would exchange them.
    second = a_tensor(a_storage("1", 4), (4,), (1,))
    first = a_tensor(a_storage("0", 4), (4,), (1,))
    tensors = read(tmp_path, model=a_dict(text("b"), second, text("a"), first)).tensors
    assert {name: tensor.storage.name for name, tensor in tensors.items()} == {"b": "data/1", "a": "data/0"}


def test_nan_and_minus_zero_are_themselves(tmp_path: Path) -> None:
    def number(value: float) -> bytes:
        return b"G" + struct.pack(">d", value)

    extra = a_list(number(float("nan")), number(-0.0), number(0.0), number(float("inf")))
    assert read(tmp_path, extra_state=extra).progress.best is None


def test_keys_that_python_takes_for_one_are_one_for_both_readers(tmp_path: Path) -> None:
    keys = a_dict(b"K\x01" + text("a"), b"\x88" + text("b"), b"G" + struct.pack(">d", 1.0) + text("c"))
    assert read(tmp_path, extra=keys).tensors
    cfg = a_dict(text("model"), b"N", text("model"), a_dict(text("_name"), text("y")))
    assert read(tmp_path, cfg=cfg).model_name == "y"


HARMLESS: dict[str, bytes] = {
    "a layout": a_call("torch.serialization", "_get_layout", text("torch.strided")),
    "a device": a_call("torch", "device", text("cuda"), b"K\x00"),
    "a dtype": b"ctorch\nfloat8_e5m2\n",
    "a size": a_call("torch", "Size", b"K\x02K\x03\x86"),
    "a complex number": a_call("builtins", "complex", b"K\x01", b"K\x02"),
    "bytes": a_call("_codecs", "encode", text("\xff\x00"), text("latin1")),
    "a counter": a_call("collections", "Counter", a_dict(text("a") + b"K\x02")),
    "a set": a_call("builtins", "set", a_list(b"K\x01", text("a"), b"K\x01")),
    "a tensor": a_tensor(a_storage("1", 4), (2,), (2,), 1),
    "an empty tensor": a_tensor(a_storage("0", 4), (0,), (1,)),
    "a default dict": a_call("collections", "defaultdict", b"c__builtin__\nlist\n") + text("a") + b"Ns",
    "an object with a state": a_call("fork", "Meter") + a_dict(text("n") + b"K\x01") + b"b",
}


@pytest.mark.parametrize("value", HARMLESS.values(), ids=HARMLESS.keys())
def test_a_harmless_value_beside_the_model_stops_nothing(value: bytes, tmp_path: Path) -> None:
    assert list(read(tmp_path, extra_state=a_list(value, value)).tensors) == ["w"]


def test_a_path_as_a_key_never_takes_the_place_of_a_text(tmp_path: Path) -> None:
    path = a_call("pathlib", "PosixPath", text("model"))
    cfg = a_dict(text("model"), a_dict(text("_name"), text("real")), path, a_dict(text("_name"), text("other")))
    assert read(tmp_path, cfg=cfg).model_name == "real"
    cfg = a_dict(path, a_dict(text("_name"), text("other")), text("model"), a_dict(text("_name"), text("real")))
    assert read(tmp_path, cfg=cfg).model_name == "real"


def test_an_attribute_that_hides_a_method_is_refused_on_what_torch_makes(tmp_path: Path) -> None:
    hidden = a_call("collections", "OrderedDict") + a_dict(text("items"), text("x")) + b"b"
    with pytest.raises(UnsafeError, match="_metadata"):
        read(tmp_path, extra_state=hidden)


def test_an_attribute_that_hides_a_method_is_without_effect_on_a_dict_of_ones_own(tmp_path: Path) -> None:
    head = a_tensor(a_storage("0", 4), (2, 2), (2, 1))
    model = a_call("fork", "Model") + text("w") + head + b"s" + a_dict(text("items"), text("x")) + b"b"
    assert list(read(tmp_path, model=model).tensors) == ["w"]


def test_a_group_of_tensors_within_the_state_dict_keeps_its_name(tmp_path: Path) -> None:
    head, other = a_tensor(a_storage("0", 4), (2, 2), (2, 1)), a_tensor(a_storage("1", 4), (4,), (1,))
    found = read(tmp_path, model=a_dict(text("w"), head, text("_ema"), a_dict(text("w"), other)))
    assert list(found.tensors) == ["w", "_ema.w"]
    assert found.groups == {"_ema": {"w": found.tensors["_ema.w"]}}
    with pytest.raises(DamagedError, match="is there twice"):
        read(tmp_path, model=a_dict(text("_ema.w"), head, text("_ema"), a_dict(text("w"), other)))


def test_the_adapters_of_a_model_for_many_languages_are_read(tmp_path: Path) -> None:
    adapter = a_dict(text("model"), a_dict(text("w"), a_tensor(a_storage("1", 4), (4,), (1,))))
    found = read(tmp_path, adapter=a_dict(text("eng"), adapter)).adapters
    assert found["eng"].tensors["w"].storage.name == "data/1"
    assert found["eng"].dictionary is None


def test_a_legacy_file_that_is_a_tar_archive_too_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    start = (FIXTURES / "eras" / "legacy_format_ctc.pt").read_bytes()[:15]
    header = tarfile.TarInfo(start.decode("utf-8", "surrogateescape")).tobuf(tarfile.GNU_FORMAT)
    assert header.startswith(start)
    path.write_bytes(header)
    with pytest.raises(UnsafeError, match="a tar archive at once"):
        read_checkpoint(path)


# Several threads

GOOD = sorted((FIXTURES / "eras").glob("*.pt"))


@pytest.mark.slow
def test_good_checkpoints_are_read_from_several_threads_and_nothing_stays_changed() -> None:
    class Allowed:
        pass

    torch.serialization.add_safe_globals([Allowed])
    before = set(torch.serialization.get_safe_globals()), [*warnings.filters], threading.active_count()
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda path: len(read_checkpoint(path).tensors), GOOD * 5))
        assert min(found) > 100
        after = set(torch.serialization.get_safe_globals()), [*warnings.filters], threading.active_count()
        assert after == before
    finally:
        torch.serialization.clear_safe_globals()


def test_a_class_that_the_program_allows_torch_is_not_made_by_a_checkpoint(tmp_path: Path) -> None:
    made = []

    class Meter:
        def __new__(cls) -> Meter:
            made.append(cls)
            return super().__new__(cls)

    torch.serialization.add_safe_globals([(Meter, "fork.Meter")])
    try:
        read(tmp_path, extra_state=a_call("fork", "Meter"))
    finally:
        torch.serialization.clear_safe_globals()
    assert made == []


def test_what_torch_says_of_a_broken_file_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("bad \x1b[2J\nand more")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UnreadableError, match=r"torch\.load: RuntimeError: bad \?\[2J$"):
        read_checkpoint(CTC)


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "tensors", 3)
    head = a_tensor(a_storage("0", 4), (2, 2), (2, 1)) + b"q\x00"
    group = a_dict(text("a"), head, text("b"), b"h\x00")
    assert len(read(tmp_path, model=a_dict(text("x"), group, text("y"), b"h\x00")).tensors) == 3
    with pytest.raises(UnsafeError, match="more than 3 tensors"):
        read(tmp_path, model=a_dict(text("x"), group + b"q\x01", text("y"), b"h\x01"))
