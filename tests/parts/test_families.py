"""What is a family's own stands in its folder: nobody else in ``w2vc`` names one."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import w2vc
from tests.conftest import FIXTURES, checkpoint, options
from w2vc.errors import UnsupportedModelError
from w2vc.families import FAMILIES
from w2vc.families.family import Evidence, Tensors
from w2vc.families.interpreter import describe
from w2vc.families.strangers import stranger_at_once
from w2vc.options import Options
from w2vc.planning.preparation import read_and_describe
from w2vc.reading.checkpoint import read_checkpoint
from w2vc.writing.safetensors_file import read_header

PACKAGE = Path(w2vc.__file__).parent
FOLDERS = sorted({path.parent.name for path in (PACKAGE / "families").glob("*/names.py")} - {"shared"})
# wav2vec2 is what all of them are made from: transformers calls the parts that they share by its name.
_OWN = [folder for folder in FOLDERS if folder != "wav2vec2"]
WORDS = re.compile("|".join((*_OWN, "data2vec", "contentvec", "wavlm", "\\bmms\\b")), re.IGNORECASE)
MAY_NAME_THEM = {"families/__init__.py", "families/strangers.py"}

_BEFORE_A_STATEMENT = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def modules() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        own = any(name.startswith(f"families/{folder}/") for folder in (*FOLDERS, "shared"))
        if not own and name not in MAY_NAME_THEM:
            yield name


def code(source: str) -> Iterator[tuple[int, str]]:
    """The lines of a module without comments and docstrings, which may say for whom something is there."""
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_docstring = token.type == tokenize.STRING and previous in _BEFORE_A_STATEMENT
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            previous = token.type
        if token.type != tokenize.COMMENT and not is_docstring:
            yield token.start[0], token.string


@pytest.mark.parametrize("name", list(modules()))
def test_no_code_outside_a_familys_folder_names_one(name: str) -> None:
    source = (PACKAGE / name).read_text(encoding="utf-8")
    assert [(line, text) for line, text in code(source) if WORDS.search(text)] == []


def test_the_test_finds_a_word_in_code_and_lets_one_in_a_docstring_pass() -> None:
    source = (
        '"""Of a HuBERT."""\nx = "hubert"  # for HuBERTs\ndef f():\n    """Conformers\' own."""\n    return hubert\n'
    )
    assert [(line, text) for line, text in code(source) if WORDS.search(text)] == [(2, '"hubert"'), (5, "hubert")]


def test_each_folder_is_a_family_of_the_registry() -> None:
    assert len(FOLDERS) == len(FAMILIES) == len({family.name for family in FAMILIES})


# --- the first line of inspect says what it is


FIRST_LINES = {
    "relative_ctc": "wav2vec2-conformer, fine-tuned with CTC (wav2vec_ctc)",
    "wav2vec2_base_pretraining": "wav2vec2, pretrained (wav2vec2)",
    "hubert": "hubert, pretrained (hubert)",
    "hubert_ctc": "hubert, fine-tuned with CTC (hubert_ctc)",
    "hubert_own_recipe_ctc": "hubert, fine-tuned with CTC (hubert_ctc)",
    "wav2vec_ctc_over_hubert": "hubert, fine-tuned with CTC (wav2vec_ctc)",
    "data2vec_audio": "data2vec-audio, pretrained (data2vec_audio)",
    "data2vec_ctc": "data2vec-audio, fine-tuned with CTC (wav2vec_ctc)",
}


@pytest.mark.parametrize(("name", "line"), FIRST_LINES.items())
def test_inspect_says_in_its_first_line_what_a_file_is(name: str, line: str) -> None:
    assert next(w2vc.inspect(checkpoint(name), **options(name)).lines()) == ("Model", line)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hubert", "hubert"), ("data2vec_audio", "data2vec-audio"), ("relative_pretraining", "wav2vec2-conformer")],
)
def test_a_family_is_told_by_its_tensors_where_the_cfg_names_none(name: str, expected: str) -> None:
    evidence = Evidence(Tensors(read_checkpoint(checkpoint(name)).tensors), None, None, fine_tuned=False)
    assert next(family.name for family in FAMILIES if family.recognises(evidence)) == expected


