"""The plan: where every tensor goes, made from names, shapes and dtypes alone.

Every source tensor is moved, or dropped with a reason; every target tensor is filled exactly once; or one error lists
every problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from w2vc.errors import DictionaryError, InconsistentError, UnsupportedModelError, UsageError, shown
from w2vc.families.family import EVERY_HEAD, Content, Edit, Filling, FirstRow, Head, Part, TargetTensor
from w2vc.families.interpreter import Description, name_table, pattern
from w2vc.planning.languages import Language, Languages
from w2vc.planning.overrides import overrides
from w2vc.planning.processor import (
    Vocabulary,
    can_be_nested,
    preprocessor_config,
    tokenizer_config,
    vocabulary,
)
from w2vc.planning.provenance import WEIGHTS
from w2vc.reading.checkpoint import ITEM_BYTES, Checkpoint, SourceTensor
from w2vc.reading.dictionary import Dictionary

Dtype = Literal["float32", "float16", "bfloat16", "keep"]

ENCODER_ALONE = "Use --head none to convert the encoder alone, which is exact."


@dataclass(frozen=True)
class Move:
    """A target tensor that is filled from a source tensor, cast where the dtypes differ.

    Attributes:
        target: transformers' name.
        shape: its sizes.
        dtype: in the output.
        source: where its bytes come from.
        equals: further source tensors whose bytes have to be the same.
        edit: a change on the way, where there is one.
    """

    target: str
    shape: tuple[int, ...]
    dtype: str
    source: SourceTensor
    equals: tuple[SourceTensor, ...] = ()
    edit: Edit | None = None

    @property
    def first_row(self) -> FirstRow | None:
        """The change to row 0, where there is one."""
        return self.edit if isinstance(self.edit, FirstRow) else None


@dataclass(frozen=True)
class Make:
    """A target tensor that fairseq's model has no counterpart for.

    Attributes:
        target, shape, dtype: as in ``Move``.
        content: ``zeros``, ``ones``, the ``identity`` matrix, or the ``constant`` value.
        reason: why this content is exact.
        value: the constant.
    """

    target: str
    shape: tuple[int, ...]
    dtype: str
    content: Content
    reason: str
    value: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Drop:
    """A source tensor that has no place in the target, and why."""

    source: SourceTensor
    reason: str


@dataclass(frozen=True)
class Plan:
    """Everything that the output directory will hold.

    Attributes:
        head: the head that is written.
        model_class: transformers' class.
        config_class: of its config.
        dtype: of the weights.
        tensors: one entry for each target tensor, in the order in which the model computes.
        drops: the source tensors that are left out.
        config, vocabulary: what the files below were made from.
        files: the small files, by name.
        notes: what a reader should know.
        beyond: the tensors that transformers' class hasn't got, and another that is made from it has.
        language: that the model is loaded with; None where it has none.
        languages: all that there are.
        adapters: the files with which a loaded model exchanges its language, by name.
    """

    head: Head
    model_class: str
    config_class: str
    dtype: str
    tensors: tuple[Move | Make, ...]
    drops: tuple[Drop, ...]
    config: Mapping[str, object]
    vocabulary: Vocabulary | None
    files: Mapping[str, bytes]
    notes: tuple[str, ...]
    beyond: tuple[str, ...] = ()
    language: str | None = None
    languages: tuple[str, ...] = ()
    adapters: Mapping[str, tuple[Move | Make, ...]] = field(default_factory=dict)

    @property
    def weights(self) -> Mapping[str, tuple[Move | Make, ...]]:
        """What each file of weights holds, by name."""
        return {WEIGHTS: self.tensors, **self.adapters}

    @property
    def moves(self) -> tuple[Move, ...]:
        """The tensors that are filled from the checkpoint."""
        return tuple(tensor for tensor in self.tensors if isinstance(tensor, Move))

    @property
    def is_exact(self) -> bool:
        """Whether no weight loses a bit that fairseq computes with: it makes float32 of whatever it loads."""
        return all(move.dtype in (move.source.dtype, "float32") for move in self.moves)

    @property
    def makes(self) -> tuple[Make, ...]:
        """The tensors that have no counterpart in the checkpoint."""
        return tuple(tensor for tensor in self.tensors if isinstance(tensor, Make))


def chosen_head(description: Description, wanted: str) -> Head:
    """Return the head that ``--head`` means for this model.

    Raises:
        UsageError: there is no such head, or the checkpoint hasn't got it.
    """
    own, classes = description.own_head, description.target.classes
    if wanted == "auto":
        return own if own in classes else "none"
    if wanted == "none":
        return "none"
    if wanted == own and own in classes:
        return own
    further = next((head for head in description.further_heads if head == wanted), None)
    if further is not None:
        return further
    if wanted == own:
        raise UsageError(
            f"--head is {wanted}, but transformers has no class with this head for a {description.target.model_type}",
            advice="Give --head none for the encoder alone.",
        )
    if wanted not in EVERY_HEAD:
        raise UsageError(f"--head is {wanted}", advice=f"Give auto, {', '.join(EVERY_HEAD[:-1])} or none.")
    there = list(dict.fromkeys(head for head in (own, *description.further_heads, "none") if head in classes))
    raise UsageError(
        f"--head is {wanted}, which this checkpoint hasn't got", advice=f"Give --head {' or --head '.join(there)}."
    )


def make_plan(
    checkpoint: Checkpoint,
    description: Description,
    dictionary: Dictionary | None,
    head: Head,
    dtype: Dtype,
    given: Mapping[str, object] | None = None,
    languages: Languages | None = None,
) -> Plan:
    """Decide what the output will hold.

    Args:
        checkpoint: names, shapes and dtypes, in one language; its bytes aren't looked at.
        description: what the model is.
        dictionary: for the CTC head.
        head: to convert with.
        dtype: of the weights in the output; ``keep`` means the checkpoint's own.
        given: values of ``--config`` (see ``overrides.py``).
        languages: of the model; None where it has none.

    Raises:
        UnsupportedModelError: transformers has no place for something.
        DictionaryError: the CTC head has no dictionary, or one of another size.
        InconsistentError: tensors are unknown, missing, of another shape, or claimed twice.
    """
    written = _written_dtype(checkpoint.tensors.values(), dtype)
    _refuse(description, head)
    config = description.config(head, written)
    config |= overrides(given or {}, config, description, "--config")
    words = _vocabulary(description, dictionary) if head == "ctc" else None
    if words is not None:
        config["pad_token_id"] = words.ids[words.blank]
        config["bos_token_id"] = words.ids[words.bos]
        config["eos_token_id"] = words.ids[words.eos]
    others = _other_vocabularies(description, words, languages)
    tensors, drops = _Assignment(checkpoint, description, config, head, written).tensors_and_drops()
    return Plan(
        head=head,
        model_class=description.target.classes[head],
        config_class=description.target.config_class,
        dtype=written,
        tensors=tensors,
        drops=(*drops, *(() if languages is None else _replaced(languages)), *_outside(checkpoint)),
        config=config,
        vocabulary=words,
        files=_files(description, head, config, words, others, languages),
        notes=(
            *_place_notes(checkpoint),
            *description.notes,
            *(words.notes if words is not None else ()),
            *_language_notes(languages, words),
        ),
        beyond=description.target.beyond.get(head, ()),
        language=None if languages is None else languages.chosen.name,
        languages=() if languages is None else languages.names,
        adapters=_adapters(_as_it_was(checkpoint, languages), description, config, written, others),
    )


def _outside(checkpoint: Checkpoint) -> Iterator[Drop]:
    place = checkpoint.prefix.removesuffix(".")
    reason = "lies outside the encoder, which is " + (f"below {shown(place, 200)}" if place else "at the top level")
    return (Drop(tensor, reason) for tensor in checkpoint.outside)


def _place_notes(checkpoint: Checkpoint) -> Iterator[str]:
    if not checkpoint.is_fairseqs:
        place = checkpoint.prefix.removesuffix(".")
        where = f"below {shown(place, 200)}" if place else "at the top level"
        count = len(checkpoint.outside)
        others = f"; {count} other tensor{'s' if count > 1 else ''} left out" if count else ""
        yield f"the file is {checkpoint.form}; the encoder in it is {where}{others}"


def _refuse(description: Description, head: Head) -> None:
    refusals = description.refusals_for(head)
    if not refusals:
        return
    advice = (
        "Stock transformers can't run this model; only a model of your own code could."
        if description.refusals_for("none")
        else ENCODER_ALONE
    )
    raise UnsupportedModelError([f"{refusal.key}: {refusal.reason}" for refusal in refusals], advice=advice)


def _written_dtype(tensors: Iterable[SourceTensor], dtype: Dtype) -> str:
    if dtype != "keep":
        return dtype
    found = {tensor.dtype for tensor in tensors if tensor.dtype not in _INTEGERS}
    return found.pop() if found in ({"float16"}, {"bfloat16"}) else "float32"


def _vocabulary(description: Description, dictionary: Dictionary | None) -> Vocabulary:
    rows = description.vocabulary
    if dictionary is None:
        labels = description.labels or "<labels>"
        raise DictionaryError(
            "there is no dictionary: the checkpoint carries none (task_state.target_dictionary), and no "
            f"dict.{labels}.txt lies next to it",
            advice=f"Give fairseq's dict.{description.labels or 'ltr'}.txt with --dict FILE, or use --head none.",
        )
    if len(dictionary) != rows:
        raise DictionaryError(
            f"the dictionary {dictionary.origin} has {len(dictionary)} symbols (the four special ones included), "
            f"but the model's head w2v_encoder.proj has {rows} rows",
            advice="Give the dictionary that the model was fine-tuned with, with --dict FILE.",
        )
    return vocabulary(dictionary, description.labels)


def _files(
    description: Description,
    head: Head,
    config: Mapping[str, object],
    words: Vocabulary | None,
    others: Others,
    languages: Languages | None,
) -> dict[str, bytes]:
    files: dict[str, dict[str, object]] = {
        "config.json": dict(config),
        "preprocessor_config.json": preprocessor_config(description, head),
    }
    ids: Mapping[str, object] = {} if words is None else words.ids
    if words is not None:
        files["tokenizer_config.json"] = tokenizer_config(words)
        if others and languages is not None and can_be_nested(words):
            files["tokenizer_config.json"] |= {"target_lang": languages.chosen.name}
            ids = {language.name: other.ids for language, other in others}
    encoded = {name: _json(values, sort_keys=True) for name, values in files.items()}
    return encoded if words is None else {**encoded, "vocab.json": _json(ids, sort_keys=False)}


def _json(values: Mapping[str, object], *, sort_keys: bool) -> bytes:
    text = json.dumps(values, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


# ---------------------------------------------------------------------------------------------------------------
# Languages


Others = tuple[tuple[Language, Vocabulary], ...]
"""The languages that a loaded model can be given, each with its tokens; none where there is one language only."""


def _replaced(languages: Languages) -> Iterator[Drop]:
    for name, tensor in languages.own.items():
        if name in languages.chosen.tensors:
            yield Drop(tensor, "the chosen language's own takes its place")


def _other_vocabularies(description: Description, words: Vocabulary | None, languages: Languages | None) -> Others:
    # Without the CTC head a language can't be exchanged: transformers asks the file for lm_head.
    if words is None or languages is None or len(languages.every) < 2 or not description.target.exchanged:
        return ()
    found, problems = [], []
    for language in languages.every:
        if language is languages.chosen or not languages.have_dictionaries:
            found.append((language, words))
        elif language.dictionary is None:
            problems.append(f"The language {language.name} has no dictionary (task_state.target_dictionary).")
        else:
            found.append((language, vocabulary(language.dictionary, description.labels)))
    problems += [
        f"The language {language.name} has other special symbols than {languages.chosen.name}."
        for language, other in found
        if (other.ids[other.blank], other.blank) != (words.ids[words.blank], words.blank)
    ]
    if problems:
        raise DictionaryError(problems, advice=ENCODER_ALONE)
    return tuple(found)


def _language_notes(languages: Languages | None, words: Vocabulary | None) -> Iterator[str]:
    if languages is None or len(languages.every) < 2:
        return
    yield f"the model is in {languages.chosen.name}, one of {len(languages.every)} languages (--language)"
    if words is None:
        yield "the other languages are left out: transformers exchanges them with a CTC head only"
    elif not can_be_nested(words):
        yield f"transformers' tokenizer of phonemes has one language: vocab.json is that of {languages.chosen.name}"


def _as_it_was(checkpoint: Checkpoint, languages: Languages | None) -> Checkpoint:
    """Return the checkpoint without the chosen language's tensors: what a language lacks, it has from the model."""
    return checkpoint if languages is None else replace(checkpoint, tensors={**checkpoint.tensors, **languages.own})


