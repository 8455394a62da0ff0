"""The small files of an output against those that the plan makes: config, feature extractor, tokenizer, vocabulary.

Values are compared, not their spelling, so that a file that was formatted anew stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from w2vc.planning.plan import Plan
from w2vc.verifying.verification import Finding

# What transformers' loaders look for; anything else in the directory changes nothing.
_LOADED_SUFFIXES = (".bin", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".safetensors")
_MOST_BYTES = 64 * 2**20


def read_json(path: Path) -> Mapping[str, object]:
    """A JSON object from a file.

    Raises:
        ValueError: the file can't be read, or holds something else; says what.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"a file of more than {_MOST_BYTES:,} bytes")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(f"a file that can't be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ValueError("JSON, but no object")  # noqa: TRY004 - one of the ways in which it is no such file
    return values


def compare_files(plan: Plan, output: Path) -> list[Finding]:
    """Every difference between the plan's small files and the directory's, and files too few or too many.

    The plan has to be one without a model card: that is for people, who may change it.
    """
    findings: list[Finding] = []
    for name, contents in plan.files.items():
        findings += _compared(output / name, json.loads(contents))
    for name in plan.weights:
        if not (output / name).is_file():
            findings.append(Finding("files", name, "the weights", "no such file"))
    return [*findings, *_extra(plan, output)]


def _compared(path: Path, expected: Mapping[str, object]) -> Iterator[Finding]:
    try:
        found = read_json(path)
    except ValueError as error:
        yield Finding("files", path.name, f"a file with {len(expected)} values", str(error))
        return
    for key in sorted({*expected, *found}):
        ours, theirs = (_shown(values, key) for values in (expected, found))
        if ours != theirs:
            yield Finding("files", f"{path.name}: {json.dumps(key, ensure_ascii=False)}", ours, theirs)


def _shown(values: Mapping[str, object], key: str) -> str:
    """A value as JSON, which tells true from 1; other spellings of a number are the same."""
    return json.dumps(values[key], ensure_ascii=False, sort_keys=True) if key in values else "nothing"


def _extra(plan: Plan, output: Path) -> Iterator[Finding]:
    known = {*plan.files, *plan.weights}
    for path in sorted(output.iterdir()):
        if path.is_file() and path.suffix in _LOADED_SUFFIXES and path.name not in known:
            yield Finding("files", path.name, "no such file", "a file that transformers may load")
