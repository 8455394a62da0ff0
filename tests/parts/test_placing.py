"""Where an encoder is in somebody else's file: each way to keep one, and each way in which there is none."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import checkpoint
from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError, W2vcError
from w2vc.families.placing import described, placed
from w2vc.planning.plan import _outside, _place_notes
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint

BARE = "wav2vec2_base_pretraining"
FINE_TUNED = "wav2vec2_base_ctc"
EXTRACTOR = "feature_extractor.conv_layers.0.0.weight"
LAYER = "encoder.layers.0.fc1.weight"
TUNED = "w2v_encoder.w2v_model."
THEIRS = "a state dict"


@functools.cache
def fairseqs(name: str) -> Checkpoint:
    return read_checkpoint(checkpoint(name))


def named(names: Iterable[str], form: str = THEIRS) -> Checkpoint:
    """A file whose tensors have these names; whose sizes they have doesn't count here."""
    some = fairseqs(BARE)
    tensor = next(iter(some.tensors.values()))
    tensors = {name: replace(tensor, name=name) for name in names}
    return replace(some, path=Path("a.pt"), tensors=tensors, form=form, cfg={}, cfg_form="none", groups={})


def encoder(*places: str) -> list[str]:
    return [place + name for place in places for name in (EXTRACTOR, LAYER)]


def refused(kind: type[W2vcError], found: Checkpoint, prefix: str | None = None) -> W2vcError:
    with pytest.raises(kind) as caught:
        placed(found, prefix)
    return caught.value


# ---------------------------------------------------------------------------------------------------------------
# Which place


PLACES = {
    "at the top level": (encoder(""), ""),
    "below a prefix": (encoder("ssl.model."), "ssl.model."),
    "of a whole fine-tuned model": (encoder(TUNED), ""),
    "of a whole fine-tuned model below a prefix": (encoder(f"net.{TUNED}"), "net."),
    # What precedes it is no whole part of a name.
    "below a prefix that only ends like fine-tuning's": (encoder(f"my{TUNED}"), f"my{TUNED}"),
}


@pytest.mark.parametrize("what", PLACES)
def test_an_encoder_is_found_by_its_names_wherever_it_is(what: str) -> None:
    names, place = PLACES[what]
    found = placed(named([*names, "other.weight"]), None)
    assert found.prefix == place
    # At the top level, nothing is outside.
    inside = [*names, "other.weight"] if what == "at the top level" else names
    assert [tensor.name_in_file for tensor in found.tensors.values()] == inside
    assert list(found.tensors) == [name.removeprefix(place) for name in inside]
    assert [tensor.name for tensor in found.outside] == ["other.weight"][len(inside) - 2 :]
    assert {tensor.prefix for tensor in found.tensors.values()} == {place}


NO_PLACES = {
    "an extractor without layers": [EXTRACTOR],
    "layers without an extractor": [LAYER],
    "layers elsewhere than the extractor": [f"a.{EXTRACTOR}", f"b.{LAYER}"],
    "layers at the top level, and the extractor elsewhere": [f"a.{EXTRACTOR}", LAYER],
    "names that only end like an encoder's": [f"my{EXTRACTOR}", f"my{LAYER}"],
    "another second layer": [EXTRACTOR, "encoder.layers.10.fc1.weight"],
    "a longer name": [f"{EXTRACTOR}.more", LAYER],
    "nothing": [],
}


@pytest.mark.parametrize("what", NO_PLACES)
def test_what_only_resembles_an_encoder_is_none(what: str) -> None:
    error = refused(UnsupportedModelError, named([*NO_PLACES[what], "other"]))
    (problem,) = error.problems
    assert problem == (
        f"a.pt is {THEIRS} without an encoder of fairseq's: no tensor's name ends in {EXTRACTOR} with another of "
        "encoder.layers.0. next to it."
    )
    assert error.advice == "Give a file whose encoder has fairseq's names; before them may be any prefix."


def test_a_neighbours_model_without_an_encoder_is_called_by_its_name_with_its_own_advice() -> None:
    error = refused(UnsupportedModelError, named(["modality_encoders.AUDIO.x"]))
    assert "this is data2vec 2.0." in error.problems[0]
    assert error.advice.startswith("transformers has no class for data2vec 2.0")


