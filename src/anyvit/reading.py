"""From an opened checkpoint to canonical tensors, a Spec and an account of every name: one pure pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isqrt, prod
from pathlib import PurePath
from typing import Any

from anyvit import (
    canon,
    configs,
    conform,
    diagnose,
    dialects,
    expected,
    foreign,
    idle,
    noted,
    reparametrized,
    rewrite,
    weight_sets,
)  # fmt: skip
from anyvit.dialects import lineages
from anyvit.errors import AnyvitError, BadArgument
from anyvit.infer import Clues, infer
from anyvit.lazy import Checkpoint, Lazy
from anyvit.recognise import Match, blocks, fit, matches, unwrapped
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.rules import Dialect, Fault, Run, parent, read
from anyvit.spec import Fact, Spec


@dataclass(frozen=True)
class Ask:
    """What a caller says of a file.

    Arguments:
        weights: a word of the prefix of the weight set to read, or the whole prefix.
        dialect: the name of its dialect, or a `Dialect`; None to recognise it.
        heads: the head count.
        grid: rows and columns of the stored position table, in tokens.
        values: whether a position table may be read where its shape leaves the grid open.
    """

    weights: str | None = None
    dialect: str | Dialect | None = None
    heads: int | None = None
    grid: tuple[int, int] | None = None
    values: bool = False


class Constructors(Mapping[str, str]):
    """`configs.constructors` of a Spec, made when somebody looks: a load does not."""

    def __init__(self, spec: Spec, tensors: Mapping[str, Lazy]) -> None:
        self._of = spec, tensors

    @cached_property
    def _made(self) -> Mapping[str, str]:
        return configs.constructors(*self._of)

    def __getitem__(self, name: str) -> str:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return dict, (dict(self),)


@dataclass(frozen=True)
class Reading:
    """A checkpoint understood.

    Arguments:
        checkpoint: what was opened.
        tensors: canonical name → tensor, unread.
        match: the dialect and prefix; None where nothing fits.
        spec: the architecture; None where it cannot be told.
        findings: what to know.
        fates: source name → what became of it.
        others: the other weight sets.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Lazy] = field(default_factory=dict)
    match: Match | None = None
    spec: Spec | None = None
    findings: tuple[Finding, ...] = ()
    fates: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Match, ...] = ()

    def report(self) -> Report:
        """The account of it."""
        return self._account

    @cached_property
    def _account(self) -> Report:
        checkpoint = self.checkpoint
        size = sum(prod(t.shape) for t in checkpoint.tensors.values())
        trails = tuple(Trail(name, t.origin, "carried") for name, t in self.tensors.items())
        return Report(
            self.match,
            self.spec,
            trails,
            order(self.findings),
            self.fates,
            checkpoint.container,
            checkpoint.path,
            coverage(self.tensors, self.tensors),
            Constructors(self.spec, self.tensors) if self.spec and self.spec.embed_dim else {},
            tuple(m.prefix for m in self.others),
            (len(checkpoint.tensors), size),
        )


def coverage(filled: Mapping[str, Lazy], wanted: Mapping[str, Lazy]) -> dict[str, tuple[int, int]]:
    """Role → (parameters filled, parameters wanted)."""
    counts: dict[str, tuple[int, int]] = {}
    for name, tensor in wanted.items():
        size, role = prod(tensor.shape), canon.role(name)
        have, of = counts.get(role, (0, 0))
        counts[role] = (have + size * (name in filled), of + size)
    return counts


