"""Boxes fill a tensor, or the reader says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit.containers.tiling import assembled, check
from anyvit.errors import FileError, UnsafeError


@dataclass
class Memory:
    values: np.ndarray
    name: str = "memory"

    def read(self, offset: int, size: int) -> bytes:
        return self.values.tobytes()[offset : offset + size]

    def view(self, offset: int, size: int) -> memoryview | None:
        return None

    def array(self) -> np.ndarray:
        return self.values


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_grid_gives_the_tensor_back(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple))
    whole = np.random.default_rng(0).standard_normal(shape).astype("float32")
    cuts = []
    for size in shape:
        inner = sorted(data.draw(st.sets(st.integers(0, size), max_size=3)))
        edges = [0, *inner, size]  # a cut at 0 or at the end gives an empty part, as FSDP leaves it
        cuts.append(list(pairwise(edges)))
    parts = []
    for cell in product(*cuts):
        values = whole[tuple(slice(a, b) for a, b in cell)]
        parts.append((tuple(a for a, _ in cell), values.shape, Memory(np.ascontiguousarray(values))))
    parts = data.draw(st.permutations(parts))
    lazy = assembled("a", shape, "float32", parts)
    assert np.array_equal(lazy.read(), whole)
    if lazy.pieces is not None:
        assert b"".join(p.source.read(p.offset, p.size) for p in lazy.pieces) == whole.tobytes()
    if all(
        len(cut) == 1 or all(a == b or (a, b) == (0, n) for a, b in cut) for cut, n in zip(cuts, shape, strict=True)
    ):
        assert lazy.pieces is not None


def test_a_gap_and_an_overlap_of_the_same_size() -> None:
    parts = [((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (1, 4)), ((1, 0), (1, 4))]
    with pytest.raises(FileError, match="overlap"):
        check("a", (4, 4), parts)


def test_too_many_irregular_parts() -> None:
    parts = [((i, 0), (1, 2)) for i in range(1001)] + [((0, 2), (1001, 1))]
    with pytest.raises(UnsafeError, match="irregular"):
        check("a", (1001, 3), parts)
    check("a", (1001, 2), parts[:1001])
