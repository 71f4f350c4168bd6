"""Flax's msgpack files (`flax_model.msgpack`, `checkpoint_<step>`), read without flax, jax or msgpack.

Source: google/flax@00a973a, flax/serialization.py: `_MsgpackExtType`, `_ndarray_to_bytes`, `_msgpack_ext_pack` and
`_chunk`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from anyvit.containers.files import LocalFile
from anyvit.containers.inert import Inert
from anyvit.containers.msgpack_grammar import Extension, Span, Values
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Checkpoint, Lazy, Note, Piece, from_pieces

NDARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Numbers of flax's own types."""
CHUNKED = "__msgpack_chunked_array__"
"""Marks an array of more than 2^30 bytes, which is written in several."""
AXES_LIMIT = 64
NAME_LIMIT = 1024
_AXIS_LIMIT = 1 << 48
_GONE = object()


class Array(NamedTuple):
    """An array in the file: axes, element type, and where its bytes lie."""

    shape: tuple[int, ...]
    dtype: str
    spans: tuple[Span, ...]


def read(path: str | Path) -> Checkpoint:
    """Opens a msgpack file of flax; passes over the tensors' bytes without reading them.

    Arguments:
        path: the file.

    Returns:
        The checkpoint. Nested maps are joined by dots; flax writes tuples and lists as maps with the keys "0", "1", ….

    Raises:
        FileError: missing, cut, damaged, or no msgpack.
        UnsafeError: a file that claims what cannot be.
    """
    file = LocalFile(path)
    cursor = Values(file, 0, file.size)
    root = cursor.value()
    if cursor.at != file.size:
        raise cursor.damaged(f"{file.size - cursor.at} bytes after the end of the only value")
    flat = _Flat(file)
    extras = flat.walk(root, "")
    if not isinstance(root, dict | list) and not flat.tensors:
        raise cursor.damaged(f"a lone {type(root).__name__} where a map of tensors was expected")
    if not isinstance(extras, dict):
        extras = {} if extras is _GONE else {"value": extras}
    return Checkpoint(flat.tensors, "msgpack", str(path), extras, notes=tuple(flat.notes()))


