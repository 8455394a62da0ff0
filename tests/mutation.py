"""Changes the package in one place at a time, and shows which changes no test notices: by hand, not a part of pytest.

    python -m tests.mutation --count 40 --seed 1 --jobs 2

Each mutation is tried in a copy of the repository, by the tests that concern its module (``TESTS``), until one fails.
What no test notices is shown as a diff. Some of it changes nothing that anybody could see; the rest lacks a test.

torch, transformers and pytest are imported once, here; a process forked for each mutation imports the mutated package.
So nothing here may import w2vc.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import importlib
import itertools
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parent.parent
COPIED = ("w2vc", "tests", "fixtures", ".github", "pyproject.toml", "README.md")

TESTS: Mapping[str, str] = {
    "w2vc/": "parts/test_command commands/test_load commands/test_pretrained commands/test_conversion",
    "w2vc/batching/": "parts/test_batching commands/test_batch",
    "w2vc/command/": "parts/test_command commands/test_errors commands/test_screens commands/test_main",
    "w2vc/errors": "parts/test_messages commands/test_errors parts/test_budget commands/test_screens",
    "w2vc/families/": (
        "parts/test_rows parts/test_measures parts/test_interpreter parts/test_placing parts/test_reference_parts "
        "parts/test_keys parts/test_families parts/test_names parts/test_overrides parts/test_notes parts/test_forms "
        "promises/test_literals promises/test_post_norm parts/test_tensors parts/test_wav2vec2 "
        "promises/test_reference promises/test_parity"
    ),
    "w2vc/families/cfg": "parts/test_plain_values parts/test_notes parts/test_rows parts/test_keys",
    "w2vc/families/conformer/": (
        "parts/test_rows parts/test_measures parts/test_interpreter parts/test_reference_parts "
        "parts/test_keys parts/test_names parts/test_overrides parts/test_notes promises/test_literals "
        "promises/test_post_norm parts/test_tensors promises/test_reference promises/test_parity"
    ),
    "w2vc/families/hubert/": (
        "parts/test_rows parts/test_measures parts/test_interpreter parts/test_reference_parts "
        "parts/test_keys parts/test_families parts/test_names parts/test_notes promises/test_literals "
        "promises/test_voice_conversion parts/test_wav2vec2 promises/test_reference promises/test_parity "
        "commands/test_verify_mutations"
    ),
    "w2vc/families/placing": "parts/test_placing promises/test_containers commands/test_pretrained",
    "w2vc/families/shared/stages": "parts/test_interpreter parts/test_verifying commands/test_verify",
    "w2vc/families/wav2vec2/": (
        "parts/test_rows parts/test_measures parts/test_interpreter parts/test_reference_parts "
        "parts/test_keys parts/test_families parts/test_names parts/test_notes promises/test_literals "
        "promises/test_languages parts/test_wav2vec2 promises/test_reference promises/test_parity"
    ),
    "w2vc/options": "parts/test_command commands/test_errors commands/test_load commands/test_main",
    "w2vc/paths": "parts/test_command commands/test_errors promises/test_surroundings promises/test_nothing_is_lost",
    "w2vc/planning/": (
        "parts/test_plan parts/test_placing parts/test_overrides promises/test_literals promises/test_dictionaries "
        "parts/test_second_lines "
        "parts/test_forms commands/test_pretrained promises/test_eras commands/test_screens commands/test_model_card"
    ),
    "w2vc/planning/languages": "parts/test_plan promises/test_languages promises/test_literals",
    "w2vc/planning/provenance": "parts/test_command promises/test_nothing_is_lost commands/test_batch",
    "w2vc/reading/": (
        "parts/test_machine parts/test_policy parts/test_plain_values parts/test_readers parts/test_domains "
        "parts/test_archive parts/test_confirmation parts/test_refusals parts/test_budget parts/test_pickle_program "
        "promises/test_dictionaries parts/test_second_lines promises/test_eras promises/test_containers "
        "promises/test_two_readers promises/test_hostile_files"
    ),
    "w2vc/reading/opening": (
        "parts/test_command parts/test_plain_values parts/test_readers promises/test_dictionaries "
        "promises/test_surroundings"
    ),
    "w2vc/report": "parts/test_command commands/test_screens commands/test_conversion commands/test_main",
    "w2vc/verifying/": (
        "parts/test_verifying parts/test_second_lines commands/test_verify commands/test_verify_mutations"
    ),
    "w2vc/writing/": (
        "parts/test_writing parts/test_strided promises/test_checksums parts/test_second_lines promises/test_eras "
        "commands/test_conversion"
    ),
    "w2vc/writing/interrupts": "parts/test_writing promises/test_interruption",
    "w2vc/writing/output_directory": "parts/test_writing promises/test_nothing_is_lost promises/test_interruption",
    "w2vc/writing/ownership": "parts/test_writing promises/test_nothing_is_lost promises/test_interruption",
}
"""The tests of a part of the package, the cheap ones first. The longest path that a module's begins with counts."""

