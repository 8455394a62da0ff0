"""Makes checkpoints of the published sizes, as fairseq would have saved them, where there is no fairseq.

    python -m tests.bench.make_checkpoints FOLDER [NAMES] [--model-only]

Names and their order, the config and everything beside the tensors are those of a small checkpoint in ``fixtures/``
that real fairseq saved; the sizes are those of ``wav2vec2_conformer_large_librivox.yaml``, of wav2vec 2.0 base, of
XLS-R and of MMS with all its languages. Values are random. Those of a billion parameters and more are made only if they
are named.
``--model-only`` leaves the optimizer's state out, as ``checkpoint.no_save_optimizer_state`` does, and appends
``_model_only`` to the name.
A file that is there already and has the right size is kept.

All tensors are windows into two small pools of values: no more than 400 MB of memory are needed for a file of any size.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType
from typing import Any

import torch

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


@dataclass(frozen=True)
class Sizes:
    """What the benchmark's checkpoints differ in; the defaults are the large model's.

    Attributes:
        fixture: the small checkpoint that it is modelled on.
        layers: ``encoder_layers``.
        embed: ``encoder_embed_dim``.
        ffn: ``encoder_ffn_embed_dim``.
        heads: ``encoder_attention_heads``.
        conv: output channels of each convolution of the feature extractor.
        final: ``final_dim``, of the quantised targets.
        kernel: ``depthwise_conv_kernel_size``.
        conv_pos: kernel size of the positional convolution.
        symbols: of the dictionary.
        adapter: ``adp_dim``.
        languages: how many have an adapter of their own.
        optimizer: whether Adam's state is saved too: twice the model's bytes.
        on_demand: made only if it is named.
    """

    fixture: str
    layers: int = 24
    embed: int = 1024
    ffn: int = 4096
    heads: int = 16
    conv: int = 512
    final: int = 768
    kernel: int = 31
    conv_pos: int = 128
    symbols: int = 32
    adapter: int = 16
    languages: int = 0
    optimizer: bool = True
    on_demand: bool = False


CHECKPOINTS = {
    "relative_large": Sizes("relative_pretraining"),
    "rotary_large": Sizes("rotary_pretraining"),
    "rotary_large_ctc": Sizes("rotary_ctc"),
    "relative_half": Sizes("relative_pretraining", layers=12),
    "relative_small": Sizes("relative_pretraining", layers=2, embed=640, ffn=2560, heads=10),
    "relative_half_gigabyte": Sizes(
        "relative_pretraining", layers=8, embed=768, ffn=3072, heads=12, final=256, optimizer=False
    ),
    "wav2vec2_base": Sizes("wav2vec2_base_pretraining", layers=12, embed=768, ffn=3072, heads=12, final=256),
    "xlsr_300m": Sizes("plain_wav2vec2_pretraining", optimizer=False),
    "xlsr_1b": Sizes(
        "plain_wav2vec2_pretraining", layers=48, embed=1280, ffn=5120, final=1024, optimizer=False, on_demand=True
    ),
    "mms_1b_all": Sizes(
        "mms_released_ctc",
        layers=48,
        embed=1280,
        ffn=5120,
        symbols=104,
        languages=1162,
        optimizer=False,
        on_demand=True,
    ),
    "xlsr_2b": Sizes(
        "plain_wav2vec2_pretraining", layers=48, embed=1920, ffn=7680, final=1024, optimizer=False, on_demand=True
    ),
}

CONV_POS_GROUPS = 16
LATENT_VARS, LATENT_GROUPS = 320, 2
# (kernel size, stride) of each of the feature extractor's convolutions.
CONVOLUTIONS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)

Shape = tuple[int, ...]

# By the name without prefix and numbers; a text stands for the size of that name.
SHAPES: Mapping[str, tuple[int | str, ...]] = {
    "mask_emb": ("embed",),
    "feature_extractor.conv_layers.0.weight": ("conv", "conv_inputs", "conv_kernel"),
    "feature_extractor.conv_layers.0.bias": ("conv",),
    "feature_extractor.conv_layers.2.weight": ("conv",),
    "feature_extractor.conv_layers.2.bias": ("conv",),
    "feature_extractor.conv_layers.2.1.weight": ("conv",),
    "feature_extractor.conv_layers.2.1.bias": ("conv",),
    "post_extract_proj.weight": ("embed", "conv"),
    "post_extract_proj.bias": ("embed",),
    "quantizer.vars": (1, "latent_codes", "latent_width"),
    "quantizer.weight_proj.weight": ("latent_codes", "conv"),
    "quantizer.weight_proj.bias": ("latent_codes",),
    "project_q.weight": ("final", "final"),
    "project_q.bias": ("final",),
    "final_proj.weight": ("final", "embed"),
    "final_proj.bias": ("final",),
    "encoder.pos_conv.0.bias": ("embed",),
    "encoder.pos_conv.0.weight_g": (1, 1, "conv_pos"),
    "encoder.pos_conv.0.weight_v": ("embed", "group_width", "conv_pos"),
    "encoder.layer_norm.weight": ("embed",),
    "encoder.layer_norm.bias": ("embed",),
    "layer_norm.weight": ("conv",),
    "layer_norm.bias": ("conv",),
    "proj.weight": ("symbols", "embed"),
    "proj.bias": ("symbols",),
    **{
        f"encoder.layers.{name}": shape
        for feed_forward in ("ffn1", "ffn2")
        for name, shape in {
            f"{feed_forward}.layer_norm.weight": ("embed",),
            f"{feed_forward}.layer_norm.bias": ("embed",),
            f"{feed_forward}.w_1.weight": ("ffn", "embed"),
            f"{feed_forward}.w_1.bias": ("ffn",),
            f"{feed_forward}.w_2.weight": ("embed", "ffn"),
            f"{feed_forward}.w_2.bias": ("embed",),
        }.items()
    },
    **{
        f"encoder.layers.self_attn.{linear}.{part}": ("embed", "embed")[: 2 if part == "weight" else 1]
        for linear in ("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos")
        for part in ("weight", "bias")
    },
    **{
        f"encoder.layers.self_attn.{linear}.{part}": ("embed", "embed")[: 2 if part == "weight" else 1]
        for linear in ("k_proj", "v_proj", "q_proj", "out_proj")
        for part in ("weight", "bias")
    },
    "encoder.layers.fc1.weight": ("ffn", "embed"),
    "encoder.layers.fc1.bias": ("ffn",),
    "encoder.layers.fc2.weight": ("embed", "ffn"),
    "encoder.layers.fc2.bias": ("embed",),
    "encoder.layers.adapter_layer.W_a": (1, "adapter", "embed"),
    "encoder.layers.adapter_layer.W_b": (1, "embed", "adapter"),
    "encoder.layers.adapter_layer.b_a": (1, "adapter"),
    **{f"encoder.layers.adapter_layer.{part}": (1, "embed") for part in ("b_b", "ln_W", "ln_b")},
    "encoder.layers.self_attn.pos_bias_u": ("heads", "head_width"),
    "encoder.layers.self_attn.pos_bias_v": ("heads", "head_width"),
    "encoder.layers.self_attn.rotary_emb.inv_freq": ("half_head_width",),
    "encoder.layers.self_attn_layer_norm.weight": ("embed",),
    "encoder.layers.self_attn_layer_norm.bias": ("embed",),
    "encoder.layers.conv_module.layer_norm.weight": ("embed",),
    "encoder.layers.conv_module.layer_norm.bias": ("embed",),
    "encoder.layers.conv_module.pointwise_conv1.weight": ("twice_embed", "embed", 1),
    "encoder.layers.conv_module.depthwise_conv.weight": ("embed", 1, "kernel"),
    "encoder.layers.conv_module.batch_norm.weight": ("embed",),
    "encoder.layers.conv_module.batch_norm.bias": ("embed",),
    "encoder.layers.conv_module.batch_norm.running_mean": ("embed",),
    "encoder.layers.conv_module.batch_norm.running_var": ("embed",),
    "encoder.layers.conv_module.batch_norm.num_batches_tracked": (),
    "encoder.layers.conv_module.pointwise_conv2.weight": ("embed", "embed", 1),
    "encoder.layers.final_layer_norm.weight": ("embed",),
    "encoder.layers.final_layer_norm.bias": ("embed",),
}

BUFFERS = ("inv_freq", "running_mean", "running_var", "num_batches_tracked")
AROUND_ONE = ("norm.weight", "ln_W", "0.2.weight", "2.1.weight", "running_var", "weight_g")


class Values:
    """Tensors of random values, each with a storage of its own, as ``torch.save`` sees it, over the same memory."""

    # The widest model's positional convolution has 29 million.
    _ELEMENTS = 2**25

    def __init__(self) -> None:
        self._around = {centre: bytearray(4 * self._ELEMENTS) for centre in (0, 1)}
        generator = torch.Generator().manual_seed(1)
        for centre, pool in self._around.items():
            torch.frombuffer(pool, dtype=torch.float32).uniform_(centre - 0.03, centre + 0.03, generator=generator)
        self._next = 0

    def tensor(self, shape: Shape, centre: int = 0) -> torch.Tensor:
        """A float32 tensor with values of at most 0.03 from ``centre``."""
        count = math.prod(shape)
        start = self._next % (self._ELEMENTS - count)
        # A prime, so that windows begin at different places.
        self._next += 99991
        return torch.frombuffer(self._around[centre], dtype=torch.float32, count=count, offset=4 * start).reshape(shape)


def names(sizes: Sizes) -> Iterator[str]:
    """The tensors' names in fairseq's order, from the fixture's, with as many layers as wanted."""
    yield from _names(_fixture_state(sizes.fixture)["model"], sizes)


