"""The parts of a verification one by one, on tensors and files that are made here: no model is loaded."""

from __future__ import annotations

import json
import math
import types
import wave
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from w2vc.errors import DamagedError, DifferenceError, UsageError
from w2vc.families.family import FirstRow, Scale, StageMap, Tap
from w2vc.planning.plan import Make, Move
from w2vc.planning.processor import Vocabulary
from w2vc.reading.dictionary import Dictionary
from w2vc.reading.record import Record
from w2vc.reading.tensors import SourceTensor
from w2vc.verifying import compare_files, compare_outputs, compare_tensors, comparison, loading, probe_audio
from w2vc.verifying.compare_outputs import Pass, Rounded, relative_error
from w2vc.verifying.compare_tensors import Entry, entries
from w2vc.verifying.compare_vocabulary import compare_vocabulary, greedy_transcript
from w2vc.verifying.probe_audio import ProbeAudio
from w2vc.verifying.verification import Finding, Stage, Transcript, Verification


def source(name: str = "x", shape: tuple[int, ...] = (2, 3), dtype: str = "float32", **more: Any) -> SourceTensor:
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return SourceTensor(name, shape, stride, dtype, Record("data/0", 0, 999, None), 0, **more)


def move(target: str = "y", dtype: str = "float32", edit: Any = None, of: SourceTensor | None = None) -> Move:
    taken = of or source()
    return Move(target, taken.shape, dtype, taken, (), edit)


# ---------------------------------------------------------------------------------------------------------------
# The checkpoint's side, and how the output was converted


def test_tensors_that_torch_doesnt_give_are_left_out_and_those_of_a_language_taken() -> None:
    loaded = {"x": torch.zeros(2, 3), "adapter.deu.z": torch.ones(1), "p.q": torch.arange(6.0).reshape(2, 3)}
    tensors = [
        source("x"),
        source("missing"),
        source("z", (1,), adapter="deu"),
        source("q", (3,), prefix="p.", index=1),
    ]
    found = comparison._sources(loaded, tensors)
    assert list(found) == ["x", "z", "q"]
    assert found["z"].tolist() == [1]
    assert found["q"].tolist() == [3, 4, 5]


def test_the_tensors_that_have_to_be_equal_are_read_too() -> None:
    plan = types.SimpleNamespace(moves=(Move("y", (1,), "float16", source("a"), (source("b"), source("c"))), move()))
    assert [each.name for each in comparison._moved(plan)] == ["a", "b", "c", "x"]  # type: ignore[arg-type]  # enough
    assert compare_outputs.written_dtypes(plan) == {  # type: ignore[arg-type]  # enough of one
        "a": "float16",
        "b": "float16",
        "c": "float16",
        "x": "float32",
    }


