"""Rows of the cfg keys of a HuBERT.

The keys and defaults are those of ``HubertConfig`` (``fairseq/models/hubert/hubert.py``), and of ``HubertAsrConfig``
and ``HubertCtcConfig`` (``fairseq/models/hubert/hubert_asr.py``), whose keys ``Wav2Vec2AsrConfig`` has, too.
"""

from __future__ import annotations

from w2vc.families.family import Key, Keys, Tensors, below, replaced, training, unused
from w2vc.families.shared import keys as shared
from w2vc.families.shared import measures, transformer
from w2vc.reading.domains import flag, labels, size, text, width

_CONV_FEATURE_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
_LOSS = "concerns the pretraining loss, which transformers hasn't got"
_PROJECTION = "concerns final_proj, which --head projection keeps as it is"
_DEEP = "transformers' HuBERT has a single block in its positional convolution"


def _conv_pos_batch_norm(tensors: Tensors) -> bool:
    return "encoder.pos_conv.0.running_mean" in tensors


_ARCHITECTURE = replaced(
    (*shared.EXTRACTOR, *shared.ENCODER, *shared.MASKING, *transformer.LAYERS),
    Key(
        "conv_feature_layers",
        _CONV_FEATURE_LAYERS,
        shared.conv_layers,
        into=shared.conv_fields,
    ),
    Key(
        "layer_type",
        "transformer",
        text,
        tensors=lambda _: "transformer",
        why="fc1 and fc2 mean transformer",
    ),
    # Later than 0.12.2:
    Key("conv_pos_batch_norm", False, flag, to=("conv_pos_batch_norm",), tensors=_conv_pos_batch_norm),
    # Not of HubertConfig, but TransformerEncoder looks for it.
    Key("pos_conv_depth", 1, size, tensors=measures.pos_conv_depth, only=(1,), why=_DEEP),
    training("dropout_features", 0.0, "applied to features that nothing uses"),
    Key("final_dim", 0, width, why=_PROJECTION),
    unused("untie_final_proj", False, _PROJECTION),
    training("label_rate", None, _LOSS),
    training("logit_temp", 0.1, _LOSS),
    training("target_glu", False, _LOSS),
    training("skip_masked", False, _LOSS),
    training("skip_nomask", False, _LOSS),
    unused("latent_temp", [2, 0.5, 0.999995], "nothing uses it"),
    unused("fp16", False, "acts only in conformer layers"),
)

_TASK = replaced(
    shared.TASK,
    Key(
        "task.labels",
        "",
        labels,
        why="the suffix of the dictionary's file, and how its symbols join into text; the first one of several",
    ),
)

KEYS = Keys(
    architecture=_ARCHITECTURE,
    pretrained=_TASK,
    fine_tuned=(
        *below("model", (*shared.FINE_TUNING, *shared.CTC, *transformer.FINE_TUNED_DROPOUTS)),
        *_TASK,
        *shared.CTC_CRITERION,
    ),
)
