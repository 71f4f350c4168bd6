"""The architecture of canonical tensors: measured where names and shapes tell it, else given, else assumed."""

from __future__ import annotations

from collections.abc import Mapping

from anyvit.clues import Clues, measured
from anyvit.infer_heads import heads, pooling
from anyvit.infer_parts import parts
from anyvit.infer_positions import native_rope, positions
from anyvit.lazy import Lazy
from anyvit.spec import PLAIN, Fact, Spec


def infer(tensors: Mapping[str, Lazy], clues: Clues) -> Spec:
    """The Spec of canonical tensors, each value with its evidence.

    Arguments:
        tensors: canonical name → tensor.
        clues: what is known beside them.
    """
    facts = parts(tensors)
    facts.update(positions(tensors, clues, facts))
    for name, value in clues.lineage.facts.items():
        stored = name == "pos_embed" and facts[name].value == "learned"
        if name not in facts or stored:
            facts[name] = Fact(value, "assumed", f"lineage {clues.lineage.name}: {clues.lineage.source}")
    if "rope" not in facts["pos_embed"].value:
        facts["rope"] = Fact(None, facts["pos_embed"].how, "positions are not rotated")
    facts.update(_given(clues, facts))
    facts.update(_activation(facts, clues))
    facts.update(heads(tensors, clues, facts))
    if any(".ffns.1." in name for name in clues.ignored):
        facts["ffn"] = measured("mlp_x2", "parallel blocks: two attentions and two MLPs stand side by side in each")
    facts.update(native_rope(facts))
    facts.update(pooling(tensors, clues, facts))
    values = {name: fact.value for name, fact in facts.items() if name in Spec.__dataclass_fields__}
    return Spec(**values, dialect=clues.dialect, lineage=clues.lineage.name, facts=facts)


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
