"""Conversion beside a plain copy, beside the bare imports, and beside the script that transformers used to ship.

    python -m tests.bench.benchmark FOLDER [--runs N] [--old-script PYTHON]

Prints tables in Markdown: what each command cost, how conversion grows with the model, and the targets with PASS or
FAIL. FOLDER needs 25 GB; the checkpoints are made there first and kept for the next time (``make_checkpoints.py``).
Figures of one run on one machine are comparable: commands take turns, each figure is the median of N rounds, what the
last command wrote is deleted or on the disk before the next one starts, and what it reads is brought into the page
cache just before (the machine needs 8 GB for that). ``convert, cold`` is one conversion whose source was dropped from
the page cache before; how much of the source is in the cache behind it is what was read from the disk (``fincore`` of
util-linux counts it).

``--old-script`` takes the Python of an environment that has fairseq 0.12.2, torch 1.13.1 and transformers 4.44.2, and
needs 24 GB of memory. It runs once, behind all others.

Run it where nothing else runs: the range behind each wall time and the load say whether that was so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.bench.measure import (
    Measurement,
    bring_into_cache,
    cached,
    forget,
    forget_all,
    have_free_memory,
    interleaved,
    measured,
    medians,
    say,
    settle,
)

IMPORTS = """
import torch
from transformers.models.wav2vec2_conformer.configuration_wav2vec2_conformer import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2.tokenization_wav2vec2 import Wav2Vec2CTCTokenizer
from transformers.models.wav2vec2_phoneme.tokenization_wav2vec2_phoneme import Wav2Vec2PhonemeCTCTokenizer
"""
OLD_SCRIPT = "transformers.models.wav2vec2_conformer.convert_wav2vec2_conformer_original_pytorch_checkpoint_to_pytorch"

LARGE, HALF, SMALL, CTC = "relative_large", "relative_half", "relative_small", "rotary_large_ctc_model_only"
WEIGHTS = "model.safetensors"


# Bytes: of the largest output and what its maker needs besides.
_FREE_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Command:
    """One thing to measure.

    Attributes:
        words: the command.
        leaves: what it writes, which is deleted before and after.
        reads: a file that it reads.
        first: how many bytes of that are brought into the page cache before; with 0 the file is dropped from it.
    """

    words: tuple[object, ...]
    leaves: Path | None = None
    reads: Path | None = None
    first: int = 0

    def measure(self) -> Measurement:
        """Runs it from the same state each time."""
        self._delete()
        settle()
        if self.reads is not None and self.first:
            bring_into_cache(self.reads, self.first)
        elif self.reads is not None:
            forget(self.reads)
        have_free_memory(_FREE_MEMORY)
        measurement = measured(self.words)
        self._delete()
        return measurement

    def _delete(self) -> None:
        if self.leaves is not None and self.leaves.is_dir():
            shutil.rmtree(self.leaves)
        elif self.leaves is not None:
            self.leaves.unlink(missing_ok=True)


@dataclass(frozen=True)
class Place:
    """Where checkpoints, what they were converted to once, and the measured commands' outputs lie."""

    folder: Path

    def checkpoint(self, name: str) -> Path:
        """A checkpoint."""
        return self.folder / f"{name}.pt"

    def converted(self, name: str) -> Path:
        """Its conversion, which ``cp`` copies."""
        return self.folder / "converted" / name

    @property
    def output(self) -> Path:
        """What a measured command writes."""
        return self.folder / "output"

    def model_bytes(self, name: str) -> int:
        """Bytes of a model, converted in float32."""
        return (self.converted(name) / WEIGHTS).stat().st_size

    def convert(self, name: str, *options: str, without_cache: bool = False) -> Command:
        """A conversion in a fresh process, through the command line."""
        source = self.checkpoint(name)
        words = (sys.executable, "-m", "w2vc", "convert", source, self.output, *options)
        return Command(words, self.output, source, 0 if without_cache else self.needed(name))

    def needed(self, name: str) -> int:
        """How much of a checkpoint's beginning a conversion needs: the model lies before the optimizer's state."""
        return self.model_bytes(name) + 2**21

    def copy(self, name: str, *, synced: bool = False) -> Command:
        """``cp`` of the weights."""
        weights = self.converted(name) / WEIGHTS
        if synced:
            # w2vc syncs what it wrote, too.
            script = ("sh", "-c", 'cp "$0" "$1" && sync "$1"')
            return Command((*script, weights, self.output), self.output, weights, self.model_bytes(name))
        return Command(("cp", weights, self.output), self.output, weights, self.model_bytes(name))

    def old_script(self, python: str, name: str) -> Command:
        """The old script, which wants to be told of the model's sizes, and a folder that is there."""
        options = ("--not_finetuned", "--config_path", self.converted(name) / "config.json")
        paths = ("--checkpoint_path", self.checkpoint(name), "--pytorch_dump_folder_path", self.output)
        return Command((python, "-m", OLD_SCRIPT, *paths, *options), self.output)


