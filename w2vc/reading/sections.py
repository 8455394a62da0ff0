"""A config in sections, as fairseq makes them of a flat namespace of arguments."""

from __future__ import annotations

from typing import Any

from w2vc.errors import UnsafeError
from w2vc.reading.budget import DISTRUST, LIMITS


def in_sections(config: object, what: str, depth: int = 0) -> dict[str, object] | None:
    """Return a config in sections (``fairseq/dataclass/utils.py``, ``convert_namespace_to_omegaconf``).

    Args:
        config: plain; a dict in sections or a flat one, or anything else.
        what: file and key, for the error.
        depth: how many configs it lies in.

    Raises:
        UnsafeError: configs lie in one another more deeply than fairseq's, or together they are too large.
    """
    if not isinstance(config, dict):
        return None
    if depth >= LIMITS["nested configs"].most:
        raise UnsafeError(f"{what} has more than {depth} {LIMITS['nested configs'].what}", advice=DISTRUST)
    model = config.get("model")
    sections: dict[str, Any] = dict(config)
    if not isinstance(model, dict):
        model = {"_name": config.get("arch"), **config}
        # The arguments of all sections are one; the pretrained model's config is needed once.
        flat = {key: value for key, value in config.items() if key != "w2v_args"}
        sections = dict.fromkeys(("task", "criterion", "checkpoint"), flat)
    inner = in_sections(model.get("w2v_args"), what, depth + 1)
    sections = {**sections, "model": model if inner is None else {**model, "w2v_args": inner}}
    _require_size(sections, what)
    return sections


def _require_size(config: dict[str, Any], what: str) -> None:
    """Raise UnsafeError where there are too many values, each counted at every place where it is."""
    left: list[object] = [config]
    count = 0
    while left:
        value = left.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        count += 1 + len(inner)
        if count > 2 * LIMITS["config values"].most:
            raise UnsafeError(f"{what} holds itself, or is deeper or larger than any config", advice=DISTRUST)
        left.extend(inner)
