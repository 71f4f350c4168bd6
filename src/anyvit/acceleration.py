"""Faster linear layers on a CPU: weights packed once for oneDNN, layer by layer where a short measurement says it pays.

Most of a ViT's time on a CPU is matrix products with constant weights. Given as plain tensors these are laid out anew
in every call, or go to a library that is slow on the processor at hand; packed once, in the blocks that oneDNN's
kernels read, they are not. The packed copy serves inference alone: whatever trains, moves, saves or compiles the
module sees plain `nn.Linear` weights.

Source: torch/_inductor/mkldnn_lowerings.py and torch/_inductor/fx_passes/mkldnn_fusion.py, which call the same operators
when torch.compile freezes a model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyvit.errors import BadArgument

M = TypeVar("M", bound=nn.Module)
Kernel = Callable[[Tensor], Tensor]
"""A linear layer's function, weights inside."""

ROWS = 256
"""Tokens of the pictures that layers are measured with: about those of one picture of 224 pixels in patches of 14."""
REPEATS = 5
WORTH = 0.95
"""A packed layer is taken where it needs less than this fraction of the plain one's time."""
SIDE = 224
"""Pixels of a picture's side where a module does not tell."""
OWN = ("precision", "_type", "_kernel", "_stamp")
"""Attributes that a packed layer has on top of a plain one."""


def _same(weight: Tensor, bias: Tensor | None) -> Kernel:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _bfloat16(weight: Tensor, bias: Tensor | None) -> Kernel:
    run = _same(weight.bfloat16(), None if bias is None else bias.bfloat16())
    return lambda x: run(x.bfloat16()).to(x.dtype)


def _int8(weight: Tensor, bias: Tensor | None) -> Kernel:
    """Weights as one scale a row and 8 bits an element; a call's inputs as one scale, one zero point and 8 bits."""
    scales = (weight.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)  # (out,)
    whole = torch.round(weight.float() / scales[:, None]).to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    bias = None if bias is None else bias.float()

    def run(x: Tensor) -> Tensor:
        low, high = (float(end) for end in torch.aminmax(x))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, torch.finfo(torch.float32).tiny)
        zero = round(-low / scale)
        levels = torch.round(x.float() * (1 / scale)).add_(zero).clamp_(0, 255).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            levels, scale, zero, packed, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.to(x.dtype)

    return run


MAKERS: dict[str, Callable[[Tensor, Tensor | None], Kernel]] = {"float32": _same, "bfloat16": _bfloat16, "int8": _int8}
"""Precision → what packs a weight for it; "float32" keeps the layer's own element type."""


class PackedLinear(nn.Linear):
    """A linear layer that computes from packed weights where nothing but inference is going on.

    Instances are made by `accelerate` from existing layers, never constructed.
    """

    precision: str
    _type: torch.dtype
    _kernel: Kernel | None
    _stamp: tuple[Any, ...] | None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.compiler.is_compiling() or not self.applies(x):
            return F.linear(x, self.weight, self.bias)
        return self.kernel()(x)  # (…, out)

    def applies(self, x: Tensor) -> bool:
        """Whether this call is plain inference on the CPU, in the element type that was measured."""
        weight = self.weight
        return not (
            self.training
            or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
            or type(x) is not Tensor
            or not x.dtype == weight.dtype == self._type
            or x.device.type != "cpu"
            or weight.device.type != "cpu"
            or not x.numel()
            or x.is_mkldnn
            or torch.jit.is_tracing()  # pyright: ignore
            or torch.is_autocast_enabled("cpu")
            or torch._C._functorch.maybe_get_level(x) > 0  # pyright: ignore
        )

    def kernel(self) -> Kernel:
        """The function over the weights as they are now; packed again where they were changed."""
        stamp = tuple(_stamp(tensor) for tensor in (self.weight, self.bias))
        if self._kernel is None or stamp != self._stamp:
            bias = None if self.bias is None else self.bias.detach()
            self._kernel, self._stamp = MAKERS[self.precision](self.weight.detach(), bias), stamp
        return self._kernel

    def forget(self) -> None:
        """Frees the packed copy; it is made again when it is needed."""
        self._kernel = self._stamp = None

    def train(self, mode: bool = True) -> PackedLinear:
        """Sets the mode; training frees the packed copy."""
        if mode:
            self.forget()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PackedLinear:
        self.forget()
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernel": None, "_stamp": None}


