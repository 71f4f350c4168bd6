"""Mappings in memory: nesting, ties, types, meta tensors, and no torch where there is none."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import OrderedDict
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
import torch

from anyvit.containers import memory
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import BadArgument, FileError
from anyvit.lazy import Lazy, from_array


def test_nesting_is_written_with_dots_and_the_rest_is_kept() -> None:
    found = memory.read(
        MappingProxyType(
            {
                "model": OrderedDict({"a.weight": torch.ones(2, 3), "list": [np.zeros(2), {"b": torch.zeros(1)}, 7]}),
                "epoch": 3,
                "args": {"lr": np.float64(0.5), "betas": [0.9, 0.99], "deep": {}},
                0: np.zeros((1, 2)),
                "text": np.array("hello"),
            }
        )
    )
    assert {name: lazy.shape for name, lazy in found.tensors.items()} == {
        "model.a.weight": (2, 3), "model.list.0": (2,), "model.list.1.b": (1,), "0": (1, 2)
    }  # fmt: skip
    assert all(lazy.origin == (name,) for name, lazy in found.tensors.items())
    assert found.extras == {
        "model": {"list": {"2": 7}},
        "epoch": 3,
        "args": {"lr": 0.5, "betas": [0.9, 0.99], "deep": {}},
        "text": "hello",
    }
    assert type(found.extras["args"]["lr"]) is float
    assert found.container == "memory" and found.aliases == {} and found.notes == ()


@pytest.mark.parametrize("name", [n for n in ITEMSIZE if hasattr(torch, n)])
def test_torch_types(name: str) -> None:
    raw = torch.arange(16 * 6, dtype=torch.uint8) if name != "bool" else torch.tensor([0, 1] * 8).byte()
    tensor = raw.view(getattr(torch, name)).reshape(2, -1)
    lazy = memory.read({"a": tensor}).tensors["a"]
    array = lazy.read()
    assert (lazy.dtype, array.dtype.name, array.shape) == (name, name, tuple(tensor.shape))
    assert array.tobytes() == raw.numpy().tobytes()
    assert array.ctypes.data == tensor.data_ptr()
    turned = memory.read({"a": tensor.t()}).tensors["a"].read()
    assert turned.flags.c_contiguous and turned.tobytes() == array.T.tobytes()


@pytest.mark.parametrize("tensor", [torch.tensor(3.0), torch.tensor(2, dtype=torch.bfloat16), torch.zeros(0, 4)])
def test_scalars_and_empty_tensors(tensor: torch.Tensor) -> None:
    array = memory.read({"a": tensor}).tensors["a"].read()
    assert array.shape == tuple(tensor.shape)
    assert array.astype("float64").tolist() == tensor.double().tolist()


def test_parameters_sparse_and_conjugate_tensors() -> None:
    state = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "sparse": torch.eye(2).to_sparse(),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "product": torch.ones(2, requires_grad=True) * 2,
    }
    found = {name: lazy.read().tolist() for name, lazy in memory.read(state).tensors.items()}
    assert found == {"parameter": [1, 1], "sparse": [[1, 0], [0, 1]], "conjugate": [1 - 2j], "product": [2, 2]}


def test_meta_tensors_have_a_shape_but_no_values() -> None:
    with torch.device("meta"):
        a = torch.nn.Linear(3, 4)
        b = torch.nn.Linear(3, 4)
    b.weight = a.weight
    found = memory.read({**a.state_dict(prefix="a."), **b.state_dict(prefix="b.")})
    assert found.tensors["a.weight"].shape == (4, 3) and found.tensors["a.weight"].dtype == "float32"
    assert found.aliases == {"b.weight": "a.weight"}
    with pytest.raises(FileError, match=r"meta device.*a\.weight"):
        found.tensors["a.weight"].read()
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(2, 3)
    lazy = memory.read({"a": fake}).tensors["a"]
    assert lazy.shape == (2, 3)
    with pytest.raises(FileError, match="no values"):
        lazy.read()


def test_only_the_very_same_storage_is_a_tie() -> None:
    w, n = torch.randn(4, 4), np.random.default_rng(0).normal(size=(4, 4))
    state = {
        "w": w, "again": w.view(4, 4), "turned": w.t(), "half": w[:2], "other": w[2:], "flat": w.view(16),
        "copy": w.clone(), "n": n, "n2": n[:], "n3": n.T, "empty": torch.zeros(0), "empty2": torch.zeros(0),
        "n4": n[:0], "n5": n[0:0],
    }  # fmt: skip
    assert memory.read(state).aliases == {"again": "w", "n2": "n"}


def test_numpy_arrays_of_any_layout() -> None:
    base = np.arange(6.0).reshape(2, 3)
    state = {
        "turned": base.T, "big": base.astype(">f4"), "brain": base.astype(ml_dtypes.bfloat16),
        "void": base.astype(ml_dtypes.bfloat16).view("V2"), "scalar": np.array(2.5),
    }  # fmt: skip
    found = memory.read(state).tensors
    assert {name: lazy.dtype for name, lazy in found.items()} == {
        "turned": "float64", "big": "float32", "brain": "bfloat16", "void": "bfloat16", "scalar": "float64"
    }  # fmt: skip
    for name, lazy in found.items():
        array = lazy.read()
        assert array.flags.c_contiguous and array.dtype.isnative and array.shape == state[name].shape
        assert array.astype("float64").tolist() == state[name.replace("void", "brain")].astype("float64").tolist()


def test_arrays_of_others_that_speak_numpys_protocol() -> None:
    class Foreign:
        shape, ndim, dtype = (2,), 1, np.dtype("float32")

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return np.array([1, 2], "float32")

    lazy = memory.read({"a": Foreign()}).tensors["a"]
    assert (lazy.shape, lazy.dtype, lazy.read().tolist()) == ((2,), "float32", [1, 2])


def test_types_that_are_not_read_are_listed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making such tensors is deprecated or experimental; meeting them is not
        quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        half = torch.zeros(2, dtype=torch.complex32)
    found = memory.read({"q": quantised, "c": half, "d": np.zeros(2, "datetime64[D]")})
    assert [(note.kind, note.names) for note in found.notes] == [("unsupported", ("q", "c", "d"))]
    for name in ("q", "c", "d"):
        with pytest.raises(FileError, match=f"not read: {name}"):
            found.tensors[name].read()


def test_lazies_pass_through() -> None:
    lazy = from_array(np.zeros(2), "origin")
    assert memory.read({"x": {"a": lazy}}).tensors["x.a"] is lazy
    assert isinstance(lazy, Lazy)


def test_cycles_and_clashes() -> None:
    cycle: dict[str, object] = {"a": torch.zeros(1)}
    cycle["again"] = {"b": cycle}
    with pytest.raises(BadArgument, match=r"contains itself.*again\.b"):
        memory.read(cycle)
    loop: list[object] = [1]
    loop.append(loop)
    assert memory.read({"a": loop}).extras["a"] is loop
    shared = {"w": torch.zeros(1)}
    assert set(memory.read({"a": shared, "b": shared}).tensors) == {"a.w", "b.w"}
    with pytest.raises(BadArgument, match=r"one name.*a\.b"):
        memory.read({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)})


def test_the_mapping_is_not_changed() -> None:
    state = {"a": {"b": torch.zeros(2)}, "c": 1}
    memory.read(state)
    assert list(state) == ["a", "c"] and list(state["a"]) == ["b"]  # type: ignore[call-overload]


def test_numpy_alone_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np; from anyvit.containers import open_checkpoint\n"
        "found = open_checkpoint({'a': np.zeros(2), 'b': {'c': 1}})\n"
        "assert found.tensors['a'].read().tolist() == [0, 0]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
