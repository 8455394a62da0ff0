"""Where a process begins: signals first, then everything else, then the exit code.

Nothing but what these few lines need is imported before Ctrl-C has a handler, so that it never ends in a traceback.
"""

import os
import signal
import sys

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130

_CLEAR_LINE_SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"
_INTERRUPTED = b"w2vc: Interrupted.\n      Nothing was left behind; run the same command again.\n"


def main() -> "NoReturn":
    """Run the command line and exit with the code of what happened."""
    _fill_closed_descriptors()
    _take_signals()
    # Nothing here ever needs a network; transformers has to know before it is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    code = _run()
    # Nothing is left to be done, and torch takes up to half a second to be taken down.
    os._exit(code)


def _run() -> int:
    from w2vc.command.running import run

    return run(sys.argv[1:])


def _fill_closed_descriptors() -> None:
    """Open what is closed of 0, 1 and 2 on nothing: else the next file would get the number, and be printed into."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _take_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as below nohup
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: "FrameType | None") -> "NoReturn":
    """End at once, with nothing left behind.

    An exception instead of this would come out of any line of any library: as another one, where that was putting
    things in order, or never, where it left a lock held that a thread waits for.
    """
    try:
        writing = sys.modules.get("w2vc.writing.output_directory")
        abandon = getattr(writing, "abandon", None)  # None while it is being imported
        if abandon is not None:
            abandon()
        terminal = sys.modules.get("w2vc.command.terminal")
        if getattr(terminal, "bar_is_shown", False):
            os.write(2, _CLEAR_LINE_SHOW_CURSOR)
        os.write(2, _INTERRUPTED)
    finally:
        os._exit(INTERRUPTED)
