"""The plan: what becomes of every tensor, made from names, shapes and dtypes alone.

Every source tensor is moved, or dropped with a reason; every target tensor is filled exactly once; or one error lists
every problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from w2vc.errors import DictionaryError, InconsistentError, UnsupportedModelError, UsageError
from w2vc.families.conformer.architecture import ENCODER_ALONE, Architecture, Blank, Head
from w2vc.families.conformer.names import Part, target_name
from w2vc.families.conformer.tensors import MODEL_CLASSES, TargetTensor, config_values, target_tensors
from w2vc.planning.overrides import overrides, with_masks
from w2vc.planning.processor import Vocabulary, preprocessor_config, tokenizer_config, vocabulary
from w2vc.reading.checkpoint import Checkpoint, SourceTensor
from w2vc.reading.dictionary import Dictionary

Dtype = Literal["float32", "float16", "bfloat16", "keep"]


@dataclass(frozen=True)
class FirstRow:
    """What is done to row 0 of a tensor while it moves: ``value`` is added to it or put in its place."""

    mode: str
    value: float


@dataclass(frozen=True)
class Move:
    """A target tensor that is filled from a source tensor, cast where the dtypes differ.

    Attributes:
        target: transformers' name.
        shape: its sizes.
        dtype: in the output.
        source: where its bytes come from.
        equals: further source tensors whose bytes have to be the same.
        first_row: a change to row 0, where there is one.
    """

    target: str
    shape: tuple[int, ...]
    dtype: str
    source: SourceTensor
    equals: tuple[SourceTensor, ...] = ()
    first_row: FirstRow | None = None


@dataclass(frozen=True)
class Make:
    """A target tensor that fairseq's model has no counterpart for.

    Attributes:
        target, shape, dtype: as in ``Move``.
        content: ``zeros``, ``ones``, or the ``identity`` matrix.
        reason: why this content is exact.
    """

    target: str
    shape: tuple[int, ...]
    dtype: str
    content: Literal["zeros", "ones", "identity"]
    reason: str


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
        dtype: of the weights.
        tensors: one entry for each target tensor, in the order in which the model computes.
        drops: the source tensors that are left out.
        config, vocabulary: what the files below were made from.
        files: the small files, by name.
        notes: what a reader should know.
    """

    head: Head
    model_class: str
    dtype: str
    tensors: tuple[Move | Make, ...]
    drops: tuple[Drop, ...]
    config: Mapping[str, object]
    vocabulary: Vocabulary | None
    files: Mapping[str, bytes]
    notes: tuple[str, ...]

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


def chosen_head(architecture: Architecture, wanted: str) -> Head:
    """The head that ``--head`` means for this model.

    Raises:
        UsageError: there is no such head, or the checkpoint hasn't got it.
    """
    own = architecture.own_head
    if wanted in ("auto", own):
        return own
    if wanted == "none":
        return "none"
    if wanted not in ("ctc", "pretraining"):
        raise UsageError(f"--head is {wanted}", advice="Give auto, ctc, pretraining or none.")
    raise UsageError(
        f"--head is {wanted}, but the checkpoint has the {own} head only", advice=f"Give --head {own} or --head none."
    )


def make_plan(
    checkpoint: Checkpoint,
    architecture: Architecture,
    dictionary: Dictionary | None,
    head: Head,
    dtype: Dtype,
    given: Mapping[str, object] | None = None,
) -> Plan:
    """What the output will hold.

    Args:
        checkpoint: names, shapes and dtypes; its bytes aren't looked at.
        architecture: what the model is.
        dictionary: for the CTC head.
        head: to convert with.
        dtype: of the weights in the output; ``keep`` means the checkpoint's own.
        given: values of ``--config`` (see ``config_overrides.py``).

    Raises:
        UnsupportedModelError: transformers has no place for something.
        DictionaryError: the CTC head has no dictionary, or one of another size.
        InconsistentError: tensors are unknown, missing, of another shape, or claimed twice.
    """
    _refuse(architecture, head)
    written = _written_dtype(checkpoint.tensors.values(), dtype)
    chosen = overrides(given or {}, config_values(architecture, head, written), "--config")
    architecture = with_masks(architecture, chosen)
    config = {**config_values(architecture, head, written), **chosen}
    words = _vocabulary(architecture, dictionary) if head == "ctc" else None
    if words is not None:
        config["pad_token_id"] = words.ids[words.blank]
        config["bos_token_id"] = words.ids[words.bos]
        config["eos_token_id"] = words.ids[words.eos]
    tensors, drops = _Filling(checkpoint, architecture, head, written).filled()
    return Plan(
        head=head,
        model_class=MODEL_CLASSES[head],
        dtype=written,
        tensors=tensors,
        drops=drops,
        config=config,
        vocabulary=words,
        files=_files(architecture, head, config, words),
        notes=(*architecture.notes, *(words.notes if words is not None else ())),
    )


