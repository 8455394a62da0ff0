"""Values outside of what they can be: probabilities above 1, lengths below 0, rates of 0, numbers that are none.

Each is refused with its key and its value. A row is where the value is, what it is, and how it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.forgery import Base
from tests.support.hostile.cases import DEEP_CONVOLUTION, PLAIN_ATTENTION, PRETRAINED, ZIP, add, changed_cfg

NAN, INFINITY = float("nan"), float("inf")

_WORDS = {
    NAN: "not_a_number",
    INFINITY: "infinite",
    -INFINITY: "minus_infinite",
    "": "an_empty_text",
    "\ud800": "a_surrogate",
}


def _named(value: object) -> str:
    known = next((word for known, word in _WORDS.items() if known is value or known == value), None)
    kind = "the_text_" if isinstance(value, str) else "a_list_of_" if isinstance(value, list) else ""
    shown = str(value).replace("-", "minus_").replace(".", "_point_").replace("+", "")
    return known or kind + re.sub(r"\W+", "_", shown).strip("_").lower()[:40]


def _at(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(cfg: dict[str, Any]) -> None:
        *sections, key = path.split(".")
        section = cfg
        for name in sections:
            section = section[name]
        section[key] = value

    return change


_PREFIXES = {
    ZIP.name: "",
    PRETRAINED.name: "pretraining_",
    PLAIN_ATTENTION.name: "plain_",
    DEEP_CONVOLUTION.name: "deep_",
}


def _refused(start: Base, path: str, value: object, shown: str | None = None, allowed: tuple[int, ...] = ()) -> None:
    key = path.rpartition(".")[2]
    said = re.escape(repr(value) if shown is None else shown)
    add(
        f"{_PREFIXES[start.name]}{key}_of_{_named(value)}",
        "values",
        (*allowed, 4),
        rf"\b{key}\b.*{said}",
        lambda place: place.write_bytes(changed_cfg(_at(path, value), start)),
        original=start.name,
    )


_value: object
_ARCHITECTURE = "model.w2v_args.model"
_NO_PROBABILITIES = (7, -0.1, NAN, INFINITY, -INFINITY, 1e308, "0.1", [0.1], True)
_NO_LENGTHS = (0, -1, 2.5, NAN, INFINITY, 10**18, "10")

for _value in _NO_PROBABILITIES:
    _refused(ZIP, "model.dropout", _value)
for _key in ("dropout_input", "final_dropout", "layerdrop", "mask_prob", "mask_channel_prob"):
    for _value in (7, -1, NAN, INFINITY):
        _refused(ZIP, f"model.{_key}", _value)
for _key in ("dropout_features", "encoder_layerdrop", "dropout", "mask_prob"):
    for _value in (1.5, -0.5, NAN):
        _refused(PRETRAINED, f"model.{_key}", _value)
for _key in ("mask_length", "mask_channel_length"):
    for _value in _NO_LENGTHS:
        _refused(ZIP, f"model.{_key}", _value)
for _value in (0, 0.0, NAN, INFINITY, -1, -0.0, "0.1"):
    _refused(PRETRAINED, "model.logit_temp", _value)
for _value in (-1, 10**15, NAN, 2.5, "100"):
    _refused(PRETRAINED, "model.num_negatives", _value)
for _value in (0, -1, 1e300, 16000.5, NAN, INFINITY, "16000", 10**12, True, [16000]):
    _refused(ZIP, "task.sample_rate", _value)
for _value in (NAN, INFINITY, -INFINITY, 1e300, -1e39, "1", [1.0], True):
    _refused(ZIP, "model.blank_weight", _value)
for _value in ("yes", "true", "False", 2, -1, 0.5, NAN, [True], ""):
    _refused(ZIP, "task.normalize", _value)
for _value in ("yes", 2, NAN):
    _refused(ZIP, "model.apply_mask", _value)
    _refused(ZIP, "criterion.zero_infinity", _value)
    _refused(ZIP, f"{_ARCHITECTURE}.layer_norm_first", _value)
    _refused(PRETRAINED, "model.quantize_targets", _value, allowed=(0,))
    _refused(PRETRAINED, "model.target_glu", _value, allowed=(0,))
for _value in (0, -1, 10**12, 3, 2.5, NAN, "2"):
    _refused(PLAIN_ATTENTION, f"{_ARCHITECTURE}.encoder_attention_heads", _value)
for _value in (0, -1, 10**12, NAN, "2"):
    _refused(ZIP, f"{_ARCHITECTURE}.encoder_attention_heads", _value, allowed=(0,))  # the tensors say it
for _value in (0, -1, 10**9, NAN, 2.5, "128"):
    _refused(DEEP_CONVOLUTION, "model.conv_pos", _value)
    _refused(DEEP_CONVOLUTION, "model.conv_pos_groups", _value)
for _value in (0, -1, 10**12, NAN):
    for _key in ("latent_groups", "latent_vars"):
        _refused(PRETRAINED, f"model.{_key}", _value, allowed=(0,))  # the tensors say it
for _key in ("latent_dim", "final_dim", "quantizer_depth", "crop_seq_to_multiple"):
    for _value in (-1, 10**12, NAN):
        _refused(PRETRAINED, f"model.{_key}", _value, allowed=(0,))
for _key in ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "depthwise_conv_kernel_size"):
    for _value in (0, -1, 10**12):
        _refused(ZIP, f"{_ARCHITECTURE}.{_key}", _value, allowed=(0,))  # the tensors say it
for _value in ("\ud800", "ltr\ud800"):
    _refused(ZIP, "task.labels", _value, "", allowed=())
for _value in ("l\0tr", "../../x", "/etc/passwd", "..", "a/b", "x" * 5_000):
    _refused(
        ZIP, "task.labels", _value, "", allowed=(0,)
    )  # only a file's name would come of it, and none is looked for
for _value in ("\ud800", 7, ["letter"]):
    _refused(ZIP, "criterion.post_process", _value, "", allowed=(0,))  # a hint, where it is read at all
for _value in ("\ud800", "mul", 7):
    _refused(ZIP, "model.blank_mode", _value, "", allowed=(0,))  # the weight is 0: no mode has an effect


# ---------------------------------------------------------------------------------------------------------------
# The same from --config


def _with_config(content: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.write_bytes(ZIP.data)
        (path.parent / "given.json").write_bytes(content)

    return make


_USAGE = (2, 4)
_CONFIG = ("--config", "{folder}/given.json")

_GIVEN: dict[str, tuple[str, object]] = {
    **{
        f"hidden_dropout_of_{_named(value)}": ("hidden_dropout", value)
        for value in (7, -0.1, NAN, INFINITY, "0.1", None)
    },
    **{f"layerdrop_of_{_named(value)}": ("layerdrop", value) for value in (2, NAN, [0.1])},
    **{f"mask_time_length_of_{_named(value)}": ("mask_time_length", value) for value in (-1, 0, 2.5, 10**30, "10")},
    **{f"mask_time_prob_of_{_named(value)}": ("mask_time_prob", value) for value in (1.5, NAN, "x", True)},
    **{f"num_negatives_of_{_named(value)}": ("num_negatives", value) for value in (-1, 10**30, NAN)},
    **{
        f"contrastive_logits_temperature_of_{_named(value)}": ("contrastive_logits_temperature", value)
        for value in (0, -1, NAN, INFINITY)
    },
    **{f"apply_spec_augment_of_{_named(value)}": ("apply_spec_augment", value) for value in ("yes", 2)},
    **{f"ctc_loss_reduction_of_{_named(value)}": ("ctc_loss_reduction", value) for value in ("median", 7)},
    **{f"initializer_range_of_{_named(value)}": ("initializer_range", value) for value in (-1, NAN, "x")},
    **{f"classifier_proj_size_of_{_named(value)}": ("classifier_proj_size", value) for value in (0, -1, 10**30)},
    "tdnn_dim_of_a_text": ("tdnn_dim", "x"),
    "id2label_of_a_list": ("id2label", [1, 2]),
    "id2label_with_a_surrogate": ("id2label", {"0": "\ud800"}),
    "num_labels_of_a_billion": ("num_labels", 10**9),
    "num_labels_below_0": ("num_labels", -1),
    "hidden_dropout_of_a_megabyte": ("hidden_dropout", "x" * 2**20),
}
for _name, (_key, _value) in _GIVEN.items():
    add(
        f"config_with_{_name}",
        "values",
        _USAGE,
        rf"\b{_key}\b",
        _with_config(json.dumps({_key: _value}).encode()),
        arguments=_CONFIG,
    )

_NO_CONFIGS: dict[str, tuple[bytes, str]] = {
    "nested_a_hundred_thousand_deep": (b"[" * 100_000 + b"]" * 100_000, "JSON|config"),
    "with_a_deep_value": (b'{"id2label": ' + b"[" * 900 + b"]" * 900 + b"}", "id2label|JSON"),
    "with_a_number_of_a_million_digits": (
        b'{"mask_time_length": ' + b"9" * 10**6 + b"}",
        "mask_time_length|JSON|digits",
    ),
    "with_a_hundred_thousand_unknown_keys": (
        json.dumps({f"unknown_{n}": 1 for n in range(100_000)}).encode(),
        "unknown_",
    ),
    "with_long_unknown_keys": (
        json.dumps({f"hidden_drop{'o' * 10_000}{n}": 1 for n in range(300)}).encode(),
        "hidden_drop",
    ),
    "with_an_unknown_key_of_a_megabyte": (json.dumps({"hidden_dropou" * 80_000: 1}).encode(), "hidden_dropou"),
    "that_steers_the_terminal": (json.dumps({"\x1b[2J\x1b]0;owned\x07": 1}).encode(), r"no wav2vec2-conformer|x1b"),
    "with_a_key_of_a_surrogate": (b'{"\\ud800": 1}', r"no wav2vec2-conformer|ud800"),
    "that_is_a_list": (b"[1, 2, 3]", "no config|model_type|JSON object"),
    "that_is_null": (b"null", "no config|model_type|JSON object"),
    "that_is_empty": (b"", "JSON|empty"),
    "of_nulls": (bytes(1000), "JSON"),
    "in_latin_1": ('{"layerdrop": "\xe9"}'.encode("latin-1"), "JSON|UTF-8|layerdrop"),
    "of_another_model": (b'{"model_type": "' + b"x" * 10**6 + b'"}', "model_type"),
    "of_a_hundred_megabytes": (b'{"layerdrop": 0' + b" " * 10**8 + b"}", "larger|bytes|MiB"),
}
for _name, (_content, _word) in _NO_CONFIGS.items():
    add(f"config_{_name}", "values", _USAGE, _word, _with_config(_content), arguments=_CONFIG)
