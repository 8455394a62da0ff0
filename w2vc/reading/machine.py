"""A pickle's symbolic run: what it would build, found out without building or importing anything.

A pickle is a program for a stack machine. The opcodes are those that torch's own restricted unpickler reads
(``torch/_weights_only_unpickler.py``, ``Unpickler.load``) and no others. Plain scalars stand for themselves on the
stack, everything else is a node.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from w2vc.errors import DamagedError
from w2vc.reading.arguments import fits, is_empty, is_tensor, tensors_extras
from w2vc.reading.budget import ENTRY_BYTES, NODE_BYTES, SCALAR_BYTES, TENSOR_BYTES, Budget
from w2vc.reading.globals_used import Globals
from w2vc.reading.keys import Keys, weight
from w2vc.reading.nodes import Node, NodeKind, is_mapping, is_node
from w2vc.reading.source import GET_AGAIN, PickleSource
from w2vc.reading.storages import Storages

SAVE_AGAIN = 'Load it where it was made and save it with torch.save(checkpoint, "checkpoint.pt"): pickle protocol 2.'


class Machine:
    """The stack, the memo, and the opcodes that need nothing else; ``Objects`` does what globals are named for."""

    def __init__(self, source: PickleSource, *, legacy: bool) -> None:
        self.source = source
        self.what = source.what
        self.start = source.position
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = Budget(source.what, source.on_disk)
        self.globals = Globals(self.budget)
        self.keys = Keys(self.budget, self.globals)
        self.storages = Storages(source.what, legacy=legacy)
        self.objects = Objects(self)

    def run(self) -> Any:
        """Walk to STOP and return what would be built."""
        handlers = _HANDLERS
        take = self.source.take
        try:
            for _ in range(self.budget.most("opcodes")):
                code = take(1)[0]
                if code == STOP:
                    return self._stopped()
                handler = handlers.get(code)
                if handler is None:
                    self.damaged(f"has opcode {_opcode_name(code)}, which torch.save never writes")
                handler(self)
        except IndexError:
            self.damaged("takes more from its stack than is there")
        return self.budget.charge("opcodes", self.budget.most("opcodes") + 1)

    def _stopped(self) -> Any:
        if self.marks or len(self.stack) != 1:
            self.damaged("leaves something on its stack")
        return self.stack[0]

    def damaged(self, problem: str) -> NoReturn:
        """Raise DamagedError: torch.save wrote no such pickle."""
        raise DamagedError(f"{self.what} {problem}", advice=GET_AGAIN)

    # Scalars

    def scalar(self, value: object) -> None:
        """Push a scalar."""
        self.budget.build(SCALAR_BYTES)
        self.stack.append(value)

    def text(self, length: int, errors: str) -> None:
        """Push a text of so many bytes."""
        self.budget.require("text", length, "a text")
        try:
            value = str(self.source.take(length), "utf-8", errors)
        except UnicodeDecodeError:
            self.damaged("has a text that isn't UTF-8")
        # A single wide character makes four bytes of each other one.
        self.budget.build(sys.getsizeof(value))
        self.stack.append(value)

    def long(self) -> None:
        """Push an integer of any length."""
        length = self.source.take(1)[0]
        self.budget.require("integer", length, "an integer")
        self.scalar(int.from_bytes(self.source.take(length), "little", signed=True))

    def protocol(self) -> None:
        """Check the protocol, which the first opcode states."""
        number = self.source.take(1)[0]
        if self.source.position != self.start + 2:
            self.damaged("states its protocol in its midst")
        if number != 2:
            raise DamagedError(
                f"{self.what} is of pickle protocol {number}; fairseq and torch.save write protocol 2",
                advice=SAVE_AGAIN,
            )

    # Stack and memo

    def node(self, kind: NodeKind, items: Any = (), name: str = "", arguments: tuple[Any, ...] = ()) -> Node:
        """Push a node."""
        self.budget.build(NODE_BYTES)
        node = Node(kind, items, name, arguments)
        self.stack.append(node)
        return node

    def mark(self) -> None:
        """Begin a new stack on top of this one."""
        self.budget.build(NODE_BYTES)
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Return what was pushed since the last mark, and go on with what lay below it."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def get(self, index: int) -> None:
        """Push something from the memo."""
        if index not in self.memo:
            self.damaged(f"refers to object {index}, which it hasn't made")
        self.budget.build(8)
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        """Remember what is on top of the stack."""
        self.budget.build(ENTRY_BYTES)
        self.memo[index] = self.stack[-1]

    def tuple_of(self, count: int | None = None) -> None:
        """Push a tuple of the last so many values, or of what was pushed since the last mark."""
        if count is None:
            items = tuple(self.marked())
        elif len(self.stack) < count:
            raise IndexError
        else:
            items = tuple(self.stack[-count:])
            del self.stack[-count:]
        self.budget.build(8 * len(items))
        self.node("tuple", items).weight = weight(items)

    # What changes a container

    def append(self, items: list[Any]) -> None:
        """Give a list elements."""
        target = self._target()
        if target.kind == "instance":
            self.globals.change(target.name, "gives elements to", "gets_elements")
        elif target.kind != "list":
            self.damaged(f"appends to a {target.kind}")
        self.budget.build(16 * len(items))
        self._hold(target, items)

    def set_items(self, items: list[Any]) -> None:
        """Give a dict items."""
        if len(items) % 2:
            self.damaged("gives a dict a key without a value")
        target = self._target()
        if target.kind == "instance":
            self.globals.change(target.name, "gives items to", "gets_items")
        elif target.kind != "dict":
            self.damaged(f"gives a {target.kind} items as if it were a dict")
        self.budget.build(ENTRY_BYTES * (len(items) // 2))
        for key in items[::2]:
            self.keys.hash(key)
        self._hold(target, items)

    def build(self) -> None:
        """Give an object its state."""
        state = self.stack.pop()
        self.objects.set_state(self._target(), state)

    def _target(self) -> Node:
        target = self.stack[-1]
        if type(target) is not Node:
            self.damaged(f"changes a {type(target).__name__}")
        return target

    def _hold(self, target: Node, items: Sequence[Any]) -> None:
        if type(target.items) is list:
            target.items.extend(items)
        else:
            target.items = list(items)


class Objects:
    """What a pickle makes from globals and persistent ids."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._budget = machine.budget
        self._globals = machine.globals
        self._must_be_empty: list[object] = []
        self._attributes: list[Node] = []

    def named(self) -> None:
        """Push a global."""
        source = self._machine.source
        self._budget.build(SCALAR_BYTES)
        self._machine.stack.append(self._globals.named(source.line(), source.line()))

    def call(self) -> None:
        """Call a global."""
        arguments, function = self._machine.stack.pop(), self._machine.stack.pop()
        if not is_node(function, "global"):
            self._budget.refuse("calls something that isn't a global, but the result of another call")
        self._make(function, arguments)

    def new(self) -> None:
        """Make an object of a class without calling it."""
        arguments, kind = self._machine.stack.pop(), self._machine.stack.pop()
        if not is_node(kind, "global"):
            self._budget.refuse("makes an object of something that isn't a class")
        if self._globals.is_torchs(kind.name):
            self._budget.refuse(f"makes an object of {kind.name} without calling it")
        self._make(kind, arguments)

    def _make(self, function: Node, given: object) -> None:
        path = function.name
        if type(given) is not Node or given.kind != "tuple":
            self._machine.damaged(f"calls {path} with something that isn't a tuple")
        arguments = given.items
        if not fits(path, arguments, of_torch=self._globals.is_torchs(path)):
            self._budget.refuse(f"calls {path} with arguments that it never has in a checkpoint")
        self._globals.look_up(path)
        self._charge_copies(path, arguments)
        # A set and a Counter copy what they are made from; it may change afterwards.
        copied = list(arguments[0].items) if path in _COPYING and arguments else ()
        made = self._machine.node("instance", copied, path, arguments)
        if is_tensor(made):
            made.fact = self._machine.storages.tensor(path, arguments)
            self._must_be_empty += tensors_extras(path, arguments)
        elif path == "torch.Size":
            made.weight = arguments[0].weight

    def _charge_copies(self, path: str, arguments: Sequence[Any]) -> None:
        """Account for what a call copies from its arguments, each time: a list named once can be used often."""
        for argument in arguments:
            if type(argument) is str:
                self._budget.build(sys.getsizeof(argument))
            elif type(argument) is Node:
                self._budget.build(_copied_bytes(argument))
        if path in _COPYING and arguments:
            items = arguments[0].items
            for key in items if arguments[0].kind == "list" else items[::2]:
                self._machine.keys.hash(key)

    def set_state(self, target: Node, state: object) -> None:
        """Note an object's state; that of a dict goes into its attributes, entry by entry."""
        if target.kind != "instance":
            self._machine.damaged(f"sets the state of a {target.kind}")
        if self._globals.is_torchs(target.name) and not is_node(state, "dict"):
            self._budget.refuse(f"sets the state of an object that {target.name} made to something that isn't a dict")
        self._globals.change(target.name, "sets the state of", "gets_state")
        self._globals.look_up(target.name)
        for part in state.items if type(state) is Node and state.kind == "tuple" else (state,):
            if is_mapping(part):
                self._budget.build(ENTRY_BYTES * (len(part.items) // 2))
                for key in part.items[::2]:
                    self._machine.keys.hash(key)
        if target.name == "collections.OrderedDict":
            self._attributes.append(target)
        self._budget.build(SCALAR_BYTES)
        target.states = (*target.states, state) if len(target.states) < _MOST_STATES else self._too_many_states()

    def _too_many_states(self) -> tuple[Any, ...]:
        self._budget.refuse(f"sets the state of one object more than {_MOST_STATES} times")

    def storage(self) -> None:
        """Push the storage with a persistent id."""
        self._budget.build(TENSOR_BYTES)
        self._machine.stack.append(self._machine.storages.named(self._machine.stack.pop()))

    def check(self) -> None:
        """Refuse what changes what torch makes of a tensor, or hides a dict's methods; at the end, when all is made."""
        if not all(map(is_empty, self._must_be_empty)):
            self._budget.refuse(
                "has a tensor with hooks, metadata (a negation or conjugation) or a state, which change what it says"
            )
        for target in self._attributes:
            for state in target.states:
                if any(key != "_metadata" for key in state.items[::2]):
                    self._budget.refuse(
                        "gives an OrderedDict other attributes than _metadata; they could hide its methods"
                    )


_COPYING = frozenset({"builtins.set", "collections.Counter"})
# An object has one state; torch.save never writes a second one.
_MOST_STATES = 4


def _copied_bytes(argument: Node) -> int:
    if argument.kind == "instance" and argument.name == "_codecs.encode":
        return sys.getsizeof(argument.arguments[0])
    return ENTRY_BYTES * len(argument.items) if argument.kind != "tuple" else 8 * len(argument.items)


def _integer(machine: Machine, form: str) -> int:
    value: int = struct.unpack(form, machine.source.take(struct.calcsize(form)))[0]
    return value


def _pair(machine: Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


STOP = ord(".")
# By the opcode's byte; names as in the standard library's pickle.py.
_HANDLERS: Mapping[int, Callable[[Machine], object]] = {
    code[0]: handler
    for code, handler in {
        b"\x80": Machine.protocol,  # PROTO
        b"(": Machine.mark,  # MARK
        b"N": lambda machine: machine.scalar(None),  # NONE
        b"\x88": lambda machine: machine.scalar(True),  # NEWTRUE
        b"\x89": lambda machine: machine.scalar(False),  # NEWFALSE
        b"J": lambda machine: machine.scalar(_integer(machine, "<i")),  # BININT
        b"K": lambda machine: machine.scalar(machine.source.take(1)[0]),  # BININT1
        b"M": lambda machine: machine.scalar(_integer(machine, "<H")),  # BININT2
        b"\x8a": Machine.long,  # LONG1
        b"G": lambda machine: machine.scalar(struct.unpack(">d", machine.source.take(8))[0]),  # BINFLOAT
        b"X": lambda machine: machine.text(_integer(machine, "<I"), "surrogatepass"),  # BINUNICODE
        b"U": lambda machine: machine.text(machine.source.take(1)[0], "strict"),  # SHORT_BINSTRING
        b"}": lambda machine: machine.node("dict", []),  # EMPTY_DICT
        b"]": lambda machine: machine.node("list", []),  # EMPTY_LIST
        b"\x8f": lambda machine: machine.node("set", []),  # EMPTY_SET
        b")": lambda machine: machine.node("tuple", ()),  # EMPTY_TUPLE
        b"t": Machine.tuple_of,  # TUPLE
        b"\x85": lambda machine: machine.tuple_of(1),  # TUPLE1
        b"\x86": lambda machine: machine.tuple_of(2),  # TUPLE2
        b"\x87": lambda machine: machine.tuple_of(3),  # TUPLE3
        b"a": lambda machine: machine.append([machine.stack.pop()]),  # APPEND
        b"e": lambda machine: machine.append(machine.marked()),  # APPENDS
        b"s": lambda machine: machine.set_items(_pair(machine)),  # SETITEM
        b"u": lambda machine: machine.set_items(machine.marked()),  # SETITEMS
        b"h": lambda machine: machine.get(machine.source.take(1)[0]),  # BINGET
        b"j": lambda machine: machine.get(_integer(machine, "<I")),  # LONG_BINGET
        b"q": lambda machine: machine.put(machine.source.take(1)[0]),  # BINPUT
        b"r": lambda machine: machine.put(_integer(machine, "<I")),  # LONG_BINPUT
        b"c": lambda machine: machine.objects.named(),  # GLOBAL
        b"R": lambda machine: machine.objects.call(),  # REDUCE
        b"\x81": lambda machine: machine.objects.new(),  # NEWOBJ
        b"b": Machine.build,  # BUILD
        b"Q": lambda machine: machine.objects.storage(),  # BINPERSID
    }.items()
}


def _opcode_name(code: int) -> str:
    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    return names.get(code, f"0x{code:02x}")
