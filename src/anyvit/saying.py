"""A model said in a dialect: the names, the layout and the config files that its next reader expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anyvit import configs, dialects, expected, fit, rewrite
from anyvit.adapt import Adapted
from anyvit.errors import BadArgument, Unsayable
from anyvit.garbage import uncollected
from anyvit.lazy import Checkpoint, Lazy
from anyvit.reading import Ask, understand
from anyvit.report import Finding, fold
from anyvit.rules import Dialect
from anyvit.spec import PLAIN, Spec


@dataclass(frozen=True)
class Said:
    """A model in a dialect, ready to be written.

    Arguments:
        dialect: the table that was written by.
        tensors: its names → tensors.
        fitted: the canonical tensors that these are, their Spec and what was changed for it.
        files: file name → content, to be written beside the weights of a folder.
        findings: what the target cannot say.
    """

    dialect: Dialect
    tensors: Mapping[str, Lazy]
    fitted: fit.Fitted
    files: Mapping[str, dict[str, Any]]
    findings: tuple[Finding, ...] = ()


@uncollected
def say(state: Adapted, to: str | Dialect, chunks: int | None = None, *, folder: bool = True) -> Said:
    """The tensors in a dialect, or in the variant of it that has words for them; reads small tensors only.

    Arguments:
        state: canonical tensors and their Spec.
        to: the target.
        chunks: number of block chunks, for a dialect that has them.
        folder: whether config files can be written beside the weights.

    Raises:
        Unsayable: neither the dialect nor a variant of it has words for something the function needs.
        BadArgument: an unknown dialect, or chunks that it does not have.
    """
    chosen = to if isinstance(to, Dialect) else dialects.get(to)
    if chunks is not None and not chosen.chunked:
        cause = f"chunks= is for dialects with chunked blocks, {chosen.name} has none"
        raise BadArgument(cause, remedy='to="dinov2-chunked"')
    if chosen.chunked and not (chunks is None or 1 <= chunks <= state.spec.depth):
        raise BadArgument("chunks must lie between 1 and the depth", found=chunks, expected=f"1 to {state.spec.depth}")
    refusal: Unsayable | None = None
    others = sorted(map(dialects.get, chosen.also), key=lambda d: d.name != state.spec.dialect)
    for dialect in (chosen, *others):
        try:
            return _say(state, dialect, chunks, folder)
        except Unsayable as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


REGISTER = "register the model in timm (timm.models.register_model) and name it in the configuration"


def _say(state: Adapted, dialect: Dialect, chunks: int | None, folder: bool) -> Said:
    """The tensors in one dialect, and its config files."""
    for name, rules in dialect.instead.items():
        if name not in state.tensors:
            dialect = replace(dialect, rules=rules)
    done = fitted(state, dialect, chunks)
    run = fit.express(done.tensors, done.spec, dialect, dialect.root + dialect.tower, chunks=chunks).run
    names = _without_tower(run.tensors, dialect)
    said = configs.write(done.spec, dialect.name, done.tensors)
    unsaid = said.unsaid if said.files and folder else assumed_otherwise(names, dialect, done.spec)
    _insist(dialect, done, unsaid)
    findings = [_unsayable(name, why, done.spec) for name, why in unsaid.items()]
    findings += [Finding("note", (), text, REGISTER) for text in said.notes if folder]
    return Said(dialect, names, done, said.files, tuple(findings))


def fitted(state: Adapted, dialect: Dialect, chunks: int | None = None) -> fit.Fitted:
    """Canonical tensors as a dialect can say them; what its configs cannot say is rewritten where an identity does it.

    Arguments:
        state: canonical tensors and their Spec.
        dialect: the target.
        chunks: number of block chunks, for a dialect that has them.

    Raises:
        Unsayable: there are no words for something that decides the function.
    """
    done = fit.Fitted(state.tensors, state.spec)
    if not dialect.computes:
        done = fit.with_stored_positions(done, expected.grid_of(state.spec))
    if dialect.leaves:
        done = fit.dropped(done, dialect.leaves, "")
    unsaid: Mapping[str, str] = {}
    for _ in range(4):
        requires, rows = required(dialect, done.tensors), rows_of(dialect, done)
        prefix = dialect.root + dialect.tower
        written = fit.express(done.tensors, done.spec, dialect, prefix, chunks=chunks, requires=requires, rows=rows)
        done = _without_wrong_heads(done.then(written.fitted), state, dialect)
        unsaid = configs.write(done.spec, dialect.name, done.tensors).unsaid
        again = _rewritten(done, unsaid, dialect)
        if not again.findings:
            break
        done = done.then(again)
    _insist(dialect, done, unsaid)
    return done


def required(dialect: Dialect, tensors: Mapping[str, Lazy]) -> list[str]:
    """Canonical names that a reader of the dialect insists on and that are not there.

    A key bias is wanted where the query has one, unless the query's is wanted too.
    """
    asked = set(dialect.requires)
    numbers = rewrite.block_numbers(tensors)
    names = []
    for pattern in dialect.requires:
        for i in numbers if "{i}" in pattern else (0,):
            name = pattern.replace("{i}", str(i))
            beside = name.replace(".k.bias", ".q.bias")
            if name.endswith("attn.k.bias") and beside not in tensors and pattern.replace(".k.", ".q.") not in asked:
                continue
            names.append(name)
    return [n for n in names if n not in tensors]


def rows_of(dialect: Dialect, state: fit.Fitted) -> int | None:
    """How many prefix rows the dialect's position tables have; None where any number will do."""
    tensors = state.tensors
    have = tensors["embed.pos_prefix"].shape[0] if "embed.pos_prefix" in tensors else 0
    cls = tensors["embed.cls"].shape[0] if "embed.cls" in tensors else 0
    classes = cls + int("embed.dist" in tensors)
    every = classes + (tensors["embed.reg"].shape[0] if "embed.reg" in tensors else 0)
    kind = "cls" if "embed.pos_prefix" in dialect.requires else dialect.prefix_rows
    return {"cls": classes, "none": 0, "all": have if have in (0, every) else 0}.get(kind)


