"""From a ``.pt`` file to a ``Checkpoint``: what it holds, and where its bytes lie. The only ``torch.load``.

No tensor byte is read. The gate (``archive.py``) has looked at the file before torch is imported.
Sources: ``fairseq/checkpoint_utils.py`` (``save_checkpoint``, ``torch_persistent_save``), ``fairseq/trainer.py``
(``state_dict``), ``torch/serialization.py`` (``load``).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from w2vc.errors import DamagedError, DictionaryError, NotACheckpointError, UsageError
from w2vc.reading.archive import Archive, Record, examine, open_checkpoint
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary
from w2vc.reading.stand_ins import StandIn, plain, stand_ins

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1}
ITEM_BYTES |= {"uint8": 1, "bool": 1}
"""Bytes per element of the dtypes that a checkpoint's tensors may have."""

_GET_AGAIN = "Download or copy the checkpoint again and compare its checksum."
_LONGEST_NAME = 300


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of the checkpoint, and where its bytes lie.

    Attributes:
        name: fairseq's full name.
        shape: its sizes, outermost first.
        stride: its strides, in elements.
        dtype: torch's name without ``torch.``.
        storage: the record that holds its storage.
        offset: of its first element, in bytes from the beginning of the record.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    storage: Record
    offset: int

    @property
    def elements(self) -> int:
        """How many elements it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def span(self) -> int:
        """Bytes from its first element to behind its last one, strides included."""
        if self.elements == 0:
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return (reach + 1) * ITEM_BYTES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie one after the other, in the order of its axes."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return self.elements == 0
            expected *= size
        return True


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
class Checkpoint:
    """A fairseq checkpoint.

    Attributes:
        path: the file.
        archive: its container, as the gate found it.
        identity: of the file that the gate looked at (see ``identity_of``).
        tensors: the model's, or with EMA weights theirs, by fairseq's name in the file's order.
        has_ema: whether there are EMA weights.
        cfg: the stored config as nested dicts, lists and scalars; interpolations are texts still.
        cfg_form: how it is stored: ``dict``, ``DictConfig`` or ``Namespace``.
        dictionary: the one in ``task_state``, where it is there.
        is_shard: it is one of several files of a model.
        optimizer_bytes: of the tensors that belong to no model: the optimizer's state.
        progress: how training stood.
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

    @property
    def model_name(self) -> str:
        """fairseq's registered name of the model: ``wav2vec2``, ``wav2vec_ctc``."""
        model = self.cfg.get("model")
        name = model.get("_name") if isinstance(model, Mapping) else None
        return name if isinstance(name, str) and name.isidentifier() else "unnamed"


def read_checkpoint(
    path: Path, *, ema: bool = False, passed: Callable[[BinaryIO, Archive], None] | None = None
) -> Checkpoint:
    """Reads everything of a checkpoint but its tensors' bytes.

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
        saved = _load(file, archive)
    return _checkpoint(archive, identity, saved, ema=ema)


def identity_of(file: int) -> tuple[int, ...]:
    """What changes when a file becomes another, or is written to: device, inode, size, time of the last change."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


# ---------------------------------------------------------------------------------------------------------------
# torch.load


def _load(file: BinaryIO, archive: Archive) -> dict[Any, Any]:
    import torch  # here, so that the gate answers before torch is imported

    with _only_these_globals(stand_ins(archive.program.globals.values())), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if archive.container == "legacy":
                places = iter(archive.program.storages)

                def keep_place(storage: Any, _location: str) -> Any:
                    place = archive.records[f"data/{next(places).key}"]
                    storage._checkpoint_offset = place.offset
                    return storage

                with torch.serialization.skip_data():
                    # torch reads a legacy pickle byte by byte.
                    buffered = BufferedReader(cast(RawIOBase, file))
                    saved = torch.load(buffered, map_location=keep_place, weights_only=True)
                    buffered.detach()
            else:
                saved = torch.load(file, map_location="meta", weights_only=True)
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0][:200]
            raise DamagedError(
                f"{archive.path} can't be read by torch.load: {type(error).__name__}: {first_line}", advice=_GET_AGAIN
            ) from error
    if not isinstance(saved, dict):
        raise NotACheckpointError(
            f"{archive.path} holds {_a(saved)}, not a checkpoint of fairseq",
            advice="Give the checkpoint_*.pt that fairseq-hydra-train or fairseq-train saved.",
        )
    return saved


