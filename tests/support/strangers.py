"""Folders as a stranger leaves them: full of modules that would run if they were found, and watched for any change."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = "click dask distributed numpy omegaconf regex rich safetensors soundfile torch transformers typer w2vc yaml"
_RUN_BY_THEMSELVES = "sitecustomize usercustomize __main__ __mp_main__"
_MODULE = "open(__file__ + '.ran', 'w').close()\n"


@dataclass(frozen=True)
class Strangers:
    """Modules in a folder, one for every name that Python or w2vc imports; each leaves a mark if it runs.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Strangers:
        """Write them."""
        for name in {*sys.stdlib_module_names, *_PACKAGES.split(), *_RUN_BY_THEMSELVES.split()}:
            (folder / f"{name}.py").write_text(_MODULE, encoding="utf-8")
        return cls(folder)

    def that_ran(self) -> list[str]:
        """The names of those that ran."""
        return sorted(path.name.removesuffix(".py.ran") for path in self.folder.glob("*.py.ran"))


@dataclass(frozen=True)
class Snapshot:
    """What lies below a folder: kind and permissions, size, time of the last change and inode, by relative path."""

    entries: Mapping[str, tuple[int, int, int, int]]

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        """Look at a folder, without following links."""
        found = {}
        for path in _below(folder):
            status = os.lstat(path)
            is_folder = os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - texts, not paths
            size_and_time = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
            found[os.path.relpath(path, folder)] = (status.st_mode, *size_and_time, status.st_ino)
        return cls(found)

    def without(self, name: str) -> Snapshot:
        """The same without one entry and what lies below it."""
        return Snapshot({path: entry for path, entry in self.entries.items() if Path(path).parts[0] != name})


def _below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        yield from (os.path.join(parent, name) for name in (*folders, *files))  # noqa: PTH118 - texts, not paths
