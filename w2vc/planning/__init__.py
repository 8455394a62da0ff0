"""The plan: everything that an output directory will hold, decided before a byte is written.

In: a ``Checkpoint`` and what its family says of it. Out: a ``Plan``. Pure, but for the small files that options name.
"""
