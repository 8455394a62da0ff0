"""wav2vec2-conformer: ``Wav2Vec2Model`` with conformer layers, pretrained or fine-tuned with CTC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2vc.families.conformer import measures, post_norm
from w2vc.families.conformer.keys import KEYS
from w2vc.families.conformer.names import names
from w2vc.families.conformer.tensors import TARGET, derived, edits, fillings
from w2vc.families.family import Evidence, Facts, Family, Head, StageMap
from w2vc.families.shared import checks
from w2vc.families.shared import measures as shared_measures
from w2vc.families.shared.stages import stage_map

_POSITIONS: Mapping[measures.Attention, str] = {
    "relative": "relative positions",
    "rotary": "rotary positions",
    "plain": "no position embeddings",
}


def _recognises(evidence: Evidence) -> bool:
    has_modules = any(".conv_module." in name for name in evidence.tensors)
    return has_modules and "encoder.layer_norm.weight" in evidence.tensors and evidence.inner in (None, "wav2vec2")


def _summary(facts: Facts) -> str:
    norm = "post-norm, " if post_norm.is_post_norm(facts) else ""
    return f"{norm}{_POSITIONS[facts['attention']]}, depthwise kernel {facts['depthwise_conv_kernel_size']}"


def _reference(*arguments: Any) -> Any:
    from w2vc.families.conformer.reference import reference_forward  # which imports torch

    return reference_forward(*arguments)


def _stages(facts: Facts, head: Head) -> StageMap:
    found = stage_map(facts, head)
    return post_norm.stages(found) if post_norm.is_post_norm(facts) else found


FAMILY = Family(
    name="wav2vec2-conformer",
    recognises=_recognises,
    pretrained_head="pretraining",
    keys=KEYS,
    measures={**shared_measures.MEASURES, "attention": measures.attention},
    checks=checks.EVERY,
    refusals=lambda _: (),
    target=lambda _: TARGET,
    names=names,
    fillings=fillings,
    edits=edits,
    derived=derived,
    notes=lambda facts: post_norm.notes(facts) if post_norm.is_post_norm(facts) else (),
    encoder_summary=_summary,
    card_summary=lambda facts: _POSITIONS[facts["attention"]],
    traits=lambda facts: {"position_embeddings": facts["attention"]},
    reference=_reference,
    stages=_stages,
)
