"""Converts fairseq's speech encoders to Hugging Face transformers: exact or refused, without fairseq.

    import w2vc

    w2vc.convert("checkpoint_best.pt", "my-model")

Importing this package imports neither torch nor transformers.
"""

from w2vc import errors
from w2vc.batching.batch import BatchSummary, batch
from w2vc.conversion import convert, inspect
from w2vc.errors import W2vcError
from w2vc.report import Conversion, Inspection
from w2vc.verifying.comparison import verify
from w2vc.verifying.verification import Verification
from w2vc.version import __version__

__all__ = [
    "BatchSummary",
    "Conversion",
    "Inspection",
    "Verification",
    "W2vcError",
    "__version__",
    "batch",
    "convert",
    "errors",
    "inspect",
    "verify",
]
