"""Finds the encoder in what others made of one: below which prefix it is, and what its tensors can't say.

Others keep an encoder of fairseq's as a module of their own model, so that its names are fairseq's after a prefix:
``ssl_model.model.encoder.layers.0…``. Behind the prefix, the families' tables apply as to fairseq's own checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError, shown
from w2vc.families.family import Evidence, Tensors
from w2vc.families.interpreter import (
    FINE_TUNED,
    FINE_TUNED_PREFIX,
    Description,
    carries_architecture,
    describe,
    describe_with,
)
from w2vc.families.strangers import stranger_at_once
from w2vc.reading.checkpoint import Checkpoint, SourceTensor

# What every encoder has: fairseq/models/wav2vec/wav2vec2.py, ConvFeatureExtractionModel and TransformerEncoder.
_EXTRACTOR = "feature_extractor.conv_layers.0.0.weight"
_LAYER = "encoder.layers.0."
_UNKNOWN_FINE_TUNING = (
    "nothing says how the model was fine-tuned: what acts in training alone is as fairseq has it by default, and the "
    "CTC head is taken to be without a weight for blanks, as it is by default"
)
_MOST_SHOWN = 6
_UNSEEN = "heads, strides, the place of the norms, the activation and the normalization of audio"


def placed(checkpoint: Checkpoint, prefix: str | None) -> Checkpoint:
    """Return the checkpoint with the encoder's tensors under fairseq's names.

    A checkpoint of fairseq's own is as it has to be, unless a prefix is asked for.

    Args:
        checkpoint: the file.
        prefix: where the encoder is; None takes the only place where one is.

    Raises:
        UnsupportedModelError: there is no encoder.
        UsageError: there is none below the prefix, or there are several and no prefix tells which.
    """
    if checkpoint.is_fairseqs and prefix is None:
        return checkpoint
    places = _places(checkpoint.tensors)
    if not places:
        raise _without_encoder(checkpoint)
    place = _only(places, checkpoint) if prefix is None else _asked_for(prefix, places, checkpoint)
    return checkpoint if checkpoint.is_fairseqs and place == "" else _below(place, checkpoint)


def described(checkpoint: Checkpoint, pretrained: Checkpoint | None) -> tuple[Checkpoint, Description]:
    """Find out what the model is, with what another checkpoint says of it where its own file doesn't.

    Returns:
        The checkpoint with the whole cfg, and what the model is.

    Raises:
        UsageError: the other one isn't needed.
        RefusedError: as ``describe``; something is missing, or the two don't belong together.
    """
    if pretrained is not None:
        return _described_with(checkpoint, pretrained)
    if not checkpoint.cfg and not checkpoint.is_fairseqs:
        raise InconsistentError(
            f"{checkpoint.path} is {checkpoint.form} with an encoder {_named(checkpoint.prefix)}, and carries no "
            f"config: tensors don't show {_UNSEEN}, and a guess would change what the model computes.",
            advice="Give the checkpoint of fairseq that the encoder was made from with --pretrained CHECKPOINT.",
        )
    return checkpoint, describe(checkpoint)


def _described_with(checkpoint: Checkpoint, pretrained: Checkpoint) -> tuple[Checkpoint, Description]:
    if not carries_architecture(pretrained):
        raise InconsistentError(
            f"{pretrained.path} can't tell what the model is: it carries no architecture itself.",
            advice="Give a checkpoint that fairseq saved in pretraining with --pretrained.",
        )
    whole, description = describe_with(checkpoint, pretrained)
    if not checkpoint.cfg and _is_fine_tuned(checkpoint) and not _is_fine_tuned(pretrained):
        description = replace(description, notes=(*description.notes, _UNKNOWN_FINE_TUNING))
    return whole, description


def _is_fine_tuned(checkpoint: Checkpoint) -> bool:
    return any(name.startswith(FINE_TUNED) for name in checkpoint.tensors)


# ---------------------------------------------------------------------------------------------------------------
# Where it is


def _places(names: Iterable[str]) -> list[str]:
    """Return what precedes an encoder's names, at each place where there is one, in the file's order."""
    names = list(names)
    layers = {before for name in names for before, mark, _rest in (name.rpartition(_LAYER),) if mark}
    found = (name.removesuffix(_EXTRACTOR) for name in names if name.endswith(_EXTRACTOR))
    return [_of_model(before) for before in found if before in layers and (not before or before.endswith("."))]


def _of_model(before: str) -> str:
    """Return what precedes a fine-tuned model's names, of which the encoder's are a part."""
    outer = before.removesuffix(FINE_TUNED_PREFIX)
    return outer if not outer or outer.endswith(".") else before


def _only(places: list[str], checkpoint: Checkpoint) -> str:
    if len(places) > 1:
        raise UsageError(
            f"{checkpoint.path} has {len(places)} encoders: {_listed(places)}.",
            advice=f"Name one of them with --prefix, like --prefix {_option(places[0])}",
        )
    return places[0]


def _asked_for(prefix: str, places: list[str], checkpoint: Checkpoint) -> str:
    """Return the place that is meant: with or without its last dot, and of a fine-tuned model or of its encoder."""
    before = prefix.rstrip(".") + "." if prefix.rstrip(".") else ""
    place = next((place for place in places if before in (place, place + FINE_TUNED_PREFIX)), None)
    if place is None:
        raise UsageError(
            f"--prefix is {shown(prefix)}, and {checkpoint.path} has no encoder there, but {_listed(places)}.",
            advice=f"Leave --prefix out, or give --prefix {_option(places[0])}"
            if len(places) == 1
            else f"Name one of them, like --prefix {_option(places[0])}",
        )
    return place


def _listed(places: list[str]) -> str:
    more = f" and {len(places) - _MOST_SHOWN} more" if len(places) > _MOST_SHOWN else ""
    return ", ".join(_named(place) for place in places[:_MOST_SHOWN]) + more


def _named(place: str) -> str:
    return f"below {shown(place.removesuffix('.'), 200)}" if place else "at the top level (.)"


def _option(place: str) -> str:
    return place.removesuffix(".")[:200] or "."


def _without_encoder(checkpoint: Checkpoint) -> UnsupportedModelError:
    evidence = Evidence(Tensors(checkpoint.tensors), model=None, inner=None, fine_tuned=False)
    what, advice = stranger_at_once(evidence) or ("", "")
    looked_for = f"no tensor's name ends in {_EXTRACTOR} with another of {_LAYER} next to it"
    return UnsupportedModelError(
        f"{checkpoint.path} is {checkpoint.form} without an encoder of fairseq's: {what or looked_for}.",
        advice=advice or "Give a file whose encoder has fairseq's names; before them may be any prefix.",
    )


def _below(place: str, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with what is below a place as its tensors, and the rest outside."""
    start = place + (FINE_TUNED if f"{place}{FINE_TUNED_PREFIX}{_EXTRACTOR}" in checkpoint.tensors else "")
    inside: dict[str, SourceTensor] = {}
    outside: list[SourceTensor] = []
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(start):
            fairseqs = name.removeprefix(place)
            inside[fairseqs] = replace(tensor, name=fairseqs, prefix=place)
        else:
            outside.append(tensor)
    others = (
        replace(checkpoint, cfg={}, cfg_form="none", dictionary=None, form="a checkpoint of another model of fairseq's")
        if checkpoint.is_fairseqs
        else checkpoint
    )
    return replace(others, tensors=inside, groups=_groups(place, checkpoint), prefix=place, outside=tuple(outside))


def _groups(place: str, checkpoint: Checkpoint) -> Mapping[str, Mapping[str, SourceTensor]]:
    """Return the groups within the encoder's state dict; one that holds the encoder is none."""
    return {
        group.removeprefix(place): {
            name: replace(tensor, name=tensor.name.removeprefix(place), prefix=place)
            for name, tensor in tensors.items()
        }
        for group, tensors in checkpoint.groups.items()
        if group.startswith(place)
    }
