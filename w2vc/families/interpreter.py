"""Applies a family's tables to a checkpoint: which family it is, what its keys say, what its tensors are called.

Nothing here knows a family, a key or a tensor by name, but for the sections in which fairseq keeps its configs
(``fairseq/dataclass/configs.py``) and the prefix of fine-tuned encoders (``fairseq/models/wav2vec/wav2vec2_asr.py``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from w2vc.errors import InconsistentError, UnsupportedModelError, UsageError
from w2vc.families import FAMILIES
from w2vc.families.cfg import Cfg, short
from w2vc.families.family import Evidence, Facts, Family, Head, Key, Name, Part, Refusal, Target, Tensors, spelled_out
from w2vc.families.strangers import stranger_at_once, stranger_in_the_end
from w2vc.reading.checkpoint import Checkpoint
from w2vc.reading.domains import anything

FINE_TUNED_PREFIX = "w2v_encoder.w2v_model."
FINE_TUNED = "w2v_encoder."
_INNER_SECTION = "model.w2v_args.model"
# Of FairseqDataclass, and of the sections that older versions merged into one another.
_KEYS_OF_EVERY_CONFIG = {"_name", "normalize", "data", "tpu"}
_TASK_OF_AUDIO = ("normalize", "sample_rate")
_CONTRADICTION = "The checkpoint contradicts itself: was it edited, or saved by a fork of fairseq?"
_OTHER_PRETRAINED = "Give the checkpoint that the model was fine-tuned from with --pretrained."
_OTHER_ENCODER = "Give the checkpoint that the encoder was made from with --pretrained."


@dataclass(frozen=True)
class KeyReport:
    """What became of one key of a checkpoint's cfg.

    Attributes:
        path: of the key.
        value: that the model was built with.
        treatment: what w2vc does with it.
        why: the reason, where there is one.
    """

    path: str
    value: object
    treatment: str
    why: str


@dataclass(frozen=True)
class Description:
    """What a model is, in the words of fairseq and of transformers.

    Attributes:
        family: whose tables were applied.
        target: the kind of transformers model that computes the same.
        own_head: the head that the checkpoint has.
        further_heads: others that it can be written with when asked to.
        facts: what is known of the model.
        fields: of transformers' config, those of every head.
        keys: what became of each key of the cfg.
        notes: what a reader should know: where cfg and tensors disagree, what is not carried over.
        refusals: what transformers can't express.
    """

    family: Family
    target: Target
    own_head: Head
    further_heads: tuple[Head, ...]
    facts: Facts
    fields: Mapping[str, object]
    keys: tuple[KeyReport, ...]
    notes: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    @property
    def vocabulary(self) -> int | None:
        """Rows of the CTC head, None without one."""
        found: int | None = self.facts["vocabulary"]
        return found

    @property
    def labels(self) -> str | None:
        """The training task's word for its labels: ``ltr``, ``phn``."""
        return self.facts["task.labels"] or None

    @property
    def normalize(self) -> bool:
        """Whether the audio is normalized to zero mean and unit variance."""
        return bool(self.facts["task.normalize"])

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return int(self.facts["task.sample_rate"])

    def refusals_for(self, head: Head) -> tuple[Refusal, ...]:
        """The refusals that concern a conversion with this head."""
        return tuple(refusal for refusal in self.refusals if head in refusal.heads)

    def config(self, head: Head, dtype: str) -> dict[str, object]:
        """The contents of ``config.json`` with this head and weights of this dtype."""
        others = self.target.lacks.union(*(names for kind, names in self.target.head_fields.items() if kind != head))
        return {
            **{key: value for key, value in self.fields.items() if key not in others},
            "architectures": [self.target.classes[head]],
            "model_type": self.target.model_type,
            # Understood by every version; the newer "dtype" only by new ones.
            "torch_dtype": dtype,
        }


def describe(checkpoint: Checkpoint, *, strict: str = "") -> Description:
    """Find out what the model is.

    Args:
        checkpoint: the file.
        strict: what to do where the cfg says otherwise than the tensors, if that is a problem; else it is a note.

    Raises:
        UnsupportedModelError: it is of no family.
        InconsistentError: cfg and tensors, or the tensors among themselves, don't fit; all problems are listed.
    """
    cfg = Cfg(checkpoint.cfg)
    evidence = _evidence(checkpoint, cfg)
    return _Reading(_recognised(checkpoint, evidence), evidence, cfg, strict=strict).description()


