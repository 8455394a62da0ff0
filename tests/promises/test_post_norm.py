"""Post-norm conformers, in the stock class: the construction, its error, and what it leaves open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2vc
from tests.conftest import EVERY, checkpoint, recorded
from w2vc.errors import InconsistentError
from w2vc.families.conformer.post_norm import EPSILON, SMALL
from w2vc.planning.plan import Make

pytestmark = pytest.mark.whole

POST_NORM = [name for name in EVERY if name.startswith("post_norm_")]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


def two_norms(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """The last layer's norm and the encoder's, as transformers computes them from what is written."""
    factor = (EPSILON + SMALL**2) ** 0.5 / SMALL
    inner = layer_norm(x.to(dtype), torch.full_like(weight, SMALL).to(dtype), torch.zeros_like(bias).to(dtype))
    return layer_norm(inner, (weight.double() * factor).to(dtype), bias.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.floats(-4, 4), width=st.sampled_from([16, 96, 512]))
def test_the_two_stock_norms_equal_fairseqs_one_within_the_formulas_bound(
    dtype: str, seed: int, exponent: float, width: int
) -> None:
    kind = DTYPES[dtype]
    generator = torch.Generator().manual_seed(seed)
    variance = 10.0**exponent
    x = torch.randn(4, 7, width, generator=generator) * variance**0.5
    weight, bias = torch.randn(width, generator=generator), torch.randn(width, generator=generator)
    x, weight, bias = (tensor.to(kind).float() for tensor in (x, weight, bias))
    expected = layer_norm(x.double(), weight.double(), bias.double())
    error = float((two_norms(x, weight, bias, kind).double() - expected).norm() / expected.norm())
    smallest = float(x.var(-1, unbiased=False).min())
    bound = SMALL**2 / (2 * (EPSILON + SMALL**2)) * EPSILON / (smallest + EPSILON)
    # Three roundings: the first norm's output, the product with the weight, the sum with the bias.
    assert error < bound + 3 * torch.finfo(kind).eps


@pytest.mark.parametrize("name", POST_NORM)
def test_the_layer_in_front_is_bit_for_bit_fairseqs_first_norm(name: str, converted: Callable[[str], Path]) -> None:
    model = transformers.AutoModel.from_pretrained(converted(name)).eval()
    x = torch.randn(2, 11, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        positions = None if model.encoder.embed_positions is None else model.encoder.embed_positions(x)
        output = model.encoder.layers[0](x, attention_mask=None, relative_position_embeddings=positions)
        found = output if isinstance(output, Tensor) else output[0]
        norm = model.encoder.layers[0].final_layer_norm
        assert torch.equal(found, norm(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["post_norm_ctc", "post_norm_pretraining"])
def test_half_precision_weights_give_no_larger_error_than_their_own_rounding(
    name: str, dtype: str, tmp_path: Path
) -> None:
    w2vc.convert(checkpoint(name), tmp_path / "out", dtype=dtype, head="none")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    arrays = recorded(name)
    with torch.no_grad():
        found = model(torch.from_numpy(arrays["clip0/input"])[None]).last_hidden_state[0]
    expected = torch.from_numpy(arrays["clip0/encoder_out"])
    assert float((found - expected).norm() / expected.norm()) < 4 * torch.finfo(DTYPES[dtype]).eps


@pytest.mark.parametrize("name", POST_NORM)
def test_every_made_tensor_says_why(name: str) -> None:
    plan = w2vc.convert(checkpoint(name), "unused", dry_run=True).plan
    layers: Any = plan.config["num_hidden_layers"]
    made = [tensor for tensor in plan.tensors if isinstance(tensor, Make)]
    assert all(tensor.reason != "missing" for tensor in made)
    constants = {tensor.target.partition(".")[2]: tensor.value for tensor in made if tensor.content == "constant"}
    assert constants == {f"encoder.layers.{layers - 1}.final_layer_norm.weight": 2.0**-13}


@pytest.mark.parametrize("missing", ["encoder.layer_norm.bias", "encoder.layers.1.final_layer_norm.bias"])
def test_a_tensor_that_is_missing_is_not_made_up(
    missing: str, tmp_path: Path, saved_without: Callable[[str, str, Path], Path]
) -> None:
    path = saved_without("post_norm_pretraining", missing, tmp_path / "checkpoint.pt")
    with pytest.raises(InconsistentError, match=r"nothing in the checkpoint becomes .*layer_norm\.bias"):
        w2vc.convert(path, tmp_path / "out")


def test_the_layer_can_not_be_configured_away(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for field, value in {"layerdrop": 0.1, "num_hidden_layers": 2}.items():
        config.write_text(json.dumps({"model_type": "wav2vec2-conformer", field: value}), encoding="utf-8")
        with pytest.raises(InconsistentError, match=field):
            w2vc.convert(checkpoint("post_norm_ctc"), tmp_path / "out", config=config)


def test_card_and_inspect_say_which_hidden_state_is_which(converted: Callable[[str], Path]) -> None:
    card = (converted("post_norm_ctc") / "README.md").read_text(encoding="utf-8")
    notes = " ".join(w2vc.inspect(checkpoint("post_norm_ctc")).values()["notes"])  # type: ignore[arg-type]
    for text in (card, notes):
        assert "one more than fairseq's" in text
        assert "hidden state k + 1 is fairseq's k" in text
        assert "last_hidden_state is exact" in text
        assert "layerdrop is 0" in text


def test_fine_tuning_as_the_card_says_lowers_the_loss_and_saves_and_loads_again(
    converted: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model: Any = transformers.Wav2Vec2ConformerForCTC.from_pretrained(converted("post_norm_ctc"))
    model.base_model.encoder.layers[-1].final_layer_norm.requires_grad_(False)
    model.train()
    audio = torch.from_numpy(recorded("post_norm_ctc")["clip0/input"])[None]
    labels = torch.tensor([[5, 6, 7, 8]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = model(audio, labels=labels).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "tuned")
    again: Any = transformers.Wav2Vec2ConformerForCTC.from_pretrained(tmp_path / "tuned")
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(audio).logits, model(audio).logits)