@pytest.mark.parametrize("atol", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_is_a_positive_number(atol: float) -> None:
    with pytest.raises(UsageError, match="--atol is"):
        comparison._bound(atol)
    assert comparison._bound(None) == 2e-6
    assert comparison._bound(0.5) == 0.5


def test_an_output_that_is_no_directory_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert comparison._directory(tmp_path) == tmp_path
    with pytest.raises(UsageError, match="file is not a directory"):
        comparison._directory(tmp_path / "file")
    with pytest.raises(UsageError, match="x isn't there"):
        comparison._directory(tmp_path / "x")


def record(**values: str) -> Any:
    return types.SimpleNamespace(**{"head": "", "prefix": "", "language": "", "source_fingerprint": "ab", **values})


def test_prefix_and_language_are_what_the_output_says_of_itself() -> None:
    assert (comparison._prefix(None), comparison._language(None)) == (None, None)
    assert (comparison._prefix(record()), comparison._language(record())) == (None, None)
    said = record(prefix="encoder", language="deu")
    assert (comparison._prefix(said), comparison._language(said)) == ("encoder", "deu")


ENTRY = Entry("F32", (1,), 0, 4)


@pytest.mark.parametrize(
    ("names", "head", "config", "expected"),
    [
        (["encoder.layer_norm.weight"], "projection", None, "projection"),
        (["encoder.layer_norm.weight", "lm_head.weight"], "ctc", None, "none"),
        (["wav2vec2.encoder.layer_norm.weight", "lm_head.weight"], "", None, "ctc"),
        (["wav2vec2.encoder.layer_norm.weight"], "", None, "auto"),
        ([], "", None, "auto"),
        ([], "", "{", "auto"),
        ([], "", '{"architectures": ["Wav2Vec2Model"]}', "none"),
        ([], "", '{"architectures": ["Wav2Vec2ForCTC"]}', "auto"),
        ([], "", '{"architectures": ["Wav2Vec2ForCTC", "Wav2Vec2Model"]}', "auto"),
        ([], "", '{"architectures": "Model\']"}', "auto"),
    ],
)
def test_the_head_is_told_by_the_tensors_and_without_them_by_the_config(
    names: list[str], head: str, config: str | None, expected: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert comparison._head(tmp_path, dict.fromkeys(names, ENTRY), record(head=head)) == expected
    if head != "projection":
        assert comparison._head(tmp_path, dict.fromkeys(names, ENTRY), None) == expected


def test_the_dtype_is_that_of_most_bytes() -> None:
    found = {"a": Entry("F16", (9,), 0, 18), "b": Entry("F32", (4,), 0, 16), "c": Entry("I64", (9,), 0, 72)}
    assert comparison._dtype(found) == "float16"
    assert comparison._dtype({**found, "d": Entry("BF16", (10,), 0, 20)}) == "bfloat16"
    assert comparison._dtype({**found, "d": Entry("F32", (1,), 0, 4)}) == "float32"
    assert comparison._dtype({}) == "float32"


def case(**more: Any) -> Any:
    archive = types.SimpleNamespace(fingerprint="1234567890abcdef")
    return types.SimpleNamespace(checkpoint=types.SimpleNamespace(archive=archive), output=Path("/out"), **more)


def test_an_output_of_another_checkpoint_is_that_alone_unless_nothing_else_differs() -> None:
    difference = Finding("tensors", "x", "a", "b")
    gathered = comparison._Gathered(findings=[difference])
    for own in (None, record(source_fingerprint="1234567890abcdef")):
        assert comparison._is_of_another(case(), own, gathered) is False
    assert (gathered.findings, gathered.notes) == ([difference], [])
    other = record(source_fingerprint="fedcba0987654321")
    assert comparison._is_of_another(case(), other, gathered) is True
    theirs = "made from another checkpoint (fingerprint fedcba098765, not 1234567890ab)"
    assert gathered.findings == [Finding("source", "/out", "made from this checkpoint", theirs)]
    same = comparison._Gathered()
    assert comparison._is_of_another(case(), other, same) is False
    assert same.findings == []
    assert same.notes == [f"it says that it was {theirs}, which holds the same model"]


# ---------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (None, "no such file"),
        (b"[1]", "JSON, but no object"),
        (b"{", "no JSON (Expecting property name"),
        (b"\xff{}", "no JSON ('utf-8' codec"),
        (b"[" * 100_000, "no JSON ("),
        ("folder", "a file that can't be read (Is a directory)"),
        ("large", "a file of more than 67,108,864 bytes"),
    ],
)
def test_a_file_that_is_no_json_object_says_why(contents: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if contents == "folder":
        path.mkdir()
    elif contents == "large":
        with path.open("wb") as file:
            file.truncate(64 * 2**20 + 1)
    elif contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"^.") as caught:
        compare_files.read_json(path)
    assert str(caught.value).startswith(problem)


def test_every_difference_of_files_is_found_and_no_spelling(tmp_path: Path) -> None:
    plan: Any = types.SimpleNamespace(
        files={
            "config.json": json.dumps({"a": 1, "b": True, "c": [1.0, {"x": 1, "y": 2}], "é": "ü"}).encode(),
            "vocab.json": b'{"a": 0}',
        },
        weights={"model.safetensors": (), "adapter.x.safetensors": ()},
    )
    (tmp_path / "config.json").write_text('{"d": null, "b": 1, "c": [1e0, {"y": 2, "x": 1}], "a": 1, "é": "u"}')
    (tmp_path / "adapter.x.safetensors").mkdir()
    (tmp_path / "model.safetensors").touch()
    for name in ("notes.txt", "more.bin", "x.jinja", "b.json", "c.model", "d.pt", "e.pth", "f.py", "g.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "folder.json").mkdir()
    found = [(item.part, item.where, item.expected, item.found) for item in compare_files.compare_files(plan, tmp_path)]
    extra = ("no such file", "a file that transformers may load")
    assert found == [
        ("files", 'config.json: "b"', "true", "1"),
        ("files", 'config.json: "d"', "nothing", "null"),
        ("files", 'config.json: "é"', '"ü"', '"u"'),
        ("files", "vocab.json", "a file with 1 values", "no such file"),
        ("files", "adapter.x.safetensors", "the weights", "no such file"),
        *(
            ("files", name, *extra)
            for name in ("b.json", "c.model", "d.pt", "e.pth", "f.py", "g.safetensors", "more.bin", "x.jinja")
        ),
    ]


# ---------------------------------------------------------------------------------------------------------------
# Tensors


def written(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_entries_are_where_the_header_says(tmp_path: Path) -> None:
    header = {"__metadata__": {"a": "b"}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]}}
    path = written(tmp_path / "file", header, bytes(10))
    base = path.stat().st_size - 10
    assert entries(path) == {"x": Entry("F32", (2,), base + 2, 8)}
    assert str(Entry("F32", (2,), 0, 8)) == "F32 [2]"
    written(path, header, bytes(11))
    with pytest.raises(ValueError, match=f"{base + 11:,} bytes, where its header says {base + 10:,}"):
        entries(path)
    assert entries(written(path, {})) == {}
    with pytest.raises(ValueError, match="a file that can't be read \\(No such file"):
        entries(tmp_path / "missing")


