"""Provenance, stored in the safetensors metadata: from which checkpoint an output was made, and with which options.

``convert`` writes it, ``batch`` resumes by it. Only contents are compared, never times or paths, and all that is
recorded follows from checkpoint, dictionary and options, so that equal conversions stay equal byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from w2vc.errors import RefusedError, UnreadableError, UsageError
from w2vc.options import Options
from w2vc.planning.overrides import read_config
from w2vc.reading.archive import examine, open_checkpoint
from w2vc.reading.dictionary import Dictionary, dictionary_file, dictionary_next_to, read_dictionary
from w2vc.version import __version__

WEIGHTS = "model.safetensors"

_CONVERTED_BY = f"w2vc {__version__}"
# Those that w2vc writes have some hundred kilobytes; what is read here is anybody's.
_HEADER_BYTES = 2**22


@dataclass(frozen=True)
class Record:
    """How an output came to be. All values are texts, as safetensors' metadata has to be.

    Attributes:
        source_fingerprint: of the checkpoint (``Archive.fingerprint``).
        head: that was written: ``ctc``, ``pretraining`` or ``none``.
        dtype: the option, of which ``keep`` is one.
        ema: ``true`` or ``false``.
        config: SHA-256 of the overriding configuration; empty where there is none.
        labels: the suffix of the dictionary's file that the checkpoint names; empty where it names none.
        dictionary: SHA-256 of the symbols; empty where the output has no vocabulary.
        files: the names of all files of the output but the model's weights, with blanks between them.
        auto_head: the head that ``auto`` gives without ``--dict``.
        auto_head_with_dict: the one that it gives with ``--dict``.
        carries_dictionary: ``true`` where the checkpoint has a dictionary in it, else ``false``.
        pretrained: fingerprint of the pretrained checkpoint; empty where none was given.
        prefix: the option; empty where it wasn't given.
        language: the option; empty where it wasn't given.
        converted_by: w2vc's version.
    """

    source_fingerprint: str
    head: str
    dtype: str
    ema: str
    config: str
    labels: str
    dictionary: str
    files: str
    auto_head: str = ""
    auto_head_with_dict: str = ""
    carries_dictionary: str = ""
    pretrained: str = ""
    prefix: str = ""
    language: str = ""
    converted_by: str = _CONVERTED_BY

    def metadata(self) -> dict[str, str]:
        """For the safetensors file."""
        return asdict(self)


def make_record(
    fingerprint: str,
    options: Options,
    *,
    head: str,
    auto_head: str,
    auto_head_with_dict: str,
    overrides: Mapping[str, object] | None,
    labels: str | None,
    dictionary: Dictionary | None,
    carries_dictionary: bool,
    files: Iterable[str],
) -> Record:
    """Return the record of a conversion.

    Args:
        fingerprint: ``Archive.fingerprint``.
        options: of the conversion.
        head: the plan's.
        auto_head: the head that ``auto`` gives without ``--dict``.
        auto_head_with_dict: the one that it gives with ``--dict``.
        overrides: of the configuration, if any.
        labels: the architecture's.
        dictionary: the one that was used; None without a vocabulary.
        carries_dictionary: whether the checkpoint has one in it.
        files: the names of the plan's files.

    Raises:
        UnreadableError: the pretrained checkpoint can't be read.
    """
    return Record(
        source_fingerprint=fingerprint,
        head=head,
        auto_head=auto_head,
        auto_head_with_dict=auto_head_with_dict,
        carries_dictionary=_spelled(carries_dictionary),
        config=_overrides(overrides),
        labels=labels or "",
        dictionary="" if dictionary is None else _symbols(dictionary),
        files=" ".join(sorted(files)),
        **_of_options(options),
    )


def _of_options(options: Options) -> dict[str, str]:
    """The parts of a record that follow from the options alone, or from files that they name."""
    return {
        "dtype": options.dtype,
        "ema": _spelled(options.ema),
        "pretrained": "" if options.pretrained is None else read_fingerprint(options.pretrained),
        "prefix": options.prefix or "",
        "language": options.language or "",
    }


def read_fingerprint(checkpoint: Path) -> str:
    """Return the fingerprint of a checkpoint.

    Raises:
        UnreadableError: it can't be read.
    """
    with open_checkpoint(checkpoint) as file:
        return examine(file, checkpoint).fingerprint


def _spelled(value: bool) -> str:
    return "true" if value else "false"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _overrides(values: Mapping[str, object] | None) -> str:
    return _sha256(json.dumps(values, sort_keys=True)) if values else ""


def _symbols(dictionary: Dictionary) -> str:
    return _sha256(json.dumps(dictionary.symbols))


# ---------------------------------------------------------------------------------------------------------------
# Reading it back


@dataclass(frozen=True)
class Found:
    """An output that w2vc wrote.

    Attributes:
        record: how it came to be.
        complete: all its files are there, the weights have the size that their header says, and the record says all
            that this version's do.
    """

    record: Record
    complete: bool


def find_record(output: Path) -> Found | None:
    """The record in a directory; None where there is none, or where what is there isn't w2vc's."""
    try:
        with open_checkpoint(output / WEIGHTS) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(_read(file.fileno(), 8, 0), "little")
            header = json.loads(_read(file.fileno(), length, 8)) if length <= min(_HEADER_BYTES, size - 8) else None
    except (UnreadableError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not str(metadata.get("converted_by")).startswith("w2vc "):
        return None
    names = [field.name for field in fields(Record)]
    record = Record(**{name: str(metadata.get(name, "")) for name in names})
    there = all(_is_there(output, name) for name in record.files.split())
    says_all = metadata.keys() >= set(names)
    return Found(record, there and says_all and size == 8 + length + _end(header.values()))


def _is_there(output: Path, name: str) -> bool:
    """Whether a file is in a directory; the name may be anybody's, and is looked for nowhere else."""
    try:
        return Path(name).name == name and (output / name).is_file()
    except (OSError, ValueError):
        return False


