"""All that a file can make w2vc do, counted before it is done: one table of limits, each with its reason.

A limit is about ten times what the largest real checkpoint needs, unless its row says otherwise. Past it the file is
refused as unsafe: fairseq never writes such a file. Some limits grow with the bytes that the file really has on its
disk: whoever had those moved has spent more on them than reading them costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from w2vc.errors import UnsafeError

DISTRUST = "fairseq never writes this. Get the checkpoint from a source that you trust."
"""The advice for a file that nobody's training wrote."""

SCALAR_BYTES = 40
"""What a number or truth value costs in CPython, with its reference."""
NODE_BYTES = 200
"""What any other object costs, with the walk's node for it."""
ENTRY_BYTES = 100
"""What an entry of a dict or set costs at the moment when the table grows; a memo entry, too."""
TENSOR_BYTES = 1000
"""What a tensor costs: the Python object, the C++ object, its sizes and strides."""
GROWTH_BYTES = 2**30
"""So many bytes on the disk allow as much again, where a limit grows."""
# The largest checkpoint that is known has 14 GB: MMS with adapters for 1,162 languages.
_MOST_GROWTH = 16
SMALL_INTEGER = 2**32
"""Integers below this can't be made to collide in CPython's dicts by the thousand: they end in their own slots."""


@dataclass(frozen=True)
class Limit:
    """A row of the table.

    Attributes:
        most: how much of it is allowed.
        what: of what, as the message says it: "has more than 4000000 opcodes".
        why: the largest real need, and what more would cost.
        grows: with the bytes that the file has on its disk.
    """

    most: int
    what: str
    why: str
    grows: bool = False


LIMITS: Mapping[str, Limit] = {
    # The container
    "records": Limit(
        100_000,
        "records in a directory",
        "the largest models have some ten thousand storages, optimizer included, and 340,000 with adapters for 1,162 "
        "languages (14 GB); a record takes a kilobyte here",
        grows=True,
    ),
    "directory bytes": Limit(16 * 2**20, "bytes of directory", "a record has some 100 bytes in it", grows=True),
    "record name": Limit(1000, "characters in a record's name", "file systems end at 255, torch adds a number"),
    "storage alignment": Limit(2**20, "bytes of alignment", "torch aligns to 64; past a large page there is no use"),
    # The pickle
    "pickle bytes": Limit(
        64 * 2**20,
        "bytes",
        "a 620 M model with its optimizer has 375 KB; a dictionary of a million symbols adds 30 MB",
        grows=True,
    ),
    "opcodes": Limit(
        4_000_000,
        "opcodes",
        "a dictionary of 260,000 symbols has 1.3 million, the largest models 0.2 million; 4 million take seconds",
        grows=True,
    ),
    "built bytes": Limit(
        192 * 2**20,
        "bytes of Python objects",
        "a dictionary of 260,000 symbols is 60 MB, the largest models are 30 MB; torch builds as much again",
        grows=True,
    ),
    "depth": Limit(
        100, "levels", "fairseq nests 20 deep, omegaconf's nodes included; CPython's own recursion ends at 1000"
    ),
    "unfolded objects": Limit(
        20_000_000,
        "objects if each reference were followed",
        "the largest models have a million, counted once for each way that leads to them",
        grows=True,
    ),
    "globals": Limit(
        550,
        "different globals",
        "typed configs name 55; torch builds its allow-list anew, of so many entries, whenever one is used",
    ),
    "allow-list entries": Limit(
        20_000_000,
        "entries of torch's allow-list to build",
        "typed configs need 0.2 million: globals, times the opcodes that use them; 20 million take seconds",
    ),
    "global name": Limit(500, "characters in a global's name", "modules and classes have below 100 everywhere"),
    "text": Limit(4 * 2**20, "bytes of one text", "the longest in fairseq's checkpoints has some kilobytes"),
    "integer": Limit(17, "bytes of one integer", "a UUID is the widest in use: 16 bytes, and one for the sign"),
    "chosen hashes": Limit(
        10_000,
        "keys that can be made to collide (large integers, floats, tuples)",
        "old optimizer states have a thousand addresses; 10,000 that collide take 2 s. Charged at every use, and for "
        "each part of a tuple, because Python hashes a tuple anew each time",
    ),
    "addresses": Limit(
        2**30,
        "bytes of one storage that torch is given addresses for",
        "the largest tensor of a model of 2 billion parameters has 60 MB; a file beyond is read without",
    ),
    "dimensions": Limit(64, "dimensions of a tensor", "torch has no tensors with more"),
    # What is taken from it
    "config values": Limit(
        50_000, "values in its config", "fairseq's have a thousand; omegaconf takes 0.1 ms for each"
    ),
    "config text": Limit(
        4 * 2**20,
        "characters of text in its config",
        "fairseq's have 10,000; a text counts each time that it is referenced, because each is searched",
    ),
    "config attributes": Limit(
        500_000,
        "attributes of objects in its config",
        "omegaconf's nodes have eight each; an object's count each time that it is referenced",
    ),
    "config depth": Limit(60, "levels in its config", "fairseq's nest 5 deep, omegaconf's nodes double that"),
    "interpolation": Limit(
        1000,
        "characters in a text with an interpolation",
        "fairseq's have below 60; omegaconf's grammar takes minutes and gigabytes for a megabyte",
    ),
    "nested configs": Limit(3, "configs within one another (w2v_args)", "fairseq nests one in another"),
    "tensors": Limit(
        500_000,
        "tensors",
        "a model with adapters for 1,162 languages has 340,000, any other a thousand; each takes half a kilobyte here",
    ),
    "tensor name": Limit(300, "characters in a tensor's name", "fairseq's have below 120"),
    # Dictionaries
    "dictionary bytes": Limit(
        64 * 2**20, "bytes of dictionary", "260,000 symbols of twenty bytes, each with a count, are 6 MB"
    ),
    "symbols": Limit(2_600_000, "symbols", "the largest vocabulary in use has 260,000"),
    "symbol": Limit(1000, "characters in one of its symbols", "words and sentence pieces have below 100"),
    "repeated symbols": Limit(
        1000, "symbols that repeat earlier ones", "repeating one is done by hand (#fairseq:overwrite), a few times"
    ),
}


