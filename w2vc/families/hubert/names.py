"""Names of the tensors of a HuBERT.

Sources: ``fairseq/models/hubert/hubert.py`` and ``transformers/models/hubert/modeling_hubert.py``.
"""

from __future__ import annotations

from w2vc.families.family import Facts, Name
from w2vc.families.shared import names as shared
from w2vc.families.shared import transformer

_LABELS = "the pretraining loss alone compares with the labels, and transformers hasn't got it"

BATCH_NORM: tuple[Name, ...] = (
    Name("encoder", "encoder.pos_conv.0.{parameter}", "encoder.pos_conv_embed.batch_norm.{parameter}"),
    Name("encoder", "encoder.pos_conv.1.{parameter}", "encoder.pos_conv_embed.conv.{parameter}"),
)
PROJECTION: tuple[Name, ...] = (
    Name("projection", "final_proj.{parameter}", "final_proj.{parameter}"),
    # A fine-tuned model has them, too.
    Name("encoder", "label_embs_concat", None, _LABELS),
    Name("encoder", "target_glu.0.{parameter}", None, _LABELS),
)

_BEFORE: tuple[Name, ...] = (*shared.MASK, *shared.EXTRACTOR, *shared.PROJECTION)
_AFTER: tuple[Name, ...] = (*shared.ENCODER_NORM, *transformer.NAMES, *PROJECTION, *shared.CTC)

WITH_WEIGHT_NORM: tuple[Name, ...] = (*_BEFORE, *shared.WEIGHT_NORM, *_AFTER)
WITH_BATCH_NORM: tuple[Name, ...] = (*_BEFORE, *BATCH_NORM, *_AFTER)


def names(facts: Facts) -> tuple[Name, ...]:
    """Return the table for the norm that the positional convolution has."""
    return WITH_BATCH_NORM if facts["conv_pos_batch_norm"] else WITH_WEIGHT_NORM
