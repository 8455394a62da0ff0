"""What each row of a family's tables of keys does, one by one: its fields, its limits, and who says its value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import pytest

from tests.conftest import FIXTURES
from w2vc.families import FAMILIES
from w2vc.families.conformer import FAMILY as CONFORMER
from w2vc.families.data2vec_audio import FAMILY as DATA2VEC_AUDIO
from w2vc.families.family import EVERY_HEAD, Family, Head, Key, below, replaced, spelled_out, training, unused
from w2vc.families.hubert import FAMILY as HUBERT
from w2vc.families.hubert.reference import HubertSettings
from w2vc.families.shared.reference import Settings
from w2vc.families.shared.transformer import ACTIVATIONS
from w2vc.families.wav2vec2 import FAMILY as WAV2VEC2
from w2vc.reading.domains import anything, flag

Fields = Mapping[str, tuple[str, ...]]

# transformers/models/wav2vec2/configuration_wav2vec2.py, and the other models' that repeat it.
EXTRACTOR_AND_ENCODER: Fields = {
    "extractor_mode": ("feat_extract_norm",),
    "conv_bias": ("conv_bias",),
    "encoder_layers": ("num_hidden_layers",),
    "encoder_embed_dim": ("hidden_size",),
    "encoder_ffn_embed_dim": ("intermediate_size",),
    "encoder_attention_heads": ("num_attention_heads",),
    "encoder_layerdrop": ("layerdrop",),
    "dropout_input": ("feat_proj_dropout",),
    "conv_pos": ("num_conv_pos_embeddings",),
    "conv_pos_groups": ("num_conv_pos_embedding_groups",),
}
MASKS: Fields = {
    "mask_length": ("mask_time_length",),
    "mask_prob": ("mask_time_prob",),
    "mask_channel_length": ("mask_feature_length",),
    "mask_channel_prob": ("mask_feature_prob",),
}
LOSS: Fields = {
    "dropout_features": ("feat_quantizer_dropout",),
    "final_dim": ("proj_codevector_dim",),
    "logit_temp": ("contrastive_logits_temperature",),
    "latent_vars": ("num_codevectors_per_group",),
    "latent_groups": ("num_codevector_groups",),
    "latent_dim": ("codevector_dim",),
    "num_negatives": ("num_negatives",),
}
DROPOUTS: Fields = {
    "dropout": ("hidden_dropout",),
    "attention_dropout": ("attention_dropout",),
    "activation_dropout": ("activation_dropout",),
}
LAYERS: Fields = {"activation_fn": ("hidden_act",), "layer_norm_first": ("do_stable_layer_norm",)}
# A conformer layer has one dropout for all places.
ONE_DROPOUT: Fields = {
    "dropout": ("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout")
}
OF_ARCHITECTURE: Mapping[str, Fields] = {
    "wav2vec2-conformer": {
        **EXTRACTOR_AND_ENCODER,
        **MASKS,
        **LOSS,
        **ONE_DROPOUT,
        "depthwise_conv_kernel_size": ("conv_depthwise_kernel_size",),
    },
    "hubert": {
        **EXTRACTOR_AND_ENCODER,
        **MASKS,
        **DROPOUTS,
        **LAYERS,
        "conv_pos_batch_norm": ("conv_pos_batch_norm",),
    },
    "data2vec-audio": {**EXTRACTOR_AND_ENCODER, **MASKS, **DROPOUTS, **LAYERS},
    "wav2vec2": {**EXTRACTOR_AND_ENCODER, **MASKS, **LOSS, **DROPOUTS, **LAYERS},
}
LOSS_WEIGHTS: Fields = {"criterion.loss_weights": ("diversity_loss_weight",)}
OF_PRETRAINED: Mapping[str, Fields] = {
    "wav2vec2-conformer": LOSS_WEIGHTS,
    "hubert": {},
    "data2vec-audio": {},
    "wav2vec2": LOSS_WEIGHTS,
}
FINE_TUNING: Fields = {
    "dropout_input": ("feat_proj_dropout",),
    "final_dropout": ("final_dropout",),
    "layerdrop": ("layerdrop",),
    "apply_mask": ("apply_spec_augment",),
    **MASKS,
}


def of_fine_tuned(family: str) -> Fields:
    dropouts = ONE_DROPOUT if family == "wav2vec2-conformer" else DROPOUTS
    own = {f"model.{key}": to for key, to in {**FINE_TUNING, **dropouts}.items()}
    return {**own, "criterion.zero_infinity": ("ctc_zero_infinity",)}


def to_of(rows: Iterable[Key]) -> Fields:
    return {row.name: row.to for row in rows if row.to}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_key_fills_the_fields_that_mean_the_same(family: Family) -> None:
    assert to_of(family.keys.architecture) == OF_ARCHITECTURE[family.name]
    assert to_of(family.keys.pretrained) == OF_PRETRAINED[family.name]
    assert to_of(family.keys.fine_tuned) == of_fine_tuned(family.name)


def every_row(family: Family) -> Iterable[Key]:
    return (*family.keys.architecture, *family.keys.pretrained, *family.keys.fine_tuned)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_convolutions_alone_become_several_fields(family: Family) -> None:
    assert [row.name for row in every_row(family) if row.into is not None] == ["conv_feature_layers"]


SHOWN_BY_TENSORS = {
    *("extractor_mode", "conv_bias", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"),
    *("conv_pos", "conv_pos_groups", "layer_type"),
}
QUANTIZER = {
    *("final_dim", "quantize_targets", "quantize_input", "target_glu", "quantizer_depth"),
    *("latent_vars", "latent_groups", "latent_dim"),
}
OWN_BY_TENSORS = {
    "wav2vec2-conformer": {
        *("encoder_attention_heads", "depthwise_conv_kernel_size", "attn_type", "pos_enc_type"),
        *QUANTIZER,
    },
    "hubert": {"conv_pos_batch_norm", "pos_conv_depth"},
    "data2vec-audio": {"pos_conv_depth"},
    "wav2vec2": {"pos_conv_depth", "model.adp_num", "model.adp_dim", *QUANTIZER},
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_tensors_show_is_measured(family: Family) -> None:
    measured = {row.name for row in every_row(family) if row.tensors is not None}
    assert measured == SHOWN_BY_TENSORS | OWN_BY_TENSORS[family.name]


# A width of 0 or -1 is "as wide as another" in fairseq, and adp_num is -1 without adapters.
WIDTHS = {
    "wav2vec2-conformer": {"final_dim", "latent_dim"},
    "hubert": set[str](),
    "data2vec-audio": set[str](),
    "wav2vec2": {"final_dim", "latent_dim", "model.adp_num"},
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_width_below_one_says_nothing_and_every_other_size_is_compared(family: Family) -> None:
    silent = {row.name: row.silent_below for row in every_row(family) if row.silent_below is not None}
    assert silent == dict.fromkeys(WIDTHS[family.name], 1)


Limits = Mapping[str, tuple[tuple[Any, ...], tuple[Head, ...]]]
PRETRAINING: Limits = {
    "quantize_targets": ((True,), ("pretraining",)),
    "quantize_input": ((False,), EVERY_HEAD),
    "target_glu": ((False,), ("pretraining",)),
    "quantizer_depth": ((0, 1), ("pretraining",)),
    "crop_seq_to_multiple": ((1,), EVERY_HEAD),
}
LIMITS: Mapping[str, Limits] = {
    "wav2vec2-conformer": {**PRETRAINING, "pos_enc_type": (("rel_pos", "rope"), EVERY_HEAD)},
    "hubert": {"pos_conv_depth": ((1,), EVERY_HEAD)},
    "data2vec-audio": {
        "extractor_mode": (("layer_norm",), EVERY_HEAD),
        "layer_norm_first": ((False,), EVERY_HEAD),
    },
    "wav2vec2": {**PRETRAINING, "conv_pos_batch_norm": ((False,), EVERY_HEAD)},
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_limit_is_the_one_of_transformers_class(family: Family) -> None:
    assert {row.name: (row.only, row.heads) for row in every_row(family) if row.only} == LIMITS[family.name]
    assert all(row.heads == EVERY_HEAD for row in every_row(family) if not row.only)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_values_that_transformers_spells_otherwise_are_translated(family: Family) -> None:
    expected: dict[str, Mapping[Any, Any]] = {"extractor_mode": {"default": "group", "layer_norm": "layer"}}
    if family is not CONFORMER:
        expected["activation_fn"] = ACTIVATIONS
    assert {row.name: row.spelled for row in every_row(family) if row.spelled} == expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_key_with_spelled_values_accepts_these_and_no_others(family: Family) -> None:
    for row in every_row(family):
        for value in row.spelled:
            assert row.domain.accept(value) == value
            assert row.domain.accept(value[:-1]) is None


# fairseq draws masks by them, and transformers in one way alone (data_utils.compute_mask_indices).
DRAWN = {
    *("mask_selection", "mask_other", "no_mask_overlap", "mask_min_space"),
    *("mask_channel_selection", "mask_channel_other", "no_mask_channel_overlap", "mask_channel_min_space"),
}
LATER_DRAWN = {"require_same_masks", "mask_dropout", "mask_channel_before"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_how_masks_are_drawn_is_worth_a_note_and_nothing_else_is(family: Family) -> None:
    in_architecture = DRAWN if family is HUBERT else DRAWN | LATER_DRAWN
    fine_tuned = {f"model.{key}" for key in DRAWN | LATER_DRAWN}
    assert {row.name for row in every_row(family) if row.noted} == in_architecture | fine_tuned


IN_TRAINING = {"feature_grad_mult", "checkpoint_activations"}
NEGATIVES = {"negatives_from_everywhere", "cross_sample_negatives", "codebook_negatives", "latent_temp"}
IN_PRETRAINING: Mapping[str, set[str]] = {
    "wav2vec2-conformer": {*IN_TRAINING, *DRAWN, *LATER_DRAWN, *NEGATIVES},
    "wav2vec2": {*IN_TRAINING, *DRAWN, *LATER_DRAWN, *NEGATIVES},
    "hubert": {
        *(*IN_TRAINING, *DRAWN, "dropout_features"),
        *("label_rate", "logit_temp", "target_glu", "skip_masked", "skip_nomask"),
    },
    "data2vec-audio": {
        *(*IN_TRAINING, *DRAWN, *LATER_DRAWN, "dropout_features"),
        *("loss_beta", "loss_scale", "average_top_k_layers", "max_update", "min_target_var", "min_pred_var"),
        *("layer_norm_target_layer", "instance_norm_target_layer", "instance_norm_targets", "layer_norm_targets"),
        *("batch_norm_target_layer", "group_norm_target_layer"),
        *("ema_decay", "ema_end_decay", "ema_anneal_end_step", "ema_transformer_only", "ema_layers_only"),
    },
}
IN_FINE_TUNING = {
    *("no_pretrained_weights", *DRAWN, *LATER_DRAWN, "freeze_finetune_updates", "feature_grad_mult"),
    *("offload_activations", "min_params_to_wrap", "checkpoint_activations", "ddp_backend", "drop_path"),
    *("freeze_regex", "layer_decay", "zero_mask"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_acts_in_training_alone_is_told_from_what_never_acts(family: Family) -> None:
    said = {row.name for row in every_row(family) if row.treatment == "acts in training alone"}
    assert said == IN_PRETRAINING[family.name] | {f"model.{key}" for key in IN_FINE_TUNING}


# ---------------------------------------------------------------------------------------------------------------
# Keys of fairseq's last commit, where a family's own test doesn't compare them

LATER: dict[str, dict[str, Any]] = json.loads((FIXTURES / "fairseq_later_config_keys.json").read_text(encoding="utf-8"))
RECORDED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "fairseq_config_keys.json").read_text(encoding="utf-8"))
REFERENCES = {"_name", "normalize", "data", "ddp_backend", "w2v_path"}


@pytest.mark.parametrize("family", [HUBERT, DATA2VEC_AUDIO], ids=lambda family: family.name)
@pytest.mark.parametrize("section", ["Wav2Vec2AsrConfig", "Wav2Vec2CtcConfig"])
def test_fine_tuning_has_each_key_of_fairseqs_last_commit(section: str, family: Family) -> None:
    rows = {row.name.removeprefix("model."): row.default for row in family.keys.fine_tuned}
    later = {key: default for key, default in LATER[section].items() if key not in REFERENCES}
    assert {key: rows.get(key, ...) for key in later} == later


def test_data2vec_has_each_key_of_fairseqs_last_commit_but_for_its_own_layer() -> None:
    rows = {row.name: row.default for row in DATA2VEC_AUDIO.keys.architecture}
    later = {key: default for key, default in LATER["Wav2Vec2Config"].items() if key not in REFERENCES}
    # Wav2Vec2Config's own default is the one of data2vec, too, wherever both have the key.
    assert {key: rows.get(key, ...) for key in later} == {**later, **_own(RECORDED["Data2VecAudioConfig"], later)}


def _own(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: config[key] for key in keys if key in config}


# TransformerEncoder looks for these in a HubertConfig, which hasn't got them, by getattr with these defaults.
LOOKED_FOR = {
    "layer_type": "transformer",
    "conv_pos_batch_norm": False,
    "pos_conv_depth": 1,
    "depthwise_conv_kernel_size": 31,
    "attn_type": "",
    "pos_enc_type": "abs",
    "max_positions": 100000,
    "fp16": False,
}


def test_what_hubert_lacks_and_its_encoder_looks_for_has_the_defaults_of_looking() -> None:
    rows = {row.name: row.default for row in HUBERT.keys.architecture}
    assert {key: rows.get(key, ...) for key in LOOKED_FOR} == LOOKED_FOR
    own = {row.name: row.default for row in every_row(HUBERT) if row.name.startswith("task.")}
    assert own == {"task.normalize": False, "task.sample_rate": 16000, "task.labels": ""}


def test_only_huberts_labels_may_be_several() -> None:
    for family in FAMILIES:
        accepted = {row.domain.accept(["km", "ltr"]) for row in every_row(family) if row.name == "task.labels"}
        assert accepted == ({"km"} if family is HUBERT else {None})


@pytest.mark.parametrize("family", [CONFORMER, WAV2VEC2], ids=lambda family: family.name)
def test_of_the_losss_weights_the_first_counts(family: Family) -> None:
    (row,) = (row for row in family.keys.pretrained if row.name == "criterion.loss_weights")
    assert (row.domain.accept([0.1, 10]), row.domain.accept([])) == (0.1, 0.0)


def test_the_reference_has_fairseqs_own_defaults() -> None:
    ours = {each.name: each.default for each in fields(Settings)}
    shared = {**LOOKED_FOR, **LATER["Wav2Vec2Config"]}
    assert ours == {key: shared[key] for key in ours}


def test_huberts_reference_has_the_defaults_of_its_own_config_and_of_looking() -> None:
    own = RECORDED["HubertConfig"]
    ours = {each.name: each.default for each in fields(HubertSettings)}
    shared = {**LATER["Wav2Vec2Config"], **LOOKED_FOR}
    assert ours == {key: own.get(key, shared[key]) for key in ours}


# ---------------------------------------------------------------------------------------------------------------
# What rows are made with


@pytest.mark.parametrize(
    ("key", "treatment"),
    [
        (Key("a", 1, anything), "no field"),
        (Key("a", 1, anything, to=("b", "c")), "b, c"),
        (Key("a", 1, anything, to=("b",), tensors=lambda _: 1), "b (by the tensors)"),
        (Key("a", 1, anything, into=lambda _: {}), "several fields"),
        (Key("a", 1, anything, into=lambda _: {}, tensors=lambda _: 1), "several fields (by the tensors)"),
        (Key("a", 1, anything, to=("b",), only=(True, 2)), "must be true or 2"),
        (training("a", 1, "why"), "acts in training alone"),
        (unused("a", 1, "why"), "no field"),
        (Key("a", 1, anything, to=("b",), training=True), "b"),
    ],
)
def test_a_keys_treatment_says_in_a_few_words_what_happens_to_it(key: Key, treatment: str) -> None:
    assert key.treatment == treatment


@pytest.mark.parametrize(("value", "spelled"), [(True, "true"), (False, "false"), ("Gelu", "Gelu"), (1, "1")])
def test_a_cfg_value_is_spelled_as_yaml_does(value: object, spelled: str) -> None:
    assert spelled_out(value) == spelled


def test_rows_of_training_keep_their_reason_and_are_no_note_unless_it_is_said() -> None:
    assert training("a", 2, "why") == Key("a", 2, anything, why="why", training=True, noted=False)
    assert training("a", 2, "why", noted=True).noted
    assert unused("a", 2, "why") == Key("a", 2, anything, why="why")


def test_a_replaced_row_keeps_its_place_and_new_ones_follow() -> None:
    first, second, other, third = unused("a", 1, ""), unused("b", 1, ""), Key("a", 2, flag), unused("c", 3, "")
    assert replaced((first, second), other, third) == (other, second, third)


def test_a_section_goes_before_the_names_and_nothing_else_changes() -> None:
    assert below("model", [Key("a", 2, flag, to=("b",))]) == (Key("model.a", 2, flag, to=("b",)),)
