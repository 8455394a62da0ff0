"""The whole way, from a file to a directory: what ``w2vc convert`` and ``w2vc inspect`` do, as functions."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from w2vc.errors import RefusedError
from w2vc.options import Options, read_options
from w2vc.paths import AnyPath, absolute, given_path
from w2vc.planning.languages import in_one_language
from w2vc.planning.overrides import read_config
from w2vc.planning.plan import make_plan
from w2vc.planning.preparation import find_dictionary, head_for, prepare, read_and_describe
from w2vc.report import Conversion, Inspection, Refused
from w2vc.verifying.loading import from_pretrained
from w2vc.verifying.transformers_settings import quiet_transformers
from w2vc.writing.output_directory import check_free
from w2vc.writing.record_check import RecordCheck
from w2vc.writing.writer import Watch, write

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from w2vc.options import OptionValues


def convert(
    checkpoint: AnyPath,
    output: AnyPath,
    *,
    force: bool = False,
    dry_run: bool = False,
    watch: Watch | None = None,
    **options: Unpack[OptionValues],
) -> Conversion:
    """Convert a fairseq checkpoint to a directory that transformers loads.

    Args:
        checkpoint: the ``.pt`` file, whatever it is called.
        output: the directory to make; it appears complete or not at all.
        force: replace an earlier conversion.
        dry_run: plan everything and write nothing.
        watch: called with (bytes done, bytes in all) while weights are written.
        options: how to convert: the attributes of ``w2vc.options.Options``.

    Returns:
        What was done, or would be.

    Raises:
        W2vcError: see ``w2vc.errors`` for the branches; nothing has been written then.
    """
    place = given_path(output, "OUTPUT")
    return convert_with(
        read_options(options), given_path(checkpoint, "CHECKPOINT"), place, force=force, dry_run=dry_run, watch=watch
    )


def load(checkpoint: AnyPath, **options: Unpack[OptionValues]) -> tuple[Any, Any]:
    """Return transformers' model and processor for a checkpoint, without leaving a directory behind.

    The weights are mapped from a directory of the system's for temporary files, which is gone afterwards.

    Args:
        checkpoint: the ``.pt`` file.
        options: as for ``convert``.

    Returns:
        The model in eval mode and in the dtype that was asked for; and the processor, None where there is no
        vocabulary.

    Raises:
        W2vcError: as ``convert``.
    """
    import torch

    with TemporaryDirectory(prefix="w2vc-") as folder, quiet_transformers() as transformers:
        directory = Path(folder) / "model"
        plan = convert(checkpoint, directory, **options).plan
        kind, dtype = getattr(transformers, plan.model_class), getattr(torch, plan.dtype)
        model = from_pretrained(kind, directory, dtype=dtype)
        processor = None
        if plan.vocabulary is not None:
            processor = transformers.AutoProcessor.from_pretrained(directory, local_files_only=True)
    return model.eval(), processor


def convert_with(
    options: Options, checkpoint: Path, output: Path, *, force: bool, dry_run: bool = False, watch: Watch | None = None
) -> Conversion:
    """Convert as ``convert`` does, with the options in one value."""
    started = time.monotonic()
    place, protected = absolute(output), (checkpoint, *options.files())
    if not dry_run:
        check_free(place, force=force, protected=protected)
    with RecordCheck() as check:
        prepared = prepare(checkpoint, options, passed=None if dry_run or options.ema else check.begin)
        written = None
        if not dry_run:
            written = write(
                prepared.checkpoint,
                prepared.plan,
                place,
                check=check,
                metadata=prepared.provenance.metadata(),
                force=force,
                protected=protected,
                watch=watch,
            )
    return Conversion(
        checkpoint=prepared.checkpoint.path,
        fingerprint=prepared.checkpoint.archive.fingerprint,
        output=output,
        plan=prepared.plan,
        dictionary=None if prepared.dictionary is None else prepared.dictionary.origin,
        written=written,
        seconds=time.monotonic() - started,
    )


def inspect(
    checkpoint: AnyPath, *, tensors: bool = False, keys: bool = False, **options: Unpack[OptionValues]
) -> Inspection:
    """Return what a checkpoint is and whether it converts, without reading its tensors.

    Args:
        checkpoint: the ``.pt`` file.
        tensors: list every tensor and its target.
        keys: list every key of the cfg, its value and its treatment.
        options: as for ``convert``.

    Raises:
        UsageError: an option is wrong, or the model hasn't got the head.
        UnreadableError: it can't be read at all.
        RefusedError: it is of no family that w2vc knows.
    """
    asked = read_options(options)
    found, _, whole = read_and_describe(given_path(checkpoint, "CHECKPOINT"), asked)
    spoken = in_one_language(found, whole, asked.language)
    read, description = spoken.checkpoint, spoken.description
    head = head_for(read, description, asked)
    config = None if asked.config is None else read_config(asked.config)
    words, plan, refused = None, None, None
    try:
        if head == "ctc":
            words = find_dictionary(spoken, asked.dictionary)
        plan = make_plan(read, description, words, head, asked.dtype, config, spoken.languages)
    except RefusedError as error:
        refused = Refused(type(error).__name__, error.problems, error.advice)
    names = () if spoken.languages is None else spoken.languages.names
    return Inspection(read, description, words, head, plan, refused, tensors, names, keys)
