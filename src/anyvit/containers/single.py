"""One file, opened by what is in it."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from dataclasses import replace
from os import PathLike
from pathlib import Path

from anyvit.containers import sniff
from anyvit.containers.files import unreadable
from anyvit.errors import FileError
from anyvit.lazy import Checkpoint, Note

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
"""File name of a shard. Source: https://huggingface.co/docs/huggingface_hub/package_reference/serialization."""


def read(path: str | Path, *, index: bool = True) -> Checkpoint:
    """Opens a file by its first bytes, whatever it is called.

    Arguments:
        path: the file.
        index: whether a JSON weight map is followed to its shards.

    Raises:
        FileError: missing, no regular file, or of a format that is not read.
    """
    path = Path(path) if isinstance(path, (str, PathLike)) else path
    _check_regular(path)
    match sniff.kind(path):
        case "safetensors":
            from anyvit.containers import safetensors

            found = safetensors.read(path)
        case "zip":
            found = _read_zip(path)
        case "pickle":
            from anyvit.containers import torch_file

            found = torch_file.read(path)
        case "npy":
            from anyvit.containers import npz

            found = npz.read_npy(path)
        case "msgpack":
            from anyvit.containers import msgpack

            found = msgpack.read(path)
        case "hdf5":
            from anyvit.containers import hdf5

            found = hdf5.read(path)
        case "onnx":
            from anyvit.containers import onnx

            found = onnx.read(path)
        case _ if index:
            from anyvit.containers import shards

            found = shards.read_index(path)
        case _:
            raise FileError(f"{path} is a JSON file where a shard was expected", usual="a damaged folder")
    return found


def shard_note(path: Path) -> tuple[Note, ...]:
    """What to say of a file that is one shard of several, by its name."""
    match = SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return ()
    cause = f"one shard of {int(match['count'])}; the other tensors lie in the other files"
    return (Note("shard", (path.name,), cause, f"open the folder, {path.parent}"),)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if ":/" in str(path):
            raise FileError(
                f"{path} looks like an address that became a path",
                remedy="give the address as text, or download it first",
            ) from error
        raise (unreadable(path, error) if isinstance(error, OSError) else FileError(f"{path!r} is no path")) from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{path} is no regular file", usual="a pipe, a socket or a device")


def _read_zip(path: Path) -> Checkpoint:
    from anyvit.containers import zips

    # The first name mostly tells; a directory of thousands is then parsed once, by the reader.
    if (found := _by_names(path, zips.first_name(path))) is not None:
        return found
    members = zips.members(path)
    if (found := _by_names(path, members)) is not None:
        return found
    if "model.weights.h5" in members:
        from anyvit.containers import hdf5

        return hdf5.read_archive(path, members)
    if not members:
        raise FileError(f"{path} is an empty archive", usual="numpy.savez or torch.save that was given nothing")
    raise FileError(
        f"{path} is a zip archive of other files",
        names=list(members)[:8],
        remedy="unzip it and open the file or folder in it",
    )


def _by_names(path: Path, names: Collection[str]) -> Checkpoint | None:
    """An archive whose kind shows in some of its names; None where it does not."""
    from anyvit.containers import pt2

    if pt2.is_archive(names):
        return pt2.read(path)
    if any(name.endswith((".pkl", "/version")) for name in names):
        from anyvit.containers import torch_file

        return torch_file.read(path)
    if any(name.endswith(".npy") for name in names):
        from anyvit.containers import npz

        return npz.read(path)
    return None


def with_notes(checkpoint: Checkpoint, notes: tuple[Note, ...]) -> Checkpoint:
    """The same checkpoint with more to say."""
    return replace(checkpoint, notes=(*checkpoint.notes, *notes)) if notes else checkpoint


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names as numbers, so that step 1000 comes after step 500.

    Example:
        >>> sorted(["checkpoint-1000", "checkpoint-500"], key=by_number)
        ['checkpoint-500', 'checkpoint-1000']
    """
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,18})", name)]
