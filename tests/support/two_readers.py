"""What a conversion wrote against what ``torch.load`` gives for the same file, and mutations that try to part the two.

By hand, for longer:

    python -m tests.support.two_readers --count 5000 --seed 7
"""

from __future__ import annotations

import collections
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import w2vc
from tests.support.forgery import Made, Raw, Storage, a_call, a_dict, altered, base, made, model, opcodes, text
from tests.support.fuzz import (
    FIXTURES,
    FOR_ALL,
    FOR_TREES,
    FOR_ZIPS,
    Finding,
    Mutation,
    Seed,
    alarm,
    command_line,
    slim,
)
from w2vc.errors import W2vcError
from w2vc.families.family import FirstRow, Scale
from w2vc.planning.plan import Move
from w2vc.reading.archive import examine, open_checkpoint
from w2vc.reading.stand_ins import stand_ins

SECONDS_A_CASE = 30

# ---------------------------------------------------------------------------------------------------------------
# The rule


def loaded_by_torch(path: Path) -> dict[str, Any]:
    """What ``torch.load`` gives for a file, every tensor's bytes read; classes that it doesn't know are inert."""
    with open_checkpoint(path) as file:
        uses = examine(file, path).program.globals.values()
    allowed: list[Any] = [(inert, name) for name, inert in stand_ins(uses).items()]
    with torch.serialization.safe_globals(allowed):
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return saved


def differences(path: Path, report: w2vc.Conversion, output: Path) -> list[str]:
    """The tensors of an output that aren't what ``torch.load`` gives under their fairseq name, as float32."""
    saved = loaded_by_torch(path)
    ours = load_file(output / "model.safetensors")
    return [
        move.target
        for move in report.plan.moves
        if not is_same(ours[move.target], expected(saved, move), 1 if isinstance(move.edit, FirstRow) else 0)
    ]


def expected(saved: dict[str, Any], move: Move) -> torch.Tensor:
    """What torch gives for a tensor's source, in float32: of one language if there are several, scaled if it is."""
    source = move.source
    model = dict.__getitem__(saved, "model")
    if source.adapter:
        model = dict.__getitem__(dict.__getitem__(dict.__getitem__(saved, "adapter"), source.adapter), "model")
    theirs: torch.Tensor = dict.__getitem__(model, source.name).detach()
    if source.index is not None:
        theirs = theirs[source.index].reshape(move.shape)
    if isinstance(move.edit, Scale):
        theirs = theirs.double() * move.edit.factor
    return theirs


def is_same(ours: torch.Tensor, theirs: Any, first_row: int) -> bool:
    """Whether two tensors have the same sizes and bits, from a row on; NaN is itself."""
    theirs = theirs.float() if theirs.is_floating_point() else theirs
    return (
        ours.dtype == theirs.dtype and ours.shape == theirs.shape and _bits(ours, first_row) == _bits(theirs, first_row)
    )


def _bits(tensor: torch.Tensor, first_row: int) -> bytes:
    rows = tensor[first_row:] if first_row else tensor
    return bytes(rows.contiguous().reshape(-1).view(torch.uint8).numpy()) if rows.numel() else b""


def verdict(data: bytes, folder: Path, seconds: int = SECONDS_A_CASE) -> str:
    """What became of a file: ``refused``, ``same``, or what is wrong; 0 seconds are no limit."""
    path, output = folder / "checkpoint.pt", folder / "out"
    path.write_bytes(data)
    try:
        with alarm(seconds):
            report = w2vc.convert(path, output, card=False)
    except W2vcError:
        return "refused"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    try:
        found = differences(path, report, output)
    except Exception as error:
        return f"converted, where torch.load raises {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(output)
    return f"differs: {found[:3]}" if found else "same"


# ---------------------------------------------------------------------------------------------------------------
# Mutations that the one reader might see, and not the other


