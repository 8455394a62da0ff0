"""Every error class there is can happen, and each belongs to one exit code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import w2vc
from tests.conftest import FIXTURES, checkpoint
from w2vc import errors
from w2vc.command.exit_codes import EXIT_CODES, exit_code
from w2vc.errors import W2vcError

BRANCHES = {W2vcError, errors.UnreadableError, errors.RefusedError, errors.OutputError}
"""Raised only as one of their kinds."""


def classes(base: type[W2vcError] = W2vcError) -> set[type[W2vcError]]:
    return {base}.union(*(classes(kind) for kind in base.__subclasses__()))


def damaged(folder: Path) -> None:
    path = folder / "cut.pt"
    path.write_bytes(checkpoint("relative_ctc").read_bytes()[:100_000])
    w2vc.convert(path, folder / "out")


def unsafe(folder: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return (os.system, ("touch owned",))

    torch.save({"model": Evil()}, folder / "evil.pt")
    w2vc.convert(folder / "evil.pt", folder / "out")


def not_a_checkpoint(folder: Path) -> None:
    (folder / "page.pt").write_text("<html>404</html>", encoding="utf-8")
    w2vc.convert(folder / "page.pt", folder / "out")


def without_dictionary(folder: Path) -> None:
    path = folder / "model.pt"
    path.write_bytes((FIXTURES / "eras" / "namespace_ctc.pt").read_bytes())
    w2vc.convert(path, folder / "out")


def contradicting(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 3}', encoding="utf-8")
    w2vc.convert(checkpoint("relative_ctc"), folder / "out", config=folder / "config.json")


def taken(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "file").touch()
    w2vc.convert(checkpoint("relative_ctc"), folder / "out")


def below_a_file(folder: Path) -> None:
    (folder / "file").touch()
    w2vc.convert(checkpoint("relative_ctc"), folder / "file" / "out")


def different(folder: Path) -> None:
    w2vc.convert(checkpoint("relative_pretraining"), folder / "converted")
    path = folder / "converted" / "preprocessor_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    w2vc.verify(checkpoint("relative_pretraining"), folder / "converted").raise_if_different()


HAPPENS: dict[type[W2vcError], Callable[[Path], object]] = {
    errors.UsageError: lambda folder: w2vc.convert(checkpoint("relative_ctc"), folder / "out", head="both"),
    errors.MissingError: lambda folder: w2vc.convert(folder / "none.pt", folder / "out"),
    errors.NotACheckpointError: not_a_checkpoint,
    errors.DamagedError: damaged,
    errors.UnsafeError: unsafe,
    errors.UnsupportedModelError: lambda folder: w2vc.convert(checkpoint("cropped_ctc"), folder / "out"),
    errors.DictionaryError: without_dictionary,
    errors.InconsistentError: contradicting,
    errors.OutputExistsError: taken,
    errors.OutputWriteError: below_a_file,
    errors.DifferenceError: different,
}


def test_there_is_no_error_class_that_cannot_happen() -> None:
    assert set(HAPPENS) == classes() - BRANCHES


@pytest.mark.parametrize("kind", HAPPENS, ids=lambda kind: kind.__name__)
def test_each_error_happens_with_a_problem_and_an_advice_and_leaves_no_output(
    kind: type[W2vcError], tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        HAPPENS[kind](tmp_path)
    assert type(caught.value) is kind
    assert all(caught.value.problems)
    assert caught.value.advice.strip()
    assert not (tmp_path / "out").exists() or kind is errors.OutputExistsError
    assert exit_code(caught.value) in (2, 3, 4, 5, 6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_each_class_has_exactly_one_exit_code() -> None:
    for kind in classes() - {W2vcError}:
        assert sum(issubclass(kind, branch) for branch in EXIT_CODES) == 1, kind


def test_an_error_crosses_process_boundaries_whole() -> None:
    error = errors.DamagedError(["one", "two"], advice="Do this.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), again.problems, again.advice) == (type(error), error.problems, error.advice)
