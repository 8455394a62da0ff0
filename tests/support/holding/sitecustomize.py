"""Python imports this at its start where its folder is on PYTHONPATH: it stops processes in the midst of a conversion.

When the n-th conversion is about to write its weights, everything stands still (SIGSTOP) until a test says how it goes
on. So what is interrupted doesn't depend on how fast anything is.
"""

import os
import signal
import sys

_FILE, _NUMBER, _WHOM = (os.environ[f"W2VC_TEST_HOLD_{name}"] for name in ("FILE", "NUMBER", "WHOM"))


def _hold(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _makes_weights(*map(str, arguments[:2])) and _count() == int(_NUMBER):
        # 0 stands for all of the process's group.
        os.kill(0 if _WHOM == "group" else os.getpid(), signal.SIGSTOP)


def _makes_weights(path: str, mode: str) -> bool:
    return path.endswith("/model.safetensors") and mode.startswith("x")


def _count() -> int:
    """Which conversion this is, over all processes: each one makes the file a byte longer."""
    descriptor = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


sys.addaudithook(_hold)
