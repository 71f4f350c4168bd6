"""The two sides of a comparison: opened, recognised, their blocks found, ready to be run and watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn

from anyvit import api, containers
from anyvit.errors import Ambiguous, BadArgument, NotAViT
from anyvit.lazy import Checkpoint
from anyvit.model import ViT
from anyvit.module import checkpoint_of
from anyvit.reading import Ask, Reading, understand
from anyvit.recognise import WRAPPERS, block_prefixes
from anyvit.report import Finding
from anyvit.spec import Spec
from anyvit.target import recognise_module

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff of element types, half the distance from 1 to the next number.

Source: https://en.wikipedia.org/wiki/Unit_in_the_last_place; 53, 24, 11 and 8 significant bits.
"""


@dataclass(frozen=True)
class Side:
    """One of two models that are compared.

    Arguments:
        name: "a" or "b".
        title: what it is, in words.
        module: what is run.
        reading: its tensors in canonical names and its architecture; None for a layout that nobody described.
        blocks: its transformer blocks in order.
        norm: its final norm, where it is known.
        dtype: the element type that it computes in.
        stored: the element type that most of its weights have in the file; that of `dtype` for a module.
        known: whether its facts come with a file or a ViT, so that the other side is the one to change.
        own: what its weights alone say against its names, whatever the other side is.
    """

    name: str
    title: str
    module: nn.Module
    reading: Reading | None
    blocks: tuple[nn.Module, ...]
    norm: nn.Module | None
    dtype: str
    stored: str
    known: bool
    own: tuple[Finding, ...] = ()

    @property
    def spec(self) -> Spec | None:
        """Its architecture, where it could be told."""
        return self.reading.spec if self.reading else None

    @property
    def prefix(self) -> str:
        """Where the image tower lies in the module."""
        return self.reading.match.prefix if self.reading and self.reading.match else ""


def open_side(name: str, given: Any) -> Side:
    """A path, a mapping, a ViT or any other module as a side.

    Raises:
        FileError: a file cannot be read.
        NotAViT: it is no Vision Transformer, or a module in which no blocks can be found.
        BadArgument: it is none of these.
    """
    if isinstance(given, ViT):
        return _own(name, f"ViT ({given.spec.lineage or 'own'})", given, None)
    if isinstance(given, nn.Module):
        return _foreign(name, given)
    if not isinstance(given, Mapping) and not hasattr(given, "__fspath__") and not isinstance(given, (str, Checkpoint)):
        raise BadArgument(
            f"verify compares paths, mappings name → tensor and modules; {name} is none", found=type(given).__name__
        )
    checkpoint = given if isinstance(given, Checkpoint) else containers.open_checkpoint(given)
    vit = api.load_as_named(checkpoint)
    title = checkpoint.path or f"a mapping of {len(checkpoint.tensors)} tensors"
    side = _own(name, title, vit, _stored(checkpoint, vit))
    told = tuple(f for f in vit.report.findings if f.kind in LAID) if vit.report else ()
    return replace(side, own=tuple(replace(f, cause=f"{name}'s own weights: {f.cause}", fatal=False) for f in told))


LAID = ("swapped", "interleaved", "transposed", "untrained")
"""Kinds of findings that the weights of one file alone give."""


def _own(name: str, title: str, vit: ViT, stored: str | None) -> Side:
    dialect = "anyvit-dit" if vit.spec.condition == "dit" else "anyvit"
    reading = replace(understand(checkpoint_of(vit), Ask(dialect=dialect)), spec=vit.spec)
    dtype = _computed(vit)
    return Side(name, title, vit, reading, tuple(vit.blocks), None, dtype, stored or dtype, True)


