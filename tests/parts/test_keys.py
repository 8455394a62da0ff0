"""Every key of fairseq's real config dataclasses is accounted for, with fairseq's own default."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import FIXTURES
from w2vc.families.conformer import keys as cfg_keys
from w2vc.families.conformer.keys import CfgKey

RECORDED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "fairseq_config_keys.json").read_text(encoding="utf-8"))

TABLES = {
    "Wav2Vec2Config": cfg_keys.WAV2VEC2,
    "Wav2Vec2AsrConfig": cfg_keys.ASR,
    "Wav2Vec2CtcConfig": cfg_keys.CTC,
}
# Of FairseqDataclass itself, and the same for every model.
OF_EVERY_CONFIG = {"_name"}
# Not values but references to other sections, or fields without a default.
REFERENCES = {"normalize", "data", "ddp_backend", "w2v_path"}


@pytest.mark.parametrize("name", TABLES)
def test_each_key_of_fairseqs_dataclass_is_in_the_table(name: str) -> None:
    assert RECORDED[name].keys() - OF_EVERY_CONFIG <= TABLES[name].keys()


@pytest.mark.parametrize("name", TABLES)
def test_the_defaults_are_fairseqs_own(name: str) -> None:
    table: dict[str, CfgKey] = TABLES[name]
    for key, default in RECORDED[name].items():
        if key not in REFERENCES | OF_EVERY_CONFIG:
            ours = table[key].default
            assert (list(ours) if isinstance(ours, tuple) else ours) == default, key


def test_each_row_says_what_becomes_of_its_key_and_why() -> None:
    for table in TABLES.values():
        for key, row in table.items():
            assert row.name == key
            assert row.why
