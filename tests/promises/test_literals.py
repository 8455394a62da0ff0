"""Each fixture's small files are, to the last setting, what was written down by reading fairseq.

``fixtures/<name>/expected.json`` is made by ``fixtures/make_expected.py``, which shares nothing with w2vc.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONVERTIBLE, EVERY, FIXTURES, UNRECORDED, checkpoint, options
from w2vc.errors import UnsupportedModelError
from w2vc.families.family import Edit, FirstRow, Head, Scale
from w2vc.families.interpreter import describe
from w2vc.options import Options
from w2vc.planning.plan import Plan, make_plan
from w2vc.planning.preparation import Prepared, prepare
from w2vc.planning.processor import tokenizer_config, vocabulary
from w2vc.reading.checkpoint import read_checkpoint
from w2vc.reading.dictionary import Dictionary

pytestmark = pytest.mark.whole

Files = dict[str, Any]
EXPECTED: dict[str, dict[Head, Files]] = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*/expected.json"))
}
HEAD_REFUSED = [name for name in EXPECTED if name not in {*CONVERTIBLE, *UNRECORDED}]


def prepared(path: Path, **given: Any) -> Prepared:
    return prepare(path, Options(card=False, **given))


def files(plan: Plan) -> Files:
    """What a conversion would write: each small file's content, and the names of the files of weights."""
    return {**{name: json.loads(data) for name, data in plan.files.items()}, "weights": list(plan.weights)}


def lines(files: Files) -> list[str]:
    """A line for each setting, in which 1, 1.0 and true differ, as they do for transformers."""
    return [f"{name}: {line}" for name, held in sorted(files.items()) for line in _settings(held)]


def _settings(held: Any) -> list[str]:
    return [f"{key} = {value!r}" for key, value in sorted(held.items())] if isinstance(held, dict) else [repr(held)]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in HEAD_REFUSED])
def test_every_setting_is_what_fairseq_says_and_there_is_no_other(name: str) -> None:
    found = prepared(checkpoint(name), **options(name))
    own, *others = EXPECTED[name]
    assert found.plan.head == own
    assert lines(files(found.plan)) == lines(EXPECTED[name][own])
    for head in others:
        plan = make_plan(found.checkpoint, found.description, None, head, "float32")
        assert lines(files(plan)) == lines(EXPECTED[name][head]), head


@pytest.mark.parametrize("name", HEAD_REFUSED)
def test_an_encoder_whose_head_is_refused_has_the_settings_that_fairseq_says(name: str) -> None:
    assert lines(files(prepared(checkpoint(name), head="none").plan)) == lines(EXPECTED[name]["none"])


@pytest.mark.parametrize("name", [name for name in EVERY if name not in EXPECTED])
def test_a_fixture_of_which_nothing_is_expected_converts_with_no_head(name: str) -> None:
    for head in ("auto", "none"):
        with pytest.raises(UnsupportedModelError):
            prepared(checkpoint(name), head=head)


# ---------------------------------------------------------------------------------------------------------------
# The same settings from files of every other form

FORMS = [
    (form, eras.parent.name, facts["base"])
    for eras in sorted(FIXTURES.glob("*/eras.json"))
    for form, facts in json.loads(eras.read_text(encoding="utf-8")).items()
] + [("namespace", "hubert", "hubert"), ("final_proj_0", "data2vec_audio", "data2vec_audio")]


@pytest.mark.parametrize(("form", "folder", "base"), FORMS)
def test_a_file_of_another_form_has_the_settings_that_fairseq_says(form: str, folder: str, base: str) -> None:
    own = next(iter(EXPECTED[base].values()))
    assert lines(files(prepared(FIXTURES / folder / f"{form}.pt").plan)) == lines(own)


# ---------------------------------------------------------------------------------------------------------------
# Where a cfg says nothing: the defaults of fairseq's dataclasses, written out

# What fairseq itself builds by these defaults (fixtures/make_default_shapes.py).
BUILT: dict[str, dict[str, Any]] = json.loads((FIXTURES / "default_shapes.json").read_text(encoding="utf-8"))
ONLY_IN_PRETRAINING = ("quantizer.", "project_q.", "final_proj.", "label_embs_concat")

