"""What a family is: values and tables, and nothing that runs by itself. ``interpreter.py`` applies them.

A *source* is a kind of fairseq model: its names and its cfg. A *target* is a kind of transformers model: its classes,
fields and tensors. A ``Family`` is a source, and its ``target`` is chosen by what the model computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from w2vc.reading.checkpoint import SourceTensor
from w2vc.reading.domains import Domain, anything

Head = Literal["ctc", "pretraining", "projection", "none"]
"""What a converted model ends with; ``none`` is the encoder alone."""

EVERY_HEAD: tuple[Head, ...] = ("ctc", "pretraining", "projection", "none")

Facts = Mapping[str, Any]
"""What is known of one model: by cfg key (``encoder_layers``, ``model.blank_weight``, ``task.normalize``) the value
that the model was built with, tensors first; and what only tensors say under names that no key has."""

# ---------------------------------------------------------------------------------------------------------------
# Tensors of the source


class Tensors:
    """A model's tensors by fairseq's name without the prefix of fine-tuning; gathers problems on the way."""

    def __init__(self, by_name: Mapping[str, SourceTensor]) -> None:
        self._by_name = by_name
        self.problems: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return a tensor's sizes, None without such a tensor."""
        tensor = self._by_name.get(name)
        return None if tensor is None else tensor.shape

    def axis(self, name: str, axis: int) -> int:
        """Return one size; a tensor that is missing or has too few axes is a problem, and 1 is returned."""
        shape = self.shape(name)
        if shape is None:
            problem = f"the tensor {name} is missing"
        elif len(shape) <= axis or shape[axis] < 1:
            problem = f"the tensor {name} has the shape {list(shape)}, which it can't have"
        else:
            return shape[axis]
        if problem not in self.problems:
            self.problems.append(problem)
        return 1

    def numbers(self, pattern: str) -> set[int]:
        """Return the numbers that a pattern's first group finds at the beginning of names."""
        compiled = re.compile(pattern, re.ASCII)
        return {int(match[1]) for name in self._by_name if (match := compiled.match(name)) is not None}


Measure = Callable[[Tensors], Any]
"""A value that the tensors say; None where these tensors don't say it."""


def axis(name: str, index: int) -> Measure:
    """The measure that is one size of one tensor."""
    return lambda tensors: tensors.axis(name, index)


def axis_if_there(name: str, index: int) -> Measure:
    """The measure that is one size of one tensor, or nothing where there is no such tensor."""
    return lambda tensors: tensors.axis(name, index) if name in tensors else None


def has(name: str) -> Measure:
    """The measure whether there is such a tensor."""
    return lambda tensors: name in tensors


# ---------------------------------------------------------------------------------------------------------------
# Keys of the cfg


@dataclass(frozen=True)
class Key:
    """A key of fairseq's cfg, and everything that follows from it.

    Attributes:
        name: the key, as fairseq's dataclass spells it.
        default: fairseq's, taken where a checkpoint has no such key.
        domain: what it may be.
        to: the transformers fields that get its value.
        spelled: transformers' spelling of each of fairseq's values, where they differ; others are refused.
        into: transformers fields, where they are more than the value under another name.
        tensors: the same value from the tensors, which win where both speak.
        silent_below: values below this mean "as wide as another": they are not compared with the tensors.
        only: the values that can be expressed; all, where empty.
        heads: the heads that ``only`` concerns.
        why: why other values can't be expressed; or why no field gets the value.
        training: it acts in training alone.
        noted: a value other than the default is worth a note.
    """

    name: str
    default: Any
    domain: Domain
    to: tuple[str, ...] = ()
    spelled: Mapping[Any, Any] = field(default_factory=dict)
    into: Callable[[Any], Mapping[str, object]] | None = None
    tensors: Measure | None = None
    silent_below: int | None = None
    only: tuple[Any, ...] = ()
    heads: tuple[Head, ...] = EVERY_HEAD
    why: str = ""
    training: bool = False
    noted: bool = False

    @property
    def treatment(self) -> str:
        """What becomes of it, in a few words; for people."""
        if self.only:
            return f"must be {' or '.join(spelled_out(value) for value in self.only)}"
        if self.to or self.into is not None:
            fields = ", ".join(self.to) or "several fields"
            return f"{fields} (by the tensors)" if self.tensors is not None else fields
        return "acts in training alone" if self.training else "no field"


