"""Post-norm conformers in the stock class, which normalizes before its layers' sublayers and once after the layers.

fairseq computes ``layers(norm(x))`` (``ConformerEncoder.extract_features`` with ``layer_norm_first`` false),
transformers ``norm(layers(x))`` (``Wav2Vec2ConformerEncoder.forward``). Both are the same with

1. a layer in front whose branches all add exactly 0, and whose final norm is fairseq's ``encoder.layer_norm``;
   fairseq's layer k becomes layer k + 1;
2. a last norm that is linear: the last layer's final norm gets the weight ``c`` and the bias 0, so that it hands over
   c times the normalized state n, with variance c² var(n). For c² far below epsilon, transformers' norm after the
   layers divides it by sqrt(epsilon + c²), a constant, and gets fairseq's weight times sqrt(epsilon + c²) / c.
   For a state of variance v before the last norm, the relative error is
   c² / (2 (epsilon + c²)) · epsilon / (v + epsilon): 7e-9 for v = 1, 7e-7 for v = 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from w2vc.families.family import Content, Edit, Facts, Filling, Name, Scale, StageMap
from w2vc.families.shared.stages import NORM_AFTER

EPSILON = 1e-5
"""Of every layer norm, in fairseq and in transformers."""

SMALL = 2.0**-13
"""c: a power of two, so that it is exact in every dtype; smaller ones cost precision in float16."""

_ADDS_NOTHING = "post-norm: a layer in front whose branches add exactly 0, and whose final norm is encoder.layer_norm"
_IDLE = "post-norm: of the layer in front; what it computes is multiplied by 0"
_LINEAR = "post-norm: makes transformers' last norm linear, which then does what fairseq's last layer ends with"

_LAST_OF_A_BRANCH = ("ffn1.output_dense", "self_attn.linear_out", "ffn2.output_dense")
_NORMS = (
    *("ffn1_layer_norm", "self_attn_layer_norm", "conv_module.layer_norm", "conv_module.batch_norm"),
    "ffn2_layer_norm",
)
_PROJECTIONS = (
    *("ffn1.intermediate_dense", "self_attn.linear_q", "self_attn.linear_k", "self_attn.linear_v"),
    "ffn2.intermediate_dense",
)
_SINGLE: tuple[tuple[str, Content, str], ...] = (
    ("self_attn.linear_pos.weight", "zeros", _IDLE),
    ("self_attn.pos_bias_u", "zeros", _IDLE),
    ("self_attn.pos_bias_v", "zeros", _IDLE),
    ("conv_module.pointwise_conv1.weight", "zeros", _IDLE),
    ("conv_module.depthwise_conv.weight", "zeros", _IDLE),
    ("conv_module.batch_norm.running_mean", "zeros", _IDLE),
    ("conv_module.batch_norm.running_var", "ones", _IDLE),
    ("conv_module.pointwise_conv2.weight", "zeros", _ADDS_NOTHING),
)


def is_post_norm(facts: Facts) -> bool:
    """Whether fairseq normalizes before the layers and not after them."""
    return not facts["layer_norm_first"]


def names(facts: Facts, pre_norm: tuple[Name, ...]) -> tuple[Name, ...]:
    """Return the table of names for a post-norm model, made of that for a pre-norm one."""
    last = facts["encoder_layers"] - 1
    rows: list[Name] = []
    for row in pre_norm:
        if row.source == "encoder.layer_norm.{parameter}":
            rows.append(replace(row, target="encoder.layers.0.final_layer_norm.{parameter}"))
        elif row.source == "encoder.layers.{layer}.final_layer_norm.{parameter}":
            rows += _final_norms(row, last)
        else:
            rows.append(replace(row, shift=1))
    return tuple(rows)


def _final_norms(row: Name, last: int) -> Iterator[Name]:
    for layer in range(last):
        target = f"encoder.layers.{layer + 1}.final_layer_norm.{{parameter}}"
        yield replace(row, source=row.source.replace("{layer}", str(layer)), target=target)
    yield replace(row, source=row.source.replace("{layer}", str(last)), target="encoder.layer_norm.{parameter}")


def fillings(facts: Facts) -> Iterator[Filling]:
    """Give the layer in front, and the last layer's final norm."""
    for name, content, reason in _SINGLE:
        yield Filling(f"encoder.layers.0.{name}", content, reason)
    for name in _LAST_OF_A_BRANCH:
        yield Filling(f"encoder.layers.0.{name}.weight", "zeros", _ADDS_NOTHING)
        yield Filling(f"encoder.layers.0.{name}.bias", "zeros", _ADDS_NOTHING)
    for name in _PROJECTIONS:
        yield Filling(f"encoder.layers.0.{name}.weight", "zeros", _IDLE)
        yield Filling(f"encoder.layers.0.{name}.bias", "zeros", _IDLE)
    for name in _NORMS:
        yield Filling(f"encoder.layers.0.{name}.weight", "ones", _IDLE)
        yield Filling(f"encoder.layers.0.{name}.bias", "zeros", _IDLE)
    last_norm = f"encoder.layers.{facts['encoder_layers']}.final_layer_norm"
    yield Filling(f"{last_norm}.weight", "constant", _LINEAR, SMALL)
    yield Filling(f"{last_norm}.bias", "zeros", _LINEAR)


def edits() -> Mapping[str, Edit]:
    """Give the factor of the last norm's weight."""
    return {"encoder.layer_norm.weight": Scale(math.sqrt(EPSILON + SMALL**2) / SMALL)}


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the fields of a model with one layer more, which may never be skipped."""
    return {"num_hidden_layers": facts["encoder_layers"] + 1, "layerdrop": 0.0}


def stages(without: StageMap) -> StageMap:
    """Return the stages, made of those without a layer in front.

    That layer gives what fairseq's first is given. What the last one gives isn't compared: it is scaled, which the norm
    after it undoes.
    """
    features, _, *layers = without.taps
    shifted = (replace(tap, reference=f"hidden_states.{index}") for index, tap in enumerate(layers))
    return replace(without, taps=(features, *shifted, NORM_AFTER))


def notes(facts: Facts) -> tuple[str, ...]:
    """Return what a reader should know of the model."""
    layers = facts["encoder_layers"]
    return (
        f"the model has {layers + 1} layers, one more than fairseq's post-norm {layers}: the first only normalizes",
        f"hidden state k + 1 is fairseq's k, for k up to {layers - 1}",
        "the state after the last layer is scaled and lacks its norm's weight and bias; last_hidden_state is exact",
        "layerdrop is 0, since the first layer may never be skipped in training",
        f"in fine-tuning, freeze encoder.layers.{layers}.final_layer_norm: any step is large for a weight of 2^-13",
    )
