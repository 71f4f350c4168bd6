"""What keeps a file from being read for sure: what is wrong with it, what is only assumed, what it is instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt

from anyvit import canon, companions, conform, diagnose, foreign
from anyvit.lazy import Lazy
from anyvit.recognise import Match, block_prefixes
from anyvit.report import Finding, fold
from anyvit.rules import CHECK, Fault, Run, parent
from anyvit.spec import Fact, Spec
from anyvit.translate import CLASS_TOKENS, is_table


def spell(match: Match, name: str) -> str:
    """The file's spelling of a canonical name that it lacks, by its dialect or by one that explains it as well."""
    tables = (match.dialect, *(rival.dialect for rival in match.rivals))
    for hit in (hit for table in tables for hit in table.writing.match(name)):
        theirs = hit.item.sides[0]
        places = hit.alls if len(theirs.lists) == len(hit.alls) else (0,) * len(theirs.lists)
        text = theirs.fill({"_": 0, **hit.numbers}, hit.ones, places)
        return (parent(match.prefix) if theirs.beside else match.prefix) + text
    return name


def instead(
    findings: Sequence[Finding], match: Match, canonical: Mapping[str, Lazy], kinds: Sequence[str]
) -> list[Finding]:
    """What the file is instead, where something is wrong; and models that compute more than their tower's tensors say."""
    outside = foreign.of_type(kinds) or foreign.otherwise((*match.outside, *match.unexplained))
    if outside is not None:
        return [outside]
    doubtful = any(f.fatal and f.kind in ("unexplained", "missing", "shape") for f in findings)
    named = any(f.kind in ("not a ViT", "quantised", "damaged") for f in findings)
    rest = match.unexplained if "embed.patch.weight" in canonical else (*match.unexplained, *match.outside)
    found = foreign.family(rest) if doubtful and not named else None
    return [] if found is None else [found]


def problems(
    match: Match, run: Run, canonical: Mapping[str, Lazy], source: Mapping[str, Lazy], facts: Mapping[str, Fact]
) -> list[Finding]:
    """What does not fit together, and what became of names that no tensor of the tower is made of.

    Arguments:
        match: how the file was recognised.
        run: its tensors, read by the dialect.
        canonical: what was made of them.
        source: the file's tensors.
        facts: what is given.
    """
    told = "ffn" in facts and facts["ffn"].value == "parallel_scaling"
    findings = _misread(match, run, canonical, source, told or match.dialect.lineage == "anyvit")
    signs = diagnose.signs(match.unexplained)
    findings = [*signs, *findings, *_left_over(match, run)]
    if match.dialect.name == DRAFT:
        findings = [replace(f, remedy=MEND) if f.remedy == conform.SPELT else f for f in findings]
    elif _irregular(match):
        rows = f'anyvit dialects {match.dialect.name} --json > mine.json, add their rows, dialect="mine.json"'
        kinds = ("missing", "unexplained")
        findings = [replace(f, remedy=rows) if f.kind in kinds and f.fatal and f.names else f for f in findings]
    backbone = {n: t for n, t in canonical.items() if canon.is_backbone(n)}
    return findings + [*diagnose.element_types(backbone), *([] if signs else diagnose.short_floats(backbone))]


def _misread(
    match: Match, run: Run, canonical: Mapping[str, Lazy], source: Mapping[str, Lazy], one_norm: bool
) -> list[Finding]:
    """Shapes that do not fit, parts without the rest, names claimed twice, blocks that are not whole."""
    turned = [f for f in run.faults if "attn.[q|k|v]" in (f.rule.ours or "") and conform.is_turned(source[f.names[0]])]
    findings = [*conform.turned([f.names[0] for f in turned], source)]
    for fault in run.faults:
        if fault in turned:
            continue
        if fault.rule.ours != "embed.[pos_prefix|pos]" or "not known" not in fault.text:
            cause = fault.text + _spare_row(fault, source)
            findings.append(Finding("shape", fold(fault.names), cause, None, True))
    if run.partial:
        lacking = tuple(dict.fromkeys(match.prefix + n for names in run.partial.values() for n in names))
        cause = "tensors that belong together are not all there"
        findings.append(
            Finding("missing", fold(lacking), f"{cause}: beside {', '.join(fold(run.partial)[:3])}", None, True)
        )
    findings += _head_counts(run, source)
    for target, sources in run.conflicts.items():
        findings.append(Finding("conflict", sources, f"several tensors claim {target}", "remove one of them", True))
    checked = conform.check(canonical, lambda name: spell(match, name), (), source, one_norm=one_norm)
    findings += [f for f in checked if not (f.kind == "missing" and (turned or (run.faults and not f.names)))]
    return findings


