"""What every test shares: the checkpoints that real fairseq wrote, and each of them converted once."""

from __future__ import annotations

import json
import os
import signal
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

# No test needs a network, and none may quietly use one.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

import w2vc

# A script's background jobs ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(__file__).parent.parent / "fixtures"

PRETRAINED = ("relative_pretraining", "wav2vec2_base_pretraining", "hubert", "data2vec_audio")
FINE_TUNED = ("relative_ctc", "wav2vec2_large_ctc", "hubert_ctc", "data2vec_ctc")
EXAMPLES = (*PRETRAINED, *FINE_TUNED)
"""A pretrained and a fine-tuned checkpoint of each family."""

REFUSED = {
    "absolute_positions_pretraining",
    "contentvec_training",
    "cropped_ctc",
    "data2vec_group_norm",
    "data2vec_multi",
    "data2vec_pre_norm",
    "deep_quantizer_pretraining",
    "espnet_absolute_pretraining",
    "hubert_conformer",
    "mms_gelu_ctc",
    "mms_post_norm_ctc",
    "quantized_input_pretraining",
    "target_glu_pretraining",
    "unquantized_targets_pretraining",
    "wav2vec2_cropped_ctc",
    "wav2vec2_deep_group_norm_pretraining",
    "wav2vec2_deep_pre_norm_pretraining",
    "wav2vec2_deep_quantizer_pretraining",
    "wav2vec2_quantized_input_pretraining",
    "wav2vec2_target_glu_pretraining",
    "wav2vec2_unquantized_targets_pretraining",
    "wav2vec_seq2seq",
}
"""The fixtures that no conversion with their own head can express."""

STRANGERS = {"contentvec_training", "data2vec_multi", "hubert_conformer", "wav2vec_seq2seq"}
"""The refused ones that are of no family."""

UNRECORDED = {"mms_unnamed_languages_ctc"}
"""The convertible fixtures that nothing was recorded of: another one's weights, which a test compares."""

EVERY = sorted(path.parent.name for path in FIXTURES.glob("*/checkpoint.pt"))
CONVERTIBLE = [name for name in EVERY if name not in REFUSED | UNRECORDED]


def checkpoint(name: str) -> Path:
    """The checkpoint of a fixture."""
    return FIXTURES / name / "checkpoint.pt"


def options(name: str) -> dict[str, Any]:
    """What a fixture needs to be converted: the pretrained checkpoint, where it doesn't carry its architecture."""
    pretrained = FIXTURES / name / "pretrained.pt"
    return {"pretrained": pretrained} if pretrained.exists() else {}


def clip(name: str) -> np.typing.NDArray[np.float32]:
    """The samples of a recorded clip, between -1 and 1, at 16 kHz."""
    with wave.open(str(FIXTURES / "speech" / f"{name}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return np.divide(samples, 32768, dtype=np.float32)


def recorded(name: str) -> dict[str, Any]:
    """What real fairseq computed: arrays by name."""
    with np.load(FIXTURES / name / "recorded.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def recorded_facts(name: str) -> dict[str, Any]:
    """What else was recorded: transcripts, symbols, how it was made."""
    facts: dict[str, Any] = json.loads((FIXTURES / name / "recorded.json").read_text(encoding="utf-8"))
    return facts


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a fixture's directory, converted with the defaults; don't write there."""
    outputs: dict[str, Path] = {}

    def output(name: str) -> Path:
        if name not in outputs:
            outputs[name] = tmp_path_factory.mktemp("converted") / name
            w2vc.convert(checkpoint(name), outputs[name], **options(name))
        return outputs[name]

    return output


@pytest.fixture
def saved_without() -> Callable[[str, str, Path], Path]:
    """Saves a fixture's checkpoint again without one of its tensors."""

    def save(name: str, missing: str, path: Path) -> Path:
        import torch

        from w2vc.reading.checkpoint import read_checkpoint

        assert missing in read_checkpoint(checkpoint(name)).tensors
        dictionary = type("Dictionary", (), {})
        with torch.serialization.safe_globals([(dictionary, "fairseq.data.dictionary.Dictionary")]):
            saved = torch.load(checkpoint(name), weights_only=True)
        model = {key: tensor for key, tensor in saved["model"].items() if key != missing}
        torch.save({"cfg": saved["cfg"], "model": model}, path)
        return path

    return save


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 32 MB, so that many moments fall into the copying; don't write there."""
    from tests.support.wide import write_wide_checkpoint  # which imports this module

    path = tmp_path_factory.mktemp("large") / "checkpoint.pt"
    write_wide_checkpoint(path)
    return path


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what is whole out of the quick loop."""
    for item in items:
        if item.get_closest_marker("whole") is not None:
            item.add_marker("slow")
