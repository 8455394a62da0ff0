"""What can be asked of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

AnyPath = str | PathLike[str]
"""What a path may be given as."""


@dataclass(frozen=True)
class Options:
    """How to convert; the defaults are those of the command line.

    Attributes:
        dictionary: ``dict.txt``, or the folder that holds it; None takes the checkpoint's own, or the one beside it.
        head: ``auto``, ``ctc``, ``pretraining`` or ``none``.
        dtype: of the written weights: ``float32``, ``float16``, ``bfloat16``, or ``keep`` for the checkpoint's own.
        ema: take the EMA weights.
        config: a ``config.json`` whose values of training and decoding are taken instead of the checkpoint's.
        pretrained: the pretrained checkpoint, where this one doesn't carry its architecture.
        prefix: where in somebody else's state dict the encoder is; a dot alone is the top level.
        card: write a model card.
        language: which of the model's languages to load it with, where there are several; None takes the first.
    """

    dictionary: Path | None = None
    head: str = "auto"
    dtype: str = "float32"
    ema: bool = False
    config: Path | None = None
    pretrained: Path | None = None
    prefix: str | None = None
    card: bool = True
    language: str | None = None