def _refuse(architecture: Architecture, head: Head) -> None:
    refusals = architecture.refusals_for(head)
    if not refusals:
        return
    advice = (
        "Stock transformers can't run this model; only a model of your own code could."
        if architecture.refusals_for("none")
        else ENCODER_ALONE
    )
    raise UnsupportedModelError([f"{refusal.key}: {refusal.reason}" for refusal in refusals], advice=advice)


def _written_dtype(tensors: Iterable[SourceTensor], dtype: Dtype) -> str:
    if dtype != "keep":
        return dtype
    found = {tensor.dtype for tensor in tensors if tensor.dtype not in ("int64", "int32", "bool")}
    return found.pop() if found in ({"float16"}, {"bfloat16"}) else "float32"


def _vocabulary(architecture: Architecture, dictionary: Dictionary | None) -> Vocabulary:
    rows = architecture.vocabulary
    if dictionary is None:
        labels = architecture.labels or "<labels>"
        raise DictionaryError(
            "there is no dictionary: the checkpoint carries none (task_state.target_dictionary), and no "
            f"dict.{labels}.txt lies beside it",
            advice=f"Give fairseq's dict.{architecture.labels or 'ltr'}.txt with --dict FILE, or use --head none.",
        )
    if len(dictionary) != rows:
        raise DictionaryError(
            f"the dictionary {dictionary.origin} has {len(dictionary)} symbols (the four special ones included), "
            f"but the model's head w2v_encoder.proj has {rows} rows",
            advice="Give the dictionary that the model was fine-tuned with, with --dict FILE.",
        )
    return vocabulary(dictionary, architecture.labels)


def _files(
    architecture: Architecture, head: Head, config: Mapping[str, object], words: Vocabulary | None
) -> dict[str, bytes]:
    files: dict[str, Mapping[str, object]] = {
        "config.json": config,
        "preprocessor_config.json": preprocessor_config(architecture, head),
    }
    if words is not None:
        files["tokenizer_config.json"] = tokenizer_config(words)
    encoded = {name: _json(values, sort_keys=True) for name, values in files.items()}
    if words is not None:
        encoded["vocab.json"] = _json(words.ids, sort_keys=False)
    return encoded


def _json(values: Mapping[str, object], *, sort_keys: bool) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n").encode()


_NO_PROJECTION = "fairseq has no post_extract_proj where the last convolution is as wide as the encoder"
_NO_POS_CONV = "not used in a conformer's forward, and fairseq's has several blocks where transformers' has one"
_NO_COUNT = "counts the updates of training; not used in the forward"


