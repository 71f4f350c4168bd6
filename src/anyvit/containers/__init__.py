"""Files, folders and mappings as checkpoints, and checkpoints as files.

What something is, its content says, never its suffix alone. Readers and writers are imported when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.errors import BadArgument
from anyvit.lazy import Checkpoint, Lazy

if TYPE_CHECKING:
    from anyvit.containers.stream import Seal
    from anyvit.witness import Witness

__all__ = ["open_checkpoint", "save"]

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
"""Suffixes under which a torch file is written."""


def open_checkpoint(source: str | os.PathLike[str] | Mapping[Any, Any]) -> Checkpoint:
    """Opens a file, a folder or a mapping; names, shapes and types are known at once, all data is unread.

    Arguments:
        source: a file of any supported container, whatever its suffix; a folder (Hugging Face, timm, open_clip, torch
            DCP, Orbax, DeepSpeed, or one that holds a single checkpoint); the address of a file or of a Hugging Face
            folder (https://, s3://, hf://, …), read by ranges; or a mapping name → tensor, maybe nested.

    Returns:
        The checkpoint: flat names, configuration files beside the weights in `siblings`.

    Raises:
        FileError: missing, not permitted, cut, damaged or of a format that is not supported; the message says which.
        UnsafeError: a header that claims what cannot be, or a path that leads out of its folder.
        Ambiguous: a folder of several checkpoints.
        BadArgument: neither a path nor a mapping.

    Example:
        >>> import numpy as np
        >>> opened = open_checkpoint({"cls_token": np.zeros((1, 1, 8), "float32")})
        >>> opened.container, opened.tensors["cls_token"].shape
        ('memory', (1, 1, 8))
    """
    if isinstance(source, Mapping):
        from anyvit.containers import memory

        return memory.read(source)
    if not isinstance(source, (str, os.PathLike)):
        raise BadArgument("a checkpoint is a path or a mapping name → tensor", found=type(source).__name__)
    if not os.fspath(source):
        raise BadArgument("an empty path names no checkpoint", remedy='"." is the working folder')
    from anyvit.containers import folder, single
    from anyvit.containers.limits import check_names

    if isinstance(source, str) and "://" in source:
        found = folder.read_remote(source)
        check_names(source, found.tensors)
        return found
    path = Path(source)
    if path.is_dir():
        found = folder.read(path)
    else:
        found = single.with_notes(folder.beside(path, single.read(path)), single.shard_note(path))
    check_names(str(path), found.tensors)
    return found


def save(
    tensors: Mapping[str, Lazy],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
    recorded: bool = False,
    seal: Seal | None = None,
    witness: Witness | None = None,
) -> None:
    """Writes tensors to a file of the container that its suffix names, one tensor at a time.

    Arguments:
        tensors: name → tensor, in the order of the file.
        path: ends in .safetensors, .npz, .pth, .pt, .bin or .ckpt; replaced only when all went well.
        metadata: text → text; npz has no place for it.
        durable: flush to the disk before the file takes its name.
        recorded: put each tensor's checksum into the metadata; only safetensors does, zip archives hold their own.
        seal: called when all tensors are written, before the file takes its name; gives metadata that was not known
            before, each value as long as the one it replaces. What it raises leaves the old file.
        witness: is shown the bytes that are read (`integrity.Check.witness`).

    Raises:
        BadArgument: another suffix.
        FileError: disk full, no permission, or a source that cannot be read.
        Unsayable: something that this container cannot hold.

    Example:
        >>> import tempfile, numpy as np
        >>> from anyvit.lazy import from_array
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"a": from_array(np.ones(3, "float32"))}, f"{folder}/a.npz")
        ...     open_checkpoint(f"{folder}/a.npz").tensors["a"].read().tolist()
        [1.0, 1.0, 1.0]
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        from anyvit.containers import safetensors

        safetensors.write(
            tensors, path, metadata=metadata, durable=durable, recorded=recorded, seal=seal, witness=witness
        )
    elif suffix == ".npz":
        from anyvit.containers import npz

        npz.write(tensors, path, durable=durable, seal=seal, witness=witness)
    elif suffix in TORCH_SUFFIXES:
        from anyvit.containers import torch_file

        torch_file.write(tensors, path, metadata=metadata, durable=durable, seal=seal, witness=witness)
    else:
        raise BadArgument(
            f"no container is written under the suffix {suffix!r}",
            names=[str(path)],
            expected=", ".join((".safetensors", ".npz", *TORCH_SUFFIXES)),
            remedy=f"{path.with_suffix('.safetensors') if path.name else 'model.safetensors'}",
        )
