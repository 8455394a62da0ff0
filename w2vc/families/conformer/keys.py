"""Every key of fairseq's model configs, and what becomes of it: one table.

The keys are those of ``Wav2Vec2Config`` (``fairseq/models/wav2vec/wav2vec2.py``) and of ``Wav2Vec2AsrConfig`` and
``Wav2Vec2CtcConfig`` (``fairseq/models/wav2vec/wav2vec2_asr.py``) in 0.12.2, and those that later revisions added.
The third column says what happens to a key; the fourth the transformers field that it becomes, or why it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Treatment = Literal[
    "mapped",  # becomes one or more fields of Wav2Vec2ConformerConfig
    "tensors",  # said by the tensors; the key is compared with them and loses where they differ
    "checked",  # only some of its values can be expressed; the others are refused
    "training",  # acts in training alone, and transformers has no place for it
    "nothing",  # has no effect on what a conformer computes
]


@dataclass(frozen=True)
class CfgKey:
    """What becomes of one key of a fairseq config.

    Attributes:
        name: the key, as fairseq's dataclass spells it.
        default: fairseq's default, taken where an older checkpoint has no such key.
        treatment: see ``Treatment``.
        why: the transformers field or fields, or the reason.
    """

    name: str
    default: object
    treatment: Treatment
    why: str


def _table(rows: list[tuple[str, object, Treatment, str]]) -> dict[str, CfgKey]:
    return {row[0]: CfgKey(*row) for row in rows}


_CONV_FEATURE_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_LOSS = "chooses negatives for the contrastive loss, which transformers leaves to the caller"
_MEMORY = "trades memory for time in training"
_MASK = "how masks are drawn in training; transformers draws them statically, with overlap"
_OVERRIDDEN = "the value that fine-tuning trained with, in place of the pretrained one"
_DECOY = "a default of the fine-tuning config; the architecture is that of w2v_args"

WAV2VEC2 = _table(
    [
        ("extractor_mode", "default", "tensors", "feat_extract_norm"),
        ("encoder_layers", 12, "tensors", "num_hidden_layers"),
        ("encoder_embed_dim", 768, "tensors", "hidden_size"),
        ("encoder_ffn_embed_dim", 3072, "tensors", "intermediate_size"),
        ("encoder_attention_heads", 12, "tensors", "num_attention_heads (plain attention: from the key alone)"),
        ("activation_fn", "gelu", "nothing", "conformer layers use swish whatever it says"),
        ("layer_type", "transformer", "tensors", "conv_module means conformer"),
        (
            "dropout",
            0.1,
            "mapped",
            "hidden_dropout, attention_dropout, activation_dropout, conformer_conv_dropout: the only one in a layer",
        ),
        ("attention_dropout", 0.1, "nothing", "a conformer layer uses dropout instead"),
        ("activation_dropout", 0.0, "nothing", "a conformer layer uses dropout instead"),
        ("encoder_layerdrop", 0.0, "mapped", "layerdrop"),
        ("dropout_input", 0.0, "mapped", "feat_proj_dropout"),
        ("dropout_features", 0.0, "mapped", "feat_quantizer_dropout"),
        ("final_dim", 0, "tensors", "proj_codevector_dim"),
        ("layer_norm_first", False, "checked", "must be true: transformers normalises after the layers, not before"),
        ("conv_feature_layers", _CONV_FEATURE_LAYERS, "mapped", "conv_dim, conv_kernel, conv_stride"),
        ("conv_bias", False, "tensors", "conv_bias"),
        ("logit_temp", 0.1, "mapped", "contrastive_logits_temperature"),
        ("quantize_targets", False, "checked", "must be true for the pretraining head"),
        ("quantize_input", False, "checked", "must be false"),
        ("same_quantizer", False, "nothing", "acts only with quantize_input, which is refused"),
        ("target_glu", False, "checked", "must be false for the pretraining head"),
        ("feature_grad_mult", 1.0, "training", "scales a gradient"),
        ("quantizer_depth", 1, "checked", "must be 1 for the pretraining head"),
        ("quantizer_factor", 3, "nothing", "acts only with quantizer_depth > 1, which is refused"),
        ("latent_vars", 320, "tensors", "num_codevectors_per_group"),
        ("latent_groups", 2, "tensors", "num_codevector_groups"),
        ("latent_dim", 0, "tensors", "codevector_dim"),
        ("mask_length", 10, "mapped", "mask_time_length"),
        ("mask_prob", 0.65, "mapped", "mask_time_prob"),
        ("mask_selection", "static", "training", _MASK),
        ("mask_other", 0, "training", _MASK),
        ("no_mask_overlap", False, "training", _MASK),
        ("mask_min_space", 1, "training", _MASK),
        ("require_same_masks", True, "training", _MASK),
        ("mask_dropout", 0.0, "training", _MASK),
        ("mask_channel_length", 10, "mapped", "mask_feature_length"),
        ("mask_channel_prob", 0.0, "mapped", "mask_feature_prob"),
        ("mask_channel_before", False, "training", _MASK),
        ("mask_channel_selection", "static", "training", _MASK),
        ("mask_channel_other", 0, "training", _MASK),
        ("no_mask_channel_overlap", False, "training", _MASK),
        ("mask_channel_min_space", 1, "training", _MASK),
        ("num_negatives", 100, "mapped", "num_negatives"),
        ("negatives_from_everywhere", False, "training", _LOSS),
        ("cross_sample_negatives", 0, "training", _LOSS),
        ("codebook_negatives", 0, "training", _LOSS),
        ("conv_pos", 128, "tensors", "num_conv_pos_embeddings (not used in a conformer's forward)"),
        ("conv_pos_groups", 16, "tensors", "num_conv_pos_embedding_groups (not used in a conformer's forward)"),
        ("pos_conv_depth", 1, "tensors", "the positional convolution is not used in a conformer's forward"),
        ("latent_temp", (2, 0.5, 0.999995), "training", "the temperature of the Gumbel softmax is the caller's"),
        (
            "max_positions",
            100000,
            "nothing",
            "how many relative positions are computed beforehand; more are made as needed",
        ),
        ("checkpoint_activations", False, "training", _MEMORY),
        ("required_seq_len_multiple", 2, "nothing", "ConformerEncoder doesn't pad"),
        ("crop_seq_to_multiple", 1, "checked", "must be 1: frames would be cropped before the encoder"),
        ("depthwise_conv_kernel_size", 31, "tensors", "conv_depthwise_kernel_size"),
        ("attn_type", "", "tensors", "position_embeddings_type"),
        ("pos_enc_type", "abs", "checked", "abs adds a convolution to the input; relative and rotary: the tensors"),
        ("fp16", False, "nothing", "passed to the rotary embedding, which ignores it"),
        # Later than 0.12.2:
        ("conv_pos_batch_norm", False, "nothing", "the positional convolution is not used in a conformer's forward"),
        ("adp_num", -1, "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_dim", 64, "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_act_fn", "relu", "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_trf_idx", "all", "nothing", "acts only with layer_type trf_adp, which is refused"),
    ]
)

ASR = _table(
    [
        ("w2v_path", None, "nothing", "where the pretrained checkpoint lay; its config is in w2v_args"),
        ("no_pretrained_weights", False, "training", "how training began"),
        ("dropout_input", 0.0, "mapped", f"feat_proj_dropout: {_OVERRIDDEN}"),
        ("final_dropout", 0.0, "mapped", "final_dropout"),
        ("dropout", 0.0, "mapped", f"hidden_dropout and the other three: {_OVERRIDDEN}"),
        ("attention_dropout", 0.0, "nothing", "a conformer layer uses dropout instead"),
        ("activation_dropout", 0.0, "nothing", "a conformer layer uses dropout instead"),
        ("conv_feature_layers", _CONV_FEATURE_LAYERS, "nothing", _DECOY),
        ("encoder_embed_dim", 768, "nothing", _DECOY),
        ("apply_mask", False, "mapped", "apply_spec_augment"),
        ("mask_length", 10, "mapped", f"mask_time_length: {_OVERRIDDEN}"),
        ("mask_prob", 0.5, "mapped", f"mask_time_prob: {_OVERRIDDEN}"),
        ("mask_selection", "static", "training", _MASK),
        ("mask_other", 0, "training", _MASK),
        ("no_mask_overlap", False, "training", _MASK),
        ("mask_min_space", 1, "training", _MASK),
        ("require_same_masks", True, "training", _MASK),
        ("mask_dropout", 0.0, "training", _MASK),
        ("mask_channel_length", 10, "mapped", f"mask_feature_length: {_OVERRIDDEN}"),
        ("mask_channel_prob", 0.0, "mapped", f"mask_feature_prob: {_OVERRIDDEN}"),
        ("mask_channel_selection", "static", "training", _MASK),
        ("mask_channel_other", 0, "training", _MASK),
        ("no_mask_channel_overlap", False, "training", _MASK),
        ("mask_channel_min_space", 1, "training", _MASK),
        ("mask_channel_before", False, "training", _MASK),
        ("freeze_finetune_updates", 0, "training", "freezes the encoder at first"),
        ("feature_grad_mult", 0.0, "training", "scales a gradient"),
        ("layerdrop", 0.0, "mapped", f"layerdrop: {_OVERRIDDEN}"),
        ("normalize", False, "checked", "do_normalize; must agree with task.normalize, as fairseq asserts"),
        ("data", None, "nothing", "where the data lay"),
        ("w2v_args", None, "mapped", "holds the config of the pretrained model: the architecture"),
        ("offload_activations", False, "training", _MEMORY),
        ("min_params_to_wrap", 100000000, "training", _MEMORY),
        ("checkpoint_activations", False, "training", _MEMORY),
        ("ddp_backend", "legacy_ddp", "training", "how training was distributed"),
        # Later than 0.12.2:
        ("layer_type", "transformer", "nothing", "overwrites w2v_args.model.layer_type; the tensors tell the truth"),
        ("drop_path", 0.0, "training", "drops whole residual branches in training"),
        ("mask_channel_other", 0, "training", _MASK),
        ("update_alibi", True, "nothing", "concerns data2vec alone"),
        ("load_ema", False, "nothing", "which weights training began with"),
        ("rebuild_layers", True, "nothing", "how the encoder was built before training"),
        ("freeze_regex", None, "training", "which parameters were frozen"),
        ("zero_mask", False, "training", "masks with zeros in training"),
        ("batch_norm", False, "nothing", "its batch norm layer, where there is one, is an unknown tensor and refused"),
        ("adp_num", -1, "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_dim", 64, "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_act_fn", "relu", "nothing", "acts only with layer_type trf_adp, which is refused"),
        ("adp_trf_idx", "all", "nothing", "acts only with layer_type trf_adp, which is refused"),
    ]
)

CTC = {
    **ASR,
    **_table(
        [
            ("blank_weight", 0, "mapped", "folded into row 0 of lm_head"),
            ("blank_mode", "add", "mapped", "folded into row 0 of lm_head"),
        ]
    ),
}
