"""Running a side and watching its layers: our ViT step by step, any other module by hooks that are always removed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from anyvit.errors import AnyvitError, BadArgument
from anyvit.model import ViT
from anyvit.sides import Side, device_of, named_parts
from anyvit.spec import Spec

OUTPUTS = ("tokens", "pooled", "logits", "embedding")
"""What is compared after the blocks, in the order of computing."""

CONDITIONS = ("adaln_input", "condition", "cond", "modulation")
"""Arguments by which modules take an embedded condition (B, D).

Source: github.com/TencentARC/InstantMesh@08822c5:src/models/encoder/dino.py (adaln_input)
"""

Trace = dict[str, Tensor]
"""Layer → values on the CPU: "embed", "blocks.0" …, then OUTPUTS; "normed" are our tokens after the final norm."""


@torch.no_grad()
def run(side: Side, pixels: Tensor, condition: Tensor | None) -> Trace:
    """Every layer of a side for some pictures.

    Arguments:
        side: what to run; it is put in eval mode and back.
        pixels: (B, C, H, W).
        condition: (B, D) embedded; None runs a conditioned model without modulation.

    Raises:
        BadArgument: the module cannot take pictures of this size.
    """
    device = device_of(side.module)
    pixels = pixels.to(device)
    condition = None if condition is None else condition.to(device)
    with evaluating(side.module), full_precision(device):
        if isinstance(side.module, ViT):
            return run_vit(side.module, pixels, condition)
        return _run_foreign(side, pixels, condition)


@torch.no_grad()
def run_again(side: Side, pixels: Tensor, condition: Tensor | None) -> Trace:
    """The same function with sums in another order: one picture at a time, attention written out."""
    parts = []
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(len(pixels)):
            one = None if condition is None else condition[i : i + 1]
            parts.append(run(side, pixels[i : i + 1], one))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions in float32 on a GPU, where torch rounds them to TF32 (11 bits) by default.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, TensorFloat-32.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in eval mode, each part put back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def run_vit(vit: ViT, pixels: Tensor, condition: Tensor | None = None, last: str = "") -> Trace:
    """Every layer of our ViT, up to `last` where that is given."""
    if vit.spec.condition and condition is None:
        x, grid = vit.embed(pixels)
        places = vit.places(grid, x.device)
    else:
        x, places, condition = vit.start(pixels, condition)
    trace, seen = {"embed": _kept(x)}, [x]
    for i, (block, place) in enumerate(zip(vit.blocks, places, strict=True)):
        if last in trace:
            return trace
        x = block(x, place, condition)  # (B, N, D)
        trace[f"blocks.{i}"] = _kept(x)
        seen = [*seen, x][-vit.spec.pool_layers :]
    if last in trace:
        return trace
    out = vit.finish(x, places[0].grid, seen[:-1])
    found = {name: getattr(out, name) for name in OUTPUTS}
    trace.update({name: _kept(value) for name, value in found.items() if value is not None})
    trace["normed"] = _kept(vit.normed(x))
    return trace


def _kept(x: Tensor) -> Tensor:
    """A copy on the CPU in float32 or finer: what follows may change the original in place."""
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32), copy=True)


def _run_foreign(side: Side, pixels: Tensor, condition: Tensor | None) -> Trace:
    seen: Trace = {}
    batch = len(pixels)
    sequence_first = any(getattr(part, "batch_first", True) is False for part in side.module.modules())

    def keep(name: str, value: Any) -> None:
        tokens = as_tokens(value, batch, sequence_first)
        if tokens is not None:
            seen[name] = _kept(tokens)

    with ExitStack() as stack:
        for handle in _hooks(side, keep):
            stack.callback(handle.remove)
        stack.enter_context(unmasked(side.module))
        kind = next((p.dtype for p in side.module.parameters() if p.is_floating_point()), torch.float32)
        cast = None if condition is None else condition.to(kind)
        try:
            outputs = call(side.module, side.prefix, side.spec, pixels.to(kind), cast)
        except AnyvitError:
            raise
        except Exception as error:
            raise BadArgument(
                f"{side.title} ({side.name}) cannot be run on these pictures",
                found=f"pixels {tuple(pixels.shape)}: {type(error).__name__}: {error}",
                remedy="anyvit.verify(a, b, image_size=…) with the size that the module takes, or images=…",
            ) from error
    normed = seen.pop("norm", None)
    trace = dict(sorted(seen.items(), key=lambda item: _place(item[0])))
    if normed is not None and "tokens" not in outputs and normed.shape == next(iter(trace.values()), normed).shape:
        trace["tokens"] = normed
    trace.update({name: _kept(value) for name, value in outputs.items()})
    return trace


def _place(layer: str) -> int:
    return int(layer.partition(".")[2]) if layer.startswith("blocks.") else -1


def _hooks(side: Side, keep: Callable[[str, Any], None]) -> Iterator[Any]:
    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        values = (*args, *kwargs.values())
        keep("embed", next((v for v in values if isinstance(v, Tensor) and v.ndim >= 3), None))

    def leaving(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: keep(name, output)

    if side.blocks:
        yield side.blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
    for i, block in enumerate(side.blocks):
        yield block.register_forward_hook(leaving(f"blocks.{i}"))
    if side.norm is not None:
        yield side.norm.register_forward_hook(leaving("norm"))


def as_tokens(value: Any, batch: int, sequence_first: bool = False) -> Tensor | None:
    """Tokens (B, N, D) of what a layer gave: the first of a tuple, (N, B, D) turned round, (B, h, w, D) as one row.

    Example:
        >>> as_tokens((torch.zeros(5, 2, 8),), 2).shape, as_tokens(torch.zeros(2, 3, 4, 8), 2).shape
        (torch.Size([2, 5, 8]), torch.Size([2, 12, 8]))
    """
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    if not isinstance(value, Tensor) or value.ndim not in (3, 4):
        return None
    if value.ndim == 4:
        return value.flatten(1, 2) if len(value) == batch else None
    turned = value.shape[1] == batch and (len(value) != batch or sequence_first)
    value = value.transpose(0, 1) if turned else value
    return value if len(value) == batch else None


@contextmanager
def unmasked(module: nn.Module) -> Iterator[None]:
    """A masked autoencoder that sees all patches in order: its random masking is left out while this lasts."""

    def all_of(x: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        return x, torch.zeros_like(order), order

    parts = [part for part in module.modules() if callable(getattr(part, "random_masking", None))]
    for part in parts:
        part.random_masking = all_of  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in parts:
            del part.random_masking


def takes(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The arguments of a module's forward."""
    return inspect.signature(module.forward).parameters


