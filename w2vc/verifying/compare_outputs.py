"""Outputs: transformers' model, loaded from the directory, beside the reference, driven by the checkpoint's tensors.

Both are fed the same samples. The stages of transformers' forward are taken with hooks on its modules: what
``output_hidden_states`` gives, and whether its last is before or behind the final layer norm, depends on the version.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.families.interpreter import Description
from w2vc.planning.plan import Plan
from w2vc.reading.cfg import Cfg
from w2vc.reading.checkpoint import Checkpoint, SourceTensor
from w2vc.verifying.probe_audio import ProbeAudio
from w2vc.verifying.tensor_reader import source_tensor
from w2vc.verifying.verification import Finding, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from w2vc.families.shared.reference import ReferenceOutputs

BOUND = 2e-6
"""The largest relative error of float32 outputs that counts as the same: a few roundings of each operation."""

# fairseq normalises with layer_norm's epsilon, transformers' feature extractor with its own.
_FAIRSEQ_EPSILON = 1e-5
_TRANSFORMERS_EPSILON = 1e-7
# Two entries of a codebook, or two symbols, whose scores are this close relative to the largest: a rounding decides.
_NEAR_TIE = 1e-5

_LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """transformers, imported, without its messages and progress bars as long as the block lasts.

    Sets ``HF_HUB_OFFLINE`` for the process, unless it is set: it counts when transformers is imported.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers: Any = importlib.import_module("transformers")
        logging = transformers.utils.logging
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield transformers
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def load_model(transformers: Any, plan: Plan, output: Path) -> tuple[Any, list[Finding]]:
    """The model in float32 and eval mode, and which keys it complains about; None where it can't be loaded."""
    kind = getattr(transformers, plan.model_class)
    try:
        model, info = kind.from_pretrained(
            output,
            dtype=importlib.import_module("torch").float32,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:  # whatever a changed directory leads transformers to
        return None, [failure("loading", f"{plan.model_class}.from_pretrained", "a model", error)]
    findings = [
        Finding("loading", f"{plan.model_class}.from_pretrained", f"no {problem}", _listed(info[problem]))
        for problem in _LOADING_PROBLEMS
        if info.get(problem)
    ]
    return model.eval(), findings


def failure(part: str, where: str, expected: str, error: Exception) -> Finding:
    """The finding that transformers failed, with the beginning of what it says."""
    said = " ".join(str(error).split())[:300]
    return Finding(part, where, expected, f"{type(error).__name__}: {said}")


def _listed(keys: Any) -> str:
    names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


# ---------------------------------------------------------------------------------------------------------------
# Audio


@dataclass(frozen=True)
class Pass:
    """One run of both models.

    Attributes:
        input_values: (B, samples) float32, normalised as fairseq does where the model was trained so.
        padding_mask: (B, samples) bool, true where padded; None where nothing is.
    """

    input_values: Tensor
    padding_mask: Tensor | None = None


def passes(audio: ProbeAudio, *, normalize: bool) -> list[Pass]:
    """Each clip alone, then the batch."""
    import torch

    alone = [Pass(_normalized(clip, normalize=normalize)[None]) for clip in audio.clips]
    lengths = torch.tensor([len(clip) for clip in audio.batch])
    clips = [_normalized(clip, normalize=normalize) for clip in audio.batch]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    return [*alone, Pass(padded, torch.arange(padded.size(1)) >= lengths[:, None])]


def _normalized(clip: Tensor, *, normalize: bool) -> Tensor:
    """``FileAudioDataset.postprocess`` (fairseq/data/audio/raw_audio_dataset.py)."""
    import torch

    return torch.nn.functional.layer_norm(clip, clip.shape) if normalize else clip


def compare_feature_extractor(extractor: Any, audio: ProbeAudio, description: Description) -> Stage:
    """What the feature extractor makes of each clip, beside what fairseq does.

    Where the model was trained on normalised audio, both divide by the standard deviation, but with different
    epsilons under the root: the bound is what that makes for the quietest clip, and ``BOUND`` besides.
    """
    import torch

    error, bound = 0.0, BOUND
    for clip in audio.clips:
        values = extractor(clip.numpy(), sampling_rate=description.sample_rate, return_tensors="np")["input_values"][0]
        found = torch.from_numpy(values)
        expected = _normalized(clip, normalize=description.normalize)
        error = max(error, relative_error(found, expected))
        if description.normalize:
            variance = float(clip.double().var(correction=0))
            ratio = (variance + _FAIRSEQ_EPSILON) / (variance + _TRANSFORMERS_EPSILON)
            bound = max(bound, ratio**0.5 - 1 + BOUND)
    return Stage("input_values", error, bound)


# ---------------------------------------------------------------------------------------------------------------
# Stages


@dataclass(frozen=True)
class Compared:
    """What came of all passes.

    Attributes:
        stages: in the forward's order.
        ids: of each clip alone, the likeliest symbol of each frame: the reference's, and transformers'.
        near_ties: frames whose codebook entries a rounding decided, left out of the quantised states.
    """

    stages: tuple[Stage, ...]
    ids: tuple[tuple[list[int], list[int]], ...]
    near_ties: int


class SourceTensors(Mapping[str, "Tensor"]):
    """The checkpoint's tensors, each read when asked for and not kept.

    Where the output's weights are rounded, so are these: what the rounding changes is no difference between the two
    computations.
    """

    def __init__(self, file: int, tensors: Mapping[str, SourceTensor], dtypes: Mapping[str, str]) -> None:
        self._file = file
        self._tensors = tensors
        self._dtypes = dtypes

    def __getitem__(self, name: str) -> Tensor:
        import torch

        tensor = source_tensor(self._file, self._tensors[name])
        return tensor.to(getattr(torch, self._dtypes.get(name, "float32"))) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def written_dtypes(plan: Plan) -> dict[str, str]:
    """The dtype that each source tensor has in the output, by fairseq's name."""
    return {source.name: move.dtype for move in plan.moves for source in (move.source, *move.equals)}


def reference_cfg(checkpoint: Checkpoint, description: Description) -> dict[str, Any]:
    """The cfg as the reference takes it: interpolations followed, what has no value left out."""
    cfg = Cfg(checkpoint.cfg)

    def section(path: str) -> dict[str, Any]:
        values = {key: cfg.value(f"{path}.{key}") for key in cfg.keys(path) if key != "w2v_args"}
        return {key: value for key, value in values.items() if value is not None}

    if description.own_head == "pretraining":
        return {"model": {**section("model"), "_name": "wav2vec2"}}
    inner = {"model": section("model.w2v_args.model")}
    return {"model": {**section("model"), "_name": "wav2vec_ctc", "w2v_args": inner}}


def compare_outputs(
    model: Any, reference: Callable[[Pass], ReferenceOutputs], runs: list[Pass], plan: Plan
) -> Compared | Finding:
    """Runs both models and compares every stage, frame by frame, the padded ones included.

    Args:
        model: transformers'.
        reference: fairseq's forward of one pass.
        runs: what to feed both with.
        plan: names the head and the weights' dtype.

    Returns:
        What came of it; a finding where transformers' model can't run.
    """
    errors: dict[str, float] = {}
    ids = []
    near_ties = 0
    for run in runs:
        outputs = reference(run)
        expected = _reference_stages(outputs, plan)
        try:
            found = _model_stages(model, run)
        except Exception as error:  # a changed config can make a model that can't run
            return failure("outputs", plan.model_class, "outputs", error)
        near_ties += _leave_out_near_ties(expected, found, outputs)
        for name, values in expected.items():
            errors[name] = max(errors.get(name, 0.0), relative_error(found.get(name), values))
        if "logits" in expected and run.padding_mask is None:
            ids.append(_likeliest(expected["logits"], found.get("logits")))
    stages = tuple(Stage(name, error, _bound(name, plan)) for name, error in errors.items())
    return Compared(stages, tuple(ids), near_ties)


def _bound(stage: str, plan: Plan) -> float:
    """A blank weight is folded into the head before its rounding, and added after it in the reference."""
    import torch

    folded = any(move.first_row is not None for move in plan.moves)
    if stage == "logits" and folded and plan.dtype != "float32":
        return float(torch.finfo(getattr(torch, plan.dtype)).eps)
    return BOUND


def _reference_stages(outputs: ReferenceOutputs, plan: Plan) -> dict[str, Tensor]:
    first, *layers = outputs.hidden_states
    heads = {
        "ctc": {"logits": outputs.logits},
        "pretraining": {
            "projected_states": outputs.projected_states,
            "projected_quantized_states": outputs.projected_quantized_states,
        },
        "none": {},
    }[plan.head]
    stages = {
        "features": outputs.features,
        "projection": first,
        **{f"encoder.layers.{index}": layer for index, layer in enumerate(layers)},
        "encoder.layer_norm": outputs.encoder_out,
        **heads,
    }
    return {name: stage for name, stage in stages.items() if stage is not None}


def _model_stages(model: Any, run: Pass) -> dict[str, Tensor]:
    """Every stage by the same names, and the scores of the codebooks' entries as ``codebook_scores``."""
    import torch

    stages: dict[str, Tensor] = {}
    base = model.base_model

    def keep(name: str) -> Callable[[object, object, Any], None]:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            stages[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(_module: object, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        stages["projection"] = inputs[0] if inputs else named["hidden_states"]

    hooked = {
        "features": base.feature_projection.layer_norm,
        **{f"encoder.layers.{index}": layer for index, layer in enumerate(base.encoder.layers)},
        "encoder.layer_norm": base.encoder.layer_norm,
    }
    if hasattr(model, "quantizer"):
        hooked["codebook_scores"] = model.quantizer.weight_proj
    handles = [module.register_forward_hook(keep(name)) for name, module in hooked.items()]
    handles.append(base.encoder.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True))
    mask = None if run.padding_mask is None else (~run.padding_mask).long()
    try:
        with torch.no_grad():
            output = model(run.input_values, attention_mask=mask)
    finally:
        for handle in handles:
            handle.remove()
    heads = ("logits", "projected_states", "projected_quantized_states")
    return {**stages, **{name: output[name] for name in heads if name in output}}


def relative_error(found: Tensor | None, expected: Tensor) -> float:
    """norm(found - expected) / norm(expected), of the finite values; infinite for another shape or other NaNs."""
    import torch

    if found is None or found.shape != expected.shape:
        return float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    ours, theirs = expected[finite].double(), found[finite].double()
    difference = float(torch.linalg.vector_norm(theirs - ours))
    if difference == 0:
        return 0.0
    norm = float(torch.linalg.vector_norm(ours))
    return difference / norm if norm else float("inf")


def _leave_out_near_ties(expected: dict[str, Tensor], found: dict[str, Tensor], outputs: ReferenceOutputs) -> int:
    """Takes the frames out of the quantised states in which a rounding decided for another entry; says how many."""
    scores, indices = found.pop("codebook_scores", None), outputs.codevector_indices
    name = "projected_quantized_states"
    if scores is None or indices is None or name not in expected or found[name].shape != expected[name].shape:
        return 0
    scores = scores.reshape(*indices.shape[:2], -1)
    if scores.size(-1) % indices.size(-1):
        return 0
    scores = scores.reshape(*indices.shape, -1)
    decided = ((scores.argmax(-1) != indices) & _is_near_tie(scores)).any(-1)
    expected[name], found[name] = expected[name][~decided], found[name][~decided]
    return int(decided.sum())


def _is_near_tie(scores: Tensor) -> Tensor:
    first, second = scores.topk(2, dim=-1).values.unbind(-1)
    return first - second <= _NEAR_TIE * scores.abs().amax(-1)


def _likeliest(expected: Tensor, found: Tensor | None) -> tuple[list[int], list[int]]:
    """The likeliest symbols of a clip's frames; where a rounding decided, the reference's stands for both."""
    import torch

    ours = expected[0].argmax(-1)
    if found is None or found.shape != expected.shape:
        return ours.tolist(), [] if found is None else found[0].argmax(-1).tolist()
    theirs = torch.where(_is_near_tie(found[0]), ours, found[0].argmax(-1))
    return ours.tolist(), theirs.tolist()


def output_findings(stages: tuple[Stage, ...]) -> list[Finding]:
    """One finding for the first stage that is beyond its bound: what comes behind it follows from it."""
    different = [stage for stage in stages if not stage.same]
    if not different:
        return []
    first = different[0]
    more = f", and {len(different) - 1} later stages differ too" if len(different) > 1 else ""
    return [Finding("outputs", first.name, f"a relative error below {first.bound:.1e}", f"{first.error:.1e}{more}")]
