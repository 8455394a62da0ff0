"""Limits made small, so that a test can stand right at one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from w2vc.reading.budget import LIMITS


def limit(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    """Sets one row of the table for a test."""
    table: Any = LIMITS
    monkeypatch.setitem(table, name, replace(LIMITS[name], most=most))
