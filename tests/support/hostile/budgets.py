"""Files that cost more than any real one: globals, hashes, interpolations, copies, messages, records, tensors."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.forgery import (
    PROTOCOL_2,
    Raw,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_storage,
    a_tuple,
    altered,
    made,
    model,
    opcodes,
    plainly,
    program,
    sparsely_zipped,
    text,
    zipped,
)
from tests.support.hostile.cases import (
    HEAD,
    ZIP,
    add,
    changed_cfg,
    changed_convolutions,
    changed_model,
    doubled,
    head,
    hostile,
    hostile_place,
    numbers,
    writing,
)
from tests.support.hostile.two_readers import legacy

_SLOT = struct.pack("<I", 60_000)
_PUT, _GET = b"r" + _SLOT, b"j" + _SLOT
MODULUS = sys.hash_info.modulus

# ---------------------------------------------------------------------------------------------------------------
# Globals


def _globals(count: int) -> bytes:
    return a_list(*(a_global(f"fork.m{number}", "Thing") for number in range(count)))


@hostile("bombs", 3, "globals")
def five_thousand_globals() -> bytes:
    return ZIP.with_item(_globals(5_000))


@hostile("bombs", 3, "globals")
def a_hundred_thousand_globals() -> bytes:
    return ZIP.with_item(_globals(100_000))


@hostile("bombs", 3, "globals")
def thousands_of_globals_that_are_called() -> bytes:
    calls = (a_call(f"fork.m{number}", "Thing") for number in range(4_000))
    return ZIP.with_item(a_list(*calls))


@hostile("bombs", 3, "globals")
def thousands_of_globals_in_a_legacy_file() -> bytes:
    old = legacy()
    many = program({**old.saved, "extra": Raw(_globals(5_000))})
    listed = PROTOCOL_2 + a_list(*map(text, old.storages)) + b"."
    return old.preamble + many + listed + b"".join(old.storages.values())


@hostile("bombs", 0, "")
def a_hundred_globals() -> bytes:
    return ZIP.with_item(_globals(100), "extra_state")


# ---------------------------------------------------------------------------------------------------------------
# What is hashed, where the file chooses the hash


def _complex(number: int) -> bytes:
    """Its hash is that of the real part and 1000003 times that of the imaginary one: always 7 here."""
    return a_call("builtins", "complex", plainly(float(7 - sys.hash_info.imag * number)), plainly(float(number)))


def _size(number: int) -> bytes:
    """Each place has one of four numbers whose hashes are all 0."""
    places = ((number >> (2 * place)) & 3 for place in range(8))
    return a_call("torch", "Size", a_tuple(*(plainly(place * MODULUS) for place in places)))


_COLLIDING: dict[str, Callable[[int], bytes]] = {
    "negative_integers": lambda number: plainly(-number * MODULUS),
    "floats": lambda number: plainly(float(number << 70)),
    "complex_numbers": _complex,
    "tuples": lambda number: a_tuple(plainly(number * MODULUS)),
    "pairs_of_tuples": lambda number: a_tuple(b"N", a_tuple(plainly(number * MODULUS), b"N")),
    "sizes": _size,
}
_COUNT = 40_000
for _name, _key in _COLLIDING.items():
    add(
        f"{_name}_that_collide_as_keys",
        "bombs",
        3,
        "collide",
        writing(lambda key: ZIP.with_item(a_dict(*(key(number) + b"N" for number in range(1, _COUNT)))), _key),
    )
    add(
        f"{_name}_that_collide_in_a_set",
        "bombs",
        3,
        "collide",
        writing(lambda key: ZIP.with_item(a_call("builtins", "set", a_list(*map(key, range(1, _COUNT))))), _key),
    )


@hostile("bombs", 3, "collide")
def integers_that_collide_in_a_counter() -> bytes:
    keys = a_dict(*(plainly(number * MODULUS) + b"N" for number in range(1, _COUNT)))
    return ZIP.with_item(a_call("collections", "Counter", keys))


@hostile("bombs", 3, "collide")
def integers_that_collide_in_an_ordered_dict() -> bytes:
    items = b"".join(plainly(number * MODULUS) + b"N" for number in range(1, _COUNT))
    return ZIP.with_item(a_call("collections", "OrderedDict") + b"(" + items + b"u")


@hostile("bombs", 3, "collide")
def integers_that_collide_one_by_one() -> bytes:
    return ZIP.with_item(b"}" + b"".join(plainly(number * MODULUS) + b"Ns" for number in range(1, _COUNT)))


@hostile("bombs", 3, "collide")
def integers_that_collide_in_a_stand_ins_state() -> bytes:
    keys = a_dict(*(plainly(number * MODULUS) + b"N" for number in range(1, _COUNT)))
    return ZIP.with_item(a_call("fork", "Meter") + keys + b"b")


@hostile("bombs", 3, "hash|collide|reference")
def long_tuple_that_is_hashed_often() -> bytes:
    long = a_tuple(*[b"K\x01"] * 200_000) + _PUT
    return ZIP.with_item(a_list(long, *[a_dict(_GET, b"N")] * 9_000))


@hostile("bombs", 3, "hash|collide|reference")
def long_size_that_is_hashed_often() -> bytes:
    long = a_call("torch", "Size", a_tuple(*[b"K\x01"] * 64)) + _PUT
    return ZIP.with_item(a_list(long, *[b"}(" + (_GET + b"N") * 200 + b"u"] * 5_000))


@hostile("bombs", 3, "hash|collide|reference")
def doubled_tuple_as_a_key() -> bytes:
    return ZIP.with_item(a_dict(doubled(26).replace(b"]", b")", 1), b"N"))


@hostile("bombs", 3, "hash|collide|reference")
def doubled_tuple_that_is_hashed_often() -> bytes:
    once = doubled(18).replace(b"]", b")", 1) + _PUT
    return ZIP.with_item(a_list(once, *[a_dict(_GET, b"N")] * 400))


# ---------------------------------------------------------------------------------------------------------------
# Copies


@hostile("bombs", 3, "would build|copies|reference")
def list_that_is_copied_into_many_sets() -> bytes:
    long = a_list(*(plainly(number) for number in range(50_000))) + _PUT
    return ZIP.with_item(a_list(long, *[a_call("builtins", "set", _GET)] * 2_000))


@hostile("bombs", 3, "would build|copies|reference")
def dict_that_is_copied_into_many_counters() -> bytes:
    long = a_dict(*(plainly(number) + b"N" for number in range(50_000))) + _PUT
    return ZIP.with_item(a_list(long, *[a_call("collections", "Counter", _GET)] * 2_000))


@hostile("bombs", 3, "would build|copies|reference")
def dict_that_is_the_state_of_many_stand_ins() -> bytes:
    long = b"}(" + numbers(50_000, b"N").opcodes + b"u" + _PUT
    return ZIP.with_item(a_list(long, *[a_call("fork", "Meter") + _GET + b"b"] * 3_000))


@hostile("bombs", 3, "would build|copies|reference|sets the state")
def dict_that_is_the_state_of_one_stand_in_often() -> bytes:
    long = b"}(" + numbers(50_000, b"N").opcodes + b"u" + _PUT
    return ZIP.with_item(a_list(long, a_call("fork", "Meter") + (_GET + b"b") * 20_000))


@hostile("bombs", 3, "would build|copies|reference")
def list_that_is_the_argument_of_many_deques() -> bytes:
    long = a_list(*(plainly(number) for number in range(50_000))) + _PUT
    return ZIP.with_item(a_list(long, *[a_call("collections", "deque", _GET) + b"Na"] * 3_000))


@hostile("bombs", (3, 4), "deeper or larger|w2v_args|w2v_path|architecture")
def flat_config_in_a_flat_config_in_a_flat_config() -> bytes:
    def flat(depth: int) -> dict[str, Any]:
        config: dict[str, Any] = {f"k{number}": number for number in range(1_000)}
        return {**config, "w2v_args": flat(depth - 1)} if depth else config

    return ZIP.with_saved({**ZIP.saved(), "cfg": None, "args": made_namespace(flat(40))})


@hostile("bombs", 3, "nests|deeper")
def a_thousand_flat_configs_in_one_another() -> bytes:
    config: dict[str, Any] = {"arch": "wav2vec_ctc"}
    body = opcodes(config)
    for _ in range(1_000):
        body = a_dict(text("arch"), text("wav2vec_ctc"), text("w2v_args"), body)
    return ZIP.with_saved({**ZIP.saved(), "cfg": None, "args": Raw(body)})


@hostile("bombs", (3, 4), "deeper or larger|w2v_args|itself")
def flat_config_that_is_its_own_architecture() -> bytes:
    body = a_call("argparse", "Namespace") + _PUT + a_dict(text("arch"), text("x"), text("w2v_args"), _GET) + b"b"
    return ZIP.with_saved({**ZIP.saved(), "cfg": None, "args": Raw(body)})


def made_namespace(values: dict[str, Any]) -> Any:
    """An argparse namespace with these attributes."""
    namespace = made("argparse", "Namespace")
    namespace.state = values
    return namespace


# ---------------------------------------------------------------------------------------------------------------
# What interpolations may cost, in steps and in bytes

_TOO_MUCH = (3, 4)
_INTERPOLATIONS = {
    "of_a_megabyte": "${" + "a." * 500_000 + "a}",
    "that_nest_a_thousand_deep": "${task." * 1_000 + "x" + "}" * 1_000,
    "that_never_end": "${" * 500_000,
    "that_follow_one_another": "${task.data}" * 100_000,
    "that_quote": "${x:'" + "\\'" * 500_000 + "'}",
    "that_list": "${x:" + "[" * 100_000 + "]" * 100_000 + "}",
    "that_escape": "\\" * 500_000 + "${task.data}",
    "that_are_relative": "${" + "." * 100_000 + "data}",
    "with_brackets": "${task" + "[0]" * 100_000 + "}",
    "with_dots_only": "${" + "." * 50 + "}",
    "that_call_with_a_megabyte": "${oc.env:" + "x" * 2**20 + "}",
}
for _name, _value in _INTERPOLATIONS.items():
    add(
        f"interpolations_{_name}",
        "bombs",
        _TOO_MUCH,
        "normalize|interpolation",
        writing(lambda value: changed_cfg(lambda cfg: cfg["task"].update(normalize=value)), _value),
    )
    add(
        f"unused_interpolations_{_name}",
        "bombs",
        (0, *_TOO_MUCH),
        "wandb_project|interpolation|text of|characters",
        writing(lambda value: changed_cfg(lambda cfg: cfg["common"].update(wandb_project=value)), _value),
    )


@hostile("bombs", _TOO_MUCH, "refers to|normalize|interpolation")
def interpolations_that_double() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        cfg["common"].update(
            {f"k{number}": f"${{common.k{number + 1}}}${{common.k{number + 1}}}" for number in range(40)}
        )
        cfg["common"]["k40"] = "x" * 1_000
        cfg["task"]["normalize"] = "${common.k0}"

    return changed_cfg(change)


@hostile("bombs", _TOO_MUCH, "w2v_args|refers to|interpolation")
def interpolation_of_the_section_that_holds_it() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(w2v_args="${model}"))


@hostile("bombs", _TOO_MUCH, "w2v_args|refers to|interpolation")
def interpolations_of_sections_that_hold_one_another() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        cfg["model"]["w2v_args"] = {"model": "${bpe}"}
        cfg["bpe"] = {"inner": "${scoring}", "_name": "wav2vec2"}
        cfg["scoring"] = {"inner": "${bpe}"}

    return changed_cfg(change)


@hostile("bombs", (0, *_TOO_MUCH), "refers to|interpolation|mask_")
def every_key_at_the_end_of_a_long_row_of_interpolations() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        cfg["common"].update({f"k{number}": f"${{common.k{number + 1}}}" for number in range(900)})
        cfg["common"]["k900"] = 0
        cfg["model"].update({key: "${common.k0}" for key in cfg["model"] if key.startswith("mask_")})

    return changed_cfg(change)


@hostile("bombs", _TOO_MUCH, "normalize|larger than")
def interpolation_of_a_section_with_forty_thousand_keys() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        cfg["bpe"] = {numbers(40_000, b"N"): Raw(b"")}
        cfg["task"]["normalize"] = "${bpe}"

    return changed_cfg(change)


# ---------------------------------------------------------------------------------------------------------------
# Long texts, in values, keys, names and messages

_LONG = "long" * 2**18
_GIANT_LIST = Raw(a_list(*[b"K\x01"] * 40_000))
_GIANT_TEXTS = Raw(a_list(text(_LONG * 3) + _PUT, *[_GET] * 40_000))

_GIANTS: dict[str, Any] = {
    "text_of_a_megabyte": _LONG,
    "list_of_forty_thousand": _GIANT_LIST,
    "list_of_long_texts": _GIANT_TEXTS,
    "dict_of_long_texts": Raw(
        a_dict(text("a"), text(_LONG * 3) + _PUT, *(text(f"k{n}") + _GET for n in range(20_000)))
    ),
    "integer_of_seventeen_bytes": 2**130,
}
_KEYS = {
    "blank_weight": lambda cfg: cfg["model"],
    "blank_mode": lambda cfg: cfg["model"],
    "layerdrop": lambda cfg: cfg["model"],
    "sample_rate": lambda cfg: cfg["task"],
    "conv_feature_layers": lambda cfg: cfg["model"]["w2v_args"]["model"],
}


def _giant(key: str, value: Any) -> Callable[[], bytes]:
    return lambda: changed_cfg(lambda cfg: _KEYS[key](cfg).update({key: value}))


for _key_name in _KEYS:
    for _name, _value in _GIANTS.items():
        add(
            f"{_key_name}_that_is_a_{_name}",
            "bombs",
            (0, *_TOO_MUCH) if _key_name == "blank_mode" else _TOO_MUCH,  # the weight is 0: no mode has an effect
            rf"\b{_key_name}\b|larger than",
            writing(_giant(_key_name, _value)),
        )

_NAMED_BY_A_TEXT: dict[str, Callable[[dict[str, Any]], object]] = {
    "labels": lambda cfg: cfg["task"].update(labels=_LONG),
    "post_process": lambda cfg: cfg["criterion"].update(post_process=_LONG),
    "best_checkpoint_metric": lambda cfg: cfg["checkpoint"].update(best_checkpoint_metric=_LONG),
    "mask_selection": lambda cfg: cfg["model"].update(mask_selection=_LONG),
}
for _name, _change in _NAMED_BY_A_TEXT.items():
    add(
        f"{_name}_of_a_megabyte",
        "bombs",
        (0, *_TOO_MUCH),
        _name,
        writing(changed_cfg, _change),
    )


@hostile("bombs", (3, 4), "longlong|w2v_args|_name|architecture|conformer")
def model_name_of_a_megabyte() -> bytes:
    def change(cfg: dict[Any, Any]) -> None:
        cfg["model"]["_name"] = cfg["model"]["w2v_args"]["model"]["_name"] = _LONG
        cfg["model"]["w2v_args"]["model"]["layer_norm_first"] = False

    return changed_cfg(change)


@hostile("bombs", (0, 3), "key|text of|characters")
def cfg_key_of_a_megabyte() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({_LONG: 1}))


@hostile("bombs", (0, 3), "key|text of|characters|larger")
def thousands_of_unknown_cfg_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({f"unknown_{'x' * 400}_{number}": 1 for number in range(9_000)}))


@hostile("bombs", 3, "no state dict")
def root_keys_of_a_megabyte_and_no_model() -> bytes:
    saved = ZIP.saved()
    del saved["model"]
    return ZIP.with_saved({_LONG + str(number): None for number in range(4)} | saved)


@hostile("bombs", 3, "has a name that no tensor has")
def twenty_thousand_tensors_with_long_names() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        tensors.update({f"{'x' * 350}{number}": tensors[HEAD] for number in range(20_000)})

    return changed_model(change)


@hostile("bombs", 4, "is not one of a ")
def twenty_thousand_tensors_that_no_model_has() -> bytes:
    def change(tensors: dict[str, Any]) -> None:
        tensors.update({f"{'x' * 250}{number}": tensors[HEAD] for number in range(20_000)})

    return changed_model(change)


@hostile("bombs", 3, "not a tensor")
def thousands_of_values_that_are_no_tensors() -> bytes:
    return changed_model(lambda tensors: tensors.update({numbers(50_000, a_global("fork", "x")): Raw(b"")}))


@hostile("bombs", 3, "names code")
def thousands_of_names_of_code() -> bytes:
    return ZIP.with_item(a_list(*(a_global("os", f"{'x' * 400}{number}") for number in range(3_000))))


@hostile("bombs", 3, "has no record")
def thousands_of_storages_without_a_record() -> bytes:
    return ZIP.with_item(a_list(*(a_storage("x" * 200 + str(number), 4) for number in range(20_000))))


# ---------------------------------------------------------------------------------------------------------------
# Records, and files that are much larger than what is in them


@hostile_place("bombs", 3, "records")
def zip_of_half_a_million_records(path: Path) -> None:
    count = 500_000
    names = [b"archive/x/%06d" % number for number in range(count)]
    start = zipped(ZIP.parts())
    directory_at = struct.unpack_from("<L", start, len(start) - 6)[0]
    end = len(start) - 22
    file, entries, at = [start[:directory_at]], [start[directory_at:end]], directory_at
    for name in names:
        file.append(struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name)
        entries.append(
            struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, at) + name
        )
        at += 30 + len(name)
    directory = b"".join(entries)
    whole = count + len(ZIP.records)
    tail = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, whole, whole, len(directory), at)
    tail += struct.pack("<4sLQL", b"PK\x06\x07", 0, at + len(directory), 1)
    tail += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"".join(file) + directory + tail)


_GIGABYTES = 300 * 10**9


def _with_giant_tensor(path: Path, change: Callable[[dict[str, Any]], object], *, in_the_model: bool) -> None:
    """A sparse file with a tensor of 300 GB, and something wrong elsewhere."""
    saved = ZIP.saved()
    change(saved)
    elements = _GIGABYTES // 4
    giant = altered(head(), storage=_storage("giant", elements), size=(elements,), stride=(1,))
    where = model(saved) if in_the_model else saved
    where["w2v_encoder.w2v_model.giant"] = giant
    sparsely_zipped(path, ZIP.parts({"data.pkl": program(saved)}), "archive/data/giant", 4 * elements, crc32=7)


def _storage(key: str, elements: int) -> Any:
    tensor = head()
    return type(tensor.arguments[0])(("storage", tensor.arguments[0].identity[1], key, "cpu", elements))


@hostile_place("bombs", 4, "giant")
def sparse_tensor_of_300_gigabytes_of_no_conformer(path: Path) -> None:
    _with_giant_tensor(path, lambda _saved: None, in_the_model=True)


@hostile_place("bombs", 4, "conv_feature_layers")
def sparse_tensor_of_300_gigabytes_and_a_wrong_config(path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["model"]["w2v_args"]["model"]["conv_feature_layers"] = "x"

    _with_giant_tensor(path, change, in_the_model=True)


@hostile_place("bombs", 3, "has a name that no tensor has")
def sparse_tensor_of_300_gigabytes_and_a_wrong_name(path: Path) -> None:
    _with_giant_tensor(path, lambda saved: model(saved).update({"\n": head()}), in_the_model=True)


@hostile_place("bombs", 3, "os.system")
def sparse_tensor_of_300_gigabytes_and_code(path: Path) -> None:
    _with_giant_tensor(path, lambda saved: saved.update(x=Raw(a_global("os", "system"))), in_the_model=True)


@hostile_place("bombs", 0, "")
def sparse_tensor_of_300_gigabytes_that_is_no_models(path: Path) -> None:
    _with_giant_tensor(path, lambda _saved: None, in_the_model=False)


_GAIN = "wav2vec2_conformer.encoder.pos_conv_embed.conv.weight_g"
_POSITIONS = "wav2vec2_conformer.encoder.pos_conv_embed.conv.weight_v"


def _tar_header(kind: bytes, size: int) -> bytes:
    """The first block of a tar whose first member claims this size, from its 100th byte on."""
    fields = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0" + b" " * 8 + kind + bytes(100)
    fields += b"ustar\x0000" + bytes(247)
    return fields[:412]


def _legacy_and_tar(kind: bytes, size: int) -> bytes:
    """The preamble of a legacy file whose third pickle holds a tar's first block at the right place."""
    old = legacy()
    magic_and_version = old.preamble[:21]
    begin = PROTOCOL_2 + b"}(" + text("little_endian") + b"\x88" + text("protocol_version") + b"M\xe9\x03" + text("x")
    length = 512 - len(magic_and_version) - len(begin) - 5
    at = len(magic_and_version) + len(begin) + 5
    content = b" " * (100 - at) + _tar_header(kind, size)
    assert len(content) == length
    block = magic_and_version + begin + b"X" + struct.pack("<I", length) + content
    checksum = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return block[:148] + checksum + block[156:] + b"u."


