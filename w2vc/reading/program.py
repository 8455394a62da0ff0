"""What a checkpoint's pickle would build: the primary reader's answer, which torch has to confirm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w2vc.errors import DamagedError, UnreadableError
from w2vc.reading.budget import NODE_BYTES, SCALAR_BYTES, Budget
from w2vc.reading.globals_used import GlobalUse
from w2vc.reading.machine import Machine
from w2vc.reading.measure import check_uses, measure
from w2vc.reading.nodes import Node, entries, is_mapping
from w2vc.reading.source import GET_AGAIN, PickleSource
from w2vc.reading.storages import StorageUse, TensorUse

# Where state dicts are: fairseq's own, Lightning's, s3prl's, and what people write by hand.
MODEL_KEYS = ("model", "state_dict", "model_state_dict", "model_weight")


@dataclass(frozen=True)
class PickleProgram:
    """What a pickle would build.

    Attributes:
        size: bytes, from the first opcode to STOP.
        globals: how each global is used, by ``module.name``.
        storages: each storage once, in the order of first appearance.
        model_tensors: those that are probably the model's: under ``model``, or under another usual name.
        root: what is built, as nodes; None once the checkpoint has been read.
    """

    size: int
    globals: Mapping[str, GlobalUse]
    storages: tuple[StorageUse, ...]
    model_tensors: tuple[TensorUse, ...] = ()
    root: Any = field(default=None, repr=False, compare=False)


def _walk(source: PickleSource, *, legacy: bool) -> tuple[Machine, Any]:
    machine = Machine(source, legacy=legacy)
    try:
        root = machine.run()
        machine.objects.check()
        machine.globals.check_look_ups()
        check_uses(machine.budget, machine.globals)
        measure(root, machine.budget, machine.globals)
    except UnreadableError:
        # Whatever else is wrong with it: code is what people must hear of first.
        machine.globals.check_code()
        raise
    machine.globals.check_code()
    return machine, root


def read_next_program(source: PickleSource, *, legacy: bool) -> PickleProgram:
    """Return what the pickle at the source's position would build; the position moves to its end.

    Args:
        source: the bytes.
        legacy: persistent ids are those of the legacy format: with a sixth field, the view.

    Raises:
        DamagedError: it is no pickle, or not one that torch.save writes.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    machine, root = _walk(source, legacy=legacy)
    return PickleProgram(
        size=source.position - machine.start,
        globals=dict(machine.globals.uses),
        storages=tuple(machine.storages.uses.values()),
        model_tensors=tuple(_model_tensors(root)),
        root=root,
    )


def _model_tensors(root: object) -> list[TensorUse]:
    """The tensors under the first of the usual keys, each once."""
    held = entries(root).values() if is_mapping(root) else ()
    values = dict(held)
    model = next((values[key] for key in MODEL_KEYS if key in values), None)
    found: list[TensorUse] = []
    left, seen = [model], set()
    while left:
        node = left.pop()
        if type(node) is not Node or id(node) in seen:
            continue
        seen.add(id(node))
        if type(node.fact) is TensorUse:
            found.append(node.fact)
        else:
            left.extend(reversed([*node.children()]))
    return found


def read_program(data: bytes, what: str, on_disk: int = 0) -> PickleProgram:
    """Return what the pickle in a zip's ``data.pkl`` would build.

    Args:
        data: the whole record.
        what: the file and record, for error messages.
        on_disk: how many bytes the file has there.

    Raises:
        DamagedError: it is no pickle, or not one that torch.save writes.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    Budget(what, on_disk).require("pickle bytes", len(data), "a pickle")
    program = read_next_program(PickleSource(data, what, on_disk=on_disk), legacy=False)
    if program.size != len(data):
        raise DamagedError(f"{what}: {len(data) - program.size} bytes follow the pickle", advice=GET_AGAIN)
    return program


def read_next_value(source: PickleSource) -> object:
    """Return the value of a pickle of scalars, lists and dicts with text keys, as the legacy format has them.

    Raises:
        DamagedError: it is no pickle, or one of something else.
        UnsafeError: it names code, or would take memory or time without bound.
    """
    machine, root = _walk(source, legacy=True)
    if machine.globals.uses or machine.storages.uses:
        machine.damaged("has objects where only texts and numbers belong")
    return _plain(root, machine)


def _plain(value: object, machine: Machine) -> object:
    if type(value) is not Node:
        return value
    machine.budget.build(NODE_BYTES + SCALAR_BYTES * len(value.items))
    if value.kind == "dict":
        found = entries(value).values()
        if not all(type(key) is str for key, _item in found):
            machine.damaged("has a key that isn't a text where only texts belong")
        return {key: _plain(item, machine) for key, item in found}
    return [_plain(item, machine) for item in value.items]
