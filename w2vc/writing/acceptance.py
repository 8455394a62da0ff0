"""Load config and tokenizer with the installed transformers, before the output is renamed into place.

Only the config class and the tokenizers are imported: the model's code takes seconds more and isn't needed.
The classes are called directly, so that nothing is looked up on a network.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vc.errors import InconsistentError
from w2vc.planning.plan import Plan


@dataclass(frozen=True)
class Classes:
    """transformers' classes, imported.

    Attributes:
        config: the class of ``config.json``.
        tokenizers: by name; empty where no tokenizer is written.
    """

    config: Any
    tokenizers: Mapping[str, Any]


def import_transformers() -> Any:
    """Return transformers, imported, whichever thread came first.

    Its ``__init__`` puts another module in its own place. A thread whose import statement had to wait for it is given
    the first one, which has no classes.
    """
    importlib.import_module("transformers")
    return sys.modules["transformers"]


def load_classes(config_class: str, *, with_tokenizer: bool) -> Classes:
    """Import what the files will be tried with. Takes a second or two."""
    transformers = import_transformers()
    tokenizers: dict[str, Any] = {}
    if with_tokenizer:
        from transformers.models.wav2vec2.tokenization_wav2vec2 import Wav2Vec2CTCTokenizer
        from transformers.models.wav2vec2_phoneme.tokenization_wav2vec2_phoneme import Wav2Vec2PhonemeCTCTokenizer

        tokenizers = {kind.__name__: kind for kind in (Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer)}
    return Classes(getattr(transformers, config_class), tokenizers)


def accept(classes: Classes, plan: Plan, directory: Path) -> None:
    """Load the small files with the installed transformers.

    Raises:
        InconsistentError: transformers refuses a value, changes it, or counts other tokens than the head has rows.
    """
    problems = [*_config_problems(classes, directory), *_tokenizer_problems(classes, plan, directory)]
    if problems:
        raise InconsistentError(
            problems, advice="The installed transformers doesn't take what w2vc writes; is its version supported?"
        )


def _config_problems(classes: Classes, directory: Path) -> list[str]:
    values = json.loads((directory / "config.json").read_bytes())
    try:
        config = classes.config(**values)
    except Exception as error:
        return [f"transformers refuses config.json: {' '.join(str(error).split())[:300]}"]
    # torch_dtype and model_type become something else than plain attributes.
    compared = {key: value for key, value in values.items() if key not in ("torch_dtype", "model_type")}
    return [
        f"transformers makes {getattr(config, key, None)!r} of {key} = {value!r} in config.json"
        for key, value in compared.items()
        if _listed(getattr(config, key, None)) != value
    ]


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def load_tokenizer(kind: type[Any], **arguments: object) -> Any:
    """Return a tokenizer of transformers, loaded in linear time.

    ``Wav2Vec2CTCTokenizer.__init__`` calls ``add_tokens`` for each symbol of more than one character, and each call
    copies the vocabulary (``PreTrainedTokenizer._add_tokens``): 5,000 sentence pieces take half a minute. Here the
    calls are gathered, and the same method adds all their tokens at once: the tokenizer is the same.

    Args:
        kind: transformers' class.
        arguments: of its constructor.
    """
    gathered: list[Any] = []

    class AddingAtOnce(kind):  # type: ignore[misc]  # transformers has no types
        def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
            if special_tokens:
                return int(super().add_tokens(new_tokens, special_tokens))
            gathered.extend(new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens])
            return 0

    tokenizer = AddingAtOnce(**arguments)
    tokenizer.__class__ = kind
    tokenizer.add_tokens(gathered)
    return tokenizer


def _tokenizer_problems(classes: Classes, plan: Plan, directory: Path) -> list[str]:
    words = plan.vocabulary
    if words is None:
        return []
    values = json.loads((directory / "tokenizer_config.json").read_bytes())
    kind = classes.tokenizers[values.pop("tokenizer_class")]
    values.pop("processor_class")
    tokenizer = load_tokenizer(kind, vocab_file=str(directory / "vocab.json"), **values)
    problems = []
    if len(tokenizer) != len(words.tokens):
        problems.append(f"transformers counts {len(tokenizer)} tokens, but the head has {len(words.tokens)} rows")
    if tokenizer.pad_token_id != words.ids[words.blank]:
        problems.append(f"transformers takes {tokenizer.pad_token_id} for the blank, not {words.ids[words.blank]}")
    found = tokenizer.convert_ids_to_tokens(list(range(len(words.tokens))))
    wrong = [index for index, (ours, theirs) in enumerate(zip(words.tokens, found, strict=True)) if ours != theirs]
    if wrong:
        problems.append(f"transformers has other tokens at {wrong[:10]}")
    return problems