def _adapters(
    checkpoint: Checkpoint, description: Description, config: Mapping[str, object], dtype: str, others: Others
) -> dict[str, tuple[Move | Make, ...]]:
    """Return the files with which a loaded model exchanges its language, by name."""
    if not others:
        return {}
    exchange = _Exchange(checkpoint, description, config, dtype)
    return {f"adapter.{language.name}.safetensors": exchange.tensors(language, words) for language, words in others}


_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


class _Assignment:
    """The target's tensors, filled from the checkpoint's; every problem on the way is gathered."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        description: Description,
        config: Mapping[str, object],
        head: Head,
        dtype: str,
    ) -> None:
        family, facts = description.family, description.facts
        self.checkpoint = checkpoint
        self.family = family
        self.head = head
        self.dtype = dtype
        self.prefix = description.target.prefix_for(head)
        self.wanted = {tensor.name: tensor for tensor in description.target.tensors(config, head)}
        self.names = name_table(family.names(facts))
        self.fillings = tuple((pattern(filling.target), filling) for filling in family.fillings(facts))
        self.known_fillings: dict[str, Filling | None] = {}
        self.edits = family.edits(facts)
        self.problems: list[str] = []
        self.drops: list[Drop] = []

    def tensors_and_drops(self) -> tuple[tuple[Move | Make, ...], tuple[Drop, ...]]:
        sources = self._by_target()
        tensors = tuple(self._fill(tensor, sources.get(tensor.name, [])) for tensor in self.wanted.values())
        if self.problems:
            what = f"The model differs from fairseq's {self.family.name}"
            additions = "a fork's additions can't be converted."
            alone = "only an encoder with nothing added or removed below its prefix converts (--prefix names another)."
            raise InconsistentError(
                self.problems, advice=f"{what}; {additions if self.checkpoint.is_fairseqs else alone}"
            )
        return tensors, tuple(self.drops)

    def _by_target(self) -> dict[str, list[SourceTensor]]:
        kept: tuple[Part, ...] = ("encoder",) if self.head == "none" else ("encoder", self.head)
        sources: dict[str, list[SourceTensor]] = {}
        for tensor in self.checkpoint.tensors.values():
            name = self.names.named(tensor.name, self.prefix)
            if name is None:
                self.problems.append(
                    f"the tensor {tensor.name_in_file} {list(tensor.shape)} is not one of a {self.family.name}'s"
                )
            elif name.part not in kept:
                self.drops.append(Drop(tensor, f"belongs to the {name.part} head, which isn't written"))
            elif name.target is None:
                self.drops.append(Drop(tensor, name.reason))
            elif name.target in self.wanted:
                sources.setdefault(name.target, []).append(tensor.selected(0) if name.by_language else tensor)
            elif name.unless_there:
                self.drops.append(Drop(tensor, name.unless_there))
            else:
                self.problems.append(f"the tensor {tensor.name} has no place in the target ({name.target})")
        return sources

    def _fill(self, target: TargetTensor, sources: list[SourceTensor]) -> Move | Make:
        dtype = self.dtype if target.kind == "weights" else target.kind
        if not sources:
            return self._made(target, dtype)
        first, *others = sources
        if others and not target.from_several:
            names = " and ".join(source.name for source in sources)
            self.problems.append(f"the tensors {names} would both become {target.name}")
        for source in sources:
            self._compare(source, target)
        self._compare_checksums(first, others)
        edit = self.edits.get(target.name.removeprefix(self.prefix))
        return Move(target.name, target.shape, dtype, first, tuple(others), edit)

    def _made(self, target: TargetTensor, dtype: str) -> Make:
        filling = self._filling(target.name.removeprefix(self.prefix))
        if filling is None:
            self.problems.append(f"nothing in the checkpoint becomes {target.name} {list(target.shape)}")
            return Make(target.name, target.shape, dtype, "zeros", "missing")
        return Make(target.name, target.shape, dtype, filling.content, filling.reason, filling.value)

    def _filling(self, name: str) -> Filling | None:
        if name not in self.known_fillings:
            matching = (filling for compiled, filling in self.fillings if compiled.fullmatch(name))
            self.known_fillings[name] = next(matching, None)
        return self.known_fillings[name]

    def _compare(self, source: SourceTensor, target: TargetTensor) -> None:
        if source.shape != target.shape:
            self.problems.append(
                f"the tensor {source.name_in_file} has the shape {list(source.shape)}, but {target.name} has "
                f"{list(target.shape)}"
            )
        if (source.dtype in _INTEGERS) != (target.kind == "int64"):
            self.problems.append(f"the tensor {source.name} holds {source.dtype}, which {target.name} can't")

    def _compare_checksums(self, first: SourceTensor, others: list[SourceTensor]) -> None:
        """Compare tensors that have to be equal; where the file has no checksums, the writer compares their bytes."""
        for other in others:
            sums = (first.storage.crc32, other.storage.crc32)
            whole = all(tensor.nbytes == tensor.storage.size for tensor in (first, other))
            if whole and None not in sums and sums[0] != sums[1]:
                self.problems.append(different(first, other))


class _Exchange(_Assignment):
    """What a loaded model exchanges when it is given another language, filled from the checkpoint.

    There may be a thousand languages of three hundred tensors: what is the same for all of them is found once.
    """

    def __init__(
        self, checkpoint: Checkpoint, description: Description, config: Mapping[str, object], dtype: str
    ) -> None:
        super().__init__(checkpoint, description, config, "ctc", dtype)
        self.description = description
        self.config = config
        self.patterns = [pattern(name) for name in description.target.exchanged]
        self.by_size: dict[int, dict[str, TargetTensor]] = {}
        of_model = ((source, self.names.named(source, self.prefix)) for source in checkpoint.tensors)
        self.sources = {
            source: name
            for source, name in of_model
            if name is not None and name.target is not None and self._is_exchanged(name.target)
        }

    def _is_exchanged(self, target: str) -> bool:
        return any(compiled.fullmatch(target.removeprefix(self.prefix)) for compiled in self.patterns)

    def _wanted(self, symbols: int) -> dict[str, TargetTensor]:
        if symbols not in self.by_size:
            every = self.description.target.tensors({**self.config, "vocab_size": symbols}, self.head)
            self.by_size[symbols] = {tensor.name: tensor for tensor in every if self._is_exchanged(tensor.name)}
        return self.by_size[symbols]

    def tensors(self, language: Language, words: Vocabulary) -> tuple[Move | Make, ...]:
        """Return what this language's file holds."""
        self.problems = [
            f"the tensor {source} is none that transformers exchanges with a language"
            for source in language.tensors
            if source not in self.sources
        ]
        found: dict[str, list[SourceTensor]] = {}
        for source, name in self.sources.items():
            tensor = language.tensors.get(source, self.checkpoint.tensors[source])
            part = tensor.selected(0) if name.by_language else tensor
            found.setdefault(str(name.target), []).append(part)
        tensors = tuple(
            self._fill(tensor, found.get(tensor.name, [])) for tensor in self._wanted(len(words.tokens)).values()
        )
        if self.problems:
            raise InconsistentError(
                [f"the language {language.name}: {problem}" for problem in self.problems],
                advice=f"The languages differ from those of fairseq's {self.family.name}; a fork's can't be converted.",
            )
        return tensors


def different(first: SourceTensor, other: SourceTensor) -> str:
    """Return the problem that two tensors which transformers has only one of aren't equal."""
    return f"the tensors {first.name} and {other.name} differ, but transformers has only one for all layers"
