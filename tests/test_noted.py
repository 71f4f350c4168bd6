"""What a pickle would have called: named as data, and as an attack where no checkpoint needs it."""

from __future__ import annotations

import pytest

from anyvit.lazy import Note
from anyvit.noted import finding


@pytest.mark.parametrize(
    "name",
    [
        "posix.system",
        "subprocess.Popen",
        "builtins.eval",
        "io.open",
        "nt.system",
        "runpy._run_code",
        "builtins.__import__",
    ],
)
def test_what_would_run_is_called_so(name: str) -> None:
    said = finding(Note("inert", ("evil",), f"{name}, not executed"))
    assert not said.fatal and said.names == ("evil",)
    assert said.cause.startswith(f"{name}, not executed: whoever unpickles this file otherwise") and said.remedy


@pytest.mark.parametrize("name", ["argparse.Namespace", "code.models.vit.ViT", "osgeo.Dataset", "builtins.print", "builtins.getattr", "system.Net",
                                  "pathlib.PosixPath", "functools.partial"])  # fmt: skip
def test_what_checkpoints_hold_is_not(name: str) -> None:
    said = finding(Note("inert", ("args",), f"{name}, not executed"))
    assert said.cause == f"{name}, not executed" and said.remedy is None
