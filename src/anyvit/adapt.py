"""Changes on purpose: patch size, image size, channels, classes, conditioning. One function each, always in the report.

Every adaptation has the same signature: canonical tensors and Spec in, new ones and findings out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyvit import init, resample
from anyvit.dtypes import np_dtype
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy, computed
from anyvit.report import Finding, fold
from anyvit.spec import Spec, pair, single

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, Lazy]
Size = int | tuple[int, int]


@dataclass(frozen=True)
class AdaLN:
    """Conditioning by adaptive layer norm, inserted so that it changes nothing at the start.

    Arguments:
        dim: numbers in one condition, 16 for a camera of InstantMesh and OpenLRM; None for vectors of the model's width.
        scheme: "instantmesh" (shift and scale of both branches) or "dit" (gates too).
        seed: of the embedder's random numbers.
    """

    dim: int | None = 16
    scheme: str = "instantmesh"
    seed: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a caller asks to change; None leaves as it is.

    Arguments:
        patch_size: pixels, int or (height, width).
        image_size: pixels, int or (height, width).
        in_chans: channels of the pictures.
        num_classes: classes of the head, 0 for none.
        condition: an `AdaLN`, or True for InstantMesh's.
        resample: the recipe for positions and kernels; "source" is the recipe of the file's own ecosystem.
    """

    patch_size: Size | None = None
    image_size: Size | None = None
    in_chans: int | None = None
    num_classes: int | None = None
    condition: AdaLN | bool | None = None
    resample: Any = "source"


@dataclass(frozen=True)
class Adapted:
    """Canonical tensors and their Spec after an adaptation, and what to say of it."""

    tensors: Tensors
    spec: Spec
    findings: tuple[Finding, ...] = ()

    def then(self, other: Adapted) -> Adapted:
        """The result of a further step."""
        return Adapted(other.tensors, other.spec, self.findings + other.findings)


