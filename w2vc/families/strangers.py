"""Models of fairseq and of its neighbours that w2vc knows by name and has no family for."""

from __future__ import annotations

from w2vc.families.family import Evidence

_BY_TENSOR: tuple[tuple[str, str], ...] = (
    # (a part of a tensor's name that only this model has, what the model is)
    ("regression_head", "data2vec"),
    ("label_embs_concat", "HuBERT"),
    ("generator.proj", "wav2vec-U"),
    ("decoder.", "an encoder-decoder (wav2vec_seq2seq)"),
    ("flat_param_", "one shard of a model that was saved in shards"),
    ("encoder.layers.0.fc1.", "a wav2vec2 with transformer layers"),
)
_BY_NAME = {
    "hubert": "HuBERT",
    "hubert_ctc": "a fine-tuned HuBERT",
    "hubert_seq2seq": "a fine-tuned HuBERT",
    "data2vec_audio": "data2vec",
    "data2vec_multi": "data2vec",
    "wav2vec_seq2seq": "an encoder-decoder (wav2vec_seq2seq)",
    "wav2vec_u": "wav2vec-U",
    "wav2vec": "wav2vec 1",
}


def stranger_by_name(evidence: Evidence) -> str | None:
    """Return the sentence that a checkpoint's cfg names a model without a family; None if it doesn't."""
    known = None if evidence.model is None else _BY_NAME.get(evidence.model)
    return None if known is None else f"cfg.model._name is {evidence.model}: this is {known}"


def stranger_by_tensor(evidence: Evidence) -> str | None:
    """Return the sentence that a tensor says which model without a family this is; None if none does."""
    for part, model in _BY_TENSOR:
        found = next((name for name in evidence.tensors if part in name), None)
        if found is not None:
            return f"the tensor {found} says that this is {model}"
    return None
