"""From a nested object, as a pickle holds it, to flat dotted names and the leaves that are no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyvit.containers.inert import Inert
from anyvit.containers.opcodes import Global, Span
from anyvit.containers.rebuild import BUILDERS, SPECIAL, Array, NumpyType, Storage, Strided
from anyvit.containers.torchscript import is_module, is_script, module_parts, script_parts
from anyvit.errors import UnsafeError

DEPTH_LIMIT = 100
"""Deepest nesting that is followed; a module within a module takes two levels."""
VISIT_LIMIT = 10_000_000
"""Most values that are looked at."""
TENSOR_LIMIT = 1_000_000
"""Most tensors."""
INERT_LIMIT = 10_000
"""Most objects of one class that are named."""
NAME_LIMIT = 1024
"""Longest name in characters."""

_PLAIN = frozenset({str, int, float, bool, type(None), bytes, complex})
_GONE = object()


@dataclass
class Flat:
    """What a nested object consists of.

    Arguments:
        tensors: dotted name → description, in the order of the file.
        extras: all other leaves, nested as they were; containers that held tensors alone are left out.
        inert: class → the dotted names where its objects are.
        special: kind of an unusual tensor ("sparse", "quantised", …) → names.
        modules: dotted name → class of each outermost pickled module.
        script: whether a TorchScript module was met.
        doubled: names that two different tensors would have.
    """

    tensors: dict[str, Strided | Array | Storage] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    inert: dict[str, list[str]] = field(default_factory=dict)
    special: dict[str, list[str]] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    script: bool = False
    doubled: list[str] = field(default_factory=list)


def flatten(root: Any, name: str, count: int = VISIT_LIMIT) -> Flat:
    """Names every tensor of a nested object by the keys and positions that lead to it.

    Arguments:
        root: what `unpickle.Machine.run` returned.
        name: the file, for messages.
        count: how many instructions the pickle had. A small pickle can refer to itself exponentially often; what is
            looked at more than four times as often as it was written is no checkpoint.

    Raises:
        UnsafeError: nested deeper or referring to itself more often than any checkpoint.

    Example:
        >>> flatten({"epoch": 3, "args": {"lr": 0.1}}, "a.pth").extras
        {'epoch': 3, 'args': {'lr': 0.1}}
    """
    walker = _Walker(name, min(VISIT_LIMIT, 10_000 + 4 * count))
    extras = walker.walk(root, "", 0)
    if extras is not _GONE:
        walker.flat.extras = extras if isinstance(extras, dict) else {"value": extras}
    return walker.flat


class _Walker:
    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit, self.left, self.flat = name, limit, limit, Flat()
        self.open: set[int] = set()
        self.inside = False

    def walk(self, value: Any, path: str, depth: int) -> Any:
        """Collects the tensors below a value and returns what else there is, or _GONE."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is Strided or kind is Storage:
            return self.add(path, value)
        if kind is Array:
            return self.array(value, path, depth)
        if kind is Global:
            return value.type if value.type in BUILDERS else self.met(Inert(value.type), path)
        if kind is Span:
            return Inert("builtins.bytes", (value.size,))
        if kind is NumpyType:
            return value.code
        if id(value) in self.open:
            return Inert("cycle")
        self.left -= 1
        if depth > DEPTH_LIMIT or self.left < 0 or len(self.flat.tensors) > TENSOR_LIMIT:
            raise self.forged()
        self.open.add(id(value))
        try:
            if kind is dict:
                return self.mapping(value.items(), path, depth, bool(value))
            if kind is Inert:
                return self.inert(value, path, depth)
            return self.sequence(value, path, depth)
        finally:
            self.open.discard(id(value))

    def forged(self) -> UnsafeError:
        return UnsafeError(
            f"{self.name}: the pickled object nests deeper or refers to itself more often than any checkpoint",
            expected=f"at most {DEPTH_LIMIT} levels, {self.limit} values, names of {NAME_LIMIT} characters",
            usual="a forged file",
        )

    def join(self, path: str, key: str) -> str:
        """The dotted name of what lies under a key."""
        name = f"{path}.{key}" if path else key
        if len(name) > NAME_LIMIT:
            raise self.forged()
        return name

    def add(self, path: str, value: Strided | Array | Storage) -> object:
        known = self.flat.tensors.setdefault(path or "tensor", value)
        if known is not value and (type(value) is Array or known != value):
            self.flat.doubled.append(path)
        return _GONE

    def met(self, value: Inert, path: str) -> Inert:
        named = self.flat.inert.setdefault(value.type, [])
        if len(named) < INERT_LIMIT:
            named.append(path)
        return value

    def mapping(self, pairs: Iterable[tuple[Any, Any]], path: str, depth: int, filled: bool) -> Any:
        left: dict[Any, Any] = {}
        for key, value in pairs:
            self.left -= 1
            kind = type(value)
            if kind in _PLAIN:
                left[_key(key)] = value
                continue
            name = self.join(path, key if type(key) is str else _word(key))
            extra = self.walk(value, name, depth + 1) if kind is not Strided else self.add(name, value)
            if extra is not _GONE:
                left[_key(key)] = extra
        return _GONE if filled and not left else left

    def sequence(self, values: Sequence[Any], path: str, depth: int) -> Any:
        self.left -= len(values)
        found = [
            value if type(value) in _PLAIN else self.walk(value, self.join(path, str(i)), depth + 1)
            for i, value in enumerate(values)
        ]
        if found and all(extra is _GONE for extra in found):
            return _GONE
        # A tensor's place stays, so that what follows keeps its position.
        return [None if extra is _GONE else extra for extra in found]

    def array(self, value: Array, path: str, depth: int) -> Any:
        kind = value.kind
        if kind is not None and kind.dtype and not isinstance(value.data, list):
            return self.add(path, value)
        items = self.walk(value.data, path, depth + 1) if isinstance(value.data, list) else None
        return Inert("numpy.ndarray", (list(value.shape), kind.code if kind else None), None, _kept(items))

    def inert(self, value: Inert, path: str, depth: int) -> Any:
        if special := SPECIAL.get(value.type):
            self.flat.special.setdefault(special, []).append(path)
            return Inert(value.type)
        if is_script(value):
            self.flat.script = True
            return self.mapping(script_parts(value), path, depth, True)
        self.met(value, path)
        if is_module(value):
            return self.module(value, path, depth)
        if value.type.startswith("omegaconf.") and isinstance(value.state, dict):
            content = value.state.get("_content", value.state.get("_val"))
            return Inert(value.type, (), _kept(self.walk(content, path, depth + 1)))
        args = self.walk(value.args, self.join(path, "args"), depth + 1) if value.args else ()
        state = self.walk(value.state, path, depth + 1)
        items = self.walk(value.items, path, depth + 1)
        return Inert(value.type, tuple(_kept(args) or ()), _kept(state), _kept(items))

    def module(self, value: Inert, path: str, depth: int) -> Any:
        outermost = not self.inside
        if outermost:
            self.flat.modules[path] = value.type
        self.inside = True
        attributes = self.mapping(module_parts(value), path, depth, True)
        self.inside = not outermost
        return attributes


def _kept(extra: Any) -> Any:
    return None if extra is _GONE else extra


def _key(key: Any) -> Any:
    return key if type(key) in (str, int, float, bool, type(None)) else _word(key)


def _word(key: Any) -> str:
    if isinstance(key, Inert | Global):
        return key.type
    return str(key)[:200]
