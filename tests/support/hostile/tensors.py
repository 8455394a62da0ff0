"""Storages, tensors and their names that aren't what they claim to be."""

from __future__ import annotations

import struct
from typing import Any

from tests.support.forgery import Made, Raw, a_call, a_global, a_tuple, altered, text
from tests.support.hostile.cases import (
    HEAD,
    ZIP,
    a_kind,
    changed_model,
    filled,
    head,
    head_storage,
    hostile,
    one_tensor,
)


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


@hostile("bombs", 4, "is not one of a |is not one of any")
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


@hostile("lies", 3, "strides")
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


@hostile("lies", 4, "is not one of a |is not one of any")
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


@hostile("lies", 3, "the checksum of")
def not_a_number_with_a_wrong_checksum() -> bytes:
    name = f"data/{head().arguments[0].key}"
    return ZIP.with_part(name, data=b"\xff" * len(ZIP.records[name]), crc32=7)


@hostile("lies", 0, HEAD, changed={"lm_head.weight": float("nan")})
def weights_that_are_not_numbers() -> bytes:
    return filled(struct.pack("<f", float("nan")))


@hostile("lies", 0, HEAD, changed={"lm_head.weight": float("-inf")})
def weights_that_are_infinite() -> bytes:
    return filled(struct.pack("<f", float("-inf")))
