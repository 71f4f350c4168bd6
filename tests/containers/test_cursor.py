"""A cursor gives the file's bytes in order, whatever its window, and never beyond its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit.containers.cursor import Cursor
from anyvit.containers.files import LocalFile
from anyvit.errors import FileError

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=20)


@given(STEPS, st.integers(0, 50), st.integers(0, 50), st.integers(1, 64))
def test_takes_and_skips(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]], start: int, size: int, window: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    data = bytes(range(100))
    path.write_bytes(data)
    cursor, at, end = Cursor(LocalFile(path), start, start + size, window), start, start + size
    for skip, count in steps:
        if at + count > end:
            with pytest.raises(FileError, match="ends inside a value"):
                cursor.skip(count) if skip else cursor.take(count)
            return
        got = cursor.skip(count) if skip else cursor.take(count)
        assert got == ((at, count) if skip else data[at : at + count])
        at += count
        assert cursor.at == at
