"""w2vc's idea of transformers' model is held against transformers' own."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
import transformers

from w2vc.families.conformer.architecture import Architecture, Attention, Head, Quantizer, Training
from w2vc.families.conformer.tensors import MODEL_CLASSES, config_values, target_tensors
from w2vc.families.conv_feature_layers import ConvLayer

TRAINING = Training(
    dropout=0.11,
    dropout_input=0.12,
    dropout_features=0.13,
    final_dropout=0.14,
    layerdrop=0.15,
    apply_mask=True,
    mask_prob=0.65,
    mask_length=7,
    mask_channel_prob=0.25,
    mask_channel_length=9,
    logit_temp=0.2,
    num_negatives=50,
    diversity_loss_weight=0.3,
    zero_infinity=True,
)
BASE = Architecture(
    own_head="ctc",
    attention="relative",
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    conv_layers=(ConvLayer(6, 10, 5), ConvLayer(10, 3, 2), ConvLayer(14, 2, 2)),
    conv_bias=False,
    group_norm=False,
    has_projection=True,
    depthwise_kernel=5,
    conv_pos=18,
    conv_pos_groups=4,
    deep_pos_conv=False,
    vocabulary=11,
    quantizer=Quantizer(vars=5, groups=2, vq_dim=8, final_dim=12),
    blank=None,
    normalize=True,
    sample_rate=16000,
    labels="ltr",
    post_process=None,
    training=TRAINING,
    notes=(),
    refusals=(),
)

ATTENTIONS: tuple[Attention, ...] = ("relative", "rotary", "plain")
HEADS: tuple[Head, ...] = ("ctc", "pretraining", "none")
MASKS = ((0.65, 0.0), (0.0, 0.25), (0.0, 0.0))


@pytest.mark.parametrize(
    ("attention", "head", "group_norm", "conv_bias", "masks"),
    list(itertools.product(ATTENTIONS, HEADS, (False, True), (False, True), MASKS)),
)
def test_names_and_shapes_are_those_of_transformers_own_model(
    attention: Attention, head: Head, group_norm: bool, conv_bias: bool, masks: tuple[float, float]
) -> None:
    architecture = dataclasses.replace(
        BASE,
        attention=attention,
        group_norm=group_norm,
        conv_bias=conv_bias,
        training=dataclasses.replace(TRAINING, mask_prob=masks[0], mask_channel_prob=masks[1]),
    )
    config = _config(config_values(architecture, head, "float32"))
    with torch.device("meta"):
        model: Any = getattr(transformers, MODEL_CLASSES[head])(config)
    theirs = {_older(name): (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    ours = {
        tensor.name: (tensor.shape, torch.int64 if tensor.kind == "int64" else torch.float32)
        for tensor in target_tensors(architecture, head)
    }
    assert ours == theirs


def _config(values: dict[str, Any]) -> Any:
    return transformers.Wav2Vec2ConformerConfig(**values)


def _older(name: str) -> str:
    """The names of weight norm's factors that every version of transformers reads; new ones rename them in loading."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize("head", HEADS)
def test_transformers_keeps_every_value_of_the_config(head: Head) -> None:
    values = config_values(BASE, head, "float32")
    config = _config(values)
    kept = config.to_dict()
    # The dtype is spelled as torch's own in memory, and under either name.
    for key in values.keys() - {"torch_dtype"}:
        found = getattr(config, key)
        assert (list(found) if isinstance(found, tuple) else found) == values[key], key
    assert "float32" in str(kept.get("dtype", kept.get("torch_dtype")))


def test_every_value_of_training_and_sizes_arrives_in_the_config() -> None:
    """Each field changed alone changes the config: none is read twice, and none is forgotten."""
    before = config_values(BASE, "pretraining", "float32") | config_values(BASE, "ctc", "float32")
    for field in dataclasses.fields(Training):
        value = getattr(TRAINING, field.name)
        changed = dataclasses.replace(TRAINING, **{field.name: not value if isinstance(value, bool) else value * 2})
        architecture = dataclasses.replace(BASE, training=changed)
        after = config_values(architecture, "pretraining", "float32") | config_values(architecture, "ctc", "float32")
        assert after != before, field.name
