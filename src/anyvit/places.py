"""Where a model is written: whether a path names a file or a folder, and what nothing is written to."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from anyvit.containers.single import SHARD
from anyvit.errors import BadArgument, FileError
from anyvit.report import Finding

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
"""Of the containers that are written."""
CONFIGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
"""Files that describe the weights beside them; those of an earlier model would describe the new one wrongly."""
_BESIDE = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin", "open_clip_model.safetensors")
"""Names under which readers take the configuration beside a file for its own."""


def path_of(out: Any) -> Path:
    """The path that a caller named.

    Raises:
        BadArgument: none, an empty one, one with a NUL, or an address.

    Example:
        >>> path_of("vit.safetensors").name
        'vit.safetensors'
    """
    if not isinstance(out, (str, os.PathLike)) or not os.fspath(out):
        raise BadArgument("out is the path of a file or a folder", found=repr(out)[:80])
    if isinstance(out, str) and "://" in out:
        raise BadArgument("models are written to this machine only", found=out, remedy="write a file, then upload it")
    if "\0" in os.fsdecode(out):
        raise BadArgument("no path has a NUL in it", found=repr(out)[:80])
    return Path(out)


def is_folder(out: Path) -> bool:
    """Whether a path names a folder; a file's suffix, its name and its folder are checked.

    Raises:
        FileError: its folder does not exist, the system knows no such name, or something that is no file lies there.
        BadArgument: a suffix that names no container, or the name of one shard of several.
    """
    try:
        return _is_folder(out)
    except OSError as error:  # a name that is too long
        raise FileError(f"{str(out)[:200]!r} is no path that can be written ({error})") from error


def _is_folder(out: Path) -> bool:
    if not out.parent.is_dir():
        raise FileError(f"the folder {out.parent} does not exist", remedy=f"mkdir -p {out.parent}")
    if out.is_dir() or not out.suffix:
        if out.is_file():
            raise FileError(f"{out} is a file, and a path without suffix names a folder", remedy=f"{out}.safetensors")
        return True
    if out.suffix.lower() not in SUFFIXES:
        raise BadArgument(
            f"the suffix {out.suffix!r} names no container that can be written",
            expected=", ".join(SUFFIXES) + ", or a folder without suffix",
        )
    if os.path.lexists(out) and not stat.S_ISREG(mode := out.lstat().st_mode) and not stat.S_ISLNK(mode):
        raise FileError(f"{out} is no regular file", usual="a pipe, a socket or a device")
    if (shard := SHARD.fullmatch(out.name)) and int(shard["count"]) > 1:
        raise BadArgument(
            f"{out.name} is the name of one shard of {int(shard['count'])}, and a whole model would stand there",
            usual="readers would mix it with the other shards",
            remedy=f"write the folder, {out.parent}, or {out.with_name(shard['stem'] + shard['suffix'])}",
        )
    return False


def described_otherwise(out: Path) -> tuple[Finding, ...]:
    """What to say of a file that is written beside a configuration which readers take for its own."""
    there = [name for name in CONFIGS if out.name in _BESIDE and (out.parent / name).exists()]
    if not there:
        return ()
    cause = f"{', '.join(there)} beside {out.name} stays as it was, and other readers apply it to what was written now"
    return (Finding("note", (), cause, f"write the folder, {out.parent}, to have a configuration that fits"),)
