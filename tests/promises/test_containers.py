"""An encoder in what others made of it gives byte for byte what it gives in fairseq's own file, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

import w2vc
from tests.conftest import CONVERTIBLE, FIXTURES, checkpoint, options
from tests.support.containers import FORMS, back_end, below, encoder, save, saved
from w2vc.errors import (
    InconsistentError,
    RefusedError,
    UnsupportedModelError,
    UsageError,
    W2vcError,
)

pytestmark = pytest.mark.slow

BARE = "wav2vec2_base_pretraining"
FINE_TUNED = "wav2vec2_base_ctc"
PLACES = {
    "bare": "",
    "prefixed": "ssl_model.model.",
    "parallel": "module.ssl_model.model.",
    "lightning": "model.wav2vec.",
    "s3prl": "",
}
# One of each family, pretrained and fine-tuned; the others go through one form each.
EACH_FAMILY = ["rotary_pretraining", "post_norm_base_ctc", BARE, FINE_TUNED, "hubert", "hubert_ctc", "data2vec_audio"]

Encoders = Callable[[str], Path]


def given(name: str, form: str) -> dict[str, Any]:
    """What a form of a fixture needs: a checkpoint of fairseq's with the same encoder, unless it carries its config."""
    return {} if form == "s3prl" else {"pretrained": options(name).get("pretrained", checkpoint(name))}


def weights(output: Path) -> dict[str, bytes]:
    """The bytes of each tensor."""
    return {name: tensor.tobytes() for name, tensor in load_file(output / "model.safetensors").items()}


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Gives what a fixture's own checkpoint becomes without its head."""
    outputs: dict[str, Path] = {}

    def output(name: str) -> Path:
        if name not in outputs:
            outputs[name] = tmp_path_factory.mktemp("encoder") / name
            w2vc.convert(checkpoint(name), outputs[name], head="none", **options(name))
        return outputs[name]

    return output


def refused(kind: type[W2vcError], path: Path, output: Path, **asked: Any) -> W2vcError:
    """The error of a conversion; nothing is written, and the advice is a sentence."""
    with pytest.raises(kind) as caught:
        w2vc.convert(path, output, **asked)
    assert not output.exists()
    assert caught.value.advice
    return caught.value


# ---------------------------------------------------------------------------------------------------------------
# What converts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_form_of_an_encoder_gives_the_weights_of_the_original(
    name: str, form: str, encoder_of: Encoders, tmp_path: Path
) -> None:
    path = save(name, form, tmp_path / "theirs.pt")
    w2vc.convert(path, tmp_path / "out", **given(name, form))
    assert weights(tmp_path / "out") == weights(encoder_of(name))


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_every_fixture_gives_its_weights_from_within_another_model(
    name: str, encoder_of: Encoders, tmp_path: Path
) -> None:
    path = save(name, "parallel", tmp_path / "theirs.pt")
    w2vc.convert(path, tmp_path / "out", **given(name, "parallel"))
    assert weights(tmp_path / "out") == weights(encoder_of(name))


@pytest.mark.parametrize("name", [BARE, "hubert", "data2vec_audio", "rotary_pretraining"])
def test_a_pretrained_encoder_gets_the_config_that_it_has_in_fairseqs_own_checkpoint(
    name: str, encoder_of: Encoders, tmp_path: Path
) -> None:
    w2vc.convert(save(name, "prefixed", tmp_path / "a.pt"), tmp_path / "out", **given(name, "prefixed"))
    for file in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (encoder_of(name) / file).read_bytes()


@pytest.mark.parametrize("form", PLACES)
def test_inspect_says_where_the_encoder_was_found_and_lists_what_lies_outside(form: str, tmp_path: Path) -> None:
    path = save(BARE, form, tmp_path / "theirs.pt")
    found = w2vc.inspect(path, tensors=True, **given(BARE, form))
    values = found.values()
    assert values["prefix"] == PLACES[form]
    assert values["converts_to"] == "Wav2Vec2Model"
    lines = "\n".join(text for _, text in found.lines())
    assert (f"below '{PLACES[form].removesuffix('.')}'" if PLACES[form] else "at the top level") in lines
    assert values["outside"] == (len(back_end()) if form not in ("bare", "s3prl") else 0)
    outside = [tensor for tensor in values["tensors"] if "lies outside the encoder" in tensor["becomes"]]  # type: ignore[attr-defined]
    assert len(outside) == values["outside"]


