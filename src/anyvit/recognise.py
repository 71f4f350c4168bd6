"""Which dialect a file is written in, and behind which prefix: found by fit, not by a list of wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from anyvit import names
from anyvit.lazy import Lazy
from anyvit.rules import Dialect, Rule, parent

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Components that torch.compile, FSDP, activation checkpointing and Lightning put into the middle of names.

Source: torch/_dynamo/eval_frame.py OptimizedModule, torch/distributed/fsdp/_common_utils.py FSDP_WRAPPED_MODULE,
torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py, lightning/fabric/wrappers.py.
"""

OPTIMIZER = re.compile(
    r"(^|[./])(optimizer\w*|optim\w*|opt_state|opt(?![./]target)|exp_avg(_sq)?|momentum_buffer|mu|nu|trace)([./]|$)"
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
        rivals: other dialects that explain nearly as much, and other weight sets.
    """

    dialect: Dialect
    prefix: str
    explained: tuple[str, ...]
    unexplained: tuple[str, ...]
    outside: tuple[str, ...] = ()
    rivals: tuple[Match, ...] = ()

    @property
    def score(self) -> int:
        """Explained less unexplained."""
        return len(self.explained) - len(self.unexplained)

    @cached_property
    def in_blocks(self) -> tuple[str, ...]:
        """The unexplained names that lie inside a transformer block and may change the function."""
        starts = block_prefixes(self.dialect)
        return tuple(n for n in self.unexplained if any(s.match(n[len(self.prefix) :]) for s in starts))


def block_prefixes(dialect: Dialect) -> tuple[re.Pattern[str], ...]:
    """What the names inside a block start with, in a dialect.

    Example:
        >>> from anyvit.dialects.timm import TIMM
        >>> bool(block_prefixes(TIMM)[0].match("blocks.11.attn.new_thing"))
        True
    """
    found: dict[str, None] = {}
    for rule in dialect.rules:
        if not rule.ours or not rule.ours.startswith("blocks.") or rule.theirs.startswith("../"):
            continue
        head = re.match(r"(.*?(?:\{_\}\.)?\{i\}[./])", rule.theirs) or re.match(r"(.*?encoderblock/)", rule.theirs)
        if head:
            found[head.group(1)] = None
    return tuple(re.compile(re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(text))) for text in found)


def unwrapped(tensors: Mapping[str, Lazy]) -> tuple[dict[str, Lazy], tuple[str, ...]]:
    """Names without the components that wrappers put into their middle, and which wrappers were met."""
    met = [wrapper for wrapper in WRAPPERS if any(wrapper in name for name in tensors)]
    if not met:
        return dict(tensors), ()
    pattern = re.compile(r"(?:^|(?<=\.))(?:" + "|".join(met) + r")\.")
    return {pattern.sub("", name): tensor for name, tensor in tensors.items()}, tuple(met)


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
    numbers = [number if number[0] not in "$@" else "0" for number in variant.numbers]
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


def fit(tensors: Mapping[str, Lazy], dialect: Dialect, prefix: str) -> Match:
    """How well a dialect explains what stands under a prefix."""
    explained, unexplained, outside = [], [], []
    inside, beside = dialect.reading
    above = parent(prefix)
    for name in tensors:
        if name.startswith(prefix):
            known = inside.match(name[len(prefix) :]) or (not above and beside.match(name))
            (explained if known else unexplained).append(name)
        elif name.startswith(above) and beside.match(name[len(above) :]):
            explained.append(name)
        else:
            outside.append(name)
    return Match(dialect, prefix, tuple(explained), tuple(unexplained), tuple(outside))


def matches(tensors: Mapping[str, Lazy], dialects: Sequence[Dialect]) -> list[Match]:
    """The best reading of every prefix where a patch kernel stands, best dialect first among its rivals.

    A prefix under which another one lies that explains as much is a wrapper and drops out.
    """
    by_prefix: dict[str, list[Match]] = {}
    for dialect, prefix in candidates(tensors, dialects):
        match = fit(tensors, dialect, prefix)
        if blocks(match):
            by_prefix.setdefault(prefix, []).append(match)
    best = []
    for found in by_prefix.values():
        found.sort(key=lambda m: (-carried(m), len(m.in_blocks)))
        best.append(replace(found[0], rivals=tuple(found[1:])))
    return sorted(best, key=lambda m: -m.score)


def carried(match: Match) -> int:
    """How many names of the file the dialect carries (explained, and not merely known and ignored)."""
    return 4 * len(match.explained) - sum(_why(match, name) for name in match.explained)


def _why(match: Match, name: str) -> int:
    hits = match.dialect.find(name, match.prefix)
    return int(bool(hits) and hits[0].item.ours is None)


def blocks(match: Match) -> int:
    """How many transformer blocks a match has names of."""
    numbers = set()
    for name in match.explained:
        hits = match.dialect.find(name, match.prefix)
        if hits and (rule := hits[0].item).ours and rule.ours.startswith("blocks."):
            numbers.add(hits[0].numbers.get("i", 0))
    return len(numbers)


def rule_for(match: Match, name: str) -> Rule | None:
    """The rule that reads a name, None where there is none."""
    hits = match.dialect.find(name, match.prefix)
    return hits[0].item if hits else None
