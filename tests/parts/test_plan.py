"""What is decided before a byte is written: heads, dtypes, free fields, vocabularies, languages, the card."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import checkpoint
from w2vc.errors import DictionaryError, InconsistentError, UnsupportedModelError, UsageError
from w2vc.families import FAMILIES
from w2vc.families.conformer import FAMILY as CONFORMER
from w2vc.families.conformer.tensors import TARGET as CONFORMER_TARGET
from w2vc.families.data2vec_audio.tensors import OWN_TARGET as DATA2VEC_AUDIO
from w2vc.families.family import FirstRow, Refusal, Scale
from w2vc.families.hubert import FAMILY as HUBERT
from w2vc.families.hubert.tensors import TARGET as HUBERT_TARGET
from w2vc.families.interpreter import Description, describe
from w2vc.families.shared.tensors import FREE
from w2vc.families.wav2vec2.tensors import TARGET as WAV2VEC2
from w2vc.options import Options
from w2vc.planning import languages as spoken
from w2vc.planning.languages import Languages, in_one_language
from w2vc.planning.model_card import model_card
from w2vc.planning.overrides import overrides, read_config
from w2vc.planning.plan import (
    Make,
    Move,
    Plan,
    _language_notes,
    _refuse,
    _written_dtype,
    chosen_head,
    different,
    make_plan,
)
from w2vc.planning.preparation import find_dictionary, head_for, prepare
from w2vc.planning.processor import can_be_nested, preprocessor_config, tokenizer_config, vocabulary
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint
from w2vc.reading.dictionary import Dictionary
from w2vc.reading.domains import count, flag, number, positive, probability, size, sizes, texts

BASE, CTC = "wav2vec2_base_pretraining", "wav2vec2_base_ctc"


@functools.cache
def read(name: str) -> Checkpoint:
    return read_checkpoint(checkpoint(name))


@functools.cache
def description(name: str) -> Description:
    return describe(read(name))


@functools.cache
def planned(name: str) -> Plan:
    own = description(name)
    return make_plan(read(name), own, read(name).dictionary, own.own_head, "float32")


# ---------------------------------------------------------------------------------------------------------------
# Heads


@pytest.mark.parametrize(
    ("name", "wanted", "head"),
    [
        *((BASE, wanted, "pretraining") for wanted in ("auto", "pretraining")),
        *((CTC, wanted, "ctc") for wanted in ("auto", "ctc")),
        *((name, "none", "none") for name in (BASE, CTC, "hubert")),
        ("hubert", "auto", "none"),
        ("hubert", "projection", "projection"),
        # data2vec's class has no pretraining head.
        ("wav2vec2_deep_pos_conv_pretraining", "auto", "none"),
    ],
)
def test_a_head_is_the_models_own_or_the_one_asked_for(name: str, wanted: str, head: str) -> None:
    assert chosen_head(description(name), wanted) == head


@pytest.mark.parametrize(
    ("name", "wanted", "problem", "advice"),
    [
        (BASE, "ctc", "--head is ctc, which this checkpoint hasn't got", "Give --head pretraining or --head none."),
        (
            CTC,
            "projection",
            "--head is projection, which this checkpoint hasn't got",
            "Give --head ctc or --head none.",
        ),
        ("hubert", "ctc", "--head is ctc, which this checkpoint hasn't got", "Give --head none or --head projection."),
        (BASE, "CTC", "--head is CTC", "Give auto, ctc, pretraining, projection or none."),
        (
            "wav2vec2_deep_pos_conv_pretraining",
            "pretraining",
            "--head is pretraining, but transformers has no class with this head for a data2vec-audio",
            "Give --head none for the encoder alone.",
        ),
    ],
)
def test_a_head_that_isnt_there_is_refused_with_those_that_are(
    name: str, wanted: str, problem: str, advice: str
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen_head(description(name), wanted)
    assert (caught.value.problems, caught.value.advice) == ((problem,), advice)


@pytest.mark.parametrize(
    ("form", "own", "given", "wanted", "head"),
    [
        (None, False, False, "auto", "ctc"),
        ("theirs", False, False, "auto", "none"),
        ("theirs", False, True, "auto", "ctc"),
        ("theirs", True, False, "auto", "ctc"),
        ("theirs", False, False, "ctc", "ctc"),
    ],
)
def test_of_somebody_elses_model_the_encoder_is_taken_unless_there_is_a_dictionary(
    form: str | None, own: bool, given: bool, wanted: Any, head: str
) -> None:
    found = read(CTC)
    found = replace(found, form=form or found.form, dictionary=Dictionary(("<s>",), "x") if own else None)
    options = Options(head=wanted, dictionary=Path("dict.ltr.txt") if given else None)
    assert head_for(found, description(CTC), options) == head


def test_a_dictionary_makes_no_head_of_a_model_without_one() -> None:
    found = replace(read(BASE), form="theirs", dictionary=Dictionary(("<s>",), "x"))
    assert head_for(found, description(BASE), Options()) == "none"


REFUSALS = {
    "the head alone": ((Refusal("a", "why", ("ctc",)),), "Use --head none to convert the encoder alone"),
    "the encoder": ((Refusal("a", "why"),), "Stock transformers can't run this model"),
    "both": ((Refusal("a", "why", ("ctc",)), Refusal("b", "why")), "Stock transformers can't run this model"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_says_whether_the_encoder_alone_would_convert(what: str) -> None:
    refusals, advice = REFUSALS[what]
    found = replace(description(CTC), refusals=refusals)
    with pytest.raises(UnsupportedModelError) as caught:
        _refuse(found, "ctc")
    assert caught.value.problems == tuple(f"{refusal.key}: why" for refusal in refusals)
    assert caught.value.advice.startswith(advice)
    if what == "the head alone":
        _refuse(found, "none")


# ---------------------------------------------------------------------------------------------------------------
# Dtypes


@pytest.mark.parametrize(
    ("dtypes", "wanted", "written"),
    [
        (("float16", "int64"), "keep", "float16"),
        (("bfloat16", "int32", "bool", "uint8", "int8", "int16"), "keep", "bfloat16"),
        (("float16", "bfloat16"), "keep", "float32"),
        (("float16", "float32"), "keep", "float32"),
        (("float64",), "keep", "float32"),
        (("int64",), "keep", "float32"),
        (("float16",), "float32", "float32"),
        (("float16",), "bfloat16", "bfloat16"),
    ],
)
def test_weights_keep_a_half_precision_only_where_all_have_it(
    dtypes: tuple[str, ...], wanted: Any, written: str
) -> None:
    tensor = next(iter(read(CTC).tensors.values()))
    assert _written_dtype([replace(tensor, dtype=dtype) for dtype in dtypes], wanted) == written


def test_a_plan_is_exact_where_no_weight_loses_a_bit() -> None:
    plan = planned(CTC)
    first = plan.moves[0]
    half = replace(first, dtype="float16")
    assert plan.is_exact
    assert not replace(plan, tensors=(first, half)).is_exact
    assert replace(plan, tensors=(replace(half, source=replace(first.source, dtype="float16")),)).is_exact
    made = Make("a", (3, 5), "float16", "zeros", "why")
    assert (made.nbytes, replace(made, dtype="float32").nbytes, replace(made, shape=()).nbytes) == (30, 60, 2)
    both = replace(plan, tensors=(first, made))
    assert (both.moves, both.makes) == ((first,), (made,))
    assert both.weights == {"model.safetensors": (first, made)}
    assert replace(both, adapters={"x": (made,)}).weights["x"] == (made,)


def test_an_edit_of_the_first_row_is_told_from_one_of_the_whole() -> None:
    move = planned(CTC).moves[0]
    row = FirstRow("add", 1.0)
    assert replace(move, edit=row).first_row == row
    assert replace(move, edit=Scale(2.0)).first_row is None


# ---------------------------------------------------------------------------------------------------------------
# Tensors that don't fit


def problems_of(name: str, changed: Checkpoint) -> tuple[str, ...]:
    with pytest.raises(InconsistentError) as caught:
        make_plan(changed, description(name), read(name).dictionary, description(name).own_head, "float32")
    return caught.value.problems


NORM = "w2v_encoder.w2v_model.encoder.layer_norm.weight"


def with_tensor(name: str, tensor: str, **changes: Any) -> Checkpoint:
    found = read(name)
    return replace(found, tensors={**found.tensors, tensor: replace(found.tensors[tensor], **changes)})


def test_every_tensor_has_the_targets_shape_and_kind() -> None:
    problems = problems_of(CTC, with_tensor(CTC, NORM, shape=(3,), dtype="int64"))
    assert problems == (
        f"the tensor {NORM} has the shape [3], but wav2vec2.encoder.layer_norm.weight has [20]",
        f"the tensor {NORM} holds int64, which wav2vec2.encoder.layer_norm.weight can't",
    )
    counted = next(name for name in read("relative_ctc").tensors if name.endswith("num_batches_tracked"))
    assert len(problems_of("relative_ctc", with_tensor("relative_ctc", counted, dtype="float32"))) == 1


def test_a_tensor_that_the_table_doesnt_know_is_named_as_the_file_names_it() -> None:
    found = read(CTC)
    more = replace(found.tensors[NORM], name="zebra", prefix="net.")
    assert problems_of(CTC, replace(found, tensors={**found.tensors, "zebra": more})) == (
        "the tensor net.zebra [20] is not one of a wav2vec2's",
    )


def test_two_tensors_for_one_place_are_a_problem() -> None:
    found = read(CTC)
    second = "w2v_encoder.w2v_model.encoder.pos_conv.0.parametrizations.weight.original0"
    first = "w2v_encoder.w2v_model.encoder.pos_conv.0.weight_g"
    more = replace(found.tensors[first], name=second)
    assert problems_of(CTC, replace(found, tensors={**found.tensors, second: more})) == (
        f"the tensors {first} and {second} would both become wav2vec2.encoder.pos_conv_embed.conv.weight_g",
    )


def test_equal_checksums_are_equal_tensors_and_others_are_a_problem() -> None:
    found = read("rotary_ctc")
    names = [name for name in found.tensors if name.endswith("rotary_emb.inv_freq")]
    first, second = (found.tensors[name] for name in names)
    own = description("rotary_ctc")
    other = replace(second, storage=replace(second.storage, crc32=1))
    changed = replace(found, tensors={**found.tensors, names[1]: other})
    assert problems_of("rotary_ctc", changed) == (different(first, second),)
    assert "differ, but transformers has only one for all layers" in different(first, second)
    # A part of a storage, or one without a checksum, says nothing.
    for harmless in (
        replace(other, storage=replace(other.storage, size=other.storage.size + 4)),
        replace(other, storage=replace(other.storage, crc32=None)),
    ):
        plan = make_plan(
            replace(found, tensors={**found.tensors, names[1]: harmless}), own, found.dictionary, "ctc", "float32"
        )
        (move,) = (move for move in plan.moves if move.equals)
        assert isinstance(move, Move)
        assert (move.source, move.equals, move.dtype) == (first, (harmless,), "float32")


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        (None, "a fork's additions can't be converted."),
        ("theirs", "only an encoder with nothing added or removed below its prefix converts"),
    ],
)
def test_the_advice_is_that_of_the_kind_of_file(form: str | None, advice: str) -> None:
    found = with_tensor(CTC, NORM, shape=(3,))
    found = replace(found, form=form or found.form)
    with pytest.raises(InconsistentError) as caught:
        make_plan(found, description(CTC), read(CTC).dictionary, "ctc", "float32")
    assert caught.value.advice.startswith(f"The model differs from fairseq's wav2vec2; {advice}")


def test_what_isnt_written_is_dropped_by_its_part() -> None:
    plan = make_plan(read(BASE), description(BASE), None, "none", "float32")
    dropped = {drop.source.name.partition(".")[0]: drop.reason for drop in plan.drops}
    assert dropped == dict.fromkeys(
        ("quantizer", "project_q", "final_proj"), "belongs to the pretraining head, which isn't written"
    )


# ---------------------------------------------------------------------------------------------------------------
# Vocabularies


def test_a_ctc_head_needs_a_dictionary_of_its_size() -> None:
    own = description(CTC)
    for labels, name, file in (("ltr", "dict.ltr.txt", "dict.ltr.txt"), ("", "dict.<labels>.txt", "dict.ltr.txt")):
        found = replace(own, facts={**own.facts, "task.labels": labels})
        with pytest.raises(DictionaryError) as caught:
            make_plan(read(CTC), found, None, "ctc", "float32")
        assert f"and no {name} lies next to it" in caught.value.problems[0]
        assert f"Give fairseq's {file} with --dict FILE" in caught.value.advice
    with pytest.raises(DictionaryError) as caught:
        make_plan(read(CTC), own, Dictionary(("<s>", "<pad>", "</s>", "<unk>", "a"), "d.txt"), "ctc", "float32")
    assert caught.value.problems[0].startswith("the dictionary d.txt has 5 symbols (the four special ones included)")


SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def test_the_special_tokens_have_the_ids_of_fairseqs_symbols() -> None:
    # The second <s> is the one that counts (Dictionary.add_symbol with overwrite).
    words = vocabulary(Dictionary((*SPECIAL, "a", "<s>", "a", "a"), "x"), "ltr")
    assert words.tokens == (
        *("<pad>#fairseq:overwritten", "<s>", "</s>", "<unk>", "a#fairseq:overwritten", "<pad>"),
        *("a#fairseq:overwritten:2", "a"),
    )
    assert (words.blank, words.bos, words.eos, words.unk) == ("<pad>", "<s>", "</s>", "<unk>")
    assert words.ids[words.blank] == 5
    assert words.notes == ("symbols [0, 4, 6] are overwritten by later ones (#fairseq:overwrite)",)


def test_names_of_overwritten_symbols_avoid_those_that_there_are() -> None:
    taken = ("a", "a#fairseq:overwritten", "a#fairseq:overwritten:2", "a", "a")
    tokens = vocabulary(Dictionary((*SPECIAL, *taken), "x"), "ltr").tokens[4:]
    assert tokens == (
        *("a#fairseq:overwritten:3", "a#fairseq:overwritten", "a#fairseq:overwritten:2", "a#fairseq:overwritten:4"),
        "a",
    )


@pytest.mark.parametrize(("others", "more"), [(20, ""), (21, " and 1 more")])
def test_of_many_overwritten_symbols_twenty_are_named(others: int, more: str) -> None:
    (note,) = vocabulary(Dictionary((*SPECIAL, *["a"] * (others + 1)), "x"), "ltr").notes
    assert note == f"symbols {list(range(4, 24))}{more} are overwritten by later ones (#fairseq:overwrite)"


@pytest.mark.parametrize(
    ("symbols", "labels", "joins"),
    [
        (("a", "|"), "phn", "words"),
        (("\N{LOWER ONE EIGHTH BLOCK}a",), "phn", "pieces"),
        (("a",), "phn", "phonemes"),
        *((("AH",), labels, "pieces") for labels in ("ltr", "chr", "char")),
        (("AH",), "wrd", "phonemes"),
        (("a",), None, "pieces"),
        # One character with a mark, and markers, are no phonemes.
        (("e\N{COMBINING ACUTE ACCENT}", "<sil>", "madeupword0000"), None, "pieces"),
        (("<sil",), None, "phonemes"),
        (("sil>",), None, "phonemes"),
        ((), None, "pieces"),
    ],
)
def test_symbols_join_as_their_kind_does(symbols: tuple[str, ...], labels: str | None, joins: str) -> None:
    words = vocabulary(Dictionary((*SPECIAL, *symbols), "x"), labels)
    assert words.joins == joins
    assert can_be_nested(words) == (joins != "phonemes")
    assert (tokenizer_config(words)["tokenizer_class"] == "Wav2Vec2CTCTokenizer") == (joins != "phonemes")


def test_only_a_model_with_a_tokenizer_has_a_processor() -> None:
    for head, has_one in (("ctc", True), ("none", False), ("pretraining", False)):
        values = preprocessor_config(description(CTC), head)  # type: ignore[arg-type]
        assert (values.get("processor_class") == "Wav2Vec2Processor") == has_one
        assert {**values, "processor_class": ""} == {
            "processor_class": "",
            "do_normalize": description(CTC).normalize,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": description(CTC).sample_rate,
        }


def write_dictionary(path: Path, *symbols: str) -> Path:
    path.write_text("".join(f"{symbol} 1\n" for symbol in symbols), encoding="utf-8")
    return path


def test_all_dictionaries_that_there_are_have_to_agree(tmp_path: Path) -> None:
    given, neighbour = write_dictionary(tmp_path / "given.txt", "a"), tmp_path / "dict.ltr.txt"
    own = Dictionary((*SPECIAL, "a"), "own")
    found = replace(read(CTC), path=tmp_path / "a.pt", dictionary=None)
    model = spoken.Spoken(found, description(CTC), None)
    assert find_dictionary(model, None) is None
    for place, carried in ((given, None), (None, own), (given, own)):
        got = find_dictionary(replace(model, checkpoint=replace(found, dictionary=carried)), place)
        assert got is not None
        assert got.symbols == own.symbols
    write_dictionary(neighbour, "b")
    for place, carried in ((given, None), (None, own)):
        with pytest.raises(DictionaryError, match="two dictionaries differ"):
            find_dictionary(replace(model, checkpoint=replace(found, dictionary=carried)), place)
    neighbour.write_text("no count", encoding="utf-8")
    with pytest.raises(DictionaryError):
        find_dictionary(model, None)


# ---------------------------------------------------------------------------------------------------------------
# --config

PROBABILITIES = {
    *("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "feat_quantizer_dropout"),
    *("final_dropout", "layerdrop", "mask_time_prob", "mask_feature_prob"),
}
FREELY = {
    **dict.fromkeys(PROBABILITIES, probability),
    **dict.fromkeys(
        ("gradient_checkpointing", "apply_spec_augment", "ctc_zero_infinity", "use_weighted_layer_sum"), flag
    ),
    **dict.fromkeys(("mask_time_length", "mask_feature_length", "classifier_proj_size", "xvector_output_dim"), size),
    **dict.fromkeys(("mask_time_min_masks", "mask_feature_min_masks", "num_negatives", "num_labels"), count),
    **dict.fromkeys(("initializer_range", "contrastive_logits_temperature"), positive),
    "diversity_loss_weight": number,
    **dict.fromkeys(("tdnn_dim", "tdnn_kernel", "tdnn_dilation"), sizes),
    **dict.fromkeys(("id2label", "label2id"), texts),
}
SPELLED = {
    "ctc_loss_reduction": (("sum", "mean"), ("none", "su", "mea", None)),
    "problem_type": (("regression", None), (3,)),
    "finetuning_task": (("asr", None), (3,)),
}


def test_values_of_training_and_decoding_may_be_chosen_within_what_they_mean() -> None:
    assert {field: domain for field, domain in FREE.items() if field not in SPELLED} == FREELY
    assert FREE.keys() == FREELY.keys() | SPELLED.keys()


@pytest.mark.parametrize(("field", "values"), [(field, taken) for field, (taken, _) in SPELLED.items()])
def test_a_field_of_texts_takes_these(field: str, values: tuple[object, ...]) -> None:
    for value in values:
        assert chosen({field: value}) == {field: value}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, (_, others) in SPELLED.items() for value in others]
)
def test_a_field_of_texts_takes_no_others(field: str, value: object) -> None:
    with pytest.raises(InconsistentError, match=f"--config says {field} = "):
        chosen({field: value})


def test_a_conformer_may_choose_two_fields_more() -> None:
    assert CONFORMER_TARGET.free == {**FREE, "conformer_conv_dropout": probability, "max_source_positions": size}
    for target in (WAV2VEC2, HUBERT_TARGET, DATA2VEC_AUDIO):
        assert target.free is FREE


REPEATABLE = {
    "wav2vec2-conformer": {"rotary_embedding_base": 10000, "add_adapter": False},
    "wav2vec2": {"add_adapter": False, "adapter_attn_dim": None},
    "hubert": {},
    "data2vec-audio": {"add_adapter": False},
}


@pytest.mark.parametrize(
    "target", [CONFORMER_TARGET, WAV2VEC2, HUBERT_TARGET, DATA2VEC_AUDIO], ids=lambda one: one.model_type
)
def test_defaults_of_transformers_may_be_repeated(target: Any) -> None:
    assert target.repeatable == REPEATABLE[target.model_type]
    lacks = {"feat_extract_norm", "do_stable_layer_norm", "feat_quantizer_dropout"}
    assert target.lacks == (lacks if target is DATA2VEC_AUDIO else set())
    beyond = {"projection": ("final_proj.weight", "final_proj.bias")}
    assert target.beyond == (beyond if target is HUBERT_TARGET else {})
    assert bool(target.exchanged) == (target is WAV2VEC2)
    assert target.prefix_for("ctc") == target.prefix_for("pretraining") == target.prefix
    assert target.prefix_for("none") == target.prefix_for("projection") == ""


def chosen(given: Mapping[str, object], name: str = CTC) -> Mapping[str, object]:
    own = description(name)
    return overrides(given, own.config(own.own_head, "float32"), own, "--config")


# Written by transformers into every config, decided by other options, or of heads that this model hasn't got.
PASSED_OVER: Mapping[str, object] = {
    "transformers_version": "1",
    "_name_or_path": "x",
    "adapter_kernel_size": 3,
    "adapter_stride": 2,
    "num_adapter_layers": 3,
    "output_hidden_size": 768,
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "use_cache": True,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "tokenizer_class": "x",
    "feat_extract_dropout": 0.0,
    "hidden_dropout_prob": 0.1,
    "architectures": ["x"],
    "torch_dtype": "float16",
    "dtype": "float16",
    "num_feat_extract_layers": 99,
    "model_type": "wav2vec2",
    "num_codevectors_per_group": 3,
    "num_codevector_groups": 3,
    "codevector_dim": 3,
    "proj_codevector_dim": 3,
}


@pytest.mark.parametrize("field", PASSED_OVER)
def test_what_says_nothing_of_this_model_is_passed_over(field: str) -> None:
    assert chosen({field: PASSED_OVER[field]}) == {}


def test_a_stable_layer_norm_is_passed_over_where_a_config_hasnt_got_it_and_compared_where_it_has() -> None:
    assert (
        chosen({"do_stable_layer_norm": True, "vocab_size": 32, "model_type": "wav2vec2-conformer"}, "relative_ctc")
        == {}
    )
    assert chosen({"vocab_size": 99}, BASE) == {}
    own = description(CTC).fields["do_stable_layer_norm"]
    with pytest.raises(InconsistentError, match="do_stable_layer_norm = "):
        chosen({"do_stable_layer_norm": not own})


@pytest.mark.parametrize("field", ["hidden_act", "conv_dim", "layer_norm_eps", "pad_token_id", "conv_bias"])
def test_what_the_model_decides_may_be_repeated_in_the_same_type_alone(field: str) -> None:
    own = description(CTC).fields[field]
    assert chosen({field: own}) == {}
    wrong: list[object] = [None, "x", {}]
    wrong.append(int(own) if isinstance(own, bool) else False if own == 0 else [own])
    for other in wrong:
        with pytest.raises(InconsistentError) as caught:
            chosen({field: other})
        assert caught.value.problems[0].startswith(f"--config says {field} = ")
        assert ", the checkpoint " in caught.value.problems[0]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("relative_ctc", "hidden_act", "silu"), ("post_norm_plain_attention_ctc", "position_embeddings_type", "none")],
)
def test_two_spellings_of_one_value_are_the_same(name: str, field: str, value: object) -> None:
    assert chosen({field: value}, name) == {}
    with pytest.raises(InconsistentError):
        chosen({field: "gelu"}, name)
    with pytest.raises(InconsistentError):
        chosen({field: [value]}, name)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hidden_dropout", 1.5, "a probability from 0 to 1"),
        ("hidden_dropout", True, "a probability from 0 to 1"),
        ("hidden_dropout", None, "a probability from 0 to 1"),
        ("apply_spec_augment", 1, "true or false"),
        ("mask_time_length", 0, "a whole number from 1 to "),
        ("tdnn_dim", [0], "a list of sizes"),
    ],
)
def test_a_chosen_value_outside_its_domain_is_a_problem(field: str, value: object, words: str) -> None:
    with pytest.raises(InconsistentError) as caught:
        chosen({field: value})
    assert caught.value.problems[0].startswith(f"--config says {field} = {value}, which is not {words}")


def test_problems_of_both_kinds_are_told_at_once_in_their_order() -> None:
    with pytest.raises(InconsistentError) as caught:
        chosen({"hidden_size": 1, "conv_bias": 3, "layerdrop": 2, "final_dropout": 3})
    assert [problem.split()[2] for problem in caught.value.problems] == [
        *("conv_bias", "hidden_size", "final_dropout", "layerdrop"),
    ]


def test_another_models_config_is_refused_by_its_type() -> None:
    with pytest.raises(UsageError) as caught:
        chosen({"model_type": "hubert"})
    assert caught.value.problems == ("--config is no config of a wav2vec2 (model_type: 'hubert')",)


@pytest.mark.parametrize(("number", "more"), [(10, 0), (11, 1), (13, 3)])
def test_of_many_unknown_fields_ten_are_named(number: int, more: int) -> None:
    with pytest.raises(UsageError) as caught:
        chosen({f"zzzzz{index:02}": 1 for index in range(number)})
    assert len(caught.value.problems) == 10 + bool(more)
    assert caught.value.problems[0] == "--config has 'zzzzz00', which no such model has"
    if more:
        assert caught.value.problems[-1] == f"--config has {more} further such fields"


def test_an_unknown_field_is_told_with_the_nearest_free_or_decided_one() -> None:
    for wrong, near in (("hidden_sise", "hidden_size"), ("layer_drop", "layerdrop"), ("add_adaptr", "add_adapter")):
        with pytest.raises(UsageError) as caught:
            chosen({wrong: 1})
        assert caught.value.problems == (f"--config has '{wrong}', which no such model has (did you mean {near}?)",)


def test_a_config_is_a_json_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}', encoding="utf-8")
    assert read_config(path) == {"a": 1}
    for text, words in (("[1]", "holds no JSON object"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=words):
            read_config(path)
    path.write_text("1" * (2**22 + 1), encoding="utf-8")
    with pytest.raises(UsageError):
        read_config(path)


# ---------------------------------------------------------------------------------------------------------------
# Languages


def test_names_are_the_cfgs_where_they_can_be_files_names() -> None:
    for said, names in (
        ((), ("0", "1", "2")),
        (("eng", "a-B_9"), ("eng", "a-B_9", "2")),
        (("eng", "eng"), ("0", "1", "2")),
        (("eng", "2"), ("0", "1", "2")),
        (("../eng",), ("0", "1", "2")),
        (("",), ("0", "1", "2")),
        (("a" * 64,), ("a" * 64, "1", "2")),
        (("a" * 65,), ("0", "1", "2")),
    ):
        assert spoken._names(said, 3) == names
    with pytest.raises(InconsistentError, match=r"names 4 languages \(a, b, c, d\), but the tensors are there for 3"):
        spoken._names(("a", "b", "c", "d"), 3)


def of_shapes(*shapes: tuple[int, ...]) -> list[Any]:
    return [SimpleNamespace(name=f"t{index}", shape=shape) for index, shape in enumerate(shapes)]


def test_tensors_along_the_axis_are_there_for_one_number_of_languages() -> None:
    assert spoken._count(of_shapes((3, 5), (3,))) == 3
    assert spoken._count(of_shapes((1, 5))) == 1
    for shapes, wrong in (([(3,), (2,), ()], ["t1", "t2"]), ([(0, 5)], ["t0"]), ([()], ["t0"])):
        with pytest.raises(InconsistentError) as caught:
            spoken._count(of_shapes(*shapes))
        assert [problem.split()[2] for problem in caught.value.problems] == wrong


def test_a_released_languages_tensors_are_for_one_language() -> None:
    problems = list(spoken._not_alone(of_shapes((1, 5), (2, 5), ()), "the model"))
    assert problems == [
        f"The tensor t{index} of the model has the shape {shape}, not one for one language."
        for index, shape in ((1, [2, 5]), (2, []))
    ]


def listed(*names: str) -> tuple[spoken.Language, ...]:
    return tuple(spoken.Language(name, {}, None) for name in names)


def test_the_first_language_is_taken_unless_one_is_asked_for() -> None:
    every = listed("eng", "fra", "spa")
    assert spoken._chosen(every, None) is every[0]
    assert spoken._chosen(every, "spa") is every[2]
    with pytest.raises(UsageError) as caught:
        spoken._chosen(every, "zzz")
    assert caught.value.problems == ("--language is zzz, which the checkpoint hasn't got.",)
    assert caught.value.advice == "Give one of eng, fra, spa."


@pytest.mark.parametrize(("number", "more"), [(20, ""), (21, " and 1 more (w2vc inspect --json lists all)")])
def test_of_many_languages_twenty_are_listed(number: int, more: str) -> None:
    names = [f"l{index}" for index in range(number)]
    assert spoken._listed(names) == f"Give one of {', '.join(names[:20])}{more}."


def test_a_language_is_chosen_with_its_own_tensors_and_dictionary() -> None:
    found = read("mms_released_ctc")
    model = in_one_language(found, description("mms_released_ctc"), "eng")
    assert model.languages is not None
    assert model.languages.names == tuple(found.adapters)
    assert (model.languages.chosen.name, model.languages.have_dictionaries) == ("eng", True)
    own = found.adapters["eng"]
    assert model.checkpoint.tensors == {**found.tensors, **own.tensors}
    assert (model.checkpoint.dictionary, dict(model.checkpoint.adapters)) == (own.dictionary, {})
    assert model.description.vocabulary == len(own.dictionary or ())
    assert dict(model.languages.own) == {name: found.tensors[name] for name in own.tensors}
    # The dictionary is the language's, and no file next to the checkpoint is looked for.
    assert model.labels is None
    assert replace(model, languages=None).labels == description("mms_released_ctc").labels
    without = replace(model, checkpoint=replace(model.checkpoint, dictionary=None))
    assert without.labels == description("mms_released_ctc").labels


def test_along_an_axis_the_model_has_one_dictionary_for_all_languages() -> None:
    found = read("mms_three_languages_ctc")
    model = in_one_language(found, description("mms_three_languages_ctc"), None)
    assert model.languages is not None
    assert (model.languages.have_dictionaries, model.languages.own) == (False, {})
    assert model.description is description("mms_three_languages_ctc")
    assert model.labels == model.description.labels
    first, second, _ = model.languages.every
    assert {tensor.index for tensor in first.tensors.values()} == {0}
    assert {tensor.index for tensor in second.tensors.values()} == {1}
    assert all("adapter_layer" in name for name in first.tensors)


def test_a_dictionary_next_to_the_file_is_that_of_every_language_along_an_axis() -> None:
    found = replace(read("mms_three_languages_ctc"), dictionary=None)
    model = in_one_language(found, description("mms_three_languages_ctc"), None)
    dictionary = read("mms_three_languages_ctc").dictionary
    plan = make_plan(model.checkpoint, model.description, dictionary, "ctc", "float32", languages=model.languages)
    assert model.languages is not None
    assert plan.languages == model.languages.names
    assert len(plan.languages) == 3


def test_a_model_without_languages_has_one() -> None:
    model = in_one_language(read(CTC), description(CTC), None)
    assert (model.checkpoint, model.description, model.languages) == (read(CTC), description(CTC), None)
    with pytest.raises(UsageError, match="--language is eng, but the checkpoint has one language only"):
        in_one_language(read(CTC), description(CTC), "eng")


def notes(every: tuple[str, ...], joins: str | None) -> Iterator[str]:
    languages = Languages(listed(*every)[0], listed(*every), {}, have_dictionaries=False)
    words = None if joins is None else replace(vocabulary(Dictionary(SPECIAL, "x"), None), joins=joins)
    return _language_notes(languages, words)


def test_a_note_says_in_which_language_a_model_is_and_what_becomes_of_the_others() -> None:
    first = "the model is in eng, one of 2 languages (--language)"
    assert list(notes(("eng", "fra"), "words")) == [first]
    assert list(notes(("eng", "fra"), None)) == [
        first,
        "the other languages are left out: transformers exchanges them with a CTC head only",
    ]
    assert list(notes(("eng", "fra"), "phonemes")) == [
        first,
        "transformers' tokenizer of phonemes has one language: vocab.json is that of eng",
    ]
    assert list(notes(("eng",), None)) == []
    assert list(_language_notes(None, None)) == []


# ---------------------------------------------------------------------------------------------------------------
# The card


def card(name: str, plan: Plan, pretrained: Checkpoint | None = None, **changes: Any) -> str:
    return model_card(replace(read(name), **changes), description(name), plan, pretrained).decode()


@pytest.mark.parametrize(
    ("name", "head", "tag", "title"),
    [
        (CTC, "ctc", "automatic-speech-recognition", "fine-tuned with CTC"),
        (CTC, "none", "feature-extraction", "the encoder alone"),
        (BASE, "pretraining", None, "pretrained"),
        ("hubert", "projection", "feature-extraction", "the encoder with its projection"),
    ],
)
def test_a_cards_tag_and_title_are_those_of_its_head(name: str, head: Any, tag: str | None, title: str) -> None:
    plan = make_plan(read(name), description(name), read(name).dictionary, head, "float32")
    text = card(name, plan)
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert [line for line in front.splitlines() if "pipeline_tag" in line] == ([f"pipeline_tag: {tag}"] if tag else [])
    assert f"- {description(name).target.model_type}\n- fairseq\n" in front
    assert body.startswith(f"\n# {description(name).family.name}, {title}\n\nConverted by w2vc ")
    assert f"- class: `{plan.model_class}`\n" in body
    example = body.partition("```python\n")[2].partition("```")[0]
    assert example.endswith("\n")
    assert ("pipeline(" in example) == (head == "ctc")
    assert ("projected_states" in example) == (head == "pretraining")
    assert ("there is a feature extractor here but no tokenizer" in body) == (head != "ctc")
    assert ("another vocabulary needs" in body) == (head == "ctc")
    assert ("Good to know:" in body) == (description(name).family is HUBERT)
    assert "{" not in example.replace('{"raw"', "")


def test_a_card_says_what_was_converted_and_from_where() -> None:
    plan = planned(BASE)
    updates = read(BASE).progress.updates
    progress = replace(read(BASE).progress, updates=12345)
    assert f"from a checkpoint of fairseq (`wav2vec2`, after {updates:,} updates).\nIts float32" in card(BASE, plan)
    assert ", after 12,345 updates)." in card(BASE, plan, progress=progress)
    assert "(`wav2vec2`).\n" in card(BASE, plan, progress=replace(progress, updates=None))
    theirs: dict[str, Any] = {"form": "a state dict", "progress": replace(progress, updates=None)}
    words = "from a state dict with an encoder of fairseq's in it"
    assert f"{words} (at the top level).\n" in card(BASE, plan, **theirs)
    assert f"{words} (below `net.x`).\n" in card(BASE, plan, prefix="net.x.", **theirs)
    with_other = card(BASE, plan, read(CTC), **theirs)
    assert f"{words} (at the top level; what tensors don't show is of the pretrained one).\n" in with_other
    assert f"- fingerprint of the pretrained one: `{read(CTC).archive.fingerprint}`\n" in with_other
    assert "of the pretrained one" not in card(BASE, plan)
    assert f"- fingerprint of the source: `{read(BASE).archive.fingerprint}`\n" in card(BASE, plan)


def test_a_card_says_whether_weights_lost_anything() -> None:
    plan = planned(BASE)
    assert "equal fairseq's on the same input (relative error below 2e-6)." in card(BASE, plan)
    half = card(BASE, replace(plan, dtype="bfloat16"))
    assert "Its weights are fairseq's, stored as bfloat16.\n" in half
    assert "relative error" not in half


def test_a_card_says_what_goes_in_and_what_the_encoder_is() -> None:
    facts = {"task.normalize": True, "task.sample_rate": 22050}
    own = description(BASE)
    for normalize, audio in ((True, "normalised to zero mean and unit variance"), (False, "as it is")):
        found = replace(own, facts={**own.facts, **facts, "task.normalize": normalize})
        text = model_card(read(BASE), found, planned(BASE)).decode()
        assert f"- input: 22,050 Hz mono, {audio}\n" in text
        assert text.count("22050") == 2
        sizes_of = f"{own.facts['encoder_layers']} layers, {own.facts['encoder_embed_dim']} wide"
        assert f"- encoder: {sizes_of}, {own.family.card_summary(own.facts)}\n" in text
    attention = {"relative": "relative positions", "rotary": "rotary positions", "plain": "no position embeddings"}
    for kind, words in attention.items():
        assert CONFORMER.card_summary({"attention": kind}) == words


def test_a_card_names_the_languages_that_can_be_exchanged() -> None:
    plan = replace(planned(CTC), language="fra", languages=("eng", "fra", "spa"), adapters={"x": ()})
    assert "- language: fra, which can be exchanged for eng, spa:\n" in card(CTC, plan)
    assert '`model.load_adapter("eng")`' in card(CTC, plan)
    assert "- language" not in card(CTC, replace(plan, adapters={}))


def test_every_family_has_its_notes() -> None:
    facts = {"encoder_layers": 2, "layer_norm_first": True}
    assert {family.name: len(family.notes(facts)) for family in FAMILIES} == {
        "wav2vec2-conformer": 0,
        "hubert": 1,
        "data2vec-audio": 0,
        "wav2vec2": 0,
    }
    assert len(CONFORMER.notes({**facts, "layer_norm_first": False})) == 5


# ---------------------------------------------------------------------------------------------------------------
# What a loaded model is given for another language

RELEASED, ALONG = "mms_released_ctc", "mms_three_languages_ctc"
ADAPTER = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias", "norm.weight", "norm.bias")
EXCHANGED = {
    *(f"wav2vec2.encoder.layers.{layer}.adapter_layer.{name}" for layer in (0, 1) for name in ADAPTER),
    *("lm_head.weight", "lm_head.bias"),
}


def in_language(found: Checkpoint, name: str, wanted: str | None = None, head: Any = "ctc") -> Plan:
    model = in_one_language(found, description(name), wanted)
    return make_plan(
        model.checkpoint, model.description, model.checkpoint.dictionary, head, "float32", None, model.languages
    )


def sources(tensors: tuple[Move | Make, ...]) -> dict[str, Any]:
    return {tensor.target: tensor.source for tensor in tensors if isinstance(tensor, Move)}


def test_each_released_languages_file_holds_its_own_tensors_and_a_head_of_its_size() -> None:
    found = read(RELEASED)
    plan = in_language(found, RELEASED)
    assert plan.languages == tuple(found.adapters)
    assert plan.language == plan.languages[0]
    assert list(plan.adapters) == [f"adapter.{name}.safetensors" for name in plan.languages]
    for name, own in found.adapters.items():
        tensors = plan.adapters[f"adapter.{name}.safetensors"]
        assert {tensor.target for tensor in tensors} == EXCHANGED
        assert {source.adapter for source in sources(tensors).values()} == {name}
        (head,) = (tensor for tensor in tensors if tensor.target == "lm_head.weight")
        assert head.shape == (len(own.dictionary or ()), 20)


def test_a_tokenizer_of_several_languages_has_the_symbols_of_each() -> None:
    plan = in_language(read(RELEASED), RELEASED, "eng")
    assert json.loads(plan.files["tokenizer_config.json"])["target_lang"] == "eng"
    sizes_of = {name: len(held.dictionary or ()) for name, held in read(RELEASED).adapters.items()}
    assert {name: len(ids) for name, ids in json.loads(plan.files["vocab.json"]).items()} == sizes_of
    assert "target_lang" not in json.loads(planned(CTC).files["tokenizer_config.json"])


def test_the_chosen_languages_tensors_take_the_models_place() -> None:
    plan = in_language(read(RELEASED), RELEASED, "eng")
    replaced = [drop for drop in plan.drops if drop.reason == "the chosen language's own takes its place"]
    assert {drop.source.name for drop in replaced} == set(read(RELEASED).adapters["eng"].tensors)
    assert {drop.source.adapter for drop in replaced} == {""}
    assert {source.adapter for target, source in sources(plan.tensors).items() if target in EXCHANGED} == {"eng"}


def test_along_an_axis_each_file_holds_one_place_of_it_and_the_models_head() -> None:
    plan = in_language(read(ALONG), ALONG, "fra")
    assert not [drop for drop in plan.drops if "takes its place" in drop.reason]
    for index, name in enumerate(("eng", "fra", "spa")):
        own = sources(plan.adapters[f"adapter.{name}.safetensors"])
        assert own.keys() == EXCHANGED
        assert {source.index for target, source in own.items() if "lm_head" in target} == {None}
        chosen = {source.name: source for target, source in own.items() if "lm_head" not in target}
        whole = read(ALONG).tensors
        assert chosen == {key: whole[key].narrowed(index).selected(0) for key in chosen}


def with_language(change: Any, name: str = "eng") -> Checkpoint:
    found = read(RELEASED)
    return replace(found, adapters={**found.adapters, name: change(found.adapters[name])})


def refusal(found: Checkpoint, wanted: str | None = None) -> tuple[str, ...]:
    with pytest.raises((InconsistentError, DictionaryError)) as caught:
        in_language(found, RELEASED, wanted)
    return caught.value.problems


W_A = "w2v_encoder.w2v_model.encoder.layers.1.adapter_layer.W_a"
HEAD = "w2v_encoder.proj.weight"


def test_what_a_language_lacks_it_has_from_the_model_whichever_is_chosen() -> None:
    def without(own: Any) -> Any:
        return replace(own, tensors={name: tensor for name, tensor in own.tensors.items() if name != W_A})

    plan = in_language(with_language(without), RELEASED, "uzb-script_latin")
    target = "wav2vec2.encoder.layers.1.adapter_layer.linear_1.weight"
    assert sources(plan.adapters["adapter.eng.safetensors"])[target] == read(RELEASED).tensors[W_A].selected(0)


def test_a_tensor_that_is_no_part_of_a_language_is_a_problem_of_that_language() -> None:
    def more(own: Any) -> Any:
        return replace(own, tensors={**own.tensors, NORM: read(RELEASED).tensors[NORM]})

    assert refusal(with_language(more)) == (
        f"the language eng: the tensor {NORM} is none that transformers exchanges with a language",
    )


def test_a_head_of_another_size_than_the_languages_dictionary_is_a_problem_of_that_language() -> None:
    def narrow(own: Any) -> Any:
        return replace(own, tensors={**own.tensors, HEAD: replace(own.tensors[HEAD], shape=(7, 20))})

    (problem,) = refusal(with_language(narrow))
    assert problem.startswith(f"the language eng: the tensor {HEAD} has the shape [7, 20], but lm_head.weight has [")


def test_every_language_needs_a_dictionary_with_the_same_blank() -> None:
    assert refusal(with_language(lambda own: replace(own, dictionary=None))) == (
        "The language eng has no dictionary (task_state.target_dictionary).",
    )

    def other_blank(own: Any) -> Any:
        symbols = (*own.dictionary.symbols[:-1], "<s>")
        return replace(own, dictionary=Dictionary(symbols, "x"))

    assert refusal(with_language(other_blank)) == ("The language eng has other special symbols than fra.",)


def test_a_released_language_has_a_name_for_a_file_and_tensors_for_itself_alone() -> None:
    found = read(RELEASED)
    assert refusal(replace(found, adapters={**found.adapters, "../x": found.adapters["eng"]})) == (
        "The language '../x' has a name that no file may have.",
    )

    def doubled(own: Any) -> Any:
        return replace(own, tensors={**own.tensors, W_A: replace(own.tensors[W_A], shape=(2, 6, 20))})

    words = "has the shape [2, 6, 20], not one for one language."
    assert refusal(with_language(doubled)) == (f"The tensor {W_A} of adapter['eng'] {words}",)
    wide = {**found.tensors, W_A: replace(found.tensors[W_A], shape=(2, 6, 20))}
    assert refusal(replace(found, tensors=wide)) == (f"The tensor {W_A} of the model {words}",)


def test_without_the_ctc_head_no_language_can_be_exchanged() -> None:
    plan = in_language(read(RELEASED), RELEASED, head="none")
    assert (plan.adapters, plan.language) == ({}, "fra")
    assert "the other languages are left out: transformers exchanges them with a CTC head only" in plan.notes


def test_one_language_alone_has_no_file_of_its_own() -> None:
    plan = in_language(read("mms_one_language_ctc"), "mms_one_language_ctc")
    assert (plan.adapters, plan.languages) == ({}, (plan.language,))


# ---------------------------------------------------------------------------------------------------------------
# Everything that is known before the first byte


@pytest.mark.parametrize(
    ("name", "asked", "auto", "files"),
    [
        (
            CTC,
            {},
            "ctc",
            {"README.md", "config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"},
        ),
        (CTC, {"head": "none", "card": False}, "ctc", {"config.json", "preprocessor_config.json"}),
        (BASE, {"card": False}, "pretraining", {"config.json", "preprocessor_config.json"}),
    ],
)
def test_the_record_of_a_conversion_names_its_head_and_files(name: str, asked: Any, auto: str, files: set[str]) -> None:
    passed: list[Path] = []
    found = prepare(checkpoint(name), Options(**asked), passed=lambda _, archive: passed.append(archive.path))
    assert passed == [checkpoint(name)]
    assert (found.provenance.head, found.provenance.auto_head) == (found.plan.head, auto)
    assert set(found.provenance.files.split()) == files == found.plan.files.keys()
    assert found.provenance.source_fingerprint == read(name).archive.fingerprint
    assert (found.dictionary is None) == (found.plan.head != "ctc") == (found.provenance.dictionary == "")
    assert found.provenance.labels == (found.description.labels or "")
    assert found.provenance.config == ""


def test_the_record_names_languages_files_and_the_given_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"layerdrop": 0.5}', encoding="utf-8")
    found = prepare(checkpoint(RELEASED), Options(config=config, language="eng", card=False))
    assert set(found.plan.adapters) < set(found.provenance.files.split())
    assert found.provenance.labels == ""
    assert found.provenance.config
    assert found.plan.config["layerdrop"] == 0.5
    assert found.checkpoint.dictionary == found.dictionary == read(RELEASED).adapters["eng"].dictionary
