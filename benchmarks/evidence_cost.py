"""What the checks of trained weights cost: what a load reads and asks, and order and transposes where a glance asks on.

Example: python benchmarks/evidence_cost.py --width 1024 --depth 24
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from anyvit import deep, evidence_order
from anyvit.evidence import Attention, heads, sample
from anyvit.evidence_norms import Norms
from anyvit.evidence_order import order, transposed
from anyvit.evidence_rotary import rotary_pairs
from anyvit.evidence_tables import positions
from anyvit.lazy import from_array

PARTS = ("q", "k", "v", "out")


def best(call: Callable[[], object], rounds: int) -> float:
    """Processor time of the shortest of several runs, in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def blocks(width: int, count: int, head: int = 64) -> list[Attention]:
    """Random blocks whose heads have scales of their own and whose norms are balanced."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        q, k, v, out = rng.normal(0, 0.02, (4, width, width)).astype("float32")
        a, b = (np.exp(rng.normal(0, 0.3, width // head).repeat(head) + rng.normal(0, 0.1, width)) for _ in range(2))
        a, b = a.astype("float32"), b.astype("float32")
        found.append(Attention(q * a[:, None], k * a[:, None], v * b[:, None], out * b))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    picked = sample(args.depth, args.width)
    model = blocks(args.width, len(picked))
    table = np.random.default_rng(1).normal(size=(1370, args.width)).astype("float32")
    few = model[: len(sample(args.depth, args.width, deep.BUDGET))]
    tensors = {f"blocks.{i}.attn.{n}.weight": from_array(getattr(b, n)) for i, b in enumerate(few) for n in PARTS}
    numbers = list(range(len(few)))
    read = best(lambda: deep.attentions(tensors, numbers), args.rounds)
    small = deep.attentions(tensors, numbers)
    noise = [Attention(*np.random.default_rng(i).normal(0, 0.02, (4, args.width, args.width))) for i in numbers]
    print(heads(model).text)
    print(
        f"a load: {len(few)} blocks read {read:.1f} ms, heads {best(lambda: heads(small), args.rounds):.1f} ms, ",
        end="",
    )
    print(f"glance {best(lambda: evidence_order.glance(small), args.rounds):.1f} ms", end="")
    norms = [Attention(*(Norms.of(getattr(b, n)) for n in PARTS)) for b in noise]
    print(f" (of random weights {best(lambda: evidence_order.glance(norms), args.rounds):.1f} ms)")
    rotary = best(lambda: rotary_pairs(small, args.width // 64), args.rounds)
    print(f"rotary pairs, {len(small)} blocks: {rotary:.1f} ms")
    print(f"heads, blocks {picked}: {best(lambda: heads(model), args.rounds):.1f} ms")
    print(f"order, {len(model)} blocks: {best(lambda: order(model), args.rounds):.1f} ms")
    print(f"transposed, {len(model)} blocks: {best(lambda: transposed(model), args.rounds):.1f} ms")
    print(f"positions, 1370 rows: {best(lambda: positions(table), args.rounds):.1f} ms")


if __name__ == "__main__":
    main()
