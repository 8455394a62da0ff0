"""Each limit lets pass what is just below it, and refuses what is just above."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FIXTURES
from tests.support.forgery import (
    PROTOCOL_2,
    STOP,
    Part,
    a_call,
    a_dict,
    a_global,
    a_list,
    a_tuple,
    base,
    model,
    plainly,
    text,
    zipped,
)
from tests.support.limits import limit
from w2vc.errors import DictionaryError, UnreadableError, UnsafeError, UsageError
from w2vc.reading import budget, torch_reader
from w2vc.reading.archive import examine, open_checkpoint
from w2vc.reading.budget import LIMITS, SCALAR_BYTES
from w2vc.reading.checkpoint import read_checkpoint
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, dictionary_of_symbols, parse_dictionary, read_dictionary
from w2vc.reading.opening import bytes_on_disk
from w2vc.reading.program import read_program
from w2vc.reading.sections import in_sections
from w2vc.reading.source import PickleSource
from w2vc.reading.values import plain


def read(body: bytes) -> object:
    return read_program(PROTOCOL_2 + body + STOP, "a.pt: data.pkl")


def read_plain(body: bytes) -> object:
    program = read_program(PROTOCOL_2 + body + STOP, "a.pt: data.pkl")
    return plain(program.root, program.globals, "a.pt: cfg")


def globals_named(count: int) -> bytes:
    return a_list(*(a_global("fork", f"Class{number}") for number in range(count)))


def one_global_used(count: int) -> bytes:
    return a_list(*[a_call("fork", "Class")] * count, a_global("fork", "Other"))


def tuple_used_as_a_key(count: int) -> bytes:
    """A tuple of nine numbers: a hash of it visits ten objects."""
    return a_list(a_tuple(*[b"K\x01"] * 9) + b"q\x00", *[b"}h\x00Ns"] * count)


LARGE = 2**61 - 1

# (row of the table, a lower limit for the test, pickle by number, the largest number that passes)
PICKLES: list[tuple[str, int, Callable[[int], bytes], int]] = [
    ("pickle bytes", 100, lambda n: text("a" * n), 100 - 8),
    ("opcodes", 50, lambda n: b"](" + b"N" * n + b"e", 50 - 6 + 1),
    ("depth", 10, lambda n: b"]" * n + b"a" * (n - 1), 9),
    ("unfolded objects", 100, lambda n: a_list(*[b"N"] * n), 100 - 3),
    ("globals", 5, globals_named, 5),
    ("allow-list entries", 20, one_global_used, 4),
    ("global name", 20, lambda n: a_global("f" * n, "x"), 19),
    ("text", 30, lambda n: text("a" * n), 30),
    ("integer", 5, lambda n: b"\x8a" + bytes([n]) + b"\x01" * n, 5),
    ("chosen hashes", 40, tuple_used_as_a_key, 4),
    ("chosen hashes", 5, lambda n: a_dict(*[plainly(LARGE * i) + b"N" for i in range(1, n + 1)]), 5),
    ("chosen hashes", 5, lambda n: a_dict(*[plainly(i + 0.5) + b"N" for i in range(n)]), 5),
    ("chosen hashes", 5, lambda n: a_call("builtins", "set", a_list(*[plainly(i + 0.5) for i in range(n)])), 5),
    (
        "chosen hashes",
        5,
        lambda n: a_dict(*[a_call("builtins", "complex", plainly(i), b"K\x01") + b"N" for i in range(n)]),
        5,
    ),
    ("chosen hashes", 40, lambda n: a_dict(*[a_call("torch", "Size", a_tuple(*[b"K\x01"] * 7)) + b"N"] * n), 5),
    ("dimensions", 5, lambda n: a_call("torch", "Size", a_tuple(*[b"K\x01"] * n)), 5),
]


@pytest.mark.parametrize(
    ("name", "most", "body", "passes"), PICKLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_pickle_is_refused_just_above_each_limit(
    name: str, most: int, body: Callable[[int], bytes], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    read(body(passes))
    with pytest.raises(UnsafeError):
        read(body(passes + 1))


CONFIGS: list[tuple[str, int, Callable[[int], bytes], int]] = [
    ("config values", 20, lambda n: a_list(*[b"N"] * n), 19),
    ("config text", 100, lambda n: a_list(text("a" * 10) + b"q\x00", *[b"h\x00"] * (n - 1)), 10),
    ("config depth", 5, lambda n: b"]" * n + b"a" * (n - 1), 6),
    ("interpolation", 20, lambda n: text("${" + "a" * (n - 3) + "}"), 20),
]


@pytest.mark.parametrize(("name", "most", "body", "passes"), CONFIGS, ids=[row[0] for row in CONFIGS])
def test_a_config_is_refused_just_above_each_limit(
    name: str, most: int, body: Callable[[int], bytes], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    read_plain(body(passes))
    with pytest.raises(UnsafeError):
        read_plain(body(passes + 1))


def nested(count: int) -> dict[str, object]:
    config: dict[str, object] = {"arch": "wav2vec_ctc"}
    for _ in range(count - 1):
        config = {"arch": "wav2vec_ctc", "w2v_args": config}
    return config


def test_flat_configs_in_one_another_are_refused_and_never_multiply() -> None:
    most = LIMITS["nested configs"].most
    assert in_sections(nested(most), "cfg") is not None
    with pytest.raises(UnsafeError, match="configs within one another"):
        in_sections(nested(most + 1), "cfg")
    sections = in_sections({"w2v_args": {"arch": "x"}, "arch": "y"}, "cfg")
    assert sections is not None
    assert "w2v_args" not in str(sections["task"])


DICTIONARIES: list[tuple[str, int, Callable[[int], list[str]], int]] = [
    ("symbols", 10, lambda n: [f"s{number}" for number in range(n - 4)], 10),
    ("symbol", 10, lambda n: ["a" * n], 10),
    ("repeated symbols", 3, lambda n: ["a"] * (n + 1), 3),
]


@pytest.mark.parametrize(("name", "most", "symbols", "passes"), DICTIONARIES, ids=[row[0] for row in DICTIONARIES])
def test_a_dictionary_is_refused_just_above_each_limit(
    name: str, most: int, symbols: Callable[[int], list[str]], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, name, most)
    assert of_checkpoint(symbols(passes)) == of_file(symbols(passes)) == len(symbols(passes)) + len(SPECIAL_SYMBOLS)
    for made in (of_checkpoint, of_file):
        with pytest.raises(DictionaryError, match="more than"):
            made(symbols(passes + 1))


def of_checkpoint(symbols: list[str]) -> int:
    return len(dictionary_of_symbols([*SPECIAL_SYMBOLS, *symbols], "a.pt"))


def of_file(symbols: list[str]) -> int:
    return len(parse_dictionary("".join(f"{symbol} 1 #fairseq:overwrite\n" for symbol in symbols), "dict.txt"))


def test_a_dictionary_file_larger_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "dictionary bytes", 20)
    (tmp_path / "dict.txt").write_text("a 1\n" * 5)
    with pytest.raises(DictionaryError, match="is there already"):
        read_dictionary(tmp_path / "dict.txt")
    (tmp_path / "dict.txt").write_text("a 1\n" * 5 + "\n")
    with pytest.raises(UsageError, match="larger than"):
        read_dictionary(tmp_path / "dict.txt")


def test_a_million_wrong_lines_are_not_all_listed() -> None:
    with pytest.raises(DictionaryError) as caught:
        parse_dictionary("\n" * 1_000_000, "dict.txt")
    assert len(caught.value.problems) == 6


def test_every_limit_says_its_reason() -> None:
    for name, row in LIMITS.items():
        assert row.most > 0, name
        assert len(row.why) > 20, name


def test_one_object_with_many_attributes_is_refused_where_it_is_used_often(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "config attributes", 40)
    node = a_call("fork", "Node") + a_dict(text("_content") + b"N", text("a") + b"N", text("b") + b"N") + b"bq\x00"
    for times, passes in ((6, True), (7, False)):
        body = a_list(node, *[b"h\x00"] * (times - 1))
        if passes:
            assert read_plain(body) == [None] * times
        else:
            with pytest.raises(UnsafeError, match="deeper or larger than any config"):
                read_plain(body)


# ---------------------------------------------------------------------------------------------------------------
# Whole files

ZIP = base(FIXTURES / "eras" / "plain_dict_ctc.pt")
DIRECTORY_BYTES = struct.unpack_from("<L", zipped(ZIP.parts()), len(zipped(ZIP.parts())) - 10)[0]
PICKLE_BYTES = len(ZIP.records["data.pkl"])
HEAD = "w2v_encoder.proj.weight"


def with_record(name: str, data: bytes = b"x") -> bytes:
    return zipped([*ZIP.parts(), Part(f"{ZIP.root}/{name}", data)])


def with_tensor_named(*keys: str) -> bytes:
    """The file with the head's weight under one name more, or in a group."""
    saved = ZIP.saved()
    tensors = model(saved)
    *groups, name = keys
    held = tensors
    for group in groups:
        held = held.setdefault(group, {})
    held[name] = tensors[HEAD]
    return ZIP.with_saved(saved)


