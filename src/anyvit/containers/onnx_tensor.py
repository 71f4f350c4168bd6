"""A tensor of an ONNX model: its description, and a `Lazy` over its bytes wherever the format let them lie.

Source of the numbers: https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto, message TensorProto.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from anyvit.containers.files import LocalFile
from anyvit.containers.inside import inside
from anyvit.containers.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Message, signed
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Lazy, Piece, from_pieces

if TYPE_CHECKING:
    import numpy as np

DIMS, DATA_TYPE, NAME, EXTERNAL, LOCATION = 1, 2, 8, 13, 14
FLOATS, INT32S, INT64S, RAW, DOUBLES, UINT64S = 4, 5, 7, 9, 10, 11
"""Field numbers of a tensor: what describes it, and where its elements may stand."""
AXES_LIMIT = 64
_AXIS_LIMIT = 1 << 48
NUMBERS_STEP = 1 << 16
"""Numbers of varying length that are decoded at a time."""

TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
"""Their number of an element type → ours; 8 is text, 21 to 23 are types of which two share a byte."""
_OTHERS = {0: "no type", 8: "text", 21: "uint4", 22: "int4", 23: "float4_e2m1"}


@dataclass
class Tensor:
    """A tensor as it is described; `lazy` is None where its type has no name here."""

    name: str = ""
    kind: str = "no type"
    shape: tuple[int, ...] = ()
    lazy: Lazy | None = None

    def named(self, name: str) -> Lazy:
        """The tensor under a name."""
        assert self.lazy is not None
        return replace(self.lazy, origin=(name,))


@dataclass
class _Found:
    """The fields of one tensor."""

    dims: list[int] = field(default_factory=list)
    code: int = 0
    name: str = ""
    data: dict[int, list[Field]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    elsewhere: bool = False


def tensor(message: Message, files: dict[Path, LocalFile]) -> Tensor:
    """Reads the description of a tensor and passes over its data.

    Arguments:
        message: a TensorProto.
        files: files of external data that are open already.

    Raises:
        FileError: less or more data than the shape says, or a missing file.
        UnsafeError: a file that lies elsewhere, or impossible axes.
    """
    found = _Found()
    for entry in message:
        if entry.number == DIMS:
            found.dims += [signed(size) for size in islice(message.numbers(entry), AXES_LIMIT + 1)]
        elif entry.number == DATA_TYPE:
            found.code = entry.value
        elif entry.number == NAME:
            found.name = message.text(entry)
        elif entry.number == LOCATION:
            found.elsewhere = entry.value == 1
        elif entry.number == EXTERNAL and entry.wire == BYTES:
            key, value = _entry(message.inner(entry))
            found.external[key] = value
        elif entry.number in (FLOATS, INT32S, INT64S, RAW, DOUBLES, UINT64S):
            found.data.setdefault(entry.number, []).append(entry)
    return _described(message, found, files)


def _entry(message: Message) -> tuple[str, str]:
    pair = {entry.number: message.text(entry) for entry in message if entry.wire == BYTES}
    return pair.get(1, ""), pair.get(2, "")


def _described(message: Message, found: _Found, files: dict[Path, LocalFile]) -> Tensor:
    shape, dtype = tuple(found.dims), TYPES.get(found.code)
    if len(shape) > AXES_LIMIT or any(not 0 <= size < _AXIS_LIMIT for size in shape):
        raise UnsafeError("a tensor has impossible axes", names=[found.name], found=shape[:AXES_LIMIT])
    if dtype is None:
        return Tensor(found.name, _OTHERS.get(found.code, f"type {found.code}"), shape)
    size = prod(shape) * ITEMSIZE[dtype]
    if found.elsewhere:
        pieces = [_external(message, found, size, files)]
    elif RAW in found.data:
        pieces = [Piece(message.file, entry.value, entry.size) for entry in found.data[RAW]]
    elif FLOATS in found.data or DOUBLES in found.data:
        # Packed numbers of fixed width lie as raw bytes do.
        wanted = FLOATS if dtype in ("float32", "complex64") else DOUBLES if dtype in ("float64", "complex128") else 0
        width = FIXED32 if wanted == FLOATS else FIXED64
        fields = found.data.get(wanted, [])
        pieces = [Piece(message.file, entry.value, entry.size) for entry in fields if entry.wire in (BYTES, width)]
    elif found.data:
        return Tensor(found.name, dtype, shape, _varints(message, found, shape, dtype))
    else:
        pieces = []
    have = sum(piece.size for piece in pieces)
    if have != size:
        raise _wrong(found, f"{have} bytes for {dtype} {shape}", f"{size} bytes")
    return Tensor(found.name, dtype, shape, from_pieces(shape, dtype, pieces, (found.name,)))


def _wrong(found: _Found, what: str, expected: str) -> FileError:
    return FileError(
        "a tensor of an ONNX model has another size than its shape says",
        names=[found.name],
        found=what,
        expected=expected,
        usual="a download that was cut, or a model and data of two exports",
        remedy="fetch the files again",
    )


def _external(message: Message, found: _Found, size: int, files: dict[Path, LocalFile]) -> Piece:
    """Where the bytes lie in another file: keys location, offset and length."""
    home = Path(message.file.name)
    path = inside(home.parent, found.external.get("location"), str(home))
    offset, length = _number(found.external.get("offset", "0")), _number(found.external.get("length", str(size)))
    if path not in files:
        if not path.is_file():
            raise FileError(
                f"the tensors of {home} lie in another file, which is missing",
                names=[str(path)],
                usual="the .onnx file was copied without its data",
                remedy=f"put {path.name} beside it",
            )
        files[path] = LocalFile(path)
    file = files[path]
    if offset is None or length is None or offset + length > file.size:
        raise _wrong(found, f"{length} bytes at {offset} of {path}, which has {file.size}", f"{size} bytes")
    return Piece(file, offset, length)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _varints(message: Message, found: _Found, shape: tuple[int, ...], dtype: str) -> Lazy:
    """A tensor whose elements are numbers of varying length; 16 and 8-bit floats are stored as their bits."""
    kind, item = next(iter(found.data)), ITEMSIZE[dtype]
    entries = found.data[kind]
    least = sum(1 if entry.wire == VARINT else entry.size for entry in entries)
    if len(found.data) > 1 or least < prod(shape) or (kind == INT32S and item > 4):
        raise _wrong(found, f"{least} bytes in field {kind} for {dtype} {shape}", f"{prod(shape)} numbers")

    def load() -> np.ndarray:
        import numpy as np

        numbers = (number for entry in entries for number in message.numbers(entry))
        bits = np.empty(prod(shape), f"uint{8 * item}")
        done = 0
        while part := list(islice(numbers, NUMBERS_STEP)):  # Python's own numbers take forty bytes each
            if done + len(part) <= len(bits):
                bits[done : done + len(part)] = np.array(part, "uint64")
            done += len(part)
        if done != len(bits):
            raise _wrong(found, f"{done} numbers", f"{prod(shape)}")
        return bits.view(np_dtype(dtype)).reshape(shape)

    return Lazy(shape, dtype, load, (found.name,))
