"""The parts of fairseq's forward that its speech encoders share, in plain torch.

They are the yardstick that a conversion is compared with where there is no fairseq, so they are written from fairseq's
source (0.12.2) alone and share no arithmetic with the rest of w2vc. They cover more than transformers can express:
quantized input, cropping, and every form of the pretraining head. Operations come in fairseq's order, without dropout,
masking or sampling, as in fairseq's eval mode.

Frames are cut from 16 kHz (or whatever the model was trained on) audio by the convolutional feature extractor. In the
shapes below B is the batch, T the samples, C the width of the last convolution, dim ``encoder_embed_dim``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's users, fairseq among them, give it

from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError
from w2vc.families.conv_feature_layers import ConvLayer, parse_conv_feature_layers

# torch.nn.LayerNorm's, GroupNorm's and BatchNorm1d's default, which fairseq never changes.
EPSILON = 1e-5


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


Layer = Callable[[Tensor, Tensor | None, "Weights"], Tensor]


@dataclass(frozen=True)
class Encoder:
    """What a family's encoder is made of.

    Attributes:
        layer: (x, mask, weights) to x, all of it (B, frames, dim); the mask (B, frames) is true where padded.
        is_transformer: whether fairseq builds its ``TransformerEncoder``, which adds the positional convolution to the
            input and pads to a multiple, or another one that doesn't.
    """

    layer: Layer
    is_transformer: bool


@dataclass(frozen=True)
class Model:
    """What a family's forward is made of.

    Attributes:
        architectures: by ``cfg.model._name``, where below ``cfg.model`` the architecture is.
        fine_tuned: the names of those that have a CTC head over the model.
        what: the model in an error.
        settings: the class of the keys that the forward depends on.
        encoder: the encoder that tensors and settings show.
        frame_mask: (padding_mask, frames, layers) to the mask of frames, None where nothing is padded.
        pretraining: the heads of a pretrained model: (encoder_out, features, weights, settings) to projected states,
            targets and codevector indices.
        ignored: keys of the settings that the model doesn't look at.
        always_projects: ``post_extract_proj`` is there even where the features are as wide as the encoder.
    """

    architectures: Mapping[str, tuple[str, ...]]
    fine_tuned: frozenset[str]
    what: str
    settings: type[Settings]
    encoder: Callable[[Weights, Any], Encoder]
    frame_mask: Callable[[Tensor, int, tuple[ConvLayer, ...]], Tensor | None]
    pretraining: Callable[[Tensor, Tensor, Weights, Any], tuple[Tensor | None, Tensor | None, Tensor | None]]
    ignored: frozenset[str] = frozenset()
    always_projects: bool = False


@torch.no_grad()
def forward(
    model: Model,
    tensors: Mapping[str, Tensor],
    cfg: Mapping[str, Any],
    source: Tensor,
    padding_mask: Tensor | None = None,
) -> ReferenceOutputs:
    """Compute what fairseq's model computes in eval mode.

    Follows ``Wav2Vec2Model.forward`` and ``quantize`` (models/wav2vec/wav2vec2.py) and ``Wav2VecEncoder.forward``
    (models/wav2vec/wav2vec2_asr.py). Each tensor is read where it is used and not kept, so with a lazy mapping the
    memory is that of one module.

    Args:
        model: what the forward is made of.
        tensors: fairseq's state dict, of any floating dtype; computed with in float32.
        cfg: the checkpoint's whole cfg as plain values. Keys that are absent have fairseq's defaults.
        source: (B, T) float32 samples, normalized already if ``task.normalize`` says so.
        padding_mask: (B, T) bool, true where a clip is padded.

    Raises:
        UsageError: source or padding_mask has another shape or dtype, or source is too short to give a frame.
        UnsupportedModelError: another model, or one that fairseq can't run.
        InconsistentError: a tensor is missing or has another shape than cfg says.
    """
    _check_input(source, padding_mask)
    settings = _settings(model, cfg)
    fine_tuned = cfg["model"]["_name"] in model.fine_tuned
    checkpoint = Weights(tensors, frozenset(tensors), "")
    weights = checkpoint.below("w2v_encoder.w2v_model") if fine_tuned else checkpoint

    features, mask = _features(model, source, padding_mask, weights, settings)
    projected_features = _project_features(model, features, weights, settings)
    encoder = weights.below("encoder")
    hidden_states, encoder_out = _encode(projected_features, mask, encoder, model.encoder(encoder, settings), settings)
    logits = projected = targets = indices = None
    if fine_tuned:
        logits = _ctc_logits(encoder_out, checkpoint.below("w2v_encoder.proj"), cfg["model"])
    else:
        projected, targets, indices = model.pretraining(encoder_out, features, weights, settings)
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
class Settings:
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
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    depthwise_conv_kernel_size: int = 31
    pos_enc_type: str = "abs"
    conv_pos: int = 128
    conv_pos_groups: int = 16
    pos_conv_depth: int = 1
    conv_pos_batch_norm: bool = False
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
        """The width that both projections lead to."""
        return self.final_dim if self.final_dim > 0 else self.encoder_embed_dim

    @property
    def codevector_width(self) -> int:
        """The width of a quantized vector, all groups together."""
        return self.latent_dim if self.latent_dim > 0 else self.final_width

    @property
    def input_codevector_width(self) -> int:
        """The width of a quantized input."""
        if self.same_quantizer and self.quantize_targets:
            return self.codevector_width
        return self.latent_dim if self.latent_dim > 0 else self.encoder_embed_dim


def _settings(model: Model, cfg: Mapping[str, Any]) -> Settings:
    architecture, path = cfg["model"], "cfg.model"
    name = architecture.get("_name")
    if name not in model.architectures:
        raise UnsupportedModelError(
            f"cfg.model._name is {name!r}, and only {' and '.join(model.architectures)} can be computed",
            advice=f"Give a pretrained {model.what}, or one fine-tuned with CTC.",
        )
    for key in model.architectures[name]:
        architecture, path = architecture.get(key), f"{path}.{key}"
        if not isinstance(architecture, Mapping):
            raise inconsistent(f"{path} is {architecture!r}, and should hold the model's architecture")
    known = ({key.name for key in fields(model.settings)} & architecture.keys()) - model.ignored
    return model.settings(**{key: architecture[key] for key in known})


def _conv_layers(settings: Settings) -> tuple[ConvLayer, ...]:
    layers = parse_conv_feature_layers(settings.conv_feature_layers)
    if layers is None:
        raise UnsupportedModelError(
            "cfg.model.conv_feature_layers can't be read",
            advice='It must be like "[(512, 10, 5)] + [(512, 3, 2)] * 4": lists, tuples, integers, + and *.',
        )
    return layers


# --- tensors


@dataclass(frozen=True)
class Weights:
    """The tensors below one module's name, each read when asked for.

    ``names`` is given with the mapping because a mapping's own ``in`` may read the tensor.
    """

    tensors: Mapping[str, Tensor]
    names: frozenset[str]
    module: str

    def below(self, module: str) -> Weights:
        """Return the tensors below a module of this one."""
        return Weights(self.tensors, self.names, f"{self.module}{module}.")

    def __contains__(self, name: str) -> bool:
        return self.module + name in self.names

    def read(self, name: str, *shape: int | None) -> Tensor:
        """The tensor in float32; an InconsistentError if there is none of this shape, where None means any size."""
        full_name = self.module + name
        if full_name not in self.names:
            raise inconsistent(f"{full_name} is missing, and cfg says that there is one of {shape}")
        tensor = self.tensors[full_name]
        if not _fits(tensor.shape, shape):
            raise inconsistent(f"{full_name} is {tuple(tensor.shape)}, and cfg says {shape}")
        return tensor.to(torch.float32)

    def bias(self, size: int, *, expected: bool) -> Tensor | None:
        """Return the bias, which has to be there exactly if it is expected."""
        if expected:
            return self.read("bias", size)
        if "bias" in self:
            raise inconsistent(f"{self.module}bias is there, and cfg says that there is none")
        return None


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(size in (there, None) for there, size in zip(found, wanted, strict=True))


def inconsistent(problem: str) -> InconsistentError:
    """Make the error that cfg and tensors don't fit together."""
    return InconsistentError(problem, advice="Check that the checkpoint's cfg and model belong together.")


