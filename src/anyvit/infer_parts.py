"""What names and shapes say of the parts of a ViT: embedding, blocks, MLP, heads and pools."""

from __future__ import annotations

from collections.abc import Mapping

from anyvit.clues import measured, shape_of
from anyvit.conform import depth_of, width_of
from anyvit.lazy import Lazy
from anyvit.spec import Fact, single

Facts = Mapping[str, Fact]


def parts(tensors: Mapping[str, Lazy]) -> dict[str, Fact]:
    """Every fact that the presence and the shapes of canonical tensors show, positions and head counts apart.

    Arguments:
        tensors: canonical name → tensor.
    """
    facts: dict[str, Fact] = {}
    for part in (_size, _embed, _block, _mlp, _tail, _extras):
        facts.update(part(tensors, facts))
    return facts


def _size(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
    numbers = depth_of(tensors)
    return {
        "embed_dim": measured(width_of(tensors), "length of the norms"),
        "depth": measured(len(numbers), f"blocks {numbers[0]} to {numbers[-1]}" if numbers else "no blocks"),
    }


def _embed(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    kernel = tensors.get("embed.patch.weight")
    if kernel is not None and len(kernel.shape) == 4:
        why = shape_of(tensors, "embed.patch.weight")
        found["patch_size"] = measured(single((kernel.shape[2], kernel.shape[3])), why)
        found["in_chans"] = measured(kernel.shape[1], why)
    for field, name in (("patch_bias", "embed.patch.bias"), ("patch_norm", "embed.patch_norm.weight"),
                        ("pre_norm", "embed.norm.weight"), ("dist_token", "embed.dist"),
                        ("mask_token", "embed.mask")):  # fmt: skip
        found[field] = measured(name in tensors, f"{name} is {'present' if name in tensors else 'absent'}")
    for field, name in (("num_cls", "embed.cls"), ("num_registers", "embed.reg")):
        there = name in tensors
        found[field] = measured(
            tensors[name].shape[0] if there else 0, shape_of(tensors, name) if there else f"no {name}"
        )
    return found


def _block(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
    def has(name: str) -> bool:
        return f"blocks.0.{name}" in tensors

    def presence(name: str) -> Fact:
        return measured(has(name), f"blocks.N.{name} is {'present' if has(name) else 'absent'}")

    biases = [has(f"attn.{part}.bias") for part in "qkv"]
    qkv: bool | str = "qv" if biases == [True, False, True] else all(biases)
    rms = has("norm1.weight") and not any(n.endswith(("norm1.bias", "norm2.bias")) for n in tensors)
    found = {
        "qkv_bias": measured(qkv, "biases of q, k and v: " + ", ".join("present" if b else "absent" for b in biases)),
        "layer_scale": presence("ls1"),
        "mlp_layer_scale": measured(has("ls2") or not has("ls1"), "LayerScale of the MLP branch"),
        "proj_bias": presence("attn.out.bias"),
        "attn_norm": presence("attn.norm.weight"),
        "mlp_norm": presence("mlp.norm.weight"),
        "norm_bias": presence("norm1.bias"),
        "norm": measured("rmsnorm", "norms without a bias") if rms else measured("layernorm", "norms with a bias"),
    }
    width = facts["embed_dim"].value
    if has("attn.q_norm.weight"):
        size = tensors["blocks.0.attn.q_norm.weight"].shape[0]
        found["qk_norm"] = measured(
            "full" if size == width else "head", shape_of(tensors, "blocks.0.attn.q_norm.weight")
        )
    else:
        found["qk_norm"] = measured(False, "no q_norm")
    if has("attn.sub_norm.weight"):
        kind = "scalars" if has("attn.lambda_a") else "vectors"
        found["diff_attn"] = measured(kind, "lambda and sub_norm: the difference of two softmax maps")
    if has("adaln.shift1.weight"):
        kind = "dit" if has("adaln.gate1.weight") else "instantmesh"
        found["condition"] = measured(kind, "AdaLN modulation in every block")
        inputs = tensors["condition.fc1.weight"].shape[1] if "condition.fc1.weight" in tensors else None
        found["condition_inputs"] = measured(inputs, "columns of the camera embedder")
    else:
        found["condition"] = measured(None, "no AdaLN modulation in the blocks")
    return found


def _mlp(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
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
    found = {"ffn": measured(kind, why)}
    if last in tensors:
        found["mlp_dim"] = measured(tensors[last].shape[-1], shape_of(tensors, last))
        bias = f"blocks.0.mlp.{'gate' if gate is not None else 'fc1'}.bias"
        found["mlp_bias"] = measured(bias in tensors, f"{bias} is {'present' if bias in tensors else 'absent'}")
    return found


def _tail(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
    norm, after = "norm.weight" in tensors, "fc_norm.weight" in tensors
    kind = "both" if norm and after else "norm" if norm else "fc_norm" if after else None
    present = [name for name in ("norm", "fc_norm") if f"{name}.weight" in tensors]
    found = {"final_norm": measured(kind, "present: " + (", ".join(present) or "no final norm"))}
    found["cls_norm"] = measured("cls_norm.weight" in tensors, "a norm of its own for cls")
    head = tensors.get("head.weight")
    found["num_classes"] = (
        measured(head.shape[0], shape_of(tensors, "head.weight")) if head is not None else measured(0, "no head")
    )
    found["head_norm"] = measured("head_norm.mean" in tensors, "running statistics before the head")
    found["whiten"] = measured("whiten.weight" in tensors, "a feature normalizer")
    for field, name in (("pre_logits_dim", "pre_logits.weight"), ("neck_dim", "neck.conv1.weight")):
        if name in tensors:
            found[field] = measured(tensors[name].shape[0], shape_of(tensors, name))
    for name, kind in (("proj.weight", "linear"), ("proj.fc2.weight", "mlp")):
        if name in tensors:
            found["projection_dim"] = measured(tensors[name].shape[0], shape_of(tensors, name))
            found["projection"] = measured(kind, f"{name} is present")
            bias = name.replace("weight", "bias")
            found["projection_bias"] = measured(
                bias in tensors, f"{bias} is {'present' if bias in tensors else 'absent'}"
            )
    if "proj.fc1.weight" in tensors:
        found["projection_mlp_dim"] = measured(
            tensors["proj.fc1.weight"].shape[0], shape_of(tensors, "proj.fc1.weight")
        )
    return found


def _extras(tensors: Mapping[str, Lazy], facts: Facts) -> dict[str, Fact]:
    if not any(name.startswith("pool.") for name in tensors):
        return {}
    norms = tuple(
        n for n, key in (("q", "norm_q"), ("kv", "norm_kv"), ("mlp", "norm")) if f"pool.{key}.weight" in tensors
    )
    mlp = tensors.get("pool.mlp.fc1.weight")
    query = tensors.get("pool.query")
    return {
        "pool_norms": measured(norms, "norms of the attention pool"),
        "pool_mlp_dim": measured(mlp.shape[0] if mlp is not None else None, "MLP of the attention pool"),
        "pool_queries": measured(query.shape[-2] if query is not None else 0, "queries of the attention pool"),
        "pool_bias": measured("pool.v.bias" in tensors, "bias of the attention pool"),
        "pool_out_bias": measured("pool.out.bias" in tensors, "bias of the attention pool's output"),
        "pool_dim": measured(_pool_width(tensors, facts), "width of the attention pool"),
        "pool_has_q": measured("pool.q.weight" in tensors, "query matrix of the attention pool"),
    }


def _pool_width(tensors: Mapping[str, Lazy], facts: Facts) -> int | None:
    """The width of an attention pool, None where it is the trunk's."""
    out = tensors.get("pool.out.weight")
    width = out.shape[0] if out is not None else facts["embed_dim"].value
    return None if width == facts["embed_dim"].value else width
