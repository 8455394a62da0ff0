"""What a reader is told of a cfg: each note, problem and refusal that a row of a table promises, for every row."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import w2vc
from tests.conftest import EXAMPLES, FIXTURES, checkpoint
from tests.support.forgery import Made, Raw, base, made
from w2vc import errors
from w2vc.errors import InconsistentError
from w2vc.families.cfg import short
from w2vc.families.family import Key, spelled_out
from w2vc.families.interpreter import Description, describe
from w2vc.reading.checkpoint import Checkpoint, read_checkpoint
from w2vc.reading.domains import anything
from w2vc.reading.program import read_program
from w2vc.reading.values import plain

READ: dict[str, Checkpoint] = {}


def example(name: str) -> Checkpoint:
    if name not in READ:
        READ[name] = read_checkpoint(checkpoint(name))
    return READ[name]


def with_values(found: Checkpoint, values: Mapping[str, object]) -> Checkpoint:
    """The checkpoint with other values at dotted paths of its cfg; without the key for ``...``."""
    cfg: Any = deepcopy(found.cfg)
    for path, value in values.items():
        *sections, key = path.split(".")
        section = cfg
        for name in sections:
            section = section.setdefault(name, {})
        section.pop(key, None)
        if value is not ...:
            section[key] = value
    return replace(found, cfg=cfg)


def rows(name: str) -> Iterator[tuple[str, Key]]:
    """The rows of an example's family that are read, with the paths that they are read at."""
    description = describe(example(name))
    keys, facts = description.family.keys, description.facts
    outer = keys.fine_tuned if facts["fine_tuned"] else keys.pretrained
    overridden = {field for row in outer for field in row.to}
    for row in keys.architecture:
        if not (row.to and overridden.issuperset(row.to)):
            yield f"{facts['section']}.{row.name}", row
    yield from ((row.name, row) for row in outer)


CANDIDATES = (True, False, 3, 5, 0.25, 0.75, "ltr", "phn", "[(8, 3, 2)]")


def other_value(row: Key, *than: object) -> Any:
    """A value that a row's domain accepts as it is and that is none of these; None where there is no such value."""
    words = row.domain.words.removeprefix("one of ").split(", ")
    for value in (*CANDIDATES, *words):
        if row.domain.accept(value) == value and value not in than and value not in row.spelled:
            return value
    return None


def described(name: str, values: Mapping[str, object]) -> Description:
    return describe(with_values(example(name), values))


def told_of(notes: Iterable[str], paths: Iterable[str]) -> list[str]:
    return sorted(note for path in paths for note in notes if f"cfg.{path} " in note)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_isnt_carried_over_is_noted_with_its_value_and_the_reason(name: str) -> None:
    noted = {path: row for path, row in rows(name) if row.noted}
    values = {path: other_value(row, row.default) for path, row in noted.items()}
    assert told_of(described(name, values).notes, noted) == sorted(
        f"cfg.{path} is {short(values[path])}: not carried over ({row.why})" for path, row in noted.items()
    )
    assert noted
    for silent in ({path: row.default for path, row in noted.items()}, dict.fromkeys(noted), dict.fromkeys(noted, ...)):
        assert told_of(described(name, silent).notes, noted) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_has_no_effect_may_be_anything_and_is_no_note(name: str) -> None:
    rows_without = ((path, row) for path, row in rows(name) if not row.noted and not row.only)
    silent = [path for path, row in rows_without if row.domain is anything and not path.endswith("w2v_args")]
    assert len(silent) > 5
    whole, found = described(name, {}), described(name, {path: {"nested": ["x"]} for path in silent})
    assert found.notes == whole.notes
    assert found.fields == whole.fields


