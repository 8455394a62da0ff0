"""fairseq's forward of a HuBERT in plain torch; ``fairseq/models/hubert/hubert.py`` and ``hubert_asr.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from w2vc.families.conv_feature_layers import ConvLayer
from w2vc.families.shared.reference import Model, ReferenceOutputs, Settings, Weights, forward, linear
from w2vc.families.shared.transformer_reference import encoder


@dataclass(frozen=True)
class HubertSettings(Settings):
    """The keys that the forward depends on, with the defaults of ``HubertConfig``."""

    conv_feature_layers: str = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def reference_forward(
    tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], source: Tensor, padding_mask: Tensor | None = None
) -> ReferenceOutputs:
    """Compute what fairseq's ``HubertModel``, or ``HubertCtc`` or ``Wav2VecCtc`` over it, computes in eval mode.

    Arguments and errors are those of ``shared.reference.forward``.
    """
    return forward(_MODEL, tensors, cfg, source, padding_mask)


def _frame_mask(padding_mask: Tensor, frames: int, _layers: tuple[ConvLayer, ...]) -> Tensor:
    """``HubertModel.forward_padding_mask``: a frame is padding where all its equal share of the samples is."""
    extra = padding_mask.size(1) % frames
    kept = padding_mask[:, :-extra] if extra else padding_mask
    return kept.view(kept.size(0), frames, -1).all(-1)


def _pretraining(
    encoder_out: Tensor, _features: Tensor, weights: Weights, _settings: Settings
) -> tuple[Tensor | None, None, None]:
    """``final_proj``, for all label sets at once; the loss compares it with the labels' embeddings."""
    projection = weights.below("final_proj")
    if "weight" not in projection:
        return None, None, None
    return linear(encoder_out, projection, projection.read("weight", None, None).size(0)), None, None


_MODEL = Model(
    # A fine-tuned model's own cfg.model holds decoys.
    architectures={"hubert": (), "hubert_ctc": ("w2v_args", "model"), "wav2vec_ctc": ("w2v_args", "model")},
    fine_tuned=frozenset({"hubert_ctc", "wav2vec_ctc"}),
    what="HuBERT",
    settings=HubertSettings,
    encoder=encoder,
    frame_mask=_frame_mask,
    pretraining=_pretraining,
    ignored=frozenset({"quantize_input", "crop_seq_to_multiple", "pos_conv_depth"}),
)
