"""The target ``Wav2Vec2Conformer…``: its classes, its tensors, and what fills those that fairseq hasn't got.

Sources: ``transformers/models/wav2vec2_conformer/configuration_wav2vec2_conformer.py`` and
``modeling_wav2vec2_conformer.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from w2vc.families.conformer import post_norm
from w2vc.families.family import Edit, Facts, Filling, Target, TargetTensor
from w2vc.families.shared import tensors as shared
from w2vc.families.shared.tensors import Config, weight_and_bias
from w2vc.reading.domains import probability, size

PREFIX = "wav2vec2_conformer."


def _encoder(config: Config) -> Iterator[TargetTensor]:
    hidden = config["hidden_size"]
    if config["position_embeddings_type"] == "rotary":
        # Cosines of half-precision frequencies would be far off, whatever the weights are stored in.
        frequencies = (hidden // config["num_attention_heads"] // 2,)
        yield TargetTensor("encoder.embed_positions.inv_freq", frequencies, "float32", from_several=True)
    yield from shared.weight_norm_conv(config)
    yield from weight_and_bias("encoder.layer_norm", hidden)
    for index in range(config["num_hidden_layers"]):
        yield from _layer(config, f"encoder.layers.{index}")


def _layer(config: Config, name: str) -> Iterator[TargetTensor]:
    hidden = config["hidden_size"]
    yield from _feed_forward(config, f"{name}.ffn1")
    yield from weight_and_bias(f"{name}.self_attn_layer_norm", hidden)
    yield from _attention(config, f"{name}.self_attn")
    yield from _conv_module(config, f"{name}.conv_module")
    yield from _feed_forward(config, f"{name}.ffn2")
    yield from weight_and_bias(f"{name}.final_layer_norm", hidden)


def _feed_forward(config: Config, name: str) -> Iterator[TargetTensor]:
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    yield from weight_and_bias(f"{name}_layer_norm", hidden)
    yield from weight_and_bias(f"{name}.intermediate_dense", intermediate, hidden)
    yield from weight_and_bias(f"{name}.output_dense", hidden, intermediate)


def _attention(config: Config, name: str) -> Iterator[TargetTensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    for projection in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from weight_and_bias(f"{name}.{projection}", hidden, hidden)
    if config["position_embeddings_type"] == "relative":
        yield from weight_and_bias(f"{name}.linear_pos", hidden, hidden, bias=False)
        yield TargetTensor(f"{name}.pos_bias_u", (heads, hidden // heads))
        yield TargetTensor(f"{name}.pos_bias_v", (heads, hidden // heads))


def _conv_module(config: Config, name: str) -> Iterator[TargetTensor]:
    hidden, kernel = config["hidden_size"], config["conv_depthwise_kernel_size"]
    yield from weight_and_bias(f"{name}.layer_norm", hidden)
    yield from weight_and_bias(f"{name}.pointwise_conv1", 2 * hidden, hidden, 1, bias=False)
    yield from weight_and_bias(f"{name}.depthwise_conv", hidden, 1, kernel, bias=False)
    yield from weight_and_bias(f"{name}.batch_norm", hidden)
    yield TargetTensor(f"{name}.batch_norm.running_mean", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.running_var", (hidden,))
    yield TargetTensor(f"{name}.batch_norm.num_batches_tracked", (), "int64")
    yield from weight_and_bias(f"{name}.pointwise_conv2", hidden, hidden, 1, bias=False)


TARGET = Target(
    model_type="wav2vec2-conformer",
    config_class="Wav2Vec2ConformerConfig",
    prefix=PREFIX,
    classes={
        "ctc": "Wav2Vec2ConformerForCTC",
        "pretraining": "Wav2Vec2ConformerForPreTraining",
        "none": "Wav2Vec2ConformerModel",
    },
    tensors=shared.model(PREFIX, _encoder),
    # fairseq/modules/conformer_layer.py hard-codes swish.
    constants={**shared.CONSTANTS, "hidden_act": "swish"},
    head_fields=shared.HEAD_FIELDS,
    free={
        **shared.FREE,
        "conformer_conv_dropout": probability,
        # How far relative positions are computed beforehand; transformers makes more as needed.
        "max_source_positions": size,
    },
    # transformers' own defaults, from which fairseq's conformer doesn't differ.
    repeatable={"rotary_embedding_base": 10000, "add_adapter": False},
)

_NO_POS_CONV = "not used in a conformer's forward, and fairseq's has several blocks where transformers' has one"
_NO_COUNT = "counts the updates of training; not used in the forward"


def fillings(facts: Facts) -> tuple[Filling, ...]:
    """Give the content of tensors that fairseq's model hasn't got."""
    deep = (
        Filling("encoder.pos_conv_embed.conv.bias", "zeros", _NO_POS_CONV),
        Filling("encoder.pos_conv_embed.conv.weight_g", "zeros", _NO_POS_CONV),
        # Of length other than zero, since weight norm divides by it.
        Filling("encoder.pos_conv_embed.conv.weight_v", "ones", _NO_POS_CONV),
    )
    return (
        *shared.identity_projection(facts),
        *(post_norm.fillings(facts) if post_norm.is_post_norm(facts) else ()),
        *(() if facts["has_pos_conv_v"] else deep),
        Filling("encoder.layers.{layer}.conv_module.batch_norm.num_batches_tracked", "zeros", _NO_COUNT),
    )


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the fields that follow from several facts."""
    attention = facts["attention"]
    return {
        "position_embeddings_type": None if attention == "plain" else attention,
        "vocab_size": facts["vocabulary"],
        **(post_norm.derived(facts) if post_norm.is_post_norm(facts) else {}),
    }


def edits(facts: Facts) -> Mapping[str, Edit]:
    """Give the changes to tensors on their way."""
    return {**shared.blank_weight(facts), **(post_norm.edits() if post_norm.is_post_norm(facts) else {})}
