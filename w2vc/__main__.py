"""``python -m w2vc``."""

import os
import sys

# With -m Python looks for modules in the current folder first: a ``socket.py`` in a folder of downloads would run.
_here = os.path.realpath(os.curdir)
sys.path[:] = [place for place in sys.path if place and os.path.realpath(place) != _here]

from w2vc.command.main import main  # noqa: E402 - not before that

main()
