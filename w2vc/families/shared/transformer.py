"""Transformer layers, which wav2vec 2.0, HuBERT and data2vec share: keys, names and tensors.

Sources: ``fairseq/models/wav2vec/wav2vec2.py`` (``TransformerEncoder``, ``TransformerSentenceEncoderLayer``) and
``transformers/models/wav2vec2/modeling_wav2vec2.py`` (``Wav2Vec2Encoder``, ``Wav2Vec2EncoderStableLayerNorm``).
"""

from __future__ import annotations

from collections.abc import Iterator

from w2vc.families.family import Facts, Key, Name, Refusal, TargetTensor, axis, unused
from w2vc.families.shared import measures
from w2vc.families.shared.tensors import Config, weight_and_bias
from w2vc.reading.domains import flag, one_of, probability, size

# fairseq/utils.py, get_activation_fn: gelu_fast is an old name of gelu_accurate; transformers/activations.py. Its swish
# gives back a class instead of a function, so that fairseq itself can't run it.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "relu": "relu",
    "relu_squared": "relu2",
    "tanh": "tanh",
    "linear": "linear",
}
_CONFORMER = "acts only in conformer layers"

DROPOUTS: tuple[Key, ...] = (
    Key("dropout", 0.1, probability, to=("hidden_dropout",)),
    Key("attention_dropout", 0.1, probability, to=("attention_dropout",)),
    Key("activation_dropout", 0.0, probability, to=("activation_dropout",)),
)

FINE_TUNED_DROPOUTS: tuple[Key, ...] = (
    Key("dropout", 0.0, probability, to=("hidden_dropout",)),
    Key("attention_dropout", 0.0, probability, to=("attention_dropout",)),
    Key("activation_dropout", 0.0, probability, to=("activation_dropout",)),
)

LAYERS: tuple[Key, ...] = (
    Key("encoder_ffn_embed_dim", 3072, size, to=("intermediate_size",), tensors=axis("encoder.layers.0.fc1.weight", 0)),
    Key("encoder_attention_heads", 12, size, to=("num_attention_heads",)),
    Key("activation_fn", "gelu", one_of(*ACTIVATIONS), to=("hidden_act",), spelled=ACTIVATIONS),
    Key("layer_norm_first", False, flag, to=("do_stable_layer_norm",)),
    Key("pos_conv_depth", 1, size, tensors=measures.pos_conv_depth, why="decides about the class"),
    *DROPOUTS,
    unused("required_seq_len_multiple", 2, "what is padded is masked"),
    unused("max_positions", 100000, _CONFORMER),
    unused("depthwise_conv_kernel_size", 31, _CONFORMER),
    unused("attn_type", "", _CONFORMER),
    unused("pos_enc_type", "abs", _CONFORMER),
)
"""Of ``Wav2Vec2Config`` and those made after it, what concerns transformer layers."""

_LAYER = "encoder.layers.{layer}."
_IN_A_LAYER: tuple[tuple[str, str], ...] = (
    ("self_attn.q_proj.{parameter}", "attention.q_proj.{parameter}"),
    ("self_attn.k_proj.{parameter}", "attention.k_proj.{parameter}"),
    ("self_attn.v_proj.{parameter}", "attention.v_proj.{parameter}"),
    ("self_attn.out_proj.{parameter}", "attention.out_proj.{parameter}"),
    ("self_attn_layer_norm.{parameter}", "layer_norm.{parameter}"),
    ("fc1.{parameter}", "feed_forward.intermediate_dense.{parameter}"),
    ("fc2.{parameter}", "feed_forward.output_dense.{parameter}"),
    ("final_layer_norm.{parameter}", "final_layer_norm.{parameter}"),
)
NAMES: tuple[Name, ...] = tuple(Name("encoder", _LAYER + source, _LAYER + target) for source, target in _IN_A_LAYER)

DEEP_POSITIONAL_CONVOLUTION: tuple[Name, ...] = (
    Name(
        "encoder",
        "encoder.pos_conv.{block}.0.{parameter}",
        "encoder.pos_conv_embed.layers.{block}.conv.{parameter}",
    ),
)


def layers(config: Config) -> Iterator[TargetTensor]:
    """Give the encoder's norm and layers, with names and shapes that don't depend on where a layer normalizes."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    yield from weight_and_bias("encoder.layer_norm", hidden)
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from weight_and_bias(f"{name}.attention.{projection}", hidden, hidden)
        yield from weight_and_bias(f"{name}.layer_norm", hidden)
        yield from weight_and_bias(f"{name}.feed_forward.intermediate_dense", intermediate, hidden)
        yield from weight_and_bias(f"{name}.feed_forward.output_dense", hidden, intermediate)
        yield from weight_and_bias(f"{name}.final_layer_norm", hidden)


def is_deep(facts: Facts) -> bool:
    """Whether the positional convolution has several blocks (``make_conv_block`` in ``TransformerEncoder``)."""
    return bool(facts["pos_conv_depth"] > 1)


def deep_refusals(facts: Facts) -> Iterator[Refusal]:
    """Give what ``Data2VecAudioModel``, the only class with a deep positional convolution, has no place for."""
    if not is_deep(facts):
        return
    deep = f"cfg.{facts['section']}.pos_conv_depth is {facts['pos_conv_depth']}"
    if facts["extractor_mode"] == "default":
        reason = "transformers has a deep positional convolution only with layer norms in the extractor"
        yield Refusal(f"{deep} and extractor_mode is default", reason)
    if facts["layer_norm_first"]:
        reason = "transformers has a deep positional convolution only with post-norm layers"
        yield Refusal(f"{deep} and layer_norm_first is true", reason)


def summary(facts: Facts) -> str:
    """Return what is special of the encoder, in a few words."""
    norm = "pre-norm" if facts["layer_norm_first"] else "post-norm"
    depth = f", positional convolution of {facts['pos_conv_depth']} blocks" if is_deep(facts) else ""
    return f"{norm}, {facts['activation_fn']}{depth}"
