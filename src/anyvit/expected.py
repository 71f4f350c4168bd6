"""What the reference ViT of a Spec holds: canonical names and shapes, told without building it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from anyvit.canon import B
from anyvit.conform import SPELT
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.spec import Spec, pair

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

UNUSED = ("local_cls_norm.weight", "local_cls_norm.bias", "rope.periods")
"""Canonical tensors that the reference ViT takes or leaves: it never uses them, or computes them."""

ZERO = ("head.bias", "head_dist.bias", "pre_logits.bias")
"""Biases of heads that some files lack; zeros say the same."""

LAMBDAS = {"vectors": ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"), "scalars": ("lambda_a", "lambda_b")}
ADALN: Mapping[str, tuple[str, ...]] = {
    "instantmesh": ("shift1", "scale1", "shift2", "scale2"),
    "dit": ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2"),
}
"""Conditioning scheme → the parts of the modulation of a block."""


def shapes(spec: Spec) -> dict[str, Shape]:
    """Canonical name → shape of everything that a model of this architecture cannot be built without.

    Example:
        >>> found = shapes(Spec(embed_dim=32, depth=2, num_heads=2, mlp_dim=48, patch_size=4, image_size=16))
        >>> found["embed.pos"], found["blocks.1.attn.q.weight"], "blocks.1.ls1" in found
        ((16, 32), (32, 32), False)
    """
    found = dict((*_embed(spec), *_tail(spec), *_pool(spec)))
    for i in range(spec.depth):
        found.update((B.format(i=i) + name, shape) for name, shape in _block(spec, i))
    return found


def grid_of(spec: Spec) -> tuple[int, int]:
    """Rows and columns of the stored position tables; (0, 0) where nothing says them."""
    if spec.grid is not None:
        return spec.grid
    height, width = pair(spec.image_size or 0)
    return height // spec.patch[0], width // spec.patch[1]


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(spec: Spec, name: str, width: int, kind: str | None = None) -> Named:
    yield f"{name}.weight", (width,)
    if (kind or spec.norm) == "layernorm" and spec.norm_bias:
        yield f"{name}.bias", (width,)


def _relative(spec: Spec) -> Shape:
    rows, columns = grid_of(spec)
    return (2 * rows - 1) * (2 * columns - 1) + 3 * (spec.num_prefix > 0), spec.num_heads


def _relative_mlp(spec: Spec, name: str) -> Named:
    yield from _linear(f"{name}.fc1", 2, spec.rel_mlp_dim or 0)
    yield from _linear(f"{name}.fc2", spec.rel_mlp_dim or 0, spec.num_heads, spec.rel_mlp_log == "log")


def _embed(spec: Spec) -> Named:
    d, kinds = spec.embed_dim, spec.pos_embed.split("+")
    rows, columns = grid_of(spec)
    yield "embed.patch.weight", (d, spec.in_chans, *spec.patch)
    for there, name, shape in (
        (spec.patch_bias, "embed.patch.bias", (d,)),
        (spec.num_cls, "embed.cls", (spec.num_cls, d)),
        (spec.dist_token, "embed.dist", (d,)),
        (spec.num_registers, "embed.reg", (spec.num_registers, d)),
        (spec.mask_token, "embed.mask", (d,)),
        ("learned" in kinds or "sincos" in kinds, "embed.pos", (rows * columns, d)),
        (spec.pos_prefix, "embed.pos_prefix", (spec.pos_prefix, d)),
        ("relpos_shared" in kinds, "embed.rel_pos", _relative(spec)),
        (spec.rope and spec.rope.mixed, "rope.freqs", (2, spec.depth, spec.num_heads, spec.heads_dim // 2)),
    ):
        if there:
            yield name, shape
    yield from _relative_mlp(spec, "embed.rel_mlp") if "relpos_mlp_shared" in kinds else ()
    yield from _norm(spec, "embed.patch_norm", d) if spec.patch_norm else ()
    yield from _norm(spec, "embed.norm", d) if spec.pre_norm else ()
    if spec.condition and spec.condition_inputs:
        yield from _linear("condition.fc1", spec.condition_inputs, d)
        yield from _linear("condition.fc2", d, d)


def _block(spec: Spec, number: int) -> Named:
    d, m, width = spec.embed_dim, spec.mlp_dim, spec.num_heads * spec.heads_dim
    aside = spec.ffn == "parallel_scaling"
    yield from (*_norm(spec, "norm1", d), *(() if aside else _norm(spec, "norm2", d)))
    for part in "qkv":
        yield from _linear(f"attn.{part}", d, width, spec.qkv_bias is True or (spec.qkv_bias == "qv" and part != "k"))
    yield from _linear("attn.out", width, d, spec.proj_bias)
    yield from _norm(spec, "attn.norm", width) if spec.attn_norm else ()
    for name in ("attn.q_norm", "attn.k_norm") if spec.qk_norm else ():
        full = spec.qk_norm == "full"
        each = spec.heads_dim // 2 if spec.diff_attn else spec.heads_dim
        yield from _norm(spec, name, width if full else each, "rmsnorm" if full else None)
    if spec.diff_attn:
        yield "attn.sub_norm.weight", (spec.heads_dim,)
        vectors = spec.diff_attn == "vectors"
        yield from ((f"attn.{name}", (spec.heads_dim // 2,) if vectors else ()) for name in LAMBDAS[spec.diff_attn])
    kinds = spec.pos_embed.split("+")
    rows, columns = (spec.window,) * 2 if spec.window and number not in spec.global_blocks else grid_of(spec)
    if "relpos" in kinds:
        yield "attn.rel_pos", _relative(spec)
    if "relpos_mlp" in kinds:
        yield from _relative_mlp(spec, "attn.rel_mlp")
    if "relpos_decomposed" in kinds:
        yield "attn.rel_pos_h", (2 * rows - 1, spec.heads_dim)
        yield "attn.rel_pos_w", (2 * columns - 1, spec.heads_dim)
    if spec.layer_scale:
        yield from (("ls1", (d,)), *((("ls2", (d,)),) if spec.mlp_layer_scale else ()))
    plain = aside or spec.ffn == "mlp"
    for name in ("mlp.fc1",) if plain else ("mlp.gate", "mlp.up"):
        yield from _linear(name, d, m, spec.mlp_bias)
    yield from _linear("mlp.fc2" if plain else "mlp.down", m, d, spec.mlp_bias and not (aside and spec.diff_attn))
    yield from _norm(spec, "mlp.norm", m) if spec.mlp_norm else ()
    for part in ADALN.get(spec.condition or "", ()):
        yield from _linear(f"adaln.{part}", d, d)


def pooled_width(spec: Spec) -> int:
    """Channels of the pooled vector, 0 where nothing is pooled."""
    d = spec.embed_dim
    if spec.pool == "cls":
        return d * (spec.num_cls if spec.summary is None else len(spec.summary))
    if spec.pool == "avg" and spec.neck_dim:
        return spec.neck_dim
    if spec.pool == "cls+avg":
        return (spec.pool_layers + 1) * d
    return {"none": 0, "map": spec.pool_dim or d, "attn_pool": spec.pool_dim or d}.get(spec.pool, d)


def _tail(spec: Spec) -> Named:
    d, width = spec.embed_dim, pooled_width(spec)
    yield from _norm(spec, "norm", d) if spec.final_norm in ("norm", "both") else ()
    yield from _norm(spec, "cls_norm", d) if spec.cls_norm else ()
    yield from _norm(spec, "fc_norm", width) if spec.final_norm in ("fc_norm", "both") else ()
    if spec.pre_logits_dim:
        yield from _linear("pre_logits", width, spec.pre_logits_dim)
        width = spec.pre_logits_dim
    if spec.projection_dim and spec.projection == "mlp":
        hidden = spec.projection_mlp_dim or 2 * spec.projection_dim
        yield from _linear("proj.fc1", width, hidden)
        yield from _linear("proj.fc2", hidden, spec.projection_dim, spec.projection_bias)
    elif spec.projection_dim:
        yield from _linear("proj", width, spec.projection_dim, spec.projection_bias)
    if spec.head_norm:
        yield from (("head_norm.mean", (width,)), ("head_norm.var", (width,)))
    if spec.num_classes and width:
        yield from _linear("head", width, spec.num_classes)
        yield from _linear("head_dist", width, spec.num_classes) if spec.pool == "cls+dist" else ()
    if spec.whiten:
        yield from (("whiten.mean", (d,)), ("whiten.weight", (d, d)))
    if n := spec.neck_dim:
        yield from (("neck.conv1.weight", (n, d, 1, 1)), ("neck.conv2.weight", (n, n, 3, 3)))
        for name in ("neck.norm1", "neck.norm2"):
            yield from ((f"{name}.weight", (n,)), (f"{name}.bias", (n,)))


def _pool(spec: Spec) -> Named:
    if spec.pool not in ("map", "attn_pool"):
        return
    d, width = spec.embed_dim, spec.pool_dim or spec.embed_dim
    yield "pool.query", (max(1, spec.pool_queries), width)
    for name, inputs in (("q", width), ("k", d), ("v", d)):
        if name != "q" or spec.pool_has_q:
            yield from _linear(f"pool.{name}", inputs, width, spec.pool_bias)
    yield from _linear("pool.out", width, width, spec.pool_out_bias)
    for norm, name, size in (("q", "norm_q", width), ("kv", "norm_kv", d), ("mlp", "norm", width)):
        yield from _norm(spec, f"pool.{name}", size) if norm in spec.pool_norms else ()
    if spec.pool_mlp_dim:
        yield from _linear("pool.mlp.fc1", width, spec.pool_mlp_dim)
        yield from _linear("pool.mlp.fc2", spec.pool_mlp_dim, width)


def zero_biases(tensors: Mapping[str, Lazy]) -> list[str]:
    """Biases of heads that are absent beside their matrices, where zeros say the same."""
    return [name for name in ZERO if name not in tensors and name.replace("bias", "weight") in tensors]


def differences(tensors: Mapping[str, Lazy], spec: Spec, spell: Callable[[str], str]) -> list[Finding]:
    """What keeps tensors from filling the model that their own Spec describes, each tensor of it.

    Arguments:
        tensors: canonical name → tensor.
        spec: the architecture that was inferred from them.
        spell: canonical name → name in the file's own words, for messages.
    """
    wanted = shapes(spec)
    zeros = [name for name in zero_biases(tensors) if name in wanted]
    missing = [name for name in wanted if name not in tensors and name not in zeros]
    surplus = [name for name in tensors if name not in wanted and name not in UNUSED]
    wrong = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    findings = []
    if missing:
        names = fold(dict.fromkeys(spell(name) for name in missing))
        cause = f"what the rest of the file asks for is missing ({len(missing)} of {len(wanted)} tensors)"
        findings.append(Finding("missing", names, cause, "the file was cut or edited; get it whole", True))
    if surplus:
        cause = f"{len(surplus)} of {len(tensors)} tensors have no place beside the rest of the file"
        findings.append(Finding("unexplained", _origins(tensors, surplus), cause, SPELT, True))
    if wrong:
        found, want = (
            ", ".join(dict.fromkeys(str(of(n)) for n in wrong[:3])) for of in (lambda n: tensors[n].shape, wanted.get)
        )
        cause = f"another shape than the rest of the file asks for: found {found}, expected {want}"
        findings.append(
            Finding("shape", _origins(tensors, wrong), cause, "the file mixes two models, or was edited", True)
        )
    if zeros:
        cause = "a head without a bias: zeros take its place"
        findings.append(Finding("assumed", tuple(spell(name) for name in zeros), cause))
    return findings


def _origins(tensors: Mapping[str, Lazy], names: Iterable[str]) -> tuple[str, ...]:
    return fold(dict.fromkeys(origin for name in names for origin in tensors[name].origin or (name,)))