GOOD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "entry",
    [
        {**GOOD, "shape": [-1]},
        {**GOOD, "shape": [1.0]},
        {**GOOD, "shape": [True]},
        {**GOOD, "shape": 1},
        {**GOOD, "data_offsets": [4, 0]},
        {**GOOD, "data_offsets": [-1, 4]},
        {**GOOD, "data_offsets": [0, 4, 4]},
        {**GOOD, "data_offsets": "04"},
        {**GOOD, "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1]},
        {"shape": [1], "data_offsets": [0, 4]},
        7,
    ],
)
def test_a_header_that_contradicts_itself_is_damaged(entry: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a damaged header"):
        entries(written(tmp_path / "file", {"x": entry}, bytes(4)))
    assert entries(written(tmp_path / "file", {"x": GOOD}, bytes(4)))


VALUES = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("edit", "dtype", "expected"),
    [
        (None, "float32", [0, 1, 2, 3, 4, 5]),
        (Scale(0.5), "float16", [0, 0.5, 1, 1.5, 2, 2.5]),
        (FirstRow("add", 7.0), "float32", [7, 8, 9, 3, 4, 5]),
        (FirstRow("set", 7.0), "float32", [7, 7, 7, 3, 4, 5]),
    ],
)
@pytest.mark.parametrize("piece", [2, 4, 100])
def test_what_is_expected_is_what_the_plan_says_in_pieces_of_any_size(
    piece: int, edit: Any, dtype: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_tensors, "PIECE_ELEMENTS", piece)
    pieces = list(compare_tensors.expected_pieces({"x": VALUES}, move(dtype=dtype, edit=edit)))
    assert torch.cat(pieces).tolist() == expected
    assert {str(each.dtype) for each in pieces} == {f"torch.{dtype}"}
    assert max(map(len, pieces)) == min(piece, 6)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("zeros", [0] * 6), ("ones", [1] * 6), ("constant", [2.5] * 6), ("identity", [1, 0, 0, 0, 1, 0])],
)
def test_what_is_expected_of_a_made_tensor_is_its_content(
    content: Any, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_tensors, "PIECE_ELEMENTS", 4)
    made = Make("y", (2, 3), "float16", content, "why", 2.5)
    pieces = list(compare_tensors.expected_pieces({}, made))
    assert torch.cat(pieces).tolist() == expected
    assert {each.dtype for each in pieces} == {torch.float16}


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (move(), "x"),
        (move(dtype="float16"), "x as float16"),
        (move(edit=Scale(0.125)), "x, times 0.125"),
        (move(edit=FirstRow("add", 1.0)), "x, the blank weight in row 0"),
        (Make("y", (1,), "float32", "ones", "why"), "ones (why)"),
    ],
)
def test_where_a_tensor_comes_from_is_said(tensor: Any, words: str) -> None:
    assert compare_tensors._origin(tensor) == words


@pytest.mark.parametrize(
    ("flat", "shape", "index"), [(0, (2, 3), [0, 0]), (5, (2, 3), [1, 2]), (7, (2, 2, 3), [1, 0, 1]), (0, (), [])]
)
def test_an_element_is_named_by_its_index(flat: int, shape: tuple[int, ...], index: list[int]) -> None:
    assert compare_tensors._index(flat, shape) == index


class Tried:
    """A file of two tensors, ``y`` moved and ``m`` made, held against a plan."""

    def __init__(self, tmp_path: Path, crc32: int | None = None) -> None:
        self.path = tmp_path / "model.safetensors"
        self.made = Make("m", (2, 3), "float32", "ones", "why")
        self.plan: Any = types.SimpleNamespace(tensors=(move(), self.made))
        self.header = {
            "y": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "m": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 48]},
        }
        records = {"data/0": Record("data/0", 0, 24, crc32), "data/1": Record("data/1", 0, 25, 7)}
        archive = types.SimpleNamespace(records=records)
        self.checkpoint: Any = types.SimpleNamespace(archive=archive, path=Path("/in.pt"))
        self.sources = {"x": VALUES}
        self.told: list[tuple[int, int]] = []

    def findings(self, y: torch.Tensor, m: torch.Tensor, header: Mapping[str, Any] | None = None) -> list[Finding]:
        data = b"".join(each.contiguous().numpy().tobytes() for each in (y, m))
        written(self.path, header or self.header, data)
        return compare_tensors.compare_tensors(
            self.checkpoint, self.sources, self.plan, self.path, entries(self.path), lambda *how: self.told.append(how)
        )


