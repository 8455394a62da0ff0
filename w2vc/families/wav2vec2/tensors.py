"""The target ``Wav2Vec2…``, and ``Data2VecAudio…`` for a deep positional convolution.

Sources: ``transformers/models/wav2vec2/configuration_wav2vec2.py`` and ``modeling_wav2vec2.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from w2vc.families.data2vec_audio import tensors as data2vec_audio
from w2vc.families.family import Facts, Target, TargetTensor
from w2vc.families.shared import tensors as shared
from w2vc.families.shared import transformer
from w2vc.families.shared.tensors import Config
from w2vc.families.wav2vec2 import adapters

PREFIX = "wav2vec2."


def _encoder(config: Config) -> Iterator[TargetTensor]:
    yield from shared.weight_norm_conv(config)
    yield from transformer.layers(config)
    yield from adapters.layers(config)


TARGET = Target(
    model_type="wav2vec2",
    config_class="Wav2Vec2Config",
    prefix=PREFIX,
    classes={"ctc": "Wav2Vec2ForCTC", "pretraining": "Wav2Vec2ForPreTraining", "none": "Wav2Vec2Model"},
    tensors=shared.model(PREFIX, _encoder),
    constants=shared.CONSTANTS,
    head_fields=shared.HEAD_FIELDS,
    free=shared.FREE,
    repeatable={"add_adapter": False, "adapter_attn_dim": None},
    exchanged=adapters.EXCHANGED,
)


def target(facts: Facts) -> Target:
    """Return transformers' class for a positional convolution of one block or of several."""
    return data2vec_audio.TARGET if transformer.is_deep(facts) else TARGET


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the fields that follow from several facts."""
    deep = data2vec_audio.derived(facts) if transformer.is_deep(facts) else {}
    return {"vocab_size": facts["vocabulary"], **deep, **adapters.derived(facts)}
