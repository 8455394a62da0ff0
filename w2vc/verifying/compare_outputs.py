"""Compare outputs: transformers' model, loaded from the directory, and the reference with the checkpoint's tensors.

Both are fed the same samples. The stages of transformers' forward are taken with hooks on its modules: what
``output_hidden_states`` gives, and whether its last is before or after the final layer norm, depends on the version.
Which module shows which stage is the family's to say (``Family.stages``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w2vc.families.cfg import Cfg
from w2vc.families.family import QUANTIZED, StageMap, Tap
from w2vc.families.interpreter import Description
from w2vc.planning.plan import Plan
from w2vc.reading.checkpoint import Checkpoint
from w2vc.verifying.loading import failure
from w2vc.verifying.probe_audio import ProbeAudio
from w2vc.verifying.verification import Finding, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from w2vc.families.shared.reference import ReferenceOutputs

BOUND = 2e-6
"""The largest relative error of float32 outputs that counts as the same: a few roundings of each operation."""

# fairseq normalizes with layer_norm's epsilon, transformers' feature extractor with its own.
_FAIRSEQ_EPSILON = 1e-5
_TRANSFORMERS_EPSILON = 1e-7
# Two entries of a codebook, or two symbols, whose scores are this close relative to the largest: a rounding decides.
_NEAR_TIE = 1e-5

# ---------------------------------------------------------------------------------------------------------------
# Audio


@dataclass(frozen=True)
class Pass:
    """One run of both models.

    Attributes:
        input_values: (B, samples) float32, normalized as fairseq does where the model was trained so.
        padding_mask: (B, samples) bool, true where padded; None where nothing is.
    """

    input_values: Tensor
    padding_mask: Tensor | None = None


def passes(audio: ProbeAudio, *, normalize: bool) -> list[Pass]:
    """Return a pass for each clip alone, then one for the batch."""
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


def compare_feature_extractor(extractor: Any, audio: ProbeAudio, description: Description, bound: float) -> Stage:
    """Compare what the feature extractor makes of each clip with what fairseq does.

    Where the model was trained on normalized audio, both divide by the standard deviation, but with different
    epsilons under the root: the bound is what that makes for the quietest clip, and ``bound`` besides.
    """
    import torch

    error, widest = 0.0, bound
    for clip in audio.clips:
        values = extractor(clip.numpy(), sampling_rate=description.sample_rate, return_tensors="np")["input_values"][0]
        expected = _normalized(clip, normalize=description.normalize)
        error = max(error, relative_error(torch.from_numpy(values), expected))
        if description.normalize:
            widest = max(widest, bound + _by_the_epsilons(clip))
    return Stage("input_values", error, widest)


def _by_the_epsilons(clip: Tensor) -> float:
    """Return how far the two normalizations of a clip are apart, because of their epsilons."""
    variance = float(clip.double().var(correction=0))
    ratio = (variance + _FAIRSEQ_EPSILON) / (variance + _TRANSFORMERS_EPSILON)
    return float(ratio**0.5) - 1


def about_the_epsilons(audio: ProbeAudio) -> str:
    """Say in words what the two epsilons do to this audio."""
    change = max(_by_the_epsilons(clip) for clip in audio.clips)
    return (
        f"transformers' feature extractor normalizes with another epsilon than fairseq ({_TRANSFORMERS_EPSILON:.0e} "
        f"for {_FAIRSEQ_EPSILON:.0e}): quiet audio comes out louder, this by {100 * change:.2g} %"
    )


# ---------------------------------------------------------------------------------------------------------------
# Stages


@dataclass(frozen=True)
class Compared:
    """The result of all passes.

    Attributes:
        stages: in the forward's order.
        ids: of each clip alone, the likeliest symbol of each frame: the reference's, and transformers'.
        near_ties: frames whose codebook entries a rounding decided, left out of the quantized states.
    """

    stages: tuple[Stage, ...]
    ids: tuple[tuple[list[int], list[int]], ...]
    near_ties: int


class Rounded(Mapping[str, "Tensor"]):
    """The checkpoint's tensors, each rounded when asked for as the output's weights are.

    What the rounding changes is no difference between the two computations.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dtypes: Mapping[str, str]) -> None:
        self._tensors = tensors
        self._dtypes = dtypes

    def __getitem__(self, name: str) -> Tensor:
        import torch

        tensor = self._tensors[name]
        return tensor.to(getattr(torch, self._dtypes.get(name, "float32"))) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def written_dtypes(plan: Plan) -> dict[str, str]:
    """Return the dtype that each source tensor has in the output, by fairseq's name."""
    return {source.name: move.dtype for move in plan.moves for source in (move.source, *move.equals)}


