"""Draws the pictures and measures the table of docs/evidence.md.

Example: python scripts/evidence_doc.py model.safetensors --small folder/ --out docs/evidence
The first file is a DINOv2 in Hugging Face names, or a BERT-like encoder; --small holds files of scripts/train_small.py.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from anyvit.evidence import Attention, heads, sums
from anyvit.evidence_depth import similarity, stream
from anyvit.evidence_layout import Reading, fused_layout
from anyvit.evidence_norms import column_squares, row_squares
from anyvit.evidence_order import order, transposed
from anyvit.evidence_rotary import WAYS, tightness
from anyvit.evidence_tables import gated, grids, positions, smoothness

NAMES = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")


def encoder(tensors: Mapping[str, np.ndarray]) -> list[Attention]:
    """Attention blocks under Hugging Face's names, in float32."""
    found = []
    for i in range(200):
        names = [f"encoder.layer.{i}.{name}.weight" for name in NAMES]
        names = names if names[0] in tensors else [n.replace("attention.attention", "attention.self") for n in names]
        if names[0] not in tensors:
            return found
        found.append(Attention(*(tensors[n].astype("float32") for n in names), name=f"blocks.{i}"))
    return found


def small(path: Path) -> tuple[list[Attention], int, str]:
    """Attention blocks, number of heads and kind of one file of train_small.py."""
    with safe_open(path, "np") as file:
        recipe, found = json.loads(file.metadata()["recipe"]), []
        for i in range(recipe["depth"]):
            weight, out = (file.get_tensor(f"blocks.{i}.attn.{n}.weight") for n in ("qkv", "proj"))
            found.append(Attention(*np.split(weight, 3), out, name=f"blocks.{i}"))
        return found, recipe["heads"], path.stem


def laid(blocks: Sequence[Attention], axes: str, v: int, turned: bool, count: int) -> Iterator[tuple]:
    """Blocks as a fused tensor of another layout and their output projections."""
    for b in blocks:
        parts = [b.q, b.k]
        parts.insert(v, b.v)
        w = np.stack(parts)
        if axes == "h 3 d":
            w = w.reshape(3, count, -1, w.shape[-1]).transpose(1, 0, 2, 3)
        elif axes == "h d 3":
            w = w.transpose(1, 0, 2)
        yield np.ascontiguousarray(w).reshape(-1, b.q.shape[1]), b.out.T if turned else b.out


def disguises(blocks: Sequence[Attention], count: int) -> str:
    """How many of the 18 layouts are read rightly, wrongly and not at all."""
    tally: Counter[str] = Counter()
    for axes in ("3 h d", "h 3 d", "h d 3") if count > 1 else ("3 h d", "h d 3"):
        for v, turned in ((v, t) for v in range(3) for t in (False, True)):
            weights, outs = zip(*laid(blocks, axes, v, turned, count), strict=True)
            verdict = fused_layout(weights, outs)
            truth = (axes, v, ("out",) if turned else ())
            said = verdict.value and (verdict.value.axes, verdict.value.v, verdict.value.turned)
            right = said == truth and (axes != "h 3 d" or verdict.value.heads == count)
            tally["none" if said is None else "right" if right else "wrong"] += 1
    return f"{tally['right']} / {tally['wrong']} / {tally['none']}"


def faults(blocks: Sequence[Attention], count: int) -> str:
    """One block at a time spoiled in eight ways: named rightly, wrongly, not seen."""
    tally: Counter[str] = Counter()
    for at, b in enumerate(blocks if len(blocks) > 1 else ()):
        for name, spoiled, truth in spoil(b, count):
            shown = [*blocks[:at], spoiled, *blocks[at + 1 :]]
            verdict = transposed(shown) if truth.turned else order(shown)
            if not verdict.value:
                tally["unseen"] += 1
                continue
            finding = verdict.value[0]
            same = finding.name == b.name and replace(finding.reading, heads=None) == truth
            tally["right" if same and len(verdict.value) == 1 else "wrong"] += 1
            if not same:
                print("   wrong:", name, verdict.text)
    return f"{tally['right']} / {tally['wrong']} / {tally['unseen']}"


def spoil(b: Attention, count: int) -> Iterator[tuple[str, Attention, Reading]]:
    yield "v for q", replace(b, q=b.v, v=b.q), Reading("3 h d", 0)
    yield "v for k", replace(b, k=b.v, v=b.k), Reading("3 h d", 1)
    for axes in ("h 3 d", "h d 3") if count > 1 else ("h d 3",):
        ((weight, out),) = laid([b], axes, 2, False, count)
        yield axes, Attention(*np.split(weight, 3), out, name=b.name), Reading(axes, 2)
    for name in ("q", "k", "v", "out"):
        yield name, replace(b, **{name: getattr(b, name).T}), Reading("3 h d", 2, (name,))


def line(kind: str, blocks: Sequence[Attention], count: int) -> str:
    verdict, alone = heads(blocks), [heads([b]).value for b in blocks]
    wrong = sum(value not in (None, count) for value in alone)
    single = f"{alone.count(count)} / {wrong} / {alone.count(None)}"
    said = f"{verdict.value}, {verdict.nats:.0f} nats" if verdict else "no evidence"
    return f"| {kind} | {count} | {said} | {single} | {disguises(blocks, count)} | {faults(blocks, count)} |"


