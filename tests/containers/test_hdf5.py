"""HDF5: what h5py writes is read to the bit without its filters; nothing leaves the file, and no claim is believed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="HDF5 files are made with h5py")

from support.walkers import kept  # noqa: E402

from anyvit import inspect  # noqa: E402
from anyvit.containers import hdf5, hdf5_apart, open_checkpoint  # noqa: E402
from anyvit.errors import AnyvitError, FileError, MissingExtra, UnsafeError  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with kept():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


def test_values_types_and_layouts(path: Path) -> None:
    arrays: dict[str, Any] = {
        name: (RNG.normal(size=(7, 5)) * 50).astype(name)
        for name in ("float16", "float32", "float64", "int8", "int32", "int64", "uint8", ">f4", ">i2")
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"plain/{name}"] = array
            file.create_dataset(f"chunked/{name}", data=array, chunks=(3, 2))
            file.create_dataset(f"packed/{name}", data=array, chunks=(3, 4), compression="gzip", shuffle=True)
        file["scalar"], file["empty"] = np.float32(2.5), np.zeros((0, 4), "float32")
    tensors = open_checkpoint(path).tensors
    assert len(tensors) == 3 * len(arrays) + 2
    for name, array in arrays.items():
        for layout in ("plain", "chunked", "packed"):
            tensor = tensors[f"{layout}/{name}"]
            assert (tensor.shape, tensor.dtype) == ((7, 5), array.dtype.name)
            np.testing.assert_array_equal(tensor.read(), array)
    assert tensors["scalar"].read() == 2.5 and tensors["empty"].read().shape == (0, 4)


def test_where_nothing_is_packed_it_is_byte_ranges(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(6, dtype="float32")
    (piece,) = open_checkpoint(path).tensors["a"].pieces or ()
    assert piece.size == 24
    assert path.read_bytes()[piece.offset :][:24] == np.arange(6, dtype="float32").tobytes()


def test_bfloat16_as_keras_writes_it_and_values_in_headers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.array([1.5, -2], "float32").view("V2")[1::2]  # the upper halves
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple((3,)), h5py.h5t.IEEE_F32LE
        item = h5py.h5d.create(file.id, b"held", kind, space, plist)
        item.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], "float32"))
    tensors = open_checkpoint(path).tensors
    assert tensors["a"].dtype == "bfloat16"
    assert tensors["a"].read().astype("float32").tolist() == [1.5, -2]
    assert tensors["held"].read().tolist() == [1, 2, 3]


def test_what_is_no_tensor_is_said(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["text"], file["kept"] = "hello", np.ones(2, "float32")
        file["pair"] = np.zeros(2, [("a", "f4"), ("b", "f4")])
        file["soft"] = h5py.SoftLink("/kept")
        file.create_dataset("never", (4,), "float32")
        file.create_dataset("half", (4,), "float32", chunks=(2,))[:2] = 1
        file.create_dataset("lzf", data=np.ones(4, "float32"), chunks=(2,), compression="lzf")
        file["again"] = file["kept"]
    found = open_checkpoint(path)
    assert set(found.tensors) == {"kept", "again"}
    assert {*found.aliases, *found.aliases.values()} == {"kept", "again"}
    said = {name: note.cause for note in found.notes for name in note.names}
    assert set(said) == {"text", "pair", "soft", "never", "half", "lzf"}
    assert "soft link" in said["soft"] and "never written" in said["never"] and "gzip" in said["lzf"]


def external_link(file: Any, folder: Path) -> None:
    file["a"] = h5py.ExternalLink("other.h5", "/x")


def external_data(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(16))
    file.create_dataset("a", (4,), "float32", external=[(str(folder / "secret"), 0, 16)])


def virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("a", layout)


def circle(file: Any, folder: Path) -> None:
    file.create_group("a")["b"] = file["/"]


def twice(file: Any, folder: Path) -> None:
    """Thirty groups of two links to the next are a billion paths."""
    group = file.create_group("0")
    for number in range(30):
        inner = file.create_group(f"g{number}")
        group["a"], group["b"] = inner, inner
        group = inner


def nested(file: Any, folder: Path) -> None:
    file["/".join("a" * 200)] = np.ones(1, "float32")


def named(file: Any, folder: Path) -> None:
    file["x" * 2000] = np.ones(1, "float32")


def bomb(file: Any, folder: Path) -> None:
    file.create_dataset("a", (1 << 26,), "float32", chunks=(1 << 20,), compression="gzip")[:] = 0


def wide_block(file: Any, folder: Path) -> None:
    """A block far larger than its array."""
    file.create_dataset("a", data=np.ones(4, "float32"), maxshape=(None,), chunks=(1 << 28,), compression="gzip")


HOSTILE = (external_link, external_data, virtual, circle, twice, nested, named, bomb)


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_what_is_hostile_is_refused(make: Any, path: Path) -> None:
    with h5py.File(path, "w") as file:
        make(file, path.parent)
    with pytest.raises(UnsafeError):
        open_checkpoint(path)


def test_a_shape_that_the_bytes_do_not_fill(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones((4, 1111), "float32")
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        if data[at : at + 8] == (1111).to_bytes(8, "little"):
            data[at : at + 8] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(FileError):
        open_checkpoint(path)


def test_bytes_that_lie_outside(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(50, dtype="float32")
    with h5py.File(path, "r") as file:
        offset = file["a"].id.get_offset()
    data, layout = path.read_bytes(), b"\3\1"  # version 3, contiguous: the address follows
    assert data.count(layout + offset.to_bytes(8, "little")) == 1
    path.write_bytes(data.replace(layout + offset.to_bytes(8, "little"), layout + (1 << 45).to_bytes(8, "little")))
    with pytest.raises(FileError, match=r"damaged|outside the file"):
        open_checkpoint(path)


@pytest.mark.parametrize("part", [9, 60, 500, 0.5, 0.9, 0.999])
def test_a_cut_file(part: float, path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(20):
            file[f"g{number}/a"] = RNG.normal(size=(30, 10)).astype("float32")
    data = path.read_bytes()
    path.write_bytes(data[: part if part > 1 else int(len(data) * part)])  # type: ignore[misc]
    with pytest.raises(FileError):
        open_checkpoint(path)


def test_a_damaged_block_raises_when_it_is_read(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=RNG.normal(size=4000).astype("float32"), chunks=(2000,), compression="gzip")
    with h5py.File(path, "r") as file:
        info = file["a"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[info.byte_offset + 40 : info.byte_offset + 60] = bytes(20)
    path.write_bytes(data)
    tensor = open_checkpoint(path).tensors["a"]
    with pytest.raises(FileError, match="block"):
        tensor.read()


def test_a_block_that_unpacks_to_more_than_it_is(path: Path) -> None:
    import zlib

    with h5py.File(path, "w") as file:
        item = file.create_dataset("a", (16,), "float32", chunks=(16,), compression="gzip")
        item.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 20)))
    tensor = open_checkpoint(path).tensors["a"]
    with pytest.raises(FileError, match="65 bytes of a block of 64"):
        tensor.read()


def test_any_flipped_byte_is_an_error_of_ours_or_no_error(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in ("layers/dense/vars/0", "layers/dense/vars/1"):
            file[name] = np.ones((3, 2), "float32")
        file["layers/dense/vars"].attrs["name"] = "head"
        file["packed"] = np.ones(4, "float32")
    data = path.read_bytes()
    refused = 0
    for at in RNG.integers(0, len(data), 300):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(RNG.integers(8)))]) + data[at + 1 :])
        try:
            for tensor in open_checkpoint(path).tensors.values():
                tensor.read()
        except AnyvitError as error:
            refused += 1
            assert len(str(error)) < 2000
    assert refused > 10


def keras_archive(path: Path, compression: int, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)


def test_an_archive_is_read_in_place(tmp_path: Path, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = np.arange(5, dtype="float32")
    config = {"class_name": "Functional", "config": {}}
    files = {
        "metadata__json": b"{}",
        "config__json": json.dumps(config).encode(),
        "model__weights__h5": path.read_bytes(),
    }
    keras_archive(tmp_path / "a.keras", zipfile.ZIP_STORED, **files)
    found = open_checkpoint(tmp_path / "a.keras")
    assert (found.container, found.siblings) == ("keras", {"config.json": config})
    assert found.tensors["layers/a/vars/0"].read().tolist() == [0, 1, 2, 3, 4]
    assert found.tensors["layers/a/vars/0"].pieces
    keras_archive(tmp_path / "b.keras", zipfile.ZIP_DEFLATED, **files)
    with pytest.raises(FileError, match="unzip"):
        open_checkpoint(tmp_path / "b.keras")
    keras_archive(tmp_path / "c.keras", zipfile.ZIP_STORED, **{**files, "config__json": b"{"})
    with pytest.raises(FileError, match="configuration is damaged"):
        open_checkpoint(tmp_path / "c.keras")


def test_weights_that_keras_cut_into_files(tmp_path: Path) -> None:
    """Only the first file says what the model calls a layer that lies in two."""
    with h5py.File(tmp_path / "model_00000.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((3, 2), "float32")
        file["layers/dense/vars"].attrs["name"] = "head"
    with h5py.File(tmp_path / "model_00001.weights.h5", "w") as file:
        file["layers/dense/vars/1"] = np.zeros(2, "float32")
    index = tmp_path / "model.weights.json"
    names = ["model_00000.weights.h5", "model_00001.weights.h5"]
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"/layers/dense/vars": names, "/optimizer": names[0]}}))
    for source in (index, tmp_path):
        assert sorted(open_checkpoint(source).tensors) == ["layers/head/vars/0", "layers/head/vars/1"]
    for wrong in ([7], "../model_00000.weights.h5"):
        index.write_text(json.dumps({"weight_map": {"/layers": wrong}}))
        with pytest.raises(UnsafeError):
            open_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"/layers": [*names, "model_00002.weights.h5"]}}))
    with pytest.raises(FileError, match="1 of 3 shards are missing"):
        open_checkpoint(index)


def test_a_weight_map_of_tensorflows_counts_outputs_and_names_the_model(tmp_path: Path) -> None:
    for number, name in enumerate(("vit/a/kernel", "vit/b/kernel")):
        with h5py.File(tmp_path / f"tf_model-0000{number + 1}-of-00002.h5", "w") as file:
            file[name] = np.ones(2, "float32")
    where = {f"tf_model/vit/{n}/kernel:0": f"tf_model-0000{i}-of-00002.h5" for i, n in ((1, "a"), (2, "b"))}
    (tmp_path / "tf_model.h5.index.json").write_text(json.dumps({"weight_map": where}))
    found = open_checkpoint(tmp_path)
    assert sorted(found.tensors) == ["vit/a/kernel", "vit/b/kernel"] and not found.notes


def test_without_h5py_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    monkeypatch.setattr(hdf5_apart, "walker", hdf5_apart.Walker)
    with pytest.raises(MissingExtra, match=r"anyvit\[hdf5\]"):
        open_checkpoint(path)


def test_a_block_larger_than_its_array_counts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        wide_block(file, path.parent)
    with pytest.raises(UnsafeError, match="implausibly much"):
        open_checkpoint(path)


def test_another_project_may_keep_torchs_names(path: Path) -> None:
    """Flat names with dots are names as they are."""
    torch = pytest.importorskip("torch")
    from support.peers import state

    assert torch
    with h5py.File(path, "w") as file:
        for name, tensor in state(classes=4).items():
            file[name] = tensor.numpy()
    report = inspect(path)
    assert report.ok and report.match.dialect.name == "timm"


def test_the_reader_is_what_opens_it(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(2, "float32")
    assert list(hdf5.read(path).tensors) == ["a"]
    path.rename(path.with_suffix(".bin"))
    assert open_checkpoint(path.with_suffix(".bin")).container == "hdf5"
