"""Parts that come together: what the code of a spelling always makes beside what a file holds.

A file that lost every tensor of one kind still makes a model, one without that kind, and computes something else. These
laws name what no released code leaves out.

Source: found by taking each kind of tensor out of 429 released checkpoints (`tests/test_companions.py`); the code that
decides is named at each law.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from anyvit.spec import Spec


class Lost(NamedTuple):
    """A part that is missing.

    Arguments:
        name: its canonical name, of the first block where it is in all.
        cause: why it should be there.
        sure: whether no released model of this spelling lacks it; else it is worth a look.
    """

    name: str
    cause: str
    sure: bool = True


class Scene:
    """What a file holds of a tower.

    Arguments:
        spec: its architecture.
        names: canonical names.
    """

    def __init__(self, spec: Spec, names: Iterable[str]) -> None:
        self.spec = spec
        self.kinds = {re.sub(r"^blocks\.\d+\.", "blocks.0.", name) for name in names}

    def has(self, *kinds: str) -> bool:
        """Whether one of these is there."""
        return not self.kinds.isdisjoint(kinds)

    def within(self, *dialects: str) -> bool:
        """Whether the dialect's name begins like one of these."""
        return self.spec.dialect.startswith(dialects)


Law = Callable[[Scene], Iterator[Lost]]
ATTENTION, POOL = "blocks.0.attn.", "pool."
BARE = ("hf-radio-memory", "open_clip", "open_clip-clipa", "radio")
"""Dialects in which a patch kernel without a bias may stand without a norm behind the patches: CLIPA, RADIO's linear
patches (NVlabs/RADIO radio/vit_patch_generator.py)."""
BIASED = (
    "big_vision", "deit", "dino-", "dinov2", "google-", "hf-clip", "hf-sam", "hf-siglip", "ibot", "ijepa", "jeonsworld",
    "lukemelas", "mae", "moco", "msn", "open_clip", "openai-clip", "pe", "sam", "torchvision",
)  # fmt: skip
"""Dialects whose code always gives q, k and v biases: nn.MultiheadAttention, flax's MultiHeadDotProductAttention, and
factories that say qkv_bias=True."""
ONE_SCALE = ("hf-sapiens2", "sapiens2", "timm-eva-apart-glu", "timm-parallel")
"""Dialects of blocks with one LayerScale: Sapiens2's attention, blocks with attention and MLP side by side."""


def lost(spec: Spec, names: Iterable[str]) -> list[Lost]:
    """What is missing beside what is there.

    Arguments:
        spec: the architecture that the names show.
        names: canonical names.

    Returns:
        The parts; none of our own files, which are whole, and of names that nobody knows.
    """
    if spec.dialect.startswith("anyvit") or spec.dialect == "draft":
        return []
    scene = Scene(spec, names)
    return [part for law in LAWS for part in law(scene)]


def biases(scene: Scene) -> Iterator[Lost]:
    """One option decides of the biases of a block's projections: timm's proj_bias, everybody else's bias=True."""
    inner = [kind for kind in scene.kinds if kind.startswith("blocks.0.mlp.") and kind.endswith(".bias")]
    linear = [kind for kind in inner if "norm" not in kind]
    if linear and not scene.has(f"{ATTENTION}out.bias"):
        yield Lost(
            f"{ATTENTION}out.bias", "the MLPs of the blocks have biases, the projections of their attention none"
        )
    bare = not scene.has(*(f"{ATTENTION}{part}.bias" for part in "qkv")) and scene.has(f"{ATTENTION}out.bias")
    if bare and (scene.within(*BIASED) or scene.spec.dialect == "dino"):
        yield Lost(f"{ATTENTION}q.bias", "q, k and v have no biases, which models of this spelling always have")
    elif bare and scene.spec.dialect == "timm-eva" and scene.spec.pos_embed == "learned":
        yield Lost(f"{ATTENTION}q.bias", "q, k and v have no biases, which EVA and DeiT III always have", sure=False)
    elif bare and scene.spec.dialect == "timm":
        yield Lost(
            f"{ATTENTION}q.bias", "q, k and v have no biases, which few models of this spelling lack", sure=False
        )


def patches(scene: Scene) -> Iterator[Lost]:
    """A patch kernel has a bias unless a norm follows (timm: bias=not pre_norm)."""
    if not scene.has("embed.patch.bias") and not scene.spec.pre_norm and scene.spec.dialect not in BARE:
        yield Lost("embed.patch.bias", "the patch kernel has no bias, and no norm behind it stands in for one")


def scales(scene: Scene) -> Iterator[Lost]:
    """LayerScale stands behind both branches of a block."""
    there = [name for name in ("ls1", "ls2") if scene.has(f"blocks.0.{name}")]
    if len(there) == 1 and not scene.within(*ONE_SCALE):
        other = "ls2" if there == ["ls1"] else "ls1"
        yield Lost(f"blocks.0.{other}", "LayerScale stands behind one branch of the blocks, and not behind the other")
    if not there and scene.within("timm-eva-apart-glu"):
        yield Lost("blocks.0.ls1", "the blocks have no LayerScale, which models of this spelling always have")


