"""Files of torch.save and torch.jit.save, and plain pickles of arrays, read without torch and without running any.

Source: the layouts as torch 2.6 `torch/serialization.py` reads them (`_load` for zip files, `_legacy_load` for the
older row of pickles).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyvit.containers import strided, zips
from anyvit.containers.files import LocalFile
from anyvit.containers.flatten import Flat, flatten
from anyvit.containers.limits import check_total
from anyvit.containers.opcodes import Data, Span
from anyvit.containers.rebuild import BUILDERS, Array, Storage, Strided, storage_dtype
from anyvit.containers.torch_write import METADATA, write
from anyvit.containers.torchscript import is_archive
from anyvit.containers.unpickle import Builder, Machine
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import FileError
from anyvit.lazy import Bytes, Checkpoint, Lazy, Note, every

__all__ = ["read", "write"]

PICKLE_LIMIT = 1 << 30
"""Largest data.pkl in bytes."""
METADATA_LIMIT = 4 << 20
"""Longest text in bytes that anyvit put beside the tensors."""
_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch's older files begin with: a pickle of the number 0x1950a86a20f9469cfc6c."""
_PROTOCOL = 1001


def read(path: str | Path) -> Checkpoint:
    """Opens a file that torch.save, torch.jit.save or pickle wrote; lists it, and reads no tensor.

    Arguments:
        path: .pth, .pt, .ckpt, .bin, .pth.tar, .pkl, …: a zip file, a row of pickles, or one pickle.

    Returns:
        The checkpoint. Unknown objects are `Inert`, and a note "inert" names each of their classes.

    Raises:
        FileError: missing, cut, damaged, or in a layout older than torch 0.1.10.
        UnsafeError: a file that claims what cannot be.
    """
    file = LocalFile(path)
    if not file.size:
        raise FileError(f"{path} is empty", usual="a download that failed", remedy="fetch the file again")
    head = file.read(0, min(file.size, 512))
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return _zip(file)
    if head[257:262] == b"ustar":
        raise _tar(file)
    return _pickles(file, head)


@dataclass
class _Parsed:
    """A parsed file: its object flattened, and where bytes lie. `source` and `base` place the pickle's own data."""

    flat: Flat
    foreign: Mapping[str, None]
    places: Mapping[str, strided.Place]
    source: Bytes
    base: int
    frozen: bool = False

    def checkpoint(
        self, file: LocalFile, container: str, verify: Any = None, metadata: Mapping[str, str] | None = None
    ) -> Checkpoint:
        tensors: dict[str, Lazy] = {}
        aliases: dict[str, str] = {}
        seen: dict[Any, str] = {}
        for name, ref in self.flat.tensors.items():
            if isinstance(ref, Array):
                lazy = strided.array(name, ref, self.source, self.base)
            else:
                storage = ref.storage if isinstance(ref, Strided) else ref
                lazy = strided.tensor(name, ref, self.places.get(storage.key))
            tensors[name] = lazy
            if lazy.nbytes and (first := seen.setdefault(ref, name)) != name:
                aliases[name] = first
        claimed = sum(lazy.nbytes for lazy in tensors.values())
        check_total(file.name, claimed, file.size, "tensors that repeat or share few bytes many times")
        notes = tuple(_notes(self.flat, self.foreign))
        if self.frozen:
            cause = "a frozen TorchScript: its weights became constants of its code and have lost their names"
            notes = (*notes, Note("fused", (), cause, "use the model before torch.jit.freeze"))
        return Checkpoint(
            tensors, container, file.name, self.flat.extras, aliases, notes, metadata or {}, verify=verify
        )