TURNS = {
    "patch_bias": ("embed.patch.bias",),
    "proj_bias": ("blocks.0.attn.out.bias",),
    "mlp_bias": ("blocks.0.mlp.fc2.bias", "blocks.0.mlp.down.bias"),
    "layer_scale": ("blocks.0.ls1", "blocks.0.ls2"),
    "pos_embed": ("embed.rel_pos",),
}
"""Spec fields that a rewrite turns round, with the canonical names that show them."""


def _rewritten(done: fit.Fitted, unsaid: Mapping[str, str], dialect: Dialect) -> fit.Fitted:
    """The rewrites that change what a config cannot say; no findings where there are none."""
    tensors = done.tensors
    lacks, wants = [], []
    for name, signs in TURNS.items():
        if name in unsaid:
            present = [sign for sign in signs if sign in tensors]
            lacks += present
            wants += [] if present else signs
    if "qkv_bias" in unsaid:
        parts = [f"blocks.0.attn.{part}.bias" for part in "qkv"]
        missing = [name for name in parts if name not in tensors]
        wants += missing
        lacks += [] if missing else [parts[1]]
    if "pool" in unsaid and "embed.norm.weight" in tensors and dialect.writing.match("proj.weight"):
        lacks.append("head.weight")
    return fit.fit(tensors, done.spec, lacks, wants) if lacks or wants else fit.Fitted(tensors, done.spec)