def _stamp(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """Tells whether a tensor was replaced or written to since; a write through `.data` leaves no trace."""
    if tensor is None:
        return None
    return tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version


@dataclass
class Acceleration(Generic[M]):
    """What `accelerate` did to a module.

    Arguments:
        module: the module.
        precision: what the packed layers compute in.
        layers: those that compute from packed weights.
        plain: how many linear layers were left as they are, because it would not pay.
        gain: how many times faster the packed layers are together, as measured; None where there are none.
        error: ‖packed − plain‖ / ‖plain‖ of the module's outputs, the largest of them; None where it was not measured.
        why: what kept layers plain, where it is more than speed.
    """

    module: M
    precision: str
    layers: list[PackedLinear] = field(repr=False)
    plain: int
    gain: float | None = None
    error: float | None = None
    why: str = ""

    def restore(self) -> M:
        """The module as it was, bit for bit; packed copies are freed."""
        for layer in self.layers:
            for name in OWN:
                layer.__dict__.pop(name, None)
            layer.__class__ = nn.Linear  # type: ignore[assignment]
        self.layers = []
        for name in ("acceleration", "restore"):
            self.module.__dict__.pop(name, None)
        return self.module

    def __str__(self) -> str:
        text = f"{len(self.layers)} of {len(self.layers) + self.plain} linear layers packed ({self.precision})"
        text += f", {self.gain:.2f} × as fast" if self.gain else ""
        text += f", outputs differ by {self.error:.1e}" if self.error is not None else ""
        return text + (f"; {self.why}" if self.why else "")


def accelerate(module: M, *, precision: str = "float32", pixels: Tensor | None = None) -> M:
    """Pack a module's linear layers for inference on the CPU, in place, where it pays on this machine.

    Any module will do: ours, timm's, Hugging Face's, your own. One layer of each size is measured, packed against
    plain, in some tenths of a second. Packed weights serve calls in eval mode without gradients; every other call, and
    `state_dict`, `to`, `train`, copies and torch.compile, see the plain weights. The packed copies need as much memory
    again as the weights they are made from. Weights written through `.data` are not noticed: call `accelerate` again.

    Arguments:
        module: the module, changed in place.
        precision: "float32" keeps the layers' own element type (outputs agree to about 1e-6); "bfloat16" and "int8"
            (8 bits a weight and an input, scales found at every call) are faster where the processor has instructions
            for them, and less exact: see `module.acceleration.error`.
        pixels: (B, C, H, W), what `error` is measured with; None makes a random picture for a precision that is less
            exact, where the module tells the size it takes.

    Returns:
        The same module, with `module.acceleration` (what was done, an `Acceleration`) and `module.restore()`.

    Raises:
        BadArgument: an unknown precision.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval()
        >>> x = torch.ones(1, 5, 64)
        >>> with torch.no_grad():
        ...     before = model(x)
        ...     torch.allclose(accelerate(model)(x), before, atol=1e-5)
        True
        >>> model.restore() is model
        True
    """
    if precision not in MAKERS:
        raise BadArgument(f"no precision is called {precision!r}", expected=", ".join(MAKERS))
    if isinstance(earlier := module.__dict__.get("acceleration"), Acceleration):
        earlier.restore()
    if "_packs" in module.__dict__:
        module.__dict__["_packs"] = False  # whoever asks, or restores, decides from here on
    candidates = list(_linears(module))
    chosen, gain, why = _worthwhile(candidates, precision)
    if pixels is None and precision != "float32" and chosen:
        pixels = _picture(module)
    before = _outputs(module, pixels)
    for layer in chosen:  # another thread may be in it: what it will need is there before it is another class
        layer.__dict__.update(precision=precision, _type=layer.weight.dtype, _kernel=None, _stamp=None)
        layer.__class__ = PackedLinear  # type: ignore[assignment]
    packed: list[Any] = chosen
    with torch.no_grad():
        for layer in packed:
            if not layer.training:
                layer.kernel()
    done = Acceleration(module, precision, packed, len(candidates) - len(chosen), gain, None, why)
    done.error = _error(before, _outputs(module, pixels))
    module.__dict__["acceleration"] = done
    if not hasattr(module, "restore"):
        module.__dict__["restore"] = partial(_restore, module)
    return module


LEAST = 128 << 20
"""Bytes of linear weights from which a loaded model is packed without being asked: a ViT-B is, a ViT-S is not, which would
save hundredths of a second and no longer compute the very bits that its own project does."""
_ONE_AT_A_TIME = Lock()


def accelerate_when_used(module: nn.Module) -> bool:
    """`accelerate` at a model's first inference on the CPU, where its weights are large and memory has room for a copy.

    Returns:
        Whether it is settled; not where this call is no plain inference, and a later one may be.
    """
    if module.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():  # pyright: ignore
        return False
    with _ONE_AT_A_TIME:
        size = sum(layer.weight.nbytes for layer in _linears(module))
        if "acceleration" not in module.__dict__ and LEAST <= size <= _memory() // 4:
            accelerate(module)
    return True


def _memory() -> int:
    """Bytes of memory that this machine has; a little where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def _restore(module: M) -> M:
    return module.__dict__["acceleration"].restore()


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    """Plain linear layers on the CPU; subclasses and parametrised ones have a reason to be what they are."""
    for layer in module.modules():
        if type(layer) is nn.Linear and isinstance(layer._parameters.get("weight"), nn.Parameter):
            weight = layer.weight
            hooked = layer._forward_pre_hooks or layer._backward_pre_hooks
            if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and not hooked:
                yield layer


def _worthwhile(layers: Sequence[nn.Linear], precision: str) -> tuple[list[nn.Linear], float | None, str]:
    """The layers that are faster packed, by how much together, and what the processor cannot do."""
    times: dict[tuple[Any, ...], tuple[float, float]] = {}
    why = "" if torch.backends.mkldnn.is_available() else "this build of torch has no oneDNN"
    for layer in layers if not why else ():
        if _size(layer) not in times:
            try:
                times[_size(layer)] = _measure(layer, precision)
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                why = f"not on this processor: {str(error).splitlines()[0][:160]}"
                break
    chosen = [x for x in layers if _size(x) in times and times[_size(x)][1] < WORTH * times[_size(x)][0]]
    if not chosen:
        return [], None, why
    plain, packed = (sum(times[_size(layer)][n] for layer in chosen) for n in (0, 1))
    return chosen, plain / packed, why


def _size(layer: nn.Linear) -> tuple[Any, ...]:
    return layer.in_features, layer.out_features, layer.bias is None, layer.weight.dtype


_MEASURED: dict[tuple[Any, ...], tuple[float, float]] = {}
"""What `_measure` found; so all models of a process agree, to the last bit of their outputs."""


def _measure(layer: nn.Linear, precision: str) -> tuple[float, float]:
    """Seconds of one call, plain and packed: the least of a few, taken in turns; once in a process for each size."""
    key = (*_size(layer), precision, torch.get_num_threads())
    if key not in _MEASURED:
        _MEASURED[key] = _raced(layer, precision)
    return _MEASURED[key]


def _raced(layer: nn.Linear, precision: str) -> tuple[float, float]:
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    x = torch.ones(ROWS, layer.in_features, dtype=weight.dtype)
    with torch.no_grad():
        ways: list[Kernel] = [lambda x: F.linear(x, weight, bias), MAKERS[precision](weight, bias)]
        best = [float("inf"), float("inf")]
        for turn in range(REPEATS + 1):
            for n, run in enumerate(ways):
                start = time.perf_counter()
                run(x)
                if turn:
                    best[n] = min(best[n], time.perf_counter() - start)
    return best[0], best[1]


def _picture(module: nn.Module) -> Tensor | None:
    """A random picture that a module takes; None where it cannot be told."""
    kernel = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if kernel is None:
        return None
    parts = (getattr(module, "config", None), getattr(module, "spec", None), *module.modules())
    told = [size for part in parts for name in ("image_size", "img_size") if (size := getattr(part, name, None))]
    sizes = [tuple(size) if isinstance(size, (tuple, list)) else (size, size) for size in told]
    near = tuple(-(-SIDE // side) * side for side in kernel.kernel_size)
    noise = torch.Generator().manual_seed(0)
    for size in dict.fromkeys((*sizes, near)):
        pixels = torch.randn(1, kernel.in_channels, *size, generator=noise).to(kernel.weight.dtype)
        try:
            _outputs(module, pixels)
        except Exception:  # whatever a foreign module raises at a picture of the wrong size
            continue
        return pixels
    return None


def _outputs(module: nn.Module, pixels: Tensor | None) -> list[Tensor]:
    if pixels is None or module.training:
        return []
    with torch.no_grad():
        return [tensor.double() for tensor in _tensors(module(pixels)) if tensor.is_floating_point()]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))


def _error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    errors = [float((b - a).norm() / a.norm()) for a, b in zip(before, after, strict=True) if a.norm() > 0]
    return max(errors, default=None)


__all__ = ["Acceleration", "PackedLinear", "accelerate"]
