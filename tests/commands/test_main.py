"""The command line: exit codes, two lines of error, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import w2vc
from tests.conftest import CONVERTIBLE, FIXTURES, checkpoint, options

pytestmark = pytest.mark.whole


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "w2vc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)  # noqa: S603 - ours


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Two lines on stderr with the words in them, nothing on stdout, no traceback."""
    assert result.returncode == code, result.stderr
    assert len(result.stderr.splitlines()) == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def lonely(tmp_path: Path) -> Path:
    """A CTC checkpoint that carries no dictionary and has none beside it."""
    path = tmp_path / "lonely" / "model"
    path.parent.mkdir()
    shutil.copy(FIXTURES / "eras" / "namespace_ctc.pt", path)
    return path


def test_no_dictionary_is_refused_and_nothing_is_written(lonely: Path, tmp_path: Path) -> None:
    refused(run("convert", lonely, tmp_path / "out"), 4, "no dictionary", "dict.ltr.txt", "--dict")
    assert not (tmp_path / "out").exists()


def test_a_dictionary_of_another_size_is_refused_with_both_numbers(lonely: Path, tmp_path: Path) -> None:
    words = tmp_path / "dict.txt"
    words.write_text("| 10\na 9\nb 8\n", encoding="utf-8")
    refused(run("convert", lonely, tmp_path / "out", "--dict", words), 4, "7 symbols", "rows")
    assert not (tmp_path / "out").exists()


def test_a_dictionary_that_differs_from_the_checkpoints_own_is_refused_with_the_difference(tmp_path: Path) -> None:
    lines = (FIXTURES / "relative_ctc" / "dict.ltr.txt").read_text(encoding="utf-8").splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    words = tmp_path / "dict.txt"
    words.write_text("\n".join(lines), encoding="utf-8")
    result = run("convert", checkpoint("relative_ctc"), tmp_path / "out", "--dict", words)
    refused(result, 4, "differ", str(words), "task_state")
    assert not (tmp_path / "out").exists()