def _zip(file: LocalFile) -> Checkpoint:
    members = zips.members(file)
    found = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if not found:
        raise FileError(
            f"{file.name} is a zip archive, but none of torch: it has no data.pkl",
            found=", ".join(list(members)[:5]),
            remedy="unpack it, if the checkpoint lies inside",
        )
    main = min(found, key=lambda name: name.count("/"))
    root = main.removesuffix("data.pkl")
    # Some writers leave every checksum at zero: then there is none, and nothing can be verified.
    checked = any(member.crc for member in members.values())
    data = _bytes(file, members[main], checked)
    order = _bytes(file, members[f"{root}byteorder"], checked) if f"{root}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise FileError(f"{file.name}: unknown byte order", found=order[:80], expected="little or big")
    places = {
        name.removeprefix(f"{root}data/"): strided.Place(
            file, member.offset, member.size, member if member.compression else None, order == b"big"
        )
        for name, member in members.items()
        if name.startswith(f"{root}data/")
    }
    machine = Machine(data, BUILDERS, _persistent, file.name)
    root_object, _ = machine.run()
    flat = flatten(root_object, file.name, machine.count)
    stored = not members[main].compression
    source, base = (file, members[main].offset) if stored else (strided.Buffer(data, file.name), 0)
    foreign = {name: None for name in machine.foreign if not name.startswith("__torch__.")}
    flat.script = flat.script or is_archive(members, root)
    parsed = _Parsed(flat, foreign, places, source, base)
    parsed.frozen = flat.script and not flat.tensors and any(name.startswith(f"{root}constants/") for name in members)
    verify = _verifier(file, members, f"{root}data/", flat) if checked else None
    metadata = _metadata(file, members.get(root + METADATA))
    opened = parsed.checkpoint(file, "torchscript" if flat.script else "torch", verify, metadata)
    return replace(opened, sums=lambda: zips.sums(file, members.values(), opened.tensors)) if checked else opened


def _metadata(file: LocalFile, member: zips.Member | None) -> dict[str, str]:
    """What anyvit wrote beside the tensors; nothing where another hand wrote it."""
    if member is None or member.size > METADATA_LIMIT:
        return {}
    try:
        content = json.loads(zips.read(file, member))
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def _bytes(file: LocalFile, member: zips.Member, checked: bool) -> bytes:
    if checked or member.compression:
        return zips.read(file, member, limit=PICKLE_LIMIT)
    return file.read(member.offset, min(member.size, PICKLE_LIMIT))


