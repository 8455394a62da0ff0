"""Files that one reader takes for another thing than the other: what the pickle says, what torch makes of it.

Where a row allows 0, the trick may be read as ``torch.load`` reads it; anything else would be a lie.
"""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.forgery import (
    PROTOCOL_2,
    Made,
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
    made,
    model,
    opcodes,
    plainly,
    program,
    read,
    text,
    zipped,
)
from tests.support.hostile.cases import (
    FIXTURES,
    HEAD,
    LEGACY,
    ZIP,
    add,
    changed_cfg,
    changed_model,
    head,
    hostile,
    writing,
)

WRITTEN = "lm_head.weight"
"""What the head's weight becomes."""

KEY, ELEMENTS = head().arguments[0].key, head().arguments[0].identity[4]
SIZE, STRIDE = head().arguments[2:4]


def with_head(value: bytes | Made) -> bytes:
    """A checkpoint with another head."""
    return changed_model(lambda tensors: tensors.update({HEAD: Raw(value) if isinstance(value, bytes) else value}))


def the_head(
    *more: bytes, function: str = "_rebuild_tensor_v2", hooks: bytes = a_call("collections", "OrderedDict")
) -> bytes:
    """The opcodes of the true head, with more arguments behind the usual ones."""
    numbers = (plainly(0), a_tuple(*map(plainly, SIZE)), a_tuple(*map(plainly, STRIDE)))
    return a_call("torch._utils", function, a_storage(KEY, ELEMENTS), *numbers, b"\x89", hooks, *more)


def zeros(**more: Any) -> Made:
    """A tensor like the head, in a storage of its own, the record ``data/zeros``."""
    tensor = head()
    kind = tensor.arguments[0].identity[1]
    storage = Storage(("storage", kind, "zeros", "cpu", ELEMENTS))
    return altered(tensor, storage=storage, **more)


ZEROS = {"data/zeros": bytes(4 * ELEMENTS)}
TORCH_TENSOR, PARAMETER = a_global("torch", "Tensor"), a_global("torch.nn.parameter", "Parameter")
NO_HOOKS = a_call("collections", "OrderedDict")

# ---------------------------------------------------------------------------------------------------------------
# What a tensor carries beyond its numbers

_METADATA = {
    "negation_bit": a_dict(text("neg"), b"\x88"),
    "conjugation_bit": a_dict(text("conj"), b"\x88"),
    "negation_bit_of_one": a_dict(text("neg"), b"K\x01"),
    "unknown_key": a_dict(text("sparse"), b"\x88"),
    "key_that_is_no_text": a_dict(b"K\x01", b"\x88"),
}
for _name, _metadata in _METADATA.items():
    add(f"metadata_with_{_name}", "lies", 3, "metadata", writing(lambda m: with_head(the_head(m)), _metadata))
    _inner = a_call("torch._utils", "_rebuild_parameter", the_head(_metadata), b"\x89", NO_HOOKS)
    add(f"metadata_in_a_parameter_with_{_name}", "lies", 3, "metadata", writing(with_head, _inner))


@hostile("lies", (0, 3), "metadata")
def metadata_that_is_empty() -> bytes:
    return with_head(the_head(a_dict()[:1]))


@hostile("lies", (0, 3), "metadata")
def metadata_that_is_none() -> bytes:
    return with_head(the_head(b"N"))


_HOOKS = {
    "a_number": NO_HOOKS + b"(" + b"K\x01" + b"K\x02" + b"u",
    "a_stand_in": NO_HOOKS + b"(" + b"K\x01" + a_call("fork", "Hook") + b"u",
    "a_method": NO_HOOKS + a_dict(text("items"), text("x")) + b"b",
}
for _name, _hooks in _HOOKS.items():
    add(f"hooks_with_{_name}", "lies", 3, "hook", writing(lambda h: with_head(the_head(hooks=h)), _hooks))
    _inner = a_call("torch._utils", "_rebuild_parameter", the_head(), b"\x89", _hooks)
    add(f"hooks_of_a_parameter_with_{_name}", "lies", 3, "hook", writing(with_head, _inner))

