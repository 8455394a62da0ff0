"""A batch's workers import this at their start where a test tells them to: it kills one that opens a certain file.

So a worker dies in the midst of a chosen checkpoint, each time it is tried, however fast anything is.
"""

import os
import re
import signal
import sys

_FILE = re.compile(os.environ["W2VC_TEST_DEATH"])


def _die(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str) and _FILE.search(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(_die)
