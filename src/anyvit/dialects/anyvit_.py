"""The names of our own reference model: canonical ones, with q/k/v and AdaLN fused."""

from __future__ import annotations

from anyvit.canon import NAMES
from anyvit.dialects.timm import QKV, B
from anyvit.rules import Dialect, R, Rule

_FUSED = tuple(B + start for start in ("attn.q.", "attn.k.", "attn.v.", "adaln."))
_OWN = tuple(R(name.pattern, name.pattern) for name in NAMES if not name.pattern.startswith(_FUSED))


def _adaln(*parts: str) -> tuple[Rule, ...]:
    ours = B + f"adaln.[{'|'.join(parts)}]"
    return (
        R(B + "adaln.weight", ours + ".weight", "(parts d1) d2 -> parts d1 d2"),
        R(B + "adaln.bias", ours + ".bias", QKV),
    )


def _dialect(name: str, title: str, *parts: str, also: tuple[str, ...] = ()) -> Dialect:
    rules = (*_OWN, R(B + "attn.qkv.{p}", B + "attn.[q|k|v].{p}", QKV), *_adaln(*parts))
    return Dialect(name, rules, "anyvit model/vit.py", title, "anyvit", classifier=("cls+avg", "unnormed"), also=also)


ANYVIT = _dialect("anyvit", "anyvit's reference ViT", "shift1", "scale1", "shift2", "scale2", also=("anyvit-dit",))

ANYVIT_DIT = _dialect(
    "anyvit-dit", "anyvit's reference ViT with DiT's gates", "shift1", "scale1", "gate1", "shift2", "scale2", "gate2"
)

DIALECTS = (ANYVIT, ANYVIT_DIT)
