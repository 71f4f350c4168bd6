"""Weights that a file holds in parts, as torch.nn.utils.parametrize stores them, made whole again.

A spectral norm divides a matrix by its largest singular value σ, estimated as uᵀ W v; RADIO's variant multiplies it by
a learned scale afterwards, for the matrices of queries, keys and values (or gate and up) apart.

Source: torch/nn/utils/parametrizations.py _SpectralNorm; NVlabs/RADIO @ c0f3701 radio/enable_spectral_reparam.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyvit.lazy import Lazy, computed, precise

if TYPE_CHECKING:
    import numpy as np

STORED = ".parametrizations.weight.original"
PARTS = ("_u", "_v", "scale", "_sn_version")
ALPHA = 0.05
"""What RADIO adds to a scale of its second version. Source: enable_spectral_reparam.py _SNReweight."""


@dataclass(frozen=True)
class Whole:
    """A mapping in which every parametrized weight is one tensor.

    Arguments:
        tensors: name → tensor.
        sources: name of a weight that was made whole → the names that the file holds it in.
    """

    tensors: Mapping[str, Lazy]
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def spread(self, fates: Mapping[str, str]) -> dict[str, str]:
        """What became of the file's own names, told from what became of the weights made of them."""
        return {part: fate for name, fate in fates.items() for part in self.sources.get(name, (name,))}


def whole(tensors: Mapping[str, Lazy], extras: Mapping[str, Any]) -> Whole:
    """The same tensors with spectral norms multiplied out; nothing is read.

    Arguments:
        tensors: name → tensor.
        extras: what else the file holds; RADIO's `args.spectral_reparam` may give an epsilon.
    """
    stems = [name.removesuffix(STORED) for name in tensors if name.endswith(STORED)]
    if not stems:
        return Whole(tensors)
    norms: dict[str, dict[str, dict[str, str]]] = {stem: {} for stem in stems}
    for name in tensors:
        stem, found, rest = name.partition(".parametrizations.weight.0.")
        head, _, part = rest.rpartition(".")
        if found and stem in norms and part in PARTS:
            norms[stem].setdefault(head, {})[part] = name
    sources = {f"{stem}.weight": _names(stem, norms[stem]) for stem in stems if _complete(norms[stem])}
    inside = {part for parts in sources.values() for part in parts}
    kept = {name: tensor for name, tensor in tensors.items() if name not in inside}
    eps = _epsilon(extras)
    return Whole(kept | {n: _product(parts, tensors, norms[n[:-7]], eps) for n, parts in sources.items()}, sources)


def _names(stem: str, norm: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    return (stem + STORED, *(name for parts in norm.values() for name in parts.values()))


def _complete(norm: Mapping[str, Mapping[str, str]]) -> bool:
    return bool(norm) and all("_u" in parts and "_v" in parts for parts in norm.values())


def _product(
    names: tuple[str, ...], tensors: Mapping[str, Lazy], norm: Mapping[str, Mapping[str, str]], eps: float
) -> Lazy:
    stored = tensors[names[0]]
    rows = {head: tensors[parts["_u"]].shape[0] for head, parts in norm.items()}

    def multiply(*arrays: np.ndarray) -> np.ndarray:
        values = dict(zip(names, arrays, strict=True))
        out = values[names[0]].astype("float32")
        for head, parts in norm.items():
            number = int(head.rpartition(".")[2] or 0)
            piece = slice(number * rows[head], (number + 1) * rows[head])
            out[piece] *= _factor(
                out[piece], {part: values[name].astype("float32") for part, name in parts.items()}, eps
            )
        return out

    return computed(stored.shape, precise(stored.dtype), multiply, [tensors[name] for name in names])


def _factor(matrix: np.ndarray, parts: Mapping[str, np.ndarray], eps: float) -> np.ndarray:
    import numpy as np

    flat = matrix.reshape(len(matrix), -1)
    if "scale" not in parts:
        return np.float32(1) / (parts["_u"] @ flat @ parts["_v"])
    scale = parts["scale"].reshape(())
    if "_sn_version" in parts and int(parts["_sn_version"]) != 1:
        scale = np.logaddexp(np.float32(0), scale) + np.float32(ALPHA)
    return scale / (parts["_u"] @ flat @ parts["_v"] + np.float32(eps))


def _epsilon(extras: Mapping[str, Any]) -> float:
    """RADIO's epsilon: 1e-6 unless its arguments are a dict, whose own is 1e-12 by default."""
    from anyvit.configs.args import plain

    args = plain(extras.get("args"))
    asked = plain(args.get("spectral_reparam")) if isinstance(args, Mapping) else None
    given = asked.get("eps", 1e-12) if isinstance(asked, Mapping) else 1e-6
    return float(given) if isinstance(given, (int, float)) else 1e-6
