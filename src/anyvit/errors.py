"""One family of errors: what is wrong, where, what was expected, the usual cause, the line to type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyvit.report import Report

LIMIT = 1_900
"""Longest error text in characters; what does not fit is counted instead of listed."""


class AnyvitError(Exception):
    """Base of every error that anyvit raises on purpose.

    Arguments:
        cause: what is wrong, in one sentence.
        names: the tensors (or files) concerned, in the words of the file; folded and counted when many.
        found: what was found there.
        expected: what should have been there.
        usual: the usual reason for it.
        remedy: the line to type.

    Example:
        >>> print(AnyvitError("a norm has another width", names=["blocks.7.norm1.weight"], found=(1024,), expected=(768,)))
        a norm has another width: blocks.7.norm1.weight
          found: (1024,)
          expected: (768,)
    """

    usually: str | None = None
    """The usual cause where a call names none."""
    mostly: str | None = None
    """The remedy where a call names none."""
    report: Report | None = None
    """The account of every tensor, where a file was understood before it was refused."""

    def __init__(
        self,
        cause: str,
        *,
        names: Iterable[str] = (),
        found: object = None,
        expected: object = None,
        usual: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.cause = cause
        self.names = tuple(names)
        self.found, self.expected = found, expected
        self.usual, self.remedy = usual or self.usually, remedy or self.mostly
        super().__init__(self._text())

    def _text(self) -> str:
        # Control characters are written out first, which makes a text longer.
        tail = [
            f"\n  {label}: {clip(printable(str(value)[:2000]), 350)}"
            for label, value in (
                ("found", self.found),
                ("expected", self.expected),
                ("usual cause", self.usual),
                ("try", self.remedy),
            )
            if value is not None
        ]
        end = "".join(tail)
        head = clip(printable(self.cause[:10_000]), max(200, LIMIT - len(end) - 200))
        room = LIMIT - len(head) - len(end)
        return (
            head + (": " + listing([printable(name[:2000]) for name in self.names], room) if self.names else "") + end
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.cause, self.names, self.found, self.expected, self.usual, self.remedy))


class FileError(AnyvitError):
    """A file or folder cannot be read or written: missing, cut, damaged, not permitted, disk full."""


class UnsafeError(FileError):
    """A header claims what cannot be, or a path leads out of its folder."""

    usually = "a damaged or a forged file"
    mostly = "fetch the file again, from where you trust it"


class NotAViT(AnyvitError):
    """A readable file that is no loadable Vision Transformer; the message says what it is instead."""


class Incomplete(AnyvitError):
    """A tensor that the function needs is missing, unexplained or of another shape."""


class Ambiguous(AnyvitError):
    """The file leaves a question open that changes the function; the caller is asked."""


class Unsayable(AnyvitError):
    """The target's layout has no words for something the source holds, and no exact rewrite removes it."""


class BadArgument(AnyvitError, ValueError):
    """A call's argument is off."""


class MissingExtra(AnyvitError, ImportError):
    """An optional package is needed for this call; the message has the line that installs it."""


def needs(extra: str, package: str, job: str) -> MissingExtra:
    """The error of a missing optional package.

    Example:
        >>> print(needs("torch", "torch", "to build a model"))
        torch is needed to build a model
          try: pip install "anyvit[torch]"
    """
    return MissingExtra(f"{package} is needed {job}", remedy=f'pip install "anyvit[{extra}]"')


def _rebuild(kind: type[AnyvitError], cause: str, names: Sequence[str], *rest: object) -> AnyvitError:
    found, expected, usual, remedy = rest
    return kind(cause, names=names, found=found, expected=expected, usual=usual, remedy=remedy)  # type: ignore[arg-type]


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text in which what would steer a terminal (escape sequences, a change of direction) is written out.

    Example:
        >>> print(printable("a\\x1b[2J"))
        a\\x1b[2J
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clip(text: str, room: int) -> str:
    """At most `room` characters of a text, cut with an ellipsis."""
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def listing(names: Sequence[str], room: int) -> str:
    """As many names as fit in `room` characters, then how many more there are.

    Example:
        >>> listing(["a.weight", "b.weight", "c.weight"], 14)
        'a.weight … (3 in all)'
    """
    shown: list[str] = []
    used = 0
    for name in names:
        name = clip(name, max(20, min(200, room)))
        if used + len(name) + 2 > room and shown:
            return ", ".join(shown) + f" … ({len(names)} in all)"
        shown.append(name)
        used += len(name) + 2
    return ", ".join(shown)
