"""Problems of cfg and tensors that no single key shows."""

from __future__ import annotations

from collections.abc import Iterator

from w2vc.families.family import Facts


def heads_share_the_channels(facts: Facts) -> Iterator[str]:
    """Give a problem where the channels can't be shared among the attention heads."""
    channels, heads = facts["encoder_embed_dim"], facts["encoder_attention_heads"]
    if heads < 1 or channels % heads:
        key = f"cfg.{facts['section']}.encoder_attention_heads"
        yield f"{key}: {channels} channels can't be shared among {heads} attention heads"


def groups_share_the_channels(facts: Facts) -> Iterator[str]:
    """Give a problem where the channels can't be shared among the positional convolution's groups."""
    channels, groups = facts["encoder_embed_dim"], facts["conv_pos_groups"]
    if channels % groups:
        key = f"cfg.{facts['section']}.conv_pos_groups"
        yield f"{key}: {channels} channels can't be shared among {groups} groups of the positional convolution"


def extractor_has_its_shapes(facts: Facts) -> Iterator[str]:
    """Give a problem where the cfg's convolutions are others than the tensors'."""
    said = [(layer.dim, layer.kernel) for layer in facts["conv_feature_layers"]]
    if said != facts["extractor_shapes"]:
        yield (
            f"cfg.{facts['section']}.conv_feature_layers means (dim, kernel) = {said[:20]}, "
            f"but the tensors have {facts['extractor_shapes'][:20]}"
        )


def normalization_agrees(facts: Facts) -> Iterator[str]:
    """Give a problem where task and model differ about the audio (``Wav2VecEncoder.__init__`` asserts it)."""
    task = facts["task.normalize"]
    for key in ("model.normalize", "model.w2v_args.task.normalize"):
        if facts.get(key) not in (None, task):
            yield f"cfg.task.normalize is {task} and cfg.{key} is {facts[key]}: fairseq demands that they agree"


def quantized_vectors_fit(facts: Facts) -> Iterator[str]:
    """Give a problem where the codebooks' widths don't add up to the quantized vector's."""
    width, groups = facts["latent_dim"], facts["latent_groups"]
    if facts["quantize_targets"] and width > 0 and width % groups:
        yield f"{width} channels of a quantized vector can't be shared among {groups} groups"


ENCODER = (heads_share_the_channels, groups_share_the_channels, extractor_has_its_shapes, normalization_agrees)
EVERY = (*ENCODER, quantized_vectors_fit)