def commands(place: Place) -> dict[str, Command]:
    """What takes turns."""
    return {
        "imports": Command((sys.executable, "-c", IMPORTS)),
        "cp": place.copy(LARGE),
        "cp, sync": place.copy(LARGE, synced=True),
        "convert": place.convert(LARGE),
        "phases": Command(
            (sys.executable, "-m", "tests.bench.phases", place.checkpoint(LARGE), place.output),
            place.output,
            place.checkpoint(LARGE),
            place.needed(LARGE),
        ),
        "convert --dtype keep": place.convert(LARGE, "--dtype", "keep"),
        "convert --dtype bfloat16": place.convert(LARGE, "--dtype", "bfloat16"),
        "inspect": Command((sys.executable, "-m", "w2vc", "inspect", place.checkpoint(LARGE))),
        "convert (CTC, rotary)": place.convert(CTC),
        "convert (half)": place.convert(HALF),
        "cp (half)": place.copy(HALF),
        "convert (small)": place.convert(SMALL),
        "cp (small)": place.copy(SMALL),
    }


def prepare(place: Place) -> None:
    """Makes the checkpoints, converts each once, and leaves nothing of them in the page cache."""
    maker = (sys.executable, "-m", "tests.bench.make_checkpoints", place.folder)
    measured((*maker, LARGE, HALF, SMALL))
    measured((*maker, CTC.removesuffix("_model_only"), "--model-only"))
    for name in (LARGE, HALF, SMALL, CTC):
        measured((sys.executable, "-m", "w2vc", "convert", place.checkpoint(name), place.converted(name), "--force"))
    # Whatever else is there would leave less room for what is measured, and be read from the disk anew in its place.
    forget_all(place.folder)


@dataclass(frozen=True)
class Figures:
    """All that was measured.

    Attributes:
        place: of which checkpoints.
        every: each round's measurements, by command.
        once: measurements that are taken once.
        from_disk: bytes of the large checkpoint that its conversion read from the disk.
    """

    place: Place
    every: Mapping[str, list[Measurement]]
    once: Mapping[str, Measurement]
    from_disk: int
    median: dict[str, Measurement] = field(init=False)

    def __post_init__(self) -> None:
        both = {name: medians(found) for name, found in self.every.items()} | dict(self.once)
        object.__setattr__(self, "median", both)

    def phase(self, name: str) -> float:
        """A figure that the observed conversion gave."""
        return statistics.median(float(json.loads(one.output)[name]) for one in self.every["phases"])


# ---------------------------------------------------------------------------------------------------------------
# Targets


@dataclass(frozen=True)
class Target:
    """A figure and what it has to be.

    Attributes:
        what: in words.
        found: the figure.
        bound: what it may be at most; at least, for ``at_least``.
        unit: of both.
    """

    what: str
    found: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def row(self) -> str:
        """As a row of the table."""
        good = self.found >= self.bound if self.at_least else self.found <= self.bound
        sign = ">=" if self.at_least else "<="
        verdict = "PASS" if good else "FAIL"
        return f"| {self.what} | {self.found:.2f} {self.unit} | {sign} {self.bound:g} {self.unit} | {verdict} |"


