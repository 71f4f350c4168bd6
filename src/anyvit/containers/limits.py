"""What a file may claim altogether: a few bytes must not stand for gigabytes, by packing, repeating or sharing."""

from __future__ import annotations

from collections.abc import Iterable

from anyvit.errors import UnsafeError

ROOM = 64 << 20
"""Bytes that any file may claim."""
RATIO = 50
"""How many times its own size a file may claim beyond that.

Trained weights shrink by a third when packed, a pruned model by ten times; layers that share their weights repeat them
a few dozen times. DEFLATE packs zeros 1,032 : 1.
"""
NAME_LIMIT = 1024
"""Longest name of a tensor in characters; the longest of a released checkpoint has about 120."""


def check_total(name: str, claimed: int, size: int, how: str) -> None:
    """That the tensors of a file are plausibly many bytes.

    Arguments:
        name: the file.
        claimed: bytes of all tensors, or of all members once they are unpacked.
        size: bytes of the file, and of those that it names.
        how: how it would come to more, for the message.

    Raises:
        UnsafeError: it claims more than `ROOM` and more than `RATIO` times its size.

    Example:
        >>> check_total("a.npz", 1 << 20, 1 << 10, "packed zeros")
    """
    if claimed > max(ROOM, RATIO * size):
        raise UnsafeError(
            f"{name} claims implausibly much: {how}",
            found=f"{claimed} bytes out of {size}",
            expected=f"at most {RATIO} times its size",
            usual="a forged file (a bomb)",
            remedy="write it again as .safetensors where you trust its source",
        )


def check_names(file: str, names: Iterable[str]) -> None:
    """That no name of a tensor is implausibly long.

    Raises:
        UnsafeError: one is.
    """
    for name in names:
        if len(name) > NAME_LIMIT:
            raise UnsafeError(
                f"{file} holds an implausibly long name",
                names=[name[:100] + "…"],
                found=f"{len(name)} characters",
                expected=f"at most {NAME_LIMIT}",
                usual="a forged file",
            )
