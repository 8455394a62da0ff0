"""Stages of the forward, where the encoders and heads of several of transformers' models show them.

How the encoders go (``modeling_*.py``, ``…Encoder.forward``):

    norm after the layers     x -> layers -> encoder.layer_norm
    norm before the layers    x -> encoder.layer_norm -> layers

A positional convolution is added to x before both. What the first layer is given is ``hidden_states[0]`` of the
reference in either case.
"""

from __future__ import annotations

from collections.abc import Mapping

from w2vc.families.family import QUANTIZED, Facts, Head, StageMap, Tap

NORM_AFTER = Tap("encoder.layer_norm", "encoder_out", "encoder.layer_norm")
"""The norm after the layers, which gives the encoder's output."""

_HEADS: Mapping[Head, tuple[str, ...]] = {
    "ctc": ("logits",),
    "pretraining": ("projected_states", QUANTIZED),
}


def stage_map(facts: Facts, head: Head) -> StageMap:
    """Return the stages of a model with this head; the encoder's norm is after its layers where these are pre-norm."""
    layers = [f"encoder.layers.{index}" for index in range(facts["encoder_layers"])]
    taps = (
        Tap("features", "features", "feature_projection.layer_norm"),
        # The projection, and what the encoder does before its layers: adds positions, normalizes.
        Tap("first_layer_input", "hidden_states.0", "encoder.layers.0", "input"),
        *(Tap(layer, f"hidden_states.{index}", layer) for index, layer in enumerate(layers, start=1)),
        *((NORM_AFTER,) if facts["layer_norm_first"] else ()),
    )
    return StageMap(taps, _HEADS.get(head, ()), "quantizer.weight_proj" if head == "pretraining" else None)
