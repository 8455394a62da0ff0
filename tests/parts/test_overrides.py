"""``--config``: training and decoding may be chosen, what the checkpoint decides may not be contradicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import w2vc
from tests.conftest import checkpoint
from w2vc.errors import InconsistentError, UsageError


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Path]:
    def write(**values: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_type": "wav2vec2-conformer", **values}), encoding="utf-8")
        return path

    return write


def config(output: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((output / "config.json").read_bytes())
    return values


def test_values_of_training_and_decoding_are_taken(given: Callable[..., Path], tmp_path: Path) -> None:
    path = given(hidden_dropout=0.3, mask_time_length=4, ctc_loss_reduction="mean", tdnn_dim=[5, 6])
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", config=path)
    found = config(tmp_path / "out")
    assert (found["hidden_dropout"], found["mask_time_length"], found["ctc_loss_reduction"]) == (0.3, 4, "mean")
    assert found["tdnn_dim"] == [5, 6]


def test_mask_probabilities_decide_whether_there_is_a_mask_embedding(
    given: Callable[..., Path], tmp_path: Path
) -> None:
    path = given(mask_time_prob=0.0, mask_feature_prob=0.0)
    report = w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", config=path)
    assert [drop.source.name for drop in report.plan.drops] == ["w2v_encoder.w2v_model.mask_emb"]


def test_every_contradiction_is_named_with_both_values(given: Callable[..., Path], tmp_path: Path) -> None:
    path = given(hidden_size=999, position_embeddings_type="rotary", vocab_size=7)
    with pytest.raises(InconsistentError) as caught:
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", config=path)
    assert [problem.split()[2] for problem in caught.value.problems] == [
        "hidden_size",
        "position_embeddings_type",
        "vocab_size",
    ]
    assert "999" in caught.value.problems[0]
    assert "20" in caught.value.problems[0]
    assert not (tmp_path / "out").exists()


def test_a_config_that_transformers_itself_wrote_for_the_output_is_taken(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers

    transformers.AutoConfig.from_pretrained(converted("rotary_ctc")).save_pretrained(tmp_path)
    w2vc.convert(checkpoint("rotary_ctc"), tmp_path / "out", config=tmp_path / "config.json")
    ours, theirs = config(tmp_path / "out"), config(converted("rotary_ctc"))
    assert {key: ours[key] for key in theirs} == theirs


def test_the_nearest_name_is_suggested_for_an_unknown_one(given: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hidden_droput.*did you mean hidden_dropout"):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", config=given(hidden_droput=0.1))


@pytest.mark.parametrize("contents", [b"", b"[]", b'{"model_type": "wav2vec2"}', b"{", b"\xff"])
def test_a_file_that_is_no_conformers_config_is_wrong_usage(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(contents)
    with pytest.raises(UsageError):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", config=path)
