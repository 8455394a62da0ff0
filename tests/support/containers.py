"""Fixtures as others would keep them: inside a model of their own, saved in a form of their own.

Each form takes a fixture's state dict and config and gives what ``torch.save`` is given. To look at them:

    python -m tests.support.containers FIXTURE FOLDER
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.conftest import checkpoint

Saved = dict[str, Any]

FINE_TUNED = "w2v_encoder.w2v_model."


def saved(name: str) -> Saved:
    """What a fixture's file holds."""
    dictionary = type("Dictionary", (), {})
    with torch.serialization.safe_globals([(dictionary, "fairseq.data.dictionary.Dictionary")]):
        loaded: Saved = torch.load(checkpoint(name), weights_only=True)
    return loaded


def encoder(model: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of the encoder alone, as somebody finds them who loads fairseq's model and takes what is inside."""
    names = [name for name in model if name.startswith(FINE_TUNED)]
    return {name.removeprefix(FINE_TUNED): model[name] for name in names} if names else dict(model)


def below(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors as a part of a module."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def back_end() -> dict[str, torch.Tensor]:
    """What an anti-spoofing model has behind its encoder, with some names that an encoder has, too."""
    return {
        "LL.weight": torch.ones(8, 4),
        "LL.bias": torch.zeros(8),
        "first_bn.num_batches_tracked": torch.tensor(7),
        "encoder.0.conv1.weight": torch.ones(2, 1, 2, 3),
        "encoder.layer_norm.weight": torch.ones(3),
        "mask_emb": torch.ones(5),
        "pos_S": torch.zeros(1, 42, 64, dtype=torch.float16),
    }


def _bare(tensors: Saved, _cfg: Saved) -> Saved:
    return tensors


def _prefixed(tensors: Saved, _cfg: Saved) -> Saved:
    return OrderedDict(below("ssl_model.model.", tensors) | back_end())


def _under(key: str) -> Callable[[Saved, Saved], Saved]:
    def form(tensors: Saved, _cfg: Saved) -> Saved:
        model = OrderedDict(below("frontend.", tensors) | below("head.", back_end()))
        return {"epoch": 7, key: model, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{}]}}

    return form


def _parallel(tensors: Saved, _cfg: Saved) -> Saved:
    return below("module.", below("ssl_model.model.", tensors) | back_end())


def _lightning(tensors: Saved, _cfg: Saved) -> Saved:
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": OrderedDict(below("model.wav2vec.", tensors) | below("model.", back_end())),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-4, "layers": [1, 2]},
    }


def _s3prl(tensors: Saved, cfg: Saved) -> Saved:
    inner = cfg["model"].get("w2v_args") or cfg
    return {
        "task_cfg": cfg["task"],
        "model_cfg": inner["model"],
        "model_weight": tensors,
        "dictionaries_symbols": [["<s>", "<pad>", "</s>", "<unk>", "0", "1"]],
    }


FORMS: Mapping[str, Callable[[Saved, Saved], Saved]] = {
    "bare": _bare,
    "prefixed": _prefixed,
    "state_dict": _under("state_dict"),
    "model_state_dict": _under("model_state_dict"),
    "model": _under("model"),
    "model_weight": _under("model_weight"),
    "parallel": _parallel,
    "lightning": _lightning,
    "s3prl": _s3prl,
}


def save(name: str, form: str, path: Path, *, whole: bool = False) -> Path:
    """Save a fixture's encoder, or its whole model, in a form; returns the path."""
    held = saved(name)
    torch.save(FORMS[form](dict(held["model"]) if whole else encoder(held["model"]), _plain(held)), path)
    return path


def _plain(held: Saved) -> Saved:
    """The config as s3prl keeps it: plain dicts."""
    cfg: Saved = held["cfg"]
    return cfg


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for each in FORMS:
        save(sys.argv[1], each, folder / f"{each}.pt")
