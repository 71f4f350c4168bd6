"""What the fuzzer found, replayed: only anyvit's own errors come out, in little memory, at once.

The corpus (`fixtures/corpus`) holds, for each reader and for the rule language, the smallest inputs that reach each line;
`python scripts/fuzz_readers.py all --keep --work WORK` makes it out of what a run of the fuzzer left.
"""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from support import fuzzing
from support.walkers import kept

SECONDS = 5.0
"""Most that one input may take on a busy machine; they take about 0.01."""


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_kept_inputs(tmp_path: Path, kind: str) -> None:
    inputs = fuzzing.kept(kind)
    assert len(inputs) > 10
    ends = set()
    with kept():
        for data in inputs:
            ends.add(_one(kind, data, tmp_path))
    # Sound ones and broken ones are among them.
    assert len(ends) > 1


def _one(kind: str, data: bytes, folder: Path) -> str:
    start = time.perf_counter()
    tracemalloc.start()
    try:
        end = fuzzing.one_input(kind, data, folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data) + (4 << 20), data[:100]
    assert time.perf_counter() - start < SECONDS, data[:100]
    return end


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in fuzzing.CORPUS.iterdir()) < 400_000
