"""fairseq's forward of a wav2vec2-conformer in plain torch, driven by fairseq's tensor names and cfg.

It is the yardstick that a conversion is held against where there is no fairseq, so it is written from fairseq's source
(0.12.2) alone and shares no code with the rest of w2vc. It covers more than transformers can express: post-norm,
absolute positions, quantised input, cropping, and every form of the pretraining head. Operations come in fairseq's
order, without dropout, masking or sampling, as in fairseq's eval mode.

Frames are cut from 16 kHz (or whatever the model was trained on) audio by the convolutional feature extractor. In the
shapes below B is the batch, T the samples, C the width of the last convolution, dim ``encoder_embed_dim``.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's users, fairseq among them, give it

from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError

# torch.nn.LayerNorm's, GroupNorm's and BatchNorm1d's default, which fairseq never changes.
_EPSILON = 1e-5
_MAX_CONV_SOURCE_CHARACTERS = 4000
_MAX_CONV_LAYERS = 1000


@dataclass(frozen=True)
class ReferenceOutputs:
    """What fairseq computes, all of it float32 and batch first.

    Attributes:
        features: (B, frames, C), the feature extractor's output after ``layer_norm`` and cropping.
        hidden_states: (B, frames, dim) each; [0] is what the first layer is fed, [k] what layer k gives.
        encoder_out: (B, frames, dim), the ``x`` of fairseq's ``Wav2Vec2Model.extract_features``.
        logits: (B, frames, vocabulary) of a fine-tuned model, with the blank weight applied, but without fairseq's
            overwriting of padded frames by -inf; else None.
        projected_states: (B, frames, final_dim) of a pretrained model, ``final_proj`` of encoder_out; else None.
        projected_quantized_states: (B, frames, final_dim) of a pretrained model, each frame's target of the
            contrastive loss: ``project_q`` (and ``target_glu``, if there is one) of the quantised features, or of the
            features themselves without ``quantize_targets``; else None.
        codevector_indices: (B, frames, groups) int64 of a pretrained model with ``quantize_targets``, each group's
            entry counted from 0 in each group; else None.
        padding_mask: (B, frames) bool, true where padded; None if nothing is.
    """

    features: Tensor
    hidden_states: tuple[Tensor, ...]
    encoder_out: Tensor
    logits: Tensor | None
    projected_states: Tensor | None
    projected_quantized_states: Tensor | None
    codevector_indices: Tensor | None
    padding_mask: Tensor | None


@torch.no_grad()
def reference_forward(
    tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], source: Tensor, padding_mask: Tensor | None = None
) -> ReferenceOutputs:
    """Compute what fairseq's ``Wav2Vec2Model`` or ``Wav2VecCtc`` computes in eval mode.

    Follows ``Wav2Vec2Model.forward`` and ``quantize`` (models/wav2vec/wav2vec2.py) and ``Wav2VecEncoder.forward``
    (models/wav2vec/wav2vec2_asr.py). Each tensor is read where it is used and not kept, so with a lazy mapping the
    memory is that of one module.

    Args:
        tensors: fairseq's state dict, of any floating dtype; computed with in float32.
        cfg: the checkpoint's whole cfg as plain values. Keys that are absent have fairseq's defaults.
        source: (B, T) float32 samples, normalised already if ``task.normalize`` says so.
        padding_mask: (B, T) bool, true where a clip is padded.

    Raises:
        UsageError: source or padding_mask has another shape or dtype, or source is too short to give a frame.
        UnsupportedModelError: not a conformer of ``wav2vec2`` or ``wav2vec_ctc``, or one that fairseq can't run.
        InconsistentError: a tensor is missing or has another shape than cfg says.
    """
    _check_input(source, padding_mask)
    settings = _settings(cfg)
    fine_tuned = cfg["model"]["_name"] == "wav2vec_ctc"
    checkpoint = _Weights(tensors, frozenset(tensors), "")
    weights = checkpoint.below("w2v_encoder.w2v_model") if fine_tuned else checkpoint

    features, mask = _features(source, padding_mask, weights, settings)
    hidden_states, encoder_out = _encode(_project_features(features, weights, settings), mask, weights, settings)
    logits = projected = targets = indices = None
    if fine_tuned:
        logits = _ctc_logits(encoder_out, checkpoint.below("w2v_encoder.proj"), cfg["model"])
    else:
        projected = _linear(encoder_out, weights.below("final_proj"), settings.final_width)
        targets, indices = _targets(features, weights, settings)
    return ReferenceOutputs(features, hidden_states, encoder_out, logits, projected, targets, indices, mask)


def _check_input(source: Tensor, padding_mask: Tensor | None) -> None:
    problems = []
    if source.dim() != 2 or source.dtype != torch.float32:
        problems.append(f"source is {tuple(source.shape)} {source.dtype}, not (batch, samples) torch.float32")
    if padding_mask is not None and (padding_mask.shape != source.shape or padding_mask.dtype != torch.bool):
        problems.append(
            f"padding_mask is {tuple(padding_mask.shape)} {padding_mask.dtype}, not {tuple(source.shape)} torch.bool"
        )
    if problems:
        raise UsageError(problems, advice="Give one row of samples a clip, and a mask of the same shape.")


# --- cfg


@dataclass(frozen=True)
class _Settings:
    """The keys that the forward depends on, with the defaults of ``Wav2Vec2Config`` (models/wav2vec/wav2vec2.py).

    ``layer_type`` and ``attn_type`` are not among them: the tensors tell. ``same_quantizer`` is, for the width of the
    input's codebook alone: the shared quantiser is stored under both names.
    """

    extractor_mode: str = "default"
    conv_feature_layers: str = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    layer_norm_first: bool = False
    depthwise_conv_kernel_size: int = 31
    pos_enc_type: str = "abs"
    conv_pos: int = 128
    conv_pos_groups: int = 16
    pos_conv_depth: int = 1
    required_seq_len_multiple: int = 2
    crop_seq_to_multiple: int = 1
    final_dim: int = 0
    quantize_targets: bool = False
    quantize_input: bool = False
    same_quantizer: bool = False
    target_glu: bool = False
    quantizer_depth: int = 1
    quantizer_factor: int = 3
    latent_vars: int = 320
    latent_groups: int = 2
    latent_dim: int = 0

    @property
    def final_width(self) -> int:
        return self.final_dim if self.final_dim > 0 else self.encoder_embed_dim

    @property
    def codevector_width(self) -> int:
        return self.latent_dim if self.latent_dim > 0 else self.final_width

    @property
    def input_codevector_width(self) -> int:
        if self.same_quantizer and self.quantize_targets:
            return self.codevector_width
        return self.latent_dim if self.latent_dim > 0 else self.encoder_embed_dim


# Where below cfg.model each model keeps its architecture. A fine-tuned model's own cfg.model holds decoys.
_ARCHITECTURES: dict[str, tuple[str, ...]] = {"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")}


def _settings(cfg: Mapping[str, Any]) -> _Settings:
    architecture, place = cfg["model"], "cfg.model"
    name = architecture.get("_name")
    if name not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"cfg.model._name is {name!r}, and only {' and '.join(_ARCHITECTURES)} can be computed",
            advice="Give a pretrained wav2vec2-conformer, or one fine-tuned with CTC.",
        )
    for key in _ARCHITECTURES[name]:
        architecture, place = architecture.get(key), f"{place}.{key}"
        if not isinstance(architecture, Mapping):
            raise _inconsistent(f"{place} is {architecture!r}, and should hold the model's architecture")
    return _Settings(**{key.name: architecture[key.name] for key in fields(_Settings) if key.name in architecture})


def _conv_layers(source: str) -> list[tuple[int, int, int]]:
    """``conv_feature_layers`` as (width, kernel, stride) of each layer; fairseq passes it to ``eval``."""
    try:
        if len(source) > _MAX_CONV_SOURCE_CHARACTERS:
            raise ValueError(f"it has {len(source)} characters")
        layers = _value(ast.parse(source.strip(), mode="eval").body)
        return [_conv_layer(layer) for layer in _sequence(layers)]
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UnsupportedModelError(
            f"cfg.model.conv_feature_layers can't be read: {error}",
            advice='It must be like "[(512, 10, 5)] + [(512, 3, 2)] * 4": lists, tuples, integers, + and *.',
        ) from error


def _conv_layer(value: object) -> tuple[int, int, int]:
    width, kernel, stride = _sequence(value)
    if not all(type(number) is int and number > 0 for number in (width, kernel, stride)):
        raise ValueError("a layer is not (width, kernel, stride), three positive integers")
    return width, kernel, stride


def _sequence(value: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{value!r} is not a list")
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _bounded(_value(node.left) + _value(node.right))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _product(_value(node.left), _value(node.right))
    raise ValueError(f"{ast.unparse(node)} is not allowed")


def _product(left: Any, right: Any) -> Any:
    lengths = [len(factor) for factor in (left, right) if isinstance(factor, list | tuple)]
    times = [factor for factor in (left, right) if isinstance(factor, int)]
    if lengths and times and lengths[0] * times[0] > _MAX_CONV_LAYERS:
        raise ValueError(f"more than {_MAX_CONV_LAYERS} layers")
    return left * right


def _bounded(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) > _MAX_CONV_LAYERS:
        raise ValueError(f"more than {_MAX_CONV_LAYERS} layers")
    return value


# --- tensors


@dataclass(frozen=True)
class _Weights:
    """The tensors below one module's name, each read when asked for.

    ``names`` stands beside the mapping because a mapping's own ``in`` may read the tensor.
    """

    tensors: Mapping[str, Tensor]
    names: frozenset[str]
    module: str

    def below(self, module: str) -> _Weights:
        return _Weights(self.tensors, self.names, f"{self.module}{module}.")

    def __contains__(self, name: str) -> bool:
        return self.module + name in self.names

    def read(self, name: str, *shape: int | None) -> Tensor:
        """The tensor in float32; an InconsistentError if there is none of this shape, where None means any size."""
        full_name = self.module + name
        if full_name not in self.names:
            raise _inconsistent(f"{full_name} is missing, and cfg says that there is one of {shape}")
        tensor = self.tensors[full_name]
        if not _fits(tensor.shape, shape):
            raise _inconsistent(f"{full_name} is {tuple(tensor.shape)}, and cfg says {shape}")
        return tensor.to(torch.float32)

    def bias(self, size: int, *, expected: bool) -> Tensor | None:
        if expected:
            return self.read("bias", size)
        if "bias" in self:
            raise _inconsistent(f"{self.module}bias is there, and cfg says that there is none")
        return None


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(size in (there, None) for there, size in zip(found, wanted, strict=True))


def _inconsistent(problem: str) -> InconsistentError:
    return InconsistentError(problem, advice="Check that the checkpoint's cfg and model belong together.")


def _linear(x: Tensor, weights: _Weights, width: int, *, bias: bool = True) -> Tensor:
    weight = weights.read("weight", width, x.size(-1))
    return F.linear(x, weight, weights.bias(width, expected=bias))


def _layer_norm(x: Tensor, weights: _Weights) -> Tensor:
    width = x.size(-1)
    return F.layer_norm(x, (width,), weights.read("weight", width), weights.read("bias", width), _EPSILON)


# --- feature extractor


def _features(
    source: Tensor, padding_mask: Tensor | None, weights: _Weights, settings: _Settings
) -> tuple[Tensor, Tensor | None]:
    """Features (B, frames, C) after ``layer_norm`` and cropping, and which of the frames are padding."""
    layers = _conv_layers(settings.conv_feature_layers)
    features = _extract(source, layers, weights.below("feature_extractor.conv_layers"), settings)
    features = _layer_norm(features.transpose(1, 2), weights.below("layer_norm"))
    mask = None if padding_mask is None else _frame_mask(padding_mask, features.size(1), layers)
    kept = features.size(1) - features.size(1) % settings.crop_seq_to_multiple
    return features[:, :kept], None if mask is None else mask[:, :kept]


def _extract(source: Tensor, layers: list[tuple[int, int, int]], weights: _Weights, settings: _Settings) -> Tensor:
    """``ConvFeatureExtractionModel.forward``: (B, T) to (B, C, frames)."""
    x = source.unsqueeze(1)
    for index, (width, kernel, stride) in enumerate(layers):
        if x.size(-1) < kernel:
            raise UsageError(
                f"{source.size(1)} samples are too few to give a frame", advice="Give a clip of 25 ms or more."
            )
        conv = weights.below(f"{index}.0")
        weight = conv.read("weight", width, x.size(1), kernel)
        x = F.conv1d(x, weight, conv.bias(width, expected=settings.conv_bias), stride=stride)
        x = F.gelu(_extractor_norm(x, index, weights, settings))
    return x


def _extractor_norm(x: Tensor, index: int, weights: _Weights, settings: _Settings) -> Tensor:
    """Mode ``layer_norm`` normalises after each convolution, ``default`` in groups of one after the first."""
    if settings.extractor_mode == "layer_norm":
        return _layer_norm(x.transpose(-2, -1), weights.below(f"{index}.2.1")).transpose(-2, -1)
    if index > 0:
        return x
    norm, width = weights.below("0.2"), x.size(1)
    return F.group_norm(x, width, norm.read("weight", width), norm.read("bias", width), _EPSILON)


def _frame_mask(padding_mask: Tensor, frames: int, layers: list[tuple[int, int, int]]) -> Tensor | None:
    """``Wav2Vec2Model.forward``'s mask: true after the last frame that a clip's own samples give."""
    if not padding_mask.any():
        return None
    lengths = (1 - padding_mask.long()).sum(-1)
    for _, kernel, stride in layers:
        lengths = torch.floor((lengths - kernel) / stride + 1)
    last = torch.zeros(padding_mask.size(0), frames)
    last[torch.arange(padding_mask.size(0)), lengths.to(torch.long) - 1] = 1
    return (1 - last.flip([-1]).cumsum(-1).flip([-1])).bool()


def _project_features(features: Tensor, weights: _Weights, settings: _Settings) -> Tensor:
    """The encoder's input (B, frames, dim): the features projected or quantised, or as they are."""
    dim = settings.encoder_embed_dim
    if settings.quantize_input:
        quantizer = weights.below("input_quantizer")
        quantized, _ = _quantize(features, quantizer, settings.input_codevector_width, settings)
        return _linear(quantized, weights.below("project_inp"), dim)
    if features.size(-1) != dim:
        return _linear(features, weights.below("post_extract_proj"), dim)
    return features


