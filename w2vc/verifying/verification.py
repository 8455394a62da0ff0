"""What verification found: the values that its parts give, and the report made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2vc.errors import DifferenceError

# Of each part's differences; the rest is counted.
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One difference.

    Attributes:
        part: which comparison found it: ``source``, ``tensors``, ``files``, ``loading``, ``outputs`` or
            ``vocabulary``.
        where: the tensor, file and key, stage or symbol.
        expected, found: both sides, in words.
    """

    part: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.part}: {self.where}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Stage:
    """How far two computations of one stage of the forward are apart.

    Attributes:
        name: of the stage; a module's name where it is that module's output.
        error: the largest norm(found - expected) / norm(expected) of all passes; infinite for another shape.
        bound: the largest error that counts as the same.
    """

    name: str
    error: float
    bound: float

    @property
    def same(self) -> bool:
        """Whether the error is within the bound; NaN never is."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Transcript:
    """The greedy transcript of one clip.

    Attributes:
        expected: of the reference's logits, by fairseq's dictionary.
        found: of transformers' logits, by the output's tokenizer.
    """

    expected: str
    found: str


@dataclass(frozen=True)
class Verification:
    """An output held against its checkpoint.

    Attributes:
        checkpoint, output: the file and the directory.
        fingerprint: of the checkpoint.
        model_class: transformers' class of the output.
        dtype: of its weights.
        rounded: whether they lost bits that fairseq computes with.
        tensors, tensor_bytes: how many were compared.
        findings: the differences.
        input_values: what the feature extractor makes of the audio; None where it can't be loaded.
        stages: of the model's forward, in its order; empty where it can't be loaded.
        symbols: how many were compared, 0 without a vocabulary.
        transcripts: one a clip, empty without a CTC head.
        audio: what the models were fed with.
        notes: what a reader should know.
        seconds: wall time.
    """

    checkpoint: Path
    output: Path
    fingerprint: str
    model_class: str
    dtype: str
    rounded: bool
    tensors: int
    tensor_bytes: int
    findings: tuple[Finding, ...]
    input_values: Stage | None
    stages: tuple[Stage, ...]
    symbols: int
    transcripts: tuple[Transcript, ...]
    audio: str
    notes: tuple[str, ...]
    seconds: float

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    @property
    def differs_from(self) -> str | None:
        """The first stage of the forward that is beyond its bound."""
        return next((stage.name for stage in self.stages if not stage.same), None)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        return self._same() if self.same else self._different()

    def _same(self) -> str:
        worst = max(self.stages, key=lambda stage: stage.error)
        rounded = f" (weights rounded to {self.dtype})" if self.rounded else ""
        symbols = f", {self.symbols} symbols" if self.symbols else ""
        return (
            f"the same: {self.tensors} tensors{rounded}, {len(self.stages)} stages of the forward "
            f"(largest relative error {worst.error:.1e}){symbols}"
        )

    def _different(self) -> str:
        first = self.findings[0]
        if first.part == "source":
            return f"DIFFERENT: {first.where} was {first.found}"
        parts = [f"DIFFERENT: {_counted(self.findings)}, first in {first.part}: {first.where}"]
        if self.differs_from is not None:
            parts.append(f"outputs differ from {self.differs_from} on")
        elif self.stages:
            parts.append("no output shows it" if all(stage.same for stage in self.stages) else "outputs differ")
        return "; ".join(parts)

    def raise_if_different(self) -> None:
        """Raise if anything differs; the differences themselves are in ``findings``.

        Raises:
            DifferenceError: with how many there are of each part.
        """
        if self.same:
            return
        if self.findings[0].part == "source":
            raise DifferenceError(
                f"{self.output} was made from another checkpoint than {self.checkpoint}.",
                advice="Give the checkpoint that it was made from, or the directory that was made from this one.",
            )
        raise DifferenceError(
            f"{self.output} isn't what {self.checkpoint} converts to: {_counted(self.findings)}.",
            advice="Don't use it: convert the checkpoint again, with --force.",
        )

    def values(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "checkpoint": str(self.checkpoint),
            "fingerprint": self.fingerprint,
            "output": str(self.output),
            "same": self.same,
            "verdict": self.verdict,
            "model_class": self.model_class,
            "dtype": self.dtype,
            "exact": self.same and not self.rounded,
            "tensors": self.tensors,
            "tensor_bytes": self.tensor_bytes,
            "findings": [
                {"part": item.part, "where": item.where, "expected": item.expected, "found": item.found}
                for item in self.findings
            ],
            "input_values": None if self.input_values is None else _stage_values(self.input_values),
            "stages": [_stage_values(stage) for stage in self.stages],
            "differs_from": self.differs_from,
            "symbols": self.symbols,
            "transcripts": [{"expected": item.expected, "found": item.found} for item in self.transcripts],
            "audio": self.audio,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what people read: pairs of a heading and a text."""
        yield "Verdict", self.verdict
        if self.findings and self.findings[0].part == "source":
            return
        for text in _grouped(self.findings):
            yield "Different", text
        yield "Tensors", f"{self.tensors} compared, {self.tensor_bytes:,} bytes"
        yield "Audio", self.audio
        if self.stages:
            yield "Stages", f"{'':<{_NAME_WIDTH}}{'error':>9}{'bound':>9}"
        for stage in self.stages:
            yield "", f"{stage.name:<{_NAME_WIDTH}}{stage.error:9.1e}{stage.bound:9.1e}  {_MARKS[stage.same]}"
        for transcript in self.transcripts:
            difference = "" if transcript.found == transcript.expected else f", transformers: {transcript.found!r}"
            yield "Transcript", f"{transcript.expected!r}{difference}"
        for note in self.notes:
            yield "Note", note
        yield "Took", f"{self.seconds:.1f} s"


_NAME_WIDTH = 28
_MARKS = {True: "✓", False: "✗ different"}


def _counted(findings: tuple[Finding, ...]) -> str:
    """Return how many differences there are, and of which parts: ``3 differences (2 tensors, 1 outputs)``."""
    count = len(findings)
    parts = Counter(finding.part for finding in findings)
    listed = ", ".join(f"{number} in {part}" for part, number in parts.items())
    return f"{count} difference{'s' if count > 1 else ''} ({listed})"


def _grouped(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Yield the differences part by part, a few of each, without those that say again what another one said."""
    tensors = {finding.where for finding in findings if finding.part == "tensors"}
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.part != "loading" or not tensors.issuperset(finding.found.split(", ")):
            groups.setdefault(finding.part, []).append(finding)
    for part, group in groups.items():
        yield from map(str, group[:_MOST_SHOWN])
        if len(group) > _MOST_SHOWN:
            yield f"{part}: and {len(group) - _MOST_SHOWN} more (--json lists all)"


def _stage_values(stage: Stage) -> dict[str, object]:
    # JSON has neither infinity nor NaN.
    error = stage.error if math.isfinite(stage.error) else None
    return {"name": stage.name, "relative_error": error, "bound": stage.bound, "same": stage.same}