# --- strangers


def refusal(name: str) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as caught:
        describe(read_checkpoint(checkpoint(name)))
    return caught.value


@pytest.mark.parametrize(
    ("name", "problem", "advice"),
    [
        ("hubert_conformer", "a HuBERT with conformer layers", "positional convolution before conformer layers"),
        ("contentvec_training", "ContentVec's own training checkpoint", "checkpoint_best_legacy_500.pt"),
        ("wav2vec_seq2seq", "an encoder-decoder", "w2vc converts these: "),
    ],
)
def test_a_stranger_is_called_by_its_name_and_told_what_to_do(name: str, problem: str, advice: str) -> None:
    error = refusal(name)
    assert problem in error.problems[0]
    assert advice in error.advice


@pytest.mark.parametrize(
    ("model", "tensor", "what"),
    [
        ("data2vec_multi", "mask_emb", "data2vec 2.0"),
        (None, "modality_encoders.AUDIO.local_encoder.x", "data2vec 2.0"),
        (None, "encoder.layers.0.self_attn.grep_linear.weight", "WavLM"),
        (None, "encoder.layer_norm_for_extract.weight", "UniSpeech-SAT"),
        ("av_hubert", "mask_emb", "AV-HuBERT"),
        ("av_hubert_seq2seq", "mask_emb", "AV-HuBERT"),
        (None, "feature_extractor_video.proj.weight", "AV-HuBERT"),
        (None, "encoder.cond_layer_norm.weight_ln.weight", "ContentVec"),
    ],
)
def test_neighbours_of_fairseqs_models_are_known(model: str | None, tensor: str, what: str) -> None:
    any_tensor = next(iter(read_checkpoint(checkpoint("hubert")).tensors.values()))
    evidence = Evidence(Tensors({tensor: any_tensor}), model, None, fine_tuned=False)
    found = stranger_at_once(evidence)
    assert found is not None
    sentence, advice = found
    assert f"this is {what}" in sentence
    assert advice.startswith(("transformers has", "Give the legacy file"))


# --- refusals of data2vec


@pytest.mark.parametrize(
    ("name", "key"),
    [("data2vec_pre_norm", "layer_norm_first is true"), ("data2vec_group_norm", "extractor_mode is default")],
)
def test_what_data2vecs_class_has_no_place_for_is_refused_in_words_of_its_own(name: str, key: str) -> None:
    _, _, description = read_and_describe(checkpoint(name), Options())
    assert [refused.key for refused in description.refusals_for("none")] == [f"cfg.model.{key}"]


# --- the same weights in another form


@pytest.mark.parametrize(("name", "other"), [("hubert", "namespace.pt"), ("data2vec_audio", "final_proj_0.pt")])
def test_another_form_of_the_same_weights_makes_the_same_model(name: str, other: str, tmp_path: Path) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "one", card=False)
    w2vc.convert(FIXTURES / name / other, tmp_path / "other", card=False)
    one, other_one = (read_header(tmp_path / folder / "model.safetensors") for folder in ("one", "other"))
    assert {key: value for key, value in one.items() if key != "__metadata__"} == {
        key: value for key, value in other_one.items() if key != "__metadata__"
    }
    data = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("one", "other")]
    sizes = [8 + int.from_bytes(each[:8], "little") for each in data]
    assert data[0][sizes[0] :] == data[1][sizes[1] :]
    configs = [(tmp_path / folder / "config.json").read_bytes() for folder in ("one", "other")]
    assert configs[0] == configs[1]


def test_data2vecs_teacher_is_dropped_as_what_it_is() -> None:
    plan = w2vc.inspect(checkpoint("data2vec_audio")).plan
    assert plan is not None
    reasons = {drop.source.name: drop.reason for drop in plan.drops}
    teacher = {name for name in reasons if name.startswith("_ema.")}
    assert len(teacher) > 10
    assert {reasons[name] for name in teacher} == {"the teacher of pretraining, a moving average of the model"}
    assert reasons.keys() - teacher == {"final_proj.weight", "final_proj.bias"}
