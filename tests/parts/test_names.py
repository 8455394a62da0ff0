"""Each family's table of names is a function, and one-to-one."""

from __future__ import annotations

import functools

import pytest

from tests.conftest import EVERY, EXAMPLES, FINE_TUNED, PRETRAINED, REFUSED, STRANGERS, checkpoint, options
from w2vc.families import FAMILIES
from w2vc.families.family import Name
from w2vc.families.interpreter import Description, encoder_name, name_table
from w2vc.options import Options
from w2vc.planning.preparation import read_and_describe
from w2vc.reading.checkpoint import Checkpoint

KNOWN = [name for name in EVERY if name not in STRANGERS]
# Tensors that only a refused model has.
UNKNOWN = ("project_inp.", "input_quantizer.")
# One of each layer in fairseq, and one in transformers.
SEVERAL = "embed_positions.inv_freq"


@functools.cache
def read(name: str) -> tuple[Checkpoint, Description]:
    found, _, description = read_and_describe(checkpoint(name), Options(**options(name)))
    return found, description


def rows(description: Description) -> tuple[Name, ...]:
    return description.family.names(description.facts)


@pytest.mark.parametrize("name", KNOWN)
def test_each_tensor_is_named_by_exactly_one_row(name: str) -> None:
    found, description = read(name)
    table = name_table(rows(description))
    for tensor in found.tensors:
        matching = [row for row, _ in table.rows(encoder_name(tensor))]
        assert len(matching) == 1 or (name in REFUSED and tensor.startswith(UNKNOWN)), (tensor, matching)


@pytest.mark.parametrize("name", KNOWN)
def test_no_two_tensors_get_one_name_but_the_rotary_frequencies(name: str) -> None:
    found, description = read(name)
    table, prefix = name_table(rows(description)), description.target.prefix
    named = [table.named(tensor, prefix) for tensor in found.tensors]
    targets = [each.target for each in named if each is not None and each.target is not None]
    twice = {target for target in targets if targets.count(target) > 1}
    assert all(target.endswith(SEVERAL) for target in twice), twice


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_dropped_says_why(name: str) -> None:
    for row in rows(read(name)[1]):
        assert bool(row.reason) == (row.target is None), row


@pytest.mark.parametrize("examples", [PRETRAINED, FINE_TUNED])
def test_every_family_has_an_example(examples: tuple[str, ...]) -> None:
    assert sorted(read(name)[1].family.name for name in examples) == sorted(family.name for family in FAMILIES)


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.00.final_layer_norm.weight",
        "encoder.layers.1.final_layer_norm.weight.more",
        "more.encoder.layer_norm.weight",
        "w2v_encoder.w2v_model.w2v_encoder.w2v_model.mask_emb",
        "encoder.layers.x.final_layer_norm.weight",
        "encoder.layers.1.ffn3.w_1.weight",
        "encoder.layers.1.fc3.weight",
        "mask_embedding",
        "",
    ],
)
def test_a_name_that_only_resembles_one_of_the_table_is_not_known(name: str, example: str) -> None:
    description = read(example)[1]
    assert name_table(rows(description)).named(name, description.target.prefix) is None


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_encoder_alone_has_bare_names(example: str) -> None:
    description = read(example)[1]
    table, target = name_table(rows(description)), description.target
    with_head = table.named("encoder.layer_norm.weight", target.prefix_for("ctc"))
    alone = table.named("encoder.layer_norm.weight", target.prefix_for("none"))
    assert with_head is not None
    assert alone is not None
    assert with_head.target == f"{target.prefix}{alone.target}"
