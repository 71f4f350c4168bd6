"""Which positions a ViT has, for which grid, and in which windows: from tables, else from its lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

from anyvit.clues import Clues, measured, shape_of
from anyvit.lazy import Lazy
from anyvit.spec import Fact, pair, single

Grid = tuple[int, int]


def positions(tensors: Mapping[str, Lazy], clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The kinds of positions, the grid of their tables, the picture that it stands for, and windows.

    Arguments:
        tensors: canonical name → tensor.
        clues: what is known beside them.
        facts: what is known so far, by Spec field.
    """
    found: dict[str, Fact] = {}
    table, prefix = tensors.get("embed.pos"), tensors.get("embed.pos_prefix")
    found["pos_prefix"] = measured(prefix.shape[0] if prefix is not None else 0, "prefix rows of the position table")
    found["pos_embed"] = _kinds(tensors, clues)
    found.update(_relative_mlp(tensors))
    found.update(_windows(tensors))
    if table is None:
        found.update(_relative_grid(tensors, facts, clues))
        return found
    grid = _grid(table.shape[0], clues)
    if grid:
        found["grid"] = grid
        patch = pair(facts["patch_size"].value) if "patch_size" in facts else (1, 1)
        size = single((grid.value[0] * patch[0], grid.value[1] * patch[1]))
        found["image_size"] = Fact(size, grid.how, f"grid {grid.value[0]} × {grid.value[1]} of the position table")
    return found


def _kinds(tensors: Mapping[str, Lazy], clues: Clues) -> Fact:
    """The kinds of positions, those that no tensor shows from a config or the lineage."""
    kinds = ["learned"] if "embed.pos" in tensors else []
    if "blocks.0.attn.rel_pos_h" in tensors or any(n.endswith("rel_pos_h") for n in tensors):
        kinds.append("relpos_decomposed")
    elif "embed.rel_pos" in tensors:
        kinds.append("relpos_shared")
    elif "blocks.0.attn.rel_pos" in tensors:
        kinds.append("relpos")
    if "embed.rel_mlp.fc1.weight" in tensors:
        kinds.append("relpos_mlp_shared")
    elif "blocks.0.attn.rel_mlp.fc1.weight" in tensors:
        kinds.append("relpos_mlp")
    if "rope" in clues.lineage.facts and _rotates(tensors, clues):
        kinds.append("rope")
    if "rope" in kinds and not _stored_rope(tensors, clues):
        why = f"no rotary table in the file; lineage {clues.lineage.name} rotates: {clues.lineage.source}"
        return Fact("+".join(kinds), "assumed", why)
    given = clues.given.get("pos_embed")
    if not kinds and given is not None and given.value == "sincos_unstored":
        return given
    if not kinds and "sincos" in clues.lineage.facts:
        why = f"no table in the file: {clues.lineage.name} computes sin-cos positions"
        return Fact("sincos_unstored", "assumed", why)
    return measured("+".join(kinds) or "none", "position tensors that are present")


def _relative_mlp(tensors: Mapping[str, Lazy]) -> dict[str, Fact]:
    """The MLP from offsets to biases; only the one on plain logarithms has a bias at its end (timm's RelPosMlp)."""
    name = next((n for n in ("embed.rel_mlp.", "blocks.0.attn.rel_mlp.") if n + "fc1.weight" in tensors), None)
    if name is None:
        return {}
    bias = name + "fc2.bias"
    return {
        "rel_mlp_dim": measured(tensors[name + "fc1.weight"].shape[0], shape_of(tensors, name + "fc1.weight")),
        "rel_mlp_log": measured(
            "log" if bias in tensors else "swin", f"{bias} is {'present' if bias in tensors else 'absent'}"
        ),
    }