def reference_cfg(checkpoint: Checkpoint, description: Description) -> dict[str, Any]:
    """Return the cfg as the reference takes it: interpolations followed, what has no value left out."""
    cfg = Cfg(checkpoint.cfg)

    def section(path: str) -> dict[str, Any]:
        values = {key: cfg.value(f"{path}.{key}") for key in cfg.keys(path) if key != "w2v_args"}
        return {key: value for key, value in values.items() if value is not None}

    is_tuned = description.own_head == "ctc"
    model = {**section("model"), "_name": description.family.registered[is_tuned]}
    if not is_tuned:
        return {"model": model}
    return {"model": {**model, "w2v_args": {"model": section("model.w2v_args.model")}}}


def compare_outputs(
    model: Any,
    reference: Callable[[Pass], ReferenceOutputs],
    runs: list[Pass],
    plan: Plan,
    stages: StageMap,
    bound: float = BOUND,
) -> Compared | Finding:
    """Run both models and compare every stage, frame by frame.

    Args:
        model: transformers'.
        reference: fairseq's forward of one pass.
        runs: what to feed both with.
        plan: names the class and the weights' dtype.
        stages: what to compare.
        bound: the largest relative error that counts as the same.

    Returns:
        The result; a finding where transformers' model can't run.
    """
    errors: dict[str, float] = {}
    ids = []
    near_ties = 0
    for run in runs:
        outputs = reference(run)
        expected = reference_stages(outputs, stages)
        try:
            found = model_stages(model, run, stages, outputs.padding_mask)
        except Exception as error:  # a changed config can make a model that can't run
            return failure("outputs", plan.model_class, "outputs", error)
        near_ties += leave_out_near_ties(expected, found, outputs.codevector_indices)
        for name, values in expected.items():
            errors[name] = max(errors.get(name, 0.0), relative_error(found.get(name), values))
        if "logits" in expected and run.padding_mask is None:
            ids.append(likeliest(expected["logits"], found.get("logits")))
    bounds = _bounds(stages, plan, bound)
    return Compared(tuple(Stage(name, error, bounds[name]) for name, error in errors.items()), tuple(ids), near_ties)


def _bounds(stages: StageMap, plan: Plan, bound: float) -> dict[str, float]:
    """Return each stage's bound.

    What the plan changes in a tensor is changed before its rounding, while the reference computes with the rounded
    tensor and changes that: from there on the two are a rounding apart, where there is one.
    """
    import torch

    edited = [move.target for move in plan.moves if move.edit is not None]
    rounding = 0.0 if plan.dtype == "float32" else float(torch.finfo(getattr(torch, plan.dtype)).eps)
    bounds, widened = {}, False
    for tap in stages.taps:
        widened = widened or any(f"{tap.module}." in target for target in edited)
        bounds[tap.stage] = max(bound, rounding) if widened else bound
    return bounds | dict.fromkeys(stages.heads, max(bound, rounding) if edited else bound)


def reference_stages(outputs: ReferenceOutputs, stages: StageMap) -> dict[str, Tensor]:
    """Return the reference's values of every stage that it has, by the stage's name."""
    values = {tap.stage: _value(outputs, tap) for tap in stages.taps}
    heads = {name: getattr(outputs, name) for name in stages.heads}
    return {name: value for name, value in (*values.items(), *heads.items()) if value is not None}


def _value(outputs: ReferenceOutputs, tap: Tap) -> Any:
    name, _, index = tap.reference.partition(".")
    value = getattr(outputs, name)
    if not index:
        return value
    return value[int(index)] if int(index) < len(value) else None


_SCORES = "codebook_scores"