def _head_counts(run: Run, source: Mapping[str, Lazy]) -> list[Finding]:
    """Kernels that keep the head axis and do not agree on its length."""
    if len(run.sizes.get("heads", ())) < 2:
        return []
    counts: dict[int, list[str]] = {}
    for name, rule in run.used.items():
        letters = (rule.axes or "").partition("->")[0].split()
        if "heads" in letters and len(letters) == len(source[name].shape):
            counts.setdefault(source[name].shape[letters.index("heads")], []).append(name)
    fewest = min(counts.values(), key=len, default=[])
    cause = f"attention kernels disagree on the head count: {', '.join(map(str, sorted(run.sizes['heads'])))}"
    return [Finding("shape", fold(fewest)[:6], cause, "the file mixes two models, or was edited", True)]


def _spare_row(fault: Fault, source: Mapping[str, Lazy]) -> str:
    """What to add where a table of a grid is stored as rows, one of them for a class token (ViTDet, EfficientSAM)."""
    shape = source[fault.names[0]].shape
    if fault.rule.ours != "embed.pos" or len(shape) != 3 or isqrt(shape[1] - 1) ** 2 != shape[1] - 1:
        return ""
    side = isqrt(shape[1] - 1)
    return f"; {shape[1]} rows are {side} × {side} and one for a class token, which is not there"


DRAFT = "draft"
"""The name of a dialect that was drafted from names and shapes."""
MEND = 'name them yourself: anyvit draft FILE --out mine.json, mend its rows, dialect="mine.json"'


def _irregular(match: Match) -> bool:
    """Whether names inside some blocks, and not inside the others, are unknown."""
    starts = block_prefixes(match.dialect)
    found = [m for n in match.in_blocks for s in starts if (m := s.match(n[len(match.prefix) :]))]
    blocks = {m.group() for m in found}
    depth = 1 + max((hit.numbers.get("i", 0) for hit in match.hits.values()), default=0)
    return 0 < len(blocks) < depth


def _left_over(match: Match, run: Run) -> list[Finding]:
    """Names of the file that became nothing: unexplained, beside the tower, or known to carry nothing."""
    findings = []
    hidden = {n for names in run.partial.values() for n in names}
    inside, before = match.in_blocks, diagnose.before_blocks(match)
    for where, names in (("inside", inside), ("before", before)):
        if names:
            cause = f"{len(names)} tensors {where} the blocks are not explained by {match.dialect.name}"
            cause += "; they may change the function"
            findings.append(Finding("unexplained", fold(names), cause, conform.SPELT, True))
    rest = [n for n in match.unexplained if n not in {*inside, *before} and n not in hidden]
    if rest:
        findings.append(
            Finding("outside", fold(rest), f"{len(rest)} tensors beside the blocks are not part of the tower")
        )
    if match.outside:
        findings.append(_outside(match.outside, match.prefix))
    for why in dict.fromkeys(run.ignored.values()):
        names = [n for n, w in run.ignored.items() if w == why]
        kind = "outside" if why.startswith("outside") else "ignored"
        findings.append(Finding(kind, fold(names), why.removeprefix("outside: ")))
    return findings


def _outside(names: Sequence[str], prefix: str) -> Finding:
    shared = parent(prefix) if prefix.count(".") > 1 else ""
    heads: dict[str, int] = {}
    for name in names:
        inner = name[len(shared) :] if name.startswith(shared) else name
        top = inner.split(".", 1)[0].split("/", 1)[0]
        heads[top] = heads.get(top, 0) + 1
    text = ", ".join(f"{top} ({count})" for top, count in list(heads.items())[:8])
    text_tower = any(
        word in top.lower() for top in heads for word in ("text", "token_embedding", "language", "transformer")
    )
    kind = "other tower, heads or optimizer"
    if text_tower:
        kind = "text tower or language model, heads"
    return Finding("outside", fold(names)[:8], f"{len(names)} tensors outside the image tower ({kind}): {text}")


TABLELESS = ("beit", "hf-beit", "hf-data2vec", "timm-beit", "anyvit")
"""Dialects whose models store every kind of position that they have: where no table is in the file, there is none."""


def assumed(
    spec: Spec | None, canonical: Mapping[str, Lazy], insisted: bool, facts: Mapping[str, Fact], run: Run, match: Match
) -> list[Finding]:
    """What is only assumed where it changes the function, what is absent that should be there, and what is unusual.

    Arguments:
        spec: the architecture; None where it cannot be told.
        canonical: the tensors.
        insisted: whether the caller names the dialect: then what it lacks is meant so.
        facts: what is given.
        run: the file's tensors, read by the dialect.
        match: how the file was recognised.
    """
    if spec is None:
        return []
    return [*_guesses(spec, facts, run), *_absent(spec, insisted, facts, run, match), *_unusual(spec, canonical)]


