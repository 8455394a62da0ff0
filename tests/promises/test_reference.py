"""The reference against outputs that real fairseq recorded (``fixtures/*/recorded.npz``), and that it can fail."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import options
from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError
from w2vc.families.conformer.reference import reference_forward
from w2vc.families.shared.reference import ReferenceOutputs
from w2vc.options import Options
from w2vc.planning.preparation import read_and_describe

pytestmark = pytest.mark.whole

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
RECORDED = sorted(path.parent.name for path in FIXTURES.glob("*/recorded.npz"))
BOUND = 2e-6
OTHERS = {"layer9_projected", "layer12"}
"""What was recorded of a single layer's output, which the stages hold already."""
ENCODER = "w2v_encoder.w2v_model."


@dataclass(frozen=True)
class Fixture:
    tensors: dict[str, Tensor]
    cfg: dict[str, Any]
    recorded: dict[str, Any]
    reference: Callable[..., ReferenceOutputs]

    @property
    def passes(self) -> list[str]:
        first = {key.split("/")[0] for key in self.recorded}
        # Others are languages, each with passes of its own (test_languages.py).
        return sorted(name for name in first if name.startswith(("clip", "batch")))

    def run(self, name: str, tensors: Mapping[str, Tensor] | None = None, cfg: Any = None) -> ReferenceOutputs:
        """The reference on the input of a recorded pass, ``clip0`` or ``batch``."""
        source = torch.from_numpy(self.recorded[f"{name}/input"])
        mask = self.recorded.get(f"{name}/padding_mask")
        return self.reference(
            self.tensors if tensors is None else tensors,
            self.cfg if cfg is None else cfg,
            source if source.dim() == 2 else source[None],
            None if mask is None else torch.from_numpy(mask),
        )

    def expected(self, name: str) -> dict[str, Any]:
        """The arrays that fairseq recorded of a pass, by stage, batch first, without the frames that cropping drops."""
        stages = {key.removeprefix(f"{name}/"): value for key, value in self.recorded.items() if key.startswith(name)}
        given = {"input", "padding_mask"}
        batched = {key: value if name == "batch" else value[None] for key, value in stages.items() if key not in given}
        return {key: value[:, : batched["encoder_out"].shape[1]] for key, value in batched.items() if key not in OTHERS}


@cache
def fixture(name: str) -> Fixture:
    dictionary = type("Dictionary", (), {})
    with torch.serialization.safe_globals([(dictionary, "fairseq.data.dictionary.Dictionary")]):
        checkpoint = torch.load(FIXTURES / name / "checkpoint.pt", weights_only=True)
    with np.load(FIXTURES / name / "recorded.npz") as recorded:
        asked = Options(**options(name))
        read, _, description = read_and_describe(FIXTURES / name / "checkpoint.pt", asked)
        # What is read of the cfg is plain but for interpolations, which the checkpoints of these folders haven't got.
        cfg = dict(read.cfg) if asked.pretrained else checkpoint["cfg"]
        return Fixture(checkpoint["model"], cfg, dict(recorded), description.family.reference)


def stages(outputs: ReferenceOutputs) -> dict[str, Any]:
    """The outputs under the names of the recorded arrays."""
    named = {
        "features": outputs.features,
        **{f"hidden_states/{index}": state for index, state in enumerate(outputs.hidden_states)},
        "encoder_out": outputs.encoder_out,
        "logits": outputs.logits,
        "projected_states": outputs.projected_states,
        "projected_quantized_states": outputs.projected_quantized_states,
        "codevector_indices": outputs.codevector_indices,
        "frames_padding_mask": outputs.padding_mask,
    }
    return {name: tensor.numpy() for name, tensor in named.items() if tensor is not None}


def relative_error(out: Any, reference: Any) -> float:
    """Infinite for another shape, so that no broadcasting hides it."""
    if out.shape != reference.shape:
        return float("inf")
    difference = out.astype(np.float64) - reference.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64)))


def errors(outputs: ReferenceOutputs, expected: Mapping[str, Any]) -> dict[str, float]:
    computed = stages(outputs)
    return {stage: relative_error(computed[stage], reference) for stage, reference in expected.items()}