_HIDDEN = (
    *("stride", "shape", "dtype", "size", "data", "grad", "requires_grad", "is_quantized", "layout", "device", "real"),
    *("untyped_storage", "storage_offset", "numel", "__class__", "__dict__", "_backward_hooks", "anything"),
)


def _subclass(kind: bytes, state: bytes) -> bytes:
    arguments = the_head()[len(a_global("torch._utils", "_rebuild_tensor_v2")) : -1]
    rebuild = a_global("torch._utils", "_rebuild_tensor_v2")
    return a_call("torch._tensor", "_rebuild_from_type_v2", rebuild, kind, arguments, state)


def _parameter(state: bytes) -> bytes:
    return a_call("torch._utils", "_rebuild_parameter_with_state", the_head(), b"\x89", NO_HOOKS, state)


_HOLDERS: dict[str, Callable[[bytes], bytes]] = {
    "tensor": lambda state: the_head() + state + b"b",
    "parameter": _parameter,
    "subclass": lambda state: _subclass(TORCH_TENSOR, state),
}


def _holding(holder: str, state: bytes) -> Callable[[], bytes]:
    return lambda: with_head(_HOLDERS[holder](state))


for _holder in _HOLDERS:
    for _attribute in _HIDDEN if _holder == "subclass" else _HIDDEN[:4]:
        _state = a_dict(text(_attribute), text("x"))
        add(f"{_attribute}_set_on_a_{_holder}", "lies", 3, r"\bstate\b", writing(_holding(_holder, _state)))
    _state = a_tuple(b"N", a_dict(text("stride"), text("x")))
    add(f"slots_set_on_a_{_holder}", "lies", 3, r"\bstate\b", writing(_holding(_holder, _state)))
    _state = a_dict(text("real"), the_head())
    add(f"another_tensor_set_on_a_{_holder}", "lies", 3, r"\bstate\b", writing(_holding(_holder, _state)))
for _holder in ("parameter", "subclass"):
    add(f"empty_state_of_a_{_holder}", "lies", (0, 3), r"\bstate\b", writing(_holding(_holder, b"}")))


@hostile("lies", 3, r"\bstate\b")
def state_built_on_a_parameter() -> bytes:
    inner = a_call("torch._utils", "_rebuild_parameter", the_head(), b"\x89", NO_HOOKS)
    return with_head(inner + a_dict(text("stride"), text("x")) + b"b")


@hostile("lies", 0, "")
def parameter_that_wants_a_gradient() -> bytes:
    return with_head(a_call("torch._utils", "_rebuild_parameter", the_head(), b"\x88", NO_HOOKS))


# ---------------------------------------------------------------------------------------------------------------
# Attributes that hide the methods of what torch makes

_METHODS = ("items", "get", "keys", "values", "__class__", "__len__", "__iter__", "__getitem__", "copy", "stands_for")


def _model_with_state(state: bytes) -> bytes:
    saved = ZIP.saved()
    return ZIP.with_saved({**saved, "model": Raw(opcodes(saved["model"]) + state + b"b")})


for _method in _METHODS:
    _state = a_dict(text(_method), text("x"))
    add(
        f"{_method}_set_on_the_state_dict",
        "lies",
        3,
        r"\bstate\b|attribute",
        writing(_model_with_state, _state),
    )


@hostile("lies", 3, r"\bstate\b|attribute")
def slots_set_on_the_state_dict() -> bytes:
    return _model_with_state(a_tuple(b"N", a_dict(text("items"), text("x"))))


@hostile("lies", 3, r"\bstate\b|attribute")
def items_set_on_the_root() -> bytes:
    saved = ZIP.saved()
    root = made("collections", "OrderedDict")
    root.items.update(saved)
    return ZIP.with_saved(Raw(opcodes(root) + a_dict(text("get"), text("x")) + b"b"))


@hostile("lies", 3, r"\bstate\b|attribute")
def items_set_on_a_section_of_the_cfg() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        section = made("collections", "OrderedDict")
        section.items.update(cfg["task"])
        section.state = {"items": "x"}
        cfg["task"] = section

    return changed_cfg(change)