def test_equal_tensors_are_no_difference_and_all_bytes_are_counted(tmp_path: Path) -> None:
    tried = Tried(tmp_path)
    assert tried.findings(VALUES, torch.ones(2, 3)) == []
    assert tried.told == [(24, 48), (48, 48)]


def test_a_difference_is_counted_by_elements_and_bytes_and_has_its_first_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_tensors, "PIECE_ELEMENTS", 2)
    changed = VALUES.clone()
    changed[1, 0], changed[1, 2] = -3.0, 7.0
    (found,) = Tried(tmp_path).findings(changed, torch.ones(2, 3))
    # -3 differs from 3 in the sign's byte (C0 40 40 for 40 40), 7 from 5 in one byte of the exponent's (E0 for A0).
    words = "2 of 6 elements different (2 bytes), the first at [1, 0] (-3 instead of 3)"
    assert found == Finding("tensors", "y", "x", words)


def test_what_a_tensor_holds_instead_is_said(tmp_path: Path) -> None:
    found = Tried(tmp_path).findings(torch.ones(2, 3), VALUES)
    assert [item.where for item in found] == ["y", "m"]
    assert found[0].found.endswith("; it holds what m should hold")
    assert found[1].found.endswith("; it holds what y should hold")
    (found_alone,) = Tried(tmp_path).findings(VALUES, torch.zeros(2, 3))
    assert "should hold" not in found_alone.found


def test_missing_further_and_reshaped_tensors_are_differences(tmp_path: Path) -> None:
    tried = Tried(tmp_path)
    header = {"z": {**tried.header["y"], "dtype": "F16"}, "m": {**tried.header["m"], "shape": [3, 2]}}
    assert tried.findings(VALUES, torch.ones(2, 3), header) == [
        Finding("tensors", "y", "F32 [2, 3], x", "no such tensor"),
        Finding("tensors", "m", "F32 [2, 3], ones (why)", "F32 [3, 2]"),
        Finding("tensors", "z", "no such tensor", "F16 [2, 3]"),
    ]
    assert tried.told == [(0, 48), (24, 48)]


def test_what_torch_gives_has_to_be_what_was_planned_with(tmp_path: Path) -> None:
    tried = Tried(tmp_path)
    for given, words in (
        ({}, "no such tensor in what torch.load gives"),
        ({"x": VALUES.half()}, "a tensor that torch.load gives as float16 [2, 3]"),
        ({"x": VALUES.T}, "a tensor that torch.load gives as float32 [3, 2]"),
    ):
        tried.sources = given
        assert tried.findings(VALUES, torch.ones(2, 3)) == [Finding("tensors", "y", "x", words)]


def test_a_checkpoint_that_is_damaged_itself_is_to_blame(tmp_path: Path) -> None:
    right = zlib.crc32(VALUES.numpy().tobytes())
    for crc32, is_damaged in ((right, False), (None, False), (right ^ 1, True)):
        tried = Tried(tmp_path, crc32)
        if is_damaged:
            with pytest.raises(DamagedError, match=r"/in\.pt: the checksum of data/0 \(x\) is wrong"):
                tried.findings(VALUES + 1, torch.ones(2, 3))
        else:
            assert len(tried.findings(VALUES + 1, torch.ones(2, 3))) == 1
        assert len(tried.findings(VALUES, torch.zeros(2, 3))) == 1
    tried.checkpoint.archive.records.pop("data/0")
    assert len(tried.findings(VALUES + 1, torch.ones(2, 3))) == 1


# ---------------------------------------------------------------------------------------------------------------
# Outputs


def test_an_error_is_relative_and_of_the_finite_values() -> None:
    expected = torch.tensor([3.0, 4.0, math.inf])
    assert relative_error(expected, expected) == 0
    assert relative_error(torch.tensor([3.0, 5.0, math.inf]), expected) == pytest.approx(0.2)
    for other in (None, torch.zeros(2), torch.tensor([3.0, math.nan, math.inf]), torch.tensor([3.0, 4.0, 5.0])):
        assert relative_error(other, expected) == math.inf
    assert relative_error(torch.ones(2), torch.zeros(2)) == math.inf
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def audio(*clips: list[float]) -> ProbeAudio:
    tensors = tuple(torch.tensor(clip) for clip in clips)
    return ProbeAudio(tensors[:1], tensors, "made here")