WARM = (
    "pytest",
    "hypothesis",
    "numpy",
    "omegaconf",
    "rich.progress",
    "safetensors.torch",
    "torch",
    "transformers",
    "typer.testing",
)
"""What each of the processes would import anew."""

HANGS_AFTER = 900
"""Seconds; the slowest of these lists of tests takes a third of that by itself."""

# ---------------------------------------------------------------------------------------------------------------
# Mutations

Node = TypeVar("Node", bound=ast.AST)

COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}

NOT_MUTATED = re.compile(r"__all__|__slots__|TypeVar|__main__|TYPE_CHECKING")
WORDS_ONLY = re.compile(r"Error$|^(advice|why|help|reason|message|what)$")
"""Calls and arguments whose texts are read by people alone."""


@dataclass(frozen=True)
class Change:
    """One possible mutation: what kind it is, the node, and what comes in its place."""

    kind: str
    node: ast.expr | ast.stmt
    new: ast.AST


def changes(source: str) -> list[Change]:
    """Every mutation of a module that this script knows."""
    return [change for node, in_words in _code(ast.parse(source), False) for change in _changes_of(node, in_words)]


def _code(node: ast.AST, in_words: bool) -> Iterator[tuple[ast.AST, bool]]:
    """The nodes that do something, and whether each is only part of a message."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_idle(child):
                wording = in_words or bool(WORDS_ONLY.search(_name_of(child)))
                yield child, wording
                if not isinstance(child, ast.JoinedStr):  # its parts have no position of their own in every Python
                    yield from _code(child, wording)


def _is_idle(node: ast.AST) -> bool:
    """Docstrings, imports, and what only type checkers or ``python -m`` need."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return node.value.id in ("Callable", "Literal", "Mapping")
    first = node.test if isinstance(node, ast.If) else node if isinstance(node, ast.Assign) else None
    return first is not None and bool(NOT_MUTATED.search(ast.unparse(first)))


def _name_of(node: ast.AST) -> str:
    if isinstance(node, ast.keyword):
        return node.arg or ""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _changes_of(node: ast.AST, in_words: bool) -> Iterator[Change]:
    for rule in (RULES[kind] for kind in type(node).__mro__ if kind in RULES):
        for new in rule(node):
            if not (in_words and isinstance(node, (ast.Constant, ast.JoinedStr))):
                yield Change(type(node).__name__, node, new)  # type: ignore[arg-type]  # all that rules are for


def _copied(node: Node, **fields: object) -> Node:
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield from (ast.Constant(value + 1), ast.Constant(value - 1))
    elif isinstance(value, (str, bytes)) and (len(value) == 1 or _is_key(value)):
        yield ast.Constant(value[:-1])


def _is_key(text: str | bytes) -> bool:
    """Whether it names something, and isn't prose."""
    return bool(re.fullmatch(r"[\x00-\x1f\w./:*{}+-]+", text.decode("latin-1") if isinstance(text, bytes) else text))


def _formatted(node: ast.JoinedStr) -> Iterator[ast.AST]:
    texts = [part for part in node.values if isinstance(part, ast.Constant)]
    if texts and all(_is_key(str(text.value)) for text in texts):
        shorter = _copied(texts[-1], value=str(texts[-1].value)[:-1])
        yield _copied(node, values=[shorter if part is texts[-1] else part for part in node.values])


def _comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for index, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            yield _copied(node, ops=[*node.ops[:index], other(), *node.ops[index + 1 :]])


