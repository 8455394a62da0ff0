"""MMS adapters: a small network after each transformer layer, one for each language.

Sources: ``fairseq/models/wav2vec/wav2vec2.py`` of fairseq's last commit (``AdapterFast``,
``TransformerSentenceEncoderWithAdapterLayer``), ``fairseq/tasks/audio_finetuning.py`` (``multi_corpus_keys``), and
``transformers/models/wav2vec2/modeling_wav2vec2.py`` (``Wav2Vec2AttnAdapterLayer``, ``load_adapter``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from w2vc.families.family import Facts, Filling, Key, Measure, Name, Refusal, TargetTensor, Tensors, unused
from w2vc.families.shared.tensors import Config, weight_and_bias
from w2vc.reading.domains import size, text, width

_IN_FAIRSEQ = "encoder.layers.{layer}.adapter_layer."
_IN_TRANSFORMERS = "encoder.layers.{layer}.adapter_layer."
_TENSORS: tuple[tuple[str, str], ...] = (
    ("W_a", "linear_1.weight"),
    ("b_a", "linear_1.bias"),
    ("W_b", "linear_2.weight"),
    ("b_b", "linear_2.bias"),
    ("ln_W", "norm.weight"),
    ("ln_b", "norm.bias"),
)
NAMES: tuple[Name, ...] = tuple(
    Name("encoder", _IN_FAIRSEQ + source, _IN_TRANSFORMERS + target, by_language=True) for source, target in _TENSORS
)

EXCHANGED = (_IN_TRANSFORMERS + "{module}.{parameter}", "lm_head.{parameter}")
"""What ``load_adapter`` exchanges (``Wav2Vec2PreTrainedModel._get_adapters``)."""


def _layers(tensors: Tensors) -> frozenset[int]:
    return frozenset(tensors.numbers(r"encoder\.layers\.(\d{1,5})\.adapter_layer\."))


def _one_size(axis: int) -> Measure:
    """The measure that is one size of every layer's ``W_a``: (languages, adapter_dim, encoder_embed_dim)."""

    def measure(tensors: Tensors) -> int | None:
        names = [f"encoder.layers.{layer}.adapter_layer.W_a" for layer in sorted(_layers(tensors))]
        found = {tensors.axis(name, axis) for name in names}
        if len(found) > 1:
            tensors.problems.append(f"the adapters of different layers have the sizes {sorted(found)}")
        return max(found) if found else None

    return measure


_dim = _one_size(1)

MEASURES: Mapping[str, Measure] = {"adapter_layers": _layers, "adapter_dim": _dim}


def layer_type(tensors: Tensors) -> str | None:
    """Return ``transformer``; nothing where there are adapters, which fine-tuning says in its own section alone."""
    return None if _layers(tensors) else "transformer"


_SHAPES = "the tensors tell"
_RELU = "adapters act only with layer_type trf_adp, and transformers' only with relu"

ARCHITECTURE: tuple[Key, ...] = (
    unused("adp_num", -1, _SHAPES),
    unused("adp_dim", 64, _SHAPES),
    unused("adp_trf_idx", "all", _SHAPES),
    Key("adp_act_fn", "relu", text, why=_RELU),
)
FINE_TUNING: tuple[Key, ...] = (
    # Wav2VecEncoder.__init__ puts these in the place of w2v_args' own.
    Key("adp_num", -1, width, tensors=_one_size(0), silent_below=1, why="the languages' files"),
    Key("adp_dim", 64, size, tensors=_dim, why="adapter_attn_dim, where there are adapters"),
    unused("adp_trf_idx", "all", _SHAPES),
    Key("adp_act_fn", "relu", text, why=_RELU),
)
TASK = Key("task.multi_corpus_keys", None, text, why="the names of the languages, where there are adapters")


def languages(facts: Facts) -> tuple[str, ...]:
    """Return the languages' names in the order of the adapters; none where the cfg has none for them."""
    keys = facts["task.multi_corpus_keys"]
    return tuple(key.strip() for key in keys.split(",")) if keys else ()


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the field that makes transformers build adapters."""
    return {"adapter_attn_dim": facts["adapter_dim"]} if facts["adapter_layers"] else {}


def layers(config: Config) -> Iterator[TargetTensor]:
    """Give ``Wav2Vec2AttnAdapterLayer``'s tensors: in every layer, and with pre-norm alone."""
    inner, hidden = config.get("adapter_attn_dim"), config["hidden_size"]
    if inner is None or not config["do_stable_layer_norm"]:
        return
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{index}.adapter_layer"
        yield from weight_and_bias(f"{name}.norm", hidden)
        yield from weight_and_bias(f"{name}.linear_1", inner, hidden)
        yield from weight_and_bias(f"{name}.linear_2", hidden, inner)


def fillings(facts: Facts) -> tuple[Filling, ...]:
    """Give the content of the adapters in layers that have none in fairseq (``adp_trf_idx``)."""
    present = facts["adapter_layers"]
    if not present:
        return ()
    why = "fairseq has no adapter in this layer (adp_trf_idx), and one that ends in zeros adds nothing"
    return tuple(
        Filling(f"encoder.layers.{index}.adapter_layer.{name}", "ones" if name == "norm.weight" else "zeros", why)
        for index in range(facts["encoder_layers"])
        if index not in present
        for _, name in _TENSORS
    )


def refusals(facts: Facts) -> Iterator[Refusal]:
    """Give what transformers' adapters have no place for."""
    if not facts["adapter_layers"]:
        return
    path = "model.adp_act_fn" if facts["fine_tuned"] else "adp_act_fn"
    if facts[path] != "relu":
        where = f"cfg.{'' if facts['fine_tuned'] else 'model.'}{path} is {facts[path]}"
        yield Refusal(where, "transformers' adapters have relu between their two layers, and nothing else")
    if not facts["layer_norm_first"]:
        where = f"cfg.{facts['section']}.layer_norm_first is false and layer_type is trf_adp"
        yield Refusal(where, "transformers has adapters only in pre-norm layers")
