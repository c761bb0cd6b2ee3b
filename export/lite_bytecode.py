"""Static check of TorchScript Lite bytecode: in bounds, a balanced stack, and it ends.

The mobile interpreter trusts registers, indexes and the depth of its stack (it takes them
without looking), so a file with other numbers could read or write beside its memory. Loops are not
allowed: a traced edge has none. Semantics from ``torch/csrc/jit/mobile/interpreter.cpp``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.lite_operators import OPERATORS

MAX_INSTRUCTIONS = 500_000
MAX_REGISTERS = 100_000

_TYPE = re.compile(r"[A-Za-z, \[\]]{1,200}")
#: ``forward`` takes the module itself and one tensor.
_ARGUMENTS = 2


class BytecodeError(ValueError):
    """The bytecode table is malformed or would leave its own stack, registers or tables."""


class ForbiddenOperatorError(ValueError):
    """The bytecode uses an operator or instruction that no edge needs."""


@dataclass(frozen=True)
class _Function:
    instructions: tuple[tuple[str, int, int], ...]
    operators: tuple[str, ...]
    arities: tuple[int, ...]
    constants: int
    types: int
    registers: int


@dataclass(frozen=True)
class _Step:
    """What one instruction takes from the stack and puts on it, and where it goes on."""

    takes: int
    gives: int
    jumps: tuple[int, ...] = (1,)


def check_bytecode(table: Any, version: int | None, module: str) -> frozenset[str]:
    """Verify a walked ``bytecode.pkl``.

    Args:
        table: the value of the walked pickle: (version, (name, body, schema)).
        version: the bytecode version that the manifest states.
        module: the qualified class of the object in ``data.pkl``; the runtime crashes where the
            method is of another class.

    Returns:
        The qualified names of the operators that it may call.

    Raises:
        BytecodeError: another version, not exactly one method ``forward`` of one tensor, an
            index out of range, or a stack that would run empty.
        ForbiddenOperatorError: an operator or instruction that is not on the allow-list.
    """
    if not isinstance(table, tuple) or len(table) != 2 or type(table[0]) is not int:
        raise BytecodeError("it does not hold a version and exactly one method")
    if table[0] != version:
        raise BytecodeError(f"it is of version {table[0]} and the manifest says {version}")
    method = table[1]
    if not isinstance(method, tuple) or len(method) != 3 or not isinstance(method[0], str):
        raise BytecodeError("its method is no (name, body, schema)")
    if method[0] != f"{module}.forward":
        raise BytecodeError(f"its method is called {method[0][:100]!r}, not {module}.forward")
    _check_schema(method[2], module)
    function = _read_function(method[1])
    _check_flow(function)
    return frozenset(function.operators)


def _fields(value: Any, names: tuple[str, ...], what: str) -> list[Any]:
    """Return the values of ((name, value), ...) with exactly these names in this order."""
    if (
        not isinstance(value, tuple)
        or len(value) != len(names)
        or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in value)
        or tuple(pair[0] for pair in value if isinstance(pair[0], str)) != names
    ):
        raise BytecodeError(f"its {what} does not hold exactly {', '.join(names)}")
    return [pair[1] for pair in value]


def _check_schema(schema: Any, module: str) -> None:
    arguments, returns = _fields(schema, ("arguments", "returns"), "schema")
    for value, count, what in ((arguments, _ARGUMENTS, "takes"), (returns, 1, "returns")):
        if not isinstance(value, tuple) or len(value) != count:
            raise BytecodeError(f"its forward {what} other than {count} values")
    types = [
        _fields(value, ("name", "type", "default_value"), "schema")[1]
        for value in (*arguments, *returns)
    ]
    if types != [module, "Tensor", "Tensor"]:
        raise BytecodeError("its forward does not take and return one Tensor")


def _read_function(body: Any) -> _Function:
    names = ("instructions", "operators", "constants", "types", "register_size")
    instructions, operators, constants, types, registers = _fields(body, names, "body")
    if not all(isinstance(part, tuple) for part in (instructions, operators, constants, types)):
        raise BytecodeError("its body does not hold tables")
    if type(registers) is not int or not 0 <= registers <= MAX_REGISTERS:
        raise BytecodeError("its number of registers is out of range")
    if not 1 <= len(instructions) <= MAX_INSTRUCTIONS:
        raise BytecodeError(f"it has {len(instructions)} instructions")
    for name in types:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise BytecodeError(f"its type {name!r:.100} is not a plain one")
    for instruction in instructions:
        _check_triple(instruction, (str, int, int), "instruction")
    arities = tuple(_arity(operator) for operator in operators)
    names = tuple(operator[0] for operator in operators)
    return _Function(instructions, names, arities, len(constants), len(types), registers)


def _check_triple(value: Any, kinds: tuple[type, ...], what: str) -> None:
    if not isinstance(value, tuple) or tuple(type(part) for part in value) != kinds:
        raise BytecodeError(f"an {what} of it is malformed")


def _arity(operator: Any) -> int:
    _check_triple(operator, (str, str, int), "operator")
    name, overload, arity = operator
    if name not in OPERATORS:
        raise ForbiddenOperatorError(
            f"it uses the operator {name[:100]!r}, which is not on the allow-list of "
            "export/lite_operators.py"
        )
    if not 0 <= arity <= 64 or len(overload) > 64:
        raise BytecodeError(f"operator {name!r} takes {arity} arguments")
    return int(arity)


def _check_flow(function: _Function) -> None:
    """Follow every path; the stack's depth at an instruction must not depend on the path."""
    depths = {0: _ARGUMENTS}
    for at, instruction in enumerate(function.instructions):
        # Instructions that no path reaches must be in bounds too.
        step = _step(function, instruction)
        depth = depths.get(at)
        if depth is not None and depth < step.takes:
            raise BytecodeError(f"its stack runs empty at instruction {at}")
        for jump in step.jumps:
            target = at + jump
            # Forward only: whatever the file says, it comes to an end.
            if jump < 1 or target >= len(function.instructions):
                raise BytecodeError(f"it jumps from instruction {at} to {target}")
            if depth is None:
                continue
            after = depth - step.takes + step.gives
            if depths.setdefault(target, after) != after:
                raise BytecodeError(f"its stack at instruction {target} depends on the path")


