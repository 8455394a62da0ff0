"""Where the stages of fairseq's forward can be seen in transformers' model. Data: what a family says of its target.

How the encoders of transformers' speech models go (``modeling_*.py``, ``…Encoder.forward``):

    norm after the layers     x -> layers -> encoder.layer_norm
    norm before the layers    x -> encoder.layer_norm -> layers

The positional convolution, where the model has one, comes before both. What the first layer is given is
``hidden_states[0]`` of the reference in either case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from w2vc.families.interpreter import Description
from w2vc.planning.plan import Plan

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Tap:
    """One stage of the forward, in both models.

    Attributes:
        stage: its name in the report; that of transformers' module where it is the module's output.
        reference: the attribute of ``ReferenceOutputs``, with an index after a dot where it has several:
            ``features``, ``hidden_states.0``.
        module: transformers' module, by its path from the base model.
        side: which of the module's sides shows it; of the output or the input, the first tensor.
    """

    stage: str
    reference: str
    module: str
    side: Side = "output"


@dataclass(frozen=True)
class StageMap:
    """What is compared of a model's forward, and how.

    Attributes:
        taps: the stages within the base model, in the forward's order.
        heads: further stages: attributes of ``ReferenceOutputs`` that transformers' output has by the same name.
        scores: the module that scores a codebook's entries, by its path from the whole model; None without one.
            Frames in which a rounding decides between two entries are left out of ``quantized``.
        quantized: the stage that such a decision changes.
        frame_mask: which frames of a padded batch are real. ``lengths``: both sides compute the same from the samples'
            mask. ``fairseq``: they don't, so transformers is given fairseq's.
        padded_frames: whether the frames that are padded are compared, too.
        beside_the_class: tensors of the file that transformers' class has no place for, kept for other programs.
        model_name: ``cfg.model._name`` as the reference expects it.
    """

    taps: tuple[Tap, ...]
    heads: tuple[str, ...] = ()
    scores: str | None = None
    quantized: str = "projected_quantized_states"
    frame_mask: Literal["lengths", "fairseq"] = "lengths"
    padded_frames: bool = True
    beside_the_class: frozenset[str] = frozenset()
    model_name: str = ""


def encoder_taps(layers: int, *, norm_after: bool, made_layer: bool = False) -> tuple[Tap, ...]:
    """Return the taps of an encoder.

    Args:
        layers: how many fairseq has.
        norm_after: whether ``encoder.layer_norm`` comes after transformers' layers, so that it gives the output.
        made_layer: transformers has one more layer in front, which only normalizes: fairseq's layer k is its layer
            k + 1. What the last layer gives isn't compared: it is scaled, and the norm after it undoes that.
    """
    features = Tap("features", "features", "feature_projection.layer_norm")
    if made_layer:
        shifted = (Tap(_layer(index), f"hidden_states.{index}", _layer(index)) for index in range(layers))
        return (features, *shifted, Tap(_NORM, "encoder_out", _NORM))
    given = Tap("projection", "hidden_states.0", _layer(0), "input")
    between = (Tap(_layer(index), f"hidden_states.{index + 1}", _layer(index)) for index in range(layers))
    end = (Tap(_NORM, "encoder_out", _NORM),) if norm_after else ()
    return (features, given, *between, *end)


_NORM = "encoder.layer_norm"


def _layer(index: int) -> str:
    return f"encoder.layers.{index}"


# ---------------------------------------------------------------------------------------------------------------
# What every family of today has in common. The only place that knows: a family may say it itself.

_HEADS = {"ctc": ("logits",), "pretraining": ("projected_states", "projected_quantized_states")}


def stage_map(description: Description, plan: Plan) -> StageMap:
    """Return the stages of a model that was converted by this plan."""
    layers, norm_after = description.facts["encoder_layers"], description.facts["layer_norm_first"]
    return StageMap(
        taps=encoder_taps(layers, norm_after=norm_after, made_layer=plan.config["num_hidden_layers"] != layers),
        heads=_HEADS.get(plan.head, ()),
        scores="quantizer.weight_proj" if plan.head == "pretraining" else None,
        frame_mask=description.family.frame_mask,
        beside_the_class=frozenset(plan.beyond),
        model_name=description.family.registered[description.own_head == "ctc"],
    )
