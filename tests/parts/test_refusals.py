"""Each file that lies about itself is refused by the readers, in its own words.

The same files as in ``promises/test_hostile_files.py``, read in this process: what a wrong reader would do with them
is harmless. Those that are bombs or carry code are left to the sandbox.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.hostile_files import CASES, Case
from w2vc.command.exit_codes import exit_code
from w2vc.errors import W2vcError
from w2vc.reading.checkpoint import read_checkpoint

UNREADABLE = 3
"""The exit code; whoever plans or writes refuses with another one, but for bytes that have another checksum."""
SEEN_WHEN_WRITTEN = {
    "bit_flipped_in_a_tensor",
    "zeros_in_place_of_a_tensor",
    "not_a_number_with_a_wrong_checksum",
}
HARMLESS = ("lies", "damage", "wrong file types")
LIES = [
    case
    for case in CASES.values()
    if case.category in HARMLESS
    and case.exit_codes == (UNREADABLE,)
    and not case.armed
    and case.name not in SEEN_WHEN_WRITTEN
]


def test_there_are_hundreds_of_them() -> None:
    assert len(LIES) > 250
    assert CASES.keys() >= SEEN_WHEN_WRITTEN


@pytest.mark.parametrize("case", LIES, ids=lambda case: case.name)
def test_a_file_that_lies_is_refused_by_the_readers_with_its_reason(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    case.make(path)
    with pytest.raises(W2vcError) as caught:
        read_checkpoint(path)
    assert exit_code(caught.value) == UNREADABLE
    assert re.search(case.word, f"w2vc: {caught.value}".replace(str(path), "PATH"))