def draw_heads(blocks: Sequence[Attention], count: int, out: Path) -> None:
    import matplotlib.pyplot as plt

    size = len(blocks[0].q) // count
    figure, axes = plt.subplots(3, 1, figsize=(9, 6.2), layout="constrained")
    for axis, at in zip(axes, (0, len(blocks) // 2, len(blocks) - 1), strict=True):
        b = blocks[at]
        norms = [np.sqrt(f(w)) for f, w in ((row_squares, b.v), (column_squares, b.out))]
        for norm, label in zip(norms, ("rows of v", "columns of out"), strict=True):
            axis.plot(norm, ".", markersize=3, label=label)
        for border in range(0, len(b.q) + 1, size):
            axis.axvline(border - 0.5, color="0.7", linewidth=0.8)
        axis.set(title=f"{b.name}", ylabel="norm", xlim=(-1, len(b.q)), yscale="log")
    axes[0].legend(loc="upper right", fontsize=8)
    axes[-1].set_xlabel("channel; grey lines: borders between heads")
    figure.savefig(out / "heads.png", dpi=80)


def draw_votes(blocks: Sequence[Attention], count: int, out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    pairs = [sums((row_squares(b.q), row_squares(b.k), row_squares(b.v), column_squares(b.out)), 1) for b in blocks]
    shown = np.stack([x for pair in pairs if pair for x in pair])
    axis.imshow(shown, aspect="auto", cmap="coolwarm", interpolation="nearest")
    for border in range(0, shown.shape[1], shown.shape[1] // count):
        axis.axvline(border - 0.5, color="black", linewidth=0.6)
    axis.set(xlabel="channel", ylabel="block (q·k, v·out in turn)", title="normal scores of the channel norms")
    figure.savefig(out / "votes.png", dpi=80)


def draw_positions(table: np.ndarray, out: Path) -> None:
    import matplotlib.pyplot as plt

    found = {g: smoothness(table[g[0] :], g[1], g[2]) for g in grids(len(table))}
    ranked = sorted(found, key=lambda g: found[g])[:12]
    figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    axis.barh([f"{k} + {h} × {w}" for k, h, w in ranked][::-1], [found[g] for g in ranked][::-1])
    axis.axvline(2, color="0.6", linestyle=":")
    axis.set(xlabel="mean squared step between neighbours over variance, all channels (independent rows: 2)")
    figure.savefig(out / "positions.png", dpi=80)
    print("positions:", positions(table).text)


STREAM = {
    "norm1.weight": "norm1.weight",
    "norm2.weight": "norm2.weight",
    "attn.out.weight": "attention.output.dense.weight",
}
STREAM |= {f"mlp.{n}.weight": f"mlp.{n}.weight" for n in ("fc1", "fc2")}
STREAM |= {f"attn.{n[0]}.weight": f"attention.attention.{n}.weight" for n in ("query", "key", "value")}
"""Canonical names of a block → Hugging Face's DINOv2."""


RIVALS = (("interleaved", 4), ("half", 4), ("none", 6))
"""Kinds of `rotary_norms.npz` and their heads."""


def _share(norms: np.ndarray, heads: int, way: str) -> float:
    """Geometric mean over the blocks that have something to compare."""
    each = [tightness(*(x.reshape(heads, -1) for x in pair))[way] for pair in norms]
    return float(np.exp(np.mean([np.log(x) for x in each if x < 1])))


def draw_depth(tensors: Mapping[str, np.ndarray], depth: int, rotary: Path, out: Path) -> None:
    """Blocks by how they meet the residual stream; and the pairs of trained rotary models."""
    import matplotlib.pyplot as plt

    blocks = [
        stream({ours: tensors[f"encoder.layer.{i}.{name}"].astype("float32") for ours, name in STREAM.items()})
        for i in range(depth)
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    shown = axes[0].imshow(similarity(blocks).mean(0), vmin=0, vmax=0.7)
    figure.colorbar(shown, ax=axes[0])
    axes[0].set(title="resemblance of blocks (DINOv2-S)", xlabel="block", ylabel="block")
    width = 0.25
    with np.load(rotary) as file:
        for k, (way, text) in enumerate(WAYS.items()):
            shares = [_share(file[kind], heads, way) for kind, heads in RIVALS]
            axes[1].bar(np.arange(3) + (k - 1) * width, shares, width, label=text)
    axes[1].axhline(0.5, color="0.6", linestyle=":")
    axes[1].set_xticks(range(3), ["rotary, interleaved", "rotary, halves", "not rotary"])
    axes[1].set(title="variance of |q|²/|k|², pairs : channels")
    axes[1].legend(fontsize=7)
    figure.savefig(out / "depth.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the pictures; without it only the table is printed")
    args = parser.parse_args()
    tensors = load_file(args.model)
    blocks = encoder(tensors)
    print("| kind | heads | said | one block | layouts | spoiled blocks |\n|---|---|---|---|---|---|")
    print(line(args.model.parent.name, blocks, args.heads))
    for path in sorted(args.small.glob("*.safetensors")) if args.small else ():
        found, count, kind = small(path)
        print(line(kind, found, count), flush=True)
        weights = load_file(path)
        if "swiglu" in kind:
            halves = [np.split(weights[f"blocks.{i}.mlp.fc1.weight"], 2) for i in range(len(found))]
            print("   ", gated([(*h, weights[f"blocks.{i}.mlp.fc2.weight"]) for i, h in enumerate(halves)]).text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        draw_heads(blocks, args.heads, args.out)
        draw_votes(blocks, args.heads, args.out)
        draw_depth(tensors, len(blocks), Path("tests/fixtures/rotary_norms.npz"), args.out)
        draw_positions(tensors["embeddings.position_embeddings"][0].astype("float32"), args.out)


if __name__ == "__main__":
    main()
