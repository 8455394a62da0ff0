"""Verification: every good output is the same, and every mutation of one is found where it was made."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import w2vc
from tests.conftest import CONVERTIBLE, FIXTURES, checkpoint, options
from w2vc.errors import DamagedError, DictionaryError, DifferenceError, MissingError, UsageError
from w2vc.families.family import QUANTIZED, StageMap
from w2vc.families.shared.stages import stage_map
from w2vc.planning.processor import tokenizer_config, vocabulary
from w2vc.reading import checkpoint as reading
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary
from w2vc.reading.tensors import StateDict, read_state_dict
from w2vc.verifying import loading
from w2vc.verifying.compare_outputs import Pass, leave_out_near_ties, likeliest, model_stages
from w2vc.verifying.comparison import verify
from w2vc.verifying.probe_audio import built_in, read_recording
from w2vc.verifying.transformers_settings import quiet_transformers
from w2vc.verifying.verification import Finding, Verification

pytestmark = pytest.mark.whole

Converted = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]

LAYER = "wav2vec2_conformer.encoder.layers.0."
POS_CONV = "wav2vec2_conformer.encoder.pos_conv_embed.conv."
FILES = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"]


@pytest.fixture
def copy(converted: Converted, tmp_path: Path) -> Converted:
    """Gives a copy of a fixture's directory, to be changed."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(converted(name), tmp_path / name))

    return copied


def change_tensors(output: Path, change: Callable[[Tensors], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(output / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, output / "model.safetensors", {"format": "pt"})


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def places(verification: Verification) -> set[tuple[str, str]]:
    return {(finding.part, finding.where) for finding in verification.findings}


def found(verification: Verification, part: str, where: str) -> str:
    return next(item.found for item in verification.findings if (item.part, item.where) == (part, where))


# --- what is right is found to be right


def stages_of(name: str, config: dict[str, Any]) -> list[str]:
    """Return the stages that a fixture's verification has to compare, in their order."""
    layers = [f"encoder.layers.{index}" for index in range(config["num_hidden_layers"])]
    heads = {
        "ForCTC": ["logits"],
        "ForPreTraining": ["projected_states", "projected_quantized_states"],
        "Model": [],
    }
    head = next(stages for ending, stages in heads.items() if config["architectures"][0].endswith(ending))
    if name.startswith("post_norm"):  # a layer in front gives what fairseq's first is given; the last one's is scaled
        return ["features", *layers[:-1], "encoder.layer_norm", *head]
    norm_last = config["model_type"] == "wav2vec2-conformer" or config.get("do_stable_layer_norm", False)
    return ["features", "first_layer_input", *layers, *(["encoder.layer_norm"] if norm_last else []), *head]


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_every_converted_fixture_is_the_same(name: str, converted: Converted) -> None:
    verification = verify(checkpoint(name), converted(name), **options(name))
    assert verification.findings == ()
    assert verification.verdict.startswith("the same: ")
    config = json.loads((converted(name) / "config.json").read_text())
    assert [stage.name for stage in verification.stages] == stages_of(name, config)
    assert max(stage.error for stage in verification.stages) < 2e-6
    is_ctc = config["architectures"][0].endswith("ForCTC")
    assert verification.symbols == (config["vocab_size"] if is_ctc else 0)
    verification.raise_if_different()


# Between them every form of the config and of the tensors' places.
ERAS = [
    "dict_with_structured_w2v_args_ctc",
    "fp16_ctc",
    "legacy_format_ctc",
    "namespace_pretraining",
    "namespace_with_structured_w2v_args_ctc",
    "structured_config_pretraining",
    "structured_with_namespace_w2v_args_ctc",
    "views_ctc",
]


@pytest.mark.parametrize("name", ERAS)
def test_an_output_from_a_checkpoint_of_any_era_is_the_same(name: str, tmp_path: Path) -> None:
    path = FIXTURES / "eras" / f"{name}.pt"
    w2vc.convert(path, tmp_path / "output")
    assert verify(path, tmp_path / "output").findings == ()


@pytest.mark.parametrize("name", ["relative_ctc", "rotary_pretraining", "target_glu_pretraining"])
def test_an_encoder_alone_is_known_by_its_tensors_and_is_the_same(name: str, tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "output", head="none")
    verification = verify(checkpoint(name), tmp_path / "output")
    assert verification.findings == ()
    assert verification.model_class == "Wav2Vec2ConformerModel"
    assert verification.stages[-1].name == "encoder.layer_norm"


@pytest.mark.parametrize(
    "name", ["blank_weight_add_ctc", "blank_weight_set_ctc", "post_norm_ctc", "rotary_pretraining"]
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_weights_are_the_same_and_the_cost_of_the_rounding_is_told(
    name: str, dtype: str, tmp_path: Path
) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "output", dtype=dtype)
    verification = verify(checkpoint(name), tmp_path / "output")
    assert verification.findings == ()
    assert f"weights rounded to {dtype}" in verification.verdict
    cost = re.search(r"changes the encoder's output by ([\d.e-]+)", " ".join(verification.notes))
    assert cost is not None
    assert 1e-4 < float(cost[1]) < 1e-1


def test_ema_weights_are_verified_as_such(tmp_path: Path) -> None:
    path = FIXTURES / "eras" / "ema_ctc.pt"
    w2vc.convert(path, tmp_path / "output", ema=True)
    assert verify(path, tmp_path / "output", ema=True).same
    assert not verify(path, tmp_path / "output").same


def test_values_that_were_given_with_config_are_verified_with_it(tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"layerdrop": 0.75}))
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "output", config=given)
    assert verify(checkpoint("relative_ctc"), tmp_path / "output", config=given).same
    verification = verify(checkpoint("relative_ctc"), tmp_path / "output")
    assert places(verification) == {("files", 'config.json: "layerdrop"')}


