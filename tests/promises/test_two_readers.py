"""Whenever a conversion succeeds, each of its weights is what ``torch.load`` gives under its name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import w2vc
from tests.conftest import FIXTURES
from tests.support.forgery import Storage, made, model
from tests.support.fuzz import slim
from tests.support.two_readers import base_of, differences, run, tally_of
from w2vc.errors import W2vcError

pytestmark = pytest.mark.slow

CHECKPOINTS = sorted(FIXTURES.glob("**/*.pt"))
# About a minute; more by hand: python -m tests.support.two_readers --count 5000 --seed 7
COUNT = 1000


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_weights_of_a_real_checkpoint_are_those_that_torch_loads(path: Path, tmp_path: Path) -> None:
    problems = ""
    try:
        report = w2vc.convert(path, tmp_path / "out", dictionary=path.parent if path.stem == "checkpoint" else None)
    except W2vcError as refused:
        problems = str(refused)
    else:
        assert report.plan.moves
        assert differences(path, report, tmp_path / "out") == []
    assert "says two things" not in problems
    assert "torch.load" not in problems


def test_no_mutation_parts_what_is_written_from_what_torch_loads(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    tally, findings = run(COUNT, 1, tmp_path / "files")
    assert findings == []
    # Enough of them convert, and to other weights, for the comparison to mean something.
    assert tally_of(tally, "same") > COUNT / 10, tally
    for aimed in ("exchanged_storages", "shuffled_records", "something_carried_along", "another_type", "another_view"):
        assert tally[f"{aimed}: same"], (aimed, tally)
    assert tally_of(tally, "refused") > COUNT / 3, tally


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nan_is_counted_by_the_tensors_type_whatever_its_storage_claims(dtype: str, tmp_path: Path) -> None:
    data = slim(FIXTURES / "eras" / ("plain_dict_ctc.pt" if dtype == "float32" else "fp16_ctc.pt"))
    whole = base_of(data)
    saved = whole.saved()
    name = "w2v_encoder.proj.weight"
    storage, offset, size, stride = model(saved)[name].arguments[:4]
    record = f"data/{storage.key}"
    word, _kind, key, place, numel = storage.identity
    untyped = Storage((word, type(made("torch.storage", "UntypedStorage")), key, place, len(whole.records[record])))
    hooks, kind = made("collections", "OrderedDict"), type(made("torch", dtype))
    model(saved)[name] = made("torch._utils", "_rebuild_tensor_v3", untyped, offset, size, stride, False, hooks, kind)
    words = struct.pack("<f" if dtype == "float32" else "<e", float("nan"))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole.with_saved(saved, {record: words * numel}))
    report = w2vc.convert(path, tmp_path / "out")
    assert report.written is not None
    assert dict(report.written.not_finite) == {name: numel}
    assert differences(path, report, tmp_path / "out") == []
