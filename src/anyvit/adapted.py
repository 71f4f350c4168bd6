"""What every adaptation gives back, and what it is called in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anyvit.lazy import Lazy
from anyvit.report import Finding
from anyvit.spec import Spec

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Adapted:
    """Canonical tensors and their Spec after an adaptation, and what to say of it."""

    tensors: Tensors
    spec: Spec
    findings: tuple[Finding, ...] = ()

    def then(self, other: Adapted) -> Adapted:
        """The result of a further step."""
        return Adapted(other.tensors, other.spec, self.findings + other.findings)


def whole(name: str, value: object, least: int) -> int:
    """A count that a caller gave.

    Raises:
        BadArgument: it is no int, or smaller than `least`.

    Example:
        >>> whole("in_chans", 4, 1)
        4
    """
    from anyvit.errors import BadArgument

    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadArgument(f"{name} is an int, at least {least}", found=value)
    return value
