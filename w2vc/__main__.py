"""``python -m w2vc``."""

from w2vc.cli import main

main()
