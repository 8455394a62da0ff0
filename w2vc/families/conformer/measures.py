"""What the tensors of a conformer say; ``fairseq/modules/espnet_multihead_attention.py``."""

from __future__ import annotations

from typing import Literal

from w2vc.families.family import Tensors

Attention = Literal["relative", "rotary", "plain"]

_ATTENTION = "encoder.layers.0.self_attn"
# Which tensor tells which kind of attention; the first that is there counts.
_KINDS: tuple[tuple[str, Attention], ...] = (
    ("linear_pos.weight", "relative"),
    ("rotary_emb.inv_freq", "rotary"),
    ("q_proj.weight", "plain"),
    # ESPnet's attention without positions, which fairseq builds with pos_enc_type abs only.
    ("linear_q.weight", "plain"),
)
_POSITIONS = {"relative": "rel_pos", "rotary": "rope"}


def attention(tensors: Tensors) -> Attention:
    """Return the kind of attention; none at all is a problem."""
    for suffix, kind in _KINDS:
        if f"{_ATTENTION}.{suffix}" in tensors:
            return kind
    tensors.problems.append(f"the tensors {_ATTENTION}.* are missing")
    return "plain"


def attention_heads(tensors: Tensors) -> int | None:
    """Return the number of heads; plain attention doesn't show it."""
    kind = attention(tensors)
    if kind == "relative":
        return tensors.axis(f"{_ATTENTION}.pos_bias_u", 0)
    if kind == "rotary":
        hidden = tensors.axis("encoder.layer_norm.weight", 0)
        return hidden // (2 * tensors.axis(f"{_ATTENTION}.rotary_emb.inv_freq", 0))
    return None


def pos_enc_type(tensors: Tensors) -> str | None:
    """Return fairseq's word for the positions; fairseq's own attention doesn't show it."""
    kind = attention(tensors)
    if kind == "plain" and f"{_ATTENTION}.q_proj.weight" not in tensors:
        return "abs"
    return _POSITIONS.get(kind)


def attn_type(tensors: Tensors) -> str | None:
    """Return ``espnet`` where the attention is ESPnet's."""
    return "espnet" if attention(tensors) != "plain" else None
