"""A written directory compared with its checkpoint: bytes, files, outputs, vocabulary.

In: a checkpoint and a directory. Out: a ``Verification``. Reads both, changes neither.
"""
