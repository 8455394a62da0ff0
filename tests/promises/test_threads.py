"""Every function may be called from several threads at once, also while nothing is imported yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CONVERTIBLE
from tests.support.readme import ROOT

pytestmark = pytest.mark.slow

ROUNDS = 5
# In a process of its own, since the first round has to meet everything unimported.
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import w2vc

fixtures, folder = Path(sys.argv[1]), Path(sys.argv[2])
names, rounds = sys.argv[4:], int(sys.argv[3])
before = sys.getswitchinterval()

def convert(number):
    name = names[number % len(names)]
    pretrained = fixtures / name / "pretrained.pt"
    options = {"pretrained": pretrained} if pretrained.exists() else {}
    w2vc.convert(fixtures / name / "checkpoint.pt", folder / str(number), card=False, **options)
    return w2vc.inspect(fixtures / name / "checkpoint.pt", **options).values()["converts"]

with ThreadPoolExecutor(4) as threads:
    print(sum(threads.map(convert, range(rounds * len(names)))))

import torch

assert sys.getswitchinterval() == before
# torch has some of its own; the stand-ins of a load are pairs of a class and a name.
assert all(item.__module__.startswith("torch.") for item in torch.serialization.get_safe_globals())
"""


def test_good_checkpoints_convert_from_four_threads_in_five_rounds(tmp_path: Path) -> None:
    names = CONVERTIBLE[:: len(CONVERTIBLE) // 24][:24]
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, ROOT / "fixtures", tmp_path, str(ROUNDS), *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == ROUNDS * len(names) == 120


@pytest.mark.parametrize("repetition", range(3))
def test_the_very_first_conversions_may_come_from_four_threads(repetition: int, tmp_path: Path) -> None:
    del repetition  # which of the threads comes first differs
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, ROOT / "fixtures", tmp_path, "1", *(["relative_ctc"] * 4)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 4
