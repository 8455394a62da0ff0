"""Text that is safe to show: names come from files, and could steer a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Without control characters and line ends."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
