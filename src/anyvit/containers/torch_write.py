"""A writer of torch's zip files that needs no torch: the pickle is put together by hand, the tensors are streamed.

Source: the layout as torch 2.6 `torch/serialization.py` (`_save`) writes it; protocol 2 opcodes as in pickletools.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.containers import zips
from anyvit.containers.files import atomic, reserve
from anyvit.containers.placing import put
from anyvit.containers.stream import Seal
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy

if TYPE_CHECKING:
    from anyvit.witness import Witness

ALIGN = 64
"""Storages begin at multiples of that many bytes, as torch's do."""
METADATA = ".data/anyvit.json"
"""The member that holds metadata; torch reads no member that its pickle does not name, and has a `.data` of its own."""
_ROOT = "archive/"

_CLASSES = {
    "bool": "Bool", "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
    "float16": "Half", "bfloat16": "BFloat16", "float32": "Float", "float64": "Double", "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}  # fmt: skip


def write(
    tensors: Mapping[str, Lazy],
    path: str | Path,
    *,
    nest: Sequence[str] = (),
    extras: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
    seal: Seal | None = None,
    witness: Witness | None = None,
) -> None:
    """Writes a file that torch.load(path, weights_only=True) reads as a dict of tensors.

    The same tensors give the same bytes. Tensors that are the very same bytes of a file share their storage, as tied
    parameters do.

    Arguments:
        tensors: name → tensor; the names become keys as they are.
        path: the file to write.
        nest: keys around the tensors, outermost first: ("teacher",) gives {"teacher": {…}}.
        extras: further entries of the outermost dict: text, numbers, None and dicts, lists and tuples of them.
        metadata: text → text, in a member of its own beside those that torch reads.
        durable: flush to the disk before the file takes its name.
        seal: called when all tensors are written, before the file takes its name; gives more metadata. What it raises
            leaves the old file.
        witness: is shown the bytes that are read (`integrity.Check.witness`).

    Raises:
        BadArgument: an extra that is not plain data, or two things under one key.
        FileError: the disk is full, the folder is missing, …

    Example:
        >>> import numpy as np, tempfile, os
        >>> from anyvit.lazy import from_array
        >>> file = os.path.join(tempfile.mkdtemp(), "a.pth")
        >>> write({"cls_token": from_array(np.zeros((1, 1, 8), "float32"))}, file, extras={"epoch": 3})
        >>> from anyvit.containers.torch_file import read
        >>> read(file).tensors["cls_token"].shape, read(file).extras
        ((1, 1, 8), {'epoch': 3})
    """
    pickle = _Pickle()
    pickle.document(tensors, tuple(nest), dict(extras or {}))
    data = pickle.bytes()
    with atomic(path, durable=durable) as file:
        archive = zips.Writer(file)
        reserve(file, len(data) + sum(lazy.nbytes for lazy in pickle.storages))
        archive.add(_ROOT + "data.pkl", data, align=ALIGN)
        # No .format_version: with it torch computes the places of storages from its own writer's habits.
        archive.add(_ROOT + "byteorder", b"little")
        storages = enumerate(pickle.storages)
        put(file, [archive.place(f"{_ROOT}data/{key}", lazy, align=ALIGN) for key, lazy in storages], witness)
        archive.add(_ROOT + "version", b"3\n")
        final = {**(metadata or {}), **(seal() if seal else {})}
        if final:
            text = json.dumps(final, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            archive.add(_ROOT + METADATA, text.encode())
        archive.close()


class _Pickle:
    def __init__(self) -> None:
        self.parts: list[bytes] = [b"\x80\x02"]
        self.memo: dict[str, int] = {}
        self.storages: list[Lazy] = []
        self.keys: dict[Any, int] = {}

    def bytes(self) -> bytes:
        return b"".join([*self.parts, b"."])

    def document(self, tensors: Mapping[str, Lazy], nest: tuple[str, ...], extras: dict[str, Any]) -> None:
        """The whole object: {nest[0]: {nest[1]: {name: tensor}}, **extras}."""
        clash = sorted(set(extras) & (set(nest[:1]) if nest else set(tensors)))
        if clash:
            raise BadArgument("extras use keys that the tensors need", names=clash)
        for key in nest:
            self.parts.append(b"}(")
            self.text(key)
        self.known("collections", "OrderedDict")
        self.parts.append(b")R(")
        for name, lazy in tensors.items():
            self.text(name)
            self.tensor(lazy)
        if nest:
            self.parts.append(b"u" * len(nest))
        self.pairs(extras, "extras")
        self.parts.append(b"u")

    def known(self, module: str, name: str) -> None:
        """A global, from the memo when it was there before."""
        self.once(f"{module}\n{name}", f"c{module}\n{name}\n".encode())

    def once(self, key: str, code: bytes) -> None:
        if key in self.memo:
            self.parts.append(struct.pack("<cI", b"j", self.memo[key]))
        else:
            self.memo[key] = len(self.memo)
            self.parts.append(code + struct.pack("<cI", b"r", self.memo[key]))

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self.parts.append(struct.pack("<cI", b"X", len(raw)) + raw)

    def number(self, value: int) -> None:
        if 0 <= value < 256:
            self.parts.append(bytes([0x4B, value]))
        elif -(1 << 31) <= value < 1 << 31:
            self.parts.append(struct.pack("<ci", b"J", value))
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if len(raw) > 255:
                raise BadArgument("an integer too long for a checkpoint", found=f"{len(raw)} bytes")
            self.parts.append(bytes([0x8A, len(raw)]) + raw)

    def tensor(self, lazy: Lazy) -> None:
        """_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()); v3 adds the element type."""
        kind = _CLASSES.get(lazy.dtype)
        self.known("torch._utils", "_rebuild_tensor_v2" if kind else "_rebuild_tensor_v3")
        self.parts.append(b"((")
        self.once("'storage", b"X\x07\0\0\0storage")
        if kind:
            self.known("torch", f"{kind}Storage")
        else:
            self.known("torch.storage", "UntypedStorage")
        self.text(str(self.storage(lazy)))
        self.once("'cpu", b"X\x03\0\0\0cpu")
        strides, count = [], 1
        for size in reversed(lazy.shape):
            strides.insert(0, count)
            count *= max(size, 1)
        self.number(lazy.nbytes if not kind else _count(lazy.shape))
        self.parts.append(b"tQK\0")
        for axes in (lazy.shape, strides):
            self.parts.append(b"(")
            for size in axes:
                self.number(size)
            self.parts.append(b"t")
        self.parts.append(b"\x89")
        self.known("collections", "OrderedDict")
        self.parts.append(b")R")
        if not kind:
            self.known("torch", lazy.dtype)
        self.parts.append(b"tR")

    def storage(self, lazy: Lazy) -> int:
        """The key of a tensor's storage; the same bytes of a file have the same one."""
        same = (lazy.dtype, lazy.pieces) if lazy.pieces else len(self.storages)
        if same not in self.keys:
            self.keys[same] = len(self.storages)
            self.storages.append(lazy)
        return self.keys[same]

    def pairs(self, entries: Mapping[Any, Any], where: str) -> None:
        for key, value in entries.items():
            self.plain(key, where)
            self.plain(value, f"{where}.{key}")

    def plain(self, value: Any, where: str) -> None:
        """Text, numbers, None, and containers of them."""
        kind = type(value)
        if kind in (bool, type(None)):
            self.parts.append({True: b"\x88", False: b"\x89", None: b"N"}[value])
        elif kind is str:
            self.text(value)
        elif kind is int:
            self.number(value)
        elif kind is float:
            self.parts.append(struct.pack(">cd", b"G", value))
        elif kind is dict:
            self.parts.append(b"}(")
            self.pairs(value, where)
            self.parts.append(b"u")
        elif kind in (list, tuple):
            self.parts.append(b"](" if kind is list else b"(")
            for i, part in enumerate(value):
                self.plain(part, f"{where}.{i}")
            self.parts.append(b"e" if kind is list else b"t")
        else:
            raise BadArgument(
                "an extra that is no plain data", names=[where], found=kind.__name__,
                expected="text, numbers, None, and dicts, lists and tuples of them",
            )  # fmt: skip


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
