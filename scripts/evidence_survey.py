"""Disguises and damages real stacks and asks `inspect(deep=True)` about blocks, rounding, training and rotary pairs.

Example: python scripts/evidence_survey.py stacks/ --seed 3 --damaged 10
The folder holds files of scripts/real_stacks.py or scripts/train_photos.py (timm's names, `heads` in the metadata).
A verdict is wrong where something is named that was not done, or done elsewhere.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from evidence_silence import DAMAGE
from safetensors import safe_open
from safetensors.numpy import load_file

import anyvit

Arrays = dict[str, np.ndarray]
ASKED = ("order", "repeated", "rounded", "untrained", "differs", "swapped")
Case = tuple[str, str, set[str], Arrays]
"""Name of the disguise, kind of finding that is right ("" for none), blocks that it must name, and the tensors."""


def moved(tensors: Arrays, order: list[int]) -> Arrays:
    """Block order[i] in place i."""
    out = {n: x for n, x in tensors.items() if not n.startswith("blocks.")}
    for place, number in enumerate(order):
        at = f"blocks.{number}."
        out |= {f"blocks.{place}.{n[len(at) :]}": x for n, x in tensors.items() if n.startswith(at)}
    return out


def broken(order: list[int]) -> set[str]:
    """Blocks that do not follow each other."""
    pairs = [(i, i + 1) for i in range(len(order) - 1) if abs(order[i] - order[i + 1]) != 1]
    return {f"blocks.{i}" for pair in pairs for i in pair}


def orders(tensors: Arrays, depth: int, rng: np.random.Generator) -> Iterator[Case]:
    plain = list(range(depth))
    for i in range(depth - 1):
        swapped = list(plain)
        swapped[i], swapped[i + 1] = i + 1, i
        yield "neighbours exchanged", "order", broken(swapped), moved(tensors, swapped)
    for _ in range(depth):
        i, j = (int(x) for x in rng.choice(depth, 2, replace=False))
        swapped = list(plain)
        swapped[i], swapped[j] = j, i
        yield "two blocks exchanged", "order", broken(swapped), moved(tensors, swapped)
    if depth > 10:
        words = sorted(plain, key=str)
        yield "sorted as words", "order", broken(words), moved(tensors, words)
    for _ in range(4):
        order = [int(x) for x in rng.permutation(depth)]
        yield "any order", "order", broken(order), moved(tensors, order)
    at = int(rng.integers(1, depth))
    twice = plain[:at] + [at - 1] + plain[at + 1 :]
    yield "a block written twice", "repeated", {f"blocks.{at}", f"blocks.{at - 1}"}, moved(tensors, twice)


def values(tensors: Arrays, depth: int, rng: np.random.Generator) -> Iterator[Case]:
    for name in ("bfloat16", "float16", "float8_e4m3fn"):
        kind = getattr(ml_dtypes, name, np.float16)
        yield f"rounded to {name}", "rounded", set(), {n: x.astype(kind).astype("f4") for n, x in tensors.items()}
    for part in ("", "attn.", "mlp."):
        at = int(rng.integers(depth))
        out = dict(tensors)
        for n, x in tensors.items():
            if n.startswith(f"blocks.{at}.{part}"):
                gain = float("norm" in n and n.endswith("weight"))
                out[n] = rng.normal(0, 0.02, x.shape).astype("f4") if x.ndim == 2 else np.full_like(x, gain)
        yield f"{part or 'block '}drawn anew", "untrained", {f"blocks.{at}"}, out
    kernel = tensors["patch_embed.proj.weight"]
    relaid = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1)).reshape(kernel.shape)
    yield "patch kernel y x c", "swapped", set(), tensors | {"patch_embed.proj.weight": relaid}


def damaged(tensors: Arrays, depth: int, rng: np.random.Generator, count: int) -> Iterator[Case]:
    matrices = [n for n, x in tensors.items() if n.startswith("blocks.") and x.ndim == 2]
    for _ in range(count):
        kind = str(rng.choice([k for k in DAMAGE if k not in ("4 bits", "2 bits", "drawn anew", "NaN")]))
        out = dict(tensors)
        at = f"blocks.{int(rng.integers(depth))}."
        inside = [n for n in matrices if n.startswith(at)] if rng.random() < 0.5 else matrices
        for n in inside:
            if rng.random() < 0.6:
                out[n] = np.ascontiguousarray(DAMAGE[kind](rng, tensors[n]), "f4")
        yield f"damaged: {kind}", "", set(), out


def judge(case: Case, rounded: bool) -> str:
    """Right, none, or wrong with the text; `rounded`: whether the file as it is was rounded, which is then said always."""
    _, kind, blocks, tensors = case
    said = [f for f in anyvit.inspect(tensors, deep=True).findings if f.kind in ASKED]
    said = [f for f in said if f.kind not in ("differs", "swapped") or "rotary" in f.cause or "patch kernel" in f.cause]
    said = [f for f in said if f.kind != "rounded" or kind == "rounded" or not rounded]
    if not said:
        return "none" if kind else "right"
    named = {n for f in said for n in f.names if n.startswith("blocks.")} if blocks else set()
    good = all(f.kind == kind for f in said) and named <= blocks
    return "right" if good else "wrong: " + " / ".join(str(f)[:150] for f in said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damaged", type=int, default=10, help="damaged files of each stack")
    args = parser.parse_args()
    paths = [p for s in args.stacks for p in (sorted(s.glob("*.s*t*")) if s.is_dir() else [s])]
    rng, table = np.random.default_rng(args.seed), {}
    for path in paths:
        tensors = {n: x.astype("f4") for n, x in load_file(path).items()}
        depth = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
        with safe_open(path, "np") as file:
            print(path.stem, depth, "blocks,", file.metadata()["heads"], "heads", flush=True)
        plain = [f for f in anyvit.inspect(tensors, deep=True).findings if f.kind in ASKED]
        print("  as it is:", ", ".join(f"{f.kind} {f.names}" for f in plain) or "nothing")
        rounded = any(f.kind == "rounded" for f in plain)
        cases = [*values(tensors, depth, rng), *damaged(tensors, depth, rng, args.damaged)]
        with np.errstate(all="ignore"):
            for case in [*cases, *(orders(tensors, depth, rng) if depth > 2 else ())]:
                verdict = judge(case, rounded)
                label = case[0].split(":")[0]
                table.setdefault(label, Counter())[verdict.partition(":")[0]] += 1
                if verdict.startswith("wrong"):
                    print("  WRONG", case[0], case[2], verdict, flush=True)
    print("| disguise | right / wrong / no answer |\n|---|---|")
    for label, count in table.items():
        print(f"| {label} | {count['right']} / {count['wrong']} / {count['none']} |")


if __name__ == "__main__":
    main()
