"""wav2vec 2.0's tables are complete: against transformers' own models, and against fairseq's own config and names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.activations import ACT2FN

import w2vc
from tests.conftest import EVERY, FIXTURES, REFUSED, checkpoint
from tests.support import forgery
from w2vc.errors import InconsistentError
from w2vc.families.conformer import FAMILY as CONFORMER
from w2vc.families.data2vec_audio.tensors import TARGET as DATA2VEC_AUDIO
from w2vc.families.family import Family, Head, Target
from w2vc.families.interpreter import describe, encoder_name, name_table
from w2vc.families.shared.transformer import ACTIVATIONS
from w2vc.families.shared.transformer_reference import _ACTIVATIONS as COMPUTED
from w2vc.families.wav2vec2 import FAMILY
from w2vc.families.wav2vec2.tensors import TARGET
from w2vc.reading.checkpoint import read_checkpoint

pytestmark = pytest.mark.whole

OWN = [name for name in EVERY if name.startswith(("wav2vec2_", "plain_wav2vec2", "mms_"))]

CONFIG: dict[str, Any] = {
    **TARGET.constants,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "conv_dim": [6, 10, 14],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 18,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_length": 7,
    "mask_feature_length": 9,
    "vocab_size": 11,
    "num_codevectors_per_group": 5,
    "num_codevector_groups": 2,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
}
MASKS = ((0.65, 0.0), (0.0, 0.25), (0.0, 0.0))
HEADS: tuple[Head, ...] = ("ctc", "pretraining", "none")


def shapes_in_transformers(kind: str, config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model: Any = getattr(transformers, kind)(config)
    originals = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    shapes = {}
    for name, tensor in model.state_dict().items():
        stem, _, last = name.partition("parametrizations.")
        shapes[stem + originals.get(f"parametrizations.{last}", last)] = tuple(tensor.shape)
    return shapes


def shapes_of(target: Target, values: dict[str, Any], head: Head) -> dict[str, tuple[int, ...]]:
    assert {tensor.kind for tensor in target.tensors(values, head)} == {"weights"}
    return {tensor.name: tensor.shape for tensor in target.tensors(values, head)}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("norm", "stable", "conv_bias", "masks", "adapters"),
    list(itertools.product(("layer", "group"), (False, True), (False, True), MASKS, (None, 6))),
)
def test_names_and_shapes_are_those_of_transformers_own_model(
    head: Head, norm: str, stable: bool, conv_bias: bool, masks: tuple[float, float], adapters: int | None
) -> None:
    values = {
        **CONFIG,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": stable,
        "conv_bias": conv_bias,
        "mask_time_prob": masks[0],
        "mask_feature_prob": masks[1],
        "adapter_attn_dim": adapters,
    }
    theirs = shapes_in_transformers(TARGET.classes[head], transformers.Wav2Vec2Config(**values))
    assert shapes_of(TARGET, values, head) == theirs


@pytest.mark.parametrize("head", ["ctc", "none"])
@pytest.mark.parametrize(("depth", "conv_bias", "masks"), list(itertools.product((2, 5), (False, True), MASKS)))
def test_data2vec_audios_names_and_shapes_are_those_of_transformers_own_model(
    head: Head, depth: int, conv_bias: bool, masks: tuple[float, float]
) -> None:
    values = {
        **CONFIG,
        "num_conv_pos_embeddings": depth,
        "conv_pos_kernel_size": 7,
        "conv_bias": conv_bias,
        "mask_time_prob": masks[0],
        "mask_feature_prob": masks[1],
    }
    theirs = shapes_in_transformers(DATA2VEC_AUDIO.classes[head], transformers.Data2VecAudioConfig(**values))
    assert shapes_of(DATA2VEC_AUDIO, values, head) == theirs


def test_what_a_language_exchanges_is_what_transformers_asks_a_languages_file_for() -> None:
    values = {**CONFIG, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    values |= {"mask_time_prob": 0.5, "mask_feature_prob": 0.0, "adapter_attn_dim": 6}
    with torch.device("meta"):
        model: Any = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**values))
    plan = w2vc.convert(checkpoint("mms_three_languages_ctc"), "unused", dry_run=True).plan
    written = {tensor.target for tensor in plan.adapters["adapter.fra.safetensors"]}
    # Both have two layers.
    assert written == set(model._get_adapters())


# Fields that say nothing of what is computed, or that concern heads and additions which fairseq's models haven't got.
OF_TRANSFORMERS_ALONE = {
    *("add_adapter", "adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
    *("classifier_proj_size", "tdnn_dim", "tdnn_dilation", "tdnn_kernel", "xvector_output_dim"),
    *("use_weighted_layer_sum", "initializer_range", "feat_extract_dropout"),
}


def test_each_field_of_transformers_config_is_said_or_left_to_it_on_purpose() -> None:
    own = set(transformers.Wav2Vec2Config().to_dict()) - set(transformers.PretrainedConfig().to_dict())
    said = set[str]()
    for name in ("wav2vec2_base_ctc", "wav2vec2_base_pretraining", "mms_one_language_ctc"):
        description = describe(read_checkpoint(checkpoint(name)))
        said |= description.config(description.own_head, "float32").keys()
    assert own - said - OF_TRANSFORMERS_ALONE == set()


@pytest.mark.parametrize("name", [name for name in OWN if name not in REFUSED])
def test_transformers_keeps_every_value_of_the_config(name: str) -> None:
    description = describe(read_checkpoint(checkpoint(name)))
    values = description.config(
        description.own_head if description.own_head in description.target.classes else "none", "float32"
    )
    config: Any = getattr(transformers, description.target.config_class)(**values)
    for key in values.keys() - {"torch_dtype"}:
        found = getattr(config, key)
        assert (list(found) if isinstance(found, tuple) else found) == values[key], key


# --- names


@pytest.mark.parametrize("name", OWN)
def test_each_tensor_is_named_by_exactly_one_row(name: str) -> None:
    read = read_checkpoint(checkpoint(name))
    table = name_table(FAMILY.names(describe(read).facts))
    # Only models that are refused have a quantized input.
    unknown = ("project_inp.", "input_quantizer.") if name in REFUSED else ()
    for tensor in read.tensors:
        assert len(list(table.rows(encoder_name(tensor)))) == 1 or tensor.startswith(unknown), tensor


@pytest.mark.parametrize("name", OWN)
def test_no_two_tensors_get_one_name(name: str) -> None:
    read = read_checkpoint(checkpoint(name))
    table = name_table(FAMILY.names(describe(read).facts))
    found = [table.named(tensor, "wav2vec2.") for tensor in read.tensors]
    targets = [named.target for named in found if named is not None and named.target is not None]
    assert len(targets) == len(set(targets))


# --- keys


@pytest.mark.parametrize("name", [name for name in OWN if "cropped" not in name and "quantized" not in name])
def test_no_file_of_fairseqs_own_has_a_key_that_is_told_to_be_unknown(name: str) -> None:
    notes = describe(read_checkpoint(checkpoint(name))).notes
    assert not [note for note in notes if "fairseq 0.12.2 doesn't" in note or "the tensors say" in note]


LATER: dict[str, dict[str, Any]] = json.loads((FIXTURES / "fairseq_later_config_keys.json").read_text())
# References to other sections; and what is the same for every model.
NOT_COMPARED = {"_name", "normalize", "data", "ddp_backend", "w2v_path"}


@pytest.mark.parametrize("family", [CONFORMER, FAMILY], ids=lambda family: family.name)
@pytest.mark.parametrize("section", ["Wav2Vec2Config", "Wav2Vec2AsrConfig", "Wav2Vec2CtcConfig"])
def test_each_key_of_fairseqs_last_commit_is_in_the_table_with_its_default(section: str, family: Family) -> None:
    fine_tuned = {row.name.removeprefix("model."): row for row in family.keys.fine_tuned}
    rows = {row.name: row for row in family.keys.architecture} if section == "Wav2Vec2Config" else fine_tuned
    for key, default in LATER[section].items():
        if key not in NOT_COMPARED:
            assert rows[key].default == default, key


# --- activations


def test_each_activation_is_one_that_transformers_has_and_that_computes_the_same() -> None:
    assert ACTIVATIONS.keys() == COMPUTED.keys()
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    for ours, theirs in ACTIVATIONS.items():
        assert torch.allclose(ACT2FN[theirs](x), COMPUTED[ours](x), rtol=0, atol=1e-12), ours


def forged(path: Path, value: object) -> Path:
    base = forgery.base(checkpoint("wav2vec2_tanh_pretraining"))
    saved = base.saved()
    saved["cfg"]["model"]["activation_fn"] = value
    path.write_bytes(base.with_saved(saved))
    return path


@pytest.mark.parametrize("value", ["swish", "elu", "GELU", 3])
def test_an_activation_that_transformers_or_fairseq_cant_run_is_refused_by_name(value: object, tmp_path: Path) -> None:
    with pytest.raises(InconsistentError, match=r"cfg\.model\.activation_fn is .*, which is not one of gelu") as error:
        w2vc.convert(forged(tmp_path / "forged.pt", value), tmp_path / "out")
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", sorted(ACTIVATIONS))
def test_each_activation_reaches_the_config(value: str, tmp_path: Path) -> None:
    plan = w2vc.convert(forged(tmp_path / "forged.pt", value), tmp_path / "out", dry_run=True).plan
    assert plan.config["hidden_act"] == ACTIVATIONS[value]


# --- eras

ERAS = FIXTURES / "eras_wav2vec2"
FORMS = sorted(path.stem for path in ERAS.glob("*.pt"))


@pytest.mark.parametrize("name", FORMS)
def test_each_era_makes_the_same_files_as_its_sibling_of_today(name: str, tmp_path: Path) -> None:
    base = json.loads((ERAS / "eras.json").read_text())[name]["base"]
    for source, output in ((ERAS / f"{name}.pt", "era"), (checkpoint(base), "today")):
        w2vc.convert(source, tmp_path / output, card=False)
    for path in (tmp_path / "today").iterdir():
        ours = (tmp_path / "era" / path.name).read_bytes()
        if path.name == "model.safetensors":
            ours, theirs = (_tensors(tmp_path / kind / path.name) for kind in ("era", "today"))
            assert ours == theirs
        else:
            assert ours == path.read_bytes(), path.name


@pytest.mark.parametrize("name", FORMS)
def test_no_era_is_full_of_notes(name: str) -> None:
    assert describe(read_checkpoint(ERAS / f"{name}.pt")).notes == ()


def _tensors(path: Path) -> bytes:
    """All that is in the file behind its header, which says where it is from."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]
