"""Python imports this at its start where its folder is on PYTHONPATH: it sends a signal when a chosen file is opened.

So a process stops or dies in the midst of a chosen step, however fast anything is. ``W2VC_TEST_SIGNAL`` says when:
``opened`` is a pattern for "PATH MODE", ``number`` counts what fits it over all processes (0: each time), ``counter``
is the file for that; ``send`` is the signal, and ``whom`` gets it: 0 is the process's group, None the process alone.
"""

import json
import os
import re
import sys

_WHEN = json.loads(os.environ["W2VC_TEST_SIGNAL"])


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and re.search(_WHEN["opened"], f"{arguments[0]} {arguments[1]}") and _is_its_turn():
        os.kill(os.getpid() if _WHEN["whom"] is None else _WHEN["whom"], _WHEN["send"])


def _is_its_turn() -> bool:
    if not _WHEN["number"]:
        return True
    descriptor = os.open(_WHEN["counter"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Each one makes the file a byte longer.
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR) == int(_WHEN["number"])
    finally:
        os.close(descriptor)


sys.addaudithook(_look)
