"""Proves a conversion where there is no fairseq: the written directory against the checkpoint.

The parts, one module each: every tensor (``compare_tensors``), the small files (``compare_files``), the
outputs (``compare_outputs``), the vocabulary (``compare_vocabulary``). Differences are values; only what can't be
read at all is raised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.errors import DamagedError, UsageError
from w2vc.families.family import QUANTIZED
from w2vc.families.interpreter import Description
from w2vc.options import read_options
from w2vc.paths import AnyPath
from w2vc.planning.plan import Plan
from w2vc.planning.preparation import prepare
from w2vc.planning.provenance import WEIGHTS, Record, find_record
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import Checkpoint, SourceTensor, identity_of
from w2vc.reading.dictionary import Dictionary
from w2vc.reading.opening import other_than_a_file
from w2vc.reading.torch_reader import load_with_bytes
from w2vc.verifying.compare_files import compare_files, read_json
from w2vc.verifying.compare_outputs import (
    BOUND,
    Compared,
    Pass,
    Rounded,
    about_the_epsilons,
    compare_feature_extractor,
    compare_outputs,
    output_findings,
    passes,
    reference_cfg,
    relative_error,
    written_dtypes,
)
from w2vc.verifying.compare_tensors import Entry, compare_tensors, entries
from w2vc.verifying.compare_vocabulary import compare_vocabulary, greedy_transcript
from w2vc.verifying.loading import failure, load_model, load_tokenizer
from w2vc.verifying.probe_audio import ProbeAudio, built_in, read_recording
from w2vc.verifying.transformers_settings import quiet_transformers
from w2vc.verifying.verification import Finding, Stage, Transcript, Verification
from w2vc.writing.safetensors_file import DTYPE_CODES
from w2vc.writing.writer import Watch

if TYPE_CHECKING:
    from torch import Tensor

    from w2vc.families.shared.reference import ReferenceOutputs


def verify(
    checkpoint: AnyPath,
    output: AnyPath,
    *,
    dictionary: AnyPath | None = None,
    head: str = "auto",
    ema: bool = False,
    config: AnyPath | None = None,
    pretrained: AnyPath | None = None,
    prefix: str | None = None,
    language: str | None = None,
    wav: AnyPath | None = None,
    atol: float | None = None,
    watch: Watch | None = None,
) -> Verification:
    """Compare a converted directory with the checkpoint that it was made from.

    Imports transformers, and keeps it offline and quiet until it is done; nothing of that stays changed.

    Args:
        checkpoint: the ``.pt`` file.
        output: the directory.
        dictionary: as for ``convert``.
        head: the head that was converted with; ``auto`` takes it from the output.
        ema: the EMA weights were converted.
        config: the ``config.json`` that was given to ``convert``, if one was.
        pretrained: as for ``convert``.
        prefix: as for ``convert``; None takes what the output says of itself.
        language: that was converted with; None takes what the output says of itself.
        wav: a recording to feed both models with instead of the built-in signal.
        atol: the largest relative error of an output that counts as the same, instead of ``BOUND``.
        watch: progress callback while tensors are compared: (bytes done, total bytes).

    Returns:
        What was compared, and every difference.

    Raises:
        UsageError: the output is no directory, the recording is no audio, or an option is wrong.
        UnreadableError: the checkpoint can't be read.
        RefusedError: the checkpoint can't be converted, so that nothing can be right.
    """
    started = time.monotonic()
    bound = _bound(atol)
    directory = _directory(Path(output))
    found, weights_problem = _weights(directory)
    record = _record(directory)
    options = read_options(
        {
            "dictionary": dictionary,
            "head": _head(directory, found, record) if head == "auto" else head,
            "dtype": _dtype(found),
            "ema": ema,
            "config": config,
            "pretrained": pretrained,
            "prefix": _prefix(record) if prefix is None else prefix,
            "language": _language(record) if language is None else language,
            "card": False,
        }
    )
    prepared = prepare(Path(checkpoint), options)
    read, plan, words, description = prepared.checkpoint, prepared.plan, prepared.dictionary, prepared.description
    audio = _audio(wav, description.sample_rate)
    loaded = _loaded(read)
    sources = _sources(loaded, read.tensors.values())
    gathered = _Gathered()
    if weights_problem is None:
        moved = _sources(loaded, _moved(plan))
        gathered.findings += compare_tensors(read, moved, plan, directory / WEIGHTS, found, watch)
    elif (directory / WEIGHTS).exists():
        gathered.findings.append(Finding("tensors", WEIGHTS, "a whole safetensors file", weights_problem))
    for name, exchanged in plan.adapters.items():
        gathered.findings += _compare_weights(read, loaded, replace(plan, tensors=exchanged), directory / name)
    gathered.findings += compare_files(plan, directory)
    case = _Case(read, sources, plan, words, description, directory, audio, bound)
    if not _is_of_another(case, record, gathered):
        _compare_with_transformers(case, gathered)
    return Verification(
        checkpoint=read.path,
        output=directory,
        fingerprint=read.archive.fingerprint,
        model_class=plan.model_class,
        dtype=plan.dtype,
        rounded=not plan.is_exact,
        tensors=len(found),
        tensor_bytes=sum(entry.nbytes for entry in found.values()),
        findings=tuple(gathered.findings),
        input_values=gathered.input_values,
        stages=gathered.stages,
        symbols=0 if words is None else len(words),
        transcripts=tuple(gathered.transcripts),
        audio=audio.origin,
        notes=(*audio.notes, *gathered.notes),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Case:
    """What is compared with what."""

    checkpoint: Checkpoint
    sources: Mapping[str, Tensor]
    plan: Plan
    dictionary: Dictionary | None
    description: Description
    output: Path
    audio: ProbeAudio
    bound: float


@dataclass
class _Gathered:
    """What the parts give, as they are done."""

    findings: list[Finding] = field(default_factory=list)
    input_values: Stage | None = None
    stages: tuple[Stage, ...] = ()
    transcripts: list[Transcript] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------
# The checkpoint's side


def _sources(loaded: Mapping[str, Tensor], tensors: Iterable[SourceTensor]) -> dict[str, Tensor]:
    """Return the values of some tensors by fairseq's name, those of one language out of several included."""
    return {tensor.name: tensor.of(loaded[tensor.key]) for tensor in tensors if tensor.key in loaded}