@pytest.mark.parametrize("name", EXAMPLES)
def test_where_cfg_and_tensors_disagree_the_tensors_win_and_both_are_told(name: str) -> None:
    whole = described(name, {})
    measured = {path: row for path, row in rows(name) if row.tensors is not None}
    values = {path: other_value(row, whole.facts[row.name], row.default) for path, row in measured.items()}
    values = {path: value for path, value in values.items() if value is not None}
    found = described(name, values)
    # Some of them these tensors don't say.
    said = {
        path: measured[path] for path in values if found.facts[measured[path].name] == whole.facts[measured[path].name]
    }
    expected = sorted(
        f"cfg.{path} is {short(values[path])}, the tensors say {whole.facts[row.name]}" for path, row in said.items()
    )
    assert len(said) > 2
    assert told_of(found.notes, said) == expected
    alike = {path: whole.facts[row.name] for path, row in said.items()}
    assert told_of(described(name, alike).notes, said) == []
    only_said = {path: values[path] for path in said}
    assert described(name, only_said).fields == whole.fields
    with pytest.raises(InconsistentError) as caught:
        describe(with_values(example(name), only_said), strict="Give another.")
    assert sorted(caught.value.problems) == expected
    assert caught.value.advice == "Give another."


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    ("wrong", "spelled"), [([["nested"]], "'(a list of 1 values)'"), ({"a": 1}, "'(a section of 1 keys)'")]
)
def test_a_value_of_another_type_is_a_problem_for_every_key_that_counts(
    name: str, wrong: object, spelled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "MOST_PROBLEMS", 1000)
    monkeypatch.setattr(errors, "_LONGEST_MESSAGE", 1_000_000)
    counting = {path: row for path, row in rows(name) if row.domain is not anything and not path.endswith("w2v_args")}
    with pytest.raises(InconsistentError) as caught:
        described(name, dict.fromkeys(counting, wrong))
    expected = {f"cfg.{path} is {spelled}, which is not {row.domain.words}" for path, row in counting.items()}
    assert len(expected) > 10
    assert expected - set(caught.value.problems) == set()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "hubert" not in name])
