"""What w2vc may remove: what it wrote itself, and nothing that a name alone makes look so.

A directory is ours if the weights in it say so (``Record`` in their safetensors metadata), or while it is built a
marker does, *and* if all that it holds are regular files of the names that w2vc writes. Only those are ever unlinked,
one by one, so that whatever else turns up stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from w2vc.planning.provenance import WEIGHTS, find_record

MARKER = ".w2vc-is-building"
"""A file in a directory that isn't complete yet, with the directory's name in it."""

_NAMES = frozenset(
    {
        *("README.md", "config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"),
        WEIGHTS,
    }
)
# transformers names the adapters of MMS so (modeling_wav2vec2.py, WAV2VEC2_ADAPTER_SAFE_FILE).
_ADAPTER = re.compile(r"adapter\.[\w-]{1,64}\.safetensors")


def not_ours(directory: Path) -> str | None:
    """Return why a directory isn't one that w2vc wrote, or None if it is.

    Raises:
        OSError: it can't be looked into.
    """
    strangers = sorted(_strangers(directory, _NAMES))
    if find_record(directory) is None:
        return f"{directory} holds {_shown(strangers or _names(directory))}, and no model that w2vc wrote"
    if strangers:
        return f"{directory} holds what w2vc didn't write: {_shown(strangers)}"
    return None


def mark(directory: Path) -> None:
    """Mark an empty directory as one that is being built."""
    (directory / MARKER).write_bytes(os.fsencode(directory.name))


def unmark(directory: Path) -> None:
    """Take the mark away: the directory is complete, and its weights say whose it is."""
    (directory / MARKER).unlink()


def is_complete(directory: Path) -> bool:
    """Whether a directory holds a whole model that w2vc wrote, and isn't being built any more."""
    found = find_record(directory)
    return found is not None and found.complete and not (directory / MARKER).exists()


def remove_ours(directory: Path, protected: Iterable[Path] = ()) -> None:
    """Remove a directory that w2vc wrote or was building; leave any other one as it is.

    Args:
        directory: it needn't exist.
        protected: files that are never removed, whatever links lead to them.
    """
    with contextlib.suppress(OSError):
        if _is_removable(directory) and held(directory, protected) is None:
            # What tells that it is ours goes last: whoever is killed meanwhile leaves something that can be removed.
            for name in sorted(_names(directory), key=lambda name: (name == MARKER, name == WEIGHTS)):
                if _is_named_ours(name, _NAMES | {MARKER}):
                    (directory / name).unlink()
        directory.rmdir()


def held(directory: Path, protected: Iterable[Path]) -> Path | None:
    """Return which of some files would be lost with a directory: one that is an entry of it, or lies below it.

    Inodes are compared, so that other names, links, and file systems that don't tell A from a make no difference.

    Raises:
        OSError: the directory can't be looked into.
    """
    itself = directory.stat()
    entries = {_identity(entry.stat()) for entry in directory.iterdir() if entry.is_file()}
    for path in protected:
        with contextlib.suppress(OSError, ValueError):
            real = Path(os.path.realpath(path))
            above = (place.stat() for place in (real, *real.parents))
            if _identity(path.stat()) in entries or any(os.path.samestat(itself, place) for place in above):
                return path
    return None


def _identity(details: os.stat_result) -> tuple[int, int]:
    return details.st_dev, details.st_ino


def _is_removable(directory: Path) -> bool:
    if not_ours(directory) is None:
        return True
    marker = directory / MARKER
    return _says(marker, os.fsencode(directory.name)) and not _strangers(directory, _NAMES | {MARKER})


def _says(marker: Path, name: bytes) -> bool:
    details = marker.lstat() if marker.exists() else None
    is_so_long = details is not None and stat.S_ISREG(details.st_mode) and details.st_size == len(name)
    return is_so_long and marker.read_bytes() == name


def _strangers(directory: Path, names: frozenset[str]) -> list[str]:
    """The names of the entries that aren't regular files of these names."""
    return [name for name in _names(directory) if not (_is_named_ours(name, names) and _is_regular(directory / name))]


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _is_named_ours(name: str, names: frozenset[str]) -> bool:
    return name in names or _ADAPTER.fullmatch(name) is not None


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:100] for name in sorted(names)[:5]) + more
