"""fairseq's transformer layer in plain torch, which wav2vec 2.0, HuBERT and data2vec share.

Written from ``fairseq/models/wav2vec/wav2vec2.py`` (``TransformerSentenceEncoderLayer.forward``),
``fairseq/modules/multihead_attention.py`` and ``fairseq/utils.py`` (``get_activation_fn``) of 0.12.2 alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's users, fairseq among them, give it

from w2vc.errors import UnsupportedModelError
from w2vc.families.shared.reference import Encoder, Settings, Weights, check_layers, layer_norm, linear


def _gelu_accurate(x: Tensor) -> Tensor:
    """``fairseq/modules/gelu.py``, ``gelu_accurate``."""
    factor = math.sqrt(2 / math.pi)
    return 0.5 * x * (1 + torch.tanh(factor * (x + 0.044715 * torch.pow(x, 3))))


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_accurate": _gelu_accurate,
    "gelu_fast": _gelu_accurate,
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).pow(2),
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def encoder(weights: Weights, settings: Settings) -> Encoder:
    """Return the encoder of transformer layers that tensors and settings show."""
    check_layers(weights, settings)
    if settings.activation_fn not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"cfg.model.activation_fn is {settings.activation_fn!r}",
            advice=f"The reference computes {', '.join(_ACTIVATIONS)}.",
        )
    return Encoder(layer=lambda x, mask, layer: transformer_layer(x, mask, layer, settings), is_transformer=True)


def transformer_layer(x: Tensor, mask: Tensor | None, weights: Weights, settings: Settings) -> Tensor:
    """``TransformerSentenceEncoderLayer.forward``: (B, frames, dim) to the same."""
    attention_norm, final_norm = weights.below("self_attn_layer_norm"), weights.below("final_layer_norm")
    if settings.layer_norm_first:
        x = x + attend(layer_norm(x, attention_norm), mask, weights.below("self_attn"), settings)
        return x + _feed_forward(layer_norm(x, final_norm), weights, settings)
    x = layer_norm(x + attend(x, mask, weights.below("self_attn"), settings), attention_norm)
    return layer_norm(x + _feed_forward(x, weights, settings), final_norm)


def _feed_forward(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    hidden = linear(x, weights.below("fc1"), settings.encoder_ffn_embed_dim)
    return linear(_ACTIVATIONS[settings.activation_fn](hidden), weights.below("fc2"), x.size(-1))


def attend(x: Tensor, mask: Tensor | None, weights: Weights, settings: Settings) -> Tensor:
    """``MultiheadAttention.forward`` (modules/multihead_attention.py), which calls the same function."""
    dim = x.size(-1)
    query, key, value, out = (weights.below(f"{name}_proj") for name in ("q", "k", "v", "out"))
    x = x.transpose(0, 1)
    attended, _ = F.multi_head_attention_forward(
        query=x,
        key=x,
        value=x,
        embed_dim_to_check=dim,
        num_heads=settings.encoder_attention_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([projection.read("bias", dim) for projection in (query, key, value)]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=out.read("weight", dim, dim),
        out_proj_bias=out.read("bias", dim),
        training=False,
        key_padding_mask=mask,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=query.read("weight", dim, dim),
        k_proj_weight=key.read("weight", dim, dim),
        v_proj_weight=value.read("weight", dim, dim),
    )
    return attended.transpose(0, 1)
