"""What people save a model in: fairseq's checkpoint, and what others make around a state dict.

Each form is a row of ``FORMS``: where its state dict lies, and where its config, if it has one. Nothing else of a file
is looked at. Sources: ``fairseq/checkpoint_utils.py`` (``save_checkpoint``), s3prl's ``s3prl/upstream/*/convert.py``
(``load_and_convert_fairseq_ckpt``), Lightning's ``trainer/connectors/checkpoint_connector.py`` (``dump_checkpoint``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2vc.reading.arguments import is_tensor
from w2vc.reading.values import Globals, fields

FAIRSEQS = "fairseq's"


@dataclass(frozen=True)
class Form:
    """A way of saving a model.

    Attributes:
        words: what such a file is, for people.
        state_dict: the key of its state dict.
        further: other keys that it has; all of them.
        config: keys of the root's, by the section of fairseq's config that their values are.
    """

    words: str
    state_dict: str
    further: tuple[str, ...] = ()
    config: Mapping[str, str] | None = None


FORMS: tuple[Form, ...] = (
    Form(
        "a checkpoint of s3prl's",
        "model_weight",
        ("model_cfg", "task_cfg"),
        {"model": "model_cfg", "task": "task_cfg"},
    ),
    Form("a checkpoint of Lightning's", "state_dict", ("pytorch-lightning_version",)),
    *(Form(f"a state dict under {key!r}", key) for key in ("state_dict", "model_state_dict", "model", "model_weight")),
)
"""The forms of others; the first that fits counts. What fits none may be a state dict itself."""


@dataclass(frozen=True)
class Contents:
    """What a form says of a file.

    Attributes:
        words: what it is, for people; ``FAIRSEQS`` for a checkpoint of fairseq itself.
        keys: those that lead from the root to the state dict.
        values: of the state dict, by name: tensors, and dicts of nothing but tensors.
        config: values of the root's, by the section of fairseq's config that they are; none where there is no config.
    """

    words: str
    keys: tuple[str, ...]
    values: Mapping[str, Any]
    config: Mapping[str, Any]


def contents_of(root: Mapping[str, Any], globals_: Globals) -> Contents | None:
    """Return where the state dict lies in a file that isn't fairseq's own; None where there are no tensors.

    Args:
        root: the entries of the file's value.
        globals_: how the pickle uses the globals that made them.
    """
    found = [(form, tensors) for form in FORMS if (tensors := _tensors(root.get(form.state_dict), globals_))]
    # Of several state dicts, none is the right one before its place is named: the root holds them all.
    if len({form.state_dict for form, _tensors_there in found}) == 1:
        form, tensors = next(pair for pair in found if root.keys() >= set(pair[0].further))
        sections = {section: root[key] for section, key in (form.config or {}).items()}
        return Contents(form.words, (form.state_dict,), tensors, sections)
    tensors = _only_tensors(root, globals_)
    return Contents("a bare state dict", (), tensors, {}) if tensors else None


def _tensors(value: object, globals_: Globals) -> dict[str, Any]:
    return _only_tensors(fields(value, globals_) or {}, globals_)


def _only_tensors(values: Mapping[str, Any], globals_: Globals) -> dict[str, Any]:
    """Return what is a tensor, or a dict of nothing else. People keep more in a state dict: counters, settings."""
    return {name: value for name, value in values.items() if is_tensor(value) or _is_group(value, globals_)}


def _is_group(value: object, globals_: Globals) -> bool:
    inner = fields(value, globals_) or {}
    return bool(inner) and all(map(is_tensor, inner.values()))
