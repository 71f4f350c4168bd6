"""HDF5 files of Keras and of transformers' TensorFlow classes: `.h5`, `.weights.h5`, and `.keras` archives of one.

h5py (the extra `anyvit[hdf5]`) tells names, shapes and where the bytes lie, in a process of its own (`hdf5_tree`); the
bytes are read and unpacked here, so that no filter of the HDF5 library ever runs and nothing leaves the file.

Source: keras-team/keras keras/src/saving/saving_lib.py (H5IOStore) and keras/src/legacy/saving/legacy_h5_format.py
v3.15.1; The HDF Group, HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from anyvit.containers import hdf5_apart, hdf5_data, hdf5_names
from anyvit.containers.files import LocalFile
from anyvit.containers.hdf5_apart import Walker
from anyvit.containers.limits import check_total
from anyvit.containers.single import by_number
from anyvit.containers.zips import STORED, Member
from anyvit.errors import FileError
from anyvit.lazy import Checkpoint, Lazy, Note

INNER = ("model.weights.h5", "config.json", "metadata.json")
"""What a `.keras` archive holds. Source: keras saving_lib.py, _VARS_FNAME, _CONFIG_FILENAME, _METADATA_FILENAME."""


def read(path: str | Path) -> Checkpoint:
    """Opens an HDF5 file; reads its tree, no values.

    Arguments:
        path: the file.

    Returns:
        The checkpoint; names are paths joined by "/", as Keras calls its weights (`hdf5_names`).

    Raises:
        MissingExtra: h5py is not installed.
        FileError: a cut or damaged file.
        UnsafeError: links or data outside the file, groups in a circle, or claims of implausible size.
    """
    file = LocalFile(path)
    return _listed(file, 0, file.size, str(path), "hdf5")


def read_archive(path: str | Path, members: Mapping[str, Member]) -> Checkpoint:
    """Opens a `.keras` archive: the HDF5 file in it, and its configuration as "config.json" beside it.

    Arguments:
        path: the archive.
        members: its directory.
    """
    from anyvit.containers import zips

    file = LocalFile(path)
    weights = members[INNER[0]]
    if weights.compression != STORED:
        raise FileError(
            f"{path}: the weights are packed inside the archive, so that no part of them can be read alone",
            names=[weights.name], usual="an archive that was made again by hand", remedy=f"unzip {path} {weights.name}",
        )  # fmt: skip
    found = _listed(file, weights.offset, weights.size, str(path), "keras")
    config = members.get(INNER[1])
    if config is None:
        return found
    return Checkpoint(
        **{**vars(found), "siblings": {INNER[1]: _json(zips.read(file, config, limit=hdf5_data.TEXT_LIMIT), str(path))}}
    )


def _json(data: bytes | str, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: the configuration is damaged: no JSON ({str(error)[:200]})") from error


def read_parts(paths: Sequence[Path], folder: Path) -> Checkpoint:
    """Opens the files into which Keras cut one model's weights; only some of them say what the model calls its layers.

    Arguments:
        paths: the files, all of them.
        folder: where they lie.
    """
    files = [LocalFile(path) for path in paths]
    with hdf5_apart.walker() as walker:
        trees = [_tree(walker, file, 0, file.size, str(path)) for file, path in zip(files, paths, strict=True)]
    titles = {path: title for tree in trees for path, title in tree.titles.items()}
    parts = [tree.checkpoint("hdf5", titles) for tree in trees]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    aliases = {name: first for part in parts for name, first in part.aliases.items()}
    notes = tuple(note for part in parts for note in part.notes)
    return Checkpoint(tensors, "hdf5", str(folder), aliases=aliases, notes=notes)


def _listed(file: LocalFile, start: int, size: int, path: str, container: str) -> Checkpoint:
    with hdf5_apart.walker() as walker:
        return _tree(walker, file, start, size, path).checkpoint(container)


def _tree(walker: Walker, file: LocalFile, start: int, size: int, path: str) -> _Tree:
    source = hdf5_data.Window(file, start, size)
    found = walker.walk(source, path)
    arrays = {name: hdf5_data.Array.of(plain, source, path, name) for name, plain in found["arrays"].items()}
    extras = {name: _json(text, path) for name, text in found["texts"].items()}
    return _Tree(
        source, path, arrays, extras=extras, **{n: found[n] for n in ("layers", "titles", "aliases", "skipped")}
    )


@dataclass
class _Tree:
    """The arrays of an HDF5 file by their paths, and what Keras notes of its layers."""

    source: hdf5_data.Window
    path: str
    arrays: Mapping[str, hdf5_data.Array]
    layers: Mapping[str, Sequence[str]]
    titles: Mapping[str, str]
    aliases: Mapping[str, str]
    skipped: Mapping[str, Sequence[str]]
    extras: Mapping[str, Any]

    def checkpoint(self, container: str, titles: Mapping[str, str] | None = None) -> Checkpoint:
        """The arrays under the names that Keras gives them; `titles` of all parts, where there are several."""
        names = hdf5_names.spelt(self.arrays, self.layers, self.titles if titles is None else titles)
        claimed = sum(max(prod(a.shape) * a.itemsize, a.chunk) for p, a in self.arrays.items() if p not in self.aliases)
        check_total(self.path, claimed, self.source.size, "arrays that unpack to, or share, many times their bytes")
        order = sorted(self.arrays, key=lambda path: by_number(names[path]))
        tensors: dict[str, Lazy] = {names[path]: self.arrays[path].lazy(names[path]) for path in order}
        notes = tuple(Note("unread", tuple(paths), f"not read: {why}") for why, paths in self.skipped.items())
        aliases = {names[path]: names[other] for path, other in self.aliases.items()}
        return Checkpoint(tensors, container, self.path, self.extras, aliases, notes)
