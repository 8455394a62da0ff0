"""The whole way, from a file to a directory: what ``w2vc convert`` and ``w2vc inspect`` do, as functions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path

from w2vc.architecture import Architecture, describe
from w2vc.batch_record import Record, make_record
from w2vc.checkpoint import Checkpoint, read_checkpoint
from w2vc.config_overrides import read_config
from w2vc.dictionary import Dictionary, agreed, dictionary_beside, dictionary_file, read_dictionary
from w2vc.errors import RefusedError, UsageError
from w2vc.model_card import model_card
from w2vc.options import Options
from w2vc.output_directory import check_free
from w2vc.plan import Dtype, Plan, chosen_head, make_plan
from w2vc.record_check import RecordCheck
from w2vc.report import Conversion, Inspection, Refused
from w2vc.write import Watch, write

AnyPath = str | PathLike[str]

_DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16", "keep")


def convert(
    checkpoint: AnyPath,
    output: AnyPath,
    *,
    dictionary: AnyPath | None = None,
    head: str = "auto",
    dtype: str = "float32",
    ema: bool = False,
    config: AnyPath | None = None,
    card: bool = True,
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
        card: write a model card (``README.md``).
        force: replace an earlier conversion.
        dry_run: plan everything and write nothing.
        watch: called with (bytes done, bytes in all) while weights are written.

    Returns:
        What was done, or would be.

    Raises:
        W2vcError: see ``w2vc.errors`` for the branches; nothing has been written then.
    """
    options = Options(_path(dictionary), head, dtype, ema, _path(config), card)
    return convert_with(options, Path(checkpoint), Path(output), force=force, dry_run=dry_run, watch=watch)


def convert_with(
    options: Options, checkpoint: Path, output: Path, *, force: bool, dry_run: bool = False, watch: Watch | None = None
) -> Conversion:
    """``convert``, its options in one value."""
    started = time.monotonic()
    if not dry_run:
        check_free(output, force=force)
    with RecordCheck() as check, _quick_turns():
        read, plan, words, record = prepare(checkpoint, options, None if dry_run or options.ema else check)
        written = None
        if not dry_run:
            written = write(read, plan, output, check=check, metadata=record.metadata(), force=force, watch=watch)
    return Conversion(
        checkpoint=read.path,
        fingerprint=read.archive.fingerprint,
        output=output,
        plan=plan,
        dictionary=None if words is None or plan.vocabulary is None else words.origin,
        written=written,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Lets threads that copy and check have their turn at once between two system calls.

    An import beside them holds the interpreter; at five milliseconds for each of a thousand tensors they would wait for
    seconds.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def prepare(
    path: Path, options: Options, check: RecordCheck | None = None
) -> tuple[Checkpoint, Plan, Dictionary | None, Record]:
    """Everything before the first byte is written: reads, describes and plans.

    Args:
        path: the checkpoint.
        options: how to convert.
        check: begun as soon as the gate has let the file pass, so that it works while torch is imported.
    """
    if options.dtype not in _DTYPES:
        raise UsageError(f"--dtype is {options.dtype}", advice=f"Give one of {', '.join(_DTYPES)}.")
    checkpoint = read_checkpoint(path, ema=options.ema, passed=None if check is None else check.begin)
    architecture = describe(checkpoint)
    head = chosen_head(architecture, options.head)
    dictionary = find_dictionary(checkpoint, architecture, options.dictionary) if head == "ctc" else None
    dtype = next(dtype for dtype in _DTYPES if dtype == options.dtype)
    given = None if options.config is None else read_config(options.config)
    plan = make_plan(checkpoint, architecture, dictionary, head, dtype, given)
    if options.card:
        plan = replace(plan, files={**plan.files, "README.md": model_card(checkpoint, architecture, plan)})
    record = make_record(
        checkpoint.archive.fingerprint,
        head=plan.head,
        dtype=options.dtype,
        ema=options.ema,
        overrides=given,
        labels=architecture.labels,
        dictionary=dictionary,
        files=plan.files,
    )
    return checkpoint, plan, dictionary, record


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


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


def inspect(
    checkpoint: AnyPath, *, dictionary: AnyPath | None = None, ema: bool = False, tensors: bool = False
) -> Inspection:
    """What a checkpoint is and whether it converts, without reading its tensors.

    Args:
        checkpoint: the ``.pt`` file.
        dictionary: as for ``convert``.
        ema: look at the EMA weights.
        tensors: list every tensor and what becomes of it.

    Raises:
        UnreadableError: it can't be read at all.
        RefusedError: it is no wav2vec2-conformer.
    """
    read = read_checkpoint(Path(checkpoint), ema=ema)
    architecture = describe(read)
    words, plan, refused = None, None, None
    try:
        if architecture.own_head == "ctc":
            words = find_dictionary(read, architecture, _path(dictionary))
        plan = make_plan(read, architecture, words, architecture.own_head, "float32")
    except RefusedError as error:
        refused = Refused(type(error).__name__, error.problems, error.advice)
    return Inspection(read, architecture, words, architecture.own_head, plan, refused, tensors)
