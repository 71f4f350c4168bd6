"""How many heads a ViT has and what it pools: from shapes, else from its lineage."""

from __future__ import annotations

from collections.abc import Mapping

from anyvit.clues import Clues, measured, shape_of
from anyvit.dialects.lineages import Lineage
from anyvit.lazy import Lazy
from anyvit.spec import Fact


def heads(tensors: Mapping[str, Lazy], clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The head count, where no config gives it: from axes and lengths that have it, else from the lineage.

    Arguments:
        tensors: canonical name → tensor.
        clues: what is known beside them.
        facts: what is known so far, by Spec field.
    """
    width = facts["embed_dim"].value
    if "num_heads" in facts and facts["num_heads"].value >= 1:  # a config may say 0
        return {}
    if len(count := clues.sizes.get("heads", ())) == 1:
        return {"num_heads": measured(next(iter(count)), "the head axis of the attention kernels")}
    for name in ("embed.rel_pos", "blocks.0.attn.rel_pos"):
        if name in tensors and tensors[name].shape[-1]:
            return {"num_heads": measured(tensors[name].shape[-1], shape_of(tensors, name))}
    channels = None
    if facts["qk_norm"].value == "head":
        channels = tensors["blocks.0.attn.q_norm.weight"].shape[0], "length of q_norm"
    if "blocks.0.attn.sub_norm.weight" in tensors:
        channels = tensors["blocks.0.attn.sub_norm.weight"].shape[0], "length of sub_norm"
    for name in ("embed.rel_mlp.fc2.weight", "blocks.0.attn.rel_mlp.fc2.weight"):
        if name in tensors:
            return {"num_heads": measured(tensors[name].shape[0], shape_of(tensors, name))}
    sam = next((t for n, t in tensors.items() if n.endswith("attn.rel_pos_h")), None)
    if sam is not None:
        channels = sam.shape[-1], "channels of rel_pos_h"
    if "rope.periods" in tensors:
        channels = tensors["rope.periods"].shape[0] * 4, "rope.periods has a quarter of a head's channels"
    if channels and 0 < channels[0] <= width:
        return {"num_heads": measured(width // channels[0], f"{channels[1]}: {channels[0]} channels a head")}
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


def pooling(tensors: Mapping[str, Lazy], clues: Clues, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """What is pooled, and from how many blocks and heads.

    Arguments:
        tensors: canonical name → tensor.
        clues: what is known beside them.
        facts: what is known so far, by Spec field; `num_heads` among it.
    """
    found: dict[str, Fact] = {}
    if clues.dialect.startswith(("hf-clip", "hf-siglip")) and "head.weight" in tensors:
        why = f"the classifier of {clues.dialect} is fed the mean of the patches"
        found["pool"] = measured("avg", why)
        if clues.dialect.startswith("hf-clip"):
            found["pool_normed"] = measured(False, why + ", before post_layernorm")
    elif "pool" not in facts or "head_dist.weight" in tensors:
        found["pool"] = _pool(tensors, facts)
        if found["pool"].value == "cls+avg":
            why = "the head takes the class tokens of so many blocks, and the mean of the patches"
            found["pool_layers"] = measured(_head_widths(tensors, facts) - 1, why)
    if any(n.startswith("pool.") for n in tensors):
        found["pool"] = measured(
            "map" if "pool.mlp.fc1.weight" in tensors and not clues.dialect.startswith("pe") else "attn_pool",
            "an attention pool is present",
        )
        if "pool_heads" not in facts:
            found["pool_heads"] = Fact(facts["num_heads"].value, "assumed", "as many heads as the trunk")
    return found


def _head_widths(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> int:
    """How many widths of a token the classifier of one class token takes, 0 where that is no whole number."""
    head, width = tensors.get("head.weight"), facts["embed_dim"].value
    if head is None or not width or facts["num_cls"].value != 1 or len(head.shape) != 2 or head.shape[1] % width:
        return 0
    return head.shape[1] // width if head.shape[1] // width <= facts["depth"].value + 1 else 0


def _pool(tensors: Mapping[str, Lazy], facts: Mapping[str, Fact]) -> Fact:
    if (times := _head_widths(tensors, facts)) > 1:
        return measured("cls+avg", f"the head takes {times} times the width")
    alone = "head_dist.weight" not in tensors and ("head.weight" in tensors or "pre_logits.weight" in tensors)
    if facts["dist_token"].value and alone:
        return measured("cls", "a distillation token is present, but one head, which reads the class token")
    if facts["dist_token"].value and "pre_logits.weight" not in tensors:
        return measured("cls+dist", "a distillation token is present")
    if "fc_norm.weight" in tensors:
        return measured("avg", "a norm after pooling is present")
    if facts["num_cls"].value:
        return Fact("cls", "assumed", "a class token is present")
    return Fact("avg", "assumed", "there is no class token")