def _without_wrong_heads(done: fit.Fitted, state: Adapted, dialect: Dialect) -> fit.Fitted:
    """Without a classifier that the target's model would feed otherwise, or has no class for."""
    if "head.weight" not in done.tensors:
        return done
    dense = "pre_logits.weight"
    if dense in state.tensors and (dense not in done.tensors or "pooler" in dialect.classifier):
        why = f"{dialect.name} has no dense layer between the pool and the classifier, which would be fed otherwise"
        return fit.dropped(done, fit.CLASSIFIER, why + "; it was left out")
    pool = configs.head_pool(dialect.name, done.tensors)
    done = fit.with_head_for(done, pool, "cls+avg" in dialect.classifier)
    if "head.weight" not in done.tensors:
        return done
    if not done.spec.pool_normed and "unnormed" not in dialect.classifier:
        why = f"{dialect.name} pools after the final norm, and this classifier is fed tokens before it; it was left out"
        return fit.dropped(done, fit.CLASSIFIER, why)
    if "num_classes" in configs.write(done.spec, dialect.name, done.tensors).unsaid:
        return fit.dropped(done, fit.CLASSIFIER, f"models of {dialect.name} have no classifier; it was left out")
    return done


SOFT = {
    "eps", "act", "pool", "num_heads", "num_classes", "projection_dim", "projection", "projection_bias", "image_size",
    "mean", "std", "crop_pct", "interpolation", "resample", "rel_resample", "tokens_normed", "mask_token",
}  # fmt: skip
"""Spec fields that a user can still give to the target's model, or that only its head or its pictures depend on."""


def _insist(dialect: Dialect, done: fit.Fitted, unsaid: Mapping[str, str]) -> None:
    """Raises where the target's model always has, or never has, what decides the function."""
    lacking = [n for n in required(dialect, done.tensors) if not n.endswith("bias")]
    if "embed.cls" not in done.tensors and "embed.cls" not in dialect.requires:
        lacking = [n for n in lacking if n != "embed.pos_prefix"]
    hard = {name: why for name, why in unsaid.items() if name not in SOFT}
    if not lacking and not hard:
        return
    said = "; ".join(f"{name} {getattr(done.spec, name, '')}: {why}" for name, why in list(hard.items())[:4])
    if lacking:
        said = f"its models always have {', '.join(fold(lacking))}" + (f"; {said}" if said else "")
    raise Unsayable(
        f"the dialect {dialect.name} cannot say this model",
        names=tuple(hard) or fold(lacking),
        usual=said,
        remedy="convert to a dialect that can: anyvit dialects",
    )


def assumed_otherwise(tensors: Mapping[str, Lazy], dialect: Dialect, spec: Spec) -> dict[str, str]:
    """What a reader who has the tensors alone takes for granted and is otherwise here.

    Arguments:
        tensors: the dialect's names → tensors.
        dialect: the table that was written by.
        spec: the architecture that was written.
    """
    try:
        read = understand(Checkpoint(tensors, dialect.container), Ask(dialect=dialect, grid=spec.grid)).spec
    except BadArgument:
        return {}
    if read is None or read.lineage in ("anyvit", "unknown"):
        return {}
    source = f"readers of {dialect.name} files take"
    unsaid = {}
    for name in ("eps", "num_heads", "block_norm", "pool", "act"):
        mine, theirs = getattr(spec, name), getattr(read, name)
        if mine != theirs and (name != "pool" or spec.num_classes) and (name != "act" or spec.ffn in PLAIN):
            unsaid[name] = f"{source} {theirs}"
    if (spec.rope is None) != (read.rope is None):
        unsaid["rope"] = f"models of {dialect.name} {'never' if spec.rope else 'always'} rotate positions"
    return unsaid


def _unsayable(name: str, why: str, spec: Spec) -> Finding:
    value = getattr(spec, name, "")
    cause = f"{name} {value}: {why}"
    return Finding("unsayable", (name,), cause, f"build the reader's model with {name}={value!r}")


def _without_tower(tensors: Mapping[str, Lazy], dialect: Dialect) -> dict[str, Lazy]:
    """The names without the tower's prefix, where nothing stands beside the tower."""
    tower = dialect.root + dialect.tower
    if not dialect.tower or any(not name.startswith(tower) for name in tensors):
        return dict(tensors)
    return {dialect.root + name[len(tower) :]: tensor for name, tensor in tensors.items()}