def architecture(cfg: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cfg["model"].get("w2v_args", cfg)["model"]
    return found


def with_architecture(cfg: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**architecture(cfg), **changes}
    if "w2v_args" not in cfg["model"]:
        return {**cfg, "model": changed}
    return with_model(cfg, w2v_args={**cfg["model"]["w2v_args"], "model": changed})


def with_model(cfg: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**cfg, "model": {**cfg["model"], **changes}}


# --- it equals fairseq


@pytest.mark.parametrize("name", RECORDED)
def test_every_stage_equals_what_fairseq_computed(name: str) -> None:
    for recorded_pass in fixture(name).passes:
        outputs, expected = fixture(name).run(recorded_pass), fixture(name).expected(recorded_pass)
        assert stages(outputs).keys() == expected.keys()
        assert max(errors(outputs, expected).values()) < BOUND, (recorded_pass, errors(outputs, expected))


@pytest.mark.parametrize("name", RECORDED)
def test_masks_and_codevector_indices_are_fairseqs_very_own(name: str) -> None:
    computed, expected = stages(fixture(name).run("batch")), fixture(name).expected("batch")
    for stage in {"frames_padding_mask", "codevector_indices"} & expected.keys():
        assert np.array_equal(computed[stage], expected[stage])


@pytest.mark.parametrize("mark", ["linear_pos.weight", "rotary_emb.inv_freq", "linear_q.weight", "q_proj.weight"])
def test_the_fixtures_have_every_attention(mark: str) -> None:
    assert any(f"encoder.layers.0.self_attn.{mark}" in key for name in RECORDED for key in fixture(name).tensors)


def test_a_clip_alone_and_padded_in_a_batch_give_nearly_the_same_frames() -> None:
    alone, batch = fixture("relative_ctc").run("clip0"), fixture("relative_ctc").run("batch")
    frames = alone.features.size(1)
    assert batch.padding_mask is not None
    assert int((~batch.padding_mask[0]).sum()) == frames
    assert relative_error(batch.features[0, :frames].numpy(), alone.features[0].numpy()) < BOUND


def test_a_padding_mask_that_marks_nothing_is_as_good_as_none() -> None:
    example = fixture("relative_ctc")
    source = torch.from_numpy(example.recorded["clip0/input"])[None]
    outputs = reference_forward(example.tensors, example.cfg, source, torch.zeros_like(source, dtype=torch.bool))
    assert outputs.padding_mask is None
    assert torch.equal(outputs.encoder_out, example.run("clip0").encoder_out)


# --- what is believed, and what isn't


def test_the_tensors_are_believed_where_a_fine_tuned_cfg_calls_a_conformer_a_transformer() -> None:
    example = fixture("relative_ctc")
    cfg = with_architecture(example.cfg, layer_type="transformer", attn_type="", pos_enc_type="abs")
    assert max(errors(example.run("clip0", cfg=cfg), example.expected("clip0")).values()) < BOUND


def test_decoys_in_a_fine_tuned_cfg_are_not_believed() -> None:
    example = fixture("relative_ctc")
    cfg = with_model(example.cfg, encoder_embed_dim=768, conv_feature_layers="[(512, 10, 5)]", encoder_layers=1)
    assert max(errors(example.run("clip0", cfg=cfg), example.expected("clip0")).values()) < BOUND


def test_absent_keys_have_fairseqs_defaults() -> None:
    example = fixture("relative_ctc")
    defaults = ("crop_seq_to_multiple", "quantize_input", "pos_conv_depth", "pos_enc_type", "attn_type")
    model = {key: value for key, value in architecture(example.cfg).items() if key not in defaults}
    cfg = with_model(example.cfg, w2v_args={"model": model})
    assert max(errors(example.run("clip0", cfg=cfg), example.expected("clip0")).values()) < BOUND


def test_half_precision_tensors_are_computed_with_in_float32() -> None:
    example = fixture("relative_ctc")
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in example.tensors.items()}
    widened = {name: tensor.float() for name, tensor in halved.items()}
    outputs = example.run("clip0", tensors=halved)
    assert outputs.encoder_out.dtype == torch.float32
    assert torch.equal(outputs.encoder_out, example.run("clip0", tensors=widened).encoder_out)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that come into being when read; keeps track of which live on."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.alive: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()
        self.reads: list[tuple[str, set[str]]] = []

    def __getitem__(self, name: str) -> Tensor:
        self.reads.append((name, set(self.alive)))
        self.alive[name] = tensor = self.tensors[name].clone()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_tensors_are_read_once_where_they_are_used_and_let_go() -> None:
    tensors = LazyTensors(fixture("relative_ctc").tensors)
    fixture("relative_ctc").run("clip0", tensors=tensors)
    names = [name for name, _ in tensors.reads]
    # The encoder's layer_norm comes after all layers, and no other is needed twice.
    assert len(names) == len(set(names))
    assert max(len(alive) for _, alive in tensors.reads) <= 4
    assert not set(tensors.alive)


# --- it can fail: a changed weight or a wrong cfg value is noticed


def exchange(tensors: dict[str, Tensor], one: str, other: str) -> dict[str, Tensor]:
    return {**tensors, one: tensors[other], other: tensors[one]}


