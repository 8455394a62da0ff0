"""Checkpoints of every era, fork and habit convert to what their plain-dict sibling converts to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import w2vc
from tests.conftest import FIXTURES
from w2vc.errors import UsageError

pytestmark = pytest.mark.whole

ERAS = FIXTURES / "eras"
SIBLINGS = ("plain_dict_ctc", "plain_dict_pretraining")
HALF = {"fp16_ctc": torch.float16, "bf16_ctc": torch.bfloat16}
# fairseq after 2023 and re-saved configs carry keys that the plain sibling hasn't; its weights are the same.
OTHERS = sorted(path.stem for path in ERAS.glob("*.pt") if path.stem not in SIBLINGS)


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("siblings")
    for name in SIBLINGS:
        w2vc.convert(ERAS / f"{name}.pt", folder / name)
    return {name.removeprefix("plain_dict_"): folder / name for name in SIBLINGS}


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy())


def config(output: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((output / "config.json").read_bytes())
    return values


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in HALF])
def test_each_era_converts_to_the_same_weights_bit_for_bit(
    name: str, siblings: dict[str, Path], tmp_path: Path
) -> None:
    sibling = siblings[name.rpartition("_")[2]]
    w2vc.convert(ERAS / f"{name}.pt", tmp_path / "out")
    ours, theirs = weights(tmp_path / "out"), weights(sibling)
    assert ours.keys() == theirs.keys()
    for tensor in theirs:
        assert bits(ours[tensor]) == bits(theirs[tensor]), tensor
    assert config(tmp_path / "out") == config(sibling)
    for file in ("vocab.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (sibling / file).exists():
            assert (tmp_path / "out" / file).read_bytes() == (sibling / file).read_bytes()


@pytest.mark.parametrize("name", HALF)
def test_a_half_precision_model_converts_to_the_float32_that_fairseq_loads(
    name: str, siblings: dict[str, Path], tmp_path: Path
) -> None:
    w2vc.convert(ERAS / f"{name}.pt", tmp_path / "out")
    ours = weights(tmp_path / "out")
    for tensor, theirs in weights(siblings["ctc"]).items():
        rounded = theirs.to(HALF[name]).float() if theirs.is_floating_point() else theirs
        assert ours[tensor].dtype == theirs.dtype
        assert bits(ours[tensor]) == bits(rounded), tensor


@pytest.mark.parametrize("name", HALF)
def test_keep_keeps_half_precision(name: str, siblings: dict[str, Path], tmp_path: Path) -> None:
    w2vc.convert(ERAS / f"{name}.pt", tmp_path / "out", dtype="keep")
    ours = weights(tmp_path / "out")
    for tensor, theirs in weights(siblings["ctc"]).items():
        kept = theirs.to(HALF[name]) if theirs.is_floating_point() else theirs
        assert bits(ours[tensor]) == bits(kept), tensor
    assert config(tmp_path / "out")["torch_dtype"] == str(HALF[name]).removeprefix("torch.")


def test_ema_weights_are_converted_when_asked_for(siblings: dict[str, Path], tmp_path: Path) -> None:
    w2vc.convert(ERAS / "ema_ctc.pt", tmp_path / "ema", ema=True)
    saved: Any = torch.load(
        ERAS / "ema_ctc.pt", weights_only=False, pickle_module=_without_fairseq()
    )  # our own file, whose dictionary class isn't here
    averaged = saved["extra_state"]["ema"]
    name = "encoder.layers.0.ffn1.w_1.weight"
    ours = weights(tmp_path / "ema")["wav2vec2_conformer.encoder.layers.0.ffn1.intermediate_dense.weight"]
    assert torch.equal(ours, averaged[f"w2v_encoder.w2v_model.{name}"])
    assert not torch.equal(
        ours, weights(siblings["ctc"])["wav2vec2_conformer.encoder.layers.0.ffn1.intermediate_dense.weight"]
    )


def _without_fairseq() -> Any:
    import pickle
    import types

    class Anything:
        def __setstate__(self, _state: object) -> None:
            pass

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return Anything if module.startswith("fairseq") else super().find_class(module, name)

    return types.SimpleNamespace(
        Unpickler=Unpickler, load=pickle.load, __name__="pickle", HIGHEST_PROTOCOL=pickle.HIGHEST_PROTOCOL
    )


def test_ema_weights_that_are_not_there_are_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no EMA weights"):
        w2vc.convert(ERAS / "plain_dict_ctc.pt", tmp_path / "out", ema=True)


def test_the_legacy_format_is_read_without_its_tensors_being_loaded(tmp_path: Path) -> None:
    w2vc.convert(ERAS / "legacy_format_ctc.pt", tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"
