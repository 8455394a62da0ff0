"""wav2vec 2.0: ``Wav2Vec2Model`` with transformer layers, pretrained or fine-tuned with CTC; XLSR and XLS-R, too."""

from __future__ import annotations

from typing import Any

from w2vc.families.family import Evidence, Family
from w2vc.families.shared import checks, transformer
from w2vc.families.shared import measures as shared_measures
from w2vc.families.shared import tensors as shared_tensors
from w2vc.families.wav2vec2.keys import KEYS
from w2vc.families.wav2vec2.names import names
from w2vc.families.wav2vec2.tensors import derived, target

_NAMES = (None, "wav2vec2", "wav2vec_ctc", "wav2vec2_asr")


def _recognises(evidence: Evidence) -> bool:
    has_layers = "encoder.layers.0.fc1.weight" in evidence.tensors and "encoder.layer_norm.weight" in evidence.tensors
    return has_layers and evidence.model in _NAMES and evidence.inner in _NAMES


def _reference(*arguments: Any) -> Any:
    from w2vc.families.wav2vec2.reference import reference_forward  # which imports torch

    return reference_forward(*arguments)


FAMILY = Family(
    name="wav2vec2",
    recognises=_recognises,
    pretrained_head="pretraining",
    keys=KEYS,
    measures=shared_measures.MEASURES,
    checks=checks.EVERY,
    refusals=transformer.deep_refusals,
    target=target,
    names=names,
    fillings=shared_tensors.identity_projection,
    edits=shared_tensors.blank_weight,
    derived=derived,
    notes=lambda _: (),
    encoder_summary=transformer.summary,
    card_summary=transformer.summary,
    traits=lambda facts: {"layer_norm_first": facts["layer_norm_first"], "activation_fn": facts["activation_fn"]},
    reference=_reference,
)