def alone(
    spec: Spec, canonical: Mapping[str, Lazy], insisted: bool, facts: Mapping[str, Fact], match: Match
) -> list[Finding]:
    """Parts that are missing beside what is there (`companions`), in a file with which nothing else is wrong.

    Arguments:
        spec, canonical, insisted, facts, match: as for `assumed`.
    """
    findings = []
    told = {name for name, fact in facts.items() if fact.value in (False, None, 0, "none")}
    for name, cause, sure in companions.lost(spec, canonical):
        if FACTS.get(name) in told:
            continue
        remedy = "the file was cut or edited; get it whole"
        remedy += f'; dialect="{match.dialect.name}" says that it is meant so'
        findings.append(Finding("missing", (spell(match, name),), cause, remedy, sure and not insisted))
    return findings


FACTS = {
    "blocks.0.attn.q.bias": "qkv_bias", "embed.reg": "num_registers", "embed.cls": "num_cls", "embed.pos": "pos_embed",
    "blocks.0.ls1": "layer_scale", "blocks.0.ls2": "layer_scale", "pre_logits.bias": "pre_logits",
}  # fmt: skip
"""Canonical name → the fact by which a configuration says that there is no such part."""


REMEDIES = {
    "num_heads": "heads=…", "eps": 'facts={"eps": …}', "act": 'facts={"act": …}', "block_norm": 'facts={"block_norm": …}',
}  # fmt: skip
"""Fact → the argument that insists on another value."""


def _guesses(spec: Spec, facts: Mapping[str, Fact], run: Run) -> list[Finding]:
    findings = []
    if "t" in run.sizes and "num_cls" not in facts and any("token.token" in n for n in run.used):
        cause = f"one tensor holds class tokens and registers; the first {CLASS_TOKENS} are taken for class tokens"
        findings.append(Finding("assumed", ("num_cls",), cause))
    for why in dict.fromkeys(rule.why for rule in run.used.values() if rule.why.startswith(CHECK)):
        names = fold(name for name, rule in run.used.items() if rule.why == why)
        findings.append(Finding("assumed", names, why.removeprefix(CHECK)))
    doubtful = [("num_heads", "head count"), ("eps", "norm epsilon"), ("act", "activation"), ("in_chans", "channels")]
    if spec.block_norm != "pre":
        doubtful.append(("block_norm", "norms inside the blocks stand after each branch:"))
    if spec.pos_embed == "sincos_unstored" or (spec.pos_embed == "rope" and spec.pre_norm):
        doubtful.append(("pos_embed", "positions"))
    for name, what in doubtful:
        fact = spec.facts.get(name)
        if fact is not None and fact.how == "assumed":
            table = f'dialect=dataclasses.replace(anyvit.dialects.get("{spec.dialect}"), sizes={{"c": …}})'
            remedy = table if name == "in_chans" else REMEDIES.get(name)
            findings.append(Finding("assumed", (name,), f"{what} {fact.value}: {fact.source}", remedy))
    if spec.embed_dim % max(spec.num_heads, 1) and spec.facts["num_heads"].how == "given":
        cause = f"{spec.num_heads} heads do not divide the width {spec.embed_dim}"
        fitting = [n for n in range(1, spec.embed_dim + 1) if spec.embed_dim % n == 0]
        near = min(fitting, key=lambda n: abs(n - spec.num_heads))
        findings.append(Finding("shape", (), cause, f"heads={near} would", True))
    return findings


def _absent(spec: Spec, insisted: bool, facts: Mapping[str, Fact], run: Run, match: Match) -> list[Finding]:
    """Positions and a final norm that such a model has and the file lacks."""
    findings = []
    if spec.pos_embed == "none" and not any(_of_table(f) for f in run.faults) and not _without_positions(spec):
        cause = (
            "the file holds no positions: its model computes them (rotary, sin-cos) or has none, and nothing says which"
        )
        remedy = f'get the whole file; dialect="{match.dialect.name}" says that it is meant so'
        spelt = [spell(one, "embed.pos") for one in (match, *match.rivals)]
        name = next((name for name in spelt if name != "embed.pos"), "embed.pos")
        findings.append(Finding("missing", (name,), cause, remedy, not insisted))
    headed = spec.dialect == "timm-sam" and not spec.neck_dim  # timm's classifiers on SAM's encoder have no table
    tabled = spec.dialect.startswith(TABLED) and not headed
    if spec.pos_embed in ("rope", "relpos_decomposed") and tabled:
        names = (spell(match, "embed.pos"),)
        cause = "the position table is missing, which models of this spelling have beside the others"
        findings.append(Finding("missing", names, cause, "the file was cut or edited; get it whole", not insisted))
    if not spec.num_cls and spec.dialect.startswith(CLASSED):
        cause = "the class token is missing, which models of this spelling always have"
        remedy = "the file was cut or edited; get it whole"
        findings.append(Finding("missing", (spell(match, "embed.cls"),), cause, remedy, not insisted))
    return findings + _unnormed(spec, insisted, facts)


