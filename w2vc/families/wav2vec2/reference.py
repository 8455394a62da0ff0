"""fairseq's forward of a wav2vec 2.0 with transformer layers in plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from w2vc.families.shared.reference import Model, ReferenceOutputs, Settings, forward, frame_mask, pretraining
from w2vc.families.shared.transformer_reference import encoder


def reference_forward(
    tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], source: Tensor, padding_mask: Tensor | None = None
) -> ReferenceOutputs:
    """Compute what fairseq's ``Wav2Vec2Model``, or ``Wav2VecCtc`` over it, computes in eval mode.

    Arguments and errors are those of ``shared.reference.forward``.
    """
    return forward(_MODEL, tensors, cfg, source, padding_mask)


_MODEL = Model(
    # A fine-tuned model's own cfg.model holds decoys.
    architectures={"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")},
    fine_tuned=frozenset({"wav2vec_ctc"}),
    what="wav2vec2",
    settings=Settings,
    encoder=encoder,
    frame_mask=frame_mask,
    pretraining=pretraining,
)
