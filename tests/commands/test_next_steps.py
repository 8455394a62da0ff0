"""What the README and the model card say to do next works with what was converted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import FINE_TUNED, PRETRAINED, clip
from tests.support.readme import ROOT

pytestmark = pytest.mark.whole


def recogniser(output: Path, **options: Any) -> Any:
    recognise: Any = transformers.pipeline("automatic-speech-recognition", model=str(output), device="cpu", **options)
    return recognise


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_pipeline_in_half_precision_computes_nearly_the_same(name: str, converted: Callable[[str], Path]) -> None:
    half, whole = recogniser(converted(name), dtype="bfloat16").model, recogniser(converted(name)).model
    assert half.dtype == torch.bfloat16
    values = torch.from_numpy(clip("cat"))[None]
    with torch.no_grad():
        found, expected = half(values.bfloat16()).logits.float(), whole(values).logits
    assert 0 < torch.linalg.norm(found - expected) / torch.linalg.norm(expected) < 0.05


@pytest.mark.parametrize("name", FINE_TUNED)
def test_long_audio_is_recognised_in_pieces(name: str, converted: Callable[[str], Path]) -> None:
    recognise = recogniser(converted(name))
    short, whole = clip("cat"), np.concatenate([clip(name) for name in ("cat", "home", "books", "soon", "thanks")])
    assert recognise(short, chunk_length_s=30)["text"] == recognise(short)["text"]
    sizes: list[int] = []
    recognise.model.base_model.register_forward_pre_hook(
        lambda _model, args, kwargs: sizes.append((args[0] if args else kwargs["input_values"]).shape[-1]),
        with_kwargs=True,
    )
    assert recognise(whole, chunk_length_s=2)["text"]
    assert len(sizes) > 1
    assert max(sizes) == 2 * 16_000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in FINE_TUNED),
        *((name, {"vocab_size": 20, "ignore_mismatched_sizes": True}) for name in FINE_TUNED),
        *((name, {"vocab_size": 20}) for name in PRETRAINED),
    ],
)
def test_a_step_of_training_lowers_the_loss(
    name: str, options: dict[str, Any], converted: Callable[[str], Path]
) -> None:
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCTC.from_pretrained(converted(name), pad_token_id=0, **options)
    model.eval()  # without dropout, so that both losses are of the same model
    values, labels = torch.from_numpy(clip("home"))[None], torch.tensor([[5, 6, 7]])
    before = model(values, labels=labels).loss
    before.backward()
    torch.optim.SGD(model.parameters(), 1e-4).step()
    with torch.no_grad():
        assert model(values, labels=labels).loss < before


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_directory_gets_a_processor_from_a_vocabulary(
    name: str, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    library: Any = transformers  # which has no types for these
    # It raises one of several errors, or gives the feature extractor alone.
    found: Any = None
    with contextlib.suppress(TypeError, OSError, ValueError, ImportError):
        found = library.AutoProcessor.from_pretrained(converted(name))
    assert not hasattr(found, "tokenizer")
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3}), encoding="utf-8")
    tokenizer = library.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = library.AutoFeatureExtractor.from_pretrained(converted(name))
    processor = library.Wav2Vec2Processor(extractor, tokenizer)
    assert processor(clip("cat"), sampling_rate=16_000, return_tensors="pt").input_values.ndim == 2
    assert processor.decode([3, 3, 2, 3, 0]) == "A A"


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_model_runs_in_half_precision(name: str, converted: Callable[[str], Path]) -> None:
    model: Any = transformers.AutoModel.from_pretrained(converted(name), dtype="bfloat16").eval()
    with torch.no_grad():
        found = model(torch.from_numpy(clip("cat"))[None].bfloat16()).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_the_command_for_an_upload_is_there() -> None:
    hf = Path(sysconfig.get_path("scripts")) / "hf"
    shown = subprocess.run([hf, "upload", "--help"], capture_output=True, text=True, check=True)  # noqa: S603 - it shows its help
    assert "LOCAL_PATH" in shown.stdout.upper()


@pytest.mark.parametrize(
    "words", ['dtype="bfloat16"', "chunk_length_s=30", "accelerate", "dynamo=True", "hf upload", "AutoProcessor"]
)
def test_the_readme_and_some_model_card_name_each_step(words: str, converted: Callable[[str], Path]) -> None:
    cards = [(converted(name) / "README.md").read_text(encoding="utf-8") for name in ("relative_ctc", "hubert")]
    assert any(words in card for card in cards)
    assert words in (ROOT / "README.md").read_text(encoding="utf-8")
