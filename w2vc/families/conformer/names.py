"""Names of a conformer's tensors: fairseq's on the left, transformers' on the right, or why there is none.

Sources: ``fairseq/modules/conformer_layer.py``, ``fairseq/modules/espnet_multihead_attention.py`` and
``transformers/models/wav2vec2_conformer/modeling_wav2vec2_conformer.py``.
"""

from __future__ import annotations

import functools

from w2vc.families.conformer import post_norm
from w2vc.families.family import Facts, Name
from w2vc.families.shared import names as shared

_NOT_USED = "not used in a conformer's forward, and transformers has a single block for it"

_IN_A_LAYER: tuple[tuple[str, str], ...] = (
    ("ffn1.layer_norm.{parameter}", "ffn1_layer_norm.{parameter}"),
    ("ffn1.w_1.{parameter}", "ffn1.intermediate_dense.{parameter}"),
    ("ffn1.w_2.{parameter}", "ffn1.output_dense.{parameter}"),
    ("ffn2.layer_norm.{parameter}", "ffn2_layer_norm.{parameter}"),
    ("ffn2.w_1.{parameter}", "ffn2.intermediate_dense.{parameter}"),
    ("ffn2.w_2.{parameter}", "ffn2.output_dense.{parameter}"),
    ("self_attn_layer_norm.{parameter}", "self_attn_layer_norm.{parameter}"),
    ("final_layer_norm.{parameter}", "final_layer_norm.{parameter}"),
    ("self_attn.linear_q.{parameter}", "self_attn.linear_q.{parameter}"),
    ("self_attn.linear_k.{parameter}", "self_attn.linear_k.{parameter}"),
    ("self_attn.linear_v.{parameter}", "self_attn.linear_v.{parameter}"),
    ("self_attn.linear_out.{parameter}", "self_attn.linear_out.{parameter}"),
    ("self_attn.linear_pos.weight", "self_attn.linear_pos.weight"),
    ("self_attn.pos_bias_u", "self_attn.pos_bias_u"),
    ("self_attn.pos_bias_v", "self_attn.pos_bias_v"),
    ("self_attn.q_proj.{parameter}", "self_attn.linear_q.{parameter}"),
    ("self_attn.k_proj.{parameter}", "self_attn.linear_k.{parameter}"),
    ("self_attn.v_proj.{parameter}", "self_attn.linear_v.{parameter}"),
    ("self_attn.out_proj.{parameter}", "self_attn.linear_out.{parameter}"),
    ("conv_module.layer_norm.{parameter}", "conv_module.layer_norm.{parameter}"),
    ("conv_module.pointwise_conv1.weight", "conv_module.pointwise_conv1.weight"),
    ("conv_module.depthwise_conv.weight", "conv_module.depthwise_conv.weight"),
    ("conv_module.batch_norm.{parameter}", "conv_module.batch_norm.{parameter}"),
    ("conv_module.pointwise_conv2.weight", "conv_module.pointwise_conv2.weight"),
)

_LAYER = "encoder.layers.{layer}."

NAMES: tuple[Name, ...] = (
    *shared.MASK,
    *shared.EXTRACTOR,
    *shared.PROJECTION,
    *shared.WEIGHT_NORM,
    Name("encoder", "encoder.pos_conv.{block}.0.{parameter}", None, _NOT_USED),
    *shared.ENCODER_NORM,
    *(Name("encoder", _LAYER + source, _LAYER + target) for source, target in _IN_A_LAYER),
    # fairseq stores one per layer, transformers one; the planner checks that all are equal.
    Name("encoder", _LAYER + "self_attn.rotary_emb.inv_freq", "encoder.embed_positions.inv_freq"),
    *shared.PRETRAINING,
    *shared.CTC,
)


@functools.cache
def _post_norm(layers: int) -> tuple[Name, ...]:
    return post_norm.names({"encoder_layers": layers}, NAMES)


def names(facts: Facts) -> tuple[Name, ...]:
    """Return the table of names for a model."""
    return _post_norm(facts["encoder_layers"]) if post_norm.is_post_norm(facts) else NAMES