# Of Wav2Vec2Config (fairseq/models/wav2vec/wav2vec2.py), of HubertConfig (models/hubert/hubert.py) and of
# Data2VecAudioConfig (examples/data2vec/models/data2vec_audio.py), which say the same; and what no key decides.
ENCODER: Files = {
    "conv_bias": False,
    "conv_dim": [512, 512, 512, 512, 512, 512, 512],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_conv_pos_embedding_groups": 16,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.65,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-05,
    "final_dropout": 0.0,
    "apply_spec_augment": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
GROUP_NORM: Files = {"feat_extract_norm": "group", "num_conv_pos_embeddings": 128}
WAV2VEC2: Files = {
    **ENCODER,
    **GROUP_NORM,
    "model_type": "wav2vec2",
    "do_stable_layer_norm": False,
    "feat_quantizer_dropout": 0.0,
}
# A conformer's only dropout is everywhere (modules/conformer_layer.py); layer_norm_first is false: a layer in front.
CONFORMER: Files = {
    **ENCODER,
    **GROUP_NORM,
    "model_type": "wav2vec2-conformer",
    "position_embeddings_type": "relative",
    "conv_depthwise_kernel_size": 31,
    "hidden_act": "swish",
    "num_hidden_layers": 13,
    "activation_dropout": 0.1,
    "conformer_conv_dropout": 0.1,
    "feat_quantizer_dropout": 0.0,
}
HUBERT: Files = {
    **ENCODER,
    **GROUP_NORM,
    "model_type": "hubert",
    "do_stable_layer_norm": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}
# TransformerEncoder.__init__ makes kernels of max(3, 128 // 5), and Data2VecAudioModel.apply_mask one mask at least.
DATA2VEC: Files = {
    **ENCODER,
    "model_type": "data2vec-audio",
    "num_conv_pos_embeddings": 5,
    "conv_pos_kernel_size": 25,
    "mask_time_min_masks": 1,
}
# Wav2Vec2Config, where final_dim and latent_dim are 0; Wav2VecCriterionConfig (criterions/wav2vec_criterion.py).
PRETRAINING: Files = {
    "num_codevectors_per_group": 320,
    "num_codevector_groups": 2,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
    "num_negatives": 100,
    "contrastive_logits_temperature": 0.1,
    "diversity_loss_weight": 0.0,
}
# Of Wav2Vec2AsrConfig (models/wav2vec/wav2vec2_asr.py) and of HubertAsrConfig (models/hubert/hubert_asr.py), which say
# the same, and of CtcCriterionConfig (criterions/ctc.py).
CTC: Files = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "mask_time_prob": 0.5,
    "apply_spec_augment": False,
    "ctc_zero_infinity": False,
    "ctc_loss_reduction": "sum",
    "vocab_size": 32,
}
# AudioPretrainingConfig (tasks/audio_pretraining.py) and HubertPretrainingConfig (tasks/hubert_pretraining.py).
AUDIO: Files = {"do_normalize": False, "sampling_rate": 16000}

PRETRAINED = {
    "conformer": {**CONFORMER, **PRETRAINING, "architectures": ["Wav2Vec2ConformerForPreTraining"]},
    "wav2vec2": {**WAV2VEC2, **PRETRAINING, "architectures": ["Wav2Vec2ForPreTraining"]},
    "hubert": {**HUBERT, "architectures": ["HubertModel"]},
    "data2vec_audio": {**DATA2VEC, "architectures": ["Data2VecAudioModel"]},
}
FINE_TUNED = {
    "conformer": {
        **CONFORMER,
        **CTC,
        "conformer_conv_dropout": 0.0,
        "architectures": ["Wav2Vec2ConformerForCTC"],
    },
    "wav2vec2": {**WAV2VEC2, **CTC, "architectures": ["Wav2Vec2ForCTC"]},
    "hubert": {**HUBERT, **CTC, "architectures": ["HubertForCTC"]},
    "data2vec_audio": {**DATA2VEC, **CTC, "architectures": ["Data2VecAudioForCTC"]},
}
NAMES = {"conformer": "wav2vec2"}
FINE_TUNED_NAMES = {"hubert": "hubert_ctc"}


def default_sizes(kind: str) -> dict[str, tuple[int, ...]]:
    """Name and sizes of each tensor of a model that fairseq built by its defaults."""
    built = BUILT[kind]
    return {
        name.replace("{layer}", str(layer)): tuple(sizes)
        for name, sizes in built["shapes"].items()
        for layer in range(built["layers"] if "{layer}" in name else 1)
    }


def planned(sizes: dict[str, tuple[int, ...]], cfg: dict[str, Any]) -> tuple[Files, Files]:
    """What would be written of a checkpoint with these tensors and this cfg: config.json, and the extractor's file."""
    read = read_checkpoint(checkpoint("relative_ctc"))
    some = next(iter(read.tensors.values()))
    tensors = {name: replace(some, name=name, shape=shape, dtype=_dtype(name)) for name, shape in sizes.items()}
    forged = replace(read, tensors=tensors, cfg=cfg)
    description = describe(forged)
    found = files(make_plan(forged, description, read.dictionary, description.own_head, "float32"))
    return found["config.json"], found["preprocessor_config.json"]


