"""A process of its own for the HDF5 library, which has hung and crashed over damaged files.

The other process (`hdf5_tree.serve`) opens no file: it asks this one for bytes, and answers with names, shapes and
places. Where it is silent for too long, asks for too much or ends, that is an error about the file and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any

from anyvit.errors import FileError, UnsafeError, needs

if TYPE_CHECKING:
    from anyvit.containers.hdf5_data import Window

SILENCE = 20.0
"""Seconds without a question after which the library is taken to be lost; a sound file takes a hundredth of one."""
START = 120.0
"""Seconds in which the process must be ready; it imports numpy and h5py."""
READ = 1 << 30
"""Bytes that may be asked for beside four times the file; every array costs 64 KiB."""
ANSWER = 256 << 20
"""Longest answer in bytes; a million blocks need a quarter of it."""

HEAD = struct.Struct("<cQQ")
"""What comes from the other process: a letter, an offset, a size."""
HELLO, ASKED, TOLD = b"H", b"R", b"D"
"""Letters: it is ready; it wants these bytes; an answer of that size follows."""
LENGTH = struct.Struct("<Q")
"""What goes before a job."""
CODE = "import sys; sys.path[:] = {path!r}; from anyvit.containers.hdf5_tree import serve; serve()"


class Walker:
    """The other process, started when it is first needed; a context that ends it.

    One walk at a time. A walker that a file has ended starts again for the next one.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._heard = 0.0

    def __enter__(self) -> Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def walk(self, source: Window, path: str) -> Mapping[str, Any]:
        """What `hdf5_tree.Tree.plain` says of a file.

        Arguments:
            source: the file's bytes.
            path: what it is called, for messages.

        Raises:
            MissingExtra: h5py is not installed.
            FileError: a damaged file, or one that the HDF5 library does not come back from.
            UnsafeError: as `hdf5.read`.
        """
        child = self._ready(path)
        done, late = Event(), Event()
        guard = Thread(target=self._guard, args=(child, done, late), name="anyvit-hdf5", daemon=True)
        self._heard = time.monotonic()
        guard.start()
        try:
            found = self._served(child, source, path)
        except (EOFError, OSError, ValueError) as error:
            code = self.end()
            how = f"no answer in {SILENCE:g} seconds" if late.is_set() else f"ended with {code}"
            raise _lost(path, how) from error
        except BaseException:
            self.end()
            raise
        finally:
            done.set()
            guard.join()
        if "error" in found:
            raise _told(found["error"])
        return found

    def end(self) -> int | None:
        """Ends the process, at once where it does not by itself; says with what it ended."""
        child, self._child = self._child, None
        if child is None:
            return None
        assert child.stdin is not None and child.stdout is not None
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            return child.wait(0.5)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _ready(self, path: str) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.end()
        if find_spec("h5py") is None:
            raise needs("hdf5", "h5py", f"to read {path}, an HDF5 file")
        # a frozen program is its own executable, and would start itself
        python = "" if getattr(sys, "frozen", False) else sys.executable or ""
        command = [python, "-I", "-c", CODE.format(path=[os.path.abspath(entry) for entry in sys.path])]
        # numpy's threads would be started and never used
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            raise FileError(
                f"{path} is an HDF5 file, which a process of its own reads; it could not be started", found=str(error)[:200],
                usual="a program that holds Python inside itself, or no memory for another process",
                remedy="convert the file with the command line: anyvit convert FILE OUT.safetensors --to DIALECT",
            ) from error  # fmt: skip
        return self._child

    def _guard(self, child: subprocess.Popen[bytes], done: Event, late: Event) -> None:
        began = self._heard
        while not done.wait(0.2):
            if time.monotonic() - self._heard > (START if self._heard == began else SILENCE):
                late.set()
                child.kill()
                return

    def _served(self, child: subprocess.Popen[bytes], source: Window, path: str) -> Any:
        """Gives a job, answers what is asked, and returns what is told."""
        to, of = child.stdin, child.stdout
        assert to is not None and of is not None
        job = json.dumps({"path": path, "size": source.size}).encode()
        _send(to, LENGTH.pack(len(job)) + job)
        given = 0
        while True:
            kind, offset, size = HEAD.unpack(_exactly(of, HEAD.size))
            self._heard = time.monotonic()
            if kind == TOLD:
                if size > ANSWER:
                    raise UnsafeError(f"{path} holds implausibly many names or blocks", found=f"{size} bytes of them")
                return json.loads(_exactly(of, size))
            if kind == ASKED:
                given += size
                if offset + size > source.size or given > READ + 4 * source.size:
                    raise UnsafeError(f"{path} is read over and over", found=f"{given} bytes of {source.size}")
                self._heard = math.inf  # a slow network is nobody's silence
                data = source.file.read(source.start + offset, size)
                self._heard = time.monotonic()
                _send(to, data)
            elif kind != HELLO:
                raise ValueError(kind)


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(data)
    pipe.flush()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


def _lost(path: str, how: str) -> FileError:
    return FileError(
        f"{path} is a damaged HDF5 file: the HDF5 library was lost in it", found=how,
        usual="a flipped bit, a download or copy that was cut, or a forged file", remedy="fetch the file again",
    )  # fmt: skip


def _told(error: Mapping[str, Any]) -> Exception:
    """An error of the other process."""
    kind = UnsafeError if error["kind"] == UnsafeError.__name__ else FileError
    return kind(**error["said"])


def walker() -> Walker:
    """A walker for one file, or for the files of one model."""
    return Walker()