def _foreign(name: str, module: nn.Module) -> Side:
    title = f"{library(module)} {type(module).__name__}"
    inner = getattr(module, "_orig_mod", module)
    try:
        reading = _recognised(inner)
    except (NotAViT, Ambiguous):
        blocks = likely_blocks(inner)
        if not blocks:
            raise
        return Side(name, title, inner, None, blocks, None, _computed(inner), _computed(inner), False)
    parts = named_parts(inner)
    blocks = named_blocks(reading, parts) or likely_blocks(inner)
    norm = parts.get(_plain(_origin(reading, "norm.weight")).rpartition(".")[0] or "-")
    return Side(name, title, inner, reading, blocks, norm, _computed(inner), _computed(inner), False)


def _recognised(module: nn.Module) -> Reading:
    """A module's names and shapes, read by a dialect or by a draft."""
    try:
        return recognise_module(module).reading
    except NotAViT as error:
        try:
            return recognise_module(module, "draft").reading
        except (NotAViT, Ambiguous, BadArgument):
            raise error from None


def library(module: nn.Module) -> str:
    """The package that a module's class, or the one that it derives from, comes from.

    Example:
        >>> library(nn.Linear(1, 1))
        'torch'
    """
    packages = [cls.__module__.partition(".")[0] for cls in type(module).__mro__]
    return next((package for package in packages if package in PACKAGES), packages[0])


PACKAGES = ("anyvit", "timm", "transformers", "open_clip")
"""Packages whose modules we know how to build."""


def named_parts(module: nn.Module) -> dict[str, nn.Module]:
    """The submodules by name, without the components that wrappers put into the middle of names."""
    return {_plain(name): value for name, value in module.named_modules()}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def named_blocks(reading: Reading, parts: Mapping[str, nn.Module]) -> tuple[nn.Module, ...]:
    """The transformer blocks of a recognised module, in order; none where a number is missing."""
    match = reading.match
    assert match is not None
    starts, found = block_prefixes(match.dialect), {}
    for name, hit in match.hits.items():
        in_block = (hit.item.ours or "").startswith("blocks.") and "i" in hit.numbers
        if not in_block or not name.startswith(match.prefix):
            continue
        inner = name[len(match.prefix) :]
        head = next((text.group() for start in starts if (text := start.match(inner))), None)
        part = parts.get(match.prefix + head.rstrip(".")) if head else None
        if part is not None:
            found.setdefault(hit.numbers["i"], part)
    return tuple(found[i] for i in sorted(found)) if sorted(found) == list(range(len(found))) else ()


def likely_blocks(module: nn.Module) -> tuple[nn.Module, ...]:
    """The children of the largest list of parts of one class: the blocks of a layout that nobody described."""
    lists = [tuple(part.children()) for part in module.modules() if isinstance(part, (nn.ModuleList, nn.Sequential))]
    lists = [parts for parts in lists if len(parts) > 1 and len({type(part) for part in parts}) == 1]
    return max(lists, key=lambda parts: sum(p.numel() for part in parts for p in part.parameters()), default=())


def _origin(reading: Reading, name: str) -> str:
    tensor = reading.tensors.get(name)
    return tensor.origin[0] if tensor is not None and tensor.origin else ""


def _computed(module: nn.Module) -> str:
    """The element type that most of a module's parameters have."""
    sizes: Counter[str] = Counter()
    for value in module.parameters():
        sizes[str(value.dtype).removeprefix("torch.")] += value.numel()
    return sizes.most_common(1)[0][0] if sizes else "float32"


def _stored(checkpoint: Checkpoint, vit: ViT) -> str | None:
    """The element type that most of the loaded tensors have in the file."""
    sizes: Counter[str] = Counter()
    for source in {s for trail in (vit.report.trails if vit.report else ()) for s in trail.sources}:
        if source in checkpoint.tensors:
            tensor = checkpoint.tensors[source]
            sizes[tensor.dtype] += prod(tensor.shape)
    return sizes.most_common(1)[0][0] if sizes else None


def coarsest(*names: str) -> str:
    """The element type with the largest roundoff.

    Example:
        >>> coarsest("float32", "bfloat16", "float16")
        'bfloat16'
    """
    known = [name for name in names if name in UNITS]
    return max(known, key=lambda name: UNITS[name]) if known else "float32"


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
