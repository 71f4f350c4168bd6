"""Exact rewrites that a user may want for their own sake: LayerScale folded or added, norms folded into matrices."""

from __future__ import annotations

from anyvit import rewrite
from anyvit.adapted import Adapted, Tensors
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.spec import Spec


def layer_scale(tensors: Tensors, spec: Spec, wanted: bool) -> Adapted:
    """LayerScale of ones added (exact), or multiplied into the matrices before it (exact but for rounding).

    Arguments:
        tensors, spec: the model.
        wanted: whether there is to be one.
    """
    if wanted:
        done = rewrite.unit_layer_scale(tensors)
        text, exact = "LayerScale of ones was added as asked", True
        changes = {"layer_scale": True, "mlp_layer_scale": True}
    else:
        done = rewrite.fold_layer_scale(tensors, post=spec.block_norm == "post")
        text, exact = "LayerScale was folded into the matrices before it as asked", False
        changes = {"layer_scale": False}
    return _said(tensors, spec, done, text, exact, changes, "the argument layer_scale=")


def fuse_norms(tensors: Tensors, spec: Spec) -> Adapted:
    """Scales and shifts of the norms before both branches multiplied into the matrices behind them.

    The norms stay with scales of one and shifts of zero, so that any layout can say the model.

    Raises:
        BadArgument: something stands between norms and matrices: modulation, or the zeros that fill windows; or the
            norms stand behind the branches, or one feeds both.
    """
    reasons = {
        "modulation stands between norms and matrices": spec.condition is not None,
        "windows are filled up with zeros behind the norm": spec.window is not None,
        "the norms stand behind the branches": spec.block_norm == "post",
        "one norm feeds both branches": spec.ffn.startswith("parallel"),
    }
    for why, holds in reasons.items():
        if holds:
            raise BadArgument(f"the norms cannot be folded into matrices: {why}")
    done = rewrite.fold_norms(tensors)
    biases = {"qkv_bias": True, "mlp_bias": spec.mlp_bias or spec.norm_bias} if spec.norm_bias else {}
    if spec.norm_bias and not spec.mlp_bias and done is not None:
        done = rewrite.zero_biases(done, [rewrite.MLP_LAST[spec.ffn == "mlp"]]) or done
    text = "scales and shifts of the norms were folded into the matrices behind them as asked"
    return _said(tensors, spec, done, text, False, biases, "the argument fuse_norms=")


def _said(
    tensors: Tensors, spec: Spec, done: dict[str, Lazy] | None, text: str, exact: bool, changes: dict[str, bool],
    argument: str,
) -> Adapted:  # fmt: skip
    if done is None:
        return Adapted(tensors, spec)
    how = "the function is unchanged" if exact else "the function is unchanged but for rounding"
    gone = dict.fromkeys(o for n, t in tensors.items() if done.get(n) is not t for o in t.origin)
    new = dict.fromkeys(n for n in done if n not in tensors)
    finding = Finding("folded", fold(gone or new), f"{text}; {how}")
    return Adapted(done, spec.with_facts("given", argument, **changes), (finding,))
