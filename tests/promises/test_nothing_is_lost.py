"""Whatever is asked for, nothing is lost that w2vc didn't write: not the input, not a neighbour, not a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import w2vc
from tests.conftest import FIXTURES, checkpoint
from w2vc.conversion import convert
from w2vc.errors import OutputExistsError, OutputWriteError, UsageError, W2vcError
from w2vc.writing import output_directory as output_directory_module
from w2vc.writing.output_directory import output_directory
from w2vc.writing.ownership import not_ours, remove_ours

pytestmark = pytest.mark.whole

SOURCE = checkpoint("relative_pretraining")


def everything(folder: Path) -> dict[str, bytes | str]:
    """All that is below a folder, with the contents of files and the targets of links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def refused(output: object, kind: type[W2vcError], *words: str, source: Path = SOURCE, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        convert(source, output, **options)  # type: ignore[arg-type]  # wrong ones are tried, too
    said = f"{' '.join(caught.value.problems)} {caught.value.advice}"
    for word in words:
        assert word in said


def put(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name.replace("_json", ".json").replace("_md", ".md")).write_text(text, encoding="utf-8")


def strangers_model(directory: Path) -> None:
    """A model that somebody fine-tuned from our output: transformers wrote it, so that it says nothing of w2vc."""
    from safetensors.torch import load_file, save_file

    convert(SOURCE, directory)
    save_file(load_file(directory / "model.safetensors"), directory / "model.safetensors", {"format": "pt"})


def nested(directory: Path) -> None:
    convert(SOURCE, directory)
    (directory / "README.md").unlink()
    put(directory / "README.md", notes="years of work")


def linked(directory: Path) -> None:
    convert(SOURCE, directory)
    (directory / "config.json").rename(directory.parent / "config.json")
    (directory / "config.json").symlink_to("../config.json")


def weights_linked(directory: Path) -> None:
    convert(SOURCE, directory.parent / "other")
    put(directory)
    (directory / "model.safetensors").symlink_to("../other/model.safetensors")


def with_a_file(directory: Path) -> None:
    convert(SOURCE, directory)
    (directory / "x.txt").touch()


STRANGERS: dict[str, Callable[[Path], object]] = {
    "a stranger's model": strangers_model,
    "a lone README.md": lambda directory: put(directory, README_md="years of work"),
    "a lone config.json": lambda directory: put(directory, config_json="{}"),
    "a folder called config.json": lambda directory: put(directory / "config.json", notes="years of work"),
    "a folder called README.md in an output": nested,
    "a link called config.json in an output": linked,
    "a link to somebody's weights": weights_linked,
    "an output with a file beside": with_a_file,
}


@pytest.mark.parametrize("what", STRANGERS)
def test_force_replaces_nothing_that_w2vc_did_not_write(what: str, tmp_path: Path) -> None:
    STRANGERS[what](tmp_path / "out")
    before = everything(tmp_path)
    refused(tmp_path / "out", OutputExistsError, "--force replaces earlier conversions only", force=True)
    assert everything(tmp_path) == before


def test_force_is_advised_only_where_it_would_help(tmp_path: Path) -> None:
    convert(SOURCE, tmp_path / "ours")
    put(tmp_path / "theirs", config_json="{}")
    refused(tmp_path / "ours", OutputExistsError, "replace it with --force")
    with pytest.raises(OutputExistsError) as caught:
        convert(SOURCE, tmp_path / "theirs")
    assert "--force" not in caught.value.advice


# ---------------------------------------------------------------------------------------------------------------
# What is read for a conversion


@pytest.mark.parametrize("link", ["hard", "symbolic", "through a folder"])
@pytest.mark.parametrize("what", ["checkpoint", "config", "dictionary"])
def test_force_never_replaces_what_it_reads(what: str, link: str, tmp_path: Path) -> None:
    output, given = tmp_path / "out", tmp_path / "given"
    convert(checkpoint("relative_ctc"), output)
    inside = output / "README.md"
    sources = {"checkpoint": checkpoint("relative_ctc"), "dictionary": FIXTURES / "relative_ctc" / "dict.ltr.txt"}
    inside.unlink()
    if what == "config":
        inside.write_text('{"final_dropout": 0.5}', encoding="utf-8")
    else:
        shutil.copyfile(sources[what], inside)
    if link == "hard":
        given.hardlink_to(inside)
    elif link == "symbolic":
        given.symlink_to(inside)
    else:
        (tmp_path / "folder").symlink_to(output)
        given = tmp_path / "folder" / "README.md"
    before = everything(tmp_path)
    options: dict[str, Any] = {"force": True}
    source = given if what == "checkpoint" else checkpoint("relative_ctc")
    if what != "checkpoint":
        options[what] = given
    refused(output, OutputExistsError, str(given), "would be lost", source=source, **options)
    assert everything(tmp_path) == before


def test_an_output_that_is_the_checkpoint_or_holds_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    put(folder / "checkpoints")
    model = folder / "checkpoints" / "model.pt"
    shutil.copyfile(SOURCE, model)
    before = everything(tmp_path)
    for output in (model, folder, folder / "checkpoints", tmp_path):
        refused(output, OutputExistsError, source=model, force=True)
    assert everything(tmp_path) == before


# ---------------------------------------------------------------------------------------------------------------
# Places that mean something else


@pytest.mark.parametrize("output", [".", "./", "../here", "sub/.."])
@pytest.mark.parametrize("force", [False, True])
def test_the_current_folder_is_never_replaced(
    output: str, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    if force:
        convert(SOURCE, here)
    else:
        here.mkdir()
    monkeypatch.chdir(here)
    before = everything(tmp_path)
    refused(output, OutputExistsError, "the current folder", "inside it", force=force)
    assert everything(tmp_path) == before
    assert here.samefile(os.curdir)


def test_an_empty_text_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("", UsageError, "OUTPUT is empty")
    refused("a\0b", UsageError, "OUTPUT holds a NUL")
    refused("\ud800", UsageError, "OUTPUT can't be the name of a file")
    refused("out", UsageError, "--dict is empty", dictionary="")
    refused("out", UsageError, "--config is empty", config="")
    with pytest.raises(UsageError, match="CHECKPOINT is empty"):
        convert("", tmp_path / "out")
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("end", ["", "/"])
def test_a_link_is_never_replaced_and_its_target_is_named(end: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "file").touch()
    for target in ("disk", "file", "nothing"):
        (tmp_path / f"to-{target}").symlink_to(target)
    before = everything(tmp_path)
    refused(f"{tmp_path}/to-disk{end}", OutputExistsError, "is a link to the directory", f"itself: {tmp_path}/disk")
    refused(f"{tmp_path}/to-file{end}", OutputExistsError, "is a link to the file")
    refused(f"{tmp_path}/to-nothing{end}", OutputExistsError, "that isn't there")
    assert everything(tmp_path) == before


def test_a_trailing_slash_changes_nothing_and_dots_mean_what_the_system_means(tmp_path: Path) -> None:
    convert(SOURCE, f"{tmp_path}/one/")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    convert(SOURCE, f"{tmp_path}/link/../two/.")
    assert (tmp_path / "one" / "config.json").exists()
    assert (tmp_path / "far" / "two" / "config.json").exists()


def test_a_current_folder_that_is_gone_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused("out", UsageError, "current folder doesn't exist")
    convert(SOURCE, tmp_path / "out")


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, "\N{SNOWMAN}" * 40 + "x" * 130])
def test_a_name_of_255_bytes_is_written_and_replaced(name: str, tmp_path: Path) -> None:
    convert(SOURCE, tmp_path / name)
    convert(SOURCE, tmp_path / name, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 256), OutputWriteError, "File name too long", source=tmp_path / "missing.pt")