def _and_or(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _copied(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for index in range(len(node.values)):
        left = [*node.values[:index], *node.values[index + 1 :]]
        yield left[0] if len(left) == 1 else _copied(node, values=left)


def _negation(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand


def _arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    if type(node.op) in ARITHMETIC and not isinstance(node.left, ast.Constant | ast.JoinedStr):
        yield _copied(node, op=ARITHMETIC[type(node.op)]())


def _condition(node: ast.IfExp | ast.comprehension) -> Iterator[ast.AST]:
    if isinstance(node, ast.IfExp):
        yield _copied(node, test=ast.UnaryOp(ast.Not(), node.test))


def _filtered(node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Iterator[ast.AST]:
    for index, part in enumerate(node.generators):
        if part.ifs:
            every = [*node.generators[:index], _copied(part, ifs=[]), *node.generators[index + 1 :]]
            yield _copied(node, generators=every)


def _call(node: ast.Call) -> Iterator[ast.AST]:
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict") and not WORDS_ONLY.search(keyword.arg or ""):
            yield _copied(node, keywords=[*node.keywords[:index], *node.keywords[index + 1 :]])


def _branch(node: ast.If | ast.While) -> Iterator[ast.AST]:
    yield _copied(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.If):
        yield ast.Pass()


def _left_out(_: ast.stmt) -> Iterator[ast.AST]:
    yield ast.Pass()


def _returned(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield _copied(node, value=ast.Constant(None))


RULES: Mapping[type[ast.AST], Callable[..., Iterable[ast.AST]]] = {
    ast.Constant: _constant,
    ast.JoinedStr: _formatted,
    ast.Compare: _comparison,
    ast.BoolOp: _and_or,
    ast.UnaryOp: _negation,
    ast.BinOp: _arithmetic,
    ast.IfExp: _condition,
    ast.ListComp: _filtered,
    ast.SetComp: _filtered,
    ast.DictComp: _filtered,
    ast.GeneratorExp: _filtered,
    ast.Call: _call,
    ast.If: _branch,
    ast.While: _branch,
    ast.Expr: _left_out,
    ast.Raise: _left_out,
    ast.AugAssign: _left_out,
    ast.Continue: _left_out,
    ast.Break: _left_out,
    ast.Return: _returned,
}
"""What may come in the place of a node of each kind."""


def mutated(source: str, change: Change) -> str:
    """The module with the change, and everything else as it was written, comments too."""
    lines = source.encode().splitlines(keepends=True)
    first, last = change.node.lineno - 1, (change.node.end_lineno or 0) - 1
    before, after = lines[first][: change.node.col_offset], lines[last][change.node.end_col_offset :]
    text = ast.unparse(ast.fix_missing_locations(change.new)).replace("\n", "\n" + " " * change.node.col_offset)
    if lines[first][change.node.col_offset :].startswith(b"elif") and text.startswith("if"):
        text = f"el{text}"
    is_safe = isinstance(change.new, ast.stmt | ast.Constant | ast.Call | ast.JoinedStr)
    new = text if is_safe else f"({text})"
    return b"".join([*lines[:first], before + new.encode() + after, *lines[last + 1 :]]).decode()


@dataclass(frozen=True)
class Mutation:
    """A module, by its path in the repository, and its text before and after."""

    module: str
    kind: str
    before: str
    after: str

    def __str__(self) -> str:
        texts = (self.before.splitlines(), self.after.splitlines())
        return "\n".join(difflib.unified_diff(*texts, self.module, self.kind, n=2, lineterm=""))


def pick(count: int, seed: int, only: str) -> list[Mutation]:
    """Different mutations: a module by its size, a kind that it has, one of these."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    paths = sorted(path for path in (ROOT / "w2vc").rglob("*.py") if str(path.relative_to(ROOT)).startswith(only))
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    found = {module: _by_kind(changes(source)) for module, source in sources.items()}
    modules = [module for module, kinds in found.items() if kinds]
    picked: dict[str, Mutation] = {}
    while len(picked) < count:
        (module,) = chance.choices(modules, [len(sources[name]) for name in modules])
        kind = chance.choice(sorted(found[module]))
        after = mutated(sources[module], chance.choice(found[module][kind]))
        picked.setdefault(after, Mutation(module, kind, sources[module], after))
    return list(picked.values())


def _by_kind(every: Iterable[Change]) -> dict[str, list[Change]]:
    kinds = defaultdict(list)
    for change in every:
        kinds[change.kind].append(change)
    return kinds


# ---------------------------------------------------------------------------------------------------------------
# Trying them


def tests_of(module: str) -> tuple[str, ...]:
    """The tests that concern a module."""
    part = max((part for part in TESTS if module.startswith(part)), key=len)
    return tuple(f"tests/{name}.py" for name in TESTS[part].split())


def warm_up() -> None:
    """Import everything that isn't ours, once for all processes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in WARM:
        importlib.import_module(name)


def _copy_of(tree: Path, folder: Path) -> None:
    for name in COPIED:
        if (tree / name).is_dir():
            shutil.copytree(tree / name, folder / name)
        else:
            shutil.copy2(tree / name, folder / name)


@dataclass
class Try:
    """A run of tests in a process of its own, on a copy of the repository.

    Attributes:
        mutation: what it tries; None for the unchanged package.
        tests: which of the tests.
        slow: those that are marked as slow follow the others.
        folder: everything of it.
    """

    mutation: Mutation | None
    tests: tuple[str, ...]
    slow: bool
    folder: Path

    def start(self, tree: Path) -> None:
        """Copy the repository, change it, and run the tests there in a fork."""
        self.folder.mkdir()
        if self.mutation is not None:
            # A copy for each: who knows what a changed writer writes to.
            tree = shutil.copytree(tree, self.folder / "tree")
            (tree / self.mutation.module).write_text(self.mutation.after, encoding="utf-8")
        self.started = time.monotonic()
        self.process = os.fork()
        if not self.process:
            _run_tests(self.tests, self.slow, tree, self.folder / "output")

    def ended(self) -> bool:
        """Look whether the tests have ended; end those that hang."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        self.seconds = time.monotonic() - self.started
        if not process and self.seconds < HANGS_AFTER:
            return False
        if not process:
            os.killpg(self.process, signal.SIGKILL)
            _, status = os.waitpid(self.process, 0)
        self.code = os.waitstatus_to_exitcode(status)
        self.output = (self.folder / "output").read_text(encoding="utf-8", errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    @property
    def failed(self) -> str:
        """The test that failed; empty where none did by itself."""
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", self.output, re.MULTILINE)
        return found[1] if found else ""

    def verdict(self) -> str:
        """What a person is shown: the test that noticed, or what nobody did."""
        if not self.code:
            return f"SURVIVED {self.seconds:.0f} s\n{self.mutation}"
        by = self.failed or ("hanging" if self.code == -signal.SIGKILL else f"exit code {self.code}")
        return f"noticed {self.seconds:.0f} s, {self.mutation.module if self.mutation else ''} by {by}"


def _run_tests(tests: Sequence[str], slow: bool, tree: Path, output: Path) -> None:
    """What the forked process does, to its end."""
    os.setsid()
    written = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(written, stream)
    os.chdir(tree)
    sys.path[0] = str(tree)
    os.environ["PYTHONPATH"] = str(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "w2vc")]:
        del sys.modules[name]
    # A process that multiprocessing spawns would otherwise import this script first.
    sys.modules["__main__"] = types.ModuleType("__main__")
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={tree}", f"--basetemp={output.with_name('tmp')}"]
    # Plugins were imported before pytest could watch.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = 99  # what no test run gives
    try:
        quick = "not slow or whole"
        for which in (quick, "slow and not whole") if slow else (quick,):
            code = pytest.main([*options, "-m", which, *tests])
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                break
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_all(tries: Iterable[Try], tree: Path, jobs: int) -> Iterator[Try]:
    """Run so many at a time; give each when it has ended."""
    waiting, running = iter(tries), list[Try]()
    while True:
        while len(running) < jobs and (following := next(waiting, None)):
            following.start(tree)
            running.append(following)
        if not running:
            return
        for each in [each for each in running if each.ended()]:
            running.remove(each)
            yield each
        time.sleep(0.1)


def say(text: str) -> None:
    """Print it at once: a survivor is worth reading before the last one is known."""
    print(text, flush=True)  # noqa: T201 - this is a command line


def tried(mutations: Sequence[Mutation], jobs: int, slow: bool) -> Iterator[Try]:
    """Try each of them; give each try when it has ended.

    Raises:
        RuntimeError: a test that noticed one fails on the unchanged package, too, so that it says nothing.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder) / "unchanged"
        tree.mkdir()
        _copy_of(ROOT, tree)
        places = (Path(folder) / str(number) for number in itertools.count())
        known = set[str]()
        for each in run_all(
            (Try(which, tests_of(which.module), slow, next(places)) for which in mutations), tree, jobs
        ):
            if "::" in each.failed and each.failed not in known:
                (unchanged,) = run_all([Try(None, (each.failed,), True, next(places))], tree, 1)
                if unchanged.code:
                    raise RuntimeError(f"{each.failed} fails without a change:\n{unchanged.output[-3000:]}")
                known.add(each.failed)
            yield each


def main() -> None:
    """Read the command line; print each survivor when it is known, and the figure at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20, help="how many mutations")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--after", type=int, default=0, help="leave out so many, which were tried before")
    parser.add_argument("--only", default="w2vc/", help="a path that the modules' begin with")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="how many at a time")
    parser.add_argument("--slow", action="store_true", help="let slow tests try what the others don't notice")
    parser.add_argument("--list", action="store_true", help="show the mutations and try none")
    asked = parser.parse_args()
    mutations = pick(asked.count, asked.seed, asked.only)[asked.after :]
    if asked.list:
        say("\n\n".join(map(str, mutations)))
        return
    warm_up()
    seconds, survived, hung = [], 0, 0
    for each in tried(mutations, asked.jobs, asked.slow):
        seconds.append(each.seconds)
        hung += each.code == -signal.SIGKILL
        survived += not each.code
        say(f"{len(seconds)}/{len(mutations)} {each.verdict()}")
    say(
        f"{len(mutations)} mutations (seed {asked.seed}): {len(mutations) - survived} noticed, {hung} of them by "
        f"hanging; {survived} survived; {statistics.median(seconds):.0f} s at the median"
    )


if __name__ == "__main__":
    main()
