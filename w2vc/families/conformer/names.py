"""The names of tensors: fairseq's on the left, transformers' on the right, or why there is none.

Sources: the modules that ``fairseq/models/wav2vec/wav2vec2.py`` and ``fairseq/modules/conformer_layer.py`` build, and
``transformers/models/wav2vec2_conformer/modeling_wav2vec2_conformer.py``. Which tensors a model has is not decided here
(see ``target.py``); this table only says what each is called.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

Part = Literal["encoder", "ctc", "pretraining"]

FINE_TUNED_PREFIX = "w2v_encoder.w2v_model."
TARGET_PREFIX = "wav2vec2_conformer."

_NOT_USED = "not used in a conformer's forward, and transformers has a single block for it"


@dataclass(frozen=True)
class Row:
    """One line of the table. In both names ``{x}`` stands for one dot-free part, the same on both sides.

    Attributes:
        part: the part of the model that has this tensor; only a model with that part keeps it.
        source: fairseq's name, without ``w2v_encoder.w2v_model.`` in the encoder and pretraining parts.
        target: transformers' name, without ``wav2vec2_conformer.`` in the encoder part; None if dropped.
        reason: why it is dropped, where it is.
    """

    part: Part
    source: str
    target: str | None
    reason: str = ""


@dataclass(frozen=True)
class Name:
    """What a fairseq tensor is called in transformers.

    Attributes:
        part: the part of the model it belongs to.
        target: its full name there, or None.
        reason: why there is none.
    """

    part: Part
    target: str | None
    reason: str


_LAYER = "encoder.layers.{layer}"
_ATTENTION = "encoder.layers.{layer}.self_attn"
_CONV_MODULE = "encoder.layers.{layer}.conv_module"

TABLE: tuple[Row, ...] = (
    Row("encoder", "mask_emb", "masked_spec_embed"),
    Row(
        "encoder",
        "feature_extractor.conv_layers.{conv}.0.{parameter}",
        "feature_extractor.conv_layers.{conv}.conv.{parameter}",
    ),
    Row(
        "encoder",
        "feature_extractor.conv_layers.{conv}.2.1.{parameter}",
        "feature_extractor.conv_layers.{conv}.layer_norm.{parameter}",
    ),
    Row(
        "encoder",
        "feature_extractor.conv_layers.0.2.{parameter}",
        "feature_extractor.conv_layers.0.layer_norm.{parameter}",
    ),
    Row("encoder", "layer_norm.{parameter}", "feature_projection.layer_norm.{parameter}"),
    Row("encoder", "post_extract_proj.{parameter}", "feature_projection.projection.{parameter}"),
    Row("encoder", "encoder.pos_conv.0.{parameter}", "encoder.pos_conv_embed.conv.{parameter}"),
    # torch's newer spelling of the same two factors of weight norm (torch/nn/utils/parametrizations.py).
    Row("encoder", "encoder.pos_conv.0.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
    Row("encoder", "encoder.pos_conv.0.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
    Row("encoder", "encoder.pos_conv.{block}.0.{parameter}", None, _NOT_USED),
    Row("encoder", "encoder.layer_norm.{parameter}", "encoder.layer_norm.{parameter}"),
    Row("encoder", _LAYER + ".ffn1.layer_norm.{parameter}", _LAYER + ".ffn1_layer_norm.{parameter}"),
    Row("encoder", _LAYER + ".ffn1.w_1.{parameter}", _LAYER + ".ffn1.intermediate_dense.{parameter}"),
    Row("encoder", _LAYER + ".ffn1.w_2.{parameter}", _LAYER + ".ffn1.output_dense.{parameter}"),
    Row("encoder", _LAYER + ".ffn2.layer_norm.{parameter}", _LAYER + ".ffn2_layer_norm.{parameter}"),
    Row("encoder", _LAYER + ".ffn2.w_1.{parameter}", _LAYER + ".ffn2.intermediate_dense.{parameter}"),
    Row("encoder", _LAYER + ".ffn2.w_2.{parameter}", _LAYER + ".ffn2.output_dense.{parameter}"),
    Row("encoder", _LAYER + ".self_attn_layer_norm.{parameter}", _LAYER + ".self_attn_layer_norm.{parameter}"),
    Row("encoder", _LAYER + ".final_layer_norm.{parameter}", _LAYER + ".final_layer_norm.{parameter}"),
    Row("encoder", _ATTENTION + ".linear_q.{parameter}", _ATTENTION + ".linear_q.{parameter}"),
    Row("encoder", _ATTENTION + ".linear_k.{parameter}", _ATTENTION + ".linear_k.{parameter}"),
    Row("encoder", _ATTENTION + ".linear_v.{parameter}", _ATTENTION + ".linear_v.{parameter}"),
    Row("encoder", _ATTENTION + ".linear_out.{parameter}", _ATTENTION + ".linear_out.{parameter}"),
    Row("encoder", _ATTENTION + ".linear_pos.weight", _ATTENTION + ".linear_pos.weight"),
    Row("encoder", _ATTENTION + ".pos_bias_u", _ATTENTION + ".pos_bias_u"),
    Row("encoder", _ATTENTION + ".pos_bias_v", _ATTENTION + ".pos_bias_v"),
    Row("encoder", _ATTENTION + ".q_proj.{parameter}", _ATTENTION + ".linear_q.{parameter}"),
    Row("encoder", _ATTENTION + ".k_proj.{parameter}", _ATTENTION + ".linear_k.{parameter}"),
    Row("encoder", _ATTENTION + ".v_proj.{parameter}", _ATTENTION + ".linear_v.{parameter}"),
    Row("encoder", _ATTENTION + ".out_proj.{parameter}", _ATTENTION + ".linear_out.{parameter}"),
    # One a layer in fairseq, one in all in transformers: the plan sees to it that they are equal.
    Row("encoder", _ATTENTION + ".rotary_emb.inv_freq", "encoder.embed_positions.inv_freq"),
    Row("encoder", _CONV_MODULE + ".layer_norm.{parameter}", _CONV_MODULE + ".layer_norm.{parameter}"),
    Row("encoder", _CONV_MODULE + ".pointwise_conv1.weight", _CONV_MODULE + ".pointwise_conv1.weight"),
    Row("encoder", _CONV_MODULE + ".depthwise_conv.weight", _CONV_MODULE + ".depthwise_conv.weight"),
    Row("encoder", _CONV_MODULE + ".batch_norm.{parameter}", _CONV_MODULE + ".batch_norm.{parameter}"),
    Row("encoder", _CONV_MODULE + ".pointwise_conv2.weight", _CONV_MODULE + ".pointwise_conv2.weight"),
    Row("pretraining", "quantizer.vars", "quantizer.codevectors"),
    Row("pretraining", "quantizer.weight_proj.{parameter}", "quantizer.weight_proj.{parameter}"),
    Row("pretraining", "project_q.{parameter}", "project_q.{parameter}"),
    Row("pretraining", "final_proj.{parameter}", "project_hid.{parameter}"),
    # Refused with the pretraining head (see architecture.py), and not needed without it.
    Row("pretraining", "quantizer.weight_proj.{block}.{parameter}", None, "a deep quantizer has no place"),
    Row("pretraining", "quantizer.weight_proj.{block}.0.{parameter}", None, "a deep quantizer has no place"),
    Row("pretraining", "target_glu.0.{parameter}", None, "a GLU over the targets has no place"),
    Row("ctc", "w2v_encoder.proj.{parameter}", "lm_head.{parameter}"),
)

_NUMBERED = ("layer", "conv", "block")


def _pattern(source: str) -> re.Pattern[str]:
    escaped = re.escape(source).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(
        re.sub(r"{(\w+)}", lambda found: f"(?P<{found[1]}>{_number_or_word(found[1])})", escaped), re.ASCII
    )


def _number_or_word(placeholder: str) -> str:
    # A leading zero would let two names become one.
    return r"0|[1-9]\d{0,4}" if placeholder in _NUMBERED else r"[a-z_]\w*"


@functools.cache
def _compiled() -> tuple[tuple[Row, re.Pattern[str]], ...]:
    return tuple((row, _pattern(row.source)) for row in TABLE)


def matching_rows(source: str) -> list[Row]:
    """The rows of the table that name this tensor (fairseq's name, without the fine-tuned prefix)."""
    return [row for row, pattern in _compiled() if pattern.fullmatch(source)]


def encoder_name(source: str) -> str:
    """fairseq's name without the prefix that fine-tuning puts before the encoder's tensors."""
    return source.removeprefix(FINE_TUNED_PREFIX)


def target_name(source: str, *, with_head: bool) -> Name | None:
    """What transformers calls a fairseq tensor.

    Args:
        source: fairseq's full name.
        with_head: whether the target is a model with a head, where the encoder's names carry
            ``wav2vec2_conformer.``; ``Wav2Vec2ConformerModel`` alone has them bare.

    Returns:
        The name, or None if the table doesn't know the tensor.
    """
    bare = encoder_name(source)
    for row, pattern in _compiled():
        match = pattern.fullmatch(bare)
        if match is None:
            continue
        if row.target is None:
            return Name(row.part, None, row.reason)
        prefix = TARGET_PREFIX if with_head and row.part == "encoder" else ""
        return Name(row.part, prefix + row.target.format(**match.groupdict()), "")
    return None
