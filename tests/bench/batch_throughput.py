"""Many conversions in a row beside a copy of their outputs.

    python -m tests.bench.batch_throughput FOLDER [--runs N] [--checkpoints N] [--jobs N]

Converts 20 checkpoints of half a gigabyte each (no optimizer's state, so that outputs are as large) with ``w2vc batch``
and two worker processes, start-up included; then copies all outputs with ``cp``. They take turns, figures are medians
of N rounds. Each one begins with what it reads in the page cache, with nothing else of FOLDER there, with nothing left
to be written, and with as much free memory as it is going to fill (the machine needs 22 GB for that). FOLDER needs
31 GB; the checkpoints are made there first and kept. Prints a table in Markdown and PASS or FAIL.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.bench.measure import (
    Measurement,
    bring_into_cache,
    files,
    forget_all,
    have_free_memory,
    interleaved,
    measured,
    medians,
    say,
)

CHECKPOINT = "relative_half_gigabyte"
BOUND = 0.7


def prepare(folder: Path, count: int) -> Path:
    """Makes one checkpoint and copies of it; gives the folder of all of them."""
    measured((sys.executable, "-m", "tests.bench.make_checkpoints", folder, CHECKPOINT))
    first = folder / f"{CHECKPOINT}.pt"
    inputs = folder / "batch_inputs"
    inputs.mkdir(exist_ok=True)
    wanted = [inputs / f"checkpoint_{number:03}.pt" for number in range(count)]
    for path in set(inputs.iterdir()) - set(wanted):
        path.unlink()
    for path in wanted:
        if not path.is_file() or path.stat().st_size != first.stat().st_size:
            shutil.copyfile(first, path)
    return inputs


def measure(words: tuple[object, ...], source: Path, target: Path) -> Measurement:
    """Runs a command that reads one folder and makes another, with nothing but that one in the page cache."""
    shutil.rmtree(target, ignore_errors=True)
    forget_all(source.parent)
    for path in files(source):
        bring_into_cache(path)
    have_free_memory(sum(path.stat().st_size for path in files(source)))
    return measured(words)


def table(found: dict[str, list[Measurement]], size: int) -> list[str]:
    """What each command cost."""
    lines = [
        "| command | wall s (range) | GB/s | CPU s | peak MB of a process |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, every in found.items():
        cost, walls = medians(every), sorted(one.wall for one in every)
        lines.append(
            f"| {name} | {cost.wall:.2f} ({walls[0]:.2f}-{walls[-1]:.2f}) | {size / 1e9 / cost.wall:.2f} "
            f"| {cost.cpu:.2f} | {cost.peak / 1e6:.0f} |"
        )
    return lines


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.batch_throughput", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    inputs = prepare(folder, arguments.checkpoints)
    outputs, copies = folder / "batch_outputs", folder / "batch_copies"
    convert = (sys.executable, "-m", "w2vc", "batch", inputs, "--output", outputs, "--jobs", arguments.jobs)
    found = interleaved(
        {
            "w2vc batch": lambda: measure(convert, inputs, outputs),
            "cp -r": lambda: measure(("cp", "-r", outputs, copies), outputs, copies),
            "cp -r, sync": lambda: measure(
                ("sh", "-c", 'cp -r "$0" "$1" && find "$1" -type f -exec sync {} +', outputs, copies), outputs, copies
            ),
        },
        arguments.runs,
        lambda name, cost: say(f"{cost.wall:8.2f} s  {name}"),
    )
    size = sum(path.stat().st_size for path in files(outputs))
    for folder_made in (outputs, copies):
        shutil.rmtree(folder_made)
    ratio = medians(found["cp -r"]).wall / medians(found["w2vc batch"]).wall
    outputs_are = f"{arguments.checkpoints} checkpoints, {size / 1e9:.2f} GB of outputs"
    lines = [
        f"{outputs_are}; {arguments.jobs} jobs, {arguments.runs} rounds.",
        "",
        *table(found, size),
        "",
        f"Throughput of w2vc batch / cp: {ratio:.2f}, target >= {BOUND}: {'PASS' if ratio >= BOUND else 'FAIL'}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
