"""The command line's parts one by one, and what they are made from: options, paths, reports, records."""

from __future__ import annotations

import errno
import inspect
import io
import json
import math
import os
import signal
import stat
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from w2vc import report
from w2vc.batching.batch import BatchProgress
from w2vc.batching.work import Result
from w2vc.command import app, main, parameters, running, terminal
from w2vc.command import batch as batching
from w2vc.command import help as helping
from w2vc.command.exit_codes import EXIT_CODES, MEANINGS, exit_code
from w2vc.errors import (
    DamagedError,
    DictionaryError,
    DifferenceError,
    MissingError,
    OutputExistsError,
    OutputWriteError,
    UsageError,
)
from w2vc.families.conv_feature_layers import ConvLayer
from w2vc.options import DTYPE_ALIASES, OPTIONS, Options, read_options
from w2vc.paths import absolute, given_path
from w2vc.planning import provenance
from w2vc.planning.provenance import Record, find_record, is_made_from, make_record
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary
from w2vc.reading.opening import open_at_once, other_than_a_file, read_small_file

# ---------------------------------------------------------------------------------------------------------------
# Options


def test_each_option_is_asked_for_as_the_readme_says() -> None:
    found = {name: (how.flags, how.metavar, how.choices, how.is_path) for name, how in OPTIONS.items()}
    assert found == {
        "dictionary": (("--dict", "--dict_path"), "FILE_OR_DIR", (), True),
        "head": (("--head",), "", ("auto", "ctc", "pretraining", "projection", "none"), False),
        "dtype": (("--dtype",), "", ("float32", "float16", "bfloat16", "keep"), False),
        "ema": (("--ema",), "", (), False),
        "config": (("--config", "--config_path"), "CONFIG_JSON", (), True),
        "pretrained": (("--pretrained",), "CHECKPOINT", (), True),
        "prefix": (("--prefix",), "PREFIX", (), False),
        "language": (("--language",), "LANG", (), False),
        "card": (("--card/--no-card",), "", (), False),
    }
    assert Options().values() == {
        **dict.fromkeys(("dictionary", "config", "pretrained", "prefix", "language")),
        "head": "auto",
        "dtype": "float32",
        "ema": False,
        "card": True,
    }
    assert DTYPE_ALIASES == {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"dtype": "int8"}, "--dtype is int8, not one of float32, float16, bfloat16, keep."),
        ({"dtype": 7}, "--dtype is 7, not one of float32, float16, bfloat16, keep."),
        ({"head": "fp16"}, "--head is fp16, not one of auto, ctc, pretraining, projection, none."),
        ({"ema": "yes"}, "--ema is 'yes', not true or false."),
        ({"ema": None}, "--ema is None, not true or false."),
        ({"card": 1}, "--card is 1, not true or false."),
        ({"dictionary": 7}, "--dict is 7, not a path."),
        ({"dictionary": ""}, "--dict is empty."),
        ({"prefix": 7}, "--prefix is 7, not a text."),
        ({"prefix": ""}, "--prefix is empty."),
        ({"colour": 7}, "There is no option colour."),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(values: Mapping[str, object], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_options(values)
    assert caught.value.problems == (problem,)
    listed = f"The options are {', '.join(OPTIONS)}."
    assert caught.value.advice == (listed if "colour" in values else "Correct it and run again.")


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_options({"x": 1, "dictionary": "", "head": "y", "dtype": "z"})
    assert [problem.split()[0] for problem in caught.value.problems] == ["There", "--dict", "--head", "--dtype"]


def test_paths_stay_as_they_are_or_start_from_a_folder(tmp_path: Path) -> None:
    assert read_options({"config": "c", "dictionary": Path("d")}) == Options(config=Path("c"), dictionary=Path("d"))
    made = read_options({"config": "c", "dictionary": Path("/d"), "prefix": "c"}, folder=tmp_path)
    assert made == Options(config=tmp_path / "c", dictionary=Path("/d"), prefix="c")
    assert made.files() == (Path("/d"), tmp_path / "c")
    assert read_options(made.values()) == made
    assert [read_options({"dtype": alias}).dtype for alias in DTYPE_ALIASES] == ["float32", "float16", "bfloat16"]


# ---------------------------------------------------------------------------------------------------------------
# Paths


@pytest.mark.parametrize(
    ("path", "problem"), [("", "X is empty."), ("a\0b", "X holds a NUL"), ("\ud800", "X can't be the name of a file")]
)
def test_what_no_file_can_be_called_is_no_path(path: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        given_path(path, "X")
    assert str(caught.value).startswith(problem)
    assert given_path("é/\udcff", "X") == Path("é/\udcff")


def test_a_path_is_absolute_with_links_followed_everywhere_but_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    assert absolute("x") == tmp_path / "x"
    assert absolute("link") == tmp_path / "link"
    assert absolute("link/x") == tmp_path / "a" / "b" / "x"
    assert absolute("link/..") == tmp_path / "a"
    assert absolute("link/../x") == tmp_path / "a" / "x"
    assert absolute("") == absolute(".") == tmp_path
    assert absolute("/") == Path("/")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (stat.S_IFREG, None),
        (stat.S_IFDIR, "a directory"),
        (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"),
        (stat.S_IFLNK, "not a regular file"),
    ],
)
def test_what_is_no_file_has_a_word(kind: int, word: str | None) -> None:
    assert other_than_a_file(kind | 0o644) == word


def test_only_regular_files_are_opened_and_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_at_once(tmp_path / "file") as file:
        assert file.read() == b"abc"
        assert not os.get_inheritable(file.fileno())
    for path, words in (
        (tmp_path, "it is a directory, not a file"),
        (tmp_path / "pipe", "it is a named pipe, not a file"),
        (tmp_path / "missing", "No such file"),
        (Path("a\0b"), "null byte"),
        (Path("/dev/null"), "it is a character device, not a file"),
    ):
        with pytest.raises(OSError, match=words):
            open_at_once(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_small_file_is_read_whole_and_a_larger_one_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    monkeypatch.setattr("w2vc.reading.opening._PIECE", 7)
    for most in (100, 101):
        assert read_small_file(tmp_path / "file", "manifest", most, "") == bytes(range(100))
    with pytest.raises(UsageError, match=r"The manifest .*file is larger than 99 bytes\.") as caught:
        read_small_file(tmp_path / "file", "manifest", 99, "Give another.")
    assert caught.value.advice == "Give another."
    with pytest.raises(UsageError, match=r"The manifest .*x can't be read: No such file or directory\.") as caught:
        read_small_file(tmp_path / "x", "manifest", 99, "Give another.")
    assert caught.value.advice == "Give another."
    assert read_small_file(Path("/proc/self/status"), "status", 10**5, "").startswith(b"Name:")
    with pytest.raises(UsageError, match="larger than 10 bytes"):
        read_small_file(Path("/proc/self/status"), "status", 10, "")


def test_nothing_is_read_of_a_file_that_says_it_is_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    monkeypatch.setattr("w2vc.reading.opening.os.read", lambda *_arguments: pytest.fail("it was read"))
    with pytest.raises(UsageError, match="larger than 99 bytes"):
        read_small_file(tmp_path / "file", "manifest", 99, "Give another.")


# ---------------------------------------------------------------------------------------------------------------
# Reports


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("x", "x"),
        (math.inf, "inf"),
        (b"x", "b'x'"),
        ({1: (1, math.nan)}, {"1": [1, "nan"]}),
        ([ConvLayer(512, 10, 5), [ConvLayer(1, 2, 3)]], [[512, 10, 5], [[1, 2, 3]]]),
    ],
)
def test_values_of_the_cfg_are_plain(value: object, shown: object) -> None:
    assert report.plain(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (99_999, "99,999 bytes"),
        (100_000, "0.1 MB"),
        (999_000_000, "999.0 MB"),
        (1_000_000_000, "1.00 GB"),
        (2_345_000_000, "2.35 GB"),
    ],
)
def test_sizes_are_shown_in_their_unit(count: int, shown: str) -> None:
    assert report._megabytes(count) in (shown, shown.replace("2.35", "2.34"))