# --- encoder


def _encode(
    x: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings
) -> tuple[tuple[Tensor, ...], Tensor]:
    """``ConformerEncoder.forward`` or ``TransformerEncoder.forward`` with conformer layers: (B, frames, dim) each."""
    encoder = weights.below("encoder")
    attention = _attention(encoder, settings)
    if mask is not None:
        x = x.masked_fill(mask.unsqueeze(-1), 0)
    absolute = _absolute_positions(attention, settings)
    if absolute:
        x = x + _positional_convolution(x, encoder.below("pos_conv"), settings)
    if not settings.layer_norm_first:
        x = _layer_norm(x, encoder.below("layer_norm"))
    frames = x.size(1)
    if absolute:
        x, mask = _pad_to_multiple(x, mask, settings.required_seq_len_multiple)
    hidden_states = [x]
    for index in range(settings.encoder_layers):
        hidden_states.append(_layer(hidden_states[-1], mask, encoder.below(f"layers.{index}"), attention, settings))
    hidden_states = [state[:, :frames] for state in hidden_states]
    last = hidden_states[-1]
    return tuple(hidden_states), _layer_norm(last, encoder.below("layer_norm")) if settings.layer_norm_first else last


def _pad_to_multiple(x: Tensor, mask: Tensor | None, multiple: int) -> tuple[Tensor, Tensor | None]:
    """``pad_to_multiple`` of models/wav2vec/utils.py, as ``TransformerEncoder.extract_features`` uses it."""
    added = -x.size(1) % multiple
    if not added:
        return x, mask
    if mask is None:
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    return F.pad(x, (0, 0, 0, added)), F.pad(mask, (0, added), value=True)


