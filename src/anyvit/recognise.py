"""Which dialect a file is written in, and behind which prefix: found by fit, not by a list of wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from anyvit import names
from anyvit.lazy import Lazy
from anyvit.names import Hit
from anyvit.rules import Dialect, Rule, parent

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_layer")
"""Components that torch.compile, FSDP, activation checkpointing, Lightning and PEFT put into the middle of names.

Source: torch/_dynamo/eval_frame.py OptimizedModule, torch/distributed/fsdp/_common_utils.py FSDP_WRAPPED_MODULE,
torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py, lightning/fabric/wrappers.py,
peft/tuners/tuners_utils.py BaseTunerLayer.
"""

OPTIMIZER = re.compile(
    r"(^|[./])(optim\w*(?![./]target)|opt_state|opt(?![./]target)|exp_avg(_sq)?|momentum_buffer|mu|nu|trace)([./]|$)"
)
"""Prefixes of an optimizer's state, whose tensors may bear exactly the model's names (Adam's moments in JAX)."""


@dataclass(frozen=True)
class Match:
    """How a file was recognised.

    Arguments:
        dialect: the table that explains it.
        prefix: what precedes the tower's names ("teacher.backbone.", "visual.", "").
        explained: how many tensors the table reads.
        unexplained: names under the prefix that it does not know.
        outside: names that are neither under the prefix nor read beside it.
        rivals: dialects that explain the names equally well (compared on a sample of them).
        hits: name → the rule that reads it.
        near: dialects that explain less, the best first.
    """

    dialect: Dialect
    prefix: str
    explained: tuple[str, ...]
    unexplained: tuple[str, ...]
    outside: tuple[str, ...] = ()
    rivals: tuple[Match, ...] = ()
    hits: Mapping[str, Hit[Rule]] = field(default_factory=dict, repr=False, compare=False)
    near: tuple[Match, ...] = field(default=(), repr=False, compare=False)

    def __repr__(self) -> str:
        behind = f" behind {self.prefix!r}" if self.prefix else ""
        rest = f"{len(self.unexplained)} unexplained, {len(self.outside)} outside"
        return f"<match {self.dialect.name}{behind}: {len(self.explained)} tensors explained, {rest}>"

    @property
    def score(self) -> int:
        """Explained less unexplained."""
        return len(self.explained) - len(self.unexplained)

    @cached_property
    def in_blocks(self) -> tuple[str, ...]:
        """The unexplained names that lie inside a transformer block and may change the function."""
        starts, beside = block_prefixes(self.dialect), block_prefixes(self.dialect, beside=True)
        above = parent(self.prefix)
        around = [n for n in (*self.unexplained, *self.outside) if n.startswith(above)] if beside else []
        found = [n for n in self.unexplained if any(s.match(n[len(self.prefix) :]) for s in starts)]
        return tuple(dict.fromkeys((*found, *(n for n in around if any(s.match(n[len(above) :]) for s in beside)))))


def block_prefixes(dialect: Dialect, *, beside: bool = False) -> tuple[re.Pattern[str], ...]:
    """What the names inside a block start with, in a dialect: under its prefix, or beside it.

    Example:
        >>> from anyvit.dialects.timm import TIMM
        >>> bool(block_prefixes(TIMM)[0].match("blocks.11.attn.new_thing"))
        True
    """
    found: dict[str, None] = {}
    for rule in dialect.rules:
        if not rule.ours or not rule.ours.startswith("blocks.") or rule.theirs.startswith("../") != beside:
            continue
        theirs = rule.theirs.removeprefix("../")
        head = re.match(r"(.*?(?:\{_\}\.)?\{_?i(?:\+1)?\}[./])", theirs) or re.match(r"(.*?encoderblock/)", theirs)
        if head:
            found[head.group(1)] = None
    plain = (re.escape(text.replace("{i+1}", "{i}")).replace(r"\{_i\}", r"(?:_\d+)?") for text in found)
    return tuple(re.compile(re.sub(r"\\\{\w+\\\}", r"\\d+", text)) for text in plain)


def unwrapped(tensors: Mapping[str, Lazy]) -> tuple[dict[str, Lazy], tuple[str, ...]]:
    """Names without the components that wrappers put into their middle, and which wrappers were met."""
    met = [wrapper for wrapper in WRAPPERS if any(wrapper in name for name in tensors)]
    if not met:
        return dict(tensors), ()
    pattern = re.compile(r"(?:^|(?<=\.))(?:" + "|".join(met) + r")\.")
    found: dict[str, Lazy] = {}
    for name, tensor in tensors.items():
        plain = pattern.sub("", name)
        # Where a file holds a module both wrapped and plain, the wrapped one keeps its name.
        found[name if plain != name and (plain in tensors or plain in found) else plain] = tensor
    return found, tuple(met)


def anchors(dialect: Dialect) -> tuple[str, ...]:
    """Names of which a file in a dialect holds at least one: its patch kernel's, or what the table declares."""
    patterns = dialect.anchors or tuple(
        rule.theirs for rule in dialect.rules if rule.ours in ("embed.patch.weight", "embed.patch.{p}")
    )
    texts = []
    for pattern in patterns:
        for variant in names.parse(pattern).variants():
            if not variant.key.endswith("bias"):
                texts.append(_literal(variant))
    return tuple(texts)


def _literal(variant: names.Variant) -> str:
    pieces = variant.key.split(names.BLANK)
    numbers = [number if number[0] not in names.OPENS else "0" for number in variant.numbers]
    return "".join(piece + number for piece, number in zip(pieces, [*numbers, ""], strict=True))


def candidates(tensors: Iterable[str], dialects: Sequence[Dialect]) -> list[tuple[Dialect, str]]:
    """Every (dialect, prefix) whose anchor stands in the file."""
    wanted: dict[str, list[Dialect]] = {}
    for dialect in dialects:
        for text in anchors(dialect):
            wanted.setdefault(text, []).append(dialect)
    found: dict[tuple[str, str], tuple[Dialect, str]] = {}
    endings = tuple(wanted)
    for name in tensors:
        if not name.endswith(endings):
            continue
        for text, those in wanted.items():
            prefix = name[: len(name) - len(text)]
            if name.endswith(text) and (not prefix or prefix[-1] in "./"):
                found.update({(dialect.name, prefix): (dialect, prefix) for dialect in those})
    return list(found.values())


def sample(tensors: Iterable[str]) -> list[str]:
    """Names that stand for all, whatever their order: of those that differ only in numbers, the first and last blocks.

    Example:
        >>> sample([f"blocks.{i}.norm{n}.weight" for n in (1, 2) for i in range(9)])[:3]
        ['blocks.0.norm1.weight', 'blocks.1.norm1.weight', 'blocks.7.norm1.weight']
    """
    groups: dict[str, list[tuple[Sequence[str], str]]] = {}
    for name in tensors:
        blanked, numbers = names.blank(name)
        groups.setdefault(blanked, []).append((numbers, name))
    chosen: dict[str, None] = {}
    for group in groups.values():
        chosen.update(dict.fromkeys(_ends(group)))
    return list(chosen)


def _ends(group: Sequence[tuple[Sequence[str], str]]) -> Iterable[str]:
    """Those with the two smallest and two largest values of the number that varies most, which counts the blocks."""
    if len(group) <= 8:
        return [name for _, name in group]
    columns = zip(*(numbers for numbers, _ in group), strict=True)
    values = [sorted(set(column), key=lambda digits: (len(digits), digits)) for column in columns]
    at = max(range(len(values)), key=lambda place: len(values[place]))
    kept = {*values[at][:2], *values[at][-2:]}
    return [name for numbers, name in group if numbers[at] in kept]


Blanked = tuple[str, Sequence[str]]
"""A name with its digits blanked, and the digits."""


def fit(tensors: Iterable[str], dialect: Dialect, prefix: str) -> Match:
    """How well a dialect explains the names under a prefix."""
    return _fit(_under(tensors, prefix), dialect, prefix)


def _under(tensors: Iterable[str], prefix: str) -> dict[str, Blanked | None]:
    """What follows a prefix in every name, digits blanked; None for names outside it."""
    size = len(prefix)
    return {name: names.blank(name[size:]) if name.startswith(prefix) else None for name in tensors}


def _fit(tensors: Mapping[str, Blanked | None], dialect: Dialect, prefix: str) -> Match:
    hits: dict[str, Hit[Rule]] = {}
    unexplained, outside = [], []
    inside, beside = dialect.reading
    above = parent(prefix)
    for name, blanked in tensors.items():
        if blanked is not None:
            found = inside.match_blanked(*blanked) or ([] if above else beside.match(name))
            if not found:
                unexplained.append(name)
                continue
        else:
            found = beside.match(name[len(above) :]) if name.startswith(above) else []
            if not found:
                outside.append(name)
                continue
        hits[name] = found[0]
    return Match(dialect, prefix, tuple(hits), tuple(unexplained), tuple(outside), (), hits)


def matches(tensors: Mapping[str, Lazy], dialects: Sequence[Dialect]) -> list[Match]:
    """The best reading of every prefix where a patch kernel stands, with the dialects that explain as much as rivals.

    Dialects are compared on a sample of the names; the best one is then fitted to all of them.
    """
    some = sample(tensors)
    by_prefix: dict[str, list[Match]] = {}
    under: dict[str, dict[str, Blanked | None]] = {}
    for dialect, prefix in candidates(some, dialects):
        if prefix not in under:
            under[prefix] = _under(some, prefix)
        match = _fit(under[prefix], dialect, prefix)
        if blocks(match):
            by_prefix.setdefault(prefix, []).append(match)
    best = []
    for found in by_prefix.values():
        ranks = {m.dialect.name: rank(m) for m in found}
        found.sort(key=lambda m: ranks[m.dialect.name])
        whole = fit(tensors, found[0].dialect, found[0].prefix)
        rivals = tuple(m for m in found[1:] if ranks[m.dialect.name] == ranks[found[0].dialect.name])
        best.append(replace(whole, rivals=rivals, near=tuple(found[len(rivals) + 1 :])))
    return sorted(best, key=lambda m: -m.score)


def rank(match: Match) -> tuple[int, int, bool]:
    """The order among dialects at one prefix: most carried, fewest unexplained in blocks, the prefix the dialect writes."""
    root = match.dialect.root
    free = not root or root.endswith("/")  # flax trees are written with and without `params/`
    return -carried(match), len(match.in_blocks), not free and not match.prefix.endswith(root)


def carried(match: Match) -> int:
    """How much of the file the dialect carries; what it knows and ignores counts a little less."""
    return sum(3 if hit.item.ours is None else 4 for hit in match.hits.values())


def blocks(match: Match) -> int:
    """How many transformer blocks a match has names of."""
    return len({hit.numbers.get("i", 0) for hit in match.hits.values() if (hit.item.ours or "").startswith("blocks.")})