def test_equal_layers_in_a_row_are_counted_and_others_are_not() -> None:
    layers = [ConvLayer(512, 10, 5), *[ConvLayer(512, 3, 2)] * 4, *[ConvLayer(512, 2, 2)] * 2, ConvLayer(512, 3, 2)]
    described: Any = types.SimpleNamespace(facts={"conv_feature_layers": layers})
    assert report._conv_text(described) == ("1 x (512, 10, 5) + 4 x (512, 3, 2) + 2 x (512, 2, 2) + 1 x (512, 3, 2)")


def test_the_first_names_are_shown_and_the_others_counted() -> None:
    names = tuple(map(str, range(22)))
    assert report._first(names[:20]) == ", ".join(names[:20])
    assert report._first(names) == ", ".join(names[:20]) + " and 2 more (--json lists all)"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ((None, None, None, None), "the checkpoint doesn't say"),
        ((0, 0, None, 0.0), "0 updates, epoch 0, best value 0"),
        ((12345, 7, "wer", 3.25), "12,345 updates, epoch 7, best wer 3.25"),
        ((None, 7, "wer", None), "epoch 7"),
    ],
)
def test_the_training_is_what_the_checkpoint_says(progress: tuple[Any, ...], text: str) -> None:
    values = types.SimpleNamespace(**dict(zip(("updates", "epoch", "metric", "best"), progress, strict=True)))
    assert report._training_text(types.SimpleNamespace(progress=values)) == text  # type: ignore[arg-type]  # enough of one


@pytest.mark.parametrize(
    ("size", "ema", "text"),
    [
        (4096, False, "; no optimizer state"),
        (4097, True, "; 4,097 bytes of other state, EMA weights too"),
        (2 * 10**9, False, "; 2.00 GB of other state"),
    ],
)
def test_other_state_is_told_of_where_it_is_more_than_nothing(size: int, ema: bool, text: str) -> None:
    checkpoint = types.SimpleNamespace(optimizer_bytes=size, has_ema=ema)
    assert report.Inspection._rest(types.SimpleNamespace(checkpoint=checkpoint)) == text  # type: ignore[arg-type]  # enough


