"""Random mutations of real checkpoints, and the one rule that each of them is held to.

A mutated file is refused with an error of w2vc's own, or it converts to the original's weights. By hand, for longer:

    python -m tests.support.fuzz --count 100000 --seed 7
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import json
import pickletools
import random
import shutil
import signal
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import w2vc
from tests.support.forgery import Base, Made, Part, base, model, read, zipped
from w2vc.errors import W2vcError

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
SECONDS_A_CASE = 10

Mutation = Callable[[random.Random, "Seed"], bytes]


@dataclass(frozen=True)
class Seed:
    """A checkpoint to mutate.

    Attributes:
        name: of the fixture.
        data: the file.
        taken_apart: its zip; None for a legacy file.
        weights: shape and bytes of what it converts to, by transformers' name.
        sources: fairseq's name of each of these.
    """

    name: str
    data: bytes
    taken_apart: Base | None
    weights: Mapping[str, bytes]
    sources: Mapping[str, str]

    @property
    def zip(self) -> Base:
        """Its zip, for mutations that are for zips only."""
        assert self.taken_apart is not None
        return self.taken_apart


class TooSlow(Exception):  # noqa: N818 - it is the finding, not an error of the program's
    """A case took longer than any file may."""


@dataclass(frozen=True)
class Finding:
    """A mutation that got through, hung, or raised something else than an error of w2vc's own."""

    seed: str
    mutation: str
    number: int
    what: str


# ---------------------------------------------------------------------------------------------------------------
# Mutations


def _some_bytes(random_: random.Random, data: bytes) -> bytes:
    """One to four bytes set, flipped, taken out, put in, copied, or everything behind one cut off."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4))):
        at = random_.randrange(len(changed))
        kind = random_.randrange(8)
        if kind < 2:
            changed[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
        elif kind < 4:
            changed[at] ^= 1 << random_.randrange(8)
        elif kind == 4:
            del changed[at : at + random_.randrange(1, 20)]
        elif kind == 5:
            changed[at:at] = random_.randbytes(random_.randrange(1, 9))
        elif kind == 6:
            source = random_.randrange(len(changed))
            length = random_.choice((1, 4, 8, 64, 4096))
            changed[at : at + length] = changed[source : source + length]
        else:
            changed = changed[: at + 1]
    return bytes(changed)


def bytes_anywhere(random_: random.Random, seed: Seed) -> bytes:
    return _some_bytes(random_, seed.data)


def bytes_of_structures(random_: random.Random, seed: Seed) -> bytes:
    """Where most of the lies can be told: headers, the directory, and a legacy file's pickles."""
    start = 0 if seed.taken_apart is None else len(seed.data) - random_.choice((100, 2000, 12_000))
    end = _LEGACY_PICKLES if seed.taken_apart is None else len(seed.data)
    return seed.data[:start] + _some_bytes(random_, seed.data[start:end]) + seed.data[end:]


def headers(random_: random.Random, seed: Seed) -> bytes:
    changed = bytearray(seed.data)
    places = [at for at in range(len(changed) - 4) if changed[at : at + 2] == b"PK"] or [0]
    at = random_.choice(places) + random_.randrange(46)
    struct.pack_into(
        "<H", changed, min(at, len(changed) - 2), random_.choice((0, 1, 8, 0xFFFF, random_.randrange(2**16)))
    )
    return bytes(changed)


def records(random_: random.Random, seed: Seed) -> bytes:
    """Records dropped, doubled, exchanged, renamed or cut, with checksums that fit or don't.

    Bytes under a tensor's name change only where the checksum stays the old one: with a new one, other weights would
    be right.
    """
    parts = seed.zip.parts()
    kind = random_.randrange(6)
    one, other = random_.sample(range(len(parts)), 2)
    if kind == 0:
        del parts[one]
    elif kind == 1:
        parts.insert(other, parts[one])
    elif kind == 2:
        parts[one], parts[other] = parts[other], parts[one]
    elif kind == 3:
        parts[one] = _with_old_numbers(parts[one], parts[other].data)
    elif kind == 4:
        parts[one] = _with_old_numbers(parts[one], _some_bytes(random_, parts[one].data or b"\0"))
    else:
        numbers: dict[str, Any] = {random_.choice(("size", "compressed_size", "offset", "flags", "method")): 1}
        parts[one] = Part(parts[one].name, parts[one].data, header=random_.choice(({}, numbers)), **numbers)
    return zipped(parts)


