"""Names of the tensors of a data2vec audio.

Sources: ``examples/data2vec/models/data2vec_audio.py`` (``state_dict`` adds the teacher) and
``transformers/models/data2vec/modeling_data2vec_audio.py``.
"""

from __future__ import annotations

from w2vc.families.family import Name
from w2vc.families.shared import names as shared
from w2vc.families.shared import transformer

_TEACHER = "the teacher of pretraining, a moving average of the model"
_PREDICTION = "predicts the teacher's states in pretraining, which transformers hasn't got"

NAMES: tuple[Name, ...] = (
    *shared.MASK,
    *shared.EXTRACTOR,
    *shared.PROJECTION,
    *transformer.DEEP_POSITIONAL_CONVOLUTION,
    # Of a single block, which is refused by its own words.
    *(Name("encoder", row.source, None, "has no place") for row in shared.WEIGHT_NORM),
    *shared.ENCODER_NORM,
    *transformer.NAMES,
    Name("encoder", "_ema.{rest}", None, _TEACHER),
    Name("encoder", "final_proj.{parameter}", None, _PREDICTION),
    Name("encoder", "final_proj.0.{parameter}", None, _PREDICTION),
    *shared.CTC,
)
