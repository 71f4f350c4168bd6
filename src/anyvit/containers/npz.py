"""npz and the npy members in it: what Google, big_vision and flax publish.

The npy header is a Python literal; it is parsed here and never given to numpy's loader, which would unpickle objects.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.containers import zips
from anyvit.containers.files import LocalFile, atomic, reserve
from anyvit.containers.placing import put
from anyvit.containers.stream import Seal
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import FileError, UnsafeError, Unsayable
from anyvit.lazy import Checkpoint, Lazy, Note, Piece, every, from_pieces

if TYPE_CHECKING:
    import numpy as np

    from anyvit.witness import Witness

HEADER_LIMIT = 10_000
"""Longest npy header in bytes, because a literal of any length is not safe to parse.

Source: _MAX_HEADER_SIZE, numpy/lib/_format_impl.py.
"""
TEXT_LIMIT = 4 << 20
"""Bytes of text in all that are read into `extras`; as Python's strings they take up to twelve times that."""
PICKLE_LIMIT = 4 << 30
"""Largest pickle in bytes that is read into memory."""
RANK_LIMIT = 64
"""Most axes of an array. Source: NPY_MAXDIMS, numpy/_core/include/numpy/ndarraytypes.h."""

_PLAIN = {
    "b1": "bool", "u1": "uint8", "i1": "int8", "u2": "uint16", "i2": "int16", "u4": "uint32", "i4": "int32",
    "u8": "uint64", "i8": "int64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64",
    "c16": "complex128",
}  # fmt: skip
_CODES = {ours: theirs for theirs, ours in _PLAIN.items()}
_USUAL = re.compile(
    r"\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19},?)?)\),? ?\} *\n?"
)


@dataclass(frozen=True)
class Header:
    """What an npy header says.

    Arguments:
        descr: the type as numpy writes it ("<f4", "|V2", "|O"), or the fields of a structured type.
        fortran: whether the first axis varies fastest.
        shape: the axes.
        size: length in bytes of all that stands before the data.
    """

    descr: Any
    fortran: bool
    shape: tuple[int, ...]
    size: int


def read(path: str | Path) -> Checkpoint:
    """Opens an npz archive; only the headers of its members are read.

    Arguments:
        path: the file.

    Returns:
        Arrays by member name without `.npy`, slashes kept; arrays of text in `extras`. Two-byte void is bfloat16,
        because that is how numpy writes it. Arrays of objects are listed, with a note, and refuse to be read.

    Raises:
        FileError: missing, cut or damaged.
        UnsafeError: headers that contradict each other.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", **{"Transformer/a": np.zeros((2, 3), "float32")})
        ...     read(f"{folder}/a.npz").tensors["Transformer/a"].shape
        (2, 3)
    """
    file = LocalFile(path)
    archive = zips.members(file)
    tensors: dict[str, Lazy] = {}
    extras: dict[str, Any] = {}
    notes: list[Note] = []
    room = TEXT_LIMIT
    for member in archive.values():
        name = member.name.removesuffix(".npy")
        if name == member.name:
            notes.append(Note("ignored", (name,), "a member of the archive that is no array"))
            continue
        header = _header(file, member)
        kind = header.descr[1:2] if isinstance(header.descr, str) else ""
        if kind in ("U", "S"):
            _text(file, member, header, name, extras, notes, room)
            room -= min(room, member.size)
            continue
        tensors[name] = _tensor(file, member, header, name, notes)
    return Checkpoint(
        tensors,
        "npz",
        str(path),
        extras=extras,
        notes=_folded(notes),
        verify=lambda wanted=every: _damaged(file, archive.values(), wanted),
        sums=lambda: zips.sums(file, archive.values(), tensors),
    )


def write(
    tensors: Mapping[str, Lazy],
    path: str | Path,
    *,
    durable: bool = False,
    seal: Seal | None = None,
    witness: Witness | None = None,
) -> None:
    """Writes an npz archive that `numpy.load` opens, uncompressed, one tensor at a time, always the same bytes.

    Arguments:
        tensors: name → tensor, in this order. bfloat16 becomes two-byte void, as numpy itself writes it.
        path: the file, replaced only when all went well.
        durable: flush to the disk before the file takes its name.
        seal: called before the file takes its name; what it raises leaves the old file.
        witness: is shown the bytes that are read (`integrity.Check.witness`).

    Raises:
        FileError: disk full, no permission, or a source that cannot be read.
        Unsayable: float8, whose kinds npy cannot tell apart.
    """
    heads = {name: _packed_header(name, lazy) for name, lazy in tensors.items()}
    with atomic(path, durable=durable) as file:
        reserve(file, sum(len(heads[name]) + lazy.nbytes for name, lazy in tensors.items()))
        archive = zips.Writer(file)
        places = [archive.place(f"{n}.npy", lazy, before=heads[n], align=64) for n, lazy in tensors.items()]
        put(file, places, witness)
        archive.close()
        if seal:
            seal()