def test_a_value_that_transformers_cant_express_is_refused_with_the_rows_reason(name: str) -> None:
    limited = {path: row for path, row in rows(name) if row.only and row.tensors is None}
    values = {path: other_value(row, *row.only) for path, row in limited.items()}
    values = {path: value for path, value in values.items() if value is not None}
    assert values
    refusals = {refusal.key: (refusal.reason, refusal.heads) for refusal in described(name, values).refusals}
    expected = {f"cfg.{path} is {spelled_out(value)}": path for path, value in values.items()}
    assert {key: refusals.get(key) for key in expected} == {
        key: (limited[path].why, limited[path].heads) for key, path in expected.items()
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_keys_are_named_in_each_section_but_not_in_a_namespace(name: str) -> None:
    whole = described(name, {})
    sections = sorted({whole.facts["section"], "model"})
    added = {f"{section}.{key}": 1 for section in sections for key in ("zebra", "added")}
    notes = [note for note in described(name, added).notes if note not in whole.notes]
    assert sorted(notes) == [
        f"cfg.{section} has keys that fairseq 0.12.2 doesn't: added, zebra" for section in sections
    ]
    in_namespace = {**added, **{f"{section}.arch": "wav2vec2" for section in sections}}
    assert described(name, in_namespace).notes == whole.notes


# ---------------------------------------------------------------------------------------------------------------
# Enums, numpy scalars and paths become what they hold


def walked(pickled: bytes) -> Any:
    program = read_program(pickled, "a.pt: data.pkl")
    return plain(program.root, program.globals, "a.pt: cfg")


SCALARS: list[Any] = [
    *(np.dtype(code).type(3) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")),
    *(np.float64(-0.1), np.float32(1e-7), np.int64(-(2**40)), np.uint64(2**63), np.bool_(True), np.bool_(False)),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda value: f"{value.dtype}-{value}")
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_numpy_scalar_is_the_number_that_it_is(module: str, scalar: Any) -> None:
    pickled = pickle.dumps(scalar, 2)
    own = scalar.__reduce__()[0].__module__
    found = walked(pickled.replace(f"c{own}\n".encode(), f"c{module}\n".encode()))
    assert type(found) is type(scalar.item())
    assert found == scalar.item()


def scalar(code: object, data: bytes, order: str = "<") -> Made:
    """A numpy scalar in a pickle, as numpy writes it."""
    dtype = made("numpy", "dtype", code, False, True)
    dtype.state = (3, order, None, None, None, -1, -1, 0)
    return made("numpy.core.multiarray", "scalar", dtype, made("_codecs", "encode", data.decode("latin-1"), "latin1"))


NO_NUMBERS: dict[str, Callable[[], Made]] = {
    "a big-endian one": lambda: scalar("f8", struct.pack(">d", 2.5), ">"),
    "one too short": lambda: scalar("f8", bytes(7)),
    "one too long": lambda: scalar("f8", bytes(9)),
    "one of another kind": lambda: scalar("U1", "a".encode("utf-32-le")),
}


def progress_with(value: object, tmp_path: Path) -> Mapping[str, Any]:
    """What is said of the training state where each of its numbers is this value."""
    start = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
    saved = start.saved()
    saved["optimizer_history"][-1]["num_updates"] = value
    saved["extra_state"] = {"train_iterator": {"epoch": value}, "best": value}
    saved["cfg"]["checkpoint"] = {"best_checkpoint_metric": "wer"}
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    found = read_checkpoint(tmp_path / "a.pt").progress
    return vars(found)


NUMBERS: list[tuple[object, object, object]] = [
    # the value, the number of updates and of the epoch, the best value of the metric
    (scalar("f8", struct.pack("<d", 2.5)), None, 2.5),
    (scalar("i8", struct.pack("<q", 7)), 7, 7.0),
    (scalar("i2", struct.pack("<h", -7), "|"), -7, -7.0),
    (scalar("b1", b"\x01"), None, None),
    (7, 7, 7.0),
    (2.5, None, 2.5),
    (True, None, None),
    ("7", None, None),
    (None, None, None),
    (Raw(b"]"), None, None),
    *((make(), None, None) for make in NO_NUMBERS.values()),
]


@pytest.mark.parametrize(("value", "whole", "real"), NUMBERS)
def test_the_training_states_numbers_may_be_numpys(value: object, whole: object, real: object, tmp_path: Path) -> None:
    expected = {"updates": whole, "epoch": whole, "metric": "wer", "best": real}
    assert progress_with(value, tmp_path) == expected


@pytest.mark.parametrize("what", NO_NUMBERS)
def test_a_numpy_scalar_that_is_no_number_is_named_and_never_guessed(what: str, tmp_path: Path) -> None:
    start = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
    saved = start.saved()
    saved["cfg"]["task"]["seed"] = NO_NUMBERS[what]()
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    found: Any = read_checkpoint(tmp_path / "a.pt").cfg
    assert found["task"]["seed"] == "numpy.core.multiarray.scalar"


VALUES: list[tuple[Any, object]] = [
    (made("fairseq.dataclass.constants", "ChoiceEnum", "layer_norm"), "layer_norm"),
    (made("fork", "Two", "a", "b"), ["a", "b"]),
    (made("fork", "Nothing"), "fork.Nothing"),
    (made("pathlib", "PosixPath", "/", "data", "dict.txt"), "/data/dict.txt"),
    (made("pathlib", "PurePath", "data", "dict.txt"), "data/dict.txt"),
    (made("torch", "device", "cuda", 1), "cuda:1"),
    (made("_codecs", "encode", "a", "latin1"), "bytes"),
    (scalar("f8", struct.pack("<d", 0.25)), 0.25),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[str(row[1]) for row in VALUES])
def test_an_object_in_a_cfg_becomes_what_it_holds(value: Any, expected: object, tmp_path: Path) -> None:
    start = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
    saved = start.saved()
    saved["cfg"]["task"]["seed"] = value
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    found: Any = read_checkpoint(tmp_path / "a.pt").cfg
    assert found["task"]["seed"] == expected


@pytest.mark.parametrize("name", ["relative_ctc", "wav2vec2_base_ctc", "hubert_ctc"])
def test_a_cfg_of_enums_and_numpy_scalars_makes_the_same_model(name: str, tmp_path: Path) -> None:
    start = base(checkpoint(name))
    saved = start.saved()
    section = saved["cfg"]["model"]["w2v_args"]["model"]
    for key, value in section.items():
        if type(value) is float:
            section[key] = scalar("f8", struct.pack("<d", value))
        elif type(value) is int:
            section[key] = scalar("i8", struct.pack("<q", value))
        elif key in ("extractor_mode", "layer_type", "activation_fn"):
            section[key] = made("fairseq.dataclass.constants", "ChoiceEnum", value)
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    ours = w2vc.convert(tmp_path / "a.pt", tmp_path / "out", dry_run=True).plan
    assert ours.config == w2vc.convert(checkpoint(name), tmp_path / "out", dry_run=True).plan.config