def model_stages(model: Any, run: Pass, stages: StageMap, padded: Tensor | None) -> dict[str, Tensor]:
    """Run transformers' model and return every stage by the same names, and the codebook's scores by ``_SCORES``.

    Args:
        model: transformers'.
        run: its input.
        stages: what to keep.
        padded: the frames that are padded by fairseq's count, (B, frames).
    """
    import torch

    kept: dict[str, Tensor] = {}
    handles = [handle for tap in stages.taps for handle in _hooks(model.base_model, tap, kept)]
    if stages.scores is not None:
        handles += _hooks(model, Tap(_SCORES, "", stages.scores), kept)
    mask = None if run.padding_mask is None else (~run.padding_mask).long()
    try:
        with torch.no_grad(), _frame_mask(model, None if stages.frame_mask == "lengths" else padded):
            output = model(run.input_values, attention_mask=mask)
    finally:
        for handle in handles:
            handle.remove()
    return {**kept, **{name: output[name] for name in stages.heads if name in output}}


def _hooks(model: Any, tap: Tap, kept: dict[str, Tensor]) -> list[Any]:
    """Have a module keep what the tap asks for when it runs; return the handle, none without such a module."""

    def keep_output(_module: object, _inputs: object, output: Any) -> None:
        kept[tap.stage] = output[0] if isinstance(output, tuple) else output

    def keep_input(_module: object, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        kept[tap.stage] = inputs[0] if inputs else named["hidden_states"]

    try:
        module = model.get_submodule(tap.module)
    except AttributeError:  # a changed config made another model: the stage is missing, and so it differs
        return []
    if tap.side == "input":
        return [module.register_forward_pre_hook(keep_input, with_kwargs=True)]
    return [module.register_forward_hook(keep_output)]


@contextmanager
def _frame_mask(model: Any, padded: Tensor | None) -> Iterator[None]:
    """Have a model mask these frames instead of those that it would count from the lengths."""
    if padded is None:
        yield
        return
    name = "_get_feature_vector_attention_mask"
    owners = {id(owner): owner for owner in (model, model.base_model)}.values()
    for owner in owners:
        setattr(owner, name, lambda *_arguments, **_options: ~padded)
    try:
        yield
    finally:
        for owner in owners:
            delattr(owner, name)


def relative_error(found: Tensor | None, expected: Tensor) -> float:
    """Return norm(found - expected) / norm(expected) of the finite values; infinite for another shape or other NaNs."""
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


def leave_out_near_ties(expected: dict[str, Tensor], found: dict[str, Tensor], indices: Tensor | None) -> int:
    """Take the frames out of ``QUANTIZED`` in which a rounding decided for another entry; return how many.

    Args:
        expected: the stages of the reference; changed.
        found: those of transformers; changed.
        indices: the reference's entry of each frame and group, (B, frames, groups).
    """
    scores = found.pop(_SCORES, None)
    if scores is None or indices is None or QUANTIZED not in expected:
        return 0
    ours, theirs = expected[QUANTIZED], found[QUANTIZED]
    if theirs.shape != ours.shape:
        return 0
    scores = scores.reshape(*indices.shape[:2], -1)
    if scores.size(-1) % indices.size(-1):
        return 0
    scores = scores.reshape(*indices.shape, -1)
    decided = ((scores.argmax(-1) != indices) & _is_near_tie(scores)).any(-1)
    if decided.any():
        expected[QUANTIZED], found[QUANTIZED] = ours[~decided], theirs[~decided]
    return int(decided.sum())


def _is_near_tie(scores: Tensor) -> Tensor:
    first, second = scores.topk(2, dim=-1).values.unbind(-1)
    return first - second <= _NEAR_TIE * scores.abs().amax(-1)


def likeliest(expected: Tensor, found: Tensor | None) -> tuple[list[int], list[int]]:
    """Return the likeliest symbols of a clip's frames on both sides; where a rounding decided, the reference's."""
    import torch

    ours = expected[0].argmax(-1)
    if found is None or found.shape != expected.shape:
        return ours.tolist(), [] if found is None else found[0].argmax(-1).tolist()
    theirs = torch.where(_is_near_tie(found[0]), ours, found[0].argmax(-1))
    return ours.tolist(), theirs.tolist()


def output_findings(stages: tuple[Stage, ...]) -> list[Finding]:
    """Return one finding, for the first stage that is beyond its bound: what comes after it follows from it."""
    different = [stage for stage in stages if not stage.same]
    if not different:
        return []
    first = different[0]
    more = f", and {len(different) - 1} later stages differ too" if len(different) > 1 else ""
    return [Finding("outputs", first.name, f"a relative error below {first.bound:.1e}", f"{first.error:.1e}{more}")]
