"""What the model is: found out from its tensors first and its config second.

Nothing here reads a tensor's bytes. Sources: ``fairseq/models/wav2vec/wav2vec2.py``
(``Wav2Vec2Model.__init__``), ``wav2vec2_asr.py`` (``Wav2VecEncoder.__init__``, ``Wav2VecCtc.get_logits``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from w2vc.errors import InconsistentError, UnsupportedModelError
from w2vc.families.conformer import keys as cfg_keys
from w2vc.families.conformer.names import encoder_name
from w2vc.families.conv_feature_layers import ConvLayer, parse_conv_feature_layers
from w2vc.reading.cfg import Cfg, Value, boolean, first_number, integer, number, short, text
from w2vc.reading.checkpoint import Checkpoint, SourceTensor

Head = Literal["ctc", "pretraining", "none"]
Attention = Literal["relative", "rotary", "plain"]

POSITIONS: dict[Attention, str] = {
    "relative": "relative positions",
    "rotary": "rotary positions",
    "plain": "no position embeddings",
}
"""What people call each kind of attention."""

ENCODER_ALONE = "Use --head none to convert the encoder alone, which is exact."


@dataclass(frozen=True)
class Quantizer:
    """The quantiser of a pretrained model and the two projections behind it.

    Attributes:
        vars: entries of each codebook (``latent_vars``).
        groups: codebooks (``latent_groups``).
        vq_dim: width of a quantised vector, all groups together (``latent_dim`` or ``final_dim``).
        final_dim: width that both projections lead to.
    """

    vars: int
    groups: int
    vq_dim: int
    final_dim: int


@dataclass(frozen=True)
class Training:
    """Values that act in training alone, and go into the config so that training can go on.

    Probabilities are fractions; lengths are in frames or channels. ``dropout`` is fairseq's: the one that a conformer
    layer uses everywhere.
    """

    dropout: float
    dropout_input: float
    dropout_features: float
    final_dropout: float
    layerdrop: float
    apply_mask: bool
    mask_prob: float
    mask_length: int
    mask_channel_prob: float
    mask_channel_length: int
    logit_temp: float
    num_negatives: int
    diversity_loss_weight: float
    zero_infinity: bool


@dataclass(frozen=True)
class Blank:
    """What ``Wav2VecCtc.get_logits`` does to logit 0: adds ``weight`` to it or puts it in its place."""

    weight: float
    mode: str


@dataclass(frozen=True)
class Refusal:
    """Something that transformers can't express.

    Attributes:
        key: the cfg key or tensor, and its value.
        reason: why there is no place for it.
        heads: the heads that it concerns; the others convert exactly.
    """

    key: str
    reason: str
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class Architecture:
    """A wav2vec2-conformer as fairseq built it. Widths are in channels.

    Attributes:
        own_head: the head that the checkpoint has.
        conv_layers: the feature extractor.
        group_norm: one group norm in its first layer (``extractor_mode: default``), or layer norms in each.
        has_projection: whether ``post_extract_proj`` is there.
        conv_pos, conv_pos_groups: the positional convolution's kernel and groups; unused in the forward.
        deep_pos_conv: it has several blocks, so that none of them fits transformers' one.
        vocabulary: rows of the CTC head, None without one.
        labels, post_process: what the training task says of its labels; a hint on how symbols join into text.
        notes: what a reader should know: where cfg and tensors disagree, what is not carried over.
        refusals: what transformers can't express.
    """

    own_head: Head
    attention: Attention
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    conv_layers: tuple[ConvLayer, ...]
    conv_bias: bool
    group_norm: bool
    has_projection: bool
    depthwise_kernel: int
    conv_pos: int
    conv_pos_groups: int
    deep_pos_conv: bool
    vocabulary: int | None
    quantizer: Quantizer | None
    blank: Blank | None
    normalize: bool
    sample_rate: int
    labels: str | None
    post_process: str | None
    training: Training
    notes: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    def refusals_for(self, head: Head) -> tuple[Refusal, ...]:
        """The refusals that concern a conversion with this head."""
        return tuple(refusal for refusal in self.refusals if head in refusal.heads)


def describe(checkpoint: Checkpoint) -> Architecture:
    """What the model is.

    Raises:
        UnsupportedModelError: it is no wav2vec2-conformer at all.
        InconsistentError: cfg and tensors, or the tensors among themselves, don't fit; all problems are listed.
    """
    tensors = {encoder_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    cfg = Cfg(checkpoint.cfg)
    own_head: Head = "ctc" if any(name.startswith("w2v_encoder.") for name in checkpoint.tensors) else "pretraining"
    _refuse_other_models(checkpoint, tensors, cfg)
    return _Description(tensors, cfg, own_head).architecture()


# ---------------------------------------------------------------------------------------------------------------
# Other models


_OTHER_MODELS: tuple[tuple[str, str], ...] = (
    # (a part of a tensor's name that only this model has, what the model is)
    ("regression_head", "data2vec"),
    ("label_embs_concat", "HuBERT"),
    ("generator.proj", "wav2vec-U"),
    ("adapter_layer.", "a wav2vec2 with adapters (layer_type trf_adp)"),
    ("decoder.", "an encoder-decoder (wav2vec_seq2seq)"),
    ("flat_param_", "one shard of a model that was saved in shards"),
    ("encoder.layers.0.fc1.", "a wav2vec2 with transformer layers"),
)
_OTHER_NAMES = {
    "hubert": "HuBERT",
    "hubert_ctc": "a fine-tuned HuBERT",
    "hubert_seq2seq": "a fine-tuned HuBERT",
    "data2vec_audio": "data2vec",
    "data2vec_multi": "data2vec",
    "wav2vec_seq2seq": "an encoder-decoder (wav2vec_seq2seq)",
    "wav2vec_u": "wav2vec-U",
    "wav2vec": "wav2vec 1",
}
_ADVICE_FOR_OTHERS = (
    "w2vc converts wav2vec2-conformers only: pretrained ones (wav2vec2) and those fine-tuned with CTC (wav2vec_ctc)."
)


def _refuse_other_models(checkpoint: Checkpoint, tensors: Mapping[str, SourceTensor], cfg: Cfg) -> None:
    name = cfg.value("model._name")
    known = _OTHER_NAMES.get(name) if isinstance(name, str) else None
    if known:
        raise UnsupportedModelError(f"cfg.model._name is {name}: this is {known}", advice=_ADVICE_FOR_OTHERS)
    if checkpoint.is_shard:
        raise UnsupportedModelError(
            "the checkpoint is one shard of a model (shard_metadata is there)",
            advice="Merge the shards with fairseq's consolidate_fsdp_shards.py first.",
        )
    if any(".conv_module." in tensor for tensor in tensors) and "encoder.layer_norm.weight" in tensors:
        return
    for part, model in _OTHER_MODELS:
        found = next((tensor for tensor in checkpoint.tensors if part in tensor), None)
        if found is not None:
            raise UnsupportedModelError(f"the tensor {found} says that this is {model}", advice=_ADVICE_FOR_OTHERS)
    raise UnsupportedModelError(
        f"this is no wav2vec2-conformer: it has no encoder.layers.N.conv_module.* (cfg.model._name is {name})",
        advice=_ADVICE_FOR_OTHERS,
    )


# ---------------------------------------------------------------------------------------------------------------
# The description


class _Description:
    """Gathers what tensors and cfg say, and every problem and note on the way."""

    def __init__(self, tensors: Mapping[str, SourceTensor], cfg: Cfg, own_head: Head) -> None:
        self.tensors = tensors
        self.cfg = cfg
        self.fine_tuned = own_head == "ctc"
        self.own_head = own_head
        # A fine-tuned cfg.model carries decoys; the pretrained model's own config is inside it.
        self.section = "model.w2v_args.model" if self.fine_tuned else "model"
        self.problems: list[str] = []
        self.notes: list[str] = []

    def architecture(self) -> Architecture:
        if self.fine_tuned and not self.cfg.keys("model.w2v_args.model"):
            self.problems.append("cfg.model.w2v_args is missing: the architecture of a fine-tuned model is there")
        hidden_size = self._axis("encoder.layer_norm.weight", 0)
        attention = self._attention()
        has_pos_conv_v = self._pos_conv_v() is not None
        description = Architecture(
            own_head=self.own_head,
            attention=attention,
            hidden_size=hidden_size,
            num_hidden_layers=self._layers(),
            num_attention_heads=self._attention_heads(attention, hidden_size),
            intermediate_size=self._axis("encoder.layers.0.ffn1.w_1.weight", 0),
            conv_layers=self._conv_layers(),
            conv_bias="feature_extractor.conv_layers.0.0.bias" in self.tensors,
            group_norm="feature_extractor.conv_layers.0.2.weight" in self.tensors,
            has_projection="post_extract_proj.weight" in self.tensors,
            depthwise_kernel=self._axis("encoder.layers.0.conv_module.depthwise_conv.weight", 2),
            conv_pos=self._conv_pos(),
            conv_pos_groups=self._conv_pos_groups(hidden_size),
            deep_pos_conv=not has_pos_conv_v,
            vocabulary=self._axis("w2v_encoder.proj.weight", 0) if self.fine_tuned else None,
            quantizer=self._quantizer(),
            blank=self._blank(),
            normalize=self._normalize(),
            sample_rate=self.cfg.take("task.sample_rate", integer, 16000),
            labels=self.cfg.take("task.labels", text, "") or None,
            post_process=self.cfg.take("criterion.post_process", text, "") or None,
            training=self._training(),
            notes=(),
            refusals=self._refusals(attention),
        )
        self._compare_with_cfg(description)
        self._note_what_is_not_carried_over()
        if self.problems or self.cfg.problems:
            raise InconsistentError(
                self.problems + self.cfg.problems,
                advice="The checkpoint contradicts itself: was it edited, or saved by a fork of fairseq?",
            )
        return replace(description, notes=tuple(self.notes))

    # Sizes from tensors

    def _axis(self, name: str, axis: int) -> int:
        tensor = self.tensors.get(name)
        if tensor is None:
            self.problems.append(f"the tensor {name} is missing")
            return 1
        if len(tensor.shape) <= axis or tensor.shape[axis] < 1:
            self.problems.append(f"the tensor {name} has the shape {list(tensor.shape)}, which it can't have")
            return 1
        return tensor.shape[axis]

    def _layers(self) -> int:
        found = {
            int(match[1])
            for name in self.tensors
            if (match := re.match(r"encoder\.layers\.(\d{1,5})\.", name, re.ASCII)) is not None
        }
        if found != set(range(len(found))):
            missing = sorted(set(range(max(found))) - found)
            self.problems.append(f"the encoder's layers {missing[:10]} are missing")
        return len(found)

    def _attention(self) -> Attention:
        kinds: tuple[tuple[str, Attention], ...] = (
            ("linear_pos.weight", "relative"),
            ("rotary_emb.inv_freq", "rotary"),
            ("q_proj.weight", "plain"),
            # ESPnet's attention without positions, which fairseq builds with pos_enc_type abs only.
            ("linear_q.weight", "plain"),
        )
        for suffix, kind in kinds:
            if f"encoder.layers.0.self_attn.{suffix}" in self.tensors:
                return kind
        self.problems.append("the tensors encoder.layers.0.self_attn.* are missing")
        return "plain"

    def _attention_heads(self, attention: Attention, hidden_size: int) -> int:
        said = self._said("encoder_attention_heads", integer)
        if attention == "relative":
            heads = self._axis("encoder.layers.0.self_attn.pos_bias_u", 0)
        elif attention == "rotary":
            heads = hidden_size // (2 * self._axis("encoder.layers.0.self_attn.rotary_emb.inv_freq", 0))
        else:
            heads = said
        if heads < 1 or hidden_size % heads:
            self.problems.append(f"{hidden_size} channels can't be shared among {heads} attention heads")
        return heads

    def _conv_layers(self) -> tuple[ConvLayer, ...]:
        source = self._said("conv_feature_layers", text)
        layers = parse_conv_feature_layers(source)
        if layers is None:
            self.problems.append(
                f"cfg.{self.section}.conv_feature_layers is {short(source)}: not a list of (dim, kernel, stride)"
            )
            return (ConvLayer(1, 1, 1),)
        shapes: list[tuple[int, int]] = []
        while (name := f"feature_extractor.conv_layers.{len(shapes)}.0.weight") in self.tensors:
            shapes.append((self._axis(name, 0), self._axis(name, 2)))
        if shapes != [(layer.dim, layer.kernel) for layer in layers]:
            self.problems.append(
                f"cfg.{self.section}.conv_feature_layers stands for (dim, kernel) = "
                f"{[(layer.dim, layer.kernel) for layer in layers]}, but the tensors have {shapes}"
            )
        return layers

    def _pos_conv_v(self) -> SourceTensor | None:
        names = ("encoder.pos_conv.0.weight_v", "encoder.pos_conv.0.parametrizations.weight.original1")
        return next((self.tensors[name] for name in names if name in self.tensors), None)

    def _conv_pos(self) -> int:
        found = self._pos_conv_v()
        return found.shape[-1] if found is not None and len(found.shape) == 3 else self._said("conv_pos", integer)

    def _conv_pos_groups(self, hidden_size: int) -> int:
        found = self._pos_conv_v()
        if found is not None and len(found.shape) == 3 and found.shape[1] > 0:
            return hidden_size // found.shape[1]
        return self._said("conv_pos_groups", integer)

    def _quantizer(self) -> Quantizer | None:
        if "quantizer.vars" not in self.tensors or "project_q.weight" not in self.tensors:
            return None
        vq_dim = self._axis("project_q.weight", 1)
        groups = vq_dim // self._axis("quantizer.vars", 2)
        return Quantizer(
            vars=self._axis("quantizer.vars", 1) // max(groups, 1),
            groups=groups,
            vq_dim=vq_dim,
            final_dim=self._axis("final_proj.weight", 0),
        )

    # Values from cfg

    def _said(self, key: str, convert: Callable[[object], Value | None]) -> Value:
        """A value of the pretrained model's config, with fairseq's default where an older checkpoint has none."""
        return self._taken(f"{self.section}.{key}", convert, cfg_keys.WAV2VEC2[key])

    def _taken(self, path: str, convert: Callable[[object], Value | None], row: cfg_keys.CfgKey) -> Value:
        default = convert(row.default)
        if default is None:
            raise AssertionError(f"{row} has a default of another type")
        return self.cfg.take(path, convert, default)

    def _trained_with(self, key: str, convert: Callable[[object], Value | None], own_key: str | None = None) -> Value:
        """A value that fine-tuning overrides (``Wav2VecEncoder.__init__``); ``own_key`` is the pretrained one."""
        if self.fine_tuned:
            return self._taken(f"model.{key}", convert, cfg_keys.ASR[key])
        return self._said(own_key or key, convert)

    def _training(self) -> Training:
        return Training(
            dropout=self._trained_with("dropout", number),
            dropout_input=self._trained_with("dropout_input", number),
            dropout_features=self._said("dropout_features", number),
            final_dropout=self.cfg.take("model.final_dropout", number, 0.0) if self.fine_tuned else 0.0,
            layerdrop=self._trained_with("layerdrop", number, "encoder_layerdrop"),
            apply_mask=self.cfg.take("model.apply_mask", boolean, False) if self.fine_tuned else True,
            mask_prob=self._trained_with("mask_prob", number),
            mask_length=self._trained_with("mask_length", integer),
            mask_channel_prob=self._trained_with("mask_channel_prob", number),
            mask_channel_length=self._trained_with("mask_channel_length", integer),
            logit_temp=self._said("logit_temp", number),
            num_negatives=self._said("num_negatives", integer),
            diversity_loss_weight=self._diversity_loss_weight(),
            zero_infinity=self.cfg.take("criterion.zero_infinity", boolean, False) if self.fine_tuned else False,
        )

    def _diversity_loss_weight(self) -> float:
        """``loss_weights[0]`` of ``Wav2VecCriterionConfig``: the weight of the codebook's diversity loss.

        None means that the loss has no extra terms (``Wav2vecCriterion.forward``).
        """
        return 0.0 if self.fine_tuned else self.cfg.take("criterion.loss_weights", first_number, 0.0)

    def _normalize(self) -> bool:
        normalize = self.cfg.take("task.normalize", boolean, False)
        if self.fine_tuned:
            inner = self.cfg.take("model.normalize", boolean, normalize)
            if inner != normalize:
                self.problems.append(
                    f"cfg.task.normalize is {normalize} and cfg.model.normalize is {inner}: fairseq demands that they "
                    "agree"
                )
        return normalize

    def _blank(self) -> Blank | None:
        if not self.fine_tuned:
            return None
        weight = self.cfg.take("model.blank_weight", number, 0.0)
        mode = self.cfg.take("model.blank_mode", text, "add")
        if weight == 0:
            return None
        if mode not in ("add", "set"):
            self.problems.append(f"cfg.model.blank_mode is {short(mode)}, which fairseq doesn't know either")
        return Blank(weight, mode)

    # What can't be expressed

    def _refusals(self, attention: Attention) -> tuple[Refusal, ...]:
        section, said = f"cfg.{self.section}", self._said
        every: tuple[Head, ...] = ("ctc", "pretraining", "none")
        pretraining: tuple[Head, ...] = ("pretraining",)
        espnet_without_positions = attention == "plain" and "encoder.layers.0.self_attn.linear_q.weight" in self.tensors
        absolute = attention == "plain" and said("pos_enc_type", text) not in ("rel_pos", "rope")
        crop = said("crop_seq_to_multiple", integer)
        rows: tuple[tuple[bool, str, str, tuple[Head, ...]], ...] = (
            (
                not said("layer_norm_first", boolean),
                f"{section}.layer_norm_first is false",
                "fairseq normalises before the layers and not after them, transformers after and not before",
                every,
            ),
            (
                espnet_without_positions or absolute,
                f"{section}.pos_enc_type is abs",
                "the positional convolution is added to the encoder's input, which transformers' conformer never does",
                every,
            ),
            (
                said("quantize_input", boolean) or "project_inp.weight" in self.tensors,
                f"{section}.quantize_input is true",
                "the encoder's input is quantised, which transformers never does",
                every,
            ),
            (
                crop > 1,
                f"{section}.crop_seq_to_multiple is {crop}",
                "frames are cropped before the encoder, which transformers never does",
                every,
            ),
            (
                not self.fine_tuned and "quantizer.vars" not in self.tensors,
                f"{section}.quantize_targets is false",
                "transformers' pretraining head always quantises its targets",
                pretraining,
            ),
            (
                any(name.startswith("target_glu.") for name in self.tensors),
                f"{section}.target_glu is true",
                "transformers' pretraining head has no GLU over its targets",
                pretraining,
            ),
            (
                any(re.match(r"quantizer\.weight_proj\.\d", name) for name in self.tensors),
                f"{section}.quantizer_depth is {said('quantizer_depth', integer)}",
                "transformers' quantiser has a single layer",
                pretraining,
            ),
        )
        return tuple(Refusal(key, reason, heads) for applies, key, reason, heads in rows if applies)

    # Where cfg and tensors disagree

    def _compare_with_cfg(self, found: Architecture) -> None:
        quantizer = found.quantizer
        rows: list[tuple[str, object]] = [
            ("encoder_layers", found.num_hidden_layers),
            ("encoder_embed_dim", found.hidden_size),
            ("encoder_ffn_embed_dim", found.intermediate_size),
            ("encoder_attention_heads", found.num_attention_heads),
            ("extractor_mode", "default" if found.group_norm else "layer_norm"),
            ("conv_bias", found.conv_bias),
            ("depthwise_conv_kernel_size", found.depthwise_kernel),
            ("layer_type", "conformer"),
        ]
        if found.attention != "plain":
            rows.append(("pos_enc_type", {"relative": "rel_pos", "rotary": "rope"}[found.attention]))
            rows.append(("attn_type", "espnet"))
        if not found.deep_pos_conv:
            rows += [("conv_pos", found.conv_pos), ("conv_pos_groups", found.conv_pos_groups)]
        if quantizer is not None:
            final_dim = self._said("final_dim", integer)
            rows += [("latent_vars", quantizer.vars), ("latent_groups", quantizer.groups)]
            rows += [("final_dim", quantizer.final_dim)] if final_dim > 0 else []
        for key, truth in rows:
            said = self.cfg.value(f"{self.section}.{key}")
            if said is not None and said != truth:
                self.notes.append(f"cfg.{self.section}.{key} is {short(said)}, the tensors say {truth}")

    def _note_what_is_not_carried_over(self) -> None:
        for section, table in (
            [("model", cfg_keys.CTC), (self.section, cfg_keys.WAV2VEC2)]
            if self.fine_tuned
            else [("model", cfg_keys.WAV2VEC2)]
        ):
            unknown = [key for key in self.cfg.keys(section) if key not in table and key not in _KEYS_OF_EVERY_CONFIG]
            if unknown and not self._is_flat(section):
                self.notes.append(f"cfg.{section} has keys that fairseq 0.12.2 doesn't: {', '.join(sorted(unknown))}")
        section = "model" if self.fine_tuned else self.section
        table = cfg_keys.CTC if self.fine_tuned else cfg_keys.WAV2VEC2
        for key, row in table.items():
            if key.startswith(("mask_", "no_mask")) and row.treatment == "training":
                said = self.cfg.value(f"{section}.{key}")
                if said is not None and said != row.default:
                    self.notes.append(f"cfg.{section}.{key} is {short(said)}: not carried over ({row.why})")

    def _is_flat(self, section: str) -> bool:
        """Whether the section is an argparse namespace, which holds the keys of every config of fairseq at once."""
        return "arch" in self.cfg.keys(section)


# Of FairseqDataclass, and of the sections that older versions merged into one another.
_KEYS_OF_EVERY_CONFIG = {"_name", "normalize", "data", "tpu"}