# (row of the table, its limit in the test, file by number, the largest number that passes, the error's words)
FILE_LIMITS: list[tuple[str, int, Callable[[int], bytes], int, str]] = [
    (
        "records",
        len(ZIP.records) + 1,
        lambda n: zipped([*ZIP.parts(), *(Part(f"{ZIP.root}/more{i}", b"") for i in range(n))]),
        1,
        "records in a directory of",
    ),
    (
        "directory bytes",
        DIRECTORY_BYTES + 46 + len(ZIP.root) + 11,
        lambda n: with_record("x" * n),
        10,
        "records in a directory of",
    ),
    ("record name", 80, lambda n: with_record("x" * (n - len(ZIP.root) - 1)), 80, "a record with an odd name"),
    ("storage alignment", 64, lambda n: with_record(".storage_alignment", b"%d" % 2**n), 6, "alignment is '128'"),
    (
        "pickle bytes",
        PICKLE_BYTES + 20,
        lambda n: ZIP.with_item(b"U" + bytes([n]) + b"x" * n),
        20 - len(b"X\x05\0\0\0extraU?s"),
        "a pickle of",
    ),
    ("tensor name", 100, lambda n: with_tensor_named("x" * n), 100, "has a name that no tensor has"),
    ("tensor name", 100, lambda n: with_tensor_named("group", "x" * (n - 6)), 100, "has a name that no tensor has"),
    ("tensor name", 100, lambda n: with_tensor_named("x" * n, "y"), 98, "has a name that no tensor has"),
]


