"""What w2vc knows of fairseq's models and of the transformers classes that compute the same.

In: a ``Checkpoint``'s names, shapes and cfg. Out: values that describe the model, and tables for the planner.
Everything here is pure: no file is opened, no tensor byte is read.
"""