def _names(tensors: Iterable[str], sizes: Sizes) -> Iterator[str]:
    first_layer = [name for name in tensors if ".layers.0." in name]
    for name in tensors:
        if name == first_layer[0]:
            for layer in range(sizes.layers):
                yield from (name.replace(".layers.0.", f".layers.{layer}.") for name in first_layer)
        elif ".layers." not in name:
            yield name


def shape_of(name: str, sizes: Sizes) -> Shape:
    """A tensor's shape, from its name."""
    convolution = re.search(r"conv_layers\.(\d+)\.", name)
    number = int(convolution[1]) if convolution else 0
    known = {
        **vars(sizes),
        "conv_inputs": sizes.conv if number else 1,
        "conv_kernel": CONVOLUTIONS[number][0],
        "twice_embed": 2 * sizes.embed,
        "head_width": sizes.embed // sizes.heads,
        "half_head_width": sizes.embed // sizes.heads // 2,
        "group_width": sizes.embed // CONV_POS_GROUPS,
        "latent_codes": LATENT_VARS * LATENT_GROUPS,
        "latent_width": sizes.final // LATENT_GROUPS,
    }
    bare = re.sub(r"(layers)\.\d+\.", r"\1.", name.removeprefix("w2v_encoder.").removeprefix("w2v_model."))
    return tuple(size if isinstance(size, int) else known[size] for size in SHAPES[bare])


