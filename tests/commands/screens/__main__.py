"""Writes all screens anew: ``python -m tests.commands.screens``."""

import tempfile
from pathlib import Path

from tests.commands.screens import NAMES, WIDTHS, place, prepare, screen

with tempfile.TemporaryDirectory() as folder:
    prepare(Path(folder))
    for name in NAMES:
        for columns in WIDTHS:
            place(name, columns).write_text(screen(name, columns, Path(folder)), encoding="utf-8")
