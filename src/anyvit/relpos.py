"""Relative and computed positions at another size: BEiT's bias tables, SAM's decomposed ones, sin-cos tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from anyvit.errors import BadArgument
from anyvit.resample_kernels import (
    check_array,
    contiguous,
    is_tensor,
    matrix,
    piecewise_matrix,
    separable,
    spline_matrix,
)

if TYPE_CHECKING:
    import numpy as np

Array = TypeVar("Array")
Size = tuple[int, int]


def relative_table(
    table: Array, old_window: Size, new_window: Size, method: str = "beit-geometric", extra: int = 3
) -> Array:
    """A relative position bias table for another window; the trailing rows that concern the cls token stay.

    Arguments:
        table: ((2h-1)·(2w-1) + extra, heads), numpy or torch, rows first.
        old_window: (h, w) in patches.
        new_window: (h', w') in patches.
        method: "beit-geometric" as BEiT, BEiT v2, iBOT's fork and mmpretrain (cubic spline over offsets that grow
            geometrically), "timm" (the same offsets, linear), "hf" (bilinear, even offsets).
        extra: trailing rows that are kept: 3 in BEiT (cls to patch, patch to cls, cls to cls), 0 without cls.

    Returns:
        ((2h'-1)·(2w'-1) + extra, heads) of the same kind and element type; `table` itself where the window is the same.

    Raises:
        BadArgument: an unknown method, or a table that does not fit the window.

    Example:
        >>> import numpy as np
        >>> relative_table(np.zeros((7 * 7 + 3, 12), "float32"), (4, 4), (6, 5)).shape
        (102, 12)

    Source: `RELATIVE` names one a method.
    """
    if method not in RELATIVE:
        raise BadArgument(f"no way to resize relative positions is called {method!r}", expected=", ".join(RELATIVE))
    old, new = (tuple(2 * side - 1 for side in window) for window in (old_window, new_window))
    check_array(table, "rows heads", old[0] * old[1] + extra)
    if old == new:
        return table
    from einops import rearrange

    array: Any = table
    weights, _, _ = RELATIVE[method]
    grid = rearrange(array[: old[0] * old[1]], "(h w) n -> h w n", h=old[0])
    grid = separable(grid, weights(old[0], new[0]), weights(old[1], new[1]))
    return _join(rearrange(grid, "h w n -> (h w) n"), array[old[0] * old[1] :])


def decomposed(rel_pos: Array, new_size: int) -> Array:
    """SAM's `rel_pos_h` or `rel_pos_w` for another window or grid.

    Arguments:
        rel_pos: (2·size-1, head_dim), numpy or torch.
        new_size: patches along that axis.

    Returns:
        (2·new_size-1, head_dim) of the same kind and element type; `rel_pos` itself where the size is the same.

    Example:
        >>> import numpy as np
        >>> decomposed(np.zeros((27, 64), "float32"), 7).shape
        (13, 64)

    Source: https://github.com/facebookresearch/segment-anything/blob/dca509fe793f601edb92606367a655c15ac00fdf/segment_anything/modeling/image_encoder.py
    get_rel_pos.
    """
    import numpy as np

    check_array(rel_pos, "rows head_dim")
    array: Any = rel_pos
    old, new = array.shape[0], 2 * new_size - 1
    if old == new:
        return rel_pos
    return contiguous(separable(array[:, None], matrix(old, new, "bilinear"), np.eye(1))[:, 0])


def geometric_offsets(old: int, new: int) -> list[float]:
    """Where BEiT places the old offsets on the new axis: 0, ±1, ±(1+q), ±(1+q+q²), …, the last one on the border.

    Arguments:
        old: offsets before, 2·window-1.
        new: offsets after.

    Returns:
        `old` places, ascending, in patches of the new window.

    Example:
        >>> [round(place, 2) for place in geometric_offsets(5, 9)]
        [-2.5, -1.0, 0.0, 1.0, 2.5]

    Source: https://github.com/microsoft/unilm/blob/768a3c873f598bb9b4d4dfb9267b099e35f8fe56/beit/run_class_finetuning.py
    (ratio bisected in 1.01…1.5 to 1e-6; the last midpoint is taken).
    """
    low, high, ratio = 1.01, 1.5, 1.01
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    half, place = [], 1.0
    for power in range(1, old // 2 + 1):
        half.append(place)
        place += ratio**power
    return [-place for place in reversed(half)] + [0.0] + half


def sincos2d(h: int, w: int, dim: int, *, kind: str = "mae", temperature: float = 10000.0) -> np.ndarray:
    """The fixed sin-cos position table of a grid.

    Arguments:
        h, w: rows and columns in patches.
        dim: width, a multiple of 4.
        kind: "mae" (MAE, I-JEPA, AIMv2: the column first), "moco" (MoCo v3 and tables that Hugging Face's classes make
            themselves: the row first), "big_vision" (the column first, frequencies down to 1/temperature inclusive).
        temperature: the longest wavelength over 2π.

    Returns:
        (h·w, dim) float32, computed in float64.

    Raises:
        BadArgument: an unknown kind, or a width that is no multiple of 4.

    Example:
        >>> sincos2d(1, 2, 4).round(2).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8399999737739563, 0.5400000214576721, 0.0, 1.0]]

    Source: `SINCOS` names one a kind.
    """
    import numpy as np

    if kind not in SINCOS:
        raise BadArgument(f"no sin-cos table is called {kind!r}", expected=", ".join(SINCOS))
    if dim % 4 or dim <= 0:
        raise BadArgument("a sin-cos table needs a width that is a multiple of 4", found=dim)
    column_first, last, _ = SINCOS[kind]
    quarter = dim // 4
    # one frequency alone is 1, whichever way the last one is counted
    omega = temperature ** -(np.arange(quarter) / max(quarter - last, 1))
    row, column = np.divmod(np.arange(h * w), w)
    order = (column, row) if column_first else (row, column)
    angles = [np.outer(place, omega) for place in order]
    return np.concatenate([part(angle) for angle in angles for part in (np.sin, np.cos)], axis=1).astype(np.float32)


def sincos_author(table: Any, h: int, w: int) -> str | None:
    """Which of the known sin-cos tables a stored one is; what a converted file keeps of its origin.

    Arguments:
        table: (h·w, dim), grid rows only, numpy or torch.
        h, w: rows and columns in patches.

    Returns:
        A kind of `sincos2d` when exactly one agrees to 1e-4 (or to the rounding of a narrower element type), else None.

    Example:
        >>> sincos_author(sincos2d(4, 4, 32, kind="moco"), 4, 4)
        'moco'
    """
    import numpy as np

    check_array(table, "rows dim", h * w)
    values = np.asarray(table.detach().cpu().to(_float32()) if is_tensor(table) else table, np.float64)
    dim = values.shape[1]
    if dim % 4 or not np.isfinite(values).all() or np.abs(values).max() > 1.01:
        return None
    narrow = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(str(table.dtype).removeprefix("torch."), 0.0)
    fits = [kind for kind in SINCOS if np.abs(values - sincos2d(h, w, dim, kind=kind)).max() <= max(1e-4, narrow)]
    return fits[0] if len(fits) == 1 else None


def _spline(old: int, new: int) -> np.ndarray:
    return spline_matrix(geometric_offsets(old, new), _centred(new))


def _piecewise(old: int, new: int) -> np.ndarray:
    return piecewise_matrix(geometric_offsets(old, new), _centred(new))


def _even(old: int, new: int) -> np.ndarray:
    return matrix(old, new, "bilinear")


def _centred(size: int) -> list[float]:
    return [float(place) for place in range(-(size // 2), size // 2 + 1)]


def _join(first: Any, second: Any) -> Any:
    if is_tensor(first):
        import torch

        return torch.cat([first, second])
    import numpy as np

    return np.concatenate([first, second])


def _float32() -> Any:
    import torch

    return torch.float32


RELATIVE: dict[str, tuple[Callable[[int, int], np.ndarray], str, str]] = {
    "beit-geometric": (
        _spline,
        "geometric offsets, cubic spline",
        "microsoft/unilm@768a3c8: beit/run_class_finetuning.py (scipy's interp2d)",
    ),
    "timm": (
        _piecewise,
        "geometric offsets, linear",
        "timm 1.0.31: timm/layers/pos_embed_rel.py resize_rel_pos_bias_table (without scipy)",
    ),
    "hf": (
        _even,
        "even offsets, bilinear",
        "transformers 5.23.0: models/beit/modeling_beit.py BeitRelativePositionBias",
    ),
}
"""Method → the weights of one axis from 2·window-1 to 2·window'-1 offsets, that in words, and where it is from."""

SINCOS: dict[str, tuple[bool, int, str]] = {
    "mae": (True, 0, "facebookresearch/mae@efb2a80: util/pos_embed.py get_2d_sincos_pos_embed"),
    "moco": (False, 0, "facebookresearch/moco-v3@c349e6e: vits.py build_2d_sincos_position_embedding"),
    "big_vision": (True, 1, "google-research/big_vision@0127fb6: big_vision/models/vit.py posemb_sincos_2d"),
}
"""Kind → (whether the column comes before the row, what is taken off the number of frequencies, source)."""
