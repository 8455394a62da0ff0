"""What a terminal shows, as text files that a test compares; ``python -m tests.commands.screens`` writes them anew."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

import w2vc
from tests.conftest import checkpoint

FOLDER = Path(__file__).parent
WIDTHS = (80, 120)

COMMANDS: dict[str, str] = {
    "help": "--help",
    "convert_help": "convert --help",
    "batch_help": "batch --help",
    "error": "convert model.pt out --dict missing.txt --dtype fp16",
    "usage_error": "model.pt out",
    "refusal": "convert refused.pt out",
    "dry_run": "convert model.pt out --dry-run",
    "inspect": "inspect model.pt",
    "inspect_refused": "inspect refused.pt",
    "verify_good": "verify model.pt good",
    "verify_bad": "verify model.pt bad",
    "verify_another": "verify model.pt another",
}
"""Command lines by the names of their screens."""

_VARIES = (
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"\b\d+\.\d s\b"), "0.0 s"),
    (re.compile(r"\b\d(\.\d+)?e[+-]\d+"), "0e-00"),
    # How often a bar is drawn is a matter of time.
    (re.compile(r"^\n?(?:(?:Comparing|Writing) .*(?:\n|$))+\n?", re.M), ""),
)


def prepare(folder: Path) -> None:
    """Put what the command lines name into a folder."""
    shutil.copyfile(checkpoint("relative_ctc"), folder / "model.pt")
    shutil.copyfile(checkpoint("target_glu_pretraining"), folder / "refused.pt")
    w2vc.convert(folder / "model.pt", folder / "good")
    w2vc.convert(checkpoint("rotary_ctc"), folder / "another")
    shutil.copytree(folder / "good", folder / "bad")
    change(folder / "bad")


def change(output: Path) -> None:
    """Change some tensors and a value of the config."""
    weights, config = output / "model.safetensors", output / "config.json"
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if name.endswith(("layers.1.ffn1.output_dense.weight", "layer_norm.bias")):
            tensors[name] = tensor + 0.25
    save_file(tensors, weights, {"format": "pt"})
    config.write_text(config.read_text().replace('"hidden_act": "swish"', '"hidden_act": "gelu"'))


def screen(name: str, columns: int, folder: Path) -> str:
    """Return what a command shows on a terminal of so many columns."""
    if name == "batch_in_progress":
        return in_progress(columns, folder)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "50", "PYTHONPATH": str(FOLDER.parents[2])}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-m", "w2vc", *COMMANDS[name].split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(ours, 2**16):
            shown += piece
    os.close(ours)
    process.wait()
    return _without_what_varies(shown.decode().replace("\r\n", "\n"))


def in_progress(columns: int, folder: Path) -> str:
    """Return what a batch shows while it runs: what was refused above the bars of what is going on."""
    from rich.console import Console

    from w2vc.batching.batch import BatchProgress
    from w2vc.batching.pool import Running
    from w2vc.batching.work import Result
    from w2vc.command.batch import make_bars

    console = Console(file=io.StringIO(), width=columns, force_terminal=True, highlight=False, markup=False)
    os.environ["COLUMNS"] = str(columns)
    bars, display = make_bars(console)
    running = (
        Running(folder / "german" / "checkpoint_best.pt", 1_234_567_890, 2_480_000_000),
        Running(folder / "english" / "checkpoint_best.pt", 31_000, 66_216),
    )
    display.result(
        Result(
            folder / "refused.pt",
            folder / "out",
            "refused",
            why=("target_glu is true, which transformers' pretraining head doesn't have.",),
            advice="Convert the encoder alone with --head none.",
        )
    )
    display.progress(BatchProgress(3, 12, running))
    console.print(bars.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return _without_what_varies(console.file.getvalue().replace(os.path.relpath(folder), "."))


def _without_what_varies(text: str) -> str:
    for pattern, instead in _VARIES:
        text = pattern.sub(instead, text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


NAMES = (*COMMANDS, "batch_in_progress")


def place(name: str, columns: int) -> Path:
    """Return where a screen is kept."""
    return FOLDER / f"{name}_{columns}.txt"
