"""Walks a pickle opcode by opcode into inert records; nothing is imported, called or built.

``torch`` writes TorchScript Lite data as pickles of protocol 2 with few opcodes. This reads those
only: a name is kept as text, a call as the pair (name, arguments), and every name must be on
the caller's allow-list. `pickletools.genops` of the standard library does the tokenizing.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_OPCODES = 2_000_000
MAX_TEXT = 1 << 16
#: A reader that recurses over what it built must not run out of stack.
MAX_DEPTH = 64


class PickleError(ValueError):
    """The bytes are not a pickle as torch writes it."""


class ForbiddenNameError(PickleError):
    """The pickle names or calls something that is not on the allow-list."""


class NonFiniteNumberError(PickleError):
    """The pickle holds a float that is NaN or infinite."""


@dataclass(frozen=True)
class Name:
    """A global that would have been imported, as ``module name``."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call that would have been made."""

    function: Name
    arguments: tuple[Any, ...]


@dataclass
class Instance:
    """An object that would have been made, and the state it would have been given."""

    kind: Name
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id: how torch refers to a storage."""

    key: Any


@dataclass(frozen=True)
class AllowList:
    """Which names may appear, be called, and be made; each test is given ``module name``."""

    name: Callable[[str], bool]
    call: Callable[[str], bool]
    make: Callable[[str], bool]


@dataclass
class Walked:
    """The value that the pickle describes, and everything in it that needs a closer look."""

    value: Any = None
    calls: list[Call] = field(default_factory=list)
    persistent: list[Persistent] = field(default_factory=list)


_MARK = object()


class _Machine:
    """The stack, the memo and the few opcodes that torch writes."""

    def __init__(self, allowed: AllowList) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.found = Walked()
        # By identity, which is safe because nothing that was made is ever dropped.
        self.depths: dict[int, int] = {}
        self.unfilled: set[int] = set()

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("it takes more than it has")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise PickleError("it takes more than it has")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def push(self, value: Any, parts: Iterable[Any] = ()) -> None:
        self.stack.append(value)
        self.deepen(value, parts)

    def deepen(self, value: Any, parts: Iterable[Any]) -> None:
        depth = 0
        for part in parts:
            depth = max(depth, self.depths.get(id(part), 0))
        if depth >= MAX_DEPTH:
            raise PickleError(f"it nests deeper than {MAX_DEPTH}")
        self.depths[id(value)] = depth + 1

    def push_unfilled(self, value: Any) -> None:
        self.unfilled.add(id(value))
        self.push(value)

    def fill(self, kind: type, parts: Iterable[Any]) -> Any:
        """Return the container on top, which is filled once, before anything can hold it."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise PickleError(f"it fills what is no {kind.__name__}")
        target = self.stack[-1]
        if id(target) not in self.unfilled:
            raise PickleError(f"it fills a {kind.__name__} twice")
        self.unfilled.remove(id(target))
        self.deepen(target, parts)
        return target

    def tuple_of(self, values: list[Any]) -> None:
        self.push(tuple(values), values)

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise PickleError(f"it recalls {key}, which it never kept")
        value = self.memo[key]
        if id(value) in self.unfilled:
            raise PickleError(f"it recalls {key}, which is not finished")
        self.stack.append(value)

    def put(self, key: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("it keeps what is not there")
        self.memo[key] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        self.fill(list, values).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.fill(dict, values)
        if len(values) % 2 or any(not isinstance(key, str) for key in values[::2]):
            raise PickleError("it has a key that is no text")
        target.update(zip(values[::2], values[1::2], strict=True))

    def name(self, text: str) -> None:
        if not self.allowed.name(text):
            raise ForbiddenNameError(f"it names {text!r}")
        self.stack.append(Name(text))

    def callee(self, allowed: Callable[[str], bool]) -> tuple[Name, tuple[Any, ...]]:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ForbiddenNameError("it calls what is no name")
        if not allowed(function.text):
            raise ForbiddenNameError(f"it calls {function.text!r}")
        return function, arguments

    def reduce(self) -> None:
        call = Call(*self.callee(self.allowed.call))
        self.found.calls.append(call)
        self.push(call, call.arguments)

    def make(self) -> None:
        kind, arguments = self.callee(self.allowed.make)
        if arguments:
            raise PickleError(f"it makes {kind.text!r} from arguments")
        self.push_unfilled(Instance(kind))

    def build(self) -> None:
        state = self.pop()
        self.fill(Instance, (state,)).state = state

    def persist(self) -> None:
        persistent = Persistent(self.pop())
        self.found.persistent.append(persistent)
        self.push(persistent, (persistent.key,))

    def number(self, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteNumberError(f"it holds the number {value}")
        self.stack.append(value)

    def text(self, value: str) -> None:
        if len(value) > MAX_TEXT:
            raise PickleError(f"it holds a text of {len(value)} characters")
        self.stack.append(value)


_Action = Callable[[_Machine, Any], None]

_ACTIONS: dict[str, _Action] = {
    "MARK": lambda m, _: m.stack.append(_MARK),
    "BINUNICODE": lambda m, a: m.text(a),
    "BININT": lambda m, a: m.stack.append(a),
    "BININT1": lambda m, a: m.stack.append(a),
    "BININT2": lambda m, a: m.stack.append(a),
    "LONG1": lambda m, a: m.stack.append(a),
    "BINFLOAT": lambda m, a: m.number(a),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_LIST": lambda m, _: m.push_unfilled([]),
    "EMPTY_DICT": lambda m, _: m.push_unfilled({}),
    "TUPLE": lambda m, _: m.tuple_of(m.pop_to_mark()),
    "TUPLE1": lambda m, _: m.tuple_of(m.pop_many(1)),
    "TUPLE2": lambda m, _: m.tuple_of(m.pop_many(2)),
    "TUPLE3": lambda m, _: m.tuple_of(m.pop_many(3)),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "BINPUT": lambda m, a: m.put(a),
    "LONG_BINPUT": lambda m, a: m.put(a),
    "BINGET": lambda m, a: m.get(a),
    "LONG_BINGET": lambda m, a: m.get(a),
    "GLOBAL": lambda m, a: m.name(a),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.make(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.persist(),
}


def walk(data: bytes, allowed: AllowList) -> Walked:
    """Walk one pickle that fills ``data`` exactly.

    Args:
        data: the pickle, protocol 2.
        allowed: the names that may appear.

    Returns:
        What it describes: ints, floats, texts, tuples, lists and dicts as they are, everything
        else as ``Name``, ``Call``, ``Instance`` or ``Persistent``. Nothing contains itself.

    Raises:
        ForbiddenNameError: a name or a call that is not allowed.
        NonFiniteNumberError: a float that is NaN or infinite.
        PickleError: an opcode that torch never writes, or a malformed pickle.
    """
    machine = _Machine(allowed)
    end = -1
    for count, (opcode, argument, position) in enumerate(_opcodes(data)):
        if count > MAX_OPCODES:
            raise PickleError(f"it has more than {MAX_OPCODES} opcodes")
        if count == 0 and (opcode, argument) != ("PROTO", 2):
            raise PickleError("it does not start as a pickle of protocol 2")
        if opcode == "STOP":
            end = position + 1
        elif count:
            action = _ACTIONS.get(opcode)
            if action is None:
                raise PickleError(f"it has the opcode {opcode}, which torch never writes")
            action(machine, argument)
    if end != len(data) or len(machine.stack) != 1:
        raise PickleError("it does not end where its file ends")
    machine.found.value = machine.pop()
    return machine.found


def _opcodes(data: bytes) -> Iterator[tuple[str, Any, int]]:
    try:
        for opcode, argument, position in pickletools.genops(data):
            yield opcode.name, argument, position or 0
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise PickleError(f"it is no pickle: {error}") from error
