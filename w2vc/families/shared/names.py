"""Names of the parts that several families have: fairseq's on the left, transformers' on the right.

Sources: the modules that ``fairseq/models/wav2vec/wav2vec2.py`` builds, and ``modeling_wav2vec2.py`` of transformers,
whose other models copy these parts from it.
"""

from __future__ import annotations

from w2vc.families.family import Name

NO_MASKING = "transformers has no place for it where both mask probabilities are 0"

MASK: tuple[Name, ...] = (Name("encoder", "mask_emb", "masked_spec_embed", unless_there=NO_MASKING),)

EXTRACTOR: tuple[Name, ...] = (
    Name(
        "encoder",
        "feature_extractor.conv_layers.{conv}.0.{parameter}",
        "feature_extractor.conv_layers.{conv}.conv.{parameter}",
    ),
    Name(
        "encoder",
        "feature_extractor.conv_layers.{conv}.2.1.{parameter}",
        "feature_extractor.conv_layers.{conv}.layer_norm.{parameter}",
    ),
    Name(
        "encoder",
        "feature_extractor.conv_layers.0.2.{parameter}",
        "feature_extractor.conv_layers.0.layer_norm.{parameter}",
    ),
)

PROJECTION: tuple[Name, ...] = (
    Name("encoder", "layer_norm.{parameter}", "feature_projection.layer_norm.{parameter}"),
    Name("encoder", "post_extract_proj.{parameter}", "feature_projection.projection.{parameter}"),
)

WEIGHT_NORM: tuple[Name, ...] = (
    Name("encoder", "encoder.pos_conv.0.{parameter}", "encoder.pos_conv_embed.conv.{parameter}"),
    # torch's newer spelling of the same two factors of weight norm (torch/nn/utils/parametrizations.py).
    Name("encoder", "encoder.pos_conv.0.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
    Name("encoder", "encoder.pos_conv.0.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
)

ENCODER_NORM: tuple[Name, ...] = (Name("encoder", "encoder.layer_norm.{parameter}", "encoder.layer_norm.{parameter}"),)

PRETRAINING: tuple[Name, ...] = (
    Name("pretraining", "quantizer.vars", "quantizer.codevectors"),
    Name("pretraining", "quantizer.weight_proj.{parameter}", "quantizer.weight_proj.{parameter}"),
    Name("pretraining", "project_q.{parameter}", "project_q.{parameter}"),
    Name("pretraining", "final_proj.{parameter}", "project_hid.{parameter}"),
    # Refused with the pretraining head, and not needed without it.
    Name("pretraining", "quantizer.weight_proj.{block}.{parameter}", None, "a deep quantizer has no place"),
    Name("pretraining", "quantizer.weight_proj.{block}.0.{parameter}", None, "a deep quantizer has no place"),
    Name("pretraining", "target_glu.0.{parameter}", None, "a GLU over the targets has no place"),
)

CTC: tuple[Name, ...] = (Name("ctc", "w2v_encoder.proj.{parameter}", "lm_head.{parameter}"),)
