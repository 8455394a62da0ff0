"""Tensors of the parts that several of transformers' models have, by their config.

Sources: ``transformers/models/wav2vec2/modeling_wav2vec2.py``, whose other models copy these modules from it.
transformers itself is not imported: a test compares these tables with its own models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from w2vc.families.family import Facts, Filling, FirstRow, Head, TargetTensor
from w2vc.families.shared import measures
from w2vc.reading.domains import (
    Domain,
    count,
    flag,
    nullable,
    number,
    one_of,
    positive,
    probability,
    size,
    sizes,
    text,
    texts,
)

Config = Mapping[str, Any]

HEAD_FIELDS: Mapping[Head, frozenset[str]] = {
    "ctc": frozenset({"vocab_size", "ctc_zero_infinity", "ctc_loss_reduction"}),
    "pretraining": frozenset(
        {
            *("num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim"),
            *("contrastive_logits_temperature", "num_negatives", "diversity_loss_weight"),
        }
    ),
}

CONSTANTS: Mapping[str, object] = {
    "layer_norm_eps": 1e-05,
    "feat_extract_activation": "gelu",
    # A pretrained model has no dropout before its head, and masks always.
    "final_dropout": 0.0,
    "apply_spec_augment": True,
    # Wav2Vec2Model.apply_mask: min_masks=2 over time, none over channels.
    "mask_time_min_masks": 2,
    "mask_feature_min_masks": 0,
    # The blank of CTC is fairseq's <s>, index 0; transformers calls it <pad>.
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # fairseq/criterions/ctc.py sums.
    "ctc_loss_reduction": "sum",
}

FREE: Mapping[str, Domain] = {
    **dict.fromkeys(
        (
            *("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"),
            *("feat_quantizer_dropout", "final_dropout", "layerdrop", "mask_time_prob", "mask_feature_prob"),
        ),
        probability,
    ),
    **dict.fromkeys(("gradient_checkpointing", "apply_spec_augment", "ctc_zero_infinity"), flag),
    **dict.fromkeys(("use_weighted_layer_sum",), flag),
    **dict.fromkeys(("mask_time_length", "mask_feature_length", "classifier_proj_size", "xvector_output_dim"), size),
    **dict.fromkeys(("mask_time_min_masks", "mask_feature_min_masks", "num_negatives", "num_labels"), count),
    "initializer_range": positive,
    "contrastive_logits_temperature": positive,
    "diversity_loss_weight": number,
    "ctc_loss_reduction": one_of("sum", "mean"),
    # Of heads that fairseq's model hasn't got and that a fine-tuning in transformers may put on it.
    **dict.fromkeys(("tdnn_dim", "tdnn_kernel", "tdnn_dilation"), sizes),
    **dict.fromkeys(("id2label", "label2id"), texts),
    **dict.fromkeys(("problem_type", "finetuning_task"), nullable(text)),
}
"""Fields of training and decoding that every target's config has."""


def weight_and_bias(name: str, out_size: int, *in_sizes: int, bias: bool = True) -> Iterator[TargetTensor]:
    """Give a module's weight (out_size, *in_sizes) and bias (out_size)."""
    yield TargetTensor(f"{name}.weight", (out_size, *in_sizes))
    if bias:
        yield TargetTensor(f"{name}.bias", (out_size,))


def feature_extractor(config: Config, norm: str) -> Iterator[TargetTensor]:
    """Give ``Wav2Vec2FeatureEncoder``'s tensors; the norm is one ``group`` norm, or a ``layer`` norm in each layer."""
    channels = 1
    for index, (width, kernel) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        name = f"feature_extractor.conv_layers.{index}"
        yield from weight_and_bias(f"{name}.conv", width, channels, kernel, bias=config["conv_bias"])
        if index == 0 or norm == "layer":
            yield from weight_and_bias(f"{name}.layer_norm", width)
        channels = width


