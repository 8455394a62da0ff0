"""fairseq's forward of a data2vec audio in plain torch; ``examples/data2vec/models/data2vec_audio.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from w2vc.families.shared.reference import Model, ReferenceOutputs, Settings, Weights, forward, frame_mask, linear
from w2vc.families.shared.transformer_reference import encoder


def reference_forward(
    tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], source: Tensor, padding_mask: Tensor | None = None
) -> ReferenceOutputs:
    """Compute what fairseq's ``Data2VecAudioModel``, or ``Wav2VecCtc`` over it, computes in eval mode.

    Arguments and errors are those of ``shared.reference.forward``.
    """
    return forward(_MODEL, tensors, cfg, source, padding_mask)


def _pretraining(
    encoder_out: Tensor, _features: Tensor, weights: Weights, settings: Settings
) -> tuple[Tensor, None, None]:
    """``final_proj``, which later revisions keep as the first of a sequence."""
    projection = weights.below("final_proj.0" if "final_proj.0.weight" in weights else "final_proj")
    return linear(encoder_out, projection, settings.encoder_embed_dim), None, None


_MODEL = Model(
    # A fine-tuned model's own cfg.model holds decoys.
    architectures={"data2vec_audio": (), "wav2vec_ctc": ("w2v_args", "model")},
    fine_tuned=frozenset({"wav2vec_ctc"}),
    what="data2vec audio",
    settings=Settings,
    encoder=encoder,
    frame_mask=frame_mask,
    pretraining=_pretraining,
    ignored=frozenset({"quantize_input", "crop_seq_to_multiple"}),
    always_projects=True,
)