def pools(scene: Scene) -> Iterator[Lost]:
    """An attention pool has the biases of its MLP in its projections too."""
    if not scene.has(f"{POOL}mlp.fc1.bias") or scene.within("aimv2"):
        return
    for part, what in (("out", "projection"), ("q", "query"), ("v", "value")):
        if not scene.has(f"{POOL}{part}.bias"):
            yield Lost(f"{POOL}{part}.bias", f"the {what} of the attention pool has no bias, its MLP has")


def gated(scene: Scene) -> Iterator[Lost]:
    """AIMv2 has RMSNorm, gated MLPs and a norm behind the patches (ml-aim aim-v2/aim/v2/torch)."""
    plain = scene.spec.norm == "rmsnorm"
    if scene.spec.dialect == "aim" and plain:
        cause = "RMSNorm goes with gated MLPs (AIMv2), and one of their two matrices is missing"
        yield Lost("blocks.0.mlp.up.weight", cause)
    made = scene.within("aimv2", "hf-aimv2", "timm-swiglu") or scene.spec.dialect == "timm-eva-swiglu"
    if made and plain and not scene.has("embed.patch_norm.weight"):
        yield Lost("embed.patch_norm.weight", "the norm behind the patches is missing, which these models always have")


def tokens(scene: Scene) -> Iterator[Lost]:
    """DINOv3 is released with a class token and registers, its code makes it without; of timm's rotary models those that
    average have no class token, and one register or four."""
    spec = scene.spec
    rotary = spec.pos_embed == "rope"
    averaged = spec.dialect == "timm" and spec.pos_embed == "learned" and spec.layer_scale and spec.qkv_bias is True
    if averaged and not spec.num_cls and not spec.num_registers:
        yield Lost(
            "embed.cls", "there is no class token, which hardly a model with LayerScale lacks (DeiT III)", sure=False
        )
    if scene.within("dinov3", "hf-dinov3") and not spec.num_registers:
        yield Lost("embed.reg", "there are no registers, which every released model of this spelling has", sure=False)
    if not rotary or not scene.within("timm-eva") or scene.within("timm-eva-rope"):
        return
    if not spec.num_registers and (spec.qkv_bias is not True or scene.within("timm-eva-apart-glu")):
        cause = "there are no registers, which released rotary models with such biases have (DINOv3, Sapiens2)"
        yield Lost("embed.reg", f"{cause}; or relative positions are missing, where it is a BEiT", sure=False)
    if not spec.num_cls and spec.num_registers != 1:
        cause = "there is no class token, which released models with registers like these have (DINOv3, Sapiens2)"
        yield Lost("embed.cls", cause, sure=False)


def positions(scene: Scene) -> Iterator[Lost]:
    """Of timm's rotary models only those with LayerScale have no table (timm/models/eva.py); big_vision's models with a
    class token or an attention pool learn theirs (big_vision/configs)."""
    spec = scene.spec
    eva = scene.within("timm-eva", "open_clip-eva") and not spec.layer_scale and not spec.pre_norm
    if eva and spec.pos_embed == "rope":
        yield Lost("embed.pos", "the position table is missing, which rotary models without LayerScale have beside it")
    if scene.within("big_vision") and spec.pos_embed == "sincos_unstored" and (spec.num_cls or spec.pool == "map"):
        yield Lost("embed.pos", "the position table is missing, which models with such a pool always learn")
    if scene.within("beit", "hf-beit", "timm-beit") and spec.pos_embed == "none":
        yield Lost("embed.pos", "no positions of any kind are there, which no released BEiT lacks", sure=False)


def heads(scene: Scene) -> Iterator[Lost]:
    """The representation layer of ViT's first code is a linear layer with a bias."""
    if scene.has("pre_logits.weight") and not scene.has("pre_logits.bias"):
        yield Lost("pre_logits.bias", "the representation layer before the head has no bias, which it always has")


CALM = "the last matrix of the MLP of relative positions has no bias, which only Swin's way leaves out"


def offsets(scene: Scene) -> Iterator[Lost]:
    """timm's relative positions by an MLP have a bias in both of its matrices but in Swin's way (timm/layers/pos_embed_rel.py,
    rel_pos_type="mlp_swin")."""
    for mlp in ("embed.rel_mlp", f"{ATTENTION}rel_mlp"):
        if scene.has(f"{mlp}.fc1.bias") and not scene.has(f"{mlp}.fc2.bias"):
            yield Lost(f"{mlp}.fc2.bias", CALM, sure=False)


LAWS: tuple[Law, ...] = (biases, patches, scales, pools, gated, tokens, positions, heads, offsets)
