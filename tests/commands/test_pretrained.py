"""A fine-tuned model whose architecture stands in its pretrained checkpoint: refused without it, exact with it."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import w2vc
from tests.conftest import FIXTURES, checkpoint
from w2vc.batching.batch import batch
from w2vc.command.app import app
from w2vc.command.exit_codes import exit_code
from w2vc.errors import InconsistentError, UsageError, W2vcError
from w2vc.options import Options
from w2vc.planning.provenance import find_record, is_made_from
from w2vc.verifying.comparison import verify

pytestmark = pytest.mark.whole

NAME = "hubert_own_recipe_ctc"
PRETRAINED = FIXTURES / NAME / "pretrained.pt"


def refusal(name: str, pretrained: Path | None, output: Path) -> W2vcError:
    with pytest.raises(W2vcError) as caught:
        w2vc.convert(checkpoint(name), output, pretrained=pretrained)
    assert not output.exists()
    return caught.value


def test_without_it_the_option_and_the_files_name_are_told_and_nothing_is_guessed(tmp_path: Path) -> None:
    error = refusal(NAME, None, tmp_path / "out")
    assert exit_code(error) == 4
    assert "own_recipe_pretraining.pt" in error.problems[0]
    # The rest of the path is the author's own.
    assert "perturbed" not in str(error)
    assert error.advice == "Give that checkpoint with --pretrained CHECKPOINT."
    with pytest.raises(InconsistentError, match=r"own_recipe_pretraining\.pt"):
        w2vc.inspect(checkpoint(NAME))


def test_the_architecture_comes_from_there(tmp_path: Path) -> None:
    w2vc.convert(checkpoint(NAME), tmp_path / "out", pretrained=PRETRAINED)
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["num_attention_heads"] == 5
    assert config["do_stable_layer_norm"] is True
    assert config["hidden_act"] == "gelu_new"
    assert config["conv_stride"][0] == 2
    # What fine-tuning has of its own is not the pretrained one's.
    assert (config["hidden_dropout"], config["mask_time_prob"]) == (0.16, 0.43)


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    arguments = ["convert", str(checkpoint(NAME)), str(tmp_path / "out"), "--pretrained", str(PRETRAINED)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    inspected = CliRunner().invoke(app, ["inspect", str(checkpoint(NAME)), "--pretrained", str(PRETRAINED)])
    assert "exactly, to HubertForCTC" in inspected.stdout


def test_sizes_of_another_are_problems_and_all_are_told(tmp_path: Path) -> None:
    error = refusal(NAME, checkpoint("hubert_twelve_layers"), tmp_path / "out")
    assert exit_code(error) == 4
    said = "; ".join(error.problems)
    for key in ("encoder_layers is 12, the tensors say 2", "encoder_embed_dim is 16", "encoder_ffn_embed_dim is 20"):
        assert key in said, said
    assert "--pretrained" in error.advice


def test_a_single_size_that_differs_is_a_problem(tmp_path: Path) -> None:
    # Of the same sizes, but for one that the tensors show.
    error = refusal(NAME, changed(tmp_path / "pretrained.pt", conv_pos=8), tmp_path / "out")
    assert "conv_pos is 8, the tensors say 6" in error.problems[0]


@pytest.mark.parametrize(
    ("other", "what"),
    [("wav2vec2_base_pretraining", "a pretrained wav2vec2"), ("hubert_ctc", "a fine-tuned hubert")],
)
def test_another_kind_of_checkpoint_is_refused(other: str, what: str, tmp_path: Path) -> None:
    error = refusal(NAME, checkpoint(other), tmp_path / "out")
    assert exit_code(error) == 4
    assert f"is {what}, and" in error.problems[0], error.problems


def test_another_normalization_is_refused_as_fairseq_refuses_it(tmp_path: Path) -> None:
    error = refusal(NAME, changed(tmp_path / "pretrained.pt", section="task", normalize=True), tmp_path / "out")
    assert "normalize" in error.problems[0]


@pytest.mark.parametrize("name", ["hubert", "hubert_ctc", "relative_ctc", "relative_pretraining"])
def test_where_it_is_not_needed_it_is_not_taken(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries its architecture itself"):
        w2vc.convert(checkpoint(name), tmp_path / "out", pretrained=PRETRAINED)


def test_provenance_names_both_and_a_batch_makes_it_again_with_another(tmp_path: Path) -> None:
    own, other = tmp_path / "pretrained.pt", tmp_path / "other.pt"
    shutil.copy(PRETRAINED, own)
    changed(other, dropout=0.3)
    conversion = w2vc.convert(checkpoint(NAME), tmp_path / "out", pretrained=own)
    found = find_record(tmp_path / "out")
    assert found is not None
    assert found.record.source_fingerprint == conversion.fingerprint
    assert found.record.pretrained not in ("", conversion.fingerprint)
    for pretrained, same in ((own, True), (other, False), (None, False), (tmp_path / "none.pt", False)):
        options = Options(pretrained=pretrained)
        assert is_made_from(found.record, conversion.fingerprint, checkpoint(NAME), options) == same, pretrained


def test_a_batch_takes_it_for_all_and_from_a_manifests_column(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    rows = [f"{checkpoint(NAME)},fine-tuned,{PRETRAINED}", f"{checkpoint('hubert')},hubert,"]
    manifest.write_text("\n".join(["checkpoint,output,pretrained", *rows]) + "\n")
    with ThreadPoolExecutor(1) as executor:
        summary = batch([manifest], tmp_path / "out", executor=executor)
        again = batch([manifest], tmp_path / "out", executor=executor)
    assert [result.status for result in summary.results] == ["converted"] * 2, summary
    assert [result.status for result in again.results] == ["skipped"] * 2, again
    assert verify(checkpoint(NAME), tmp_path / "out" / "fine-tuned", pretrained=PRETRAINED).same


def changed(path: Path, section: str = "model", **values: object) -> Path:
    """Save the pretrained checkpoint again, with other values in its cfg."""
    dictionary = type("Dictionary", (), {})
    with torch.serialization.safe_globals([(dictionary, "fairseq.data.dictionary.Dictionary")]):
        saved = torch.load(PRETRAINED, weights_only=True)
    cfg = {**saved["cfg"], section: {**saved["cfg"][section], **values}}
    torch.save({"cfg": cfg, "model": saved["model"]}, path)
    return path
