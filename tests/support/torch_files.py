"""What tests of torch files share: every element type and layout, and torch's own view of a tensor's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyvit.containers import torch_file
from anyvit.lazy import Checkpoint, Lazy

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64,    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
LAYOUTS = [True, False]


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()


def same(lazy: Lazy, tensor: torch.Tensor) -> bool:
    expected = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = expected.reshape(-1).view(torch.uint8).numpy().tobytes() if expected.numel() else b""
    assert lazy.dtype == str(expected.dtype).removeprefix("torch.")
    return lazy.shape == tuple(expected.shape) and raw(lazy.read()) == flat


def saved(value: Any, path: Path, zipped: bool = True) -> Checkpoint:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return torch_file.read(path)
