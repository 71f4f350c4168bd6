"""The tree of an HDF5 file: names, shapes, and where the bytes lie. Runs in a process of its own (`hdf5_apart`).

h5py (the extra `anyvit[hdf5]`) parses the tree; no value is read but those that lie in headers, and no filter runs.

Source: keras-team/keras keras/src/saving/saving_lib.py (H5IOStore) and keras/src/legacy/saving/legacy_h5_format.py
v3.15.1; The HDF Group, HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

from anyvit.containers import hdf5_names
from anyvit.containers.hdf5_apart import ASKED, HEAD, HELLO, LENGTH, TOLD
from anyvit.containers.hdf5_data import DEFLATE, SHUFFLE, TEXT_LIMIT
from anyvit.containers.limits import NAME_LIMIT
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import AnyvitError, FileError, UnsafeError

DEPTH_LIMIT = 100
"""Most groups inside one another; Keras nests a dozen."""
MEMORY = 1 << 30
"""Bytes that the process may grow by."""
COMPACT_LIMIT = 1 << 16
"""Most bytes of an array that lies in its own header."""
AXES_LIMIT = 32
CONFIGS = ("model_config",)
"""Attributes of JSON that are kept; Keras writes its configuration there."""
Plain = dict[str, Any]


def serve() -> None:
    """Walks one file after another until nobody asks any more; speaks as `hdf5_apart` says, over stdin and stdout."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    _h5py()
    _bounded()
    answers.write(HEAD.pack(HELLO, 0, 0))
    answers.flush()
    while len(head := jobs.read(LENGTH.size)) == LENGTH.size:
        job = json.loads(jobs.read(LENGTH.unpack(head)[0]))
        text = json.dumps(_walked(io.BufferedReader(_Asked(job["size"]), 1 << 16), job["path"])).encode()
        answers.write(HEAD.pack(TOLD, 0, len(text)) + text)
        answers.flush()


def _bounded() -> None:
    """Bounds the memory of this process, where the system can, and lets a crash leave nothing behind."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))


class _Asked(io.RawIOBase):
    """The file, whose bytes another process has."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, room: Any) -> int:
        size = max(0, min(len(room), self._size - self._at))
        if size:
            sys.stdout.buffer.write(HEAD.pack(ASKED, self._at, size))
            sys.stdout.buffer.flush()
            data = sys.stdin.buffer.read(size)
            if len(data) != size:  # the other process is gone, or has not found them
                raise SystemExit
            room[:size] = data
            self._at += size
        return size


def _walked(stream: Any, path: str) -> dict[str, Any]:
    """What a file holds, or the error of it."""
    tree = Tree(path)
    try:
        with _h5py().File(stream, "r") as opened:
            tree.walk(opened.id)
            for name in CONFIGS:
                if (text := _attribute(opened.id, name, path)) is not None:
                    tree.texts[name] = str(text)
        return tree.plain()
    except AnyvitError as error:
        said = {"cause": error.cause, "names": error.names, "usual": error.usual, "remedy": error.remedy}
        said |= {name: None if (v := getattr(error, name)) is None else str(v) for name in ("found", "expected")}
        return {"error": {"kind": type(error).__name__, "said": said}}
    except Exception as error:  # what h5py raises of a damaged file is of a dozen kinds
        said = {
            "cause": f"{path} is a damaged HDF5 file", "found": str(error)[:200],
            "usual": "a download or copy that was cut, or a training run that was stopped while it saved",
            "remedy": "fetch the file again",
        }  # fmt: skip
        return {"error": {"kind": FileError.__name__, "said": said}}


def _h5py() -> Any:
    """h5py, whose low-level modules have no types."""
    import h5py  # pyright: ignore[reportMissingImports]

    return h5py


