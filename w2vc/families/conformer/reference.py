"""fairseq's forward of a wav2vec2-conformer in plain torch, driven by fairseq's tensor names and cfg.

Written from ``fairseq/modules/conformer_layer.py`` and ``fairseq/modules/espnet_multihead_attention.py`` (0.12.2)
alone; it covers absolute positions and post-norm, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's users, fairseq among them, give it

from w2vc.errors import UnsupportedModelError
from w2vc.families.shared.reference import (
    Encoder,
    Model,
    ReferenceOutputs,
    Settings,
    Weights,
    batch_norm,
    check_layers,
    forward,
    frame_mask,
    inconsistent,
    layer_norm,
    linear,
    pretraining,
    split,
)
from w2vc.families.shared.transformer_reference import attend


def reference_forward(
    tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], source: Tensor, padding_mask: Tensor | None = None
) -> ReferenceOutputs:
    """Compute what fairseq's ``Wav2Vec2Model`` with conformer layers, or ``Wav2VecCtc`` over it, computes in eval mode.

    Arguments and errors are those of ``shared.reference.forward``.
    """
    return forward(_MODEL, tensors, cfg, source, padding_mask)


# --- conformer layer


def _layer(x: Tensor, mask: Tensor | None, weights: Weights, attention: _Attention, settings: Settings) -> Tensor:
    """``ConformerEncoderLayer.forward`` (modules/conformer_layer.py), which knows no dropout but its own."""
    x = _feed_forward(x, weights.below("ffn1"), settings) * 0.5 + x
    normalised = layer_norm(x, weights.below("self_attn_layer_norm"))
    x = attention(normalised, mask, weights.below("self_attn"), settings) + x
    x = x + _convolution(x, weights.below("conv_module"), settings)
    x = _feed_forward(x, weights.below("ffn2"), settings) * 0.5 + x
    return layer_norm(x, weights.below("final_layer_norm"))


def _feed_forward(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """``FeedForwardModule.forward``; its activation is always swish, whatever ``activation_fn`` says."""
    normalised = layer_norm(x, weights.below("layer_norm"))
    hidden = F.silu(linear(normalised, weights.below("w_1"), settings.encoder_ffn_embed_dim))
    return linear(hidden, weights.below("w_2"), x.size(-1))


def _convolution(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """``ConvolutionModule.forward``."""
    dim, kernel = x.size(-1), settings.depthwise_conv_kernel_size
    x = layer_norm(x, weights.below("layer_norm")).transpose(1, 2)
    x = F.glu(_conv_without_bias(x, weights.below("pointwise_conv1"), (2 * dim, dim, 1)), dim=1)
    x = _conv_without_bias(x, weights.below("depthwise_conv"), (dim, 1, kernel), groups=dim)
    x = F.silu(batch_norm(x, weights.below("batch_norm")))
    return _conv_without_bias(x, weights.below("pointwise_conv2"), (dim, dim, 1)).transpose(1, 2)


def _conv_without_bias(x: Tensor, weights: Weights, shape: tuple[int, int, int], *, groups: int = 1) -> Tensor:
    bias = weights.bias(shape[0], expected=False)
    return F.conv1d(x, weights.read("weight", *shape), bias, padding=(shape[-1] - 1) // 2, groups=groups)


# --- attention: (B, frames, dim) to (B, frames, dim), leaving out the frames that the mask (B, frames) marks

_Attention = Callable[[Tensor, Tensor | None, Weights, Settings], Tensor]


def _attend_absolute(x: Tensor, mask: Tensor | None, weights: Weights, settings: Settings) -> Tensor:
    """``ESPNETMultiHeadedAttention.forward`` (modules/espnet_multihead_attention.py)."""
    return _attend_to_products(x, x, mask, weights, settings)


def _attend_rotary(x: Tensor, mask: Tensor | None, weights: Weights, settings: Settings) -> Tensor:
    """``RotaryPositionMultiHeadedAttention.forward``: turns the input of the projections, not their output."""
    heads = settings.encoder_attention_heads
    width = x.size(-1) // heads
    inverse_frequency = weights.read("rotary_emb.inv_freq", width // 2)
    angles = torch.einsum("i,j->ij", torch.arange(x.size(1)).type_as(inverse_frequency), inverse_frequency)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    parts = split(x, heads)
    first, second = parts.chunk(2, dim=-1)
    rotated = (parts * angles.cos()) + (torch.cat((-second, first), dim=-1) * angles.sin())
    return _attend_to_products(x, rotated.flatten(-2), mask, weights, settings)


def _attend_relative(x: Tensor, mask: Tensor | None, weights: Weights, settings: Settings) -> Tensor:
    """``RelPositionMultiHeadedAttention.forward``; https://arxiv.org/abs/1901.02860, section 3.3."""
    heads, width = settings.encoder_attention_heads, x.size(-1) // settings.encoder_attention_heads
    query, key, value = (_heads(x, weights.below(name), settings) for name in ("linear_q", "linear_k", "linear_v"))
    positions = _heads(_relative_positions(x), weights.below("linear_pos"), settings, bias=False)
    content_bias = weights.read("pos_bias_u", heads, width).unsqueeze(1)
    position_bias = weights.read("pos_bias_v", heads, width).unsqueeze(1)
    by_content = torch.matmul(query + content_bias, key.transpose(-2, -1))
    by_position = _relative_shift(torch.matmul(query + position_bias, positions.transpose(-2, -1)))
    return _weigh(value, (by_content + by_position) / math.sqrt(width), mask, weights)


