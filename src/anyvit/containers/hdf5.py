"""HDF5 files of Keras and of transformers' TensorFlow classes: `.h5`, `.weights.h5`, and `.keras` archives of one.

h5py (the extra `anyvit[hdf5]`) tells names, shapes and where the bytes lie; the bytes are then read and unpacked here,
so that no filter of the HDF5 library ever runs and nothing leaves the file.

Source: keras-team/keras keras/src/saving/saving_lib.py (H5IOStore) and keras/src/legacy/saving/legacy_h5_format.py
v3.15.1; The HDF Group, HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from anyvit.containers import hdf5_data, hdf5_names
from anyvit.containers.files import LocalFile
from anyvit.containers.limits import NAME_LIMIT, check_total
from anyvit.containers.single import by_number
from anyvit.containers.zips import STORED, Member
from anyvit.errors import AnyvitError, FileError, UnsafeError, needs
from anyvit.lazy import Checkpoint, Lazy, Note

DEPTH_LIMIT = 100
"""Most groups inside one another; Keras nests a dozen."""
TEXT_LIMIT = 32 << 20
"""Longest attribute in bytes that is read; Keras keeps a model's whole configuration in one."""
CONFIGS = ("model_config",)
"""Attributes of JSON that are kept; Keras writes its configuration there."""
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
        **{**vars(found), "siblings": {INNER[1]: _json(zips.read(file, config, limit=TEXT_LIMIT), str(path))}}
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
    trees = [_tree(file, 0, file.size, str(path)) for file, path in zip(files, paths, strict=True)]
    titles = {path: title for tree in trees for path, title in tree.titles.items()}
    parts = [tree.checkpoint("hdf5", titles) for tree in trees]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    aliases = {name: first for part in parts for name, first in part.aliases.items()}
    notes = tuple(note for part in parts for note in part.notes)
    return Checkpoint(tensors, "hdf5", str(folder), aliases=aliases, notes=notes)


def _listed(file: LocalFile, start: int, size: int, path: str, container: str) -> Checkpoint:
    return _tree(file, start, size, path).checkpoint(container)


def _tree(file: LocalFile, start: int, size: int, path: str) -> _Tree:
    try:
        h5py = hdf5_data.library()
    except ImportError as error:
        raise needs("hdf5", "h5py", f"to read {path}, an HDF5 file") from error
    source = hdf5_data.Window(file, start, size)
    tree = _Tree(source, path)
    try:
        with h5py.File(source.stream(), "r") as opened:
            tree.walk(opened.id)
            for name in CONFIGS:
                if (text := _attribute(opened.id, name, path)) is not None:
                    tree.extras[name] = _json(text, path)
    except AnyvitError:
        raise
    except Exception as error:  # what h5py raises of a damaged file is of a dozen kinds
        raise FileError(
            f"{path} is a damaged HDF5 file", found=str(error)[:200],
            usual="a download or copy that was cut, or a training run that was stopped while it saved",
            remedy="fetch the file again",
        ) from error  # fmt: skip
    return tree


@dataclass
class _Tree:
    """The arrays of an HDF5 file by their paths, and what Keras notes of its layers."""

    source: hdf5_data.Window
    path: str
    arrays: dict[str, hdf5_data.Array] = field(default_factory=dict)
    layers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[int, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def walk(self, root: Any) -> None:
        """Visits every group once."""
        group = hdf5_data.library().h5g.open(root, b"/")
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
        address = hdf5_data.library().h5o.get_info(item).addr
        known = self.seen.setdefault(address, path)
        return None if known == path else known

    def visit(self, group: Any, path: str, name: bytes) -> Any:
        """A group to go into; an array is taken down, anything else is passed over."""
        h5py = hdf5_data.library()
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
        found = hdf5_data.located(item, self.source, self.path, path)
        if isinstance(found, str):
            return self.skip(path, found)
        self.arrays[path] = found
        return None

    def skip(self, path: str, why: str) -> None:
        self.skipped.setdefault(why, []).append(path)

    def notes(self, group: Any, path: str) -> None:
        """What Keras notes at a group: the names of its layers, or what its model calls this layer."""
        if path in hdf5_names.LISTED and (layers := list(_names(group, "layer_names", self.path))):
            self.layers[path] = tuple(layers)
        if path.rpartition("/")[2] == "vars" and (title := _attribute(group, "name", self.path)):
            self.titles[path.rpartition("/")[0]] = str(title)

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
    h5py, key = hdf5_data.library(), name.encode()
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
