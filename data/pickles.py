"""Reading pickles of plain data, as CIFAR's files are, with a machine that cannot call anything.

Python's own unpickler imports what a file names and calls it. This one knows the opcodes that plain data needs, in the
protocols 0 to 4, and builds numbers, texts, tuples, lists and dicts. A NumPy array of bytes, which a pickle describes
as calls, is recognised by the shape of its description, and made here. Anything else is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_MARK = object()
_MAX_MEMO = 1 << 24


@dataclass(slots=True)
class _Name:
    """Something that a pickle would import."""

    module: str
    name: str


@dataclass(slots=True)
class _Made:
    """What a call or an object with a state would be."""

    function: _Name
    arguments: Any
    state: Any = None


_ARRAY = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_DTYPE = ("numpy", "dtype")
_ENCODE = ("_codecs", "encode")
_NO_BYTES = ("__builtin__", "bytes")
"""How the protocols before 3 write bytes, and no bytes."""
_BYTE_TYPES = ("u1", b"u1")


def read_pickle(content: bytes) -> Any:
    """The value in `content`: None, bool, int, float, bytes, str, tuple, list, dict, and arrays of bytes.

    A text of Python 2 (str) becomes bytes. Raises ValueError if it is no pickle, is damaged, or holds anything else.
    """
    machine = _Machine()
    try:
        for opcode, argument, place in pickletools.genops(content):
            if opcode.name == "STOP":
                return _plain(machine.stack.pop())
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise ValueError(f"the opcode {opcode.name} at byte {place}, which plain data does not need")
            action(machine, argument)
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    raise ValueError("a pickle without an end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def to_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off with it."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:  # an IndexError below the bottom
            place -= 1
            if place < 0:
                raise IndexError("no mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def get(self, index: int) -> None:
        self.stack.append(self.memo[int(index)])

    def put(self, index: int) -> None:
        if int(index) > _MAX_MEMO:
            raise ValueError(f"the memo's place {index}")
        self.memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError("too few for a tuple")
        del self.stack[-count:]
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        _require(self.stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = _require(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_require(key, bytes | str | int)] = value  # a tuple of tuples of tuples could exhaust the stack

    def dict_of(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def one(self) -> list[Any]:
        return [self.stack.pop()]

    def two(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(_require(module, str), _require(name, str)))

    def reduce(self, _: Any) -> None:
        arguments, function = _require(self.stack.pop(), tuple), _require(self.stack.pop(), _Name)
        called = function.module, function.name
        if called == _ENCODE:
            self.stack.append(_encoded(*arguments))
        else:
            self.stack.append(b"" if (called, arguments) == (_NO_BYTES, ()) else _Made(function, arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        _require(self.stack[-1], _Made).state = state


def _encoded(text: Any, codec: Any) -> bytes:
    if codec != "latin1":
        raise ValueError(f"bytes encoded as {codec!r}")
    return str(_require(text, str)).encode("latin-1")


def _require(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__.strip('_')} where {getattr(kind, '__name__', kind)} belongs")
    return value


def _python2(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _global(machine: _Machine, argument: str) -> None:
    module, name = argument.split(" ")
    machine.push(_Name(module, name))


_VALUES = ("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
           "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
           "BINBYTES8")  # fmt: skip
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(_TEXTS, lambda m, text: m.push(_python2(text))),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_MARK),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "DICT": lambda m, _: m.dict_of(m.to_mark()),
    "APPEND": lambda m, _: m.extend(m.one()),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "SETITEM": lambda m, _: m.set_items(m.two()),
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _plain(value: Any) -> Any:
    """`value`, with the descriptions of arrays inside a dict's or list's first level made into arrays."""
    if isinstance(value, dict):
        return {key: _described(item) for key, item in value.items()}
    return [_described(item) for item in value] if isinstance(value, list) else _described(value)


def _described(value: Any) -> Any:
    if isinstance(value, _Name):
        raise ValueError(f"{value.module}.{value.name}, which plain data does not need")
    return _array(value) if isinstance(value, _Made) else value


def _array(made: _Made) -> np.ndarray[Any, Any]:
    """The array of bytes that a call of _reconstruct and its state (version, shape, dtype, order, content) describe."""
    if (made.function.module, made.function.name) not in _ARRAY:
        raise ValueError(f"{made.function.module}.{made.function.name}, which plain data does not need")
    _, shape, dtype, fortran, content = _require(made.state, tuple)
    named = isinstance(dtype, _Made) and (dtype.function.module, dtype.function.name) == _DTYPE
    if not named or dtype.arguments[0] not in _BYTE_TYPES:
        raise ValueError("an array of something else than bytes")
    sides = [_require(side, int) for side in _require(shape, tuple)]
    values = np.frombuffer(_require(content, bytes), np.uint8)
    if min(sides, default=0) < 0 or values.size != int(np.prod(sides, dtype=object)):
        raise ValueError(f"an array of shape {tuple(sides)} with {values.size:,} bytes")
    return values.reshape(sides, order="F" if fortran else "C")
