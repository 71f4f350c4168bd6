"""The shared truth cases and manifests as tests use them, each file opened once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import SHARED

from anyvit import api
from anyvit.lazy import Checkpoint, Lazy
from anyvit.model import ViT

TOLERANCE = 2e-5
"""Largest allowed difference, as a share of the largest expected value and never less than of 1."""

DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip
CONTAINERS = {"pth": "torch", "npz": "npz", "safetensors": "safetensors", "torchscript": "torchscript"}


def cases() -> list[str]:
    """The names of all truth cases."""
    return sorted(path.parent.name for path in (SHARED / "cases").glob("*/case.json"))


@cache
def case(name: str) -> dict[str, Any]:
    return json.loads((SHARED / "cases" / name / "case.json").read_text())


@cache
def arrays(name: str) -> Mapping[str, np.ndarray]:
    with np.load(SHARED / "cases" / name / "io.npz") as file:
        return {key: file[key] for key in file.files}


def location(name: str) -> Path:
    return SHARED / "cases" / name / case(name)["path"]


def arguments(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says to pass to `load`."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry["load"].items()}


def vit_of(name: str, entry: Mapping[str, Any]) -> ViT:
    return _loaded(name, json.dumps(arguments(entry), sort_keys=True))


@cache
def _loaded(name: str, load: str) -> ViT:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(load).items()}
    return api.load(location(name), **given)


def assert_close(found: torch.Tensor | None, expected: np.ndarray, what: str = "") -> None:
    """Asserts equality to the tolerance of the truth cases, patches on a grid or in a row."""
    assert found is not None, what
    array = found.detach().float().numpy()
    if expected.ndim == 4 and array.ndim == 3:
        expected = expected.reshape(expected.shape[0], -1, expected.shape[-1])
    assert array.shape == expected.shape, what
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(array - expected).max())
    assert worst <= limit, f"{what}: {worst:.1e} is more than {limit:.1e}"


def never() -> np.ndarray:
    raise AssertionError("a header is read without its values")


def manifests(*groups: str) -> list[Path]:
    """The manifests of some groups, of all where none is named."""
    root = SHARED / "manifests"
    return sorted(path for group in groups or ("*",) for path in root.glob(f"{group}/*.json.gz"))


@cache
def manifest(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt") as file:
        return json.load(file)


def tensors_of(content: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Flat name → (shape, element type) of the whole file that a manifest describes."""
    inside = f"{content['wrapper']}." if content.get("wrapper") else ""
    found = {inside + name: entry for name, entry in content["tensors"].items()}
    for key, sibling in (content.get("siblings") or {}).items():
        found.update({f"{key}.{name}" if key else name: entry for name, entry in sibling.items()})
    return {name: (tuple(shape), DTYPES.get(dtype, dtype)) for name, (shape, dtype) in found.items()}


def checkpoint_of(content: Mapping[str, Any]) -> Checkpoint:
    """The file that a manifest describes, without values: reading one fails the test."""
    return unread(tensors_of(content), CONTAINERS.get(content["container"], "memory"))


def unread(shapes: Mapping[str, tuple[tuple[int, ...], str]], container: str = "torch") -> Checkpoint:
    """A checkpoint whose values must not be read."""
    lazies = {name: Lazy(shape, dtype, never, (name,)) for name, (shape, dtype) in shapes.items()}
    return Checkpoint(lazies, container)