def targets(figures: Figures) -> Iterator[Target]:
    """Each target with what was measured."""
    median, place = figures.median, figures.place
    imports, copied, converted = median["imports"], median["cp"], median["convert"]
    yield Target("convert / (imports + cp)", converted.wall / (imports.wall + copied.wall), 1.25, "x")
    yield Target("copying phase / cp", figures.phase("copying") / copied.wall, 1.2, "x")
    for size in ("convert (small)", "convert (half)", "convert", "convert (CTC, rotary)"):
        yield Target(f"{size}: peak memory", median[size].peak / 1e6, 400, "MB")
    yield Target("convert --dtype bfloat16: peak memory", median["convert --dtype bfloat16"].peak / 1e6, 500, "MB")
    model = place.model_bytes(LARGE)
    # Once for the copy, once from the page cache for the checksum.
    yield Target("bytes read / model, copy and checksum", figures.phase("bytes_read") / model, 2.04, "x")
    yield Target("bytes from disk / model, source not in cache", figures.from_disk / model, 1.02, "x")
    yield Target("inspect - imports", median["inspect"].wall - imports.wall, 1, "s")
    if "old script" in median:
        old = median["old script"]
        yield Target("old script / convert: wall", old.wall / converted.wall, 10, "x", at_least=True)
        yield Target("old script / convert: peak memory", old.peak / converted.peak, 35, "x", at_least=True)


# ---------------------------------------------------------------------------------------------------------------
# Tables


def machine() -> str:
    """On what it ran, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GB; Linux {platform.release()}, Python {platform.python_version()}, "
        f"{packages}"
    )


def costs(figures: Figures) -> Iterator[str]:
    """What each command cost."""
    yield "| command | wall s (range) | CPU s | peak MB | anonymous MB | read GB | from disk GB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, cost in figures.median.items():
        walls = sorted(one.wall for one in figures.every.get(name, [cost]))
        yield (
            f"| {name} | {cost.wall:.2f} ({walls[0]:.2f}-{walls[-1]:.2f}) | {cost.cpu:.2f} | {cost.peak / 1e6:.0f} "
            f"| {cost.anonymous / 1e6:.0f} | {cost.read / 1e9:.2f} | {cost.from_disk / 1e9:.2f} |"
        )


def phases(figures: Figures) -> Iterator[str]:
    """Where an observed conversion's time went, imports aside."""
    yield "| phase of convert, imports aside | s |"
    yield "| --- | ---: |"
    for name, what in {
        "before": "reading, planning, reserving",
        "copying": "copying, checksums beside it",
        "after": "last checksums, acceptance, sync, rename",
    }.items():
        yield f"| {what} | {figures.phase(name):.2f} |"


def growth(figures: Figures) -> Iterator[str]:
    """How conversion grows with the model."""
    yield "| model GB | file GB | convert s | convert - imports s | cp s | peak MB | anonymous MB |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    median, place = figures.median, figures.place
    for name, convert, copy in (
        (SMALL, "convert (small)", "cp (small)"),
        (HALF, "convert (half)", "cp (half)"),
        (LARGE, "convert", "cp"),
    ):
        cost = median[convert]
        yield (
            f"| {place.model_bytes(name) / 1e9:.2f} | {place.checkpoint(name).stat().st_size / 1e9:.2f} "
            f"| {cost.wall:.2f} | {cost.wall - median['imports'].wall:.2f} | {median[copy].wall:.2f} "
            f"| {cost.peak / 1e6:.0f} | {cost.anonymous / 1e6:.0f} |"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.benchmark", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--old-script", metavar="PYTHON")
    arguments = parser.parse_args()
    place = Place(arguments.folder.resolve())
    say("Making the checkpoints")
    prepare(place)
    load_before = os.getloadavg()[0]
    every = interleaved(
        {name: command.measure for name, command in commands(place).items()},
        arguments.runs,
        lambda name, cost: say(f"{cost.wall:8.2f} s  {name}"),
    )
    once = {"convert, cold": place.convert(LARGE, without_cache=True).measure()}
    from_disk = cached(place.checkpoint(LARGE))
    if arguments.old_script:
        say("The old script")
        place.output.mkdir()
        once["old script"] = measured(place.old_script(arguments.old_script, LARGE).words)
        shutil.rmtree(place.output)
    figures = Figures(place, every, once, from_disk)
    heading = (
        f"{machine()}. Load {load_before:.1f} before, {os.getloadavg()[0]:.1f} at the end; {arguments.runs} rounds. "
        f"Checkpoint of {place.checkpoint(LARGE).stat().st_size / 1e9:.2f} GB, model of "
        f"{place.model_bytes(LARGE) / 1e9:.2f} GB."
    )
    lines = [
        heading,
        *("", *costs(figures)),
        *("", *phases(figures)),
        *("", *growth(figures)),
        *("", "| target | measured | bound | |", "| --- | ---: | ---: | --- |"),
        *(target.row for target in targets(figures)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
