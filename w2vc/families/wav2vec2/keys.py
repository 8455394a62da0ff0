"""Rows of the cfg keys of a wav2vec 2.0 with transformer layers."""

from __future__ import annotations

from w2vc.families.family import Key, Keys, below, replaced
from w2vc.families.shared import keys as shared
from w2vc.families.shared import transformer
from w2vc.families.wav2vec2 import adapters
from w2vc.reading.domains import flag, text

_ARCHITECTURE = (
    *replaced(shared.WAV2VEC2, *adapters.ARCHITECTURE),
    *transformer.LAYERS,
    Key("layer_type", "transformer", text, tensors=adapters.layer_type, why="fc1 and fc2 mean transformer"),
    # Later than 0.12.2:
    Key(
        "conv_pos_batch_norm",
        False,
        flag,
        only=(False,),
        why="transformers has a batch norm in the positional convolution only for HuBERT",
    ),
)

_FINE_TUNING = replaced(shared.FINE_TUNING, *adapters.FINE_TUNING)

KEYS = Keys(
    architecture=_ARCHITECTURE,
    pretrained=(*shared.TASK, adapters.TASK, *shared.PRETRAINING_CRITERION),
    fine_tuned=(
        *below("model", (*_FINE_TUNING, *shared.CTC, *transformer.FINE_TUNED_DROPOUTS)),
        *shared.TASK,
        adapters.TASK,
        *shared.CTC_CRITERION,
    ),
)