def test_clips_run_alone_and_then_padded_together() -> None:
    alone, together = compare_outputs.passes(audio([1.0, 2.0], [3.0, 4.0, 8.0]), normalize=False)
    assert alone.input_values.tolist() == [[1, 2]]
    assert alone.padding_mask is None
    assert together.input_values.tolist() == [[1, 2, 0], [3, 4, 8]]
    assert together.padding_mask is not None
    assert together.padding_mask.tolist() == [[False, False, True], [False, False, False]]
    alone, together = compare_outputs.passes(audio([1.0, 2.0], [3.0, 4.0, 8.0]), normalize=True)
    assert alone.input_values[0].tolist() == pytest.approx([-1, 1], abs=1e-4)
    assert together.input_values.mean(1).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_the_epsilons_are_apart_by_what_quiet_audio_makes_of_them() -> None:
    quiet = torch.tensor([1e-3, -1e-3])  # whose variance is 1e-6
    expected = math.sqrt(11e-6 / 1.1e-6) - 1
    assert compare_outputs._by_the_epsilons(quiet) == pytest.approx(expected, rel=1e-6)
    assert "(1e-07 for 1e-05)" in compare_outputs.about_the_epsilons(audio([1e-3, -1e-3]))
    assert compare_outputs.about_the_epsilons(audio([1e-3, -1e-3])).endswith(f"this by {100 * expected:.2g} %")


@pytest.mark.parametrize("normalize", [False, True])
def test_the_feature_extractors_bound_is_wider_by_the_epsilons_alone(normalize: bool) -> None:
    heard = audio([0.5, -0.5, 0.1])
    described: Any = types.SimpleNamespace(sample_rate=16, normalize=normalize)

    def extractor(values: Any, *, sampling_rate: int, return_tensors: str) -> Any:
        assert (sampling_rate, return_tensors) == (16, "np")
        clip = torch.from_numpy(values)
        return {"input_values": [(torch.nn.functional.layer_norm(clip, clip.shape) if normalize else clip).numpy()]}

    stage = compare_outputs.compare_feature_extractor(extractor, heard, described, 0.25)
    wider = compare_outputs._by_the_epsilons(heard.clips[0]) if normalize else 0
    assert stage == Stage("input_values", 0.0, 0.25 + wider)


def test_the_reference_is_given_the_outputs_rounding_and_no_more() -> None:
    tensors = {"a": torch.tensor([1 / 3]), "b": torch.tensor([1 / 3]), "n": torch.tensor([7])}
    rounded = Rounded(tensors, {"a": "float16", "n": "float16"})
    assert rounded["a"].dtype == torch.float16
    assert rounded["b"].dtype == torch.float32
    assert rounded["n"].dtype == torch.int64
    assert (list(rounded), len(rounded)) == (["a", "b", "n"], 3)


TAPS = tuple(Tap(name, f"hidden_states.{index}", name) for index, name in enumerate(("layers.0", "layers.1")))


@pytest.mark.parametrize(
    ("edited", "dtype", "expected"),
    [
        (None, "bfloat16", [1e-6, 1e-6, 1e-6]),
        ("layers.0.weight", "float32", [1e-6, 1e-6, 1e-6]),
        ("layers.0.weight", "bfloat16", [2**-7, 2**-7, 2**-7]),
        ("layers.1.weight", "bfloat16", [1e-6, 2**-7, 2**-7]),
        ("layers.10.weight", "bfloat16", [1e-6, 1e-6, 2**-7]),
        ("lm_head.weight", "float16", [1e-6, 1e-6, 2**-10]),
    ],
)
def test_bounds_are_wider_only_from_a_tensor_on_that_is_edited_and_rounded(
    edited: str | None, dtype: str, expected: list[float]
) -> None:
    moves = [move("layers.0.bias"), move("other")] + ([] if edited is None else [move(edited, edit=Scale(2.0))])
    plan: Any = types.SimpleNamespace(moves=moves, dtype=dtype)
    bounds = compare_outputs._bounds(StageMap(TAPS, heads=("logits",)), plan, 1e-6)
    assert bounds == dict(zip(("layers.0", "layers.1", "logits"), expected, strict=True))


def test_the_references_stages_are_those_that_it_has() -> None:
    outputs: Any = types.SimpleNamespace(hidden_states=(torch.zeros(1),), logits=torch.ones(1), projected_states=None)
    stages = StageMap((*TAPS, Tap("all", "logits", "")), heads=("logits", "projected_states"))
    assert list(compare_outputs.reference_stages(outputs, stages)) == ["layers.0", "all", "logits"]


def test_of_several_stages_beyond_their_bounds_the_first_is_the_difference() -> None:
    good, bad, worse = Stage("a", 1e-7, 1e-6), Stage("b", 0.5, 1e-6), Stage("c", math.nan, 1e-6)
    assert compare_outputs.output_findings((good,)) == []
    words = "a relative error below 1.0e-06"
    assert compare_outputs.output_findings((good, bad)) == [Finding("outputs", "b", words, "5.0e-01")]
    found = compare_outputs.output_findings((good, bad, worse, worse))
    assert found == [Finding("outputs", "b", words, "5.0e-01, and 2 later stages differ too")]
    assert Stage("a", 1e-6, 1e-6).same


