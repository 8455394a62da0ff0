"""The parts of a batch one by one, with no process started and nothing converted."""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import w2vc
from w2vc.batching import batch as batching
from w2vc.batching import capacity, jobs, pool, work, worker
from w2vc.batching.batch import BatchProgress, BatchSummary, batch
from w2vc.batching.jobs import Job, check_writable, find_jobs
from w2vc.batching.manifests import COLUMNS, Row, is_manifest, read_manifest
from w2vc.batching.pool import Pool, Running
from w2vc.batching.report import open_report
from w2vc.batching.work import Result, lost, without_output
from w2vc.errors import (
    DictionaryError,
    InconsistentError,
    OutputExistsError,
    OutputWriteError,
    UnreadableError,
    UsageError,
)
from w2vc.options import OPTIONS, Options


def job(name: str = "a", size: int = 7, problems: tuple[str, ...] = ()) -> Job:
    return Job(Path(f"/in/{name}.pt"), Path(f"/out/{name}"), Options(dtype="float16"), size, problems)


def result(name: str = "a", status: work.Status = "converted", **more: Any) -> Result:
    return Result(Path(f"/in/{name}.pt"), Path(f"/out/{name}"), status, **more)


def empty(*places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


# ---------------------------------------------------------------------------------------------------------------
# Jobs


def test_a_job_and_a_result_come_out_of_plain_values_as_they_went_in() -> None:
    every = Options(
        Path("/d.txt"), "ctc", "keep", True, Path("/c.json"), Path("/p.pt"), "encoder", language="deu", card=False
    )
    for one in (job(problems=("first", "second")), replace(job(), options=every)):
        assert Job.from_plain(json.loads(json.dumps(one.plain()))) == one
    other = result(
        "b", "failed", kind="MemoryError", why=("x", "y"), advice="z", seconds=1.5, fingerprint="ab", exact=True
    )
    assert Result.from_plain(json.loads(json.dumps(other.plain()))) == other


def test_a_single_input_needs_no_list(tmp_path: Path) -> None:
    empty(tmp_path / "a.pt")
    for given in (tmp_path / "a.pt", str(tmp_path / "a.pt")):
        (one,) = find_jobs(given, tmp_path / "out", Options())  # type: ignore[arg-type]  # what a caller may do
        assert (one.checkpoint, one.output, one.size) == (tmp_path / "a.pt", tmp_path / "out" / "a", 0)


def test_of_equal_sizes_the_outputs_names_decide_the_order(tmp_path: Path) -> None:
    empty(tmp_path / "b.pt", tmp_path / "a.pt", tmp_path / "c.pt")
    given = [tmp_path / name for name in ("c.pt", "a.pt", "b.pt")]
    assert [one.output.name for one in find_jobs(given, tmp_path / "out", Options())] == ["a", "b", "c"]


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (-1, 1), (1, 0)])
def test_a_part_is_one_of_those_that_there_are(part: tuple[int, int], tmp_path: Path) -> None:
    empty(tmp_path / "a.pt")
    with pytest.raises(UsageError, match="the first number goes from 1 to the second") as caught:
        find_jobs([tmp_path / "a.pt"], tmp_path / "out", Options(), part)
    assert len(caught.value.problems) == 1
    for good in ((1, 1), (1, 2), (2, 2)):
        find_jobs([tmp_path / "a.pt"], tmp_path / "out", Options(), good)


def test_every_file_of_the_options_that_is_missing_is_named(tmp_path: Path) -> None:
    empty(tmp_path / "a.pt", tmp_path / "there")
    options = Options(dictionary=tmp_path / "d", config=tmp_path / "there", pretrained=tmp_path / "p")
    with pytest.raises(UsageError) as caught:
        find_jobs([tmp_path / "a.pt"], tmp_path / "out", options, (2, 1))
    assert [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "d doesn't exist.",
        "p doesn't exist.",
        "--part is 2/1: the first number goes from 1 to the second.",
    ]


def test_every_missing_input_is_named_and_a_link_to_nowhere_is_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_jobs([tmp_path / "x.pt", tmp_path / "list.csv"], tmp_path / "out", Options())
    assert len(caught.value.problems) == 2
    (tmp_path / "odd[1].pt").symlink_to(tmp_path / "nowhere")
    (one,) = find_jobs([tmp_path / "odd[1].pt"], tmp_path / "out", Options())
    assert (one.checkpoint.name, one.output.name, one.size) == ("odd[1].pt", "odd[1]", 0)


def test_a_pattern_takes_files_of_any_name_and_what_lies_in_folders(tmp_path: Path) -> None:
    empty(tmp_path / "x" / "1.pt", tmp_path / "x" / "deep" / "2.pt", tmp_path / "x" / "log", tmp_path / "y.bin")
    empty(tmp_path / ".hidden" / "3.pt")
    found = find_jobs([f"{tmp_path}/*"], tmp_path / "out", Options())
    assert sorted(str(one.output.relative_to(tmp_path / "out")) for one in found) == ["x/1", "x/deep/2", "y.bin"]
    found = find_jobs([f"{tmp_path}/**/*.pt"], tmp_path / "out", Options())
    assert sorted(str(one.output.relative_to(tmp_path / "out")) for one in found) == ["x/1", "x/deep/2"]


def test_a_file_called_pt_alone_keeps_its_name(tmp_path: Path) -> None:
    empty(tmp_path / ".pt")
    assert [one.output.name for one in find_jobs([tmp_path / ".pt"], tmp_path / "out", Options())] == [".pt"]


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with pytest.raises(UsageError, match=r"The folder /x can't be read: Permission denied\."):
        jobs._raise_unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"))


