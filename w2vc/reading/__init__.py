"""The untrusted file: opening it, its container, its pickle, what it says.

In: a path. Out: a ``Checkpoint``, every value in it of a built-in type, every tensor as a record and a view into it.
Here, and nowhere else, ``torch.load`` is called. No tensor byte is read, and nothing is written.
"""
