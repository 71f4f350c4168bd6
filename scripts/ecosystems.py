"""Writes docs/ecosystems.md from the tables: `python scripts/ecosystems.py` (with `--check`: only compares)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from anyvit import canon, foreign
from anyvit.dialects import ALL
from anyvit.dialects.lineages import LINEAGES, Lineage
from anyvit.rules import Dialect
from anyvit.spec import Rope
from anyvit.twins import TWINS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "ecosystems.md"
HEAD = """# Ecosystems

Generated from the tables by `python scripts/ecosystems.py`; a test compares. A *dialect* is a spelling of names and
layouts, a *lineage* is where weights come from and what their tensors do not say.

"""


def sayable(dialect: Dialect) -> set[str]:
    """The canonical patterns that a dialect has words for."""
    patterns = set()
    for name in canon.NAMES:
        text = name.pattern.replace("{p}", "weight").replace("{i}", "0")
        if dialect.writing.match(text):
            patterns.add(name.pattern)
    return patterns


def extras(dialect: Dialect) -> str:
    """What a dialect can say beyond the plain ViT, in words."""
    said = sayable(dialect)
    parts = {
        "dist token": "embed.dist", "registers": "embed.reg", "mask token": "embed.mask", "pre-norm": "embed.norm.{p}",
        "q/k norm": "blocks.{i}.attn.q_norm.{p}", "LayerScale": "blocks.{i}.ls1", "gated MLP": "blocks.{i}.mlp.gate.{p}",
        "sub-norms": "blocks.{i}.attn.norm.{p}", "relative positions": "blocks.{i}.attn.rel_pos",
        "windows": "blocks.{i}.attn.rel_pos_h", "AdaLN": "blocks.{i}.adaln.shift1.{p}", "fc norm": "fc_norm.{p}",
        "attention pool": "pool.out.{p}", "pre-logits": "pre_logits.{p}", "projection": "proj.{p}", "classifier": "head.{p}",
    }  # fmt: skip
    return ", ".join(word for word, pattern in parts.items() if pattern in said) or "–"


def cannot(dialect: Dialect) -> str:
    """Common parts that a dialect has no words for."""
    said = sayable(dialect)
    parts = {
        "positions": "embed.pos", "prefix positions": "embed.pos_prefix", "cls": "embed.cls", "patch bias": "embed.patch.{p}",
        "plain MLP": "blocks.{i}.mlp.fc1.{p}", "final norm": "norm.{p}",
    }  # fmt: skip
    return ", ".join(word for word, pattern in parts.items() if pattern not in said) or "–"


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield f"## {len(ALL)} dialects\n"
    yield "| dialect | project | prefix | can say beyond a plain ViT | cannot say | source |"
    yield "|---|---|---|---|---|---|"
    for d in ALL:
        prefix = f"`{d.root or d.tower}`" if d.root or d.tower else ""
        yield f"| `{d.name}` | {d.title} | {prefix} | {extras(d)} | {cannot(d)} | {d.source} |"
    yield f"\n## {len({row.name for row in LINEAGES})} lineages\n"
    yield "Signs are tried from the top; the first row whose signs all hold decides.\n"
    yield "| lineage | dialects | signs | facts | heads | source |"
    yield "|---|---|---|---|---|---|"
    for row in LINEAGES:
        signs = "; ".join(f"`{sign}`".replace("|", "\\|") for sign in row.when) or "–"
        names = ", ".join(f"`{name}`" for name in row.dialects)
        yield f"| {row.name} | {names} | {signs} | {facts(row)} | {heads(row)} | {row.source} |"
    yield from twins()
    yield from refusals()


def twins() -> Iterator[str]:
    """Readings that nothing in a file tells apart."""
    yield "\n## Readings that nothing in a file tells apart\n"
    yield "The reading is assumed and a finding names the other; a config beside the weights, or `dialect=`, decides.\n"
    yield "| dialects | field | taken for granted | could be | signs |"
    yield "|---|---|---|---|---|"
    for twin in TWINS:
        signs = "; ".join(f"`{sign}`".replace("|", "\\|") for sign in twin.when) + (
            "; the tower alone" if twin.alone else ""
        )
        yield f"| {', '.join(f'`{name}`' for name in twin.dialects)} | {twin.field} | {twin.reading} | {twin.other} | {signs} |"


def refusals() -> Iterator[str]:
    """What is named and refused."""
    yield "\n## What is named and refused\n"
    yield "Architectures that the reference ViT cannot hold, by names that give them away.\n"
    for _, text in (*foreign.FAMILIES, *foreign.OTHERWISE):
        yield f"- {text}"


def facts(row: Lineage) -> str:
    """The facts of a lineage in words."""
    words = []
    for name, value in row.facts.items():
        if name in ("mean", "std"):
            continue
        if isinstance(value, Rope):
            value = f"base {value.base:g}, {value.layout}, {value.first} first, {value.coords}"
        words.append(f"{name} {value}")
    mean = row.facts.get("mean")
    means = {(0.485, 0.456, 0.406): "ImageNet's", (0.5, 0.5, 0.5): "0.5", (0.48145466, 0.4578275, 0.40821073): "CLIP's"}
    return "; ".join([*words, f"mean {means.get(mean, mean)}"] if mean else words)


def heads(row: Lineage) -> str:
    """The head counts of a lineage in words."""
    return f"{row.head_dim} channels" + (
        f"; by width: {', '.join(f'{w}: {h}' for w, h in row.heads.items())}" if row.heads else ""
    )


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(lines()) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0 if TARGET.read_text() == page() else "docs/ecosystems.md is not current: python scripts/ecosystems.py"
        )
    TARGET.write_text(page())
