"""Names of the tensors of a wav2vec 2.0 with transformer layers."""

from __future__ import annotations

from w2vc.families.family import Facts, Name
from w2vc.families.shared import names as shared
from w2vc.families.shared import transformer
from w2vc.families.wav2vec2 import adapters

_BEFORE: tuple[Name, ...] = (*shared.MASK, *shared.EXTRACTOR, *shared.PROJECTION)
_AFTER: tuple[Name, ...] = (*shared.ENCODER_NORM, *transformer.NAMES, *adapters.NAMES, *shared.PRETRAINING, *shared.CTC)

SHALLOW: tuple[Name, ...] = (*_BEFORE, *shared.WEIGHT_NORM, *_AFTER)
DEEP: tuple[Name, ...] = (*_BEFORE, *transformer.DEEP_POSITIONAL_CONVOLUTION, *_AFTER)


def names(facts: Facts) -> tuple[Name, ...]:
    """Return the table for a positional convolution of one block or of several."""
    return DEEP if transformer.is_deep(facts) else SHALLOW
