"""Tensors that pass by while others read them: each seen once, whole and in order, and met as if it were read alone."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import witness as module
from anyvit.containers.checksums import Crc32
from anyvit.containers.files import LocalFile
from anyvit.lazy import Lazy, Piece, Sum, from_pieces
from anyvit.scan import PAGE
from anyvit.witness import Witness, look

VALUES = PAGE // 4
"""Numbers of four bytes in a page."""


def stored(path: Path, sizes: list[int], seed: int = 0) -> dict[str, Lazy]:
    """Tensors of so many numbers that lie one behind another in a file; one value is a NaN."""
    values = np.random.default_rng(seed).standard_normal(sum(sizes)).astype("float32") * 0.02
    values[seed % len(values)] = np.nan
    path.write_bytes(values.tobytes())
    file, at, out = LocalFile(path), 0, {}
    for number, size in enumerate(sizes):
        name = f"t{number}"
        out[name] = from_pieces((size,), "float32", [Piece(file, 4 * at, 4 * size)], (name,))
        at += size
    return out


def read_all(witness: Witness, readings: list[list[Piece]], how: str) -> list[list[int]]:
    """Reads as the witness asks for it, into memory or part by part."""
    units = witness.units(readings)
    for unit in units:
        for number in unit:
            if how == "into memory":
                size = sum(piece.size for piece in readings[number])
                assert witness.read(readings[number], memoryview(bytearray(size))) == size
            else:
                for piece, take in witness.spans(readings[number]):
                    if take:
                        take(piece.source.read(piece.offset, piece.size))
    return units


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_read_in_whatever_pieces(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Ranges of a file cut anywhere and dealt out to readers: what a witness met is what a look alone meets."""
    sizes = data.draw(st.lists(st.sampled_from([1, 7, VALUES, 3 * VALUES, 2 * VALUES + 5]), min_size=1, max_size=6))
    tensors = stored(tmp_path_factory.mktemp("w") / "a", sizes, data.draw(st.integers(0, 99)))
    file = next(iter(tensors.values())).pieces[0].source  # type: ignore[index]
    end = 4 * sum(sizes)
    cuts = sorted({0, end, *(4 * cut for cut in data.draw(st.lists(st.integers(0, end // 4), max_size=5)))})
    pieces = [Piece(file, low, high - low) for low, high in itertools.pairwise(cuts)]
    readers: list[list[Piece]] = [[] for _ in range(data.draw(st.integers(1, 4)))]
    for piece in data.draw(st.permutations(pieces)):
        readers[data.draw(st.integers(0, len(readers) - 1))].append(piece)
    witness = Witness(tensors, "crc32")
    units = read_all(witness, readers, data.draw(st.sampled_from(["into memory", "parts"])))
    assert sorted(number for unit in units for number in unit) == list(range(len(readers)))
    for name, seen in witness.met.items():
        assert str(seen) == str(look(tensors[name], "crc32"))  # NaN is not equal to itself
    whole = [n for n, t in tensors.items() if any(p in readers[k] for k in range(len(readers)) for p in t.pieces or ())]
    assert set(whole) <= set(witness.met)


def test_parts_of_one_tensor_are_read_by_one_thread_and_in_order(tmp_path: Path) -> None:
    tensors = stored(tmp_path / "a", [3 * VALUES, VALUES, 2 * VALUES])
    file = tensors["t0"].pieces[0].source  # type: ignore[index]
    thirds = [[Piece(file, n * PAGE, PAGE)] for n in (2, 0, 1)]
    rest = [[Piece(file, 4 * PAGE, 2 * PAGE)], [Piece(file, 3 * PAGE, PAGE)]]
    witness = Witness(tensors, "crc32")
    assert read_all(witness, [*thirds, *rest], "parts") == [[1, 2, 0], [3], [4]]
    assert set(witness.met) == set(tensors)


@pytest.mark.parametrize("readings", ["twice", "half", "not in pages"])
def test_what_does_not_pass_by_once_and_whole_is_not_awaited(tmp_path: Path, readings: str) -> None:
    tensors = stored(tmp_path / "a", [2 * VALUES, VALUES])
    file = tensors["t0"].pieces[0].source  # type: ignore[index]
    first = {
        "twice": [[Piece(file, 0, 2 * PAGE)], [Piece(file, 0, 2 * PAGE)]],
        "half": [[Piece(file, PAGE, PAGE)]],
        "not in pages": [[Piece(file, 0, 4)], [Piece(file, 4, 2 * PAGE - 4)]],
    }[readings]
    witness = Witness(tensors, "crc32")
    read_all(witness, [*first, [Piece(file, 2 * PAGE, PAGE)]], "parts")
    assert set(witness.met) == {"t1"}


def test_tensors_that_share_bytes_are_looked_at_by_others(tmp_path: Path) -> None:
    tensors = stored(tmp_path / "a", [2 * VALUES])
    file = tensors["t0"].pieces[0].source  # type: ignore[index]
    tensors["tied"] = tensors["t0"]
    tensors["half"] = from_pieces((VALUES,), "float32", [Piece(file, PAGE, PAGE)], ("half",))
    tensors["two"] = from_pieces((2,), "float32", [Piece(file, 0, 4), Piece(file, 8, 4)], ("two",))
    witness = Witness(tensors, "crc32")
    read_all(witness, [[Piece(file, 0, 2 * PAGE)]], "parts")
    assert set(witness.met) == {"t0"}


@pytest.mark.parametrize("right", [True, False])
def test_the_checksum_that_a_file_says_is_proven_in_passing(tmp_path: Path, right: bool) -> None:
    tensors = stored(tmp_path / "a", [2 * VALUES])
    crc = zlib.crc32((tmp_path / "a").read_bytes()) ^ (not right)
    sums = {"t0": Sum(Crc32, f"{crc:08x}")}
    witness = Witness(tensors, "crc32", sums)
    read_all(witness, [list(tensors["t0"].pieces or ())], "into memory")
    assert witness.met["t0"].proven is right
    assert look(tensors["t0"], "crc32", sums["t0"]).proven is right
    assert not look(tensors["t0"], "crc32").proven


def test_a_look_takes_no_more_than_a_step_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = stored(tmp_path / "a", [5 * VALUES])
    monkeypatch.setattr(module, "STEP", 2 * PAGE)
    taken: list[int] = []
    monkeypatch.setattr(module.Eye, "take", lambda eye, part: taken.append(len(part)))
    witness = Witness(tensors, "crc32")
    pieces = list(tensors["t0"].pieces or ())
    witness.units([pieces])
    witness.read(pieces, memoryview(bytearray(5 * PAGE)))
    assert taken == [2 * PAGE, 2 * PAGE, PAGE]