def exchanged_storages(random_: random.Random, seed: Seed) -> bytes:
    """Two tensors of one size with one another's storages."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name = random_.choice([*tensors])
    others = [other for other in tensors if tensors[other].arguments[2] == tensors[name].arguments[2]]
    other = random_.choice(others)
    storages = [tensors[each].arguments[0] for each in (name, other)]
    tensors[name] = altered(tensors[name], storage=storages[1])
    tensors[other] = altered(tensors[other], storage=storages[0])
    return seed.zip.with_saved(saved)


def shuffled_records(random_: random.Random, seed: Seed) -> bytes:
    """The records in another order, in the old format or the new one, whose offsets torch computes in order of use."""
    names = [*seed.zip.records]
    random_.shuffle(names)
    records = {name: seed.zip.records[name] for name in names}
    if random_.random() < 0.5:
        records |= {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    return replace(seed.zip, records=records).with_saved(seed.zip.saved())


_EXTRAS: tuple[Any, ...] = (
    None,
    {},
    {"neg": True},
    {"conj": True},
    {"neg": False},
    {"stride": "x"},
    {"real": 1.0},
    Raw(a_call("collections", "OrderedDict") + a_dict(text("items"), text("x")) + b"b"),
    Raw(a_call("collections", "OrderedDict") + b"(" + text("a") + b"Nu"),
    made("collections", "OrderedDict"),
)


def something_carried_along(random_: random.Random, seed: Seed) -> bytes:
    """A tensor with hooks, metadata, or as a subclass or parameter with a state."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name = random_.choice([*tensors])
    arguments = tensors[name].arguments
    extra, other = random_.choices(_EXTRAS, k=2)
    tensor_class, parameter_class = made("torch", "Tensor"), made("torch.nn.parameter", "Parameter")
    function = made("torch._utils", "_rebuild_tensor_v2")
    tensors[name] = random_.choice(
        (
            made("torch._utils", "_rebuild_tensor_v2", *arguments[:5], extra, other),
            made("torch._utils", "_rebuild_parameter", tensors[name], True, extra),
            made("torch._utils", "_rebuild_parameter_with_state", tensors[name], False, extra, other),
            made("torch._tensor", "_rebuild_from_type_v2", type(function), type(tensor_class), arguments, extra),
            made("torch._tensor", "_rebuild_from_type_v2", type(function), type(parameter_class), arguments, extra),
        )
    )
    return seed.zip.with_saved(saved)