# ---------------------------------------------------------------------------------------------------------------
# What is left behind


@pytest.mark.parametrize("name", ["cropped_ctc", "wav2vec_seq2seq"])
def test_a_refusal_leaves_no_folders_behind(name: str, tmp_path: Path) -> None:
    with pytest.raises(w2vc.errors.RefusedError):
        convert(checkpoint(name), tmp_path / "a" / "b" / "out")
    assert everything(tmp_path) == {}


def test_an_error_in_the_midst_of_writing_leaves_no_folders_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    refused(tmp_path / "a" / "b" / "c" / "out", OutputWriteError, "No space left")
    assert everything(tmp_path) == {"a": "folder"}


def test_a_folder_that_another_takes_away_before_it_is_used_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    make = Path.mkdir

    def taken_away(self: Path, *arguments: Any, **options: Any) -> None:
        if ".w2vc-" in self.name and not taken:
            taken.append(self.parent)
            self.parent.rmdir()
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", taken_away)
    convert(SOURCE, tmp_path / "a" / "out")
    assert taken
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


LEFTOVER = ".out.w2vc-0123456789ab"


def complete_leftover(place: Path) -> None:
    convert(SOURCE, place.with_name("elsewhere"))
    place.with_name("elsewhere").rename(place)


@pytest.mark.parametrize("inside", ["", "inside"])
def test_an_output_is_never_called_like_what_will_be_cleared_away(inside: str, tmp_path: Path) -> None:
    refused(tmp_path / LEFTOVER / inside, OutputWriteError, f"{LEFTOVER} is a name for what w2vc is building")
    assert everything(tmp_path) == {}


