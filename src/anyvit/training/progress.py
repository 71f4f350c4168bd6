"""How far a run is: tqdm's bar where a person watches, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY = 10.0
"""Seconds between plain lines."""


class Bar:
    """The progress of a run on stderr; used as a context.

    Arguments:
        steps: all of them.
        first: the one to begin with.
        wanted: True shows it, False does not, None does where stderr is a terminal.
        here: whether this process is the one that prints.
    """

    def __init__(self, steps: int, first: int = 0, wanted: bool | None = None, here: bool = True) -> None:
        shown = here and (sys.stderr.isatty() if wanted is None else wanted)
        self.steps, self._bar, self._plain, self._last = steps, None, shown, time.monotonic()
        if shown and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar, self._plain = tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True), False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, done: int, text: str) -> None:
        """So many steps are done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(1)
        elif self._plain and (done == self.steps or time.monotonic() - self._last > EVERY):
            self._last = time.monotonic()
            print(f"step {done} of {self.steps}, {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._plain:
            print(text, file=sys.stderr, flush=True)
