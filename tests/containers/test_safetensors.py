"""safetensors against the reference package, damaged and forged headers, shards."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anyvit.containers import safetensors as ours
from anyvit.containers.memory import torch_to_numpy
from anyvit.dtypes import ITEMSIZE, np_dtype
from anyvit.errors import AnyvitError, BadArgument, FileError, UnsafeError, Unsayable
from anyvit.lazy import Lazy, from_array


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@needs_shared
def test_reads_what_the_reference_reads() -> None:
    for path in sorted(SHARED.glob("cases/*/*.safetensors")):
        expected = safetensors.torch.load_file(path)
        found = ours.read(path)
        assert set(found.tensors) == set(expected)
        for name, tensor in expected.items():
            lazy = found.tensors[name]
            assert lazy.dtype == str(tensor.dtype).removeprefix("torch.")
            assert lazy.pieces is not None and lazy.origin == (name,)
            assert lazy.read().tobytes() == torch_to_numpy(tensor).tobytes()


def test_all_types_are_those_of_the_reference(tmp_path: Path) -> None:
    names = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float8_e4m3fn",
             "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float16", "bfloat16", "float32",
             "float64", "complex64")  # fmt: skip
    assert set(names) == set(ours.DTYPES.values())
    tensors = {}
    for name in names:
        size = ITEMSIZE[name]
        raw = torch.arange(1, 1 + 4 * size, dtype=torch.uint8) if name != "bool" else torch.tensor([0, 1, 1, 0]).byte()
        tensors[name] = raw.view(getattr(torch, name))
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    found = ours.read(tmp_path / "a.safetensors")
    assert {name: lazy.dtype for name, lazy in found.tensors.items()} == {name: name for name in names}
    ours.write(found.tensors, tmp_path / "b.safetensors")
    back = safetensors.torch.load_file(tmp_path / "b.safetensors")
    for name in names:
        assert torch.equal(back[name].view(torch.uint8), tensors[name].view(torch.uint8))


DTYPES = st.sampled_from(["float32", "float16", "bfloat16", "int64", "uint8", "bool", "float64", "int16"])


@st.composite
def states(draw: st.DrawFn) -> dict[str, np.ndarray]:
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), unique=True, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    state = {}
    for name in names:
        dtype, shape = draw(DTYPES), draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
        state[name] = rng.integers(0, 2, shape).astype(np_dtype(dtype))
    return state


@settings(deadline=None, max_examples=60)
@given(states())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("s") / "a.safetensors"
    ours.write({name: from_array(array) for name, array in state.items()}, path, metadata={"k": "v"})
    raw = path.read_bytes()
    found = ours.read(path)
    assert set(found.tensors) == set(state)
    assert found.metadata == {"format": "pt", "k": "v"}
    with safetensors.safe_open(path, "np") as oracle:
        assert oracle.metadata() == {"format": "pt", "k": "v"}
        assert set(oracle.keys()) == set(state)
        for name, array in state.items():
            if array.dtype.name != "bfloat16":
                assert oracle.get_tensor(name).tobytes() == array.tobytes()
    for name, array in state.items():
        lazy = found.tensors[name]
        assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype.name)
        assert lazy.read().tobytes() == array.tobytes()
    ours.write({name: found.tensors[name] for name in state}, path, metadata={"k": "v"})
    assert path.read_bytes() == raw


def test_tensors_are_aligned_and_otherwise_in_the_given_order(tmp_path: Path) -> None:
    state = {
        "a": np.zeros(3, "uint8"),
        "b": np.zeros(2, "float32"),
        "c": np.zeros(3, "int8"),
        "d": np.zeros(1, "int32"),
    }
    ours.write({name: from_array(array) for name, array in state.items()}, tmp_path / "a.safetensors")
    found = ours.read(tmp_path / "a.safetensors")
    assert list(found.tensors) == ["b", "d", "a", "c"]
    for lazy in found.tensors.values():
        assert lazy.pieces is not None and lazy.pieces[0].offset % ITEMSIZE[lazy.dtype] == 0


def test_tied_tensors_that_the_reference_dropped_come_back(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    safetensors.torch.save_model(model, str(tmp_path / "a.safetensors"))
    found = ours.read(tmp_path / "a.safetensors")
    assert set(found.tensors) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert found.aliases == {"b.weight": "a.weight"}
    assert found.tensors["b.weight"].read().tobytes() == torch_to_numpy(model["a"].weight).tobytes()
    ours.write({"a.weight": from_array(np.zeros(2))}, tmp_path / "b.safetensors", metadata={"best": "a.weight"})
    assert list(ours.read(tmp_path / "b.safetensors").tensors) == ["a.weight"]


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": one(offsets=(0, 4))}, 8, "another size than its shape"),
        ({"a": one(), "b": one(offsets=(4, 12))}, 12, "overlap"),
        ({"a": one(), "b": one(offsets=(12, 20))}, 20, "gap"),
        ({"a": one(offsets=(4, 12))}, 12, "gap"),
        ({"a": one(shape=(-2,), offsets=(8, 0))}, 8, "describes a tensor wrongly"),
        ({"a": one(shape=(2.0,))}, 8, "describes a tensor wrongly"),
        ({"a": one(shape=(True, 2))}, 8, "describes a tensor wrongly"),
        ({"a": one(shape=(1,) * 65, offsets=(0, 4))}, 4, "describes a tensor wrongly"),
        ({"a": one(shape="2")}, 8, "describes a tensor wrongly"),
        ({"a": one(offsets=(0, 8, 9))}, 8, "describes a tensor wrongly"),
        ({"a": {**one(), "more": 1}}, 8, "describes a tensor wrongly"),
        ({"a": 3}, 0, "describes a tensor wrongly"),
        ({"a": one(dtype="F31")}, 8, "not known: a"),
        ({"a": one(dtype=["F32"])}, 8, "describes a tensor wrongly: a"),
        (b'{"a": {}, "a": {}}', 0, "stands there twice"),
        (b'{"a"', 0, "damaged"),
        (b'{"\xff": 1}', 0, "damaged"),
        (b'{"\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}', 0, "damaged"),
        (b"{" + b'"a":{' * 100_000, 0, "damaged"),
        (b"[]", 0, "no JSON object"),
        ({"__metadata__": {"a": 1}}, 0, "no mapping of text to text"),
        ({"__metadata__": []}, 0, "no mapping of text to text"),
        ({"a": one()}, 7, "is cut"),
        ({"a": one()}, 9, "after its last tensor"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, data: int, message: str) -> None:
    path = raw_file(tmp_path / "a.safetensors", header, bytes(data))
    with pytest.raises(FileError, match=message) as caught:
        ours.read(path)
    assert len(str(caught.value)) < 2_000


def test_the_right_header_passes(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.safetensors", {"b": one(offsets=(8, 16)), "a": one()}, bytes(16))
    assert list(ours.read(path).tensors) == ["a", "b"]


def test_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UnsafeError, match="implausible header"):
        ours.read(path)
    path.write_bytes((5000).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileError, match="is cut"):
        ours.read(path)
    path.write_bytes(b"{}")
    with pytest.raises(FileError, match="is cut"):
        ours.read(path)


def test_cutting_names_both_sizes(tmp_path: Path) -> None:
    ours.write({"a": from_array(np.zeros(100, "float32"))}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-1])
    with pytest.raises(FileError, match=rf"found: {len(whole) - 1} bytes\n  expected: {len(whole)} bytes"):
        ours.read(tmp_path / "a.safetensors")


def test_random_damage_to_the_header_never_escapes_the_errors(tmp_path: Path) -> None:
    state = {f"blocks.{i}.weight": from_array(np.zeros((2, 3), "float32")) for i in range(5)}
    ours.write(state, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data) - 120)] = rng.randrange(256)
        (tmp_path / "b.safetensors").write_bytes(data)
        try:
            for lazy in ours.read(tmp_path / "b.safetensors").tensors.values():
                lazy.read()
        except AnyvitError:
            refused += 1
    assert refused > 300


def test_types_of_less_than_a_byte_are_listed_and_refused(tmp_path: Path) -> None:
    header = {"a": one("F4", (4, 2), (0, 4)), "b": one("U8", (3,), (4, 7))}
    found = ours.read(raw_file(tmp_path / "a.safetensors", header, bytes(7)))
    assert found.tensors["a"].shape == (4, 2)
    assert [(note.kind, note.names) for note in found.notes] == [("quantised", ("a",))]
    with pytest.raises(FileError, match="F4"):
        found.tensors["a"].read()
    assert found.tensors["b"].read().tolist() == [0, 0, 0]


def test_unsayable(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(Unsayable, match="element type: a"):
        ours.write({"a": from_array(np.zeros(2, "complex128"))}, path)
    with pytest.raises(Unsayable, match="tensor name"):
        ours.write({"__metadata__": from_array(np.zeros(2))}, path)
    assert not path.exists()


def test_a_tensor_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    ours.write({"a": from_array(np.zeros(2))}, path)
    before = path.read_bytes()
    source = ours.read(path).tensors["a"]
    with pytest.raises(FileError, match="another number of bytes"):
        ours.write({"a": from_array(np.ones(2)), "b": replace(source, shape=(3,))}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_shards_are_those_of_the_hub(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    state = {f"w{i}": torch.full((i + 1, 10), float(i)) for i in range(9)}
    plan = huggingface_hub.split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=700
    )
    lazies = {name: from_array(tensor.numpy(), name) for name, tensor in state.items()}
    paths = ours.write_sharded(lazies, tmp_path, shard_size=700)
    assert {path.name for path in paths[:-1]} == set(plan.filename_to_tensors)
    index = json.loads(paths[-1].read_text())
    assert index["weight_map"] == plan.tensor_to_filename
    assert index["metadata"]["total_size"] == plan.metadata["total_size"]
    for name, shard in plan.tensor_to_filename.items():
        assert torch.equal(safetensors.torch.load_file(tmp_path / shard)[name], state[name])


def test_sharding_again_leaves_nothing_of_the_earlier_model(tmp_path: Path) -> None:
    state = {f"w{i}": from_array(np.full(10, i, "float32"), f"w{i}") for i in range(4)}
    (tmp_path / "other.safetensors").write_bytes(b"mine")
    assert [p.name for p in ours.write_sharded(state, tmp_path, shard_size=10_000)] == ["model.safetensors"]
    many = ours.write_sharded(state, tmp_path, shard_size=1)
    assert len(many) == 5
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in many} | {"other.safetensors"}
    few = ours.write_sharded(state, tmp_path, shard_size=80)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in few} | {"other.safetensors"}


def test_a_failing_shard_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    state = {f"w{i}": from_array(np.full(10, i, "float32"), f"w{i}") for i in range(4)}
    ours.write_sharded(state, tmp_path, shard_size=80)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def load() -> np.ndarray:
        raise FileError("the source went away")

    changed = {name: from_array(lazy.read() + 1, name) for name, lazy in state.items()}
    with pytest.raises(FileError, match="went away"):
        ours.write_sharded({"w": Lazy((10,), "float32", load), **changed}, tmp_path, shard_size=80)
    with pytest.raises(FileError, match="went away"):
        ours.write_sharded({**changed, "w": Lazy((10,), "float32", load)}, tmp_path, shard_size=80)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(BadArgument):
        ours.write_sharded(state, tmp_path, shard_size=0)
