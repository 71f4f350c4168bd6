"""Position tables and patch kernels at another size, each the way its own source does it.

A model that was trained with one recipe and runs with another is off by several per cent of its table's size, silently.
So a recipe is a row of `RECIPES` with its source, and `positions` repeats the source's own arithmetic: torch's
`interpolate` where the source calls it, the weights of scipy's `zoom` and of jax's `image.resize` where it calls those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from anyvit.errors import BadArgument
from anyvit.relpos import RELATIVE, SINCOS, decomposed, relative_table, sincos2d, sincos_author
from anyvit.resample_kernels import check_array, contiguous, floor_size, is_tensor, matrix, separable, zoom_matrix
from anyvit.resample_recipes import RECIPES, Resample, formula, resolve

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "KERNELS", "RECIPES", "RELATIVE", "SINCOS", "Resample", "caveat", "decomposed", "formula", "kernel", "markdown",
    "positions", "relative_table", "resolve", "sincos2d", "sincos_author",
]  # fmt: skip

Array = TypeVar("Array")
Size = tuple[int, int]

KERNELS: Mapping[str, tuple[str, bool, bool, bool, str]] = MappingProxyType({
    "pinv": ("bicubic", True, False, True, "timm 1.0.31: timm/layers/patch_embed.py resample_patch_embed"),
    "timm": ("bicubic", True, False, True, "timm 1.0.31: timm/layers/patch_embed.py resample_patch_embed"),
    "timm-npz": ("bilinear", False, False, True, "timm 1.0.31: timm/models/vision_transformer.py _load_weights"),
    "flexivit": ("bilinear", False, False, True,
                 "google-research/big_vision@0127fb6: big_vision/models/proj/flexi/vit.py resample_patchemb"),
    "eva": ("bicubic", False, False, False, "baaivision/EVA@5623d08: EVA-CLIP/rei/eva_clip/utils.py"),
    "radio": ("bicubic", False, True, False, "NVlabs/RADIO@c0f3701: radio/vit_patch_generator.py ViTPatchLinear"),
    "bicubic": ("bicubic", False, False, False, "torch.nn.functional.interpolate of the kernel as a picture"),
    "bilinear": ("bilinear", False, False, False, "torch.nn.functional.interpolate of the kernel as a picture"),
})  # fmt: skip
"""Ways to resize a patch kernel: name → (mode, antialias, align_corners, whether by pseudo-inverse, source)."""


def positions(table: Array, old: Size, new: Size, recipe: str | Resample | Mapping[str, Any]) -> Array:
    """A position table for another grid.

    Arguments:
        table: (h·w, dim), grid rows only (no cls, no registers), row-major; numpy or torch.
        old: (h, w) of the table in patches.
        new: (h', w') wanted, in patches.
        recipe: see `resolve`.

    Returns:
        (h'·w', dim) of the same kind and element type, computed in float32 or wider. `table` itself where the grid is
        the same; the grid decides, not the count: 2×8 → 4×4 is resized.

    Raises:
        BadArgument: a table that does not fit its grid, a grid without patches, an unknown recipe.

    Example:
        >>> import numpy as np
        >>> positions(np.ones((16, 8), "float16"), (4, 4), (2, 6), "google").shape
        (12, 8)

    Source: the recipe's.
    """
    recipe = resolve(recipe)
    if len(old) != 2 or len(new) != 2 or min(*old, *new) < 1:
        raise BadArgument("a grid is (rows, columns), both at least 1", found=f"{old} → {new}")
    check_array(table, "rows dim", old[0] * old[1])
    if tuple(old) == tuple(new):
        return table
    if recipe.kind in ("torch", "factor", "square"):
        native = _torch_positions(table, old, new, recipe)
        if native is not None:
            return contiguous(native)
    from einops import rearrange

    rows, columns = (_weights(recipe, *pair) for pair in zip(old, _target(recipe, new), strict=True))
    array: Any = table
    grid = separable(rearrange(array, "(h w) d -> h w d", h=old[0]), rows, columns)
    return contiguous(rearrange(grid[: new[0], : new[1]], "h w d -> (h w) d"))


def kernel(weight: Array, new: Size, method: str = "pinv") -> Array:
    """A patch kernel for another patch size.

    The pseudo-inverse ways give the kernel whose response to a resized patch is the old kernel's response to the patch
    itself, as nearly as that can be had (exactly when the patch grows).

    Arguments:
        weight: (out, in, h, w), numpy or torch.
        new: (h', w') in pixels.
        method: a key of `KERNELS`.

    Returns:
        (out, in, h', w') of the same kind and element type, computed in float64; `weight` itself where the size is the
        same.

    Raises:
        BadArgument: an unknown method, another shape.

    Example:
        >>> import numpy as np
        >>> kernel(np.ones((8, 3, 16, 16), "float32"), (14, 14)).shape
        (8, 3, 14, 14)

    Source: L. Beyer et al., FlexiViT (2022), https://arxiv.org/abs/2212.08013, section 3.4; `KERNELS` names the
    variants'.
    """
    import numpy as np
    from einops import rearrange

    if method not in KERNELS:
        raise BadArgument(f"no way to resize a patch kernel is called {method!r}", expected=", ".join(KERNELS))
    check_array(weight, "out in height width")
    if len(new) != 2 or min(new) < 1:
        raise BadArgument("a patch size is (height, width) in pixels, both at least 1", found=new)
    array: Any = weight
    old = tuple(array.shape[2:])
    if old == tuple(new):
        return weight
    mode, antialias, align_corners, inverse, _ = KERNELS[method]
    weights = [
        matrix(before, after, mode, antialias=antialias, align_corners=align_corners)
        for before, after in zip(old, new, strict=True)
    ]
    if inverse:
        # the pseudo-inverse of a Kronecker product is the Kronecker product of the pseudo-inverses
        weights = [np.linalg.pinv(matrix_.T) for matrix_ in weights]
    grid = separable(rearrange(array, "o i h w -> h w (o i)"), weights[0], weights[1])
    return contiguous(rearrange(grid, "h w (o i) -> o i h w", o=array.shape[0]))


def caveat(recipe: str | Resample | Mapping[str, Any], old: Size, new: Size) -> str | None:
    """What a person should know of a recipe at these sizes; None when it does what its source does and no more.

    Arguments:
        recipe: see `resolve`.
        old, new: (rows, columns) in patches.

    Returns:
        One sentence or None.

    Example:
        >>> caveat("google", (28, 28), (14, 28)).split(";")[0]
        'scipy.ndimage.zoom rounds past the last row here and writes zeros there, as the source does'
    """
    recipe = resolve(recipe)
    if tuple(old) == tuple(new):
        return None
    if recipe.assumed:
        return "the source resizes no position table; bicubic without antialiasing is assumed"
    pairs = list(zip(("row", "column"), old, new, strict=True))
    if recipe.kind == "zoom":
        lost = [name for name, before, after in pairs if not zoom_matrix(before, after)[-1].any()]
        if lost:
            return (
                f"scipy.ndimage.zoom rounds past the last {' and '.join(lost)} here and writes zeros there, as the "
                'source does; resample={"mode": "bilinear", "align_corners": True} is the same without the zeros'
            )
    short = [
        f"{floor_size(before, factor)} {name}s instead of {after}"
        for (name, before, after), factor in zip(pairs, _factors(recipe, old, new) or (), strict=False)
        if floor_size(before, factor) != after
    ]
    if short:
        return f"the source's own code fails at this size: its scale factor gives {' and '.join(short)}"
    return None


def markdown() -> str:
    """The recipes as the tables of docs/resampling.md."""
    head = ["| recipe | used by | position table | source |", "|---|---|---|---|"]
    rows = [f"| `{r.name}` | {r.used_by} | `{formula(r)}` | {r.source} |" for r in RECIPES.values()]
    kernel_head = ["| method | patch kernel | source |", "|---|---|---|"]
    kernels = []
    for name, (mode, antialias, align_corners, inverse, source) in KERNELS.items():
        flags = (", antialias" if antialias else "") + (", align_corners" if align_corners else "")
        what = f"pseudo-inverse of the {mode}{flags} matrix" if inverse else f"interpolate({mode}{flags})"
        kernels.append(f"| `{name}` | {what} | {source} |")
    relative_head = ["| method | relative bias table | source |", "|---|---|---|"]
    relative = [f"| `{name}` | {what} | {source} |" for name, (_, what, source) in RELATIVE.items()]
    return "\n".join([*head, *rows, "", *kernel_head, *kernels, "", *relative_head, *relative]) + "\n"


def _torch_positions(table: Any, old: Size, new: Size, recipe: Resample) -> Any:
    """The table by torch's own code; None where torch is absent or would give another size."""
    try:
        import torch
    except ImportError:
        return None
    target = _target(recipe, new)
    factors = _factors(recipe, old, new)
    if factors and tuple(map(floor_size, old, factors)) != tuple(new):
        return None
    if recipe.antialias and target[1] == 1:
        # torch 2.13 is wrong here where the layout is ambiguous (one column, one channel)
        return None
    tensor = table if is_tensor(table) else torch.from_numpy(_writable(table))
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    picture = wide.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, dim, h, w)
    to: dict[str, Any] = {"scale_factor": factors} if factors else {"size": target}
    picture = torch.nn.functional.interpolate(
        picture, mode=recipe.mode, align_corners=recipe.align_corners, antialias=recipe.antialias, **to
    )
    rows = picture[:, :, : new[0], : new[1]].permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)
    return rows.to(table.dtype) if is_tensor(table) else rows.numpy().astype(table.dtype)


def _weights(recipe: Resample, old: int, new: int) -> np.ndarray:
    if recipe.kind == "zoom":
        return zoom_matrix(old, new)
    factors = _factors(recipe, (old, old), (new, new))
    return matrix(
        old,
        new,
        recipe.mode,
        antialias=recipe.antialias,
        align_corners=recipe.align_corners,
        factor=factors[0] if factors else None,
    )


def _target(recipe: Resample, new: Size) -> Size:
    return (max(new), max(new)) if recipe.kind == "square" else (new[0], new[1])


def _factors(recipe: Resample, old: Size, new: Size) -> tuple[float, float] | None:
    """What the source gives torch as scale factors; None where it gives the size."""
    if recipe.offset and recipe.kind in ("torch", "factor"):
        return ((new[0] + recipe.offset) / old[0], (new[1] + recipe.offset) / old[1])
    if recipe.kind == "factor":
        # MSN's √(n/N), n and N counted in patches: not the same float as the quotient of the sides
        return (math.sqrt(new[0] ** 2 / old[0] ** 2), math.sqrt(new[1] ** 2 / old[1] ** 2))
    return None


def _writable(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.array(array, np.float64 if array.dtype == np.float64 else np.float32, order="C")