def _evidence(checkpoint: Checkpoint, cfg: Cfg) -> Evidence:
    return Evidence(
        tensors=Tensors({encoder_name(name): tensor for name, tensor in checkpoint.tensors.items()}),
        model=_name(cfg, "model"),
        inner=_name(cfg, _INNER_SECTION),
        fine_tuned=_is_fine_tuned(checkpoint),
    )


def _is_fine_tuned(checkpoint: Checkpoint) -> bool:
    return any(name.startswith(FINE_TUNED) for name in checkpoint.tensors)


def describe_with(checkpoint: Checkpoint, pretrained: Checkpoint) -> tuple[Checkpoint, Description]:
    """Find out what a model is whose architecture is in another checkpoint alone.

    Of a fine-tuned one, that is the pretrained checkpoint: where ``w2v_args`` is None, ``Wav2VecEncoder.__init__`` and
    ``HubertEncoder.__init__`` load the checkpoint at ``w2v_path`` and take its cfg. Of an encoder that others built
    upon, it is any checkpoint with the same one.

    Returns:
        The checkpoint with the other's cfg at that place, and what the model is.

    Raises:
        UsageError: the checkpoint carries its architecture.
        RefusedError: as ``describe``; or the two don't belong together.
    """
    if carries_architecture(checkpoint):
        raise UsageError(
            f"--pretrained is given, but {checkpoint.path} carries its architecture itself.",
            advice="Leave --pretrained out.",
        )
    found, is_tuned = describe(pretrained), _is_fine_tuned(pretrained)
    is_others = not checkpoint.cfg
    whole = replace(
        checkpoint, cfg=_cfg_of_encoder(checkpoint, pretrained) if is_others else _cfg_with(checkpoint, pretrained)
    )
    family = _recognised(whole, _evidence(whole, Cfg(whole.cfg)))
    advice = _OTHER_ENCODER if is_others else _OTHER_PRETRAINED
    if found.family is not family or (is_tuned and not is_others):
        made = "has the encoder of" if is_others else "was fine-tuned from a pretrained"
        raise InconsistentError(
            f"{pretrained.path} is a {'fine-tuned' if is_tuned else 'pretrained'} {found.family.name}, and "
            f"{checkpoint.path} {made} {family.name}.",
            advice=advice,
        )
    return whole, describe(whole, strict=advice)


