"""The target ``Data2VecAudio…``: layer-norm extractor, deep positional convolution, post-norm layers.

Sources: ``transformers/models/data2vec/configuration_data2vec_audio.py`` and ``modeling_data2vec_audio.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from w2vc.families.family import Facts, Target, TargetTensor
from w2vc.families.shared import tensors as shared
from w2vc.families.shared import transformer
from w2vc.families.shared.tensors import Config

PREFIX = "data2vec_audio."


def _encoder(config: Config) -> Iterator[TargetTensor]:
    hidden, groups = config["hidden_size"], config["num_conv_pos_embedding_groups"]
    for index in range(config["num_conv_pos_embeddings"]):
        name = f"encoder.pos_conv_embed.layers.{index}.conv"
        yield from shared.weight_and_bias(name, hidden, hidden // groups, config["conv_pos_kernel_size"])
    yield from transformer.layers(config)


TARGET = Target(
    model_type="data2vec-audio",
    config_class="Data2VecAudioConfig",
    prefix=PREFIX,
    classes={"ctc": "Data2VecAudioForCTC", "none": "Data2VecAudioModel"},
    tensors=shared.model(PREFIX, _encoder, extractor_norm="layer"),
    constants=shared.CONSTANTS,
    head_fields=shared.HEAD_FIELDS,
    free=shared.FREE,
    repeatable={"add_adapter": False},
    lacks=frozenset({"feat_extract_norm", "do_stable_layer_norm", "feat_quantizer_dropout"}),
)

# Data2VecAudioModel.apply_mask: min_masks=1 over time.
OWN_TARGET = replace(TARGET, constants={**TARGET.constants, "mask_time_min_masks": 1})


def derived(facts: Facts) -> Mapping[str, object]:
    """Give the fields of the positional convolution; ``k = max(3, conv_pos // depth)`` in ``TransformerEncoder``."""
    depth = facts["pos_conv_depth"]
    kernel = max(3, facts["conv_pos"] // depth)
    return {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": kernel}