def test_an_unreadable_folder_below_an_input_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(tmp_path / "in" / "a.pt")

    def no_scandir(path: object) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", no_scandir)
    with pytest.raises(UsageError, match="can't be read: Permission denied"):
        list(jobs._below(tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize(("count", "shown"), [(20, 20), (21, 21), (22, 21)])
def test_twenty_outputs_in_one_anothers_way_are_shown_and_the_others_counted(count: int, shown: int) -> None:
    problems = jobs._shortened([f"{number}." for number in range(count)])
    assert len(problems) == shown
    assert problems[:20] == [f"{number}." for number in range(20)]
    assert problems[20:] == ([f"And {count - 20} more."] if count > 20 else [])


def test_a_bad_rows_output_is_in_nobodys_way(tmp_path: Path) -> None:
    empty(tmp_path / "a.pt")
    rows = [{"checkpoint": "a.pt", "output": "x"}, {"checkpoint": "b.pt", "output": "x", "dtype": "int8"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad = sorted(find_jobs([tmp_path / "list.jsonl"], tmp_path / "out", Options()), key=lambda one: one.problems)
    assert (good.output, good.problems) == (tmp_path / "out" / "x", ())
    assert (bad.checkpoint, bad.output, bad.size) == (Path(f"{tmp_path}/list.jsonl, line 2"), tmp_path / "out", 0)
    assert bad.problems[0].startswith(f"{tmp_path}/list.jsonl, line 2: --dtype is int8")


def row_job(tmp_path: Path, **values: object) -> Job:
    return jobs._row_job(Row(3, values), tmp_path / "list.csv", tmp_path / "out", Options(dtype="float16"))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "There is no checkpoint in it."),
        ({"checkpoint": ""}, "There is no checkpoint in it."),
        ({"checkpoint": 7}, "The checkpoint is 7, not a text."),
        ({"checkpoint": "a.pt", "output": ["x"]}, "The output is a list, not a text."),
        ({"checkpoint": "a\0.pt"}, "checkpoint holds a NUL character"),
        ({"checkpoint": "a.pt", "output": "/x"}, "The output '/x' is not a name below --output."),
        ({"checkpoint": "a.pt", "output": "x/../y"}, "The output 'x/../y' is not a name below --output."),
        ({"checkpoint": "a.pt", "output": "."}, "The output '.' is not a name below --output."),
        ({"checkpoint": ".."}, "The output '..' is not a name below --output."),
        ({"checkpoint": "a.pt", "ema": "perhaps"}, "--ema is 'perhaps', not true or false."),
    ],
)
def test_what_is_wrong_with_a_row_is_the_jobs_one_problem(
    values: Mapping[str, object], problem: str, tmp_path: Path
) -> None:
    (found,) = row_job(tmp_path, **values).problems
    assert found.startswith(f"{tmp_path}/list.csv, line 3: {problem}")


def test_a_rows_paths_start_from_the_manifests_folder_and_its_output_from_the_batchs(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(bytes(9))
    found = row_job(tmp_path, checkpoint="a.pt", config="c.json", head="none")
    expected = Options(config=tmp_path / "c.json", head="none", dtype="float16")
    assert found == Job(tmp_path / "a.pt", tmp_path / "out" / "a", expected, 9)
    assert row_job(tmp_path, checkpoint="b/a.pt", output="x/y").output == tmp_path / "out" / "x" / "y"


def test_all_problems_of_a_row_are_told_at_once(tmp_path: Path) -> None:
    row = Row(2, {"output": 7, "dtype": "int8"}, ("There is no column 'x'.",))
    found = jobs._row_job(row, tmp_path / "list.csv", tmp_path / "out", Options())
    assert [problem.rpartition(": ")[2][:20] for problem in found.problems] == [
        "There is no column '",
        "The output is 7, not",
        "--dtype is int8, not",
    ]


def test_the_nearest_folder_that_there_is_has_to_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "x" / "y")
    asked = []

    def access(path: Path, mode: int) -> bool:
        asked.append((Path(path), mode))
        return False

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(OutputWriteError, match=f"{tmp_path} may not be written to"):
        check_writable(tmp_path / "x" / "y")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


# ---------------------------------------------------------------------------------------------------------------
# Manifests


def rows(tmp_path: Path, text: str, name: str = "list.csv") -> list[Row]:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.csv", True), ("a.jsonl", True), ("a.json", False), ("a.pt", False), ("csv", False)]
)
def test_a_manifest_is_known_by_its_ending(name: str, expected: bool, tmp_path: Path) -> None:
    assert is_manifest(tmp_path / name) is expected
    (tmp_path / name).mkdir()
    assert not is_manifest(tmp_path / name)


def test_rows_have_their_lines_and_only_what_is_not_empty(tmp_path: Path) -> None:
    text = "\n checkpoint , output,ema\n\n a.pt ,, YES\n,\nb.pt\n'c,pt',\"x\ny\",0\n"
    assert rows(tmp_path, text) == [
        Row(4, {"checkpoint": "a.pt", "ema": True}),
        Row(6, {"checkpoint": "b.pt"}),
        Row(8, {}, ("It has 4 fields under 3 columns.",)),
    ]
    assert rows(tmp_path, 'checkpoint,output\r\n"a,b","x ""y"""\r\n') == [
        Row(2, {"checkpoint": "a,b", "output": 'x "y"'})
    ]


def test_json_lines_mean_the_same_and_null_is_nothing(tmp_path: Path) -> None:
    text = '{"checkpoint": "a.pt", "ema": "No", "card": false, "prefix": null}\n \n[]\n{"x": 1}\nno\n'
    good, listed, unknown, wrong = rows(tmp_path, text, "list.jsonl")
    assert good == Row(1, {"checkpoint": "a.pt", "ema": False, "card": False})
    assert listed == Row(3, {}, ("It is not a JSON object.",))
    assert unknown == Row(4, {}, ("There is no column 'x'.",))
    assert (wrong.line, wrong.values, len(wrong.problems)) == (5, {}, 1)
    assert wrong.problems[0].startswith("It is not JSON: ")


TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@pytest.mark.parametrize("word", TRUTHS)
def test_a_truth_in_words_is_one_for_switches_alone(word: str, tmp_path: Path) -> None:
    for spelled in (word, word.upper()):
        values = dict.fromkeys(COLUMNS, spelled)
        (row,) = rows(tmp_path, json.dumps(values), "list.jsonl")
        assert row == Row(1, values | {"ema": TRUTHS[word], "card": TRUTHS[word]})


@pytest.mark.parametrize(
    ("header", "problems"),
    [
        ("output", ["There is no column 'checkpoint'."]),
        ("checkpoint,ema,ema", ["The column 'ema' is there twice."]),
        ("checkpoint,red,blue,red", ["There is no column 'red'.", "There is no column 'blue'."]),
        (",".join(["checkpoint", *map(str, range(30))]), [f"There is no column '{number}'." for number in range(20)]),
    ],
)
def test_a_header_that_makes_all_rows_doubtful_is_wrong_usage(header: str, problems: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rows(tmp_path, f"{header}\na\n")
    assert list(caught.value.problems) == [f"{tmp_path}/list.csv: {problem}" for problem in problems]


def test_of_a_rows_unknown_columns_twenty_are_named(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, json.dumps(dict.fromkeys(map(str, range(30)), 1)), "list.jsonl")
    assert row.problems == tuple(f"There is no column '{number}'." for number in range(20))


def test_a_row_that_is_no_csv_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    broken, good = rows(tmp_path, 'checkpoint\n"a"b\nc.pt\n')
    assert (broken.line, broken.values) == (2, {})
    assert broken.problems[0].startswith("It is not CSV: ")
    assert good == Row(3, {"checkpoint": "c.pt"})


def test_a_manifest_that_is_not_utf8_says_at_which_byte(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"checkpoint\n\xff")
    with pytest.raises(UsageError, match=r"is not UTF-8 \(byte 11\)"):
        read_manifest(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfcheckpoint\na.pt")
    assert read_manifest(tmp_path / "list.csv") == [Row(2, {"checkpoint": "a.pt"})]


def test_every_option_is_a_column() -> None:
    assert ("checkpoint", "output", *OPTIONS) == COLUMNS


# ---------------------------------------------------------------------------------------------------------------
# How many at a time

GROUPS = "0::/slurm/job\n3:cpu,cpuacct:/a\n4:memory:/b/c\n5:cpuset:/d\n"


def set_files(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    texts = {"/proc/self/cgroup": GROUPS, **files}
    monkeypatch.setattr(capacity, "_contents", lambda path: texts.get(path.removeprefix("/sys/fs/cgroup/"), ""))


@pytest.mark.parametrize(
    ("controller", "places"),
    [
        ("cpu", ["", "/cpu", "/slurm/job", "/slurm", "/", "/cpu/a", "/cpu/"]),
        ("memory", ["", "/memory", "/slurm/job", "/slurm", "/", "/memory/b/c", "/memory/b", "/memory/"]),
    ],
)
def test_the_groups_of_a_process_are_looked_at_up_to_their_roots(
    controller: str, places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_files(monkeypatch)
    assert list(capacity._control_groups(controller)) == [f"/sys/fs/cgroup{place}" for place in places]


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "250000 100000"}, 2),  # rounded, and half to the even
        ({"cpu.max": "160000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "0 100000"}, 1),
        ({"cpu.max": "max 100000"}, 2**62),
        ({"cpu.max": "100000 0"}, 2**62),
        ({"cpu.max": "1"}, 2**62),
        ({}, 2**62),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2**62),
        ({"slurm/cpu.max": "200000 100000", "cpu.max": "300000 100000"}, 2),
    ],
)
def test_the_least_quota_of_processors_counts(
    files: dict[str, str], processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_files(monkeypatch, **files)
    assert capacity._processor_quota() == processors


FREE = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, 4_096_000),
        ({"/proc/meminfo": "MemTotal: 9 kB\nCached:  5 kB\nSwapCached: 7 kB\n"}, 4_096_000 + 5 * 1024),
        ({"memory.max": "123\n"}, 123),
        ({"memory/b/memory.limit_in_bytes": "99", "slurm/memory.max": "100"}, 99),
        ({"memory.max": "max"}, 4_096_000),
    ],
)
def test_the_least_memory_counts_and_what_is_cached_is_free(
    files: dict[str, str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_files(monkeypatch, **files)
    monkeypatch.setattr(os, "sysconf", FREE.__getitem__)
    assert capacity._available_bytes() == size


@pytest.mark.parametrize(
    ("processors", "quota", "size", "todo", "workers"),
    [(4, 9, 9, 9, 4), (9, 4, 9, 9, 4), (9, 9, 4, 9, 4), (9, 9, 9, 4, 4), (9, 9, 0, 9, 1), (9, 9, 9, 0, 1)],
)
def test_workers_are_as_many_as_the_scarcest_allows_and_never_none(
    processors: int, quota: int, size: int, todo: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)) if process == 0 else set())
    monkeypatch.setattr(capacity, "_processor_quota", lambda: quota)
    monkeypatch.setattr(capacity, "_available_bytes", lambda: (size + 1) * capacity.WORKER_BYTES - 1)
    assert capacity.default_workers(todo) == workers


def test_a_file_of_the_system_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"a\xffb\n")
    assert capacity._contents(str(tmp_path / "there")) == "a\ufffdb\n"
    assert capacity._contents(str(tmp_path / "missing")) == ""


# ---------------------------------------------------------------------------------------------------------------
# The report


def tell(path: Path, *lines: dict[str, object]) -> None:
    with open_report(path) as line:
        for values in lines:
            line(values)


