"""Each second line holds by itself: what usually notices first is bypassed, and the second line has to notice."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import w2vc
from tests.conftest import FIXTURES, checkpoint
from tests.support.forgery import Made, a_global, a_list, a_tensor, a_tuple, altered, base, model, text
from tests.support.limits import limit
from w2vc.errors import DamagedError, InconsistentError, UnsafeError
from w2vc.families.family import QUANTIZED, StageMap
from w2vc.families.shared.reference import ReferenceOutputs
from w2vc.planning import plan as planning
from w2vc.planning import processor
from w2vc.planning.plan import Plan
from w2vc.reading import machine
from w2vc.reading.archive import examine, open_checkpoint
from w2vc.reading.budget import TENSOR_BYTES
from w2vc.reading.checkpoint import read_checkpoint
from w2vc.reading.program import read_next_program, read_program
from w2vc.reading.source import PickleSource
from w2vc.reading.torch_reader import load_with_bytes
from w2vc.verifying import compare_outputs as comparing
from w2vc.verifying import comparison, transformers_settings
from w2vc.verifying.compare_outputs import Pass, compare_outputs, leave_out_near_ties, likeliest
from w2vc.verifying.comparison import verify
from w2vc.writing import record_check, writer
from w2vc.writing.acceptance import accept, load_classes
from w2vc.writing.safetensors_file import Layout, layout

Converted = Callable[[str], Path]


def planned(name: str, **options: Any) -> Plan:
    return w2vc.convert(checkpoint(name), "never-written", dry_run=True, **options).plan


# ---------------------------------------------------------------------------------------------------------------
# transformers' own classes, before the output gets its name


def in_json(name: str, values: Mapping[str, object]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))

    return change


def with_ids(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[Path], None]:
    def changed(directory: Path) -> None:
        path = directory / "vocab.json"
        path.write_text(json.dumps(change(json.loads(path.read_bytes()))))

    return changed


def exchanged(ids: dict[str, int]) -> dict[str, int]:
    first, second = [token for token in ids if not token.startswith("<")][1:3]
    return {**ids, first: ids[second], second: ids[first]}


UNACCEPTED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a value that its config refuses": (
        in_json("config.json", {"conv_dim": [3]}),
        ["transformers refuses config.json: "],
    ),
    "a value that its config changes": (
        in_json("config.json", {"id2label": {"0": "a"}}),
        ["transformers makes {0: 'a'} of id2label = {'0': 'a'} in config.json"],
    ),
    "a token that no row is for": (
        with_ids(lambda ids: {**ids, "one more": len(ids)}),
        ["tokens, but the head has 32 rows"],
    ),
    "another blank": (
        in_json("tokenizer_config.json", {"pad_token": "<s>"}),
        ["transformers takes 1 for the blank, not 0"],
    ),
    "two tokens exchanged": (with_ids(exchanged), ["transformers has other tokens at ["]),
}


@pytest.mark.parametrize("name", ["relative_ctc", "wav2vec2_base_ctc"])
def test_transformers_accepts_what_is_written(name: str, converted: Converted) -> None:
    plan = planned(name)
    accept(load_classes(plan.config_class, with_tokenizer=True), plan, converted(name))


@pytest.mark.parametrize("what", UNACCEPTED)
@pytest.mark.parametrize("name", ["relative_ctc", "wav2vec2_base_ctc"])
def test_small_files_that_transformers_takes_otherwise_are_not_accepted(
    name: str, what: str, converted: Converted, tmp_path: Path
) -> None:
    change, words = UNACCEPTED[what]
    plan = planned(name)
    directory = Path(shutil.copytree(converted(name), tmp_path / "out"))
    change(directory)
    with pytest.raises(InconsistentError) as caught:
        accept(load_classes(plan.config_class, with_tokenizer=True), plan, directory)
    assert len(caught.value.problems) == len(words), caught.value.problems
    for problem, word in zip(caught.value.problems, words, strict=True):
        assert word in problem


def test_every_key_that_a_config_changes_is_named(converted: Converted, tmp_path: Path) -> None:
    plan = planned("relative_ctc")
    directory = Path(shutil.copytree(converted("relative_ctc"), tmp_path / "out"))
    classes = load_classes(plan.config_class, with_tokenizer=False)

    kind: Any = classes.config

    class Changing(kind):  # type: ignore[misc]  # transformers has no types
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            self.hidden_size, self.conv_dim, self.model_type = 1, (3,), "other"

    with pytest.raises(InconsistentError) as caught:
        accept(replace(classes, config=Changing), replace(plan, vocabulary=None), directory)
    assert {problem.split(" of ")[1].split(" ")[0] for problem in caught.value.problems} == {"hidden_size", "conv_dim"}


def test_a_list_that_a_config_makes_a_tuple_is_the_same(converted: Converted) -> None:
    plan = planned("relative_ctc")
    classes = load_classes(plan.config_class, with_tokenizer=False)
    kind: Any = classes.config

    def with_tuple(**values: Any) -> Any:
        config = kind(**values)
        object.__setattr__(config, "conv_dim", tuple(values["conv_dim"]))
        return config

    accept(replace(classes, config=with_tuple), replace(plan, vocabulary=None), converted("relative_ctc"))


def test_nothing_is_left_of_what_transformers_doesnt_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = processor.tokenizer_config
    monkeypatch.setattr(planning, "tokenizer_config", lambda *given: {**ours(*given), "pad_token": "<s>"})
    with pytest.raises(InconsistentError, match="transformers takes 1 for the blank"):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# The safetensors library, which opens what was written


def with_another_header(change: Callable[[bytes], bytes]) -> Callable[..., Layout]:
    def changed(*arguments: Any) -> Layout:
        made = layout(*arguments)
        header = change(made.header)
        assert len(header) == len(made.header)
        assert header != made.header
        return replace(made, header=header)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.replace(b'"lm_head.bias"', b'"lm_head.bia5"'),
        lambda header: header.replace(b'"I64"', b'"U64"'),
        lambda header: header.replace(b'"shape":[32,20]', b'"shape":[20,32]'),
    ],
    ids=["name", "dtype", "shape"],
)
def test_weights_that_the_library_reads_otherwise_are_never_left(
    change: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "layout", with_another_header(change))
    with pytest.raises(AssertionError, match="holds other tensors than were written"):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# The checkpoint, looked at again after the gate


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_checkpoint_that_changes_while_it_is_copied_is_refused(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(checkpoint("relative_ctc"), tmp_path / "checkpoint.pt"))
    places = {"before": (record_check.RecordCheck, "begin"), "after": (writer, "_write_weights")}
    function = getattr(*places[when])

    def touched(*arguments: Any) -> None:
        function(*arguments)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(*places[when], touched)
    with pytest.raises(DamagedError, match="was changed while it was read"):
        w2vc.convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _AtOnce:
    """A thread whose work is done when it is started."""

    def __init__(self, target: Callable[[], None], **_options: Any) -> None:
        self.start = target

    def join(self) -> None:
        pass


def test_a_wrong_checksum_that_is_known_early_spares_the_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = base(checkpoint("relative_ctc"))
    name = model(original.saved())["w2v_encoder.proj.weight"].arguments[0].key
    (tmp_path / "checkpoint.pt").write_bytes(original.with_part(f"data/{name}", crc32=1))
    copied: list[str] = []

    def copy(_source: int, _target: int, tensor: Any, _place: int) -> Iterator[int]:
        copied.append(tensor.target)
        yield 0

    monkeypatch.setattr(record_check, "threading", types.SimpleNamespace(Thread=_AtOnce))
    monkeypatch.setattr(writer, "_written_pieces", copy)
    with pytest.raises(DamagedError, match=f"checksum of data/{name} "):
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out")
    assert copied == []


def test_a_dry_run_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def read(_source: int, _piece: memoryview, start: int) -> None:
        looked_at.append(start)

    monkeypatch.setattr(record_check, "threading", types.SimpleNamespace(Thread=_AtOnce))
    monkeypatch.setattr(record_check, "read_into", read)
    for options in ({}, {"dtype": "float16"}):
        planned("relative_ctc", **options)
    assert looked_at == []
    with pytest.raises(DamagedError, match="the checksum of data/"):
        w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out")
    assert looked_at


def test_only_the_weights_that_are_taken_have_to_be_whole(tmp_path: Path) -> None:
    original = base(FIXTURES / "eras" / "ema_ctc.pt")
    saved = original.saved()
    parts = {False: model(saved), True: saved["extra_state"]["ema"]}
    for ema, tensors in parts.items():
        items = tensors.items if isinstance(tensors, Made) else tensors
        name = next(key for key in items if key.endswith("proj.weight"))
        damaged = original.with_part(f"data/{items[name].arguments[0].key}", crc32=1)
        (tmp_path / "a.pt").write_bytes(damaged)
        w2vc.convert(tmp_path / "a.pt", tmp_path / "out", ema=not ema, force=True)
        with pytest.raises(DamagedError, match="the checksum of data/"):
            w2vc.convert(tmp_path / "a.pt", tmp_path / "out", ema=ema, force=True)


# ---------------------------------------------------------------------------------------------------------------
# Tensors that have to be equal: one for each layer in fairseq, one for all in transformers

FREQUENCIES = "w2v_encoder.w2v_model.encoder.layers.{}.self_attn.rotary_emb.inv_freq"
ROTARY = base(checkpoint("rotary_ctc"))


def rotary_with(layer: int, key: str, record: bytes, offset: int = 0) -> bytes:
    """A checkpoint in which one layer's frequencies are four bytes wide views of a storage."""
    saved = ROTARY.saved()
    tensors = model(saved)
    tensor: Made = tensors[FREQUENCIES.format(layer)]
    storage = tensor.arguments[0]
    word, kind, _key, place, _numel = storage.identity
    view = type(storage)((word, kind, key, place, len(record) // 4))
    tensors[FREQUENCIES.format(layer)] = altered(tensor, storage=view, offset=offset)
    return ROTARY.with_saved(saved, {f"data/{key}": record})


def frequencies_of(layer: int) -> bytes:
    return ROTARY.records[f"data/{model(ROTARY.saved())[FREQUENCIES.format(layer)].arguments[0].key}"]


def others(frequencies: bytes) -> bytes:
    return struct.pack("<f", 0.5) + frequencies[4:]


@pytest.mark.parametrize("layer", [0, 1])
def test_equal_frequencies_in_views_of_larger_storages_convert(
    layer: int, tmp_path: Path, converted: Converted
) -> None:
    same = frequencies_of(layer)
    for offset, record in ((0, same + bytes(8)), (2, bytes(8) + same), (0, same)):
        (tmp_path / "checkpoint.pt").write_bytes(rotary_with(layer, "longer", record, offset))
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out", dry_run=True)
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out", force=True)
        ours, theirs = (out / "model.safetensors" for out in (tmp_path / "out", converted("rotary_ctc")))
        assert tensors_of(ours).keys() == tensors_of(theirs).keys()
        assert all(torch.equal(tensor, tensors_of(theirs)[name]) for name, tensor in tensors_of(ours).items())


def tensors_of(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("layer", [0, 1])
def test_unequal_frequencies_are_refused_before_a_byte_is_read(layer: int, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(rotary_with(layer, "other", others(frequencies_of(layer))))
    with pytest.raises(InconsistentError, match="differ, but transformers has only one for all layers"):
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out", dry_run=True)


@pytest.mark.parametrize("layer", [0, 1])
def test_unequal_frequencies_in_views_are_refused_by_their_bytes(layer: int, tmp_path: Path) -> None:
    longer = others(frequencies_of(layer)) + bytes(8)
    (tmp_path / "checkpoint.pt").write_bytes(rotary_with(layer, "longer", longer))
    with pytest.raises(InconsistentError, match="differ, but transformers has only one for all layers"):
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------
# --config: what a model needs must stay, though other models may choose it


# (fixture, head, field, a value that others may have)
STAYS = [
    ("post_norm_ctc", "auto", "layerdrop", 0.1),
    ("relative_ctc", "auto", "rotary_embedding_base", 20_000),
    ("relative_ctc", "auto", "add_adapter", True),
    ("wav2vec2_base_ctc", "auto", "adapter_attn_dim", 16),
    ("mms_three_languages_ctc", "auto", "adapter_attn_dim", 17),
    ("hubert", "projection", "classifier_proj_size", 257),
]


@pytest.mark.parametrize(("name", "head", "field", "other"), STAYS)
def test_a_config_may_repeat_but_not_choose_what_the_model_decides(
    name: str, head: str, field: str, other: object, tmp_path: Path
) -> None:
    plan = planned(name, head=head)
    repeatable = {"rotary_embedding_base": 10_000, "add_adapter": False}
    given = tmp_path / "config.json"
    given.write_text(json.dumps({field: plan.config.get(field, repeatable.get(field))}))
    assert planned(name, head=head, config=given).config == plan.config
    given.write_text(json.dumps({field: other}))
    with pytest.raises(InconsistentError, match=f"--config says {field} = "):
        planned(name, head=head, config=given)


@pytest.mark.parametrize(
    ("name", "head", "field", "other"),
    [("relative_ctc", "auto", "layerdrop", 0.1), ("hubert", "none", "classifier_proj_size", 257)],
)
def test_where_the_model_doesnt_decide_it_a_config_may_choose(
    name: str, head: str, field: str, other: object, tmp_path: Path
) -> None:
    given = tmp_path / "config.json"
    given.write_text(json.dumps({field: other}))
    assert planned(name, head=head, config=given).config[field] == other


# ---------------------------------------------------------------------------------------------------------------
# Near ties: a rounding decided, and not the computation

# Half of 2e-5 exactly, relative to the largest score of 1.
TIE = float(torch.tensor(1e-5))
NO_TIE = float(torch.nextafter(torch.tensor(TIE), torch.tensor(1.0)))


@pytest.mark.parametrize(("margin", "decided"), [(TIE, True), (NO_TIE, False)])
def test_a_near_tie_is_relative_to_the_largest_score_and_ends_exactly_there(margin: float, decided: bool) -> None:
    # The largest by its absolute value is a negative one.
    scores = torch.tensor([[[0.0, margin, -1.0]]])
    expected, found = {QUANTIZED: torch.zeros(1, 1, 2)}, {QUANTIZED: torch.ones(1, 1, 2), "codebook_scores": scores}
    count = leave_out_near_ties(expected, found, torch.tensor([[[0]]]))
    assert count == int(decided)
    assert expected[QUANTIZED].numel() == found[QUANTIZED].numel() == (0 if decided else 2)
    assert "codebook_scores" not in found
    ours, theirs = likeliest(torch.tensor([[[1.0, 0.0, -1.0]]]), scores)
    assert (ours, theirs) == ([0], [0 if decided else 1])


def test_one_group_with_a_near_tie_is_enough_to_leave_a_frame_out() -> None:
    scores = torch.tensor([[[1.0, 0.0, 1.0, 1.0 + 1e-7], [1.0, 0.0, 0.0, 1.0]]])
    indices = torch.tensor([[[0, 0], [0, 1]]])
    expected, found = (
        {QUANTIZED: torch.arange(4.0).reshape(1, 2, 2)},
        {QUANTIZED: torch.ones(1, 2, 2), "codebook_scores": scores},
    )
    assert leave_out_near_ties(expected, found, indices) == 1
    assert expected[QUANTIZED].tolist() == [[2.0, 3.0]]
    assert found[QUANTIZED].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("scores", "indices"),
    [(None, torch.zeros(1, 1, 1)), (torch.zeros(1, 1, 2), None), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 2))],
    ids=["no scores", "no entries", "scores of another number of groups"],
)
def test_where_a_tie_can_not_be_told_every_frame_is_compared(
    scores: torch.Tensor | None, indices: torch.Tensor | None
) -> None:
    expected, found = {QUANTIZED: torch.zeros(1, 1, 2)}, {QUANTIZED: torch.ones(1, 1, 2)}
    given = found if scores is None else {**found, "codebook_scores": scores}
    assert leave_out_near_ties(expected, given, indices) == 0
    assert given[QUANTIZED].shape == (1, 1, 2)


def outputs(states: torch.Tensor, entries: torch.Tensor) -> ReferenceOutputs:
    made: Any = types.SimpleNamespace(
        projected_quantized_states=states, codevector_indices=entries, padding_mask=None, logits=None
    )
    return made  # type: ignore[no-any-return]  # all that is asked of it


def test_near_ties_of_all_passes_are_counted_and_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.arange(4.0).reshape(1, 2, 2) + 1
    theirs = states.clone()
    theirs[0, 1] += 5
    scores = torch.tensor([[[1.0, 0.0], [1.0, 1.0 + 1e-7]]])
    monkeypatch.setattr(
        comparing, "model_stages", lambda *_given: {QUANTIZED: theirs.clone(), "codebook_scores": scores.clone()}
    )
    stages = StageMap((), (QUANTIZED,))
    runs = [Pass(torch.zeros(1, 4)), Pass(torch.zeros(1, 4))]
    plan = planned("relative_pretraining")

    def compared(entries: list[int]) -> Any:
        return compare_outputs(None, lambda _: outputs(states, torch.tensor([[entries]]).mT), runs, plan, stages)

    decided, alike = compared([0, 0]), compared([0, 1])
    assert (decided.near_ties, decided.stages[0].same) == (2, True)
    assert (alike.near_ties, alike.stages[0].same) == (0, False)


def test_verify_says_how_many_frames_a_rounding_decided(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_ties(count: int) -> tuple[str, ...]:
        def compared(*given: Any) -> Any:
            found: Any = compare_outputs(*given)
            return replace(found, near_ties=count)

        monkeypatch.setattr(comparison, "compare_outputs", compared)
        return verify(checkpoint("relative_pretraining"), converted("relative_pretraining")).notes

    assert not any("codebook entries" in note for note in with_ties(0))
    (note,) = (note for note in with_ties(3) if "codebook entries" in note)
    assert note.startswith("in 3 frames two codebook entries are equally likely but for rounding")
    assert note.endswith("left out of projected_quantized_states")


# ---------------------------------------------------------------------------------------------------------------
# The switch that keeps transformers offline

MODULE = "a_module_that_keeps_the_switch"


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that reads the variable when it is imported, as the hub's library does; not imported yet."""
    module = types.ModuleType(MODULE)
    monkeypatch.setattr(transformers_settings, "_KEPT", ((MODULE, "IS_OFFLINE"),))
    monkeypatch.setenv("HF_HUB_OFFLINE", "?")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "?")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name)
    return module


