"""MMS: each language of a checkpoint computes in transformers what fairseq computed with it, however it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import w2vc
from tests.conftest import checkpoint, clip, recorded, recorded_facts
from tests.promises.test_reference import fixture
from tests.support import forgery
from w2vc.errors import DictionaryError, InconsistentError, UsageError
from w2vc.families.wav2vec2.reference import reference_forward

pytestmark = pytest.mark.whole

BOUND = 2e-6
NAMES = ("mms_three_languages_ctc", "mms_some_layers_ctc", "mms_released_ctc")
LANGUAGES = [(name, language) for name in NAMES for language in recorded_facts(name)["languages"]]
OTHERS = [(name, language) for name, language in LANGUAGES if language != recorded_facts(name)["languages"][0]]
LAYER = "w2v_encoder.w2v_model.encoder.layers.1.adapter_layer."


def expected(name: str, language: str) -> dict[str, Any]:
    """What fairseq recorded of the model in a language."""
    arrays = recorded(name)
    own = {key.removeprefix(f"{language}/"): value for key, value in arrays.items() if key.startswith(f"{language}/")}
    return {**arrays, **own}


def facts(name: str, language: str) -> dict[str, Any]:
    found = recorded_facts(name)
    return {**found, **found.get(language, {})}


def relative_error(found: torch.Tensor, arrays: Any) -> float:
    assert found.shape == arrays.shape
    return float(np.linalg.norm(found.double().numpy() - arrays.astype(np.float64)) / np.linalg.norm(arrays))


def worst(model: Any, arrays: dict[str, Any]) -> float:
    """The largest error of the encoder's output and the logits, single clips and a padded batch."""
    errors = []
    for part in ("clip0", "clip1", "batch"):
        values = torch.from_numpy(arrays[f"{part}/input"])
        mask = ~torch.from_numpy(arrays["batch/padding_mask"]) if part == "batch" else None
        with torch.no_grad():
            inputs = {"input_values": values if part == "batch" else values[None]}
            inputs |= {} if mask is None else {"attention_mask": mask.long()}
            states = model.wav2vec2(**inputs).last_hidden_state
            logits = model(**inputs).logits
        for found, stage in ((states, "encoder_out"), (logits, "logits")):
            errors.append(relative_error(found if part == "batch" else found[0], arrays[f"{part}/{stage}"]))
    return max(errors)


def load(output: Path, **options: Any) -> Any:
    kind: Any = transformers.Wav2Vec2ForCTC
    return kind.from_pretrained(output, **options).eval()


# --- each language, however it is loaded


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_the_chosen_language_computes_what_fairseq_did(name: str, language: str, tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "out", language=language)
    assert worst(load(tmp_path / "out"), expected(name, language)) < BOUND


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_load_adapter_gives_what_fairseq_gives_with_the_language(
    name: str, language: str, converted: Callable[[str], Path]
) -> None:
    model = load(converted(name))
    model.load_adapter(language, local_files_only=True)
    assert worst(model, expected(name, language)) < BOUND


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_from_pretrained_takes_the_language(name: str, language: str, converted: Callable[[str], Path]) -> None:
    model = load(converted(name), target_lang=language, ignore_mismatched_sizes=True)
    assert worst(model, expected(name, language)) < BOUND


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_the_pipeline_transcribes_in_each_language_as_fairseqs_logits_say(
    name: str, language: str, converted: Callable[[str], Path]
) -> None:
    recognise: Any = transformers.pipeline("automatic-speech-recognition", model=str(converted(name)), device="cpu")
    recognise.model.load_adapter(language, local_files_only=True)
    recognise.tokenizer.set_target_lang(language)
    known = facts(name, language)
    for spoken, transcript in zip(known["clips"], known["transcripts"], strict=True):
        assert recognise(clip(spoken))["text"] == transcript.replace("|", " ").strip()


