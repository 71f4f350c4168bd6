"""Paths that a file names: followed only where they stay in the file's own folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from anyvit.errors import UnsafeError


def inside(folder: Path, name: object, said_by: str) -> Path:
    """The path of a file that another one names.

    Arguments:
        folder: where the naming file lies.
        name: a relative path, as found in the file.
        said_by: the naming file, for messages.

    Raises:
        UnsafeError: the name is no relative path, or leads out of the folder by dots, a drive or a link.

    Example:
        >>> inside(Path("run"), "weights/part.bin", "model.onnx").as_posix()
        'run/weights/part.bin'
    """
    text = name if isinstance(name, str) else ""
    parts = (*PurePosixPath(text).parts, *PureWindowsPath(text).parts)
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).anchor
    if not text or absolute or ".." in parts or "\0" in text:
        raise UnsafeError(
            f"{said_by} names a file that does not lie beside it",
            names=[text.replace("\0", "\\0")] if text else (),
            found=None if text else f"a {type(name).__name__}",
            expected="a path relative to its folder, without '..'",
            usual="a forged file",
        )
    path = folder / text
    if not isinstance(path, Path):
        return path  # an address: there are no links that lead elsewhere
    home, target = folder.resolve(), path.resolve()
    # The hub's cache keeps snapshots/<revision>/<name> as links to ../../blobs/<hash>.
    above = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.parent.name == "snapshots"), None)
    blobs = above.parent.parent.resolve() / "blobs" if above else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise UnsafeError(
            f"{said_by} names a link that leads out of its folder",
            names=[text],
            found=str(target),
            remedy="put the file itself into the folder, or open the folder where it lies",
        )
    return path