@pytest.mark.parametrize("before", [False, True])
def test_a_module_that_has_read_the_switch_is_switched_too_and_back(
    before: bool, keeping: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, keeping)
    monkeypatch.setattr(keeping, "IS_OFFLINE", before, raising=False)
    with transformers_settings._offline():
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert vars(keeping)["IS_OFFLINE"] is True
    assert "HF_HUB_OFFLINE" not in os.environ
    assert vars(keeping)["IS_OFFLINE"] is before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "yes"}, True),
        ({"HF_HUB_OFFLINE": "on"}, True),
        ({"HF_HUB_OFFLINE": "True"}, True),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "no", "TRANSFORMERS_OFFLINE": "1"}, False),
    ],
)
def test_a_module_imported_meanwhile_gets_what_it_would_have_read(
    environment: dict[str, str], expected: bool, keeping: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with transformers_settings._offline():
        monkeypatch.setitem(sys.modules, MODULE, keeping)
        monkeypatch.setattr(keeping, "IS_OFFLINE", os.environ["HF_HUB_OFFLINE"] == "1", raising=False)
    assert vars(keeping)["IS_OFFLINE"] is expected
    assert {name: os.environ.get(name) for name in environment} == environment


def test_the_last_of_several_users_puts_the_settings_back(keeping: types.ModuleType) -> None:
    assert keeping.__name__ not in sys.modules
    with transformers_settings.quiet_transformers():
        with transformers_settings.quiet_transformers():
            assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in os.environ
    assert transformers_settings._users == 0


def test_the_switch_is_kept_where_the_libraries_keep_it() -> None:
    import huggingface_hub.constants

    ours = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        with transformers_settings.quiet_transformers():
            assert huggingface_hub.constants.HF_HUB_OFFLINE is True
        assert huggingface_hub.constants.HF_HUB_OFFLINE is False
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = ours


# ---------------------------------------------------------------------------------------------------------------
# Views of legacy storages, and what tensors cost

PLAIN = (text("storage"), a_global("torch", "FloatStorage"), text("7"), text("cpu"), b"K\x06")


def walked(parts: Sequence[bytes], *, legacy: bool) -> object:
    pickle = b"\x80\x02" + a_tuple(*parts) + b"Q."
    if legacy:
        return read_next_program(PickleSource(pickle, "a.pt"), legacy=True)
    return read_program(pickle, "a.pt")


VIEWS: list[tuple[bool, tuple[bytes, ...], str]] = [
    (True, (), "isn't a storage's"),
    (True, (b"N",), ""),
    (True, (b"N", b"N"), "isn't a storage's"),
    (True, (a_tuple(text("8"), b"K\x00", b"K\x06"),), "names a view of the storage '7'"),
    (True, (b"\x88",), "names a view of the storage '7'"),
    (True, (b")",), "names a view of the storage '7'"),
    (False, (), ""),
    (False, (b"N",), "isn't a storage's"),
]


@pytest.mark.parametrize(("legacy", "view", "problem"), VIEWS)
def test_a_storage_has_a_view_in_legacy_files_alone_and_it_is_none(
    legacy: bool, view: tuple[bytes, ...], problem: str
) -> None:
    if not problem:
        walked((*PLAIN, *view), legacy=legacy)
    else:
        with pytest.raises(DamagedError, match=problem):
            walked((*PLAIN, *view), legacy=legacy)


def test_the_tensors_of_languages_are_charged_to_the_models_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint("mms_released_ctc")
    found = read_checkpoint(path)
    assert found.adapters
    count = len(found.tensors) + sum(len(adapter.tensors) for adapter in found.adapters.values())
    limit(monkeypatch, "tensors", count)
    assert read_checkpoint(path).tensors.keys() == found.tensors.keys()
    limit(monkeypatch, "tensors", count - 1)
    with pytest.raises(UnsafeError, match=f"more than {count - 1} tensors"):
        read_checkpoint(path)


def test_a_tensor_costs_what_torch_needs_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = a_tuple(*PLAIN) + b"Q"
    head = a_tensor(storage, (2, 3), (3, 1))

    def built(count: int, of_each: int) -> int:
        """The fewest bytes with which so many tensors pass, each of which is said to cost so much."""
        monkeypatch.setattr(machine, "TENSOR_BYTES", of_each)
        lowest, highest = 0, 2**20
        while lowest < highest:
            most = (lowest + highest) // 2
            limit(monkeypatch, "built bytes", most)
            try:
                read_program(b"\x80\x02" + a_list(*[head] * count) + b".", "a.pt")
                highest = most
            except UnsafeError:
                lowest = most + 1
        return lowest

    assert TENSOR_BYTES >= 1000
    for count in (1, 10):
        assert built(count, TENSOR_BYTES + 7) - built(count, TENSOR_BYTES) == 7 * count


def test_torch_maps_the_file_that_is_open_whatever_has_taken_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    shutil.copyfile(checkpoint("relative_ctc"), path)
    with open_checkpoint(path) as file:
        archive = examine(file, path)
        expected = {name: tensor.clone() for name, tensor in load_with_bytes(file, archive).items()}
        shutil.copyfile(checkpoint("rotary_ctc"), tmp_path / "b.pt")
        (tmp_path / "b.pt").replace(path)
        found = load_with_bytes(file, archive)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
