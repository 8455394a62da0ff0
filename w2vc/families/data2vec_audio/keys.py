"""Rows of the cfg keys of a data2vec audio.

The keys and defaults are those of ``Data2VecAudioConfig`` (``examples/data2vec/models/data2vec_audio.py``), which has
all of ``Wav2Vec2Config``'s; fine-tuned are those of ``Wav2Vec2AsrConfig`` and ``Wav2Vec2CtcConfig``.
"""

from __future__ import annotations

from w2vc.families.family import Key, Keys, below, replaced, training, unused
from w2vc.families.shared import keys as shared
from w2vc.families.shared import measures, transformer
from w2vc.reading.domains import flag, one_of, text

_TARGETS = "how the teacher's states become targets in pretraining"
_TEACHER = "how the teacher followed the model in pretraining"
_LOSS = "concerns the pretraining loss, which transformers hasn't got"
_GROUP_NORM = "transformers' data2vec audio has layer norms in the extractor, never a group norm"
_PRE_NORM = "transformers' data2vec audio normalizes after each sublayer, never before it"

_ARCHITECTURE = replaced(
    (
        *shared.WAV2VEC2,
        *transformer.LAYERS,
        # Wav2Vec2Config has them; Data2VecAudioModel doesn't look at them.
        *(unused(row.name, row.default, "of wav2vec 2.0's pretraining") for row in shared.PRETRAINING),
    ),
    Key(
        "extractor_mode",
        "default",
        one_of("default", "layer_norm"),
        to=("feat_extract_norm",),
        spelled={"default": "group", "layer_norm": "layer"},
        tensors=measures.extractor_mode,
        only=("layer_norm",),
        why=_GROUP_NORM,
    ),
    Key("layer_norm_first", False, flag, to=("do_stable_layer_norm",), only=(False,), why=_PRE_NORM),
    Key("layer_type", "transformer", text, tensors=lambda _: "transformer", why="fc1 and fc2 mean transformer"),
    unused("crop_seq_to_multiple", 1, "Data2VecAudioModel doesn't crop"),
    training("dropout_features", 0.0, "applied to features that nothing uses"),
    training("loss_beta", 0, _LOSS),
    training("loss_scale", None, _LOSS),
    training("average_top_k_layers", 8, _TARGETS),
    training("layer_norm_target_layer", False, _TARGETS),
    training("instance_norm_target_layer", False, _TARGETS),
    training("instance_norm_targets", False, _TARGETS),
    training("layer_norm_targets", False, _TARGETS),
    training("batch_norm_target_layer", False, _TARGETS),
    training("group_norm_target_layer", False, _TARGETS),
    training("ema_decay", 0.999, _TEACHER),
    training("ema_end_decay", 0.9999, _TEACHER),
    training("ema_anneal_end_step", None, _TEACHER),
    training("ema_transformer_only", True, _TEACHER),
    training("ema_layers_only", True, _TEACHER),
    training("max_update", None, _TEACHER),
    training("min_target_var", 0.1, "stops training"),
    training("min_pred_var", 0.01, "stops training"),
    # Later than 0.12.2:
    unused("conv_pos_batch_norm", False, "acts only where the positional convolution has a single block"),
)

KEYS = Keys(
    architecture=_ARCHITECTURE,
    pretrained=shared.TASK,
    fine_tuned=(
        *below("model", (*shared.FINE_TUNING, *shared.CTC, *transformer.FINE_TUNED_DROPOUTS)),
        *shared.TASK,
        *shared.CTC_CRITERION,
    ),
)
