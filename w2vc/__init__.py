"""Convert fairseq's speech encoders to Hugging Face transformers: exact or refused, without fairseq.

    import w2vc

    w2vc.convert("checkpoint_best.pt", "my-model")

Importing this package imports neither torch nor transformers, and almost nothing else before it is used: under
``python -m w2vc`` the current folder is the first place to import from until ``__main__`` has put an end to that.
"""

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from w2vc import errors
    from w2vc.batching.batch import BatchSummary, batch
    from w2vc.conversion import convert, inspect
    from w2vc.errors import W2vcError
    from w2vc.report import Conversion, Inspection
    from w2vc.verifying.comparison import verify
    from w2vc.verifying.verification import Verification
    from w2vc.version import __version__

_PLACES = {
    "BatchSummary": "w2vc.batching.batch",
    "Conversion": "w2vc.report",
    "Inspection": "w2vc.report",
    "Verification": "w2vc.verifying.verification",
    "W2vcError": "w2vc.errors",
    "__version__": "w2vc.version",
    "batch": "w2vc.batching.batch",
    "convert": "w2vc.conversion",
    "errors": "w2vc",
    "inspect": "w2vc.conversion",
    "verify": "w2vc.verifying.comparison",
}
"""In which module each name of the package is."""

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


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    found: object = import_module(f"w2vc.{name}") if place == "w2vc" else getattr(import_module(place), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