def test_the_likeliest_symbols_of_another_shape_are_its_own() -> None:
    ours = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert compare_outputs.likeliest(ours, None) == ([1, 0], [])
    assert compare_outputs.likeliest(ours, ours[:, :1]) == ([1, 0], [1])
    assert compare_outputs.likeliest(ours, 1 - ours) == ([1, 0], [0, 1])


def test_a_model_that_cannot_run_is_a_difference() -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise IndexError("out  of\nrange")

    broken.base_model = None  # type: ignore[attr-defined]  # as a model has one
    plan: Any = types.SimpleNamespace(model_class="M", moves=(), dtype="float32")
    outputs = types.SimpleNamespace(padding_mask=None, logits=None)
    run = Pass(torch.zeros(1, 4))
    found = compare_outputs.compare_outputs(broken, lambda _run: outputs, [run], plan, StageMap(()))  # type: ignore[arg-type,return-value]  # enough
    assert found == Finding("outputs", "M", "outputs", "IndexError: out of range")


# ---------------------------------------------------------------------------------------------------------------
# The vocabulary

WORDS = Dictionary(("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "A"), "here")
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A (5)", "B", "A")


class Tokenizer:
    pad_token_id = 0

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.tokens.index(token) if token in self.tokens else 3

    def convert_ids_to_tokens(self, index: int) -> str:
        return self.tokens[index]


def test_each_symbol_has_its_id_both_ways_and_special_ones_have_none_to_compare() -> None:
    assert compare_vocabulary(WORDS, 8, Tokenizer(TOKENS), 0) == []
    found = compare_vocabulary(WORDS, 9, Tokenizer((*TOKENS[:6], "C", "A")), 1)
    assert [(item.part, item.where, item.expected, item.found) for item in found] == [
        ("vocabulary", "the symbol 'B'", "id 6", "id 3"),
        ("vocabulary", "the id 6", "the symbol 'B'", "'C'"),
        ("vocabulary", "len(tokenizer)", "9", "8"),
        ("vocabulary", "config.pad_token_id", "0", "1"),
    ]
    tokenizer = Tokenizer(TOKENS)
    tokenizer.pad_token_id = 1
    assert [item.where for item in compare_vocabulary(WORDS, 8, tokenizer, 0)] == ["tokenizer.pad_token_id"]


@pytest.mark.parametrize(("joins", "text"), [("words", "BB B"), ("phonemes", "B B | B"), ("pieces", "BB|B")])
def test_a_transcript_has_no_repeats_and_no_blanks(joins: str, text: str) -> None:
    vocabulary = Vocabulary(TOKENS, "<pad>", "<s>", "</s>", "<unk>", joins, ())
    assert greedy_transcript([0, 0, 6, 6, 0, 6, 4, 4, 6, 0], WORDS, vocabulary) == text


# ---------------------------------------------------------------------------------------------------------------
# Loading


def test_what_transformers_says_is_cut_and_named() -> None:
    assert loading.failure("p", "w", "e", ValueError("a\n  b" + "c" * 400)) == Finding(
        "p", "w", "e", "ValueError: a b" + "c" * 297
    )
    assert loading._names(["b", ("a", (1,), (2,))]) == ["a", "b"]
    assert loading._listed([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert loading._listed([str(number) for number in range(12)]).endswith("8, 9 and 2 more")


PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_kind_of_complaint_is_a_difference(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = types.SimpleNamespace(eval=lambda: "evaluated")
    asked: list[dict[str, object]] = []

    def load(_output: Path, **options: object) -> Any:
        asked.append(options)
        return model, {problem: ["x", "kept"]}

    monkeypatch.setattr(loading, "_layer_by_layer", lambda *_arguments: None)
    package = types.SimpleNamespace(M=types.SimpleNamespace(from_pretrained=load))
    plan: Any = types.SimpleNamespace(model_class="M", beyond=("kept",))
    found = loading.load_model(package, plan, Path("/out"))
    listed = "x" if problem == "unexpected_keys" else "kept, x"
    assert found == ("evaluated", [Finding("loading", "M.from_pretrained", f"no {problem}", listed)])
    (options,) = asked
    assert options["dtype"] == torch.float32
    assert {name for name, value in options.items() if value is True} == {
        "output_loading_info",
        "local_files_only",
        "use_safetensors",
    }


def test_a_model_that_cannot_be_loaded_is_a_difference() -> None:
    package = types.SimpleNamespace(M=None)
    plan: Any = types.SimpleNamespace(model_class="M", dtype="float32")
    model, findings = loading.load_model(package, plan, Path("/out"))
    assert model is None
    assert [(item.part, item.where, item.expected) for item in findings] == [
        ("loading", "M.from_pretrained", "a model")
    ]


# ---------------------------------------------------------------------------------------------------------------
# Audio


def recording(path: Path, frames: int, rate: int = 1000, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes((7 * index) % 251 for index in range(frames * channels * width)))
    return path


def test_a_recording_is_taken_as_it_is(tmp_path: Path) -> None:
    heard = probe_audio.read_recording(recording(tmp_path / "a.wav", 10_000), 1000)
    assert (len(heard.clips), len(heard.clips[0]), [len(clip) for clip in heard.batch]) == (1, 10_000, [5000, 3333])
    assert heard.origin == f"{tmp_path}/a.wav, 10.0 s"
    assert heard.notes == ()
    assert heard.clips[0][1].item() == int.from_bytes(bytes([14, 21]), "little", signed=True) / 32768


def test_what_was_done_to_a_recording_is_noted(tmp_path: Path) -> None:
    heard = probe_audio.read_recording(recording(tmp_path / "a.wav", 60_001, channels=2), 2000)
    assert heard.notes == (
        f"only the first 60 s of {tmp_path}/a.wav are used",
        f"{tmp_path}/a.wav has 2 channels, which were mixed",
        f"{tmp_path}/a.wav was resampled from 1,000 to 2,000 Hz",
    )
    assert len(heard.clips[0]) == 120_000
    assert len(probe_audio.read_recording(recording(tmp_path / "b.wav", 60_000), 1000).notes) == 0


def test_resampling_keeps_a_tone() -> None:
    def at(rate: int) -> torch.Tensor:
        return torch.sin(2 * math.pi * 5 * torch.arange(rate) / rate)

    assert torch.allclose(probe_audio._resampled(at(100), 100, 160), at(160), atol=1e-5)
    assert torch.allclose(probe_audio._resampled(at(100), 100, 50), at(50), atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([0.0] * 9 + [1.0], None),
        ([0.0, 1.0] * 4 + [1.0], "too short"),
        ([0.0, math.nan] * 9, "NaN or infinite"),
        ([0.5] * 20, "is silent"),
        ([0.0] * 9 + [-65536.0], None),
        ([0.0] * 9 + [-65536.01], r"has samples of 6\.6e\+04"),
    ],
)
def test_a_recording_that_tells_nothing_is_refused(samples: list[float], words: str | None) -> None:
    if words is None:
        probe_audio._check(Path("/a"), torch.tensor(samples), 100)
        return
    with pytest.raises(UsageError, match=words):
        probe_audio._check(Path("/a"), torch.tensor(samples), 100)


def test_the_built_in_signal_is_syllables_and_a_pause() -> None:
    heard = probe_audio.built_in(1000)
    (short,) = heard.clips
    assert [len(clip) for clip in heard.batch] == [800, 1200]
    assert torch.equal(short, heard.batch[0])
    assert short.dtype == torch.float32
    assert 0.3 < short.abs().max() < 0.65
    assert 0 < short[680:].abs().max() < 0.06
    assert torch.equal(probe_audio.built_in(1000).clips[0], short)
    assert heard.notes == ()


@pytest.mark.parametrize(("at", "rising", "falling"), [(0.25, 0.036, 0.09), (0.4, 0.054, 0.078), (0.7, 0.09, 0.054)])
def test_the_built_in_signal_has_one_tone_that_rises_and_one_that_falls(
    at: float, rising: float, falling: float
) -> None:
    (short,) = probe_audio.built_in(16_000).clips
    begin = int(at * len(short)) - 500
    # Bins are a thousandth of the rate apart.
    heights = torch.fft.rfft(short[begin : begin + 1000] * torch.hann_window(1000)).abs()
    loudest = int(heights.argmax())
    heights[loudest - 12 : loudest + 13] = 0
    assert [loudest, int(heights.argmax())] == pytest.approx([1000 * rising, 1000 * falling], abs=4)


# ---------------------------------------------------------------------------------------------------------------
# The report


def verification(findings: tuple[Finding, ...] = (), stages: tuple[Stage, ...] = (), **more: Any) -> Verification:
    values: dict[str, Any] = {
        "checkpoint": Path("/in.pt"),
        "output": Path("/out"),
        "fingerprint": "ab",
        "model_class": "M",
        "dtype": "float16",
        "rounded": False,
        "tensors": 3,
        "tensor_bytes": 4567,
        "findings": findings,
        "input_values": None,
        "stages": stages,
        "symbols": 0,
        "transcripts": (),
        "audio": "made here",
        "notes": (),
        "seconds": 1.23456,
    }
    return Verification(**values | more)


GOOD_STAGE, BAD_STAGE = Stage("features", 1e-7, 2e-6), Stage("projection", 0.5, 2e-6)
TENSOR, CONFIG = Finding("tensors", "y", "a", "b"), Finding("files", "config.json", "c", "d")
OF_THEM = "of the forward (largest relative error "
SOURCE = Finding("source", "/out", "made from this checkpoint", "made from another checkpoint")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (
            verification(stages=(GOOD_STAGE,)),
            f"the same: 3 tensors, 1 stages {OF_THEM}1.0e-07)",
        ),
        (
            verification(stages=(GOOD_STAGE, Stage("x", 1e-6, 1)), rounded=True, symbols=9),
            f"the same: 3 tensors (weights rounded to float16), 2 stages {OF_THEM}1.0e-06), 9 symbols",
        ),
        (verification((SOURCE,)), "DIFFERENT: /out was made from another checkpoint"),
        (verification((TENSOR,)), "DIFFERENT: 1 difference (1 in tensors), first in tensors: y"),
        (
            verification((TENSOR, CONFIG, CONFIG), (GOOD_STAGE,)),
            "DIFFERENT: 3 differences (1 in tensors, 2 in files), first in tensors: y; no output shows it",
        ),
        (
            verification((TENSOR,), (GOOD_STAGE, BAD_STAGE)),
            "DIFFERENT: 1 difference (1 in tensors), first in tensors: y; outputs differ from projection on",
        ),
    ],
)
def test_the_verdict_is_one_line(found: Verification, verdict: str) -> None:
    assert found.verdict == verdict
    assert next(found.lines()) == ("Verdict", verdict)


def test_a_difference_is_raised_with_what_to_do() -> None:
    verification(stages=(GOOD_STAGE,)).raise_if_different()
    with pytest.raises(DifferenceError, match=r"/out was made from another checkpoint than /in\.pt"):
        verification((SOURCE,)).raise_if_different()
    words = r"/out isn't what /in\.pt converts to: 2 differences \(1 in tensors, 1 in files\)"
    with pytest.raises(DifferenceError, match=words):
        verification((TENSOR, CONFIG)).raise_if_different()


def test_the_report_for_programs_has_every_value() -> None:
    found = verification(
        (TENSOR,),
        (GOOD_STAGE, Stage("x", math.inf, 1.0)),
        input_values=GOOD_STAGE,
        transcripts=(Transcript("A", "B"),),
        notes=("n",),
        symbols=5,
    )
    good = {"name": "features", "relative_error": 1e-7, "bound": 2e-6, "same": True}
    assert found.values() == {
        "checkpoint": "/in.pt",
        "fingerprint": "ab",
        "output": "/out",
        "same": False,
        "verdict": found.verdict,
        "model_class": "M",
        "dtype": "float16",
        "exact": False,
        "tensors": 3,
        "tensor_bytes": 4567,
        "findings": [{"part": "tensors", "where": "y", "expected": "a", "found": "b"}],
        "input_values": good,
        "stages": [good, {"name": "x", "relative_error": None, "bound": 1.0, "same": False}],
        "differs_from": "x",
        "symbols": 5,
        "transcripts": [{"expected": "A", "found": "B"}],
        "audio": "made here",
        "notes": ["n"],
        "seconds": 1.235,
    }
    same = verification(stages=(GOOD_STAGE,))
    assert (same.values()["exact"], same.values()["input_values"], same.values()["differs_from"]) == (True, None, None)
    assert verification(stages=(GOOD_STAGE,), rounded=True).values()["exact"] is False


def test_the_report_for_people_has_a_table_and_few_of_each_parts_differences() -> None:
    many = tuple(Finding("tensors", str(number), "a", "b") for number in range(5))
    again = Finding("loading", "M", "no missing_keys", "0, 4")
    another = Finding("loading", "M", "no missing_keys", "0, 9")
    found = verification(
        (*many, again, another),
        (GOOD_STAGE, BAD_STAGE),
        transcripts=(Transcript("A", "A"), Transcript("A", "B")),
        notes=("n",),
    )
    assert list(found.lines())[1:] == [
        *(("Different", f"tensors: {number}: expected a, found b") for number in range(3)),
        ("Different", "tensors: and 2 more (--json lists all)"),
        ("Different", "loading: M: expected no missing_keys, found 0, 9"),
        ("Tensors", "3 compared, 4,567 bytes"),
        ("Audio", "made here"),
        ("Stages", " " * 28 + "    error    bound"),
        ("", f"{'features':<28}  1.0e-07  2.0e-06  ✓"),
        ("", f"{'projection':<28}  5.0e-01  2.0e-06  ✗ different"),
        ("Transcript", "'A'"),
        ("Transcript", "'A', transformers: 'B'"),
        ("Note", "n"),
        ("Took", "1.2 s"),
    ]
    assert [heading for heading, _ in verification((SOURCE,), (GOOD_STAGE,)).lines()] == ["Verdict"]
    headings = [heading for heading, _ in verification(many[:3]).lines()]
    assert headings == ["Verdict", "Different", "Different", "Different", "Tensors", "Audio", "Took"]