def _dtype(name: str) -> str:
    return "int64" if name.endswith("num_batches_tracked") else "float32"


def pretrained(kind: str, said: Files, **sections: Files) -> tuple[Files, Files]:
    """The files of a pretrained model whose cfg says this, and otherwise only what kind of model it is."""
    model = {"_name": NAMES.get(kind, kind), **BUILT[kind]["given"], **said}
    return planned(default_sizes(kind), {"model": model, **sections})


def fine_tuned(kind: str, inner: Files, outer: Files, **sections: Files) -> tuple[Files, Files]:
    """The same of a fine-tuned model: what the pretrained one's cfg says, and its own."""
    kept = {name: sizes for name, sizes in default_sizes(kind).items() if not name.startswith(ONLY_IN_PRETRAINING)}
    encoder = {f"w2v_encoder.w2v_model.{name}": sizes for name, sizes in kept.items()}
    head = {"w2v_encoder.proj.weight": (32, 768), "w2v_encoder.proj.bias": (32,)}
    args = {"model": {"_name": NAMES.get(kind, kind), **BUILT[kind]["given"], **inner}}
    model = {"_name": FINE_TUNED_NAMES.get(kind, "wav2vec_ctc"), "w2v_args": args, **outer}
    return planned({**encoder, **head}, {"model": model, **sections})


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_cfg_that_says_nothing_means_fairseqs_own_defaults(kind: str) -> None:
    config, audio = pretrained(kind, {})
    assert _settings(config) == _settings(PRETRAINED[kind])
    assert audio.items() >= AUDIO.items()


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_a_fine_tuned_cfg_that_says_nothing_means_fairseqs_own_defaults(kind: str) -> None:
    config, audio = fine_tuned(kind, {}, {})
    assert _settings(config) == _settings(FINE_TUNED[kind])
    assert audio.items() >= AUDIO.items()


# ---------------------------------------------------------------------------------------------------------------
# Where a cfg says something else than a default for everything that the tensors don't show

SAID: Files = {
    "conv_feature_layers": "[(512, 10, 4)] + [(512, 3, 3)] * 4 + [(512, 2, 1)] * 2",
    "encoder_attention_heads": 6,
    "activation_fn": "relu",
    "dropout": 0.21,
    "attention_dropout": 0.22,
    "activation_dropout": 0.23,
    "dropout_input": 0.24,
    "dropout_features": 0.25,
    "encoder_layerdrop": 0.26,
    "mask_prob": 0.31,
    "mask_length": 7,
    "mask_channel_prob": 0.32,
    "mask_channel_length": 8,
    "logit_temp": 0.4,
    "num_negatives": 41,
}
IN_FINE_TUNING: Files = {
    "dropout": 0.61,
    "attention_dropout": 0.62,
    "activation_dropout": 0.63,
    "dropout_input": 0.64,
    "final_dropout": 0.65,
    "layerdrop": 0.66,
    "apply_mask": True,
    "mask_prob": 0.71,
    "mask_length": 5,
    "mask_channel_prob": 0.72,
    "mask_channel_length": 6,
}
TASK: Files = {"normalize": True, "sample_rate": 8000}
PRE_NORM: Files = {"layer_norm_first": True}