def carries_architecture(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint's own cfg says what the model is."""
    if not _is_fine_tuned(checkpoint):
        return checkpoint.is_fairseqs or bool(checkpoint.cfg)
    return bool(_section(_section(_section(checkpoint.cfg, "model"), "w2v_args"), "model"))


def _cfg_with(checkpoint: Checkpoint, pretrained: Checkpoint) -> Mapping[str, object]:
    """Return a fine-tuned checkpoint's cfg with the pretrained one's in its place."""
    return {**checkpoint.cfg, "model": {**_section(checkpoint.cfg, "model"), "w2v_args": pretrained.cfg}}


def _cfg_of_encoder(checkpoint: Checkpoint, other: Checkpoint) -> Mapping[str, object]:
    """Return the cfg of an encoder that has none itself: the other's, as far as both are fine-tuned or pretrained.

    Else it is in the other's ``w2v_args``, or becomes those of a fine-tuned model of which nothing else is known.
    """
    is_fine_tuned, is_other = _is_fine_tuned(checkpoint), _is_fine_tuned(other)
    if is_fine_tuned == is_other:
        return other.cfg
    task = {key: value for key, value in _section(other.cfg, "task").items() if key in _TASK_OF_AUDIO}
    inner = {"model": {"w2v_args": other.cfg}} if is_fine_tuned else _section(_section(other.cfg, "model"), "w2v_args")
    return {**inner, "task": task}


def _section(cfg: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = cfg.get(name)
    return found if isinstance(found, Mapping) else {}


def _name(cfg: Cfg, section: str) -> str | None:
    found = cfg.value(f"{section}._name")
    return found if isinstance(found, str) else None


def encoder_name(source: str) -> str:
    """Return fairseq's name without the prefix that fine-tuning puts before the encoder's tensors."""
    return source.removeprefix(FINE_TUNED_PREFIX)


# ---------------------------------------------------------------------------------------------------------------
# Which family


def _recognised(checkpoint: Checkpoint, evidence: Evidence) -> Family:
    stranger = stranger_at_once(evidence)
    if stranger is not None:
        raise _unsupported(*stranger)
    if checkpoint.is_shard:
        raise UnsupportedModelError(
            "the checkpoint is one shard of a model (shard_metadata is there)",
            advice="Merge the shards with fairseq's consolidate_fsdp_shards.py first.",
        )
    family = next((family for family in FAMILIES if family.recognises(evidence)), None)
    if family is None:
        unknown = f"this is none of the models that w2vc knows (cfg.model._name is {short(evidence.model)})"
        raise _unsupported(*(stranger_in_the_end(evidence) or (unknown, "")))
    return family


def _unsupported(problem: str, advice: str) -> UnsupportedModelError:
    converted = f"w2vc converts these: {', '.join(family.name for family in FAMILIES)}."
    return UnsupportedModelError(problem, advice=advice or converted)


# ---------------------------------------------------------------------------------------------------------------
# What the keys say


class _Reading:
    """One checkpoint's keys, read by a family's rows; gathers every problem and note on the way."""

    def __init__(self, family: Family, evidence: Evidence, cfg: Cfg, *, strict: str) -> None:
        self.family = family
        self.strict = strict
        self.evidence = evidence
        self.cfg = cfg
        self.section = _INNER_SECTION if evidence.fine_tuned else "model"
        self.outer = family.keys.fine_tuned if evidence.fine_tuned else family.keys.pretrained
        self.facts: dict[str, Any] = {"fine_tuned": evidence.fine_tuned, "section": self.section}
        self.fields: dict[str, object] = {}
        self.reports: list[KeyReport] = []
        self.notes: list[str] = []
        self.refusals: list[Refusal] = []
        self.problems: list[str] = []

    def description(self) -> Description:
        if self.evidence.fine_tuned and not self.cfg.keys(_INNER_SECTION):
            raise _without_architecture(self.cfg.value("model.w2v_path"))
        self._read_rows()
        self.facts |= {name: measure(self.evidence.tensors) for name, measure in self.family.measures.items()}
        self._check()
        self._note_unknown_keys()
        target = self.family.target(self.facts)
        return Description(
            family=self.family,
            target=target,
            own_head="ctc" if self.evidence.fine_tuned else self.family.pretrained_head,
            further_heads=self.family.further_heads(self.facts),
            facts=self.facts,
            fields={**target.constants, **self.fields, **self.family.derived(self.facts)},
            keys=tuple(self.reports),
            notes=(*self.notes, *self.family.notes(self.facts)),
            refusals=(*self.refusals, *self.family.refusals(self.facts)),
        )

    def _read_rows(self) -> None:
        overridden = {field for row in self.outer for field in row.to}
        for row in self.family.keys.architecture:
            if row.to and overridden.issuperset(row.to):
                path = f"{self.section}.{row.name}"
                self.reports.append(KeyReport(path, self.cfg.value(path), "no field", "fine-tuning has its own value"))
            else:
                self._read(row, f"{self.section}.{row.name}")
        for row in self.outer:
            self._read(row, row.name)

    def _read(self, row: Key, path: str) -> None:
        stored = self.cfg.value(path)
        default = None if row.default is None else row.domain.accept(row.default)
        # What has no effect may be whatever it is.
        said = stored if row.domain is anything else self.cfg.take(path, row.domain, default)
        measured = None if row.tensors is None else row.tensors(self.evidence.tensors)
        value = said if measured is None else measured
        self.facts[row.name] = value
        self.fields |= _fields(row, value)
        self._compare(row, path, stored, said, measured)
        if row.only and value not in row.only:
            self.refusals.append(Refusal(f"cfg.{path} is {spelled_out(value)}", row.why, row.heads))
        if row.noted and stored is not None and stored != row.default:
            self.notes.append(f"cfg.{path} is {short(stored)}: not carried over ({row.why})")
        self.reports.append(KeyReport(path, value, row.treatment, row.why))

    def _compare(self, row: Key, path: str, stored: object, said: Any, measured: Any) -> None:
        if measured is None or stored is None or said == measured:
            return
        if row.silent_below is not None and said < row.silent_below:
            return
        found = f"cfg.{path} is {short(stored)}, the tensors say {measured}"
        (self.problems if self.strict else self.notes).append(found)

    def _check(self) -> None:
        problems = [*self.problems, *self.evidence.tensors.problems, *self.cfg.problems]
        # Sizes that are missing or outside their domain make every further check fail, too.
        problems += [] if problems else [problem for check in self.family.checks for problem in check(self.facts)]
        if problems:
            raise InconsistentError(problems, advice=self.strict or _CONTRADICTION)

    def _note_unknown_keys(self) -> None:
        known = {row.name for row in self.family.keys.architecture}
        sections = {self.section: known}
        if self.evidence.fine_tuned:
            sections = {"model": {row.name.removeprefix("model.") for row in self.outer}, **sections}
        for section, names in sections.items():
            keys = self.cfg.keys(section)
            unknown = sorted(set(keys) - names - _KEYS_OF_EVERY_CONFIG)
            # An argparse namespace holds the keys of every config of fairseq at once.
            if unknown and "arch" not in keys:
                self.notes.append(f"cfg.{section} has keys that fairseq 0.12.2 doesn't: {', '.join(unknown)}")


def _without_architecture(path: object) -> InconsistentError:
    name = re.split(r"[/\\\\]", path)[-1] if isinstance(path, str) else ""
    where = f" {short(name)}" if name else ""
    return InconsistentError(
        "This fine-tuned model doesn't carry its architecture (cfg.model.w2v_args is empty): it is in the pretrained "
        f"checkpoint{where} that it was fine-tuned from.",
        advice="Give that checkpoint with --pretrained CHECKPOINT.",
    )


def _fields(row: Key, value: Any) -> dict[str, object]:
    if row.into is not None:
        return dict(row.into(value))
    return dict.fromkeys(row.to, row.spelled.get(value, value)) if row.to else {}


# ---------------------------------------------------------------------------------------------------------------
# What the tensors are called


@dataclass(frozen=True)
class Named:
    """What a fairseq tensor is called in transformers.

    Attributes:
        part: the part of the model it belongs to.
        target: its full name there, or None.
        reason: why there is none.
        unless_there: why it is dropped where the target has no such tensor; empty where that is a problem.
        by_language: its first axis counts languages, and the target's doesn't.
    """

    part: Part
    target: str | None
    reason: str
    unless_there: str
    by_language: bool = False


_NUMBERED = ("layer", "conv", "block")


def pattern(name: str) -> re.Pattern[str]:
    """Compile a table's name, in which ``{x}`` matches one dot-free part, and ``{rest}`` any number."""
    escaped = re.escape(name).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(
        re.sub(r"{(\w+)}", lambda found: f"(?P<{found[1]}>{_number_or_word(found[1])})", escaped), re.ASCII
    )


def _number_or_word(placeholder: str) -> str:
    # A leading zero would let two names become one.
    if placeholder == "rest":
        return ".+"
    return r"0|[1-9]\d{0,4}" if placeholder in _NUMBERED else r"[a-z_]\w*"


class NameTable:
    """A table of names, compiled."""

    def __init__(self, rows: Iterable[Name]) -> None:
        self._rows = tuple((row, pattern(row.source)) for row in rows)

    def rows(self, source: str) -> Iterator[tuple[Name, re.Match[str]]]:
        """Give the rows that name this tensor (fairseq's name, without the prefix of fine-tuning)."""
        for row, compiled in self._rows:
            match = compiled.fullmatch(source)
            if match is not None:
                yield row, match

    def named(self, source: str, prefix: str) -> Named | None:
        """Return what transformers calls a fairseq tensor, or None if the table doesn't know it.

        Args:
            source: fairseq's full name.
            prefix: what transformers puts before the encoder's names.
        """
        row, match = next(self.rows(encoder_name(source)), (None, None))
        if row is None or match is None:
            return None
        if row.target is None:
            return Named(row.part, None, row.reason, "")
        before = prefix if row.part == "encoder" else ""
        parts = {key: str(int(part) + row.shift) if key == "layer" else part for key, part in match.groupdict().items()}
        return Named(row.part, before + row.target.format(**parts), "", row.unless_there, row.by_language)


@functools.cache
def name_table(rows: tuple[Name, ...]) -> NameTable:
    """Compile a table of names, each table once."""
    return NameTable(rows)
