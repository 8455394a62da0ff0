"""How tables are applied: which family and which stranger a model is, what tensors are called, whose config counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import checkpoint
from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError
from w2vc.families import FAMILIES
from w2vc.families.conformer import FAMILY as CONFORMER
from w2vc.families.conformer import post_norm
from w2vc.families.data2vec_audio import FAMILY as DATA2VEC_AUDIO
from w2vc.families.family import EVERY_HEAD, Evidence, Family, Name, Refusal, Tensors
from w2vc.families.hubert import FAMILY as HUBERT
from w2vc.families.hubert import card
from w2vc.families.hubert.names import names as hubert_names
from w2vc.families.interpreter import (
    Named,
    NameTable,
    carries_architecture,
    describe,
    describe_with,
    encoder_name,
    name_table,
    pattern,
)
from w2vc.families.shared import transformer
from w2vc.families.strangers import stranger_at_once, stranger_in_the_end
from w2vc.families.wav2vec2 import FAMILY as WAV2VEC2
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint

TUNED = "w2v_encoder.w2v_model."


def evidence(*names: str, model: str | None = None, inner: str | None = None) -> Evidence:
    by_name: dict[str, Any] = {name: SimpleNamespace(shape=(1,)) for name in names}
    return Evidence(Tensors(by_name), model, inner, fine_tuned=False)


# ---------------------------------------------------------------------------------------------------------------
# Which family

NORM, FC1 = "encoder.layer_norm.weight", "encoder.layers.0.fc1.weight"
CONV = "encoder.layers.0.conv_module.depthwise_conv.weight"

RECOGNISED: list[tuple[Evidence, Family | None]] = [
    (evidence(NORM, CONV), CONFORMER),
    (evidence(NORM, CONV, model="wav2vec_ctc", inner="wav2vec2"), CONFORMER),
    (evidence(NORM, CONV, inner="wav2vec2x"), None),
    (evidence(CONV), None),
    (evidence(NORM), None),
    (evidence(NORM, FC1), WAV2VEC2),
    *((evidence(NORM, FC1, model=model), WAV2VEC2) for model in ("wav2vec2", "wav2vec_ctc", "wav2vec2_asr")),
    *((evidence(NORM, FC1, inner=inner), WAV2VEC2) for inner in ("wav2vec2", "wav2vec_ctc", "wav2vec2_asr")),
    (evidence(NORM, FC1, model="theirs"), None),
    (evidence(NORM, FC1, inner="theirs"), None),
    (evidence(FC1), None),
    (evidence(FC1, model="hubert"), HUBERT),
    (evidence(FC1, model="hubert_ctc"), HUBERT),
    (evidence(FC1, model="wav2vec_ctc", inner="hubert"), HUBERT),
    (evidence(FC1, "label_embs_concat"), HUBERT),
    (evidence(NORM, FC1, "label_embs_concat", model="wav2vec2"), WAV2VEC2),
    (evidence("label_embs_concat", model="hubert"), None),
    (evidence(FC1, model="data2vec_audio"), DATA2VEC_AUDIO),
    (evidence(FC1, model="wav2vec_ctc", inner="data2vec_audio"), DATA2VEC_AUDIO),
    (evidence(FC1, "_ema.fc1.weight"), DATA2VEC_AUDIO),
    (evidence(NORM, FC1, "_ema.fc1.weight", model="wav2vec2"), WAV2VEC2),
    (evidence(FC1, "my._ema.fc1.weight"), None),
    (evidence("_ema.fc1.weight", model="data2vec_audio"), None),
]


@pytest.mark.parametrize(("found", "family"), RECOGNISED)
def test_a_family_is_told_by_names_of_models_and_tensors(found: Evidence, family: Family | None) -> None:
    assert next((each for each in FAMILIES if each.recognises(found)), None) is family


REGISTERED = {
    "wav2vec2-conformer": ("wav2vec2", "wav2vec_ctc", "lengths", "pretraining"),
    "wav2vec2": ("wav2vec2", "wav2vec_ctc", "lengths", "pretraining"),
    "hubert": ("hubert", "wav2vec_ctc", "fairseq", "none"),
    "data2vec-audio": ("data2vec_audio", "wav2vec_ctc", "lengths", "none"),
}


FACTS = {"encoder_layers": 1, "layer_norm_first": True}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_familys_own_words_are_fairseqs(family: Family) -> None:
    assert (*family.registered, family.stages(FACTS, "none").frame_mask, family.pretrained_head) == REGISTERED[
        family.name
    ]


def test_only_a_hubert_has_a_projection_where_its_tensors_have_one() -> None:
    heads = {family.name: family.further_heads({"projection_width": 5}) for family in FAMILIES}
    assert heads == {family.name: ("projection",) if family is HUBERT else () for family in FAMILIES}
    assert HUBERT.further_heads({"projection_width": None}) == ()


def test_only_adapters_have_languages() -> None:
    for family in FAMILIES:
        found = family.languages({"task.multi_corpus_keys": "eng,fra"})
        assert found == (("eng", "fra") if family is WAV2VEC2 else ())


# ---------------------------------------------------------------------------------------------------------------
# Strangers

_READY = "transformers has a class for it, and the authors' models are published for that."
_VIDEO = "transformers has no class with a video branch."
_SECOND = "transformers has no class for data2vec 2.0; "
_LEGACY = "Give the legacy file of the same training, "
_SPEAKER = "ContentVec's own training checkpoint, with layers that depend on the speaker"
BY_NAME = {
    "hubert_seq2seq": ("a fine-tuned HuBERT with a decoder", ""),
    "contentvec": (_SPEAKER, _LEGACY),
    "av_hubert": ("AV-HuBERT", _VIDEO),
    "av_hubert_ctc": ("AV-HuBERT", _VIDEO),
    "av_hubert_seq2seq": ("AV-HuBERT", _VIDEO),
    "data2vec_multi": ("data2vec 2.0", _SECOND),
    "data2vec2": ("data2vec 2.0", _SECOND),
    "data2vec_text": ("data2vec for text", ""),
    "data2vec_vision": ("data2vec for images", ""),
    "wav2vec_seq2seq": ("an encoder-decoder (wav2vec_seq2seq)", ""),
    "wav2vec_u": ("wav2vec-U", ""),
    "wav2vec": ("wav2vec 1", ""),
    "wavlm": ("WavLM", _READY),
    "unispeech": ("UniSpeech", _READY),
    "unispeech_sat": ("UniSpeech", _READY),
}
BY_TENSOR = {
    "encoder.layers.0.layer_norm.weight_ln.weight": (_SPEAKER, _LEGACY),
    "encoder.layers.0.self_attn.grep_linear.weight": ("WavLM", _READY),
    "encoder.layer_norm_for_extract.weight": ("UniSpeech-SAT", _READY),
    "spk_proj.weight": ("UniSpeech-SAT", _READY),
    "feature_extractor_video.proj.weight": ("AV-HuBERT", _VIDEO),
    "modality_encoders.AUDIO.x": ("data2vec 2.0", _SECOND),
    "regression_head.0.weight": ("data2vec for text", ""),
}
IN_THE_END = {
    "generator.proj.1.weight": "wav2vec-U",
    "decoder.layers.0.fc1.weight": "an encoder-decoder (wav2vec_seq2seq)",
    "flat_param_0": "one shard of a model that was saved in shards",
    "encoder.layers.0.fc1.weight": "a kind of wav2vec2 with transformer layers",
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_stranger_is_known_by_its_own_name_or_by_that_of_the_model_in_it(name: str) -> None:
    what, advice = BY_NAME[name]
    for found in (evidence("x", model=name), evidence("x", model="wav2vec_ctc", inner=name)):
        said = stranger_at_once(found)
        assert said is not None
        assert said[0] == f"cfg.model._name is {name}: this is {what}"
        assert said[1].startswith(advice)
        assert bool(said[1]) == bool(advice)


@pytest.mark.parametrize("tensor", BY_TENSOR)
def test_a_stranger_is_known_by_a_tensor_that_only_it_has(tensor: str) -> None:
    what, advice = BY_TENSOR[tensor]
    said = stranger_at_once(evidence("x", tensor))
    assert said is not None
    assert said[0] == f"the tensor {tensor} says that this is {what}"
    assert said[1].startswith(advice)
    assert bool(said[1]) == bool(advice)


@pytest.mark.parametrize("tensor", IN_THE_END)
def test_what_no_family_knows_is_called_by_what_its_tensors_tell(tensor: str) -> None:
    assert stranger_at_once(evidence("x", tensor)) is None
    assert stranger_in_the_end(evidence("x", tensor)) == (
        f"the tensor {tensor} says that this is {IN_THE_END[tensor]}",
        "",
    )


@pytest.mark.parametrize("name", ["hubert", "hubert_ctc"])
def test_a_hubert_is_a_stranger_with_conformer_layers_alone(name: str) -> None:
    assert stranger_at_once(evidence(FC1, model=name)) is None
    said = stranger_at_once(evidence(FC1, CONV, model=name))
    assert said is not None
    assert said[0] == f"the tensor {CONV} says that this is a HuBERT with conformer layers"
    assert said[1] == "No class of transformers has a positional convolution before conformer layers."
    assert stranger_at_once(evidence(FC1, CONV, model="wav2vec2")) is None


def test_a_model_that_nothing_tells_is_no_stranger() -> None:
    assert stranger_at_once(evidence("x", model="theirs")) is None
    assert stranger_in_the_end(evidence("x", model="theirs")) is None


# ---------------------------------------------------------------------------------------------------------------
# Whose config counts


def pretrained() -> Checkpoint:
    return read_checkpoint(checkpoint("wav2vec2_base_pretraining"))


def fine_tuned() -> Checkpoint:
    return read_checkpoint(checkpoint("hubert_own_recipe_ctc"))


def its_pretrained() -> Checkpoint:
    return read_checkpoint(checkpoint("hubert_own_recipe_ctc").with_name("pretrained.pt"))


def refused(found: Checkpoint) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as caught:
        describe(found)
    return caught.value


def test_a_shard_is_refused_with_the_script_that_merges_them() -> None:
    error = refused(replace(pretrained(), is_shard=True))
    assert error.problems == ("the checkpoint is one shard of a model (shard_metadata is there)",)
    assert "consolidate_fsdp_shards.py" in error.advice


def test_an_unknown_model_is_refused_by_its_name_and_told_what_converts() -> None:
    some = pretrained()
    tensor = next(iter(some.tensors.values()))
    error = refused(replace(some, cfg={"model": {"_name": "theirs"}}, tensors={"x": tensor}))
    assert error.problems == ("this is none of the models that w2vc knows (cfg.model._name is 'theirs')",)
    assert error.advice == "w2vc converts these: wav2vec2-conformer, hubert, data2vec-audio, wav2vec2."
    assert "says that this is" in refused(replace(some, cfg={}, tensors={"decoder.x": tensor})).problems[0]


def test_a_name_that_is_no_text_is_none() -> None:
    some = pretrained()
    assert "_name is None" in refused(replace(some, cfg={"model": {"_name": 3}}, tensors={})).problems[0]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/data/hub/pretrained.pt", " 'pretrained.pt'"),
        ("C:\\data\\pretrained.pt", " 'pretrained.pt'"),
        ("pretrained.pt", " 'pretrained.pt'"),
        (3, ""),
        (None, ""),
        ("/data/", ""),
    ],
)
def test_a_missing_architecture_is_asked_for_by_the_files_name_alone(path: object, named: str) -> None:
    found: Any = fine_tuned()
    cfg = {**found.cfg, "model": {**found.cfg["model"], "w2v_path": path}}
    with pytest.raises(InconsistentError) as caught:
        describe(replace(found, cfg=cfg))
    assert f"it is in the pretrained checkpoint{named} that it was" in caught.value.problems[0]
    assert caught.value.advice == "Give that checkpoint with --pretrained CHECKPOINT."


def test_an_architecture_is_carried_in_w2v_args_or_by_a_pretrained_cfg() -> None:
    some, tuned = pretrained(), fine_tuned()
    assert carries_architecture(some)
    assert not carries_architecture(tuned)
    assert carries_architecture(replace(some, form="theirs"))
    assert not carries_architecture(replace(some, form="theirs", cfg={}))
    # fairseq's own without a cfg has its defaults.
    assert carries_architecture(replace(some, cfg={}))
    args = {"model": {"w2v_args": {"model": {"_name": "hubert"}}}}
    assert carries_architecture(replace(tuned, cfg=args))
    without: list[dict[str, Any]] = [{}, {"model": None}, {"model": {"w2v_args": None}}]
    for empty in (*without, {"model": {"w2v_args": {"model": {}}}}):
        assert not carries_architecture(replace(tuned, cfg=empty))


def test_the_pretrained_ones_cfg_takes_the_place_of_w2v_args_and_nothing_else() -> None:
    tuned, own = fine_tuned(), its_pretrained()
    whole, description = describe_with(tuned, own)
    cfg: Any = whole.cfg
    assert cfg["model"]["w2v_args"] == own.cfg
    theirs: Any = tuned.cfg
    assert {key: value for key, value in cfg["model"].items() if key != "w2v_args"} == {
        key: value for key, value in theirs["model"].items() if key != "w2v_args"
    }
    assert {key: cfg[key] for key in cfg if key != "model"} == {key: theirs[key] for key in theirs if key != "model"}
    assert description.own_head == "ctc"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("wav2vec2_base_pretraining", ("is a pretrained wav2vec2, and", "was fine-tuned from a pretrained hubert.")),
        ("hubert_ctc", ("is a fine-tuned hubert, and", "was fine-tuned from a pretrained hubert.")),
    ],
)
def test_what_it_wasnt_fine_tuned_from_is_refused(other: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InconsistentError) as caught:
        describe_with(fine_tuned(), read_checkpoint(checkpoint(other)))
    assert all(word in caught.value.problems[0] for word in words), caught.value.problems
    assert caught.value.advice == "Give the checkpoint that the model was fine-tuned from with --pretrained."


def test_an_encoder_of_another_family_is_refused() -> None:
    bare = replace(pretrained(), cfg={}, form="theirs")
    with pytest.raises(InconsistentError) as caught:
        describe_with(bare, read_checkpoint(checkpoint("relative_pretraining")))
    assert "is a pretrained wav2vec2-conformer, and" in caught.value.problems[0]
    assert caught.value.problems[0].endswith("has the encoder of wav2vec2.")
    assert caught.value.advice == "Give the checkpoint that the encoder was made from with --pretrained."


def test_where_the_file_says_it_itself_another_is_wrong_usage() -> None:
    found = replace(pretrained(), path=Path("a.pt"))
    with pytest.raises(UsageError) as caught:
        describe_with(found, pretrained())
    assert caught.value.problems == ("--pretrained is given, but a.pt carries its architecture itself.",)


def test_a_config_has_the_fields_of_its_head_alone() -> None:
    description = describe(pretrained())
    alone, whole = description.config("none", "float16"), description.config("pretraining", "float32")
    assert whole.keys() - alone.keys() == {
        *("num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim"),
        *("contrastive_logits_temperature", "num_negatives", "diversity_loss_weight"),
    }
    assert "vocab_size" not in whole
    assert (alone["architectures"], alone["torch_dtype"]) == (["Wav2Vec2Model"], "float16")
    assert whole["model_type"] == "wav2vec2"


def test_refusals_concern_the_heads_that_they_name() -> None:
    one, every = Refusal("a", "b", ("pretraining",)), Refusal("c", "d")
    description = replace(describe(pretrained()), refusals=(one, every))
    assert description.refusals_for("pretraining") == (one, every)
    assert description.refusals_for("none") == (every,)
    assert every.heads == EVERY_HEAD == ("ctc", "pretraining", "projection", "none")


def test_a_descriptions_words_are_its_facts() -> None:
    facts: Mapping[str, Any] = {
        "vocabulary": 32,
        "task.labels": "ltr",
        "task.normalize": True,
        "task.sample_rate": 8000,
    }
    found = replace(describe(pretrained()), facts=facts)
    assert (found.vocabulary, found.labels, found.normalize, found.sample_rate) == (32, "ltr", True, 8000)
    assert replace(found, facts={"task.labels": ""}).labels is None


def test_of_fine_tunings_own_values_the_architectures_are_told_to_give_way() -> None:
    description = describe(read_checkpoint(checkpoint("wav2vec2_base_ctc")))
    reports = {report.path: report for report in description.keys}
    inner = "model.w2v_args.model"
    for key in ("dropout", "attention_dropout", "dropout_input", "mask_prob", "encoder_layerdrop"):
        report = reports[f"{inner}.{key}"]
        assert (report.treatment, report.why) == ("no field", "fine-tuning has its own value")
    assert reports["model.dropout"].treatment == "hidden_dropout"
    assert reports[f"{inner}.encoder_layers"].treatment == "num_hidden_layers (by the tensors)"
    assert reports[f"{inner}.encoder_layers"].value == description.facts["encoder_layers"]
    assert len(description.keys) == len(WAV2VEC2.keys.architecture) + len(WAV2VEC2.keys.fine_tuned)


@pytest.mark.parametrize(("said", "is_noted"), [(-1, False), (0, False), (1, True), (2, True)])
def test_a_width_that_means_as_wide_as_another_is_no_contradiction(said: int, is_noted: bool) -> None:
    found: Any = pretrained()
    changed = replace(found, cfg={**found.cfg, "model": {**found.cfg["model"], "final_dim": said}})
    notes = [note for note in describe(changed).notes if note.startswith("cfg.model.final_dim is ")]
    assert len(notes) == is_noted


# ---------------------------------------------------------------------------------------------------------------
# What tensors are called


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("a.{layer}.b", "a.0.b", {"layer": "0"}),
        ("a.{layer}.b", "a.99999.b", {"layer": "99999"}),
        ("a.{layer}.b", "a.100000.b", None),
        ("a.{layer}.b", "a.00.b", None),
        ("a.{layer}.b", "axb", None),
        ("a.{conv}.b", "a.x.b", None),
        ("a.{block}.b", "a.12.b", {"block": "12"}),
        ("a.{parameter}", "a.weight_g2", {"parameter": "weight_g2"}),
        ("a.{parameter}", "a._x", {"parameter": "_x"}),
        ("a.{parameter}", "a.0", None),
        ("a.{parameter}", "a.Weight", None),
        ("a.{parameter}", "a.b.c", None),
        ("a.{parameter}", "a.w\N{LATIN SMALL LETTER E WITH ACUTE}", None),
        ("a.{rest}", "a.b.0.c", {"rest": "b.0.c"}),
        ("a.{rest}", "a.", None),
    ],
)
def test_a_placeholder_matches_one_part_of_a_name(name: str, source: str, found: Mapping[str, str] | None) -> None:
    match = pattern(name).fullmatch(source)
    assert (None if match is None else match.groupdict()) == found


TABLE = NameTable(
    (
        Name("encoder", "a.{layer}.{parameter}", "b.{layer}.{parameter}", shift=1, by_language=True),
        Name("encoder", "c.{block}.x", "d.{block}.x", unless_there="not needed", shift=1),
        Name("ctc", "w2v_encoder.proj.{parameter}", "lm_head.{parameter}"),
        Name("pretraining", "e.{rest}", None, "no place"),
    )
)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("a.0.weight", Named("encoder", "p.b.1.weight", "", "", by_language=True)),
        (f"{TUNED}a.9.bias", Named("encoder", "p.b.10.bias", "", "", by_language=True)),
        # Only layers are shifted.
        ("c.3.x", Named("encoder", "p.d.3.x", "", "not needed")),
        ("w2v_encoder.proj.bias", Named("ctc", "lm_head.bias", "", "")),
        ("e.f.g", Named("pretraining", None, "no place", "")),
        ("f", None),
    ],
)
def test_a_row_says_part_name_and_reason(source: str, named: Named | None) -> None:
    assert TABLE.named(source, "p.") == named


def test_the_prefix_of_fine_tuning_is_taken_off_once() -> None:
    assert encoder_name(f"{TUNED}{TUNED}a") == f"{TUNED}a"
    assert encoder_name("w2v_encoder.proj.bias") == "w2v_encoder.proj.bias"


def test_a_table_is_compiled_once() -> None:
    rows = (Name("encoder", "a", "b"),)
    assert name_table(rows) is name_table(rows)


NORM_FACTS = {"conv_pos_batch_norm": True}


@pytest.mark.parametrize(
    ("family", "facts", "source", "target"),
    [
        (HUBERT, {"conv_pos_batch_norm": True}, "encoder.pos_conv.0.bias", "batch_norm.bias"),
        (HUBERT, {"conv_pos_batch_norm": True}, "encoder.pos_conv.1.weight", "conv.weight"),
        (HUBERT, {"conv_pos_batch_norm": False}, "encoder.pos_conv.0.weight_g", "conv.weight_g"),
        (WAV2VEC2, {"pos_conv_depth": 1}, "encoder.pos_conv.0.weight_g", "conv.weight_g"),
        (WAV2VEC2, {"pos_conv_depth": 2}, "encoder.pos_conv.1.0.bias", "layers.1.conv.bias"),
        (DATA2VEC_AUDIO, {}, "encoder.pos_conv.1.0.bias", "layers.1.conv.bias"),
    ],
)
def test_the_positional_convolution_is_named_by_its_kind(
    family: Family, facts: Mapping[str, Any], source: str, target: str
) -> None:
    named = name_table(family.names(facts)).named(source, "")
    assert named is not None
    assert named.target == f"encoder.pos_conv_embed.{target}"


WEIGHT_NORM = "encoder.pos_conv.0.parametrizations.weight.original"


@pytest.mark.parametrize(("number", "factor"), [(0, "weight_g"), (1, "weight_v")])
def test_torchs_newer_names_of_weight_norm_are_the_same_factors(number: int, factor: str) -> None:
    for family, facts in ((HUBERT, {"conv_pos_batch_norm": False}), (WAV2VEC2, {"pos_conv_depth": 1})):
        named = name_table(family.names(facts)).named(f"{WEIGHT_NORM}{number}", "")
        assert named is not None
        assert named.target == f"encoder.pos_conv_embed.conv.{factor}"


# Part of the model, and why it is left out, for tensors that no converted model has.
DROPPED = [
    (DATA2VEC_AUDIO, {}, "_ema.fc1.weight", "encoder", "the teacher of pretraining, a moving average"),
    (DATA2VEC_AUDIO, {}, "final_proj.weight", "encoder", "predicts the teacher's states"),
    (DATA2VEC_AUDIO, {}, "final_proj.0.bias", "encoder", "predicts the teacher's states"),
    (DATA2VEC_AUDIO, {}, "encoder.pos_conv.0.weight_g", "encoder", "has no place"),
    (DATA2VEC_AUDIO, {}, f"{WEIGHT_NORM}1", "encoder", "has no place"),
    (HUBERT, NORM_FACTS, "label_embs_concat", "encoder", "the pretraining loss alone"),
    (HUBERT, NORM_FACTS, "target_glu.0.weight", "encoder", "the pretraining loss alone"),
    (WAV2VEC2, {"pos_conv_depth": 1}, "target_glu.0.weight", "pretraining", "a GLU over the targets"),
    (WAV2VEC2, {"pos_conv_depth": 1}, "quantizer.weight_proj.0.0.bias", "pretraining", "a deep quantizer"),
    (WAV2VEC2, {"pos_conv_depth": 1}, "quantizer.weight_proj.1.bias", "pretraining", "a deep quantizer"),
    (CONFORMER, {"layer_norm_first": True, "encoder_layers": 2}, "encoder.pos_conv.1.0.bias", "encoder", "not used"),
]


@pytest.mark.parametrize(("family", "facts", "source", "part", "reason"), DROPPED)
def test_what_has_no_place_is_dropped_with_the_part_that_it_belongs_to(
    family: Family, facts: Mapping[str, Any], source: str, part: str, reason: str
) -> None:
    named = name_table(family.names(facts)).named(source, "p.")
    assert named is not None
    assert (named.part, named.target) == (part, None)
    assert named.reason.startswith(reason)


def test_a_projection_is_no_part_of_a_huberts_encoder() -> None:
    named = name_table(hubert_names(NORM_FACTS)).named("final_proj.weight", "hubert.")
    assert named == Named("projection", "final_proj.weight", "", "")


def test_a_mask_embedding_isnt_needed_where_nothing_is_masked() -> None:
    for family, facts in ((HUBERT, NORM_FACTS), (WAV2VEC2, {"pos_conv_depth": 1}), (DATA2VEC_AUDIO, {})):
        named = name_table(family.names(facts)).named("mask_emb", "")
        assert named is not None
        assert named.unless_there == "transformers has no place for it where both mask probabilities are 0"


# ---------------------------------------------------------------------------------------------------------------
# What families say in words


@pytest.mark.parametrize(
    ("facts", "summary", "keys"),
    [
        ({}, "post-norm, gelu", []),
        ({"pos_conv_depth": 2}, "post-norm, gelu, positional convolution of 2 blocks", []),
        ({"layer_norm_first": True}, "pre-norm, gelu", []),
        (
            {"pos_conv_depth": 2, "layer_norm_first": True},
            "pre-norm, gelu, positional convolution of 2 blocks",
            ["cfg.model.pos_conv_depth is 2 and layer_norm_first is true"],
        ),
        (
            {"pos_conv_depth": 2, "extractor_mode": "default"},
            "post-norm, gelu, positional convolution of 2 blocks",
            ["cfg.model.pos_conv_depth is 2 and extractor_mode is default"],
        ),
        ({"extractor_mode": "default"}, "post-norm, gelu", []),
    ],
)
def test_a_deep_positional_convolution_is_named_and_refused_where_transformers_lacks_it(
    facts: Mapping[str, Any], summary: str, keys: list[str]
) -> None:
    every = {
        "section": "model",
        "layer_norm_first": False,
        "activation_fn": "gelu",
        "pos_conv_depth": 1,
        "extractor_mode": "layer_norm",
        "adapter_layers": frozenset(),
        **facts,
    }
    assert transformer.summary(every) == summary
    assert [refusal.key for refusal in WAV2VEC2.refusals(every)] == keys


@pytest.mark.parametrize(("depth", "keys"), [(1, ["cfg.model.pos_conv_depth is 1"]), (2, [])])
def test_a_data2vec_of_one_block_is_refused(depth: int, keys: list[str]) -> None:
    found = DATA2VEC_AUDIO.refusals({"section": "model", "pos_conv_depth": depth})
    assert [refusal.key for refusal in found] == keys


# TransformerEncoder.__init__: max(3, conv_pos // depth).
@pytest.mark.parametrize(
    ("conv_pos", "depth", "kernel"), [(95, 5, 19), (128, 5, 25), (16, 5, 3), (20, 5, 4), (1, 2, 3)]
)
def test_blocks_share_the_positional_convolutions_kernel(conv_pos: int, depth: int, kernel: int) -> None:
    fields = DATA2VEC_AUDIO.derived({"conv_pos": conv_pos, "pos_conv_depth": depth, "vocabulary": 7})
    assert fields == {"vocab_size": 7, "num_conv_pos_embeddings": depth, "conv_pos_kernel_size": kernel}


@pytest.mark.parametrize(("layers", "taken"), [(2, 2), (9, 9), (12, 9)])
def test_the_cards_example_takes_a_layer_that_there_is(layers: int, taken: int) -> None:
    snippets = card.snippets({"encoder_layers": layers})
    assert list(snippets) == ["projection"]
    assert f"output.hidden_states[{taken}])" in snippets["projection"]
    assert card.notes({}, "none") == card.notes({}, "ctc") == ()
    assert [note.partition(" ")[0] for note in card.notes({}, "projection")] == ["of", "stock"]


def test_a_post_norm_models_notes_have_its_own_numbers() -> None:
    notes = post_norm.notes({"encoder_layers": 12})
    assert "the model has 13 layers, one more than fairseq's post-norm 12" in notes[0]
    assert "for k up to 11" in notes[1]
    assert "encoder.layers.12.final_layer_norm" in notes[4]


def test_tables_of_keys_have_no_key_twice() -> None:
    for family in FAMILIES:
        for rows in (family.keys.architecture, family.keys.pretrained, family.keys.fine_tuned):
            assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("encoder.layer_norm.bias", "encoder.layers.0.final_layer_norm.bias"),
        ("encoder.layers.0.final_layer_norm.bias", "encoder.layers.1.final_layer_norm.bias"),
        ("encoder.layers.1.final_layer_norm.bias", "encoder.layer_norm.bias"),
        ("encoder.layers.0.ffn1.w_1.bias", "encoder.layers.1.ffn1.intermediate_dense.bias"),
        ("encoder.layers.1.ffn1.w_1.bias", "encoder.layers.2.ffn1.intermediate_dense.bias"),
    ],
)
def test_a_post_norm_models_layers_follow_the_one_in_front(source: str, target: str) -> None:
    named = name_table(CONFORMER.names({"layer_norm_first": False, "encoder_layers": 2})).named(source, "")
    assert named is not None
    assert named.target == target


def test_data2vec_alone_has_one_mask_at_least() -> None:
    facts = {"pos_conv_depth": 2}
    least = {family.name: family.target(facts).constants["mask_time_min_masks"] for family in FAMILIES}
    # A wav2vec 2.0 with a deep positional convolution is in data2vec's class, and masks as itself.
    assert least == {"wav2vec2-conformer": 2, "hubert": 2, "data2vec-audio": 1, "wav2vec2": 2}
