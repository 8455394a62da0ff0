"""What happened, for people and as JSON. Values only; printing is the command line's.

Each report has ``lines()`` for people and ``values()`` for ``--json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2vc.families.cfg import short
from w2vc.families.conv_feature_layers import ConvLayer
from w2vc.families.family import Head
from w2vc.families.interpreter import Description
from w2vc.planning.plan import Plan
from w2vc.reading.checkpoint import Checkpoint
from w2vc.reading.dictionary import Dictionary
from w2vc.writing.writer import Written


@dataclass(frozen=True)
class Refused:
    """Why a checkpoint doesn't convert with a head: the problems and the advice of the error that it raises."""

    kind: str
    problems: tuple[str, ...]
    advice: str


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, and whether and to what it converts.

    Attributes:
        checkpoint, description, dictionary: what was found.
        head: the head that a conversion would write.
        plan: the conversion, where there is one.
        refused: why there is none.
        with_tensors: list every tensor, too.
        with_keys: list every key of the cfg, too.
        languages: that the model may be loaded with; none where there is nothing to choose.
    """

    checkpoint: Checkpoint
    description: Description
    dictionary: Dictionary | None
    head: Head
    plan: Plan | None
    refused: Refused | None
    with_tensors: bool = False
    languages: tuple[str, ...] = ()
    with_keys: bool = False

    def values(self) -> dict[str, object]:
        """For ``--json``."""
        checkpoint, description, plan = self.checkpoint, self.description, self.plan
        facts = description.facts
        progress = checkpoint.progress
        values: dict[str, object] = {
            "checkpoint": str(checkpoint.path),
            "fingerprint": checkpoint.archive.fingerprint,
            "form": checkpoint.form,
            "prefix": checkpoint.prefix,
            "outside": len(checkpoint.outside),
            "file_bytes": checkpoint.archive.size,
            "container": checkpoint.archive.container,
            "cfg": checkpoint.cfg_form,
            "model": checkpoint.model_name,
            "family": description.family.name,
            "head": description.own_head,
            **description.family.traits(facts),
            "parameters": parameters(checkpoint),
            "model_bytes": model_bytes(checkpoint),
            "other_bytes": checkpoint.optimizer_bytes,
            "has_ema": checkpoint.has_ema,
            "layers": facts["encoder_layers"],
            "hidden_size": facts["encoder_embed_dim"],
            "intermediate_size": facts["encoder_ffn_embed_dim"],
            "attention_heads": facts["encoder_attention_heads"],
            "conv_layers": [[layer.dim, layer.kernel, layer.stride] for layer in facts["conv_feature_layers"]],
            "extractor_norm": description.fields["feat_extract_norm"],
            "normalize": description.normalize,
            "sample_rate": description.sample_rate,
            "vocabulary": description.vocabulary,
            "dictionary": None if self.dictionary is None else self.dictionary.origin,
            "symbols": None if self.dictionary is None else list(self.dictionary.symbols),
            "languages": list(self.languages),
            "updates": progress.updates,
            "epoch": progress.epoch,
            "best": progress.best,
            "best_metric": progress.metric,
            "notes": list(plan.notes if plan is not None else description.notes),
            "converts": plan is not None,
            "converts_to": None if plan is None else plan.model_class,
            "refused": None if self.refused is None else _refused_values(self.refused),
        }
        if self.with_tensors:
            values["tensors"] = [
                {"name": name, "shape": list(shape), "dtype": dtype, "becomes": becomes}
                for name, shape, dtype, becomes in self._tensors()
            ]
        if self.with_keys:
            values["keys"] = [
                {"path": key.path, "value": plain(key.value), "becomes": key.treatment, "why": key.why}
                for key in self.description.keys
            ]
        return values

    def lines(self) -> Iterator[tuple[str, str]]:
        """For people: pairs of a heading and a text."""
        checkpoint, description = self.checkpoint, self.description
        facts = description.facts
        yield "Model", f"{description.family.name}, {_state(checkpoint, description)}"
        yield "Size", f"{parameters(checkpoint):,} parameters, {_megabytes(model_bytes(checkpoint))}" + self._rest()
        yield (
            "Encoder",
            (
                f"{facts['encoder_layers']} layers, {facts['encoder_embed_dim']} wide, "
                f"{facts['encoder_attention_heads']} heads, FFN {facts['encoder_ffn_embed_dim']}, "
                f"{description.family.encoder_summary(facts)}"
            ),
        )
        yield (
            "Features",
            (
                f"{_conv_text(description)}, {description.fields['feat_extract_norm']} norm, "
                f"{description.sample_rate:,} Hz, {'normalised' if description.normalize else 'raw'} audio"
            ),
        )
        if facts.get("quantize_targets") and facts["latent_dim"] > 0:
            yield (
                "Quantiser",
                (
                    f"{facts['latent_groups']} codebooks of {facts['latent_vars']}, {facts['latent_dim']} wide, "
                    f"projected to {facts['final_dim']}"
                ),
            )
        if description.vocabulary is not None:
            yield "Dictionary", self._dictionary_text()
        if self.languages:
            yield "Languages", f"{len(self.languages)}: {_first(self.languages)}"
        yield "Training", _training_text(checkpoint)
        yield (
            "File",
            (
                f"{checkpoint.archive.container}, cfg as {checkpoint.cfg_form}, fingerprint "
                f"{checkpoint.archive.fingerprint[:16]}"
            ),
        )
        for note in self.plan.notes if self.plan is not None else description.notes:
            yield "Note", note
        yield "Converts", self._verdict()
        if self.with_tensors:
            for name, shape, dtype, becomes in self._tensors():
                yield "Tensor", f"{name} {list(shape)} {dtype} -> {becomes}"
        if self.with_keys:
            for key in self.description.keys:
                why = f" ({key.why})" if key.why else ""
                yield "Key", f"{key.path} = {short(plain(key.value))} -> {key.treatment}{why}"

    def _rest(self) -> str:
        rest = self.checkpoint.optimizer_bytes
        ema = ", EMA weights too" if self.checkpoint.has_ema else ""
        return (f"; {_megabytes(rest)} of other state" if rest > 2**12 else "; no optimizer state") + ema

    def _dictionary_text(self) -> str:
        if self.dictionary is None:
            return f"none found; the head has {self.description.vocabulary} rows"
        symbols = " ".join(self.dictionary.symbols[4:16])
        more = " ..." if len(self.dictionary) > 16 else ""
        return f"{len(self.dictionary)} symbols: {symbols}{more} ({_origin(self.dictionary, self.checkpoint)})"

    def _verdict(self) -> str:
        if self.plan is not None:
            return f"exactly, to {self.plan.model_class}"
        if self.refused is None:
            return "unknown"
        return f"not: {'; '.join(self.refused.problems)}. {self.refused.advice}"

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...], str, str]]:
        becomes: dict[str, str] = {}
        for move in self.plan.moves if self.plan is not None else ():
            becomes |= dict.fromkeys((source.name_in_file for source in (move.source, *move.equals)), move.target)
        for drop in self.plan.drops if self.plan is not None else ():
            becomes[drop.source.name_in_file] = f"dropped: {drop.reason}"
        for tensor in (*self.checkpoint.tensors.values(), *self.checkpoint.outside):
            yield tensor.name_in_file, tensor.shape, tensor.dtype, becomes.get(tensor.name_in_file, "-")
        for make in self.plan.makes if self.plan is not None else ():
            yield f"({make.content})", make.shape, make.dtype, f"{make.target}: {make.reason}"


@dataclass(frozen=True)
class Conversion:
    """A conversion that was done, or with ``written`` None only planned (``--dry-run``).

    Attributes:
        checkpoint: the file.
        fingerprint: identifies its contents (see ``archive.py``).
        output: the directory.
        plan: what was, or would be, written.
        dictionary: where the dictionary was found, where there is one.
        written: what the writer did.
        seconds: wall time.
    """

    checkpoint: Path
    fingerprint: str
    output: Path
    plan: Plan
    dictionary: str | None
    written: Written | None
    seconds: float

    def values(self) -> dict[str, object]:
        """For ``--json``."""
        plan, written = self.plan, self.written
        return {
            "checkpoint": str(self.checkpoint),
            "fingerprint": self.fingerprint,
            "output": str(self.output),
            "written": written is not None,
            "model_class": plan.model_class,
            "dtype": plan.dtype,
            "exact": plan.is_exact,
            "dictionary": self.dictionary,
            "language": plan.language,
            "languages": list(plan.languages),
            "moved": len(plan.moves),
            "made": {make.target: make.reason for make in plan.makes},
            "dropped": {drop.source.name_in_file: drop.reason for drop in plan.drops},
            "notes": list(plan.notes),
            "not_finite": {} if written is None else dict(written.not_finite),
            "bytes": None if written is None else written.bytes_written,
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """For people: pairs of a heading and a text."""
        plan, written = self.plan, self.written
        exact = "exact" if plan.is_exact else f"weights rounded to {plan.dtype}"
        what = "would become" if written is None else "->"
        yield (
            "Converted" if written is not None else "Plan",
            (f"{self.checkpoint} {what} {self.output} ({plan.model_class}, {exact})"),
        )
        yield (
            "Tensors",
            (
                f"{len(plan.moves)} moved, {len(plan.makes)} made, {len(plan.drops)} dropped"
                + ("" if written is None else f"; {_megabytes(written.bytes_written)} in {self.seconds:.1f} s")
            ),
        )
        if plan.adapters:
            yield "Languages", f"{plan.language} is loaded; a file for each of {_first(plan.languages)}"
        if self.dictionary is not None:
            yield "Dictionary", f"{len(plan.vocabulary.tokens) if plan.vocabulary else 0} symbols, {self.dictionary}"
        for make in plan.makes:
            if "num_batches_tracked" not in make.target:
                yield "Made", f"{make.target} ({make.content}): {make.reason}"
        for reason, count in _counted(drop.reason for drop in plan.drops).items():
            yield "Dropped", f"{count} tensors: {reason}"
        for note in plan.notes:
            yield "Note", note
        if written is not None:
            for name, count in written.not_finite.items():
                yield "Note", f"{name} has {count} values that are NaN or infinite"
            if not written.checksums:
                yield "Note", "the file has no checksums: damage inside a tensor could not be noticed"


def plain(value: object) -> object:
    """Return a value of the cfg as JSON has it; the extractor's layers as lists of three sizes."""
    if isinstance(value, (list, tuple)):
        return [[item.dim, item.kernel, item.stride] if isinstance(item, ConvLayer) else plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def parameters(checkpoint: Checkpoint) -> int:
    """How many values the model's tensors have."""
    return sum(tensor.elements for tensor in checkpoint.tensors.values())


def model_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the model's tensors."""
    return sum(tensor.nbytes for tensor in checkpoint.tensors.values())


_STATE = {"ctc": "fine-tuned with CTC", "pretraining": "pretrained", "none": "pretrained"}


def _state(checkpoint: Checkpoint, description: Description) -> str:
    if not checkpoint.is_fairseqs:
        return f"the encoder in {checkpoint.form}"
    return f"{_STATE[description.own_head]} ({checkpoint.model_name})"


def _conv_text(description: Description) -> str:
    runs: list[tuple[int, tuple[int, int, int]]] = []
    for layer in description.facts["conv_feature_layers"]:
        sizes = (layer.dim, layer.kernel, layer.stride)
        if runs and runs[-1][1] == sizes:
            runs[-1] = (runs[-1][0] + 1, sizes)
        else:
            runs.append((1, sizes))
    return " + ".join(f"{count} x {sizes}" for count, sizes in runs)


def _first(names: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(names) - most} more (--json lists all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _training_text(checkpoint: Checkpoint) -> str:
    progress = checkpoint.progress
    parts = [
        f"{progress.updates:,} updates" if progress.updates is not None else "",
        f"epoch {progress.epoch}" if progress.epoch is not None else "",
        f"best {progress.metric or 'value'} {progress.best:g}" if progress.best is not None else "",
    ]
    return ", ".join(part for part in parts if part) or "the checkpoint doesn't say"


def _origin(dictionary: Dictionary, checkpoint: Checkpoint) -> str:
    return dictionary.origin.removeprefix(f"{checkpoint.path}: ")


def _refused_values(refused: Refused) -> dict[str, object]:
    return {"kind": refused.kind, "problems": list(refused.problems), "advice": refused.advice}


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _counted(reasons: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return counts
