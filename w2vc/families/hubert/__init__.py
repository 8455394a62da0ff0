"""HuBERT: ``HubertModel``, pretrained or fine-tuned with CTC; ContentVec's legacy files, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from w2vc.families.family import Evidence, Facts, Family, axis_if_there
from w2vc.families.hubert import card
from w2vc.families.hubert.keys import KEYS
from w2vc.families.hubert.names import names
from w2vc.families.hubert.tensors import TARGET, derived
from w2vc.families.shared import checks, transformer
from w2vc.families.shared import measures as shared_measures
from w2vc.families.shared import tensors as shared_tensors
from w2vc.families.shared.stages import stage_map

_NAMES = ("hubert", "hubert_ctc")
_LABELS = "label_embs_concat"
_LAYER = "encoder.layers.0.fc1.weight"

# HubertModel.forward_padding_mask divides the samples equally among the frames.
_PADDING = (
    "single clips give fairseq's outputs exactly; of the shorter clips of a padded batch, fairseq takes up to two "
    "frames more for speech than transformers' formula of lengths, and these clips differ"
)


def _recognises(evidence: Evidence) -> bool:
    is_named = evidence.model in _NAMES or evidence.inner == "hubert"
    has_labels = evidence.model is None and _LABELS in evidence.tensors
    return _LAYER in evidence.tensors and (is_named or has_labels)


def _traits(facts: Facts) -> Mapping[str, object]:
    return {
        "layer_norm_first": facts["layer_norm_first"],
        "activation_fn": facts["activation_fn"],
        "projection": facts["projection_width"],
    }


def _reference(*arguments: Any) -> Any:
    from w2vc.families.hubert.reference import reference_forward  # which imports torch

    return reference_forward(*arguments)


FAMILY = Family(
    name="hubert",
    recognises=_recognises,
    pretrained_head="none",
    keys=KEYS,
    measures={**shared_measures.MEASURES, "projection_width": axis_if_there("final_proj.weight", 0)},
    checks=checks.ENCODER,
    refusals=lambda _: (),
    target=lambda _: TARGET,
    names=names,
    fillings=shared_tensors.identity_projection,
    edits=shared_tensors.blank_weight,
    derived=derived,
    notes=lambda _: (_PADDING,),
    encoder_summary=transformer.summary,
    card_summary=transformer.summary,
    traits=_traits,
    reference=_reference,
    stages=lambda facts, head: replace(stage_map(facts, head), frame_mask="fairseq"),
    further_heads=lambda facts: () if facts["projection_width"] is None else ("projection",),
    snippets=card.snippets,
    card_notes=card.notes,
    registered=("hubert", "wav2vec_ctc"),
)
