"""The benchmark's checkpoints stay what conversions take, and what its measurements say stays true."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import w2vc
from tests.bench.make_checkpoints import CHECKPOINTS, Sizes, is_made, made, make, names, shape_of
from tests.bench.measure import measured
from tests.conftest import FIXTURES, checkpoint
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint

pytestmark = pytest.mark.whole

TINY = Sizes("relative_pretraining", layers=2, embed=32, ffn=48, heads=2, conv=12, final=18, kernel=9, conv_pos=6)


def model_of(found: Checkpoint) -> dict[str, object]:
    section = found.cfg["model"]
    assert isinstance(section, dict)
    return section


@pytest.mark.parametrize(
    "fixture",
    [
        *("relative_pretraining", "rotary_pretraining", "rotary_ctc"),
        *("wav2vec2_base_pretraining", "plain_wav2vec2_pretraining", "wav2vec2_large_ctc"),
    ],
)
def test_a_made_checkpoint_converts_as_the_fixture_does(fixture: str, tmp_path: Path) -> None:
    path = tmp_path / "made.pt"
    make(path, replace(TINY, fixture=fixture))
    ours, fairseqs = read_checkpoint(path), read_checkpoint(checkpoint(fixture))
    assert list(ours.tensors) == list(fairseqs.tensors)
    assert model_of(ours).keys() == model_of(fairseqs).keys()
    report = w2vc.convert(path, tmp_path / "out", dictionary=FIXTURES / fixture if "ctc" in fixture else None)
    assert report.values()["exact"] is True


def test_a_made_checkpoint_of_many_languages_has_an_adapter_and_a_dictionary_for_each(tmp_path: Path) -> None:
    path, sizes = (
        tmp_path / "made.pt",
        replace(TINY, fixture="mms_released_ctc", adapter=4, languages=5, symbols=40, optimizer=False),
    )
    make(path, sizes)
    assert is_made(path, sizes)
    report = w2vc.convert(path, tmp_path / "out", language="aad")
    assert report.values()["exact"] is True
    written = sorted(file.name for file in (tmp_path / "out").glob("adapter.*.safetensors"))
    assert written == [f"adapter.aa{letter}.safetensors" for letter in "abcde"]


def test_the_optimizers_state_is_twice_the_parameters(tmp_path: Path) -> None:
    path = tmp_path / "made.pt"
    make(path, TINY)
    found = read_checkpoint(path)
    trained = [tensor for name, tensor in found.tensors.items() if ".running_" not in name and "num_batch" not in name]
    # The fixture has no optimizer's state, but a few bytes that belong to the metrics.
    beside = read_checkpoint(checkpoint("relative_pretraining")).optimizer_bytes
    assert found.optimizer_bytes - beside == 2 * sum(tensor.nbytes for tensor in trained)


def test_the_large_model_has_the_published_size() -> None:
    sizes = CHECKPOINTS["relative_large"]
    large = {name: shape_of(name, sizes) for name in names(sizes)}
    assert large["encoder.layers.23.ffn2.w_1.weight"] == (4096, 1024)
    assert large["encoder.pos_conv.0.weight_v"] == (1024, 64, 128)
    assert large["quantizer.vars"] == (1, 640, 384)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("wav2vec2_base", 95.0), ("xlsr_300m", 317.4), ("xlsr_1b", 965.3), ("xlsr_2b", 2162.0)],
)
def test_the_models_with_transformer_layers_have_their_published_sizes(name: str, parameters: float) -> None:
    sizes = CHECKPOINTS[name]
    count = sum(math.prod(shape_of(tensor, sizes)) for tensor in names(sizes))
    assert count / 1e6 == pytest.approx(parameters, rel=5e-3)


def test_a_checkpoint_of_another_size_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKPOINTS, "tiny", TINY)
    path = made(tmp_path, "tiny")
    written = path.stat().st_mtime_ns
    assert made(tmp_path, "tiny").stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not is_made(path, TINY)
    assert is_made(made(tmp_path, "tiny"), TINY)


def test_a_measurement_counts_bytes_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(30_000_000))
    script = "import sys, time; kept = open(sys.argv[1], 'rb').read(); time.sleep(0.2); print(len(kept))"
    found = measured((sys.executable, "-c", script, tmp_path / "file"))
    assert found.output == "30000000\n"
    assert 30_000_000 <= found.read < 40_000_000
    assert found.wall >= 0.2
    assert found.peak > 30_000_000
    assert found.anonymous > 30_000_000


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="nothing good"):
        measured((sys.executable, "-c", "raise SystemExit('nothing good')"))