@hostile("lies", (0, 3), r"\bstate\b|attribute")
def items_set_on_the_training_state() -> bytes:
    extra = a_call("collections", "OrderedDict") + a_dict(text("items"), text("x"), text("get"), text("y")) + b"b"
    return ZIP.with_item(extra, "extra_state")


@hostile("code execution", 3, "os.system", armed=True)
def metadata_of_the_state_dict_that_is_code() -> bytes:
    return _model_with_state(a_dict(text("_metadata"), a_call("os", "system", text("touch canary"))))


@hostile("lies", 3, r"\bstate\b|attribute")
def metadata_of_the_state_dict_and_more() -> bytes:
    return _model_with_state(a_dict(text("_metadata"), NO_HOOKS, text("items"), text("x")))


@hostile("lies", (0, 3), "_metadata|state")
def metadata_of_the_state_dict_that_is_a_number() -> bytes:
    return _model_with_state(a_dict(text("_metadata"), b"K\x01"))


@hostile("lies", 3, "state of a dict|sets the state")
def state_built_on_a_plain_dict() -> bytes:
    return ZIP.with_item(a_dict(text("a"), b"N") + a_dict(text("items"), text("x")) + b"b")


@hostile("lies", (0, 3), "Counter|state dict|dict")
def counter_in_place_of_the_state_dict() -> bytes:
    def change(saved: dict[Any, Any]) -> None:
        counter = made("collections", "Counter")
        counter.items.update(model(saved))
        saved["model"] = counter

    return _changed(change)


@hostile("lies", (0, 3), "defaultdict|state dict|dict")
def default_dict_in_place_of_the_state_dict() -> bytes:
    def change(saved: dict[Any, Any]) -> None:
        default = made("collections", "defaultdict", Raw(a_global("fork", "make_a_tensor")))
        default.items.update(model(saved))
        saved["model"] = default

    return _changed(change)


@hostile("lies", 0, "")
def counter_of_texts() -> bytes:
    return ZIP.with_item(a_call("collections", "Counter", a_dict(text("a"), text("b"), text("c"), b"N")), "extra_state")


@hostile("lies", 0, "")
def values_of_torch_in_the_training_state() -> bytes:
    values = (
        *(text("device"), a_call("torch", "device", text("cuda"), b"K\x03")),
        *(text("dtype"), a_global("torch", "bfloat16")),
        *(text("size"), a_call("torch", "Size", a_tuple(b"K\x02", b"K\x03"))),
    )
    return ZIP.with_item(a_dict(*values), "extra_state")


@hostile("lies", (0, 3), "torch.strided|layout")
def layout_in_the_training_state() -> bytes:
    return ZIP.with_item(a_dict(text("layout"), a_global("torch", "strided")), "extra_state")


@hostile("lies", (0, 3), r"\bkey\b|tensor")
def tensors_as_keys() -> bytes:
    return ZIP.with_item(a_dict(the_head(), b"N", the_head(), b"N"))


@hostile("lies", (0, 3), r"\bkey\b|tensor")
def set_of_tensors() -> bytes:
    return ZIP.with_item(a_call("builtins", "set", a_list(the_head(), the_head())))


# ---------------------------------------------------------------------------------------------------------------
# Said twice


def _changed(change: Callable[[dict[Any, Any]], object]) -> bytes:
    """A checkpoint with another content, and a record of zeros."""
    saved = ZIP.saved()
    change(saved)
    return ZIP.with_saved(saved, dict(ZEROS))


def _twice(first: Made, second: Made) -> bytes:
    """A checkpoint whose state dict names the head twice."""

    def change(saved: dict[Any, Any]) -> None:
        tensors = model(saved)
        del tensors[HEAD]
        tensors[HEAD] = first
        tensors[Raw(text(HEAD))] = second  # another key here, the same one in the file

    return _changed(change)


@hostile("lies", (0, 3), "twice")
def tensor_named_twice_the_right_one_last() -> bytes:
    return _twice(zeros(), head())


@hostile("lies", (0, 3), "twice", changed={WRITTEN: 0.0})
def tensor_named_twice_the_wrong_one_last() -> bytes:
    return _twice(head(), zeros())


