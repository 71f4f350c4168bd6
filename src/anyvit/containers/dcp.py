"""Folders of torch.distributed.checkpoint: a pickled list of tensors and their parts, and files that hold the parts.

Only `.metadata` is read for listing. Each part is a small torch file inside a `.distcp` file; it is opened when its
bytes are asked for.

Source: torch 2.6 `torch/distributed/checkpoint/metadata.py` (Metadata and the classes in it) and `filesystem.py`
(_StorageInfo, _write_item).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from anyvit.containers import single
from anyvit.containers.dcp_parts import Part, Parts, Place
from anyvit.containers.files import LocalFile, unreadable
from anyvit.containers.inert import Inert
from anyvit.containers.inside import inside
from anyvit.containers.limits import check_total
from anyvit.containers.opcodes import Global
from anyvit.containers.rebuild import BUILDERS, torch_dtype
from anyvit.containers.tiling import assembled
from anyvit.containers.unpickle import Machine
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import Ambiguous, AnyvitError, FileError, UnsafeError
from anyvit.lazy import Checkpoint, Lazy, Note

METADATA = ".metadata"
"""Source: _metadata_fn, torch/distributed/checkpoint/filesystem.py."""
METADATA_LIMIT = 4 << 30
"""Largest list in bytes; a part takes about 150."""
ENTRY_LIMIT = 16 << 20
"""Largest pickled leaf (args, a step counter) in bytes that is read."""


def read(folder: str | Path) -> Checkpoint:
    """Opens a folder that torch.distributed.checkpoint wrote; reads its list, and no tensor.

    Arguments:
        folder: the folder with `.metadata`, or one that holds exactly one such folder (`ckpt/199/`).

    Returns:
        The checkpoint; its leaves that are no tensors are read when they are looked up.

    Raises:
        FileError: a missing or cut file, or parts that do not make up their tensor.
        UnsafeError: a list that names files elsewhere or claims what cannot be.
        Ambiguous: several such folders in the one given.
    """
    home = _home(Path(folder))
    metadata = _metadata(home / METADATA)
    places = _places(metadata, home)
    parts = Parts(home)
    tensors: dict[str, Lazy] = {}
    leaves: list[str] = []
    odd: dict[str, list[str]] = defaultdict(list)
    for name, entry in _mapping(metadata.get("state_dict_metadata"), "state_dict_metadata", home).items():
        name, state = str(name), entry.state if isinstance(entry, Inert) else None
        if not isinstance(state, dict) or "chunks" not in state:
            leaves.append(name)
            continue
        try:
            tensors[name] = _tensor(name, state, places, parts)
        except _OddType as error:
            odd[str(error)].append(name)
    have = _check_files(home, places.values())
    check_total(str(home), sum(tensor.nbytes for tensor in tensors.values()), have, "parts that share few bytes")
    notes = tuple(Note("unread", tuple(names), f"tensors of the type {kind}") for kind, names in odd.items())
    extras = Leaves(leaves, lambda name: _leaf(name, places.get((name, None)), parts))
    return Checkpoint(tensors, "dcp", str(folder), extras, notes=notes, verify=parts.verify)


def _home(folder: Path) -> Path:
    if (folder / METADATA).is_file():
        return folder
    try:
        steps = [inner.name for inner in folder.iterdir() if (inner / METADATA).is_file()]
        steps.sort(key=single.by_number)
    except OSError as error:
        raise unreadable(folder, error) from error
    if len(steps) == 1:
        return folder / steps[0]
    if steps:
        raise Ambiguous(
            f"{folder} holds several distributed checkpoints",
            names=steps,
            remedy=f"open one of them, for instance {folder / steps[-1]}",
        )
    raise FileError(
        f"{folder} holds no list of a distributed checkpoint's tensors",
        names=[str(folder / METADATA)],
        usual="a copy that left out hidden files (cp folder/* …), or a save that was stopped before its end",
        remedy="copy .metadata too",
    )


def _metadata(path: Path) -> dict[str, Any]:
    file = LocalFile(path)
    if not file.size or file.size > METADATA_LIMIT:
        raise FileError(f"{path} is no list of tensors", found=f"{file.size} bytes", usual="a save that was stopped")
    root, _ = Machine(file.read(0, file.size), BUILDERS, name=str(path)).run()
    if isinstance(root, Inert) and root.type.endswith(".Metadata") and isinstance(root.state, dict):
        return root.state
    raise FileError(
        f"{path} is no list of a distributed checkpoint",
        found=root.type if isinstance(root, Inert) else type(root).__name__,
        expected="torch.distributed.checkpoint.metadata.Metadata",
    )


def _mapping(value: Any, what: str, home: Path) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    raise FileError(
        f"{home / METADATA} has no {what}",
        found=type(value).__name__,
        usual="another storage than torch's FileSystemWriter",
    )


def _places(metadata: Mapping[str, Any], home: Path) -> dict[tuple[str, Any], Place]:
    """Where each part lies, by the tensor's name and the part's offsets."""
    places: dict[tuple[str, Any], Place] = {}
    for index, info in _mapping(metadata.get("storage_data"), "storage_data", home).items():
        key = index.state if isinstance(index, Inert) else None
        value = info.state if isinstance(info, Inert) else None
        if not isinstance(key, dict) or not isinstance(value, dict):
            raise FileError(f"{home / METADATA}: damaged list of parts")
        name, begin, where = str(key.get("fqn")), key.get("offset"), (value.get("offset"), value.get("length"))
        if not _sizes(where) or not (begin is None or _sizes(begin)):
            raise UnsafeError(f"{home / METADATA} has a part at an impossible place", names=[name])
        transforms = value.get("transform_descriptors") or ()
        words = tuple(map(str, transforms)) if isinstance(transforms, list | tuple) else ("an unknown one",)
        file = value.get("relative_path")
        places[name, begin] = Place(file if isinstance(file, str) else "", where[0], where[1], words)
    return places


def _check_files(home: Path, places: Iterable[Place]) -> int:
    """Every file is there and as long as its parts need; their bytes in all."""
    needed: dict[str, int] = {}
    for place in places:
        needed[place.file] = max(needed.get(place.file, 0), place.offset + place.length)
    missing, short, have = [], [], 0
    for name, size in needed.items():
        try:
            found = os.stat(inside(home, name, str(home / METADATA))).st_size
        except OSError:
            missing.append(name)
            continue
        have += found
        if found < size:
            short.append((name, found, size))
    if missing:
        raise FileError(
            f"{len(missing)} of {len(needed)} files of the distributed checkpoint {home} are missing",
            names=missing,
            usual="a copy that was cut, or ranks that wrote to other machines' disks",
            remedy="copy the files of all ranks into one folder",
        )
    if short:
        raise FileError(
            "a file of a distributed checkpoint is cut",
            names=[str(home / name) for name, _, _ in short],
            found=f"{short[0][1]} bytes",
            expected=f"at least {short[0][2]} bytes",
            usual="a copy that was cut, or a save that is still running",
            remedy="fetch the file again",
        )
    return have


class _OddType(Exception):
    """A tensor of an element type that has no name here."""


def _tensor(name: str, state: Mapping[str, Any], places: Mapping[tuple[str, Any], Place], parts: Parts) -> Lazy:
    shape, chunks, properties = state.get("size"), state.get("chunks"), state.get("properties")
    fields = properties.state if isinstance(properties, Inert) else None
    fields = fields if isinstance(fields, dict | tuple) else ()
    kind = fields.get("dtype") if isinstance(fields, dict) else next(iter(fields), None)
    if not _sizes(shape) or not isinstance(chunks, list):
        raise FileError(f"{parts.home / METADATA}: damaged description of a tensor", names=[name])
    try:
        dtype = torch_dtype(kind)
    except ValueError as error:
        raise _OddType(kind.type if isinstance(kind, Global) else str(kind)[:80]) from error
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Part] = {}
    for chunk in chunks:
        begin, sizes = _chunk(chunk, name, len(shape), parts.home)
        place = places.get((name, begin))
        if place is None:
            raise FileError("a part of a tensor lies in no file", names=[name], found=f"offsets {begin}, sizes {sizes}",
                            usual="a list that was put together from two saves")  # fmt: skip
        size = prod(sizes) * ITEMSIZE[dtype]
        if size > place.length:
            raise UnsafeError(
                f"{parts.home / METADATA} gives a part of a tensor more elements than it has bytes",
                names=[name],
                found=f"{place.length} bytes for {dtype} {sizes}",
                expected=f"at least {size} bytes",
                usual="a forged list, or one that was put together from two saves",
            )
        found[begin, sizes] = parts.part(name, place, sizes, dtype)
    return assembled(name, shape, dtype, [(begin, sizes, part) for (begin, sizes), part in found.items()])


def _chunk(chunk: Any, name: str, axes: int, home: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    state = chunk.state if isinstance(chunk, Inert) else None
    begin, sizes = (state.get("offsets"), state.get("sizes")) if isinstance(state, dict) else (None, None)
    if _sizes(begin) and _sizes(sizes) and len(begin) == len(sizes) == axes:
        return begin, sizes
    raise FileError(f"{home / METADATA}: damaged description of a part", names=[name])


def _sizes(value: Any) -> TypeGuard[tuple[int, ...]]:
    return type(value) is tuple and all(type(size) is int and size >= 0 for size in value)


class Leaves(Mapping[str, Any]):
    """The leaves that are no tensors, nested by the dots of their names, each read when it is looked up.

    Those of an optimizer stay inert: there may be thousands of them, and nothing here needs them.
    """

    def __init__(self, names: Iterable[str], load: Callable[[str], Any]) -> None:
        self._below: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._below[name.split(".")[0]].append(name)
        self._load = cache(load)

    def __iter__(self) -> Iterator[str]:
        return iter(self._below)

    def __len__(self) -> int:
        return len(self._below)

    def __getitem__(self, key: str) -> Any:
        if key not in self._below:
            raise KeyError(key)
        if key.startswith("optim"):
            return Inert("torch.distributed.checkpoint.metadata.BytesStorageMetadata", items=self._below[key])
        nested: dict[str, Any] = {}
        for name in self._below[key]:
            *path, last = name.split(".")
            inner = nested
            for word in path:
                inner = inner.setdefault(word, {})
                if not isinstance(inner, dict):
                    break
            else:
                inner[last] = self._load(name)
        return nested[key]


def _leaf(name: str, place: Place | None, parts: Parts) -> Any:
    """The value of a leaf; inert where it cannot be read, because no weight depends on it."""
    if place is None or place.length > ENTRY_LIMIT:
        return Inert("torch.distributed.checkpoint.metadata.BytesStorageMetadata", (place and place.length,))
    try:
        return parts.leaf(name, place)
    except AnyvitError as error:
        return Inert("unreadable", (str(error),))
