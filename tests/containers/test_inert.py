"""What foreign objects become: plain data whose text stays short, however deep or cyclic it is."""

from __future__ import annotations

import pytest

from anyvit.containers.inert import Inert


def test_text_follows_no_cycle_and_no_depth() -> None:
    cycle = Inert("a.B", state={})
    cycle.state["self"] = cycle
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert repr(cycle) == "Inert('a.B', 1 attributes)"
    assert repr(Inert("a.B", (deep,), deep, [deep])) == "Inert('a.B', 1 arguments, with state, 1 items)"
    assert len(repr(Inert("pathlib.PosixPath", state="/" + "x" * 1000))) < 150


def test_it_cannot_be_called() -> None:
    with pytest.raises(TypeError):
        Inert("os.system")("true")  # type: ignore[operator]


def test_two_objects_are_two_keys() -> None:
    assert len({Inert("a.Enum"): 1, Inert("a.Enum"): 2}) == 2
