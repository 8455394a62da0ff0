"""What is looked at beside the copying: long records' checksums and values, and what the disk says."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import w2vc
from tests.conftest import checkpoint
from w2vc.batching.jobs import find_jobs
from w2vc.batching.work import work
from w2vc.errors import DamagedError
from w2vc.options import Options
from w2vc.reading.archive import examine, open_checkpoint
from w2vc.writing import record_check
from w2vc.writing.crc32 import Crc32
from w2vc.writing.kernel_copy import written_back_meanwhile

pytestmark = pytest.mark.whole

# Where folding begins, how long its pieces are, and how much of it lies in memory at a time: all plus and minus little.
EDGES = (0, 8, 844_888, 2 * 1_042_880, 3 * 844_888, 1_042_880 + 4 * 844_888, 9 * 844_888, 2**24)
LENGTHS = sorted({max(0, edge + more) for edge in EDGES for more in (-8, -1, 0, 1, 4, 8)})


def crc32(crc: Crc32, contents: bytes | bytearray) -> int:
    crc.begin(len(contents))
    done = 0
    while done < len(contents):
        piece = crc.room(len(contents) - done)
        piece[:] = contents[done : done + len(piece)]
        done += len(piece)
        crc.add(piece)
    return crc.value


@pytest.mark.parametrize("folding", [True, False])
def test_the_checksum_of_every_length_is_zlibs(folding: bool) -> None:
    contents = np.random.default_rng(7).bytes(LENGTHS[-1])
    crc = Crc32(folding=folding)
    assert [crc32(crc, contents[:length]) for length in LENGTHS] == [
        zlib.crc32(contents[:length]) for length in LENGTHS
    ]


def test_a_flipped_bit_changes_the_checksum_wherever_it_is() -> None:
    contents = bytearray(np.random.default_rng(8).bytes(3_000_004))
    crc = Crc32(folding=True)
    right = crc32(crc, contents)
    for position in (0, 3, 4, 844_888, 1_042_880, 1_957_124, 2_155_116, 2_999_999, 3_000_003):
        contents[position] ^= 0x10
        assert crc32(crc, contents) != right
        contents[position] ^= 0x10
    assert crc32(crc, contents) == right


def damaged(large: Path, path: Path, distance: int) -> str:
    """A copy with one bit of its longest record flipped, so far before the record's end; gives the record's name."""
    with open_checkpoint(large) as file:
        records = examine(file, large).records
    name = max(records, key=lambda name: records[name].size)
    contents = bytearray(large.read_bytes())
    contents[records[name].offset + records[name].size - distance] ^= 1
    path.write_bytes(contents)
    return name


@pytest.mark.parametrize("distance", [1, 1_000_000, 2_300_000])
def test_a_flipped_bit_of_a_long_record_is_found_in_a_process_that_has_torch(
    distance: int, large: Path, tmp_path: Path
) -> None:
    w2vc.convert(large, tmp_path / "before")
    name = damaged(large, tmp_path / "checkpoint.pt", distance)
    with pytest.raises(DamagedError, match=f"the checksum of {name} .* is wrong"):
        w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_of_a_long_record_is_found_in_a_fresh_process(large: Path, tmp_path: Path) -> None:
    name = damaged(large, tmp_path / "checkpoint.pt", 1_000_000)
    command = [sys.executable, "-m", "w2vc", "convert", str(tmp_path / "checkpoint.pt"), str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert ended.returncode == 3
    assert f"the checksum of {name}" in ended.stderr


def test_values_that_are_not_finite_are_counted_in_every_piece_of_a_long_record(large: Path, tmp_path: Path) -> None:
    with open_checkpoint(large) as file:
        record = max(examine(file, large).records.values(), key=lambda record: record.size)
    contents = bytearray(large.read_bytes())
    values = slice(record.offset, record.offset + record.size)
    before = zlib.crc32(contents[values])
    for value, place in (("nan", 0), ("inf", 844_888), ("-inf", 844_884), ("nan", record.size - 4)):
        contents[record.offset + place : record.offset + place + 4] = struct.pack("<f", float(value))
    contents = contents.replace(struct.pack("<I", before), struct.pack("<I", zlib.crc32(contents[values])))
    (tmp_path / "checkpoint.pt").write_bytes(contents)
    written = w2vc.convert(tmp_path / "checkpoint.pt", tmp_path / "out").written
    assert written is not None
    assert list(written.not_finite.values()) == [4]


def test_a_disk_that_fails_while_more_is_written_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def fail(_file: int) -> None:
        asked.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
        written_back_meanwhile(file.fileno(), 1),
    ):
        assert asked.wait(60)


def test_the_outputs_of_a_batch_leave_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised = []

    def advise(file: int, start: int, count: int, advice: int) -> None:
        advised.append((Path(f"/proc/self/fd/{file}").readlink(), start, count, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    (job,) = find_jobs([checkpoint("relative_ctc")], tmp_path / "out", Options())
    assert work(job, force=False).status == "converted"
    assert advised == [(job.output / "model.safetensors", 0, 0, os.POSIX_FADV_DONTNEED)]


def test_a_refusal_waits_for_no_checksum_of_a_giant_record(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    begun = threading.Event()

    def read(_source: int, piece: memoryview, _start: int) -> None:
        reads.append(len(piece))
        begun.set()

    monkeypatch.setattr(record_check, "read_into", read)
    path = checkpoint("relative_ctc")
    size = 2**34
    with open_checkpoint(path) as file, record_check.RecordCheck() as check:
        archive = examine(file, path)
        giant = {name: replace(record, size=size, crc32=None) for name, record in archive.records.items()}
        check.begin(file, replace(archive, records=giant))
        assert begun.wait(60)
    assert sum(reads) < size