LAYER = f"{ENCODER}encoder.layers.0."
EXCHANGES = [
    (f"{LAYER}ffn1.layer_norm.weight", f"{LAYER}ffn2.layer_norm.weight"),
    (f"{LAYER}ffn1.layer_norm.bias", f"{LAYER}ffn2.layer_norm.bias"),
    (f"{LAYER}self_attn.linear_q.weight", f"{LAYER}self_attn.linear_k.weight"),
    (f"{LAYER}self_attn.linear_v.bias", f"{LAYER}self_attn.linear_out.bias"),
    (f"{LAYER}self_attn.pos_bias_u", f"{LAYER}self_attn.pos_bias_v"),
    (f"{LAYER}conv_module.batch_norm.running_mean", f"{LAYER}conv_module.batch_norm.bias"),
    (f"{LAYER}final_layer_norm.weight", f"{LAYER}self_attn_layer_norm.weight"),
]


@pytest.mark.parametrize(("one", "other"), EXCHANGES)
def test_two_exchanged_tensors_of_the_first_layer_show_from_there_on(one: str, other: str) -> None:
    example = fixture("relative_ctc")
    changed = example.run("clip0", tensors=exchange(example.tensors, one, other))
    error = errors(changed, example.expected("clip0"))
    assert max(error["features"], error["hidden_states/0"]) < BOUND
    assert min(error["hidden_states/1"], error["encoder_out"], error["logits"]) > BOUND


WRONG_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("relative_ctc", {"layer_norm_first": False}),
    ("relative_ctc", {"crop_seq_to_multiple": 5}),
    ("relative_pretraining", {"crop_seq_to_multiple": 5}),
    ("plain_attention_ctc", {"pos_enc_type": "abs"}),
    ("plain_attention_ctc", {"encoder_attention_heads": 1}),
    ("espnet_absolute_pretraining", {"encoder_attention_heads": 4}),
    ("target_glu_pretraining", {"target_glu": False}),
]


@pytest.mark.parametrize(("name", "change"), WRONG_VALUES)
def test_a_wrong_cfg_value_changes_the_outputs(name: str, change: dict[str, Any]) -> None:
    example = fixture(name)
    outputs = example.run("clip0", cfg=with_architecture(example.cfg, **change))
    assert max(errors(outputs, example.expected("clip0")).values()) > BOUND


@pytest.mark.parametrize("change", [{"blank_weight": 0}, {"blank_mode": "set"}, {"blank_weight": 1.5}])
def test_a_wrong_blank_weight_shows_in_the_logits_alone(change: dict[str, Any]) -> None:
    example = fixture("blank_weight_add_ctc")
    error = errors(example.run("clip0", cfg=with_model(example.cfg, **change)), example.expected("clip0"))
    assert error.pop("logits") > BOUND
    assert max(error.values()) < BOUND


# --- refusals


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"encoder_layers": 3}, "encoder.layers.2.ffn1.layer_norm.weight is missing"),
    ({"encoder_layers": 1}, "more layers than cfg.model.encoder_layers, 1"),
    ({"encoder_attention_heads": 4}, "self_attn.pos_bias_u is (2, 10), and cfg says (4, 5)"),
    ({"encoder_attention_heads": 3}, "can't be divided by cfg.model.encoder_attention_heads"),
    ({"encoder_ffn_embed_dim": 20}, "encoder.layers.0.ffn1.w_1.weight is (28, 20), and cfg says (20, 20)"),
    ({"depthwise_conv_kernel_size": 31}, "depthwise_conv.weight is (20, 1, 9), and cfg says (20, 1, 31)"),
    ({"extractor_mode": "default"}, "feature_extractor.conv_layers.0.2.weight is missing"),
    ({"conv_bias": False}, "feature_extractor.conv_layers.0.0.bias is there"),
    ({"quantize_input": True}, "input_quantizer.weight_proj.weight is missing"),
    ({"quantizer_depth": 2}, "quantizer.weight_proj.0.0.weight is missing"),
    ({"target_glu": True}, "target_glu.0.weight is missing"),
    ({"latent_groups": 1, "latent_vars": 14}, "quantizer.vars is (1, 14, 8), and cfg says (1, 14, 16)"),
]


@pytest.mark.parametrize(("change", "problem"), MISFITS)
def test_a_cfg_that_does_not_fit_the_tensors_is_refused_with_the_tensors_name(
    change: dict[str, Any], problem: str
) -> None:
    example = fixture("relative_pretraining")
    with pytest.raises(InconsistentError) as caught:
        example.run("clip0", cfg=with_architecture(example.cfg, **change))
    assert problem in caught.value.problems[0]