def test_a_json_file_that_was_only_formatted_anew_is_the_same(copy: Converted) -> None:
    output = copy("relative_ctc")
    for name in ("config.json", "vocab.json"):
        change_json(output / name)
    assert verify(checkpoint("relative_ctc"), output).same


# --- one changed tensor: found, located, and told apart from others


def flip_one_bit(tensors: Tensors) -> None:
    tensors[f"{LAYER}ffn2.output_dense.weight"].view(torch.int32)[3, 5] ^= 1


def exchange(one: str, other: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return change


def recompute_with_another_base(tensors: Tensors) -> None:
    frequencies = tensors["wav2vec2_conformer.encoder.embed_positions.inv_freq"]
    frequencies[:] = 1 / 5000 ** (torch.arange(len(frequencies)) / len(frequencies))


def randomise(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].normal_(generator=torch.Generator().manual_seed(0))

    return change


def test_a_flipped_bit_is_found_at_its_index(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, flip_one_bit)
    verification = verify(checkpoint("relative_ctc"), output)
    said = found(verification, "tensors", f"{LAYER}ffn2.output_dense.weight")
    assert re.match(r"1 of 560 elements different \(1 bytes\), the first at \[3, 5\] \(\S+ instead of \S+\)$", said)
    assert not verification.same


EXCHANGES = [
    (f"{LAYER}ffn1_layer_norm.weight", f"{LAYER}ffn2_layer_norm.weight"),
    (f"{LAYER}self_attn.linear_q.weight", f"{LAYER}self_attn.linear_k.weight"),
]


@pytest.mark.parametrize(("one", "other"), EXCHANGES)
def test_two_exchanged_tensors_are_each_told_by_what_they_hold(one: str, other: str, copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, exchange(one, other))
    verification = verify(checkpoint("relative_ctc"), output)
    assert places(verification) >= {("tensors", one), ("tensors", other), ("outputs", "encoder.layers.0")}
    assert found(verification, "tensors", one).endswith(f"it holds what {other} should hold")
    assert found(verification, "tensors", other).endswith(f"it holds what {one} should hold")
    assert verification.differs_from == "encoder.layers.0"


CHANGES: list[tuple[str, str, Callable[[Tensors], None], str | None]] = [
    (
        "rotary_ctc",
        "wav2vec2_conformer.encoder.embed_positions.inv_freq",
        recompute_with_another_base,
        "encoder.layers.0",
    ),
    (
        "no_projection_ctc",
        "wav2vec2_conformer.feature_projection.projection.weight",
        randomise("wav2vec2_conformer.feature_projection.projection.weight"),
        "first_layer_input",
    ),
    ("relative_ctc", f"{POS_CONV}weight_g", randomise(f"{POS_CONV}weight_g"), None),
    ("relative_pretraining", f"{POS_CONV}weight_v", randomise(f"{POS_CONV}weight_v"), None),
    ("blank_weight_add_ctc", "lm_head.bias", randomise("lm_head.bias"), "logits"),
    ("rotary_pretraining", "project_q.weight", randomise("project_q.weight"), "projected_quantized_states"),
]


@pytest.mark.parametrize(("name", "tensor", "change", "stage"), CHANGES)
def test_a_changed_tensor_is_found_and_so_is_the_first_stage_that_shows_it(
    name: str, tensor: str, change: Callable[[Tensors], None], stage: str | None, copy: Converted
) -> None:
    output = copy(name)
    change_tensors(output, change)
    verification = verify(checkpoint(name), output)
    assert [where for part, where in places(verification) if part == "tensors"] == [tensor]
    assert verification.differs_from == stage
    assert stage is not None or "no output shows it" in verification.verdict


def test_a_blank_weight_that_was_left_out_shows_in_the_logits_alone(copy: Converted) -> None:
    output = copy("blank_weight_add_ctc")

    def leave_out(tensors: Tensors) -> None:
        tensors["lm_head.bias"][0] -= 2

    change_tensors(output, leave_out)
    verification = verify(checkpoint("blank_weight_add_ctc"), output)
    assert "1 of 32 elements different" in found(verification, "tensors", "lm_head.bias")
    assert verification.differs_from == "logits"


def test_missing_extra_and_reshaped_tensors_are_named(copy: Converted) -> None:
    output = copy("relative_ctc")

    def change(tensors: Tensors) -> None:
        del tensors[f"{LAYER}ffn1.output_dense.bias"]
        tensors["adapter.weight"] = torch.zeros(3)
        tensors["lm_head.bias"] = tensors["lm_head.bias"].half()
        tensors["lm_head.weight"] = tensors["lm_head.weight"].T.contiguous()

    change_tensors(output, change)
    verification = verify(checkpoint("relative_ctc"), output)
    assert found(verification, "tensors", f"{LAYER}ffn1.output_dense.bias") == "no such tensor"
    assert found(verification, "tensors", "adapter.weight") == "F32 [3]"
    assert found(verification, "tensors", "lm_head.bias") == "F16 [32]"
    assert found(verification, "tensors", "lm_head.weight") == "F32 [20, 32]"
    assert any(part == "loading" for part, _ in places(verification))


def test_a_key_that_from_pretrained_complains_about_is_a_difference_of_its_own(copy: Converted) -> None:
    output = copy("relative_ctc")

    def change(tensors: Tensors) -> None:
        tensors["wav2vec2_conformer.unheard_of"] = torch.zeros(3)
        del tensors["lm_head.bias"]

    change_tensors(output, change)
    said = {item.expected: item.found for item in verify(checkpoint("relative_ctc"), output).findings}
    assert said["no unexpected_keys"] == "wav2vec2_conformer.unheard_of"
    assert said["no missing_keys"] == "lm_head.bias"


# --- the checkpoint's side is torch.load's, not w2vc's


@pytest.fixture
def exchanged_in_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have w2vc believe that two tensors lie where the other one does."""
    read = read_state_dict

    def exchanged(*arguments: Any) -> StateDict:
        found = read(*arguments)
        one, other = (
            next(tensor for name, tensor in found.tensors.items() if name.endswith(end))
            for end in ("layers.0.ffn1.layer_norm.weight", "layers.0.ffn2.layer_norm.weight")
        )
        changed = {
            one.name: replace(one, storage=other.storage, offset=other.offset),
            other.name: replace(other, storage=one.storage, offset=one.offset),
        }
        return replace(found, tensors={**found.tensors, **changed})

    monkeypatch.setattr(reading, "read_state_dict", exchanged)


@pytest.mark.usefixtures("exchanged_in_reading")
@pytest.mark.parametrize("path", [checkpoint("relative_ctc"), FIXTURES / "eras" / "views_ctc.pt"])
def test_a_mistake_in_where_w2vc_looks_for_tensors_is_found(path: Path, tmp_path: Path) -> None:
    w2vc.convert(path, tmp_path / "output")
    verification = verify(path, tmp_path / "output")
    wrong = {where for part, where in places(verification) if part == "tensors"}
    assert wrong == {f"{LAYER}ffn1_layer_norm.weight", f"{LAYER}ffn2_layer_norm.weight"}
    assert verification.differs_from == "encoder.layers.0"


def test_a_checkpoint_that_changes_between_two_looks_is_refused(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(checkpoint("relative_ctc"), tmp_path / "checkpoint.pt"))
    read = reading.read_checkpoint

    def read_and_touched(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        os.utime(path, (0, 0))
        return found

    monkeypatch.setattr("w2vc.planning.preparation.read_checkpoint", read_and_touched)
    with pytest.raises(DamagedError, match="changed while it was read"):
        verify(path, converted("relative_ctc"), dictionary=FIXTURES / "relative_ctc")


# --- another checkpoint's directory


def test_the_directory_of_another_checkpoint_is_one_line(converted: Converted) -> None:
    verification = verify(checkpoint("rotary_ctc"), converted("relative_ctc"))
    (finding,) = verification.findings
    assert finding.part == "source"
    assert finding.found.startswith("made from another checkpoint (fingerprint ")
    ((heading, text),) = verification.lines()
    assert (heading, text) == ("Verdict", f"DIFFERENT: {converted('relative_ctc')} was {finding.found}")
    with pytest.raises(DifferenceError, match="was made from another checkpoint") as caught:
        verification.raise_if_different()
    assert "--force" not in caught.value.advice


def test_an_output_of_another_file_with_the_same_model_is_the_same_and_a_note_says_so(copy: Converted) -> None:
    output = copy("relative_ctc")
    weights = output / "model.safetensors"
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(weights), weights, {**metadata, "source_fingerprint": "0" * 64})
    verification = verify(checkpoint("relative_ctc"), output)
    assert verification.same
    assert any("fingerprint 000000000000" in note and "the same model" in note for note in verification.notes)


# --- one changed value of the small files


def test_another_activation_is_found_in_the_config_and_from_the_first_layer_on(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_json(output / "config.json", hidden_act="gelu")
    verification = verify(checkpoint("relative_ctc"), output)
    assert places(verification) >= {("files", 'config.json: "hidden_act"'), ("outputs", "encoder.layers.0")}
    assert found(verification, "files", 'config.json: "hidden_act"') == '"gelu"'
    assert verification.differs_from == "encoder.layers.0"


def test_an_inverted_normalisation_is_found_in_the_file_and_in_what_the_extractor_gives(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_json(output / "preprocessor_config.json", do_normalize=False)
    verification = verify(checkpoint("relative_ctc"), output)
    assert places(verification) == {
        ("files", 'preprocessor_config.json: "do_normalize"'),
        ("outputs", "input_values"),
    }


def test_two_exchanged_symbols_are_found_by_their_ids(copy: Converted) -> None:
    output = copy("relative_ctc")
    ids = json.loads((output / "vocab.json").read_text())
    change_json(output / "vocab.json", E=ids["T"], T=ids["E"])
    verification = verify(checkpoint("relative_ctc"), output)
    assert places(verification) >= {
        ("files", 'vocab.json: "E"'),
        ("files", 'vocab.json: "T"'),
        ("vocabulary", "the symbol 'E'"),
        ("vocabulary", "the symbol 'T'"),
        ("vocabulary", "the transcript of clip 1"),
    }
    assert found(verification, "vocabulary", "the symbol 'E'") == f"id {ids['T']}"
    assert verification.differs_from is None


def test_another_blank_is_found_in_the_config_and_in_the_vocabulary(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_json(output / "config.json", pad_token_id=1)
    verification = verify(checkpoint("relative_ctc"), output)
    assert places(verification) == {("files", 'config.json: "pad_token_id"'), ("vocabulary", "config.pad_token_id")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 24),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 1),
        ("conv_dim", "wrong"),
        ("vocab_size", 3),
    ],
)
def test_a_config_that_no_model_can_be_made_with_is_a_difference_and_no_crash(
    key: str, value: object, copy: Converted
) -> None:
    output = copy("relative_ctc")
    change_json(output / "config.json", **{key: value})
    verification = verify(checkpoint("relative_ctc"), output)
    assert ("files", f'config.json: "{key}"') in places(verification)
    assert {part for part, _ in places(verification)} & {"loading", "outputs"}


def test_a_token_behind_the_last_logit_is_found(copy: Converted) -> None:
    output = copy("relative_ctc")
    delimiter = {"word_delimiter_token": "#"}
    change_json(output / "tokenizer_config.json", **delimiter)
    verification = verify(checkpoint("relative_ctc"), output)
    assert ("files", 'tokenizer_config.json: "word_delimiter_token"') in places(verification)
    assert not verification.same


# --- files that are missing, damaged, or too many


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, copy: Converted) -> None:
    output = copy("relative_ctc")
    (output / name).unlink()
    verification = verify(checkpoint("relative_ctc"), output)
    assert ("files", name) in places(verification)
    assert found(verification, "files", name) == "no such file"


NO_OBJECTS = [
    ("config.json", "not JSON"),
    ("config.json", "[" * 100_000),
    ("preprocessor_config.json", "\xff"),
    ("vocab.json", "[1, 2]"),
    ("tokenizer_config.json", ""),
]


@pytest.mark.parametrize(("name", "contents"), NO_OBJECTS)
def test_a_file_that_is_no_json_object_is_named(name: str, contents: str, copy: Converted) -> None:
    output = copy("relative_ctc")
    (output / name).write_text(contents, encoding="latin-1")
    verification = verify(checkpoint("relative_ctc"), output)
    assert "JSON" in found(verification, "files", name)


def cut(data: bytes) -> bytes:
    return data[:-100]


def cut_in_the_header(data: bytes) -> bytes:
    return data[:100]


def lengthen(data: bytes) -> bytes:
    return data + b"0"


def empty(_data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, cut_in_the_header, lengthen, empty])
def test_damaged_weights_are_a_difference_and_no_crash(damage: Callable[[bytes], bytes], copy: Converted) -> None:
    output = copy("relative_ctc")
    weights = output / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    verification = verify(checkpoint("relative_ctc"), output)
    assert ("tensors", "model.safetensors") in places(verification)


@pytest.mark.parametrize(
    "header", [b"{}", b'{"a":1}', b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"[]"]
)
def test_weights_with_a_header_that_lies_are_a_difference_and_no_crash(header: bytes, copy: Converted) -> None:
    output = copy("relative_ctc")
    (output / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert not verify(checkpoint("relative_ctc"), output).same


def test_a_file_that_transformers_would_load_too_is_named_and_others_are_let_be(copy: Converted) -> None:
    output = copy("relative_ctc")
    (output / "README.md").write_text("about this model")
    (output / "results.txt").write_text("WER 3")
    assert verify(checkpoint("relative_ctc"), output).same
    (output / "special_tokens_map.json").write_text("{}")
    assert places(verify(checkpoint("relative_ctc"), output)) == {("files", "special_tokens_map.json")}


# --- what can't be verified is refused


@pytest.mark.parametrize("name", ["config.json", "absent"])
def test_an_output_that_is_no_directory_is_refused(name: str, converted: Converted) -> None:
    with pytest.raises(UsageError, match="the output"):
        verify(checkpoint("relative_ctc"), converted("relative_ctc") / name)


@pytest.mark.parametrize("name", ["config.json", "special_tokens_map.json"])
def test_a_pipe_among_an_outputs_files_is_never_opened(name: str, copy: Converted) -> None:
    output = copy("relative_ctc")
    (output / name).unlink(missing_ok=True)
    os.mkfifo(output / name)
    with pytest.raises(UsageError, match=f"{name} is a named pipe"):
        verify(checkpoint("relative_ctc"), output)


def test_an_output_that_may_not_be_looked_into_is_refused(copy: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    output = copy("relative_ctc")
    monkeypatch.setattr(Path, "iterdir", forbidden)  # root may look into everything
    with pytest.raises(UsageError, match=f"{output.name} can't be looked into: Permission denied"):
        verify(checkpoint("relative_ctc"), output)


def test_a_missing_checkpoint_is_refused(converted: Converted, tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        verify(tmp_path / "absent.pt", converted("relative_ctc"))


def test_a_checkpoint_without_its_dictionary_is_refused_until_it_is_given(tmp_path: Path) -> None:
    era = FIXTURES / "eras" / "namespace_ctc.pt"
    alone = tmp_path / "namespace_ctc.pt"
    shutil.copyfile(era, alone)
    w2vc.convert(era, tmp_path / "output")
    with pytest.raises(DictionaryError, match="there is no dictionary"):
        verify(alone, tmp_path / "output")
    assert verify(alone, tmp_path / "output", dictionary=FIXTURES / "eras" / "dict.ltr.txt").same


def test_where_the_checkpoint_itself_was_damaged_since_it_is_blamed(converted: Converted, tmp_path: Path) -> None:
    damaged = tmp_path / "checkpoint.pt"
    data = bytearray(checkpoint("relative_ctc").read_bytes())
    weight = load_file(converted("relative_ctc") / "model.safetensors")["lm_head.weight"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(DamagedError, match=r"checksum .*w2v_encoder\.proj\.weight"):
        verify(damaged, converted("relative_ctc"), dictionary=FIXTURES / "relative_ctc")


# --- recordings


def speech() -> tuple[Any, int]:
    with wave.open(str(min((FIXTURES / "speech").glob("*.wav")))) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()


def write_wav(path: Path, samples: Any, rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def test_a_recording_takes_the_built_in_signals_place(converted: Converted) -> None:
    path = min((FIXTURES / "speech").glob("*.wav"))
    verification = verify(checkpoint("relative_ctc"), converted("relative_ctc"), wav=path)
    assert verification.same
    assert str(path) in verification.audio
    assert len(verification.transcripts) == 1


def test_stereo_at_44100_hz_is_mixed_and_resampled(converted: Converted, tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    tone = 8000 * np.sin(2 * np.pi * 440 * time)
    path = write_wav(tmp_path / "stereo.wav", np.stack([tone, np.zeros_like(tone)], 1), 44100)
    recording = read_recording(path, 16000)
    expected = 4000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert recording.clips[0].shape == (16000,)
    assert np.abs(recording.clips[0].numpy() - expected).max() < 1e-3
    verification = verify(checkpoint("relative_ctc"), converted("relative_ctc"), wav=path)
    assert verification.same
    assert verification.notes[:2] == (
        f"{path} has 2 channels, which were mixed",
        f"{path} was resampled from 44,100 to 16,000 Hz",
    )


def test_other_formats_are_read_by_soundfile(tmp_path: Path) -> None:
    samples, rate = speech()
    soundfile.write(tmp_path / "speech.flac", samples, rate)
    recording = read_recording(tmp_path / "speech.flac", rate)
    assert np.array_equal(recording.clips[0].numpy(), samples.astype(np.float32) / 32768)


def test_of_a_long_recording_the_first_minute_is_taken_and_said(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", np.tile(speech()[0], 60)[: 61 * 8000], 8000)
    recording = read_recording(path, 8000)
    assert len(recording.clips[0]) == 60 * 8000
    assert recording.notes == (f"only the first 60 s of {path} are used",)


def not_audio(path: Path) -> None:
    path.write_text("this is no audio")


def no_file(_path: Path) -> None:
    pass


def a_folder(path: Path) -> None:
    path.mkdir()


def no_samples(path: Path) -> None:
    write_wav(path, np.zeros(0), 16000)


def silence(path: Path) -> None:
    write_wav(path, np.zeros(16000), 16000)


def not_a_number(path: Path) -> None:
    soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT")


BAD_RECORDINGS: list[tuple[Callable[[Path], None], str]] = [
    (not_audio, "can't be read as audio"),
    (no_file, "No such file"),
    (a_folder, "it is a directory, not a file"),
    (no_samples, "too short"),
    (silence, "is silent"),
    (not_a_number, "NaN"),
]


@pytest.mark.parametrize(("make", "problem"), BAD_RECORDINGS)
def test_a_recording_that_tells_nothing_is_refused(make: Callable[[Path], None], problem: str, tmp_path: Path) -> None:
    make(tmp_path / "recording.wav")
    with pytest.raises(UsageError, match=problem):
        read_recording(tmp_path / "recording.wav", 16000)


def test_without_soundfile_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    not_audio(tmp_path / "speech.mp3")
    with pytest.raises(UsageError) as caught:
        read_recording(tmp_path / "speech.mp3", 16000)
    assert "pip install soundfile" in caught.value.advice
    samples, rate = speech()
    assert len(read_recording(write_wav(tmp_path / "speech.wav", samples, rate), rate).clips[0]) == len(samples)


def test_the_built_in_signal_is_always_the_same_and_within_bounds() -> None:
    for one, other in zip(built_in(16000).batch, built_in(16000).batch, strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() < 1


# --- the report


def test_the_report_of_a_difference_has_its_places_and_is_json(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, flip_one_bit)
    change_json(output / "config.json", num_hidden_layers=1)
    verification = verify(checkpoint("relative_ctc"), output)
    values = json.loads(json.dumps(verification.values(), allow_nan=False))
    assert values["same"] is False
    assert len(values["findings"]) == len(verification.findings)
    lines = list(verification.lines())
    assert lines[0][0] == "Verdict"
    assert lines[0][1].startswith("DIFFERENT: ")
    assert any(heading == "Different" and "ffn2.output_dense.weight" in text for heading, text in lines)
    with pytest.raises(DifferenceError) as caught:
        verification.raise_if_different()
    assert len(caught.value.problems) == 1
    assert f"{len(verification.findings)} differences (1 in tensors, 1 in files, " in str(caught.value)


def test_of_each_part_three_differences_are_shown_and_the_rest_is_counted(copy: Converted) -> None:
    output = copy("relative_ctc")

    def change(tensors: Tensors) -> None:
        for index in range(2):
            for name in ("ffn1", "ffn2", "self_attn"):
                tensors[f"wav2vec2_conformer.encoder.layers.{index}.{name}_layer_norm.bias"] += 1

    change_tensors(output, change)
    shown = [text for heading, text in verify(checkpoint("relative_ctc"), output).lines() if heading == "Different"]
    of_tensors = [text for text in shown if text.startswith("tensors: ")]
    assert len(of_tensors) == 4
    assert of_tensors[-1] == "tensors: and 3 more (--json lists all)"
    assert sum(text.startswith("outputs: ") for text in shown) == 1


def test_a_missing_tensor_is_said_once(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, lambda tensors: tensors.__delitem__("lm_head.bias"))
    verification = verify(checkpoint("relative_ctc"), output)
    assert {part for part, _ in places(verification)} >= {"tensors", "loading"}
    said = [text for heading, text in verification.lines() if heading == "Different" and "lm_head.bias" in text]
    assert len(said) == 1


def test_the_stages_are_a_table_with_error_bound_and_a_tick(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, randomise("lm_head.bias"))
    lines = [text for _, text in verify(checkpoint("relative_ctc"), output).lines()]
    assert any(re.fullmatch(r" +error +bound", line) for line in lines)
    assert any(re.fullmatch(r"features +\d\.\de[-+]\d\d +2\.0e-06  ✓", line) for line in lines)
    assert any(re.fullmatch(r"logits +\d\.\de[-+]\d\d +2\.0e-06  ✗ different", line) for line in lines)


def test_what_the_epsilons_of_the_normalizations_do_is_said_in_words(converted: Converted) -> None:
    verification = verify(checkpoint("relative_ctc"), converted("relative_ctc"))
    assert verification.input_values is not None
    assert 2e-6 < verification.input_values.error < verification.input_values.bound
    (note,) = (note for note in verification.notes if "epsilon" in note)
    assert re.search(r"1e-07 for 1e-05.* by 0\.\d+ %$", note)
    assert not any("input_values" in text for _, text in verification.lines())


def test_another_bound_is_taken_for_every_output(copy: Converted) -> None:
    output = copy("relative_ctc")

    def add_a_little(tensors: Tensors) -> None:
        tensors["lm_head.bias"] += 1e-4

    change_tensors(output, add_a_little)
    for atol, parts in ((1e-12, {"tensors", "outputs"}), (1e-3, {"tensors"})):
        verification = verify(checkpoint("relative_ctc"), output, atol=atol)
        assert {stage.bound for stage in verification.stages} == {atol}
        assert {part for part, _ in places(verification)} == parts


@pytest.mark.parametrize("atol", [0.0, -1e-6, float("inf"), float("nan")])
def test_a_bound_that_is_none_is_refused(atol: float, converted: Converted) -> None:
    with pytest.raises(UsageError, match="--atol"):
        verify(checkpoint("relative_ctc"), converted("relative_ctc"), atol=atol)


# --- near ties


def quantized(entries: int) -> tuple[Tensors, Tensors]:
    """Return both sides' quantized states of one clip with three frames, which differ in the second."""
    ours = torch.arange(3.0 * entries).reshape(1, 3, entries)
    theirs = ours.clone()
    theirs[0, 1] += 7
    return {QUANTIZED: ours}, {QUANTIZED: theirs}


@pytest.mark.parametrize(("margin", "count"), [(5e-6, 1), (2e-5, 0)])
def test_a_frame_is_left_out_only_where_a_rounding_decided_between_two_entries(margin: float, count: int) -> None:
    scores = torch.tensor([[[3.0, 1.0], [1.0 - margin, 1.0], [0.0, 1.0]]])
    indices = torch.tensor([[[0], [0], [1]]])  # of the second frame, the reference took the other entry
    expected, found = quantized(2)
    assert leave_out_near_ties(expected, {**found, "codebook_scores": scores}, indices) == count
    found = {**found, "codebook_scores": scores}
    expected, _ = quantized(2)
    leave_out_near_ties(expected, found, indices)
    assert expected[QUANTIZED].shape[:-1] == ((2,) if count else (1, 3))
    assert torch.equal(expected[QUANTIZED], found[QUANTIZED]) == bool(count)


def test_a_near_tie_that_both_sides_decided_alike_is_compared() -> None:
    expected, found = quantized(2)
    scores = torch.tensor([[[3.0, 1.0], [1.0, 1.0 - 1e-7], [0.0, 1.0]]])
    found["codebook_scores"] = scores
    assert leave_out_near_ties(expected, found, torch.tensor([[[0], [0], [1]]])) == 0
    assert expected[QUANTIZED].shape == (1, 3, 2)


def test_of_two_equally_likely_symbols_the_references_counts() -> None:
    ours = torch.tensor([[[1.0, 1.0 + 1e-6], [1.0, 2.0]]])
    theirs = torch.tensor([[[1.0 + 1e-6, 1.0], [2.0, 1.0]]])
    assert likeliest(ours, theirs) == ([1, 1], [1, 0])


# --- stages as data


@pytest.fixture
def conformer(converted: Converted) -> Iterator[Any]:
    """A small model of transformers'."""
    with quiet_transformers() as transformers:
        yield transformers.AutoModelForCTC.from_pretrained(converted("relative_ctc"), local_files_only=True).eval()


def stages_of_layers(layers: int) -> StageMap:
    return stage_map({"encoder_layers": layers, "layer_norm_first": True}, "ctc")


def padded_pass() -> tuple[Pass, torch.Tensor]:
    """Return a batch whose second clip is shorter, and a mask of frames that keeps more of it than its length says."""
    values = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 4000, dtype=torch.bool)
    padding[1, 2000:] = True
    frames = torch.zeros(2, 12, dtype=torch.bool)
    frames[1, 9:] = True
    return Pass(values, padding), frames


