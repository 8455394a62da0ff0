"""The whole way, from a file to a directory: what ``w2vc convert`` and ``w2vc inspect`` do, as functions."""

from __future__ import annotations

import time
from pathlib import Path

from w2vc.errors import RefusedError
from w2vc.options import AnyPath, Options
from w2vc.planning.languages import in_one_language
from w2vc.planning.plan import make_plan
from w2vc.planning.preparation import find_dictionary, head_for, prepare, read_and_describe
from w2vc.report import Conversion, Inspection, Refused
from w2vc.writing.output_directory import check_free
from w2vc.writing.record_check import RecordCheck
from w2vc.writing.writer import Watch, write


def convert(
    checkpoint: AnyPath,
    output: AnyPath,
    *,
    dictionary: AnyPath | None = None,
    head: str = "auto",
    dtype: str = "float32",
    ema: bool = False,
    config: AnyPath | None = None,
    pretrained: AnyPath | None = None,
    prefix: str | None = None,
    card: bool = True,
    language: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    watch: Watch | None = None,
) -> Conversion:
    """Converts a fairseq checkpoint to a directory that transformers loads.

    Args:
        checkpoint: the ``.pt`` file, whatever it is called.
        output: the directory to make; it appears complete or not at all.
        dictionary: ``dict.txt`` or its folder, where the checkpoint carries none and none lies beside it.
        head: ``auto``, ``ctc``, ``pretraining`` or ``none`` (the encoder alone).
        dtype: of the weights: ``float32``, ``float16``, ``bfloat16`` or ``keep``.
        ema: take the EMA weights instead of the model's.
        config: a ``config.json`` of transformers, whose values of training and decoding are taken instead of the
            checkpoint's; it may not contradict the tensors.
        pretrained: the pretrained checkpoint, where this one doesn't carry its architecture.
        prefix: where in somebody else's state dict the encoder is, if there are several.
        card: write a model card (``README.md``).
        language: which of the model's languages to load it with; the first by default.
        force: replace an earlier conversion.
        dry_run: plan everything and write nothing.
        watch: called with (bytes done, bytes in all) while weights are written.

    Returns:
        What was done, or would be.

    Raises:
        W2vcError: see ``w2vc.errors`` for the branches; nothing has been written then.
    """
    options = Options(
        dictionary=_path(dictionary),
        head=head,
        dtype=dtype,
        ema=ema,
        config=_path(config),
        pretrained=_path(pretrained),
        prefix=prefix,
        card=card,
        language=language,
    )
    return convert_with(options, Path(checkpoint), Path(output), force=force, dry_run=dry_run, watch=watch)


def convert_with(
    options: Options, checkpoint: Path, output: Path, *, force: bool, dry_run: bool = False, watch: Watch | None = None
) -> Conversion:
    """``convert``, its options in one value."""
    started = time.monotonic()
    if not dry_run:
        check_free(output, force=force)
    with RecordCheck() as check:
        prepared = prepare(checkpoint, options, passed=None if dry_run or options.ema else check.begin)
        written = None
        if not dry_run:
            metadata = prepared.provenance.metadata()
            written = write(
                prepared.checkpoint, prepared.plan, output, check=check, metadata=metadata, force=force, watch=watch
            )
    return Conversion(
        checkpoint=prepared.checkpoint.path,
        fingerprint=prepared.checkpoint.archive.fingerprint,
        output=output,
        plan=prepared.plan,
        dictionary=None if prepared.dictionary is None else prepared.dictionary.origin,
        written=written,
        seconds=time.monotonic() - started,
        prefix=prepared.checkpoint.prefix,
    )


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def inspect(
    checkpoint: AnyPath,
    *,
    dictionary: AnyPath | None = None,
    ema: bool = False,
    pretrained: AnyPath | None = None,
    prefix: str | None = None,
    tensors: bool = False,
    language: str | None = None,
) -> Inspection:
    """What a checkpoint is and whether it converts, without reading its tensors.

    Args:
        checkpoint: the ``.pt`` file.
        dictionary: as for ``convert``.
        ema: look at the EMA weights.
        pretrained: as for ``convert``.
        prefix: as for ``convert``.
        tensors: list every tensor and what becomes of it.
        language: as for ``convert``.

    Raises:
        UnreadableError: it can't be read at all.
        RefusedError: it is of no family that w2vc knows.
    """
    options = Options(
        dictionary=_path(dictionary), ema=ema, pretrained=_path(pretrained), prefix=prefix, language=language
    )
    found, _, whole = read_and_describe(Path(checkpoint), options)
    spoken = in_one_language(found, whole, language)
    read, description = spoken.checkpoint, spoken.description
    head = head_for(read, description, options)
    words, plan, refused = None, None, None
    try:
        if head == "ctc":
            words = find_dictionary(spoken, options.dictionary)
        plan = make_plan(read, description, words, head, "float32", languages=spoken.languages)
    except RefusedError as error:
        refused = Refused(type(error).__name__, error.problems, error.advice)
    names = () if spoken.languages is None else spoken.languages.names
    return Inspection(read, description, words, head, plan, refused, tensors, names)