@pytest.mark.parametrize(
    ("name", "most", "file", "passes", "words"), FILE_LIMITS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_file_is_refused_just_above_each_limit(
    name: str,
    most: int,
    file: Callable[[int], bytes],
    passes: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, name, most)
    (tmp_path / "a.pt").write_bytes(file(passes))
    read_checkpoint(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(file(passes + 1))
    with pytest.raises(UnreadableError, match=words):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(("pieces", "passes"), [((10, 30), True), ((10, 31), False), ((40,), True), ((41,), False)])
def test_a_pickle_of_unknown_length_is_read_up_to_the_limit(
    pieces: tuple[int, ...], passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, "pickle bytes", 40)
    waiting = iter(pieces)
    source = PickleSource(b"", "a.pt", lambda: b"x" * next(waiting, 0))
    if passes:
        assert len(source.take(sum(pieces))) == 40
    else:
        with pytest.raises(UnsafeError, match="larger than 40 bytes"):
            source.take(sum(pieces))


@pytest.mark.parametrize(("offset", "more"), [(1, 0), (0, 1)])
def test_a_tensor_one_element_beyond_its_storage_is_refused(offset: int, more: int, tmp_path: Path) -> None:
    saved = ZIP.saved()
    tensor = model(saved)["w2v_encoder.proj.bias"]
    storage, start, (length,), *rest = tensor.arguments
    (tmp_path / "a.pt").write_bytes(ZIP.with_saved(saved))
    read_checkpoint(tmp_path / "a.pt")
    tensor.arguments = (storage, start + offset, (length + more,), *rest)
    (tmp_path / "a.pt").write_bytes(ZIP.with_saved(saved))
    with pytest.raises(UnreadableError, match="reaches beyond its storage"):
        read_checkpoint(tmp_path / "a.pt")


def passes_with(name: str, most: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    with monkeypatch.context() as context, open_checkpoint(path) as file:
        limit(context, name, most)
        try:
            examine(file, path)
        except UnsafeError:
            return False
    return True


def least(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The lowest limit with which the file is let pass."""
    highest = 1
    while not passes_with(name, highest, path, monkeypatch):
        highest *= 2
    lowest = highest // 2
    while lowest + 1 < highest:
        most = (lowest + highest) // 2
        lowest, highest = (lowest, most) if passes_with(name, most, path, monkeypatch) else (most, highest)
    return highest


TODAYS, LEGACY = (FIXTURES / "eras" / f"{name}.pt" for name in ("plain_dict_ctc", "legacy_format_ctc"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, TODAYS) for name, row in LIMITS.items() if row.grows),
        *((name, LEGACY) for name in ("pickle bytes", "opcodes", "built bytes", "unfolded objects")),
    ],
)
def test_a_file_with_more_on_its_disk_is_allowed_as_many_times_more(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = least(name, path, monkeypatch)
    for unit, times in ((path.stat().st_size, 2), (path.stat().st_size // 3, 4), (1, 17)):
        monkeypatch.setattr(budget, "GROWTH_BYTES", unit)
        enough = -(-alone // times)
        assert passes_with(name, enough, path, monkeypatch)
        assert not passes_with(name, enough - 1, path, monkeypatch)


def test_holes_of_a_file_allow_nothing(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(2**30)
        file.seek(2**29)
        file.write(bytes(2**16))
    with open_checkpoint(tmp_path / "holes") as opened:
        assert 2**16 <= bytes_on_disk(opened) < 2**20


def test_blocks_beyond_a_files_end_allow_nothing(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    with open_checkpoint(tmp_path / "short") as opened:
        assert bytes_on_disk(opened) == 1


@pytest.mark.parametrize("below", [0, 1])
def test_addresses_are_given_up_to_the_limit(below: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FIXTURES / "eras" / "plain_dict_ctc.pt"
    with open_checkpoint(path) as file:
        archive = examine(file, path)
    limit(monkeypatch, "addresses", max(storage.nbytes for storage in archive.program.storages) - below)
    places = torch_reader._places(archive)
    assert (places == "meta") is bool(below)


@pytest.mark.parametrize(("count", "passes"), [(12, True), (13, False)])
def test_values_that_count_at_every_place_are_refused_just_above_twice_the_limit(
    count: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each counts where it is and in what holds it: two for every value, the list and its section, one for the config.
    limit(monkeypatch, "config values", 15)
    config = {"model": {"x": [None] * count}}
    if passes:
        assert in_sections(config, "cfg") == config
    else:
        with pytest.raises(UnsafeError, match="deeper or larger than any config"):
            in_sections(config, "cfg")


LINES: list[tuple[str, int, Callable[[int], str], int, str]] = [
    ("symbols", 10, lambda n: "\n" * n, 20, "has 21 lines"),
    ("symbols", 10, lambda n: "\r\n" * (n // 2) + "\r" * (n % 2), 20, "has 21 lines"),
    ("symbol", 10, lambda n: "a" * (n - 1) + "\n", 50, "has a line of 51 bytes"),
    ("symbol", 10, lambda n: "a" * (n - 1) + "\r", 50, "has a line of 51 bytes"),
    ("symbol", 10, lambda n: "\n" + "a" * n, 50, "has a line of 51 bytes"),
]


@pytest.mark.parametrize(("name", "most", "lines", "passes", "words"), LINES)
def test_the_lines_of_a_dictionary_are_bounded_before_they_are_parsed(
    name: str,
    most: int,
    lines: Callable[[int], str],
    passes: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, name, most)
    path = tmp_path / "dict.txt"
    path.write_bytes(lines(passes).encode())
    with pytest.raises(DictionaryError, match="is not a symbol and a count"):
        read_dictionary(path)
    path.write_bytes(lines(passes + 1).encode())
    with pytest.raises(DictionaryError, match=words):
        read_dictionary(path)


# ---------------------------------------------------------------------------------------------------------------
# What Python objects cost: never less is charged than CPython takes

COUNT = 3000


def memoized(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def many(item: Callable[[int], bytes], *before: bytes) -> bytes:
    """A list of many values, each behind its own opcodes."""
    return b"".join(before) + a_list(*map(item, range(COUNT)))


OBJECTS: dict[str, bytes] = {
    "integers": many(lambda n: plainly(n + 1000)),
    "wide integers": many(lambda n: b"\x8a\x10" + struct.pack("<QQ", n + 1, 1)),
    "floats": many(lambda n: plainly(n + 0.5)),
    "texts": many(lambda n: text(f"a text {n}")),
    "wide texts": many(lambda n: text(f"\U0001f600 a text {n} in wide characters")),
    "lists": many(lambda _: a_list(b"N")),
    "empty lists": many(lambda _: b"]"),
    "dicts": many(lambda _: a_dict(b"K\x01N")),
    "empty dicts": many(lambda _: b"}"),
    "entries of a dict": a_dict(*(text(f"key {n}") + b"N" for n in range(COUNT))),
    "empty sets": many(lambda _: b"\x8f"),
    "tuples": many(lambda n: a_tuple(plainly(n + 1000), b"N", b"N", b"N")),
    "pairs": many(lambda n: plainly(n + 1000) + b"N\x86"),
    "memo": b"](" + b"".join(b"N" + memoized(n) for n in range(COUNT)) + b"e",
    "sets": many(lambda _: a_call("builtins", "set", a_list(b"K\x01", b"K\x02"))),
    "ordered dicts": many(lambda _: a_call("collections", "OrderedDict")),
    "entries of an ordered dict": a_call("collections", "OrderedDict")
    + b"("
    + b"".join(text(f"key {n}") + b"N" for n in range(COUNT))
    + b"u",
    "sets of twenty": many(lambda _: a_call("builtins", "set", plainly([*range(300, 320)]))),
}


def taken_by_cpython(pickled: bytes) -> int:
    """How many bytes an object takes that the standard library builds of a pickle, and what building it holds."""
    pickle.loads(pickled[:2] + b"N.")  # noqa: S301 - our own
    # The pure Python unpickler keeps a memo and stacks as torch's does.
    unpickler = pickle._Unpickler
    tracemalloc.start()
    try:
        reading = unpickler(io.BytesIO(pickled))
        built = reading.load()
        return tracemalloc.get_traced_memory()[0] if built is not None else 0
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", OBJECTS)
def test_no_less_is_charged_for_objects_than_cpython_takes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = PROTOCOL_2 + OBJECTS[what] + STOP
    read(OBJECTS[what])
    limit(monkeypatch, "built bytes", int(0.95 * taken_by_cpython(pickled)))
    with pytest.raises(UnsafeError, match="bytes of Python objects"):
        read(OBJECTS[what])


def test_the_bytes_of_objects_end_exactly_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, passes in ((SCALAR_BYTES, True), (SCALAR_BYTES - 1, False)):
        limit(monkeypatch, "built bytes", most)
        if passes:
            assert read(b"N") is not None
        else:
            with pytest.raises(UnsafeError, match=f"more than {most} bytes of Python objects"):
                read(b"N")


BY_THEMSELVES = {"addresses", "built bytes", "config attributes", "dictionary bytes", "nested configs", "tensors"}
"""Rows of the table that have a test of their own; that of ``tensors`` is in ``test_confirmation.py``."""


def test_every_limit_is_tried_just_below_and_just_above() -> None:
    tables = (PICKLES, CONFIGS, DICTIONARIES, FILE_LIMITS)
    assert {row[0] for table in tables for row in table} | BY_THEMSELVES == LIMITS.keys()