ENCODER_SAID: Files = {
    "conv_stride": [4, 3, 3, 3, 3, 1, 1],
    "num_attention_heads": 6,
    "hidden_act": "relu",
    "hidden_dropout": 0.21,
    "attention_dropout": 0.22,
    "activation_dropout": 0.23,
    "feat_proj_dropout": 0.24,
    "layerdrop": 0.26,
    "mask_time_prob": 0.31,
    "mask_time_length": 7,
    "mask_feature_prob": 0.32,
    "mask_feature_length": 8,
}
QUANTIZER_SAID: Files = {"feat_quantizer_dropout": 0.25}
LOSS_SAID: Files = {"contrastive_logits_temperature": 0.4, "num_negatives": 41, "diversity_loss_weight": 0.51}
PRE_NORM_SAID: Files = {"do_stable_layer_norm": True}
# Heads are in the tensors; with pre-norm there is no layer in front.
CONFORMER_SAID: Files = {
    **ENCODER_SAID,
    **QUANTIZER_SAID,
    "num_attention_heads": 12,
    "hidden_act": "swish",
    "num_hidden_layers": 12,
    "attention_dropout": 0.21,
    "activation_dropout": 0.21,
    "conformer_conv_dropout": 0.21,
}
CTC_SAID: Files = {
    "hidden_dropout": 0.61,
    "attention_dropout": 0.62,
    "activation_dropout": 0.63,
    "feat_proj_dropout": 0.64,
    "final_dropout": 0.65,
    "layerdrop": 0.66,
    "apply_spec_augment": True,
    "mask_time_prob": 0.71,
    "mask_time_length": 5,
    "mask_feature_prob": 0.72,
    "mask_feature_length": 6,
    "ctc_zero_infinity": True,
}
CONFORMER_CTC_SAID: Files = {
    "attention_dropout": 0.61,
    "activation_dropout": 0.61,
    "conformer_conv_dropout": 0.61,
}
PRETRAINED_SAID = {
    "conformer": {**CONFORMER_SAID, **LOSS_SAID},
    "wav2vec2": {**ENCODER_SAID, **QUANTIZER_SAID, **PRE_NORM_SAID, **LOSS_SAID},
    "hubert": {**ENCODER_SAID, **PRE_NORM_SAID},
    "data2vec_audio": ENCODER_SAID,
}
FINE_TUNED_SAID = {
    "conformer": {**CONFORMER_SAID, **CTC_SAID, **CONFORMER_CTC_SAID},
    "wav2vec2": {**ENCODER_SAID, **QUANTIZER_SAID, **PRE_NORM_SAID, **CTC_SAID},
    "hubert": {**ENCODER_SAID, **PRE_NORM_SAID, **CTC_SAID},
    "data2vec_audio": {**ENCODER_SAID, **CTC_SAID},
}


def said(kind: str) -> Files:
    """transformers has data2vec with post-norm only."""
    return SAID if kind == "data2vec_audio" else {**SAID, **PRE_NORM}


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_cfg_means_what_it_says(kind: str) -> None:
    config, audio = pretrained(kind, said(kind), task=TASK, criterion={"loss_weights": [0.51, 10]})
    assert _settings(config) == _settings({**PRETRAINED[kind], **PRETRAINED_SAID[kind]})
    assert (audio["do_normalize"], audio["sampling_rate"]) == (True, 8000)


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_a_fine_tuned_cfg_means_what_it_says(kind: str) -> None:
    config, audio = fine_tuned(kind, said(kind), IN_FINE_TUNING, task=TASK, criterion={"zero_infinity": True})
    assert _settings(config) == _settings({**FINE_TUNED[kind], **FINE_TUNED_SAID[kind]})
    assert (audio["do_normalize"], audio["sampling_rate"]) == (True, 8000)


# ---------------------------------------------------------------------------------------------------------------
# Tokenizers of other symbols than letters, of which no fixture is

EVERY_TOKENIZER: Files = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1000000000000000019884624838656,
    "processor_class": "Wav2Vec2Processor",
}
# post_process of fairseq/data/data_utils.py leaves the spaces between phonemes.
PHONEMES: Files = {
    "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
    "do_phonemize": False,
    "phone_delimiter_token": " ",
}
PIECES: Files = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "do_lower_case": False,
    "replace_word_delimiter_char": " ",
    "word_delimiter_token": "",
}
JOINED = [
    (("AH", "B"), "phn", PHONEMES),
    (("a", "b"), "phn", PHONEMES),
    (("AH", "B"), None, PHONEMES),
    (("a", "b"), None, PIECES),
    (("AH", "B"), "ltr", PIECES),
    (("AH", "B"), "chr", PIECES),
    (("AH", "B"), "char", PIECES),
    (("\N{LOWER ONE EIGHTH BLOCK}AH", "B"), "phn", PIECES),
    (("AH", "|"), "phn", {**PIECES, "word_delimiter_token": "|"}),
]


@pytest.mark.parametrize(("symbols", "labels", "joined"), JOINED)
def test_symbols_of_another_kind_have_their_own_tokenizer(
    symbols: tuple[str, ...], labels: str | None, joined: Files
) -> None:
    dictionary = Dictionary(("<s>", "<pad>", "</s>", "<unk>", *symbols), "ours")
    words = vocabulary(dictionary, labels)
    assert _settings(tokenizer_config(words)) == _settings({**EVERY_TOKENIZER, **joined})
    assert words.tokens == ("<pad>", "<s>", "</s>", "<unk>", *symbols)


# ---------------------------------------------------------------------------------------------------------------
# Tensors that are made or changed on the way

