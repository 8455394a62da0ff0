"""Each fixture, converted with one version of transformers, loads with the other, in every loader.

    python -m tests.support.matrix PYTHON PYTHON

Each PYTHON has another transformers. Their outputs have to be identical to the last byte.
"""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"


def convert(folder: Path) -> None:
    """Converts every convertible fixture with this Python's transformers."""
    import w2vc
    from tests.conftest import CONVERTIBLE, checkpoint, options

    for name in CONVERTIBLE:
        w2vc.convert(checkpoint(name), folder / name, **options(name))


def load(folder: Path) -> None:
    """Loads every directory with every loader of this Python's transformers that fits its head."""
    import transformers

    for output in sorted(folder.iterdir()):
        is_ctc = (output / "vocab.json").exists()
        loaders: list[Any] = [transformers.AutoFeatureExtractor, transformers.AutoConfig]
        if is_ctc:
            loaders += [transformers.AutoProcessor, transformers.AutoTokenizer]
        for loader in loaders:
            loader.from_pretrained(output)
        (name,) = json.loads((output / "config.json").read_bytes())["architectures"]
        kind: Any = getattr(transformers, name)
        _, info = kind.from_pretrained(output, output_loading_info=True)
        wrong = {what: info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[what]}
        if wrong:
            raise AssertionError(f"{output.name} under {transformers.__version__}: {wrong}")
        if is_ctc:
            transformers.pipeline("automatic-speech-recognition", model=str(output), device="cpu")


def compare(left: Path, right: Path) -> None:
    """Holds that two folders of outputs are the same, byte for byte."""
    for output in sorted(left.iterdir()):
        names = sorted(path.name for path in output.iterdir())
        if names != sorted(path.name for path in (right / output.name).iterdir()):
            raise AssertionError(f"{output.name}: other files")
        _, unequal, failed = filecmp.cmpfiles(output, right / output.name, names, shallow=False)
        if unequal or failed:
            raise AssertionError(f"{output.name}: {unequal + failed} differ")


def main(pythons: list[str]) -> None:
    """Converts with each, compares, and loads each one's outputs with the other."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(number) for number in range(len(pythons))]
        for python, output in zip(pythons, outputs, strict=True):
            output.mkdir()
            _in(python, "convert", output)
        compare(*outputs)
        for python, output in zip(pythons, reversed(outputs), strict=True):
            _in(python, "load", output)
        count = len(list(outputs[0].iterdir()))
    print(f"{count} outputs are identical, and each loads in both versions in every loader")  # noqa: T201 - a command


def _in(python: str, what: str, output: Path) -> None:
    subprocess.run([python, "-m", "tests.support.matrix", f"--{what}", str(output)], check=True)  # noqa: S603 - our own


if __name__ == "__main__":
    steps = {"--convert": convert, "--load": load}
    if sys.argv[1] in steps:
        steps[sys.argv[1]](Path(sys.argv[2]))
    else:
        main(sys.argv[1:])