def read_npy(path: str | Path) -> Checkpoint:
    """Opens a .npy file that holds a pickled dict of arrays, as numpy.save writes it; nothing of it is executed.

    Arguments:
        path: the file.

    Raises:
        FileError: a plain array, which has no name, or a damaged file.
    """
    from anyvit.containers import torch_file

    file = LocalFile(path)
    header = parse(file.read(0, min(file.size, HEADER_LIMIT + 12)), file.name, "the header")
    if header.descr not in ("|O", "O"):
        raise FileError(
            f"{path} is a single array (.npy) without a name",
            found=f"{header.descr} {header.shape}",
            remedy="give a mapping name → array, or numpy.savez(out, **arrays)",
        )
    if file.size > PICKLE_LIMIT:
        raise FileError(
            f"{path} is too large for a pickle", found=f"{file.size} bytes", expected=f"at most {PICKLE_LIMIT}"
        )
    found = torch_file.pickled(file.read(0, file.size), str(path), header.size)
    return replace(found, container="npy")


def parse(data: bytes, where: str, name: str) -> Header:
    """The npy header at the beginning of some bytes, checked.

    Arguments:
        data: at least the whole header.
        where: the file, for messages.
        name: the member, for messages.
    """
    if data[:6] != b"\x93NUMPY" or len(data) < 10 or data[6] not in (1, 2, 3):
        raise FileError(f"a member of {where} is no npy array", names=[name], found=data[:8])
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    size = 8 + width + length
    if length > HEADER_LIMIT or len(data) < size:
        raise UnsafeError(
            f"a member of {where} has an implausible header", names=[name], found=f"{length} bytes of header"
        )
    try:
        text = data[8 + width : size].decode("utf-8" if data[6] == 3 else "latin-1")
        descr, fortran, shape = _literal(text)
        sound = type(fortran) is bool and type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise FileError(
            f"the header of a member of {where} is damaged ({type(error).__name__})",
            names=[name],
            usual="a flipped bit or a copy that went wrong",
            remedy="fetch the file again",
        ) from error
    if not sound or len(shape) > RANK_LIMIT:
        raise UnsafeError(f"a member of {where} has an impossible header", names=[name], found=text.strip()[:200])
    return Header(descr, fortran, shape, size)


def _literal(text: str) -> tuple[Any, Any, Any]:
    if usual := _USUAL.fullmatch(text):
        return usual[1], usual[2] == "True", tuple(int(n) for n in usual[3].split(",") if n.strip())
    # Python 2 wrote long integers with an L.
    value = ast.literal_eval(re.sub(r"(?<=\d)L\b", "", text).strip())
    if set(value) != {"descr", "fortran_order", "shape"}:
        raise KeyError(text)
    return value["descr"], value["fortran_order"], value["shape"]


def _header(file: LocalFile, member: zips.Member) -> Header:
    if member.compression == zips.STORED:
        data = file.read(member.offset, min(member.size, 256))
        length = int.from_bytes(data[8:10] if data[6:7] == b"\1" else data[8:12], "little") + 12
        if len(data) < length <= HEADER_LIMIT + 12:
            data = file.read(member.offset, min(member.size, length))
    else:
        data = next(zips.chunks(file, member, HEADER_LIMIT + 12), b"")
    return parse(data, file.name, member.name)


def _tensor(file: LocalFile, member: zips.Member, header: Header, name: str, notes: list[Note]) -> Lazy:
    descr = header.descr if isinstance(header.descr, str) else "fields"
    order, code = descr[:1], descr[1:]
    dtype = (
        "bfloat16" if code == "V2" and order in "<|" else _PLAIN.get(code) if order in ("<", ">", "|", "=") else None
    )
    if dtype is None:
        return _refused(file, header, name, descr, notes)
    expected = header.size + prod(header.shape) * ITEMSIZE[dtype]
    if member.size != expected:
        raise UnsafeError(
            f"a member of {file.name} has another size than its header says",
            names=[name],
            found=f"{member.size} bytes",
            expected=f"{expected} bytes",
            usual="a damaged file",
        )
    flat = header.shape[::-1] if header.fortran else header.shape
    if member.compression == zips.STORED:
        piece = Piece(file, member.offset + header.size, member.size - header.size)
        lazy = from_pieces(flat, dtype, [piece], (name,))
    else:
        lazy = Lazy(flat, dtype, lambda: _unpacked(file, member, header.size, flat, dtype), (name,))
    swapped = order == ">" and ITEMSIZE[dtype] > 1
    turned = header.fortran and sum(n != 1 for n in header.shape) > 1
    if not swapped and not turned:
        return Lazy(header.shape, dtype, lambda: lazy.read().reshape(header.shape), (name,), lazy.pieces)
    return Lazy(header.shape, dtype, lambda: _rearranged(lazy, header, swapped), (name,))


