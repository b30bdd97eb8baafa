"""NumPy's arrays of Python objects, read without unpickling.

An array of objects is stored as a pickle, a program for a machine that can call anything. Here its instructions are only
read (`pickletools` decodes them, runs nothing) and carried out on a table of the five things that NumPy's own pickles of
arrays of numbers consist of; every other instruction or name is refused. So the published archives of AlphaTensor can be
read, and no file can do more than name numbers.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass, field

import numpy as np

from stlsearch.errors import InputError

MAX_STEPS = 100_000
MAX_OBJECTS = 64  # of the outer array: three are meant
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric", "_codecs")
_NAMES = ("_reconstruct", "ndarray", "dtype", "encode", "_frombuffer")
_REFUSED = "it holds pickled Python objects that are no arrays of numbers; they are not read, since a pickle can run anything"


@dataclass
class _Name:
    """A global that the pickle names; never imported."""

    name: str


@dataclass
class _Made:
    """What calling a global would make, and the state it would be given."""

    name: str
    arguments: tuple
    state: object = None


@dataclass
class _Machine:
    stack: list = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def since_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def read_object_array(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file: of numbers, or of objects that are arrays of numbers.

    Raises:
        InputError: damaged, or anything else.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if not dtype.hasobject:
            stream.seek(0)
            return np.load(stream, allow_pickle=False)
        made = _array(_carried_out(stream.read()))
        if made.shape != shape:
            raise InputError(f"its header says shape {shape}, the content has {made.shape}")
        return made
    except InputError:
        raise
    except Exception as error:  # damaged bytes fail in a dozen ways, all of one meaning
        raise InputError(f"not a readable array: {error!s:.120}") from None


def _carried_out(pickle: bytes) -> object:
    machine = _Machine()
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if steps > MAX_STEPS:
            raise InputError(_REFUSED)
        if opcode.name == "STOP":
            return machine.stack[-1]
        _step(machine, opcode.name, argument)
    raise InputError("the pickle has no end")


def _step(machine: _Machine, name: str, argument: object) -> None:
    stack = machine.stack
    match name:
        case "PROTO" | "FRAME":
            pass
        case "MARK":
            machine.marks.append(len(stack))
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE":
            stack.append(argument)
        case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
            stack.append(bytes(argument))  # type: ignore[call-overload]
        case "SHORT_BINSTRING" | "BINSTRING" | "STRING":  # of Python 2
            stack.append(argument)
        case "EMPTY_TUPLE" | "EMPTY_LIST":
            stack.append(() if name == "EMPTY_TUPLE" else [])
        case "TUPLE" | "LIST":
            items = machine.since_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            count = int(name[-1])
            items = [stack.pop() for _ in range(count)][::-1]
            stack.append(tuple(items))
        case "APPENDS":
            items = machine.since_mark()
            stack[-1].extend(items)
        case "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        case "MEMOIZE":
            machine.memo[len(machine.memo)] = stack[-1]
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            machine.memo[int(str(argument))] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(machine.memo[int(str(argument))])
        case "GLOBAL":
            module, _, found = str(argument).partition(" ")
            stack.append(_named(module, found))
        case "STACK_GLOBAL":
            found, module = stack.pop(), stack.pop()
            stack.append(_named(module, found))
        case "REDUCE":
            arguments, callee = stack.pop(), stack.pop()
            if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
                raise InputError(_REFUSED)
            stack.append(_Made(callee.name, arguments))
        case "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Made):
                raise InputError(_REFUSED)
            stack[-1].state = state
        case _:
            raise InputError(_REFUSED)


def _named(module: object, name: object) -> _Name:
    if module not in _MODULES or name not in _NAMES:
        raise InputError(_REFUSED)
    return _Name(str(name))


def _array(value: object) -> np.ndarray:
    """The array that a pickle of NumPy describes: numbers, or a few objects that are such arrays."""
    if not isinstance(value, _Made):
        raise InputError(_REFUSED)
    if value.name == "_frombuffer":  # since protocol 5: (bytes, dtype, shape, order)
        content, described, shape, order = value.arguments
    else:
        if value.name != "_reconstruct" or not isinstance(value.state, tuple) or len(value.state) != 5:
            raise InputError(_REFUSED)
        _, shape, described, by_column, content = value.state
        order = "F" if by_column else "C"
    dtype = _dtype(described)
    if not isinstance(shape, tuple) or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise InputError(_REFUSED)
    if dtype is None:
        if not isinstance(content, list) or len(content) > MAX_OBJECTS or shape != (len(content),):
            raise InputError(_REFUSED)
        if any(_is_objects(item) for item in content):
            raise InputError(_REFUSED)
        outer = np.empty(len(content), dtype=object)
        for index, item in enumerate(content):
            outer[index] = _array(item)
        return outer
    array = np.frombuffer(_bytes(content), dtype=dtype)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _is_objects(value: object) -> bool:
    return isinstance(value, _Made) and isinstance(value.state, tuple) and len(value.state) == 5 and _dtype(value.state[2]) is None


def _dtype(value: object) -> np.dtype | None:
    """A type of numbers; None for Python objects."""
    if not isinstance(value, _Made) or value.name != "dtype" or not value.arguments:
        raise InputError(_REFUSED)
    code = value.arguments[0]
    if code in ("O", "O8"):
        return None
    if not isinstance(code, str):
        raise InputError(_REFUSED)
    if code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
        raise InputError(f"its arrays hold {code!r:.20}, not numbers")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "|"
    return np.dtype(f"{order if order in ('<', '>') else ''}{code}")


def _bytes(value: object) -> bytes:
    """Bytes as they are, or as protocol 2 writes them: _codecs.encode(text, 'latin1')."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, _Made) and value.name == "encode" and value.arguments[1:] == ("latin1",) and isinstance(value.arguments[0], str):
        return value.arguments[0].encode("latin1")
    if isinstance(value, str):  # a string of Python 2
        return value.encode("latin1")
    raise InputError(_REFUSED)