def _relative_grid(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact], clues: Clues) -> dict[str, Fact]:
    """The grid that a relative position table was made for.

    A shared table has (2 h − 1)(2 w − 1) rows, and 3 more where there is a cls token; a decomposed one 2 h − 1 and
    2 w − 1, the most of them in the blocks that see the whole grid.
    """
    name = next((n for n in ("embed.rel_pos", "blocks.0.attn.rel_pos") if n in tensors), None)
    sides = [max((t.shape[0] for n, t in tensors.items() if n.endswith(f"attn.rel_pos_{x}")), default=0) for x in "hw"]
    if "patch_size" not in facts or (name is None and not all(sides)):
        return {}
    patch = pair(facts["patch_size"].value)
    if name is None:
        grid = measured(((sides[0] + 1) // 2, (sides[1] + 1) // 2), "rows of rel_pos_h and rel_pos_w")
    else:
        rows = tensors[name].shape[0] - (3 if facts["num_cls"].value else 0)
        grid = _table_grid(rows, patch, clues) or measured(_square(rows), shape_of(tensors, name))
    size = single((grid.value[0] * patch[0], grid.value[1] * patch[1]))
    return {"grid": grid, "image_size": Fact(size, grid.how, grid.source)}


def _square(rows: int) -> Grid:
    """The square grid of a relative table, its rows for a cls token not counted."""
    side = (isqrt(rows) + 1) // 2
    return side, side


def _table_grid(rows: int, patch: Grid, clues: Clues) -> Fact | None:
    """The grid that somebody gives for a relative table, where it has so many rows."""
    for field, unit in (("grid", (1, 1)), ("image_size", patch)):
        given = clues.given.get(field)
        if given is not None and given.value is not None:
            height, width = (length // one for length, one in zip(pair(given.value), unit, strict=True))
            if (2 * height - 1) * (2 * width - 1) == rows:
                return Fact((height, width), "given", given.source)
    return None


def _windows(tensors: Mapping[str, Lazy]) -> dict[str, Fact]:
    """Windows of decomposed relative positions: blocks with fewer than the most rows are windowed (SAM)."""
    sizes = {
        int(name.split(".")[1]): (tensor.shape[0] + 1) // 2
        for name, tensor in tensors.items()
        if name.endswith("attn.rel_pos_h")
    }
    if len(set(sizes.values())) < 2:
        return {}
    whole = tuple(sorted(n for n, size in sizes.items() if size == max(sizes.values())))
    why = f"rows of rel_pos_h: blocks {', '.join(map(str, whole))} span the whole grid"
    return {"window": measured(min(sizes.values()), why), "global_blocks": measured(whole, why)}


def _rotates(tensors: Mapping[str, Lazy], clues: Clues) -> bool:
    """Whether a model of a lineage with rotary positions uses them (EVA-01, the first EVA-CLIP and the first CroCo do not)."""
    if clues.lineage.name in ("eva", "eva-clip", "timm-eva", "eva02-finetuned", "eva02-mim"):
        return _stored_rope(tensors, clues) or "blocks.0.mlp.gate.weight" in tensors
    return clues.lineage.name != "croco" or "embed.pos" not in tensors


def _stored_rope(tensors: Mapping[str, Lazy], clues: Clues) -> bool:
    """Whether the file holds a table of rotary positions: their frequencies, periods or angles."""
    return any("rope" in name for name in clues.ignored) or "rope.freqs" in tensors or "rope.periods" in tensors


def _grid(rows: int, clues: Clues) -> Fact | None:
    given = clues.given.get("grid")
    if given is not None and given.value and given.value[0] * given.value[1] == rows:
        return Fact(tuple(given.value), given.how, given.source)
    if len(h := clues.sizes.get("gh", ())) == 1 and len(w := clues.sizes.get("gw", ())) == 1:
        return measured((next(iter(h)), next(iter(w))), "the position table keeps its two axes")
    size, patch = clues.given.get("image_size"), clues.given.get("patch_size")
    if size is not None and patch is not None:
        (height, width), (p, q) = pair(size.value), pair(patch.value)
        if (height // p) * (width // q) == rows:
            return Fact((height // p, width // q), "given", size.source)
    side = isqrt(rows)
    return measured((side, side), f"{rows} rows are {side} × {side}") if side * side == rows else None


NATIVE = 0
"""A `Rope.reference` that stands for the rows of the model's own grid."""


def native_rope(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The rotary embedding, scaled to the model's own grid where its lineage says so.

    Arguments:
        facts: what is known so far, by Spec field; `rope` among it.
    """
    rope = facts["rope"].value
    if rope is not None and rope.reference == NATIVE and facts.get("grid"):
        side = facts["grid"].value[0]
        scaled = Fact(
            replace(rope, reference=side), facts["rope"].how, f"{facts['rope'].source}; scaled to {side} rows"
        )
        return {"rope": scaled}
    return {}
