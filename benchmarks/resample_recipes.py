"""How far the resampling recipes are apart on a real position table.

    python benchmarks/resample_recipes.py dinov2-small-hf/model.safetensors

prints the tables of docs/resampling.md. Every figure is a relative root mean square: |a - b| / |b| over the grid rows.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from anyvit import resample

SIZES = [(16, 16), (28, 28), (32, 48), (52, 52)]
REFERENCE = "dinov2"


def main() -> None:
    """Reads the file named on the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .safetensors file of a ViT with a learned position table")
    parser.add_argument("--name", default="embeddings.position_embeddings", help="end of the table's name")
    parser.add_argument("--prefix", type=int, default=1, help="rows before the grid (cls, registers)")
    given = parser.parse_args()
    print(tables(read(given.file, given.name, given.prefix)), end="")


def read(path: Path, name: str, prefix: int) -> np.ndarray:
    """The grid rows of a position table, as float32 (rows, dim); a safetensors file is a length, a header and bytes."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        (entry,) = (entry for key, entry in header.items() if key.endswith(name))
        first, last = entry["data_offsets"]
        file.seek(8 + size + first)
        data = file.read(last - first)
    kind = {"F16": np.float16, "F32": np.float32}[entry["dtype"]]
    table = np.frombuffer(data, kind).reshape(entry["shape"])
    return table.reshape(-1, table.shape[-1])[prefix:].astype(np.float32)


def tables(table: np.ndarray) -> str:
    """The two markdown tables: every recipe against one, and every pair at the first size.

    Arguments:
        table: (side², dim), a square grid.
    """
    side = math.isqrt(len(table))
    made = {name: [resample.positions(table, (side, side), size, name) for size in SIZES] for name in resample.RECIPES}
    groups: dict[str, list[str]] = {}
    for name, results in made.items():
        same = [
            first for first in groups if all(distance(a, b) < 1e-5 for a, b in zip(results, made[first], strict=True))
        ]
        groups.setdefault(same[0] if same else name, []).append(name)
    head = [f"| recipes that agree here | {' | '.join(f'{side}×{side} → {h}×{w}' for h, w in SIZES)} |"]
    lines = [*head, "|---|" + "---|" * len(SIZES)]
    for first, names in groups.items():
        figures = [f"{distance(a, b):.2%}" for a, b in zip(made[first], made[REFERENCE], strict=True)]
        lines.append(f"| {', '.join(names)} | {' | '.join(figures)} |")
    lines += ["", f"| {side}×{side} → {SIZES[0][0]}×{SIZES[0][1]} | {' | '.join(groups)} |"]
    lines += ["|---|" + "---|" * len(groups)]
    for first in groups:
        figures = [f"{distance(made[first][0], made[other][0]):.2%}" for other in groups]
        lines.append(f"| {first} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


if __name__ == "__main__":
    main()
