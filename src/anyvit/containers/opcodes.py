"""What each pickle opcode does to the machine's stack, on plain data alone.

Source: the opcodes' meaning, https://github.com/python/cpython/blob/v3.11.9/Lib/pickletools.py
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from anyvit.containers.inert import Inert
from anyvit.errors import FileError

if TYPE_CHECKING:
    from anyvit.containers.unpickle import Machine

INTEGER_LIMIT = 1024
"""Longest integer in bytes; Python refuses to print longer ones, and no checkpoint needs them."""
SPAN_FROM = 256
"""Byte strings of at least that many bytes stay where they are."""

Data = bytes | memoryview


class Global(NamedTuple):
    """A name that the pickle refers to, module and attribute: never imported."""

    type: str


class Span(NamedTuple):
    """A byte string that was left where it lies: offset in the pickle's data, and size, both in bytes."""

    offset: int
    size: int


class CutError(Exception):
    """The data ends inside an opcode's argument."""


_U2, _U4, _U8 = (struct.Struct(f"<{c}").unpack_from for c in "HIQ")
_I4, _F8 = struct.Struct("<i").unpack_from, struct.Struct(">d").unpack_from
_SCALARS = frozenset({str, int, float, bool, bytes, complex, type(None), Inert, Global, Span})


def hashable(key: Any, depth: int = 2) -> Any:
    """A value that may stand as a key.

    Tuples are small and followed two levels only: hashing recurses in C without a limit.
    """
    if type(key) in _SCALARS:
        return key
    if type(key) is tuple and depth and len(key) <= 32:
        for part in key:
            hashable(part, depth - 1)
        return key
    raise TypeError(f"a {type(key).__name__} as a key")


def text(raw: Data) -> str:
    """A unicode string; lone surrogates, which pickle allows, are spelled out so that they can be printed."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return str(raw, "utf-8", "surrogatepass").encode("utf-8", "backslashreplace").decode()


def _text(m: Machine, start: int, size: int) -> int:
    m.stack.append(text(m.take(start, size)))
    return start + size


def _binary(m: Machine, start: int, size: int) -> int:
    if size < SPAN_FROM:
        m.stack.append(bytes(m.take(start, size)))
    elif start + size > len(m.data):
        raise CutError
    else:
        m.stack.append(Span(start, size))
    return start + size


def _py2_text(m: Machine, start: int, size: int) -> int:
    """Python 2's str is text or bytes; nothing tells which, so short ASCII is taken for text."""
    end = _binary(m, start, size)
    if type(m.stack[-1]) is bytes and m.stack[-1].isascii():
        m.stack[-1] = m.stack[-1].decode("ascii")
    return end


def _quoted(m: Machine, p: int) -> int:
    import codecs

    raw, p = m.line(p)
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    # Undoes the backslashes of a quoted Python 2 string; as pickle itself does it.
    value: bytes = codecs.escape_decode(raw[1:-1])[0]  # type: ignore[attr-defined]
    m.stack.append(value.decode("ascii") if value.isascii() else value)
    return p


def _unicode_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    m.stack.append(text(str(raw, "raw-unicode-escape").encode("utf-8", "surrogatepass")))
    return p


def _integer_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    if raw in (b"00", b"01"):
        m.stack.append(raw == b"01")
        return p
    if len(raw) > INTEGER_LIMIT:
        raise ValueError("an implausibly long integer")
    m.stack.append(int(raw.rstrip(b"L")))
    return p


def _float_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    m.stack.append(float(raw))
    return p


def _long(m: Machine, start: int, size: int) -> int:
    if not 0 <= size <= INTEGER_LIMIT:
        raise ValueError("an implausibly long integer")
    m.stack.append(int.from_bytes(m.take(start, size), "little", signed=True))
    return start + size


def _push(m: Machine, value: Any, p: int) -> int:
    m.stack.append(value)
    return p


def _byte(m: Machine, p: int) -> int:
    m.stack.append(m.data[p])
    return p + 1


def _short(m: Machine, p: int) -> int:
    m.stack.append(_U2(m.data, p)[0])
    return p + 2


def _signed(m: Machine, p: int) -> int:
    m.stack.append(_I4(m.data, p)[0])
    return p + 4


