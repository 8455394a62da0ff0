"""Everything that w2vc raises on purpose.

    W2vcError
    +-- UsageError                 the call itself is wrong
    +-- UnreadableError            the checkpoint can't be read
    |   +-- MissingError               no such file, or no permission to read it
    |   +-- NotACheckpointError        another kind of file, or torch's but not fairseq's
    |   +-- DamagedError               cut off, bits flipped, records that contradict one another
    |   +-- UnsafeError                names code, or would take memory or time without bound
    +-- RefusedError               read, but can't be converted exactly
    |   +-- UnsupportedModelError      transformers has no place for what this model computes
    |   +-- DictionaryError            no dictionary, a wrong one, or two that differ
    |   +-- InconsistentError          config and tensors, or tensors among themselves, don't fit
    +-- OutputError                the output can't be written
    |   +-- OutputExistsError          something is there already
    |   +-- OutputWriteError           no space, no permission, not a directory
    +-- DifferenceError            verification found a difference

An error carries its problems (one or several, never only the first of them) and one piece of advice. Which
exit code goes with which branch is the command line's business (``command/exit_codes.py``).

What a file says goes into a message shortened (``shown``), and a message has a bounded number of bounded problems.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_PROBLEMS = 20
"""Nobody reads more at once; the rest is counted."""
# A problem names a path (up to 4096 bytes, but nearly always below 200), a key and a value.
_LONGEST_PROBLEM = 1000
_LONGEST_MESSAGE = 6000


def shown(value: object, most: int = 60) -> str:
    """Return a text or scalar as a message shows it: quoted, escaped, and cut before it is formatted.

    Anything else is named by its type: its ``repr`` could have gigabytes.
    """
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= most else repr(value[:most]) + "..."
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[: most + 3]
    return f"a {type(value).__name__}"


def _bounded(problems: Sequence[str]) -> tuple[str, ...]:
    """Return as many problems as a message may have, each of them cut in its middle where it is too long."""
    most = MOST_PROBLEMS if len(problems) <= MOST_PROBLEMS else MOST_PROBLEMS - 1
    length = min(_LONGEST_PROBLEM, _LONGEST_MESSAGE // max(min(len(problems), MOST_PROBLEMS), 1))
    kept = [_cut(problem, length) for problem in problems[:most]]
    left_out = len(problems) - len(kept)
    return (*kept, f"and {left_out} more problems") if left_out else tuple(kept)


def _cut(problem: str, length: int) -> str:
    if len(problem) <= length:
        return problem
    end = length // 3
    return f"{problem[: length - end - 3]}...{problem[len(problem) - end :]}"


class W2vcError(Exception):
    """Base of every error that w2vc raises on purpose.

    Args:
        problems: what is wrong, in which file and key; a single sentence or several. A long list is counted after its
            first ``MOST_PROBLEMS``, and a long problem is cut.
        advice: what the reader can do next, one sentence.
    """

    def __init__(self, problems: str | Sequence[str], *, advice: str) -> None:
        self.problems: tuple[str, ...] = _bounded((problems,) if isinstance(problems, str) else problems)
        self.advice = advice
        super().__init__("; ".join(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it whole, for other processes: the default would lose the keyword-only advice."""
        return (_rebuild, (type(self), self.problems, self.advice))


def _rebuild(kind: type[W2vcError], problems: tuple[str, ...], advice: str) -> W2vcError:
    return kind(problems, advice=advice)


class UsageError(W2vcError):
    """The call itself is wrong: an option, or a combination of options."""


class UnreadableError(W2vcError):
    """The checkpoint can't be read."""


class MissingError(UnreadableError):
    """There is no such file, or it may not be read."""


class NotACheckpointError(UnreadableError):
    """The file is of another kind, or torch's but not one that fairseq wrote."""


class DamagedError(UnreadableError):
    """The file is cut off, a checksum is wrong, or its parts contradict one another."""


class UnsafeError(UnreadableError):
    """The file names code to run, or would take memory or time without bound."""


class RefusedError(W2vcError):
    """The checkpoint was read, but can't be converted exactly."""


class UnsupportedModelError(RefusedError):
    """transformers has no place for something that this model computes."""


class DictionaryError(RefusedError):
    """There is no dictionary, it is not the model's, or two of them differ."""


class InconsistentError(RefusedError):
    """Config and tensors, or the tensors among themselves, don't fit together."""


class OutputError(W2vcError):
    """The output can't be written."""


class OutputExistsError(OutputError):
    """Something bears the output's name already."""


class OutputWriteError(OutputError):
    """No space, no permission, or not a place for a directory."""


class DifferenceError(W2vcError):
    """Verification found a difference between the checkpoint and the output."""