@contextmanager
def _only_these_globals(allowed: list[tuple[type, str]]) -> Iterator[None]:
    """Allows torch's unpickler the stand-ins and nothing that the surrounding program may have allowed."""
    import torch

    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals(allowed)  # type: ignore[arg-type]  # pairs are documented, but not typed
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _a(value: object) -> str:
    return f"a {getattr(value, 'stands_for', None) or type(value).__name__}"


# ---------------------------------------------------------------------------------------------------------------
# What fairseq saved


def _checkpoint(archive: Archive, identity: tuple[int, ...], saved: dict[Any, Any], *, ema: bool) -> Checkpoint:
    path = archive.path
    model = saved.get("model")
    cfg_form, cfg = _config(path, saved)
    if not isinstance(model, dict):
        raise _not_fairseqs(path, saved, "has no state dict under 'model'")
    if cfg is None:
        raise _not_fairseqs(path, saved, "has neither 'cfg' nor 'args'")
    extra = saved.get("extra_state")
    ema_model = extra.get("ema") if isinstance(extra, dict) else None
    has_ema = isinstance(ema_model, dict) and bool(ema_model)
    if ema and not has_ema:
        raise UsageError(
            f"{path} has no EMA weights (extra_state['ema'])",
            advice="Leave --ema out to convert the model's own weights.",
        )
    places = {record.offset: record for record in archive.records.values() if record.name.startswith("data/")}
    tensors = _tensors(path, ema_model if ema and isinstance(ema_model, dict) else model, places)
    used = {tensor.storage.offset: tensor.storage.size for tensor in tensors.values()}
    every = sum(record.size for record in places.values())
    return Checkpoint(
        path=path,
        archive=archive,
        identity=identity,
        tensors=tensors,
        has_ema=has_ema,
        cfg=cfg,
        cfg_form=cfg_form,
        dictionary=_dictionary(path, saved),
        is_shard="shard_metadata" in saved,
        optimizer_bytes=every - sum(used.values()),
        progress=_progress(saved, cfg),
    )


def _not_fairseqs(path: Path, saved: dict[Any, Any], what: str) -> NotACheckpointError:
    keys = ", ".join(str(key)[:40] for key in list(saved)[:6]) or "none"
    return NotACheckpointError(
        f"{path} {what}: it is not a checkpoint of fairseq (its keys: {keys})",
        advice="Give the checkpoint_*.pt that fairseq saved; a bare state dict doesn't say what the model is.",
    )


def _config(path: Path, saved: dict[Any, Any]) -> tuple[str, dict[str, object] | None]:
    """The config as nested dicts; fairseq prefers ``cfg`` over ``args`` (``checkpoint_utils.load_model_ensemble``)."""
    for key in ("cfg", "args"):
        stored = saved.get(key)
        if isinstance(stored, (dict, StandIn)) and stored:
            form = "dict" if isinstance(stored, dict) else stored.stands_for.rpartition(".")[2]
            return form, _in_sections(plain(stored, f"{path}: {key}"))
    return "none", None


def _in_sections(config: object) -> dict[str, object] | None:
    """A config in sections, as ``convert_namespace_to_omegaconf`` makes them of a flat namespace of arguments."""
    if not isinstance(config, dict):
        return None
    model = config.get("model")
    sections = dict(config)
    if not isinstance(model, dict):
        model = {"_name": config.get("arch"), **config}
        sections = dict.fromkeys(("task", "criterion", "checkpoint"), config)
    inner = _in_sections(model.get("w2v_args"))
    return {**sections, "model": model if inner is None else {**model, "w2v_args": inner}}