def understand(checkpoint: Checkpoint, ask: Ask = Ask()) -> Reading:
    """Recognise a checkpoint, translate it to canonical names and infer its architecture; reads no values.

    Raises:
        BadArgument: an unknown dialect or weight set was asked for.
    """
    tensors, wrappers = unwrapped(checkpoint.tensors)
    made = reparametrized.whole(tensors, checkpoint.extras)
    tensors = dict(made.tensors)
    notes = [noted.finding(note) for note in checkpoint.notes if note.kind != "absent"]
    if hollow := diagnose.placeholders(tensors):
        return Reading(checkpoint, findings=(hollow, *notes), fates=dict.fromkeys(tensors, "unexplained"))
    tensors, notes = noted.filled(tensors, notes)
    empty = {name: "ignored" for name in made.tensors if name not in tensors}
    known = _dialects(ask.dialect)
    found = matches(tensors, known)
    if not found:
        found = _blocks_only(tensors, known)
    if not found and any(note.kind == "absent" for note in checkpoint.notes):
        return Reading(
            checkpoint, findings=(*noted.absent(checkpoint, None), *notes), fates=dict.fromkeys(tensors, "outside")
        )
    if not found:
        findings = noted.unknown(tensors, checkpoint, notes)
        return Reading(
            checkpoint, findings=findings, fates=made.spread({**dict.fromkeys(tensors, "unexplained"), **empty})
        )
    choice = weight_sets.choose(found, ask.weights, checkpoint.aliases)
    match = choice.match if ask.dialect else _settle(choice.match, tensors, checkpoint)
    given = configs.read(checkpoint, match.dialect.name)
    facts = _arguments(ask, given.facts)
    run, more = _translate(tensors, match, facts, ask.values)
    run = idle.set_aside(run, match.dialect.name)
    canonical, changes = rewrite.on_reading(run.tensors, run.ignored, tensors)
    findings = [*choice.findings, *more, *changes, *notes, *noted.absent(checkpoint, match)]
    findings += [Finding("note", (), text) for text in given.notes]
    if wrappers:
        findings.append(Finding("ignored", wrappers, "components that wrappers put into names were left out"))
    spec = _spec(canonical, match, checkpoint, facts, run, tensors)
    if spec is not None and "c" in match.dialect.sizes and "in_chans" not in facts:
        why = f"rows of the patch matrix, {spec.in_chans} channels taken for granted"
        spec = spec.with_facts("assumed", why, in_chans=spec.in_chans, patch_size=spec.patch_size)
    if spec is not None:
        canonical, grouped = rewrite.repeat_grouped(canonical, spec.heads_dim)
        findings += grouped
    findings += _problems(match, run, canonical, tensors, facts)
    findings += _doubts(spec, canonical, ask, facts, run, match)
    findings += _foreign(findings, match, canonical, configs.model_types(checkpoint))
    findings += noted.against_graph(spec, checkpoint)
    findings = noted.causes(findings)
    if spec is not None and not any(finding.fatal for finding in findings):
        findings += expected.differences(canonical, spec, lambda name: _spell(match, name))
    if made.sources:
        cause = "weights stored with a spectral norm were multiplied out"
        findings.append(Finding("folded", fold(made.sources), cause))
    fates = made.spread({**_fates(tensors, match, run), **empty})
    return Reading(checkpoint, canonical, match, spec, tuple(findings), fates, choice.others)


def _dialects(asked: str | Dialect | None) -> Sequence[Dialect]:
    if asked is None:
        return dialects.ALL
    return (asked,) if isinstance(asked, Dialect) else (dialects.get(asked),)


def _blocks_only(tensors: Mapping[str, Lazy], known: Sequence[Dialect]) -> list[Match]:
    """Readings of files that hold blocks but no patch kernel, to say what is missing."""
    if diagnose.signs(tensors):
        return []
    found: dict[str, Match] = {}
    for dialect in known:
        for rule in dialect.rules:
            if rule.ours and rule.ours.startswith("blocks.{i}.") and "norm1" in rule.ours:
                text = rule.sides[0].fill({"i": 0, "_": 0}, (0,) * len(rule.sides[0].ones))
                prefixes = {n[: -len(text)] for n in tensors if n.endswith(text)}
                for prefix in prefixes:
                    match = fit(tensors, dialect, prefix)
                    good = (not prefix or prefix[-1] in "./") and not match.in_blocks and blocks(match)
                    if good and (prefix not in found or match.score > found[prefix].score):
                        found[prefix] = match
    return sorted(found.values(), key=lambda m: -m.score)


def _settle(match: Match, tensors: Mapping[str, Lazy], checkpoint: Checkpoint) -> Match:
    """Among dialects that explain the names equally well, the one whose shapes fit, then the one whose lineage's signs hold."""
    equal = [match, *match.rivals]
    if len(equal) == 1:
        return match
    runs = [_first_read(tensors, m) for m in equal]
    faults = [_misfits(run) for run in runs]
    fitting = [(m, run) for m, run, count in zip(equal, runs, faults, strict=True) if count == min(faults)]
    written = checkpoint.metadata.get("anyvit.dialect")
    fitting.sort(key=lambda one: one[0].dialect.name != written)
    best, run = fitting[0]
    canonical = {**run.tensors, **dict.fromkeys(("embed.pos",) if any(map(_is_table, run.faults)) else ())}
    scene = _scene(best, canonical, checkpoint, tensors)
    name = lineages.prefer([m.dialect.name for m, _ in fitting], scene)
    if best.dialect.name != written:
        best = next(m for m, _ in fitting if m.dialect.name == name)
    if best is match:
        return match
    return replace(fit(tensors, best.dialect, best.prefix), rivals=tuple(m for m in equal if m is not best))


