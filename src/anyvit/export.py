"""Writing a model as its next reader expects it: names, layout, container, config, a record of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit import adaln, configs, containers, dialects, expected, fit, integrity, lazy, places, provenance, rewrite
from anyvit.adapt import Adapted
from anyvit.dialects.hf_deit import one_classifier
from anyvit.dtypes import ITEMSIZE, is_floating
from anyvit.errors import BadArgument, Unsayable
from anyvit.lazy import Checkpoint, Lazy
from anyvit.reading import Ask, Reading, understand
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.rules import Dialect
from anyvit.spec import PLAIN, Spec

if TYPE_CHECKING:
    from anyvit.containers.stream import Seal


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


def write_out(
    found: Reading,
    state: Adapted,
    out: Path,
    to: str | Dialect,
    *,
    dtype: Any,
    shard_size: int | None,
    chunks: int | None,
    durable: bool,
    check: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Report:
    """Write adapted tensors in a dialect, as a file or a folder.

    Raises:
        Unsayable: the target has no words for something the function needs; nothing is written.
        BadArgument: a suffix, type or number of chunks that does not exist.
        FileError: the target cannot be written; what was there stays as it was.
    """
    folder = places.is_folder(out)
    if shard_size is not None and not folder:
        raise BadArgument("shard_size is for a folder", found=str(out), expected="a path without suffix")
    said = say(state, to, chunks, folder=folder)
    tensors = _typed(said.tensors, dtype)
    report = _report(found, state, said, out)
    metadata = configs.provenance(said.fitted.spec, found.match, found.checkpoint, said.dialect)
    metadata |= provenance.record(found, said.dialect, report.findings, asked)
    beside = () if folder else places.described_otherwise(out)
    running = integrity.begin(found.checkpoint, found.tensors, check, found.spec)
    if folder:
        _write_folder(tensors, said.files, out, metadata, shard_size, durable, running.seal)
    else:
        containers.save(tensors, out, metadata=metadata, durable=durable, recorded=True, seal=running.seal)
    return report.adding(
        (*running.findings(), *provenance.recordless(out), *_untold(out, said.fitted.spec, said.dialect), *beside)
    )


def _untold(out: Path, spec: Spec, dialect: Dialect) -> tuple[Finding, ...]:
    """What a container without metadata has no place for and its reader has to be told."""
    if out.suffix.lower() != ".npz":
        return ()
    found = []
    if spec.grid is not None and spec.grid[0] != spec.grid[1]:
        cause = f"npz has no place for the grid of the position table, {spec.grid[0]} × {spec.grid[1]}"
        found.append(Finding("note", (), cause, f"its reader has to be told: grid=({spec.grid[0]}, {spec.grid[1]})"))
    if spec.in_chans != dialect.sizes.get("c", spec.in_chans):
        cause = f"npz has no place for the number of channels of linear patches, {spec.in_chans}"
        remedy = f'dialect=dataclasses.replace(anyvit.dialects.get("{dialect.name}"), sizes={{"c": {spec.in_chans}}})'
        found.append(Finding("note", (), cause, f"its reader has to be told: {remedy}"))
    return tuple(found)


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
    others = sorted(variants(chosen), key=lambda d: d.name != state.spec.dialect)
    for dialect in (chosen, *others):
        try:
            return _say(state, dialect, chunks, folder)
        except Unsayable as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


SKIPPED = ("-memory", "-chunked", "-scan", "-old", "-naflex", "-beside", "-linprobe")


def variants(dialect: Dialect) -> list[Dialect]:
    """Dialects of the same project for models that the first one has no words for (gated MLPs, registers).

    Example:
        >>> [d.name for d in variants(dialects.get("hf-dinov2"))]
        ['hf-dinov2-with-registers']
    """
    found = [d for d in dialects.ALL if d.name.startswith(dialect.name + "-") and not d.name.endswith(SKIPPED)]
    # nothing in the file says which rotary positions an EVA tower has
    return [d for d in found if not d.name.startswith("open_clip-eva")]


def _say(state: Adapted, dialect: Dialect, chunks: int | None, folder: bool) -> Said:
    """The tensors in one dialect, and its config files."""
    if dialect.name == "hf-deit" and "head_dist.weight" not in state.tensors:
        dialect = one_classifier(dialect)
    done = fitted(state, dialect, chunks)
    run = fit.express(done.tensors, done.spec, dialect, dialect.root + dialect.tower, chunks=chunks).run
    names = _without_tower(run.tensors, dialect)
    said = configs.write(done.spec, dialect.name, done.tensors)
    unsaid = said.unsaid if said.files and folder else assumed_otherwise(names, dialect, done.spec)
    _insist(dialect, done, unsaid)
    findings = tuple(_unsayable(name, why, done.spec) for name, why in unsaid.items())
    return Said(dialect, names, done, said.files, findings)


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
    if not dialect.name.startswith("big_vision"):
        done = fit.with_stored_positions(done, expected.grid_of(state.spec))
    if dialect.name in MASKLESS:
        done = fit.dropped(done, ("embed.mask",), "")
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


ROW_FOR_CLS = (
    "beit", "timm-beit", "hf-beit", "hf-data2vec", "eva-clip", "eva02", "moco", "ibot", "msn", "mmpretrain",
)  # fmt: skip
"""Dialects whose position table, where there is one, begins with a row for the class token; big_vision's never does.

