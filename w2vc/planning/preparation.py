"""From a checkpoint's path to everything that is known before the first byte is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from w2vc.families.family import Head
from w2vc.families.interpreter import Description
from w2vc.families.placing import described, placed
from w2vc.options import Options
from w2vc.planning.languages import Spoken, in_one_language
from w2vc.planning.model_card import model_card
from w2vc.planning.overrides import read_config
from w2vc.planning.plan import Plan, chosen_head, make_plan
from w2vc.planning.provenance import Record, make_record
from w2vc.reading.archive import Archive
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint
from w2vc.reading.dictionary import (
    Dictionary,
    agreed,
    dictionary_file,
    dictionary_next_to,
    read_dictionary,
    read_neighbour,
)


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that was read, described and planned.

    Attributes:
        checkpoint: what the file holds, in one language where it has several.
        description: what the model is.
        dictionary: of a model that is written with a CTC head, else None.
        plan: what the output will hold.
        provenance: what the output says about its source.
    """

    checkpoint: Checkpoint
    description: Description
    dictionary: Dictionary | None
    plan: Plan
    provenance: Record


def prepare(path: Path, options: Options, *, passed: Callable[[BinaryIO, Archive], None] | None = None) -> Prepared:
    """Read, describe and plan.

    Args:
        path: the checkpoint.
        options: how to convert.
        passed: called when the gate has let the file pass, before torch is imported.
    """
    found, pretrained, whole = read_and_describe(path, options, passed=passed)
    spoken = in_one_language(found, whole, options.language)
    checkpoint, description = spoken.checkpoint, spoken.description
    head = head_for(checkpoint, description, options)
    dictionary = find_dictionary(spoken, options.dictionary) if head == "ctc" else None
    given = None if options.config is None else read_config(options.config)
    plan = make_plan(checkpoint, description, dictionary, head, options.dtype, given, spoken.languages)
    if options.card:
        plan = replace(plan, files={**plan.files, "README.md": model_card(checkpoint, description, plan, pretrained)})
    provenance = make_record(
        checkpoint.archive.fingerprint,
        options,
        head=plan.head,
        auto_head=_auto_head(checkpoint, description, is_dictionary_given=False),
        auto_head_with_dict=_auto_head(checkpoint, description, is_dictionary_given=True),
        overrides=given,
        labels=spoken.labels,
        dictionary=dictionary,
        carries_dictionary=checkpoint.dictionary is not None,
        files=(*plan.files, *plan.adapters),
    )
    return Prepared(checkpoint, description, dictionary, plan, provenance)


def read_and_describe(
    path: Path, options: Options, *, passed: Callable[[BinaryIO, Archive], None] | None = None
) -> tuple[Checkpoint, Checkpoint | None, Description]:
    """Return the checkpoint, the pretrained one that an option names, and what the model is."""
    checkpoint = placed(read_checkpoint(path, ema=options.ema, passed=passed), options.prefix)
    pretrained = None if options.pretrained is None else placed(read_checkpoint(options.pretrained), None)
    whole, description = described(checkpoint, pretrained)
    return whole, pretrained, description


def head_for(checkpoint: Checkpoint, description: Description, options: Options) -> Head:
    """Return the head to convert with."""
    if options.head != "auto":
        return chosen_head(description, options.head)
    return _auto_head(checkpoint, description, is_dictionary_given=options.dictionary is not None)


def _auto_head(checkpoint: Checkpoint, description: Description, *, is_dictionary_given: bool) -> Head:
    """Return the head that ``auto`` means.

    Of what others made of a model, it is the encoder alone, unless there is a dictionary for its CTC head.
    """
    if checkpoint.is_fairseqs:
        return chosen_head(description, "auto")
    has_dictionary = is_dictionary_given or checkpoint.dictionary is not None
    return chosen_head(description, "ctc" if description.vocabulary is not None and has_dictionary else "none")


def find_dictionary(spoken: Spoken, place: Path | None) -> Dictionary | None:
    """The dictionary: the given one, the checkpoint's own, or the one next to it; all that exist have to agree."""
    found = []
    if place is not None:
        found.append(read_dictionary(dictionary_file(place, spoken.labels)))
    if spoken.checkpoint.dictionary is not None:
        found.append(spoken.checkpoint.dictionary)
    neighbour = dictionary_next_to(spoken.checkpoint.path, spoken.labels)
    if neighbour is not None:
        found.append(read_neighbour(neighbour))
    return agreed(found)
