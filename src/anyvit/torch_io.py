"""Lazy tensors as torch tensors, without a copy where the file's bytes can be mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvit.dtypes import ITEMSIZE
from anyvit.errors import BadArgument, needs
from anyvit.lazy import Lazy, read_pieces

if TYPE_CHECKING:
    import torch

    from anyvit.witness import Witness


def require_torch(job: str) -> None:
    """Raises a one-line error where torch is not installed.

    Raises:
        MissingExtra: torch is not installed; the message has the line that installs it.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise needs("torch", "torch", job) from error


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a name.

    Example:
        >>> torch_dtype("bfloat16")
        torch.bfloat16
    """
    import torch

    return getattr(torch, name)


def float_type(asked: torch.dtype | str | None) -> torch.dtype | None:
    """The floating-point type that is asked for, by itself or by name.

    Raises:
        BadArgument: it is none that a model can compute in.

    Example:
        >>> float_type("bfloat16"), float_type(None)
        (torch.bfloat16, None)
    """
    import torch

    found = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if found is None and asked is None:
        return None
    if not isinstance(found, torch.dtype):
        raise BadArgument(f"no element type is called {asked!r}", expected="float32, float16, bfloat16, …")
    if not found.is_floating_point:
        raise BadArgument(
            "a model computes in a floating-point type", found=found, expected="float32, float16, bfloat16"
        )
    return found


def usable(device: torch.device | str | None) -> torch.device | None:
    """A device that is there.

    Raises:
        BadArgument: torch knows no such device, or this machine has none.
    """
    import torch

    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        why = (str(error).splitlines() or ["it cannot be used"])[0]
        raise BadArgument(f"the device {device!r} cannot be used here", usual=why, remedy='device="cpu"') from error


def to_torch(lazy: Lazy, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor's values; mapped copy-on-write where the bytes lie in one piece and keep their type.

    Arguments:
        lazy: the tensor.
        dtype: the type to give it; None keeps the stored one.
    """
    import torch

    tensor = _mapped(lazy)
    if tensor is None:
        array = lazy.read()
        if not array.flags.writeable or array.ctypes.data % ITEMSIZE[lazy.dtype]:
            array = array.copy()
        raw = torch.from_numpy(array.reshape(-1).view("uint8")) if array.size else torch.empty(0, dtype=torch.uint8)
        tensor = raw.view(torch_dtype(lazy.dtype)).reshape(lazy.shape)
    return tensor if dtype is None or tensor.dtype == dtype else tensor.to(dtype)


def lies_as(lazy: Lazy, tensor: torch.Tensor) -> bool:
    """Whether a file holds a tensor's values as the tensor has them in memory: type, order, on the CPU."""
    import torch

    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    plain = plain and tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_neg()
    return plain and lazy.pieces is not None and tensor.dtype == torch_dtype(lazy.dtype)


def fill_from(lazy: Lazy, tensor: torch.Tensor, witness: Witness | None = None) -> None:
    """Reads a tensor's values from a file into its memory, without a copy between.

    Arguments:
        lazy: byte ranges.
        tensor: of the same shape, of which `lies_as` holds; changed in place.
        witness: is shown what is read.
    """
    import torch

    assert lazy.pieces is not None, lazy.origin
    read = witness.read if witness else read_pieces
    read(lazy.pieces, tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    torch.autograd.graph.increment_version(tensor)


def _mapped(lazy: Lazy) -> torch.Tensor | None:
    import torch

    if lazy.pieces is None or len(lazy.pieces) != 1:
        return None
    piece = lazy.pieces[0]
    view = piece.source.view(piece.offset, piece.size)
    if view is None or view.readonly:
        return None
    raw = torch.frombuffer(view, dtype=torch.uint8)
    # Kernels may load whole elements, or vectors of them, from where they should begin.
    if raw.data_ptr() % ITEMSIZE[lazy.dtype]:
        return None
    return raw.view(torch_dtype(lazy.dtype)).reshape(lazy.shape)


def widened(stored: str, wanted: torch.dtype | None) -> torch.dtype | None:
    """The type that a stored tensor gets: float32 for every real type, unless another is wanted."""
    import torch

    if not stored.startswith(("float", "bfloat")):
        return None
    return wanted or torch.float32