def test_the_mask_of_frames_is_transformers_own_or_fairseqs(conformer: Any) -> None:
    run, frames = padded_pass()

    def kept(frame_mask: Any, padded: torch.Tensor | None) -> list[bool]:
        stages = replace(stages_of_layers(2), frame_mask=frame_mask)
        states = model_stages(conformer, run, stages, padded)["first_layer_input"]
        return [bool(frame.any()) for frame in states[1]]

    by_length = kept("lengths", None)
    assert sum(by_length) < 9
    frames = torch.zeros(2, len(by_length), dtype=torch.bool)
    frames[1, 9:] = True
    assert kept("fairseq", frames) == [True] * 9 + [False] * (len(by_length) - 9)
    assert kept("lengths", frames) == by_length


def test_a_stage_whose_module_is_not_there_is_missing_and_stops_nothing(conformer: Any) -> None:
    run = Pass(padded_pass()[0].input_values)
    found = model_stages(conformer, run, stages_of_layers(9), None)
    assert "encoder.layers.1" in found
    assert "encoder.layers.8" not in found
    assert "logits" in found


def test_no_hook_stays_on_the_model(conformer: Any) -> None:
    run, frames = padded_pass()
    model_stages(conformer, Pass(run.input_values), stages_of_layers(2), frames)
    hooks = (hooks for module in conformer.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))
    assert not any(hooks)
    assert "_get_feature_vector_attention_mask" not in vars(conformer)