def _read(descriptor: int, count: int, offset: int) -> bytes:
    pieces = []
    while count:
        piece = os.pread(descriptor, count, offset)
        if not piece:
            raise ValueError("the file is shorter than its header")
        pieces.append(piece)
        count, offset = count - len(piece), offset + len(piece)
    return b"".join(pieces)


def _end(tensors: Iterable[object]) -> int:
    """Where the last tensor ends; -1 if that can't be known."""
    ends = [0]
    for tensor in tensors:
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not isinstance(offsets[1], int):
            return -1
        ends.append(offsets[1])
    return max(ends)


# ---------------------------------------------------------------------------------------------------------------
# Comparing


def is_made_from(record: Record, fingerprint: str, checkpoint: Path, options: Options) -> bool:
    """Whether this version would make the same again of this checkpoint with these options.

    Args:
        record: the output's.
        fingerprint: of the checkpoint as it is now.
        checkpoint: the file, for the dictionary next to it.
        options: of the conversion.
    """
    try:
        expected = {
            "converted_by": _CONVERTED_BY,
            "source_fingerprint": fingerprint,
            "config": _overrides(None if options.config is None else read_config(options.config)),
            **_of_options(options),
        }
    except (UsageError, UnreadableError):  # the conversion will say what is wrong with it
        return False
    has_card = "README.md" in record.files.split()
    auto_head = record.auto_head if options.dictionary is None else record.auto_head_with_dict
    return (
        all(getattr(record, name) == value for name, value in expected.items())
        and has_card == options.card
        and record.head == (auto_head if options.head == "auto" else options.head)
        and _is_same_dictionary(record, checkpoint, options.dictionary)
    )


def _is_same_dictionary(record: Record, checkpoint: Path, given: Path | None) -> bool:
    """Whether a conversion would find the recorded dictionary, and no other one (``find_dictionary``).

    The checkpoint's own is a part of its fingerprint, so that it is the same as it was then.
    """
    if record.head != "ctc":
        return True
    labels = record.labels or None
    try:
        places = (None if given is None else dictionary_file(given, labels), dictionary_next_to(checkpoint, labels))
        found = {_symbols(read_dictionary(place)) for place in places if place is not None}
    except (UsageError, RefusedError):  # the conversion will say what is wrong with it
        return False
    if record.carries_dictionary == _spelled(True):
        found.add(record.dictionary)
    return found == {record.dictionary}