class Budget:
    """What one file may still make us do.

    Args:
        what: the file, and where in it, for messages.
        on_disk: how many bytes the file has on its disk (``bytes_on_disk``); 0 where that plays no part.
    """

    def __init__(self, what: str, on_disk: int = 0) -> None:
        self.what = what
        self._growth = 1 + min(on_disk // GROWTH_BYTES, _MOST_GROWTH)
        self._spent: dict[str, int] = {}

    def most(self, name: str) -> int:
        """Return how much is allowed of something."""
        row = LIMITS[name]
        return row.most * self._growth if row.grows else row.most

    def charge(self, name: str, count: int = 1) -> None:
        """Count something that is about to be done. Raise UnsafeError where it is too much."""
        spent = self._spent.get(name, 0) + count
        self._spent[name] = spent
        if spent > self.most(name):
            self.refuse(f"has more than {self.most(name)} {LIMITS[name].what}")

    def build(self, count: int) -> None:
        """Count bytes of Python objects that the pickle would make."""
        spent = self._spent.get("built bytes", 0) + count
        self._spent["built bytes"] = spent
        if spent > self.most("built bytes"):
            self.refuse(f"would build more than {self.most('built bytes')} bytes of Python objects")

    def require(self, name: str, size: int, thing: str) -> None:
        """Raise UnsafeError where one thing is larger than any real one."""
        if size > self.most(name):
            self.refuse(f"has {thing} of {size} {LIMITS[name].what.split()[0]}; the limit is {self.most(name)}")

    def refuse(self, problem: str) -> NoReturn:
        """Raise UnsafeError: the file would take memory or time without bound."""
        raise UnsafeError(f"{self.what} {problem}", advice=DISTRUST)