def model(sizes: Sizes, values: Values) -> dict[str, torch.Tensor]:
    """The state dict."""
    return {name: _tensor(name, shape_of(name, sizes), values) for name in names(sizes)}


def _tensor(name: str, shape: Shape, values: Values) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(400000)
    if name.endswith("inv_freq"):
        return 1.0 / (10000 ** (torch.arange(shape[0]) / shape[0]))
    return values.tensor(shape, centre=1 if name.endswith(AROUND_ONE) else 0)


def adapters(sizes: Sizes, values: Values) -> dict[str, Any]:
    """What MMS was released with: for each language its tensors and its dictionary."""
    theirs: dict[str, Any] = _fixture_state(sizes.fixture)["adapter"] if sizes.languages else {}
    own = [*_names(next(iter(theirs.values()))["model"], sizes)] if theirs else []
    languages = islice(map("".join, product(ascii_lowercase, repeat=3)), sizes.languages)
    return {
        language: {
            "model": {name: _tensor(name, shape_of(name, sizes), values) for name in own},
            "task_state": {"target_dictionary": dictionary(sizes.symbols)},
        }
        for language in languages
    }


def dictionary(count: int) -> Dictionary:
    """A dictionary of letters from the alphabets of Europe."""
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    symbols = [*special.values(), *(chr(ord("a") + place) for place in range(26))]
    symbols += [chr(0x0100 + place) for place in range(count - len(symbols))]
    made = Dictionary()
    made.__dict__ |= {f"{word}_word": symbol for word, symbol in special.items()}
    made.__dict__ |= {f"{word}_index": place for place, word in enumerate(special)}
    indices = {symbol: place for place, symbol in enumerate(symbols)}
    made.__dict__ |= {"symbols": symbols, "count": [1] * count, "indices": indices, "nspecial": len(special)}
    return made


def adam(parameters: Mapping[str, torch.Tensor], values: Values) -> dict[str, Any]:
    """The state of ``fairseq/optim/adam.py`` (``FairseqAdam``), trained in float32."""
    trained = [tensor for name, tensor in parameters.items() if not name.endswith(BUFFERS)]
    state = {
        index: {
            "step": 400000,
            "exp_avg": values.tensor(tuple(tensor.shape)),
            "exp_avg_sq": values.tensor(tuple(tensor.shape), centre=1),
        }
        for index, tensor in enumerate(trained)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01, "amsgrad": False}
    return {"state": state, "param_groups": [{**group, "params": list(state)}]}


