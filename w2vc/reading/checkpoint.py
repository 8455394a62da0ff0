"""From a ``.pt`` file to a ``Checkpoint``: what it holds, and where its bytes lie.

No tensor byte is read. The gate (``archive.py``) has looked at the file before torch is imported; what it found is what
w2vc goes on with, once torch has confirmed it.
Sources: ``fairseq/checkpoint_utils.py`` (``save_checkpoint``, ``torch_persistent_save``), ``fairseq/trainer.py``
(``state_dict``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from w2vc.errors import NotACheckpointError, UsageError, shown
from w2vc.reading.archive import Archive, examine, open_checkpoint
from w2vc.reading.budget import Budget
from w2vc.reading.containers import FAIRSEQS, Contents, contents_of
from w2vc.reading.dictionary import Dictionary, dictionary_of_symbols
from w2vc.reading.nodes import Node, entries
from w2vc.reading.opening import identity_of
from w2vc.reading.sections import in_sections
from w2vc.reading.tensors import ITEM_BYTES, SourceTensor, StateDict, read_state_dict
from w2vc.reading.torch_reader import confirm_with_torch
from w2vc.reading.values import (
    Globals,
    attributes,
    described,
    elements,
    fields,
    is_mapping,
    plain,
    real_number,
    whole_number,
)

__all__ = [
    "ITEM_BYTES",
    "Adapter",
    "Checkpoint",
    "Progress",
    "SourceTensor",
    "identity_of",
    "read_checkpoint",
]


@dataclass(frozen=True)
class Progress:
    """How training stood when the checkpoint was saved; None where the checkpoint doesn't say.

    Attributes:
        updates: of the optimizer.
        epoch: that training was in.
        metric: the name of ``best``.
        best: the best value of the metric on the validation set.
    """

    updates: int | None
    epoch: int | None
    metric: str | None
    best: float | None


@dataclass(frozen=True)
class Adapter:
    """One language's part of a model that is published with adapters for many (MMS).

    Attributes:
        tensors: by fairseq's name, which is also the name of the model's tensor that each replaces.
        dictionary: of the language, where it is there.
    """

    tensors: Mapping[str, SourceTensor]
    dictionary: Dictionary | None


@dataclass(frozen=True)
class Checkpoint:
    """A fairseq checkpoint.

    Attributes:
        path: the file.
        archive: its container, as the gate found it.
        identity: of the file that the gate looked at (see ``identity_of``).
        tensors: the model's, or with EMA weights theirs, by fairseq's name in the file's order. Those of a group are
            named ``GROUP.NAME``.
        has_ema: whether there are EMA weights.
        cfg: the stored config as nested dicts, lists and scalars; interpolations are texts still.
        cfg_form: how it is stored: ``dict``, ``DictConfig`` or ``Namespace``.
        dictionary: the one in ``task_state``, where it is there.
        is_shard: it is one of several files of a model.
        optimizer_bytes: of the tensors that belong to no model: the optimizer's state.
        progress: how training stood.
        groups: those of ``tensors`` that lie in a dict of their own within the state dict (data2vec's ``_ema``), by the
            dict's name and by their names in it.
        adapters: by language (MMS); none in nearly all checkpoints.
        form: what the file is, for people: ``fairseq's``, or what somebody else made of a model.
        keys: those that lead from the file's value to the state dict.
        prefix: what precedes fairseq's names in somebody else's state dict.
        outside: what else there is in it, under the file's names.
    """

    path: Path
    archive: Archive
    identity: tuple[int, ...]
    tensors: Mapping[str, SourceTensor]
    has_ema: bool
    cfg: Mapping[str, object]
    cfg_form: str
    dictionary: Dictionary | None
    is_shard: bool
    optimizer_bytes: int
    progress: Progress
    groups: Mapping[str, Mapping[str, SourceTensor]] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    form: str = FAIRSEQS
    keys: tuple[str, ...] = ("model",)
    prefix: str = ""
    outside: tuple[SourceTensor, ...] = ()

    @property
    def is_fairseqs(self) -> bool:
        """Whether fairseq saved it, and not somebody who built upon its encoder."""
        return self.form == FAIRSEQS

    @property
    def model_name(self) -> str:
        """fairseq's registered name of the model: ``wav2vec2``, ``wav2vec_ctc``."""
        model = self.cfg.get("model")
        name = model.get("_name") if isinstance(model, Mapping) else None
        return name if isinstance(name, str) and name.isidentifier() else "unnamed"


def read_checkpoint(
    path: Path, *, ema: bool = False, passed: Callable[[BinaryIO, Archive], None] | None = None
) -> Checkpoint:
    """Read everything of a checkpoint but its tensors' bytes.

    Args:
        path: the file; its name decides nothing.
        ema: take the EMA weights instead of the model's.
        passed: called when the gate has let the file pass, before torch is imported.

    Raises:
        UnreadableError: missing, of another kind, damaged, or unsafe.
        UsageError: there are no EMA weights.
        DictionaryError: the dictionary inside is none.
    """
    with open_checkpoint(path) as file:
        archive = examine(file, path)
        identity = identity_of(file.fileno())
        if passed is not None:
            passed(file, archive)
        # What this refuses needs no torch.
        found = _Saved(archive).checkpoint(identity, ema=ema)
        confirm_with_torch(file, archive)
    return found


class _Saved:
    """What fairseq saved: the root's values under their keys."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.path = archive.path
        self.budget = Budget(str(archive.path))
        self.globals: Globals = archive.program.globals
        root = archive.program.root
        found = fields(root, self.globals)
        if found is None:
            raise NotACheckpointError(
                f"{self.path} holds {described(root)}, not a checkpoint of fairseq",
                advice="Give the checkpoint_*.pt that fairseq-hydra-train or fairseq-train saved.",
            )
        self.values = found
        self.extra = self.under("extra_state")

    def under(self, key: str) -> dict[str, Any]:
        """Return the entries of a mapping of the root's; none where there is no such mapping."""
        return fields(self.values.get(key), self.globals) or {}

    def checkpoint(self, identity: tuple[int, ...], *, ema: bool) -> Checkpoint:
        cfg_form, cfg = self.config()
        held = self.contents(cfg)
        if held.words != FAIRSEQS:
            cfg_form, cfg = self.others_config(held)
        ema_model = self.extra.get("ema")
        has_ema = bool(fields(ema_model, self.globals))
        if ema and not has_ema:
            raise UsageError(
                f"{self.path} has no EMA weights (extra_state['ema'])",
                advice="Leave --ema out to convert the model's own weights.",
            )
        found = self.ema_weights(ema_model) if ema else self.weights(held)
        if not found.tensors:
            raise NotACheckpointError(
                f"{self.path} has no tensor under 'model'", advice="Give a checkpoint with a model in it."
            )
        adapters = self.adapters()
        return Checkpoint(
            path=self.path,
            # The nodes have served: they may be large.
            archive=replace(self.archive, program=replace(self.archive.program, root=None)),
            identity=identity,
            tensors=found.tensors,
            has_ema=has_ema,
            cfg=cfg or {},
            cfg_form=cfg_form,
            dictionary=self.dictionary(self.values.get("task_state"), "task_state"),
            is_shard="shard_metadata" in self.values,
            optimizer_bytes=self.bytes_beside([found.tensors, *(adapter.tensors for adapter in adapters.values())]),
            progress=self.progress(cfg or {}),
            groups=found.groups,
            adapters=adapters,
            form=held.words,
            keys=("extra_state", "ema") if ema else held.keys,
        )

    def contents(self, cfg: Mapping[str, object] | None) -> Contents:
        """Return where the state dict is: below ``model`` where fairseq saved the file, elsewhere in others' files."""
        model = fields(self.values.get("model"), self.globals)
        if model is not None and cfg is not None and self.is_config_fairseqs():
            return Contents(FAIRSEQS, ("model",), model, {})
        held = contents_of(self.values, self.globals)
        if held is None:
            raise self.not_fairseqs(
                "has no state dict under 'model'" if model is None else "has neither 'cfg' nor 'args'"
            )
        return held

    def is_config_fairseqs(self) -> bool:
        """Return whether ``args`` are fairseq's, which name an architecture: many programs keep theirs there."""
        if self.stored_config("cfg") is not None:
            return True
        args = self.stored_config("args")
        held = fields(args, self.globals) or attributes(args, self.globals) or {}
        return "arch" in held or "model" in held

    def others_config(self, held: Contents) -> tuple[str, dict[str, object] | None]:
        """Return the sections of fairseq's config that somebody else's file carries."""
        what = f"{self.path}: the config"
        sections = {name: plain(value, self.globals, what) for name, value in held.config.items()}
        if not all(isinstance(section, dict) for section in sections.values()):
            return "none", None
        return ("dict", in_sections(sections, what)) if sections else ("none", None)

    def weights(self, held: Contents) -> StateDict:
        if held.words == FAIRSEQS:
            return self.state_dict(self.values["model"], "model")
        what = "".join(held.keys) or "the state dict"
        return read_state_dict(held.values, len(held.values), self.globals, self.archive.records, what, self.budget)

    def ema_weights(self, ema_model: object) -> StateDict:
        return self.state_dict(ema_model, "extra_state['ema']")

    def not_fairseqs(self, what: str) -> NotACheckpointError:
        keys = ", ".join(shown(key, 40) for key in list(self.values)[:6]) or "none"
        return NotACheckpointError(
            f"{self.path} {what}: it is not a checkpoint of fairseq (its keys: {keys})",
            advice="Give the checkpoint_*.pt that fairseq saved, or a file with an encoder of fairseq's in it.",
        )

    def state_dict(self, model: object, what: str) -> StateDict:
        values = fields(model, self.globals) or {}
        keys = len(entries(model)) if type(model) is Node else 0
        return read_state_dict(values, keys, self.globals, self.archive.records, what, self.budget)

    def config(self) -> tuple[str, dict[str, object] | None]:
        """Return the config as nested dicts; fairseq prefers ``cfg`` over ``args`` (``load_model_ensemble``)."""
        for key in ("cfg", "args"):
            stored = self.stored_config(key)
            if stored is not None:
                what = f"{self.path}: {key}"
                return _form(stored, self.globals), in_sections(plain(stored, self.globals, what), what)
        return "none", None

    def stored_config(self, key: str) -> Any:
        """Return a value of the root's that may be a config; None where it can't be one."""
        stored = self.values.get(key)
        is_config = fields(stored, self.globals) or attributes(stored, self.globals) is not None
        return stored if is_config else None

    def dictionary(self, state: object, origin: str) -> Dictionary | None:
        stored = (fields(state, self.globals) or {}).get("target_dictionary")
        held = attributes(stored, self.globals)
        if held is None:
            return None
        symbols = elements(held.get("symbols"), self.globals)
        return dictionary_of_symbols(symbols, f"{self.path}: {origin}.target_dictionary")

    def adapters(self) -> dict[str, Adapter]:
        """Return the adapters of a model published for many languages (fairseq's ``examples/mms``)."""
        found = {}
        for language, value in self.under("adapter").items():
            parts = fields(value, self.globals) or {}
            if fields(parts.get("model"), self.globals) is not None:
                where = f"adapter[{shown(language, 40)}]"
                own = self.state_dict(parts["model"], f"{where}['model']").tensors
                tensors = {name: replace(tensor, adapter=language) for name, tensor in own.items()}
                found[language] = Adapter(tensors, self.dictionary(parts.get("task_state"), f"{where}.task_state"))
        return found

    def bytes_beside(self, used: list[Mapping[str, SourceTensor]]) -> int:
        """Return how many bytes lie in records that none of these tensors uses."""
        names = {tensor.storage.name for tensors in used for tensor in tensors.values()}
        return sum(
            record.size
            for name, record in self.archive.records.items()
            if name.startswith("data/") and name not in names
        )

    def progress(self, cfg: Mapping[str, object]) -> Progress:
        history = elements(self.values.get("optimizer_history"), self.globals) or [None]
        last = fields(history[-1], self.globals) or {}
        iterator = fields(self.extra.get("train_iterator"), self.globals) or {}
        section = cfg.get("checkpoint")
        metric = section.get("best_checkpoint_metric") if isinstance(section, dict) else None
        return Progress(
            updates=whole_number(last.get("num_updates")),
            epoch=whole_number(iterator.get("epoch")),
            metric=metric if isinstance(metric, str) else None,
            best=real_number(self.extra.get("best")),
        )


def _form(stored: object, globals_: Globals) -> str:
    """How a config is stored: ``dict``, or the name of its class."""
    is_dict = type(stored) is not Node or is_mapping(stored, globals_)
    return "dict" if is_dict else stored.name.rpartition(".")[2]  # type: ignore[attr-defined]  # a Node, then