_KINDS = ("FloatStorage", "IntStorage", "LongStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "ByteStorage")
_DTYPES = ("float32", "float16", "bfloat16", "int32", "float64", "uint8", "uint16", "complex64")


def another_type(random_: random.Random, seed: Seed) -> bytes:
    """A tensor over a storage of another type, or over bytes with a type of its own."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name = random_.choice([*tensors])
    storage, offset, size, stride = tensors[name].arguments[:4]
    word, kind, key, place, numel = storage.identity
    if random_.random() < 0.5:
        other = type(made("torch", random_.choice(_KINDS)))
        tensors[name] = altered(tensors[name], storage=Storage((word, other, key, place, numel)))
    else:
        nbytes = numel * (8 if kind.name == "LongStorage" else 4)
        untyped = Storage((word, type(made("torch.storage", "UntypedStorage")), key, place, nbytes))
        dtype = type(made("torch", random_.choice(_DTYPES)))
        hooks = made("collections", "OrderedDict")
        tensors[name] = made("torch._utils", "_rebuild_tensor_v3", untyped, offset, size, stride, False, hooks, dtype)
    return seed.zip.with_saved(saved)


def another_view(random_: random.Random, seed: Seed) -> bytes:
    """A tensor with other strides and another offset, in its own storage or another's."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name, other = random_.sample([*tensors], 2)
    arguments = tensors[name].arguments
    strides = [*arguments[3]]
    random_.shuffle(strides)
    changes: dict[str, Any] = {"stride": tuple(strides)}
    if random_.random() < 0.3:
        changes["stride"] = tuple(random_.choice((0, 1, 2)) for _ in strides)
    if random_.random() < 0.3:
        changes["offset"] = random_.choice((0, 1, 2))
    if random_.random() < 0.3:
        changes["storage"] = tensors[other].arguments[0]
    tensors[name] = altered(tensors[name], **changes)
    return seed.zip.with_saved(saved)


def equal_keys(random_: random.Random, seed: Seed) -> bytes:
    """A name that is there twice, with two tensors; or a second ``model`` or ``cfg``."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name, other = random_.sample([*tensors], 2)
    first = Raw(text(name) + opcodes(tensors[random_.choice((name, other))]) + text(name))
    if random_.random() < 0.5:
        return seed.zip.with_item(opcodes(saved[random_.choice(("model", "cfg"))]), random_.choice(("model", "cfg")))
    return seed.zip.with_saved({**saved, "model": _with_first(saved["model"], first, tensors[name])})


def _with_first(state_dict: Any, key: Raw, value: Any) -> Any:
    items: dict[Any, Any] = {key: value, **model({"model": state_dict})}
    if isinstance(state_dict, Made):
        state_dict.items = items
        return state_dict
    return items


def bytes_of_a_tensor(random_: random.Random, seed: Seed) -> bytes:
    """Other weights, NaN among them, with checksums that fit."""
    name = random_.choice([name for name in seed.zip.records if name.startswith("data/") and seed.zip.records[name]])
    changed = bytearray(seed.zip.records[name])
    at = random_.randrange(len(changed))
    changed[at : at + 4] = random_.choice((struct.pack("<f", float("nan")), b"\xff", random_.randbytes(4)))
    return seed.zip.with_saved(seed.zip.saved(), {name: bytes(changed[: len(seed.zip.records[name])])})


AIMED: tuple[Mutation, ...] = (
    exchanged_storages,
    shuffled_records,
    something_carried_along,
    another_type,
    another_view,
    equal_keys,
    bytes_of_a_tensor,
)

# ---------------------------------------------------------------------------------------------------------------
# Runs

_TREES = ("plain_dict_ctc", "plain_dict_pretraining", "fp16_ctc", "resaved_by_torch_2_ctc")
_OTHERS = ("views_ctc", "extra_state_objects_ctc", "structured_config_ctc", "namespace_ctc", "cuda_ctc")
_LEGACY = "legacy_format_ctc"


def seeds() -> dict[str, tuple[Seed, tuple[Mutation, ...]]]:
    """The checkpoints to mutate, and how each can be."""
    eras = FIXTURES / "eras"
    found: dict[str, tuple[Seed, tuple[Mutation, ...]]] = {}
    for name in _TREES:
        path = eras / f"{name}.pt"
        data = slim(path)
        found[name] = (Seed(name, data, base_of(data), {}, {}), (*FOR_TREES, *AIMED, *AIMED))
    for name in _OTHERS:
        found[name] = (Seed(name, (eras / f"{name}.pt").read_bytes(), base(eras / f"{name}.pt"), {}, {}), FOR_ZIPS)
    found[_LEGACY] = (Seed(_LEGACY, (eras / f"{_LEGACY}.pt").read_bytes(), None, {}, {}), FOR_ALL)
    return found


def base_of(data: bytes) -> Any:
    """A checkpoint's bytes, taken apart."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        path.write_bytes(data)
        return base(path)


def run(count: int, seed: int, folder: Path) -> tuple[collections.Counter[str], list[Finding]]:
    """Tries that many mutations; gives how many ended how, and what shouldn't have."""
    random_ = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    every = seeds()
    tally: collections.Counter[str] = collections.Counter()
    findings = []
    for number in range(count):
        name = random_.choices([*every], [4 if name in _TREES else 1 for name in every])[0]
        chosen, mutations = every[name]
        mutation = random_.choice(mutations)
        data = mutation(random_, chosen)
        result = verdict(data, folder)
        tally[f"{mutation.__name__}: {result.partition(':')[0]}"] += 1
        if result not in ("refused", "same"):
            findings.append(Finding(name, mutation.__name__, number, result))
            (folder.parent / f"difference-{seed}-{number}.pt").write_bytes(data)
    return tally, findings


def tally_of(tally: Mapping[str, int], how: str) -> int:
    """How many ended so."""
    return sum(times for what, times in tally.items() if what.endswith(f": {how}"))


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 5000, run, "difference"))
