"""Changes on purpose: patch, image size, channels, classes, registers, conditioning. One function each, all reported.

Every adaptation has the same signature: canonical tensors and Spec in, new ones and findings out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyvit import resample
from anyvit.adaln import ADALN, AdaLN, condition, unconditioned, usual
from anyvit.adapted import Adapted, Tensors
from anyvit.canon import block_of
from anyvit.channels import Channels, in_chans
from anyvit.errors import BadArgument
from anyvit.heads import HEADS, ClassMap, num_classes
from anyvit.identities import fuse_norms, layer_scale
from anyvit.lazy import Lazy, computed, precise
from anyvit.report import Finding, fold
from anyvit.spec import Spec, pair, single
from anyvit.tokens import cls_token, registers

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "HEADS", "AdaLN", "Adapted", "Channels", "ClassMap", "Wanted", "adapt", "cls_token", "condition", "fuse_norms",
    "image_size", "in_chans", "layer_scale", "num_classes", "patch_size", "registers", "unconditioned",
]  # fmt: skip

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Wanted:
    """What a caller asks to change; None leaves as it is.

    Arguments:
        patch_size: pixels, int or (height, width).
        image_size: pixels, int or (height, width).
        in_chans: channels of the pictures, or `Channels` with what each is made of.
        num_classes: classes of the head, 0 for none, or a `ClassMap` of rows of the old one.
        condition: an `AdaLN`, True for InstantMesh's, False to take the file's own away.
        resample: the recipe for positions and kernels; "source" is the recipe of the file's own ecosystem.
        registers: register tokens.
        cls_token: whether there is a class token.
        layer_scale: True adds LayerScale of ones, False folds it into the matrices before it.
        fuse_norms: whether scales and shifts of the norms go into the matrices behind them.
    """

    patch_size: Size | None = None
    image_size: Size | None = None
    in_chans: int | Channels | None = None
    num_classes: int | ClassMap | None = None
    condition: AdaLN | bool | None = None
    resample: Any = "source"
    registers: int | None = None
    cls_token: bool | None = None
    layer_scale: bool | None = None
    fuse_norms: bool = False


def adapt(tensors: Tensors, spec: Spec, wanted: Wanted) -> Adapted:
    """All that was asked for, in order: recipe, channels, patch and image size, tokens, classes, identities, conditioning.

    Raises:
        BadArgument: a size that is not positive or no multiple of the patch.
    """
    state = Adapted(tensors, spec)
    if wanted.resample != "source":
        resample.resolve(wanted.resample)
        state = replace(state, spec=spec.with_facts("given", "the argument resample=", resample=wanted.resample))
    if wanted.in_chans is not None:
        state = state.then(in_chans(state.tensors, state.spec, wanted.in_chans))
    if wanted.patch_size is not None:
        state = state.then(patch_size(state.tensors, state.spec, _size("patch_size", wanted.patch_size)))
    if wanted.image_size is not None:
        state = state.then(image_size(state.tensors, state.spec, _size("image_size", wanted.image_size)))
    if wanted.cls_token is not None:
        state = state.then(cls_token(state.tensors, state.spec, wanted.cls_token))
    if wanted.registers is not None:
        state = state.then(registers(state.tensors, state.spec, wanted.registers))
    if wanted.num_classes is not None:
        state = state.then(num_classes(state.tensors, state.spec, wanted.num_classes))
    if wanted.layer_scale is not None:
        state = state.then(layer_scale(state.tensors, state.spec, wanted.layer_scale))
    if wanted.fuse_norms:
        state = state.then(fuse_norms(state.tensors, state.spec))
    if wanted.condition not in (None, True, False) and not isinstance(wanted.condition, AdaLN):
        raise BadArgument(
            "condition is an AdaLN, True for InstantMesh's, or False", found=repr(wanted.condition),
            remedy=f"condition=anyvit.AdaLN(scheme={wanted.condition if wanted.condition in ADALN else 'dit'!r})",
        )  # fmt: skip
    if wanted.condition is False:
        state = state.then(unconditioned(state.tensors, state.spec))
    elif wanted.condition:
        asked = wanted.condition if isinstance(wanted.condition, AdaLN) else usual(state.spec)
        state = state.then(condition(state.tensors, state.spec, asked))
    return state


def _size(name: str, size: Any) -> tuple[int, int]:
    try:
        if isinstance(size, (str, bytes)):
            raise TypeError
        height, width = pair(size if isinstance(size, int) else tuple(size))
    except (TypeError, ValueError) as error:
        raise BadArgument(f"{name} is an int or (height, width) in pixels", found=repr(size)) from error
    if height < 1 or width < 1:
        raise BadArgument(f"{name} must be positive", found=size)
    return height, width


def patch_size(tensors: Tensors, spec: Spec, new: tuple[int, int]) -> Adapted:
    """The patch kernel resized by pseudo-inverse, so that tokens of resized patches stay what they were.

    The grid of the position table is kept: the native image size changes with the patch.

    Source: Beyer et al. 2022, FlexiViT, arXiv:2212.08013, section 3.4.
    """
    old = spec.patch
    if new == old:
        return Adapted(tensors, spec)
    kernel = tensors["embed.patch.weight"]
    method = "flexivit" if _recipe_name(spec) == "flexivit" else "timm"
    shape, wide = (*kernel.shape[:2], *new), precise(kernel.dtype)

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(resample.kernel(values.astype(wide), new, method))

    out = {**tensors, "embed.patch.weight": computed(shape, wide, resize, [kernel])}
    changes: dict[str, Any] = {"patch_size": single(new)}
    if spec.grid:
        changes["image_size"] = single((spec.grid[0] * new[0], spec.grid[1] * new[1]))
    cause = f"patch kernel {_by(old)} → {_by(new)} pixels by pseudo-inverse ({method}); the function changes"
    finding = Finding("resized", kernel.origin, cause, None)
    return Adapted(out, spec.with_facts("given", "the argument patch_size=", **changes), (finding,))


CHOOSE = "resample=… chooses another recipe: see docs/resampling.md"


def image_size(tensors: Tensors, spec: Spec, new: tuple[int, int]) -> Adapted:
    """Position tables resized by the recipe of the source.

    Raises:
        BadArgument: the size is no multiple of the patch.
    """
    patch = spec.patch
    if new[0] % patch[0] or new[1] % patch[1]:
        raise BadArgument(
            f"image_size {_by(new)} is no multiple of the patch {_by(patch)}",
            remedy=f"image_size=({new[0] // patch[0] * patch[0]}, {new[1] // patch[1] * patch[1]})",
        )
    grid = (new[0] // patch[0], new[1] // patch[1])
    spec_new = spec.with_facts("given", "the argument image_size=", image_size=single(new))
    out, findings = dict(tensors), []
    table = tensors.get("embed.pos")
    if table is not None and spec.grid and spec.grid != grid:
        out["embed.pos"] = _positions(table, spec, grid)
        cause = f"position table {_by(spec.grid)} → {_by(grid)} by recipe {_recipe_name(spec)}"
        findings.append(Finding("resized", table.origin, cause))
        if warning := resample.caveat(spec.resample, spec.grid, grid):
            findings.append(Finding("resized", table.origin, warning, CHOOSE))
    if table is not None:
        spec_new = spec_new.with_facts("given", "the argument image_size=", grid=grid)
    relative = [n for n in tensors if n.endswith(".rel_pos")]
    if relative:
        out, finding = _relative(out, relative, spec, grid)
        findings += finding
        spec_new = spec_new.with_facts("given", "the argument image_size=", grid=grid)
    split = [n for n in tensors if n.endswith((".rel_pos_h", ".rel_pos_w")) and not _windowed(n, spec)]
    if split:
        done = {n: _decomposed(tensors[n], grid[n.endswith("_w")]) for n in split}
        changed = [n for n in split if done[n] is not tensors[n]]
        out |= done
        if changed:
            cause = f"decomposed relative positions resized linearly to {_by(grid)}, of blocks without windows"
            findings.append(Finding("resized", fold(o for n in changed for o in tensors[n].origin), cause))
        spec_new = spec_new.with_facts("given", "the argument image_size=", grid=grid)
    return Adapted(out, spec_new, tuple(findings))


def _windowed(name: str, spec: Spec) -> bool:
    return spec.window is not None and block_of(name) not in spec.global_blocks


def _decomposed(table: Lazy, size: int) -> Lazy:
    """SAM's table of one axis for another number of patches; windows keep theirs."""
    if table.shape[0] == 2 * size - 1:
        return table

    wide = precise(table.dtype)

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(resample.decomposed(values.astype(wide), size))

    return computed((2 * size - 1, table.shape[1]), wide, resize, [table])