def test_a_line_is_in_the_report_when_it_has_been_told_and_later_ones_follow(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    with open_report(path) as line:
        line({"summary": {}})
        assert path.read_text() == '{"summary": {}}\n'
    tell(path, {"summary": {"x": 1}})
    assert path.read_text() == '{"summary": {}}\n{"summary": {"x": 1}}\n'


def test_without_a_report_nothing_is_written() -> None:
    with open_report(None) as line:
        line({"summary": {}})


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"{",
        b'{"input": "/to',
        b'{"summary": {"a',
        b'{"input": "/torn\n',
        b'{"input": "/a", "fingerprint": null, "output": "/b", "status": "x"}\n',
        b'{"input": "/a", "fingerprint": 1, "output": "/b", "status": "x", "more": 1}',
        b'{"summary": {}}\nwhatever',
    ],
)
def test_an_earlier_report_is_appended_to_on_a_new_line(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_bytes(start)
    tell(path, {"summary": {}})
    line_end = b"" if not start or start.endswith(b"\n") else b"\n"
    assert path.read_bytes() == start + line_end + b'{"summary": {}}\n'


@pytest.mark.parametrize(
    "start",
    [
        b"\n",
        b"x",
        b"{\n",
        b'{"summary": \n',
        b'{"input": "a"}',
        b'{"input": "/a"}',
        b'{"input": "/a", "fingerprint": null, "output": "/b"}\n',
        b'{"checkpoint": "a"}\n',
        b'[{"summary": {}}]',
    ],
)
def test_what_is_no_report_stays_as_it_is(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(start)
    with pytest.raises(OutputExistsError, match="no report of an earlier batch"):
        tell(path, {"summary": {}})
    assert path.read_bytes() == start


def test_a_report_that_cannot_be_opened_is_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputWriteError, match=r"The report .*x/y can't be written: No such file or directory\."):
        tell(tmp_path / "x" / "y")
    with pytest.raises(OutputWriteError, match="can't be written: Is a directory"):
        tell(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputExistsError):
        tell(tmp_path / "pipe")
    with pytest.raises(UsageError, match="--report is empty"), open_report(""):
        pass


def test_a_disk_that_is_full_is_told_of_and_no_descriptor_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.jsonl"
    path.write_bytes(b'{"input": "/torn')
    before = len(list(Path("/proc/self/fd").iterdir()))

    def full(_descriptor: int, _line: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutputWriteError, match="No space left on device"):
            tell(path)
        path.write_bytes(b"")
        with pytest.raises(OutputWriteError, match="No space left on device"):
            tell(path, {"summary": {}})
    with pytest.raises(OutputExistsError):
        tell(Path(__file__))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_line_is_written_whole_however_little_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:3]))
    tell(tmp_path / "report", {"summary": {"x": "many bytes"}})
    assert (tmp_path / "report").read_text() == '{"summary": {"x": "many bytes"}}\n'


# ---------------------------------------------------------------------------------------------------------------
# Results and sums


def test_a_results_line_has_every_value_by_its_name() -> None:
    one = result("b", "refused", fingerprint="ab", kind="K", why=("x",), advice="y", seconds=1.23456, bytes_written=5)
    assert one.values() == {
        "input": "/in/b.pt",
        "fingerprint": "ab",
        "output": "/out/b",
        "status": "refused",
        "model_class": None,
        "exact": None,
        "kind": "K",
        "why": ["x"],
        "advice": "y",
        "seconds": 1.235,
        "bytes": 5,
    }


def test_complete_outputs_are_good_and_no_others() -> None:
    assert {status: result("a", status).is_good for status in work.STATUSES} == {
        "converted": True,
        "skipped": True,
        "refused": False,
        "failed": False,
    }


def test_the_sums_of_a_batch_are_those_of_its_results() -> None:
    results = (
        result("a", "converted", bytes_written=10),
        result("b", "skipped"),
        result("c", "failed", bytes_written=1),
        result("d", "converted", bytes_written=100),
    )
    assert BatchSummary(results, 7, 1.23456).values() == {
        "checkpoints": 7,
        "converted": 2,
        "skipped": 1,
        "refused": 0,
        "failed": 1,
        "unfinished": 3,
        "bytes": 111,
        "seconds": 1.235,
    }


@pytest.mark.parametrize(
    ("statuses", "count", "good", "text"),
    [
        (["converted"], 1, True, "1 checkpoint: 1 converted, in 2.0 s"),
        (["converted", "skipped"], 2, True, "2 checkpoints: 1 converted, 1 skipped, in 2.0 s"),
        (["skipped"], 1, True, "1 checkpoint: 1 skipped; nothing new was converted, in 2.0 s"),
        (["skipped"], 2, False, "2 checkpoints: 1 skipped, 1 unfinished; nothing new was converted, in 2.0 s"),
        (["failed", "refused"], 2, False, "2 checkpoints: 1 refused, 1 failed, in 2.0 s"),
        ([], 0, True, "0 checkpoints: nothing to do, in 2.0 s"),
    ],
)
def test_the_end_of_a_batch_is_one_line(statuses: list[work.Status], count: int, good: bool, text: str) -> None:
    summary = BatchSummary(tuple(result("a", status) for status in statuses), count, 2.04)
    assert (summary.text(), summary.is_good) == (text, good)


