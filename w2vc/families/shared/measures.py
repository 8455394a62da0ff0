"""What the tensors of every family say: measures of the parts that all of them have.

Sources: ``fairseq/models/wav2vec/wav2vec2.py`` (``Wav2Vec2Model.__init__``, ``ConvFeatureExtractionModel``,
``TransformerEncoder``) and ``fairseq/modules/gumbel_vector_quantizer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vc.families.family import Facts, Measure, Tensors, axis_if_there, has

CTC_HEAD = "w2v_encoder.proj"
POS_CONV_V = ("encoder.pos_conv.0.weight_v", "encoder.pos_conv.0.parametrizations.weight.original1")
"""The direction of the positional convolution's weight norm, in both of torch's spellings."""
POS_CONV_BEHIND_BATCH_NORM = "encoder.pos_conv.1.weight"
"""Of a positional convolution with batch norm, which later revisions have (``make_conv_pos``)."""


def layers(tensors: Tensors) -> int:
    """Return how many layers the encoder has; a gap between them is a problem."""
    found = tensors.numbers(r"encoder\.layers\.(\d{1,5})\.")
    missing = sorted(set(range(len(found))) - found)
    if missing:
        tensors.problems.append(f"the encoder's layers {missing[:10]} are missing")
    return max(len(found), 1)


def extractor_mode(tensors: Tensors) -> str:
    """Return ``default`` where the extractor's first layer alone is normalized, in groups of one channel."""
    return "default" if "feature_extractor.conv_layers.0.2.weight" in tensors else "layer_norm"


def extractor_shapes(tensors: Tensors) -> list[tuple[int, int]]:
    """Return (width, kernel) of each of the extractor's convolutions."""
    shapes: list[tuple[int, int]] = []
    while (name := f"feature_extractor.conv_layers.{len(shapes)}.0.weight") in tensors:
        shapes.append((tensors.axis(name, 0), tensors.axis(name, 2)))
    return shapes


def _pos_conv_v(tensors: Tensors) -> tuple[int, ...] | None:
    shapes = (tensors.shape(name) for name in POS_CONV_V)
    return next((shape for shape in shapes if shape is not None and len(shape) == 3 and shape[1] > 0), None)


def _pos_conv(tensors: Tensors) -> tuple[int, ...] | None:
    shape = _pos_conv_v(tensors) or tensors.shape(POS_CONV_BEHIND_BATCH_NORM)
    return shape if shape is not None and len(shape) == 3 and shape[1] > 0 else None


def conv_pos(tensors: Tensors) -> int | None:
    """Return the kernel of a positional convolution of one block."""
    shape = _pos_conv(tensors)
    return None if shape is None else shape[2]


def conv_pos_groups(tensors: Tensors) -> int | None:
    """Return the groups of a positional convolution."""
    shape = _pos_conv(tensors) or tensors.shape("encoder.pos_conv.0.0.weight")
    return None if shape is None or len(shape) != 3 else max(shape[0] // max(shape[1], 1), 1)


def pos_conv_depth(tensors: Tensors) -> int | None:
    """Return how many blocks the positional convolution has; ``TransformerEncoder.__init__``, ``make_conv_block``."""
    blocks = tensors.numbers(r"encoder\.pos_conv\.(\d{1,3})\.0\.")
    if blocks:
        return len(blocks)
    return 1 if tensors.numbers(r"encoder\.pos_conv\.(\d{1,3})\.") else None


def quantize_targets(tensors: Tensors) -> bool | None:
    """Return whether a pretrained model has a quantizer; a fine-tuned one doesn't say."""
    return None if "project_q.weight" not in tensors else "quantizer.vars" in tensors


def quantize_input(tensors: Tensors) -> bool | None:
    """Return True where the encoder's input goes through a quantizer."""
    return True if "project_inp.weight" in tensors else None


def target_glu(tensors: Tensors) -> bool | None:
    """Return whether a pretrained model has a GLU over its targets; a fine-tuned one doesn't say."""
    if any(name.startswith("target_glu.") for name in tensors):
        return True
    return False if "project_q.weight" in tensors else None


def quantizer_depth(tensors: Tensors) -> int | None:
    """Return how many layers the quantizer's projection has."""
    if "quantizer.weight_proj.weight" in tensors:
        return 1
    layers_there = tensors.numbers(r"quantizer\.weight_proj\.(\d{1,3})\.")
    return max(layers_there) + 1 if layers_there else None


def _has_quantizer(tensors: Tensors) -> bool:
    return "quantizer.vars" in tensors and "project_q.weight" in tensors


def latent_dim(tensors: Tensors) -> int | None:
    """Return the width of a quantized vector, all groups together."""
    return tensors.axis("project_q.weight", 1) if _has_quantizer(tensors) else None


def latent_groups(tensors: Tensors) -> int | None:
    """Return how many codebooks the quantizer has."""
    if not _has_quantizer(tensors):
        return None
    return max(tensors.axis("project_q.weight", 1) // tensors.axis("quantizer.vars", 2), 1)


def latent_vars(tensors: Tensors) -> int | None:
    """Return how many entries each codebook has."""
    groups = latent_groups(tensors)
    return None if groups is None else tensors.axis("quantizer.vars", 1) // groups


def final_dim(tensors: Tensors) -> int | None:
    """Return the width that both projections of a pretrained model lead to."""
    return tensors.axis("final_proj.weight", 0) if _has_quantizer(tensors) else None


MEASURES: Mapping[str, Measure] = {
    "extractor_shapes": extractor_shapes,
    "has_projection": has("post_extract_proj.weight"),
    "has_pos_conv_v": lambda tensors: _pos_conv_v(tensors) is not None,
    "vocabulary": axis_if_there(f"{CTC_HEAD}.weight", 0),
}
"""Facts that no key of the cfg names."""


def channels(facts: Facts) -> Any:
    """Return the width of the last convolution."""
    return facts["conv_feature_layers"][-1].dim