CHANNELS = (3, 1, 2, 4, *range(5, 17))
"""Channels that are tried where patches are rows and neither channels nor pixels are an axis of their own."""


def _first_read(tensors: Mapping[str, Lazy], match: Match) -> Run:
    """Block 0 and what is outside the blocks, read by a dialect; linear patches with the channels that fit."""
    some = _first_block(tensors, match)
    counts = CHANNELS if "c" in match.dialect.sizes else (0,)
    runs = (read(some, match.dialect, match.prefix, {"c": n} if n else None, match.hits) for n in counts)
    first = next(runs)
    return first if not _misfits(first) else min((first, *runs), key=_misfits)


def _first_block(tensors: Mapping[str, Lazy], match: Match) -> dict[str, Lazy]:
    """The tensors of block 0 and those outside the blocks."""
    return {name: tensors[name] for name, hit in match.hits.items() if hit.numbers.get("i", 0) == 0}


def _is_table(fault: Fault) -> bool:
    """Whether a fault is a position table whose prefix rows are not counted yet."""
    return fault.rule.ours == "embed.[pos_prefix|pos]"


def _misfits(run: Run) -> int:
    """How many things do not fit when block 0 is read by a dialect: shapes, lone parts, a table without a grid."""
    faults = [f for f in run.faults if not _is_table(f)]
    wrong = [f for f in conform.check(run.tensors, str) if f.kind == "shape"]
    table = run.tensors.get("embed.pos")
    crooked = table is not None and "gh" not in run.sizes and isqrt(table.shape[0]) ** 2 != table.shape[0]
    return len(faults) + len(run.partial) + len(wrong) + crooked


def _scene(
    match: Match, canonical: Mapping[str, Lazy], checkpoint: Checkpoint, tensors: Mapping[str, Lazy]
) -> lineages.Scene:
    file = PurePath(checkpoint.path).name
    names = {**tensors, **dict.fromkeys(_keys(checkpoint.extras))}
    return lineages.Scene(
        names,
        match.prefix,
        canonical,
        checkpoint.container,
        file,
        conform.width_of({n: t for n, t in canonical.items() if t is not None}),
    )


def _keys(extras: Mapping[str, Any]) -> list[str]:
    return [str(key) for key in extras]


def _arguments(ask: Ask, given: Mapping[str, Fact]) -> dict[str, Fact]:
    facts = dict(given)
    if ask.heads is not None:
        if not isinstance(ask.heads, int) or ask.heads < 1:
            raise BadArgument("heads is a positive number", found=ask.heads)
        facts["num_heads"] = Fact(ask.heads, "given", "the argument heads=")
        facts.pop("head_dim", None)
    if ask.grid is not None:
        try:
            rows, columns = ask.grid
            facts["grid"] = Fact((int(rows), int(columns)), "given", "the argument grid=")
        except (TypeError, ValueError) as error:
            raise BadArgument("grid is (rows, columns) of the stored position table", found=ask.grid) from error
    return facts