@hostile("lies", (0, 3), "twice")
def state_dict_that_is_there_twice() -> bytes:
    def change(saved: dict[Any, Any]) -> None:
        right = saved.pop("model")
        wrong = ZIP.saved()["model"]
        wrong.items[HEAD] = zeros()
        saved["model"] = wrong
        saved[Raw(text("model"))] = right

    return _changed(change)


@hostile("lies", (0, 3), "twice")
def cfg_that_is_there_twice() -> bytes:
    def change(saved: dict[Any, Any]) -> None:
        right = saved["cfg"]
        saved["cfg"] = {"model": {"_name": "hubert"}}
        saved[Raw(text("cfg"))] = right

    return _changed(change)


@hostile("lies", (0, 3), "twice|key", changed={})
def cfg_key_that_is_there_as_a_path_too() -> bytes:
    path = Raw(a_call("pathlib", "PosixPath", text("blank_weight")))
    return changed_cfg(lambda cfg: cfg["model"].update({path: 3.0}))


@hostile("lies", (0, 3), "twice|key")
def cfg_key_that_is_there_as_an_enum_too() -> bytes:
    enum = Raw(a_call("fork", "Key", text("normalize")))
    return changed_cfg(lambda cfg: cfg["task"].update({enum: False}))


@hostile("lies", (0, 3), "twice|key")
def cfg_section_that_is_there_as_a_path_too() -> bytes:
    path = Raw(a_call("pathlib", "PosixPath", text("model")))
    return changed_cfg(lambda cfg: cfg.update({path: {"_name": "hubert"}}))


@hostile("lies", (0, 3), "twice|key")
def cfg_keys_that_are_equal_numbers() -> bytes:
    keys = a_dict(b"K\x01", text("a"), b"\x88", text("b"), plainly(1.0), text("c"))
    return changed_cfg(lambda cfg: cfg["task"].update({"data": Raw(keys)}))


@hostile("lies", (0, 3), "twice|key|not a number|nan")
def cfg_keys_that_are_not_numbers() -> bytes:
    nan = plainly(float("nan"))
    return changed_cfg(lambda cfg: cfg["task"].update({"data": Raw(a_dict(nan, b"N", nan, b"N"))}))


_SLOT = struct.pack("<I", 60_000)


@hostile("lies", (0, 3), "memo|object", changed={WRITTEN: 0.0})
def memo_that_is_overwritten() -> bytes:
    wrong = opcodes(zeros())
    return _with_memo(a_list(the_head() + b"r" + _SLOT, wrong + b"r" + _SLOT), b"j" + _SLOT)


@hostile("lies", (0, 3), "memo|object")
def memo_that_is_overwritten_later() -> bytes:
    wrong = opcodes(zeros())
    return _with_memo(the_head() + b"r" + _SLOT, b"j" + _SLOT, wrong + b"r" + _SLOT)


def _with_memo(before: bytes, value: bytes, after: bytes = b"N") -> bytes:
    """A checkpoint whose head is what the memo holds, between two other items of the root."""

    def change(saved: dict[Any, Any]) -> None:
        tensors = saved.pop("model")
        tensors.items[HEAD] = Raw(value)
        saved["before"], saved["model"], saved["after"] = Raw(before), tensors, Raw(after)

    return _changed(change)


@hostile("lies", 3, "refers to object|hasn't made")
def memo_that_is_read_before_it_is_written() -> bytes:
    return ZIP.with_item(b"j\xff\xff\xff\x7f")


@hostile("lies", (0, 3), "changes", changed={WRITTEN: 0.0})
def state_dict_that_is_changed_after_it_was_put_in_place() -> bytes:
    def change(saved: dict[Any, Any]) -> None:
        saved["model"] = Raw(opcodes(saved["model"]) + b"r" + _SLOT)
        saved["again"] = Raw(b"j" + _SLOT + text(HEAD) + opcodes(zeros()) + b"s")

    return _changed(change)


@hostile("lies", (0, 3), "refers|twice|shared")
def cfg_that_is_changed_through_another_name() -> bytes:
    slot = b"r" + _SLOT
    return changed_cfg(
        lambda cfg: cfg.update(
            bpe=Raw(b"}" + slot), scoring=Raw(b"j" + _SLOT + text("normalize") + b"\x89s"), tokenizer=Raw(b"j" + _SLOT)
        )
    )