# ---------------------------------------------------------------------------------------------------------------
# One conversion


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The conversions that were asked for, by whether they may replace an output; none is made."""
    asked: list[bool] = []

    def convert(_job: Job, force: bool, _watch: object) -> Result:
        asked.append(force)
        return result(fingerprint="ab")

    monkeypatch.setattr(work, "_converted", convert)
    monkeypatch.setattr(work, "_import_libraries", lambda: None)
    monkeypatch.setattr(work, "_skipped", lambda _job: None)
    monkeypatch.setattr(work, "read_fingerprint", lambda path: f"read from {path}")
    return asked


def test_what_is_up_to_date_is_converted_by_force_alone(
    conversions: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_skipped", lambda one: replace(result("a", "skipped"), checkpoint=one.checkpoint))
    assert work.work(job(), force=False).status == "skipped"
    assert conversions == []
    assert work.work(job(), force=True).status == "converted"
    assert conversions == [True]
    monkeypatch.setattr(work, "_skipped", lambda _job: None)
    assert work.work(job(), force=False).status == "converted"
    assert conversions == [True, False]


def test_a_bad_row_is_the_result_and_nothing_is_converted(conversions: list[bool]) -> None:
    found = work.work(job(problems=("first", "second")), force=False)
    assert (found.status, found.kind, found.why) == ("failed", "UsageError", ("first", "second"))
    assert f"the columns are {', '.join(COLUMNS)}." in (found.advice or "")
    assert conversions == []


def test_a_failure_has_a_fingerprint_where_the_file_can_be_read(
    conversions: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_path: Path) -> str:
        raise UnreadableError("no", advice="")

    found = work.work(job(problems=("x",)), force=False)
    assert found.fingerprint == "read from /in/a.pt"
    assert work.work(job(), force=False).fingerprint == "ab"
    monkeypatch.setattr(work, "read_fingerprint", unreadable)
    assert work.work(job(problems=("x",)), force=False).fingerprint is None
    assert conversions == [False]


def test_the_first_checkpoint_is_not_charged_with_the_imports(
    conversions: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 100.0, 101.5])
    monkeypatch.setattr(work, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    assert work.work(job(), force=False).seconds == 1.5
    now = iter([10.0, 12.5])
    assert work.work(job(problems=("x",)), force=False).seconds == 2.5
    assert conversions == [False]


def bug() -> ZeroDivisionError:
    try:
        1 / 0  # noqa: B018 - it raises
    except ZeroDivisionError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "status", "kind", "why", "advice"),
    [
        (DictionaryError(["x", "y"], advice="z"), "refused", "DictionaryError", ("x", "y"), "z"),
        (InconsistentError("x", advice="z"), "refused", "InconsistentError", ("x",), "z"),
        (OutputExistsError("x", advice="z"), "failed", "OutputExistsError", ("x",), "z"),
        (MemoryError(), "failed", "MemoryError", ("There is not enough memory.",), "Run fewer at a time with --jobs"),
        (KeyError("k"), "failed", "bug", ("KeyError: 'k'",), "This is a bug in w2vc"),
    ],
)
def test_an_error_is_a_result_with_its_problems_and_advice(
    error: Exception, status: str, kind: str, why: tuple[str, ...], advice: str
) -> None:
    found = without_output(job(), error, "ab")
    assert (found.checkpoint, found.output, found.fingerprint) == (Path("/in/a.pt"), Path("/out/a"), "ab")
    assert (found.status, found.kind, found.why) == (status, kind, why)
    assert (found.advice or "").startswith(advice)


def test_a_bug_names_the_innermost_line() -> None:
    (why,) = without_output(job(), bug(), None).why
    assert why.startswith("ZeroDivisionError: division by zero (test_batching.py, line ")


def test_a_lost_job_failed() -> None:
    found = lost(job("b"), "It died.")
    assert (found.seconds, found.bytes_written) == (0.0, 0)
    assert (found.output, found.status, found.kind, found.why) == (
        Path("/out/b"),
        "failed",
        "WorkerLost",
        ("It died.",),
    )
    assert "fewer --jobs" in (found.advice or "")


@pytest.mark.parametrize(("sizes", "expected"), [({5: 1, 0: None}, True), ({5: None}, False), ({5: 1, 6: None}, False)])
def test_only_records_with_bytes_need_a_checksum(sizes: dict[int, int | None], expected: bool) -> None:
    records = {str(size): types.SimpleNamespace(size=size, crc32=crc32) for size, crc32 in sizes.items()}
    assert work._has_checksums(types.SimpleNamespace(records=records)) is expected  # type: ignore[arg-type]  # enough of one


@pytest.mark.parametrize("found", [None, types.SimpleNamespace(complete=False)])
def test_where_no_output_is_complete_the_checkpoint_isnt_looked_at(
    found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "find_record", lambda _output: found)
    assert work._skipped(job()) is None


@pytest.fixture
def conversion() -> Any:
    plan = types.SimpleNamespace(model_class="M", is_exact=False)
    return types.SimpleNamespace(fingerprint="ab", plan=plan, written=types.SimpleNamespace(bytes_written=9))


@pytest.mark.parametrize(("force", "record", "replaced"), [(True, None, True), (False, 1, True), (False, None, False)])
def test_an_output_of_ours_is_replaced_and_without_one_only_by_force(
    force: bool, record: object, replaced: bool, conversion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(work, "find_record", lambda _output: record)

    def convert(*given: object, **more: object) -> Any:
        asked.append({"given": given, **more})
        return conversion

    monkeypatch.setattr(work, "convert_with", convert)
    one = job()
    found = work._converted(one, force, print)
    assert asked == [{"given": (one.options, one.checkpoint, one.output), "force": replaced, "watch": print}]
    assert found == result(fingerprint="ab", model_class="M", exact=False, bytes_written=9)
    conversion.written = None
    assert work._converted(one, force, None).bytes_written == 0


@pytest.mark.parametrize(
    ("force", "records", "skipped", "end"),
    [
        (False, [None, 1], result("a", "skipped"), "skipped"),
        (False, [None, 1], None, "converted"),
        (True, [None], result("a", "skipped"), "raised"),
        (False, [1], None, "raised"),
        (False, [None, None], None, "raised"),
    ],
)
def test_an_output_that_appears_meanwhile_is_taken_or_replaced_if_it_is_ours(
    force: bool,
    records: list[object],
    skipped: Result | None,
    end: str,
    conversion: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []
    found = iter(records)

    def convert(*_given: object, force: bool, watch: object) -> Any:
        asked.append(force)
        if len(asked) == 1:
            raise OutputExistsError("there", advice="")
        assert watch is print
        return conversion

    monkeypatch.setattr(work, "find_record", lambda _output: next(found))
    monkeypatch.setattr(work, "convert_with", convert)
    monkeypatch.setattr(work, "_skipped", lambda _job: skipped)
    if end == "raised":
        with pytest.raises(OutputExistsError):
            work._converted(job(), force, print)
        assert len(asked) == 1
    else:
        assert work._converted(job(), force, print).status == end
        assert asked == ([False] if end == "skipped" else [False, True])


def test_a_finished_file_leaves_the_page_cache_and_a_missing_one_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, *how: advised.append(how))
    (tmp_path / "file").touch()
    work._leave_page_cache(tmp_path / "file")
    work._leave_page_cache(tmp_path / "missing")
    assert advised == [(0, 0, os.POSIX_FADV_DONTNEED)]


# ---------------------------------------------------------------------------------------------------------------
# The whole, over executors and a pool of ours


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_workers_than_one_are_wrong_usage(count: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--jobs is {count}"):
        batch([], tmp_path / "out", jobs=count)


def test_results_are_told_of_as_they_come_and_the_sums_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(tmp_path / "a.pt", tmp_path / "b.pt")
    monkeypatch.setattr(batching, "work", lambda one, force: Result(one.checkpoint, one.output, _status(force)))
    told: list[Result] = []
    progress: list[BatchProgress] = []
    with ThreadPoolExecutor(1) as executor:
        summary = batch(
            [tmp_path],
            tmp_path / "out",
            executor=executor,
            force=True,
            report=tmp_path / "report",
            on_result=told.append,
            on_progress=progress.append,
        )
    assert tuple(told) == summary.results
    assert [one.checkpoint.name for one in told] == ["a.pt", "b.pt"]
    assert summary.is_good
    assert progress[-1] == BatchProgress(2, 2, ())
    lines = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert lines == [*(one.values() for one in told), {"summary": summary.values()}]


def test_files_of_the_options_mean_the_same_wherever_the_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(tmp_path / "a.pt", tmp_path / "d.txt")
    asked: list[Path | None] = []

    def noted(one: Job, _force: bool) -> Result:
        asked.append(one.options.dictionary)
        return Result(one.checkpoint, one.output, "converted")

    monkeypatch.setattr(batching, "work", noted)
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(1) as executor:
        batch(["a.pt"], "out", executor=executor, dictionary="d.txt")
    assert asked == [tmp_path / "d.txt"]


def _status(force: bool) -> work.Status:
    return "converted" if force else "failed"


def test_an_interrupt_is_summed_up_in_the_report_and_comes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(tmp_path / "a.pt", tmp_path / "b.pt")
    monkeypatch.setattr(batching, "work", lambda one, force: Result(one.checkpoint, one.output, _status(force)))

    def interrupt(_result: Result) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        batch([tmp_path], tmp_path / "out", executor=executor, report=tmp_path / "report", on_result=interrupt)
    *_, last = (tmp_path / "report").read_text().splitlines()
    summed = json.loads(last)["summary"]
    assert (summed["checkpoints"], summed["failed"], summed["unfinished"]) == (2, 1, 1)


class Late(ThreadPoolExecutor):
    """An executor whose first future never ends, and whose second one has failed."""

    def __init__(self) -> None:
        super().__init__(1)
        self.futures: list[Future[Any]] = []

    def submit(self, *_arguments: Any, **_options: Any) -> Future[Any]:
        self.futures.append(Future())
        if len(self.futures) == 2:
            self.futures[1].set_exception(OSError("gone"))
        return self.futures[-1]


def test_an_executor_that_gives_a_job_up_is_told_of_and_the_rest_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_TICK", 0.01)
    with Late() as executor:
        coming = batching._from_executor([job("a"), job("b")], executor, force=False)
        first = next(coming)
        assert first is not None
        assert (first.checkpoint.name, first.kind) == ("b.pt", "WorkerLost")
        assert first.why == ("the executor gave it up: OSError: gone",)
        assert next(coming) is None
        coming.close()
        assert executor.futures[0].cancelled()


class FakePool:
    made: list[tuple[int, int, bool]]

    def __init__(self, todo: tuple[Job, ...], workers: int, *, force: bool) -> None:
        self.todo = todo
        FakePool.made.append((len(todo), workers, force))

    def running(self) -> tuple[Running, ...]:
        return (Running(Path("/x"), 1, 2),)

    def results(self) -> Iterator[Result | None]:
        yield None
        for one in self.todo:
            yield Result(one.checkpoint, one.output, "converted")


@pytest.mark.parametrize(("asked", "workers"), [(1, 1), (2, 2), (9, 3), (None, 2)])
def test_a_pool_has_no_more_workers_than_jobs(
    asked: int | None, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakePool.made = []
    monkeypatch.setattr(batching, "Pool", FakePool)
    monkeypatch.setattr(batching, "default_workers", lambda count: count - 1)
    empty(*(tmp_path / "in" / name for name in ("a.pt", "b.pt", "c.pt")))
    progress: list[BatchProgress] = []
    summary = batch([tmp_path / "in"], tmp_path / "out", jobs=asked, on_progress=progress.append)
    assert FakePool.made == [(3, workers, False)]
    assert summary.is_good
    running = (Running(Path("/x"), 1, 2),)
    assert progress == [BatchProgress(finished, 3, running) for finished in (0, 1, 2, 3)]


def test_an_output_folder_that_may_not_be_written_to_stops_it_before_any_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakePool.made = []
    monkeypatch.setattr(batching, "Pool", FakePool)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    empty(tmp_path / "a.pt")
    with pytest.raises(OutputWriteError, match="may not be written to"):
        batch([tmp_path / "a.pt"], tmp_path / "out")
    assert FakePool.made == []


# ---------------------------------------------------------------------------------------------------------------
# The pool, whose workers are the other ends of sockets


class Staged:
    """Stands for workers' processes: the other ends of their sockets, by number."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.waited = 0
        self.most = 99

    def start(self, _command: list[str], *, pass_fds: tuple[int, ...], **_options: object) -> Staged:
        if len(self.ends) >= self.most:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.ends.append(socket.socket(fileno=os.dup(pass_fds[0])))
        return self

    def wait(self) -> None:
        self.waited += 1

    def say(self, number: int, **message: object) -> None:
        self.ends[number].sendall(json.dumps(message).encode() + b"\n")

    def given(self, number: int) -> dict[str, Any]:
        self.ends[number].settimeout(5)
        found: dict[str, Any] = json.loads(self.ends[number].recv(2**16))
        return found


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Staged]:
    stage = Staged()
    monkeypatch.setattr(pool, "subprocess", types.SimpleNamespace(Popen=stage.start, DEVNULL=subprocess.DEVNULL))
    monkeypatch.setattr(pool, "_TICK", 0.02)
    yield stage
    for end in stage.ends:
        end.close()


