"""What the model card of a converted HuBERT says that others don't."""

from __future__ import annotations

from collections.abc import Mapping

from w2vc.families.family import Facts, Head

_SNIPPET = """\
import torch
from transformers import AutoFeatureExtractor, HubertModel


class HubertModelWithFinalProj(HubertModel):
    def __init__(self, config):
        super().__init__(config)
        self.final_proj = torch.nn.Linear(config.hidden_size, config.classifier_proj_size)


model = HubertModelWithFinalProj.from_pretrained(".").eval()
extractor = AutoFeatureExtractor.from_pretrained(".")
inputs = extractor(torch.randn({sample_rate}).numpy(), sampling_rate={sample_rate}, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs, output_hidden_states=True)
    v1 = model.final_proj(output.hidden_states[<v1_layer>])
    v2 = output.last_hidden_state
print(v1.shape, v2.shape)
"""
# Which layer v1 models of voice conversion take; they know models of twelve layers.
_V1_LAYER = 9

_PROJECTION = (
    "of two outputs, voice conversion's v1 models take final_proj(hidden_states[9]), its v2 models last_hidden_state",
    "stock HubertModel loads the encoder and leaves final_proj out; the class below has both",
)


def snippets(facts: Facts) -> Mapping[Head, str]:
    """Give the example of a model with its projection."""
    layer = min(_V1_LAYER, facts["encoder_layers"])
    return {"projection": _SNIPPET.replace("<v1_layer>", str(layer))}


def notes(_facts: Facts, head: Head) -> tuple[str, ...]:
    """Give what a reader of a model with its projection should know."""
    return _PROJECTION if head == "projection" else ()
