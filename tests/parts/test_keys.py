"""Every key of fairseq's real config dataclasses is accounted for, with fairseq's own default."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import FIXTURES
from w2vc.families import FAMILIES
from w2vc.families.family import Family, Key

RECORDED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "fairseq_config_keys.json").read_text(encoding="utf-8"))

_OF_FINE_TUNING = ("Wav2Vec2AsrConfig", "Wav2Vec2CtcConfig")
DATACLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "wav2vec2-conformer": ("Wav2Vec2Config", _OF_FINE_TUNING),
    "wav2vec2": ("Wav2Vec2Config", _OF_FINE_TUNING),
    "hubert": ("HubertConfig", ("HubertAsrConfig", "HubertCtcConfig", *_OF_FINE_TUNING)),
    "data2vec-audio": ("Data2VecAudioConfig", _OF_FINE_TUNING),
}
"""Of each family: fairseq's dataclass of the model, and those of fine-tuning."""

# Of FairseqDataclass itself, and the same for every model.
OF_EVERY_CONFIG = {"_name"}
# Not values but references to other sections, or fields without a default.
REFERENCES = {"normalize", "data", "ddp_backend", "w2v_path", "label_rate", "ema_anneal_end_step", "max_update"}


def below_model(rows: tuple[Key, ...]) -> dict[str, Key]:
    return {row.name.removeprefix("model."): row for row in rows if row.name.startswith("model.")}


# One that is missing here fails the first test below.
_NAMED = [family for family in FAMILIES if family.name in DATACLASSES]
TABLES: list[tuple[str, dict[str, Key]]] = [
    *((DATACLASSES[family.name][0], {row.name: row for row in family.keys.architecture}) for family in _NAMED),
    *((name, below_model(family.keys.fine_tuned)) for family in _NAMED for name in DATACLASSES[family.name][1]),
]


def test_every_family_names_fairseqs_dataclasses() -> None:
    assert DATACLASSES.keys() == {family.name for family in FAMILIES}


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_each_key_of_fairseqs_dataclass_is_in_the_table(name: str, table: dict[str, Key]) -> None:
    assert RECORDED[name].keys() - OF_EVERY_CONFIG <= table.keys()


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_the_defaults_are_fairseqs_own(name: str, table: dict[str, Key]) -> None:
    for key, default in RECORDED[name].items():
        if key not in REFERENCES | OF_EVERY_CONFIG:
            assert table[key].default == default, key


# Of AudioPretrainingConfig, HubertPretrainingConfig, Wav2VecCriterionConfig and CtcCriterionConfig, where None is no
# label and no further loss; multi_corpus_keys is fairseq's last commit's.
OTHER_SECTIONS: dict[str, Any] = {
    "task.normalize": False,
    "task.sample_rate": 16000,
    "task.labels": "",
    "task.multi_corpus_keys": None,
    "criterion.loss_weights": [],
    "criterion.zero_infinity": False,
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_defaults_of_task_and_criterion_are_fairseqs_own(family: Family) -> None:
    for row in (*family.keys.pretrained, *family.keys.fine_tuned):
        if not row.name.startswith("model."):
            assert row.default == OTHER_SECTIONS[row.name], row.name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_row_becomes_a_field_or_says_why_not(family: Family) -> None:
    for row in (*family.keys.architecture, *family.keys.pretrained, *family.keys.fine_tuned):
        assert row.why or row.to or row.into, row.name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_default_is_in_its_domain(family: Family) -> None:
    for row in (*family.keys.architecture, *family.keys.pretrained, *family.keys.fine_tuned):
        assert row.default is None or row.domain.accept(row.default) is not None, row.name
