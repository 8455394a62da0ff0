"""The README's commands and snippets, taken out of it word by word, and where they run."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def blocks(language: str) -> list[str]:
    """The contents of the README's code blocks in a language, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def active(environment: Path) -> dict[str, str]:
    """The variables of a shell in which a virtual environment is active, and nothing of the one that runs this."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def commands() -> list[str]:
    """Every command line that begins with w2vc."""
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("w2vc ")]
