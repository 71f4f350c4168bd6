"""The state of a run on disk: written whole or not at all, read back to the last bit."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from anyvit.containers.files import atomic, write_all
from anyvit.errors import BadArgument, FileError

NAME = "training_state.pt"
FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a state; what was there before stays until the new one is complete.

    Arguments:
        path: the file.
        content: tensors and plain values.

    Raises:
        FileError: it cannot be written; the old state is untouched.
    """
    with atomic(path, durable=True) as file:
        whole = _Whole(file)
        try:
            torch.save({"format": FORMAT, **content}, whole)  # type: ignore[arg-type]
        except Exception:
            if whole.error is not None:  # torch says no more than that its archive is not whole
                raise whole.error from None
            raise


class _Whole:
    """A file for torch, which does not look how much of what it wrote was taken: a call of the system takes 2 GB at most."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, part: bytes | memoryview) -> int:
        """Writes all of it; keeps what went wrong."""
        try:
            write_all(self.file, part)
        except BaseException as error:
            self.error = self.error or error
            raise
        return len(part)

    def flush(self) -> None:
        """Nothing is held back."""


def load(path: Path) -> dict[str, Any]:
    """Reads a state; nothing in it is executed.

    Raises:
        FileError: it cannot be read, or is no state of this version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise FileError(f"{path} cannot be read", found=str(error)[:200], remedy="resume=False starts anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(f"{path} is no state of a run", remedy="resume=False starts anew")
    return content


def agree(path: Path, said: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to go on with a run of other arguments.

    Raises:
        BadArgument: an argument differs from that of the run on disk.
    """
    other = [f"{n}: {said.get(n)} there, {asked[n]} asked" for n in asked if said.get(n) != asked[n]]
    if other:
        cause = f"{path} holds a run of other arguments, which cannot be gone on with"
        raise BadArgument(cause, found="; ".join(other), remedy="resume=False starts anew, or another out=")


def generators() -> dict[str, Any]:
    """The states of the global random number generators, as tensors and plain values."""
    kind, keys, place, has, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, [int(k) for k in keys], int(place), int(has), float(cached)),  # type: ignore[union-attr]
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Puts the global generators back to a state that `generators` gave."""
    torch.set_rng_state(state["torch"])
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, "uint32"), *rest))
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A block whose global generators start from a seed; the caller's are as they were behind it."""
    before = generators()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore(before)


def digest(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over names and bytes.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}) != digest({"b": torch.zeros(2)})
        True
    """
    total = 0
    for name, tensor in tensors.items():
        total = zlib.crc32(name.encode(), total)
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(raw.numpy().data, total)
    return total


def parts(module: nn.Module, trained: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters that are trained, and all other parameters and buffers."""
    held = module.state_dict(keep_vars=True)
    mine = {n: t.detach() for n, t in held.items() if n in trained}
    return mine, {n: t.detach() for n, t in held.items() if n not in trained}
