"""Archives of torch.export.save (.pt2): a JSON list of the state dict, and a member of plain bytes for each storage.

Source: torch 2.13 `torch/export/pt2_archive/{_package,_package_weights,constants}.py` and `torch/_export/serde/schema.py`
(ScalarType, TensorMeta).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyvit.containers import strided, zips
from anyvit.containers.files import LocalFile
from anyvit.containers.rebuild import Storage, Strided
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Checkpoint, Lazy, Note, every

LIST = "_weights_config.json"
"""What the name of the list ends with; the model's name stands before it."""
LIST_LIMIT = 256 << 20
"""Largest list in bytes."""
AXES_LIMIT = 64
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
    31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""Their number of an element type → ours."""


def is_archive(names: Collection[str]) -> bool:
    """Whether a zip file's members are those of torch.export.save."""
    return any(name.endswith(LIST) for name in names)


def read(path: str | Path) -> Checkpoint:
    """Opens an archive of torch.export.save; reads its list, and no tensor.

    Arguments:
        path: the file.

    Returns:
        The checkpoint, under the names of the exported module's state dict.

    Raises:
        FileError: missing, cut or damaged, or several models in one archive.
        UnsafeError: a list that claims what cannot be.
    """
    file = LocalFile(path)
    members = zips.members(file)
    lists = [name for name in members if name.endswith(LIST)]
    if len(lists) != 1:
        raise FileError(f"{path} holds {len(lists)} exported models", names=lists[:8], expected="one")
    root = lists[0].rpartition("/")[0] + "/"
    order = next((name for name in members if name.endswith("byteorder") and "/data/" not in name), None)
    swapped = order is not None and zips.read(file, members[order]) == b"big"
    tensors: dict[str, Lazy] = {}
    homes: dict[str, list[str]] = {}
    unread: list[str] = []
    for name, entry in _entries(file, members[lists[0]]):
        key = entry.get("path_name")
        number = _meta(entry).get("dtype")
        dtype = DTYPES.get(number) if type(number) is int else None
        if entry.get("use_pickle") or dtype is None or not isinstance(key, str):
            unread.append(name)
            continue
        tensors[name] = _tensor(file, name, key, dtype, _meta(entry), members.get(root + key), swapped)
        homes.setdefault(root + key, []).append(name)
    notes = (
        [Note("unread", tuple(unread), "tensors that are pickled, or of a type that has no name here")]
        if unread
        else []
    )
    aliases = {name: names[0] for names in homes.values() for name in names[1:] if _same(tensors, name, names[0])}

    def verify(wanted: Callable[[str], bool] = every) -> Iterator[Note]:
        asked = [m for key, m in members.items() if key in homes and any(map(wanted, homes[key]))]
        for note in zips.damaged(file, asked):
            yield replace(note, names=tuple(homes.get(note.names[0], note.names)))

    checked = any(member.crc for member in members.values())
    found = Checkpoint(tensors, "pt2", str(path), {}, aliases, tuple(notes))
    if not checked:
        return found
    return replace(found, verify=verify, sums=lambda: zips.sums(file, members.values(), tensors))


def _same(tensors: Mapping[str, Lazy], one: str, other: str) -> bool:
    return tensors[one].pieces is not None and tensors[one].pieces == tensors[other].pieces


def _entries(file: LocalFile, member: zips.Member) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(zips.read(file, member, limit=LIST_LIMIT))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)[:200]) from error
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict) or not all(isinstance(entry, dict) for entry in config.values()):
        raise _damaged(file, "no list of tensors")
    yield from config.items()


def _damaged(file: LocalFile, found: str) -> FileError:
    return FileError(f"the list of tensors in {file.name} is damaged", found=found, remedy="fetch the file again")


def _meta(entry: Mapping[str, Any]) -> dict[str, Any]:
    meta = entry.get("tensor_meta")
    return meta if isinstance(meta, dict) else {}


def _tensor(
    file: LocalFile, name: str, key: str, dtype: str, meta: Mapping[str, Any], member: zips.Member | None, swapped: bool
) -> Lazy:
    shape, stride = _integers(meta.get("sizes")), _integers(meta.get("strides"))
    offset = _integers([meta.get("storage_offset")])
    if shape is None or stride is None or offset is None or len(shape) != len(stride) or len(shape) > AXES_LIMIT:
        raise UnsafeError(f"{file.name} describes an impossible tensor", names=[name], found=str(meta)[:200])
    size = member.size if member else 0
    ref = Strided(Storage(key, dtype, size), offset[0], shape, stride, dtype)
    packed = member if member is not None and member.compression else None
    place = strided.Place(file, member.offset, size, packed, swapped) if member is not None else None
    return strided.tensor(name, ref, place)


def _integers(values: Any) -> tuple[int, ...] | None:
    """The numbers of [{"as_int": 3}, …]; None where one is missing or computed."""
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        return None
    numbers = [value.get("as_int") for value in values]
    return tuple(numbers) if all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) else None
