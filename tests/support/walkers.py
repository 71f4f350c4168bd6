"""One process of the HDF5 library for many files: starting one takes longer than most files do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

from anyvit.containers import hdf5_apart


@contextmanager
def kept() -> Iterator[hdf5_apart.Walker]:
    """Files that are opened inside the block are walked by one process."""
    with hdf5_apart.Walker() as walker, mock.patch.object(hdf5_apart, "walker", lambda: nullcontext(walker)):
        yield walker