def test_of_several_encoders_none_is_taken_until_one_is_named() -> None:
    error = refused(UsageError, named(encoder("", "b.")))
    assert error.problems == ("a.pt has 2 encoders: at the top level (.), below 'b'.",)
    assert error.advice == "Name one of them with --prefix, like --prefix ."


@pytest.mark.parametrize(("count", "more"), [(6, ""), (7, " and 1 more"), (9, " and 3 more")])
def test_of_many_encoders_six_are_listed(count: int, more: str) -> None:
    error = refused(UsageError, named(encoder(*(f"e{number}." for number in range(count)))))
    listed = ", ".join(f"below 'e{number}'" for number in range(6))
    assert error.problems == (f"a.pt has {count} encoders: {listed}{more}.",)
    assert error.advice.endswith("like --prefix e0")


@pytest.mark.parametrize(
    ("prefix", "place"),
    [(".", ""), ("", ""), ("b", "b."), ("b.", "b."), ("b..", "b."), ("c", "c."), (f"c.{TUNED}", "c.")],
)
def test_a_prefix_names_a_place_with_its_last_dot_or_without(prefix: str, place: str) -> None:
    found = placed(named(encoder("", "b.", f"c.{TUNED}")), prefix)
    assert found.prefix == place
    assert len(found.tensors) == (2 if place else 6)
    assert len(found.tensors) + len(found.outside) == 6


def test_a_prefix_where_no_encoder_is_is_refused_with_those_that_there_are() -> None:
    one = refused(UsageError, named(encoder("a.")), "z")
    assert one.problems == ("--prefix is 'z', and a.pt has no encoder there, but below 'a'.",)
    assert one.advice == "Leave --prefix out, or give --prefix a"
    two = refused(UsageError, named(encoder("a.", "b.")), ".")
    assert two.problems == ("--prefix is '.', and a.pt has no encoder there, but below 'a', below 'b'.",)
    assert two.advice == "Name one of them, like --prefix a"


def test_a_fine_tuned_models_head_belongs_to_it_and_what_precedes_it_doesnt() -> None:
    head = "net.w2v_encoder.proj.weight"
    found = placed(named([*encoder(f"net.{TUNED}"), head, "net.more", "w2v_encoder.x"]), None)
    assert list(found.tensors) == [*encoder(TUNED), "w2v_encoder.proj.weight"]
    assert [tensor.name for tensor in found.outside] == ["net.more", "w2v_encoder.x"]


def test_groups_go_with_the_encoder_that_holds_them() -> None:
    found = named([*encoder("net."), "net._ema.fc1.weight", "_ema.fc2.weight"])
    tensor = found.tensors["net._ema.fc1.weight"]
    groups = {"net._ema": {"fc1.weight": tensor}, "_ema": {"fc2.weight": tensor}, "net": {}}
    kept = placed(replace(found, groups=groups), None).groups
    assert list(kept) == ["_ema"]
    (of_group,) = kept["_ema"].values()
    assert (of_group.name, of_group.prefix) == ("_ema.fc1.weight", "net.")


# ---------------------------------------------------------------------------------------------------------------
# A checkpoint of fairseq's own


def test_fairseqs_own_checkpoint_is_as_it_is_also_where_its_own_place_is_named() -> None:
    own = fairseqs(BARE)
    assert placed(own, None) is own
    assert placed(own, ".") is own


def test_fairseqs_own_checkpoint_of_another_model_is_somebody_elses_below_a_prefix() -> None:
    own = replace(named(encoder("student.")), form=fairseqs(BARE).form, cfg={"model": {"_name": "theirs"}})
    found = placed(own, "student")
    assert (found.cfg, found.cfg_form, found.dictionary) == ({}, "none", None)
    assert found.form == "a checkpoint of another model of fairseq's"
    assert not found.is_fairseqs
    assert refused(UsageError, own, ".").problems[0].startswith("--prefix is '.'")


def test_anothers_config_and_dictionary_are_kept() -> None:
    own = replace(named(encoder("net.")), cfg={"model": {"_name": "wav2vec2"}}, cfg_form="dict")
    assert placed(own, None).cfg == own.cfg
    assert placed(own, None).form == THEIRS


# ---------------------------------------------------------------------------------------------------------------
# What its tensors don't show


def theirs(name: str) -> Checkpoint:
    """A fixture without its config, as others keep it."""
    return replace(fairseqs(name), cfg={}, cfg_form="none", form=THEIRS)