@pytest.mark.parametrize(("name", "language"), LANGUAGES)
def test_the_tokenizer_has_each_languages_symbols_at_fairseqs_places(
    name: str, language: str, converted: Callable[[str], Path]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(converted(name))
    tokenizer.set_target_lang(language)
    symbols = facts(name, language)["symbols"]
    assert tokenizer.convert_ids_to_tokens(list(range(4, len(symbols)))) == symbols[4:]
    assert tokenizer.convert_tokens_to_ids(symbols[4:]) == list(range(4, len(symbols)))


def test_the_tokenizer_begins_with_the_chosen_language(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("mms_released_ctc"), tmp_path / "out", language="uzb-script_latin")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.target_lang == "uzb-script_latin"
    assert len(tokenizer) == len(facts("mms_released_ctc", "uzb-script_latin")["symbols"])
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["vocab_size"] == len(tokenizer)


# --- the reference, which verify compares with


@pytest.mark.parametrize(("name", "language"), [pair for pair in OTHERS if pair[0] != "mms_released_ctc"])
def test_the_reference_computes_each_language_of_the_axis(name: str, language: str) -> None:
    source, arrays = fixture(name), expected(name, language)
    place = recorded_facts(name)["languages"].index(language)
    for part in ("clip0", "clip1"):
        values = torch.from_numpy(arrays[f"{part}/input"])[None]
        outputs = reference_forward(source.tensors, source.cfg, values, None, place)
        assert outputs.logits is not None
        assert relative_error(outputs.logits[0], arrays[f"{part}/logits"]) < BOUND


def test_the_reference_computes_other_activations_between_the_adapters_layers() -> None:
    source = fixture("mms_one_language_ctc")
    values = torch.from_numpy(source.recorded["clip0/input"])[None]
    outputs = [
        reference_forward(source.tensors, {"model": {**source.cfg["model"], "adp_act_fn": name}}, values).encoder_out
        for name in ("relu", "gelu", "selu")
    ]
    assert not any(torch.allclose(one, other) for one, other in ((outputs[0], outputs[1]), (outputs[1], outputs[2])))


@pytest.mark.parametrize(("name", "language"), OTHERS)
def test_verify_finds_the_language_in_the_output_and_no_difference(name: str, language: str, tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "out", language=language)
    assert w2vc.verify(checkpoint(name), tmp_path / "out").findings == ()


def test_verify_finds_a_changed_byte_of_a_language_that_isnt_loaded(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("mms_three_languages_ctc"), tmp_path / "out")
    file = tmp_path / "out" / "adapter.spa.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    (finding,) = w2vc.verify(checkpoint("mms_three_languages_ctc"), tmp_path / "out").findings
    assert "adapter.spa.safetensors" in finding.where
    assert "1 of" in finding.found


def test_verify_misses_a_language_that_isnt_there(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("mms_three_languages_ctc"), tmp_path / "out")
    (tmp_path / "out" / "adapter.fra.safetensors").unlink()
    assert "adapter.fra.safetensors" in [
        finding.where for finding in w2vc.verify(checkpoint("mms_three_languages_ctc"), tmp_path / "out").findings
    ]


# --- what is written


def test_an_adapter_file_holds_the_languages_place_of_each_tensor_bit_for_bit(converted: Callable[[str], Path]) -> None:
    tensors = fixture("mms_three_languages_ctc").tensors
    found = load_file(converted("mms_three_languages_ctc") / "adapter.spa.safetensors")
    for theirs, ours in (("W_a", "linear_1.weight"), ("b_b", "linear_2.bias"), ("ln_W", "norm.weight")):
        assert torch.equal(found[f"wav2vec2.encoder.layers.1.adapter_layer.{ours}"], tensors[LAYER + theirs][2])
    assert torch.equal(found["lm_head.weight"], tensors["w2v_encoder.proj.weight"])
    assert len(found) == 2 * 6 + 2


def test_languages_without_names_have_numbers(tmp_path: Path, converted: Callable[[str], Path]) -> None:
    conversion = w2vc.convert(checkpoint("mms_unnamed_languages_ctc"), tmp_path / "out", language="1")
    assert conversion.plan.languages == ("0", "1", "2")
    for number, name in enumerate(("eng", "fra", "spa")):
        ours = load_file(tmp_path / "out" / f"adapter.{number}.safetensors")
        theirs = load_file(converted("mms_three_languages_ctc") / f"adapter.{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert worst(load(tmp_path / "out"), expected("mms_three_languages_ctc", "fra")) < BOUND


def test_one_language_is_no_choice(tmp_path: Path, converted: Callable[[str], Path]) -> None:
    output = converted("mms_one_language_ctc")
    assert not list(output.glob("adapter.*"))
    assert "target_lang" not in json.loads((output / "tokenizer_config.json").read_bytes())
    assert w2vc.convert(checkpoint("mms_one_language_ctc"), tmp_path / "out", language="fra").plan.language == "fra"


def test_a_layer_without_an_adapter_has_one_that_adds_nothing(converted: Callable[[str], Path]) -> None:
    plan = w2vc.convert(checkpoint("mms_some_layers_ctc"), "unused", dry_run=True).plan
    made = {make.target: make for make in plan.makes}
    assert {name.split("adapter_layer.")[0] for name in made} == {"wav2vec2.encoder.layers.0."}
    assert all("adp_trf_idx" in make.reason for make in made.values())
    adapter = load(converted("mms_some_layers_ctc")).wav2vec2.encoder.layers[0].adapter_layer
    assert torch.count_nonzero(adapter(torch.randn(3, 20))) == 0


def test_the_encoder_alone_has_the_chosen_language_and_no_file_for_others(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("mms_three_languages_ctc"), tmp_path / "out", head="none", language="spa")
    assert not list((tmp_path / "out").glob("adapter.*"))
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    arrays = expected("mms_three_languages_ctc", "spa")
    with torch.no_grad():
        found = model(torch.from_numpy(arrays["clip0/input"])[None]).last_hidden_state[0]
    assert relative_error(found, arrays["clip0/encoder_out"]) < BOUND


def test_two_conversions_are_the_same_byte_for_byte(tmp_path: Path, converted: Callable[[str], Path]) -> None:
    w2vc.convert(checkpoint("mms_released_ctc"), tmp_path / "out")
    names = sorted(path.name for path in converted("mms_released_ctc").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert len([name for name in names if name.startswith("adapter.")]) == 3
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (converted("mms_released_ctc") / name).read_bytes()


def test_half_precision_reaches_the_adapters(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("mms_three_languages_ctc"), tmp_path / "out", dtype="bfloat16")
    found = load_file(tmp_path / "out" / "adapter.fra.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_the_model_card_says_how_the_language_is_exchanged(converted: Callable[[str], Path]) -> None:
    card = (converted("mms_released_ctc") / "README.md").read_text(encoding="utf-8")
    assert "- language: fra, which can be exchanged for eng, uzb-script_latin:" in card
    assert '`model.load_adapter("eng")` and `processor.tokenizer.set_target_lang("eng")`' in card


def test_inspect_lists_the_languages() -> None:
    inspection = w2vc.inspect(checkpoint("mms_released_ctc"))
    assert inspection.values()["languages"] == ["fra", "eng", "uzb-script_latin"]
    assert ("Languages", "3: fra, eng, uzb-script_latin") in list(inspection.lines())


# --- what is refused


def test_a_language_that_isnt_there_is_wrong_usage_and_says_which_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        w2vc.convert(checkpoint("mms_three_languages_ctc"), tmp_path / "out", language="fre")
    assert "Did you mean fra?" in str(error.value)
    assert error.value.advice == "Give one of eng, fra, spa."


def test_a_language_for_a_model_without_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one language only"):
        w2vc.convert(checkpoint("wav2vec2_large_ctc"), tmp_path / "out", language="eng")


def forged(name: str, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    base = forgery.base(checkpoint(name))
    saved = base.saved()
    change(saved)
    path.write_bytes(base.with_saved(saved))
    return path


def test_a_name_that_leads_out_of_the_output_becomes_no_file(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["task"]["multi_corpus_keys"] = "eng,../../fra,spa"

    file = forged("mms_three_languages_ctc", tmp_path / "forged.pt", change)
    assert w2vc.convert(file, tmp_path / "out").plan.languages == ("0", "1", "2")
    assert {path.name for path in tmp_path.iterdir()} == {"forged.pt", "out"}


@pytest.mark.parametrize("keys", ["eng,fra,eng", "eng,,spa", "2,eng"])
def test_names_that_dont_tell_the_languages_apart_give_way_to_numbers(keys: str, tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["task"]["multi_corpus_keys"] = keys

    file = forged("mms_three_languages_ctc", tmp_path / "forged.pt", change)
    assert w2vc.inspect(file).languages == ("0", "1", "2")


def test_places_behind_the_names_have_numbers(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["task"]["multi_corpus_keys"] = " eng , fra"

    file = forged("mms_three_languages_ctc", tmp_path / "forged.pt", change)
    assert w2vc.inspect(file).languages == ("eng", "fra", "2")


def test_more_names_than_places_contradict_each_other(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["task"]["multi_corpus_keys"] = "eng,fra,spa,deu"

    with pytest.raises(InconsistentError, match=r"names 4 languages.*for 3"):
        w2vc.inspect(forged("mms_three_languages_ctc", tmp_path / "forged.pt", change))


def test_tensors_for_other_numbers_of_languages_contradict_each_other(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        model = forgery.model(saved)
        model[LAYER + "b_a"] = forgery.altered(model[LAYER + "b_a"], size=(2, 6))

    with pytest.raises(InconsistentError, match=r"layers\.1\.adapter_layer\.b_a has the shape"):
        w2vc.inspect(forged("mms_three_languages_ctc", tmp_path / "forged.pt", change))


def test_adapters_of_other_sizes_in_each_layer_contradict_each_other(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        model = forgery.model(saved)
        model[LAYER + "W_a"] = forgery.altered(model[LAYER + "W_a"], size=(3, 5, 20))

    with pytest.raises(InconsistentError, match=r"the sizes \[5, 6\]"):
        w2vc.inspect(forged("mms_three_languages_ctc", tmp_path / "forged.pt", change))


def adapters(saved: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = saved["adapter"]
    return found


def test_what_a_released_language_lacks_it_has_from_the_model_as_in_fairseq(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        language = adapters(saved)["eng"]["model"]
        del (language.items if isinstance(language, forgery.Made) else language)[LAYER + "W_a"]

    file = forged("mms_released_ctc", tmp_path / "forged.pt", change)
    w2vc.convert(file, tmp_path / "out", language="uzb-script_latin")
    found = load_file(tmp_path / "out" / "adapter.eng.safetensors")
    own = fixture("mms_released_ctc").tensors[LAYER + "W_a"][0]
    assert torch.equal(found["wav2vec2.encoder.layers.1.adapter_layer.linear_1.weight"], own)


def test_a_released_language_without_a_dictionary_is_missed(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        adapters(saved)["eng"].pop("task_state")

    file = forged("mms_released_ctc", tmp_path / "forged.pt", change)
    with pytest.raises(DictionaryError, match="language eng has no dictionary"):
        w2vc.convert(file, tmp_path / "out")


def test_a_released_language_with_a_tensor_that_transformers_doesnt_exchange_is_refused(tmp_path: Path) -> None:
    norm = "w2v_encoder.w2v_model.encoder.layer_norm.weight"

    def change(saved: dict[str, Any]) -> None:
        language = adapters(saved)["eng"]["model"]
        (language.items if isinstance(language, forgery.Made) else language)[norm] = forgery.model(saved)[norm]

    file = forged("mms_released_ctc", tmp_path / "forged.pt", change)
    with pytest.raises(InconsistentError, match=r"language eng: the tensor .*layer_norm\.weight is none"):
        w2vc.convert(file, tmp_path / "out")
    with pytest.raises(InconsistentError, match="language eng"):
        w2vc.convert(file, tmp_path / "out", language="eng")


def test_a_released_language_with_a_name_that_no_file_may_have_is_refused(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        adapters(saved)["../eng"] = adapters(saved).pop("eng")

    file = forged("mms_released_ctc", tmp_path / "forged.pt", change)
    with pytest.raises(InconsistentError, match="name that no file may have"):
        w2vc.convert(file, tmp_path / "out")


def test_a_released_head_of_another_size_than_its_dictionary_is_refused(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        held = adapters(saved)
        held["eng"]["task_state"], held["fra"]["task_state"] = held["fra"]["task_state"], held["eng"]["task_state"]

    file = forged("mms_released_ctc", tmp_path / "forged.pt", change)
    with pytest.raises(DictionaryError, match=r"27 symbols .*32 rows"):
        w2vc.convert(file, tmp_path / "out")
    with pytest.raises(InconsistentError, match=r"language fra: the tensor w2v_encoder\.proj"):
        w2vc.convert(file, tmp_path / "out", language="uzb-script_latin")


def test_a_blank_weight_is_folded_into_each_languages_head(tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["cfg"]["model"]["blank_weight"] = 1.5

    file = forged("mms_three_languages_ctc", tmp_path / "forged.pt", change)
    w2vc.convert(file, tmp_path / "out")
    bias = fixture("mms_three_languages_ctc").tensors["w2v_encoder.proj.bias"].clone()
    bias[0] += 1.5
    for name in ("model", "adapter.eng", "adapter.spa"):
        assert torch.equal(load_file(tmp_path / "out" / f"{name}.safetensors")["lm_head.bias"], bias)


def test_the_recorded_languages_differ_so_that_a_mix_up_shows() -> None:
    for name in NAMES:
        first, *others = [
            expected(name, language)["clip0/encoder_out"] for language in recorded_facts(name)["languages"]
        ]
        assert all(np.linalg.norm(other - first) / np.linalg.norm(first) > 1e-2 for other in others)


def test_greedy_ids_of_the_recorded_logits_are_the_recorded_ones() -> None:
    for name, language in LANGUAGES:
        ids = expected(name, language)["clip0/logits"].argmax(-1).tolist()
        assert [index for index, _ in groupby(ids) if index] == facts(name, language)["token_ids"][0]
