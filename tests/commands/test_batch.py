"""Many checkpoints: what is taken, where it goes, what is skipped; failures, signals and lost workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import w2vc
from tests.conftest import FIXTURES, checkpoint
from tests.support.containers import save
from w2vc.batching import pool
from w2vc.batching.batch import BatchProgress, BatchSummary, batch
from w2vc.batching.capacity import default_workers
from w2vc.batching.jobs import Job, find_jobs
from w2vc.conversion import convert_with
from w2vc.errors import OutputError, UsageError, W2vcError
from w2vc.options import Options
from w2vc.planning.provenance import find_record
from w2vc.writing import output_directory

GOOD = (
    "relative_ctc",
    "rotary_ctc",
    "group_norm_ctc",
    "no_projection_ctc",
    "relative_pretraining",
    "rotary_pretraining",
)
REFUSED = ("cropped_ctc", "absolute_positions_pretraining")
MANY = 200

# Found wherever the tests run from, and in an empty environment, too.
PACKAGE_ROOT = str(Path(w2vc.__file__).parent.parent)
SIGNALLING = str(Path(__file__).parent.parent / "support" / "signalling")
HOOK = f"import sys; sys.path.insert(0, {SIGNALLING!r}); import sitecustomize\n"
"""What a worker's program begins with, to be sent a signal: workers don't look at PYTHONPATH."""

MAIN = f"""
import os, sys
sys.path.insert(0, {PACKAGE_ROOT!r})
from w2vc.batching import pool
if "W2VC_TEST_SIGNAL" in os.environ:
    pool._PROGRAM = {HOOK!r} + pool._PROGRAM
from w2vc.command.main import main
main()
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", MAIN, "batch", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 - ours


def here(inputs: Sequence[Path | str], output: Path, **options: object) -> BatchSummary:
    """A batch in this process, where torch is imported already."""
    with ThreadPoolExecutor(1) as executor:
        return batch(inputs, output, executor=executor, **options)  # type: ignore[arg-type]  # the test's options are right


def put(place: Path, name: str = "relative_ctc") -> Path:
    """A fixture's checkpoint under another name, with the dictionary beside it where it has one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint(name), place)
    dictionary = checkpoint(name).with_name("dict.ltr.txt")
    if dictionary.exists():
        shutil.copyfile(dictionary, place.with_name("dict.ltr.txt"))
    return place


def put_many(folder: Path, count: int, bad: int = 0) -> None:
    """Checkpoints in several folders; of each kind of bad ones, cut off and refused, as many as ``bad``."""
    for number in range(count):
        place = folder / f"language{number % 3}" / f"checkpoint_{number}.pt"
        if number < bad:
            put(place)
            os.truncate(place, place.stat().st_size - 1000 * (number + 1))
        elif number < 2 * bad:
            put(place, REFUSED[number % len(REFUSED)])
        else:
            put(place, GOOD[number % len(GOOD)])


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def outputs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("**/model.safetensors") if "/." not in str(path))


def identities(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which files the outputs' weights are: another one, or a rewritten one, has another identity."""
    found = {output: (output / "model.safetensors").stat() for output in outputs(folder)}
    return {output: (details.st_ino, details.st_mtime_ns) for output, details in found.items()}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.glob("**/.*") if ".w2vc-" in path.name]


def all_complete(folder: Path) -> bool:
    found = [find_record(output) for output in outputs(folder)]
    return all(record is not None and record.complete for record in found)


