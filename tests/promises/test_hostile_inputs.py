"""Files besides the checkpoint that lie, or take all memory and time: recordings and manifests.

Each is given to a whole process, which ends with the documented code and two lines, within little time and memory.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import checkpoint
from tests.support.hostile.manifests import MANIFESTS
from tests.support.hostile.recordings import RECORDINGS
from tests.support.sandbox import Run
from tests.support.strangers import Snapshot
from tests.support.whole_process import run, write_script

pytestmark = pytest.mark.slow

SOURCE = checkpoint("relative_ctc")
# Of processor time, everything that is imported included.
SECONDS = 20
MEGABYTES = 600
CHARACTERS = 8000
USAGE = 2


@dataclass(frozen=True)
class Place:
    """A folder that w2vc is run in, with its script outside."""

    script: Path
    folder: Path

    def run(self, *arguments: object) -> tuple[Run, bool]:
        """What a run did, and whether it changed anything in the folder."""
        before = Snapshot.of(self.folder)
        done = run(self.script, list(map(str, arguments)), self.folder, seconds=180)
        return done, Snapshot.of(self.folder) != before


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "here").mkdir()
    return Place(write_script(tmp_path), tmp_path / "here")


def complaints(done: Run) -> list[str]:
    """What a run did that no file may make it do."""
    found = {
        f"it took {done.seconds:.0f} s": done.timed_out or done.seconds > SECONDS,
        f"it took {done.megabytes:.0f} MB": done.megabytes > MEGABYTES,
        f"traceback: {done.stderr}": "Traceback" in done.stderr or "bug in w2vc" in done.stderr,
        f"{len(done.stdout + done.stderr)} characters": len(done.stdout + done.stderr) > CHARACTERS,
        "control characters": not (done.stdout + done.stderr).replace("\n", "").isprintable(),
    }
    return [complaint for complaint, is_so in found.items() if is_so]


# ---------------------------------------------------------------------------------------------------------------
# Recordings


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_hostile_recording_is_refused_or_used_and_nothing_is_changed(
    name: str, place: Place, converted: Callable[[str], Path]
) -> None:
    case = RECORDINGS[name]
    case.make(place.folder / "a.wav")
    shutil.copytree(converted("relative_ctc"), place.folder / "out")
    done, changed = place.run("verify", SOURCE, "out", "--wav", "a.wav")
    told = done.stderr if case.exit_code else done.stdout
    assert not complaints(done)
    assert done.exit_code == case.exit_code, done.stderr
    assert re.search(case.words, told), told
    assert bool(done.stdout) == (case.exit_code == 0)
    assert not changed
    if case.exit_code:
        *problems, advice = done.stderr.splitlines()
        assert problems
        assert problems[0].startswith("w2vc: ")
        assert advice.startswith("      ")


# ---------------------------------------------------------------------------------------------------------------
# Manifests


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_row_costs_only_itself_and_a_hostile_manifest_is_refused(name: str, place: Place) -> None:
    case = MANIFESTS[name]
    case.make(place.folder / case.name)
    shutil.copyfile(checkpoint("relative_pretraining"), place.folder / "good.pt")
    before = Snapshot.of(place.folder)
    done, _ = place.run("batch", case.name, "--output", "out", "--jobs", "1", "--report", place.script.with_name("r"))
    assert not complaints(done)
    assert done.exit_code == case.exit_code, done.stderr
    assert Snapshot.of(place.folder).without("out") == before
    outputs = sorted(path.name for path in place.folder.glob("out/*"))
    assert outputs == ([] if case.exit_code == USAGE else ["good"])
    told = done.stdout + done.stderr
    assert re.search(case.words, re.sub(r"\n +", " ", told)), told
    if case.exit_code == USAGE:
        assert len(done.stderr.splitlines()) == 2, done.stderr
        return
    *results, summary = [json.loads(line) for line in place.script.with_name("r").read_text().splitlines()]
    assert (summary["summary"]["converted"], summary["summary"]["failed"]) == (1, case.failed)
    assert not [result for result in results if result["kind"] == "bug"]
