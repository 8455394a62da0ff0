"""Each fixture's small files are, to the last setting, what was written down by reading fairseq.

``fixtures/<name>/expected.json`` is made by ``fixtures/make_expected.py``, which shares nothing with w2vc.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONVERTIBLE, EVERY, FIXTURES, UNRECORDED, checkpoint, options
from w2vc.errors import UnsupportedModelError
from w2vc.options import Options
from w2vc.planning.plan import Plan, make_plan
from w2vc.planning.preparation import Prepared, prepare

Files = dict[str, Any]
EXPECTED: dict[str, dict[str, Files]] = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*/expected.json"))
}
HEAD_REFUSED = [name for name in EXPECTED if name not in {*CONVERTIBLE, *UNRECORDED}]


def prepared(path: Path, **given: Any) -> Prepared:
    return prepare(path, Options(card=False, **given))


def files(plan: Plan) -> Files:
    """What a conversion would write: each small file's content, and the names of the files of weights."""
    return {**{name: json.loads(data) for name, data in plan.files.items()}, "weights": list(plan.weights)}


def lines(files: Files) -> list[str]:
    """A line for each setting, in which 1, 1.0 and true differ, as they do for transformers."""
    return [f"{name}: {line}" for name, held in sorted(files.items()) for line in _settings(held)]


def _settings(held: Any) -> list[str]:
    return [f"{key} = {value!r}" for key, value in sorted(held.items())] if isinstance(held, dict) else [repr(held)]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in HEAD_REFUSED])
def test_every_setting_is_what_fairseq_says_and_there_is_no_other(name: str) -> None:
    found = prepared(checkpoint(name), **options(name))
    own, *others = EXPECTED[name]
    assert found.plan.head == own
    assert lines(files(found.plan)) == lines(EXPECTED[name][own])
    for head in others:
        plan = make_plan(found.checkpoint, found.description, None, head, "float32")
        assert lines(files(plan)) == lines(EXPECTED[name][head]), head


@pytest.mark.parametrize("name", HEAD_REFUSED)
def test_an_encoder_whose_head_is_refused_has_the_settings_that_fairseq_says(name: str) -> None:
    assert lines(files(prepared(checkpoint(name), head="none").plan)) == lines(EXPECTED[name]["none"])


@pytest.mark.parametrize("name", [name for name in EVERY if name not in EXPECTED])
def test_a_fixture_of_which_nothing_is_expected_converts_with_no_head(name: str) -> None:
    for head in ("auto", "none"):
        with pytest.raises(UnsupportedModelError):
            prepared(checkpoint(name), head=head)