def feature_projection(config: Config) -> Iterator[TargetTensor]:
    """Give ``Wav2Vec2FeatureProjection``'s tensors and the mask embedding."""
    channels, hidden = config["conv_dim"][-1], config["hidden_size"]
    yield from weight_and_bias("feature_projection.layer_norm", channels)
    yield from weight_and_bias("feature_projection.projection", hidden, channels)
    # Wav2Vec2Model.__init__ makes it only then.
    if config["mask_time_prob"] > 0 or config["mask_feature_prob"] > 0:
        yield TargetTensor("masked_spec_embed", (hidden,))


def weight_norm_conv(config: Config) -> Iterator[TargetTensor]:
    """Give ``Wav2Vec2PositionalConvEmbedding``'s tensors: weight norm with one length for each place in the kernel."""
    hidden, kernel = config["hidden_size"], config["num_conv_pos_embeddings"]
    conv = "encoder.pos_conv_embed.conv"
    yield TargetTensor(f"{conv}.bias", (hidden,))
    yield TargetTensor(f"{conv}.weight_g", (1, 1, kernel))
    yield TargetTensor(f"{conv}.weight_v", (hidden, hidden // config["num_conv_pos_embedding_groups"], kernel))


def head(config: Config, kind: Head) -> Iterator[TargetTensor]:
    """Give the tensors of the heads that ``Wav2Vec2ForCTC`` and ``Wav2Vec2ForPreTraining`` have, or of a projection."""
    hidden, channels = config["hidden_size"], config["conv_dim"][-1]
    if kind == "ctc":
        yield from weight_and_bias("lm_head", config["vocab_size"], hidden)
    if kind == "pretraining":
        groups, width = config["num_codevector_groups"], config["codevector_dim"]
        entries = groups * config["num_codevectors_per_group"]
        yield TargetTensor("quantizer.codevectors", (1, entries, width // groups))
        yield from weight_and_bias("quantizer.weight_proj", entries, channels)
        yield from weight_and_bias("project_q", config["proj_codevector_dim"], width)
        yield from weight_and_bias("project_hid", config["proj_codevector_dim"], hidden)
    if kind == "projection":
        yield from weight_and_bias("final_proj", config["classifier_proj_size"], hidden)


def model(
    prefix: str, encoder: Callable[[Config], Iterator[TargetTensor]], extractor_norm: str | None = None
) -> Callable[[Config, Head], Iterator[TargetTensor]]:
    """Make a target's ``tensors`` of its encoder: extractor and projection before it, the head after it.

    Args:
        prefix: of the encoder's tensors in a model with a head.
        encoder: its tensors.
        extractor_norm: the extractor's, where the target's config doesn't say.
    """

    def tensors(config: Config, kind: Head) -> Iterator[TargetTensor]:
        before = prefix if kind in ("ctc", "pretraining") else ""
        norm = config["feat_extract_norm"] if extractor_norm is None else extractor_norm
        for part in (feature_extractor(config, norm), feature_projection(config), encoder(config)):
            for tensor in part:
                yield TargetTensor(before + tensor.name, tensor.shape, tensor.kind, tensor.from_several)
        yield from head(config, kind)

    return tensors


_NO_PROJECTION = "fairseq has no post_extract_proj where the last convolution is as wide as the encoder"


def identity_projection(facts: Facts) -> tuple[Filling, ...]:
    """Give the projection's content where fairseq has none (``Wav2Vec2Model.__init__``)."""
    if facts["has_projection"] or measures.channels(facts) != facts["encoder_embed_dim"]:
        return ()
    return (
        Filling("feature_projection.projection.weight", "identity", _NO_PROJECTION),
        Filling("feature_projection.projection.bias", "zeros", _NO_PROJECTION),
    )


def blank_weight(facts: Facts) -> Mapping[str, FirstRow]:
    """Give how ``Wav2VecCtc.get_logits`` changes logit 0, as changes to row 0 of the head."""
    weight, mode = facts.get("model.blank_weight", 0.0), facts.get("model.blank_mode", "add")
    if weight == 0:
        return {}
    bias = {"lm_head.bias": FirstRow(mode, weight)}
    return bias | {"lm_head.weight": FirstRow("set", 0.0)} if mode == "set" else bias