def _with_old_numbers(part: Part, data: bytes) -> Part:
    crc32, _, _ = part.numbers
    return Part(part.name, data, crc32=crc32)


def pickle_bytes(random_: random.Random, seed: Seed) -> bytes:
    """With the checksum that fits, so that it gets past the first check."""
    return zipped(seed.zip.parts({"data.pkl": _some_bytes(random_, seed.zip.records["data.pkl"])}))


# Behind them lie the tensors, whose bytes a legacy file has no checksums for.
_LEGACY_PICKLES = 50_000
_OPCODES = b"\x80(N\x88\x89JKM\x8aGXU}]\x8f)t\x85\x86\x87aesuhjqrcR\x81bQ.02P\x93\x94\x95\x8c\x82oi"


def pickle_opcodes(random_: random.Random, seed: Seed) -> bytes:
    """Opcodes exchanged, taken out, doubled, or put in."""
    pickled = seed.zip.records["data.pkl"]
    starts = _starts(pickled)
    changed = [pickled[start:end] for start, end in zip(starts, [*starts[1:], len(pickled)], strict=True)]
    for _ in range(random_.choice((1, 1, 2))):
        one, other = (random_.randrange(1, len(changed) - 1) for _ in range(2))
        kind = random_.randrange(5)
        if kind == 0:
            changed[one] = changed[other]
        elif kind == 1:
            del changed[one]
        elif kind == 2:
            changed[one], changed[other] = changed[other], changed[one]
        elif kind == 3:
            changed.insert(one, changed[other])
        else:
            changed.insert(one, bytes([random_.choice(_OPCODES)]))
    return zipped(seed.zip.parts({"data.pkl": b"".join(changed)}))


_STARTS: dict[bytes, list[int]] = {}


def _starts(pickled: bytes) -> list[int]:
    if pickled not in _STARTS:
        _STARTS[pickled] = [position or 0 for _opcode, _argument, position in pickletools.genops(pickled)]
    return _STARTS[pickled]


_VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**62, 2**100, 1.5, float("nan"), float("inf"), "", "???", "${", "${a}")
_VALUES += ("${task.normalize}", "${oc.env:HOME}", [], {}, [[]], {"a": "${b}"}, "\ud800", "[(1, 1, 1)] * 3", "\x1b[2J")


def cfg_values(random_: random.Random, seed: Seed) -> bytes:
    """Values of the cfg. No one of them can change a weight."""
    saved = seed.zip.saved()
    for _ in range(random_.choice((1, 3))):
        section = _a_dict(random_, saved["cfg"])
        key = random_.choice([*section, "new"])
        if not key.startswith("blank_"):  # which is folded into the head
            section[key] = copy.deepcopy(random_.choice(_VALUES))
    return seed.zip.with_saved(saved)


