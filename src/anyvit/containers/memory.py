"""A mapping in memory as a checkpoint: torch tensors, numpy or JAX arrays, nested as they came out of a file.

torch is imported only where a torch tensor is read; it is then imported already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import BadArgument, FileError
from anyvit.lazy import Checkpoint, Lazy, Note

if TYPE_CHECKING:
    import numpy as np

DEPTH_LIMIT = 100
"""Deepest nesting that is followed; checkpoints have fewer than ten levels."""


def read(mapping: Mapping[Any, Any]) -> Checkpoint:
    """A checkpoint of the tensors in a mapping, nothing copied.

    Arguments:
        mapping: name → torch tensor (also on meta, where only shape and type are known), numpy or JAX array, `Lazy`, or
            a nested mapping or list of these. Names that are no text are taken as `str` writes them.

    Returns:
        Flat names joined with dots; leaves that are no tensors in `extras`; torch and numpy tensors that share their
        storage, offset, shape and strides in `aliases`. The tensors share memory with the mapping's.

    Raises:
        BadArgument: a mapping that contains itself, or two tensors of one flat name.

    Example:
        >>> import numpy as np
        >>> opened = read({"model": {"cls_token": np.zeros((1, 1, 8), "float32")}, "epoch": 3})
        >>> list(opened.tensors), opened.extras
        (['model.cls_token'], {'epoch': 3})
    """
    walk = _Walk()
    extras = walk.branch(mapping, (), frozenset())
    notes = (Note("unsupported", tuple(walk.strange), "element types that are not read"),) if walk.strange else ()
    return Checkpoint(walk.tensors, "memory", extras=extras, aliases=walk.aliases, notes=notes)


class _Walk:
    """One pass over a mapping: what was found so far."""

    def __init__(self) -> None:
        self.tensors: dict[str, Lazy] = {}
        self.aliases: dict[str, str] = {}
        self.strange: list[str] = []
        self._first: dict[object, str] = {}

    def branch(self, value: Any, path: tuple[str, ...], above: frozenset[int]) -> dict[str, Any]:
        """Collects the tensors below a mapping or list and returns the rest, nested."""
        if id(value) in above or len(above) > DEPTH_LIMIT:
            raise BadArgument("a mapping contains itself or is nested too deeply", names=[".".join(path)])
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        rest: dict[str, Any] = {}
        for key, leaf in items:
            here = (*path, str(key))
            if (lazy := self._lazy(leaf, ".".join(here))) is not None:
                self._add(".".join(here), lazy, leaf)
            elif isinstance(leaf, Mapping) or (isinstance(leaf, (list, tuple)) and _has_tensors(leaf)):
                inner = self.branch(leaf, here, above | {id(value)})
                if inner or not leaf:
                    rest[str(key)] = inner
            else:
                rest[str(key)] = _plain(leaf)
        return rest

    def _lazy(self, leaf: Any, name: str) -> Lazy | None:
        if isinstance(leaf, Lazy):
            return leaf
        if is_torch(leaf):
            dtype, load = str(leaf.dtype).removeprefix("torch."), _torch_loader(leaf, name)
        elif _is_array(leaf):
            dtype, load = _numpy_name(leaf.dtype), _array_loader(leaf)
        else:
            return None
        shape = tuple(int(n) for n in leaf.shape)
        if dtype in ITEMSIZE:
            return Lazy(shape, dtype, load, (name,))
        self.strange.append(name)
        return Lazy(shape, "uint8", _refusal(name, dtype), (name,))

    def _add(self, name: str, lazy: Lazy, leaf: Any) -> None:
        if name in self.tensors:
            raise BadArgument("two tensors of a mapping have one name when nesting is written with dots", names=[name])
        self.tensors[name] = lazy
        if (key := _storage(leaf)) is not None:
            first = self._first.setdefault(key, name)
            if first != name:
                self.aliases[name] = first


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor, found out without importing torch.

    Example:
        >>> is_torch(3)
        False
    """
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__)


def is_unread(tensor: Any) -> bool:
    """Whether a torch tensor has a shape but no values: on the meta device, or fake."""
    return tensor.device.type == "meta" or type(tensor).__name__ == "FakeTensor"


def _is_array(value: Any) -> bool:
    """An array of numpy, JAX or what speaks numpy's protocol; numpy's scalars and texts are settings, no tensors."""
    if not all(hasattr(value, word) for word in ("__array__", "shape", "dtype", "ndim")):
        return False
    scalar = any(kind.__module__ == "numpy" and kind.__name__ == "generic" for kind in type(value).__mro__)
    return not scalar and getattr(value.dtype, "kind", "f") not in "USO"


def _plain(leaf: Any) -> Any:
    """Python's own number in place of a numpy scalar."""
    return leaf.item() if hasattr(leaf, "dtype") and getattr(leaf, "shape", None) == () else leaf


def _has_tensors(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Lazy) or is_torch(value) or _is_array(value):
        return True
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return depth < DEPTH_LIMIT and any(_has_tensors(leaf, depth + 1) for leaf in inner)


def _numpy_name(dtype: Any) -> str:
    # Two-byte void is bfloat16 that numpy.load brought back without ml_dtypes.
    return "bfloat16" if getattr(dtype, "str", "")[1:] == "V2" and dtype.name != "bfloat16" else str(dtype.name)


def _array_loader(array: Any) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        import numpy as np

        plain = np.asarray(array, order="C")
        if plain.dtype.kind == "V" and plain.dtype.name.startswith("void"):
            plain = plain.view(np_dtype("bfloat16"))
        return plain if plain.dtype.isnative else plain.astype(plain.dtype.newbyteorder("="))

    return load


def _torch_loader(tensor: Any, name: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        if is_unread(tensor):
            raise FileError(
                "a tensor on the meta device has no values to read",
                names=[name],
                usual="a module that was built but not filled",
                remedy="inspect(…) needs no values; everything else needs tensors on the CPU or a GPU",
            )
        return torch_to_numpy(tensor)

    return load


def torch_to_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor's values as a C-contiguous numpy array, bfloat16 and float8 included.

    Arguments:
        tensor: any shape, any device; sparse and distributed tensors are gathered.

    Returns:
        An array of that shape, sharing memory where the tensor is contiguous and on the CPU.
    """
    import torch

    dtype = np_dtype(str(tensor.dtype).removeprefix("torch."))
    plain = tensor.detach()
    plain = plain.full_tensor() if hasattr(plain, "full_tensor") else plain
    plain = plain.to_dense() if plain.layout is not torch.strided else plain
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().view(dtype).reshape(tuple(tensor.shape))


def _refusal(name: str, dtype: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        raise FileError("a tensor has an element type that is not read", names=[name], found=dtype)

    return load


def _storage(leaf: Any) -> object | None:
    """What two tied tensors have in common and two others have not; None where there is nothing to share."""
    if is_torch(leaf):
        try:
            place = (leaf.untyped_storage()._cdata, leaf.storage_offset())
            return ("torch", *place, tuple(leaf.shape), leaf.stride(), leaf.dtype)
        except (RuntimeError, NotImplementedError, AttributeError):
            return None  # sparse, fake and wrapped tensors have no storage of their own
    interface = getattr(leaf, "__array_interface__", None) if type(leaf).__module__ == "numpy" else None
    if interface is None or not leaf.size:
        return None
    return ("numpy", interface["data"][0], leaf.shape, leaf.strides, leaf.dtype.str)