def _attend_to_products(
    x: Tensor, positioned: Tensor, mask: Tensor | None, weights: Weights, settings: Settings
) -> Tensor:
    """Scaled dot products of the positioned input weigh the input itself."""
    query = _heads(positioned, weights.below("linear_q"), settings)
    key = _heads(positioned, weights.below("linear_k"), settings)
    value = _heads(x, weights.below("linear_v"), settings)
    return _weigh(value, torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(key.size(-1)), mask, weights)


def _heads(x: Tensor, weights: Weights, settings: Settings, *, bias: bool = True) -> Tensor:
    """``forward_qkv``: projected and split, (B, frames, dim) to (B, heads, frames, dim / heads)."""
    projected = linear(x, weights, x.size(-1), bias=bias)
    return split(projected, settings.encoder_attention_heads).transpose(1, 2)


def _weigh(value: Tensor, scores: Tensor, mask: Tensor | None, weights: Weights) -> Tensor:
    """``forward_attention``: value (B, heads, frames, width) by scores (B, heads, frames, frames), projected."""
    if mask is not None:
        scores = scores.masked_fill(mask.unsqueeze(1).unsqueeze(2), float("-inf"))
    attended = torch.matmul(torch.softmax(scores, dim=-1), value)
    attended = attended.transpose(1, 2).flatten(-2)
    return linear(attended, weights.below("linear_out"), attended.size(-1))


def _relative_positions(x: Tensor) -> Tensor:
    """``RelPositionalEncoding`` (modules/positional_encoding.py): (1, 2 * frames - 1, dim), most positive first."""
    frames, dim = x.shape[1:]
    position = torch.arange(frames - 1, -frames, -1).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    angles = position * frequency
    return torch.stack((torch.sin(angles), torch.cos(angles)), dim=-1).flatten(-2).unsqueeze(0)


def _relative_shift(scores: Tensor) -> Tensor:
    """``rel_shift``: (B, heads, frames, 2 * frames - 1) by relative position to (B, heads, frames, frames) by key."""
    batch, heads, frames, positions = scores.shape
    shifted = F.pad(scores, (1, 0)).view(batch, heads, positions + 1, frames)[:, :, 1:]
    return shifted.reshape(batch, heads, frames, positions)[..., :frames]


# Which tensor of self_attn tells which attention; the first that is there counts.
_ATTENTIONS: dict[str, _Attention] = {
    "linear_pos.weight": _attend_relative,
    "rotary_emb.inv_freq": _attend_rotary,
    "linear_q.weight": _attend_absolute,
    "q_proj.weight": attend,
}

# The pos_enc_type under which fairseq can run each attention; where there is but one, the tensors settle it.
_RUNNABLE_POSITIONS: dict[_Attention, tuple[str, ...]] = {
    _attend_absolute: ("abs",),
    attend: ("abs", "rope"),
}


def _encoder(encoder: Weights, settings: Settings) -> Encoder:
    """The encoder with the attention that the tensors show; newer fairseq writes a wrong ``layer_type`` into cfg."""
    check_layers(encoder, settings)
    layer = encoder.below("layers.0")
    found = [attend for mark, attend in _ATTENTIONS.items() if f"self_attn.{mark}" in layer]
    if not found or "conv_module.depthwise_conv.weight" not in layer:
        raise UnsupportedModelError(
            f"{layer.module}* are not the tensors of a conformer layer",
            advice="Give a checkpoint of a model trained with layer_type conformer.",
        )
    attend = found[0]
    return Encoder(
        layer=lambda x, mask, weights: _layer(x, mask, weights, attend, settings),
        is_transformer=_absolute_positions(attend, settings),
    )


def _absolute_positions(attention: _Attention, settings: Settings) -> bool:
    """Whether fairseq builds its ``TransformerEncoder``, which adds a positional convolution to the input."""
    if attention not in _RUNNABLE_POSITIONS:
        return False
    if settings.pos_enc_type not in _RUNNABLE_POSITIONS[attention]:
        raise inconsistent(
            f"cfg.model.pos_enc_type is {settings.pos_enc_type!r}, and with the attention that the tensors show "
            f"fairseq runs only {' and '.join(_RUNNABLE_POSITIONS[attention])}"
        )
    return settings.pos_enc_type == "abs"


_MODEL = Model(
    # A fine-tuned model's own cfg.model holds decoys.
    architectures={"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")},
    fine_tuned=frozenset({"wav2vec_ctc"}),
    what="wav2vec2-conformer",
    settings=Settings,
    encoder=_encoder,
    frame_mask=frame_mask,
    pretraining=pretraining,
)
