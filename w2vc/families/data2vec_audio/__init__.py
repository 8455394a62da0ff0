"""data2vec audio: ``Data2VecAudioModel``, pretrained or fine-tuned with CTC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from w2vc.families.data2vec_audio.keys import KEYS
from w2vc.families.data2vec_audio.names import NAMES
from w2vc.families.data2vec_audio.tensors import OWN_TARGET, derived
from w2vc.families.family import Evidence, Facts, Family, Refusal
from w2vc.families.shared import checks, transformer
from w2vc.families.shared import measures as shared_measures
from w2vc.families.shared import tensors as shared_tensors
from w2vc.families.shared.stages import stage_map

_NAME = "data2vec_audio"
_LAYER = "encoder.layers.0.fc1.weight"
_SHALLOW = "transformers' data2vec audio has no weight norm in its positional convolution, as a single block has"


def _recognises(evidence: Evidence) -> bool:
    has_teacher = evidence.model is None and any(name.startswith("_ema.") for name in evidence.tensors)
    return _LAYER in evidence.tensors and (_NAME in (evidence.model, evidence.inner) or has_teacher)


def _refusals(facts: Facts) -> Iterator[Refusal]:
    if not transformer.is_deep(facts):
        yield Refusal(f"cfg.{facts['section']}.pos_conv_depth is {facts['pos_conv_depth']}", _SHALLOW)


def _reference(*arguments: Any) -> Any:
    from w2vc.families.data2vec_audio.reference import reference_forward  # which imports torch

    return reference_forward(*arguments)


FAMILY = Family(
    name="data2vec-audio",
    recognises=_recognises,
    pretrained_head="none",
    keys=KEYS,
    measures=shared_measures.MEASURES,
    checks=checks.ENCODER,
    refusals=_refusals,
    target=lambda _: OWN_TARGET,
    names=lambda _: NAMES,
    # fairseq has a projection even where the widths are equal.
    fillings=lambda _: (),
    edits=shared_tensors.blank_weight,
    derived=lambda facts: {"vocab_size": facts["vocabulary"], **derived(facts)},
    notes=lambda _: (),
    encoder_summary=transformer.summary,
    card_summary=transformer.summary,
    traits=lambda facts: {"layer_norm_first": facts["layer_norm_first"], "activation_fn": facts["activation_fn"]},
    reference=_reference,
    stages=stage_map,
    registered=(_NAME, "wav2vec_ctc"),
)