def test_each_worker_gets_one_job_after_the_other_and_says_how_far_it_is(staged: Staged) -> None:
    one, two = job("a", size=100), job("b", size=0)
    workers = Pool([one, two], 1, force=True)
    results = workers.results()
    assert workers.running() == ()
    assert next(results) is None
    assert len(staged.ends) == 1
    staged.say(0, ready=True)
    assert next(results) is None
    assert staged.given(0) == {"job": json.loads(json.dumps(one.plain())), "force": True}
    assert workers.running() == (Running(one.checkpoint, 0, 100),)

    staged.say(0, done=30, whole=90)
    assert next(results) is None
    assert workers.running() == (Running(one.checkpoint, 30, 90),)

    staged.say(0, result=result("a").plain())
    assert next(results) == result("a")
    assert next(results) is None
    assert Job.from_plain(staged.given(0)["job"]) == two
    assert workers.running() == (Running(two.checkpoint, 0, 1),)

    staged.say(0, result=result("b").plain())
    assert next(results) == result("b")
    assert next(results, "the end") == "the end"
    assert (len(staged.ends), staged.waited) == (1, 1)
    assert staged.ends[0].recv(1) == b""


@pytest.mark.parametrize(("wanted", "count", "expected"), [(2, 5, 2), (5, 2, 2), (1, 1, 1)])
def test_as_many_workers_are_started_as_are_wanted_or_can_be_busy(
    wanted: int, count: int, expected: int, staged: Staged
) -> None:
    results = Pool([job(str(number)) for number in range(count)], wanted, force=False).results()
    assert next(results) is None
    assert len(staged.ends) == expected
    results.close()
    assert staged.waited == expected