@pytest.mark.parametrize("count", [16, 17])
def test_of_a_dictionary_twelve_symbols_are_shown_without_the_special_ones(count: int) -> None:
    symbols = (*SPECIAL_SYMBOLS, *(f"s{number}" for number in range(4, count)))
    found = types.SimpleNamespace(
        dictionary=Dictionary(symbols, "/in.pt: task_state"),
        checkpoint=types.SimpleNamespace(path=Path("/in.pt")),
        description=types.SimpleNamespace(vocabulary=9),
    )
    shown = " ".join(f"s{number}" for number in range(4, 16)) + (" ..." if count > 16 else "")
    text: Callable[[Any], str] = report.Inspection._dictionary_text
    assert text(found) == f"{count} symbols: {shown} (task_state)"
    found.dictionary = None
    assert text(found) == "none found; the head has 9 rows"


def test_the_verdict_of_an_inspection_is_whether_and_why() -> None:
    verdict: Callable[[Any], str] = report.Inspection._verdict
    refused = report.Refused("K", ("a", "b"), "Do c.")
    plan = types.SimpleNamespace(model_class="M")
    assert verdict(types.SimpleNamespace(plan=plan, refused=None)) == "exactly, to M"
    assert verdict(types.SimpleNamespace(plan=None, refused=None)) == "unknown"
    assert verdict(types.SimpleNamespace(plan=None, refused=refused)) == "not: a; b. Do c."
    assert report._refused_values(refused) == {"kind": "K", "problems": ["a", "b"], "advice": "Do c."}
    assert report._counted(iter("aba")) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("own", "fairseqs", "text"),
    [
        ("ctc", True, "fine-tuned with CTC (N)"),
        ("pretraining", True, "pretrained (N)"),
        ("none", True, "pretrained (N)"),
        ("none", False, "the encoder in F"),
    ],
)
def test_what_a_model_was_trained_for_is_said(own: str, fairseqs: bool, text: str) -> None:
    checkpoint: Any = types.SimpleNamespace(is_fairseqs=fairseqs, form="F", model_name="N")
    assert report._state(checkpoint, types.SimpleNamespace(own_head=own)) == text  # type: ignore[arg-type]  # enough


# ---------------------------------------------------------------------------------------------------------------
# Records, by which a batch resumes


@pytest.fixture
def symbols(tmp_path: Path) -> Path:
    path = tmp_path / "dict.ltr.txt"
    path.write_text("A 1\nB 1\n")
    return path


def made(options: Options, **more: Any) -> Record:
    values: dict[str, Any] = {
        "head": "ctc",
        "auto_head": "ctc",
        "auto_head_with_dict": "ctc",
        "carries_dictionary": True,
        "overrides": None,
        "labels": "ltr",
        "dictionary": Dictionary((*SPECIAL_SYMBOLS, "A", "B"), "somewhere"),
        "files": ["vocab.json", "README.md"],
    }
    return make_record("ab", options, **values | more)


def holds(record: Record, options: Options, checkpoint: Path, fingerprint: str = "ab") -> bool:
    return is_made_from(record, fingerprint, checkpoint, options)


def test_a_record_says_how_an_output_came_to_be() -> None:
    found = made(Options(dtype="keep", ema=True, prefix="p", language="deu"))
    assert replace(found, dictionary="", converted_by="") == Record(
        source_fingerprint="ab",
        head="ctc",
        dtype="keep",
        ema="true",
        config="",
        labels="ltr",
        dictionary="",
        files="README.md vocab.json",
        auto_head="ctc",
        auto_head_with_dict="ctc",
        carries_dictionary="true",
        prefix="p",
        language="deu",
        converted_by="",
    )
    assert found.converted_by.startswith("w2vc ")
    assert len(found.dictionary) == 64
    without = made(Options(), labels=None, dictionary=None, carries_dictionary=False)
    assert (without.labels, without.dictionary, without.carries_dictionary, without.ema) == ("", "", "false", "false")
    assert set(found.metadata()) == {each.name for each in fields(Record)}


def test_the_same_options_make_the_same_again_and_any_other_one_does_not(symbols: Path) -> None:
    checkpoint = symbols.with_name("a.pt")
    plain = Options()
    record = made(plain)
    assert holds(record, plain, checkpoint)
    assert holds(record, replace(plain, head="ctc"), checkpoint)
    assert not holds(record, plain, checkpoint, "cd")
    for other in (
        {"dtype": "keep"},
        {"ema": True},
        {"head": "none"},
        {"prefix": "p"},
        {"language": "deu"},
        {"card": False},
    ):
        changed = replace(plain, **other)
        assert not holds(record, changed, checkpoint), other
    assert not holds(replace(record, converted_by="w2vc 0"), plain, checkpoint)
    assert not holds(replace(record, auto_head="none"), plain, checkpoint)
    assert holds(replace(record, auto_head_with_dict="none"), plain, checkpoint)
    assert holds(replace(record, auto_head="none"), replace(plain, head="ctc"), checkpoint)
    without_card = made(plain, files=["vocab.json"])
    assert not holds(without_card, plain, checkpoint)
    assert holds(without_card, replace(plain, card=False), checkpoint)