Source: unilm beit/modeling_finetune.py, transformers modeling_beit.py, EVA-02 modeling_finetune.py, moco-v3 vits.py,
ibot models/vision_transformer.py, msn src/deit.py, mmpretrain models/backbones/vision_transformer.py: `num_patches + 1`
"""

MASKLESS = ("hf-vit", "hf-deit", "hf-vit-mae", "hf-vit-msn", "hf-vit-msn-beside", "hf-ijepa")
"""Dialects whose models have no mask token unless their code asks for one, which no config does."""


def rows_of(dialect: Dialect, state: fit.Fitted) -> int | None:
    """How many prefix rows the dialect's position tables have; None where any number will do.

    timm's have none or one for every prefix token (`no_embed_class`); big_vision's have none, for it adds positions
    before the class token; others that have rows have them for class tokens.

    Source: google-research/big_vision@0127fb6: big_vision/models/vit.py _Model ("Add posemb before adding extra token")
    """
    tensors = state.tensors
    have = tensors["embed.pos_prefix"].shape[0] if "embed.pos_prefix" in tensors else 0
    cls = tensors["embed.cls"].shape[0] if "embed.cls" in tensors else 0
    every = cls + int("embed.dist" in tensors) + (tensors["embed.reg"].shape[0] if "embed.reg" in tensors else 0)
    if "embed.pos_prefix" in dialect.requires or dialect.name.startswith(ROW_FOR_CLS):
        return cls + int("embed.dist" in tensors)
    if dialect.name.startswith("big_vision"):
        return 0
    if dialect.name.startswith(("timm", "open_clip-timm", "open_clip-eva")):
        return have if have in (0, every) else 0
    return None


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
    if dense in state.tensors and (dense not in done.tensors or dialect.name.startswith("hf-")):
        why = f"{dialect.name} has no dense layer between the pool and the classifier, which would be fed otherwise"
        return fit.dropped(done, fit.CLASSIFIER, why + "; it was left out")
    both = dialect.name.startswith(("hf-dinov2", "dinov2", "anyvit"))
    done = fit.with_head_for(done, configs.head_pool(dialect.name, done.tensors), both)
    if "head.weight" not in done.tensors:
        return done
    if not done.spec.pool_normed and not dialect.name.startswith(("hf-clip", "anyvit")):
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


def _typed(tensors: Mapping[str, Lazy], dtype: Any) -> dict[str, Lazy]:
    if dtype is None:
        return dict(tensors)
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in ITEMSIZE or not is_floating(dtype):
        raise BadArgument(
            "dtype is the name of a floating-point type", found=dtype, expected="float32, float16, bfloat16"
        )
    return {n: lazy.astype(t, dtype) if is_floating(t.dtype) else t for n, t in tensors.items()}


WHOLE = 1 << 62
"""A shard size that nothing exceeds: one file."""


def _write_folder(
    tensors: Mapping[str, Lazy],
    files: Mapping[str, object],
    out: Path,
    metadata: Mapping[str, str],
    shard_size: int | None,
    durable: bool,
    seal: Seal | None = None,
) -> None:
    from anyvit.containers import safetensors, swap

    texts = {name: json.dumps(content, indent=2, sort_keys=True).encode() + b"\n" for name, content in files.items()}
    with swap.atomic_folder(out, places.CONFIGS + safetensors.WEIGHTS, durable=durable) as folder:
        safetensors.write_sharded(
            tensors, folder, shard_size=WHOLE if shard_size is None else shard_size, metadata=metadata,
            durable=durable, recorded=True, seal=seal, beside=texts,
        )  # fmt: skip


def _report(found: Reading, state: Adapted, said: Said, out: Path) -> Report:
    from anyvit.into import source_fates

    changed = {"resized": (found.tensors, state.tensors), "folded": (state.tensors, said.fitted.tensors)}
    origins = {
        fate: {o for n, t in after.items() if before.get(n) is not t for o in t.origin}
        for fate, (before, after) in changed.items()
    }
    trails = tuple(Trail(n, t.origin, _fate(t, origins)) for n, t in said.tensors.items())
    made = {n: t for n, t in said.fitted.tensors.items() if not t.origin}
    proof = adaln.read_back(made, "on what is written")
    findings = (*state.findings, *said.fitted.findings, *said.findings, *proof, *_left_behind(found))
    report = found.report()
    return replace(
        report,
        target=str(out),
        spec=said.fitted.spec,
        trails=trails,
        fates=source_fates(found, said.tensors),
        findings=order((*report.findings, *findings)),
    )


def _fate(tensor: Lazy, origins: Mapping[str, set[str]]) -> str:
    if not tensor.origin:
        return "new"
    return next((fate for fate, those in origins.items() if those & set(tensor.origin)), "carried")


def _left_behind(found: Reading) -> Sequence[Finding]:
    names = [n for n, fate in found.fates.items() if fate == "outside"]
    if not names:
        return ()
    cause = f"only the image tower is written; {len(names)} tensors beside it (text tower, heads, optimizer) are not"
    return (Finding("outside", fold(names), cause),)