def _translate(
    tensors: Mapping[str, Lazy], match: Match, facts: dict[str, Fact], values: bool
) -> tuple[Run, list[Finding]]:
    """The canonical tensors; the prefix rows of the position table are found by fit."""
    sizes = {"t": facts["num_cls"].value} if "num_cls" in facts else {}
    if "c" in match.dialect.sizes and "in_chans" in facts:  # linear patches: the channels are not an axis of their own
        sizes["c"] = facts["in_chans"].value
    mine = {n: tensors[n] for n in match.hits}
    run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    mixed = next((fault for fault in run.faults if fault.rule.ours == "embed.[cls|reg]"), None)
    if mixed is not None and "t" not in sizes:
        sizes = {**sizes, "t": min(CLASS_TOKENS, tensors[mixed.names[0]].shape[-2])}
        run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    if any("are not known" in fault.text and not _is_table(fault) for fault in run.faults):
        sizes = {**sizes, "d": conform.width_of(run.tensors)}
        run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    waiting = [f for f in run.faults if _is_table(f)]
    if not waiting:
        return run, []
    # a dialect that asks for the row wherever there is a class token (Google's) never has a table without it
    sure = "embed.pos_prefix" in match.dialect.requires and "embed.cls" not in match.dialect.requires
    count, findings = _prefix_rows(waiting[0].names[0], tensors, run.tensors, facts, values, sure)
    if count is None:
        return run, findings
    table = read({n: tensors[n] for n in waiting[0].names}, match.dialect, match.prefix, {**sizes, "k": count})
    merged = replace(
        run,
        tensors={**run.tensors, **table.tensors},
        used={**run.used, **table.used},
        faults=(*(f for f in run.faults if f not in waiting), *table.faults),
        sizes={**run.sizes, **table.sizes},
    )
    return merged, findings


CLASS_TOKENS = 4
"""Class tokens where one tensor holds them and the registers, and nothing says how many are which.

Source: NVlabs/RADIO, RADIOv2.5: one class token for each of four teachers; the split changes the parts' names only.
"""


