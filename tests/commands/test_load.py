"""``w2vc.load`` gives transformers' own objects; ``inspect --keys`` says what becomes of every key."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import w2vc
from tests.conftest import checkpoint, recorded
from w2vc.errors import UnsupportedModelError

pytestmark = pytest.mark.whole


@pytest.mark.parametrize("name", ["relative_ctc", "wav2vec2_base_ctc", "hubert"])
def test_a_loaded_model_computes_what_fairseq_computed_and_no_directory_is_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, processor = w2vc.load(checkpoint(name))
    assert not list(tmp_path.glob("w2vc-*"))
    assert (processor is None) == (not name.endswith("_ctc"))
    arrays = recorded(name)
    with torch.no_grad():
        found = model.base_model(torch.from_numpy(arrays["clip0/input"])[None]).last_hidden_state[0]
    expected = torch.from_numpy(arrays["clip0/encoder_out"])
    assert float((found - expected).norm() / expected.norm()) < 2e-6


def test_options_and_refusals_are_those_of_a_conversion() -> None:
    model, _ = w2vc.load(checkpoint("relative_pretraining"), head="none", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert type(model).__name__ == "Wav2Vec2ConformerModel"
    with pytest.raises(UnsupportedModelError):
        w2vc.load(checkpoint("absolute_positions_pretraining"))


def test_models_loaded_by_four_threads_at_once_have_all_their_weights() -> None:
    names = ["relative_ctc", "wav2vec2_base_ctc", "hubert", "data2vec_audio"]
    start = threading.Barrier(len(names))

    def load(name: str) -> list[str]:
        start.wait()
        model, _ = w2vc.load(checkpoint(name))
        expected = torch.from_numpy(recorded(name)["clip0/encoder_out"])
        with torch.no_grad():
            found = model.base_model(torch.from_numpy(recorded(name)["clip0/input"])[None]).last_hidden_state[0]
        assert float((found - expected).norm() / expected.norm()) < 2e-6
        return [key for key, tensor in model.state_dict().items() if tensor.is_meta]

    with ThreadPoolExecutor(len(names)) as pool:
        for _ in range(3):
            assert list(pool.map(load, names)) == [[], [], [], []]


def test_keys_are_listed_with_their_value_and_what_becomes_of_them() -> None:
    values: Any = w2vc.inspect(checkpoint("relative_ctc"), keys=True).values()["keys"]
    keys = {key["path"]: key for key in values}
    layers = keys["model.w2v_args.model.encoder_layers"]
    assert (layers["value"], layers["becomes"]) == (2, "num_hidden_layers (by the tensors)")
    assert keys["model.w2v_args.model.activation_fn"]["why"] == "conformer layers use swish whatever it says"
    assert keys["model.w2v_args.model.conv_feature_layers"]["value"][0] == [12, 10, 5]
    assert keys["task.normalize"]["value"] is True
