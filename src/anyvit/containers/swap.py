"""A folder whose files change all at once: the new one is built beside the old one, and the two change places.

Linux and macOS can exchange two folders in one step. Where that is not possible (another system, a mount point, the
working folder, a folder of another user, a parent that may not be written to) the files take their names one by one;
readers then find shards of two conversions by their record and refuse them.

Source: renameat2(2) RENAME_EXCHANGE, Linux 3.15; renamex_np(2) RENAME_SWAP, macOS 10.12.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from anyvit.containers.files import beside, flush_folder
from anyvit.errors import FileError

ENTRIES_LIMIT = 10_000
"""Most files and folders that are carried over into a new folder; more lie in no folder of a model."""
_LINUX_CWD, _LINUX_EXCHANGE, _MACOS_SWAP = -100, 2, 2


@contextlib.contextmanager
def atomic_folder(path: Path, replaced: Sequence[str] = (), *, durable: bool = False) -> Iterator[Path]:
    """A folder to write into that takes the place of `path` only when the block ends well.

    What else lies in an existing folder is in the new one too (as links to the same files); what came into it while the
    block ran is moved over.

    Arguments:
        path: the folder, which may exist; a link to one is followed.
        replaced: patterns of names (`model-*.safetensors`) that the block writes anew: the old ones are left behind.
        durable: flush the lists of names to the disk.

    Yields:
        The folder to write into: a hidden one beside `path`, or `path` itself where folders cannot change places.

    Raises:
        FileError: no permission, disk full, …; the OSError is the cause.
    """
    path = Path(os.path.realpath(path))
    temporary = beside(path)
    carried: set[str] | None = None
    moved = False
    try:
        carried = _begun(path, temporary, replaced) if path.exists() else _new(temporary)
        if carried is None:
            yield path
            return
        yield temporary
        if durable:
            flush_folder(temporary)
        moved = _moved(temporary, path)
        if not moved:
            _one_by_one(temporary, path, replaced)
        if durable:
            flush_folder(path.parent)
    except OSError as error:
        raise FileError(f"the folder {path} cannot be written ({error.strerror or error})") from error
    finally:
        # What others put into the old folder is not thrown away, neither by Ctrl-C nor where it cannot be moved.
        with contextlib.suppress(OSError):
            if moved and carried is not None:
                _rescue(temporary, path, carried, replaced)
            if temporary.is_symlink():  # a link that led nowhere changed places
                temporary.unlink()
            shutil.rmtree(temporary, ignore_errors=True)


def _new(temporary: Path) -> set[str]:
    os.mkdir(temporary)
    return set()


def _begun(path: Path, temporary: Path, replaced: Sequence[str]) -> set[str] | None:
    """The names carried over into a new folder that may take the place of `path`; None where that is not possible."""
    if not _may_swap(path):
        return None
    kept = [name for name in sorted(os.listdir(path)) if not _matches(name, replaced)]
    try:
        os.mkdir(temporary)
        os.chmod(temporary, path.stat().st_mode & 0o7777)
        room = [ENTRIES_LIMIT]
        for name in kept:
            _carry(path / name, temporary / name, room)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        return None
    return set(kept)


def _may_swap(path: Path) -> bool:
    """Whether another folder may take this one's place: it is ours, no mount point, and no process of ours stands in it."""
    if _exchanger() is None or os.path.ismount(path):
        return False
    here = Path(os.path.realpath(os.getcwd()))
    return path.stat().st_uid == os.geteuid() and path not in (here, *here.parents) and os.access(path.parent, os.W_OK)


def _carry(old: Path, new: Path, room: list[int]) -> None:
    room[0] -= 1
    if room[0] < 0:
        raise OSError(errno.EMLINK, "too many files")
    if old.is_symlink():
        os.symlink(os.readlink(old), new)
    elif old.is_dir():
        os.mkdir(new)
        shutil.copystat(old, new)
        for name in os.listdir(old):
            _carry(old / name, new / name, room)
    else:
        os.link(old, new)


def _moved(temporary: Path, path: Path) -> bool:
    """Puts a folder under its name; False where one stands there that cannot change places with it."""
    with contextlib.suppress(OSError):
        if not path.exists():
            os.rename(temporary, path)
            return True
    exchange = _exchanger()
    return exchange is not None and exchange(os.fsencode(temporary), os.fsencode(path)) == 0


def _rescue(old: Path, path: Path, carried: set[str], replaced: Sequence[str]) -> None:
    """Moves what others put into the old folder meanwhile; a file that the new one has too stays the new one's."""
    if not old.is_dir():
        return
    for name in os.listdir(old):
        foreign = name not in carried and not _matches(name, replaced) and not name.endswith(".tmp")
        if foreign and not os.path.lexists(path / name):
            os.rename(old / name, path / name)


def _one_by_one(temporary: Path, path: Path, replaced: Sequence[str]) -> None:
    """The same files for a folder that cannot change places: each takes its name, then those of an earlier model go."""
    new = set(os.listdir(temporary))
    for name in sorted(new):
        if _matches(name, replaced):
            os.replace(temporary / name, path / name)
    for name in os.listdir(path):
        if _matches(name, replaced) and name not in new:
            os.unlink(path / name)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _exchanger() -> Callable[[bytes, bytes], int] | None:
    """The system's call that exchanges two paths and gives 0; None where it has none."""
    import ctypes

    if not sys.platform.startswith(("linux", "darwin")):
        return None
    library = ctypes.CDLL(None)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        return None if swap is None else lambda a, b: swap(a, b, _MACOS_SWAP)
    exchange = getattr(library, "renameat2", None)
    return None if exchange is None else lambda a, b: exchange(_LINUX_CWD, a, _LINUX_CWD, b, _LINUX_EXCHANGE)
