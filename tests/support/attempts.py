"""Every hostile file given to w2vc once: several at a time, each in a sandbox, with all that is to be asserted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.support.hostile_files import FIXTURES, Case
from tests.support.sandbox import Run, Sandbox
from tests.support.strangers import Snapshot

Weights = Mapping[str, np.ndarray]

AT_ONCE = 2


@dataclass(frozen=True)
class Attempt:
    """One run of ``w2vc convert`` on a hostile file.

    Attributes:
        path: of the file.
        run: what it did and used.
        changed: whether anything beside the output is another than before, in the file's folder or the current one.
        output: the names in the output, None where there is none.
        texts: the output's small files.
        weights: of the output.
    """

    path: Path
    run: Run
    changed: bool
    output: tuple[str, ...] | None
    texts: Mapping[str, str]
    weights: Weights


class Attempts:
    """Makes attempts ahead, as many at once as there are sandboxes, in the order in which they will be asked for."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._local = threading.local()
        self._opening = threading.Lock()
        self._sandboxes: list[Sandbox] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._futures: dict[tuple[str, bool], Future[Attempt]] = {}
        self._originals: dict[str, Future[Weights]] = {}

    def begin(self, wanted: Iterable[tuple[Case, bool]]) -> None:
        """Begin with what will be asked for: cases, and whether the report is to be JSON."""
        for case, as_json in wanted:
            self._future(case, as_json)

    def of(self, case: Case, *, as_json: bool = False) -> Attempt:
        """The attempt on a case; waits for it."""
        return self._future(case, as_json).result()

    def right_weights(self, case: Case) -> Weights:
        """What the file converts to from which the case was forged."""
        if case.original not in self._originals:
            self._originals[case.original] = self._pool.submit(self._convert_original, case.original)
        return self._originals[case.original].result()

    def close(self) -> None:
        """End the sandboxes."""
        self._pool.shutdown(cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def _future(self, case: Case, as_json: bool) -> Future[Attempt]:
        key = (case.name, as_json)
        if key not in self._futures:
            self._futures[key] = self._pool.submit(self._attempt, case, as_json)
        return self._futures[key]

    def _sandbox(self) -> Sandbox:
        if not hasattr(self._local, "sandbox"):
            with self._opening:
                folder = self._folder / f"sandbox-{len(self._sandboxes)}"
                folder.mkdir()
                self._local.sandbox = Sandbox(folder)
                self._sandboxes.append(self._local.sandbox)
        sandbox: Sandbox = self._local.sandbox
        return sandbox

    def _new_folder(self, sandbox: Sandbox) -> Path:
        number = getattr(self._local, "number", 0)
        self._local.number = number + 1
        folder = sandbox.folder / str(number)  # not the case's name: the words of its reason may be in it
        folder.mkdir()
        return folder

    def _attempt(self, case: Case, as_json: bool) -> Attempt:
        sandbox = self._sandbox()
        folder = self._new_folder(sandbox)
        path, output = folder / "checkpoint.pt", folder / "out"
        case.make(path)
        before = Snapshot.of(folder), _names(sandbox.folder)
        run = sandbox.run([*command(case, path, output), *(["--json"] if as_json else [])], seconds=self._seconds)
        after = Snapshot.of(folder).without("out"), _names(sandbox.folder)
        attempt = Attempt(path, run, after != before, *_outcome(output))
        _remove(folder)
        return attempt

    def _convert_original(self, original: str) -> Weights:
        sandbox = self._sandbox()
        output = self._new_folder(sandbox) / "out"
        run = sandbox.run(["convert", str(FIXTURES / original), str(output)])
        assert run.exit_code == 0, run.stderr
        weights: Weights = load_file(output / "model.safetensors")
        return weights


def command(case: Case, path: Path, output: Path) -> list[str]:
    """The arguments with which a case is converted."""
    more = [argument.format(folder=path.parent) for argument in case.arguments]
    return ["convert", str(path), str(output), *more]


def _names(folder: Path) -> set[str]:
    """What lies in the current folder of the payloads, where they would leave their mark."""
    return {path.name for path in folder.iterdir()}


def _outcome(output: Path) -> tuple[tuple[str, ...] | None, dict[str, str], Weights]:
    if not output.exists():
        return None, {}, {}
    names = tuple(sorted(path.name for path in output.iterdir()))
    small = [path for path in output.iterdir() if path.suffix != ".safetensors"]
    texts = {path.name: path.read_bytes().decode("utf-8", "replace") for path in small}
    weights = output / "model.safetensors"
    return names, texts, load_file(weights) if weights.exists() else {}


def _remove(folder: Path) -> None:
    """Remove what a case has made: some of it takes hundreds of megabytes."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _removal(path)(path)
    folder.rmdir()


def _removal(path: Path) -> Callable[[Path], None]:
    return Path.rmdir if path.is_dir() and not path.is_symlink() else Path.unlink