def test_no_worker_is_given_a_second_job_or_one_before_it_is_ready(staged: Staged) -> None:
    workers = Pool([job("a"), job("b"), job("c")], 2, force=False)
    results = workers.results()
    next(results)
    staged.say(1, ready=True)
    next(results)
    assert [one.checkpoint.name for one in workers.running()] == ["a.pt"]
    next(results)
    assert [one.checkpoint.name for one in workers.running()] == ["a.pt"]
    staged.say(0, ready=True)
    next(results)
    assert {one.checkpoint.name for one in workers.running()} == {"a.pt", "b.pt"}
    results.close()
    assert staged.waited == 2


def test_what_a_dead_worker_had_is_tried_again_alone_twice_and_then_lost(staged: Staged) -> None:
    workers = Pool([job("a"), job("b")], 2, force=False)
    results = workers.results()
    next(results)
    for number in (0, 1):
        staged.say(number, ready=True)
        next(results)
    staged.ends[0].close()
    next(results)
    assert [one.checkpoint.name for one in workers.running()] == ["b.pt"]
    next(results)  # another one is started, but a suspect waits until it is alone
    staged.say(2, ready=True)
    next(results)
    assert [one.checkpoint.name for one in workers.running()] == ["b.pt"]
    staged.say(1, result=result("b").plain())
    assert next(results) == result("b")
    next(results)
    for expected in (None, lost(job("a"), "Its worker process died, and again each of 2 times alone.")):
        next(results)
        for each in workers._workers:
            each.is_ready = True
        next(results)
        assert [one.checkpoint.name for one in workers.running()] == ["a.pt"]
        (busy,) = [each for each in workers._workers if each.index is not None]
        busy.channel.shutdown(socket.SHUT_RDWR)
        assert next(results) == expected
    assert next(results, "the end") == "the end"


def test_workers_that_die_before_they_begin_end_the_batch_at_the_third(staged: Staged) -> None:
    results = Pool([job()], 1, force=False).results()
    next(results)
    for number in (0, 1):
        staged.ends[number].close()
        assert next(results) is None, number
        assert next(results) is None, number
    staged.ends[2].close()
    with pytest.raises(UsageError, match="die before they begin"):
        next(results)
    assert (len(staged.ends), staged.waited) == (3, 3)


def test_where_one_worker_dies_in_vain_the_others_do_all(staged: Staged) -> None:
    workers = Pool([job("a"), job("b"), job("c")], 3, force=False)
    results = workers.results()
    next(results)
    assert len(staged.ends) == 3
    staged.ends[0].close()
    next(results)
    next(results)
    assert (len(staged.ends), len(workers._workers)) == (3, 2)
    results.close()


def test_where_no_further_process_can_be_started_those_that_there_are_do_all(staged: Staged) -> None:
    staged.most = 1
    workers = Pool([job("a"), job("b")], 2, force=False)
    results = workers.results()
    next(results)
    staged.most = 99
    next(results)
    assert len(staged.ends) == 1
    results.close()


