"""What a stranger's folder has around a checkpoint: dictionaries and configs that are no files, or endless ones."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.support.hostile.cases import ZIP, add

_BESIDE = "dict.ltr.txt"
_LINE = b"abcdefgh 1\n"


def _without_dictionary() -> bytes:
    saved = ZIP.saved()
    saved["task_state"] = {}
    return ZIP.with_saved(saved)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _folder_with_itself(path: Path) -> None:
    path.mkdir()
    (path / "dict.ltr.txt").symlink_to("..")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    # The path of a socket can't be long.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(_LINE)
        file.truncate(300 * 10**9)


_NO_FILES: dict[str, Callable[[Path], None]] = {
    "pipe": _pipe,
    "folder": _folder,
    "folder_that_leads_back": _folder_with_itself,
    "link_to_itself": _loop,
    "link_to_nowhere": _link("nowhere"),
    "link_to_endless_zeros": _link("/dev/zero"),
    "link_to_endless_noise": _link("/dev/urandom"),
    "link_to_nothing": _link("/dev/null"),
    "link_to_a_terminal": _link("/dev/tty"),
    "link_to_its_own_memory": _link("/proc/self/mem"),
    "link_to_its_own_environment": _link("/proc/self/environ"),
    "link_to_its_own_mappings": _link("/proc/self/maps"),
    "socket": _socket,
    "sparse_file_of_300_gigabytes": _sparse,
}


def _around(checkpoint: Callable[[], bytes], name: str, put: Callable[[Path], None]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.write_bytes(checkpoint())
        put(path.parent / name)

    return make


for _name, _put in _NO_FILES.items():
    # The checkpoint has its own dictionary: what lies beside it is left alone, or is said not to be one.
    add(
        f"dictionary_next_to_it_that_is_a_{_name}",
        "surroundings",
        (0, 2, 4),
        _BESIDE,
        _around(lambda: ZIP.data, _BESIDE, _put),
    )
    add(
        f"only_dictionary_that_is_a_{_name}",
        "surroundings",
        (2, 4),
        _BESIDE,
        _around(_without_dictionary, _BESIDE, _put),
    )
    add(
        f"given_dictionary_that_is_a_{_name}",
        "surroundings",
        (2, 4),
        "given.txt",
        _around(_without_dictionary, "given.txt", _put),
        arguments=("--dict", "{folder}/given.txt"),
    )
    add(
        f"given_config_that_is_a_{_name}",
        "surroundings",
        2,
        "given.json",
        _around(lambda: ZIP.data, "given.json", _put),
        arguments=("--config", "{folder}/given.json"),
    )


def _writing(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(content())

    return put


_CONTENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a_million_symbols": (lambda: b"".join(b"%07d 1\n" % number for number in range(10**6)), "1000004 symbols|symbols"),
    "a_million_equal_symbols": (lambda: b"a 1\n" * 10**6, "there already"),
    "a_million_equal_symbols_on_purpose": (lambda: b"a 1 #fairseq:overwrite\n" * 10**6, "symbols"),
    "a_million_lines_that_are_none": (lambda: b"word\n" * 10**6, "symbol and a count"),
    "ten_million_empty_lines": (lambda: b"\n" * 10**7, "symbol and a count"),
    "one_line_of_sixty_megabytes": (lambda: b"a" * (60 * 2**20), "symbol and a count|longer|characters"),
    "a_symbol_of_sixty_megabytes": (lambda: b"a" * (60 * 2**20) + b" 1\n", "symbols|longer|characters"),
    "a_line_of_sixty_million_spaces": (lambda: b" " * (60 * 10**6) + b"1\n", "symbol|longer|characters"),
    "a_count_of_a_million_digits": (lambda: b"a " + b"1" * 10**6 + b"\n", "symbol and a count|longer|characters"),
    "seventy_megabytes": (lambda: _LINE * (70 * 2**20 // len(_LINE)), "larger"),
    "controls": (lambda: b"\x1b[2J\x1b]0;owned\x07 1\n" * 40, "there already"),
    "nulls": (lambda: bytes(10**6), "symbol and a count|longer|characters"),
    "carriage_returns": (lambda: b"a 1\r" * 10**6, "there already"),
    "utf_16": (lambda: "\n".join(["a 1"] * 100).encode("utf-16"), "UTF-8"),
}
for _name, (_content, _word) in _CONTENTS.items():
    add(
        f"dictionary_next_to_it_of_{_name}",
        "surroundings",
        4,
        _word,
        _around(_without_dictionary, _BESIDE, _writing(_content)),
    )


def _different(path: Path) -> None:
    path.write_bytes(b"a 1 #fairseq:overwrite\nb 1 #fairseq:overwrite\n" * 1_200)


def _with_symbols(count: int) -> bytes:
    saved = ZIP.saved()
    symbols = saved["task_state"]["target_dictionary"].state["symbols"]
    symbols.extend(["b", "a"] * (count // 2))
    return ZIP.with_saved(saved)


add(
    "dictionaries_that_take_long_to_compare",
    "surroundings",
    4,
    "differ|symbols",
    _around(lambda: _with_symbols(2_400), _BESIDE, _different),
)
add(
    "only_dictionary_is_huge",
    "surroundings",
    4,
    "symbols",
    _around(_without_dictionary, _BESIDE, _writing(_CONTENTS["a_million_symbols"][0])),
    arguments=("--head", "ctc"),
)