def test_the_values_of_a_config_count_and_not_their_order(symbols: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    options = Options(config=config)
    record = made(options, overrides={"layerdrop": 0.5, "hidden_dropout": 0.25})
    for text, same in (
        ('{"hidden_dropout": 0.25, "layerdrop": 0.5}', True),
        ('{"hidden_dropout": 0.5, "layerdrop": 0.5}', False),
        ('{"hidden_dropout": 0.25}', False),
        ("{}", False),
        ("{", False),
    ):
        config.write_text(text)
        assert holds(record, options, symbols.with_name("a.pt")) is same, text
    assert not holds(record, Options(), symbols.with_name("a.pt"))
    config.write_text('{"layerdrop": 0.5}')
    assert not holds(made(Options()), options, symbols.with_name("a.pt"))
    config.unlink()
    assert not holds(record, options, symbols.with_name("a.pt"))


def test_a_pretrained_checkpoint_that_is_gone_makes_nothing_again(symbols: Path, tmp_path: Path) -> None:
    assert not holds(made(Options()), Options(pretrained=tmp_path / "missing.pt"), symbols.with_name("a.pt"))


def test_every_dictionary_that_there_is_has_to_be_the_recorded_one(symbols: Path, tmp_path: Path) -> None:
    checkpoint, record = symbols.with_name("a.pt"), made(Options())
    symbols.write_text("A 7\nB 8\n")  # counts say nothing
    given = tmp_path / "given.txt"
    given.write_text("A 1\nB 1\n")
    assert holds(record, Options(dictionary=given), checkpoint)
    given.write_text("B 1\nA 1\n")
    assert not holds(record, Options(dictionary=given), checkpoint)
    assert not holds(record, Options(dictionary=tmp_path / "missing.txt"), checkpoint)
    symbols.write_text("B 1\nA 1\n")
    assert not holds(record, Options(), checkpoint)
    symbols.write_text("no dictionary\n")
    assert not holds(record, Options(), checkpoint)
    assert holds(made(Options(), head="none", auto_head="none", dictionary=None), Options(), checkpoint)
    symbols.unlink()
    assert holds(record, Options(), checkpoint)  # the checkpoint's own is a part of its fingerprint


def test_a_record_is_found_in_weights_of_ours_alone_and_complete_with_all_files(tmp_path: Path) -> None:
    record = replace(made(Options()), files="README.md vocab.json")
    header: dict[str, Any] = {"__metadata__": record.metadata(), "x": {"data_offsets": [0, 4]}}
    (tmp_path / "README.md").touch()
    (tmp_path / "vocab.json").touch()

    def write(values: object, data: bytes = bytes(4)) -> provenance.Found | None:
        text = json.dumps(values).encode()
        (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        return find_record(tmp_path)

    assert write(header) == provenance.Found(record, complete=True)
    for data in (bytes(3), bytes(5)):
        assert write(header, data) == provenance.Found(record, complete=False)
    for offsets in ("04", [0], [0, "4"], [0, 4, 4]):
        assert write({**header, "x": {"data_offsets": offsets}}) == provenance.Found(record, complete=False)
    assert write({**header, "x": 7}) == provenance.Found(record, complete=False)
    assert write({**header, "w": {"data_offsets": [4, 8]}, "x": header["x"]}, bytes(8)) is not None
    assert write({"__metadata__": record.metadata()}, b"") == provenance.Found(record, complete=True)
    old = {"converted_by": "w2vc 0"}
    found = write({"__metadata__": old}, b"")
    assert found is not None
    assert (found.record.converted_by, found.record.head) == ("w2vc 0", "")
    strangers: tuple[object, ...] = (
        [],
        {},
        {"__metadata__": 7},
        {"__metadata__": {"converted_by": "other"}},
        {"__metadata__": {}},
    )
    for stranger in strangers:
        assert write(stranger, b"") is None
    (tmp_path / "vocab.json").unlink()
    assert write(header) == provenance.Found(record, complete=False)
    for name in (f"../{tmp_path.name}/README.md", f"{tmp_path}/README.md", "x" * 300, "x/" * 2500, "\0"):
        elsewhere = replace(record, files=name)
        assert write({**header, "__metadata__": elsewhere.metadata()}) == provenance.Found(elsewhere, complete=False)
    for data in (b"", b"\1", (10).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{x"):
        (tmp_path / "model.safetensors").write_bytes(data)
        assert find_record(tmp_path) is None
    (tmp_path / "model.safetensors").unlink()
    assert find_record(tmp_path) is None


@pytest.mark.parametrize(("length", "is_found"), [(2**22, True), (2**22 + 1, False)])
def test_a_header_of_any_length_is_not_read(length: int, is_found: bool, tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": made(Options()).metadata()}).encode().ljust(length)
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header)
    assert (find_record(tmp_path) is not None) is is_found


# ---------------------------------------------------------------------------------------------------------------
# Exit codes and errors


def test_each_branch_has_its_exit_code_and_a_meaning() -> None:
    expected = {UsageError: 2, MissingError: 3, DamagedError: 3, DictionaryError: 4, OutputExistsError: 5}
    expected |= {OutputWriteError: 5, DifferenceError: 6}
    assert {kind: exit_code(kind("x", advice="y")) for kind in expected} == expected
    assert sorted(MEANINGS) == [0, 1, 2, 3, 4, 5, 6, 7, 130]
    assert {*EXIT_CODES.values()} < set(MEANINGS)
    assert main.INTERRUPTED == 130


class OfClickError(Exception):
    def __init__(self, command: str | None) -> None:
        super().__init__()
        if command is not None:
            self.ctx = types.SimpleNamespace(info_name=command)

    def format_message(self) -> str:
        return "Missing x"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError(["a", "b"], advice="c"), ("UsageError", 2, ["a", "b"], "c")),
        (OfClickError("convert"), ("UsageError", 2, ["Missing x"], "Try: w2vc convert --help")),
        (OfClickError("verify"), ("UsageError", 2, ["Missing x"], "Try: w2vc verify --help")),
        (OfClickError("inspect"), ("UsageError", 2, ["Missing x"], "Try: w2vc inspect --help")),
        (OfClickError("batch"), ("UsageError", 2, ["Missing x"], "Try: w2vc batch --help")),
        (OfClickError("other"), ("UsageError", 2, ["Missing x"], "Try: w2vc --help")),
        (OfClickError(None), ("UsageError", 2, ["Missing x"], "Try: w2vc --help")),
        (KeyError("k"), ("KeyError", 1, ["KeyError: 'k'"], "This is a bug in w2vc.")),
    ],
)
def test_an_error_is_explained_by_its_kind(error: Exception, expected: tuple[object, ...]) -> None:
    assert running._explained(error) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, ""), True),
        (OSError(errno.EAGAIN, ""), True),
        (OSError(errno.EIO, "not enough memory"), False),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: x"), True),
        (RuntimeError("Not Enough Memory"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), True),
        (RuntimeError("x"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_in_all_its_words(error: Exception, expected: bool) -> None:
    assert running._is_of_memory(error) is expected
    assert (running._explained(error)[1] == 5) is expected


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["convrt", "x"], "Did you mean `w2vc convert`? Try: w2vc --help"),
        (["xyzzy"], "Try: w2vc --help"),
        (["a.pt", "b c"], "Did you mean `w2vc convert a.pt 'b c'`? Try: w2vc --help"),
        (["dir/x"], "Did you mean `w2vc convert dir/x`? Try: w2vc --help"),
        (["there"], "Did you mean `w2vc convert there`? Try: w2vc --help"),
    ],
)
def test_a_wrong_command_is_answered_with_what_was_meant(
    arguments: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    with pytest.raises(UsageError, match=f"There is no command {arguments[0]}") as caught:
        running._check_command(arguments, app.COMMANDS)
    assert caught.value.advice == advice
    for right in ([], ["--help"], ["convert", "x"], ["batch"], ["verify"], ["inspect"]):
        running._check_command(right, app.COMMANDS)


@pytest.mark.parametrize("has_result", [False, True])
def test_an_error_with_json_is_one_object_unless_there_is_one(
    has_result: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "result_is_printed", has_result)
    assert running._told(DictionaryError("a", advice="b"), ["convert", "--json"]) == 4
    out, err = capsys.readouterr()
    error = {"kind": "DictionaryError", "exit_code": 4, "problems": ["a"], "advice": "b"}
    assert out == ("" if has_result else json.dumps({"error": error}) + "\n")
    assert err == "w2vc: a.\n      b\n"
    assert running._told(DictionaryError("a", advice="b"), ["convert"]) == 4
    assert capsys.readouterr().out == ""
    assert running._told(KeyError("k"), []) == 1
    assert "KeyError: 'k'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "returned", "code"),
    [(None, None, 0), (None, 7, 7), (None, 130, 130), (KeyboardInterrupt(), None, 130), (KeyError(), None, 1)],
)
def test_what_happens_is_an_exit_code(
    raised: BaseException | None,
    returned: int | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[object] = []

    def command(arguments: list[str], **how: object) -> int | None:
        asked.append((arguments, how))
        if raised is not None:
            raise raised
        return returned

    monkeypatch.setattr(app, "app", command)
    how = {"prog_name": "w2vc", "standalone_mode": False}
    assert running.run(["inspect"]) == code
    assert asked == [(["inspect"], how)]
    assert ("Interrupted." in capsys.readouterr().err) is (code == 130)
    if raised is None:
        monkeypatch.delenv("_W2VC_COMPLETE", raising=False)
        assert running.run([]) == 2
        monkeypatch.setenv("_W2VC_COMPLETE", "complete_bash")
        assert running.run([]) == code
        assert asked[1:] == [(["--help"], how), ([], how)]


def test_a_result_that_cannot_be_printed_changes_only_the_code_of_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "unprinted", OSError(errno.ENOSPC, "No space left on device"))
    for code, expected in ((0, 5), (4, 4)):
        monkeypatch.setattr(running, "_run", lambda _arguments, code=code: code)
        assert running.run([]) == expected
        assert ("can't be printed: No space left" in capsys.readouterr().err) is (code == 0)