def _step(function: _Function, instruction: tuple[str, int, int]) -> _Step:
    name, x, n = instruction
    rule = _RULES.get(name)
    if rule is None:
        raise ForbiddenOperatorError(f"it has the instruction {name[:100]!r}, which no edge needs")
    return rule(function, x, n)


def _index(value: int, size: int, what: str) -> None:
    if not 0 <= value < size:
        raise BytecodeError(f"it uses {what} {value} of {size}")


def _registers(function: _Function, first: int, count: int) -> None:
    # Registers are numbered from 1.
    if first < 1 or count < 0 or first + count - 1 > function.registers:
        raise BytecodeError(f"it uses register {first + count - 1} of {function.registers}")


def _operator(f: _Function, x: int, _: int) -> _Step:
    _index(x, len(f.arities), "operator")
    return _Step(f.arities[x], 1)


def _operator_n(f: _Function, x: int, n: int) -> _Step:
    _index(x, len(f.arities), "operator")
    _index(n, 1 << 16, "argument count")
    return _Step(n, 1)


def _load(f: _Function, x: int, _: int) -> _Step:
    _registers(f, x, 1)
    return _Step(0, 1)


def _store(f: _Function, x: int, _: int) -> _Step:
    _registers(f, x, 1)
    return _Step(1, 0)


def _store_n(f: _Function, x: int, n: int) -> _Step:
    _registers(f, x, n)
    return _Step(n, 0)


def _drop_register(f: _Function, x: int, _: int) -> _Step:
    _registers(f, x, 1)
    return _Step(0, 0)


def _constant(f: _Function, x: int, _: int) -> _Step:
    _index(x, f.constants, "constant")
    return _Step(0, 1)


def _list(f: _Function, x: int, n: int) -> _Step:
    _index(x, f.types, "type")
    _index(n, 1 << 16, "list length")
    return _Step(n, 1)


def _tuple(_: _Function, x: int, __: int) -> _Step:
    _index(x, 1 << 16, "tuple length")
    return _Step(x, 1)


def _unpack(_: _Function, x: int, __: int) -> _Step:
    _index(x, 1 << 16, "list length")
    return _Step(1, x)


def _fixed(takes: int, gives: int) -> Callable[[_Function, int, int], _Step]:
    return lambda f, x, n: _Step(takes, gives)


_RULES: dict[str, Callable[[_Function, int, int], _Step]] = {
    "OP": _operator,
    "OPN": _operator_n,
    "LOAD": _load,
    "MOVE": _load,
    "STORE": _store,
    "STOREN": _store_n,
    "DROPR": _drop_register,
    "DROP": _fixed(1, 0),
    "LOADC": _constant,
    "LIST_CONSTRUCT": _list,
    "LIST_UNPACK": _unpack,
    "TUPLE_CONSTRUCT": _tuple,
    "JF": lambda f, x, n: _Step(1, 0, (1, x)),
    "JMP": lambda f, x, n: _Step(0, 0, (x,)),
    # Reads the message and the class of the exception, and ends there.
    "RAISE_EXCEPTION": lambda f, x, n: _Step(2, 0, ()),
    "RET": lambda f, x, n: _Step(1, 0, ()),
}
