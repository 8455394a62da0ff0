"""What needs other packages of the steps after a conversion: ONNX, and training with transformers' ``Trainer``.

    pip install accelerate onnx onnxruntime onnxscript && python -m tests.support.next_steps

Prints the loss before and after training, and how far ONNX's outputs are from transformers': exported as the README
says it, for audio of one length, and for audio of any length.
"""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers

import w2vc
from tests.conftest import checkpoint

MODELS = {
    # torch.export can't follow the views of transformers' attention with relative positions, but tracing can.
    "relative_ctc": False,
    "rotary_ctc": True,
    "wav2vec2_large_ctc": True,
    "hubert_ctc": True,
    "data2vec_ctc": True,
}
"""Fixtures, and what ``dynamo`` has to be for each."""

LENGTH = 16_000


def export(output: Path, *, dynamo: bool, any_length: bool) -> float:
    """Export a model to ONNX and return the relative error of its logits."""
    model: Any = transformers.AutoModelForCTC.from_pretrained(output).eval()
    place = output / "model.onnx"
    free: dict[str, Any] = {
        "dynamic_shapes": ({1: torch.export.Dim.AUTO},) if dynamo and any_length else None,
        "dynamic_axes": {"samples": {1: "length"}} if not dynamo and any_length else None,
    }
    example = (torch.randn(1, LENGTH),)
    torch.onnx.export(model, example, place, input_names=["samples"], dynamo=dynamo, verbose=False, **free)
    session: Any = import_module("onnxruntime").InferenceSession(str(place))
    return _difference(model, session, torch.randn(1, LENGTH * (3 if any_length else 1)))


def _difference(model: Any, session: Any, values: torch.Tensor) -> float:
    with torch.no_grad():
        expected = model(values).logits.numpy()
    found = session.run(None, {"samples": values.numpy()})[0]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def train(output: Path, folder: Path) -> tuple[float, float]:
    """Train for ten steps with one clip; return the first and the last loss."""
    model = transformers.AutoModelForCTC.from_pretrained(output, vocab_size=20, pad_token_id=0)
    clip = {"input_values": torch.randn(16_000), "labels": torch.tensor([5, 6, 7])}
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=10, logging_steps=1, learning_rate=1e-3, use_cpu=True, report_to=[], save_strategy="no"
    )
    trainer: Any = transformers.Trainer(model, arguments, train_dataset=[clip] * 8)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[0], losses[-1]


def main() -> None:
    """Take every step and print its figures."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        w2vc.convert(checkpoint("relative_pretraining"), folder / "pretrained")
        first, last = train(folder / "pretrained", folder / "trained")
        print(f"fine-tuning: loss {first:.1f}, after ten steps {last:.1f}", flush=True)  # noqa: T201 - a command line
        for model, dynamo in MODELS.items():
            w2vc.convert(checkpoint(model), folder / model)
            one, three = (export(folder / model, dynamo=dynamo, any_length=value) for value in (False, True))
            print(f"ONNX, {model}: one length {one:.1e}, any length {three:.1e}", flush=True)  # noqa: T201 - a command line


if __name__ == "__main__":
    main()
