"""Rows of the keys that several families have: one row for each key, with everything that follows from it.

The keys and defaults are those of ``Wav2Vec2Config`` (``fairseq/models/wav2vec/wav2vec2.py``) and of
``Wav2Vec2AsrConfig`` and ``Wav2Vec2CtcConfig`` (``fairseq/models/wav2vec/wav2vec2_asr.py``) in 0.12.2, and those that
later revisions added. A family replaces the rows of the keys that mean something else in its layers.
"""

from __future__ import annotations

from collections.abc import Mapping

from w2vc.families.conv_feature_layers import ConvLayer, parse_conv_feature_layers
from w2vc.families.family import Key, axis, below, has, replaced, training, unused
from w2vc.families.shared import measures
from w2vc.reading.domains import (
    Domain,
    count,
    first_number,
    flag,
    label,
    number,
    one_of,
    positive,
    probability,
    size,
    width,
)

CONV_FEATURE_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_LOSS = "chooses negatives for the contrastive loss, which transformers leaves to the caller"
_MEMORY = "trades memory for time in training"
_MASK = "how masks are drawn in training; transformers draws them statically, with overlap"
_DECOY = "a default of the fine-tuning config; the architecture is that of w2v_args"
_INPUT = "the encoder's input is quantized, which transformers never does"
_CROPPED = "frames are cropped before the encoder, which transformers never does"
_ADAPTERS = "acts only with layer_type trf_adp"
_LATER_DATA2VEC = "concerns data2vec alone"


def _conv_layers(source: object) -> tuple[ConvLayer, ...] | None:
    return parse_conv_feature_layers(source) if isinstance(source, str) else None


def conv_fields(layers: tuple[ConvLayer, ...]) -> Mapping[str, object]:
    """Return the fields of the extractor's convolutions."""
    return {
        "conv_dim": [layer.dim for layer in layers],
        "conv_kernel": [layer.kernel for layer in layers],
        "conv_stride": [layer.stride for layer in layers],
        "num_feat_extract_layers": len(layers),
    }


conv_layers = Domain(_conv_layers, "a list of (dim, kernel, stride)")

EXTRACTOR: tuple[Key, ...] = (
    Key(
        "extractor_mode",
        "default",
        one_of("default", "layer_norm"),
        to=("feat_extract_norm",),
        spelled={"default": "group", "layer_norm": "layer"},
        tensors=measures.extractor_mode,
    ),
    Key("conv_feature_layers", CONV_FEATURE_LAYERS, conv_layers, into=conv_fields),
    Key("conv_bias", False, flag, to=("conv_bias",), tensors=has("feature_extractor.conv_layers.0.0.bias")),
    training("feature_grad_mult", 1.0, "scales a gradient"),
)

ENCODER: tuple[Key, ...] = (
    Key("encoder_layers", 12, size, to=("num_hidden_layers",), tensors=measures.layers),
    Key("encoder_embed_dim", 768, size, to=("hidden_size",), tensors=axis("encoder.layer_norm.weight", 0)),
    Key("encoder_layerdrop", 0.0, probability, to=("layerdrop",)),
    Key("dropout_input", 0.0, probability, to=("feat_proj_dropout",)),
    Key("dropout_features", 0.0, probability, to=("feat_quantizer_dropout",)),
    Key("conv_pos", 128, size, to=("num_conv_pos_embeddings",), tensors=measures.conv_pos),
    Key("conv_pos_groups", 16, size, to=("num_conv_pos_embedding_groups",), tensors=measures.conv_pos_groups),
    training("checkpoint_activations", False, _MEMORY),
)

MASKING: tuple[Key, ...] = (
    Key("mask_length", 10, size, to=("mask_time_length",)),
    Key("mask_prob", 0.65, probability, to=("mask_time_prob",)),
    training("mask_selection", "static", _MASK, noted=True),
    training("mask_other", 0, _MASK, noted=True),
    training("no_mask_overlap", False, _MASK, noted=True),
    training("mask_min_space", 1, _MASK, noted=True),
    training("mask_channel_selection", "static", _MASK, noted=True),
    training("mask_channel_other", 0, _MASK, noted=True),
    training("no_mask_channel_overlap", False, _MASK, noted=True),
    training("mask_channel_min_space", 1, _MASK, noted=True),
    Key("mask_channel_length", 10, size, to=("mask_feature_length",)),
    Key("mask_channel_prob", 0.0, probability, to=("mask_feature_prob",)),
)

LATER_MASKING: tuple[Key, ...] = (
    training("require_same_masks", True, _MASK, noted=True),
    training("mask_dropout", 0.0, _MASK, noted=True),
    training("mask_channel_before", False, _MASK, noted=True),
)