def _double(m: Machine, p: int) -> int:
    m.stack.append(_F8(m.data, p)[0])
    return p + 8


def _unicode4(m: Machine, p: int) -> int:
    start = p + 4
    end = start + _U4(m.data, p)[0]
    if end > len(m.data):
        raise CutError
    m.stack.append(text(m.data[start:end]))
    return end


def _tuple(m: Machine, p: int) -> int:
    items = m.stack
    m.stack = stack = m.outer.pop()
    stack.append(tuple(items))
    return p


def _tuple_of(m: Machine, count: int, p: int) -> int:
    stack = m.stack
    if len(stack) < count:
        raise IndexError("too few values for a tuple")
    stack[-count:] = [tuple(stack[-count:])]
    return p


def _gather(m: Machine, convert: Callable[[list[Any]], Any], p: int) -> int:
    items = m.marked()
    m.stack.append(convert(items))
    return p


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return {hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _mark(m: Machine, p: int) -> int:
    m.outer.append(m.stack)
    m.stack = []
    return p


def _pop(m: Machine, p: int) -> int:
    if m.stack:
        m.stack.pop()
    else:
        m.marked()
    return p


def _pop_mark(m: Machine, p: int) -> int:
    m.marked()
    return p


def _get(m: Machine, index: int, p: int) -> int:
    m.stack.append(m.memo[index])
    return p


def _put(m: Machine, index: int, p: int) -> int:
    m.memo[index] = m.stack[-1]
    return p


def _get1(m: Machine, p: int) -> int:
    m.stack.append(m.memo[m.data[p]])
    return p + 1


def _put1(m: Machine, p: int) -> int:
    m.memo[m.data[p]] = m.stack[-1]
    return p + 1


def _get4(m: Machine, p: int) -> int:
    m.stack.append(m.memo[_U4(m.data, p)[0]])
    return p + 4


def _put4(m: Machine, p: int) -> int:
    m.memo[_U4(m.data, p)[0]] = m.stack[-1]
    return p + 4


def _get_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    return _get(m, int(raw), p)


def _put_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    return _put(m, int(raw), p)


def _extend(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is Inert:
        target.items = target.items if target.items is not None else []
        target = target.items
    if type(target) is not list:
        raise TypeError(f"items appended to a {type(target).__name__}")
    target.extend(items)


def _update(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is Inert:
        target.items = target.items if target.items is not None else {}
        target = target.items
    if type(target) is not dict:
        raise TypeError(f"items set in a {type(target).__name__}")
    target.update(_pairs(items))


def _append(m: Machine, p: int) -> int:
    _extend(m, [m.stack.pop()])
    return p


def _appends(m: Machine, p: int) -> int:
    _extend(m, m.marked())
    return p


def _set_item(m: Machine, p: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _update(m, [key, value])
    return p


def _set_items(m: Machine, p: int) -> int:
    _update(m, m.marked())
    return p


def _global(m: Machine, p: int) -> int:
    module, p = m.line(p)
    name, p = m.line(p)
    m.stack.append(m.find(text(module), text(name)))
    return p


def _stack_global(m: Machine, p: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError("a global whose name is no text")
    m.stack.append(m.find(module, name))
    return p


def _reduce(m: Machine, p: int) -> int:
    args = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], args)
    return p


def _new_ex(m: Machine, p: int) -> int:
    named, args = m.stack.pop(), m.stack.pop()
    if type(named) is not dict or type(args) is not tuple:
        raise TypeError("an object made of no arguments")
    m.charge(len(args))
    m.stack[-1] = m.call(m.stack[-1], (*args, named) if named else args)
    return p


def _instance(m: Machine, p: int) -> int:
    module, p = m.line(p)
    name, p = m.line(p)
    args = tuple(m.marked())
    m.stack.append(m.call(m.find(text(module), text(name)), args))
    return p


def _object(m: Machine, p: int) -> int:
    target, *args = m.marked()
    m.stack.append(m.call(target, tuple(args)))
    return p


def _build(m: Machine, p: int) -> int:
    state = m.stack.pop()
    target = m.stack[-1]
    if type(target) is Inert:
        if type(state) is tuple and len(state) == 2 and all(s is None or type(s) is dict for s in state):
            # An object with __slots__: its attributes come in two dicts.
            m.charge(sum(len(part) for part in state if part))
            state = {**(state[0] or {}), **(state[1] or {})}
        target.state = state
    elif hasattr(target, "set_state"):
        target.set_state(state)
    elif type(target) not in (dict, list):  # attributes of an OrderedDict (a state dict's _metadata) are left
        raise TypeError(f"attributes of a {type(target).__name__}")
    return p


def _persistent(m: Machine, p: int) -> int:
    if m.persistent is None:
        raise ValueError("a reference to something outside of the pickle")
    m.stack[-1] = m.persistent(m.stack[-1])
    return p


def _persistent_line(m: Machine, p: int) -> int:
    raw, p = m.line(p)
    m.stack.append(text(raw))
    return _persistent(m, p)


def _memoize(m: Machine, p: int) -> int:
    m.memo[len(m.memo)] = m.stack[-1]
    return p


def _protocol(m: Machine, p: int) -> int:
    if m.data[p] > 5:
        raise FileError(f"{m.name}: a pickle of an unknown protocol", found=m.data[p], expected="0 to 5")
    return p + 1


def _frame(m: Machine, p: int) -> int:
    if p + 8 + _U8(m.data, p)[0] > len(m.data):
        raise CutError
    return p + 8


def _refuse(m: Machine, p: int) -> int:
    raise ValueError("an instruction that means nothing")


_HANDLERS: dict[bytes, Callable[[Machine, int], int]] = {
    b"(": _mark, b"0": _pop, b"1": _pop_mark, b"2": lambda m, p: _push(m, m.stack[-1], p),
    b"F": _float_line, b"I": _integer_line, b"L": _integer_line, b"J": _signed, b"K": _byte, b"M": _short,
    b"N": lambda m, p: _push(m, None, p), b"\x88": lambda m, p: _push(m, True, p),
    b"\x89": lambda m, p: _push(m, False, p), b"G": _double,
    b"\x8a": lambda m, p: _long(m, p + 1, m.data[p]), b"\x8b": lambda m, p: _long(m, p + 4, _I4(m.data, p)[0]),
    b"P": _persistent_line, b"Q": _persistent, b"R": _reduce, b"b": _build, b"c": _global, b"\x93": _stack_global,
    b"i": _instance, b"o": _object, b"\x81": _reduce, b"\x92": _new_ex,
    b"S": _quoted, b"T": lambda m, p: _py2_text(m, p + 4, _U4(m.data, p)[0]),
    b"U": lambda m, p: _py2_text(m, p + 1, m.data[p]), b"V": _unicode_line, b"X": _unicode4,
    b"\x8c": lambda m, p: _text(m, p + 1, m.data[p]), b"\x8d": lambda m, p: _text(m, p + 8, _U8(m.data, p)[0]),
    b"B": lambda m, p: _binary(m, p + 4, _U4(m.data, p)[0]), b"C": lambda m, p: _binary(m, p + 1, m.data[p]),
    b"\x8e": lambda m, p: _binary(m, p + 8, _U8(m.data, p)[0]),
    b"\x96": lambda m, p: _binary(m, p + 8, _U8(m.data, p)[0]),
    b"a": _append, b"e": _appends, b"s": _set_item, b"u": _set_items, b"\x90": _appends,
    b"]": lambda m, p: _push(m, [], p), b"}": lambda m, p: _push(m, {}, p), b"\x8f": lambda m, p: _push(m, [], p),
    b")": lambda m, p: _push(m, (), p), b"l": lambda m, p: _gather(m, list, p),
    b"d": lambda m, p: _gather(m, _pairs, p),
    b"t": _tuple, b"\x91": _tuple, b"\x85": lambda m, p: _tuple_of(m, 1, p),
    b"\x86": lambda m, p: _tuple_of(m, 2, p), b"\x87": lambda m, p: _tuple_of(m, 3, p),
    b"g": _get_line, b"h": _get1, b"j": _get4, b"p": _put_line, b"q": _put1, b"r": _put4, b"\x94": _memoize,
    b"\x80": _protocol, b"\x95": _frame,
}  # fmt: skip
"""What each opcode does; sets become lists and frozen ones tuples. Absent: extension codes and out-of-band buffers."""
TABLE = [_HANDLERS.get(bytes([code]), _refuse) for code in range(256)]
