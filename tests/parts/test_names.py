"""The table of names is a function, and one-to-one."""

from __future__ import annotations

import pytest

from tests.conftest import EVERY, REFUSED, checkpoint
from w2vc.families.conformer.names import NAMES
from w2vc.families.conformer.tensors import PREFIX
from w2vc.families.family import Name
from w2vc.families.interpreter import Named, encoder_name, name_table
from w2vc.reading.checkpoint import read_checkpoint

OTHER_MODELS = {name for name in EVERY if name.startswith(("wav2vec2_", "hubert", "plain_", "wav2vec_", "contentvec_"))}
# Tensors that only a refused model has.
UNKNOWN = {"project_inp.", "input_quantizer."}


def matching_rows(source: str) -> list[Name]:
    return [row for row, _ in name_table(NAMES).rows(source)]


def target_name(source: str, *, with_head: bool) -> Named | None:
    return name_table(NAMES).named(source, PREFIX if with_head else "")


@pytest.mark.parametrize("name", [name for name in EVERY if name not in OTHER_MODELS])
def test_each_tensor_of_a_conformer_is_named_by_exactly_one_row(name: str) -> None:
    for tensor in read_checkpoint(checkpoint(name)).tensors:
        rows = matching_rows(encoder_name(tensor))
        assert len(rows) == 1 or (name in REFUSED and tensor.startswith(tuple(UNKNOWN))), (tensor, rows)


def test_no_two_tensors_of_a_checkpoint_get_one_name_but_the_rotary_frequencies() -> None:
    for name in EVERY:
        if name in OTHER_MODELS:
            continue
        targets = [
            found.target
            for tensor in read_checkpoint(checkpoint(name)).tensors
            if (found := target_name(tensor, with_head=True)) is not None and found.target is not None
        ]
        twice = {target for target in targets if targets.count(target) > 1}
        assert all(target.endswith("inv_freq") for target in twice), twice


def test_what_is_dropped_says_why() -> None:
    assert all(row.reason for row in NAMES if row.target is None)
    assert not any(row.reason for row in NAMES if row.target is not None)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.00.final_layer_norm.weight",
        "encoder.layers.1.final_layer_norm.weight.more",
        "more.encoder.layer_norm.weight",
        "w2v_encoder.w2v_model.w2v_encoder.w2v_model.mask_emb",
        "encoder.layers.x.final_layer_norm.weight",
        "encoder.layers.1.ffn3.w_1.weight",
        "mask_embedding",
        "",
    ],
)
def test_a_name_that_only_resembles_one_of_the_table_is_not_known(name: str) -> None:
    assert target_name(name, with_head=True) is None


def test_the_encoder_alone_has_bare_names() -> None:
    with_head = target_name("encoder.layer_norm.weight", with_head=True)
    alone = target_name("encoder.layer_norm.weight", with_head=False)
    assert with_head is not None
    assert alone is not None
    assert with_head.target == f"wav2vec2_conformer.{alone.target}"