# --- memory


@pytest.mark.parametrize(("name", "dtype"), [("rotary_pretraining", "float16"), ("blank_weight_add_ctc", "bfloat16")])
def test_a_large_model_in_half_precision_is_made_float32_layer_by_layer(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "output", dtype=dtype)
    whole = verify(checkpoint(name), tmp_path / "output")
    monkeypatch.setattr(loading, "_MOST_WHOLE_BYTES", 0)
    widened: Counter[str] = Counter()
    widen = loading._widen_while_it_runs

    def counted(layer: Any, weights: Any) -> None:
        before = len(weights)
        widen(layer, weights)
        widened[type(layer).__name__] += before - len(weights)

    monkeypatch.setattr(loading, "_widen_while_it_runs", counted)
    by_layer = verify(checkpoint(name), tmp_path / "output")
    assert widened["Wav2Vec2ConformerEncoderLayer"] > 20
    assert by_layer.same
    assert [(stage.name, stage.error) for stage in by_layer.stages] == [
        (stage.name, stage.error) for stage in whole.stages
    ]


def test_what_transformers_complains_about_is_found_in_a_large_model_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_MOST_WHOLE_BYTES", 0)
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "output", dtype="float16")

    def change(tensors: Tensors) -> None:
        tensors["wav2vec2_conformer.unheard_of"] = torch.zeros(3).half()
        del tensors["lm_head.bias"]

    change_tensors(tmp_path / "output", change)
    said = {item.expected: item.found for item in verify(checkpoint("relative_ctc"), tmp_path / "output").findings}
    assert said["no unexpected_keys"] == "wav2vec2_conformer.unheard_of"
    assert said["no missing_keys"] == "lm_head.bias"