def spelled_out(value: object) -> str:
    """A cfg value as YAML spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def training(name: str, default: Any, why: str, *, noted: bool = False) -> Key:
    """The row of a key that acts in training alone and that transformers has no place for."""
    return Key(name, default, anything, why=why, training=True, noted=noted)


def unused(name: str, default: Any, why: str) -> Key:
    """The row of a key that has no effect on what the model computes."""
    return Key(name, default, anything, why=why)


def replaced(rows: Iterable[Key], *others: Key) -> tuple[Key, ...]:
    """A table with other rows for some keys, and further rows after it."""
    by_name = {row.name: row for row in rows} | {row.name: row for row in others}
    return tuple(by_name.values())


def below(section: str, rows: Iterable[Key]) -> tuple[Key, ...]:
    """The rows with a section of the cfg before their names."""
    return tuple(replace(row, name=f"{section}.{row.name}") for row in rows)


@dataclass(frozen=True)
class Keys:
    """The keys of a family's cfg.

    Attributes:
        architecture: below the model's own config: ``cfg.model``, or ``cfg.model.w2v_args.model`` of a fine-tuned one.
        pretrained: of a pretrained checkpoint's other sections, with the section in their names.
        fine_tuned: of a fine-tuned checkpoint's ``cfg.model`` and other sections, with the section in their names.
            What they give to a field counts, not what the architecture's rows would give to it.
    """

    architecture: tuple[Key, ...]
    pretrained: tuple[Key, ...]
    fine_tuned: tuple[Key, ...]


# ---------------------------------------------------------------------------------------------------------------
# Names


Part = Literal["encoder", "ctc", "pretraining", "projection"]


@dataclass(frozen=True)
class Name:
    """A row of the table of names. In both names ``{x}`` matches one dot-free part, the same on both sides, and
    ``{rest}`` any number of parts.

    Attributes:
        part: the part of the model that has this tensor; only a model with that part keeps it.
        source: fairseq's name, without the prefix of fine-tuning in all parts but the CTC head.
        target: transformers' name, without the model's prefix in the encoder part; None if dropped.
        reason: why it is dropped, where it is.
        unless_there: why it is dropped where the target has no such tensor; empty where that is a problem.
        shift: what is added to ``{layer}``.
        by_language: the source's first axis counts languages, of which the target has one, without that axis.
    """

    part: Part
    source: str
    target: str | None
    reason: str = ""
    unless_there: str = ""
    shift: int = 0
    by_language: bool = False


# ---------------------------------------------------------------------------------------------------------------
# The target


@dataclass(frozen=True)
class TargetTensor:
    """One tensor of the target model.

    Attributes:
        name: transformers' full name.
        shape: its sizes, outermost first.
        kind: ``weights`` follow the chosen dtype; ``float32`` and ``int64`` are fixed.
        from_several: fairseq has several of it, which have to be equal.
    """

    name: str
    shape: tuple[int, ...]
    kind: str = "weights"
    from_several: bool = False


Content = Literal["zeros", "ones", "identity", "constant"]


@dataclass(frozen=True)
class Filling:
    """The content of a target tensor that nothing in the checkpoint becomes.

    Attributes:
        target: its name without the model's prefix, where ``{x}`` matches one dot-free part.
        content: ``zeros``, ``ones``, the ``identity`` matrix, or the ``constant`` value.
        reason: why this content is exact.
        value: the constant.
    """

    target: str
    content: Content
    reason: str
    value: float = 0.0


@dataclass(frozen=True)
class FirstRow:
    """A change to row 0 of a tensor while it moves: ``value`` is added to it or put in its place."""

    mode: str
    value: float


@dataclass(frozen=True)
class Scale:
    """A change to a whole tensor while it moves: it is multiplied by ``factor`` in double precision."""

    factor: float


Edit = FirstRow | Scale


@dataclass(frozen=True)
class Target:
    """A kind of transformers model.

    Attributes:
        model_type: of its config.
        config_class: name of the class of its config.
        prefix: of the encoder's tensors in a model with a head.
        classes: the class for each head that there is one for.
        tensors: every tensor that transformers' model has for a config and a head, in the order in which it computes.
        constants: fields that every such model of fairseq's has.
        head_fields: fields that only a config with that head has.
        free: fields that ``--config`` may choose, with what they may be.
        repeatable: further fields that ``--config`` may repeat, with their value.
        lacks: fields that its config hasn't got.
        beyond: for a head, the tensors that are written for classes of others and that transformers' own hasn't got.
        exchanged: the tensors that a loaded model exchanges when it is given another language: their names without
            the model's prefix, where ``{x}`` matches one dot-free part.
    """

    model_type: str
    config_class: str
    prefix: str
    classes: Mapping[Head, str]
    tensors: Callable[[Mapping[str, Any], Head], Iterator[TargetTensor]]
    constants: Mapping[str, object]
    head_fields: Mapping[Head, frozenset[str]]
    free: Mapping[str, Domain]
    repeatable: Mapping[str, object]
    lacks: frozenset[str] = frozenset()
    beyond: Mapping[Head, tuple[str, ...]] = field(default_factory=dict)
    exchanged: tuple[str, ...] = ()

    def prefix_for(self, head: Head) -> str:
        """The prefix of the encoder's tensors: a model without a head of transformers' own has none."""
        return self.prefix if head in ("ctc", "pretraining") else ""


# ---------------------------------------------------------------------------------------------------------------
# Stages of the forward


@dataclass(frozen=True)
class Tap:
    """One stage of the forward, in both models.

    Attributes:
        stage: its name in the report; that of transformers' module where it is the module's output.
        reference: the attribute of ``ReferenceOutputs``, with an index after a dot where it has several:
            ``features``, ``hidden_states.0``.
        module: transformers' module, by its path from the base model.
        side: which of the module's sides shows it; of the output or the input, the first tensor.
    """

    stage: str
    reference: str
    module: str
    side: Literal["input", "output"] = "output"


QUANTIZED = "projected_quantized_states"
"""The stage that another entry of a codebook changes, which a rounding can decide."""


@dataclass(frozen=True)
class StageMap:
    """What is compared of a model's forward, and how.

    Attributes:
        taps: the stages within the base model, in the forward's order.
        heads: further stages: attributes of ``ReferenceOutputs`` that transformers' output has by the same name.
        scores: the module that scores a codebook's entries, by its path from the whole model; None without one.
        frame_mask: which frames of a padded batch are real. ``lengths``: both sides compute the same from the samples'
            mask. ``fairseq``: they don't, so transformers is given fairseq's.
    """

    taps: tuple[Tap, ...]
    heads: tuple[str, ...] = ()
    scores: str | None = None
    frame_mask: Literal["lengths", "fairseq"] = "lengths"


# ---------------------------------------------------------------------------------------------------------------
# The family


@dataclass(frozen=True)
class Refusal:
    """Something that transformers can't express.

    Attributes:
        key: the cfg key or tensor, and its value.
        reason: why there is no place for it.
        heads: the heads that it concerns; the others convert exactly.
    """

    key: str
    reason: str
    heads: tuple[Head, ...] = EVERY_HEAD


@dataclass(frozen=True)
class Evidence:
    """What tells the families apart.

    Attributes:
        tensors: the model's, without the prefix of fine-tuning.
        model: ``cfg.model._name``; None where the cfg doesn't say.
        inner: the name of the pretrained model inside a fine-tuned one.
        fine_tuned: whether the tensors are those of a fine-tuned model.
    """

    tensors: Tensors
    model: str | None
    inner: str | None
    fine_tuned: bool


@dataclass(frozen=True)
class Family:
    """A kind of fairseq model that has a class in transformers.

    Attributes:
        name: what people call it.
        recognises: whether a checkpoint is one of this family.
        pretrained_head: the head that a pretrained model has; ``none`` where transformers has no class for it.
        keys: of the cfg.
        measures: further facts that the tensors say, by name.
        checks: problems of cfg and tensors that no single key shows.
        refusals: what transformers can't express, and no single key shows.
        target: the kind of transformers model that computes the same.
        names: of the tensors, for a model with these facts.
        fillings: of target tensors that have no source.
        edits: changes to tensors on their way, by the target's name without the model's prefix.
        derived: fields of the config that follow from several facts; ``--config`` can't choose them.
        notes: what a reader should know of such a model.
        encoder_summary: what is special of the encoder, in a few words.
        card_summary: the same for the model card.
        traits: the same for programs.
        reference: fairseq's forward: ``(tensors, cfg, source, padding_mask)`` to ``ReferenceOutputs``.
        stages: which of transformers' modules shows what of that forward, in a model with this head.
        further_heads: heads that a model can be written with when asked to, besides its own and none.
        snippets: the model card's example for a head, where it isn't that of every family.
        card_notes: what a reader should know of such a model with this head.
        registered: the names under which the reference knows the pretrained and the fine-tuned model.
        languages: the names that the cfg has for the places of a first axis that counts languages, in their order.
    """

    name: str
    recognises: Callable[[Evidence], bool]
    pretrained_head: Head
    keys: Keys
    measures: Mapping[str, Measure]
    checks: tuple[Callable[[Facts], Iterable[str]], ...]
    refusals: Callable[[Facts], Iterable[Refusal]]
    target: Callable[[Facts], Target]
    names: Callable[[Facts], tuple[Name, ...]]
    fillings: Callable[[Facts], tuple[Filling, ...]]
    edits: Callable[[Facts], Mapping[str, Edit]]
    derived: Callable[[Facts], Mapping[str, object]]
    notes: Callable[[Facts], tuple[str, ...]]
    encoder_summary: Callable[[Facts], str]
    card_summary: Callable[[Facts], str]
    traits: Callable[[Facts], Mapping[str, object]]
    reference: Callable[..., Any]
    stages: Callable[[Facts, Head], StageMap]
    further_heads: Callable[[Facts], tuple[Head, ...]] = lambda _: ()
    snippets: Callable[[Facts], Mapping[Head, str]] = lambda _: {}
    card_notes: Callable[[Facts, Head], tuple[str, ...]] = lambda _facts, _head: ()
    registered: tuple[str, str] = ("wav2vec2", "wav2vec_ctc")
    languages: Callable[[Facts], tuple[str, ...]] = lambda _: ()
