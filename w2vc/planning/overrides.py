"""``--config``: values of a transformers ``config.json`` that are taken instead of fairseq's.

Values of training and decoding may be chosen freely; what the tensors or fairseq's forward decide may be repeated, but
not contradicted. Field names are those of ``Wav2Vec2ConformerConfig``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from w2vc.errors import InconsistentError, UsageError
from w2vc.families.conformer.architecture import Architecture
from w2vc.paths import read_small_file
from w2vc.reading.cfg import short

# The largest real ones, with labels of their own, have some hundred kilobytes.
_CONFIG_BYTES = 2**22

FREE = frozenset(
    {
        *("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout", "feat_proj_dropout"),
        *("feat_quantizer_dropout", "final_dropout", "layerdrop", "initializer_range", "gradient_checkpointing"),
        *("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks"),
        *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
        *("ctc_loss_reduction", "ctc_zero_infinity"),
        *("contrastive_logits_temperature", "num_negatives", "diversity_loss_weight"),
        # How far relative positions are computed beforehand; transformers makes more as needed.
        "max_source_positions",
        # Of heads that fairseq's model hasn't got and that a fine-tuning in transformers may put on it.
        *("use_weighted_layer_sum", "classifier_proj_size", "tdnn_dim", "tdnn_kernel", "tdnn_dilation"),
        *("xvector_output_dim", "num_labels", "id2label", "label2id", "problem_type", "finetuning_task"),
    }
)
"""What may be chosen."""

_FIXED = {
    # transformers' own defaults, from which fairseq's conformer doesn't differ.
    "rotary_embedding_base": 10000,
    "add_adapter": False,
}
_SAME = ({"swish", "silu"}, {None, "none"})
# Written by transformers itself into every config, or without a say in what is computed.
_SKIPPED = frozenset(
    {
        *("architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "num_feat_extract_layers"),
        *("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
        *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "is_decoder", "is_encoder_decoder"),
        *("do_stable_layer_norm", "tokenizer_class", "feat_extract_dropout", "hidden_dropout_prob"),
    }
)


def read_config(path: Path) -> dict[str, object]:
    """A ``config.json``.

    Raises:
        UsageError: it can't be read, or is not the config of a wav2vec2-conformer.
    """
    advice = "Give a config.json with --config."
    try:
        values = json.loads(read_small_file(path, "config", _CONFIG_BYTES, advice))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", advice=advice) from error
    kind = values.get("model_type", "wav2vec2-conformer") if isinstance(values, dict) else None
    if kind != "wav2vec2-conformer":
        raise UsageError(
            f"{path} is no config of a wav2vec2-conformer (model_type: {short(kind)})",
            advice="Leave --config out: w2vc finds the config out from the checkpoint.",
        )
    return dict(values)


def overrides(given: Mapping[str, object], found: Mapping[str, object], origin: str) -> dict[str, object]:
    """The values to take instead.

    Args:
        given: the values of ``--config``.
        found: what the checkpoint says, in the same fields.
        origin: what to call the given ones in errors.

    Raises:
        InconsistentError: given values contradict the checkpoint; all of them with both values.
        UsageError: there is no such field; with the nearest one.
    """
    decided = {**_FIXED, **found}
    contradictions = [
        f"{origin} says {key} = {short(value)}, the checkpoint {short(decided[key])}"
        for key, value in sorted(given.items())
        if key in decided and key not in FREE | _SKIPPED and not _equal(value, decided[key])
    ]
    if contradictions:
        raise InconsistentError(
            contradictions, advice="Take these values out of the file: w2vc finds them out from the checkpoint."
        )
    unknown = sorted(given.keys() - decided.keys() - FREE - _SKIPPED - _OTHER_HEADS)
    if unknown:
        raise UsageError(
            [f"{origin} has {key}, which no wav2vec2-conformer has{_nearest(key)}" for key in unknown],
            advice="Take it out, or correct its name.",
        )
    return {key: value for key, value in given.items() if key in FREE}


# Fields of the other head, which a config may still have.
_OTHER_HEADS = frozenset(
    {
        *("vocab_size", "num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim"),
        "model_type",
    }
)


def _equal(given: object, found: object) -> bool:
    if isinstance(given, (list, tuple)) and isinstance(found, (list, tuple)):
        return list(given) == list(found)
    if any(given in same and found in same for same in _SAME if _hashable(given) and _hashable(found)):
        return True
    return given == found and isinstance(given, bool) == isinstance(found, bool)


def _hashable(value: object) -> bool:
    return not isinstance(value, (list, dict))


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, FREE | _FIXED.keys(), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def with_masks(architecture: Architecture, chosen: Mapping[str, object]) -> Architecture:
    """The architecture with other mask probabilities, on which it depends whether there is a mask embedding."""
    training = architecture.training
    time, channel = chosen.get("mask_time_prob"), chosen.get("mask_feature_prob")
    return replace(
        architecture,
        training=replace(
            training,
            mask_prob=float(time) if isinstance(time, (int, float)) else training.mask_prob,
            mask_channel_prob=float(channel) if isinstance(channel, (int, float)) else training.mask_channel_prob,
        ),
    )