# ---------------------------------------------------------------------------------------------------------------
# Which record, which elements


def _swapped(data: bytes, first: str, other: str) -> bytes:
    """A zip with two records of equal size in one another's place: names, bytes and checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = [archive.getinfo(name) for name in (first, other)]
        contents = [archive.read(name) for name in (first, other)]
    file, directory = bytearray(data), data.index(b"PK\x01\x02", max(info.header_offset for info in infos))
    for info, new, content in zip(infos, reversed(infos), reversed(contents), strict=True):
        name_length, extra_length = struct.unpack_from("<2H", data, info.header_offset + 26)
        start = info.header_offset + 30 + name_length + extra_length
        entry = data.index(info.filename.encode(), directory) - 46
        checksum = struct.pack("<L", new.CRC)
        for at, size, replaced in (
            (info.header_offset + 30, name_length, new.filename.encode()),
            (start, info.file_size, content),
            (entry + 46, name_length, new.filename.encode()),
            (entry + 16, 4, checksum),
            *_checksums(data, info, start, checksum),
        ):
            file[at : at + size] = replaced
    return bytes(file)


def _checksums(data: bytes, info: zipfile.ZipInfo, start: int, checksum: bytes) -> list[tuple[int, int, bytes]]:
    """Where else a record's checksum is: in its header, or behind its bytes."""
    if info.flag_bits & 8:
        at = start + info.file_size
        return [(at + 4, 4, checksum)] if data[at : at + 4] == b"PK\x07\x08" else []
    return [(info.header_offset + 14, 4, checksum)]


