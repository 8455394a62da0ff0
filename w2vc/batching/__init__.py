"""Many checkpoints: which there are, in which order, in which processes, and what became of each.

In: files, folders, patterns and manifests. Out: a ``BatchSummary`` and a report of JSON lines.
"""
