"""From a recognised file to canonical tensors: its rules applied, the prefix rows of its position table counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt

from anyvit import conform
from anyvit.errors import AnyvitError, BadArgument
from anyvit.lazy import Lazy
from anyvit.recognise import Match
from anyvit.report import Finding
from anyvit.rules import Fault, Run, read
from anyvit.spec import Fact, pair


def is_table(fault: Fault) -> bool:
    """Whether a fault is a position table whose prefix rows are not counted yet."""
    return fault.rule.ours == "embed.[pos_prefix|pos]"


def translate(
    tensors: Mapping[str, Lazy], match: Match, facts: dict[str, Fact], values: bool, channels: int | None = None,
    beside: tuple[int, int] | None = None,
) -> tuple[Run, list[Finding]]:  # fmt: skip
    """The canonical tensors; the prefix rows of the position table are found by fit.

    Arguments:
        tensors: the file's tensors.
        match: how they were recognised.
        facts: what is given; a grid that the values of the table show is put beside it.
        values: whether the table's values may be read.
        channels: of linear patches, which are not an axis of their own (`linear.channels`).
        beside: the grid of the table that it is to fill, in tokens.

    Raises:
        BadArgument: a grid was given that the table does not have.
    """
    sizes = {"t": facts["num_cls"].value} if "num_cls" in facts else {}
    if channels is not None:
        sizes["c"] = channels
    mine = {n: tensors[n] for n in match.hits}
    run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    mixed = next((fault for fault in run.faults if fault.rule.ours == "embed.[cls|reg]"), None)
    if mixed is not None and "t" not in sizes:
        sizes = {**sizes, "t": min(CLASS_TOKENS, tensors[mixed.names[0]].shape[-2])}
        run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    if any("are not known" in fault.text and not is_table(fault) for fault in run.faults):
        sizes = {**sizes, "d": conform.width_of(run.tensors)}
        run = read(mine, match.dialect, match.prefix, sizes, match.hits)
    waiting = [f for f in run.faults if is_table(f)]
    if not waiting:
        return run, []
    # a dialect that asks for the row wherever there is a class token (Google's) never has a table without it
    sure = "embed.pos_prefix" in match.dialect.requires and "embed.cls" not in match.dialect.requires
    count, findings = _prefix_rows(waiting[0].names[0], tensors, run.tensors, facts, values, sure, beside)
    if count is None:
        return run, findings
    table = read({n: tensors[n] for n in waiting[0].names}, match.dialect, match.prefix, {**sizes, "k": count})
    merged = replace(
        run,
        tensors={**run.tensors, **table.tensors},
        used={**run.used, **table.used},
        faults=(*(f for f in run.faults if f not in waiting), *table.faults),
        sizes={**run.sizes, **table.sizes},
    )
    return merged, findings


CLASS_TOKENS = 4
"""Class tokens where one tensor holds them and the registers, and nothing says how many are which.

