"""Where two sets of weights differ and what that usually comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit import canon, pairs, resample, rewrite
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.spec import Spec

if TYPE_CHECKING:
    import numpy as np

Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class Suspect:
    """Tensors that differ in one way.

    Arguments:
        names: canonical names, in order.
        word: a short word for the way ("transposed", "scaled", "missing", …).
        text: what was found.
        usual: the usual cause.
        stage: the first layer that feels it, see `stage`.
    """

    names: tuple[str, ...]
    word: str
    text: str
    usual: str
    stage: int

    @property
    def finding(self) -> Finding:
        """The same as an entry of a report."""
        return Finding("weights", fold(self.names), f"{self.text}; usual cause: {self.usual}")


def stage(name: str, depth: int) -> int:
    """When a tensor first matters: 0 for the tokens before block 0, i + 1 for block i, then tokens, pool and heads.

    Example:
        >>> stage("embed.cls", 12), stage("blocks.11.norm1.bias", 12), stage("norm.bias", 12), stage("logits", 12)
        (0, 12, 13, 15)
    """
    block = canon.block_of(name + ".")
    if block is not None:
        return block + 1
    if name.startswith(("embed.rel", "rope.", "condition.")):
        return 1
    if name == "embed" or name.startswith("embed."):
        return 0
    if name.startswith(("norm.", "cls_norm.")) or name == "tokens":
        return depth + 1
    return depth + (2 if name == "pooled" or name.startswith(("pool.", "fc_norm.", "pre_logits.", "neck.")) else 3)


def compare_weights(a: Tensors, b: Tensors, spec: Spec, other: Spec) -> list[Suspect]:
    """All differences between two sets of canonical tensors, the earliest in the model first.

    Arguments:
        a, b: canonical name → tensor.
        spec, other: their architectures.
    """
    found: list[Suspect] = []
    a, b = _scaled_alike(a, b, spec.depth, found)
    a, b = _folded_alike(a, b)
    a, b = _zeros_for_absent(a, b, spec.rope is not None)
    depth = max(spec.depth, other.depth)
    found += _absent(a, b, depth)
    values = {name: (_array(a[name]), _array(b[name])) for name in a if name in b}
    found += _different(values, spec, other, depth)
    return sorted(found, key=lambda suspect: suspect.stage)


def _array(tensor: Lazy) -> np.ndarray:
    return tensor.read().astype("float32", copy=False)


def _scaled_alike(a: Tensors, b: Tensors, depth: int, found: list[Suspect]) -> tuple[Tensors, Tensors]:
    """LayerScale that one side lacks: folded into its matrices, or forgotten."""
    for having, lacking, who in ((a, b, "b"), (b, a, "a")):
        if "blocks.0.ls1" not in having or "blocks.0.ls1" in lacking:
            continue
        name = "blocks.0.attn.out.weight"
        if name in lacking and pairs.same(_array(having[name]), _array(lacking[name])):
            names = tuple(n for n in having if n.endswith((".ls1", ".ls2")))
            text = f"{who} has no LayerScale, and its matrices are those of the other side before scaling"
            usual = "the module was built without init_values (timm) or layerscale_value (transformers)"
            found.append(Suspect(names, "missing", text, usual, 1))
            kept = {n: t for n, t in having.items() if n not in names}
        else:
            kept = rewrite.fold_layer_scale(having) or having
        a, b = (kept, b) if who == "b" else (a, kept)
    return a, b


def _folded_alike(a: Tensors, b: Tensors) -> tuple[Tensors, Tensors]:
    """Prefix rows of the position table and the patch bias, folded on both sides where only one keeps them apart."""
    if all("embed.pos" in side for side in (a, b)):
        if ("embed.pos_prefix" in a) != ("embed.pos_prefix" in b):
            a, b = rewrite.prefix_rows(a, 0) or a, rewrite.prefix_rows(b, 0) or b
        if ("embed.patch.bias" in a) != ("embed.patch.bias" in b):
            a, b = rewrite.fold_patch_bias(a) or a, rewrite.fold_patch_bias(b) or b
    if ("embed.rel_pos" in a) != ("embed.rel_pos" in b):
        a, b = rewrite.spread_relative_positions(a) or a, rewrite.spread_relative_positions(b) or b
    return a, b


def _zeros_for_absent(a: Tensors, b: Tensors, rotary: bool) -> tuple[Tensors, Tensors]:
    """Biases that one side lacks, as zeros; a key bias that one side lacks is left out, for softmax does not see it."""

    def seen(has: Tensors, like: Tensors) -> Tensors:
        return {n: t for n, t in has.items() if rotary or n in like or not n.endswith("attn.k.bias")}

    def completed(has: Tensors, like: Tensors) -> Tensors:
        lacking = {n: t for n, t in like.items() if n not in has and n.endswith(".bias") and n[:-4] + "weight" in has}
        return {**has, **{n: rewrite.zeros(t.shape, t.dtype) for n, t in lacking.items()}}

    a, b = seen(a, b), seen(b, a)
    return completed(a, b), completed(b, a)


MISSING = {
    "embed.cls": "one model has a class token and the other has none",
    "embed.dist": "one model is distilled",
    "embed.reg": "the models were built with another number of register tokens",
    "embed.pos": "a position table against rotary or no positions",
    "embed.norm": "pre_norm: one model has a norm before block 0",
    "mlp.gate": "a gated MLP (SwiGLU) against a plain one",
    "q_norm": "qk_norm: one model norms queries and keys",
    "k_norm": "qk_norm: one model norms queries and keys",
    "pool.": "an attention pool on one side only",
    "fc_norm": "one model norms after pooling",
    "adaln": "one model is conditioned",
    "condition.": "one model has a camera embedder",
}


def _absent(a: Tensors, b: Tensors, depth: int) -> list[Suspect]:
    found = []
    for has, lacks, who in ((a, b, "b"), (b, a, "a")):
        groups: dict[str, list[str]] = {}
        for name in has:
            if name not in lacks and canon.is_backbone(name):
                usual = next((text for sign, text in MISSING.items() if sign in name), "another depth or architecture")
                groups.setdefault(usual, []).append(name)
        for usual, names in groups.items():
            text = f"{who} lacks {len(names)} tensors of the other side"
            found.append(Suspect(tuple(names), "missing", text, usual, min(stage(n, depth) for n in names)))
    return found


Values = Mapping[str, "tuple[np.ndarray, np.ndarray]"]


def _different(values: Values, spec: Spec, other: Spec, depth: int) -> list[Suspect]:
    differing = [n for n, (x, y) in values.items() if x.shape != y.shape or not pairs.same(x, y)]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    fused = _fused(values, differing, spec)
    places = _by_digest(values) if differing else {}
    for name in differing:
        x, y = values[name]
        kind = fused.get(name) or _elsewhere(name, y, places)
        if kind is None and name == "embed.pos" and x.shape != y.shape:
            kind = _resized(x, y, spec, other)
        kind = kind or pairs.compare(name, x, y, spec.grid)
        if kind is not None:
            text = kind.text if kind.word not in ("near", "unrelated", "scaled") else _general(kind)
            grouped.setdefault((kind.word, text, kind.usual), []).append(name)
    return [
        Suspect(tuple(names), word, text, usual, min(stage(n, depth) for n in names))
        for (word, text, usual), names in grouped.items()
    ]


def _general(kind: pairs.Kind) -> str:
    """The text of a kind whose figure differs from tensor to tensor, without the figure where many share it."""
    words = {"near": "b's resembles a's", "unrelated": "b's has nothing to do with a's"}
    return words.get(kind.word, kind.text)


def _fused(values: Values, differing: Iterable[str], spec: Spec) -> dict[str, pairs.Kind]:
    """Blocks in which q, k and v together hold the same rows in another order; name → what it is."""
    found: dict[str, pairs.Kind] = {}
    attention = [n for n in differing if ".attn." in n and n.split(".")[-2] in "qkv"]
    numbers = sorted({number for n in attention if (number := canon.block_of(n)) is not None})
    heads = [h for h in range(1, spec.embed_dim + 1) if spec.embed_dim % h == 0]
    for number in numbers:
        names = {part: f"blocks.{number}.attn.{part}." for part in "qkv"}
        if not all(n + "weight" in values for n in names.values()):
            continue
        a, b = ({part: values[n + "weight"][i] for part, n in names.items()} for i in (0, 1))
        swapped = _swapped(a, b)
        kind = swapped or pairs.fused_order(a, b, heads, spec.num_heads)
        if kind is not None:
            mine = [n + p for n in names.values() for p in ("weight", "bias") if n + p in differing]
            found.update(dict.fromkeys(mine, kind))
    return found


def _swapped(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> pairs.Kind | None:
    """q, k and v exchanged as a whole."""
    places = {}
    for part, y in b.items():
        places[part] = next((other for other, x in a.items() if x.shape == y.shape and pairs.same(x, y)), "")
    if sorted(places.values()) != ["k", "q", "v"] or all(part == place for part, place in places.items()):
        return None
    moved = [part for part, place in places.items() if part != place]
    usual = "another order of the parts of a fused tensor, or a wrong pair of names"
    if len(moved) == 2:
        return pairs.Kind("swapped", f"{moved[0]} and {moved[1]} are swapped", usual)
    order = ", ".join(f"b's {part} is a's {place}" for part, place in places.items())
    return pairs.Kind("swapped", f"q, k and v stand in another order: {order}", usual)


def _by_digest(values: Values) -> dict[tuple[tuple[int, ...], bytes], str]:
    return {_digest(x): name for name, (x, _) in reversed(list(values.items())) if x.size > 1 and x.std() > 0}


def _digest(x: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    import numpy as np

    return x.shape, hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()


def _elsewhere(name: str, y: np.ndarray, places: Mapping[tuple[tuple[int, ...], bytes], str]) -> pairs.Kind | None:
    """Whether b's tensor stands under another name in a."""
    other = places.get(_digest(y)) if y.size > 1 else None
    if other is None or other == name:
        return None
    block, place = canon.block_of(name), canon.block_of(other)
    if block is not None and place is not None and block != place:
        usual = "names sorted as text (blocks.10 before blocks.2), or counted from another number"
        return pairs.Kind("order", "b's blocks stand in another order than a's", usual)
    first, second = sorted((name, other))
    words = (first.split(".", 2)[2], second.split(".", 2)[2]) if block is not None else (first, second)
    return pairs.Kind(
        "swapped", f"{words[0]} and {words[1]} are swapped", "a wrong pair of names or another order of halves"
    )


def _resized(x: np.ndarray, y: np.ndarray, spec: Spec, other: Spec) -> pairs.Kind | None:
    """Position tables of two grids: which recipe makes one of the other."""
    if spec.grid is None or other.grid is None:
        return None
    for name, recipe in resample.RECIPES.items():
        for who, here, there, old, new in (("b", x, y, spec.grid, other.grid), ("a", y, x, other.grid, spec.grid)):
            made = resample.positions(here, old, new, recipe)
            if made.shape == there.shape and float(abs(made - there).max()) <= 1e-5 * float(abs(there).max()):
                text = f"{who}'s position table is the other's, resized from {old} to {new} by recipe {name}"
                return pairs.Kind(
                    "resized", text, "one side stores another native size; the other resizes when it runs"
                )
    return None
