"""The targets' tensors and fields are those of transformers' own models."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import CONVERTIBLE, checkpoint
from w2vc.families.conformer.tensors import TARGET
from w2vc.families.family import Head
from w2vc.families.interpreter import describe
from w2vc.reading.checkpoint import read_checkpoint

CONFIG: dict[str, Any] = {
    **TARGET.constants,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "position_embeddings_type": "relative",
    "conv_depthwise_kernel_size": 5,
    "feat_extract_norm": "layer",
    "conv_dim": [6, 10, 14],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "conv_bias": False,
    "num_conv_pos_embeddings": 18,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.65,
    "mask_time_length": 7,
    "mask_feature_prob": 0.25,
    "mask_feature_length": 9,
    "vocab_size": 11,
    "num_codevectors_per_group": 5,
    "num_codevector_groups": 2,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
}

ATTENTIONS = ("relative", "rotary", None)
HEADS: tuple[Head, ...] = ("ctc", "pretraining", "none")
MASKS = ((0.65, 0.0), (0.0, 0.25), (0.0, 0.0))


@pytest.mark.parametrize(
    ("attention", "head", "norm", "conv_bias", "masks"),
    list(itertools.product(ATTENTIONS, HEADS, ("layer", "group"), (False, True), MASKS)),
)
def test_names_and_shapes_are_those_of_transformers_own_model(
    attention: str | None, head: Head, norm: str, conv_bias: bool, masks: tuple[float, float]
) -> None:
    values = {
        **CONFIG,
        "position_embeddings_type": attention,
        "feat_extract_norm": norm,
        "conv_bias": conv_bias,
        "mask_time_prob": masks[0],
        "mask_feature_prob": masks[1],
    }
    with torch.device("meta"):
        model: Any = getattr(transformers, TARGET.classes[head])(_config(values))
    theirs = {_older(name): (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    ours = {
        tensor.name: (tensor.shape, torch.int64 if tensor.kind == "int64" else torch.float32)
        for tensor in TARGET.tensors(values, head)
    }
    assert ours == theirs


def _config(values: dict[str, Any]) -> Any:
    return transformers.Wav2Vec2ConformerConfig(**values)


def _older(name: str) -> str:
    """The names of weight norm's factors that every version of transformers reads; new ones rename them in loading."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_transformers_keeps_every_value_of_the_config(name: str) -> None:
    description = describe(read_checkpoint(checkpoint(name)))
    values = description.config(description.own_head, "float32")
    config = _config(values)
    kept = config.to_dict()
    # The dtype is spelled as torch's own in memory, and under either name.
    for key in values.keys() - {"torch_dtype"}:
        found = getattr(config, key)
        assert (list(found) if isinstance(found, tuple) else found) == values[key], key
    assert "float32" in str(kept.get("dtype", kept.get("torch_dtype")))