def lines(report: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def processes(group: int) -> dict[int, str]:
    """The processes of a group that haven't ended, and the state of each (``proc(5)``): T is a stopped one's."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found[int(entry.parent.name)] = state
    return found


def holding(folder: Path, number: int, whom: int | None = None) -> dict[str, str]:
    """Where a process, or its whole group (0), stops when the so many-th conversion is to write its weights."""
    when = {"opened": r"/model\.safetensors x", "number": number, "counter": str(folder / "begun")}
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([SIGNALLING, PACKAGE_ROOT]),
        "W2VC_TEST_SIGNAL": json.dumps({**when, "send": signal.SIGSTOP, "whom": whom}),
    }


@contextmanager
def started(*arguments: object, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A batch in a process group of its own, none of which is left behind."""
    batching = subprocess.Popen(  # noqa: S603 - ours
        command(*arguments),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    try:
        yield batching
    finally:
        for process in processes(batching.pid):
            os.kill(process, signal.SIGKILL)
        batching.communicate(timeout=60)


@contextmanager
def stopped(*arguments: object, folder: Path, begun: int) -> Iterator[subprocess.Popen[str]]:
    """A batch whose processes stand still, one of them in the midst of the so many-th conversion."""
    with started(*arguments, environment=holding(folder, begun, whom=0)) as batching:
        until(
            lambda: batching.poll() is not None or set(processes(batching.pid).values()) == {"T"},
            "all processes to stand still",
        )
        assert batching.poll() is None, batching.communicate()
        yield batching


# ---------------------------------------------------------------------------------------------------------------
# What is to be done


def names(inputs: Sequence[Path | str], output: Path, **options: object) -> dict[str, str]:
    jobs = find_jobs(inputs, output, Options(), **options)  # type: ignore[arg-type]  # the test's options are right
    return {str(job.output.relative_to(output)): job.checkpoint.name for job in jobs}


def empty(*places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def test_names_below_a_folder_are_kept_without_pt_and_what_is_hidden_or_no_pt_file_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    empty(folder / "a.pt", folder / "b" / "checkpoint_1.5.pt", folder / "b" / "train.log", folder / "c.bin")
    empty(folder / ".hidden.pt", folder / ".git" / "d.pt", folder / "out" / "e.pt")

    assert names([folder], folder / "out") == {"a": "a.pt", "b/checkpoint_1.5": "checkpoint_1.5.pt"}


def test_a_single_file_is_taken_whatever_it_is_called_and_gives_the_output_its_name(tmp_path: Path) -> None:
    empty(tmp_path / "model.bin", tmp_path / "other")
    assert names([tmp_path / "model.bin", tmp_path / "other"], tmp_path / "out") == {
        "model.bin": "model.bin",
        "other": "other",
    }


def test_a_quoted_pattern_keeps_the_folders_behind_its_first_wildcard_apart(tmp_path: Path) -> None:
    for language in ("de", "en"):
        empty(tmp_path / "exp" / language / "checkpoint_best.pt", tmp_path / "exp" / language / "checkpoint_last.pt")
    assert set(names([f"{tmp_path}/exp/*/checkpoint_best.pt"], tmp_path / "out")) == {
        "de/checkpoint_best",
        "en/checkpoint_best",
    }


def test_a_file_given_twice_is_taken_once(tmp_path: Path) -> None:
    empty(tmp_path / "in" / "a.pt")
    given: list[Path | str] = [tmp_path / "in", tmp_path / "in" / "a.pt", tmp_path / "in" / ".." / "in"]
    given.append(f"{tmp_path}/in/*.pt")
    assert names(given, tmp_path / "out") == {"a": "a.pt"}


def test_the_largest_comes_first_and_parts_share_them_out(tmp_path: Path) -> None:
    for size in range(7):
        (tmp_path / f"{size}.pt").write_bytes(bytes(size))
    assert list(names([tmp_path], tmp_path / "out")) == ["6", "5", "4", "3", "2", "1", "0"]
    parts = [list(names([tmp_path], tmp_path / "out", part=(number, 3))) for number in (1, 2, 3)]
    assert parts == [["6", "3", "0"], ["5", "2"], ["4", "1"]]


def test_all_outputs_in_one_anothers_way_are_named_before_anything_starts(tmp_path: Path) -> None:
    for place in ("x/best.pt", "y/best.pt", "x/last.pt", "y/last.pt", "z/a.pt", "z/a/b.pt"):
        empty(tmp_path / place)
    given = [*sorted(tmp_path.glob("[xy]/*.pt")), tmp_path / "z"]
    with pytest.raises(UsageError) as caught:
        here(given, tmp_path / "out")
    problems = caught.value.problems
    assert len(problems) == 3
    assert all(word in problems[0] for word in ("out/best", "x/best.pt", "y/best.pt"))
    assert all(word in problems[1] for word in ("out/last", "x/last.pt", "y/last.pt"))
    assert "out/a/b would lie inside" in problems[2]
    assert not (tmp_path / "out").exists()


def test_an_output_never_takes_the_place_of_what_is_read_or_of_its_folder(tmp_path: Path) -> None:
    empty(tmp_path / "model", tmp_path / "exp" / "a.pt")
    with pytest.raises(UsageError, match=r"but .*model, which is read, is there"):
        find_jobs([tmp_path / "model"], tmp_path, Options())
    (tmp_path / "list.csv").write_text("checkpoint,output\nexp/a.pt,exp\n")
    with pytest.raises(UsageError, match=r"but .*a\.pt, which is read, is there"):
        find_jobs([tmp_path / "list.csv"], tmp_path, Options())
    (tmp_path / "list.csv").write_text("checkpoint,output,config\nmodel,out,\nexp/a.pt,other,out/config.json\n")
    with pytest.raises(UsageError, match=r"but .*out/config\.json, which is read, is there"):
        find_jobs([tmp_path / "list.csv"], tmp_path, Options())


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([], {}, "No checkpoint is given"),
        (["nothing*.pt"], {}, "Nothing matches"),
        (["folder"], {}, "no .pt file"),
        (["a.pt"], {"dtype": "int8"}, "dtype is int8"),
        (["a.pt"], {"head": "asr"}, "head is asr"),
        (["a.pt"], {"dictionary": "missing.txt"}, "missing.txt doesn't exist"),
        (["a.pt"], {"config": "missing.json"}, "missing.json doesn't exist"),
        (["a.pt"], {"part": (3, 2)}, "--part is 3/2"),
        (["a.pt"], {"jobs": 0}, "--jobs is 0"),
        (["missing.csv"], {}, "no file or folder"),
        (["missing.pt", "a.pt"], {}, "missing.pt"),
        (["list.csv"], {}, "There is no column 'colour'"),
        (["a.pt"], {"colour": "red"}, "There is no option colour"),
        (["a.pt"], {"ema": "yes"}, "--ema is 'yes', not true or false"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_starts(
    tmp_path: Path, given: list[str], options: dict[str, object], words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.csv").write_text("checkpoint,colour\na.pt,red\n")
    put(tmp_path / "a.pt", "relative_pretraining")
    with pytest.raises(UsageError) as caught:
        here([tmp_path / name for name in given], tmp_path / "out", **options)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_or_a_report_that_cannot_be_written_stops_it_at_once(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    with pytest.raises(OutputError, match="is no folder"):
        here([tmp_path / "a.pt"], tmp_path / "a.pt")
    with pytest.raises(OutputError, match="report"):
        here([tmp_path / "a.pt"], tmp_path / "out", report=tmp_path / "missing" / "report.jsonl")
    assert not (tmp_path / "out").exists()


def test_workers_are_never_more_than_jobs_or_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(3)))
    assert default_workers(1) == 1
    assert 1 <= default_workers(1000) <= 3


_V2 = "0::/system.slice/slurm/job_7/step_0\n"
_V1 = "3:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7\n"


@pytest.mark.parametrize(
    ("groups", "limits", "workers"),
    [
        # In a container, whose own group is the root, in both versions.
        ("0::/\n", {"memory.max": "1200000000"}, 2),
        ("4:memory:/docker/6d5f\n", {"memory/memory.limit_in_bytes": "600000000"}, 1),
        ("", {"memory.max": "1000"}, 1),
        ("0::/\n", {"memory.max": "max"}, 3),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 3),
        # A cluster's or a service's job, in groups of groups.
        (_V2, {"system.slice/slurm/job_7/memory.max": "1200000000"}, 2),
        (_V2, {"system.slice/memory.max": "600000000", "memory.max": "max"}, 1),
        (_V2, {"system.slice/slurm/job_7/step_0/cpu.max": "200000 100000"}, 2),
        (_V2, {"system.slice/slurm/job_8/memory.max": "1000"}, 3),
        (_V1, {"memory/slurm/job_7/memory.limit_in_bytes": "1200000000"}, 2),
        (_V1, {"cpu/slurm/job_7/cpu.cfs_quota_us": "200000", "cpu/slurm/job_7/cpu.cfs_period_us": "100000"}, 2),
        (_V1, {"cpu/slurm/job_7/cpu.cfs_quota_us": "-1", "cpu/slurm/job_7/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_workers_are_never_more_than_the_container_or_the_clusters_job_allows(
    monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str], workers: int
) -> None:
    texts = {"/proc/self/cgroup": groups, "/proc/meminfo": f"Cached: {2**40} kB\n"}
    texts |= {f"/sys/fs/cgroup/{place}": f"{limit}\n" for place, limit in limits.items()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(3)))
    monkeypatch.setattr("w2vc.batching.capacity._contents", lambda path: texts.get(path, ""))
    assert default_workers(1000) == workers


# ---------------------------------------------------------------------------------------------------------------
# Manifests


def jobs_of(manifest: Path, output: Path) -> dict[str, Job]:
    return {job.output.name: job for job in find_jobs([manifest], output, Options(dtype="float16"))}


def test_a_csv_manifest_says_for_each_checkpoint_what_differs_from_the_options(tmp_path: Path) -> None:
    empty(tmp_path / "in" / "a.pt", tmp_path / "in" / "b.pt")
    manifest = tmp_path / "in" / "list.csv"
    manifest.write_text(
        "\ufeffcheckpoint,output,dictionary,head,dtype,config,ema\r\n"
        "a.pt,x/one,d.txt,none,keep,c.json,True\r\n\r\nb.pt\r\n"
    )
    jobs = jobs_of(manifest, tmp_path / "out")
    assert jobs["one"].checkpoint == tmp_path / "in" / "a.pt"
    assert jobs["one"].output == tmp_path / "out" / "x" / "one"
    assert jobs["one"].options == Options(tmp_path / "in" / "d.txt", "none", "keep", True, tmp_path / "in" / "c.json")
    assert jobs["b"].options == Options(dtype="float16")


def test_a_json_lines_manifest_means_the_same(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    rows = [{"checkpoint": "a.pt", "ema": True, "output": "one"}, {"checkpoint": "a.pt", "dtype": "keep"}]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    jobs = jobs_of(manifest, tmp_path / "out")
    assert jobs["one"].options == Options(dtype="float16", ema=True)
    assert jobs["a"].options == Options(dtype="keep")


def test_each_bad_row_of_a_manifest_fails_alone_with_its_line(tmp_path: Path) -> None:
    put(tmp_path / "good.pt", "relative_pretraining")
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "checkpoint,output,dtype,ema\n,x,,\nc.pt,../c,,\nd.pt,,int8,\ne.pt,,,perhaps\nf.pt,,,,,\ng.pt,/g,,\n"
        f'"{"h" * 200_000}",,,\n"i"j,,,\ngood.pt,,,\n'
    )
    summary = here([manifest], tmp_path / "out")
    expected = [
        ("line 2", "no checkpoint"),
        ("line 3", "'../c' is not a name below --output"),
        ("line 4", "--dtype is int8, not one of float32"),
        ("line 5", "--ema is 'perhaps', not true or false"),
        ("line 6", "6 fields under 4 columns"),
        ("line 7", "'/g' is not a name below --output"),
        ("line 8", "not CSV"),
        ("line 9", "not CSV"),
    ]
    bad = sorted((result for result in summary.results if not result.is_good), key=lambda result: result.why)
    assert {(result.status, result.kind) for result in bad} == {("failed", "UsageError")}
    for result, words in zip(bad, expected, strict=True):
        assert all(word in result.why[0] for word in words), result.why
        assert "checkpoint, output, dictionary, head, dtype, ema, config" in (result.advice or "")
    assert [path.name for path in outputs(tmp_path / "out")] == ["good"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a\0b", "\ud800.pt", "x" * 100_000, "missing", "/proc/self/mem", "/dev/zero", "/dev/null", "", 7, [], "\n"]
)
def test_a_name_that_no_file_can_have_fails_alone(name: object, tmp_path: Path) -> None:
    put(tmp_path / "good.pt", "relative_pretraining")
    rows = [{"checkpoint": name}, {"checkpoint": name, "output": "other"}, {"checkpoint": "good.pt", "output": "x"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = here([tmp_path / "list.jsonl"], tmp_path / "out", report=tmp_path / "report.jsonl")
    assert sorted(result.status for result in summary.results) == ["converted", "failed", "failed"]
    assert not [result for result in summary.results if result.kind == "bug"]
    assert len(lines(tmp_path / "report.jsonl")) == 4


@pytest.mark.parametrize("text", ['{"checkpoint": "a.pt"', "[1]", '{"checkpoint": 7}', "[" * 100_000])
def test_a_line_that_is_no_json_object_of_texts_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"checkpoint": "b.pt"}\n' + text)
    good, bad = sorted(find_jobs([tmp_path / "list.jsonl"], tmp_path / "out", Options()), key=lambda job: job.problems)
    assert (good.checkpoint, good.problems) == (tmp_path / "b.pt", ())
    assert "line 2" in bad.problems[0]


# ---------------------------------------------------------------------------------------------------------------
# What is skipped and what is done again


def statuses(summary: BatchSummary) -> list[str]:
    return [result.status for result in sorted(summary.results, key=lambda result: result.checkpoint)]


@pytest.mark.slow
def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.pt", "b.pt"):
        put(folder / name, "relative_pretraining")
    assert statuses(here([folder], output)) == ["converted", "converted"]
    assert statuses(here([folder], output)) == ["skipped", "skipped"]

    os.utime(folder / "a.pt")  # times say nothing
    assert statuses(here([folder], output)) == ["skipped", "skipped"]

    times = (folder / "b.pt").stat()
    put(folder / "b.pt", "rotary_pretraining")
    os.utime(folder / "b.pt", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert statuses(here([folder], output)) == ["skipped", "converted"]
    w2vc.convert(folder / "b.pt", tmp_path / "b")
    assert contents(output / "b") == contents(tmp_path / "b")

    assert statuses(here([folder], output, force=True)) == ["converted", "converted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relative_pretraining", {"dtype": "float16"}),
        ("relative_pretraining", {"head": "none"}),
        ("relative_pretraining", {"card": False}),
        ("mms_released_ctc", {"language": "fra"}),
    ],
)
def test_another_option_does_it_again_and_the_same_one_does_not(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    put(tmp_path / "a.pt", name)
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out")) == ["converted"]
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out", **options)) == ["converted"]
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out", **options)) == ["skipped"]
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out")) == ["converted"]


@pytest.mark.slow
def test_another_config_does_it_again_and_the_same_values_do_not(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    config = tmp_path / "config.json"

    def again(text: str) -> list[str]:
        config.write_text(text)
        return statuses(here([tmp_path / "a.pt"], tmp_path / "out", config=config))

    assert again('{"hidden_dropout": 0.25, "layerdrop": 0.5}') == ["converted"]
    written = json.loads(contents(tmp_path / "out" / "a")["config.json"])
    assert (written["hidden_dropout"], written["layerdrop"]) == (0.25, 0.5)
    assert again('{"layerdrop": 0.5, "hidden_dropout": 0.25}') == ["skipped"]
    assert again('{"hidden_dropout": 0.5}') == ["converted"]
    assert again('{"hidden_size": 7}') == ["refused"]
    assert again("{") == ["failed"]
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out")) == ["converted"]


@pytest.mark.slow
def test_another_dictionary_does_it_again_and_one_with_other_counts_does_not(tmp_path: Path) -> None:
    without_dictionary = tmp_path / "in" / "a.pt"
    empty(without_dictionary)
    shutil.copyfile(FIXTURES / "eras" / "namespace_ctc.pt", without_dictionary)
    beside = without_dictionary.with_name("dict.ltr.txt")
    symbols = [line.split()[0] for line in (FIXTURES / "eras" / "dict.ltr.txt").read_text().splitlines()]
    swapped = [symbols[1], symbols[0], *symbols[2:]]

    def again(*order: str, count: int = 1, **options: object) -> list[str]:
        beside.write_text("".join(f"{symbol} {count}\n" for symbol in order))
        return statuses(here([tmp_path / "in"], tmp_path / "out", **options))

    assert again(*symbols) == ["converted"]
    assert again(*symbols, count=7) == ["skipped"]
    beside.with_name("dict.old.txt").write_text("X 1\n")  # a neighbour that isn't meant
    assert again(*symbols) == ["skipped"]
    assert again(*symbols, dictionary=beside.parent) == ["skipped"]

    assert again(*swapped) == ["converted"]
    vocabulary = json.loads(contents(tmp_path / "out" / "a")["vocab.json"])
    assert vocabulary[symbols[1]] < vocabulary[symbols[0]]


@pytest.mark.slow
def test_a_dictionary_that_contradicts_the_checkpoints_own_is_no_reason_to_skip(tmp_path: Path) -> None:
    beside = put(tmp_path / "in" / "a.pt").with_name("dict.ltr.txt")
    assert statuses(here([tmp_path / "in"], tmp_path / "out")) == ["converted"]
    before = contents(tmp_path / "out" / "a")
    beside.write_text("X 1\n" + beside.read_text())
    assert statuses(here([tmp_path / "in"], tmp_path / "out")) == ["refused"]
    assert contents(tmp_path / "out" / "a") == before


@dataclass(frozen=True)
class NoMore:
    """What a conversion needed the first time and isn't given any more.

    Attributes:
        make: writes the checkpoint.
        given: the options of the first time.
        no_more: those of them that aren't given the second time.
        words: of the sentence that refuses the checkpoint without them.
    """

    make: Callable[[Path], object]
    given: Mapping[str, object]
    no_more: tuple[str, ...]
    words: str


def without_dictionary(path: Path) -> None:
    shutil.copyfile(FIXTURES / "eras" / "namespace_ctc.pt", path)


def two_encoders(path: Path) -> None:
    one, other = (save("wav2vec2_base_ctc", "s3prl", path) for _ in range(2))
    held = torch.load(one, weights_only=True)
    tensors = held["model_weight"]
    names = {f"{place}.{name}": tensor for place in "ab" for name, tensor in tensors.items()}
    torch.save({**held, "model_weight": names}, other)


ERA_DICTIONARY = FIXTURES / "eras" / "dict.ltr.txt"
THEIR_DICTIONARY = FIXTURES / "wav2vec2_base_ctc" / "dict.ltr.txt"
THEIRS = checkpoint("wav2vec2_base_ctc")
NO_MORE = {
    "a dictionary": NoMore(
        without_dictionary, {"dictionary": ERA_DICTIONARY}, ("dictionary",), "there is no dictionary"
    ),
    "a folder with a dictionary": NoMore(
        without_dictionary, {"dictionary": ERA_DICTIONARY.parent}, ("dictionary",), "there is no dictionary"
    ),
    "a dictionary for a head that is still asked for": NoMore(
        lambda path: save("wav2vec2_base_ctc", "lightning", path, whole=True),
        {"dictionary": THEIR_DICTIONARY, "head": "ctc", "pretrained": THEIRS},
        ("dictionary",),
        "there is no dictionary",
    ),
    "a pretrained checkpoint": NoMore(
        lambda path: save("hubert", "parallel", path),
        {"pretrained": checkpoint("hubert")},
        ("pretrained",),
        "carries no config",
    ),
    "a prefix": NoMore(two_encoders, {"prefix": "a"}, ("prefix",), "has 2 encoders"),
}


@pytest.mark.whole
@pytest.mark.parametrize("what", NO_MORE)
def test_an_output_whose_checkpoint_would_be_refused_by_now_stays_and_is_not_skipped(what: str, tmp_path: Path) -> None:
    case = NO_MORE[what]
    case.make(tmp_path / "a.pt")
    now = {name: value for name, value in case.given.items() if name not in case.no_more}
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out", **case.given)) == ["converted"]
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out", **case.given)) == ["skipped"]
    before = contents(tmp_path / "out" / "a")
    with pytest.raises(W2vcError) as fresh:
        convert_with(Options(**now), tmp_path / "a.pt", tmp_path / "fresh", force=False)  # type: ignore[arg-type]  # the test's options are right
    for _ in range(2):
        (result,) = here([tmp_path / "a.pt"], tmp_path / "out", **now).results
        assert (result.kind, result.why) == (type(fresh.value).__name__, fresh.value.problems)
        assert case.words in result.why[0]
        assert contents(tmp_path / "out" / "a") == before
    assert not leftovers(tmp_path)


@pytest.mark.whole
def test_a_dictionary_that_was_next_to_the_checkpoint_is_missed_unless_it_is_given(tmp_path: Path) -> None:
    empty(tmp_path / "in" / "a.pt")
    without_dictionary(tmp_path / "in" / "a.pt")
    neighbour = Path(shutil.copyfile(ERA_DICTIONARY, tmp_path / "in" / "dict.ltr.txt"))
    assert statuses(here([tmp_path / "in"], tmp_path / "out")) == ["converted"]
    before = contents(tmp_path / "out" / "a")
    neighbour.unlink()
    assert statuses(here([tmp_path / "in"], tmp_path / "out")) == ["refused"]
    assert contents(tmp_path / "out" / "a") == before
    assert statuses(here([tmp_path / "in"], tmp_path / "out", dictionary=ERA_DICTIONARY)) == ["skipped"]
    put(tmp_path / "in" / "a.pt").with_name("dict.ltr.txt").unlink()  # which has its dictionary in it
    for expected in ("converted", "skipped"):
        assert statuses(here([tmp_path / "in"], tmp_path / "out")) == [expected]


@pytest.mark.whole
@pytest.mark.parametrize("has_neighbour", [False, True])
def test_a_dictionary_decides_on_the_head_of_others_models_each_time_anew(has_neighbour: bool, tmp_path: Path) -> None:
    place = save("wav2vec2_base_ctc", "lightning", tmp_path / "a.pt", whole=True)
    if has_neighbour:
        shutil.copyfile(THEIR_DICTIONARY, tmp_path / "dict.ltr.txt")
    own: dict[str, Path] = {"pretrained": THEIRS}
    with_dictionary = {**own, "dictionary": THEIR_DICTIONARY}
    for given, head in ((own, "none"), (with_dictionary, "ctc"), (own, "none")):
        for expected in ("converted", "skipped"):
            assert statuses(here([place], tmp_path / "out", **given)) == [expected]
        fresh = tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}"
        w2vc.convert(place, fresh, **given)  # type: ignore[arg-type]  # the options of this test are right
        assert contents(tmp_path / "out" / "a") == contents(fresh)
        assert statuses(here([place], tmp_path / "out", head=head, **given)) == ["skipped"]


@pytest.mark.whole
@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "header", "record"])
def test_an_incomplete_output_of_ours_is_made_anew(tmp_path: Path, damage: str) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    here([tmp_path / "a.pt"], tmp_path / "out")
    output = tmp_path / "out" / "a"
    before = contents(output)
    if damage == "model.safetensors":
        os.truncate(output / damage, (output / damage).stat().st_size - 1)
    elif damage == "header":  # as an older version has written it
        weights = output / "model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(f"w2vc {w2vc.__version__}".encode(), b"w2vc 0.0.0"))
    elif damage == "record":  # as one that said less has written it
        weights = output / "model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(b"carries_dictionary", b"knew_less_at_first"))
    else:
        (output / damage).unlink()
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out")) == ["converted"]
    assert contents(output) == before


@pytest.mark.whole
@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", (10**5).to_bytes(8, "little") + b"[" * 10**5]
)
def test_what_somebody_else_put_there_is_never_replaced(tmp_path: Path, header: bytes) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    empty(tmp_path / "out" / "a" / "model.safetensors")
    (tmp_path / "out" / "a" / "model.safetensors").write_bytes(header)
    summary = here([tmp_path / "a.pt"], tmp_path / "out")
    assert [result.kind for result in summary.results] == ["OutputExistsError"]
    assert contents(tmp_path / "out" / "a") == {"model.safetensors": header}


@pytest.mark.slow
def test_a_file_of_somebody_elses_in_an_output_is_kept_even_if_it_is_out_of_date(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    here([tmp_path / "a.pt"], tmp_path / "out")
    (tmp_path / "out" / "a" / "notes.txt").write_text("keep me")
    before = contents(tmp_path / "out" / "a")
    assert statuses(here([tmp_path / "a.pt"], tmp_path / "out")) == ["skipped"]
    for force in (False, True):
        assert statuses(here([tmp_path / "a.pt"], tmp_path / "out", dtype="float16", force=force)) == ["failed"]
        assert contents(tmp_path / "out" / "a") == before


# ---------------------------------------------------------------------------------------------------------------
# Failures and the report


@pytest.mark.whole
def test_a_bug_in_one_conversion_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: Options, path: Path, *arguments: object, **more: object) -> object:
        if path.name == "a.pt":
            raise ZeroDivisionError("by zero")
        return convert_with(options, path, *arguments, **more)  # type: ignore[arg-type]  # handed on as they come

    monkeypatch.setattr("w2vc.batching.work.convert_with", broken)
    for name in ("a.pt", "b.pt"):
        put(tmp_path / "in" / name, "relative_pretraining")
    summary = here([tmp_path / "in"], tmp_path / "out")
    assert statuses(summary) == ["failed", "converted"]
    (bug,) = (result for result in summary.results if result.kind == "bug")
    assert "ZeroDivisionError: by zero (test_batch.py, line" in bug.why[0]
    assert not summary.is_good


def test_a_missing_file_fails_alone(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    (tmp_path / "list.csv").write_text("checkpoint\na.pt\nmissing.pt\n")
    summary = here([tmp_path / "list.csv"], tmp_path / "out")
    assert statuses(summary) == ["converted", "failed"]
    assert {result.kind for result in summary.results} == {None, "MissingError"}


@pytest.mark.whole
def test_a_report_is_appended_to_even_behind_a_torn_line(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    report = tmp_path / "report.jsonl"
    report.write_text('{"input": "/torn')
    seen: list[str] = []

    def watch(progress: BatchProgress) -> None:
        seen.append(f"{progress.finished}/{progress.jobs}")

    summary = here([tmp_path / "a.pt"], tmp_path / "out", report=report, on_progress=watch)
    _torn, line, last = report.read_text().splitlines()
    (result,) = summary.results
    assert json.loads(line) == result.values()
    assert json.loads(last) == {"summary": summary.values()}
    assert json.loads(line)["fingerprint"] == w2vc.inspect(tmp_path / "a.pt").values()["fingerprint"]
    assert json.loads(line)["exact"] is True
    assert json.loads(line)["bytes"] == sum(map(len, contents(tmp_path / "out" / "a").values()))
    assert seen[-1] == "1/1"


@pytest.mark.slow
def test_many_are_converted_despite_bad_ones_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    bad = MANY // 20
    put_many(tmp_path / "in", MANY, bad)
    report = tmp_path / "report.jsonl"

    first = run(tmp_path / "in", "--output", tmp_path / "out", "--report", report, "--jobs", 2)
    assert first.returncode == 7, first.stderr
    assert f"{MANY} checkpoints: {MANY - 2 * bad} converted, {bad} refused, {bad} failed" in first.stdout
    assert len(first.stderr.splitlines()) == MANY  # one line a checkpoint where stderr is no terminal
    told = lines(report)
    assert len(told) == MANY + 1
    for line in told[:-1]:
        number = int(str(line["input"]).rpartition("_")[2].removesuffix(".pt"))
        expected = "failed" if number < bad else "refused" if number < 2 * bad else "converted"
        assert line["status"] == expected, line
        assert bool(line["why"]) == bool(line["advice"]) == (expected != "converted")
        assert Path(str(line["output"])).exists() == (expected == "converted")
    assert len(outputs(tmp_path / "out")) == MANY - 2 * bad

    before = identities(tmp_path / "out")
    second = run(tmp_path / "in", "--output", tmp_path / "out", "--report", report)
    assert second.returncode == 7
    assert f"{MANY - 2 * bad} skipped, {bad} refused, {bad} failed; nothing new was converted" in second.stdout
    assert identities(tmp_path / "out") == before


# ---------------------------------------------------------------------------------------------------------------
# Interruptions


def test_what_a_dying_worker_still_held_is_cleared_away_at_the_end(tmp_path: Path) -> None:
    place, output = put(tmp_path / "in" / "a.pt"), tmp_path / "out"
    assert here([place], output).is_good
    left, another = output / ".a.w2vc-0123456789ab", output / ".b.w2vc-0123456789ab"
    locks = [output_directory._make_locked(building) for building in (left, another)]
    put(tmp_path / "in" / "c.pt")
    # Its process ends while other checkpoints are converted; its own is converted already, so that it's skipped.
    summary = here([tmp_path / "in"], output, on_result=lambda _: os.close(locks.pop(0)) if locks[1:] else None)
    assert sorted(result.status for result in summary.results) == ["converted", "skipped"]
    assert not left.exists()
    assert another.exists()
    os.close(locks.pop())


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_batch_is_completed_by_running_it_again(tmp_path: Path, whole_group: bool) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put_many(folder, 24)
    with stopped(folder, "--output", output, "--jobs", 2, folder=tmp_path, begun=8) as batching:
        for process in processes(batching.pid) if whole_group else [batching.pid]:
            os.kill(process, signal.SIGKILL)
        os.killpg(batching.pid, signal.SIGCONT)
        until(lambda: not processes(batching.pid), "the workers to end by themselves")
    done = identities(output)
    assert 6 <= len(done) < 24
    assert bool(leftovers(output)) == whole_group
    assert all_complete(output)

    again = run(folder, "--output", output, "--json", "--jobs", 2)
    assert again.returncode == 0, again.stderr
    values = json.loads(again.stdout)
    assert (values["skipped"], values["converted"]) == (len(done), 24 - len(done))
    assert {place: identity for place, identity in identities(output).items() if place in done} == done
    assert all_complete(output)
    assert not leftovers(output)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly(tmp_path: Path) -> None:
    folder, output, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.jsonl"
    put_many(folder, 24)
    with stopped(folder, "--output", output, "--jobs", 2, "--report", report, folder=tmp_path, begun=8) as batching:
        os.killpg(batching.pid, signal.SIGINT)
        os.killpg(batching.pid, signal.SIGCONT)
        _stdout, stderr = batching.communicate(timeout=60)
        assert batching.returncode == 130
        # multiprocessing's own tracker ends when it sees that its parent has.
        until(lambda: not processes(batching.pid), "all processes to end")
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    assert all_complete(output)
    assert not leftovers(output)
    assert 6 <= len(outputs(output)) < 24
    last = lines(report)[-1]["summary"]
    assert isinstance(last, dict)
    assert last["unfinished"] == 24 - last["converted"] > 0


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    folder, output, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.jsonl"
    put_many(folder, 24)
    with stopped(folder, "--output", output, "--jobs", 2, "--report", report, folder=tmp_path, begun=5) as batching:
        workers = [
            process
            for process in processes(batching.pid)
            if b"w2vc.batching.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
        ]
        assert leftovers(output)
        os.kill(workers[0], signal.SIGKILL)
        os.killpg(batching.pid, signal.SIGCONT)
        _stdout, stderr = batching.communicate(timeout=120)
        assert batching.returncode == 0, stderr
    found = [line["status"] for line in lines(report)[:-1]]
    assert len(found) == 24
    # A worker may have been done with its checkpoint, but not have said so.
    assert found.count("converted") >= 22
    assert set(found) <= {"converted", "skipped"}
    assert all_complete(output)
    assert len(outputs(output)) == 24
    assert not leftovers(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    "opened",
    [
        pytest.param(r"/culprit\.pt ", id="while it reads"),
        pytest.param(r"/of_culprit/dict\.ltr\.txt ", id="while it plans"),
        pytest.param(r"/\.culprit\b.*/model\.safetensors ", id="while it writes"),
    ],
)
def test_a_checkpoint_whose_worker_dies_each_time_is_found_and_the_others_are_converted(
    opened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PROGRAM", HOOK + pool._PROGRAM)
    dying = {"opened": opened, "number": 0, "send": signal.SIGKILL, "whom": None}
    monkeypatch.setenv("W2VC_TEST_SIGNAL", json.dumps(dying))
    culprit = put(tmp_path / "in" / "of_culprit" / "culprit.pt")
    for number in range(3):
        put(tmp_path / "in" / f"{number}.pt", "relative_pretraining")

    summary = batch([tmp_path / "in"], tmp_path / "out", jobs=2)
    (failed,) = (result for result in summary.results if not result.is_good)
    assert (failed.checkpoint, failed.status, failed.kind) == (culprit, "failed", "WorkerLost")
    assert failed.advice is not None
    assert len(outputs(tmp_path / "out")) == 3


# ---------------------------------------------------------------------------------------------------------------
# Places where little is allowed


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that any user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody() -> list[str]:
    """What runs a command as the user nobody; nothing if this isn't root, and as little may be done anyway."""
    if os.geteuid() != 0:
        return []
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    start_itself = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', '']))"
    readable = subprocess.run([*nobody, sys.executable, "-c", start_itself], capture_output=True, check=False)  # noqa: S603 - ours
    # Where the interpreter lies in root's home, nobody is let in to read, and only to read.
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"] if readable.returncode else []
    return [*nobody, *reading]


@pytest.mark.slow
def test_it_works_as_nobody_without_environment_from_a_read_only_folder_with_read_only_input(tmp_path: Path) -> None:
    put_many(tmp_path / "in", 4)
    with open_to_all() as place:
        shutil.copytree(tmp_path / "in", place / "in")
        (place / "work").mkdir()
        (place / "out").mkdir()
        if os.geteuid() == 0:
            os.chown(place / "out", 65534, 65534)
        for path in (place / "work", place / "in", *(place / "in").glob("**/*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {
            path: path.stat().st_mtime_ns for path in (place / "work", place / "in", *(place / "in").glob("**/*"))
        }

        result = subprocess.run(  # noqa: S603 - ours
            [*as_nobody(), *command("../in", "--output", "../out", "--report", "../out/report.jsonl", "--jobs", 2)],
            cwd=place / "work",
            env={},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

        assert result.returncode == 0, result.stderr
        assert "4 converted" in result.stdout
        assert len(outputs(place / "out")) == 4
        assert all_complete(place / "out")
        if os.geteuid() == 0:
            assert {path.stat().st_uid for path in outputs(place / "out")} == {65534}
        assert {path: path.stat().st_mtime_ns for path in before} == before
        for path in (place / "work", place / "in", *(place / "in").glob("*/")):
            path.chmod(stat.S_IRWXU)


# ---------------------------------------------------------------------------------------------------------------
# A cluster


@contextmanager
def dask_cluster(
    folder: Path, workers: int, threads: int = 1, *, one_stops: bool = False
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers, each a process of its own, as on a cluster: its address and the workers.

    Where ``one_stops``, the first worker stops in the midst of its first conversion.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(w2vc.__file__).parent.parent),
        "HOME": str(folder),
        "DASK_CONFIG": str(folder),
    }

    def start(module: str, *arguments: object, **more: str) -> subprocess.Popen[bytes]:
        full = [sys.executable, "-m", f"distributed.cli.{module}", "--host", "127.0.0.1", "--no-dashboard"]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - ours
                [*full, *map(str, arguments)], env={**environment, **more}, cwd=folder, stdout=log, stderr=log
            )

    place = folder / "scheduler.json"
    all_of_them = [start("dask_scheduler", "--port", 0, "--scheduler-file", place)]
    try:
        until(lambda: place.exists() and place.read_text().endswith("}"), "the scheduler")
        address = json.loads(place.read_text())["address"]
        first = holding(folder, 1) if one_stops else {}
        for number in range(workers):
            options = ("--nthreads", threads, "--no-nanny", "--local-directory", folder)
            all_of_them.append(start("dask_worker", address, *options, **({} if number else first)))
        until(lambda: (folder / "log").read_bytes().count(b"Registered to:") >= workers, "the workers")
        yield address, all_of_them[1:]
    finally:
        for process in all_of_them:
            process.kill()
            process.wait()


def is_all_as_here(folder: Path, output: Path, local: Path) -> None:
    assert not leftovers(output)
    assert here([folder], local).is_good
    assert len(outputs(output)) == len(outputs(local)) == 24
    for place in outputs(local):
        assert contents(output / place.relative_to(local)) == contents(place)


@pytest.mark.slow
def test_over_dask_a_lost_workers_checkpoints_are_done_elsewhere_and_all_is_as_here(tmp_path: Path) -> None:
    folder, report = tmp_path / "in", tmp_path / "report.jsonl"
    put_many(folder, 24)
    (tmp_path / "dask").mkdir()
    with (
        dask_cluster(tmp_path / "dask", 3, one_stops=True) as (address, workers),
        started(folder, "--output", tmp_path / "out", "--dask", address, "--report", report) as batching,
    ):
        until(lambda: processes(os.getpgrp()).get(workers[0].pid) == "T", "the first worker to be in mid-work")
        until(lambda: lines(report), "results of the others")
        assert leftovers(tmp_path / "out")
        workers[0].kill()
        stdout, stderr = batching.communicate(timeout=180)
        assert batching.returncode == 0, stderr
    assert "24 checkpoints: " in stdout
    is_all_as_here(folder, tmp_path / "out", tmp_path / "local")


@pytest.mark.slow
def test_over_dask_several_threads_of_one_worker_convert_all_as_here(tmp_path: Path) -> None:
    put_many(tmp_path / "in", 24)
    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask", 1, threads=4) as (address, _workers):
        result = run(tmp_path / "in", "--output", tmp_path / "out", "--dask", address)
    assert result.returncode == 0, result.stderr
    assert "24 checkpoints: 24 converted" in result.stdout
    is_all_as_here(tmp_path / "in", tmp_path / "out", tmp_path / "local")


@pytest.mark.slow
def test_a_dask_address_without_a_scheduler_is_an_error_of_two_lines(tmp_path: Path) -> None:
    put(tmp_path / "a.pt", "relative_pretraining")
    result = run(tmp_path / "a.pt", "--output", tmp_path / "out", "--dask", "no-such-protocol://127.0.0.1:1")
    assert result.returncode == 2, result.stderr
    assert "there is no Dask scheduler at" in result.stderr
    assert not (tmp_path / "out").exists()