class _Filling:
    """Fills the target's tensors from the checkpoint's, and gathers every problem on the way."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        architecture: Architecture,
        head: Head,
        dtype: str,
    ) -> None:
        self.checkpoint = checkpoint
        self.architecture = architecture
        self.head = head
        self.dtype = dtype
        self.problems: list[str] = []
        self.drops: list[Drop] = []

    def filled(self) -> tuple[tuple[Move | Make, ...], tuple[Drop, ...]]:
        wanted = {tensor.name: tensor for tensor in target_tensors(self.architecture, self.head)}
        sources = self._by_target(wanted)
        tensors = tuple(self._fill(tensor, sources.get(tensor.name, [])) for tensor in wanted.values())
        if self.problems:
            raise InconsistentError(
                self.problems,
                advice="The model differs from fairseq's wav2vec2-conformer; a fork's additions can't be converted.",
            )
        return tensors, tuple(self.drops)

    def _by_target(self, wanted: Mapping[str, TargetTensor]) -> dict[str, list[SourceTensor]]:
        kept: tuple[Part, ...] = ("encoder",) if self.head == "none" else ("encoder", self.head)
        sources: dict[str, list[SourceTensor]] = {}
        for tensor in self.checkpoint.tensors.values():
            name = target_name(tensor.name, with_head=self.head != "none")
            if name is None:
                self.problems.append(f"the tensor {tensor.name} {list(tensor.shape)} is not one of a conformer's")
            elif name.part not in kept:
                self.drops.append(Drop(tensor, f"belongs to the {name.part} head, which isn't written"))
            elif name.target is None:
                self.drops.append(Drop(tensor, name.reason))
            elif name.target in wanted:
                sources.setdefault(name.target, []).append(tensor)
            elif name.target.endswith("masked_spec_embed"):
                self.drops.append(Drop(tensor, "transformers has no place for it where both mask probabilities are 0"))
            else:
                self.problems.append(f"the tensor {tensor.name} has no place in the target ({name.target})")
        return sources

    def _fill(self, target: TargetTensor, sources: list[SourceTensor]) -> Move | Make:
        dtype = self.dtype if target.kind == "weights" else target.kind
        if not sources:
            return self._made(target, dtype)
        first, *others = sources
        if others and not target.name.endswith("inv_freq"):
            names = " and ".join(source.name for source in sources)
            self.problems.append(f"the tensors {names} would both become {target.name}")
        for source in sources:
            self._compare(source, target)
        self._compare_checksums(first, others)
        return Move(target.name, target.shape, dtype, first, tuple(others), self._first_row(target))

    def _made(self, target: TargetTensor, dtype: str) -> Make:
        for suffix, content, reason in self._makeable():
            if target.name.endswith(suffix):
                return Make(target.name, target.shape, dtype, content, reason)
        self.problems.append(f"nothing in the checkpoint becomes {target.name} {list(target.shape)}")
        return Make(target.name, target.shape, dtype, "zeros", "missing")

    def _makeable(self) -> Iterator[tuple[str, Literal["zeros", "ones", "identity"], str]]:
        architecture = self.architecture
        if not architecture.has_projection and architecture.conv_layers[-1].dim == architecture.hidden_size:
            yield "feature_projection.projection.weight", "identity", _NO_PROJECTION
            yield "feature_projection.projection.bias", "zeros", _NO_PROJECTION
        if architecture.deep_pos_conv:
            yield "pos_conv_embed.conv.bias", "zeros", _NO_POS_CONV
            yield "pos_conv_embed.conv.weight_g", "zeros", _NO_POS_CONV
            # Of length other than zero, since weight norm divides by it.
            yield "pos_conv_embed.conv.weight_v", "ones", _NO_POS_CONV
        yield "num_batches_tracked", "zeros", _NO_COUNT

    def _compare(self, source: SourceTensor, target: TargetTensor) -> None:
        if source.shape != target.shape:
            self.problems.append(
                f"the tensor {source.name} has the shape {list(source.shape)}, but {target.name} has "
                f"{list(target.shape)}"
            )
        is_integer = source.dtype in ("int64", "int32", "int16", "int8", "uint8", "bool")
        if is_integer != (target.kind == "int64"):
            self.problems.append(f"the tensor {source.name} holds {source.dtype}, which {target.name} can't")

    def _compare_checksums(self, first: SourceTensor, others: list[SourceTensor]) -> None:
        """Tensors that have to be equal; where the file has no checksums, the writer compares their bytes."""
        for other in others:
            sums = (first.storage.crc32, other.storage.crc32)
            whole = all(tensor.nbytes == tensor.storage.size for tensor in (first, other))
            if whole and None not in sums and sums[0] != sums[1]:
                self.problems.append(different(first, other))

    def _first_row(self, target: TargetTensor) -> FirstRow | None:
        blank = self.architecture.blank
        if blank is None or not target.name.startswith("lm_head."):
            return None
        return _folded(blank, target.name)


def different(first: SourceTensor, other: SourceTensor) -> str:
    """The problem that two tensors which transformers has only one of aren't equal."""
    return f"the tensors {first.name} and {other.name} differ, but transformers has only one for all layers"


def _folded(blank: Blank, name: str) -> FirstRow | None:
    """How ``Wav2VecCtc.get_logits`` changes logit 0, as a change to row 0 of the head's weight or bias."""
    if name == "lm_head.bias":
        return FirstRow(blank.mode, blank.weight)
    return FirstRow("set", 0.0) if blank.mode == "set" else None