def test_an_earlier_output_that_was_set_aside_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    complete_leftover(tmp_path / LEFTOVER)
    before = everything(tmp_path)
    damaged = tmp_path / "out.pt"
    damaged.write_bytes(SOURCE.read_bytes()[:-1000])
    with pytest.raises(w2vc.errors.W2vcError):
        convert(damaged, tmp_path / "out")
    damaged.unlink()
    output_directory_module.clear_leftovers([tmp_path / "out"], ())
    assert everything(tmp_path) == before
    convert(SOURCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replaced_output_is_no_leftover_while_it_may_have_to_be_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(SOURCE, tmp_path / "out")
    looked = []

    def cleared_by_another(directory: Path) -> str | None:
        if ".w2vc-" in directory.name:
            output_directory_module.clear_leftovers([tmp_path / "out"], ())
            looked.append(len(list(directory.iterdir())))
        return not_ours(directory)

    monkeypatch.setattr(output_directory_module, "not_ours", cleared_by_another)
    convert(SOURCE, tmp_path / "out", force=True)
    assert looked == [len(list((tmp_path / "out").iterdir()))]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_somebody_else_has_locked_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_directory_module, "_LONGEST_WAIT", 0.1)
    convert(SOURCE, tmp_path / "out")
    before = (tmp_path / "out").stat().st_ino
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    convert(SOURCE, tmp_path / "out", force=True)
    os.close(held)
    assert (tmp_path / "out").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_tells_that_a_directory_is_ours_is_removed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if len(list(self.parent.iterdir())) == left:
            raise PermissionError
        unlink(self, missing_ok)

    complete_leftover(tmp_path / LEFTOVER)
    for left in range(len(list((tmp_path / LEFTOVER).iterdir())), 0, -1):
        monkeypatch.setattr(Path, "unlink", killed)
        remove_ours(tmp_path / LEFTOVER)
        assert len(list((tmp_path / LEFTOVER).iterdir())) == left
    monkeypatch.undo()
    remove_ours(tmp_path / LEFTOVER)
    assert everything(tmp_path) == {}


def test_a_marker_of_any_length_is_not_read(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER).mkdir()
    with (tmp_path / LEFTOVER / ".w2vc-is-building").open("wb") as marker:
        marker.truncate(2**42)
    convert(SOURCE, tmp_path / "out")
    assert (tmp_path / LEFTOVER).exists()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "years of work"},
        {"config.json": "{}", "model.safetensors": ""},
        {"README.md": "years of work"},
        {".w2vc-is-building": "another one", "config.json": "{}"},
        {".w2vc-is-building": LEFTOVER, "thesis.tex": "years of work"},
    ],
    ids=" ".join,
)
def test_only_leftovers_that_are_provably_ours_are_cleared_away(files: dict[str, str], tmp_path: Path) -> None:
    put(tmp_path / LEFTOVER)
    for name, text in files.items():
        (tmp_path / LEFTOVER / name).write_text(text, encoding="utf-8")
    before = everything(tmp_path / LEFTOVER)
    convert(SOURCE, tmp_path / "out")
    assert everything(tmp_path / LEFTOVER) == before


def test_the_leftovers_of_a_killed_conversion_are_cleared_away_at_whatever_stage(tmp_path: Path) -> None:
    for stage in ("empty", "begun", "complete"):
        leftover = tmp_path / f".out.w2vc-{stage.encode().hex():0<12.12}"
        leftover.mkdir()
        if stage == "begun":
            (leftover / ".w2vc-is-building").write_text(leftover.name, encoding="utf-8")
            (leftover / "model.safetensors").write_bytes(bytes(100))
        elif stage == "complete":
            leftover.rmdir()
            complete_leftover(leftover)
    convert(SOURCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_leftover_that_holds_the_checkpoint_stays(tmp_path: Path) -> None:
    complete_leftover(tmp_path / LEFTOVER)
    (tmp_path / LEFTOVER / "vocab.json").write_bytes(SOURCE.read_bytes())
    convert(tmp_path / LEFTOVER / "vocab.json", tmp_path / "out")
    assert (tmp_path / LEFTOVER / "vocab.json").read_bytes() == SOURCE.read_bytes()


def test_what_turns_up_in_a_directory_that_is_abandoned_stays(tmp_path: Path) -> None:
    def abandon() -> None:
        with output_directory(tmp_path / "out", force=False) as building:
            (building / "thesis.tex").write_text("years of work", encoding="utf-8")
            raise KeyError

    with pytest.raises(KeyError):
        abandon()
    (left,) = tmp_path.iterdir()
    assert (left / "thesis.tex").read_text(encoding="utf-8") == "years of work"


def test_the_record_of_an_output_is_in_its_weights(tmp_path: Path) -> None:
    convert(SOURCE, tmp_path / "out")
    header = (tmp_path / "out" / "model.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + length])["__metadata__"]["converted_by"] == f"w2vc {w2vc.__version__}"
