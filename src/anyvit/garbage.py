"""Work that makes thousands of small objects, none of them in a cycle, without garbage collection.

The interpreter looks through all objects now and then when many are made. A process that has imported torch and a model
library holds some 200,000, which takes longer than understanding a file does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Made = TypeVar("Made")


def uncollected(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function, during which nothing is collected; for what takes a fraction of a second.

    Example:
        >>> uncollected(gc.isenabled)(), gc.isenabled()
        (False, True)
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        before = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if before:
                gc.enable()

    return run
