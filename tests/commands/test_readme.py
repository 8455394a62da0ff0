"""The README's commands and snippets run as they are written, and do what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import recorded_facts
from tests.support.readme import ROOT, blocks, commands

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository's fixtures in it, where outputs may be made."""
    place = tmp_path_factory.mktemp("readme")
    (place / "fixtures").symlink_to(ROOT / "fixtures")
    return place


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(  # noqa: S603 - the README's own commands
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert result.returncode == 0, (command, result.stderr)
    return result.stdout


def test_the_two_commands_are_there() -> None:
    assert "w2vc convert fixtures/" in blocks("sh")[0]
    assert "python -m tests" in blocks("sh")[1]


@pytest.mark.parametrize("command", commands())
def test_each_command_runs(command: str, folder: Path) -> None:
    assert run([sys.executable, "-m", *shlex.split(command)], folder)


def test_the_first_snippet_transcribes_to_what_fairseq_recorded(converted: Callable[[str], Path], folder: Path) -> None:
    (folder / "my-model").symlink_to(converted("relative_ctc"))
    facts = recorded_facts("relative_ctc")
    expected = facts["transcripts"][facts["clips"].index("cat")].replace("|", " ").strip()
    assert run([sys.executable, "-c", blocks("python")[0]], folder).splitlines()[-1] == expected


def test_the_second_snippet_runs(folder: Path) -> None:
    assert "Wav2Vec2ConformerForCTC" in run([sys.executable, "-c", blocks("python")[1]], folder)


def test_every_file_that_it_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|w2vc|fixtures)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
