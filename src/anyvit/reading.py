"""From an opened checkpoint to canonical tensors, a Spec and an account of every name: one pure pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    doubts,
    expected,
    idle,
    linear,
    noted,
    reparametrized,
    rewrite,
    twins,
    weight_sets,
)  # fmt: skip
from anyvit.clues import Clues
from anyvit.dialects import lineages
from anyvit.errors import BadArgument
from anyvit.garbage import uncollected
from anyvit.infer import infer
from anyvit.lazy import Checkpoint, Lazy
from anyvit.recognise import Match, blocks, fit, matches, unwrapped
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.rules import Dialect, Run, read
from anyvit.spec import Fact, Spec
from anyvit.translate import is_table, translate


@dataclass(frozen=True)
class Ask:
    """What a caller says of a file.

    Arguments:
        weights: a word of the prefix of the weight set to read, or the whole prefix.
        dialect: the name of its dialect, a JSON file with its table, "draft" for one made of its own names, or a
            `Dialect`; None to recognise it.
        heads: the head count.
        grid: rows and columns of the stored position table, in tokens.
        values: whether a position table may be read where its shape leaves the grid open.
        beside: rows and columns of the position table that the file's is to fill; they are believed where the file's
            own shapes and values leave the grid open.
        facts: Spec field → value, of those that tensors do not say (`SAYABLE`).
        pixels: in_chans and patch_size that are asked for; they say what rows of linear patches do not.
    """

    weights: str | None = None
    dialect: str | Dialect | None = None
    heads: int | None = None
    grid: tuple[int, int] | None = None
    values: bool = False
    beside: tuple[int, int] | None = None
    facts: Mapping[str, Any] | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)


class Constructors(Mapping[str, str]):
    """`configs.constructors` of a Spec, made when somebody looks: a load does not."""

    def __init__(self, spec: Spec, tensors: Mapping[str, Lazy]) -> None:
        self._of = spec, tuple(tensors)  # the names alone: a report outlives its file

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


@uncollected
def understand(checkpoint: Checkpoint, ask: Ask = Ask()) -> Reading:
    """Recognise a checkpoint, translate it to canonical names and infer its architecture; reads no values.

    Raises:
        BadArgument: an unknown dialect or weight set was asked for, or a dialect that the file is not written in.
    """
    tensors, wrappers = unwrapped(checkpoint.tensors)
    made = reparametrized.whole(tensors, checkpoint.extras)
    tensors = dict(made.tensors)
    notes = [noted.finding(note) for note in checkpoint.notes if note.kind != "absent"]
    if hollow := diagnose.placeholders(tensors):
        return Reading(checkpoint, findings=(hollow, *notes), fates=dict.fromkeys(tensors, "unexplained"))
    tensors, notes = noted.filled(tensors, notes)
    empty = {name: "ignored" for name in made.tensors if name not in tensors}
    known = _dialects(ask.dialect, tensors)
    found = matches(tensors, known)
    if not found:
        found = _blocks_only(tensors, known)
    if not found:
        return _not_recognised(
            checkpoint, ask, tensors, {**made.spread(dict.fromkeys(tensors, "unexplained")), **empty}, notes
        )
    choice = weight_sets.choose(found, ask.weights, checkpoint.aliases)
    match = choice.match if ask.dialect else _settle(choice.match, tensors, checkpoint)
    given = configs.read(checkpoint, match.dialect.name)
    facts = _arguments(ask, given.facts)
    own = isinstance(ask.dialect, Dialect)  # a table of the caller's own says the channels itself
    count, unclear = linear.channels(tensors, match, facts, {} if own else ask.pixels, own)
    run, more = translate(tensors, match, facts, ask.values, count and count.value, ask.beside)
    run = idle.set_aside(run, match.dialect.name)
    canonical, changes = rewrite.on_reading(run.tensors, run.ignored, tensors)
    findings = [*choice.findings, *weight_sets.headless(match, tensors, ask.weights)]
    findings += [*unclear, *more, *changes, *notes, *noted.absent(checkpoint, match)]
    findings += [Finding("note", (), text) for text in given.notes]
    if wrappers:
        findings.append(Finding("ignored", wrappers, "components that wrappers put into names were left out"))
    spec = _spec(canonical, match, checkpoint, facts, run, tensors)
    if spec is not None and count is not None and "in_chans" not in facts:
        spec = spec.with_facts(count.how, count.source, in_chans=spec.in_chans, patch_size=spec.patch_size)
    if spec is not None:
        canonical, grouped = rewrite.repeat_grouped(canonical, spec.heads_dim)
        findings += grouped
    if spec is not None and not (ask.dialect or given.facts or configs.model_types(checkpoint)):
        spec, undecided = twins.told(spec, _scene(match, canonical, checkpoint, tensors), not match.outside)
        findings += undecided
    findings += doubts.problems(match, run, canonical, tensors, facts)
    findings += doubts.assumed(spec, canonical, ask.dialect is not None, facts, run, match)
    findings += doubts.instead(findings, match, canonical, configs.model_types(checkpoint))
    findings += noted.against_graph(spec, checkpoint)
    findings = noted.causes(findings)
    if spec is not None and not any(finding.fatal for finding in findings):
        findings += doubts.alone(spec, canonical, ask.dialect is not None, facts, match)
        findings += expected.differences(canonical, spec, lambda name: doubts.spell(match, name))
    if made.sources:
        cause = "weights stored with a spectral norm were multiplied out"
        findings.append(Finding("folded", fold(made.sources), cause))
    fates = made.spread({**_fates(tensors, match, run), **empty})
    return Reading(checkpoint, canonical, match, spec, tuple(findings), fates, choice.others)


def _not_recognised(
    checkpoint: Checkpoint, ask: Ask, tensors: Mapping[str, Lazy], fates: Mapping[str, str], notes: list[Finding]
) -> Reading:
    """The account of a file in which no dialect finds a tower.

    Raises:
        BadArgument: the caller named a dialect, and the file is written in another.
    """
    if any(note.kind == "absent" for note in checkpoint.notes):
        findings = (*noted.absent(checkpoint, None), *notes)
        return Reading(checkpoint, findings=findings, fates=dict.fromkeys(tensors, "outside"))
    _refuse_dialect(ask.dialect, tensors)
    return Reading(checkpoint, findings=noted.unknown(tensors, checkpoint, notes), fates=fates)


def _dialects(asked: str | Dialect | None, tensors: Mapping[str, Lazy]) -> Sequence[Dialect]:
    if asked is None:
        return dialects.ALL
    if asked == "draft":
        from anyvit.discover import draft

        return (draft(tensors),)
    return (asked,) if isinstance(asked, Dialect) else (dialects.get(asked),)


def _refuse_dialect(asked: str | Dialect | None, tensors: Mapping[str, Lazy]) -> None:
    """Raises where the file is written in another dialect than the caller says."""
    there = matches(tensors, dialects.ALL) if asked is not None else []
    if there:
        said = asked.name if isinstance(asked, Dialect) else asked
        name = there[0].dialect.name
        raise BadArgument(f"the file is not written in the dialect {said}", found=name, remedy=f'dialect="{name}"')


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
    canonical = {**run.tensors, **dict.fromkeys(("embed.pos",) if any(map(is_table, run.faults)) else ())}
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


def _misfits(run: Run) -> int:
    """How many things do not fit when block 0 is read by a dialect: shapes, lone parts, a table without a grid."""
    faults = [f for f in run.faults if not is_table(f)]
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
    for name, value in (ask.facts or {}).items():
        facts[name] = Fact(_said(name, value), "given", "the argument facts=")
    if ask.heads is not None:
        if not isinstance(ask.heads, int) or ask.heads < 1:
            raise BadArgument("heads is a positive number", found=repr(ask.heads))
        facts["num_heads"] = Fact(ask.heads, "given", "the argument heads=")
        facts.pop("head_dim", None)
    if ask.grid is not None:
        try:
            rows, columns = ask.grid
            facts["grid"] = Fact((int(rows), int(columns)), "given", "the argument grid=")
        except (TypeError, ValueError) as error:
            raise BadArgument("grid is (rows, columns) of the stored position table", found=ask.grid) from error
    return facts


SAYABLE: Mapping[str, Callable[[Any], bool]] = {
    "eps": lambda value: isinstance(value, float) and 0 < value < 1,
    "act": lambda value: value in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"),
    "pool": lambda value: value in ("cls", "cls+dist", "avg", "map", "attn_pool", "cls+avg", "none"),
    "block_norm": lambda value: value in ("pre", "post"),
    "tokens_normed": lambda value: isinstance(value, bool),
    "pool_normed": lambda value: isinstance(value, bool),
    "mean": lambda value: isinstance(value, (tuple, list)) and all(isinstance(v, float) for v in value),
    "std": lambda value: isinstance(value, (tuple, list)) and all(isinstance(v, float) and v > 0 for v in value),
}
"""Facts that tensors do not say and a caller may → whether a value can be one."""


def _said(name: str, value: Any) -> Any:
    if name not in SAYABLE:
        raise BadArgument(f"no such fact can be given: {name!r}", expected=", ".join(SAYABLE))
    if not SAYABLE[name](value):
        raise BadArgument(f"facts: {name} cannot be this", found=repr(value))
    return tuple(value) if isinstance(value, list) else value


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