def adapt(tensors: Tensors, spec: Spec, wanted: Wanted) -> Adapted:
    """All that was asked for, in order: recipe, channels, patch size, image size, classes, conditioning.

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
    if wanted.num_classes is not None:
        state = state.then(num_classes(state.tensors, state.spec, wanted.num_classes))
    if wanted.condition:
        asked = wanted.condition if isinstance(wanted.condition, AdaLN) else AdaLN()
        state = state.then(condition(state.tensors, state.spec, asked))
    return state


def _size(name: str, size: Any) -> tuple[int, int]:
    try:
        height, width = pair(size if isinstance(size, int) else tuple(size))
    except (TypeError, ValueError) as error:
        raise BadArgument(f"{name} is an int or (height, width) in pixels", found=size) from error
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
    shape = (*kernel.shape[:2], *new)

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(resample.kernel(values.astype("float32"), new, method)).astype(values.dtype)

    out = {**tensors, "embed.patch.weight": computed(shape, kernel.dtype, resize, [kernel])}
    changes: dict[str, Any] = {"patch_size": single(new)}
    if spec.grid:
        changes["image_size"] = single((spec.grid[0] * new[0], spec.grid[1] * new[1]))
    cause = f"patch kernel {_by(old)} → {_by(new)} pixels by pseudo-inverse ({method}); the function changes"
    finding = Finding("resized", kernel.origin, cause, None)
    return Adapted(out, spec.with_facts("given", "the argument patch_size=", **changes), (finding,))


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
    if table is not None:
        spec_new = spec_new.with_facts("given", "the argument image_size=", grid=grid)
    relative = [n for n in tensors if n.endswith(".rel_pos")]
    if relative:
        out, finding = _relative(out, relative, spec, grid)
        findings += finding
        spec_new = spec_new.with_facts("given", "the argument image_size=", grid=grid)
    return Adapted(out, spec_new, tuple(findings))


def _positions(table: Lazy, spec: Spec, grid: tuple[int, int]) -> Lazy:
    recipe = resample.resolve(spec.resample)
    old = spec.grid
    assert old is not None

    def resize(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(resample.positions(values.astype("float32"), old, grid, recipe)).astype(values.dtype)

    return computed((grid[0] * grid[1], table.shape[1]), table.dtype, resize, [table])


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

        new = resample.relative_table(values.astype("float32"), old, grid, spec.rel_resample, extra=extra)
        return np.asarray(new).astype(values.dtype)

    for name in names:
        table = tensors[name]
        tensors[name] = computed((rows, table.shape[1]), table.dtype, resize, [table])
    cause = f"relative position tables {_by(old)} → {_by(grid)} by recipe {spec.rel_resample}"
    origins = fold(origin for name in names for origin in tensors[name].origin)
    return tensors, [Finding("resized", origins, cause)]


def in_chans(tensors: Tensors, spec: Spec, new: int) -> Adapted:
    """The patch kernel for another number of channels: to one by sum, to more by repetition, the response kept.

    Source: timm/layers/_manipulate (adapt_input_conv): repeated kernels are scaled by old / new.
    """
    kernel = tensors["embed.patch.weight"]
    old = kernel.shape[1]
    if new == old:
        return Adapted(tensors, spec)
    if new < 1:
        raise BadArgument("in_chans must be positive", found=new)

    def change(values: np.ndarray) -> np.ndarray:
        import numpy as np

        wide = values.astype("float32")
        if new == 1:
            out = wide.sum(1, keepdims=True)
        else:
            out = np.stack([wide[:, n % old] for n in range(new)], 1) * (old / new)
        return out.astype(np_dtype(kernel.dtype))

    shape = (kernel.shape[0], new, *kernel.shape[2:])
    out = {**tensors, "embed.patch.weight": computed(shape, kernel.dtype, change, [kernel])}
    how = "summed" if new == 1 else f"repeated in order and scaled by {old}/{new}"
    mean = tuple(spec.mean[n % len(spec.mean)] for n in range(new)) if new > 1 else (sum(spec.mean) / len(spec.mean),)
    std = tuple(spec.std[n % len(spec.std)] for n in range(new)) if new > 1 else (sum(spec.std) / len(spec.std),)
    finding = Finding("resized", kernel.origin, f"patch kernel {old} → {new} channels, {how}; the function changes")
    return Adapted(out, spec.with_facts("given", "the argument in_chans=", in_chans=new, mean=mean, std=std), (finding,))


HEADS = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias", "head_norm.mean", "head_norm.var")


def num_classes(tensors: Tensors, spec: Spec, new: int) -> Adapted:
    """The classifier dropped (0), or replaced by one of zeros; one with as many classes stays."""
    if new < 0:
        raise BadArgument("num_classes must not be negative", found=new)
    if new == spec.num_classes:
        return Adapted(tensors, spec)
    dropped = [n for n in HEADS if n in tensors]
    out = {n: t for n, t in tensors.items() if n not in dropped}
    findings = []
    if dropped:
        origins = tuple(dict.fromkeys(o for n in dropped for o in tensors[n].origin))
        findings.append(Finding("ignored", origins, f"the head of {spec.num_classes} classes was dropped as asked"))
    if new:
        inputs = spec.pre_logits_dim or spec.embed_dim * (2 if spec.pool == "cls+avg" else 1)
        for name in ("head", "head_dist") if spec.dist_token else ("head",):
            out[f"{name}.weight"] = init.new(f"{name}.weight", (new, inputs))
            out[f"{name}.bias"] = init.new(f"{name}.bias", (new,))
        cause = f"a new head of {new} classes starts at zero"
        findings.append(Finding("new", ("head.weight", "head.bias"), cause, "train it before you trust its logits"))
    changes = spec.with_facts("given", "the argument num_classes=", num_classes=new, head_norm=False)
    return Adapted(out, changes, tuple(findings))


def condition(tensors: Tensors, spec: Spec, asked: AdaLN) -> Adapted:
    """AdaLN modulation in every block, made of zeros: x · (1 + 0) + 0, so that nothing changes until it is trained.

    Raises:
        BadArgument: an unknown scheme, or the model is conditioned otherwise already.
    """
    if asked.scheme not in ("instantmesh", "dit"):
        raise BadArgument(f"no AdaLN scheme is called {asked.scheme!r}", expected="instantmesh or dit")
    if spec.condition:
        if spec.condition == asked.scheme:
            return Adapted(tensors, spec)
        raise BadArgument("the model is conditioned already", found=spec.condition, expected=asked.scheme)
    if asked.scheme == "dit":
        raise BadArgument(
            "gates that multiply a branch cannot start at zero without removing it",
            remedy='condition=anyvit.AdaLN(scheme="instantmesh")',
        )
    out, width = dict(tensors), spec.embed_dim
    parts = ("shift1", "scale1", "shift2", "scale2")
    for i in range(spec.depth):
        for part in parts:
            out[f"blocks.{i}.adaln.{part}.weight"] = init.new("adaln", (width, width))
            out[f"blocks.{i}.adaln.{part}.bias"] = init.new("adaln", (width,))
    names = [f"blocks.{{0..{spec.depth - 1}}}.adaln"]
    if asked.dim:
        for name, inputs in (("condition.fc1", asked.dim), ("condition.fc2", width)):
            out[f"{name}.weight"] = init.new(f"{name}.weight", (width, inputs), "trunc_normal", seed=asked.seed)
            out[f"{name}.bias"] = init.new(f"{name}.bias", (width,))
        names.append("condition")
    cause = "AdaLN modulation is new and starts at zero: the function is unchanged until it is trained"
    changes = spec.with_facts(
        "given", "the argument condition=", condition=asked.scheme, condition_inputs=asked.dim
    )  # fmt: skip
    return Adapted(out, changes, (Finding("new", tuple(names), cause, "expected: train these parameters"),))


def _recipe_name(spec: Spec) -> str:
    recipe = spec.resample
    return recipe if isinstance(recipe, str) else ", ".join(f"{k}={v}" for k, v in dict(vars(recipe) if hasattr(recipe, "__dict__") else recipe).items())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