def _prefix_rows(
    name: str, tensors: Mapping[str, Lazy], canonical: Mapping[str, Lazy], facts: dict[str, Fact], values: bool,
    sure: bool = False,
) -> tuple[int | None, list[Finding]]:  # fmt: skip
    """How many rows of a position table belong to prefix tokens: the one count that leaves a valid grid.

    (n − 1)(n + 1) + 1 = n², so a table of n² rows beside a cls token may also be 13 × 15 and cls; that is said.
    """
    rows = tensors[name].shape[-2]
    cls = canonical["embed.cls"].shape[0] if "embed.cls" in canonical else 0
    dist = int("embed.dist" in canonical)
    registers = canonical["embed.reg"].shape[0] if "embed.reg" in canonical else 0
    options = list(dict.fromkeys((cls + dist, cls, 0, cls + dist + registers)))
    options = [count for count in options if count or not (sure and cls)]
    grid = _given_grid(facts)
    if grid is not None:
        for count in options:
            if rows - count == grid[0] * grid[1]:
                return count, []
        if facts.get("grid") is not None and facts["grid"].source.startswith("the argument"):
            raise BadArgument(
                f"grid={grid} does not fit the position table", names=[name], found=f"{rows} rows",
                expected=" or ".join(str(grid[0] * grid[1] + c) for c in options),
            )  # fmt: skip
    square = [count for count in options if rows > count and isqrt(rows - count) ** 2 == rows - count]
    doubtful = not square or (square[0] == 0 and cls > 0)
    seen = _seen_grid(tensors[name], options) if values and doubtful else None
    if seen is not None and seen[0][0] == 0 and seen[0][1] == seen[0][2]:
        facts["grid"] = Fact(seen[0][1:], "measured", f"the weights: {seen[1]}")
        return 0, []
    if seen is not None:
        facts["grid"] = Fact(seen[0][1:], "measured", f"the weights: {seen[1]}")
        cause = f"the position table is read as {seen[0][1]} × {seen[0][2]}: {seen[1]}"
        return seen[0][0], [Finding("assumed", (name,), cause, f"grid=({seen[0][2]}, {seen[0][1]}) is its mirror")]
    if not square:
        left = rows - options[0]
        shape = next(((h, left // h) for h in range(isqrt(max(left, 1)), 0, -1) if left % h == 0), (1, left))
        cause = (
            f"the grid of the position table cannot be told: {rows} rows, {left} without {options[0]} prefix rows, "
            "is no square"
        )
        if not cls and isqrt(rows - 1) ** 2 == rows - 1:
            cause += f"; a row for a class token would leave {isqrt(rows - 1)} × {isqrt(rows - 1)}, but there is no class token"
        return None, [Finding("ambiguous", (name,), cause, f"grid=({shape[0]}, {shape[1]}) or whatever it was", True)]
    count = square[0]
    findings = []
    side = isqrt(rows - count)
    if count == 0 and cls:
        other = f"{side - 1} × {side + 1} with a row for cls" if cls == 1 else "a table with prefix rows"
        cause = f"the position table is read as {side} × {side} without a row for cls; it could also be {other}"
        findings.append(Finding("assumed", (name,), cause, f"grid=({side - 1}, {side + 1})"))
    return count, findings


def _seen_grid(table: Lazy, options: Sequence[int]) -> tuple[tuple[int, int, int], str] | None:
    """The grid that neighbouring rows of a trained table show, where no count leaves a square; reads the table."""
    from anyvit import evidence_tables

    try:
        values = table.read()
    except AnyvitError:
        return None
    if not values.size:
        return None
    verdict = evidence_tables.positions(values.reshape(-1, values.shape[-1]).astype("float32"))
    if verdict.value is None or verdict.value[0] not in options:
        return None
    return tuple(verdict.value), verdict.text


def _given_grid(facts: Mapping[str, Fact]) -> tuple[int, int] | None:
    from anyvit.spec import pair

    if "grid" in facts:
        return facts["grid"].value
    if "image_size" in facts and "patch_size" in facts:
        (height, width), (p, q) = pair(facts["image_size"].value), pair(facts["patch_size"].value)
        return height // p, width // q
    return None


def _spec(
    canonical: Mapping[str, Lazy], match: Match, checkpoint: Checkpoint, facts: Mapping[str, Fact], run: Run,
    tensors: Mapping[str, Lazy],
) -> Spec | None:  # fmt: skip
    if not conform.depth_of(canonical):
        return None
    scene = _scene(match, canonical, checkpoint, tensors)
    lineage = lineages.lineage_of(match.dialect.name, scene, match.dialect.lineage)
    whole = {name: tensor for name, tensor in canonical.items() if not conform.lacks_axes(name, tensor)}
    return infer(whole, Clues(lineage, facts, run.sizes, match.dialect.name, run.ignored))


def spelling(match: Match, canonical: Mapping[str, Lazy]) -> dict[str, str]:
    """Canonical name → the name that its file uses."""
    return {name: t.origin[0] for name, t in canonical.items() if t.origin}


def _spell(match: Match, name: str) -> str:
    """The file's spelling of a canonical name that it lacks, by its dialect or by one that explains it as well."""
    tables = (match.dialect, *(rival.dialect for rival in match.rivals))
    for hit in (hit for table in tables for hit in table.writing.match(name)):
        theirs = hit.item.sides[0]
        places = hit.alls if len(theirs.lists) == len(hit.alls) else (0,) * len(theirs.lists)
        text = theirs.fill({"_": 0, **hit.numbers}, hit.ones, places)
        return (parent(match.prefix) if theirs.beside else match.prefix) + text
    return name


def _foreign(
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


def _problems(
    match: Match, run: Run, canonical: Mapping[str, Lazy], source: Mapping[str, Lazy], facts: Mapping[str, Fact]
) -> list[Finding]:
    told = "ffn" in facts and facts["ffn"].value == "parallel_scaling"
    one_norm = told or match.dialect.lineage == "anyvit"
    findings = diagnose.signs(match.unexplained)
    turned = [f for f in run.faults if "attn.[q|k|v]" in (f.rule.ours or "") and conform.is_turned(source[f.names[0]])]
    findings += conform.turned([f.names[0] for f in turned], source)
    for fault in run.faults:
        if fault in turned:
            continue
        if fault.rule.ours != "embed.[pos_prefix|pos]" or "not known" not in fault.text:
            findings.append(Finding("shape", fold(fault.names), fault.text, None, True))
    if run.partial:
        lacking = tuple(dict.fromkeys(match.prefix + n for names in run.partial.values() for n in names))
        cause = "tensors that belong together are not all there"
        findings.append(
            Finding("missing", fold(lacking), f"{cause}: beside {', '.join(fold(run.partial)[:3])}", None, True)
        )
    for target, sources in run.conflicts.items():
        findings.append(Finding("conflict", sources, f"several tensors claim {target}", "remove one of them", True))
    hidden = {n for names in run.partial.values() for n in names}
    findings += [
        f
        for f in conform.check(canonical, lambda name: _spell(match, name), (), source, one_norm=one_norm)
        if not (f.kind == "missing" and (turned or (run.faults and not f.names)))
    ]
    inside = match.in_blocks
    if inside:
        cause = f"{len(inside)} tensors inside the blocks are not explained by {match.dialect.name}; they may change the function"
        findings.append(Finding("unexplained", fold(inside), cause, "anyvit dialects lists what is known", True))
    before = diagnose.before_blocks(match)
    if before:
        cause = f"{len(before)} tensors before the blocks are not explained by {match.dialect.name}; they may change the function"
        findings.append(Finding("unexplained", fold(before), cause, "anyvit dialects lists what is known", True))
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
    return findings + diagnose.element_types({n: t for n, t in canonical.items() if canon.is_backbone(n)})


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


def _doubts(
    spec: Spec | None, canonical: Mapping[str, Lazy], ask: Ask, facts: Mapping[str, Fact], run: Run, match: Match
) -> list[Finding]:
    """What is only assumed, where it changes the function."""
    if spec is None:
        return []
    findings = []
    if "t" in run.sizes and "num_cls" not in facts and any("token.token" in n for n in run.used):
        cause = f"one tensor holds class tokens and registers; the first {CLASS_TOKENS} are taken for class tokens"
        findings.append(Finding("assumed", ("num_cls",), cause))
    doubtful = [("num_heads", "head count"), ("eps", "norm epsilon"), ("act", "activation"), ("in_chans", "channels")]
    if spec.block_norm != "pre":
        doubtful.append(("block_norm", "norms inside the blocks stand after each branch:"))
    for name, what in doubtful:
        fact = spec.facts.get(name)
        if fact is not None and fact.how == "assumed":
            remedy = "heads=…" if name == "num_heads" else None
            findings.append(Finding("assumed", (name,), f"{what} {fact.value}: {fact.source}", remedy))
    if spec.embed_dim % max(spec.num_heads, 1) and spec.facts["num_heads"].how == "given":
        cause = f"{spec.num_heads} heads do not divide the width {spec.embed_dim}"
        findings.append(Finding("shape", (), cause, "heads=…", True))
    if spec.pos_embed == "none" and not any(map(_is_table, run.faults)) and not _without_positions(spec):
        cause = (
            "the file holds no positions: its model computes them (rotary, sin-cos) or has none, and nothing says which"
        )
        remedy = "get the whole file; dialect=… says that it is meant so"
        spelt = [_spell(one, "embed.pos") for one in (match, *match.rivals)]
        name = next((name for name in spelt if name != "embed.pos"), "embed.pos")
        findings.append(Finding("missing", (name,), cause, remedy, ask.dialect is None))
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
    told = "final_norm" in facts and facts["final_norm"].value is None
    if spec.final_norm is None and _always_normed(spec) and not told:
        cause = "there is no final norm: this looks like the first shard of a larger checkpoint"
        if not spec.num_cls:
            cause += ", or like an encoder that rotates positions too and is normed elsewhere (Qwen3-VL)"
        remedy = "open the folder with all shards; dialect=… says that it is meant so"
        if spec.num_classes:
            cause, remedy = "there is no final norm before the head", "the file was cut or edited; get it whole"
        findings.append(Finding("missing", ("norm.weight", "norm.bias"), cause, remedy, ask.dialect is None))
    return findings


def _without_positions(spec: Spec) -> bool:
    """Whether it is told that there are no positions, or shows by their absence."""
    return spec.facts["pos_embed"].how == "given" or spec.dialect.startswith(TABLELESS)


def _always_normed(spec: Spec) -> bool:
    """Whether models of this spelling always have a final norm; InternViT and RADIO, which have none, show by their parts."""
    always = ("dino", "dinov2", "dinov2-chunked", "mae", "deit", "ibot", "moco", "ijepa", "msn", "hf-vit", "hf-dinov2",
              "google-npz", "torchvision")  # fmt: skip
    return spec.dialect in always or (spec.dialect == "timm" and not (spec.layer_scale or spec.num_registers))


def _fates(tensors: Mapping[str, Lazy], match: Match, run: Run) -> dict[str, str]:
    fates: dict[str, str] = {}
    for name in tensors:
        if name in run.used:
            fates[name] = "carried"
        elif name in run.ignored:
            fates[name] = "outside" if run.ignored[name].startswith("outside") else "ignored"
        elif name in run.partial:
            fates[name] = "missing"
        elif name.startswith(match.prefix):
            fates[name] = "unexplained"
        else:
            fates[name] = "outside"
    return fates