@pytest.mark.parametrize(("prefix", "where"), [("", "at the top level (.)"), ("net.model.", "below 'net.model'")])
def test_without_a_config_nothing_is_guessed(prefix: str, where: str) -> None:
    with pytest.raises(InconsistentError) as caught:
        described(replace(theirs(BARE), path=Path("a.pt"), prefix=prefix), None)
    assert caught.value.problems[0].startswith(f"a.pt is {THEIRS} with an encoder {where}, and carries no config: ")
    assert caught.value.advice.endswith("--pretrained CHECKPOINT.")


def test_with_its_own_config_it_is_what_that_says() -> None:
    own = replace(fairseqs(BARE), form=THEIRS)
    assert described(own, None)[0] is own
    assert described(own, None)[1].family.name == "wav2vec2"


def pretrained_one() -> Checkpoint:
    """What the fine-tuned fixture was made from, as far as its own config and tensors show."""
    own = fairseqs(FINE_TUNED)
    cfg: Any = own.cfg
    tensors = {
        name.removeprefix(TUNED): replace(tensor, name=name.removeprefix(TUNED))
        for name, tensor in own.tensors.items()
        if name.startswith(TUNED)
    }
    return replace(own, tensors=tensors, cfg=cfg["model"]["w2v_args"], dictionary=None)


def without_config(found: Checkpoint) -> Checkpoint:
    return replace(found, cfg={}, cfg_form="none", form=THEIRS)


UNKNOWN = "nothing says how the model was fine-tuned"
CONFIGS = {
    "a pretrained encoder, and a pretrained one": (False, False, "model", False),
    "a pretrained encoder, and a fine-tuned one": (False, True, "model", False),
    "a fine-tuned model, and a fine-tuned one": (True, True, "model.w2v_args.model", False),
    "a fine-tuned model, and a pretrained one": (True, False, "model.w2v_args.model", True),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_the_config_of_another_checkpoint_with_the_same_encoder_is_taken(what: str) -> None:
    is_tuned, is_other_tuned, section, is_noted = CONFIGS[what]
    kinds = {False: pretrained_one(), True: fairseqs(FINE_TUNED)}
    whole, found = described(without_config(kinds[is_tuned]), kinds[is_other_tuned])
    assert found.facts["section"] == section
    assert any(note.startswith(UNKNOWN) for note in found.notes) == is_noted
    expected = described(fairseqs(FINE_TUNED), None)[1]
    for key in ("encoder_layers", "encoder_attention_heads", "conv_feature_layers", "activation_fn", "task.normalize"):
        assert found.facts[key] == expected.facts[key], key
    outer: Any = whole.cfg
    assert ("w2v_args" in outer["model"]) == is_tuned
    # Of a task that isn't this model's, only what concerns the audio.
    if is_tuned != is_other_tuned:
        assert outer["task"].keys() <= {"normalize", "sample_rate"}


def test_a_file_that_carries_no_architecture_itself_cant_give_it() -> None:
    with pytest.raises(InconsistentError, match=r"can't tell what the model is"):
        described(theirs(BARE), theirs(BARE))


@pytest.mark.parametrize("name", [BARE, FINE_TUNED])
def test_what_carries_its_architecture_needs_no_other(name: str) -> None:
    with pytest.raises(UsageError, match="carries its architecture itself") as caught:
        described(fairseqs(name), fairseqs(BARE))
    assert caught.value.advice == "Leave --pretrained out."


# ---------------------------------------------------------------------------------------------------------------
# What is said of it


@pytest.mark.parametrize(
    ("names", "place", "others"),
    [
        (encoder(""), "at the top level", ""),
        ([*encoder("net."), "a"], "below 'net'", "; 1 other tensor left out"),
        ([*encoder("net."), "a", "b"], "below 'net'", "; 2 other tensors left out"),
    ],
)
def test_a_note_says_where_it_is_and_how_much_is_left_out(names: list[str], place: str, others: str) -> None:
    found = placed(named(names), None)
    assert list(_place_notes(found)) == [f"the file is {THEIRS}; the encoder in it is {place}{others}"]
    reasons = {f"lies outside the encoder, which is {place}"} if others else set()
    assert {drop.reason for drop in _outside(found)} == reasons
    assert [drop.source.name for drop in _outside(found)] == names[2:]


def test_fairseqs_own_checkpoint_needs_no_such_note() -> None:
    assert list(_place_notes(fairseqs(BARE))) == []
    assert list(_outside(fairseqs(BARE))) == []
