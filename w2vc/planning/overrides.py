"""``--config``: values of a transformers ``config.json`` that are taken instead of fairseq's.

Values of training and decoding may be chosen freely; what the tensors or fairseq's forward decide may be repeated, but
not contradicted. Which fields there are, and what they may be, is the target's (``families/family.py``).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from w2vc.errors import InconsistentError, UsageError
from w2vc.families.cfg import short
from w2vc.families.interpreter import Description
from w2vc.reading.domains import Domain, anything
from w2vc.reading.opening import read_small_file

# Looking for the nearest name takes milliseconds.
_MOST_SUGGESTIONS = 10
# The largest real ones, with labels of their own, have some hundred kilobytes.
_CONFIG_BYTES = 2**22
_SAME = ({"swish", "silu"}, {None, "none"})
# Decided by other options, or by other fields.
_NOT_COMPARED = frozenset({"architectures", "torch_dtype", "dtype", "num_feat_extract_layers", "model_type"})
# Written by transformers itself into every config, or without a say in what is computed.
_SKIPPED = frozenset(
    {
        *("transformers_version", "_name_or_path"),
        *("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
        *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "is_decoder", "is_encoder_decoder"),
        *("do_stable_layer_norm", "tokenizer_class", "feat_extract_dropout", "hidden_dropout_prob"),
    }
)


def read_config(path: Path) -> dict[str, object]:
    """Read a ``config.json``.

    Raises:
        UsageError: it can't be read, or is no config of transformers.
    """
    advice = "Give a config.json with --config."
    try:
        values = json.loads(read_small_file(path, "config", _CONFIG_BYTES, advice))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", advice=advice) from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no JSON object", advice=advice)
    return dict(values)


def overrides(
    given: Mapping[str, object], config: Mapping[str, object], description: Description, origin: str
) -> dict[str, object]:
    """Return the values to take instead.

    Args:
        given: the values of ``--config``.
        config: what the checkpoint says, in the same fields.
        description: of the model: which fields are free, and what they may be.
        origin: what to call the given ones in errors.

    Raises:
        InconsistentError: given values contradict the checkpoint, or are outside what a field may be; all of them.
        UsageError: there is no such field; with the nearest one.
    """
    target = description.target
    derived = description.family.derived(description.facts)
    # What follows from the model can't be chosen, where a config with this head says it.
    free = {field: domain for field, domain in target.free.items() if field not in derived.keys() & config.keys()}
    decided = {**target.repeatable, **config}
    compared = {key: value for key, value in given.items() if key in decided and key not in {*free, *_NOT_COMPARED}}
    kind = given.get("model_type", target.model_type)
    if kind != target.model_type:
        raise UsageError(
            f"{origin} is no config of a {target.model_type} (model_type: {short(kind)})",
            advice="Leave --config out: w2vc finds the config out from the checkpoint.",
        )
    problems = [
        f"{origin} says {key} = {short(value)}, the checkpoint {short(decided[key])}"
        for key, value in sorted(compared.items())
        if not _equal(value, decided[key])
    ]
    chosen = {key: value for key, value in given.items() if key in free}
    problems += [
        f"{origin} says {key} = {short(value)}, which is not {free[key].words}"
        for key, value in sorted(chosen.items())
        if not _accepted(value, free[key])
    ]
    if problems:
        raise InconsistentError(
            problems, advice="Take these values out of the file: w2vc finds them out from the checkpoint."
        )
    _refuse_unknown(
        given.keys() - decided.keys() - free.keys() - _SKIPPED - _NOT_COMPARED - _OTHER_HEADS, {*free, *decided}, origin
    )
    return chosen


def _accepted(value: object, domain: Domain) -> bool:
    """Whether a value is in its domain as it is: transformers checks types, so that 1 is no truth value."""
    if domain is anything or (value is None and domain.takes_null):
        return True
    accepted = domain.accept(value)
    return accepted is not None and isinstance(accepted, bool) == isinstance(value, bool)


def _refuse_unknown(unknown: AbstractSet[str], known: AbstractSet[str], origin: str) -> None:
    if unknown:
        first = sorted(unknown)[:_MOST_SUGGESTIONS]
        problems = [f"{origin} has {short(key)}, which no such model has{_nearest(key, known)}" for key in first]
        more = [f"{origin} has {len(unknown) - len(first)} further such fields"] if len(unknown) > len(first) else []
        raise UsageError([*problems, *more], advice="Take it out, or correct its name.")


# Fields of the other head, which a config may still have.
_OTHER_HEADS = frozenset(
    {
        *("vocab_size", "num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim"),
    }
)


def _equal(given: object, found: object) -> bool:
    if isinstance(given, (list, tuple)) and isinstance(found, (list, tuple)):
        return list(given) == list(found)
    if any(given in same and found in same for same in _SAME if _hashable(given) and _hashable(found)):
        return True
    return given == found and isinstance(given, bool) == isinstance(found, bool)


def _hashable(value: object) -> bool:
    return not isinstance(value, (list, dict))


def _nearest(key: str, known: AbstractSet[str]) -> str:
    near = difflib.get_close_matches(key[:60], known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
