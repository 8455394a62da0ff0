"""The way of the data is one way: which module may import which, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import w2vc

PACKAGE = Path(w2vc.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or not path.stem.startswith("__")
}
"""Path of each module by its name below ``w2vc``."""

ORDER = (
    *("version", "errors", "paths", "options", "reading", "families", "planning", "writing", "verifying", "report"),
    *("conversion", "batching", "command"),
)
"""Folders and single modules, from the end that reads to the end that prints: each imports only earlier ones."""


def imported(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("w2vc."):
            found.add(node.module.removeprefix("w2vc."))
        elif isinstance(node, ast.ImportFrom) and node.module == "w2vc":
            found |= {alias.name for alias in node.names}
    return found


def outside(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    own = module.split(".", maxsplit=1)[0]
    for other in imported(module):
        folder = other.split(".")[0]
        assert folder == own or ORDER.index(folder) < ORDER.index(own), other


def test_omegaconf_is_used_in_one_place() -> None:
    assert [module for module in MODULES if "omegaconf" in outside(module)] == ["families.cfg"]


def test_the_gate_needs_no_torch() -> None:
    with_others = ("reading.confirmation", "reading.torch_reader")
    gate = [module for module in MODULES if module.startswith("reading.") and module not in with_others]
    assert "reading.archive" in gate
    for module in (*gate, "errors"):
        assert outside(module) <= set(sys.stdlib_module_names) | {"w2vc"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.endswith("reference")])
def test_the_reference_shares_no_arithmetic_with_what_it_checks(module: str) -> None:
    assert imported(module) <= {
        "errors",
        "families.conv_feature_layers",
        "families.shared.reference",
        "families.shared.transformer_reference",
    }
    assert "transformers" not in outside(module)


def test_only_the_command_line_prints_or_exits() -> None:
    for module, path in MODULES.items():
        if module.startswith("command"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"print", "exit", "quit", "input"}, module


def test_nobody_loads_a_pickle_but_torch_in_one_place() -> None:
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert ("torch.load(" in text) == (module == "reading.torch_reader"), module
        assert "pickle" not in outside(module)


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, w2vc; assert not {'torch', 'transformers', 'omegaconf', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # noqa: S603 - ours
