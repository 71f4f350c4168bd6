"""Faults of the disk and of the person at the keyboard, at any step by which files come into being."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from anyvit.containers import files, swap

STEPS = ("open", "mkdir", "replace", "rename", "fsync", "link", "symlink", "chmod")
"""Calls of the system by which files and folders come into being."""


class Trap:
    """Counts the steps by which files come into being, and fails at one of them.

    Arguments:
        at: the step, from 1 on; 0 for none.
        error: makes what is raised.
        part: how much of what it is given a file takes at once.
    """

    def __init__(self, at: int, error: Callable[[], BaseException], part: float = 1.0) -> None:
        self.at, self.error, self.part, self.steps = at, error, part, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise self.error()

    def taking(self, data: Any, write: Callable[[Any], int]) -> int:
        """Writes as much as is taken at once; half of it where this is the step that fails, as on a full disk."""
        whole = memoryview(data)
        try:
            self.step()
        except BaseException:
            write(whole[: len(whole) // 2])
            raise
        return write(whole[: max(1, int(len(whole) * self.part))])

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real_open, real = open, {name: getattr(os, name) for name in STEPS}

        def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
            return Watched(real_open(file, *args, **kwargs), self)

        def stepping(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if not (name == "open" and not args[1] & os.O_CREAT):
                    self.step()
                return real[name](*args, **kwargs)

            return call

        patch.setattr(files, "open", opened, raising=False)
        if hasattr(os, "pwrite"):
            pwrite = os.pwrite
            patch.setattr(files.os, "pwrite", lambda fd, data, at: self.taking(data, lambda some: pwrite(fd, some, at)))
        for name in real:
            patch.setattr(files.os, name, stepping(name))
        exchange = swap._exchanger()
        if exchange is not None:
            patch.setattr(swap, "_exchanger", lambda: lambda a, b: (self.step(), exchange(a, b))[1])


class Watched:
    """A file that fails when the trap says so."""

    def __init__(self, file: Any, trap: Trap) -> None:
        self.file, self.trap = file, trap

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if error == (None, None, None):
            self.trap.step()

    def seek(self, *where: int) -> int:
        self.trap.step()
        return self.file.seek(*where)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        return self.trap.taking(data, self.file.write)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "disk failing": lambda: OSError(errno.EIO, "Input/output error"),
    "not permitted": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "interrupted call": lambda: InterruptedError(errno.EINTR, "Interrupted system call"),
    "quota": lambda: OSError(errno.EDQUOT, "Disk quota exceeded"),
    "Ctrl-C": KeyboardInterrupt,
}
