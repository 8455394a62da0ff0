"""Models of fairseq and of its neighbours that w2vc knows and has no family for, and what to do with each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from w2vc.families.family import Evidence


@dataclass(frozen=True)
class Stranger:
    """A model without a family.

    Attributes:
        what: it is.
        names: fairseq's or its own, of the model or of the pretrained one inside a fine-tuned one.
        tensor: a part of a tensor's name that only this model has, among those with these names, where there are any.
        advice: what can be done; what is true of every stranger, where empty.
    """

    what: str
    names: tuple[str, ...] = ()
    tensor: str = ""
    advice: str = ""


_HUBERT = ("hubert", "hubert_ctc")
_READY = "transformers has a class for it, and the authors' models are published for that."
_SPEAKER = "ContentVec's own training checkpoint, with layers that depend on the speaker"
_LEGACY = (
    "Give the legacy file of the same training, like checkpoint_best_legacy_500.pt: it is a plain HuBERT and converts."
)
_CONFORMER_LAYERS = "No class of transformers has a positional convolution before conformer layers."
_AV_HUBERT = "transformers has no class with a video branch."
_DATA2VEC_2 = "transformers has no class for data2vec 2.0; data2vec audio of the first kind (data2vec_audio) converts."

_NAMED: tuple[Stranger, ...] = (
    Stranger("a HuBERT with conformer layers", names=_HUBERT, tensor=".conv_module.", advice=_CONFORMER_LAYERS),
    Stranger("a fine-tuned HuBERT with a decoder", names=("hubert_seq2seq",)),
    Stranger(_SPEAKER, names=("contentvec",), advice=_LEGACY),
    Stranger("AV-HuBERT", names=("av_hubert", "av_hubert_ctc", "av_hubert_seq2seq"), advice=_AV_HUBERT),
    Stranger("data2vec 2.0", names=("data2vec_multi", "data2vec2"), advice=_DATA2VEC_2),
    Stranger("data2vec for text", names=("data2vec_text",)),
    Stranger("data2vec for images", names=("data2vec_vision",)),
    Stranger("an encoder-decoder (wav2vec_seq2seq)", names=("wav2vec_seq2seq",)),
    Stranger("wav2vec-U", names=("wav2vec_u",)),
    Stranger("wav2vec 1", names=("wav2vec",)),
    Stranger("WavLM", names=("wavlm",), advice=_READY),
    Stranger("UniSpeech", names=("unispeech", "unispeech_sat"), advice=_READY),
)
"""Those that the cfg names; no family may take them."""

_TOLD_BY_TENSORS: tuple[Stranger, ...] = (
    Stranger(_SPEAKER, tensor="weight_ln.", advice=_LEGACY),
    Stranger("WavLM", tensor=".grep_linear.", advice=_READY),
    Stranger("UniSpeech-SAT", tensor="layer_norm_for_extract.", advice=_READY),
    Stranger("UniSpeech-SAT", tensor="spk_proj.", advice=_READY),
    Stranger("AV-HuBERT", tensor="feature_extractor_video.", advice=_AV_HUBERT),
    Stranger("data2vec 2.0", tensor="modality_encoders.", advice=_DATA2VEC_2),
    Stranger("data2vec for text", tensor="regression_head"),
)
"""Those whose tensors tell; a family might take them for its own."""

_UNKNOWN_TO_FAMILIES: tuple[Stranger, ...] = (
    Stranger("wav2vec-U", tensor="generator.proj"),
    Stranger("an encoder-decoder (wav2vec_seq2seq)", tensor="decoder."),
    Stranger("one shard of a model that was saved in shards", tensor="flat_param_"),
    Stranger("a kind of wav2vec2 with transformer layers", tensor="encoder.layers.0.fc1."),
)
"""Those whose tensors tell, where no family knows them."""


def stranger_at_once(evidence: Evidence) -> tuple[str, str] | None:
    """Return a sentence on a model that no family may take, and what can be done; None if it is none."""
    return _said(_NAMED, evidence) or _said(_TOLD_BY_TENSORS, evidence)


def stranger_in_the_end(evidence: Evidence) -> tuple[str, str] | None:
    """Return a sentence on a model that no family knows, and what can be done; None if nothing tells."""
    return _said(_UNKNOWN_TO_FAMILIES, evidence)


def _said(strangers: Iterable[Stranger], evidence: Evidence) -> tuple[str, str] | None:
    for stranger in strangers:
        name = next((name for name in (evidence.model, evidence.inner) if name in stranger.names), None)
        tensor = next((found for found in evidence.tensors if stranger.tensor in found), None)
        if tensor is None or (stranger.names and name is None):
            continue
        told_by = f"the tensor {tensor} says that" if stranger.tensor else f"cfg.model._name is {name}:"
        return f"{told_by} this is {stranger.what}", stranger.advice
    return None
