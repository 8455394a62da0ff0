"""The model card says what is known, invents nothing, and its snippet runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import w2vc
from tests.conftest import FIXTURES, checkpoint
from w2vc.planning.model_card import slow_tokenizer
from w2vc.planning.processor import vocabulary
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary

pytestmark = pytest.mark.whole


def front_matter(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return found


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(("relative_ctc", head) for head in ("auto", "none")),
        *(("rotary_pretraining", head) for head in ("auto", "none")),
        *(("hubert", head) for head in ("auto", "projection")),
        ("hubert_twelve_layers", "projection"),
        ("data2vec_audio", "auto"),
    ],
)
def test_the_snippet_runs_in_the_outputs_directory(name: str, head: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    w2vc.convert(checkpoint(name), output, head=head)
    snippet = re.findall(r"```python\n(.*?)```", (output / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippet) == 1
    shutil.copy(FIXTURES / "speech" / "cat.wav", output / "speech.wav")
    result = subprocess.run(  # noqa: S603 - our own snippet
        [sys.executable, "-c", snippet[0]], cwd=output, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_front_matter_names_library_and_task_and_no_licence_or_language(
    converted: Callable[[str], Path],
) -> None:
    card = (converted("relative_ctc") / "README.md").read_text(encoding="utf-8")
    values = front_matter(card)
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "automatic-speech-recognition"
    assert not {"license", "language"} & values.keys()
    pretrained = (converted("relative_pretraining") / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag" not in front_matter(pretrained)


def test_neither_card_nor_weights_tell_a_path_or_a_date(tmp_path: Path) -> None:
    path = tmp_path / "secret-project" / "checkpoint.pt"
    path.parent.mkdir()
    shutil.copy(checkpoint("relative_ctc"), path)
    w2vc.convert(path, tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        contents = file.read_bytes()
        assert b"secret-project" not in contents
        assert not re.search(rb"20[0-9]{2}-[0-9]{2}-[0-9]{2}", contents)


def test_the_card_of_a_projection_says_which_output_is_which_and_what_differs_in_a_padded_batch(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("hubert_twelve_layers"), tmp_path / "out", head="projection")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "class HubertModelWithFinalProj(HubertModel):" in card
    assert "final_proj(hidden_states[9]), its v2 models last_hidden_state" in card
    assert "hidden_states[9])\n    v2 = output.last_hidden_state" in card
    assert "up to two frames more" in card


@pytest.mark.parametrize(
    ("symbols", "labels", "words"),
    [
        ([f"a{number}" for number in range(996)], "word", "each of its 1,000 symbols of several characters"),
        ([f"a{number}" for number in range(995)], "word", None),
        ([chr(0x4E00 + number) for number in range(5_000)], "ltr", None),
        ([f"a{number}" for number in range(996)], "phn", None),
    ],
    ids=["many", "too few", "of one character", "phonemes"],
)
def test_a_card_warns_where_so_many_symbols_make_the_tokenizer_slow(
    symbols: list[str], labels: str, words: str | None
) -> None:
    # With a word delimiter, only the labels' own tokenizer is another one.
    delimiter = [] if labels == "phn" else ["|"]
    dictionary = Dictionary((*SPECIAL_SYMBOLS, *delimiter, *symbols), "a test")
    notes = list(slow_tokenizer(vocabulary(dictionary, labels)))
    assert len(notes) == (words is not None)
    assert all(words is not None and words in note for note in notes)


def test_no_card_leaves_it_out(tmp_path: Path) -> None:
    w2vc.convert(checkpoint("relative_ctc"), tmp_path / "out", card=False)
    assert not (tmp_path / "out" / "README.md").exists()