def _legacy_tar(kind: bytes) -> Callable[[Path], object]:
    """A legacy file with 6 GB of zeros in a storage of its own, which a tar's first member claims."""
    size = 6 * 10**9

    def make(path: Path) -> None:
        old = legacy()
        elements = size // 4
        saved = {
            **old.saved,
            "extra": altered(
                model(old.saved)[HEAD], storage=_legacy_storage(old.saved, elements), size=(1,), stride=(1,)
            ),
        }
        listed = PROTOCOL_2 + a_list(*map(text, [*old.storages, "giant"])) + b"."
        start = _legacy_and_tar(kind, size) + program(saved) + listed + b"".join(old.storages.values())
        with path.open("wb") as file:
            file.write(start + struct.pack("<q", elements))
            file.truncate(len(start) + 8 + 4 * elements)

    return make


def _legacy_storage(saved: dict[str, Any], elements: int) -> Any:
    storage = model(saved)[HEAD].arguments[0]
    return type(storage)(("storage", storage.identity[1], "giant", "cpu", elements, None))


for _name, _kind in (("pax_headers", b"x"), ("a_long_name", b"L"), ("a_long_link", b"K"), ("a_file", b"0")):
    add(f"legacy_file_that_is_a_tar_with_{_name}", "bombs", (0, 3), r"\btar\b", _legacy_tar(_kind))


