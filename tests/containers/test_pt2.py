"""Archives of torch.export.save, written by torch itself."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyvit.containers import open_checkpoint, pt2
from anyvit.errors import AnyvitError, FileError, UnsafeError


class Toy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 4)
        self.turned = torch.nn.Parameter(torch.randn(5, 3).T)
        self.narrow = torch.nn.Parameter(torch.randn(2, 3).bfloat16())
        self.register_buffer("count", torch.tensor([1, 2]))
        self.tied = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) @ self.tied @ self.turned + self.narrow.float().sum() + self.count.sum()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Path]:
    torch.manual_seed(0)
    model, path = Toy(), tmp_path_factory.mktemp("pt2") / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a view that is smaller than its storage
        torch.export.save(torch.export.export(model, (torch.randn(2, 3),)), path)
    return model, path


def test_names_and_values_of_the_state_dict(exported: tuple[Toy, Path]) -> None:
    model, path = exported
    found = open_checkpoint(path)
    assert found.container == "pt2"
    assert set(found.tensors) == set(model.state_dict())
    for name, value in model.state_dict().items():
        lazy = found.tensors[name]
        assert lazy.shape == tuple(value.shape) and lazy.dtype == str(value.dtype).removeprefix("torch.")
        assert np.array_equal(lazy.read().astype("float64"), value.double().numpy()), name
    assert found.tensors["inner.weight"].pieces and not found.tensors["turned"].pieces


def edited(path: Path, out: Path, change: Any) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith(pt2.LIST):
                content = json.loads(data)
                change(content["config"])
                data = json.dumps(content).encode()
            target.writestr(item.filename, data)
    return out


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("sizes", [{"as_int": 1 << 40}, {"as_int": 3}], AnyvitError),
        ("sizes", [{"as_int": -4}, {"as_int": 3}], UnsafeError),
        ("sizes", [{"as_expr": "s0"}, {"as_int": 3}], UnsafeError),
        ("strides", [{"as_int": 1}], UnsafeError),
        ("storage_offset", {"as_int": 999}, FileError),
    ],
)
def test_impossible_tensors_are_refused(
    exported: tuple[Toy, Path], tmp_path: Path, key: str, value: Any, kind: Any
) -> None:
    path = edited(exported[1], tmp_path / "bad.pt2", lambda c: c["inner.weight"]["tensor_meta"].update({key: value}))
    with pytest.raises(kind, match=r"inner\.weight"):
        pt2.read(path)


@pytest.mark.parametrize("dtype", [999, [7], {"as_int": 7}, "7", True, None, -1])
def test_pickled_and_unknown_tensors_are_named(exported: tuple[Toy, Path], tmp_path: Path, dtype: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["narrow"]["use_pickle"] = True
        config["count"]["tensor_meta"]["dtype"] = dtype

    found = pt2.read(edited(exported[1], tmp_path / "odd.pt2", change))
    assert [(note.kind, note.names) for note in found.notes] == [("unread", ("narrow", "count"))]


def test_a_missing_storage_and_a_damaged_list(exported: tuple[Toy, Path], tmp_path: Path) -> None:
    lost = edited(exported[1], tmp_path / "lost.pt2", lambda c: c["narrow"].update({"path_name": "weight_99"}))
    with pytest.raises(FileError, match="has no bytes"):
        pt2.read(lost)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"m/data/weights/model{pt2.LIST}", b"{")
    (tmp_path / "cut.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match="list of tensors"):
        pt2.read(tmp_path / "cut.pt2")


def test_a_flipped_bit_is_found(exported: tuple[Toy, Path], tmp_path: Path) -> None:
    lazy = pt2.read(exported[1]).tensors["inner.bias"]
    assert lazy.pieces
    data = bytearray(exported[1].read_bytes())
    data[lazy.pieces[0].offset] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(data)
    found = pt2.read(tmp_path / "flipped.pt2")
    if found.verify is None:
        pytest.skip("this torch writes no checksums into the archive")
    assert [(note.kind, note.names) for note in found.verify()] == [("damaged", ("inner.bias",))]
    assert not list(found.verify(lambda name: name == "narrow"))
