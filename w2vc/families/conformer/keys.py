"""Rows of the cfg keys of a wav2vec2-conformer, where they mean something else than in other layers.

Sources: ``fairseq/modules/conformer_layer.py`` (``ConformerWav2Vec2EncoderLayer``, which hard-codes swish and passes
``dropout`` to every place) and ``fairseq/models/wav2vec/wav2vec2.py`` (``ConformerEncoder``).
"""

from __future__ import annotations

from w2vc.families.conformer import measures
from w2vc.families.family import Key, Keys, axis, below, replaced, unused
from w2vc.families.shared import keys as shared
from w2vc.reading.domains import flag, probability, size, text

_OWN_DROPOUT = "a conformer layer uses dropout instead"
_NO_POS_CONV = "the positional convolution is not used in a conformer's forward"
_ABSOLUTE = "the positional convolution is added to the encoder's input, which transformers' conformer never does"

# The only dropout in a layer, which uses it everywhere.
_DROPOUT_FIELDS = ("hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout")

_ARCHITECTURE = replaced(
    shared.WAV2VEC2,
    Key(
        "encoder_ffn_embed_dim",
        3072,
        size,
        to=("intermediate_size",),
        tensors=axis("encoder.layers.0.ffn1.w_1.weight", 0),
    ),
    Key("encoder_attention_heads", 12, size, to=("num_attention_heads",), tensors=measures.attention_heads),
    unused("activation_fn", "gelu", "conformer layers use swish whatever it says"),
    Key("layer_type", "transformer", text, tensors=lambda _: "conformer", why="conv_module means conformer"),
    Key("dropout", 0.1, probability, to=_DROPOUT_FIELDS),
    unused("attention_dropout", 0.1, _OWN_DROPOUT),
    unused("activation_dropout", 0.0, _OWN_DROPOUT),
    Key("layer_norm_first", False, flag, why="post-norm is expressed by one layer more, which only normalizes"),
    unused("pos_conv_depth", 1, _NO_POS_CONV),
    unused("max_positions", 100000, "how many relative positions are computed beforehand; more are made as needed"),
    unused("required_seq_len_multiple", 2, "ConformerEncoder doesn't pad"),
    Key(
        "depthwise_conv_kernel_size",
        31,
        size,
        to=("conv_depthwise_kernel_size",),
        tensors=axis("encoder.layers.0.conv_module.depthwise_conv.weight", 2),
    ),
    Key("attn_type", "", text, tensors=measures.attn_type, why="the tensors of the attention tell its kind"),
    Key("pos_enc_type", "abs", text, tensors=measures.pos_enc_type, only=("rel_pos", "rope"), why=_ABSOLUTE),
    # Later than 0.12.2:
    unused("conv_pos_batch_norm", False, _NO_POS_CONV),
)

_FINE_TUNING = replaced(
    (*shared.FINE_TUNING, *shared.CTC),
    Key("dropout", 0.0, probability, to=_DROPOUT_FIELDS),
    unused("attention_dropout", 0.0, _OWN_DROPOUT),
    unused("activation_dropout", 0.0, _OWN_DROPOUT),
)

KEYS = Keys(
    architecture=_ARCHITECTURE,
    pretrained=(*shared.TASK, *shared.PRETRAINING_CRITERION),
    fine_tuned=(*below("model", _FINE_TUNING), *shared.TASK, *shared.CTC_CRITERION),
)