@dataclass
class Tree:
    """The arrays of an HDF5 file by their paths, and what Keras notes of its layers."""

    path: str
    arrays: dict[str, Plain] = field(default_factory=dict)
    layers: dict[str, list[str]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[int, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """All of it, for JSON."""
        names = ("arrays", "layers", "titles", "aliases", "skipped", "texts")
        return {name: getattr(self, name) for name in names}

    def walk(self, root: Any) -> None:
        """Visits every group once."""
        group = _h5py().h5g.open(root, b"/")
        self.first(group, "/")
        self.notes(group, "")
        waiting = [("", group)]
        while waiting:
            path, group = waiting.pop()
            for name in group:
                here = self.join(path, name)
                if (inner := self.visit(group, here, name)) is not None:
                    waiting.append((here, inner))

    def join(self, path: str, name: bytes) -> str:
        here = f"{path}/{name.decode('utf-8')}" if path else name.decode("utf-8")
        if len(here) > NAME_LIMIT or here.count("/") > DEPTH_LIMIT:
            raise UnsafeError(f"{self.path} nests implausibly deep", names=[here[:100]])
        return here

    def first(self, item: Any, path: str) -> str | None:
        """The path under which an object was met before; it is remembered where there is none."""
        address = _h5py().h5o.get_info(item).addr
        known = self.seen.setdefault(address, path)
        return None if known == path else known

    def visit(self, group: Any, path: str, name: bytes) -> Any:
        """A group to go into; an array is taken down, anything else is passed over."""
        h5py = _h5py()
        link = group.links.get_info(name).type
        if link == h5py.h5l.TYPE_SOFT:
            return self.skip(path, "soft links, which are not followed")
        if link != h5py.h5l.TYPE_HARD:
            raise UnsafeError(
                f"{self.path} links to another file, which is not followed", names=[path],
                usual="a file that was split by hand, or a forged one",
                remedy="copy what it links to into one file, as h5repack does",
            )  # fmt: skip
        item = h5py.h5o.open(group, name)
        before = self.first(item, path)
        if isinstance(item, h5py.h5g.GroupID):
            if before is not None:
                raise UnsafeError(
                    f"{self.path} holds a group in two places", names=[before, path], usual="a forged file"
                )
            self.notes(item, path)
            return item
        if not isinstance(item, h5py.h5d.DatasetID):
            return self.skip(path, "named types")
        if before is not None and before in self.arrays:
            self.aliases[path] = before
            self.arrays[path] = self.arrays[before]
            return None
        return self.take(item, path)

    def take(self, item: Any, path: str) -> None:
        found = located(item, self.path, path)
        if isinstance(found, str):
            return self.skip(path, found)
        self.arrays[path] = found
        return None

    def skip(self, path: str, why: str) -> None:
        self.skipped.setdefault(why, []).append(path)

    def notes(self, group: Any, path: str) -> None:
        """What Keras notes at a group: the names of its layers, or what its model calls this layer."""
        if path in hdf5_names.LISTED and (layers := list(_names(group, "layer_names", self.path))):
            self.layers[path] = layers
        if path.rpartition("/")[2] == "vars" and (title := _attribute(group, "name", self.path)):
            self.titles[path.rpartition("/")[0]] = str(title)


def _names(group: Any, name: str, path: str) -> Iterator[str]:
    """The texts of an attribute, which Keras cuts into `name0`, `name1`, … where they are too long for one."""
    whole = _attribute(group, name, path)
    parts = [whole] if whole is not None else itertools.takewhile(
        lambda part: part is not None, (_attribute(group, f"{name}{i}", path) for i in itertools.count())
    )  # fmt: skip
    for part in parts:
        for text in part if hasattr(part, "__iter__") and not isinstance(part, (str, bytes)) else ():
            yield text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _attribute(group: Any, name: str, path: str) -> Any:
    """The value of an attribute, None where there is none."""
    h5py, key = _h5py(), name.encode()
    if not h5py.h5a.exists(group, key):
        return None
    size = h5py.h5a.open(group, key).get_storage_size()
    if size > TEXT_LIMIT:
        raise UnsafeError(f"{path} holds an implausibly long attribute", names=[name], found=f"{size} bytes")
    value = h5py.AttributeManager(_Holder(group))[name]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@dataclass(frozen=True)
class _Holder:
    """What h5py's AttributeManager wants of its owner."""

    id: Any


def located(item: Any, path: str, name: str) -> Plain | str:
    """Where a dataset lies, as `hdf5_data.Array.of` takes it; or, in words, why it is not read.

    Raises:
        UnsafeError: it lies in another file, or claims what cannot be.
    """
    h5d = _h5py().h5d
    kind = element(item.get_type().encode())
    shape = item.get_space().shape
    if kind is None:
        return "values that are no numbers of a known type"
    if shape is None:
        return "arrays without axes and values"
    dtype, swapped = kind
    plist = item.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL or (layout == h5d.CONTIGUOUS and plist.get_external_count()):
        raise UnsafeError(
            f"{path}: an array whose data lie in other files", names=[name], usual="a virtual data set, or a forged file",
            remedy="copy it into one file: h5repack",
        )  # fmt: skip
    size = prod(shape) * ITEMSIZE[dtype]
    if len(shape) > AXES_LIMIT or size > 1 << 62:
        raise UnsafeError(f"{path}: an array of an implausible shape", names=[name], found=shape)
    known: Plain = {"shape": list(shape), "dtype": dtype, "swapped": swapped}
    if layout == h5d.COMPACT:
        return _held(item, known, size)
    if layout == h5d.CHUNKED:
        return _blocks(item, plist, known)
    if not size:
        return {**known, "pieces": []}
    offset = item.get_offset()
    if offset is None:
        return "arrays that were never written"
    if item.get_storage_size() != size:
        raise UnsafeError(
            f"{path}: an array has another size than its shape says", names=[name],
            found=f"{item.get_storage_size()} bytes", expected=f"{size} bytes", usual="a damaged or a forged file",
        )  # fmt: skip
    return {**known, "pieces": [[offset, size]]}


def _held(item: Any, known: Plain, size: int) -> Plain | str:
    import numpy as np

    h5s = _h5py().h5s
    if size > COMPACT_LIMIT:
        return "arrays that do not fit into their header"
    room = np.empty(tuple(known["shape"]), f"V{ITEMSIZE[known['dtype']]}")
    if size:
        item.read(h5s.ALL, h5s.ALL, room, item.get_type())
    return {**known, "held": room.tobytes().hex()}


def _blocks(item: Any, plist: Any, known: Plain) -> Plain | str:
    block = plist.get_chunk()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not set(filters) <= {DEFLATE, SHUFFLE}:
        return "arrays packed otherwise than with gzip"
    if item.get_num_chunks() != prod(-(-size // n) for size, n in zip(known["shape"], block, strict=True)):
        return "arrays that were not written to their end"
    chunks: list[list[Any]] = []
    item.chunk_iter(lambda info: chunks.append([info.chunk_offset, info.byte_offset, info.size, info.filter_mask]))
    return {**known, "chunks": chunks, "block": list(block), "filters": filters}


@lru_cache(maxsize=256)
def element(encoded: bytes) -> tuple[str, bool] | None:
    """An HDF5 type as an element type and whether it is big-endian; None for what is no plain number.

    Two opaque bytes are a bfloat16, which numpy and so Keras write as void.
    """
    h5t = _h5py().h5t
    kind = h5t.decode(encoded)
    if kind.get_class() == h5t.OPAQUE:
        return ("bfloat16", False) if kind.get_size() == 2 else None
    for dtype, code in _CODES.items():
        for order in ("LE", "BE"):
            if kind.equal(getattr(h5t, f"{code}{order}")):
                return dtype, order == "BE" and ITEMSIZE[dtype] > 1
    return None


_CODES = {
    "float32": "IEEE_F32", "float16": "IEEE_F16", "float64": "IEEE_F64", "int64": "STD_I64", "int32": "STD_I32",
    "int16": "STD_I16", "int8": "STD_I8", "uint8": "STD_U8", "uint16": "STD_U16", "uint32": "STD_U32",
    "uint64": "STD_U64",
}  # fmt: skip
"""Element type → h5py's name of it, without the byte order."""