def _dictionary(path: Path, saved: dict[Any, Any]) -> Dictionary | None:
    state = saved.get("task_state")
    stored = state.get("target_dictionary") if isinstance(state, dict) else None
    if not isinstance(stored, StandIn):
        return None
    symbols = stored.attributes.get("symbols")
    origin = f"{path}: task_state.target_dictionary"
    if not isinstance(symbols, list) or not all(_is_text(symbol) for symbol in symbols):
        raise DictionaryError(
            f"{origin} has no list of symbols, each a text in Unicode", advice="Give the dictionary with --dict."
        )
    if tuple(symbols[: len(SPECIAL_SYMBOLS)]) != SPECIAL_SYMBOLS:
        raise DictionaryError(
            f"{origin} begins with {symbols[:4]}, not with {list(SPECIAL_SYMBOLS)}",
            advice="w2vc reads fairseq's own kind of dictionary only; give it with --dict if there is one.",
        )
    return Dictionary(tuple(symbols), origin)


def _is_text(symbol: object) -> bool:
    return isinstance(symbol, str) and not any("\ud800" <= char <= "\udfff" for char in symbol)


def _progress(saved: dict[Any, Any], cfg: Mapping[str, object]) -> Progress:
    extra = saved.get("extra_state")
    extra = extra if isinstance(extra, dict) else {}
    history = saved.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history and isinstance(history[-1], dict) else {}
    iterator = extra.get("train_iterator")
    iterator = iterator if isinstance(iterator, dict) else {}
    section = cfg.get("checkpoint")
    metric = section.get("best_checkpoint_metric") if isinstance(section, dict) else None
    return Progress(
        updates=_whole(last.get("num_updates")),
        epoch=_whole(iterator.get("epoch")),
        metric=metric if isinstance(metric, str) else None,
        best=_real(extra.get("best")),
    )


def _whole(value: object) -> int | None:
    value = plain(value, "num_updates")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _real(value: object) -> float | None:
    value = plain(value, "best")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# ---------------------------------------------------------------------------------------------------------------
# Tensors


def _tensors(path: Path, model: Mapping[Any, Any], places: Mapping[int, Record]) -> dict[str, SourceTensor]:
    tensors, problems = {}, []
    for name, value in model.items():
        found = _tensor(name, value, places)
        if isinstance(found, str):
            problems.append(f"{path}: model[{str(name)[:80]!r}] {found}")
        else:
            tensors[found.name] = found
    if problems:
        raise DamagedError(problems[:20], advice=_GET_AGAIN)
    if not tensors:
        raise NotACheckpointError(f"{path} has no tensor under 'model'", advice="Give a checkpoint with a model in it.")
    return tensors


def _tensor(name: object, value: Any, places: Mapping[int, Record]) -> SourceTensor | str:
    """The tensor, or what is wrong with it."""
    import torch

    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        return "has a name that no tensor has"
    if name == "__metadata__":
        return "has the name that safetensors keeps for itself"
    if not isinstance(value, torch.Tensor):
        return f"is {_a(value)}, not a tensor"
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized or dtype not in ITEM_BYTES:
        return f"is of a kind that w2vc doesn't read ({value.layout}, {dtype})"
    storage = value.untyped_storage()
    record = places.get(getattr(storage, "_checkpoint_offset", -1))
    if record is None or record.size != storage.nbytes():
        return f"has a storage of {storage.nbytes()} bytes where the file has no such record"
    tensor = SourceTensor(
        name=name,
        shape=tuple(value.shape),
        stride=tuple(value.stride()),
        dtype=dtype,
        storage=record,
        offset=int(value.storage_offset()) * ITEM_BYTES[dtype],
    )
    return _outside(tensor) or tensor


def _outside(tensor: SourceTensor) -> str:
    if any(size < 0 for size in tensor.shape) or any(stride < 0 for stride in tensor.stride) or tensor.offset < 0:
        return "has a negative size, stride or offset"
    if tensor.offset + tensor.span > tensor.storage.size:
        return f"reaches beyond its storage of {tensor.storage.size} bytes"
    if tensor.nbytes > tensor.storage.size:
        return f"repeats {tensor.storage.size} bytes to {tensor.nbytes}"
    return ""
