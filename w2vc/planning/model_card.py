"""The model card: ``README.md`` in the output. Nothing in it is invented, and it is the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from w2vc.families.family import Head
from w2vc.families.interpreter import Description
from w2vc.planning.plan import Plan
from w2vc.planning.processor import Vocabulary
from w2vc.reading.checkpoint import Checkpoint
from w2vc.version import __version__

_TAGS = {"ctc": "automatic-speech-recognition", "projection": "feature-extraction", "none": "feature-extraction"}
_TITLES = {
    "ctc": "fine-tuned with CTC",
    "pretraining": "pretrained",
    "projection": "the encoder with its projection",
    "none": "the encoder alone",
}

_SNIPPETS: Mapping[Head, str] = {
    "ctc": """\
import wave

import numpy as np
from transformers import pipeline

with wave.open("speech.wav") as file:  # 16-bit mono
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    rate = file.getframerate()

recognise = pipeline("automatic-speech-recognition", model=".")
print(recognise({{"raw": samples, "sampling_rate": rate}})["text"])
""",
    "pretraining": """\
import torch
from transformers import AutoFeatureExtractor, {model_class}

model = {model_class}.from_pretrained(".").eval()
extractor = AutoFeatureExtractor.from_pretrained(".")
inputs = extractor(torch.randn({sample_rate}).numpy(), sampling_rate={sample_rate}, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).projected_states.shape)
""",
    "none": """\
import torch
from transformers import AutoFeatureExtractor, {model_class}

model = {model_class}.from_pretrained(".").eval()
extractor = AutoFeatureExtractor.from_pretrained(".")
inputs = extractor(torch.randn({sample_rate}).numpy(), sampling_rate={sample_rate}, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).last_hidden_state.shape)
""",
}

_SLOW_FROM = 1_000
"""So many symbols of several characters take transformers about half a second."""

_WITH_TOKENIZER = """\
- half precision: `pipeline("automatic-speech-recognition", model=".", dtype="bfloat16")`
- long audio, in pieces: `recognise(samples, chunk_length_s=30)`
- training on: `AutoModelForCTC.from_pretrained(".")`; another vocabulary needs `vocab_size=...` and
  `ignore_mismatched_sizes=True`; `Trainer` needs the package accelerate"""

_WITHOUT_TOKENIZER = """\
- half precision: `AutoModel.from_pretrained(".", dtype="bfloat16")`, with inputs of the same dtype
- fine-tuning: `AutoModelForCTC.from_pretrained(".", vocab_size=...)` begins with a new head; `Trainer` needs the
  package accelerate
- there is a feature extractor here but no tokenizer, so `AutoProcessor` gives no processor: `Wav2Vec2Processor`
  joins the extractor and a `Wav2Vec2CTCTokenizer` with your vocabulary"""

_WITH_EITHER = """\
- ONNX: `torch.onnx.export(model, (torch.randn(1, 16000),), "model.onnx", dynamo=True)`, where attention has relative
  positions `dynamo=False`; needs the packages onnx and onnxscript
- upload: `hf upload YOUR-NAME/YOUR-MODEL .`"""


def model_card(
    checkpoint: Checkpoint, description: Description, plan: Plan, pretrained: Checkpoint | None = None
) -> bytes:
    """The card's contents, in UTF-8."""
    tag = _TAGS.get(plan.head)
    progress = checkpoint.progress
    updates = "" if progress.updates is None else f", after {progress.updates:,} updates"
    exact = (
        "Its float32 outputs equal fairseq's on the same input (relative error below 2e-6)."
        if plan.dtype == "float32"
        else f"Its weights are fairseq's, stored as {plan.dtype}."
    )
    snippets = dict(_SNIPPETS)
    snippets.update(description.family.snippets(description.facts))
    snippet = snippets[plan.head].format(model_class=plan.model_class, sample_rate=description.sample_rate)
    audio = "normalised to zero mean and unit variance" if description.normalize else "as it is"
    lines = [
        "---",
        "library_name: transformers",
        *([f"pipeline_tag: {tag}"] if tag else []),
        "tags:",
        f"- {description.target.model_type}",
        "- fairseq",
        "---",
        "",
        f"# {description.family.name}, {_TITLES[plan.head]}",
        "",
        f"Converted by w2vc {__version__} from {_source(checkpoint, pretrained)}{updates}).",
        exact,
        "",
        f"- class: `{plan.model_class}`",
        f"- encoder: {_encoder(description)}",
        f"- input: {description.sample_rate:,} Hz mono, {audio}",
        *_languages(plan),
        f"- fingerprint of the source: `{checkpoint.archive.fingerprint}`",
        *(() if pretrained is None else [f"- fingerprint of the pretrained one: `{pretrained.archive.fingerprint}`"]),
        "",
        *_good_to_know(description, plan),
        "Run in this directory:",
        "",
        "```python",
        snippet.rstrip("\n"),
        "```",
        "",
        "Where to go next:",
        "",
        _WITHOUT_TOKENIZER if plan.vocabulary is None else _WITH_TOKENIZER,
        _WITH_EITHER,
        "",
    ]
    return "\n".join(lines).encode()


def _source(checkpoint: Checkpoint, pretrained: Checkpoint | None) -> str:
    """Say what was converted; whoever calls it closes the bracket."""
    if checkpoint.is_fairseqs:
        return f"a checkpoint of fairseq (`{checkpoint.model_name}`"
    place = f"below `{checkpoint.prefix.removesuffix('.')}`" if checkpoint.prefix else "at the top level"
    pretrained_too = "" if pretrained is None else "; what tensors don't show is of the pretrained one"
    return f"{checkpoint.form} with an encoder of fairseq's in it ({place}{pretrained_too}"


def _good_to_know(description: Description, plan: Plan) -> list[str]:
    family, facts = description.family, description.facts
    notes = (*family.notes(facts), *family.card_notes(facts, plan.head), *slow_tokenizer(plan.vocabulary))
    return ["Good to know:", "", *(f"- {note}" for note in notes), ""] if notes else []


def slow_tokenizer(vocabulary: Vocabulary | None) -> Iterator[str]:
    """Warn of ``Wav2Vec2CTCTokenizer.__init__``, which has one ``add_tokens`` for each; that of phonemes has none."""
    if vocabulary is None or vocabulary.joins == "phonemes":
        return
    count = sum(len(token) > 1 for token in vocabulary.tokens)
    if count >= _SLOW_FROM:
        yield (
            f"loading this tokenizer is slow: transformers adds each of its {count:,} symbols of several characters by "
            "itself, in time quadratic in their number (about 2 s for 2,000, half a minute for 5,000)"
        )


def _languages(plan: Plan) -> Iterator[str]:
    if plan.adapters:
        others = [name for name in plan.languages if name != plan.language]
        yield f"- language: {plan.language}, which can be exchanged for {', '.join(others)}:"
        yield f'  `model.load_adapter("{others[0]}")` and `processor.tokenizer.set_target_lang("{others[0]}")`'


def _encoder(description: Description) -> str:
    facts = description.facts
    return (
        f"{facts['encoder_layers']} layers, {facts['encoder_embed_dim']} wide, {description.family.card_summary(facts)}"
    )