def _persistent(saved: Any) -> Storage:
    """("storage", class, key, device, number of elements)"""
    if type(saved) is not tuple or len(saved) < 5 or saved[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    dtype, key, count = storage_dtype(saved[1]), saved[2], saved[4]
    if type(count) is not int or count < 0 or type(key) not in (str, int):
        raise ValueError("a storage of an impossible size")
    return Storage(str(key), dtype, count * ITEMSIZE[dtype])


def _verifier(
    file: LocalFile, members: Mapping[str, zips.Member], root: str, flat: Flat
) -> Callable[..., Iterator[Note]]:
    def verify(wanted: Callable[[str], bool] = every) -> Iterator[Note]:
        living: dict[str, list[str]] = {}
        for name, ref in flat.tensors.items():
            if not isinstance(ref, Array):
                storage = ref.storage if isinstance(ref, Strided) else ref
                living.setdefault(root + storage.key, []).append(name)
        idle = {key for key, users in living.items() if not any(map(wanted, users))}
        for note in zips.damaged(file, [member for key, member in members.items() if key not in idle]):
            yield Note(note.kind, tuple(living.get(note.names[0], note.names)), note.cause, note.remedy)

    return verify


def _pickles(file: LocalFile, head: bytes) -> Checkpoint:
    data = file.view(0, file.size)
    if data is None:
        raise FileError(f"{file.name} cannot be mapped into memory", found=f"{file.size} bytes")
    row = _Row(data, file)
    if head.startswith(_MAGIC):
        root = row.read(0, file.size, "")
        container = "torch-legacy"
    else:
        root = row.machine.run()[0]
        container = "pickle"
    flat = flatten(root, file.name, row.machine.count)
    return _Parsed(flat, row.machine.foreign, row.places, file, 0).checkpoint(file, container)


def pickled(data: bytes, name: str, start: int = 0) -> Checkpoint:
    """A pickle in memory: what numpy writes for an array of objects.

    Arguments:
        data: the bytes.
        name: where they come from, for messages.
        start: offset of the pickle in them, in bytes.
    """
    machine = Machine(data, BUILDERS, None, name)
    root, _ = machine.run(start)
    flat = flatten(root, name, machine.count)
    parsed = _Parsed(flat, machine.foreign, {}, strided.Buffer(data, name), 0)
    return parsed.checkpoint(LocalFile(name), "pickle")


class _Row:
    """torch's older layout: magic number, protocol, system, object, keys as pickles, then the storages' bytes.

    The same layout lies inside a plain pickle of tensors, once per storage, as the argument of `_load_from_bytes`.
    """

    def __init__(self, data: Data, file: LocalFile) -> None:
        self.data, self.file = data, file
        self.places: dict[str, strided.Place] = {}
        builders: dict[str, Builder | None] = {**BUILDERS, "torch.storage._load_from_bytes": self.nested}
        self.machine = Machine(data, builders, None, file.name)

    def read(self, start: int, end: int, prefix: str) -> Any:
        """The object of the row that begins at `start`; its storages' places are added under `prefix` + key."""
        used: dict[str, Storage] = {}

        def persistent(saved: Any) -> Any:
            if type(saved) is tuple and saved[:1] == ("module",):
                return saved[1]  # a class, followed by its source code
            root = _persistent(saved)
            root = root._replace(key=prefix + root.key)
            if used.setdefault(root.key, root) != root:
                raise ValueError("a storage described in two ways")
            return root if len(saved) < 6 or saved[5] is None else _view(root, saved[5])

        machine = Machine(self.data, self.machine.builders, persistent, self.file.name)
        protocol, at = machine.run(start + len(_MAGIC))
        if protocol != _PROTOCOL:
            found = protocol if type(protocol) is int else None
            raise FileError(f"{self.file.name}: an unknown layout", found=found, expected=_PROTOCOL)
        _, at = machine.run(at)
        root, at = machine.run(at)
        count = machine.count
        keys, at = machine.run(at)
        self.machine.foreign.update(machine.foreign)
        self.machine.count += count
        self._place(keys, at, end, prefix, used)
        return root

    def _place(self, keys: Any, at: int, end: int, prefix: str, used: dict[str, Storage]) -> None:
        if type(keys) is not list or not all(type(key) in (str, int) for key in keys):
            raise FileError(f"{self.file.name}: damaged list of storages")
        for key in keys:
            storage = used.get(f"{prefix}{key}")
            count = int.from_bytes(self.data[at : at + 8], "little", signed=True)
            at += 8
            if storage is None or count * ITEMSIZE[storage.dtype] != storage.size or at + storage.size > end:
                raise FileError(
                    f"{self.file.name} is cut or damaged in storage {str(key)[:40]}",
                    found=f"{end} bytes in all",
                    expected=f"{at + storage.size if storage else at} or more",
                    usual="a download or copy that was cut",
                    remedy="fetch the file again",
                )
            self.places[storage.key] = strided.Place(self.file, at, storage.size)
            at += storage.size

    def nested(self, machine: Machine, args: tuple[Any, ...]) -> Any:
        """A storage that was pickled by itself: a whole row inside a byte string."""
        raw = args[0]
        if type(raw) is not Span or bytes(self.data[raw.offset : raw.offset + len(_MAGIC)]) != _MAGIC:
            raise ValueError("a storage in an unknown layout")
        if machine is not self.machine:
            raise ValueError("a storage within a storage")
        return self.read(raw.offset, raw.offset + raw.size, f"{raw.offset}:")


def _view(root: Storage, view: Any) -> Storage:
    _, offset, count = view
    item = ITEMSIZE[root.dtype]
    if not 0 <= offset <= offset + count <= root.size // item:
        raise ValueError("a view beyond its storage")
    return Storage(root.key, root.dtype, count * item, offset * item)


def _notes(flat: Flat, foreign: Mapping[str, None]) -> Iterator[Note]:
    if flat.script:
        yield Note("torchscript", (), "a TorchScript archive: its tensors are read, its code is not run")
    for name, kind in flat.modules.items():
        yield Note("module", (name,) if name else (), f"a whole module ({kind}) was pickled: read without its class")
    for kind, names in flat.special.items():
        yield Note(kind, tuple(names), f"a {kind} tensor is no plain array of numbers; it is not read")
    for kind in foreign:
        yield Note("inert", tuple(name for name in flat.inert.get(kind, ()) if name), f"{kind}, not executed")
    if flat.doubled:
        yield Note("duplicate", tuple(flat.doubled), "two tensors of the same dotted name; the first is taken")


def _tar(file: LocalFile) -> FileError:
    import tarfile

    try:
        with tarfile.open(file.name) as archive:
            names = {member.name for member in itertools.islice(archive, 8)}
    except (tarfile.TarError, OSError, ValueError) as error:
        return FileError(f"{file.name} is a damaged tar archive", found=error)
    if {"storages", "tensors", "pickle"} <= names:
        return FileError(
            f"{file.name} is in the layout of torch before 0.1.10, which is not read here",
            remedy="torch.save(torch.load(old, weights_only=False), new)  # only if you trust the file",
        )
    return FileError(f"{file.name} is a tar archive", remedy=f"tar xf {file.name}")
