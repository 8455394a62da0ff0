"""fairseq's forward of a wav2vec 2.0 with transformer layers in plain torch.

The adapters are written from fairseq's last commit, the only one that has them (``models/wav2vec/wav2vec2.py``,
``AdapterFast`` and ``TransformerSentenceEncoderWithAdapterLayer``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch's users, fairseq among them, give it

from w2vc.errors import UnsupportedModelError
from w2vc.families.shared.reference import (
    EPSILON,
    Encoder,
    Model,
    ReferenceOutputs,
    Settings,
    Weights,
    forward,
    frame_mask,
    pretraining,
)
from w2vc.families.shared.transformer_reference import encoder as encoder_of_layers

_ADAPTER_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "selu": F.selu}


def reference_forward(
    tensors: Mapping[str, Tensor],
    cfg: Mapping[str, Any],
    source: Tensor,
    padding_mask: Tensor | None = None,
    corpus_key: int = 0,
) -> ReferenceOutputs:
    """Compute what fairseq's ``Wav2Vec2Model``, or ``Wav2VecCtc`` over it, computes in eval mode.

    Arguments and errors are those of ``shared.reference.forward``, and ``corpus_key`` says which of the adapters is
    taken: the language's place in ``task.multi_corpus_keys``.
    """
    # Wav2VecEncoder.__init__ puts the outer cfg's adp_act_fn in the place of w2v_args' own.
    activation = _adapter_activation(cfg["model"].get("adp_act_fn", "relu"))
    model = replace(_MODEL, encoder=lambda weights, settings: _encoder(weights, settings, activation, corpus_key))
    return forward(model, tensors, cfg, source, padding_mask)


def _adapter_activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ADAPTER_ACTIVATIONS:
        raise UnsupportedModelError(
            f"cfg.model.adp_act_fn is {name!r}", advice=f"fairseq itself has {', '.join(_ADAPTER_ACTIVATIONS)}."
        )
    return _ADAPTER_ACTIVATIONS[name]


def _encoder(weights: Weights, settings: Settings, activation: Callable[[Tensor], Tensor], corpus_key: int) -> Encoder:
    """The encoder of transformer layers, with an adapter after each that has one."""
    plain = encoder_of_layers(weights, settings)

    def layer(x: Tensor, mask: Tensor | None, of_layer: Weights) -> Tensor:
        x = plain.layer(x, mask, of_layer)
        adapter = of_layer.below("adapter_layer")
        return x + _adapter(x, adapter, activation, corpus_key) if "W_a" in adapter else x

    return replace(plain, layer=layer)


def _adapter(x: Tensor, weights: Weights, activation: Callable[[Tensor], Tensor], corpus_key: int) -> Tensor:
    """``AdapterFast.forward``."""
    width = x.size(-1)
    scale, shift = (weights.read(name, None, width)[corpus_key] for name in ("ln_W", "ln_b"))
    down = weights.read("W_a", None, None, width)[corpus_key]
    up = weights.read("W_b", None, width, down.size(0))[corpus_key]
    hidden = F.layer_norm(x, (width,), scale, shift, EPSILON)
    hidden = activation(F.linear(hidden, down, weights.read("b_a", None, down.size(0))[corpus_key]))
    return F.linear(hidden, up, weights.read("b_b", None, width)[corpus_key])


_MODEL = Model(
    # A fine-tuned model's own cfg.model holds decoys.
    architectures={"wav2vec2": (), "wav2vec_ctc": ("w2v_args", "model")},
    fine_tuned=frozenset({"wav2vec_ctc"}),
    what="wav2vec2",
    settings=Settings,
    encoder=encoder_of_layers,
    frame_mask=frame_mask,
    pretraining=pretraining,
)
