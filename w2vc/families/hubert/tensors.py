"""The target ``Hubert…``: its classes, and its tensors with weight norm or batch norm in the positional convolution.

Sources: ``transformers/models/hubert/configuration_hubert.py`` and ``modeling_hubert.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from w2vc.families.family import Facts, Target, TargetTensor
from w2vc.families.shared import tensors as shared
from w2vc.families.shared import transformer
from w2vc.families.shared.tensors import Config, weight_and_bias

PREFIX = "hubert."


def _batch_norm_conv(config: Config) -> Iterator[TargetTensor]:
    """Give ``HubertPositionalConvEmbedding``'s tensors where its input is normalized over the batch."""
    hidden, name = config["hidden_size"], "encoder.pos_conv_embed"
    yield from weight_and_bias(f"{name}.batch_norm", hidden)
    yield TargetTensor(f"{name}.batch_norm.running_mean", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.running_var", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.num_batches_tracked", (), "int64")
    channels = hidden // config["num_conv_pos_embedding_groups"]
    yield from weight_and_bias(f"{name}.conv", hidden, channels, config["num_conv_pos_embeddings"])


def _encoder(config: Config) -> Iterator[TargetTensor]:
    yield from (_batch_norm_conv if config["conv_pos_batch_norm"] else shared.weight_norm_conv)(config)
    yield from transformer.layers(config)


TARGET = Target(
    model_type="hubert",
    config_class="HubertConfig",
    prefix=PREFIX,
    classes={"ctc": "HubertForCTC", "projection": "HubertModel", "none": "HubertModel"},
    tensors=shared.model(PREFIX, _encoder),
    constants={**shared.CONSTANTS, "feat_proj_layer_norm": True},
    head_fields={**shared.HEAD_FIELDS, "projection": frozenset({"classifier_proj_size"})},
    free=shared.FREE,
    repeatable={},
    # The projection that voice conversion takes is in no class of transformers'.
    beyond={"projection": ("final_proj.weight", "final_proj.bias")},
)


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the fields that follow from several facts."""
    return {"vocab_size": facts["vocabulary"], "classifier_proj_size": facts["projection_width"]}