def _pairs_of_equal_size(data: bytes) -> list[tuple[str, str]]:
    """Storages that follow one another in the file and have as many bytes, but not the same ones."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [info for info in archive.infolist() if "/data/" in info.filename]
    return [
        (one.filename, other.filename)
        for one, other in itertools.pairwise(names)
        if one.file_size == other.file_size and one.CRC != other.CRC and len(one.filename) == len(other.filename)
    ]


NEWER = (FIXTURES / "eras" / "resaved_by_torch_2_ctc.pt").read_bytes()


@hostile("lies", (0, 3), "order|place|offset")
def equal_records_in_another_order() -> bytes:
    return _swapped(NEWER, *_pairs_of_equal_size(NEWER)[0])


@hostile("lies", (0, 3), "order|place|offset")
def many_equal_records_in_another_order() -> bytes:
    data, done = NEWER, set[str]()
    for one, other in _pairs_of_equal_size(NEWER):
        if not done & {one, other}:
            data = _swapped(data, one, other)
            done |= {one, other}
    return data


@hostile("lies", (0, 3), "order|place|offset")
def equal_records_in_another_order_in_the_older_format() -> bytes:
    return _swapped(ZIP.data, *_pairs_of_equal_size(ZIP.data)[0])


_NEWER = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}


@hostile("lies", (0, 3), "order|place|alignment|offset")
def records_in_reverse_order() -> bytes:
    parts = ZIP.parts(dict(_NEWER))
    return zipped([*parts[:1], *reversed(parts[1:])])


@hostile("lies", (0, 3), "order|place|alignment|offset")
def pickle_behind_its_records() -> bytes:
    parts = ZIP.parts()
    return zipped([*parts[1:], parts[0]])


@hostile("lies", (0, 3), "order|place|alignment|offset")
def records_that_are_not_aligned_as_they_claim() -> bytes:
    return zipped(ZIP.parts({**_NEWER, ".storage_alignment": b"4096"}))


def _storage_key(key: str, record: str) -> bytes:
    """A checkpoint whose head has another key, and a record of zeros with a name like it."""
    storage = Storage((*head().arguments[0].identity[:2], key, "cpu", ELEMENTS))
    saved = ZIP.saved()
    model(saved)[HEAD] = altered(head(), storage=storage)
    return ZIP.with_saved(saved, {f"data/{record}": bytes(4 * ELEMENTS)} if record else {})


_KEYS = {
    "in_other_digits": ("\uff11\uff11\uff12", ""),
    "with_a_zero_before_it": (f"0{KEY}", ""),
    "with_a_sign": (f"+{KEY}", ""),
    "with_a_space": (f"{KEY} ", ""),
    "with_a_null": (f"{KEY}\0", ""),
    "with_a_line_end": (f"{KEY}\n", ""),
    "with_a_way_around": (f"x/../{KEY}", ""),
    "that_is_empty": ("", ""),
    "in_other_case": ("ZEROS", "zeros"),
    "of_a_megabyte": ("1" * 2**20, ""),
}
for _name, (_key, _record) in _KEYS.items():
    add(
        f"storage_key_{_name}",
        "lies",
        3,
        "has no record",
        writing(_storage_key, _key, _record),
    )

_PLACES = (
    "cuda:0",
    "cuda:99999999",
    "meta",
    "hip",
    "mps",
    "xla:1",
    "privateuseone",
    "../../etc",
    "\x1b[2J",
    "x" * 10**6,
)
for _number, _place in enumerate(_PLACES):
    add(
        f"storage_location_{_number}",
        "lies",
        (0, 3),
        "location|place|device",
        writing(
            lambda place: changed_model(
                lambda tensors: tensors.update({HEAD: altered(tensors[HEAD], storage=Storage(_located(place)))})
            ),
            _place,
        ),
    )


def _located(place: str) -> tuple[Any, ...]:
    identity = head().arguments[0].identity
    return (*identity[:3], place, identity[4])


def _untyped(count: int, dtype: str, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    numbers = (plainly(offset), a_tuple(*map(plainly, size)), a_tuple(*map(plainly, stride)))
    storage = a_storage(KEY, count, ("torch.storage", "UntypedStorage"))
    more = (b"\x89", NO_HOOKS, a_global("torch", dtype))
    return with_head(a_call("torch._utils", "_rebuild_tensor_v3", storage, *numbers, *more))


@hostile("lies", (0, 3), "UntypedStorage|storage")
def untyped_storage() -> bytes:
    return _untyped(4 * ELEMENTS, "float32", SIZE, STRIDE)


@hostile("lies", 3, r"beyond its storage|storage of \d+ bytes")
def untyped_storage_that_is_too_short() -> bytes:
    return _untyped(4 * ELEMENTS, "float64", SIZE, STRIDE)


@hostile("lies", 3, r"beyond its storage|storage of \d+ bytes")
def untyped_storage_with_an_offset_in_bytes() -> bytes:
    return _untyped(4 * ELEMENTS, "float32", SIZE, STRIDE, 4)


@hostile("lies", (3, 4), "UntypedStorage|uint8|arguments")
def untyped_storage_in_a_typed_tensor() -> bytes:
    storage = a_storage(KEY, 4 * ELEMENTS, ("torch.storage", "UntypedStorage"))
    return with_head(a_tensor(storage, SIZE, STRIDE))


@hostile("lies", 3, "two types")
def storage_that_is_typed_here_and_untyped_there() -> bytes:
    storage = a_storage(KEY, 4 * ELEMENTS, ("torch.storage", "UntypedStorage"))
    numbers = (plainly(0), a_tuple(plainly(ELEMENTS)), a_tuple(plainly(1)))
    again = a_call(
        "torch._utils", "_rebuild_tensor_v3", storage, *numbers, b"\x89", NO_HOOKS, a_global("torch", "int32")
    )
    return ZIP.with_item(again)


@hostile("lies", (3, 4), "int32")
def tensor_of_another_type_than_its_storage() -> bytes:
    more = (b"\x89", NO_HOOKS, a_global("torch", "int32"))
    numbers = (plainly(0), a_tuple(*map(plainly, SIZE)), a_tuple(*map(plainly, STRIDE)))
    return with_head(a_call("torch._utils", "_rebuild_tensor_v3", a_storage(KEY, ELEMENTS), *numbers, *more))


@hostile("lies", (0, 3), "overlap", changed={WRITTEN: 0.0})
def rows_that_overlap() -> bytes:
    rows, columns = SIZE
    return _changed(lambda saved: model(saved).update({HEAD: zeros(size=(rows, columns), stride=(columns // 2, 1))}))


@hostile("lies", (0, 3), "overlap|repeats|stride", changed={WRITTEN: 0.0})
def columns_that_are_one() -> bytes:
    return _changed(lambda saved: model(saved).update({HEAD: zeros(stride=(1, 0))}))


@hostile("lies", (0, 3), "stride", changed={WRITTEN: 0.0})
def transposed_head() -> bytes:
    rows, _columns = SIZE
    return _changed(lambda saved: model(saved).update({HEAD: zeros(stride=(1, rows))}))


_ARGUMENTS = {
    "offset_that_is_true": (b"\x88", a_tuple(*map(plainly, SIZE)), a_tuple(*map(plainly, STRIDE))),
    "size_with_a_truth": (b"K\0", a_tuple(b"\x88", b"\x88"), a_tuple(*map(plainly, STRIDE))),
    "size_that_is_a_list": (b"K\0", a_list(*map(plainly, SIZE)), a_tuple(*map(plainly, STRIDE))),
    "size_with_fractions": (b"K\0", a_tuple(*map(plainly, map(float, SIZE))), a_tuple(*map(plainly, STRIDE))),
    "stride_with_texts": (b"K\0", a_tuple(*map(plainly, SIZE)), a_tuple(text("20"), text("1"))),
    "offset_that_is_a_tensor": (the_head(), a_tuple(*map(plainly, SIZE)), a_tuple(*map(plainly, STRIDE))),
}
for _name, _numbers in _ARGUMENTS.items():
    _call = a_call("torch._utils", "_rebuild_tensor_v2", a_storage(KEY, ELEMENTS), *_numbers, b"\x89", NO_HOOKS)
    add(f"tensor_with_{_name}", "lies", 3, "arguments", writing(with_head, _call))


@hostile("lies", (3, 4), "proj.weight|size|overflow")
def tensor_of_no_element_and_endless_sizes() -> bytes:
    size, stride = (0, 2**62), (2**62, 1)
    return with_head(a_tensor(a_storage(KEY, ELEMENTS), size, stride))


@hostile("lies", 3, "calls collections.OrderedDict|arguments")
def ordered_dict_made_of_pairs() -> bytes:
    return ZIP.with_item(a_call("collections", "OrderedDict", a_list(a_tuple(text("a"), b"N"))))


# ---------------------------------------------------------------------------------------------------------------
# Legacy files: storages by key, by list, by view


@dataclass(frozen=True)
class Legacy:
    """The real legacy file, taken apart.

    Attributes:
        preamble: magic number, version and machine.
        saved: what the checkpoint holds.
        storages: each one's length and bytes by key, in the order of the list.
    """

    preamble: bytes
    saved: dict[str, Any]
    storages: Mapping[str, bytes]


def legacy() -> Legacy:
    """A fresh copy, to be changed."""
    file = io.BytesIO(LEGACY)
    ends = []
    for _ in range(5):
        for _opcode in pickletools.genops(file):
            pass
        ends.append(file.tell())
    saved = read(LEGACY[ends[2] : ends[3]])
    sizes = {use.key: use.identity[4] * _ITEM_BYTES[use.identity[1].name] for use in _storages(saved)}
    storages, at = {}, ends[4]
    for key in pickle.loads(LEGACY[ends[3] : ends[4]]):  # noqa: S301 - our own file
        end = at + 8 + sizes[key]
        storages[key], at = LEGACY[at:end], end
    assert at == len(LEGACY)
    return Legacy(LEGACY[: ends[2]], saved, storages)


_ITEM_BYTES = {"FloatStorage": 4, "LongStorage": 8}


def _storages(value: object) -> Iterator[Storage]:
    """Every storage that is used anywhere."""
    if isinstance(value, Storage):
        yield value
    inner: Iterable[object] = ()
    if isinstance(value, Made):
        inner = (*value.arguments, *value.items.values(), value.state)
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    for item in inner:
        yield from _storages(item)


def legacy_file(saved: dict[str, Any], storages: Mapping[str, bytes], keys: Iterable[str] | None = None) -> bytes:
    """A legacy file of these; ``keys`` is what its list says, where that isn't the order of the storages."""
    listed = PROTOCOL_2 + a_list(*map(text, storages if keys is None else keys)) + b"."
    return legacy().preamble + program(saved) + listed + b"".join(storages.values())


