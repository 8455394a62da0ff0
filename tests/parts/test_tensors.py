"""The targets' tensors and fields are those of transformers' own models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import CONVERTIBLE, checkpoint, options
from w2vc.families import FAMILIES
from w2vc.families.conformer.tensors import TARGET as CONFORMER
from w2vc.families.data2vec_audio.tensors import OWN_TARGET as DATA2VEC_AUDIO
from w2vc.families.family import Head, Target
from w2vc.families.hubert.tensors import TARGET as HUBERT
from w2vc.families.wav2vec2.tensors import TARGET as WAV2VEC2
from w2vc.options import Options
from w2vc.planning.preparation import read_and_describe

pytestmark = pytest.mark.whole

CONFIG: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "conv_dim": [6, 10, 14],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_length": 7,
    "mask_feature_length": 9,
    "vocab_size": 11,
    "num_codevectors_per_group": 5,
    "num_codevector_groups": 2,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
    "classifier_proj_size": 13,
}
NORMS = ("layer", "group")
MASKS = ((0.65, 0.0), (0.0, 0.25), (0.0, 0.0))

TARGETS: tuple[tuple[Target, tuple[dict[str, Any], ...], tuple[str, ...]], ...] = (
    (
        CONFORMER,
        tuple(
            {"position_embeddings_type": kind, "conv_depthwise_kernel_size": 5, "num_conv_pos_embeddings": 18}
            for kind in ("relative", "rotary", None)
        ),
        NORMS,
    ),
    (
        WAV2VEC2,
        tuple({"do_stable_layer_norm": stable, "num_conv_pos_embeddings": 18} for stable in (False, True)),
        NORMS,
    ),
    (
        HUBERT,
        tuple(
            {"do_stable_layer_norm": stable, "conv_pos_batch_norm": batch_norm, "num_conv_pos_embeddings": 18}
            for stable, batch_norm in itertools.product((False, True), (False, True))
        ),
        NORMS,
    ),
    (
        DATA2VEC_AUDIO,
        tuple({"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": kernel} for depth, kernel in ((2, 6), (5, 3))),
        ("layer",),
    ),
)
"""Each target, the fields of its own that decide about tensors, and the norms that its extractor may have."""


def cases() -> Iterator[tuple[Target, Head, dict[str, Any]]]:
    for target, own_fields, norms in TARGETS:
        for own, head, norm, conv_bias, masks in itertools.product(
            own_fields, target.classes, norms, (False, True), MASKS
        ):
            masking = {"mask_time_prob": masks[0], "mask_feature_prob": masks[1]}
            yield target, head, {**own, "feat_extract_norm": norm, "conv_bias": conv_bias, **masking}


def shown(value: object) -> str | None:
    if isinstance(value, Target):
        return value.model_type
    return "-".join(map(str, value.values())) if isinstance(value, dict) else None


@pytest.mark.parametrize(("target", "head", "fields"), list(cases()), ids=shown)
def test_names_and_shapes_are_those_of_transformers_own_model(
    target: Target, head: Head, fields: dict[str, Any]
) -> None:
    values = {key: value for key, value in {**target.constants, **CONFIG, **fields}.items() if key not in target.lacks}
    with torch.device("meta"):
        model: Any = getattr(transformers, target.classes[head])(config_of(target, values))
    theirs = {_older(name): (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    ours = {
        tensor.name: (tensor.shape, torch.int64 if tensor.kind == "int64" else torch.float32)
        for tensor in target.tensors(values, head)
    }
    beyond = set(target.beyond.get(head, ()))
    assert beyond == ours.keys() - theirs.keys()
    assert {name: tensor for name, tensor in ours.items() if name not in beyond} == theirs


def test_every_target_of_every_fixture_is_among_these() -> None:
    known = {target.model_type for target, _, _ in TARGETS}
    descriptions = [read_and_describe(checkpoint(name), Options(**options(name)))[2] for name in CONVERTIBLE]
    assert {description.target.model_type for description in descriptions} == known
    assert {description.family.name for description in descriptions} == {family.name for family in FAMILIES}


def config_of(target: Target, values: Mapping[str, Any]) -> Any:
    return getattr(transformers, target.config_class)(**values)


def _older(name: str) -> str:
    """The names of weight norm's factors that every version of transformers reads; new ones rename them in loading."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_transformers_keeps_every_value_of_the_config(name: str) -> None:
    _, _, description = read_and_describe(checkpoint(name), Options(**options(name)))
    for head in {description.own_head, *description.further_heads, "none"} & description.target.classes.keys():
        values = description.config(head, "float32")
        config = config_of(description.target, values)
        kept = config.to_dict()
        # The dtype is spelled as torch's own in memory, and under either name.
        for key in values.keys() - {"torch_dtype"}:
            found = getattr(config, key)
            assert (list(found) if isinstance(found, tuple) else found) == values[key], key
        assert "float32" in str(kept.get("dtype", kept.get("torch_dtype")))
