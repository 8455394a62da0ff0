"""transformers computes from the output what real fairseq computed from the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

import w2vc
from tests.conftest import CONVERTIBLE, FIXTURES, clip, options, recorded, recorded_facts
from w2vc.writing.safetensors_file import read_header

pytestmark = pytest.mark.whole

BOUND = 2e-6

CTC = [name for name in CONVERTIBLE if (FIXTURES / name / "dict.ltr.txt").exists()]
HEADS = {"ForCTC": ["logits"], "ForPreTraining": ["projected_states", "projected_quantized_states"], "Model": []}
"""The stages behind the encoder, by how the class's name ends."""

Array = NDArray[Any]


def loaded(output: Path, kind: Any) -> Any:
    model, info = kind.from_pretrained(output, output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def model_of(output: Path) -> Any:
    (kind,) = json.loads((output / "config.json").read_bytes())["architectures"]
    return loaded(output, getattr(transformers, kind))


def relative_error(found: torch.Tensor, expected: Array) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found.double().numpy() - expected.astype(np.float64)) / np.linalg.norm(expected))


def inputs(arrays: dict[str, Array], clips: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    for index in range(clips):
        yield f"clip{index}", {"input_values": torch.from_numpy(arrays[f"clip{index}/input"])[None]}
    yield (
        "batch",
        {
            "input_values": torch.from_numpy(arrays["batch/input"]),
            "attention_mask": torch.from_numpy(~arrays["batch/padding_mask"]).long(),
        },
    )


def keep_fairseqs_frames(model: Any, padding_mask: Array) -> None:
    """Move the mask of a HuBERT: fairseq's keeps up to two frames more than the formula of lengths gives."""
    kept = torch.from_numpy(~padding_mask)
    model.base_model._get_feature_vector_attention_mask = lambda *_frames_and_mask: kept


def computed(model: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every stage, by the names that the recordings have."""
    stages: dict[str, torch.Tensor] = {}
    base = model.base_model

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            stages[name] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    def keep_input(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        stages["hidden_states/0"] = (args[0] if args else kwargs["hidden_states"]).clone()

    layers = base.encoder.layers
    handles = [layer.register_forward_hook(keep(f"hidden_states/{k}")) for k, layer in enumerate(layers, start=1)]
    handles.append(layers[0].register_forward_pre_hook(keep_input, with_kwargs=True))
    handles.append(base.feature_projection.layer_norm.register_forward_hook(keep("features")))
    handles.append(base.encoder.register_forward_hook(keep("encoder_out")))
    with torch.no_grad():
        output = model(**values)
    for handle in handles:
        handle.remove()
    for name in ("logits", "projected_states", "projected_quantized_states"):
        if name in output:
            stages[name] = output[name]
    return stages


def compared_states(model: Any, layers: int) -> list[tuple[str, str]]:
    """fairseq's hidden states and transformers' that are the same.

    A post-norm conformer has one layer more in transformers, in front, and its last state lacks its norm.
    """
    more = model.config.num_hidden_layers - layers
    assert more in (0, 1)
    return [(f"hidden_states/{k}", f"hidden_states/{k + more}") for k in range(layers + 1 - more)]


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_every_stage_equals_what_fairseq_recorded_for_single_clips_and_a_padded_batch(
    name: str, converted: Callable[[str], Path]
) -> None:
    arrays = recorded(name)
    clips = len(recorded_facts(name)["clips"])
    model = model_of(converted(name))
    states = compared_states(model, sum(key.startswith("clip0/hidden_states/") for key in arrays) - 1)
    head = next(stages for ending, stages in HEADS.items() if type(model).__name__.endswith(ending))
    for part, values in inputs(arrays, clips):
        if part == "batch" and model.config.model_type == "hubert":
            keep_fairseqs_frames(model, arrays["batch/frames_padding_mask"])
        stages = computed(model, values)
        assert set(head) <= set(stages)
        for stage, layer in (*((same, same) for same in ("features", "encoder_out", *head)), *states):
            expected = arrays[f"{part}/{stage}"]
            found = stages[layer] if part == "batch" else stages[layer][0]
            assert relative_error(found, expected) < BOUND, (part, stage)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_encoder_alone_equals_what_fairseq_recorded(name: str, tmp_path: Path) -> None:
    w2vc.convert(FIXTURES / name / "checkpoint.pt", tmp_path / "encoder", head="none", **options(name))
    model = loaded(tmp_path / "encoder", transformers.AutoModel)
    arrays = recorded(name)
    with torch.no_grad():
        found = model(torch.from_numpy(arrays["clip0/input"])[None]).last_hidden_state[0]
    assert relative_error(found, arrays["clip0/encoder_out"]) < BOUND


@pytest.mark.parametrize(
    "name", ["target_glu_pretraining", "deep_quantizer_pretraining", "unquantized_targets_pretraining"]
)
def test_a_model_whose_pretraining_head_is_refused_converts_exactly_without_it(name: str, tmp_path: Path) -> None:
    test_the_encoder_alone_equals_what_fairseq_recorded(name, tmp_path)


@pytest.mark.parametrize("name", CTC)
def test_the_pipeline_transcribes_to_the_greedy_decoding_of_fairseqs_logits(
    name: str, converted: Callable[[str], Path]
) -> None:
    facts = recorded_facts(name)
    recognise: Any = transformers.pipeline("automatic-speech-recognition", model=str(converted(name)), device="cpu")
    for spoken, expected in zip(facts["clips"], facts["transcripts"], strict=True):
        # fairseq/data/data_utils.py, post_process: what "letter" does to the symbols.
        assert recognise(clip(spoken))["text"] == expected.replace("|", " ").strip()


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_no_weight_is_lost_or_rounded(name: str, converted: Callable[[str], Path]) -> None:
    header = read_header(converted(name) / "model.safetensors")
    assert {entry["dtype"] for key, entry in header.items() if key != "__metadata__"} <= {"F32", "I64"}
