"""What a terminal shows is what somebody has looked at: the files in ``screens``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.screens import NAMES, WIDTHS, place, prepare, screen

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("screens")
    prepare(made)
    return made


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_screen_is_as_it_was_looked_at(name: str, columns: int, folder: Path) -> None:
    shown = screen(name, columns, folder)
    assert shown == place(name, columns).read_text(encoding="utf-8"), "python -m tests.commands.screens writes it anew"
    # An example to be copied stays in one line.
    lines = [line for line in shown.splitlines() if not line.startswith(("Example: ", "      Did you mean"))]
    assert max(map(len, lines)) <= columns
