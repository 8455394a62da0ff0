"""The lower bounds that pyproject.toml promises are the versions that the tests run with."""

from __future__ import annotations

import re

from packaging.version import Version

from tests.support.readme import ROOT

ELSEWHERE = {"torch"}
"""Shared by all environments here, since it is large; ``tests.versions`` tries its lowest version."""

TOOLS = {"hypothesis", "mypy", "pipx", "pytest", "ruff", "uv"}
"""Only the tests need them, and they are pinned."""


def test_every_lower_bound_is_pinned_where_the_tests_run_with_the_lowest_versions() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = project[project.index("\ndependencies = [") : project.index("[project.scripts]")]
    bounds = {name: Version(bound) for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)', project)}
    lines = (ROOT / "tests" / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = {name: Version(pin) for name, _, pin in (line.partition("==") for line in lines if "==" in line)}
    promised = bounds.keys() - ELSEWHERE - TOOLS
    assert {"transformers", "omegaconf", "distributed"} <= promised
    assert {name: pins.get(name) for name in promised} == {name: bounds[name] for name in promised}


def test_every_dependency_has_a_lower_bound() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = project[project.index("\ndependencies = [") : project.index("[project.optional-dependencies]")]
    names = re.findall(r'^ *"([^"]+)",$', dependencies, re.MULTILINE)
    assert names
    assert all(">=" in name for name in names)