def test_what_lies_outside_is_counted_with_its_reason(tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    conversion = w2vc.convert(path, tmp_path / "out", **given(BARE, "prefixed"))
    dropped: Any = conversion.values()["dropped"]
    outside = {name for name, reason in dropped.items() if "outside the encoder" in reason}
    assert outside == set(back_end())
    assert any("7 tensors: lies outside the encoder" in text for _, text in conversion.lines())


@pytest.mark.parametrize("prefix", ["first", "first.", "second.deep"])
def test_of_two_encoders_the_named_one_is_taken(prefix: str, tmp_path: Path) -> None:
    tensors = encoder(saved(BARE)["model"])
    doubled = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    torch.save(below("first.", tensors) | below("second.deep.", doubled), tmp_path / "two.pt")
    w2vc.convert(tmp_path / "two.pt", tmp_path / "out", prefix=prefix, **given(BARE, "bare"))
    expected = (tensors if prefix.startswith("first") else doubled)["layer_norm.weight"]
    written = load_file(tmp_path / "out" / "model.safetensors")["feature_projection.layer_norm.weight"]
    assert written.tobytes() == expected.numpy().tobytes()


def test_a_dot_alone_names_the_top_level(tmp_path: Path) -> None:
    tensors = encoder(saved("no_projection_pretraining")["model"])
    torch.save({"teacher": dict(tensors), "student": dict(tensors)}, tmp_path / "two.pt")
    error = refused(UsageError, tmp_path / "two.pt", tmp_path / "out", prefix=".", **given(BARE, "bare"))
    assert "below 'teacher', below 'student'" in str(error)
    path = save(BARE, "bare", tmp_path / "bare.pt")
    w2vc.convert(path, tmp_path / "out", prefix=".", **given(BARE, "bare"))


def test_state_dicts_under_other_keys_are_found_by_their_place(encoder_of: Encoders, tmp_path: Path) -> None:
    held = {"generator": below("net.", encoder(saved(BARE)["model"])), "critic": back_end(), "step": 3}
    torch.save(held, tmp_path / "theirs.pt")
    w2vc.convert(tmp_path / "theirs.pt", tmp_path / "out", **given(BARE, "bare"))
    assert weights(tmp_path / "out") == weights(encoder_of(BARE))


def test_a_whole_fine_tuned_model_gives_its_head_with_a_dictionary(
    converted: Callable[[str], Path], encoder_of: Encoders, tmp_path: Path
) -> None:
    path = save(FINE_TUNED, "lightning", tmp_path / "theirs.pt", whole=True)
    asked = given(FINE_TUNED, "lightning")
    w2vc.convert(path, tmp_path / "encoder", **asked)
    assert weights(tmp_path / "encoder") == weights(encoder_of(FINE_TUNED))
    words = FIXTURES / FINE_TUNED / "dict.ltr.txt"
    w2vc.convert(path, tmp_path / "ctc", dictionary=words, **asked)
    assert weights(tmp_path / "ctc") == weights(converted(FINE_TUNED))
    for file in ("config.json", "vocab.json", "tokenizer_config.json"):
        assert (tmp_path / "ctc" / file).read_bytes() == (converted(FINE_TUNED) / file).read_bytes()


def test_a_checkpoint_of_fairseqs_that_lost_its_config_is_one_of_others(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    held = saved(FINE_TUNED)
    torch.save({"model": held["model"], "args": None, "last_optimizer_state": {}}, tmp_path / "theirs.pt")
    words = FIXTURES / FINE_TUNED / "dict.ltr.txt"
    w2vc.convert(tmp_path / "theirs.pt", tmp_path / "out", dictionary=words, **given(FINE_TUNED, "model"))
    assert weights(tmp_path / "out") == weights(converted(FINE_TUNED))


def test_arguments_of_another_program_are_not_taken_for_fairseqs(encoder_of: Encoders, tmp_path: Path) -> None:
    held = {"model": below("net.", encoder(saved(BARE)["model"])), "args": {"lr": 0.1, "epochs": 3}}
    torch.save(held, tmp_path / "theirs.pt")
    w2vc.convert(tmp_path / "theirs.pt", tmp_path / "out", **given(BARE, "bare"))
    assert weights(tmp_path / "out") == weights(encoder_of(BARE))


def test_a_head_of_which_nothing_is_known_is_said_to_be_taken_as_fairseqs_default(tmp_path: Path) -> None:
    path = save("hubert_own_recipe_ctc", "parallel", tmp_path / "theirs.pt", whole=True)
    found = w2vc.inspect(path, **options("hubert_own_recipe_ctc"))
    assert any("nothing says how the model was fine-tuned" in text for _, text in found.lines())


def test_fairseqs_own_checkpoint_of_another_model_gives_the_encoder_below_a_prefix(
    encoder_of: Encoders, tmp_path: Path
) -> None:
    held = saved(BARE)
    torch.save({**held, "model": below("student.", held["model"]) | back_end()}, tmp_path / "theirs.pt")
    w2vc.convert(tmp_path / "theirs.pt", tmp_path / "out", prefix="student", **given(BARE, "bare"))
    assert weights(tmp_path / "out") == weights(encoder_of(BARE))


# ---------------------------------------------------------------------------------------------------------------
# What it says of itself


def test_card_and_record_name_both_files(tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    w2vc.convert(path, tmp_path / "out", prefix="ssl_model.model", **given(BARE, "prefixed"))
    theirs, pretrained = (
        w2vc.inspect(one, **asked).values()["fingerprint"]
        for one, asked in ((path, given(BARE, "prefixed")), (checkpoint(BARE), {}))
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert str(theirs) in card
    assert str(pretrained) in card
    assert "ssl_model.model" in card
    header = (tmp_path / "out" / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    record = json.loads(header[8 : 8 + length])["__metadata__"]
    assert (record["source_fingerprint"], record["pretrained"]) == (theirs, pretrained)
    assert record["prefix"] == "ssl_model.model"


@pytest.mark.parametrize("form", ["bare", "prefixed", "lightning", "s3prl"])
@pytest.mark.parametrize("name", ["relative_pretraining", BARE, "hubert"])
def test_verify_holds_the_encoder_against_the_reference(name: str, form: str, tmp_path: Path) -> None:
    path = save(name, form, tmp_path / "theirs.pt")
    w2vc.convert(path, tmp_path / "out", **given(name, form))
    verification = w2vc.verify(path, tmp_path / "out", **given(name, form))
    assert verification.findings == ()
    assert len(verification.stages) > 1


def test_verify_holds_a_head_against_the_reference(tmp_path: Path) -> None:
    path = save(FINE_TUNED, "parallel", tmp_path / "theirs.pt", whole=True)
    asked = given(FINE_TUNED, "parallel") | {"dictionary": FIXTURES / FINE_TUNED / "dict.ltr.txt"}
    w2vc.convert(path, tmp_path / "out", **asked)
    assert w2vc.verify(path, tmp_path / "out", **asked).findings == ()


def test_verify_notices_an_output_of_the_other_encoder(tmp_path: Path) -> None:
    tensors = encoder(saved(BARE)["model"])
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    torch.save(below("a.", tensors) | below("b.", other), tmp_path / "two.pt")
    w2vc.convert(tmp_path / "two.pt", tmp_path / "out", prefix="a", **given(BARE, "bare"))
    asked = given(BARE, "bare")
    assert w2vc.verify(tmp_path / "two.pt", tmp_path / "out", **asked).findings == ()
    assert w2vc.verify(tmp_path / "two.pt", tmp_path / "out", prefix="b", **asked).findings


def test_a_batch_takes_prefix_and_pretrained_from_its_manifest(encoder_of: Encoders, tmp_path: Path) -> None:
    tensors = encoder(saved(BARE)["model"])
    torch.save(below("a.", tensors) | below("b.", tensors), tmp_path / "two.pt")
    save("hubert", "parallel", tmp_path / "one.pt")
    manifest = tmp_path / "jobs.csv"
    manifest.write_text(
        f"checkpoint,output,pretrained,prefix\ntwo.pt,two,{checkpoint(BARE)},b\none.pt,one,{checkpoint('hubert')},\n",
        encoding="utf-8",
    )
    done = w2vc.batch([manifest], tmp_path / "out", jobs=1)
    assert [result.status for result in done.results] == ["converted", "converted"]
    assert weights(tmp_path / "out" / "two") == weights(encoder_of(BARE))
    assert weights(tmp_path / "out" / "one") == weights(encoder_of("hubert"))
    again = w2vc.batch([manifest], tmp_path / "out", jobs=1)
    assert [result.status for result in again.results] == ["skipped", "skipped"]
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(",b\n", ",a\n"), encoding="utf-8")
    other = w2vc.batch([manifest], tmp_path / "out", jobs=1)
    assert {str(result.output.name): result.status for result in other.results}["two"] != "skipped"


# ---------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("form", [form for form in FORMS if form != "s3prl"])
def test_without_a_config_nothing_is_guessed(form: str, tmp_path: Path) -> None:
    path = save(BARE, form, tmp_path / "theirs.pt")
    error = refused(RefusedError, path, tmp_path / "out")
    assert "heads, strides" in str(error)
    assert "--pretrained" in error.advice


def test_two_encoders_are_listed_and_one_has_to_be_named(tmp_path: Path) -> None:
    tensors = encoder(saved(BARE)["model"])
    torch.save(below("teacher.", tensors) | below("student.", tensors), tmp_path / "two.pt")
    error = refused(UsageError, tmp_path / "two.pt", tmp_path / "out", **given(BARE, "bare"))
    assert "below 'teacher', below 'student'" in str(error)
    assert "--prefix teacher" in error.advice


def test_of_very_many_encoders_a_few_are_listed(tmp_path: Path) -> None:
    names = ("feature_extractor.conv_layers.0.0.weight", "encoder.layers.0.fc1.weight")
    tensor = torch.ones(2, 2)
    torch.save({f"{'m' * 100}{number}.{name}": tensor for number in range(5000) for name in names}, tmp_path / "m.pt")
    error = refused(UsageError, tmp_path / "m.pt", tmp_path / "out", **given(BARE, "bare"))
    assert "5000 encoders" in str(error)
    assert "and 4994 more" in str(error)
    assert len(str(error)) < 3000


def test_a_file_without_an_encoder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": back_end()}, tmp_path / "none.pt")
    error = refused(UnsupportedModelError, tmp_path / "none.pt", tmp_path / "out", **given(BARE, "bare"))
    assert "feature_extractor.conv_layers.0.0.weight" in str(error)


@pytest.mark.parametrize("prefix", ["nowhere", "ssl_model", "ssl_model.model.encoder", "sl_model.model", "."])
def test_a_prefix_that_is_not_there_is_refused_with_the_one_that_is(prefix: str, tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    error = refused(UsageError, path, tmp_path / "out", prefix=prefix, **given(BARE, "bare"))
    assert "below 'ssl_model.model'" in str(error)
    assert "--prefix ssl_model.model" in error.advice


@pytest.mark.parametrize(
    "other",
    ["wav2vec2_large_ctc", "wav2vec2_no_projection_ctc", "hubert_large", "rotary_pretraining", "data2vec_audio"],
)
def test_a_pretrained_checkpoint_of_another_model_is_refused(other: str, tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    refused(RefusedError, path, tmp_path / "out", pretrained=checkpoint(other))


def test_a_pretrained_checkpoint_of_other_sizes_is_refused_with_each_size(tmp_path: Path) -> None:
    held = saved(BARE)
    held["cfg"]["model"]["encoder_ffn_embed_dim"] = 44
    torch.save({"cfg": held["cfg"], "model": held["model"]}, tmp_path / "pretrained.pt")
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    error = refused(InconsistentError, path, tmp_path / "out", pretrained=tmp_path / "pretrained.pt")
    assert "encoder_ffn_embed_dim is 44, the tensors say 28" in str(error)
    assert "--pretrained" in error.advice


def test_a_pretrained_file_that_carries_no_config_itself_is_refused(tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    error = refused(RefusedError, path, tmp_path / "out", pretrained=path)
    assert "carries no architecture" in str(error)


def test_a_pretrained_file_that_is_not_needed_is_refused(tmp_path: Path) -> None:
    path = save(BARE, "s3prl", tmp_path / "theirs.pt")
    error = refused(UsageError, path, tmp_path / "out", pretrained=checkpoint(BARE))
    assert "Leave --pretrained out" in error.advice


def test_a_tensor_that_was_added_inside_the_encoder_is_refused(tmp_path: Path) -> None:
    tensors = below("net.", encoder(saved(BARE)["model"])) | {"net.encoder.layers.0.gate": torch.ones(3)}
    torch.save(tensors, tmp_path / "more.pt")
    error = refused(InconsistentError, tmp_path / "more.pt", tmp_path / "out", **given(BARE, "bare"))
    assert "net.encoder.layers.0.gate" in str(error)


@pytest.mark.parametrize("missing", ["encoder.layer_norm.bias", "encoder.layers.1.fc2.weight", "mask_emb"])
def test_a_tensor_that_is_missing_in_the_encoder_is_refused(missing: str, tmp_path: Path) -> None:
    tensors = below("net.", encoder(saved(BARE)["model"]))
    del tensors[f"net.{missing}"]
    torch.save(tensors, tmp_path / "less.pt")
    refused(InconsistentError, tmp_path / "less.pt", tmp_path / "out", **given(BARE, "bare"))


def test_a_value_in_a_tensors_place_is_a_missing_tensor(tmp_path: Path) -> None:
    tensors: dict[str, Any] = below("net.", encoder(saved(BARE)["model"]))
    tensors["net.encoder.layer_norm.bias"] = [0.0] * 20
    torch.save(tensors, tmp_path / "other.pt")
    refused(InconsistentError, tmp_path / "other.pt", tmp_path / "out", **given(BARE, "bare"))


def test_ema_weights_are_not_looked_for_in_others_files(tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    refused(UsageError, path, tmp_path / "out", ema=True, **given(BARE, "prefixed"))


def test_a_head_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = save(BARE, "prefixed", tmp_path / "theirs.pt")
    refused(UsageError, path, tmp_path / "out", head="ctc", **given(BARE, "prefixed"))