def _positional_convolution(x: Tensor, weights: _Weights, settings: _Settings) -> Tensor:
    """``TransformerEncoder.pos_conv``: one convolution with weight norm, or ``pos_conv_depth`` plain ones."""
    x = x.transpose(1, 2)
    if settings.pos_conv_depth <= 1:
        conv = weights.below("0")
        x = F.gelu(_same_conv(x, _weight_norm(conv, settings), conv, settings))
        return x.transpose(1, 2)
    kernel = max(3, settings.conv_pos // settings.pos_conv_depth)
    for index in range(settings.pos_conv_depth):
        conv = weights.below(f"{index}.0")
        x = _same_conv(x, conv.read("weight", *_pos_conv_shape(kernel, settings)), conv, settings)
        x = F.layer_norm(x.transpose(1, 2), (x.size(1),), eps=_EPSILON).transpose(1, 2)
        x = F.gelu(x)
    return x.transpose(1, 2)


def _pos_conv_shape(kernel: int, settings: _Settings) -> tuple[int, int, int]:
    return settings.encoder_embed_dim, settings.encoder_embed_dim // settings.conv_pos_groups, kernel


def _weight_norm(conv: _Weights, settings: _Settings) -> Tensor:
    """``torch.nn.utils.weight_norm`` with ``dim=2``: one length for each place in the kernel."""
    direction = conv.read("weight_v", *_pos_conv_shape(settings.conv_pos, settings))
    length = conv.read("weight_g", 1, 1, settings.conv_pos)
    norm: Tensor = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    return direction * (length / norm)


def _same_conv(x: Tensor, weight: Tensor, conv: _Weights, settings: _Settings) -> Tensor:
    """A convolution that keeps the number of frames: an even kernel gives one too many (modules/same_pad.py)."""
    bias = conv.read("bias", weight.size(0))
    padded = F.conv1d(x, weight, bias, padding=weight.size(-1) // 2, groups=settings.conv_pos_groups)
    return padded[:, :, : x.size(-1)]


# --- conformer layer


def _layer(x: Tensor, mask: Tensor | None, weights: _Weights, attention: _Attention, settings: _Settings) -> Tensor:
    """``ConformerEncoderLayer.forward`` (modules/conformer_layer.py), which knows no dropout but its own."""
    x = _feed_forward(x, weights.below("ffn1"), settings) * 0.5 + x
    normalised = _layer_norm(x, weights.below("self_attn_layer_norm"))
    x = attention(normalised, mask, weights.below("self_attn"), settings) + x
    x = x + _convolution(x, weights.below("conv_module"), settings)
    x = _feed_forward(x, weights.below("ffn2"), settings) * 0.5 + x
    return _layer_norm(x, weights.below("final_layer_norm"))


def _feed_forward(x: Tensor, weights: _Weights, settings: _Settings) -> Tensor:
    """``FeedForwardModule.forward``; its activation is always swish, whatever ``activation_fn`` says."""
    normalised = _layer_norm(x, weights.below("layer_norm"))
    hidden = F.silu(_linear(normalised, weights.below("w_1"), settings.encoder_ffn_embed_dim))
    return _linear(hidden, weights.below("w_2"), x.size(-1))


def _convolution(x: Tensor, weights: _Weights, settings: _Settings) -> Tensor:
    """``ConvolutionModule.forward``."""
    dim, kernel = x.size(-1), settings.depthwise_conv_kernel_size
    x = _layer_norm(x, weights.below("layer_norm")).transpose(1, 2)
    x = F.glu(_conv_without_bias(x, weights.below("pointwise_conv1"), (2 * dim, dim, 1)), dim=1)
    x = _conv_without_bias(x, weights.below("depthwise_conv"), (dim, 1, kernel), groups=dim)
    x = F.silu(_batch_norm(x, weights.below("batch_norm")))
    return _conv_without_bias(x, weights.below("pointwise_conv2"), (dim, dim, 1)).transpose(1, 2)


def _conv_without_bias(x: Tensor, weights: _Weights, shape: tuple[int, int, int], *, groups: int = 1) -> Tensor:
    bias = weights.bias(shape[0], expected=False)
    return F.conv1d(x, weights.read("weight", *shape), bias, padding=(shape[-1] - 1) // 2, groups=groups)


def _batch_norm(x: Tensor, weights: _Weights) -> Tensor:
    mean, variance, weight, bias = (
        weights.read(name, x.size(1)) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias, eps=_EPSILON)


# --- attention: (B, frames, dim) to (B, frames, dim), leaving out the frames that the mask (B, frames) marks

_Attention = Callable[[Tensor, Tensor | None, _Weights, _Settings], Tensor]


def _attend_absolute(x: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings) -> Tensor:
    """``ESPNETMultiHeadedAttention.forward`` (modules/espnet_multihead_attention.py)."""
    return _attend_to_products(x, x, mask, weights, settings)


def _attend_rotary(x: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings) -> Tensor:
    """``RotaryPositionMultiHeadedAttention.forward``: turns the input of the projections, not their output."""
    heads = settings.encoder_attention_heads
    width = x.size(-1) // heads
    inverse_frequency = weights.read("rotary_emb.inv_freq", width // 2)
    angles = torch.einsum("i,j->ij", torch.arange(x.size(1)).type_as(inverse_frequency), inverse_frequency)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    split = _split(x, heads)
    first, second = split.chunk(2, dim=-1)
    rotated = (split * angles.cos()) + (torch.cat((-second, first), dim=-1) * angles.sin())
    return _attend_to_products(x, rotated.flatten(-2), mask, weights, settings)


def _attend_relative(x: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings) -> Tensor:
    """``RelPositionMultiHeadedAttention.forward``; https://arxiv.org/abs/1901.02860, section 3.3."""
    heads, width = settings.encoder_attention_heads, x.size(-1) // settings.encoder_attention_heads
    query, key, value = (_heads(x, weights.below(name), settings) for name in ("linear_q", "linear_k", "linear_v"))
    positions = _heads(_relative_positions(x), weights.below("linear_pos"), settings, bias=False)
    content_bias = weights.read("pos_bias_u", heads, width).unsqueeze(1)
    position_bias = weights.read("pos_bias_v", heads, width).unsqueeze(1)
    by_content = torch.matmul(query + content_bias, key.transpose(-2, -1))
    by_position = _relative_shift(torch.matmul(query + position_bias, positions.transpose(-2, -1)))
    return _weigh(value, (by_content + by_position) / math.sqrt(width), mask, weights)


def _attend_fairseq(x: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings) -> Tensor:
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


def _attend_to_products(
    x: Tensor, positioned: Tensor, mask: Tensor | None, weights: _Weights, settings: _Settings
) -> Tensor:
    """Scaled dot products of the positioned input weigh the input itself."""
    query = _heads(positioned, weights.below("linear_q"), settings)
    key = _heads(positioned, weights.below("linear_k"), settings)
    value = _heads(x, weights.below("linear_v"), settings)
    return _weigh(value, torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(key.size(-1)), mask, weights)


def _heads(x: Tensor, weights: _Weights, settings: _Settings, *, bias: bool = True) -> Tensor:
    """``forward_qkv``: projected and split, (B, frames, dim) to (B, heads, frames, dim / heads)."""
    projected = _linear(x, weights, x.size(-1), bias=bias)
    return _split(projected, settings.encoder_attention_heads).transpose(1, 2)


def _split(x: Tensor, parts: int) -> Tensor:
    """(..., width) to (..., parts, width / parts)."""
    return x.reshape(*x.shape[:-1], parts, x.size(-1) // parts)


def _weigh(value: Tensor, scores: Tensor, mask: Tensor | None, weights: _Weights) -> Tensor:
    """``forward_attention``: value (B, heads, frames, width) by scores (B, heads, frames, frames), projected."""
    if mask is not None:
        scores = scores.masked_fill(mask.unsqueeze(1).unsqueeze(2), float("-inf"))
    attended = torch.matmul(torch.softmax(scores, dim=-1), value)
    attended = attended.transpose(1, 2).flatten(-2)
    return _linear(attended, weights.below("linear_out"), attended.size(-1))


def _relative_positions(x: Tensor) -> Tensor:
    """``RelPositionalEncoding`` (modules/positional_encoding.py): (1, 2 * frames - 1, dim), most positive first."""
    frames, dim = x.shape[1:]
    position = torch.arange(frames - 1, -frames, -1, dtype=torch.float32).unsqueeze(1)
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
    "q_proj.weight": _attend_fairseq,
}

# The pos_enc_type under which fairseq can run each attention; where there is but one, the tensors settle it.
_RUNNABLE_POSITIONS: dict[_Attention, tuple[str, ...]] = {
    _attend_absolute: ("abs",),
    _attend_fairseq: ("abs", "rope"),
}


def _attention(encoder: _Weights, settings: _Settings) -> _Attention:
    """The attention that the tensors show; newer fairseq writes a wrong ``layer_type`` into cfg."""
    if f"layers.{settings.encoder_layers}.final_layer_norm.weight" in encoder:
        raise _inconsistent(f"there are more layers than cfg.model.encoder_layers, {settings.encoder_layers}")
    if settings.encoder_embed_dim % settings.encoder_attention_heads:
        raise _inconsistent("cfg.model.encoder_embed_dim can't be divided by cfg.model.encoder_attention_heads")
    layer = encoder.below("layers.0")
    found = [attend for mark, attend in _ATTENTIONS.items() if f"self_attn.{mark}" in layer]
    if not found or "conv_module.depthwise_conv.weight" not in layer:
        raise UnsupportedModelError(
            f"{layer.module}* are not the tensors of a conformer layer",
            advice="Give a checkpoint of a model trained with layer_type conformer.",
        )
    return found[0]


def _absolute_positions(attention: _Attention, settings: _Settings) -> bool:
    """Whether fairseq builds its ``TransformerEncoder``, which adds a positional convolution to the input."""
    if attention not in _RUNNABLE_POSITIONS:
        return False
    if settings.pos_enc_type not in _RUNNABLE_POSITIONS[attention]:
        raise _inconsistent(
            f"cfg.model.pos_enc_type is {settings.pos_enc_type!r}, and with the attention that the tensors show "
            f"fairseq runs only {' and '.join(_RUNNABLE_POSITIONS[attention])}"
        )
    return settings.pos_enc_type == "abs"


# --- heads


def _ctc_logits(encoder_out: Tensor, projection: _Weights, model: Mapping[str, Any]) -> Tensor:
    """``Wav2VecEncoder.proj`` and the blank weight of ``Wav2VecCtc.get_logits`` (models/wav2vec/wav2vec2_asr.py)."""
    weight = projection.read("weight", None, encoder_out.size(-1))
    logits = F.linear(encoder_out, weight, projection.read("bias", weight.size(0)))
    blank_weight, blank_mode = model.get("blank_weight", 0), model.get("blank_mode", "add")
    if blank_weight == 0:
        return logits
    if blank_mode not in ("add", "set"):
        raise UnsupportedModelError(
            f"cfg.model.blank_mode is {blank_mode!r}", advice="fairseq itself runs only add and set: correct the cfg."
        )
    logits[..., 0] = blank_weight if blank_mode == "set" else logits[..., 0] + blank_weight
    return logits


def _targets(features: Tensor, weights: _Weights, settings: _Settings) -> tuple[Tensor, Tensor | None]:
    """The contrastive loss's targets (B, frames, final_dim), and their codebook entries (B, frames, groups)."""
    width = settings.final_width
    targets, indices = features, None
    if settings.quantize_targets:
        targets, indices = _quantize(features, weights.below("quantizer"), settings.codevector_width, settings)
    targets = _linear(targets, weights.below("project_q"), width)
    if settings.target_glu:
        targets = F.glu(_linear(targets, weights.below("target_glu.0"), 2 * width))
    return targets, indices


def _quantize(x: Tensor, weights: _Weights, width: int, settings: _Settings) -> tuple[Tensor, Tensor]:
    """``GumbelVectorQuantizer.forward_idx`` (modules/gumbel_vector_quantizer.py): each group's most likely entry.

    fairseq multiplies one-hot rows with the whole codebook; picking the row gives the same numbers.
    """
    groups, entries = settings.latent_groups, settings.latent_vars
    scores = _codebook_scores(x, weights.below("weight_proj"), settings)
    indices = _split(scores, groups).max(-1).indices
    codebook = weights.read("vars", 1, groups * entries, width // groups).squeeze(0)
    return codebook[indices + torch.arange(groups) * entries].flatten(-2), indices


def _codebook_scores(x: Tensor, weights: _Weights, settings: _Settings) -> Tensor:
    entries, inner = settings.latent_groups * settings.latent_vars, x.size(-1) * settings.quantizer_factor
    if settings.quantizer_depth <= 1:
        return _linear(x, weights, entries)
    for index in range(settings.quantizer_depth - 1):
        x = F.gelu(_linear(x, weights.below(f"{index}.0"), inner))
    return _linear(x, weights.below(f"{settings.quantizer_depth - 1}"), entries)
