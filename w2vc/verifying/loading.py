"""What transformers loads from a directory: the model and the tokenizer, and what it complains about."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.planning.plan import Plan
from w2vc.planning.provenance import WEIGHTS
from w2vc.verifying.compare_files import read_json
from w2vc.verifying.verification import Finding
from w2vc.writing.acceptance import load_tokenizer as load_at_once

if TYPE_CHECKING:
    from torch import Tensor

_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")
_MOST_SYMBOLS = 1000
# Up to here, weights in half precision are made float32 as a whole.
_MOST_WHOLE_BYTES = 2**27
_LOCK = threading.Lock()


def from_pretrained(kind: Any, source: Path | None, **options: Any) -> Any:
    """Call a model class's ``from_pretrained``, offline, for safetensors alone, one thread at a time.

    transformers 4.57 changes the process while it makes a model: of two made at once, one has no weights.

    Args:
        kind: transformers' class.
        source: the directory; None where the options give the config and the tensors.
        options: of the call, besides those that every load has.
    """
    with _LOCK:
        return kind.from_pretrained(source, local_files_only=True, use_safetensors=True, **options)


def load_model(transformers: Any, plan: Plan, output: Path) -> tuple[Any, list[Finding]]:
    """Return the model in float32 and eval mode, and which keys it complains about; None where it can't be loaded.

    Every supported transformers maps float32 weights, so that they take no memory of their own. Many in half precision
    are made float32 layer by layer, while the layer runs.

    Args:
        transformers: the package.
        plan: names the class, and the tensors that it has no place for, as it should be.
        output: the directory.
    """
    kind = getattr(transformers, plan.model_class)
    try:
        model, info = _layer_by_layer(kind, plan, output) or from_pretrained(kind, output, **_options())
    except Exception as error:  # whatever a changed directory leads transformers to
        return None, [failure("loading", f"{plan.model_class}.from_pretrained", "a model", error)]
    complaints = {problem: _names(info.get(problem) or ()) for problem in _PROBLEMS}
    complaints["unexpected_keys"] = [key for key in complaints["unexpected_keys"] if key not in plan.beyond]
    findings = [
        Finding("loading", f"{plan.model_class}.from_pretrained", f"no {problem}", _listed(names))
        for problem, names in complaints.items()
        if names
    ]
    return model.eval(), findings


def _options() -> dict[str, Any]:
    import torch

    return {"dtype": torch.float32, "output_loading_info": True}


def _layer_by_layer(kind: Any, plan: Plan, output: Path) -> tuple[Any, Any] | None:
    """Load a large model whose weights are in half precision; None for others, and where this can't be done.

    transformers is given float32 tensors in memory that is never touched, which it takes for the weights. Where they
    have come to is where the weights belong.
    """
    import torch
    from safetensors.torch import load_file

    if plan.dtype == "float32" or (output / WEIGHTS).stat().st_size < _MOST_WHOLE_BYTES:
        return None
    written = load_file(output / WEIGHTS)  # which maps them
    narrow = {name for name, tensor in written.items() if tensor.dtype in (torch.float16, torch.bfloat16)}
    given = {name: torch.empty(tensor.shape) if name in narrow else tensor for name, tensor in written.items()}
    config = kind.config_class.from_pretrained(output, local_files_only=True)
    model, info = from_pretrained(kind, None, config=config, state_dict=dict(given), **_options())
    weights = {given[name].data_ptr(): written[name] for name in narrow if given[name].numel()}
    found = {tensor.data_ptr() for tensor in _tensors(model)}
    if any(info.get(problem) for problem in _PROBLEMS) or not found.issuperset(weights):
        return None
    for layer in _layers(model):
        _widen_while_it_runs(layer, weights)
    _widen(model, weights)
    return model, info


def _tensors(module: Any) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _layers(module: Any) -> Iterator[Any]:
    """Yield the modules of every outermost list of modules."""
    import torch

    for child in module.children():
        yield from child if isinstance(child, torch.nn.ModuleList) else _layers(child)


def _widen_while_it_runs(layer: Any, weights: dict[int, Tensor]) -> None:
    """Have a module's weights made float32 before it runs, and left again after it; take them out of ``weights``."""
    empty = {id(tensor): tensor.data for tensor in _tensors(layer)}
    own = {id(tensor): weights.pop(tensor.data_ptr()) for tensor in _tensors(layer) if tensor.data_ptr() in weights}

    def before(module: Any, _inputs: object) -> None:
        for tensor in _tensors(module):
            if id(tensor) in own:
                tensor.data = own[id(tensor)].float()

    def after(module: Any, _inputs: object, _output: object) -> None:
        for tensor in _tensors(module):
            if id(tensor) in own:
                tensor.data = empty[id(tensor)]

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


def _widen(module: Any, weights: Mapping[int, Tensor]) -> None:
    for tensor in _tensors(module):
        if tensor.data_ptr() in weights:
            tensor.data = weights[tensor.data_ptr()].float()


def _names(keys: Any) -> list[str]:
    return sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def failure(part: str, where: str, expected: str, error: Exception) -> Finding:
    """Return the finding that transformers failed, with the beginning of what it says."""
    beginning = " ".join(str(error).split())[:300]
    return Finding(part, where, expected, f"{type(error).__name__}: {beginning}")


def load_tokenizer(transformers: Any, plan: Plan, output: Path) -> tuple[Any, str | None]:
    """Return the tokenizer as transformers loads it, and a note where it had to be helped.

    A tokenizer adds its longer symbols one by one, and copies the whole vocabulary for each: 20,000 of them take many
    minutes. A large vocabulary's are added at once (``acceptance.py``), which comes to the same.
    """
    words = plan.vocabulary
    if words is None or len(words.tokens) <= _MOST_SYMBOLS:
        processor = transformers.AutoProcessor.from_pretrained(output, local_files_only=True, trust_remote_code=False)
        return processor.tokenizer, None
    values = read_json(output / "tokenizer_config.json")
    kind = getattr(transformers, json.loads(plan.files["tokenizer_config.json"])["tokenizer_class"])
    values = {key: value for key, value in values.items() if key not in ("tokenizer_class", "processor_class")}
    tokenizer = load_at_once(kind, vocab_file=str(output / "vocab.json"), **values)
    return tokenizer, (
        f"the tokenizer's {len(words.tokens):,} symbols were added at once; transformers itself adds them one by one, "
        "which takes time with the square of their number"
    )