def _a_dict(random_: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    """A dict somewhere within."""
    inner = [item for item in value.values() if isinstance(item, dict)]
    return value if not inner or random_.random() < 0.3 else _a_dict(random_, random_.choice(inner))


_NUMBERS = (-1, 0, 1, 2, 2**31, 2**40, 2**62, 2**63)


def tensor_numbers(random_: random.Random, seed: Seed) -> bytes:
    """Offset, sizes, strides and storages of a tensor."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name, other = random_.sample([*tensors], 2)
    arguments = list(tensors[name].arguments)
    place = random_.randrange(4)
    if place == 0:
        identity = list(arguments[0].identity)
        identity[random_.choice((2, 4))] = random_.choice(("0", "x", *_NUMBERS))
        arguments[0] = type(arguments[0])(tuple(identity))
    elif place == 1:
        arguments[1] = random_.choice(_NUMBERS)
    else:
        arguments[place] = _other_numbers(random_, arguments[place])
    tensors[name] = type(tensors[name])(*arguments)
    if random_.random() < 0.1:
        tensors[other] = random_.choice((None, "x", [], {}))
    return seed.zip.with_saved(saved)


def _other_numbers(random_: random.Random, numbers: tuple[int, ...]) -> tuple[int, ...]:
    changed = [*numbers, *([1] if random_.random() < 0.2 else [])] or [1]
    changed[random_.randrange(len(changed))] = random_.choice(_NUMBERS)
    return tuple(changed)


def names(random_: random.Random, seed: Seed) -> bytes:
    """Names of tensors, to one that is there or isn't; never to exchange two."""
    saved = seed.zip.saved()
    tensors = model(saved)
    name, other = random_.sample([*tensors], 2)
    kind = random_.randrange(3)
    taken = tensors.pop(name)
    if kind == 0:
        at = random_.randrange(len(name))
        tensors[name[:at] + random_.choice("0123456789._a\n\0") + name[at + random_.randrange(2) :]] = taken
    elif kind == 1:
        tensors[f"{name}.{other}"] = taken
    return seed.zip.with_saved(saved)


FOR_ALL: tuple[Mutation, ...] = (bytes_anywhere, bytes_of_structures, headers)
FOR_ZIPS: tuple[Mutation, ...] = (*FOR_ALL, records, pickle_bytes, pickle_opcodes)
FOR_TREES: tuple[Mutation, ...] = (*FOR_ZIPS, cfg_values, tensor_numbers, names)

# ---------------------------------------------------------------------------------------------------------------
# The rule


def weights(output: Path) -> dict[str, bytes]:
    """Shape and bytes of each tensor of a converted directory, read without any library."""
    data = (output / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__")
    return {name: _bytes(data[start:], entry) for name, entry in header.items()}


def _bytes(data: bytes, entry: Mapping[str, Any]) -> bytes:
    start, end = entry["data_offsets"]
    return repr(tuple(entry["shape"])).encode() + data[start:end]


def stated(data: bytes, seed: Seed) -> dict[str, bytes]:
    """What a mutated zip's own pickle says that each of transformers' tensors is, read with zipfile and pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    tensors = model(read(records["data.pkl"]))
    return {target: _elements(tensors[source], records) for target, source in seed.sources.items() if source in tensors}


def _elements(tensor: Made, records: Mapping[str, bytes]) -> bytes:
    storage, offset, size, stride = tensor.arguments[:4]
    dtype = np.dtype({"FloatStorage": "<f4", "LongStorage": "<i8"}[storage.identity[1].name])
    flat = np.frombuffer(records[f"data/{storage.key}"], dtype)[offset:]
    strides = tuple(step * dtype.itemsize for step in stride)
    return repr(tuple(size)).encode() + np.lib.stride_tricks.as_strided(flat, size, strides).tobytes()


# What the cfg decides: whether the model is masked in training, and how often it was updated if it doesn't say.
_BY_CFG = ("masked_spec_embed", "num_batches_tracked")


def verdict(seed: Seed, data: bytes, folder: Path) -> str:
    """What became of a mutated file: ``refused``, ``converted``, or what is wrong.

    A checksum that was made anew may vouch for other places of tensors than the original's: then the weights must be
    what the file says, as another reader understands it.
    """
    path, output = folder / "mutated.pt", folder / "out"
    path.write_bytes(data)
    try:
        with alarm(SECONDS_A_CASE):
            w2vc.convert(path, output)
    except W2vcError:
        left = [place.name for place in folder.iterdir() if place != path]
        return f"leaves {left} behind" if left else "refused"
    except (Exception, TooSlow) as error:
        return f"raises {type(error).__name__}: {error}"
    found = weights(output)
    shutil.rmtree(output)
    if found == seed.weights:
        return "converted"
    if seed.taken_apart is None:
        return "has other weights"
    said = stated(data, seed)
    wrong = [
        name for name in {*found, *seed.weights} if found.get(name) != said.get(name) and not name.endswith(_BY_CFG)
    ]
    return f"has weights that the file doesn't say: {wrong[:3]}" if wrong else "converted to other weights, as it says"


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raises TooSlow in the block after so many seconds."""

    def too_slow(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"after {seconds} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------------------------------
# Runs

_SECTIONS = ("model", "task", "criterion", "checkpoint")


def slim(checkpoint: Path) -> bytes:
    """A real checkpoint without what has no influence: a case takes a third of the time."""
    whole = base(checkpoint)
    saved = whole.saved()
    kept = {key: saved["cfg"][key] for key in _SECTIONS}
    inner = kept["model"].get("w2v_args")
    if inner is not None:
        kept["model"]["w2v_args"] = {key: inner[key] for key in ("model", "task")}
    state = {key: saved[key] for key in ("model", "task_state", "optimizer_history")}
    used = {f"data/{tensor.arguments[0].key}" for tensor in model(saved).values()}
    unused = {name: None for name in whole.records if name.startswith("data/") and name not in used}
    return whole.with_saved({"cfg": kept, **state}, unused)


def seeds(folder: Path) -> list[Seed]:
    """The checkpoints to mutate, each converted once."""
    eras = FIXTURES / "eras"
    files = {
        "plain_dict_ctc": slim(eras / "plain_dict_ctc.pt"),
        "plain_dict_pretraining": slim(eras / "plain_dict_pretraining.pt"),
        "structured_config_ctc": (eras / "structured_config_ctc.pt").read_bytes(),
        "legacy_format_ctc": (eras / "legacy_format_ctc.pt").read_bytes(),
    }
    return [_seed(name, data, folder) for name, data in files.items()]


def _seed(name: str, data: bytes, folder: Path) -> Seed:
    path, output = folder / "mutated.pt", folder / "out"
    path.write_bytes(data)
    report = w2vc.convert(path, output)
    found = weights(output)
    shutil.rmtree(output)
    sources = {move.target: move.source.name for move in report.plan.moves}
    return Seed(name, data, base(path) if data.startswith(b"PK") else None, found, sources)


# How often each seed is taken: the slim ones are fast.
_SHARES = (6, 6, 1, 1)


def fuzz(count: int, seed: int, folder: Path) -> tuple[collections.Counter[str], list[Finding]]:
    """Tries that many mutations; gives how many ended how, and what shouldn't have."""
    random_ = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    every = seeds(folder)
    tally: collections.Counter[str] = collections.Counter()
    findings = []
    for number in range(count):
        chosen = random_.choices(every, _SHARES)[0]
        mutation = random_.choice(_mutations(chosen))
        data = mutation(random_, chosen)
        result = verdict(chosen, data, folder)
        tally[f"{mutation.__name__}: {result.partition(':')[0]}"] += 1
        if not result.startswith(("refused", "converted")):
            findings.append(Finding(chosen.name, mutation.__name__, number, result))
            (folder.parent / f"finding-{seed}-{number}.pt").write_bytes(data)
    return tally, findings


def _mutations(seed: Seed) -> tuple[Mutation, ...]:
    if seed.taken_apart is None:
        return (bytes_of_structures,)
    # omegaconf's nodes hold their parents: no tree that could be changed and written again.
    return FOR_ZIPS if seed.name.startswith("structured") else FOR_TREES


def command_line(
    description: str | None,
    count: int,
    run: Callable[[int, int, Path], tuple[Mapping[str, int], Sequence[object]]],
    kept: str,
) -> int:
    """Run as many mutations as the command line says, print how they ended, and keep the files that were findings.

    Args:
        description: what ``--help`` prints.
        count: of mutations, unless said otherwise.
        run: (count, seed, folder) to a tally and the findings.
        kept: how the files' names begin that ``run`` leaves beside the folder.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        folder.mkdir()
        tally, findings = run(options.count, options.seed, folder)
        for line in (*(f"{times:8} {how}" for how, times in sorted(tally.items())), *map(str, findings)):
            print(line)  # noqa: T201 - a command of its own
        for file in Path(temporary).glob(f"{kept}-*"):
            shutil.copy(file, ".")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 3000, fuzz, "finding"))
