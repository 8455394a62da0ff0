"""What holds for every conversion, whatever the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import w2vc
from tests.conftest import CONVERTIBLE, FIXTURES, checkpoint, options

pytestmark = pytest.mark.whole


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_two_conversions_are_byte_identical(name: str, converted: Callable[[str], Path], tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "again", **options(name))
    assert contents(tmp_path / "again") == contents(converted(name))


@pytest.mark.parametrize("new_name", ["rope.pt", "model", "rel_pos-shard0.pt.old"])
def test_the_files_name_decides_nothing(new_name: str, converted: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(checkpoint("relative_ctc"), tmp_path / new_name)
    w2vc.convert(tmp_path / new_name, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(converted("relative_ctc"))


def test_the_dictionary_next_to_the_checkpoint_is_found(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "eras" / "namespace_ctc.pt", tmp_path / "model.pt")
    shutil.copy(FIXTURES / "eras" / "dict.ltr.txt", tmp_path / "dict.ltr.txt")
    found = w2vc.convert(tmp_path / "model.pt", tmp_path / "out")
    assert found.dictionary == str(tmp_path / "dict.ltr.txt")


def test_the_checkpoint_is_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    shutil.copy(checkpoint("relative_ctc"), path)
    before = path.read_bytes()
    path.chmod(0o400)
    w2vc.convert(path, tmp_path / "out")
    assert path.read_bytes() == before


def test_a_kept_half_precision_model_is_exact_though_its_frequencies_are_widened(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    saved = torch.load(checkpoint("rotary_pretraining"), weights_only=True)
    halves = {name: tensor.half() for name, tensor in saved["model"].items() if tensor.is_floating_point()}
    torch.save({**saved, "model": {**saved["model"], **halves}}, tmp_path / "half.pt")
    report = w2vc.convert(tmp_path / "half.pt", tmp_path / "out", dtype="keep")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert report.values()["exact"] is True
    frequencies = next(
        tensor for name, tensor in halves.items() if name.endswith("layers.0.self_attn.rotary_emb.inv_freq")
    )
    assert torch.equal(weights["wav2vec2_conformer.encoder.embed_positions.inv_freq"], frequencies.float())
    assert weights["project_q.weight"].dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_a_cast_of_each_weight_and_of_nothing_else(dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    w2vc.convert(checkpoint("rotary_ctc"), tmp_path / "whole")
    report = w2vc.convert(checkpoint("rotary_ctc"), tmp_path / "half", dtype=dtype)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert report.values()["exact"] is False
    for name, tensor in whole.items():
        kept = name.endswith(("inv_freq", "num_batches_tracked"))
        assert torch.equal(half[name], tensor if kept else tensor.to(getattr(torch, dtype))), name
