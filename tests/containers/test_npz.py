"""npz against numpy: types, orders, endianness, objects that are never unpickled, damage."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anyvit.containers import npz, open_checkpoint
from anyvit.containers.files import LocalFile
from anyvit.dtypes import np_dtype
from anyvit.errors import AnyvitError, FileError, UnsafeError, Unsayable
from anyvit.lazy import Lazy, from_array

TYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
         "float64", "complex64", "complex128"]  # fmt: skip


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return path


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("utf-8" if version == 3 else "latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


@needs_shared
def test_reads_what_numpy_reads() -> None:
    paths = sorted(SHARED.glob("cases/*/*.npz"))
    assert len(paths) > 20
    for path in paths[::4] + [p for p in paths if "big-vision" in str(p)]:
        found = npz.read(path)
        with np.load(path) as expected:
            assert set(found.tensors) | set(found.extras) == set(expected.files)
            for name, lazy in found.tensors.items():
                array = expected[name]
                assert lazy.shape == array.shape
                assert lazy.read().tobytes() == np.ascontiguousarray(array).tobytes()
        assert found.verify is not None and list(found.verify()) == []


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(TYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 100, shape).astype(dtype)
    return np.asarray(values, order=draw(st.sampled_from("CF")))


@settings(deadline=None, max_examples=100)
@given(st.lists(arrays(), max_size=4), st.booleans())
def test_every_layout_that_numpy_writes(
    tmp_path_factory: pytest.TempPathFactory, found: list[np.ndarray], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("n") / "a.npz"
    state = {f"a/{i}": array for i, array in enumerate(found)}
    (np.savez_compressed if packed else np.savez)(path, **state)
    opened = npz.read(path)
    assert list(opened.tensors) == list(state)
    for name, array in state.items():
        lazy = opened.tensors[name]
        read = lazy.read()
        assert lazy.shape == array.shape and read.dtype.name == lazy.dtype == array.dtype.name
        assert read.flags.c_contiguous and read.dtype.isnative
        np.testing.assert_array_equal(read, array)
        plain = array.flags.c_contiguous and array.dtype.isnative and not packed
        assert (lazy.pieces is not None) or not plain
        if lazy.pieces is not None and array.size:
            assert b"".join(p.source.read(p.offset, p.size) for p in lazy.pieces) == array.tobytes()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8), arrays()))
def test_numpy_reads_what_is_written(tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("n") / "a.npz"
    lazies = {f"Ä/{n}": from_array(np.asarray(a, a.dtype.newbyteorder("="), order="C")) for n, a in state.items()}
    npz.write(lazies, path)
    raw = path.read_bytes()
    with np.load(path) as back:
        assert back.files == list(lazies)
        for name, array in state.items():
            np.testing.assert_array_equal(back[f"Ä/{name}"], array)
    for lazy in npz.read(path).tensors.values():
        assert lazy.pieces is not None and all(piece.offset % 64 == 0 for piece in lazy.pieces)
    npz.write(npz.read(path).tensors, path)
    assert path.read_bytes() == raw


def test_bfloat16_is_two_byte_void_both_ways(tmp_path: Path) -> None:
    array = np.arange(6, dtype="float32").reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", a=array)
    found = npz.read(tmp_path / "a.npz").tensors["a"]
    assert found.dtype == "bfloat16" and found.read().tobytes() == array.tobytes()
    npz.write({"a": from_array(array)}, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as back:
        assert back["a"].view(ml_dtypes.bfloat16).tobytes() == array.tobytes()
        with np.load(tmp_path / "a.npz") as numpys:
            assert back["a"].dtype == numpys["a"].dtype


def test_float8_is_not_guessed(tmp_path: Path) -> None:
    array = np.ones(3, ml_dtypes.float8_e4m3fn)
    np.savez(tmp_path / "a.npz", a=array, b=np.ones(2, "float32"))
    found = npz.read(tmp_path / "a.npz")
    assert [(note.kind, note.names) for note in found.notes] == [("unsupported", ("a",))]
    with pytest.raises(FileError, match="float8"):
        found.tensors["a"].read()
    with pytest.raises(Unsayable, match=r"a\n.*float8_e4m3fn"):
        npz.write({"a": from_array(array)}, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_objects_are_listed_and_never_unpickled(tmp_path: Path) -> None:
    trap = np.empty(2, object)
    trap[0] = Trap(tmp_path / "executed")
    fields = np.zeros(2, [("a", "O"), ("b", "f4")])
    np.savez(tmp_path / "a.npz", params=trap, fields=fields, plain=np.ones(2, "float32"))
    found = npz.read(tmp_path / "a.npz")
    assert found.tensors["params"].shape == (2,)
    assert [(note.kind, note.names) for note in found.notes] == [("object", ("params", "fields"))]
    for name in ("params", "fields"):
        for _ in range(2):
            with pytest.raises(UnsafeError, match=f"not executed: {name}"):
                found.tensors[name].read()
    assert found.tensors["plain"].read().tolist() == [1, 1]
    assert found.verify is not None and list(found.verify()) == []
    assert not (tmp_path / "executed").exists()


def test_text_goes_to_the_extras(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        one=np.array("täglich"),
        many=np.array([["a", "bc"], ["d", ""]], order="F"),
        old=np.array([b"x", b"yz"]),
        none=np.array([], "U3"),
        empty=np.array(""),
        date=np.array("2020-01-01", "datetime64[D]"),
    )
    found = npz.read(tmp_path / "a.npz")
    assert found.extras == {
        "one": "täglich", "many": [["a", "bc"], ["d", ""]], "old": ["x", "yz"], "none": [], "empty": ""
    }  # fmt: skip
    assert list(found.tensors) == ["date"] and found.notes[0].kind == "unsupported"


def test_text_that_lies_about_its_size_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        "short.npy": npy("{'descr': '<U9', 'fortran_order': False, 'shape': (2,), }", bytes(71)),
        "huge.npy": npy("{'descr': '|S999999999', 'fortran_order': False, 'shape': (99999,), }", bytes(3)),
        "odd.npy": npy("{'descr': '<Ux', 'fortran_order': False, 'shape': (2,), }", bytes(8)),
    }
    found = npz.read(archive(tmp_path / "a.npz", members))
    assert found.extras == {} and found.tensors == {}
    assert [(note.kind, note.names) for note in found.notes] == [("ignored", ("short", "huge", "odd"))]
    np.savez(tmp_path / "b.npz", text=np.array("x" * 100))
    monkeypatch.setattr(npz, "TEXT_LIMIT", 300)
    assert npz.read(tmp_path / "b.npz").extras == {}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_header_versions_and_spellings(tmp_path: Path, version: int) -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    members = {
        "new.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", data, version),
        "old.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}\n", data, version),
        "swapped.npy": npy('{"shape": (2, 3), "descr": "<f4", "fortran_order": False}', data, version),
        "one.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", data, version),
        "none.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", data[:4], version),
        "long.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }" + " " * 4000, data, version),
        "notes.txt": b"hello",
    }
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = npz.read(archive(tmp_path / "a.npz", members, compression))
        shapes = {name: lazy.shape for name, lazy in found.tensors.items()}
        assert shapes == {"new": (2, 3), "old": (2, 3), "swapped": (2, 3), "one": (6,), "none": (), "long": (6,)}
        assert found.tensors["old"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found.tensors["long"].read().tolist() == [0, 1, 2, 3, 4, 5]
        assert [(note.kind, note.names) for note in found.notes] == [("ignored", ("notes.txt",))]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "no npy array"),
        (b"", "no npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", b"", 4), "no npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(7)), "another size"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(9)), "another size"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 9999999999999), }"), "another size"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }"), "impossible"),
        (npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (0,), }"), "impossible"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': [0], }"), "impossible"),
        (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(0,) * 65}, }}"), "impossible"),
        (npy("{'descr': '<f4', 'fortran_order': False}"), "damaged"),
        (npy("{'descr': __import__('os'), 'fortran_order': False, 'shape': (0,)}"), "damaged"),
        (npy("[" * 3000), "damaged"),
        (npy("{'a': " * 1500), "damaged"),
        (npy("-" * 9000 + "1"), "damaged"),
        (npy(" " * 20_000), "implausible"),
        (npy("{'descr': '<f4'")[:12], "implausible"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff{}", "implausible"),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie(tmp_path: Path, data: bytes, message: str, compression: int) -> None:
    path = archive(tmp_path / "a.npz", {"a.npy": data}, compression)
    with pytest.raises(FileError, match=message) as caught:
        npz.read(path)
    assert len(str(caught.value)) < 2_000


def test_a_long_literal_is_never_parsed() -> None:
    with pytest.raises(UnsafeError, match="20000 bytes of header"):
        npz.parse(npy(" " * 20_000), "file", "a")


def test_verify_names_the_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(100, "float32"), b=np.zeros(100, "float32"))
    piece = npz.read(path).tensors["b"].pieces
    assert piece is not None
    data = bytearray(path.read_bytes())
    data[piece[0].offset + 5] ^= 1
    path.write_bytes(data)
    found = npz.read(path)
    assert found.verify is not None
    assert [(note.kind, note.names) for note in found.verify()] == [("damaged", ("b",))]


def test_a_compressed_array_is_checked_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).integers(0, 99, 5000))
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(50):
        data = bytearray(whole)
        data[rng.randrange(2000, len(data) - 200)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        lazy = npz.read(path).tensors["a"]
        with pytest.raises(FileError, match=r"damaged|unpacked|unpacks"):
            lazy.read()


def test_random_damage_never_escapes_the_errors(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((2, 3), "float32"), b=np.array("text"), c=np.zeros((3, 2), ">i8", order="F"))
    whole, rng, refused = buffer.getvalue(), random.Random(0), 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "a.npz").write_bytes(data)
        try:
            for lazy in npz.read(tmp_path / "a.npz").tensors.values():
                lazy.read()
        except AnyvitError:
            refused += 1
    assert refused > 200


def test_an_array_from_bytes_may_be_written_to(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(3))
    array = npz.read(tmp_path / "a.npz").tensors["a"].read()
    array += 1
    assert array.tolist() == [1, 1, 1]
    assert npz.read(tmp_path / "a.npz").tensors["a"].read().tolist() == [0, 0, 0]


def test_a_tensor_of_another_size_leaves_nothing(tmp_path: Path) -> None:
    short = Lazy((3,), "float32", lambda: np.zeros((3,), np_dtype("float32")), ("a",))
    pieces = npz.read(_saved(tmp_path / "a.npz")).tensors["a"].pieces
    with pytest.raises(FileError, match="another number of bytes"):
        npz.write({"a": Lazy((9,), "float32", short.load, ("a",), pieces)}, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()
    assert LocalFile(tmp_path / "a.npz").size > 0


def _saved(path: Path) -> Path:
    np.savez(path, a=np.zeros(3, "float32"))
    return path


def test_a_dict_that_numpy_pickled(tmp_path: Path) -> None:
    tree = {"params": {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(2, "<f2")}, "step": 7}
    np.save(tmp_path / "tree.npy", tree, allow_pickle=True)  # type: ignore[arg-type]
    found = open_checkpoint(tmp_path / "tree.npy")
    assert found.container == "npy"
    assert {name: lazy.read().tolist() for name, lazy in found.tensors.items()} == {
        "0.params.a": [[0, 1, 2], [3, 4, 5]],
        "0.params.b": [1, 1],
    }
    np.save(tmp_path / "lone.npy", np.zeros((2, 3)))
    with pytest.raises(FileError, match=r"single array(.|\n)*<f8 \(2, 3\)"):
        open_checkpoint(tmp_path / "lone.npy")


def test_a_pickle_in_npy_is_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "made"), "w"))

    np.save(tmp_path / "bad.npy", {"a": np.ones(2), "evil": Payload()}, allow_pickle=True)  # type: ignore[arg-type]
    found = open_checkpoint(tmp_path / "bad.npy")
    assert found.tensors["0.a"].shape == (2,)
    assert [note.cause for note in found.notes if note.kind == "inert"] == ["io.open, not executed"]
    assert not (tmp_path / "made").exists()
