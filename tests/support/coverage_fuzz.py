"""The rule of ``two_readers.py`` under coverage-guided fuzzing, for an hour, by hand: not a part of the tests.

Needs ``pip install atheris``. From the repository's folder, with the eras' pickles as the first corpus:

    python -m tests.support.coverage_fuzz CORPUS -max_total_time=3600 -timeout=20 -rss_limit_mb=2048

An input is a pickle: it is put into a real checkpoint's zip in the place of ``data.pkl``, with the checksum that fits.
No traceback, no hang, no success on which the two readers differ; what breaks the rule is left as ``crash-*``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

# Nothing here may import w2vc: it has to be imported while atheris watches.
from tests.support.forgery import Base, base, zipped

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
SEEDS = ("plain_dict_ctc", "structured_config_ctc", "views_ctc", "extra_state_objects_ctc")


def _zip_of(name: str) -> Base:
    return base(FIXTURES / "eras" / f"{name}.pt")


def first_corpus(folder: Path) -> None:
    """Writes the seeds' pickles, where the folder has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SEEDS:
        (folder / f"{name}.pkl").write_bytes(_zip_of(name).records["data.pkl"])


def one_input(start: Base, folder: Path, data: bytes) -> None:
    """Tries one pickle. Raises AssertionError where the rule is broken."""
    from tests.support.two_readers import verdict

    found = verdict(zipped(start.parts({"data.pkl": data})), folder, seconds=0)  # libFuzzer has a limit of its own
    assert found in ("refused", "same"), found


def _main() -> None:
    import importlib

    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["w2vc.reading", "torch._weights_only_unpickler"]):
        importlib.import_module("w2vc.reading.checkpoint")
    first_corpus(Path(sys.argv[1]))
    start = _zip_of(SEEDS[0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        atheris.Setup(sys.argv, lambda data: one_input(start, folder, data))
        atheris.Fuzz()


if __name__ == "__main__":
    _main()
