"""Modules without memory: built on the meta device, given values where a file has none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from anyvit.errors import Incomplete
from anyvit.report import fold

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules that this thread builds in the block get parameters without memory; buffers are computed as ever.

    Initialisation then costs nothing, since every operation on a meta tensor is empty.
    """
    from torch import nn
    from torch.nn.modules.module import register_module_parameter_registration_hook

    here = threading.get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != here:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(cast(Any, on_meta))
    try:
        yield
    finally:
        hook.remove()


def unfillable(module: nn.Module, filled: Collection[str]) -> None:
    """Raises where a buffer without memory will get no value and the module has no way to compute it.

    Arguments:
        module: may lie on meta, wholly or in part.
        filled: names that a file fills.

    Raises:
        Incomplete: names the buffers; the module is as it was.
    """
    lost = []
    for path, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            full = f"{path}.{name}" if path else name
            if buffer.is_meta and full not in filled and name != "position_ids":
                lost += [] if _maker(module, part, buffers=True) else [full]
    if lost:
        raise Incomplete(
            "buffers on the meta device are not in the file, and the module has no method that computes them",
            names=fold(lost),
            remedy='build the module on the CPU, or let anyvit.build("timm:NAME", path) do it',
        )


def settle(module: nn.Module, filled: Collection[str]) -> list[str]:
    """Give memory and their module's own initial values to meta tensors that no file fills.

    Arguments:
        module: may lie on meta, wholly or in part.
        filled: names that a file fills.

    Returns:
        Names of parameters that the module has no initial values for and that were set to zero.
    """
    import torch

    zeroed = []
    for path, part in module.named_modules():
        owned = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
        names = {n: f"{path}.{n}" if path else n for n, t in owned.items() if t.is_meta}
        lost = {n: full for n, full in names.items() if full not in filled}
        if not lost:
            continue
        for name in lost:
            replace_tensor(part, name, torch.zeros_like(owned[name], device="cpu"))
        make = _maker(module, part)
        if make is not None:
            make()
        elif "position_ids" in lost:
            ids = part._buffers["position_ids"]
            assert ids is not None
            ids.copy_(torch.arange(ids.shape[-1]).expand_as(ids))
        zeroed += [full for n, full in lost.items() if make is None and n in part._parameters]
    return zeroed


def _maker(module: nn.Module, part: nn.Module, *, buffers: bool = False) -> Callable[[], object] | None:
    """How a part of a module gets its initial values: timm's method for buffers, transformers', or torch's own.

    Arguments:
        module: the whole.
        part: a part of it.
        buffers: only what computes buffers too, which torch's reset_parameters never does.
    """
    own: Any = part
    if hasattr(own, "init_non_persistent_buffers"):
        return own.init_non_persistent_buffers
    for above in module.modules():
        whole: Any = above
        if hasattr(whole, "_init_weights") and hasattr(whole, "config") and part in set(whole.modules()):
            return lambda: whole._init_weights(part)
    return None if buffers else getattr(own, "reset_parameters", None)


def replace_tensor(part: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, whose kind and `requires_grad` stay."""
    from torch import nn

    old = part._parameters.get(name)
    if old is not None:
        part._parameters[name] = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        part._buffers[name] = tensor


def assign(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors in the place of parameters and buffers without memory; tied ones stay tied.

    Arguments:
        module: the module.
        tensors: full name → tensor of the right shape and type.
    """
    parts = list(module.named_modules(remove_duplicate=False))
    held = [(part, path, places) for path, part in parts for places in (part._parameters, part._buffers)]
    found = {f"{path}.{name}" if path else name: id(old) for _, path, places in held for name, old in places.items()}
    by_place = {found[name]: tensor for name, tensor in tensors.items()}
    made: dict[int, Any] = {}
    for part, _, places in held:
        for name, old in list(places.items()):
            if old is None or id(old) not in by_place:
                continue
            if id(old) not in made:
                replace_tensor(part, name, by_place[id(old)])
                made[id(old)] = places[name]
            places[name] = made[id(old)]
