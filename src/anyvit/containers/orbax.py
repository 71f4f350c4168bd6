"""Folders of Orbax, JAX's checkpoints: a list of the tree in JSON, and the arrays as zarr, mostly inside OCDBT.

The arrays are read by tensorstore (the extra `anyvit[orbax]`), each when it is asked for.

Source: https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html, and the folders that
orbax-checkpoint 0.12.8 writes.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.containers import sniff
from anyvit.containers.inside import inside
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import FileError, MissingExtra
from anyvit.lazy import Checkpoint, Lazy, Note

if TYPE_CHECKING:
    import numpy as np

METADATA, STRINGS, MANIFEST = "_METADATA", "_strings.json", "manifest.ocdbt"
"""The tree, its texts, and the head of the key-value store."""
METADATA_LIMIT = 256 << 20
SCALARS_LIMIT = 1_000
"""Most single numbers that are read when a folder is opened."""
TOGETHER = 256
"""Arrays whose headers are read at the same time."""


def read(folder: str | Path) -> Checkpoint:
    """Opens a folder that Orbax wrote; reads the headers of the arrays, and single numbers.

    Arguments:
        folder: the folder with `_METADATA` (of a CheckpointManager: `<step>/default`).

    Returns:
        The checkpoint; the keys of the tree are joined by dots.

    Raises:
        MissingExtra: tensorstore is not installed.
        FileError: no list of the tree, or arrays that it names are missing or damaged.
    """
    home = Path(folder)
    if not (home / METADATA).is_file():
        raise FileError(
            f"{folder} is a folder of Orbax without {METADATA}, which names its arrays",
            usual="a save that was stopped before its end, or a part (ocdbt.process_0) instead of the whole",
            remedy="open the folder above; or restore it with Orbax in JAX and save it with numpy.savez",
        )
    metadata = sniff.load_json(home / METADATA, METADATA_LIMIT)
    tree = metadata.get("tree_metadata") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(tree, dict):
        raise FileError(f"{home / METADATA} holds no tree", usual="a version of Orbax that is not known here")
    leaves = dict(_leaf(home, entry) for entry in tree.values())
    stores = _Stores(home, *(bool(metadata.get(key)) for key in ("use_ocdbt", "use_zarr3", WHOLE)))
    return _checkpoint(folder, leaves, stores)


WHOLE = "store_array_data_equal_to_fill_value"
"""The mark of a folder in which zeros are stored too, so that a missing chunk is damage; older ones leave zeros out.

Source: google/orbax checkpoint/orbax/checkpoint/_src/serialization/tensorstore_utils.py
"""

PLAIN: Mapping[str, Any] = {"None": None, "Dict": {}, "List": [], "NamedTuple": [], "Tuple": []}
"""Kinds of leaves that are not stored: nothing, and empty containers."""

Keys = tuple[str, ...]


def _leaf(home: Path, entry: Any) -> tuple[Keys, str]:
    """The keys that lead to a leaf, and its kind."""
    try:
        keys = tuple(str(key["key"]) for key in entry["key_metadata"])
        return keys, str(entry["value_metadata"]["value_type"])
    except (KeyError, TypeError) as error:
        raise FileError(f"{home / METADATA}: damaged description of a leaf", found=str(entry)[:200]) from error


class _Stores:
    """How the arrays of a folder are opened."""

    def __init__(self, home: Path, ocdbt: bool, zarr3: bool, whole: bool) -> None:
        try:
            import tensorstore  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtra(
                f"tensorstore is needed to read {home}, a folder of Orbax",
                remedy='pip install "anyvit[orbax]"; or, where JAX is: restore it with Orbax, then numpy.savez',
            ) from error
        self.ts, self.home, self.ocdbt, self.zarr3, self.whole = tensorstore, home, ocdbt, zarr3, whole

    def opened(self, paths: list[Keys]) -> dict[Keys, Any]:
        """The arrays of some leaves, their headers read."""
        found: dict[Keys, Any] = {}
        for start in range(0, len(paths), TOGETHER):
            some = paths[start : start + TOGETHER]
            waiting = [self.ts.open(self.spec(path), read=True, open=True) for path in some]
            for path, future in zip(some, waiting, strict=True):
                found[path] = self.wait(future, path)
        return found

    def spec(self, keys: Keys) -> dict[str, Any]:
        """Where tensorstore finds an array."""
        name = ".".join(keys)
        if self.ocdbt:
            base = {"driver": "file", "path": f"{self.home.resolve()}/"}
            store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        else:
            store = {"driver": "file", "path": f"{inside(self.home, name, str(self.home / METADATA)).resolve()}/"}
        return {
            "driver": "zarr3" if self.zarr3 else "zarr", "kvstore": store, "fill_missing_data_reads": not self.whole
        }  # fmt: skip

    def wait(self, future: Any, keys: Keys) -> Any:
        """The result of something that tensorstore does."""
        try:
            return future.result()
        except (ValueError, OSError) as error:
            raise FileError(
                f"an array of {self.home} cannot be read",
                names=[".".join(keys)],
                found=str(error)[:300],
                usual="a copy that was cut, or a save that was stopped",
                remedy="copy the folder again",
            ) from error

    def lazy(self, keys: Keys, store: Any) -> Lazy:
        """An array that is read when it is asked for."""

        def load() -> np.ndarray:
            import numpy as np

            return np.asarray(self.wait(store.read(), keys), order="C")

        return Lazy(tuple(store.shape), store.dtype.name, load, (".".join(keys),))


def _checkpoint(folder: str | Path, leaves: dict[Keys, str], stores: _Stores) -> Checkpoint:
    opened = stores.opened([keys for keys, kind in leaves.items() if kind not in PLAIN and kind != "string"])
    strings = sniff.load_json(stores.home / STRINGS, METADATA_LIMIT) if "string" in leaves.values() else {}
    tensors: dict[str, Lazy] = {}
    extras: dict[str, Any] = {}
    odd: dict[str, list[str]] = defaultdict(list)
    numbers = itertools.count()
    for keys, kind in leaves.items():
        name = ".".join(keys)
        if kind in PLAIN:
            _put(extras, keys, copy.copy(PLAIN[kind]))
        elif kind == "string":
            _put(extras, keys, strings.get(name) if isinstance(strings, dict) else None)
        elif kind == "scalar" and not opened[keys].shape and next(numbers) < SCALARS_LIMIT:
            _put(extras, keys, stores.wait(opened[keys].read(), keys).item())
        elif (dtype := opened[keys].dtype.name) in ITEMSIZE:
            tensors[name] = stores.lazy(keys, opened[keys])
        else:
            odd[f"values of {dtype}, which have no name here"].append(name)
    notes = tuple(Note("unread", tuple(names), cause) for cause, names in odd.items())
    return Checkpoint(tensors, "orbax", str(folder), extras, notes=notes)


def _put(extras: dict[str, Any], keys: Keys, value: Any) -> None:
    """Sets a leaf of a nested dict; what lies below another leaf is left out."""
    for key in keys[:-1]:
        extras = extras.setdefault(key, {})
        if not isinstance(extras, dict):
            return
    if keys:
        extras[keys[-1]] = value
