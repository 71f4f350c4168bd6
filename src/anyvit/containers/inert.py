"""What a pickle's foreign objects become: plain data that remembers what it was and never runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, slots=True, repr=False)
class Inert:
    """An object of a class that was neither imported nor called; only what the file says of it.

    Arguments:
        type: module and name as the file has them, "argparse.Namespace".
        args: what the file would have called it with.
        state: its attributes, mostly a dict; the text of a path; the content of an omegaconf node.
        items: what the file would have appended (a list) or set by key (a dict).

    Example:
        >>> args = Inert("argparse.Namespace", state={"arch": "vit_small", "patch_size": 16})
        >>> args, args.state["patch_size"]
        (Inert('argparse.Namespace', 2 attributes), 16)
    """

    type: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: Any = None

    def __repr__(self) -> str:
        # Neither deep nor cyclic content is followed: a message must stay short and must not recurse.
        said = [repr(self.type)]
        if self.args:
            said.append(f"{len(self.args)} arguments")
        if isinstance(self.state, dict):
            said.append(f"{len(self.state)} attributes")
        elif self.state is not None:
            said.append(repr(self.state)[:80] if isinstance(self.state, str | int | float) else "with state")
        if self.items:
            said.append(f"{len(self.items)} items")
        return f"Inert({', '.join(said)})"