def test_tensors_that_the_class_has_no_place_for_are_no_complaint_where_they_belong(copy: Converted) -> None:
    output = copy("relative_ctc")
    change_tensors(output, lambda tensors: tensors.update({"final_proj.bias": torch.zeros(3)}))
    plan = w2vc.convert(checkpoint("relative_ctc"), output.parent / "dry", dry_run=True).plan

    def complaints(beyond: tuple[str, ...]) -> list[Finding]:
        with quiet_transformers() as transformers:
            return loading.load_model(transformers, replace(plan, beyond=beyond), output)[1]

    assert [finding.expected for finding in complaints(())] == ["no unexpected_keys"]
    assert complaints(("final_proj.bias",)) == []


# --- large vocabularies


def write_pieces(folder: Path, count: int) -> Path:
    """Write the tokenizer of a model with so many sentence pieces."""
    pieces = tuple(f"▁{index:x}" if index % 3 else f"{index:x}g" for index in range(count))
    words = vocabulary(Dictionary((*SPECIAL_SYMBOLS, *pieces), "made up"), None)
    (folder / "vocab.json").write_text(json.dumps(words.ids))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(words)))
    return folder


def test_a_large_vocabularys_tokenizer_is_the_one_that_transformers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pieces(tmp_path, 600)
    monkeypatch.setattr(loading, "_MOST_SYMBOLS", 0)
    plan = w2vc.convert(checkpoint("relative_ctc"), tmp_path / "dry", dry_run=True).plan
    with quiet_transformers() as transformers:
        one_by_one = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path, local_files_only=True)
        at_once, _ = loading.load_tokenizer(transformers, plan, tmp_path)
    ids = list(range(604))
    assert at_once.get_vocab() == one_by_one.get_vocab()
    assert len(at_once) == len(one_by_one) == 604
    assert at_once.convert_ids_to_tokens(ids) == one_by_one.convert_ids_to_tokens(ids)
    assert at_once.decode(ids) == one_by_one.decode(ids)
    assert at_once.tokenize("▁1▁2f3g▁unheard") == one_by_one.tokenize("▁1▁2f3g▁unheard")
    assert at_once.added_tokens_decoder == one_by_one.added_tokens_decoder


