"""What transformers loads from a directory: the model and the tokenizer, and what it complains about."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from w2vc.planning.plan import Plan
from w2vc.verifying.verification import Finding

_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")
_MOST_SYMBOLS = 1000


def load_model(
    transformers: Any, plan: Plan, output: Path, beside_the_class: frozenset[str] = frozenset()
) -> tuple[Any, list[Finding]]:
    """Return the model in float32 and eval mode, and which keys it complains about; None where it can't be loaded.

    float32 weights are mapped by every supported transformers, so that they take no memory of their own.

    Args:
        transformers: the package.
        plan: names the class.
        output: the directory.
        beside_the_class: tensors that the class has no place for, as it should be.
    """
    kind = getattr(transformers, plan.model_class)
    try:
        model, info = kind.from_pretrained(
            output,
            dtype=importlib.import_module("torch").float32,
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:  # whatever a changed directory leads transformers to
        return None, [failure("loading", f"{plan.model_class}.from_pretrained", "a model", error)]
    complaints = {problem: _names(info.get(problem) or ()) for problem in _PROBLEMS}
    complaints["unexpected_keys"] = [key for key in complaints["unexpected_keys"] if key not in beside_the_class]
    findings = [
        Finding("loading", f"{plan.model_class}.from_pretrained", f"no {problem}", _listed(names))
        for problem, names in complaints.items()
        if names
    ]
    return model.eval(), findings


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
    minutes. A large vocabulary's are added at once, which comes to the same (a test compares).
    """
    words = plan.vocabulary
    if words is None or len(words.tokens) <= _MOST_SYMBOLS:
        processor = transformers.AutoProcessor.from_pretrained(output, local_files_only=True, trust_remote_code=False)
        return processor.tokenizer, None
    kind = getattr(transformers, json.loads(plan.files["tokenizer_config.json"])["tokenizer_class"])
    tokenizer = adding_at_once(kind).from_pretrained(output, local_files_only=True)
    return tokenizer, (
        f"the tokenizer's {len(words.tokens):,} symbols were added at once; transformers itself adds them one by one, "
        "which takes time with the square of their number"
    )


def adding_at_once(kind: Any) -> Any:
    """Return a tokenizer's class whose constructor adds tokens at its end, all of them in one call."""

    class AddingAtOnce(kind):  # type: ignore[misc]  # a class of transformers', which mypy doesn't see
        def __init__(self, *arguments: Any, **options: Any) -> None:
            waiting: list[Any] = []
            self.__dict__["add_tokens"] = waiting.append
            super().__init__(*arguments, **options)
            del self.__dict__["add_tokens"]
            self.add_tokens(waiting)

    AddingAtOnce.__name__ = AddingAtOnce.__qualname__ = kind.__name__  # it is compared with the config's
    return AddingAtOnce