def test_plain_attention_under_relative_positions_is_refused_as_fairseq_cannot_run_it() -> None:
    example = fixture("plain_attention_ctc")
    with pytest.raises(InconsistentError, match="pos_enc_type is 'rel_pos'"):
        example.run("clip0", cfg=with_architecture(example.cfg, pos_enc_type="rel_pos"))


def test_a_fine_tuned_cfg_without_its_architecture_is_refused() -> None:
    example = fixture("relative_ctc")
    with pytest.raises(InconsistentError, match=r"cfg\.model\.w2v_args is None"):
        example.run("clip0", cfg=with_model(example.cfg, w2v_args=None))


@pytest.mark.parametrize("name", ["wav2vec_seq2seq", "hubert", None])
def test_another_model_is_refused_by_its_name(name: str | None) -> None:
    example = fixture("relative_ctc")
    with pytest.raises(UnsupportedModelError, match=rf"_name is {name!r}"):
        example.run("clip0", cfg=with_model(example.cfg, _name=name))


def test_tensors_without_a_convolution_module_are_no_conformer() -> None:
    example = fixture("relative_ctc")
    tensors = {name: tensor for name, tensor in example.tensors.items() if "conv_module" not in name}
    with pytest.raises(UnsupportedModelError, match="not the tensors of a conformer layer"):
        example.run("clip0", tensors=tensors)


def test_a_blank_mode_that_fairseq_does_not_know_is_refused() -> None:
    example = fixture("blank_weight_add_ctc")
    with pytest.raises(UnsupportedModelError, match="blank_mode is 'multiply'"):
        example.run("clip0", cfg=with_model(example.cfg, blank_mode="multiply"))


WRONG_INPUTS: list[tuple[Callable[[], tuple[Tensor, Tensor | None]], str]] = [
    (lambda: (torch.zeros(16000), None), r"source is \(16000,\)"),
    (lambda: (torch.zeros(1, 16000, dtype=torch.float64), None), r"torch\.float64"),
    (lambda: (torch.zeros(2, 16000), torch.zeros(1, 16000, dtype=torch.bool)), r"padding_mask is \(1, 16000\)"),
    (lambda: (torch.zeros(1, 16000), torch.zeros(1, 16000)), r"torch\.float32, not \(1, 16000\) torch\.bool"),
    (lambda: (torch.zeros(1, 399), None), "399 samples are too few"),
]


@pytest.mark.parametrize(("make", "problem"), WRONG_INPUTS)
def test_input_that_is_no_batch_of_clips_is_refused(
    make: Callable[[], tuple[Tensor, Tensor | None]], problem: str
) -> None:
    source, mask = make()
    with pytest.raises(UsageError, match=problem):
        reference_forward(fixture("relative_ctc").tensors, fixture("relative_ctc").cfg, source, mask)


SAME_LAYERS = [
    "[(12, 10, 5)] + [(12, 3, 2)] * 4 + [(12, 2, 2)] * 2",
    " [(12,10,5)]+4*[(12,3,2)]+[(12,2,2)]+[(12,2,2)]",
    "((12, 2 * 5, 4 + 1),) + ([12, 3, 2],) * 4 + ((12, 2, 2),) * (1 + 1)",
]


@pytest.mark.parametrize("source", SAME_LAYERS)
def test_convolution_layers_are_read_as_python_would(source: str) -> None:
    example = fixture("relative_ctc")
    outputs = example.run("clip0", cfg=with_architecture(example.cfg, conv_feature_layers=source))
    assert max(errors(outputs, example.expected("clip0")).values()) < BOUND


NOT_LAYERS = [
    "__import__('os').getcwd()",
    "[(12, 10, 5)] * 10**9",
    "[(12, 10, 5)] * 1000000000",
    "[[(12, 10, 5)] * 999] * 999 + 1",
    "[(12, 10, -5)]",
    "[(12, 10)]",
    "[(12, 10, True)]",
    "[([[[[1] * 999] * 999] * 999] * 999, 10, 5)]",
    "[]",
    "12",
    "[(12, 10, 5)",
    "(" * 500,
    "1+" * 1900 + "1",
    "[(12, 10, 5)" + ", (12, 3, 2)" * 1000 + "]",
]


@pytest.mark.parametrize("source", NOT_LAYERS)
def test_anything_but_a_list_of_convolution_layers_is_refused_unevaluated(source: str) -> None:
    example = fixture("relative_ctc")
    with pytest.raises(UnsupportedModelError, match=r"cfg\.model\.conv_feature_layers can't be read"):
        example.run("clip0", cfg=with_architecture(example.cfg, conv_feature_layers=source))