def test_a_large_vocabulary_is_copied_a_few_times_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = write_pieces(tmp_path, 20_000)
    plan = w2vc.convert(checkpoint("relative_ctc"), tmp_path / "dry", dry_run=True).plan
    pieces = tuple(json.loads((output / "vocab.json").read_text()))
    assert plan.vocabulary is not None
    large = replace(plan, vocabulary=replace(plan.vocabulary, tokens=pieces))
    copies: Counter[str] = Counter()
    with quiet_transformers() as transformers:
        kind = transformers.Wav2Vec2CTCTokenizer
        get_vocab = kind.get_vocab

        def counted(tokenizer: Any) -> Any:
            copies["vocabulary"] += 1
            return get_vocab(tokenizer)

        monkeypatch.setattr(kind, "get_vocab", counted)
        tokenizer, note = loading.load_tokenizer(transformers, large, output)
    assert len(tokenizer) == 20_004
    assert copies["vocabulary"] < 20
    assert note is not None
    assert "20,004 symbols were added at once" in note


# --- the process


OFFLINE = """
import os, socket, sys
from pathlib import Path
tries = []
def tried(*arguments, **options):
    tries.append(arguments)
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = tried
IMPORTS
from w2vc.verifying.transformers_settings import quiet_transformers
before = dict(os.environ)
with quiet_transformers() as transformers:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    try:
        transformers.AutoConfig.from_pretrained("someone/a-model")
    except OSError as error:
        print("refused")
import huggingface_hub.constants
print(tries == [], dict(os.environ) == before, huggingface_hub.constants.HF_HUB_OFFLINE)
print(getattr(transformers.utils.hub, "_is_offline_mode", False))
"""