def takes_condition(side: Side) -> bool:
    """Whether a side can be given an embedded condition."""
    module = named_parts(side.module).get(side.prefix.rstrip("."), side.module)
    own = isinstance(side.module, ViT) and bool(side.module.spec.condition)
    return own or any(name in takes(part) for part in (side.module, module) for name in CONDITIONS)


def call(
    module: nn.Module, prefix: str, spec: Spec | None, pixels: Tensor, condition: Tensor | None
) -> dict[str, Tensor]:
    """The outputs of a module of any ecosystem for pictures, by the names of OUTPUTS.

    Arguments:
        module: open_clip's or OpenAI's CLIP, transformers', timm's, dinov2's, or anybody's that takes pictures.
        prefix: where the image tower lies in it; it is run alone where the module does not take pictures by itself.
        spec: its architecture.
        pixels: (B, C, H, W).
        condition: (B, D) or None.
    """
    names = takes(module)
    extra = {name: condition for name in CONDITIONS if condition is not None and name in names}
    whole: Any = module
    if callable(getattr(module, "encode_image", None)):
        return sort_outputs(whole.encode_image(pixels), spec)
    if "pixel_values" in names:
        return _call_transformers(module, spec, pixels, extra)
    if prefix and not hasattr(module, "trunk"):
        return call(named_parts(module)[prefix.rstrip(".")], "", spec, pixels, condition)
    if callable(getattr(module, "forward_features", None)):
        return _call_features(module, spec, pixels, extra)
    if callable(getattr(module, "forward_encoder", None)):
        return sort_outputs(whole.forward_encoder(pixels, 0.0), spec)
    return sort_outputs(module(pixels, **extra), spec)


def _call_transformers(module: Any, spec: Spec | None, pixels: Tensor, extra: Mapping[str, Any]) -> dict[str, Tensor]:
    target: Callable[..., Any] = module
    if "input_ids" in takes(module):
        target = module.get_image_features
    names = inspect.signature(target.forward if target is module else target).parameters
    native = spec is None or spec.image_size is None or pixels.shape[-2:] == _pair(spec.image_size)
    if not native and "interpolate_pos_encoding" in names:
        extra = {**extra, "interpolate_pos_encoding": True}
    found = target(pixel_values=pixels, **extra)
    if not isinstance(found, Mapping):
        return sort_outputs(found, spec)
    pairs = {"last_hidden_state": "tokens", "pooler_output": "pooled", "logits": "logits", "image_embeds": "embedding"}
    out = {ours: found[theirs] for theirs, ours in pairs.items() if isinstance(found.get(theirs), Tensor)}
    if target is not module and spec is not None and spec.projection_dim and "pooled" in out:
        out["embedding"] = out.pop("pooled")
    return {name: value for name, value in out.items() if value.ndim == (3 if name == "tokens" else 2)}


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _call_features(module: Any, spec: Spec | None, pixels: Tensor, extra: Mapping[str, Any]) -> dict[str, Tensor]:
    found = module.forward_features(pixels, **extra)
    if isinstance(found, Mapping) and "x_norm_patchtokens" in found:
        cls = found["x_norm_clstoken"]
        registers = found.get("x_norm_regtokens", found.get("x_storage_tokens"))
        parts = [cls.unsqueeze(1), *([] if registers is None else [registers]), found["x_norm_patchtokens"]]
        return {"tokens": torch.cat(parts, 1), "pooled": cls}
    out: dict[str, Any] = {**sort_outputs(found, spec)}
    head = getattr(module, "forward_head", None)
    if callable(head) and "tokens" in out:
        pooled, logits = head(found, pre_logits=True), head(found)
        out["pooled"] = pooled
        if spec is not None and spec.num_classes and isinstance(logits, Tensor):
            out["logits"] = logits
    return {name: value for name, value in out.items() if isinstance(value, Tensor) and value.ndim in (2, 3)}


def sort_outputs(found: Any, spec: Spec | None) -> dict[str, Tensor]:
    """What a module returned, by the names of OUTPUTS: tokens are (B, N, D), vectors are told apart by their width."""
    if isinstance(found, (tuple, list)):
        return sort_outputs(found[0], spec) if found else {}
    if not isinstance(found, Tensor):
        return {}
    if found.ndim == 3:
        return {"tokens": found}
    if found.ndim != 2:
        return {}
    width = found.shape[1]
    if spec is not None and spec.num_classes == width:
        return {"logits": found}
    return {"embedding" if spec is not None and spec.projection_dim == width else "pooled": found}
