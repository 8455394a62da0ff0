"""The target: which ``Wav2Vec2ConformerConfig`` the model has in transformers, and which tensors of which shape.

Sources: ``transformers/models/wav2vec2_conformer/configuration_wav2vec2_conformer.py`` and
``modeling_wav2vec2_conformer.py``. transformers itself is not imported: a test holds this module against its own model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from w2vc.families.conformer.architecture import Architecture, Head
from w2vc.families.conformer.names import TARGET_PREFIX

MODEL_CLASSES: dict[Head, str] = {
    "ctc": "Wav2Vec2ConformerForCTC",
    "pretraining": "Wav2Vec2ConformerForPreTraining",
    "none": "Wav2Vec2ConformerModel",
}


@dataclass(frozen=True)
class TargetTensor:
    """One tensor of the target model.

    Attributes:
        name: transformers' full name.
        shape: its sizes, outermost first.
        kind: ``weights`` follow the chosen dtype; ``float32`` and ``int64`` are fixed.
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "weights"


def config_values(architecture: Architecture, head: Head, dtype: str) -> dict[str, object]:
    """The contents of ``config.json``.

    Args:
        architecture: the model.
        head: the head to convert with.
        dtype: of the weights: ``float32``, ``float16`` or ``bfloat16``.
    """
    training = architecture.training
    values: dict[str, object] = {
        "architectures": [MODEL_CLASSES[head]],
        "model_type": "wav2vec2-conformer",
        # Understood by every version; the newer "dtype" only by new ones.
        "torch_dtype": dtype,
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        "num_attention_heads": architecture.num_attention_heads,
        "intermediate_size": architecture.intermediate_size,
        # fairseq/modules/conformer_layer.py hard-codes it.
        "hidden_act": "swish",
        "layer_norm_eps": 1e-05,
        "position_embeddings_type": None if architecture.attention == "plain" else architecture.attention,
        "conv_depthwise_kernel_size": architecture.depthwise_kernel,
        "feat_extract_norm": "group" if architecture.group_norm else "layer",
        "feat_extract_activation": "gelu",
        "conv_dim": [layer.dim for layer in architecture.conv_layers],
        "conv_kernel": [layer.kernel for layer in architecture.conv_layers],
        "conv_stride": [layer.stride for layer in architecture.conv_layers],
        "num_feat_extract_layers": len(architecture.conv_layers),
        "conv_bias": architecture.conv_bias,
        "num_conv_pos_embeddings": architecture.conv_pos,
        "num_conv_pos_embedding_groups": architecture.conv_pos_groups,
        # A conformer layer has one dropout and uses it everywhere (ConformerEncoderLayer.__init__).
        "hidden_dropout": training.dropout,
        "attention_dropout": training.dropout,
        "activation_dropout": training.dropout,
        "conformer_conv_dropout": training.dropout,
        "feat_proj_dropout": training.dropout_input,
        "feat_quantizer_dropout": training.dropout_features,
        "final_dropout": training.final_dropout,
        "layerdrop": training.layerdrop,
        "apply_spec_augment": training.apply_mask,
        "mask_time_prob": training.mask_prob,
        "mask_time_length": training.mask_length,
        # Wav2Vec2Model.apply_mask: min_masks=2 over time, none over channels.
        "mask_time_min_masks": 2,
        "mask_feature_prob": training.mask_channel_prob,
        "mask_feature_length": training.mask_channel_length,
        "mask_feature_min_masks": 0,
        # The blank of CTC is fairseq's <s>, index 0; transformers calls it <pad>.
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if head == "ctc":
        values["vocab_size"] = architecture.vocabulary
        values["ctc_zero_infinity"] = training.zero_infinity
        # fairseq/criterions/ctc.py sums.
        values["ctc_loss_reduction"] = "sum"
    if head == "pretraining" and architecture.quantizer is not None:
        values["num_codevectors_per_group"] = architecture.quantizer.vars
        values["num_codevector_groups"] = architecture.quantizer.groups
        values["codevector_dim"] = architecture.quantizer.vq_dim
        values["proj_codevector_dim"] = architecture.quantizer.final_dim
        values["contrastive_logits_temperature"] = training.logit_temp
        values["num_negatives"] = training.num_negatives
        values["diversity_loss_weight"] = training.diversity_loss_weight
    return values


def target_tensors(architecture: Architecture, head: Head) -> tuple[TargetTensor, ...]:
    """Every tensor that transformers' model has, in the order in which its modules compute."""
    prefix = "" if head == "none" else TARGET_PREFIX
    encoder = (
        TargetTensor(prefix + tensor.name, tensor.shape, tensor.kind)
        for part in (_feature_extractor(architecture), _feature_projection(architecture), _encoder(architecture))
        for tensor in part
    )
    return (*encoder, *_head(architecture, head))


def _weight_and_bias(name: str, out_size: int, *in_sizes: int, bias: bool = True) -> Iterator[TargetTensor]:
    yield TargetTensor(f"{name}.weight", (out_size, *in_sizes))
    if bias:
        yield TargetTensor(f"{name}.bias", (out_size,))


def _feature_extractor(architecture: Architecture) -> Iterator[TargetTensor]:
    channels = 1
    for index, layer in enumerate(architecture.conv_layers):
        name = f"feature_extractor.conv_layers.{index}"
        yield from _weight_and_bias(f"{name}.conv", layer.dim, channels, layer.kernel, bias=architecture.conv_bias)
        if index == 0 or not architecture.group_norm:
            yield from _weight_and_bias(f"{name}.layer_norm", layer.dim)
        channels = layer.dim


def _feature_projection(architecture: Architecture) -> Iterator[TargetTensor]:
    features, hidden = architecture.conv_layers[-1].dim, architecture.hidden_size
    yield from _weight_and_bias("feature_projection.layer_norm", features)
    yield from _weight_and_bias("feature_projection.projection", hidden, features)
    training = architecture.training
    # Wav2Vec2ConformerModel.__init__ makes it only then.
    if training.mask_prob > 0 or training.mask_channel_prob > 0:
        yield TargetTensor("masked_spec_embed", (hidden,))


def _encoder(architecture: Architecture) -> Iterator[TargetTensor]:
    hidden = architecture.hidden_size
    if architecture.attention == "rotary":
        # Cosines of half-precision frequencies would be far off, whatever the weights are stored in.
        yield TargetTensor(
            "encoder.embed_positions.inv_freq", (hidden // architecture.num_attention_heads // 2,), "float32"
        )
    conv = "encoder.pos_conv_embed.conv"
    yield TargetTensor(f"{conv}.bias", (hidden,))
    yield TargetTensor(f"{conv}.weight_g", (1, 1, architecture.conv_pos))
    yield TargetTensor(f"{conv}.weight_v", (hidden, hidden // architecture.conv_pos_groups, architecture.conv_pos))
    yield from _weight_and_bias("encoder.layer_norm", hidden)
    for index in range(architecture.num_hidden_layers):
        yield from _layer(architecture, f"encoder.layers.{index}")


def _layer(architecture: Architecture, name: str) -> Iterator[TargetTensor]:
    hidden = architecture.hidden_size
    yield from _feed_forward(architecture, f"{name}.ffn1")
    yield from _weight_and_bias(f"{name}.self_attn_layer_norm", hidden)
    yield from _attention(architecture, f"{name}.self_attn")
    yield from _conv_module(architecture, f"{name}.conv_module")
    yield from _feed_forward(architecture, f"{name}.ffn2")
    yield from _weight_and_bias(f"{name}.final_layer_norm", hidden)


def _feed_forward(architecture: Architecture, name: str) -> Iterator[TargetTensor]:
    hidden, intermediate = architecture.hidden_size, architecture.intermediate_size
    yield from _weight_and_bias(f"{name}_layer_norm", hidden)
    yield from _weight_and_bias(f"{name}.intermediate_dense", intermediate, hidden)
    yield from _weight_and_bias(f"{name}.output_dense", hidden, intermediate)


def _attention(architecture: Architecture, name: str) -> Iterator[TargetTensor]:
    hidden, heads = architecture.hidden_size, architecture.num_attention_heads
    for projection in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from _weight_and_bias(f"{name}.{projection}", hidden, hidden)
    if architecture.attention == "relative":
        yield from _weight_and_bias(f"{name}.linear_pos", hidden, hidden, bias=False)
        yield TargetTensor(f"{name}.pos_bias_u", (heads, hidden // heads))
        yield TargetTensor(f"{name}.pos_bias_v", (heads, hidden // heads))


def _conv_module(architecture: Architecture, name: str) -> Iterator[TargetTensor]:
    hidden = architecture.hidden_size
    yield from _weight_and_bias(f"{name}.layer_norm", hidden)
    yield from _weight_and_bias(f"{name}.pointwise_conv1", 2 * hidden, hidden, 1, bias=False)
    yield from _weight_and_bias(f"{name}.depthwise_conv", hidden, 1, architecture.depthwise_kernel, bias=False)
    yield from _weight_and_bias(f"{name}.batch_norm", hidden)
    yield TargetTensor(f"{name}.batch_norm.running_mean", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.running_var", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.num_batches_tracked", (), "int64")
    yield from _weight_and_bias(f"{name}.pointwise_conv2", hidden, hidden, 1, bias=False)


def _head(architecture: Architecture, head: Head) -> Iterator[TargetTensor]:
    hidden, features = architecture.hidden_size, architecture.conv_layers[-1].dim
    if head == "ctc" and architecture.vocabulary is not None:
        yield from _weight_and_bias("lm_head", architecture.vocabulary, hidden)
    quantizer = architecture.quantizer
    if head == "pretraining" and quantizer is not None:
        entries = quantizer.groups * quantizer.vars
        yield TargetTensor("quantizer.codevectors", (1, entries, quantizer.vq_dim // quantizer.groups))
        yield from _weight_and_bias("quantizer.weight_proj", entries, features)
        yield from _weight_and_bias("project_q", quantizer.final_dim, quantizer.vq_dim)
        yield from _weight_and_bias("project_hid", quantizer.final_dim, hidden)
