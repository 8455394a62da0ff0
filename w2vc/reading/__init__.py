"""The untrusted file: opening it, its container, its pickle, what it says.

In: a path. Out: a ``Checkpoint``, every value in it of a built-in type, every tensor as a record and a view into it.
Here, and nowhere else, ``torch.load`` is called. No tensor byte is read, and nothing is written.

Two readers look at the file. In the order of the data:

    opening, kinds             a regular file, and of which kind
    zip_directory, zip_container, legacy_container, record
                               where each record lies; archive puts it together (``examine``)
    source, machine, program   the pickle's opcodes, walked without building anything: the first reader, whose answer is
                               what w2vc goes on with. nodes are its values; policy says which globals may be named,
                               arguments what they may be called with, globals_used, keys and storages keep the
                               accounts of what is named, hashed and pointed at; measure looks at the whole
    values, tensors, containers, sections, dictionary, checkpoint
                               plain values and tensors from the nodes, wherever somebody put the state dict
    stand_ins, torch_reader, confirmation
                               torch.load, the second reader, with inert classes; it has to find the same
    budget                     all limits, each with its reason
"""
