"""Module objects inside pickles: TorchScript archives and torch.save(model), against the modules' own state dicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.torch_files import LAYOUTS, same, saved

from anyvit.containers import torch_file


class Block(torch.nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.num_heads = 2
        self.norm = torch.nn.LayerNorm(dim, eps=1e-6)
        self.fc = torch.nn.Linear(dim, dim, bias=False)
        self.register_buffer("index", torch.arange(3))
        self.register_buffer("passing", torch.arange(5), persistent=False)
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc(self.norm(x)) * self.scale


@pytest.mark.parametrize("zipped", LAYOUTS)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules_have_the_names_of_their_state_dict(zipped: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(Block(), torch.nn.ModuleList([Block(), Block()]))
    opened = saved(model, tmp_path / "a", zipped)
    state = model.state_dict()
    assert list(opened.tensors) == list(state)
    assert all(same(opened.tensors[name], tensor) for name, tensor in state.items())
    assert opened.extras["0"]["num_heads"] == 2 and opened.extras["1"]["1"]["norm"]["eps"] == 1e-6
    assert [note.names for note in opened.notes if note.kind == "module"] == [()]
    inside = saved({"model": model, "epoch": 1}, tmp_path / "b", zipped)
    assert set(inside.tensors) == {f"model.{name}" for name in state} and inside.extras["epoch"] == 1
    assert [note.names for note in inside.notes if note.kind == "module"] == [("model",)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    model = torch.nn.Sequential(Block(), Block())
    model.register_parameter("tied", model[0].fc.weight)
    torch.jit.save(torch.jit.script(model), str(tmp_path / "a.pt"))
    opened = torch_file.read(tmp_path / "a.pt")
    assert opened.container == "torchscript" and [note.kind for note in opened.notes] == ["torchscript"]
    state = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert set(opened.tensors) >= set(state)
    assert all(same(opened.tensors[name], tensor) for name, tensor in state.items())
    assert opened.extras["0"]["num_heads"] == 2


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Block()
        self.spare = torch.randn(2)
        self.size = (2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.spare.sum() + self.size[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_torchscript_keeps_plain_tensor_attributes(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Outer()), str(tmp_path / "a.pt"))
    opened = torch_file.read(tmp_path / "a.pt")
    state = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert set(opened.tensors) == {*state, "spare", "inner.passing"}
    assert opened.extras["size"] == [2, 3]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_traced_modules(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Block(), torch.zeros(1, 4)), str(tmp_path / "a.pt"))
    opened = torch_file.read(tmp_path / "a.pt")
    state = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert all(same(opened.tensors[name], tensor) for name, tensor in state.items())
