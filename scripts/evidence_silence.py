"""Counts wrong verdicts over files without an answer: random, barely trained and damaged weights, from printed seeds.

Example: python scripts/evidence_silence.py --stacks stacks/ --small small/ --count 2000 --seed 7
A verdict is wrong where heads are named that are not there, or where order or transposes are said to deviate and do not.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from anyvit.evidence import Attention, heads
from anyvit.evidence_layout import joint_layout
from anyvit.evidence_order import order, transposed
from anyvit.evidence_rotary import rotary_pairs

KINDS = ("plain", "parts", "noise", "walk", "rough walk", "step", "steps", "drift", "wave", "pairs", "patches", "ar")
INITS = ("normal", "uniform", "orthogonal", "sparse", "heavy", "xavier")


def field(rng: np.random.Generator, kind: str, width: int) -> np.ndarray:
    """A scale by channel, (width,), that no head explains."""
    at = np.arange(width)
    match kind:
        case "noise":
            return rng.normal(size=width)
        case "walk" | "rough walk":
            walk = rng.normal(size=width).cumsum() / np.sqrt(width)
            return walk + (kind == "rough walk") * 0.3 * rng.normal(size=width)
        case "step":
            return np.where(at < rng.integers(1, width), -1.0, 1.0)
        case "steps":
            cuts = np.sort(rng.integers(1, width, rng.integers(2, 9)))
            return rng.normal(size=len(cuts) + 1)[np.searchsorted(cuts, at, "right")]
        case "drift":
            return np.linspace(-1, 1, width) * rng.choice([-1, 1])
        case "wave":
            return np.sin(2 * np.pi * at * rng.uniform(0.5, 20) / width + rng.uniform(0, 6))
        case "pairs":
            return rng.normal(size=(width + 1) // 2).repeat(2)[:width]
        case "patches":
            size = int(rng.integers(5, 40))
            return rng.normal(size=width // size + 1).repeat(size)[:width] if width % size else rng.normal(size=width)
        case "ar":
            x, out = 0.0, []
            for e in rng.normal(size=width):
                x = 0.8 * x + e
                out.append(x)
            return np.array(out)
    return np.zeros(width)


def matrices(rng: np.random.Generator, init: str, width: int) -> np.ndarray:
    """q, k, v and out as an initialiser leaves them, (4, width, width)."""
    shape = (4, width, width)
    match init:
        case "uniform":
            return rng.uniform(-1, 1, shape) / np.sqrt(width)
        case "orthogonal":
            return np.stack([np.linalg.qr(rng.normal(size=(width, width)))[0] for _ in range(4)])
        case "sparse":
            return rng.normal(0, 0.02, shape) * (rng.random(shape) < 0.1)
        case "heavy":
            return 0.02 * rng.standard_t(2.5, shape)
        case "xavier":
            return rng.normal(0, 1 / np.sqrt(width), shape) * np.array([0.5, 0.5, 0.5, 1])[:, None, None]
    return rng.normal(0, 0.02, shape)


def drawn(rng: np.random.Generator) -> tuple[str, list[Attention]]:
    """A model of random weights whose channels have scales that v and out, and q and k, may share."""
    kind, init = str(rng.choice(KINDS)), str(rng.choice(INITS))
    width, depth = int(rng.choice([64, 96, 120, 128, 192, 384])), int(rng.integers(1, 13))
    every, strength, apart = rng.random() < 0.4, rng.choice([0.1, 0.3, 0.8]), rng.random() < 0.3
    same = field(rng, kind, width)
    found = []
    for i in range(depth):
        w = matrices(rng, init, width)
        vo = same if every else field(rng, kind, width)
        qk = field(rng, kind, width) if apart else vo
        a, b = (np.exp(strength * x + 0.1 * rng.normal(size=width)) for x in (qk, vo))
        parts = (w[0] * a[:, None], w[1] * a[:, None], w[2] * b[:, None], w[3] * b)
        found.append(Attention(*(x.astype("float32") for x in parts), name=f"blocks.{i}"))
    return f"{kind}, {init}, {depth} × {width}", found


def stack(path: Path) -> tuple[list[Attention], int]:
    """Blocks and heads of a file with timm's names."""
    with safe_open(path, "np") as file:
        meta, names, found = file.metadata(), set(file.keys()), []
        while f"blocks.{len(found)}.attn.qkv.weight" in names:
            at = f"blocks.{len(found)}.attn."
            parts = np.split(file.get_tensor(at + "qkv.weight").astype("float32"), 3)
            found.append(Attention(*parts, file.get_tensor(at + "proj.weight").astype("float32"), at[:-6]))
    return found, int(meta["heads"])