PRETRAINING: tuple[Key, ...] = (
    Key("final_dim", 0, width, to=("proj_codevector_dim",), tensors=measures.final_dim, silent_below=1),
    Key("logit_temp", 0.1, positive, to=("contrastive_logits_temperature",)),
    Key(
        "quantize_targets",
        False,
        flag,
        tensors=measures.quantize_targets,
        only=(True,),
        heads=("pretraining",),
        why="transformers' pretraining head always quantizes its targets",
    ),
    Key("quantize_input", False, flag, tensors=measures.quantize_input, only=(False,), why=_INPUT),
    unused("same_quantizer", False, "acts only with quantize_input, which is refused"),
    Key(
        "target_glu",
        False,
        flag,
        tensors=measures.target_glu,
        only=(False,),
        heads=("pretraining",),
        why="transformers' pretraining head has no GLU over its targets",
    ),
    Key(
        "quantizer_depth",
        1,
        count,
        tensors=measures.quantizer_depth,
        only=(0, 1),
        heads=("pretraining",),
        why="transformers' quantizer has a single layer",
    ),
    unused("quantizer_factor", 3, "acts only with quantizer_depth > 1, which is refused"),
    Key("latent_vars", 320, size, to=("num_codevectors_per_group",), tensors=measures.latent_vars),
    Key("latent_groups", 2, size, to=("num_codevector_groups",), tensors=measures.latent_groups),
    Key("latent_dim", 0, width, to=("codevector_dim",), tensors=measures.latent_dim, silent_below=1),
    Key("num_negatives", 100, count, to=("num_negatives",)),
    training("negatives_from_everywhere", False, _LOSS),
    training("cross_sample_negatives", 0, _LOSS),
    training("codebook_negatives", 0, _LOSS),
    training("latent_temp", [2, 0.5, 0.999995], "the temperature of the Gumbel softmax is the caller's"),
)

WAV2VEC2: tuple[Key, ...] = (
    *EXTRACTOR,
    *ENCODER,
    *MASKING,
    *LATER_MASKING,
    *PRETRAINING,
    Key("crop_seq_to_multiple", 1, size, only=(1,), why=_CROPPED),
    unused("fp16", False, "passed to the rotary embedding, which ignores it"),
    # Later than 0.12.2:
    unused("adp_num", -1, _ADAPTERS),
    unused("adp_dim", 64, _ADAPTERS),
    unused("adp_act_fn", "relu", _ADAPTERS),
    unused("adp_trf_idx", "all", _ADAPTERS),
)
"""Of ``Wav2Vec2Config``, what means the same in every kind of layer."""

FINE_TUNING: tuple[Key, ...] = (
    unused("w2v_path", None, "where the pretrained checkpoint was; its config is in w2v_args"),
    training("no_pretrained_weights", False, "how training began"),
    Key("dropout_input", 0.0, probability, to=("feat_proj_dropout",)),
    Key("final_dropout", 0.0, probability, to=("final_dropout",)),
    unused("conv_feature_layers", CONV_FEATURE_LAYERS, _DECOY),
    unused("encoder_embed_dim", 768, _DECOY),
    Key("apply_mask", False, flag, to=("apply_spec_augment",)),
    *replaced(MASKING, Key("mask_prob", 0.5, probability, to=("mask_time_prob",))),
    *LATER_MASKING,
    training("freeze_finetune_updates", 0, "freezes the encoder at first"),
    training("feature_grad_mult", 0.0, "scales a gradient"),
    Key("layerdrop", 0.0, probability, to=("layerdrop",)),
    Key("normalize", None, flag, why="has to agree with task.normalize, as fairseq asserts"),
    Key("w2v_args.task.normalize", None, flag, why="has to agree with task.normalize, as fairseq asserts"),
    unused("data", None, "where the data was"),
    unused("w2v_args", None, "holds the config of the pretrained model: the architecture"),
    training("offload_activations", False, _MEMORY),
    training("min_params_to_wrap", 100000000, _MEMORY),
    training("checkpoint_activations", False, _MEMORY),
    training("ddp_backend", "legacy_ddp", "how training was distributed"),
    # Later than 0.12.2:
    unused("layer_type", "transformer", "overwrites w2v_args.model.layer_type; the tensors tell the truth"),
    training("drop_path", 0.0, "drops whole residual branches in training"),
    unused("update_alibi", True, _LATER_DATA2VEC),
    unused("load_ema", False, "which weights training began with"),
    unused("rebuild_layers", True, "how the encoder was built before training"),
    training("freeze_regex", None, "which parameters were frozen"),
    training("layer_decay", 1, "scales the learning rate of each layer"),
    training("zero_mask", False, "masks with zeros in training"),
    unused("batch_norm", False, "its batch norm layer, where there is one, is an unknown tensor and refused"),
    unused("adp_num", -1, _ADAPTERS),
    unused("adp_dim", 64, _ADAPTERS),
    unused("adp_act_fn", "relu", _ADAPTERS),
    unused("adp_trf_idx", "all", _ADAPTERS),
)
"""Of ``Wav2Vec2AsrConfig``, what means the same in every kind of layer; ``Wav2VecEncoder.__init__`` overrides by it."""

CTC: tuple[Key, ...] = (
    Key("blank_weight", 0.0, number, why="folded into row 0 of lm_head"),
    Key("blank_mode", "add", one_of("add", "set"), why="folded into row 0 of lm_head"),
)
"""Of ``Wav2Vec2CtcConfig``."""

TASK: tuple[Key, ...] = below(
    "task",
    (
        Key("normalize", False, flag, why="do_normalize of the feature extractor"),
        Key("sample_rate", 16000, size, why="sampling_rate of the feature extractor"),
        Key("labels", "", label, why="the suffix of the dictionary's file, and how its symbols join into text"),
    ),
)
"""Of ``AudioPretrainingConfig`` and ``AudioFinetuningConfig`` (``fairseq/tasks/audio_pretraining.py``)."""

PRETRAINING_CRITERION: tuple[Key, ...] = below(
    "criterion",
    # None means that the loss has no extra terms (fairseq/criterions/wav2vec_criterion.py).
    (Key("loss_weights", [], first_number, to=("diversity_loss_weight",)),),
)
CTC_CRITERION: tuple[Key, ...] = below(
    "criterion",
    # fairseq/criterions/ctc.py
    (Key("zero_infinity", False, flag, to=("ctc_zero_infinity",)),),
)