def test_a_dictionary_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    result = run("convert", checkpoint("relative_ctc"), tmp_path / "out", "--dict", tmp_path / "none.txt")
    refused(result, 2, "none.txt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wav2vec2_deep_pre_norm_pretraining", ("pos_conv_depth", "layer_norm_first is true")),
        ("hubert_conformer", ("conformer layers",)),
        ("quantized_input_pretraining", ("quantize_input",)),
        ("cropped_ctc", ("crop_seq_to_multiple is 4",)),
        ("absolute_positions_pretraining", ("pos_enc_type is abs",)),
        ("espnet_absolute_pretraining", ("pos_enc_type is abs",)),
        ("target_glu_pretraining", ("target_glu", "--head none")),
        ("deep_quantizer_pretraining", ("quantizer_depth is 2", "--head none")),
        ("unquantized_targets_pretraining", ("quantize_targets", "--head none")),
    ],
)
def test_what_transformers_cannot_express_is_refused_with_its_key(
    name: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(run("convert", checkpoint(name), tmp_path / "out"), 4, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("contents", "words"),
    [(b"", ("empty",)), (b"<!DOCTYPE html><html>", ("HTML",)), (b"RIFF....WAVEfmt ", ()), (b"\x80\x02}q\x00.", ())],
)
def test_a_file_of_another_kind_is_not_a_checkpoint(contents: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(contents)
    refused(run("convert", path, tmp_path / "out"), 3, *words)
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path: Path) -> None:
    refused(run("convert", tmp_path / "none.pt", tmp_path / "out"), 3, "none.pt")


def test_an_output_that_exists_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")
    refused(run("convert", checkpoint("relative_ctc"), tmp_path / "out"), 5, "not empty")
    refused(run("convert", checkpoint("relative_ctc"), tmp_path / "out", "--force"), 5, "thesis.tex")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_force_replaces_an_earlier_conversion(tmp_path: Path) -> None:
    assert run("convert", checkpoint("relative_pretraining"), tmp_path / "out").returncode == 0
    assert run("convert", checkpoint("relative_ctc"), tmp_path / "out", "--force").returncode == 0
    assert (tmp_path / "out" / "vocab.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run("convert", checkpoint("relative_ctc"), tmp_path / "out", "--dry-run", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["written"] is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("convert",), ("convert", "--nonsense"), ("nonsense",), ("inspect",)])
def test_wrong_usage_gets_two_lines(arguments: tuple[str, ...]) -> None:
    refused(run(*arguments), 2, "--help")


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_inspect_says_that_it_converts_and_to_what(name: str) -> None:
    facts = json.loads(json.dumps(w2vc.inspect(checkpoint(name), tensors=True, **options(name)).values()))
    assert facts["converts"] is True
    assert hasattr(transformers, facts["converts_to"])
    assert facts["head"] == "none" or facts["converts_to"].endswith(("ForCTC", "ForPreTraining", "Model"))


def test_inspect_says_why_a_model_does_not_convert() -> None:
    result = run("inspect", checkpoint("cropped_ctc"))
    assert result.returncode == 0
    assert "crop_seq_to_multiple is 4" in result.stdout


@pytest.mark.parametrize(
    ("pretrained", "fine_tuned", "activation"),
    [
        (checkpoint("rotary_pretraining"), checkpoint("relative_ctc"), "swish"),
        (checkpoint("wav2vec2_base_pretraining"), checkpoint("wav2vec2_base_ctc"), "gelu"),
    ],
    ids=["conformer", "wav2vec2"],
)
def test_the_old_scripts_options_do_what_they_meant(
    pretrained: Path, fine_tuned: Path, activation: str, tmp_path: Path
) -> None:
    old = run(
        *("convert", "--checkpoint_path", pretrained, "--pytorch_dump_folder_path", tmp_path / "old", "--not_finetuned")
    )
    assert old.returncode == 0, old.stderr
    assert run("convert", pretrained, tmp_path / "new").returncode == 0
    assert contents(tmp_path / "old") == contents(tmp_path / "new")
    given = {"hidden_act": activation, "final_dropout": 0.25}
    (tmp_path / "config.json").write_text(json.dumps(given), encoding="utf-8")
    words = fine_tuned.with_name("dict.ltr.txt")
    old = run(
        *("convert", "--checkpoint_path", fine_tuned, "--pytorch_dump_folder_path", tmp_path / "ctc"),
        *("--dict_path", words, "--config_path", tmp_path / "config.json"),
    )
    assert old.returncode == 0, old.stderr
    assert json.loads((tmp_path / "ctc" / "config.json").read_bytes())["final_dropout"] == 0.25
    refused(run("convert", "--checkpoint_path", fine_tuned, fine_tuned, "out"), 2, "given twice")
    refused(run("convert", fine_tuned, tmp_path / "none", "--not_finetuned"), 2, "hasn't got")


def test_a_language_is_chosen_on_the_command_line_and_replaces_the_earlier_output(tmp_path: Path) -> None:
    path, output = checkpoint("mms_released_ctc"), tmp_path / "out"
    assert run("convert", path, output).returncode == 0
    assert run("convert", path, output, "--language", "fra", "--force").returncode == 0
    w2vc.convert(path, tmp_path / "fra", language="fra")
    assert contents(output) == contents(tmp_path / "fra")
    assert json.loads((output / "tokenizer_config.json").read_bytes())["target_lang"] == "fra"
    refused(run("convert", path, tmp_path / "none", "--language", "xyz"), 2, "xyz")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_examples_in_the_help_run(tmp_path: Path) -> None:
    from w2vc.command.app import app

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    shutil.copy(checkpoint("relative_ctc"), tmp_path / "checkpoint_best.pt")
    shutil.copy(checkpoint("relative_ctc"), folder / "one.pt")
    shutil.copy(FIXTURES / "relative_ctc" / "dict.ltr.txt", tmp_path / "dict.ltr.txt")
    shutil.copy(FIXTURES / "speech" / "cat.wav", tmp_path / "speech.wav")
    examples = [command.epilog or "" for command in app.registered_commands]
    assert len(examples) == 4
    for example in examples:
        words = example.removeprefix("Example: w2vc ").split()
        result = run(*words, cwd=tmp_path)
        assert result.returncode == 0, (example, result.stderr)


def test_a_broken_pipe_is_no_error() -> None:
    command = [sys.executable, "-m", "w2vc", "inspect", str(checkpoint("relative_ctc")), "--tensors"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from w2vc.command.app import app\n"
        "for arguments in (['--help'], ['--version'], ['convert', '--help']):\n"
        "    app(arguments, standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'omegaconf', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)  # noqa: S603 - ours