def _positions(table: Lazy, spec: Spec, grid: tuple[int, int]) -> Lazy:
    recipe = resample.resolve(spec.resample)
    old = spec.grid
    assert old is not None
    wide = precise(table.dtype)

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(resample.positions(values.astype(wide), old, grid, recipe))

    return computed((grid[0] * grid[1], table.shape[1]), wide, resize, [table])


def _relative(
    tensors: dict[str, Lazy], names: list[str], spec: Spec, grid: tuple[int, int]
) -> tuple[dict[str, Lazy], list[Finding]]:
    old = spec.grid
    if old is None or old == grid:
        return tensors, []
    extra = 3 if spec.num_cls else 0
    rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + extra

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        wide = precise(str(values.dtype))
        return np.asarray(resample.relative_table(values.astype(wide), old, grid, spec.rel_resample, extra=extra))

    for name in names:
        table = tensors[name]
        tensors[name] = computed((rows, table.shape[1]), precise(table.dtype), resize, [table])
    cause = f"relative position tables {_by(old)} → {_by(grid)} by recipe {spec.rel_resample}"
    origins = fold(origin for name in names for origin in tensors[name].origin)
    return tensors, [Finding("resized", origins, cause)]


def _recipe_name(spec: Spec) -> str:
    recipe = spec.resample
    if isinstance(recipe, str):
        return recipe
    parts = dict(vars(recipe) if hasattr(recipe, "__dict__") else recipe)
    return ", ".join(f"{name}={value}" for name, value in parts.items())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
