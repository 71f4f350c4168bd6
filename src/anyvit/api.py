"""The verbs: each a short composition of pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit import containers
from anyvit.dtypes import is_floating
from anyvit.errors import BadArgument, NotAViT
from anyvit.garbage import uncollected
from anyvit.lazy import Checkpoint, Lazy, astype, precise
from anyvit.reading import Ask, Reading, understand
from anyvit.report import Report, Trail
from anyvit.rules import Dialect

if TYPE_CHECKING:
    import torch
    from torch import nn

    from anyvit.adapt import AdaLN, Adapted, Channels, ClassMap, Wanted
    from anyvit.model import ViT

Source = Any
"""A path, a folder, or a mapping name → tensor."""


def inspect(
    path: Source, *, weights: str | None = None, deep: bool = False, dialect: str | Dialect | None = None
) -> Report:
    """What a file is, from its header alone.

    Arguments:
        path: a file, a folder, or a mapping name → tensor (meta tensors will do).
        weights: which weight set to look at ("teacher", "student", "ema", …); None for the one that would be loaded.
        deep: read the values of a few blocks too, and let them say what names and shapes cannot.
        dialect: the file's dialect, as for `load`; None to recognise it.

    Returns:
        A report; `ok` tells whether `load` would succeed.

    Raises:
        FileError: the file cannot be read at all.
        BadArgument: no weight set bears that name, or the file is not written in that dialect.

    Example:
        >>> from anyvit.demo import CHECKPOINT  # a DINOv2 that was trained on digits
        >>> report = inspect(CHECKPOINT)
        >>> report.match.dialect.name, report.match.prefix, report.spec.depth, report.spec.facts["depth"].source
        ('dinov2-chunked', 'teacher.backbone.', 4, 'blocks 0 to 3')
    """
    found = understand(_opened(path), Ask(weights, dialect, values=deep))
    if deep:
        from anyvit.deep import ask

        found = ask(found)
    from anyvit.provenance import provenance

    return replace(found.report(), provenance=provenance(found.checkpoint))


def load(
    path: Source,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    in_chans: int | Channels | None = None,
    num_classes: int | ClassMap | None = None,
    registers: int | None = None,
    cls_token: bool | None = None,
    layer_scale: bool | None = None,
    fuse_norms: bool = False,
    condition: AdaLN | bool | None = None,
    weights: str | None = None,
    dialect: str | Dialect | None = None,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    resample: Any = "source",
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    check: str | None = None,
) -> ViT:
    """A ViT in eval mode that computes what the file's own project computes.

    Arguments:
        path: a file, a folder, or a mapping name → tensor.
        image_size, patch_size: pixels, int or (height, width); None keeps the file's.
        in_chans: channels of the pictures, a number or `Channels`; None keeps the file's.
        num_classes: 0 drops the head, another number than the file's gives a new head of zeros, a `ClassMap` cuts it.
        registers: register tokens; None keeps the file's.
        cls_token: True adds a class token to a model without one, False takes it away; None keeps the file's.
        layer_scale: True adds LayerScale of ones, False folds it into the matrices before it; the function stays.
        fuse_norms: scales and shifts of the norms go into the matrices behind them; the function stays.
        condition: an `AdaLN` to insert modulation that changes nothing at the start.
        weights: which weight set to read ("teacher", "student", "ema", …).
        dialect: the name of the file's dialect, a JSON file with its table, or "draft" for one made of its own names
            (see `draft`); None to recognise it.
        heads: the head count, where nothing in the file says it.
        grid: rows and columns of the stored position table, in tokens.
        facts: what else the file does not say: {"eps": 1e-5, "act": "gelu"}, also pool, mean, std, block_norm,
            tokens_normed.
        resample: "source", a recipe's name, or its parameters.
        device: where to put the model.
        dtype: the type to compute in, or its name; None is float32 whatever the file stores.
        check: when the bytes are looked at for damage: "now", "beside" (while the model is in use already; its first
            forward pass waits for the verdict) or "off"; None is "now" up to 16 MB, "beside" above.

    Raises:
        FileError: the file cannot be read.
        NotAViT: it is no Vision Transformer; the message says what it is.
        Incomplete: a tensor is missing, unexplained or does not fit.
        Ambiguous: the file leaves a question open that changes the function; the message says which argument answers.
        BadArgument: an argument cannot be.

    Example:
        >>> from anyvit.demo import CHECKPOINT
        >>> import torch
        >>> load(CHECKPOINT)(torch.zeros(1, 3, 16, 16)).cls.shape
        torch.Size([1, 128])
    """
    given = locals()
    return _loaded(path, _ask(given), _wanted(given), device, dtype, check)


@uncollected
def _loaded(
    path: Source, ask: Ask, wanted: Wanted, device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None, check: str | None = None, strict: bool = True,
) -> ViT:  # fmt: skip
    """`load`; where not strict, a file whose weights lie otherwise than it says is loaded as it says."""
    from anyvit.torch_io import float_type, require_torch, usable

    require_torch("to build a model")
    from anyvit.adapt import Wanted
    from anyvit.assemble import build_vit

    device, dtype = usable(device), float_type(dtype)
    found = _understood(path, ask, check, strict)
    if wanted != Wanted():
        found = replace(found, tensors=_wide(found.tensors))
    state = _adapted(found, wanted)
    report = _final_report(found, state)
    return build_vit(
        state.tensors, state.spec, report, device=device, dtype=dtype, check=check, source=found.checkpoint
    )


def load_as_named(path: Source) -> ViT:
    """`load` of a file whose weights may lie otherwise than it says, to compare it: that is a finding and raises nothing."""
    from anyvit.adapt import Wanted

    return _loaded(path, Ask(values=True), Wanted(), strict=False)


def load_into(
    module: nn.Module,
    path: Source,
    *,
    to: str | Dialect | None = None,
    weights: str | None = None,
    dialect: str | Dialect | None = None,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    resample: Any = "source",
    condition: AdaLN | bool | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    in_chans: int | Channels | None = None,
    num_classes: int | ClassMap | None = None,
    registers: int | None = None,
    cls_token: bool | None = None,
    init: str | None = None,
    check: str | None = None,
) -> Report:
    """Fill a live module (timm, transformers, dinov2, open_clip, OpenAI CLIP, or your own) from a file.

    Shapes are adapted to the module and reported; a head that the file lacks stays as the module initialised it.

    Arguments:
        module: the module to fill, in place.
        path: a file, a folder, or a mapping name → tensor.
        to: the dialect of the module's names; None to recognise it. "draft", or what `draft` makes, reads names of
            your own.
        weights, dialect, heads, grid, facts, resample, check: what is said of the file, as for `load`.
        condition, image_size, patch_size, in_chans, num_classes, registers, cls_token: changes on purpose, as for
            `load`, beside those that the module's shapes ask for.
        init: how new heads start: None leaves them as the module made them, "zeros" sets them to zero.

    Returns:
        The account of every tensor of the file and of the module.

    Raises:
        FileError: the file cannot be read, or a checksum is wrong. Where a file of more than 256 MB breaks off while it is
            read, the module is filled in part, and the message says so.
        BadArgument: `module` is no module.
        NotAViT: the module's names, or the file's, fit no known layout.
        Incomplete: a backbone tensor of the module would stay unfilled; nothing is changed then.
        Unsayable: the file holds what the module has no place for.

    Example:
        >>> import torch
        >>> from anyvit.demo import CHECKPOINT
        >>> module = load(CHECKPOINT)
        >>> _ = torch.nn.init.zeros_(module.blocks[0].attn.qkv.weight)
        >>> load_into(module, CHECKPOINT).fates["teacher.backbone.blocks.0.0.attn.qkv.weight"]
        'carried'
    """
    given = locals()
    from anyvit.torch_io import require_torch

    require_torch("to fill a module")
    from anyvit.into import fill
    from anyvit.target import recognise_module

    target = recognise_module(module, to)
    ask = replace(_ask(given), beside=target.spec.grid)
    return fill(target, _understood(path, ask, check), _wanted(given), init=init, check=check)


def convert(
    path: Source,
    out: str | Path,
    to: str | Dialect,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    in_chans: int | Channels | None = None,
    num_classes: int | ClassMap | None = None,
    registers: int | None = None,
    cls_token: bool | None = None,
    layer_scale: bool | None = None,
    fuse_norms: bool = False,
    condition: AdaLN | bool | None = None,
    weights: str | None = None,
    dialect: str | Dialect | None = None,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    resample: Any = "source",
    dtype: str | torch.dtype | None = None,
    shard_size: int | None = None,
    chunks: int | None = None,
    check: str | None = None,
    durable: bool = False,
) -> Report:
    """Write a file in another ecosystem's names, layout, container and config.

    Arguments:
        path: a file, a folder, or a mapping name → tensor.
        out: a file (the suffix names the container: .safetensors, .npz, .pth) or, without suffix, a folder.
        to: the name of the target's dialect.
        image_size, patch_size, in_chans, num_classes, registers, cls_token, layer_scale, fuse_norms, condition,
            weights, dialect, heads, grid, facts, resample, check: as for `load`.
        dtype: element type to store ("float16", "bfloat16", …, or torch's); None keeps the file's.
        shard_size: bytes per shard of a folder.
        chunks: block chunks, for `to="dinov2-chunked"`.
        durable: flush to the disk before the file takes its place.

    Raises:
        Unsayable: the target has no words for something the function needs.
        FileError: the file cannot be read, or the target cannot be written; nothing half-written stays.

    Example:
        >>> from anyvit.demo import CHECKPOINT
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     convert(CHECKPOINT, f"{folder}/digits", "hf-dinov2").ok, sorted(p.name for p in Path(folder, "digits").iterdir())
        (True, ['config.json', 'model.safetensors', 'preprocessor_config.json'])
    """
    given = locals()
    from anyvit.export import write_out
    from anyvit.places import path_of

    target = path_of(out)
    wanted = _wanted(given)
    found = _understood(path, _ask(given), check)
    state = _adapted(found, wanted)
    if dtype is None:
        state = replace(state, tensors={n: as_in(found.tensors.get(n), t) for n, t in state.tensors.items()})
    return write_out(
        found,
        state,
        target,
        to,
        dtype=dtype,
        shard_size=shard_size,
        chunks=chunks,
        check=check,
        durable=durable,
        asked=_asked(wanted, weights=weights, heads=heads, grid=grid, facts=facts, dtype=dtype),
    )


def draft(path: Source) -> Dialect:
    """A table for names that no dialect knows (a fork, a module of your own), as far as words and shapes tell.

    `str(…)` shows it; rows whose `why` begins with "check" rest on a convention, and what words and shapes leave open
    has no row. It can be given as `dialect=` of every verb and as `to=` of `load_into` and `convert`.

    Arguments:
        path: a file, a folder, a module, or a mapping name → tensor.

    Raises:
        FileError: the file cannot be read.
        NotAViT: no stack of transformer blocks is found in its names.

    Example:
        >>> import numpy as np
        >>> shapes = {"to_qkv.w": (24, 8), "to_out.w": (8, 8), "ff.1.w": (32, 8), "ff.2.w": (8, 32)}
        >>> names = {f"layer.{i}.{name}": np.zeros(shape) for i in range(2) for name, shape in shapes.items()}
        >>> [rule.ours for rule in draft(names).rules][1:]
        ['blocks.{i}.attn.out.weight', 'blocks.{i}.mlp.fc1.weight', 'blocks.{i}.mlp.fc2.weight']
    """
    from anyvit import discover

    checkpoint = _opened(path)
    found = discover.draft(checkpoint.tensors)
    if not found.rules:
        shown = tuple(checkpoint.tensors)[:6]
        raise NotAViT("no stack of blocks that differ in one number only is found in these names", names=shown)
    return found


def _ask(given: Mapping[str, Any]) -> Ask:
    """What a verb's arguments say of the file."""
    named = {part.name for part in fields(Ask)} & set(given)
    pixels = {name: given.get(name) for name in ("in_chans", "patch_size")}
    return Ask(values=True, pixels=pixels, **{name: given[name] for name in named})


def _wanted(given: Mapping[str, Any]) -> Wanted:
    """What a verb's arguments ask to change."""
    from anyvit.adapt import Wanted

    return Wanted(**{part.name: given[part.name] for part in fields(Wanted) if part.name in given})


def _asked(wanted: Wanted, **more: Any) -> dict[str, Any]:
    """The arguments that a caller gave, for the record of a written file."""
    plain = type(wanted)()
    given = {part.name: getattr(wanted, part.name) for part in fields(wanted)}
    given = {name: value for name, value in given.items() if value is not getattr(plain, name)}
    return {**given, **{name: value for name, value in more.items() if value is not None}}


def _opened(path: Source) -> Checkpoint:
    if isinstance(path, Checkpoint):
        return path
    if hasattr(path, "state_dict") and hasattr(path, "named_modules"):
        from anyvit.module import checkpoint_of

        return checkpoint_of(path)
    if not isinstance(path, (str, Path, Mapping)) and not hasattr(path, "__fspath__"):
        raise BadArgument("a path, a folder or a mapping name → tensor is expected", found=type(path).__name__)
    return containers.open_checkpoint(path)


def _understood(path: Source, ask: Ask, check: str | None, strict: bool = True) -> Reading:
    """A source read and its weights asked, at a bounded cost; what cannot be loaded raises."""
    from anyvit.deep import settle

    found = understand(_opened(path), ask)
    found.report().raise_if_bad()
    found = settle(found, layout=check != "off", strict=strict and ask.dialect is None)
    found.report().raise_if_bad()
    return found


def _wide(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Tensors in the type that adaptations compute in, so that what they make is not rounded to the file's."""
    return {n: astype(t, precise(t.dtype)) if is_floating(t.dtype) else t for n, t in tensors.items()}


def _adapted(found: Reading, wanted: Wanted) -> Adapted:
    from anyvit.adapt import adapt

    assert found.spec is not None
    return adapt(found.tensors, found.spec, wanted)


def _final_report(found: Reading, state: Adapted) -> Report:
    report = found.report().adding(state.findings)
    if state.spec.condition is None:
        report = replace(report, findings=tuple(f for f in report.findings if f.kind != "condition"))
    return replace(report, spec=state.spec, trails=trails(state.tensors, found.tensors))


def as_in(before: Lazy | None, tensor: Lazy) -> Lazy:
    """A tensor in the element type that the file stored it in."""
    return tensor if before is None else astype(tensor, before.dtype)


def trails(tensors: Mapping[str, Lazy], before: Mapping[str, Lazy]) -> tuple[Trail, ...]:
    """Where each tensor comes from, told from the tensors themselves."""
    out = []
    for name, tensor in tensors.items():
        if not tensor.origin:
            fate = "new"
        elif (name in before and before[name] is tensor) or name not in before:
            fate = "carried"
        else:
            fate = "resized" if before[name].shape != tensor.shape else "carried"
        out.append(Trail(name, tensor.origin, fate))
    return tuple(out)