# ---------------------------------------------------------------------------------------------------------------
# The terminal


def test_nothing_that_steers_a_terminal_is_shown() -> None:
    assert terminal.printable("é\x1b[2J\n\u202e\udcff") == "é\\x1b[2J\\n\\u202e\\udcff"
    assert terminal.joined(["a", "b.", "c?", "d!"]) == "a. b. c? d!"
    assert terminal.shortened(["a\n  b"]) == ["a b"]


@pytest.mark.parametrize("count", [20, 21, 30])
def test_twenty_problems_are_shown_and_none_longer_than_a_thousand(count: int) -> None:
    shown = terminal.shortened([str(number) for number in range(count)])
    assert shown[:20] == [str(number) for number in range(20)]
    assert shown[20:] == ([f"And {count - 20} more."] if count > 20 else [])
    assert terminal.shortened(["x" * 1000, "x" * 1001]) == ["x" * 1000, "x" * 997 + "..."]


@pytest.mark.parametrize(("columns", "width"), [(5, 20), (20, 20), (77, 77), (120, 120), (500, 120)])
def test_lines_are_as_wide_as_the_terminal_within_reason(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert terminal.width() == width
    lines = (" " * 6 + terminal.wrapped("some words-and-more " * 30 + "x" * 200)).split("\n")
    assert max(map(len, lines)) == width
    assert all(line.startswith(" " * 6) and line[6] != " " for line in lines)


class Stream(io.StringIO):
    """A stream that fails, or is looked at by somebody."""

    def __init__(self, error: Exception | None = None, *, looked_at: bool = False) -> None:
        super().__init__()
        self.error = error
        self.looked_at = looked_at
        self.flushed = 0

    def isatty(self) -> bool:
        return self.looked_at

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)

    def flush(self) -> None:
        self.flushed += 1