def linear(x: Tensor, weights: Weights, width: int, *, bias: bool = True) -> Tensor:
    """``torch.nn.Linear``, (..., width of x) to (..., width)."""
    weight = weights.read("weight", width, x.size(-1))
    return F.linear(x, weight, weights.bias(width, expected=bias))


def split(x: Tensor, parts: int) -> Tensor:
    """(..., width) to (..., parts, width / parts)."""
    return x.reshape(*x.shape[:-1], parts, x.size(-1) // parts)


def layer_norm(x: Tensor, weights: Weights) -> Tensor:
    """``LayerNorm`` over the last axis."""
    width = x.size(-1)
    return F.layer_norm(x, (width,), weights.read("weight", width), weights.read("bias", width), EPSILON)


# --- feature extractor


def _features(
    model: Model, source: Tensor, padding_mask: Tensor | None, weights: Weights, settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """Features (B, frames, C) after ``layer_norm`` and cropping, and which of the frames are padding."""
    layers = _conv_layers(settings)
    features = _extract(source, layers, weights.below("feature_extractor.conv_layers"), settings)
    features = layer_norm(features.transpose(1, 2), weights.below("layer_norm"))
    mask = None if padding_mask is None else model.frame_mask(padding_mask, features.size(1), layers)
    kept = features.size(1) - features.size(1) % settings.crop_seq_to_multiple
    return features[:, :kept], None if mask is None else mask[:, :kept]


def _extract(source: Tensor, layers: tuple[ConvLayer, ...], weights: Weights, settings: Settings) -> Tensor:
    """``ConvFeatureExtractionModel.forward``: (B, T) to (B, C, frames)."""
    x = source.unsqueeze(1)
    for index, layer in enumerate(layers):
        if x.size(-1) < layer.kernel:
            raise UsageError(
                f"{source.size(1)} samples are too few to give a frame", advice="Give a clip of 25 ms or more."
            )
        conv = weights.below(f"{index}.0")
        weight = conv.read("weight", layer.dim, x.size(1), layer.kernel)
        x = F.conv1d(x, weight, conv.bias(layer.dim, expected=settings.conv_bias), stride=layer.stride)
        x = F.gelu(_extractor_norm(x, index, weights, settings))
    return x


def _extractor_norm(x: Tensor, index: int, weights: Weights, settings: Settings) -> Tensor:
    """Mode ``layer_norm`` normalises after each convolution, ``default`` in groups of one after the first."""
    if settings.extractor_mode == "layer_norm":
        return layer_norm(x.transpose(-2, -1), weights.below(f"{index}.2.1")).transpose(-2, -1)
    if index > 0:
        return x
    norm, width = weights.below("0.2"), x.size(1)
    return F.group_norm(x, width, norm.read("weight", width), norm.read("bias", width), EPSILON)


def frame_mask(padding_mask: Tensor, frames: int, layers: tuple[ConvLayer, ...]) -> Tensor | None:
    """``Wav2Vec2Model.forward``'s mask: true after the last frame that a clip's own samples give."""
    if not padding_mask.any():
        return None
    lengths = (1 - padding_mask.long()).sum(-1)
    for layer in layers:
        lengths = torch.floor((lengths - layer.kernel) / layer.stride + 1)
    last = torch.zeros(padding_mask.size(0), frames)
    last[torch.arange(padding_mask.size(0)), lengths.to(torch.long) - 1] = 1
    return (1 - last.flip([-1]).cumsum(-1).flip([-1])).bool()


def _project_features(model: Model, features: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """The encoder's input (B, frames, dim): the features projected or quantised, or as they are."""
    dim = settings.encoder_embed_dim
    if settings.quantize_input:
        quantizer = weights.below("input_quantizer")
        quantized, _ = _quantize(features, quantizer, settings.input_codevector_width, settings)
        return linear(quantized, weights.below("project_inp"), dim)
    if features.size(-1) != dim or model.always_projects:
        return linear(features, weights.below("post_extract_proj"), dim)
    return features


# --- encoder


def _encode(
    x: Tensor, mask: Tensor | None, weights: Weights, encoder: Encoder, settings: Settings
) -> tuple[tuple[Tensor, ...], Tensor]:
    """``TransformerEncoder.forward``, or ``ConformerEncoder.forward``, which adds no positions: (B, frames, dim)."""
    if mask is not None:
        x = x.masked_fill(mask.unsqueeze(-1), 0)
    if encoder.is_transformer:
        x = x + _positional_convolution(x, weights.below("pos_conv"), settings)
    if not settings.layer_norm_first:
        x = layer_norm(x, weights.below("layer_norm"))
    frames = x.size(1)
    if encoder.is_transformer:
        x, mask = _pad_to_multiple(x, mask, settings.required_seq_len_multiple)
    hidden_states = [x]
    for index in range(settings.encoder_layers):
        hidden_states.append(encoder.layer(hidden_states[-1], mask, weights.below(f"layers.{index}")))
    hidden_states = [state[:, :frames] for state in hidden_states]
    last = hidden_states[-1]
    return tuple(hidden_states), layer_norm(last, weights.below("layer_norm")) if settings.layer_norm_first else last


def check_layers(weights: Weights, settings: Settings) -> None:
    """Raise if there are more layers than the cfg says, or the heads can't share the channels."""
    if f"layers.{settings.encoder_layers}.final_layer_norm.weight" in weights:
        raise inconsistent(f"there are more layers than cfg.model.encoder_layers, {settings.encoder_layers}")
    if settings.encoder_embed_dim % settings.encoder_attention_heads:
        raise inconsistent("cfg.model.encoder_embed_dim can't be divided by cfg.model.encoder_attention_heads")


def _pad_to_multiple(x: Tensor, mask: Tensor | None, multiple: int) -> tuple[Tensor, Tensor | None]:
    """``pad_to_multiple`` of models/wav2vec/utils.py, as ``TransformerEncoder.extract_features`` uses it."""
    added = -x.size(1) % multiple
    if not added:
        return x, mask
    if mask is None:
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    return F.pad(x, (0, 0, 0, added)), F.pad(mask, (0, added), value=True)


def _positional_convolution(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """``TransformerEncoder.pos_conv``: one convolution with weight or batch norm, or ``pos_conv_depth`` plain ones."""
    x = x.transpose(1, 2)
    if settings.pos_conv_depth <= 1:
        return F.gelu(_single_pos_conv(x, weights, settings)).transpose(1, 2)
    kernel = max(3, settings.conv_pos // settings.pos_conv_depth)
    for index in range(settings.pos_conv_depth):
        conv = weights.below(f"{index}.0")
        x = _same_conv(x, conv.read("weight", *_pos_conv_shape(kernel, settings)), conv, settings)
        x = F.layer_norm(x.transpose(1, 2), (x.size(1),), eps=EPSILON).transpose(1, 2)
        x = F.gelu(x)
    return x.transpose(1, 2)


def _single_pos_conv(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    """``make_conv_pos``; the batch norm, which 0.12.2 hasn't got, comes before the convolution."""
    if not settings.conv_pos_batch_norm:
        conv = weights.below("0")
        return _same_conv(x, _weight_norm(conv, settings), conv, settings)
    conv = weights.below("1")
    weight = conv.read("weight", *_pos_conv_shape(settings.conv_pos, settings))
    return _same_conv(batch_norm(x, weights.below("0")), weight, conv, settings)


def batch_norm(x: Tensor, weights: Weights) -> Tensor:
    """``BatchNorm1d`` in eval mode: (B, width, frames) to the same."""
    mean, variance, weight, bias = (
        weights.read(name, x.size(1)) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias, eps=EPSILON)


def _pos_conv_shape(kernel: int, settings: Settings) -> tuple[int, int, int]:
    return settings.encoder_embed_dim, settings.encoder_embed_dim // settings.conv_pos_groups, kernel


def _weight_norm(conv: Weights, settings: Settings) -> Tensor:
    """``torch.nn.utils.weight_norm`` with ``dim=2``: one length for each place in the kernel."""
    direction = conv.read("weight_v", *_pos_conv_shape(settings.conv_pos, settings))
    length = conv.read("weight_g", 1, 1, settings.conv_pos)
    norm: Tensor = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    return direction * (length / norm)


def _same_conv(x: Tensor, weight: Tensor, conv: Weights, settings: Settings) -> Tensor:
    """A convolution that keeps the number of frames: an even kernel gives one too many (modules/same_pad.py)."""
    bias = conv.read("bias", weight.size(0))
    padded = F.conv1d(x, weight, bias, padding=weight.size(-1) // 2, groups=settings.conv_pos_groups)
    return padded[:, :, : x.size(-1)]


# --- heads


def _ctc_logits(encoder_out: Tensor, projection: Weights, model: Mapping[str, Any]) -> Tensor:
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


def pretraining(
    encoder_out: Tensor, features: Tensor, weights: Weights, settings: Settings
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``Wav2Vec2Model``'s projected states, the contrastive loss's targets, and their codebook entries."""
    projected = linear(encoder_out, weights.below("final_proj"), settings.final_width)
    return projected, *_targets(features, weights, settings)


def _targets(features: Tensor, weights: Weights, settings: Settings) -> tuple[Tensor, Tensor | None]:
    """The contrastive loss's targets (B, frames, final_dim), and their codebook entries (B, frames, groups)."""
    width = settings.final_width
    targets, indices = features, None
    if settings.quantize_targets:
        targets, indices = _quantize(features, weights.below("quantizer"), settings.codevector_width, settings)
    targets = linear(targets, weights.below("project_q"), width)
    if settings.target_glu:
        targets = F.glu(linear(targets, weights.below("target_glu.0"), 2 * width))
    return targets, indices


def _quantize(x: Tensor, weights: Weights, width: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """``GumbelVectorQuantizer.forward_idx`` (modules/gumbel_vector_quantizer.py): each group's most likely entry.

    fairseq multiplies one-hot rows with the whole codebook; picking the row gives the same numbers.
    """
    groups, entries = settings.latent_groups, settings.latent_vars
    scores = _codebook_scores(x, weights.below("weight_proj"), settings)
    indices = split(scores, groups).max(-1).indices
    codebook = weights.read("vars", 1, groups * entries, width // groups).squeeze(0)
    return codebook[indices + torch.arange(groups) * entries].flatten(-2), indices


def _codebook_scores(x: Tensor, weights: Weights, settings: Settings) -> Tensor:
    entries, inner = settings.latent_groups * settings.latent_vars, x.size(-1) * settings.quantizer_factor
    if settings.quantizer_depth <= 1:
        return linear(x, weights, entries)
    for index in range(settings.quantizer_depth - 1):
        x = F.gelu(linear(x, weights.below(f"{index}.0"), inner))
    return linear(x, weights.below(f"{settings.quantizer_depth - 1}"), entries)