_View = tuple[str, int, int]


def _legacy_with(*uses: tuple[str, int, _View | None], fill: bytes = bytes(4)) -> bytes:
    """A legacy file whose head lies in the last of these storages; the other uses are beside the model."""
    old = legacy()
    tensors = model(old.saved)
    kind, key = tensors[HEAD].arguments[0].identity[1:3]
    used = [Storage(("storage", kind, key, "cpu", numel, view)) for key, numel, view in uses]
    others = {
        f"use {number}": altered(tensors[HEAD], storage=storage, size=(1,), stride=(1,))
        for number, storage in enumerate(used)
    }
    tensors[HEAD] = altered(tensors[HEAD], storage=used[-1])
    roots = {key: struct.pack("<q", numel) + fill * numel for key, numel, _view in uses}
    kept = {name: data for name, data in old.storages.items() if name != key}
    return legacy_file({**dict([*others.items()][:-1]), **old.saved}, {**kept, **roots})


@hostile("lies", 3, r"\bview")
def legacy_view_with_the_key_of_a_root() -> bytes:
    return _legacy_with(("a", 2 * ELEMENTS, ("b", 0, ELEMENTS)), ("b", ELEMENTS, None))


@hostile("lies", 3, r"\bview")
def legacy_root_with_the_key_of_a_view() -> bytes:
    return _legacy_with(("b", ELEMENTS, None), ("a", 2 * ELEMENTS, ("b", 0, ELEMENTS)))


