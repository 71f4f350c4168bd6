"""The architecture of canonical tensors: measured where names and shapes tell it, else given, else assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

from anyvit.conform import depth_of, width_of
from anyvit.dialects.lineages import Lineage
from anyvit.lazy import Lazy
from anyvit.spec import PLAIN, Fact, Spec, pair, single

Grid = tuple[int, int]


@dataclass(frozen=True)
class Clues:
    """What is known beside the tensors.

    Arguments:
        lineage: where the weights come from.
        given: facts from configs and arguments, by Spec field.
        sizes: axis sizes that the layout showed ("heads", "gh", "gw").
        dialect: the dialect's name.
        ignored: names in the file that carry nothing (a mask of the key bias).
    """

    lineage: Lineage
    given: Mapping[str, Fact]
    sizes: Mapping[str, frozenset[int]]
    dialect: str
    ignored: Mapping[str, str]


def infer(tensors: Mapping[str, Lazy], clues: Clues) -> Spec:
    """The Spec of canonical tensors, each value with its evidence.

    Arguments:
        tensors: canonical name → tensor.
        clues: what is known beside them.
    """
    facts: dict[str, Fact] = {}
    for part in (_size, _embed, _block, _mlp, _tail, _extras):
        facts.update(part(tensors, facts))
    facts.update(_positions(tensors, clues, facts))
    for name, value in clues.lineage.facts.items():
        stored = name == "pos_embed" and facts[name].value == "learned"
        if name not in facts or stored:
            facts[name] = Fact(value, "assumed", f"lineage {clues.lineage.name}: {clues.lineage.source}")
    if "rope" not in facts["pos_embed"].value:
        facts["rope"] = Fact(None, facts["pos_embed"].how, "positions are not rotated")
    facts.update(_given(clues, facts))
    facts.update(_activation(facts, clues))
    facts.update(_heads(tensors, clues, facts))
    if any(".ffns.1." in name for name in clues.ignored):
        facts["ffn"] = _measured("mlp_x2", "parallel blocks: two attentions and two MLPs stand side by side in each")
    facts.update(_final(tensors, facts, clues))
    values = {name: fact.value for name, fact in facts.items() if name in Spec.__dataclass_fields__}
    return Spec(**values, dialect=clues.dialect, lineage=clues.lineage.name, facts=facts)


def _measured(value: Any, source: str) -> Fact:
    return Fact(value, "measured", source)


def _shape(tensors: Mapping[str, Lazy], name: str) -> str:
    tensor = tensors[name]
    return f"shape {tensor.shape} of {tensor.origin[0] if tensor.origin else name}"


def _size(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    numbers = depth_of(tensors)
    return {
        "embed_dim": _measured(width_of(tensors), "length of the norms"),
        "depth": _measured(len(numbers), f"blocks {numbers[0]} to {numbers[-1]}" if numbers else "no blocks"),
    }


def _embed(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    kernel = tensors.get("embed.patch.weight")
    if kernel is not None and len(kernel.shape) == 4:
        why = _shape(tensors, "embed.patch.weight")
        found["patch_size"] = _measured(single((kernel.shape[2], kernel.shape[3])), why)
        found["in_chans"] = _measured(kernel.shape[1], why)
    for field, name in (("patch_bias", "embed.patch.bias"), ("patch_norm", "embed.patch_norm.weight"),
                        ("pre_norm", "embed.norm.weight"), ("dist_token", "embed.dist"),
                        ("mask_token", "embed.mask")):  # fmt: skip
        found[field] = _measured(name in tensors, f"{name} is {'present' if name in tensors else 'absent'}")
    for field, name in (("num_cls", "embed.cls"), ("num_registers", "embed.reg")):
        there = name in tensors
        found[field] = _measured(
            tensors[name].shape[0] if there else 0, _shape(tensors, name) if there else f"no {name}"
        )
    return found


def _block(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    def has(name: str) -> bool:
        return f"blocks.0.{name}" in tensors

    def presence(name: str) -> Fact:
        return _measured(has(name), f"blocks.N.{name} is {'present' if has(name) else 'absent'}")

    biases = [has(f"attn.{part}.bias") for part in "qkv"]
    qkv: bool | str = "qv" if biases == [True, False, True] else all(biases)
    rms = has("norm1.weight") and not any(n.endswith(("norm1.bias", "norm2.bias")) for n in tensors)
    found = {
        "qkv_bias": _measured(qkv, "biases of q, k and v: " + ", ".join("present" if b else "absent" for b in biases)),
        "layer_scale": presence("ls1"),
        "mlp_layer_scale": _measured(has("ls2") or not has("ls1"), "LayerScale of the MLP branch"),
        "proj_bias": presence("attn.out.bias"),
        "attn_norm": presence("attn.norm.weight"),
        "mlp_norm": presence("mlp.norm.weight"),
        "norm_bias": presence("norm1.bias"),
        "norm": _measured("rmsnorm", "norms without a bias") if rms else _measured("layernorm", "norms with a bias"),
    }
    width = facts["embed_dim"].value
    if has("attn.q_norm.weight"):
        size = tensors["blocks.0.attn.q_norm.weight"].shape[0]
        found["qk_norm"] = _measured(
            "full" if size == width else "head", _shape(tensors, "blocks.0.attn.q_norm.weight")
        )
    else:
        found["qk_norm"] = _measured(False, "no q_norm")
    if has("attn.sub_norm.weight"):
        kind = "scalars" if has("attn.lambda_a") else "vectors"
        found["diff_attn"] = _measured(kind, "lambda and sub_norm: the difference of two softmax maps")
    if has("adaln.shift1.weight"):
        kind = "dit" if has("adaln.gate1.weight") else "instantmesh"
        found["condition"] = _measured(kind, "AdaLN modulation in every block")
        inputs = tensors["condition.fc1.weight"].shape[1] if "condition.fc1.weight" in tensors else None
        found["condition_inputs"] = _measured(inputs, "columns of the camera embedder")
    else:
        found["condition"] = _measured(None, "no AdaLN modulation in the blocks")
    return found


def _mlp(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    gate, up = (tensors.get(f"blocks.0.mlp.{name}.weight") for name in ("gate", "up"))
    if gate is not None and up is not None:
        fused = bool(gate.origin) and len(set(gate.origin) & set(up.origin)) == 1 and gate.origin == up.origin
        kind = "swiglu_fused" if fused else "swiglu"
        if fused and gate.origin[0].endswith("fc1.weight"):
            kind = "glu_fused"
        last, why = "blocks.0.mlp.down.weight", f"gate and up {'in one tensor' if fused else 'apart'}"
    else:
        kind, last, why = "mlp", "blocks.0.mlp.fc2.weight", "two matrices, no gate"
    if "blocks.0.norm2.weight" not in tensors:
        kind, why = "parallel_scaling", "one norm for attention and MLP: they stand side by side"
    found = {"ffn": _measured(kind, why)}
    if last in tensors:
        found["mlp_dim"] = _measured(tensors[last].shape[-1], _shape(tensors, last))
        bias = f"blocks.0.mlp.{'gate' if gate is not None else 'fc1'}.bias"
        found["mlp_bias"] = _measured(bias in tensors, f"{bias} is {'present' if bias in tensors else 'absent'}")
    return found


def _tail(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    norm, after = "norm.weight" in tensors, "fc_norm.weight" in tensors
    kind = "both" if norm and after else "norm" if norm else "fc_norm" if after else None
    present = [name for name in ("norm", "fc_norm") if f"{name}.weight" in tensors]
    found = {"final_norm": _measured(kind, "present: " + (", ".join(present) or "no final norm"))}
    found["cls_norm"] = _measured("cls_norm.weight" in tensors, "a norm of its own for cls")
    head = tensors.get("head.weight")
    found["num_classes"] = (
        _measured(head.shape[0], _shape(tensors, "head.weight")) if head is not None else _measured(0, "no head")
    )
    found["head_norm"] = _measured("head_norm.mean" in tensors, "running statistics before the head")
    found["whiten"] = _measured("whiten.weight" in tensors, "a feature normalizer")
    for field, name in (("pre_logits_dim", "pre_logits.weight"), ("neck_dim", "neck.conv1.weight")):
        if name in tensors:
            found[field] = _measured(tensors[name].shape[0], _shape(tensors, name))
    for name, kind in (("proj.weight", "linear"), ("proj.fc2.weight", "mlp")):
        if name in tensors:
            found["projection_dim"] = _measured(tensors[name].shape[0], _shape(tensors, name))
            found["projection"] = _measured(kind, f"{name} is present")
            bias = name.replace("weight", "bias")
            found["projection_bias"] = _measured(
                bias in tensors, f"{bias} is {'present' if bias in tensors else 'absent'}"
            )
    if "proj.fc1.weight" in tensors:
        found["projection_mlp_dim"] = _measured(tensors["proj.fc1.weight"].shape[0], _shape(tensors, "proj.fc1.weight"))
    return found


def _extras(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> dict[str, Fact]:
    if not any(name.startswith("pool.") for name in tensors):
        return {}
    norms = tuple(
        n for n, key in (("q", "norm_q"), ("kv", "norm_kv"), ("mlp", "norm")) if f"pool.{key}.weight" in tensors
    )
    mlp = tensors.get("pool.mlp.fc1.weight")
    query = tensors.get("pool.query")
    return {
        "pool_norms": _measured(norms, "norms of the attention pool"),
        "pool_mlp_dim": _measured(mlp.shape[0] if mlp is not None else None, "MLP of the attention pool"),
        "pool_queries": _measured(query.shape[-2] if query is not None else 0, "queries of the attention pool"),
        "pool_bias": _measured("pool.v.bias" in tensors, "bias of the attention pool"),
        "pool_out_bias": _measured("pool.out.bias" in tensors, "bias of the attention pool's output"),
        "pool_dim": _measured(_pool_width(tensors, facts), "width of the attention pool"),
        "pool_has_q": _measured("pool.q.weight" in tensors, "query matrix of the attention pool"),
    }


def _pool_width(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> int | None:
    """The width of an attention pool, None where it is the trunk's."""
    out = tensors.get("pool.out.weight")
    width = out.shape[0] if out is not None else facts["embed_dim"].value
    return None if width == facts["embed_dim"].value else width