def _rearranged(lazy: Lazy, header: Header, swapped: bool) -> np.ndarray:
    import numpy as np

    array = lazy.read().byteswap() if swapped else lazy.read()
    return np.asarray(array.T if header.fortran else array, order="C")


def _unpacked(file: LocalFile, member: zips.Member, skip: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    import numpy as np

    data = bytearray()
    for part in zips.chunks(file, member):
        data += part
    return np.frombuffer(data, np_dtype(dtype), offset=skip).reshape(shape)


def _refused(file: LocalFile, header: Header, name: str, descr: str, notes: list[Note]) -> Lazy:
    """A listed array that raises when it is read."""
    error: FileError
    if descr[1:2] == "O" or "'|O'" in repr(header.descr):
        error = UnsafeError(
            f"an array of {file.name} holds Python objects, that is a pickle, which is not executed",
            names=[name],
            usual="numpy.savez of a dict or of a list of arrays of different shapes",
            remedy="where you trust the file: numpy.load(path, allow_pickle=True), then save each array by its name",
        )
        notes.append(Note("object", (name,), "an array of Python objects (a pickle), not executed", error.remedy))
    else:
        why = "one-byte void: a float8, but npy does not say which" if descr[1:] == "V1" else "no type of a weight"
        error = FileError(f"an array of {file.name} has a type that is not read: {why}", names=[name], found=descr)
        notes.append(Note("unsupported", (name,), f"element type {descr}: {why}"))

    def load() -> np.ndarray:
        raise error.with_traceback(None)

    return Lazy(header.shape, "uint8", load, (name,))


def _text(
    file: LocalFile,
    member: zips.Member,
    header: Header,
    name: str,
    extras: dict[str, Any],
    notes: list[Note],
    room: int,
) -> None:
    import numpy as np

    count, width = prod(header.shape), header.descr[2:]
    each = int(width) * (4 if header.descr[1] == "U" else 1) if width.isdigit() else -1
    if member.size > room or each < 0 or member.size != header.size + count * each:
        notes.append(Note("ignored", (name,), "an array of text that is too large or damaged"))
        return
    data = zips.read(file, member)
    if not each or not count:
        extras[name] = "" if header.shape == () else []
        return
    array = np.frombuffer(data, np.dtype(header.descr), offset=header.size)
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    extras[name] = np.char.decode(array, "utf-8", "replace").tolist() if header.descr[1] == "S" else array.tolist()


def _folded(notes: list[Note]) -> tuple[Note, ...]:
    """Notes that say the same of several names as one."""
    names: dict[tuple[str, str, str | None], tuple[str, ...]] = {}
    for note in notes:
        key = (note.kind, note.cause, note.remedy)
        names[key] = names.get(key, ()) + note.names
    return tuple(Note(kind, said, cause, remedy) for (kind, cause, remedy), said in names.items())


def _packed_header(name: str, lazy: Lazy) -> bytes:
    code = "|V2" if lazy.dtype == "bfloat16" else _CODES.get(lazy.dtype)
    if code is None:
        raise Unsayable(
            "npz cannot say this element type", names=[name], found=lazy.dtype, remedy="write .safetensors instead"
        )
    code = code if code[0] == "|" else ("|" if ITEMSIZE[lazy.dtype] == 1 else "<") + code
    text = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {lazy.shape!r}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode("latin-1")


def _damaged(file: LocalFile, archive: Iterable[zips.Member], wanted: Callable[[str], bool]) -> Iterator[Note]:
    """Arrays whose bytes do not fit their CRC, by the names of the arrays."""
    asked = [member for member in archive if wanted(member.name.removesuffix(".npy"))]
    for note in zips.damaged(file, asked):
        yield replace(note, names=tuple(name.removesuffix(".npy") for name in note.names))
