"""From a checkpoint's path to everything that is known before the first byte is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from w2vc.families.conformer.architecture import Architecture, describe
from w2vc.options import Options
from w2vc.planning.model_card import model_card
from w2vc.planning.overrides import read_config
from w2vc.planning.plan import Plan, chosen_head, make_plan
from w2vc.planning.provenance import Record, make_record
from w2vc.reading.archive import Archive
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint
from w2vc.reading.dictionary import Dictionary, agreed, dictionary_beside, dictionary_file, read_dictionary


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that was read, described and planned.

    Attributes:
        checkpoint: what the file holds.
        architecture: what the model is.
        dictionary: of a model that is written with a CTC head, else None.
        plan: what the output will hold.
        provenance: what the output says about its source.
    """

    checkpoint: Checkpoint
    architecture: Architecture
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
    checkpoint = read_checkpoint(path, ema=options.ema, passed=passed)
    architecture = describe(checkpoint)
    head = chosen_head(architecture, options.head)
    dictionary = find_dictionary(checkpoint, architecture, options.dictionary) if head == "ctc" else None
    given = None if options.config is None else read_config(options.config)
    plan = make_plan(checkpoint, architecture, dictionary, head, options.dtype, given)
    if options.card:
        plan = replace(plan, files={**plan.files, "README.md": model_card(checkpoint, architecture, plan)})
    provenance = make_record(
        checkpoint.archive.fingerprint,
        options,
        head=plan.head,
        overrides=given,
        labels=architecture.labels,
        dictionary=dictionary,
        files=plan.files,
    )
    return Prepared(checkpoint, architecture, dictionary, plan, provenance)


def find_dictionary(checkpoint: Checkpoint, architecture: Architecture, place: Path | None) -> Dictionary | None:
    """The dictionary: the given one, the checkpoint's own, or the one beside it; all that are there have to agree."""
    found = []
    if place is not None:
        found.append(read_dictionary(dictionary_file(place, architecture.labels)))
    if checkpoint.dictionary is not None:
        found.append(checkpoint.dictionary)
    beside = dictionary_beside(checkpoint.path, architecture.labels)
    if beside is not None:
        found.append(read_dictionary(beside))
    return agreed(found)
