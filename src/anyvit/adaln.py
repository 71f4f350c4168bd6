"""Conditioning by adaptive layer norm: inserted so that it changes nothing, completed, taken away, and looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anyvit import init
from anyvit.adapted import Adapted, Tensors
from anyvit.errors import BadArgument
from anyvit.expected import ADALN
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.spec import Spec


@dataclass(frozen=True)
class AdaLN:
    """Conditioning by adaptive layer norm, inserted so that it changes nothing at the start.

    What an embedded condition c says goes through SiLU and one matrix per block: a shift and a scale after each norm,
    x · (1 + scale) + shift, and in "dit" a gate that multiplies each branch. Shifts and scales start at zero, gates at
    one. (DiT itself starts its gates at zero: every block is then the identity, which only a model that is trained from
    scratch can bear.)

    A camera of InstantMesh and OpenLRM is 16 numbers: the first three rows of the camera-to-world matrix, row by row
    (12; OpenGL axes: x right, y up, z backward; positions in the scene's own unit), then fx, fy, cx, cy (4), fractions
    of the picture's width and height: a principal point in the middle is 0.5, 0.5.

    Arguments:
        dim: numbers in one condition, 16 for a camera; None for embedded vectors of the model's width.
        scheme: "instantmesh" (shift and scale of both branches) or "dit" (gates too).
        seed: of the embedder's random numbers.

    Source: TencentARC/InstantMesh@08822c5: src/models/encoder/dino.py, src/utils/camera_util.py
    (get_zero123plus_input_cameras, FOV_to_intrinsics); facebookresearch/DiT@ed81ce2: models.py DiTBlock
    """

    dim: int | None = 16
    scheme: str = "instantmesh"
    seed: int = 0


def condition(tensors: Tensors, spec: Spec, asked: AdaLN) -> Adapted:
    """AdaLN modulation in every block that changes nothing until it is trained; "dit" adds gates to "instantmesh".

    Shifts and scales are zero, gates are one: branch(x · (1 + 0) + 0) · 1.

    Raises:
        BadArgument: an unknown scheme, or the model is conditioned otherwise already.
    """
    if asked.scheme not in ADALN:
        raise BadArgument(f"no AdaLN scheme is called {asked.scheme!r}", expected=" or ".join(ADALN))
    if spec.condition:
        return _conditioned_already(tensors, spec, asked)
    out, width = {**tensors, **_modulation(spec, ADALN[asked.scheme])}, spec.embed_dim
    names = [f"blocks.{{0..{spec.depth - 1}}}.adaln"]
    if asked.dim:
        for name, inputs in (("condition.fc1", asked.dim), ("condition.fc2", width)):
            out[f"{name}.weight"] = init.new(f"{name}.weight", (width, inputs), "trunc_normal", seed=asked.seed)
            out[f"{name}.bias"] = init.new(f"{name}.bias", (width,))
        names.append("condition")
    gates = ", its gates at one" if asked.scheme == "dit" else ""
    cause = f"AdaLN modulation is new and starts at zero{gates}: the function is unchanged until it is trained"
    changes = spec.with_facts(
        "given", "the argument condition=", condition=asked.scheme, condition_inputs=asked.dim
    )  # fmt: skip
    return Adapted(out, changes, (Finding("new", tuple(names), cause, "expected: train these parameters"),))


def _modulation(spec: Spec, parts: Iterable[str]) -> dict[str, Lazy]:
    """Parts of the modulation of every block that change nothing: gates of one, others of zero."""
    width, out = spec.embed_dim, {}
    for i in range(spec.depth):
        for part in parts:
            start = "ones" if part.startswith("gate") else "zeros"
            out[f"blocks.{i}.adaln.{part}.weight"] = init.new("adaln", (width, width))
            out[f"blocks.{i}.adaln.{part}.bias"] = init.new("adaln", (width,), start)
    return out


def unconditioned(tensors: Tensors, spec: Spec) -> Adapted:
    """The model without its conditioning: the same function where the modulation is none, which is looked up."""
    if not spec.condition:
        return Adapted(tensors, spec)
    gone = {n: t for n, t in tensors.items() if ".adaln." in n or n.startswith("condition.")}
    none = all(_changes_nothing(n, t) for n, t in gone.items() if ".adaln." in n)
    cause = "AdaLN modulation was removed as asked; " + (
        "it changed nothing, so the function is the same" if none else "the function changes: no condition is heeded"
    )
    origins = fold(dict.fromkeys(o for t in gone.values() for o in t.origin))
    spec = spec.with_facts("given", "the argument condition=", condition=None, condition_inputs=None)
    kept = {n: t for n, t in tensors.items() if n not in gone}
    return Adapted(kept, spec, (Finding("ignored", origins, cause),))


def _changes_nothing(name: str, tensor: Lazy) -> bool:
    return bool((tensor.read() == float(".gate" in name and name.endswith("bias"))).all())


def usual(spec: Spec) -> AdaLN:
    """What `condition=True` means: the file's own conditioning, InstantMesh's where it has none."""
    return AdaLN(spec.condition_inputs, spec.condition) if spec.condition else AdaLN()


def _conditioned_already(tensors: Tensors, spec: Spec, asked: AdaLN) -> Adapted:
    if (spec.condition, asked.scheme) == ("instantmesh", "dit"):
        gates = _modulation(spec, ("gate1", "gate2"))
        names = (f"blocks.{{0..{spec.depth - 1}}}.adaln.<gate1|gate2>",)
        cause = "gates of one were added to the file's shifts and scales: the function is unchanged"
        spec = spec.with_facts("given", "the argument condition=", condition="dit")
        return Adapted({**tensors, **gates}, spec, (Finding("new", names, cause, "expected: train these parameters"),))
    if spec.condition != asked.scheme:
        raise BadArgument("the model is conditioned already", found=spec.condition, expected=asked.scheme)
    if asked.dim and spec.condition_inputs and asked.dim != spec.condition_inputs:
        raise BadArgument(
            "the file's own embedder takes another number of inputs", found=asked.dim, expected=spec.condition_inputs
        )
    return Adapted(tensors, spec)


def read_back(tensors: Mapping[str, Lazy], where: str) -> tuple[Finding, ...]:
    """What to say of modulation that no file has filled, from its values: max |Δ| of shift, scale and gate - 1.

    Modulation is linear in SiLU(condition): where all its weights are zero, no condition changes anything.

    Arguments:
        tensors: canonical name → tensor, as it was written or lies in a module.
        where: where they were read, in words.
    """
    parts = {n: t for n, t in tensors.items() if ".adaln." in n}
    if not parts:
        return ()
    worst = 0.0
    for name, tensor in parts.items():
        values = tensor.read().astype("float32")
        gate = ".gate" in name and name.endswith("bias")
        worst = max(float(abs(values - float(gate)).max()), worst)
    blocks = len({n.split(".")[1] for n in parts})
    cause = f"measured {where}: max |Δ| {worst:.3g} of shift, scale and gate - 1 (modulation of all {blocks} blocks)"
    return (Finding("new", (), cause),)