@pytest.mark.parametrize("imports", ["", "import huggingface_hub", "import transformers"])
def test_transformers_never_asks_a_network_and_nothing_stays_changed(imports: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    finished = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", OFFLINE.replace("IMPORTS", imports)],
        env={**environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.stdout.split() == ["refused", "True", "True", "False", "False"], finished.stderr


def test_two_threads_verify_at_once_and_nothing_stays_changed(converted: Converted) -> None:
    import transformers

    logging = transformers.utils.logging
    names = ["relative_ctc", "rotary_pretraining"]
    for name in names:
        converted(name)
    # torch names a cache in the environment when a model's code is first imported.
    assert issubclass(transformers.Wav2Vec2ConformerForCTC, torch.nn.Module)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), dict(os.environ)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: verify(checkpoint(name), converted(name)), names))
    assert all(verification.same for verification in found)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), dict(os.environ)) == before


def test_nothing_of_transformers_settings_is_left_changed(converted: Converted) -> None:
    import transformers

    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    verify(checkpoint("relative_ctc"), converted("relative_ctc"))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_verifying_prints_nothing(copy: Converted, capfd: pytest.CaptureFixture[str]) -> None:
    output = copy("relative_ctc")
    change_tensors(output, randomise("lm_head.bias"))
    assert not verify(checkpoint("relative_ctc"), output).same
    assert capfd.readouterr() == ("", "")
