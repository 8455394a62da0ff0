"""``python -m w2vc``."""

from w2vc.command.main import main

main()
