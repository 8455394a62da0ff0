"""Proves a conversion where there is no fairseq: the written directory against the checkpoint.

The parts, each in a module of its own: every tensor (``compare_tensors``), the small files (``compare_files``), the
outputs (``compare_outputs``), the vocabulary (``compare_vocabulary``). Differences are values; only what can't be
read at all is raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.errors import UsageError
from w2vc.families.interpreter import Description
from w2vc.options import AnyPath, Options
from w2vc.planning.plan import Plan
from w2vc.planning.preparation import prepare
from w2vc.planning.provenance import find_record
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import Checkpoint
from w2vc.reading.dictionary import Dictionary
from w2vc.verifying.compare_files import compare_files, read_json
from w2vc.verifying.compare_outputs import (
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
from w2vc.verifying.compare_tensors import Entry, compare_tensors, entries
from w2vc.verifying.compare_vocabulary import compare_vocabulary, greedy_transcript
from w2vc.verifying.probe_audio import ProbeAudio, built_in, read_recording
from w2vc.verifying.verification import Finding, Stage, Transcript, Verification
from w2vc.writing.safetensors_file import DTYPE_CODES
from w2vc.writing.writer import WEIGHTS, Watch

if TYPE_CHECKING:
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
        config: the ``config.json`` that was given to ``convert``, if one was.
        pretrained: as for ``convert``.
        prefix: as for ``convert``; None takes what the output says of itself.
        language: that was converted with; None takes what the output says of itself.
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
        dictionary=None if dictionary is None else Path(dictionary),
        head=_head(directory, found) if head == "auto" else head,
        dtype=_dtype(found),
        ema=ema,
        config=None if config is None else Path(config),
        pretrained=None if pretrained is None else Path(pretrained),
        card=False,
        prefix=_prefix(directory) if prefix is None else prefix,
        language=_language(directory) if language is None else language,
    )
    prepared = prepare(Path(checkpoint), options)
    read, plan, words, description = prepared.checkpoint, prepared.plan, prepared.dictionary, prepared.description
    audio = _audio(wav, description.sample_rate)
    gathered = _Gathered()
    if weights_problem is None:
        gathered.findings += compare_tensors(read, plan, directory / WEIGHTS, found, watch)
    elif (directory / WEIGHTS).exists():
        gathered.findings.append(Finding("tensors", WEIGHTS, "a whole safetensors file", weights_problem))
    for name, exchanged in plan.adapters.items():
        gathered.findings += _compare_weights(read, replace(plan, tensors=exchanged), directory / name)
    gathered.findings += compare_files(plan, directory)
    _compare_with_transformers(_Case(read, plan, words, description, directory, audio), gathered)
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
    description: Description
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


_ENCODER_ALONE = "encoder.layer_norm.weight"
_CTC_HEAD = "lm_head.weight"


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


def _compare_weights(checkpoint: Checkpoint, plan: Plan, path: Path) -> list[Finding]:
    if not path.exists():
        return []  # which compare_files tells of
    try:
        found = entries(path)
    except ValueError as error:
        return [Finding("tensors", path.name, "a whole safetensors file", str(error))]
    findings = compare_tensors(checkpoint, plan, path, found)
    return [replace(finding, where=f"{path.name}: {finding.where}") for finding in findings]


def _language(output: Path) -> str | None:
    found = find_record(output)
    return None if found is None else found.record.language or None


def _prefix(output: Path) -> str | None:
    found = find_record(output)
    return None if found is None else found.record.prefix or None


def _head(output: Path, found: Mapping[str, Entry]) -> str:
    """``none`` for an encoder alone, else the checkpoint's own: the tensors tell, without them the config."""
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
        stage = compare_feature_extractor(extractor, case.audio, case.description)
    except Exception as error:  # whatever a changed directory leads transformers to
        gathered.findings.append(failure("loading", "AutoFeatureExtractor", "a feature extractor", error))
        return
    gathered.input_values = stage
    gathered.findings += output_findings((stage,))


def _compare_outputs(model: Any, case: _Case, gathered: _Gathered) -> Compared | None:
    runs = passes(case.audio, normalize=case.description.normalize)
    with open_checkpoint(case.checkpoint.path) as file:
        reference = _reference(file.fileno(), case, written_dtypes(case.plan))
        if not case.plan.is_exact:
            gathered.notes.append(_rounding(reference, _reference(file.fileno(), case, {}), runs[0], case.plan))
        compared = compare_outputs(model, reference, runs, case.plan)
    if isinstance(compared, Finding):
        gathered.findings.append(compared)
        return None
    gathered.stages = compared.stages
    gathered.findings += output_findings(compared.stages)
    if compared.near_ties:
        gathered.notes.append(
            f"in {compared.near_ties} frames two codebook entries are equally likely but for rounding; "
            "they are left out of projected_quantized_states"
        )
    return compared


def _reference(file: int, case: _Case, dtypes: Mapping[str, str]) -> Callable[[Pass], ReferenceOutputs]:
    tensors = SourceTensors(file, case.checkpoint.tensors, dtypes)
    cfg = reference_cfg(case.checkpoint, case.description)
    return lambda run: case.description.family.reference(tensors, cfg, run.input_values, run.padding_mask)


def _rounding(
    rounded: Callable[[Pass], ReferenceOutputs], whole: Callable[[Pass], ReferenceOutputs], run: Pass, plan: Plan
) -> str:
    """What the weights' rounding costs, which is not what is verified but what its reader wants to know."""
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
        tokenizer = transformers.AutoProcessor.from_pretrained(
            case.output, local_files_only=True, trust_remote_code=False
        ).tokenizer
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
