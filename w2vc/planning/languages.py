"""Languages: a model may hold the weights of several and be loaded with one, which others can be exchanged for.

fairseq keeps them in one of two ways: along the first axis of some tensors, with names in the cfg or without; or under
``adapter``, where each has tensors that replace the model's
(``examples/speech_recognition/new/infer.py``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from w2vc.errors import InconsistentError, UsageError
from w2vc.families.interpreter import Description, describe, name_table
from w2vc.reading.checkpoint import Checkpoint, SourceTensor
from w2vc.reading.dictionary import Dictionary

# A language's name becomes a part of a file's name, and it comes from the checkpoint.
_USABLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EDITED = "The checkpoint contradicts itself: was it edited, or saved by a fork of fairseq?"
_MOST_SHOWN = 20


@dataclass(frozen=True)
class Language:
    """One language of a model.

    Attributes:
        name: the checkpoint's, or its number.
        tensors: those that are this language's alone, by fairseq's name.
        dictionary: its own, where there is one.
    """

    name: str
    tensors: Mapping[str, SourceTensor]
    dictionary: Dictionary | None


@dataclass(frozen=True)
class Languages:
    """The languages of a model, and the one that it is converted with.

    Attributes:
        chosen: the one.
        every: all of them, it included.
        own: the model's tensors that a language may have its own in the place of, by name.
        have_dictionaries: whether each has its dictionary, or all of them have the model's.
    """

    chosen: Language
    every: tuple[Language, ...]
    own: Mapping[str, SourceTensor]
    have_dictionaries: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All of their names."""
        return tuple(language.name for language in self.every)


@dataclass(frozen=True)
class Spoken:
    """A checkpoint in one language.

    Attributes:
        checkpoint: with the chosen language's tensors and dictionary alone; as it is where there are no languages.
        description: of that.
        languages: all that there are; None where there are none.
    """

    checkpoint: Checkpoint
    description: Description
    languages: Languages | None

    @property
    def labels(self) -> str | None:
        """The suffix of the dictionary's file; None where the checkpoint carries one for each language."""
        carries = self.languages is not None and self.languages.have_dictionaries
        return None if carries and self.checkpoint.dictionary is not None else self.description.labels


def in_one_language(checkpoint: Checkpoint, description: Description, wanted: str | None) -> Spoken:
    """Choose the language of a checkpoint.

    Args:
        checkpoint: as it was read.
        description: of it.
        wanted: the language's name or number; None takes the first.

    Raises:
        UsageError: there is no such language; tells which there are.
        InconsistentError: the languages' tensors don't fit together.
    """
    by_language = _by_language(checkpoint, description)
    if not by_language:
        if wanted is not None:
            raise UsageError(
                f"--language is {wanted}, but the checkpoint has one language only.", advice="Leave --language out."
            )
        return Spoken(checkpoint, description, None)
    every = _released(checkpoint, by_language) if checkpoint.adapters else _along_the_axis(checkpoint, description)
    languages = Languages(
        chosen=_chosen(every, wanted),
        every=every,
        own={name: checkpoint.tensors[name] for name in _replaced(checkpoint)},
        have_dictionaries=bool(checkpoint.adapters),
    )
    spoken = replace(
        checkpoint,
        tensors={**checkpoint.tensors, **languages.chosen.tensors},
        dictionary=languages.chosen.dictionary,
        adapters={},
    )
    # A language with its own tensors has a head of any size; one along an axis has the model's.
    return Spoken(spoken, describe(spoken) if checkpoint.adapters else description, languages)


def _by_language(checkpoint: Checkpoint, description: Description) -> tuple[SourceTensor, ...]:
    """The model's own tensors whose first axis counts languages."""
    names = name_table(description.family.names(description.facts))
    found = ((tensor, names.named(name, "")) for name, tensor in checkpoint.tensors.items())
    return tuple(tensor for tensor, name in found if name is not None and name.by_language)


def _chosen(every: Sequence[Language], wanted: str | None) -> Language:
    if wanted is None:
        return every[0]
    found = next((language for language in every if language.name == wanted), None)
    if found is None:
        names = [language.name for language in every]
        near = difflib.get_close_matches(wanted[:60], names, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"--language is {wanted}, which the checkpoint hasn't got.{meant}", advice=_listed(names))
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more (w2vc inspect --json lists all)" if len(names) > _MOST_SHOWN else ""
    return f"Give one of {', '.join(names[:_MOST_SHOWN])}{more}."


# ---------------------------------------------------------------------------------------------------------------
# Along the first axis


def _along_the_axis(checkpoint: Checkpoint, description: Description) -> tuple[Language, ...]:
    tensors = _by_language(checkpoint, description)
    count = _count(tensors)
    names = _names(description.family.languages(description.facts), count)
    return tuple(
        Language(name, {tensor.name: tensor.narrowed(index) for tensor in tensors}, checkpoint.dictionary)
        for index, name in enumerate(names)
    )


def _count(tensors: Sequence[SourceTensor]) -> int:
    """How many languages there are: one number, or a problem for each tensor that has another."""
    count = tensors[0].shape[0] if tensors[0].shape else 0
    problems = [
        f"The tensor {tensor.name} has the shape {list(tensor.shape)}, but {tensors[0].name} is there for {count} "
        "languages."
        for tensor in tensors
        if count < 1 or tensor.shape[:1] != (count,)
    ]
    if problems:
        raise InconsistentError(problems, advice=_EDITED)
    return count


def _names(said: Sequence[str], count: int) -> tuple[str, ...]:
    """The cfg's names, and numbers for the places after them; numbers for all where a name can't be a file's."""
    if len(said) > count:
        raise InconsistentError(
            f"The cfg names {len(said)} languages ({', '.join(said)[:200]}), but the tensors are there for {count}.",
            advice=_EDITED,
        )
    names = (*said, *map(str, range(len(said), count)))
    are_usable = len(set(names)) == count and all(_USABLE.fullmatch(name) for name in names)
    return names if are_usable else tuple(map(str, range(count)))


# ---------------------------------------------------------------------------------------------------------------
# Under ``adapter``


def _released(checkpoint: Checkpoint, by_language: Sequence[SourceTensor]) -> tuple[Language, ...]:
    problems = [*_unusable(checkpoint), *_not_alone(by_language, "the model")]
    names = {tensor.name for tensor in by_language}
    for name, adapter in checkpoint.adapters.items():
        own = [tensor for tensor in adapter.tensors.values() if tensor.name in names]
        problems += _not_alone(own, f"adapter[{name!r}]")
    if problems:
        raise InconsistentError(problems, advice=_EDITED)
    return tuple(Language(name, held.tensors, held.dictionary) for name, held in checkpoint.adapters.items())


def _unusable(checkpoint: Checkpoint) -> Iterator[str]:
    for name in checkpoint.adapters:
        if _USABLE.fullmatch(name) is None:
            yield f"The language {name!r} has a name that no file may have."


def _not_alone(tensors: Sequence[SourceTensor], where: str) -> Iterator[str]:
    """``infer.py`` copies a language's tensors over the model's: which of several places counts, nothing says."""
    for tensor in tensors:
        if tensor.shape[:1] != (1,):
            yield f"The tensor {tensor.name} of {where} has the shape {list(tensor.shape)}, not one for one language."


def _replaced(checkpoint: Checkpoint) -> Iterator[str]:
    names = {name for adapter in checkpoint.adapters.values() for name in adapter.tensors}
    return (name for name in checkpoint.tensors if name in names)
