"""A HuBERT with its projection, as voice conversion loads and uses it, gives what fairseq gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import w2vc
from tests.conftest import checkpoint, recorded
from tests.promises.test_parity import BOUND, keep_fairseqs_frames, relative_error
from w2vc.errors import InconsistentError, UsageError
from w2vc.writing.safetensors_file import read_header

pytestmark = pytest.mark.whole


class HubertModelWithFinalProj(transformers.HubertModel):  # type: ignore[no-untyped-call]  # transformers' own hook
    """Written as those tools write it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.final_proj = torch.nn.Linear(config.hidden_size, config.classifier_proj_size)


def loaded(output: Path) -> Any:
    kind: Any = HubertModelWithFinalProj
    model, info = kind.from_pretrained(output, output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def test_layer_9_through_the_projection_and_layer_12_are_fairseqs(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("hubert_twelve_layers"), tmp_path / "out", head="projection")
    model, arrays = loaded(tmp_path / "out"), recorded("hubert_twelve_layers")
    for part in ("clip0", "clip1", "batch"):
        values = {"input_values": torch.from_numpy(arrays[f"{part}/input"])}
        if part == "batch":
            values["attention_mask"] = torch.from_numpy(~arrays["batch/padding_mask"]).long()
            keep_fairseqs_frames(model, arrays["batch/frames_padding_mask"])
        else:
            values["input_values"] = values["input_values"][None]
        with torch.no_grad():
            output = model(**values, output_hidden_states=True)
            v1, v2 = model.final_proj(output.hidden_states[9]), output.last_hidden_state
            found = {"layer9_projected": v1, "layer12": v2, "projected_states": model.final_proj(v2)}
        for stage, tensor in found.items():
            expected = arrays[f"{part}/{stage}"]
            assert relative_error(tensor if part == "batch" else tensor[0], expected) < BOUND, (part, stage)


def test_a_batch_with_the_formulas_mask_differs_which_is_why_the_card_says_so(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("hubert_twelve_layers"), tmp_path / "out", head="projection")
    model, arrays = loaded(tmp_path / "out"), recorded("hubert_twelve_layers")
    mask = torch.from_numpy(~arrays["batch/padding_mask"]).long()
    with torch.no_grad():
        output = model(torch.from_numpy(arrays["batch/input"]), attention_mask=mask)
    assert relative_error(output.last_hidden_state, arrays["batch/layer12"]) > 1e-3


@pytest.mark.parametrize(
    ("name", "width"),
    [("hubert", 18), ("hubert_two_label_sets", 36), ("hubert_two_label_sets_tied", 18), ("hubert_target_glu", 18)],
)
def test_the_projection_is_as_wide_as_all_label_sets_need(name: str, width: int, tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "out", head="projection")
    model, arrays = loaded(tmp_path / "out"), recorded(name)
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["classifier_proj_size"] == width == model.final_proj.out_features
    with torch.no_grad():
        found = model.final_proj(model(torch.from_numpy(arrays["clip0/input"])[None]).last_hidden_state)[0]
    assert relative_error(found, arrays["clip0/projected_states"]) < BOUND


def test_stock_transformers_loads_the_same_directory_without_the_projection(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("hubert"), tmp_path / "out", head="projection")
    w2vc.convert(checkpoint("hubert"), tmp_path / "alone")
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model, transformers.HubertModel)
    assert set(info["unexpected_keys"]) == {"final_proj.weight", "final_proj.bias"}
    assert not info["missing_keys"]
    ours, alone = (read_header(tmp_path / name / "model.safetensors").keys() for name in ("out", "alone"))
    assert ours - alone == {"final_proj.weight", "final_proj.bias"}


@pytest.mark.parametrize("name", ["hubert_ctc", "wav2vec2_base_pretraining", "data2vec_audio", "relative_ctc"])
def test_there_is_no_projection_but_a_pretrained_huberts(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--head is projection, which this checkpoint hasn't got"):
        w2vc.convert(checkpoint(name), tmp_path / "out", head="projection")


def test_a_config_may_choose_the_width_of_a_classifier_where_no_projection_is_kept(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "hubert", "classifier_proj_size": 77}))
    w2vc.convert(checkpoint("hubert"), tmp_path / "out", config=config)
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["classifier_proj_size"] == 77
    with pytest.raises(InconsistentError, match="classifier_proj_size"):
        w2vc.convert(checkpoint("hubert"), tmp_path / "other", head="projection", config=config)


def test_verify_takes_the_projection_for_what_it_is_and_finds_a_changed_one(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("hubert"), tmp_path / "out", head="projection")
    verified = w2vc.verify(checkpoint("hubert"), tmp_path / "out")
    assert verified.same
    assert any("mask of frames" in note for note in verified.notes)
    weights = tmp_path / "out" / "model.safetensors"
    tensors = load_file(weights)
    tensors["final_proj.bias"][3] += 1
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, weights, metadata)
    found = w2vc.verify(checkpoint("hubert"), tmp_path / "out").findings
    assert any("final_proj.bias" in finding.where for finding in found), found