Source: NVlabs/RADIO, RADIOv2.5: one class token for each of four teachers; the split changes the parts' names only.
"""


def _prefix_rows(
    name: str, tensors: Mapping[str, Lazy], canonical: Mapping[str, Lazy], facts: dict[str, Fact], values: bool,
    sure: bool = False, beside: tuple[int, int] | None = None,
) -> tuple[int | None, list[Finding]]:  # fmt: skip
    """How many rows of a position table belong to prefix tokens: the one count that leaves a valid grid.

    (n − 1)(n + 1) + 1 = n², so a table of n² rows beside a cls token may also be 13 × 15 and cls; that is said.
    """
    rows = tensors[name].shape[-2]
    cls = canonical["embed.cls"].shape[0] if "embed.cls" in canonical else 0
    dist = int("embed.dist" in canonical)
    registers = canonical["embed.reg"].shape[0] if "embed.reg" in canonical else 0
    options = list(dict.fromkeys((cls + dist, cls, 0, cls + dist + registers)))
    options = [count for count in options if count or not (sure and cls)]
    grid = _given_grid(facts)
    if grid is not None:
        for count in options:
            if rows - count == grid[0] * grid[1]:
                return count, []
        if facts.get("grid") is not None and facts["grid"].source.startswith("the argument"):
            raise BadArgument(
                f"grid={grid} does not fit the position table", names=[name], found=f"{rows} rows",
                expected=" or ".join(str(grid[0] * grid[1] + c) for c in options),
            )  # fmt: skip
    square = [count for count in options if rows > count and isqrt(rows - count) ** 2 == rows - count]
    if beside is not None and (there := [count for count in options if rows - count == beside[0] * beside[1]]):
        plain = (square[0], isqrt(rows - square[0]), isqrt(rows - square[0])) if square else None
        return _as_beside(tensors[name], name, (there[0], *beside), plain, facts, values)
    doubtful = not square or (square[0] == 0 and cls > 0)
    seen = _seen_grid(tensors[name], options) if values and doubtful else None
    if seen is not None and seen[0][0] == 0 and seen[0][1] == seen[0][2]:
        facts["grid"] = Fact(seen[0][1:], "measured", f"the weights: {seen[1]}")
        return 0, []
    if seen is not None:
        facts["grid"] = Fact(seen[0][1:], "measured", f"the weights: {seen[1]}")
        cause = f"the position table is read as {seen[0][1]} × {seen[0][2]}: {seen[1]}"
        return seen[0][0], [Finding("assumed", (name,), cause, f"grid=({seen[0][2]}, {seen[0][1]}) is its mirror")]
    if not square:
        return None, [_open_grid(name, rows, options[0], cls)]
    count = square[0]
    findings = []
    side = isqrt(rows - count)
    if count == 0 and cls:
        other = f"{side - 1} × {side + 1} with a row for cls" if cls == 1 else "a table with prefix rows"
        cause = f"the position table is read as {side} × {side} without a row for cls; it could also be {other}"
        findings.append(Finding("assumed", (name,), cause, f"grid=({side - 1}, {side + 1})"))
    return count, findings


def _open_grid(name: str, rows: int, prefix: int, cls: int) -> Finding:
    """What to ask where no count of prefix rows leaves a square."""
    left = rows - prefix
    shape = next(((h, left // h) for h in range(isqrt(max(left, 1)), 0, -1) if left % h == 0), (1, left))
    cause = (
        f"the grid of the position table cannot be told: {rows} rows, {left} without {prefix} prefix rows, is no square"
    )
    if not cls and isqrt(rows - 1) ** 2 == rows - 1:
        side = isqrt(rows - 1)
        cause += f"; a row for a class token would leave {side} × {side}, but there is no class token"
    return Finding("ambiguous", (name,), cause, f"grid=({shape[0]}, {shape[1]}) or whatever it was", True)


def _as_beside(
    table: Lazy, name: str, there: tuple[int, int, int], plain: tuple[int, int, int] | None, facts: dict[str, Fact],
    values: bool,
) -> tuple[int, list[Finding]]:  # fmt: skip
    """A table that has as many rows as the one that it is to fill: read as that one, unless its values say otherwise.

    Arguments:
        table, name: the table.
        there: prefix rows and grid of the one that it is to fill.
        plain: the square reading; None where there is none.
    """
    if plain == there:
        return there[0], []
    seen = _seen_grid(table, [there[0], plain[0] if plain else there[0]]) if values else None
    if seen is not None and seen[0] in (there, plain):
        facts["grid"] = Fact(seen[0][1:], "measured", f"the weights: {seen[1]}")
        return seen[0][0], []
    facts["grid"] = Fact(there[1:], "assumed", "the module's grid has as many rows")
    other = plain or (0, there[2], there[1])
    cause = f"the position table is read as {there[1]} × {there[2]} as the module's is; it could also be {other[1]} × {other[2]}"
    return there[0], [Finding("assumed", (name,), cause, f"grid=({other[1]}, {other[2]})")]


def _seen_grid(table: Lazy, options: Sequence[int]) -> tuple[tuple[int, int, int], str] | None:
    """The grid that neighbouring rows of a trained table show, where no count leaves a square; reads the table."""
    from anyvit import evidence_tables

    try:
        values = table.read()
    except AnyvitError:
        return None
    if not values.size:
        return None
    verdict = evidence_tables.positions(values.reshape(-1, values.shape[-1]).astype("float32"))
    if verdict.value is None or verdict.value[0] not in options:
        return None
    return tuple(verdict.value), verdict.text


def _given_grid(facts: Mapping[str, Fact]) -> tuple[int, int] | None:
    if "grid" in facts:
        return facts["grid"].value
    if "image_size" in facts and "patch_size" in facts:
        (height, width), (p, q) = pair(facts["image_size"].value), pair(facts["patch_size"].value)
        return height // p, width // q
    return None
