"""Collection stands still while a file is understood, and goes on afterwards whatever happens."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.toys import toy

import anyvit
from anyvit import reading
from anyvit.garbage import uncollected


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


def test_it_stands_still_and_is_as_it_was(before: bool) -> None:
    @uncollected
    def inner(fail: bool) -> bool:
        assert not uncollected(gc.isenabled)() and not gc.isenabled()
        if fail:
            raise ValueError
        return gc.isenabled()

    assert inner(False) is False and gc.isenabled() is before
    with pytest.raises(ValueError):
        inner(True)
    assert gc.isenabled() is before


def test_a_file_is_understood_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []
    real = reading.matches
    monkeypatch.setattr(reading, "matches", lambda *given: states.append(gc.isenabled()) or real(*given))
    assert anyvit.inspect(toy(0)).ok
    assert states and not any(states) and gc.isenabled()


def test_parts_are_imported_without_it() -> None:
    script = (
        "import gc, sys, anyvit\n"
        "class Seen:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        print(name, gc.isenabled())\n"
        "sys.meta_path.insert(0, Seen())\n"
        "anyvit.load\n"
        "print('end', gc.isenabled())\n"
    )
    words = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    states = dict(zip(words[::2], words[1::2], strict=True))
    assert states["anyvit.reading"] == "False" and states["end"] == "True"
