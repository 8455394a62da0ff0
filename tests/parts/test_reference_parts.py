"""The parts of fairseq's forward that a whole pass hardly shows: masks of frames, what is read, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError
from w2vc.families.conformer import reference as conformer
from w2vc.families.conv_feature_layers import ConvLayer
from w2vc.families.data2vec_audio import reference as data2vec
from w2vc.families.hubert import reference as hubert
from w2vc.families.shared import reference as shared
from w2vc.families.shared import transformer_reference as transformer
from w2vc.families.shared.reference import Model, Settings, Weights
from w2vc.families.wav2vec2 import reference as wav2vec2

MODELS = {
    "conformer": conformer._MODEL,
    "wav2vec2": wav2vec2._MODEL,
    "hubert": hubert._MODEL,
    "data2vec": data2vec._MODEL,
}


def weights(**tensors: Tensor) -> Weights:
    return Weights(tensors, frozenset(tensors), "")


def dotted(tensors: Mapping[str, Tensor]) -> Weights:
    return Weights(tensors, frozenset(tensors), "")


# ---------------------------------------------------------------------------------------------------------------
# Which frames are padding


def padding(samples: int, *real: int) -> Tensor:
    """A padding mask of clips with so many real samples each."""
    return torch.tensor([[index >= count for index in range(samples)] for count in real])


LAYERS = (ConvLayer(6, 10, 5), ConvLayer(6, 3, 2))


# Of 50 samples: 9 frames of the first layer, (9 - 3) // 2 + 1 = 4 of the second.
@pytest.mark.parametrize(("real", "frames"), [(50, 4), (49, 3), (40, 3), (39, 2), (30, 2), (29, 1), (20, 1)])
def test_a_frame_is_real_where_a_clips_own_samples_give_it(real: int, frames: int) -> None:
    mask = shared.frame_mask(padding(50, real, 20), 4, LAYERS)
    assert mask is not None
    assert mask.dtype == torch.bool
    assert (~mask).sum(-1).tolist() == [frames, 1]
    assert (~mask)[0].tolist() == [index < frames for index in range(4)]


def test_a_mask_that_marks_nothing_is_none_but_for_hubert() -> None:
    assert shared.frame_mask(padding(50, 50), 4, LAYERS) is None
    nothing = hubert._frame_mask(padding(50, 50), 4, LAYERS)
    assert nothing.tolist() == [[False] * 4]


# HubertModel.forward_padding_mask: 10 samples in 3 frames are 3 a frame, and the last sample is left out.
@pytest.mark.parametrize(
    ("samples", "real", "frames", "marked"),
    [
        (10, 10, 3, [False, False, False]),
        (10, 7, 3, [False, False, False]),
        (10, 6, 3, [False, False, True]),
        (10, 4, 3, [False, False, True]),
        (10, 3, 3, [False, True, True]),
        (10, 1, 3, [False, True, True]),
        (9, 6, 3, [False, False, True]),
        (9, 7, 3, [False, False, False]),
        (11, 6, 3, [False, False, True]),
    ],
)
def test_huberts_frame_is_padding_where_all_its_equal_share_of_the_samples_is(
    samples: int, real: int, frames: int, marked: list[bool]
) -> None:
    assert hubert._frame_mask(padding(samples, real), frames, LAYERS).tolist() == [marked]


@pytest.mark.parametrize(("frames", "multiple", "padded"), [(4, 2, 4), (5, 2, 6), (5, 4, 8), (7, 1, 7), (6, 4, 8)])
def test_frames_are_padded_to_a_multiple_and_what_is_added_is_masked(frames: int, multiple: int, padded: int) -> None:
    x = torch.ones(2, frames, 3)
    for mask in (None, torch.zeros(2, frames, dtype=torch.bool)):
        found, masked = shared._pad_to_multiple(x, mask, multiple)
        assert found.shape == (2, padded, 3)
        assert torch.equal(found[:, :frames], x)
        assert not found[:, frames:].any()
        if padded == frames:
            assert masked is mask
        else:
            assert masked is not None
            assert masked.tolist() == [[index >= frames for index in range(padded)]] * 2


# ---------------------------------------------------------------------------------------------------------------
# What is read


def test_a_tensor_is_read_in_float32_and_held_to_its_shape() -> None:
    found = dotted({"a.weight": torch.ones(2, 3, dtype=torch.float16), "b.bias": torch.ones(2)})
    assert found.below("a").read("weight", 2, None).dtype == torch.float32
    assert ("weight" in found.below("a"), "bias" in found.below("a")) == (True, False)
    for shape in ((3, 2), (2,), (2, 3, 1), (2, 4)):
        with pytest.raises(InconsistentError, match=r"a\.weight is \(2, 3\), and cfg says "):
            found.below("a").read("weight", *shape)
    with pytest.raises(InconsistentError, match=r"a\.bias is missing, and cfg says that there is one of \(2,\)"):
        found.below("a").read("bias", 2)


def test_a_bias_is_there_exactly_where_it_is_expected() -> None:
    found = dotted({"a.bias": torch.ones(2), "b.weight": torch.ones(2)})
    assert found.below("a").bias(2, expected=True) is not None
    assert found.below("b").bias(2, expected=False) is None
    with pytest.raises(InconsistentError, match=r"b\.bias is missing"):
        found.below("b").bias(2, expected=True)
    with pytest.raises(InconsistentError, match=r"a\.bias is there, and cfg says that there is none"):
        found.below("a").bias(2, expected=False)


@pytest.mark.parametrize(
    ("said", "widths"),
    [
        ({}, (20, 20, 20)),
        ({"final_dim": 7}, (7, 7, 20)),
        ({"latent_dim": 6}, (20, 6, 6)),
        ({"final_dim": 7, "latent_dim": 6}, (7, 6, 6)),
        ({"final_dim": -1, "latent_dim": -1}, (20, 20, 20)),
        ({"final_dim": 1, "latent_dim": 1}, (1, 1, 1)),
        ({"final_dim": 7, "same_quantizer": True}, (7, 7, 20)),
        ({"final_dim": 7, "same_quantizer": True, "quantize_targets": True}, (7, 7, 7)),
        ({"final_dim": 7, "quantize_targets": True}, (7, 7, 20)),
    ],
)
def test_a_width_of_zero_is_as_wide_as_another(said: Mapping[str, Any], widths: tuple[int, int, int]) -> None:
    found = Settings(encoder_embed_dim=20, **said)
    assert (found.final_width, found.codevector_width, found.input_codevector_width) == widths


# ---------------------------------------------------------------------------------------------------------------
# Settings

PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "conformer": {"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")},
    "wav2vec2": {"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")},
    "hubert": {"hubert": (), "hubert_ctc": ("w2v_args", "model"), "wav2vec_ctc": ("w2v_args", "model")},
    "data2vec": {"data2vec_audio": (), "wav2vec_ctc": ("w2v_args", "model")},
}
# Keys that the family's forward never looks at.
IGNORED = {
    "conformer": set[str](),
    "wav2vec2": set[str](),
    "hubert": {"quantize_input", "crop_seq_to_multiple", "pos_conv_depth"},
    "data2vec": {"quantize_input", "crop_seq_to_multiple"},
}


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_read_where_the_models_architecture_is(name: str) -> None:
    model = MODELS[name]
    assert model.architectures == PLACES[name]
    assert model.fine_tuned == {each for each, place in PLACES[name].items() if place}
    assert model.always_projects == (name == "data2vec")
    said: dict[str, Any] = {"encoder_layers": 3, "quantize_input": True, "crop_seq_to_multiple": 4, "unknown": 1}
    said["pos_conv_depth"] = 2
    for each, place in PLACES[name].items():
        architecture = said if not place else {"w2v_args": {"model": said}, "encoder_layers": 99}
        found = shared._settings(model, {"model": {"_name": each, **architecture}})
        expected = {
            key: Settings.__dataclass_fields__[key].default if key in IGNORED[name] else value
            for key, value in said.items()
            if key != "unknown"
        }
        assert {key: getattr(found, key) for key in expected} == expected
        assert type(found) is model.settings


@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_refused_with_those_that_can_be_computed(name: str) -> None:
    model = MODELS[name]
    for other in ("theirs", None):
        with pytest.raises(UnsupportedModelError) as caught:
            shared._settings(model, {"model": {"_name": other}})
        assert caught.value.problems[0] == (
            f"cfg.model._name is {other!r}, and only {' and '.join(PLACES[name])} can be computed"
        )
        assert caught.value.advice == f"Give a pretrained {model.what}, or one fine-tuned with CTC."


@pytest.mark.parametrize(
    ("args", "path"), [(None, "cfg.model.w2v_args is None"), ({}, "cfg.model.w2v_args.model is None")]
)
def test_a_fine_tuned_cfg_without_its_architecture_is_refused_by_the_missing_part(args: object, path: str) -> None:
    with pytest.raises(InconsistentError, match=f"{path}, and should hold the model's architecture"):
        shared._settings(wav2vec2._MODEL, {"model": {"_name": "wav2vec_ctc", "w2v_args": args}})


def test_every_setting_is_one_that_a_cfg_may_say() -> None:
    said = {each.name: each.default for each in fields(Settings)}
    assert shared._settings(wav2vec2._MODEL, {"model": {"_name": "wav2vec2", **said}}) == Settings()


# ---------------------------------------------------------------------------------------------------------------
# What is refused

BOOL = torch.zeros(2, 9, dtype=torch.bool)


@pytest.mark.parametrize(
    ("source", "mask", "count"),
    [
        (torch.zeros(2, 9), None, 0),
        (torch.zeros(2, 9), BOOL, 0),
        (torch.zeros(9), None, 1),
        (torch.zeros(2, 9, 1), None, 1),
        (torch.zeros(2, 9, dtype=torch.float16), None, 1),
        (torch.zeros(2, 9), torch.zeros(2, 9), 1),
        (torch.zeros(2, 9), BOOL[:, :8], 1),
        (torch.zeros(2, 9, dtype=torch.float64), BOOL[:1], 2),
    ],
)
def test_input_is_clips_in_float32_and_a_mask_of_the_same_shape(
    source: Tensor, mask: Tensor | None, count: int
) -> None:
    if not count:
        shared._check_input(source, mask)
        return
    with pytest.raises(UsageError) as caught:
        shared._check_input(source, mask)
    assert len(caught.value.problems) == count


@pytest.mark.parametrize("samples", [9, 10])
def test_a_clip_of_one_kernel_gives_a_frame_and_a_shorter_one_none(samples: int) -> None:
    layer = ConvLayer(2, 10, 5)
    found = dotted({"0.0.weight": torch.ones(2, 1, 10), "0.2.weight": torch.ones(2), "0.2.bias": torch.zeros(2)})
    if samples == 10:
        assert shared._extract(torch.zeros(2, samples), (layer,), found, Settings()).shape == (2, 2, 1)
        return
    with pytest.raises(UsageError, match="9 samples are too few to give a frame"):
        shared._extract(torch.zeros(1, samples), (layer,), found, Settings())


def settings(**changes: Any) -> Settings:
    return Settings(encoder_layers=2, encoder_embed_dim=8, encoder_attention_heads=2, **changes)


def test_more_layers_than_the_cfg_says_and_heads_that_cant_share_are_refused() -> None:
    found = {f"layers.{index}.final_layer_norm.weight": torch.ones(8) for index in range(2)}
    shared.check_layers(dotted(found), settings())
    with pytest.raises(InconsistentError, match=r"more layers than cfg\.model\.encoder_layers, 2"):
        shared.check_layers(dotted({**found, "layers.2.final_layer_norm.weight": torch.ones(8)}), settings())
    with pytest.raises(InconsistentError, match=r"can't be divided by cfg\.model\.encoder_attention_heads"):
        shared.check_layers(dotted(found), Settings(encoder_embed_dim=8, encoder_attention_heads=3))


CONFORMER_LAYER = ("layers.0.self_attn.linear_pos.weight", "layers.0.conv_module.depthwise_conv.weight")


@pytest.mark.parametrize("encoder", [transformer.encoder, conformer._encoder, wav2vec2._MODEL.encoder])
def test_every_encoder_counts_its_layers(encoder: Callable[..., Any]) -> None:
    found = dict.fromkeys(CONFORMER_LAYER, torch.ones(1))
    assert callable(encoder(dotted(found), settings()).layer)
    with pytest.raises(InconsistentError, match="there are more layers"):
        encoder(dotted({**found, "layers.2.final_layer_norm.weight": torch.ones(8)}), settings())


def test_layers_that_cant_be_read_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="conv_feature_layers can't be read"):
        shared._conv_layers(Settings(conv_feature_layers="x"))


def test_an_activation_that_the_reference_lacks_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedModelError, match="activation_fn is 'swish'"):
        transformer.encoder(dotted({}), settings(activation_fn="swish"))
    with pytest.raises(UnsupportedModelError, match="adp_act_fn is 'swish'") as caught:
        wav2vec2._adapter_activation("swish")
    assert caught.value.advice == "fairseq itself has relu, gelu, selu."


# modules/gelu.py, fairseq/utils.py and torch's own.
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("relu", [0.0, 0.0, 2.0]),
        ("relu_squared", [0.0, 0.0, 4.0]),
        ("tanh", [-0.7615941559557649, 0.0, 0.9640275800758169]),
        ("linear", [-1.0, 0.0, 2.0]),
        ("gelu", [-0.15865525393145707, 0.0, 1.9544997361036416]),
        ("gelu_accurate", [-0.15880800939172324, 0.0, 1.954597694087775]),
        ("gelu_fast", [-0.15880800939172324, 0.0, 1.954597694087775]),
    ],
)
def test_activations_compute_what_fairseqs_do(name: str, values: list[float]) -> None:
    found = transformer._ACTIVATIONS[name](torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64))
    assert torch.allclose(found, torch.tensor(values, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "gelu", "selu"])
def test_adapters_have_fairseqs_three_activations(name: str) -> None:
    x = torch.tensor([-1.0, 2.0])
    expected = {"relu": [0.0, 2.0], "gelu": [-0.1587, 1.9545], "selu": [-1.1113, 2.1014]}[name]
    assert torch.allclose(wav2vec2._adapter_activation(name)(x), torch.tensor(expected), atol=1e-4)


def adapters() -> dict[str, Tensor]:
    """Of two languages, of which the first adds nothing; the second has one channel between the layers."""
    second = {"ln_W": [1, 1], "ln_b": [0, 0], "W_a": [[0, 2]], "b_a": [1], "W_b": [[1], [-1]], "b_b": [0.5, 0]}
    values = {name: torch.tensor(value, dtype=torch.float32) for name, value in second.items()}
    return {f"adapter_layer.{name}": torch.stack([torch.zeros_like(value), value]) for name, value in values.items()}


# Of [1, 3] the norm makes [-1, 1], the first layer 2 * 1 + 1, the second [3 + 0.5, -3].
@pytest.mark.parametrize(("language", "added"), [(0, [0.0, 0.0]), (1, [3.5, -3.0])])
def test_an_adapter_adds_what_its_language_computes_to_the_layers_output(
    language: int, added: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(*_: object) -> shared.Encoder:
        return shared.Encoder(layer=lambda x, _mask, _weights: x / 10, is_transformer=True)

    monkeypatch.setattr(wav2vec2, "encoder_of_layers", plain)
    encoder = wav2vec2._encoder(dotted({}), Settings(), torch.relu, language)
    x = torch.tensor([[[10.0, 30.0]]])
    found = encoder.layer(x, None, dotted(adapters()))
    assert torch.allclose(found[0, 0], torch.tensor([1.0, 3.0]) + torch.tensor(added), atol=1e-4)
    assert encoder.layer(x, None, dotted({})).tolist() == [[[1.0, 3.0]]]
    assert encoder.is_transformer


# ---------------------------------------------------------------------------------------------------------------
# Conformers

MARKS: list[tuple[str, Callable[..., Tensor]]] = [
    ("linear_pos.weight", conformer._attend_relative),
    ("rotary_emb.inv_freq", conformer._attend_rotary),
    ("linear_q.weight", conformer._attend_absolute),
    ("q_proj.weight", transformer.attend),
]


@pytest.mark.parametrize(
    ("attention", "pos_enc_type", "is_transformer"),
    [
        (conformer._attend_relative, "abs", False),
        (conformer._attend_rotary, "abs", False),
        (conformer._attend_absolute, "abs", True),
        (conformer._attend_absolute, "rope", None),
        (transformer.attend, "abs", True),
        (transformer.attend, "rope", False),
        (transformer.attend, "rel_pos", None),
    ],
)
def test_absolute_positions_are_those_that_fairseq_can_run(
    attention: Callable[..., Tensor], pos_enc_type: str, is_transformer: bool | None
) -> None:
    if is_transformer is None:
        with pytest.raises(InconsistentError, match=f"pos_enc_type is '{pos_enc_type}'"):
            conformer._absolute_positions(attention, settings(pos_enc_type=pos_enc_type))
    else:
        assert conformer._absolute_positions(attention, settings(pos_enc_type=pos_enc_type)) == is_transformer


@pytest.mark.parametrize(
    "names",
    [
        ["layers.0.self_attn.linear_q.weight"],
        ["layers.0.conv_module.depthwise_conv.weight"],
        ["layers.0.conv_module.depthwise_conv.weight", "layers.1.self_attn.linear_q.weight"],
    ],
)
def test_layers_without_attention_or_convolution_are_no_conformers(names: list[str]) -> None:
    with pytest.raises(UnsupportedModelError, match="not the tensors of a conformer layer"):
        conformer._encoder(dotted(dict.fromkeys(names, torch.ones(1))), settings())


@pytest.mark.parametrize(("mark", "attention"), MARKS)
def test_the_first_mark_that_is_there_tells_the_attention(mark: str, attention: Callable[..., Tensor]) -> None:
    assert conformer._ATTENTIONS[mark] is attention
    assert list(conformer._ATTENTIONS) == [each for each, _ in MARKS]


def test_relative_positions_go_from_the_most_positive_to_the_most_negative() -> None:
    found = conformer._relative_positions(torch.zeros(1, 3, 4))
    assert found.shape == (1, 5, 4)
    positions = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    assert torch.allclose(found[0, :, 0], torch.sin(positions))
    assert torch.allclose(found[0, :, 1], torch.cos(positions))
    # The second pair of two has a frequency of 10000 ** (-2 / 4).
    assert torch.allclose(found[0, :, 2], torch.sin(positions / 100))
    assert torch.allclose(found[0, :, 3], torch.cos(positions / 100))


def test_relative_positions_are_single_precision_whatever_torch_makes_by_default() -> None:
    expected = conformer._relative_positions(torch.zeros(1, 3, 4))
    torch.set_default_dtype(torch.float64)
    try:
        found = conformer._relative_positions(torch.zeros(1, 3, 4, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_rotary_positions_turn_each_heads_input_by_its_frame() -> None:
    # One head of two channels; projections that leave all as it is, so that each frame attends by the angle between.
    same = torch.eye(2)
    names = ("linear_q", "linear_k", "linear_v", "linear_out")
    found = {f"{name}.weight": same for name in names} | {f"{name}.bias": torch.zeros(2) for name in names}
    found["rotary_emb.inv_freq"] = torch.tensor([0.5])
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    model = Settings(encoder_attention_heads=1)
    turned = []
    for frame, (a, b) in enumerate(x[0].tolist()):
        cos, sin = math.cos(0.5 * frame), math.sin(0.5 * frame)
        turned.append([a * cos - b * sin, b * cos + a * sin])
    scores = torch.tensor(turned) @ torch.tensor(turned).T / math.sqrt(2)
    expected = torch.softmax(scores, -1) @ x[0]
    assert torch.allclose(conformer._attend_rotary(x, None, dotted(found), model)[0], expected, atol=1e-6)


def test_scores_by_relative_position_are_shifted_to_keys() -> None:
    # Of frame i, position j stands for a key 2 - j frames before.
    scores = torch.arange(15.0).view(1, 1, 3, 5)
    expected = [[2.0, 3.0, 4.0], [6.0, 7.0, 8.0], [10.0, 11.0, 12.0]]
    assert conformer._relative_shift(scores)[0, 0].tolist() == expected


# ---------------------------------------------------------------------------------------------------------------
# Heads


def ctc(model: Mapping[str, Any]) -> list[float]:
    projection = weights(weight=torch.tensor([[1.0], [2.0]]), bias=torch.tensor([0.5, 0.0]))
    logits: list[float] = shared._ctc_logits(torch.tensor([[[3.0]]]), projection, model)[0, 0].tolist()
    return logits


@pytest.mark.parametrize(
    ("model", "logits"),
    [
        ({}, [3.5, 6.0]),
        ({"blank_weight": 0, "blank_mode": "theirs"}, [3.5, 6.0]),
        ({"blank_weight": 2}, [5.5, 6.0]),
        ({"blank_weight": 2, "blank_mode": "add"}, [5.5, 6.0]),
        ({"blank_weight": 2, "blank_mode": "set"}, [2.0, 6.0]),
    ],
)
def test_a_blank_weight_changes_the_first_logit_alone(model: Mapping[str, Any], logits: list[float]) -> None:
    assert ctc(model) == logits


def test_a_blank_mode_that_fairseq_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="blank_mode is 'theirs'"):
        ctc({"blank_weight": 2, "blank_mode": "theirs"})


def test_huberts_projection_is_computed_where_there_is_one() -> None:
    x = torch.ones(1, 2, 3)
    assert hubert._pretraining(x, x, dotted({}), settings()) == (None, None, None)
    projection = {"final_proj.weight": torch.ones(5, 3), "final_proj.bias": torch.ones(5)}
    found, targets, indices = hubert._pretraining(x, x, dotted(projection), settings())
    assert found is not None
    assert found.tolist() == [[[4.0] * 5] * 2]
    assert (targets, indices) == (None, None)


@pytest.mark.parametrize("name", ["final_proj", "final_proj.0"])
def test_data2vecs_projection_has_either_name(name: str) -> None:
    projection = {f"{name}.weight": torch.ones(8, 8), f"{name}.bias": torch.ones(8)}
    found, *others = data2vec._pretraining(torch.ones(1, 2, 8), torch.ones(1), dotted(projection), settings())
    assert found.tolist() == [[[9.0] * 8] * 2]
    assert others == [None, None]


@pytest.mark.parametrize("always", [True, False])
def test_features_as_wide_as_the_encoder_are_projected_where_there_is_always_a_projection(always: bool) -> None:
    model: Model = SimpleNamespace(always_projects=always)  # type: ignore[assignment]
    projection = {"post_extract_proj.weight": torch.ones(8, 8), "post_extract_proj.bias": torch.ones(8)}
    found = shared._project_features(model, torch.ones(1, 2, 8), dotted(projection), settings())
    assert found[0, 0, 0] == (9.0 if always else 1.0)
    narrow = {**projection, "post_extract_proj.weight": torch.ones(8, 4)}
    assert shared._project_features(model, torch.ones(1, 2, 4), dotted(narrow), settings())[0, 0, 0] == 5.0