def cfg(saved: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The fixture's config with other sizes, in ``w2v_args`` as well where it is fine-tuned."""
    convolutions = ", ".join(f"({sizes.conv}, {kernel}, {stride})" for kernel, stride in CONVOLUTIONS)
    changed = {
        "encoder_layers": sizes.layers,
        "encoder_embed_dim": sizes.embed,
        "encoder_ffn_embed_dim": sizes.ffn,
        "encoder_attention_heads": sizes.heads,
        "conv_feature_layers": f"[{convolutions}]",
        "final_dim": sizes.final,
        "latent_vars": LATENT_VARS,
        "latent_groups": LATENT_GROUPS,
        "latent_dim": 0,
        "conv_pos": sizes.conv_pos,
        "conv_pos_groups": CONV_POS_GROUPS,
        "depthwise_conv_kernel_size": sizes.kernel,
        "adp_dim": sizes.adapter,
    }
    section = dict(saved["model"])
    inner = section.get("w2v_args")
    section |= {key: value for key, value in changed.items() if key in section}
    if inner is not None:
        section["w2v_args"] = cfg(inner, sizes)
    return {**saved, "model": section}


def state(sizes: Sizes) -> dict[str, Any]:
    """All that ``fairseq/trainer.py`` (``state_dict``) saves.

    A fine-tuned one lacks the pickled dictionary, as older ones do, unless it has several.
    """
    values = Values()
    parameters = model(sizes, values)
    saved = _fixture_state(sizes.fixture)
    saved.pop("last_optimizer_state", None)
    optimizer = {"last_optimizer_state": adam(parameters, values)} if sizes.optimizer else {}
    further = {**optimizer, **({"adapter": adapters(sizes, values)} if sizes.languages else {})}
    return {**saved, "cfg": cfg(saved["cfg"], sizes), "model": parameters, "task_state": {}, **further}


class Dictionary:
    """In the place of fairseq's, which isn't here."""

    __module__ = "fairseq.data.dictionary"


@contextmanager
def _fairseqs_dictionary() -> Iterator[None]:
    """Let pickle find the class where it says that it is."""
    modules = {name: ModuleType(name) for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary")}
    vars(modules[Dictionary.__module__])["Dictionary"] = Dictionary
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _fixture_state(fixture: str) -> dict[str, Any]:
    with torch.serialization.safe_globals([(Dictionary, "fairseq.data.dictionary.Dictionary")]):
        saved: dict[str, Any] = torch.load(FIXTURES / fixture / "checkpoint.pt", weights_only=True)
    return saved


def _payload(sizes: Sizes) -> tuple[int, int]:
    """Bytes of the tensors together, and how many tensors there are."""
    shapes = {name: shape_of(name, sizes) for name in names(sizes)}
    trained = [shape for name, shape in shapes.items() if not name.endswith(BUFFERS)]
    own = [shape_of(name, sizes) for name in shapes if _is_adapters(name)] * sizes.languages
    counted = [*shapes.values(), *own, *(trained * 2 if sizes.optimizer else ())]
    return sum(4 * math.prod(shape) for shape in counted), len(counted)


def _is_adapters(name: str) -> bool:
    return "adapter_layer" in name or name.startswith("w2v_encoder.proj.")


def is_made(path: Path, sizes: Sizes) -> bool:
    """Whether a file of the right size is there: the tensors, and at most a few hundred bytes for each beside them."""
    payload, tensors = _payload(sizes)
    return path.is_file() and payload <= path.stat().st_size <= payload + 1000 * tensors + 2**20


def make(path: Path, sizes: Sizes) -> None:
    """Saves a checkpoint; it gets its name when it is complete."""
    unfinished = path.with_suffix(".unfinished")
    # Through an opened file, as fairseq does: torch would name the archive for the path.
    with unfinished.open("wb") as file, _fairseqs_dictionary():
        torch.save(state(sizes), file)
    unfinished.replace(path)


def made(folder: Path, name: str, *, model_only: bool = False) -> Path:
    """The path of a checkpoint of ``CHECKPOINTS``; makes it if it isn't there."""
    sizes = CHECKPOINTS[name]
    if model_only:
        name, sizes = f"{name}_model_only", replace(sizes, optimizer=False)
    path = folder / f"{name}.pt"
    if not is_made(path, sizes):
        folder.mkdir(parents=True, exist_ok=True)
        make(path, sizes)
    if "ctc" in sizes.fixture:
        (folder / "dict.ltr.txt").write_bytes((FIXTURES / sizes.fixture / "dict.ltr.txt").read_bytes())
    return path


def main() -> None:
    """Makes the checkpoints that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.make_checkpoints", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(CHECKPOINTS)}; all if none is given")
    parser.add_argument("--model-only", action="store_true")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(CHECKPOINTS))
    if unknown:
        parser.error(f"no checkpoint is called {', '.join(unknown)}")
    for name in arguments.names or [name for name, sizes in CHECKPOINTS.items() if not sizes.on_demand]:
        path = made(arguments.folder, name, model_only=arguments.model_only)
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