_FRONT = "wav2vec2_conformer.encoder.layers.0."
# What normalizes to itself; the last layer's norm has the power of two that makes the norm after it linear.
POST_NORM_MADE = {
    f"{_FRONT}ffn1_layer_norm.weight": ("ones", 0.0),
    f"{_FRONT}self_attn_layer_norm.weight": ("ones", 0.0),
    f"{_FRONT}conv_module.layer_norm.weight": ("ones", 0.0),
    f"{_FRONT}conv_module.batch_norm.weight": ("ones", 0.0),
    f"{_FRONT}conv_module.batch_norm.running_var": ("ones", 0.0),
    f"{_FRONT}ffn2_layer_norm.weight": ("ones", 0.0),
    "wav2vec2_conformer.encoder.layers.2.final_layer_norm.weight": ("constant", 0.0001220703125),
}
_PROJECTION = "wav2vec2.feature_projection.projection."
_POS_CONV = "wav2vec2_conformer.encoder.pos_conv_embed.conv."
_ADAPTER = "wav2vec2.encoder.layers.0.adapter_layer."
# By fixture, those with another content than zeros, and how many there are in all.
MADE: dict[str, tuple[dict[str, tuple[str, float]], int]] = {
    # Of the layer in front 12 in both feed-forwards, 13 of attention, 10 of the convolution; 2 of the last norm.
    "post_norm_ctc": (POST_NORM_MADE, 37),
    "wav2vec2_no_projection_ctc": ({f"{_PROJECTION}weight": ("identity", 0.0)}, 2),
    "deep_pos_conv_pretraining": ({f"{_POS_CONV}weight_v": ("ones", 0.0)}, 3),
    "mms_some_layers_ctc": ({f"{_ADAPTER}norm.weight": ("ones", 0.0)}, 6),
    "relative_ctc": ({}, 0),
    "hubert_ctc": ({}, 0),
    "data2vec_ctc": ({}, 0),
}
# Wav2VecCtc.get_logits adds blank_weight to logit 0, or puts it in its place; sqrt(1e-5 + 2^-26) / 2^-13.
EDITED: dict[str, dict[str, Edit]] = {
    "blank_weight_add_ctc": {"lm_head.bias": FirstRow("add", 1.75)},
    "blank_weight_set_ctc": {"lm_head.bias": FirstRow("set", 0.625), "lm_head.weight": FirstRow("set", 0.0)},
    "wav2vec2_blank_weight_ctc": {"lm_head.bias": FirstRow("add", 1.75)},
    "post_norm_ctc": {"wav2vec2_conformer.encoder.layer_norm.weight": Scale(25.92467241837397)},
    "relative_ctc": {},
    "hubert_ctc": {},
}


@pytest.mark.parametrize("name", MADE)
def test_made_tensors_hold_what_was_written_down_and_all_others_zeros(name: str) -> None:
    others, count = MADE[name]
    made = {make.target: (make.content, make.value) for make in prepared(checkpoint(name)).plan.makes}
    assert {target: held for target, held in made.items() if held != ("zeros", 0.0)} == others
    assert len(made) == count


@pytest.mark.parametrize("name", EDITED)
def test_tensors_change_on_the_way_only_where_and_as_it_was_written_down(name: str) -> None:
    edits = {move.target: move.edit for move in prepared(checkpoint(name)).plan.moves if move.edit is not None}
    assert edits == EDITED[name]


# ---------------------------------------------------------------------------------------------------------------
# What inspection tells of an encoder: for programs, and for people

TOLD: dict[str, tuple[Files, str]] = {
    "relative_ctc": ({"position_embeddings": "relative"}, "relative positions, depthwise kernel 9"),
    "rotary_ctc": ({"position_embeddings": "rotary"}, "rotary positions, depthwise kernel 9"),
    "post_norm_plain_attention_ctc": (
        {"position_embeddings": "plain"},
        "post-norm, no position embeddings, depthwise kernel 9",
    ),
    "wav2vec2_tanh_pretraining": ({"layer_norm_first": True, "activation_fn": "tanh"}, "pre-norm, tanh"),
    "mms_one_language_ctc": ({"layer_norm_first": True, "activation_fn": "gelu"}, "pre-norm, gelu, adapters of 6"),
    "hubert": ({"layer_norm_first": False, "activation_fn": "gelu", "projection": 18}, "post-norm, gelu"),
    "data2vec_audio_three_blocks": (
        {"layer_norm_first": False, "activation_fn": "gelu_accurate"},
        "post-norm, gelu_accurate, positional convolution of 3 blocks",
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_inspection_tells_what_an_encoder_is(name: str) -> None:
    description = prepared(checkpoint(name)).description
    traits, summary = TOLD[name]
    assert description.family.traits(description.facts) == traits
    assert description.family.encoder_summary(description.facts) == summary
