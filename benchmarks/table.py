"""Figures as a Markdown table, and into the page that explains them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
BEGIN_GPU, END_GPU = "<!-- figures of a GPU -->", "<!-- end of figures of a GPU -->"
HEAD = ("job", "way", "job, s", "ratio", "process, s", "CPU, s", "peak, MB", "also")
FIXED = ("job", "ready", "wall", "cpu", "peak")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table, one way a line; the ratio is to the first figure of the reference.

    Arguments:
        rows: `process.Row`s as dicts.
    """
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    before = ""
    for row in rows:
        lines.append(f"| {' | '.join(_cells(row, before))} |")
        before = row["job"]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], before: str) -> list[str]:
    figures, ratios = row["figures"], row["ratios"]
    main = next((name for name in FIXED if name in figures), "")
    ratio = f"{ratios[main]:.2f}" if main in ratios else ""
    also = ", ".join(f"{name} {_figure(value)}" for name, value in figures.items() if name not in FIXED)
    inside = _figure(figures[main]) if main in ("job", "ready") else ""
    process = [_figure(figures[name]) if name in figures else "" for name in ("wall", "cpu")]
    peak = f"{figures['peak']:.0f}" if "peak" in figures else ""
    way = f"**{row['way']}**" if row["way"] == row["reference"] else row["way"]
    return ["" if row["job"] == before else row["job"], way, inside, ratio, *process, peak, also]


def _figure(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def write(raw: Path, page: Path, about: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Puts figures into the JSON file and the page; jobs that were not measured now keep theirs.

    Arguments:
        raw: the JSON file.
        page: a Markdown page with the two marks between which the tables stand.
        about: the machine.
        found: job → load average before and after, rows.
    """
    known = json.loads(raw.read_text()) if raw.exists() else {"jobs": {}}
    jobs = {**known["jobs"], **{name: {**job, "machine": dict(about)} for name, job in found.items()}}
    raw.write_text(json.dumps({**known, "jobs": jobs}, indent=1, ensure_ascii=False) + "\n")
    parts = []
    for job in jobs.values():
        where = job["machine"]
        parts.append(
            f"{where['processor']} ({where['instructions']}), {where['cores']} cores, {where['memory']}, "
            f"Python {where['python']}, torch {where['packages'].get('torch', '-')}; load average "
            f"{job['load'][0]} before, {job['load'][1]} after, {job['rows'][0]['rounds']} rounds.\n\n"
            + markdown(job["rows"])
        )
    _insert(page, BEGIN, END, "\n".join(parts))


def write_gpu(found: Mapping[str, Any], raw: Path, page: Path) -> None:
    """Puts what `gpu.py` found into the JSON file and its own part of the page."""
    from benchmarks import gpu

    known = json.loads(raw.read_text()) if raw.exists() else {"jobs": {}}
    raw.write_text(json.dumps({**known, "gpu": found}, indent=1, ensure_ascii=False) + "\n")
    _insert(page, BEGIN_GPU, END_GPU, gpu.markdown(dict(found)))


def _insert(page: Path, begin: str, end: str, figures: str) -> None:
    text = page.read_text()
    first, last = text.index(begin) + len(begin), text.index(end)
    page.write_text(text[:first] + "\n\n" + figures + "\n" + text[last:])