@hostile_place("bombs", (0, 4), "conv_pos", changed={_POSITIONS: 0.0, _GAIN: 0.0})
def transposed_tensor_of_160_megabytes(path: Path) -> None:
    name = "w2v_encoder.w2v_model.encoder.pos_conv.0.weight_v"
    saved = ZIP.saved()
    tensors = model(saved)
    rows, columns, _kernel = tensors[name].arguments[2]
    kernel = 400_000
    elements = rows * columns * kernel
    size, stride = (rows, columns, kernel), (1, rows, rows * columns)
    tensors[name] = altered(tensors[name], storage=_storage("giant", elements), size=size, stride=stride)
    gain = name.replace("weight_v", "weight_g")
    tensors[gain] = altered(tensors[gain], storage=_storage("gain", kernel), size=(1, 1, kernel), stride=(1, 1, 1))
    saved["cfg"]["model"]["w2v_args"]["model"]["conv_pos"] = kernel
    crc32 = 0
    for _ in range(elements * 4 // 10**6):
        crc32 = zlib.crc32(bytes(10**6), crc32)
    parts = ZIP.parts({"data.pkl": program(saved), "data/gain": bytes(4 * kernel)})
    sparsely_zipped(path, parts, "archive/data/giant", 4 * elements, crc32=crc32)


# ---------------------------------------------------------------------------------------------------------------
# Sizes that lead to more


for _name, _source in {
    "multiplied_in_one_another": "(" * 12 + "[(12, 3, 2)]" + " * 9)" * 12,
    "multiplied_by_a_huge_number": "[(12, 3, 2)] * 10" + "0" * 4_000,
    "of_huge_kernels": "[(12, 1000000000, 5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "of_huge_strides": "[(12, 10, 1000000000)] + [(12, 3, 1000000000)] * 4 + [(12, 2, 2)] * 2",
    "with_strides_of_zero": "[(12, 10, 0)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "with_negative_strides": "[(12, 10, -5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "with_kernels_of_zero": "[(12, 0, 5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "without_channels": "[(0, 10, 5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "with_truths": "[(True, True, True)]",
    "that_are_empty": "[]",
    "of_nothing": "",
    "with_nulls": "[(12, 10, 5)]\0",
    "with_surrogates": "[(12, 10, 5)]\ud800",
    "with_fractions": "[(12, 10, 2.5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    "in_other_digits": "[(\uff11\uff12, 10, 5)]",
}.items():
    add(
        f"convolutions_{_name}",
        "values",
        4,
        "conv_feature_layers",
        writing(changed_convolutions, _source),
    )
