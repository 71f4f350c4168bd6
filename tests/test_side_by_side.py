"""Several threads give what one gives: in order, the first error raised, nothing begun after it."""

from __future__ import annotations

import threading
import time

import pytest

from anyvit import side_by_side
from anyvit.side_by_side import EACH, mapped


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "processors", lambda: 4)


def test_the_order_is_that_of_the_items() -> None:
    def slow(n: int) -> int:
        time.sleep(0.001 * (n % 3))
        return n * n

    assert mapped(slow, range(60), 8 * EACH) == [n * n for n in range(60)]


def test_several_work_at_once_and_few_bytes_need_no_thread() -> None:
    met = threading.Barrier(3, timeout=20)
    assert mapped(lambda n: met.wait() >= 0 and n, range(1, 4), 3 * EACH) == [1, 2, 3]
    here = threading.current_thread()
    assert mapped(lambda _: threading.current_thread(), range(3), 2 * EACH - 1) == [here] * 3
    assert mapped(lambda _: threading.current_thread(), range(3), 8 * EACH, spare=3) == [here] * 3
    assert mapped(str, [], 8 * EACH) == []


def test_what_fails_is_raised_and_the_rest_is_left() -> None:
    begun = []

    def fails(n: int) -> None:
        begun.append(n)
        if n == 5:
            raise ValueError("the sixth")
        time.sleep(0.002)

    with pytest.raises(ValueError, match="the sixth"):
        mapped(fails, range(1000), 8 * EACH)
    assert len(begun) < 100
    assert not any(thread.name == "anyvit-side" for thread in threading.enumerate())
