"""The output directory: copying, checking, and the rename that makes it appear.

In: a ``Checkpoint`` and a ``Plan``. Out: the directory, complete, or an error and nothing. The only writer of outputs.
"""