def test_a_result_is_printed_at_once_and_a_full_disk_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    silenced: list[object] = []
    monkeypatch.setattr(terminal, "unprinted", None)
    monkeypatch.setattr(terminal, "_silence", silenced.append)
    good, left, full = Stream(), Stream(BrokenPipeError()), Stream(OSError(errno.ENOSPC, "full"))
    for stream in (good, left, None):
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.show("x")
    assert (good.getvalue(), good.flushed) == ("x\n", 1)
    assert (silenced, terminal.unprinted) == ([left], None)
    monkeypatch.setattr(sys, "stdout", full)
    terminal.show("x")
    assert silenced == [left, full]
    assert terminal.unprinted is full.error
    errors = Stream()
    for stream in (errors, full, None):
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.tell("y")
    assert (errors.getvalue(), errors.flushed) == ("y", 1)


def test_a_silenced_stream_leads_to_nowhere(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with (tmp_path / "file").open("w") as stream:
        terminal._silence(stream)
        stream.write("x")
    assert (tmp_path / "file").read_text() == ""
    terminal._silence(stream)  # closed: no error
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_somebody_looks_only_at_an_open_terminal() -> None:
    assert terminal.is_terminal(Stream(looked_at=True))
    assert not terminal.is_terminal(Stream())
    assert not terminal.is_terminal(None)
    closed = io.StringIO()
    closed.close()
    assert not terminal.is_terminal(closed)


@pytest.mark.parametrize("colours", [True, False])
def test_on_a_terminal_an_error_is_wrapped_and_coloured(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(looked_at=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "")
    terminal.complain(["first", "second and twenty more words"], "do\tit")
    red, bold, plain = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") if colours else ("", "", "")
    assert stream.getvalue() == (
        f"{red}w2vc:{plain} {bold}first{plain}\n      {bold}second and twenty more\n      words{plain}\n      do\\tit\n"
    )
    assert terminal.bold("x") == f"{bold}x{plain}"


# ---------------------------------------------------------------------------------------------------------------
# Printing and bars


def test_a_report_is_a_table_lines_or_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [("Model", "a\x1b"), ("", "b")]
    monkeypatch.setattr(app, "result_is_printed", False)
    app._print({"é": 1}, lines, as_json=False)
    assert capsys.readouterr().out == "Model       a\\x1b\n            b\n"
    assert not app.result_is_printed
    app._print({"é": 1}, lines, as_json=True)
    assert capsys.readouterr().out == '{"\\u00e9": 1}\n'
    assert app.result_is_printed
    stream = Stream(looked_at=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    app._print({}, [("Model", "some words and some others")], as_json=False)
    assert stream.getvalue() == "Model       some words and\n            some others\n"


def test_a_bar_is_drawn_after_a_second_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    bar = types.SimpleNamespace(
        start=lambda: drawn.append("start"),
        stop=lambda: drawn.append("stop"),
        add_task=lambda what, total: drawn.append((what, total)),
        update=lambda task, completed, refresh: drawn.append((task, completed, refresh)),
        task_ids=[17],
    )
    now = iter([50.0, 50.75, 51.0, 51.0625, 51.125])
    monkeypatch.setattr(app, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(app, "_make_bar", lambda: bar)
    monkeypatch.setattr(terminal, "bar_is_shown", False)
    monkeypatch.setattr(sys, "stderr", Stream(looked_at=True))
    with app._Bar("Writing") as shown:
        watch = shown.watch
        assert watch is not None
        for done in (1, 2, 3, 4):
            watch(done, 9)
            assert terminal.bar_is_shown is (done > 1)
    assert drawn == ["start", ("Writing", 9), (17, 2, True), (17, 4, True), "stop"]
    assert not terminal.bar_is_shown
    monkeypatch.setattr(sys, "stderr", Stream())
    now = iter([0.0])
    with app._Bar("Writing") as shown:
        assert shown.watch is None


def test_a_place_is_given_once_by_argument_or_option() -> None:
    one, other = Path("a"), Path("b")
    assert app._given(one, None, "X") == one
    assert app._given(None, other, "X") == other
    with pytest.raises(UsageError, match="X is given twice: a and b"):
        app._given(one, other, "X")
    with pytest.raises(UsageError, match="X is missing"):
        app._given(None, None, "X")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["/a/b.pt"], ["b.pt"]),
        (["/a/x.pt", "/b/x.pt"], ["a/x.pt", "b/x.pt"]),
        (["/a/c/x.pt", "/b/c/x.pt", "/b/d/y.pt"], ["a/c/x.pt", "b/c/x.pt", "b/d/y.pt"]),
        (["/x.pt", "/a/x.pt"], ["/x.pt", "a/x.pt"]),
    ],
)
def test_names_are_as_short_as_they_can_be_and_differ(paths: list[str], names: list[str]) -> None:
    assert batching.distinct_names([Path(path) for path in paths]) == names


@pytest.mark.parametrize(
    ("count", "whole", "text"),
    [
        (5, 999, "5 bytes"),
        (0, 0, "0 bytes"),
        (500, 1000, "0.5 kB"),
        (5_000, 10_000, "5 kB"),
        (1_234_000, 9_999_999, "1.2 MB"),
        (5_000_000, 2_000_000_000, "0.0 GB"),
        (12_345_000_000_000, 12_345_000_000_000, "12,345 GB"),
    ],
)
def test_sizes_have_the_unit_of_the_whole(count: int, whole: int, text: str) -> None:
    assert f"{batching.size(count, whole)} {batching.unit(whole)}" == text


@pytest.mark.parametrize("text", ["", "3", "3/", "/8", "a/8", "3/b", "-1/8", "3/8/9", "1/" + "1" * 40, "\u00b2/8"])
def test_a_part_is_two_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--part is "):
        batching._part(text)
    assert batching._part("3/8") == (3, 8)
    assert batching._part("1/" + "1" * 37) == (1, int("1" * 37))


def test_each_checkpoint_that_is_done_with_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = batching._Lines()
    lines.result(Result(Path("/a"), Path("/b"), "converted", seconds=1.25))
    lines.progress(BatchProgress(3, 12))
    lines.result(Result(Path("/a"), Path("/b"), "failed", why=("/a: x", "y\x1b"), advice="Do z."))
    assert capsys.readouterr().err == "converted /a -> /b (1.2 s)\n[3/12] failed /a: x. y\\x1b. Do z.\n"


@pytest.mark.parametrize(
    ("good", "code", "as_json"), [(True, 0, True), (True, 0, False), (False, 7, True), (False, 7, False)]
)
def test_a_batch_hands_on_what_it_is_given(
    good: bool, code: int, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    one = Result(Path("/a"), Path("/b"), "converted")

    def run(*given: object, **more: Any) -> Any:
        more.pop("on_result")(one)
        more.pop("on_progress")(BatchProgress(1, 1))
        asked.append((given, more))
        return types.SimpleNamespace(
            results=(one,), is_good=good, values=lambda: {"checkpoints": 1}, text=lambda: "the end"
        )

    monkeypatch.setattr("w2vc.batching.batch.batch", run)
    options = Options().values()
    more = {"jobs": 3, "force": True, "report": Path("/r"), "dask": None, "as_json": as_json}
    assert batching.batch(inputs=["x"], output=Path("/o"), part="1/2", **more, **options) == code
    expected = {"jobs": 3, "force": True, "part": (1, 2), "report": Path("/r"), "executor": None, **options}
    assert asked == [((["x"], Path("/o")), expected)]
    out, err = capsys.readouterr()
    assert out == (json.dumps({"checkpoints": 1, "results": [one.values()]}) if as_json else "the end") + "\n"
    assert err == "converted /a -> /b (0.0 s)\n"


# ---------------------------------------------------------------------------------------------------------------
# Parameters and help


def test_a_command_takes_each_option_by_keyword_in_place_of_options() -> None:
    @parameters.with_options("head", "ema", "dictionary")
    def command(first: int, options: Mapping[str, object], last: str = "x") -> object:
        return first, options, last

    signature = inspect.signature(command)
    assert list(signature.parameters) == ["first", "head", "ema", "dictionary", "last"]
    assert {each.kind for each in signature.parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    given = {"head": "ctc", "ema": True, "dictionary": None}
    assert command(first=1, last="y", **given) == (1, given, "y")
    assert not hasattr(command, "__wrapped__")
    every = inspect.signature(parameters.with_options()(command_of_options)).parameters
    assert list(every) == list(OPTIONS)
    assert {name: each.default for name, each in every.items()} == {name: getattr(Options(), name) for name in OPTIONS}


def command_of_options(options: Mapping[str, object]) -> object:
    return options


def test_a_shell_is_given_the_choices_that_begin_so_by_any_name() -> None:
    complete = parameters._completion(OPTIONS["dtype"])
    assert complete("f") == ["float32", "float16", "fp32", "fp16"]
    assert complete("b") == ["bfloat16", "bf16"]
    assert complete("x") == []


def test_a_path_is_read_as_it_was_given() -> None:
    assert parameters.path_parser("X")("a/b") == Path("a/b")
    with pytest.raises(UsageError, match="X is empty"):
        parameters.path_parser("X")("")


def test_rows_of_the_help_are_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert list(helping._row("x" * 22, "y")) == ["  " + "x" * 22 + "  y"]
    assert list(helping._row("x" * 23, "y")) == ["  " + "x" * 23, " " * 26 + "y"]
    assert list(helping._row("x", "")) == ["  x"]
    wrapped = list(helping._row("x", "some words " * 9))
    assert max(map(len, wrapped)) <= 60
    assert all(line.startswith(" " * 26) for line in wrapped[1:])
    assert helping._section("T", [("a", "b")]) == ["T:", "  a" + " " * 23 + "b", ""]
    assert helping._section("T", []) == []
    assert helping._epilog("Codes:\n7\tsome\n130\tother") == ["Codes:", "    7  some", "  130  other"]
    for columns, width in (("99", 99), ("100", 100), ("200", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert helping._width() == width


@pytest.mark.parametrize(
    ("values", "left", "right"),
    [
        ({"opts": ["--jobs", "-j"], "metavar": "N"}, "-j, --jobs N", "h"),
        ({"opts": ["--dict", "--dict_path"], "metavar": "F"}, "--dict F", "h"),
        ({"opts": ["--ema"], "is_flag": True}, "--ema", "h"),
        ({"opts": ["--card"], "secondary_opts": ["--no-card"], "is_flag": True}, "--card, --no-card", "h"),
        ({"opts": ["--head"], "metavar": "a|b", "default": "a"}, "--head a|b", "h [default: a]"),
        ({"opts": ["--output"], "metavar": "D", "required": True}, "--output D", "h [required]"),
        ({"opts": ["--x"], "help": None}, "--x TEXT", ""),
    ],
)
def test_an_option_in_the_help_is_how_it_is_given_and_what_it_does(
    values: dict[str, object], left: str, right: str
) -> None:
    plain: dict[str, object] = {
        "secondary_opts": [],
        "metavar": None,
        "default": None,
        "required": False,
        "help": "h",
        "is_flag": False,
    }
    assert helping._option(types.SimpleNamespace(**plain | values)) == (left, right)


# ---------------------------------------------------------------------------------------------------------------
# Where a process begins


def test_a_process_ends_with_the_code_and_knows_that_it_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    began: list[str] = []
    for before, after in ((None, "1"), ("0", "0")):
        monkeypatch.setattr(os, "environ", {} if before is None else {"HF_HUB_OFFLINE": before})
        monkeypatch.setattr(main, "_fill_closed_descriptors", lambda: began.append("filled"))
        monkeypatch.setattr(main, "_take_signals", lambda: began.append("taken"))
        monkeypatch.setattr(main, "_run", lambda: 6)
        monkeypatch.setattr(os, "_exit", codes.append)
        main.main()
        assert os.environ["HF_HUB_OFFLINE"] == after
    assert codes == [6, 6]
    assert began == ["filled", "taken"] * 2


def test_closed_streams_are_opened_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, ...]] = []

    def fstat(descriptor: int) -> None:
        if descriptor != 1:
            raise OSError(errno.EBADF, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fstat)
        patch.setattr(os, "open", lambda *how: opened.append(how))
        main._fill_closed_descriptors()
    assert opened == [(os.devnull, os.O_RDWR)] * 2


def test_signals_are_taken_unless_they_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[object, ...]] = []
    ignored = {signal.SIGINT}
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    monkeypatch.setattr(signal, "signal", lambda *how: taken.append(how))
    main._take_signals()
    assert taken == [(signal.SIGTERM, main._interrupt)]
    ignored.clear()
    main._take_signals()
    assert taken[1:] == [(signal.SIGINT, main._interrupt), (signal.SIGTERM, main._interrupt)]


@pytest.mark.parametrize("bar", [False, True])
def test_an_interrupt_leaves_nothing_and_clears_a_bar_away(bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr("w2vc.writing.output_directory.abandon", lambda: done.append("abandoned"))
    monkeypatch.setattr(terminal, "bar_is_shown", bar)
    monkeypatch.setattr(os, "write", lambda descriptor, text: done.append((descriptor, text)))
    monkeypatch.setattr(os, "_exit", done.append)
    main._interrupt(signal.SIGINT, None)
    words = b"w2vc: Interrupted.\n      Nothing was left behind; run the same command again.\n"
    cleared = [(2, b"\r\x1b[2K\x1b[?25h")] if bar else []
    assert done == ["abandoned", *cleared, (2, words), 130]
    done.clear()
    monkeypatch.setitem(sys.modules, "w2vc.writing.output_directory", types.ModuleType("being imported"))
    monkeypatch.delitem(sys.modules, "w2vc.command.terminal")
    main._interrupt(signal.SIGINT, None)
    assert done == [(2, words), 130]