@dataclass
class _Flat:
    """Names the arrays of a nested value by the keys that lead to them."""

    file: LocalFile
    tensors: dict[str, Lazy] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    odd: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def walk(self, value: Any, path: str) -> Any:
        """Collects the arrays of a value and returns what else there is, or _GONE."""
        if isinstance(value, Extension):
            return self.extension(value, path)
        if isinstance(value, Span):
            return Inert("builtins.bytes", (value.size,))
        if isinstance(value, dict):
            if CHUNKED in value:
                return self.add(self.chunked(value, path), path)
            return self.mapping(value, path)
        if isinstance(value, list):
            found = [self.walk(inner, self.join(path, str(i))) for i, inner in enumerate(value)]
            if found and all(extra is _GONE for extra in found):
                return _GONE
            return [None if extra is _GONE else extra for extra in found]
        return value

    def mapping(self, value: dict[str, Any], path: str) -> Any:
        left = {key: self.walk(inner, self.join(path, key)) for key, inner in value.items()}
        left = {key: extra for key, extra in left.items() if extra is not _GONE}
        return _GONE if value and not left else left

    def join(self, path: str, key: str) -> str:
        name = f"{path}.{key}" if path else key
        if len(name) > NAME_LIMIT:
            raise UnsafeError(f"{self.file.name} holds an implausibly long name", names=[name[:100]])
        return name

    def extension(self, value: Extension, path: str) -> Any:
        cursor = Values(self.file, value.offset, value.offset + value.size)
        if value.code == COMPLEX:
            parts = cursor.value()
            if not _is_pair(parts) or cursor.at != cursor.end:
                raise self.broken(path, "no complex number")
            return complex(*parts)
        if value.code not in (NDARRAY, SCALAR):
            self.odd[f"type {value.code}"].append(path)
            return Inert(f"msgpack.ExtType({value.code})", (value.size,))
        array = self.array(cursor, path)
        if array.dtype not in ITEMSIZE:
            self.odd[array.dtype].append(path)
            return Inert(f"numpy.{array.dtype}", (list(array.shape),))
        self.check(array, path)
        return self.number(array, path) if value.code == SCALAR else self.add(array, path)

    def array(self, cursor: Values, path: str) -> Array:
        """[shape, name of the element type, bytes]"""
        fields = cursor.value()
        if not isinstance(fields, list) or len(fields) != 3 or cursor.at != cursor.end:
            raise self.broken(path, "another content than shape, type and bytes")
        shape, kind, data = fields
        if isinstance(kind, Span):
            kind = self.file.read(kind.offset, min(kind.size, 80)).decode("ascii", "replace")
        if not _is_shape(shape) or not isinstance(kind, str) or not isinstance(data, Span):
            raise self.broken(path, "another content than shape, type and bytes")
        return Array(tuple(shape), kind, (data,))

    def check(self, array: Array, path: str) -> None:
        size, wanted = sum(span.size for span in array.spans), prod(array.shape) * ITEMSIZE[array.dtype]
        if size != wanted:
            raise self.broken(path, f"{size} bytes for {array.dtype} {array.shape}", f"{wanted} bytes")

    def chunked(self, value: dict[str, Any], path: str) -> Array:
        """{"shape": {"0": …}, "chunks": {"0": array, …}}: parts of the flattened array, in order."""
        shape, chunks = _in_order(value.get("shape")), _in_order(value.get("chunks"))
        if shape is None or not _is_shape(shape) or not chunks:
            raise self.broken(path, "a chunked array without shape or chunks")
        parts = []
        for chunk in chunks:
            if not isinstance(chunk, Extension) or chunk.code != NDARRAY:
                raise self.broken(path, "a chunk that is no array")
            parts.append(self.array(Values(self.file, chunk.offset, chunk.offset + chunk.size), path))
        kinds = {part.dtype for part in parts}
        if len(kinds) != 1 or not kinds <= ITEMSIZE.keys():
            raise self.broken(path, f"chunks of the types {', '.join(sorted(kinds))}")
        for part in parts:
            self.check(part, path)
        whole = Array(tuple(shape), parts[0].dtype, tuple(part.spans[0] for part in parts))
        self.check(whole, path)
        return whole

    def add(self, array: Array, path: str) -> object:
        if path in self.tensors:
            self.doubled.append(path)
            return _GONE
        pieces = [Piece(self.file, *span) for span in array.spans]
        self.tensors[path or "tensor"] = from_pieces(array.shape, array.dtype, pieces, (path or "tensor",))
        return _GONE

    def number(self, array: Array, path: str) -> Any:
        import numpy as np

        if array.shape:
            raise self.broken(path, f"a number with the axes {array.shape}")
        value = np.frombuffer(self.file.read(*array.spans[0]), np_dtype(array.dtype))[0]
        return value.item() if array.dtype in _PLAIN else float(value)

    def broken(self, path: str, found: str, expected: str | None = None) -> FileError:
        return FileError(
            f"an array in {self.file.name} is damaged",
            names=[path],
            found=found,
            expected=expected,
            usual="a damaged file, or one that flax did not write",
            remedy="fetch the file again",
        )

    def notes(self) -> Iterable[Note]:
        for kind, names in self.odd.items():
            yield Note("unread", tuple(names), f"values of {kind}, which have no name here")
        if self.doubled:
            yield Note("duplicate", tuple(self.doubled), "two tensors of the same dotted name; the first is taken")


_PLAIN = {name for name in ITEMSIZE if not name.startswith(("bfloat", "float8"))}


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= AXES_LIMIT
        and all(type(size) is int and 0 <= size < _AXIS_LIMIT for size in value)
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) in (int, float) for part in value)


def _in_order(value: Any) -> list[Any] | None:
    """The values of a map with the keys "0", "1", …, which is how flax writes tuples."""
    if not isinstance(value, dict) or any(str(i) not in value for i in range(len(value))):
        return None
    return [value[str(i)] for i in range(len(value))]