def _positions(tensors: Mapping[str, Lazy], clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    table, prefix = tensors.get("embed.pos"), tensors.get("embed.pos_prefix")
    found["pos_prefix"] = _measured(prefix.shape[0] if prefix is not None else 0, "prefix rows of the position table")
    kinds = ["learned"] if table is not None else []
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
    found.update(_relative_mlp(tensors))
    if "rope" in clues.lineage.facts and _rotates(tensors, clues):
        kinds.append("rope")
    found["pos_embed"] = _measured("+".join(kinds) or "none", "position tensors that are present")
    given = clues.given.get("pos_embed")
    if not kinds and given is not None and given.value == "sincos_unstored":
        found["pos_embed"] = given
    elif not kinds and "sincos" in clues.lineage.facts:
        why = f"no table in the file: {clues.lineage.name} computes sin-cos positions"
        found["pos_embed"] = Fact("sincos_unstored", "assumed", why)
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


def _relative_mlp(tensors: Mapping[str, Lazy]) -> dict[str, Fact]:
    """The MLP from offsets to biases; only the one on plain logarithms has a bias at its end (timm's RelPosMlp)."""
    name = next((n for n in ("embed.rel_mlp.", "blocks.0.attn.rel_mlp.") if n + "fc1.weight" in tensors), None)
    if name is None:
        return {}
    bias = name + "fc2.bias"
    return {
        "rel_mlp_dim": _measured(tensors[name + "fc1.weight"].shape[0], _shape(tensors, name + "fc1.weight")),
        "rel_mlp_log": _measured(
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
        grid = _measured(((sides[0] + 1) // 2, (sides[1] + 1) // 2), "rows of rel_pos_h and rel_pos_w")
    else:
        rows = tensors[name].shape[0] - (3 if facts["num_cls"].value else 0)
        grid = _table_grid(rows, patch, clues) or _measured(_square(rows), _shape(tensors, name))
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
    return {"window": _measured(min(sizes.values()), why), "global_blocks": _measured(whole, why)}


def _rotates(tensors: Mapping[str, Lazy], clues: Clues) -> bool:
    """Whether a model of a lineage with rotary positions uses them (EVA-01, the first EVA-CLIP and the first CroCo do not)."""
    if clues.lineage.name in ("eva", "eva-clip", "timm-eva", "eva02-finetuned", "eva02-mim"):
        stored = any("rope" in name for name in clues.ignored) or "rope.freqs" in tensors
        return stored or "blocks.0.mlp.gate.weight" in tensors
    return clues.lineage.name != "croco" or "embed.pos" not in tensors


def _grid(rows: int, clues: Clues) -> Fact | None:
    given = clues.given.get("grid")
    if given is not None and given.value and given.value[0] * given.value[1] == rows:
        return Fact(tuple(given.value), given.how, given.source)
    if len(h := clues.sizes.get("gh", ())) == 1 and len(w := clues.sizes.get("gw", ())) == 1:
        return _measured((next(iter(h)), next(iter(w))), "the position table keeps its two axes")
    size, patch = clues.given.get("image_size"), clues.given.get("patch_size")
    if size is not None and patch is not None:
        (height, width), (p, q) = pair(size.value), pair(patch.value)
        if (height // p) * (width // q) == rows:
            return Fact((height // p, width // q), "given", size.source)
    side = isqrt(rows)
    return _measured((side, side), f"{rows} rows are {side} × {side}") if side * side == rows else None


def _given(clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Given facts, except where names and shapes show otherwise."""
    keep = {"eps", "act", "num_heads", "head_dim", "mean", "std", "resample", "interpolation", "crop_pct", "rope", "pool",
            "summary", "pool_heads", "window", "global_blocks", "block_norm", "rel_resample", "tokens_normed",
            "pool_normed"}  # fmt: skip
    own = any("anyvit.spec" in fact.source for fact in clues.given.values())
    found = {n: fact for n, fact in clues.given.items() if n in keep and (fact.value is not None or own)}
    if "image_size" in clues.given and "image_size" not in facts:
        found["image_size"] = clues.given["image_size"]
    return found


def _activation(facts: Mapping[str, Fact], clues: Clues) -> dict[str, Fact]:
    if facts["ffn"].value not in PLAIN and "act" not in clues.given:
        return {"act": Fact("silu", "assumed", "gated MLPs of Vision Transformers use SiLU (SwiGLU)")}
    if "act" not in facts:
        return {"act": Fact("gelu", "assumed", "nothing in the file says it; erf GELU is the usual one")}
    return {}


def _heads(tensors: Mapping[str, Lazy], clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    width = facts["embed_dim"].value
    if "num_heads" in facts and facts["num_heads"].value >= 1:  # a config may say 0
        return {}
    if len(heads := clues.sizes.get("heads", ())) == 1:
        return {"num_heads": _measured(next(iter(heads)), "the head axis of the attention kernels")}
    for name in ("embed.rel_pos", "blocks.0.attn.rel_pos"):
        if name in tensors and tensors[name].shape[-1]:
            return {"num_heads": _measured(tensors[name].shape[-1], _shape(tensors, name))}
    channels = None
    if facts["qk_norm"].value == "head":
        channels = tensors["blocks.0.attn.q_norm.weight"].shape[0], "length of q_norm"
    if "blocks.0.attn.sub_norm.weight" in tensors:
        channels = tensors["blocks.0.attn.sub_norm.weight"].shape[0], "length of sub_norm"
    for name in ("embed.rel_mlp.fc2.weight", "blocks.0.attn.rel_mlp.fc2.weight"):
        if name in tensors:
            return {"num_heads": _measured(tensors[name].shape[0], _shape(tensors, name))}
    sam = next((t for n, t in tensors.items() if n.endswith("attn.rel_pos_h")), None)
    if sam is not None:
        channels = sam.shape[-1], "channels of rel_pos_h"
    if "rope.periods" in tensors:
        channels = tensors["rope.periods"].shape[0] * 4, "rope.periods has a quarter of a head's channels"
    if channels and 0 < channels[0] <= width:
        return {"num_heads": _measured(width // channels[0], f"{channels[1]}: {channels[0]} channels a head")}
    return {"num_heads": _assumed_heads(width, clues.lineage)}


def _assumed_heads(width: int, lineage: Lineage) -> Fact:
    if width in lineage.heads:
        return Fact(
            lineage.heads[width], "assumed", f"width {width} has {lineage.heads[width]} heads: {lineage.source}"
        )
    for channels in (lineage.head_dim, 64, 32, 48, 80, 16, 8):
        if width and width % channels == 0:
            return Fact(width // channels, "assumed", f"{channels} channels a head, as lineage {lineage.name} has")
    return Fact(1, "assumed", "no usual head size divides the width")


def _final(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact], clues: Clues) -> dict[str, Fact]:
    """What follows from several facts: the pool."""
    found: dict[str, Fact] = {}
    if clues.dialect.startswith(("hf-clip", "hf-siglip")) and "head.weight" in tensors:
        why = f"the classifier of {clues.dialect} is fed the mean of the patches"
        found["pool"] = _measured("avg", why)
        if clues.dialect.startswith("hf-clip"):
            found["pool_normed"] = _measured(False, why + ", before post_layernorm")
    elif "pool" not in facts or "head_dist.weight" in tensors:
        found["pool"] = _pool(tensors, facts)
        if found["pool"].value == "cls+avg":
            why = "the head takes the class tokens of so many blocks, and the mean of the patches"
            found["pool_layers"] = _measured(_head_widths(tensors, facts) - 1, why)
    rope = facts["rope"].value
    if rope is not None and rope.reference == NATIVE and facts.get("grid"):
        side = facts["grid"].value[0]
        found["rope"] = Fact(
            replace(rope, reference=side), facts["rope"].how, f"{facts['rope'].source}; scaled to {side} rows"
        )
    if any(n.startswith("pool.") for n in tensors):
        found["pool"] = _measured(
            "map" if "pool.mlp.fc1.weight" in tensors and not clues.dialect.startswith("pe") else "attn_pool",
            "an attention pool is present",
        )
        if "pool_heads" not in facts:
            found["pool_heads"] = Fact(facts["num_heads"].value, "assumed", "as many heads as the trunk")
    return found


NATIVE = 0
"""A `Rope.reference` that stands for the rows of the model's own grid."""


def _head_widths(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> int:
    """How many widths of a token the classifier of one class token takes, 0 where that is no whole number."""
    head, width = tensors.get("head.weight"), facts["embed_dim"].value
    if head is None or not width or facts["num_cls"].value != 1 or len(head.shape) != 2 or head.shape[1] % width:
        return 0
    return head.shape[1] // width if head.shape[1] // width <= facts["depth"].value + 1 else 0


def _pool(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> Fact:
    if (times := _head_widths(tensors, facts)) > 1:
        return _measured("cls+avg", f"the head takes {times} times the width")
    alone = "head_dist.weight" not in tensors and ("head.weight" in tensors or "pre_logits.weight" in tensors)
    if facts["dist_token"].value and alone:
        return _measured("cls", "a distillation token is present, but one head, which reads the class token")
    if facts["dist_token"].value and "pre_logits.weight" not in tensors:
        return _measured("cls+dist", "a distillation token is present")
    if "fc_norm.weight" in tensors:
        return _measured("avg", "a norm after pooling is present")
    if facts["num_cls"].value:
        return Fact("cls", "assumed", "a class token is present")
    return Fact("avg", "assumed", "there is no class token")
