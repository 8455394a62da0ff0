"""Converts one checkpoint and prints, as JSON, how long its phases took and what they read. Run by the benchmark.

    python -m tests.bench.phases CHECKPOINT OUTPUT

Everything that a conversion imports is imported before the clock starts, so that the bytes counted are the
checkpoint's, and the small files' that are written and read back.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from w2vc.conversion import convert
from w2vc.writing.acceptance import load_classes


def bytes_read() -> int:
    """What this process has asked the system for so far; see ``Measurement.read``."""
    first = Path("/proc/self/io").read_text(encoding="ascii").splitlines()[0]
    return int(first.removeprefix("rchar:"))


def main() -> None:
    """Converts and prints."""
    checkpoint, output = map(Path, sys.argv[1:])
    load_classes("Wav2Vec2ConformerConfig", with_tokenizer=True)
    convert(checkpoint, output.with_name(f"{output.name}-planned"), dry_run=True)
    calls: list[tuple[float, int, int]] = []
    read_before, started = bytes_read(), time.perf_counter()
    convert(checkpoint, output, watch=lambda done, whole: calls.append((time.perf_counter(), done, whole)))
    ended, read = time.perf_counter(), bytes_read() - read_before
    (first, first_done, whole), (last, last_done, _) = calls[0], calls[-1]
    # The first call comes when a piece has been copied already.
    copying = (last - first) * whole / max(last_done - first_done, 1)
    phases = {
        "before": last - copying - started,
        "copying": copying,
        "after": ended - last,
        "bytes_read": read,
    }
    sys.stdout.write(json.dumps(phases) + "\n")


if __name__ == "__main__":
    main()
