"""wav2vec 2.0: ``Wav2Vec2Model`` with transformer layers, pretrained or fine-tuned with CTC; XLS-R and MMS, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from w2vc.families.family import Evidence, Facts, Family, Filling, Refusal
from w2vc.families.shared import checks, transformer
from w2vc.families.shared import measures as shared_measures
from w2vc.families.shared import tensors as shared_tensors
from w2vc.families.shared.stages import stage_map
from w2vc.families.wav2vec2 import adapters
from w2vc.families.wav2vec2.keys import KEYS
from w2vc.families.wav2vec2.names import names
from w2vc.families.wav2vec2.tensors import derived, target

_NAMES = (None, "wav2vec2", "wav2vec_ctc", "wav2vec2_asr")


def _recognises(evidence: Evidence) -> bool:
    has_layers = "encoder.layers.0.fc1.weight" in evidence.tensors and "encoder.layer_norm.weight" in evidence.tensors
    return has_layers and evidence.model in _NAMES and evidence.inner in _NAMES


def _refusals(facts: Facts) -> Iterator[Refusal]:
    yield from transformer.deep_refusals(facts)
    yield from adapters.refusals(facts)


def _fillings(facts: Facts) -> tuple[Filling, ...]:
    return (*shared_tensors.identity_projection(facts), *adapters.fillings(facts))


def _summary(facts: Facts) -> str:
    inner = f", adapters of {facts['adapter_dim']}" if facts["adapter_layers"] else ""
    return transformer.summary(facts) + inner


def _reference(*arguments: Any) -> Any:
    from w2vc.families.wav2vec2.reference import reference_forward  # which imports torch

    return reference_forward(*arguments)


FAMILY = Family(
    name="wav2vec2",
    recognises=_recognises,
    pretrained_head="pretraining",
    keys=KEYS,
    measures={**shared_measures.MEASURES, **adapters.MEASURES},
    checks=checks.EVERY,
    refusals=_refusals,
    target=target,
    names=names,
    fillings=_fillings,
    edits=shared_tensors.blank_weight,
    derived=derived,
    notes=lambda _: (),
    encoder_summary=_summary,
    card_summary=_summary,
    traits=lambda facts: {"layer_norm_first": facts["layer_norm_first"], "activation_fn": facts["activation_fn"]},
    reference=_reference,
    stages=stage_map,
    languages=adapters.languages,
)
