"""What w2vc knows of fairseq's models and of the transformers classes that compute the same.

In: a ``Checkpoint``'s names, shapes and cfg. Out: values that describe the model, and tables for the planner.
Everything here is pure: no file is opened, no tensor byte is read.
"""

from w2vc.families.conformer import FAMILY as CONFORMER
from w2vc.families.data2vec_audio import FAMILY as DATA2VEC_AUDIO
from w2vc.families.family import Family
from w2vc.families.hubert import FAMILY as HUBERT
from w2vc.families.wav2vec2 import FAMILY as WAV2VEC2

FAMILIES: tuple[Family, ...] = (CONFORMER, HUBERT, DATA2VEC_AUDIO, WAV2VEC2)
"""Every family; the first that recognises a checkpoint counts."""