def _unnormed(spec: Spec, insisted: bool, facts: Mapping[str, Fact]) -> list[Finding]:
    """A final norm that is missing: the last thing in a file, and so the first that a part of it lacks."""
    told = "final_norm" in facts and facts["final_norm"].value is None
    if spec.final_norm is not None or told or not _always_normed(spec):
        return []
    cause = "there is no final norm: this looks like the first shard of a larger checkpoint"
    if not spec.num_cls:
        cause += ", or like an encoder that rotates positions too and is normed elsewhere (Qwen3-VL)"
    remedy = f'open the folder with all shards; dialect="{spec.dialect}" says that it is meant so'
    if spec.num_classes:
        cause, remedy = "there is no final norm before the head", "the file was cut or edited; get it whole"
    return [Finding("missing", ("norm.weight", "norm.bias"), cause, remedy, not insisted)]


def _of_table(fault: Fault) -> bool:
    """Whether a position table is there, but does not fit."""
    return is_table(fault) or fault.rule.ours == "embed.pos"


def _unusual(spec: Spec, canonical: Mapping[str, Lazy]) -> list[Finding]:
    """A grid that is open, patches that are not square, channels without a mean, blocks that the model lacks."""
    findings = []
    table = canonical.get("embed.pos")
    if table is not None and spec.grid is None:
        cause = f"the grid of the position table cannot be told: {table.shape[0]} rows are no square"
        findings.append(Finding("ambiguous", table.origin, cause, "grid=(rows, columns)", True))
    kernel = canonical["embed.patch.weight"].origin if "embed.patch.weight" in canonical else ()
    if spec.patch[0] != spec.patch[1]:
        cause = f"the patch is not square: {spec.patch[0]} × {spec.patch[1]} pixels (height × width)"
        findings.append(Finding("note", kernel, cause))
    if spec.in_chans != len(spec.mean):
        cause = f"the patch kernel takes {spec.in_chans} channels; mean and std are known for {len(spec.mean)}"
        findings.append(Finding("note", kernel, cause))
    if spec.ffn == "mlp_x2":
        cause = "parallel blocks: two attentions and two MLPs stand side by side in each; the reference ViT has no such block"
        findings.append(Finding("unexplained", (), cause, "use timm for this model", True))
    if spec.condition:
        cause = "this model expects a condition (AdaLN): vit(pixels, condition=…)"
        findings.append(Finding("condition", (), cause))
    return findings


def _without_positions(spec: Spec) -> bool:
    """Whether it is told that there are no positions, or shows by their absence."""
    return spec.facts["pos_embed"].how == "given" or spec.dialect.startswith(TABLELESS)


TABLED = ("eva02", "eva-clip", "sam", "hf-sam", "timm-sam")
"""Dialects whose rotated or windowed models always have a position table too."""

CLASSED = ("deit3", "dinov3", "hf-dinov3", "radio")
"""Dialects whose models always have a class token, and whose position table does not show it."""

NORMED = (
    "aim", "asyml", "big_vision", "croco", "deit", "dino", "eva02", "google-", "hf-aimv2", "hf-blip", "hf-clip", "hf-deit",
    "hf-dinov", "hf-ijepa", "hf-siglip", "hf-vit", "ibot", "ijepa", "jeonsworld", "lukemelas", "mae", "moco", "msn",
    "open_clip", "openai-clip", "sapiens2", "torchvision", "two_towers",
)  # fmt: skip
"""How dialects begin whose models always have a final norm; InternViT, RADIO, SAM, PE and Molmo have some without."""


def _always_normed(spec: Spec) -> bool:
    """Whether models of this spelling always have a final norm; those of timm that have none show by their parts."""
    if spec.dialect in ("timm-swiglu", "timm-parallel"):  # AIMv2, ViTs of parallel blocks
        return True
    if spec.dialect == "timm":  # InternViT has LayerScale, RADIO registers
        return not (spec.layer_scale or spec.num_registers)
    if spec.dialect.startswith("timm-eva"):  # PE-Spatial has a norm before block 0
        return not spec.pre_norm
    return spec.dialect.startswith(NORMED)
