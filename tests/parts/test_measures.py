"""What tensors show, from names and shapes alone: every measure, and every check of what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from w2vc.families.conformer import measures as conformer
from w2vc.families.conv_feature_layers import ConvLayer, _bounded, parse_conv_feature_layers
from w2vc.families.family import Tensors, axis, axis_if_there, has
from w2vc.families.hubert.keys import _conv_pos_batch_norm
from w2vc.families.shared import checks, measures
from w2vc.families.shared.keys import conv_layers
from w2vc.families.shared.tensors import blank_weight, identity_projection
from w2vc.families.wav2vec2 import adapters

Shapes = Mapping[str, tuple[int, ...]]


def tensors(shapes: Shapes) -> Tensors:
    by_name: dict[str, Any] = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    return Tensors(by_name)


def named(*names: str) -> Shapes:
    return dict.fromkeys(names, (1,))


# ---------------------------------------------------------------------------------------------------------------
# One tensor


def test_a_size_is_that_of_the_axis_and_a_name_is_there_or_not() -> None:
    found = tensors({"a": (5, 7), "b": ()})
    assert [found.axis("a", index) for index in (0, 1)] == [5, 7]
    assert (axis("a", 1)(found), axis_if_there("a", 1)(found), axis_if_there("c", 1)(found)) == (7, 7, None)
    assert (has("a")(found), has("c")(found), "b" in found, list(found)) == (True, False, True, ["a", "b"])
    assert (found.shape("a"), found.shape("b"), found.shape("c")) == ((5, 7), (), None)
    assert found.problems == []


@pytest.mark.parametrize(
    ("name", "index", "problem"),
    [
        ("c", 0, "the tensor c is missing"),
        ("a", 2, "the tensor a has the shape [5, 0], which it can't have"),
        ("a", 1, "the tensor a has the shape [5, 0], which it can't have"),
        ("b", 0, "the tensor b has the shape [], which it can't have"),
    ],
)
def test_a_size_that_cant_be_is_one_problem_however_often_it_is_asked(name: str, index: int, problem: str) -> None:
    found = tensors({"a": (5, 0), "b": ()})
    assert [found.axis(name, index) for _ in range(2)] == [1, 1]
    assert found.problems == [problem]


def test_numbers_are_found_at_the_beginning_of_names_alone() -> None:
    found = tensors(named("a.3.x", "a.0.y", "a.3.z", "b.a.7.x", "a.\N{ARABIC-INDIC DIGIT ONE}.x"))
    assert found.numbers(r"a\.(\d)\.") == {0, 3}


# ---------------------------------------------------------------------------------------------------------------
# Measures: name, shapes, and what they say

V, NEW_V, BEHIND = (*measures.POS_CONV_V, measures.POS_CONV_BEHIND_BATCH_NORM)
QUANTIZER: Shapes = {"quantizer.vars": (1, 12, 4), "project_q.weight": (10, 8), "final_proj.weight": (10, 20)}
NO_QUANTIZER: Shapes = {key: shape for key, shape in QUANTIZER.items() if key != "quantizer.vars"}
FINE_TUNED: Shapes = {key: shape for key, shape in QUANTIZER.items() if key != "project_q.weight"}

MEASURED: list[tuple[Callable[[Tensors], Any], Shapes, Any]] = [
    (measures.layers, named("encoder.layers.0.a", "encoder.layers.1.a", "encoder.layers.1.b"), 2),
    (measures.extractor_mode, named("feature_extractor.conv_layers.0.2.weight"), "default"),
    (measures.extractor_mode, named("feature_extractor.conv_layers.0.2.1.weight"), "layer_norm"),
    (measures.extractor_shapes, {}, []),
    (
        measures.extractor_shapes,
        {f"feature_extractor.conv_layers.{index}.0.weight": (6 + index, 1, 9 - index) for index in (0, 1, 3)},
        [(6, 9), (7, 8)],
    ),
    *((measures.conv_pos, {name: (20, 5, 6)}, 6) for name in (V, NEW_V, BEHIND)),
    *((measures.conv_pos, {V: shape}, None) for shape in ((20, 6), (20, 0, 6), (20, 5, 6, 1))),
    *((measures.conv_pos, {BEHIND: shape}, None) for shape in ((20, 6), (20, 0, 6))),
    (measures.conv_pos, {V: (20, 0, 6), NEW_V: (20, 5, 7)}, 7),
    (measures.conv_pos, {"encoder.pos_conv.0.0.weight": (20, 5, 6)}, None),
    *((measures.conv_pos_groups, {name: (20, 5, 6)}, 4) for name in (V, NEW_V, BEHIND, "encoder.pos_conv.0.0.weight")),
    (measures.conv_pos_groups, {"encoder.pos_conv.0.0.weight": (20, 0, 6)}, 20),
    (measures.conv_pos_groups, {"encoder.pos_conv.0.0.weight": (2, 5, 6)}, 1),
    (measures.conv_pos_groups, {"encoder.pos_conv.0.0.weight": (20, 5)}, None),
    (measures.conv_pos_groups, {}, None),
    (measures.pos_conv_depth, named("encoder.pos_conv.0.0.weight", "encoder.pos_conv.2.0.bias"), 2),
    (measures.pos_conv_depth, named("encoder.pos_conv.0.weight_v"), 1),
    (measures.pos_conv_depth, {}, None),
    (measures.quantize_targets, QUANTIZER, True),
    (measures.quantize_targets, NO_QUANTIZER, False),
    (measures.quantize_targets, FINE_TUNED, None),
    (measures.quantize_input, named("project_inp.weight"), True),
    (measures.quantize_input, QUANTIZER, None),
    (measures.target_glu, named("target_glu.0.bias"), True),
    (measures.target_glu, named("project_q.weight"), False),
    (measures.target_glu, named("my.target_glu.0.bias"), None),
    (measures.quantizer_depth, named("quantizer.weight_proj.weight"), 1),
    (measures.quantizer_depth, named("quantizer.weight_proj.0.0.weight", "quantizer.weight_proj.2.weight"), 3),
    (measures.quantizer_depth, named("quantizer.vars"), None),
    *(
        (measures.latent_dim, shapes, said)
        for shapes, said in ((QUANTIZER, 8), (NO_QUANTIZER, None), (FINE_TUNED, None))
    ),
    *((measures.latent_groups, shapes, said) for shapes, said in ((QUANTIZER, 2), (NO_QUANTIZER, None))),
    (measures.latent_groups, {**QUANTIZER, "project_q.weight": (10, 3)}, 1),
    *((measures.latent_vars, shapes, said) for shapes, said in ((QUANTIZER, 6), (FINE_TUNED, None))),
    *((measures.final_dim, shapes, said) for shapes, said in ((QUANTIZER, 10), (NO_QUANTIZER, None))),
    (measures.MEASURES["has_projection"], named("post_extract_proj.weight"), True),
    (measures.MEASURES["has_projection"], named("post_extract_proj.bias"), False),
    (measures.MEASURES["has_pos_conv_v"], {V: (20, 5, 6)}, True),
    (measures.MEASURES["has_pos_conv_v"], {BEHIND: (20, 5, 6)}, False),
    (measures.MEASURES["vocabulary"], {"w2v_encoder.proj.weight": (32, 20)}, 32),
    (measures.MEASURES["vocabulary"], {"w2v_encoder.proj.bias": (32,)}, None),
    (_conv_pos_batch_norm, named("encoder.pos_conv.0.running_mean"), True),
    (_conv_pos_batch_norm, named("encoder.pos_conv.0.weight_v"), False),
]


@pytest.mark.parametrize(("measure", "shapes", "said"), MEASURED)
def test_a_measure_says_what_these_tensors_show(measure: Callable[[Tensors], Any], shapes: Shapes, said: Any) -> None:
    found = tensors(shapes)
    assert measure(found) == said
    assert type(measure(found)) is type(said)
    assert found.problems == []


def test_a_gap_between_layers_is_a_problem_and_no_layer_is_one_layer() -> None:
    found = tensors(named("encoder.layers.0.a", "encoder.layers.3.a", "my.encoder.layers.1.a"))
    assert measures.layers(found) == 2
    assert found.problems == ["the encoder's layers [1] are missing"]
    assert measures.layers(tensors({})) == 1


def test_of_many_missing_layers_ten_are_named() -> None:
    found = tensors(named(*(f"encoder.layers.{number + 50}.a" for number in range(12))))
    assert measures.layers(found) == 12
    assert found.problems == [f"the encoder's layers {list(range(10))} are missing"]


# ---------------------------------------------------------------------------------------------------------------
# Attention of conformers

ATTENTION = "encoder.layers.0.self_attn."
NORM: Shapes = {"encoder.layer_norm.weight": (24,)}
ATTENTIONS: list[tuple[Shapes, str, int | None, str | None, str | None]] = [
    ({f"{ATTENTION}linear_pos.weight": (24, 24), f"{ATTENTION}pos_bias_u": (3, 8)}, "relative", 3, "rel_pos", "espnet"),
    # Each head of 8 channels has 4 frequencies.
    ({f"{ATTENTION}rotary_emb.inv_freq": (4,), f"{ATTENTION}linear_q.weight": (1,)}, "rotary", 3, "rope", "espnet"),
    ({f"{ATTENTION}q_proj.weight": (24, 24)}, "plain", None, None, None),
    ({f"{ATTENTION}linear_q.weight": (24, 24)}, "plain", None, "abs", None),
]


@pytest.mark.parametrize(("shapes", "kind", "heads", "positions", "word"), ATTENTIONS)
def test_the_tensors_of_an_attention_tell_its_kind(
    shapes: Shapes, kind: str, heads: int | None, positions: str | None, word: str | None
) -> None:
    found = tensors({**NORM, **shapes})
    assert conformer.attention(found) == kind
    assert conformer.attention_heads(found) == heads
    assert conformer.pos_enc_type(found) == positions
    assert conformer.attn_type(found) == word
    assert found.problems == []


def test_a_layer_without_attention_is_a_problem() -> None:
    found = tensors(named("encoder.layers.1.self_attn.linear_q.weight"))
    assert conformer.attention(found) == "plain"
    assert found.problems == ["the tensors encoder.layers.0.self_attn.* are missing"]


# ---------------------------------------------------------------------------------------------------------------
# Adapters


def test_adapters_are_measured_in_every_layer_that_has_one() -> None:
    name = "encoder.layers.{}.adapter_layer.W_a"
    found = tensors({**{name.format(layer): (3, 6, 20) for layer in (1, 4)}, **named("encoder.layers.2.fc1.weight")})
    assert adapters.MEASURES["adapter_layers"](found) == {1, 4}
    assert adapters.MEASURES["adapter_dim"](found) == 6
    assert adapters.layer_type(found) is None
    assert found.problems == []
    other = tensors({name.format(0): (3, 6, 20), name.format(1): (3, 5, 20)})
    assert adapters.MEASURES["adapter_dim"](other) == 6
    assert other.problems == ["the adapters of different layers have the sizes [5, 6]"]


def test_without_adapters_nothing_is_measured_and_layers_are_transformers() -> None:
    found = tensors(named("encoder.layers.2.fc1.weight"))
    assert adapters.MEASURES["adapter_layers"](found) == frozenset()
    assert adapters.MEASURES["adapter_dim"](found) is None
    assert adapters.layer_type(found) == "transformer"


@pytest.mark.parametrize(
    ("keys", "names"), [(None, ()), ("", ()), ("eng", ("eng",)), (" eng , fra,", ("eng", "fra", ""))]
)
def test_languages_are_named_in_the_order_of_the_cfg(keys: str | None, names: tuple[str, ...]) -> None:
    assert adapters.languages({"task.multi_corpus_keys": keys}) == names


ADAPTED = {
    "adapter_layers": frozenset({0}),
    "fine_tuned": True,
    "section": "model.w2v_args.model",
    "model.adp_act_fn": "relu",
    "adp_act_fn": "relu",
    "layer_norm_first": True,
}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"model.adp_act_fn": "gelu"}, ["cfg.model.adp_act_fn is gelu"]),
        # What counts is the outer section's, where there is one.
        ({"adp_act_fn": "gelu"}, []),
        ({"fine_tuned": False, "adp_act_fn": "gelu", "section": "model"}, ["cfg.model.adp_act_fn is gelu"]),
        (
            {"layer_norm_first": False},
            ["cfg.model.w2v_args.model.layer_norm_first is false and layer_type is trf_adp"],
        ),
        ({"adapter_layers": frozenset(), "model.adp_act_fn": "gelu", "layer_norm_first": False}, []),
    ],
)
def test_adapters_that_transformers_lacks_are_refused_where_there_are_adapters(
    changes: Mapping[str, Any], keys: list[str]
) -> None:
    assert [refusal.key for refusal in adapters.refusals({**ADAPTED, **changes})] == keys


# ---------------------------------------------------------------------------------------------------------------
# Checks

FACTS: Mapping[str, Any] = {
    "section": "model",
    "encoder_embed_dim": 24,
    "encoder_attention_heads": 3,
    "conv_pos_groups": 4,
    "conv_feature_layers": (ConvLayer(6, 10, 5), ConvLayer(24, 3, 2)),
    "extractor_shapes": [(6, 10), (24, 3)],
    "task.normalize": False,
    "latent_dim": 8,
    "latent_groups": 2,
    "quantize_targets": True,
    "has_projection": False,
}
NORMALIZED = "cfg.task.normalize is False and cfg.{} is True: fairseq demands that they agree"
CHECKED: list[tuple[Mapping[str, Any], list[str]]] = [
    ({}, []),
    (
        {"encoder_attention_heads": 5},
        ["cfg.model.encoder_attention_heads: 24 channels can't be shared among 5 attention heads"],
    ),
    (
        {"encoder_attention_heads": 0},
        ["cfg.model.encoder_attention_heads: 24 channels can't be shared among 0 attention heads"],
    ),
    ({"encoder_attention_heads": 1}, []),
    (
        {"conv_pos_groups": 5},
        ["cfg.model.conv_pos_groups: 24 channels can't be shared among 5 groups of the positional convolution"],
    ),
    (
        {"extractor_shapes": [(6, 10), (24, 2)]},
        [
            (
                "cfg.model.conv_feature_layers means (dim, kernel) = [(6, 10), (24, 3)], "
                "but the tensors have [(6, 10), (24, 2)]"
            )
        ],
    ),
    ({"model.normalize": None, "model.w2v_args.task.normalize": False}, []),
    ({"model.normalize": True}, [NORMALIZED.format("model.normalize")]),
    ({"model.w2v_args.task.normalize": True}, [NORMALIZED.format("model.w2v_args.task.normalize")]),
    ({"latent_groups": 3}, ["8 channels of a quantized vector can't be shared among 3 groups"]),
    ({"latent_groups": 3, "quantize_targets": False}, []),
    ({"latent_groups": 3, "latent_dim": 0}, []),
    ({"latent_groups": 2, "latent_dim": 1}, ["1 channels of a quantized vector can't be shared among 2 groups"]),
]


@pytest.mark.parametrize(("changes", "problems"), CHECKED)
def test_what_doesnt_fit_together_is_a_problem_with_both_numbers(
    changes: Mapping[str, Any], problems: list[str]
) -> None:
    assert [problem for check in checks.EVERY for problem in check({**FACTS, **changes})] == problems


@pytest.mark.parametrize(("changes", "count"), [({}, 2), ({"has_projection": True}, 0), ({"encoder_embed_dim": 20}, 0)])
def test_a_projection_is_made_up_where_fairseq_has_none_and_the_widths_are_equal(
    changes: Mapping[str, Any], count: int
) -> None:
    made = [(filling.target, filling.content) for filling in identity_projection({**FACTS, **changes})]
    name = "feature_projection.projection"
    assert made == [(f"{name}.weight", "identity"), (f"{name}.bias", "zeros")][:count]


@pytest.mark.parametrize(
    ("facts", "edits"),
    [
        ({}, {}),
        ({"model.blank_weight": 0.0, "model.blank_mode": "set"}, {}),
        ({"model.blank_weight": 2.0}, {"lm_head.bias": ("add", 2.0)}),
        (
            {"model.blank_weight": 2.0, "model.blank_mode": "set"},
            {"lm_head.bias": ("set", 2.0), "lm_head.weight": ("set", 0.0)},
        ),
    ],
)
def test_a_blank_weight_changes_the_first_row_alone(
    facts: Mapping[str, Any], edits: Mapping[str, tuple[str, float]]
) -> None:
    assert {name: (edit.mode, edit.value) for name, edit in blank_weight(facts).items()} == edits


# ---------------------------------------------------------------------------------------------------------------
# The extractor's layers, which a cfg spells in Python

LAYERS = (ConvLayer(12, 10, 5), ConvLayer(12, 3, 2), ConvLayer(12, 3, 2))
LARGEST = 2**20


@pytest.mark.parametrize(
    "source",
    [
        "[(12, 10, 5), (12, 3, 2), (12, 3, 2)]",
        "  [(12,10,5)]+[(12,3,2)]*2",
        "[(12,10,5)]+2*[(12,3,2)]",
        "((12, 10, 5),) + ([6 * 2, 2 + 1, 2],) * (1 + 1)",
        "[(12, 10, 5)] + [(12, 3, 2)] * 2 + [(1, 1, 1)] * 0",
        "[[12] + [10, 5]] + [[12, 3, 2]] + [[12, 3, 2]]",
    ],
)
def test_layers_are_what_python_makes_of_them(source: str) -> None:
    assert parse_conv_feature_layers(source) == LAYERS
    assert conv_layers.accept(source) == LAYERS


@pytest.mark.parametrize(
    "source",
    [
        *("", "[]", "()", "12", "[12]", "[(12, 10)]", "[(12, 10, 5, 1)]", "[(12, 10, 0)]", "[(12, 10, -5)]", "[None]"),
        *("[(12, 10, True)]", "[(12, 10, 5.0)]", "[(12, 10, '5')]", "[('a', 'b', 'c')]", "['abc']", "'abc'"),
        *("[(12, 10, 5)] - [(12, 3, 2)]", "[(12, 10, 5)] + ((12, 3, 2),)", "[(12, 10, 5)] * [2]", "[(12, 10, 5)"),
        *("[(12, 10, 5)]; 1", "x", "[x]", "f(1)", "[(12, 10, 5) for _ in range(2)]", "{(12, 10, 5)}", "\0"),
        *(f"[({LARGEST + 1}, 10, 5)]", f"[({LARGEST} + 1, 10, 5)]", f"[({LARGEST} * 2, 10, 5)]"),
        *("[(12, 10, 5)] * 65", "65 * [(12, 10, 5)]", "[(12, 10, 5)] * 33 + [(12, 10, 5)] * 32"),
        *("[(12, 10, 5)]" + " " * 10_000, "(" * 500),
    ],
)
def test_anything_else_than_layers_is_none(source: str) -> None:
    assert parse_conv_feature_layers(source) is None


@pytest.mark.parametrize(("source", "count"), [("[(12, 10, 5)] * 64", 64), (f"[({LARGEST}, 10, 5)]", 1)])
def test_the_largest_that_is_taken_is_taken(source: str, count: int) -> None:
    found = parse_conv_feature_layers(source)
    assert found is not None
    assert len(found) == count
    assert parse_conv_feature_layers("[(12, 10, 5)]".ljust(10_000)) == LAYERS[:1]


@pytest.mark.parametrize(("largest", "larger"), [(LARGEST, LARGEST + 1), ([0] * 64, [0] * 65), ((0,) * 64, (0,) * 65)])
def test_nothing_larger_is_made_on_the_way(largest: object, larger: object) -> None:
    assert _bounded(largest) == largest
    with pytest.raises(ValueError, match="larger than any extractor"):
        _bounded(larger)


@pytest.mark.parametrize("value", [None, 3, [(12, 10, 5)], b"[(12, 10, 5)]"])
def test_layers_that_are_no_text_are_outside_the_domain(value: object) -> None:
    assert conv_layers.accept(value) is None