Hurt = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _rows(rng: np.random.Generator, w: np.ndarray, factor: float) -> np.ndarray:
    out, size = w.copy(), max(1, len(w) // 5)
    at = int(rng.integers(0, len(w) - size))
    out[at : at + size] *= factor
    return out


def _kept(w: np.ndarray, share: float) -> np.ndarray:
    return w * (np.abs(w) >= np.quantile(np.abs(w), 1 - share))


def _low_rank(w: np.ndarray) -> np.ndarray:
    u, s, v = np.linalg.svd(w, full_matrices=False)
    n = max(1, len(s) // 8)
    return (u[:, :n] * s[:n]) @ v[:n]


def _rounded(w: np.ndarray, levels: int) -> np.ndarray:
    step = np.abs(w).max() / levels
    return np.round(w / step) * step


def _nan(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
    out = w.copy()
    out[tuple(rng.integers(0, n) for n in w.shape)] = np.nan
    return out


DAMAGE: dict[str, Hurt] = {
    "rows zeroed": lambda rng, w: _rows(rng, w, 0.0),
    "rows scaled": lambda rng, w: _rows(rng, w, 10.0),
    "rows permuted": lambda rng, w: w[rng.permutation(len(w))],
    "columns permuted": lambda rng, w: w[:, rng.permutation(w.shape[1])],
    "rows rolled": lambda rng, w: np.roll(w, int(rng.integers(1, len(w))), 0),
    "rows sorted": lambda rng, w: w[np.argsort(np.square(w).sum(1))],
    "rows reversed": lambda rng, w: w[::-1],
    "noise added": lambda rng, w: w + rng.normal(size=w.shape) * w.std(),
    "drawn anew": lambda rng, w: rng.normal(size=w.shape) * w.std(),
    "NaN": _nan,
    "zero": lambda rng, w: np.zeros_like(w),
    "half pruned": lambda rng, w: _kept(w, 0.5),
    "nine tenths pruned": lambda rng, w: _kept(w, 0.1),
    "rank cut to an eighth": lambda rng, w: _low_rank(w),
    "4 bits": lambda rng, w: _rounded(w, 7),
    "2 bits": lambda rng, w: _rounded(w, 1),
    "rows normalised": lambda rng, w: w / (np.linalg.norm(w, axis=1, keepdims=True) + 1e-12),
    "drift over rows": lambda rng, w: w * np.linspace(0.3, 3, len(w))[:, None],
}


def damaged(rng: np.random.Generator, blocks: Sequence[Attention]) -> tuple[str, list[Attention]]:
    """Some blocks of a real stack, one to all matrices of one to all blocks damaged in one way."""
    count = int(rng.integers(1, len(blocks) + 1))
    first = int(rng.integers(0, len(blocks) - count + 1))
    out = list(blocks[first : first + count])
    kind = str(rng.choice(list(DAMAGE)))
    hurt = set(range(count)) if rng.random() < 0.4 else {int(rng.integers(count))}
    names = [n for n in ("q", "k", "v", "out") if rng.random() < 0.5] or ["v"]
    for i in hurt:
        changes = {n: np.ascontiguousarray(DAMAGE[kind](rng, getattr(out[i], n)), "float32") for n in names}
        out[i] = replace(out[i], **changes)
    return f"{kind}: {', '.join(names)} of {len(hurt)} of {count} blocks", out


def _multiplied(rng: np.random.Generator, width: int, kind: str) -> Hurt:
    scale = np.exp(rng.choice([0.3, 0.8]) * field(rng, kind, width))
    return lambda rng, w: w * np.resize(scale, len(w))[:, None]


def _common(rng: np.random.Generator, width: int) -> tuple[str, Hurt]:
    """One change with one outcome, so that all matrices it is applied to are damaged alike."""
    kind = str(rng.choice([*KINDS[2:], "permuted", "reversed", "rolled", "halves exchanged", "turned"]))
    if kind in KINDS:
        return f"one {kind}", _multiplied(rng, width, kind)
    at, order = int(rng.integers(1, width)), rng.permutation(width)
    changes: dict[str, Hurt] = {
        "permuted": lambda rng, w: w[order] if len(w) == width else w,
        "reversed": lambda rng, w: w[::-1],
        "rolled": lambda rng, w: np.roll(w, at, 0),
        "halves exchanged": lambda rng, w: np.roll(w, len(w) // 2, 0),
        "turned": lambda rng, w: w[::-1, ::-1],
    }
    return f"{kind} alike", changes[kind]


def shared(rng: np.random.Generator, blocks: Sequence[Attention]) -> tuple[str, list[Attention]]:
    """Some blocks of a real stack, two or more matrices damaged by the very same change of rows (or of out's columns)."""
    count = int(rng.integers(1, len(blocks) + 1))
    first = int(rng.integers(0, len(blocks) - count + 1))
    out = list(blocks[first : first + count])
    names = [("v", "out"), ("q", "v", "out"), ("k", "v", "out"), ("q", "k", "v", "out"), ("q", "v"), ("q", "out")][
        int(rng.integers(6))
    ]
    one, flipped, hurt = rng.random() < 0.5, rng.random() < 0.2, set(range(count))
    if rng.random() < 0.4:
        hurt = {int(rng.integers(count))}
    text, change = _common(rng, len(out[0].q))
    for i in hurt:
        if not one:
            text, change = _common(rng, len(out[0].q))
        changes = {}
        for n in names:
            w = getattr(out[i], n)
            w = change(rng, w.T).T if n == "out" and flipped else change(rng, w)
            changes[n] = np.ascontiguousarray(w, "float32")
        out[i] = replace(out[i], **changes)
    columns = " (columns of out)" * flipped
    return f"{text}{' each' * (not one)}: {', '.join(names)}{columns} of {len(hurt)} of {count} blocks", out


def wrong(blocks: Sequence[Attention], count: int | None) -> Iterator[str]:
    """What is said that is not so."""
    verdict = heads(blocks)
    if verdict.value not in (None, count):
        yield f"heads: {verdict.value}: {verdict.text}"
    for name, ask in (("order", order), ("transposed", transposed)):
        if ask(blocks).value:
            yield f"{name}: {ask(blocks).text}"
    pairs = rotary_pairs(blocks, count or 4) if len(blocks[0].q) % (4 * (count or 4)) == 0 else None
    if pairs:
        yield f"rotary: {pairs.value}: {pairs.text}"
    both = joint_layout(blocks).value
    if both is not None and (both.axes, both.v, both.turned) != ("3 h d", 2, ()):
        yield f"layout: {both}"


def files(args: argparse.Namespace) -> Iterator[tuple[str, str, list[Attention], int | None]]:
    rng = np.random.default_rng(args.seed)
    for _ in range(args.count):
        text, blocks = drawn(rng)
        yield "random", text, blocks, None
    for path in sorted(args.small.glob("*.safetensors")) if args.small else ():
        blocks, count = stack(path)
        for n in range(1, len(blocks) + 1):
            yield "barely trained", f"{path.stem}, {n} blocks", blocks[:n], count
    stacks = [(p.stem, *stack(p)) for p in (sorted(args.stacks.glob("*.s*t*")) if args.stacks else ())]
    for i in range(args.damaged if stacks else 0):
        name, blocks, count = stacks[i % len(stacks)]
        text, blocks = damaged(rng, blocks)
        yield "damaged", f"{name}: {text}", blocks, count
    for i in range(args.shared if stacks else 0):
        name, blocks, count = stacks[i % len(stacks)]
        text, blocks = shared(rng, blocks)
        yield "damaged alike", f"{name}: {text}", blocks, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="random files")
    parser.add_argument("--damaged", type=int, default=300, help="damaged files")
    parser.add_argument("--shared", type=int, default=300, help="files whose matrices are damaged alike")
    parser.add_argument("--stacks", type=Path, help="files of scripts/real_stacks.py")
    parser.add_argument("--small", type=Path, help="files of scripts/train_small.py, a few steps each")
    args = parser.parse_args()
    tally: Counter[tuple[str, str]] = Counter()
    with np.errstate(all="ignore"):
        for group, text, blocks, count in files(args):
            said = list(wrong(blocks, count))
            tally[group, "wrong" if said else "right"] += 1
            for line in said:
                print(f"WRONG {group}, {text}: {line[:260]}", flush=True)
    for group in dict.fromkeys(group for group, _ in tally):
        print(f"{group}: {tally[group, 'right'] + tally[group, 'wrong']} files, {tally[group, 'wrong']} wrong")


if __name__ == "__main__":
    main()
