"""Writing a model as its next reader expects it: names, layout, container, config, a record of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyvit import adaln, configs, containers, integrity, lazy, linear, places, provenance
from anyvit.adapt import Adapted
from anyvit.dtypes import ITEMSIZE, is_floating
from anyvit.errors import BadArgument
from anyvit.lazy import Lazy
from anyvit.reading import Reading
from anyvit.report import Finding, Report, Trail, fold, order
from anyvit.rules import Dialect
from anyvit.saying import Said, say
from anyvit.spec import Spec


def write_out(
    found: Reading,
    state: Adapted,
    out: Path,
    to: str | Dialect,
    *,
    dtype: Any,
    shard_size: int | None,
    chunks: int | None,
    durable: bool,
    check: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Report:
    """Write adapted tensors in a dialect, as a file or a folder.

    Raises:
        Unsayable: the target has no words for something the function needs; nothing is written.
        BadArgument: a suffix, type or number of chunks that does not exist.
        FileError: the target cannot be written; what was there stays as it was.
    """
    folder = places.is_folder(out)
    if shard_size is not None and not folder:
        raise BadArgument("shard_size is for a folder", found=str(out), expected="a path without suffix")
    said = say(state, to, chunks, folder=folder)
    tensors = _typed(said.tensors, dtype)
    report = _report(found, state, said, out)
    metadata = configs.provenance(said.fitted.spec, found.match, found.checkpoint, said.dialect)
    metadata |= provenance.record(found, said.dialect, report.findings, asked)
    beside = () if folder else places.described_otherwise(out)
    running = integrity.begin(found.checkpoint, found.tensors, check, found.spec, reads=True)
    if folder:
        _write_folder(tensors, said.files, out, metadata, shard_size, durable, running)
    else:
        containers.save(
            tensors, out, metadata=metadata, durable=durable, recorded=True, seal=running.seal, witness=running.witness
        )
    return report.adding(
        (*running.findings(), *provenance.recordless(out), *_untold(out, said.fitted.spec, said.dialect), *beside)
    )


def _untold(out: Path, spec: Spec, dialect: Dialect) -> tuple[Finding, ...]:
    """What a container without metadata has no place for and its reader has to be told."""
    if out.suffix.lower() != ".npz":
        return ()
    found = []
    if spec.grid is not None and spec.grid[0] != spec.grid[1]:
        cause = f"npz has no place for the grid of the position table, {spec.grid[0]} × {spec.grid[1]}"
        found.append(Finding("note", (), cause, f"its reader has to be told: grid=({spec.grid[0]}, {spec.grid[1]})"))
    if spec.in_chans != dialect.sizes.get("c", spec.in_chans):
        cause = f"npz has no place for the number of channels of linear patches, {spec.in_chans}"
        remedy = linear.remedy(spec, dialect.name)
        found.append(Finding("note", (), cause, f"its reader has to be told: {remedy}"))
    return tuple(found)


def _typed(tensors: Mapping[str, Lazy], dtype: Any) -> dict[str, Lazy]:
    if dtype is None:
        return dict(tensors)
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in ITEMSIZE or not is_floating(dtype):
        raise BadArgument(
            "dtype is the name of a floating-point type", found=dtype, expected="float32, float16, bfloat16"
        )
    return {n: lazy.astype(t, dtype) if is_floating(t.dtype) else t for n, t in tensors.items()}


WHOLE = 1 << 62
"""A shard size that nothing exceeds: one file."""


def _write_folder(
    tensors: Mapping[str, Lazy],
    files: Mapping[str, object],
    out: Path,
    metadata: Mapping[str, str],
    shard_size: int | None,
    durable: bool,
    running: integrity.Check,
) -> None:
    from anyvit.containers import safetensors, swap

    texts = {name: json.dumps(content, indent=2, sort_keys=True).encode() + b"\n" for name, content in files.items()}
    with swap.atomic_folder(out, places.CONFIGS + safetensors.WEIGHTS, durable=durable) as folder:
        safetensors.write_sharded(
            tensors, folder, shard_size=WHOLE if shard_size is None else shard_size, metadata=metadata,
            durable=durable, recorded=True, seal=running.seal, witness=running.witness, beside=texts,
        )  # fmt: skip


def _report(found: Reading, state: Adapted, said: Said, out: Path) -> Report:
    from anyvit.into import source_fates

    changed = {"resized": (found.tensors, state.tensors), "folded": (state.tensors, said.fitted.tensors)}
    origins = {
        fate: {o for n, t in after.items() if before.get(n) is not t for o in t.origin}
        for fate, (before, after) in changed.items()
    }
    trails = tuple(Trail(n, t.origin, _fate(t, origins)) for n, t in said.tensors.items())
    made = {n: t for n, t in said.fitted.tensors.items() if not t.origin}
    proof = adaln.read_back(made, "on what is written")
    findings = (*state.findings, *said.fitted.findings, *said.findings, *proof, *_left_behind(found))
    report = found.report()
    return replace(
        report,
        target=str(out),
        spec=said.fitted.spec,
        trails=trails,
        fates=source_fates(found, said.tensors),
        findings=order((*report.findings, *findings)),
    )


def _fate(tensor: Lazy, origins: Mapping[str, set[str]]) -> str:
    if not tensor.origin:
        return "new"
    return next((fate for fate, those in origins.items() if those & set(tensor.origin)), "carried")


def _left_behind(found: Reading) -> Sequence[Finding]:
    names = [n for n, fate in found.fates.items() if fate == "outside"]
    if not names:
        return ()
    cause = f"only the image tower is written; {len(names)} tensors beside it (text tower, heads, optimizer) are not"
    return (Finding("outside", fold(names), cause),)
