"""Proves a conversion where there is no fairseq: the written directory against the checkpoint.

The parts, each in a module of its own: every tensor (``compare_tensors``), the small files (``compare_files``), the
outputs (``compare_outputs``), the vocabulary (``compare_vocabulary``). Differences are values; only what can't be
read at all is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.architecture import Architecture, describe
from w2vc.archive import open_checkpoint
from w2vc.checkpoint import Checkpoint
from w2vc.compare_files import compare_files, read_json
from w2vc.compare_outputs import (
    Compared,
    Pass,
    SourceTensors,
    compare_feature_extractor,
    compare_outputs,
    failure,
    load_model,
    output_findings,
    passes,
    quiet_transformers,
    reference_cfg,
    relative_error,
    written_dtypes,
)
from w2vc.compare_tensors import Entry, Watch, compare_tensors, entries
from w2vc.compare_vocabulary import compare_vocabulary, greedy_transcript
from w2vc.conversion import AnyPath, Options, prepare
from w2vc.dictionary import Dictionary
from w2vc.errors import UsageError
from w2vc.plan import Plan
from w2vc.probe_audio import ProbeAudio, built_in, read_recording
from w2vc.safetensors_file import DTYPE_CODES
from w2vc.target import MODEL_CLASSES
from w2vc.verification import Finding, Stage, Transcript, Verification
from w2vc.write import WEIGHTS

if TYPE_CHECKING:
    from w2vc.reference import ReferenceOutputs


def verify(
    checkpoint: AnyPath,
    output: AnyPath,
    *,
    dictionary: AnyPath | None = None,
    head: str = "auto",
    ema: bool = False,
    wav: AnyPath | None = None,
    watch: Watch | None = None,
) -> Verification:
    """Holds a converted directory against the checkpoint that it was made from.

    Imports transformers, sets ``HF_HUB_OFFLINE`` for the process before that unless it is set, and keeps
    transformers' messages and progress bars back until it is done.

    Args:
        checkpoint: the ``.pt`` file.
        output: the directory.
        dictionary: as for ``convert``.
        head: the head that was converted with; ``auto`` takes it from the output's ``config.json``.
        ema: the EMA weights were converted.
        wav: a recording to feed both models with instead of the built-in signal.
        watch: called with (bytes done, bytes in all) while tensors are compared.

    Returns:
        What was compared, and every difference.

    Raises:
        UsageError: the output is no directory, the recording is no audio, or an option is wrong.
        UnreadableError: the checkpoint can't be read.
        RefusedError: the checkpoint can't be converted, so that nothing can be right.
    """
    started = time.monotonic()
    directory = _directory(Path(output))
    found, weights_problem = _weights(directory)
    options = Options(
        None if dictionary is None else Path(dictionary),
        _head(directory, head, Path(checkpoint), ema),
        _dtype(found),
        ema,
    )
    read, plan, words = prepare(Path(checkpoint), options)
    architecture = describe(read)
    audio = _audio(wav, architecture)
    gathered = _Gathered()
    if weights_problem is None:
        gathered.findings += compare_tensors(read, plan, directory / WEIGHTS, found, watch)
    elif (directory / WEIGHTS).exists():
        gathered.findings.append(Finding("tensors", WEIGHTS, "a whole safetensors file", weights_problem))
    gathered.findings += compare_files(plan, directory)
    _compare_with_transformers(_Case(read, plan, words, architecture, directory, audio), gathered)
    return Verification(
        checkpoint=read.path,
        output=directory,
        fingerprint=read.archive.fingerprint,
        model_class=plan.model_class,
        dtype=plan.dtype,
        tensors=len(found),
        tensor_bytes=sum(entry.nbytes for entry in found.values()),
        findings=tuple(gathered.findings),
        input_values=gathered.input_values,
        stages=gathered.stages,
        symbols=len(words) if words is not None else 0,
        transcripts=tuple(gathered.transcripts),
        audio=audio.origin,
        notes=(*audio.notes, *gathered.notes),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Case:
    """What is compared with what."""

    checkpoint: Checkpoint
    plan: Plan
    dictionary: Dictionary | None
    architecture: Architecture
    output: Path
    audio: ProbeAudio


@dataclass
class _Gathered:
    """What the parts give, as they are done."""

    findings: list[Finding] = field(default_factory=list)
    input_values: Stage | None = None
    stages: tuple[Stage, ...] = ()
    transcripts: list[Transcript] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------
# How the output was converted


def _directory(output: Path) -> Path:
    if not output.is_dir():
        what = "is not a directory" if output.exists() else "isn't there"
        raise UsageError(f"the output {output} {what}", advice="Give the directory that w2vc convert made.")
    return output


def _weights(output: Path) -> tuple[dict[str, Entry], str | None]:
    try:
        return entries(output / WEIGHTS), None
    except ValueError as error:
        return {}, str(error)


def _head(output: Path, wanted: str, checkpoint: Path, ema: bool) -> str:
    """The head of the output's model class; ``auto`` where its config doesn't say, which is a finding later."""
    raise NotImplementedError


def _dtype(found: Mapping[str, Entry]) -> str:
    """The dtype of most of the weights' bytes; the config's own word is compared with it later."""
    sizes = {
        dtype: sum(entry.nbytes for entry in found.values() if entry.dtype == DTYPE_CODES[dtype])
        for dtype in ("float32", "float16", "bfloat16")
    }
    return max(sizes, key=lambda dtype: sizes[dtype])