def _moved(plan: Plan) -> Iterator[SourceTensor]:
    for move in plan.moves:
        yield from (move.source, *move.equals)


def _compare_weights(checkpoint: Checkpoint, loaded: Mapping[str, Tensor], plan: Plan, path: Path) -> list[Finding]:
    if not path.exists():
        return []  # which compare_files tells of
    try:
        found = entries(path)
    except ValueError as error:
        return [Finding("tensors", path.name, "a whole safetensors file", str(error))]
    sources = _sources(loaded, _moved(plan))
    findings = compare_tensors(checkpoint, sources, plan, path, found)
    return [replace(finding, where=f"{path.name}: {finding.where}") for finding in findings]


def _language(record: Record | None) -> str | None:
    return None if record is None else record.language or None


def _prefix(record: Record | None) -> str | None:
    return None if record is None else record.prefix or None


def _loaded(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors as ``torch.load`` gives them, of the very file that was described and planned."""
    with open_checkpoint(checkpoint.path) as file:
        if identity_of(file.fileno()) != checkpoint.identity:
            raise DamagedError(
                f"{checkpoint.path} changed while it was read.", advice="Wait until it has been written, run again."
            )
        return load_with_bytes(file, checkpoint.archive, checkpoint.keys)


# ---------------------------------------------------------------------------------------------------------------
# How the output was converted


_ENCODER_ALONE = "encoder.layer_norm.weight"
_CTC_HEAD = "lm_head.weight"


def _bound(atol: float | None) -> float:
    if atol is None:
        return BOUND
    if not 0 < atol < math.inf:
        raise UsageError(f"--atol is {atol}.", advice=f"Give a positive number; without it, it is {BOUND:.0e}.")
    return atol


_OUTPUT = "Give the directory that w2vc convert made."


def _directory(output: Path) -> Path:
    if not output.is_dir():
        what = "is not a directory" if output.exists() else "isn't there"
        raise UsageError(f"the output {output} {what}", advice=_OUTPUT)
    try:
        kinds = [(path, _kind(path)) for path in sorted(output.iterdir())]
    except OSError as error:
        raise UsageError(f"the output {output} can't be looked into: {error.strerror}", advice=_OUTPUT) from error
    odd = [f"{path} is {kind}" for path, kind in kinds if kind not in (None, "a directory")]
    if odd:
        raise UsageError(odd, advice=_OUTPUT)
    return output


def _kind(path: Path) -> str | None:
    """Return what a path leads to, None for a file: transformers opens what w2vc doesn't, and would wait for a pipe."""
    try:
        return other_than_a_file(path.stat().st_mode)
    except OSError:  # a link to nothing, say: there is nothing to open
        return None


def _weights(output: Path) -> tuple[dict[str, Entry], str | None]:
    try:
        return entries(output / WEIGHTS), None
    except ValueError as error:
        return {}, str(error)


def _record(output: Path) -> Record | None:
    """Return what the output says about its source; None where it says nothing."""
    found = find_record(output)
    return None if found is None else found.record


def _is_of_another(case: _Case, record: Record | None, gathered: _Gathered) -> bool:
    """Return whether the output was made from another checkpoint; then that is the only thing to say."""
    ours = case.checkpoint.archive.fingerprint
    if record is None or record.source_fingerprint == ours:
        return False
    theirs = f"another checkpoint (fingerprint {record.source_fingerprint[:12]}, not {ours[:12]})"
    if not gathered.findings:
        gathered.notes.append(f"it says that it was made from {theirs}, which holds the same model")
        return False
    gathered.findings = [Finding("source", str(case.output), "made from this checkpoint", f"made from {theirs}")]
    return True


def _head(output: Path, found: Mapping[str, Entry], record: Record | None) -> str:
    """Return the head that was written: ``none`` for an encoder alone, else the checkpoint's own.

    The tensors tell, without them the config; which further tensors were kept, only the record does.
    """
    if record is not None and record.head == "projection":
        return record.head
    if found:
        # A model with a head has its encoder's tensors below a prefix.
        return "none" if _ENCODER_ALONE in found else "ctc" if _CTC_HEAD in found else "auto"
    try:
        classes = read_json(output / "config.json").get("architectures")
    except ValueError:
        return "auto"
    return "none" if isinstance(classes, list) and str(classes[:1]).endswith("Model']") else "auto"


def _dtype(found: Mapping[str, Entry]) -> str:
    """The dtype of most of the weights' bytes; what the config says is compared with it later."""
    sizes = {
        dtype: sum(entry.nbytes for entry in found.values() if entry.dtype == DTYPE_CODES[dtype])
        for dtype in ("float32", "float16", "bfloat16")
    }
    return max(sizes, key=lambda dtype: sizes[dtype])


def _audio(wav: AnyPath | None, sample_rate: int) -> ProbeAudio:
    return built_in(sample_rate) if wav is None else read_recording(Path(wav), sample_rate)


# ---------------------------------------------------------------------------------------------------------------
# With transformers


def _compare_with_transformers(case: _Case, gathered: _Gathered) -> None:
    with quiet_transformers() as transformers:
        _compare_feature_extractor(transformers, case, gathered)
        model, findings = load_model(transformers, case.plan, case.output)
        gathered.findings += findings
        pad_token_id = None if model is None else model.config.pad_token_id
        compared = None if model is None else _compare_outputs(model, case, gathered)
        if case.dictionary is not None:
            _compare_vocabulary(transformers, case, pad_token_id, compared, gathered)


def _compare_feature_extractor(transformers: Any, case: _Case, gathered: _Gathered) -> None:
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(case.output, local_files_only=True)
        stage = compare_feature_extractor(extractor, case.audio, case.description, case.bound)
    except Exception as error:  # whatever a changed directory leads transformers to
        gathered.findings.append(failure("loading", "AutoFeatureExtractor", "a feature extractor", error))
        return
    gathered.input_values = stage
    gathered.findings += output_findings((stage,))
    if stage.same and stage.error > case.bound:
        gathered.notes.append(about_the_epsilons(case.audio))


def _compare_outputs(model: Any, case: _Case, gathered: _Gathered) -> Compared | None:
    runs = passes(case.audio, normalize=case.description.normalize)
    reference = _reference(case, written_dtypes(case.plan))
    if not case.plan.is_exact:
        gathered.notes.append(_rounding(reference, _reference(case, {}), runs[0], case.plan))
    stages = case.description.family.stages(case.description.facts, case.plan.head)
    compared = compare_outputs(model, reference, runs, case.plan, stages, case.bound)
    if isinstance(compared, Finding):
        gathered.findings.append(compared)
        return None
    gathered.stages = compared.stages
    gathered.findings += output_findings(compared.stages)
    if compared.near_ties:
        gathered.notes.append(
            f"in {compared.near_ties} frames two codebook entries are equally likely but for rounding; "
            f"they are left out of {QUANTIZED}"
        )
    if stages.frame_mask == "fairseq":
        gathered.notes.append(
            "in the padded batch, transformers is given the mask of frames that fairseq uses: its own, from the "
            "lengths, leaves out up to two frames more"
        )
    return compared


def _reference(case: _Case, dtypes: Mapping[str, str]) -> Callable[[Pass], ReferenceOutputs]:
    tensors = Rounded(case.sources, dtypes)
    cfg = reference_cfg(case.checkpoint, case.description)
    return lambda run: case.description.family.reference(tensors, cfg, run.input_values, run.padding_mask)


def _rounding(
    rounded: Callable[[Pass], ReferenceOutputs], whole: Callable[[Pass], ReferenceOutputs], run: Pass, plan: Plan
) -> str:
    """Say what the weights' rounding costs, which is not what is verified but what a reader wants to know."""
    cost = relative_error(rounded(run).encoder_out, whole(run).encoder_out)
    return (
        f"the stages are compared with the weights rounded to {plan.dtype} on both sides; the rounding itself changes "
        f"the encoder's output by {cost:.1e}"
    )


def _compare_vocabulary(
    transformers: Any, case: _Case, pad_token_id: object, compared: Compared | None, gathered: _Gathered
) -> None:
    words, vocabulary, rows = case.dictionary, case.plan.vocabulary, case.description.vocabulary
    if words is None or vocabulary is None or rows is None:
        return
    try:
        tokenizer, note = load_tokenizer(transformers, case.plan, case.output)
        gathered.notes += [] if note is None else [note]
        gathered.findings += compare_vocabulary(words, rows, tokenizer, pad_token_id)
        for ids, found in compared.ids if compared is not None else ():
            transcript = Transcript(greedy_transcript(ids, words, vocabulary), tokenizer.decode(found))
            gathered.transcripts.append(transcript)
            if transcript.found != transcript.expected:
                where = f"the transcript of clip {len(gathered.transcripts)}"
                gathered.findings.append(
                    Finding("vocabulary", where, repr(transcript.expected), repr(transcript.found))
                )
    except Exception as error:  # whatever a changed directory leads transformers to
        gathered.findings.append(failure("loading", "AutoProcessor", "a processor with a tokenizer", error))
