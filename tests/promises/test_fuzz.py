"""Random mutations of real checkpoints are refused, or convert to the original's weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import w2vc
from tests.support.fuzz import Seed, fuzz, seeds, verdict

pytestmark = pytest.mark.slow

# About a minute; more by hand: python -m tests.support.fuzz --count 100000 --seed 7
COUNT = 2000


def test_no_mutation_gets_a_traceback_a_hang_or_other_weights(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    tally, findings = fuzz(COUNT, 1, tmp_path / "files")
    assert findings == []
    refused = sum(times for how, times in tally.items() if how.endswith("refused"))
    assert 0.5 * COUNT < refused < 0.98 * COUNT, tally


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    assert fuzz(20, 5, tmp_path / "files") == fuzz(20, 5, tmp_path / "files")


# What the run would notice


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return seeds(tmp_path_factory.mktemp("seeds"))[0]


def after_converting(then: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    convert = w2vc.convert

    def run(path: Path, output: Path) -> None:
        convert(path, output)
        then(output)

    return run


def flip_the_last_bit(output: Path) -> None:
    path = output / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def raise_an_error(_output: Path) -> None:
    raise KeyError("x")


def refuse_and_leave_it(_output: Path) -> None:
    raise w2vc.errors.DamagedError("x", advice="y")


def wait_too_long(_output: Path) -> None:
    time.sleep(5)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (flip_the_last_bit, "has weights that the file doesn't say"),
        (raise_an_error, "raises KeyError"),
        (refuse_and_leave_it, "leaves ['out'] behind"),
        (wait_too_long, "raises TooSlow"),
    ],
)
def test_the_rule_is_enforced(
    then: Callable[[Path], object], words: str, seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if then is wait_too_long:
        monkeypatch.setattr("tests.support.fuzz.SECONDS_A_CASE", 1)
    monkeypatch.setattr(w2vc, "convert", after_converting(then))
    assert verdict(seed, seed.data, tmp_path).startswith(words)