@hostile("lies", 3, r"\bview")
def legacy_view_that_is_there_twice_with_other_places() -> bytes:
    return _legacy_with(("a", 2 * ELEMENTS, ("v", 4, ELEMENTS)), ("a", 2 * ELEMENTS, ("v", 0, ELEMENTS)))


@hostile("lies", 3, r"\bview")
def legacy_view_that_is_there_twice_in_two_storages() -> bytes:
    return _legacy_with(("a", ELEMENTS, ("v", 0, ELEMENTS)), ("b", ELEMENTS, ("v", 0, ELEMENTS)))


@hostile("lies", 3, r"\bview")
def legacy_view_beyond_its_storage() -> bytes:
    return _legacy_with(("a", ELEMENTS, ("v", 8, ELEMENTS)))


@hostile("lies", 3, "beyond its storage|view")
def legacy_tensor_beyond_its_view() -> bytes:
    return _legacy_with(("a", 2 * ELEMENTS, ("v", 0, 4)))


@hostile("lies", (0, 3), "view|overlap", changed={WRITTEN: 0.0})
def legacy_views_that_overlap() -> bytes:
    return _legacy_with(("a", ELEMENTS, ("w", 4, 8)), ("a", ELEMENTS, ("v", 0, ELEMENTS)))


@hostile("lies", (0, 3), "order|list of storages")
def legacy_storages_in_another_order() -> bytes:
    old = legacy()
    return legacy_file(old.saved, {key: old.storages[key] for key in sorted(old.storages, reverse=True)})


@hostile("lies", 3, "elements|list of storages")
def legacy_list_in_another_order_than_its_storages() -> bytes:
    old = legacy()
    return legacy_file(old.saved, old.storages, sorted(old.storages, reverse=True))


@hostile("lies", 3, "list of storages")
def legacy_list_that_is_longer() -> bytes:
    old = legacy()
    return legacy_file(old.saved, old.storages, [*old.storages, "999"])


@hostile("lies", 3, "list of storages|twice")
def legacy_list_with_a_key_twice() -> bytes:
    old = legacy()
    keys = [*old.storages]
    return legacy_file(old.saved, old.storages, [*keys[:-1], keys[0]])


@hostile("lies", 3, r"\bview")
def legacy_view_that_is_a_text() -> bytes:
    old = legacy()
    tensor = model(old.saved)[HEAD]
    identity = (*tensor.arguments[0].identity[:5], "whole")
    model(old.saved)[HEAD] = altered(tensor, storage=Storage(identity))
    return legacy_file(old.saved, old.storages)