def test_where_no_process_can_be_started_it_is_said(staged: Staged) -> None:
    staged.most = 0
    with pytest.raises(UsageError, match=r"No worker process can be started: Resource temporarily unavailable\."):
        next(Pool([job()], 1, force=False).results())


def test_messages_come_whole_however_they_are_cut(staged: Staged) -> None:
    each = pool._Worker()
    staged.ends[0].sendall(b'{"a": 1}\n{"b"')
    assert each.receive() == [{"a": 1}]
    staged.ends[0].sendall(b": 2}\n")
    assert each.receive() == [{"b": 2}]
    staged.ends[0].close()
    each.give(0, job(), force=False)  # it died meanwhile: no error
    assert each.receive() is None
    each.end()
    assert each.receive() is None


def test_a_workers_command_is_isolated_and_names_the_package_and_the_socket() -> None:
    program, isolated, utf8, flag, text = pool.worker_command(17)
    assert (program, isolated, flag) == (sys.executable, "-I", "-c")
    assert utf8 == f"-Xutf8={sys.flags.utf8_mode}"
    package = Path(w2vc.__file__).absolute()
    assert f"sys.path[:] = {pool.import_path()!r}\n" in text
    assert f'"w2vc", {str(package)!r}, submodule_search_locations=[{str(package.parent)!r}])' in text
    assert text.endswith("serve(17)\n")


def test_a_worker_never_imports_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), str(tmp_path / "link"), "sub", "/usr/lib"])
    assert pool.import_path() == [str(tmp_path / "sub"), "/usr/lib"]


def test_ctrl_c_is_held_back_while_a_process_is_started(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[object] = []
    start = staged.start

    def noted(*arguments: Any, **options: Any) -> Staged:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return start(*arguments, **options)

    monkeypatch.setattr("w2vc.batching.pool.subprocess.Popen", noted)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pool._Worker().end()
    assert masks == [before | {signal.SIGINT}]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


# ---------------------------------------------------------------------------------------------------------------
# A worker, from its own side


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield ours, theirs


def said(ours: socket.socket) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ours.recv(2**16).splitlines()]


def test_a_worker_does_the_jobs_that_come_and_ends_with_the_socket(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    server = worker._Server(theirs)
    busy: list[tuple[str, bool, bool]] = []

    def work_it(one: Job, force: bool, watch: Callable[[int, int], None]) -> Result:
        busy.append((one.checkpoint.name, force, server._is_busy))
        watch(3, 7)
        watch(4, 7)  # too soon to be worth a message
        return result(one.checkpoint.stem)

    monkeypatch.setattr(worker, "work", work_it)
    text = b"".join(
        json.dumps({"job": job(name).plain(), "force": name == "b"}).encode() + b"\n" for name in ("a", "b")
    )
    ours.sendall(text)
    ours.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(worker._Server, "_is_abandoned", lambda _server: False)
    monkeypatch.setattr(worker, "_TICK", 1000)
    monkeypatch.setattr(worker, "time", types.SimpleNamespace(monotonic=lambda: 1000.0))
    server.serve()
    assert said(ours) == [
        {"ready": True},
        {"done": 3, "whole": 7},
        {"result": json.loads(json.dumps(result("a").plain()))},
        {"result": json.loads(json.dumps(result("b").plain()))},
    ]
    assert busy == [("a.pt", False, True), ("b.pt", True, True)]
    assert not server._is_busy


def test_a_conversion_is_stopped_where_the_other_end_is_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    server = worker._Server(theirs)
    server._watch(1, 2)
    assert said(ours) == [{"done": 1, "whole": 2}]
    assert not server._is_abandoned()
    ours.sendall(b"x")
    assert not server._is_abandoned()
    assert theirs.recv(9) == b"x"
    ours.close()
    assert server._is_abandoned()
    with pytest.raises(worker.Stopped):
        server._watch(2, 2)
    theirs.close()
    assert server._is_abandoned()


def test_a_socket_that_breaks_stops_the_conversion(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    server = worker._Server(theirs)
    monkeypatch.setattr(worker._Server, "_is_abandoned", lambda _server: False)
    ours.close()
    with pytest.raises(worker.Stopped):
        server._watch(1, 2)


def test_sigterm_ends_an_idle_worker_at_once_and_a_busy_one_after_its_clearing(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    server = worker._Server(theirs)
    server._is_busy = True
    server.terminate(signal.SIGTERM, None)
    assert codes == []
    with pytest.raises(worker.Stopped):
        server._watch(1, 2)
    monkeypatch.setattr(worker, "work", lambda *_arguments: result())
    ours.sendall(json.dumps({"job": job().plain(), "force": False}).encode() + b"\n")
    with pytest.raises(worker.Stopped):
        server.serve()
    worker._Server(theirs).terminate(signal.SIGTERM, None)
    assert codes == [143]


@pytest.mark.parametrize(("error", "codes"), [(None, []), (worker.Stopped(), [143]), (BrokenPipeError(), [143])])
@pytest.mark.parametrize("before", [{}, {"OMP_NUM_THREADS": "4", "HF_HUB_OFFLINE": "0"}])
def test_a_worker_computes_on_one_thread_offline_and_ends_quickly(
    before: dict[str, str],
    error: BaseException | None,
    codes: list[int],
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered: list[tuple[object, ...]] = []
    signals: list[int] = []
    found: list[int] = []

    def serve(_server: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(os, "environ", dict(before))
    monkeypatch.setattr(worker._Server, "serve", serve)
    monkeypatch.setattr(atexit, "register", lambda *how: registered.append(how))
    monkeypatch.setattr(signal, "signal", lambda number, _handler: signals.append(number))
    monkeypatch.setattr(os, "_exit", found.append)
    worker.serve(os.dup(ends[1].fileno()))
    assert registered == [(os._exit, 0)]
    assert (found, signals) == (codes, [signal.SIGTERM])
    assert os.environ == {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **before}
