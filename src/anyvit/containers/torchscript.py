"""Module objects as pickles hold them: TorchScript's and those of torch.save(model); read without class or code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from anyvit.containers.inert import Inert

_NO_STATE = frozenset({"training", "_is_full_backward_hook"})


def is_archive(names: Collection[str], root: str) -> bool:
    """Whether a torch zip file was written by torch.jit.save.

    Arguments:
        names: its members.
        root: the folder in it that holds data.pkl, with a slash at the end.

    Source: torch 2.6 torch/csrc/jit/serialization/export_module.cpp: constants.pkl and code/ beside data.pkl.
    """
    return f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names)


def is_script(value: Inert) -> bool:
    """Whether an object is an instance of a class that TorchScript compiled."""
    return value.type.startswith("__torch__.") and isinstance(value.state, dict)


def script_parts(value: Inert) -> Iterator[tuple[Any, Any]]:
    """Names and values of a TorchScript module's attributes: parameters, buffers and submodules alike."""
    return ((name, part) for name, part in value.state.items() if name not in _NO_STATE)


def is_module(value: Inert) -> bool:
    """Whether an object is a pickled torch.nn.Module, whatever its class."""
    state = value.state
    return (
        isinstance(state, dict)
        and isinstance(state.get("_parameters"), dict)
        and isinstance(state.get("_modules"), dict)
    )


def module_parts(value: Inert) -> Iterator[tuple[Any, Any]]:
    """Names and values of a module as in its state dict, then its plain public attributes (num_heads, eps, …).

    Source: torch 2.6 torch/nn/modules/module.py, `Module._save_to_state_dict` (leaves what is not persistent).
    """
    state = value.state
    passing = state.get("_non_persistent_buffers_set") or ()
    yield from ((name, part) for name, part in state["_parameters"].items() if part is not None)
    buffers = state.get("_buffers")
    for name, part in buffers.items() if isinstance(buffers, dict) else ():
        if part is not None and name not in passing:
            yield name, part
    yield from ((name, part) for name, part in state["_modules"].items() if part is not None)
    for name, part in state.items():
        if type(name) is str and name[:1] != "_" and name not in _NO_STATE and _plain(part):
            yield name, part


def _plain(value: Any, depth: int = 2) -> bool:
    if isinstance(value, str | int | float | bool):
        return True
    return type(value) in (tuple, list) and depth > 0 and all(_plain(part, depth - 1) for part in value)
