"""Writing a model as its next reader expects it: names, layout, container, config, and a record of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from anyvit import configs, containers, dialects, fit, lazy
from anyvit.adapt import Adapted
from anyvit.dtypes import ITEMSIZE, is_floating
from anyvit.errors import BadArgument, FileError, Unsayable
from anyvit.lazy import Lazy
from anyvit.reading import Reading
from anyvit.report import Finding, Report, Trail, order
from anyvit.rules import Dialect

SUFFIXES = {".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt"}


def write_out(
    found: Reading,
    state: Adapted,
    out: Path,
    to: str | Dialect,
    *,
    dtype: str | None,
    shard_size: int | None,
    chunks: int | None,
    durable: bool,
) -> Report:
    """Write adapted tensors in a dialect, as a file or a folder.

    Raises:
        Unsayable: the target has no words for something the function needs.
        FileError: the target cannot be written; what was there stays as it was.
    """
    written, dialect = _say(state, to, chunks)
    tensors = _typed(written.run.tensors, dtype)
    spec = written.fitted.spec
    files = configs.write(spec, dialect.name, written.fitted.tensors)
    metadata = configs.provenance(spec, found.match, found.checkpoint, dialect)
    _check_target(found, out)
    if out.suffix in SUFFIXES:
        containers.save(tensors, out, metadata=metadata, durable=durable)
    else:
        _folder(tensors, files.files, out, dialect, metadata, shard_size, durable)
    unsaid = [Finding("unsayable", (name,), f"{name} {getattr(spec, name, '')}: {why}") for name, why in files.unsaid.items()]
    report = found.report()
    trails = tuple(Trail(n, t.origin, "carried" if t.origin else "new") for n, t in tensors.items())
    findings = order((*report.findings, *state.findings, *written.fitted.findings, *unsaid))
    return replace(report, spec=spec, trails=trails, findings=findings)


def _say(state: Adapted, to: str | Dialect, chunks: int | None) -> tuple[fit.Written, Dialect]:
    """The tensors in the dialect, or in the variant of it that has words for them."""
    chosen = to if isinstance(to, Dialect) else dialects.get(to)
    if chunks is not None and not chosen.chunked:
        raise BadArgument(f"chunks= is for dialects with chunked blocks, {chosen.name} has none", remedy='to="dinov2-chunked"')
    if chosen.chunked and not (chunks is None or 1 <= chunks <= state.spec.depth):
        raise BadArgument("chunks must lie between 1 and the depth", found=chunks, expected=f"1 to {state.spec.depth}")
    refusal: Unsayable | None = None
    for dialect in (chosen, *variants(chosen)):
        prefix = dialect.root
        try:
            written = fit.express(
                state.tensors, state.spec, dialect, prefix + dialect.tower, chunks=chunks, requires=required(dialect, state)
            )
        except Unsayable as error:
            refusal = refusal or error
            continue
        if dialect.tower and not _beside(written, dialect):
            again = fit.express(written.fitted.tensors, written.fitted.spec, dialect, prefix, chunks=chunks)
            written = replace(again, fitted=replace(again.fitted, findings=written.fitted.findings))
        return written, dialect
    assert refusal is not None
    raise refusal


def _beside(written: fit.Written, dialect: Dialect) -> bool:
    """Whether anything was written beside the tower, so that the tower needs its prefix."""
    tower = dialect.root + dialect.tower
    return any(not name.startswith(tower) for name in written.run.tensors)


def variants(dialect: Dialect) -> list[Dialect]:
    """Dialects of the same project for models that the first one has no words for (timm's gated MLPs).

    Example:
        >>> [d.name for d in variants(dialects.get("dino"))]
        []
    """
    skip = ("-memory", "-chunked", "-scan", "-old", "-naflex")
    return [d for d in dialects.ALL if d.name.startswith(dialect.name + "-") and not d.name.endswith(skip)]


def required(dialect: Dialect, state: Adapted) -> list[str]:
    """Canonical names that a reader of the dialect insists on."""
    names = []
    for pattern in dialect.requires:
        blocks = range(state.spec.depth) if "{i}" in pattern else (0,)
        names += [pattern.replace("{i}", str(i)) for i in blocks]
    return [n for n in names if n not in state.tensors]


def _typed(tensors: Mapping[str, Lazy], dtype: str | None) -> dict[str, Lazy]:
    if dtype is None:
        return dict(tensors)
    if dtype not in ITEMSIZE or not is_floating(dtype):
        raise BadArgument("dtype is the name of a floating-point type", found=dtype, expected="float32, float16, bfloat16")
    return {n: lazy.astype(t, dtype) if is_floating(t.dtype) else t for n, t in tensors.items()}


def _check_target(found: Reading, out: Path) -> None:
    folder = out.parent
    if not folder.is_dir():
        raise FileError(f"the folder {folder} does not exist", remedy=f"mkdir -p {folder}")
    if out.suffix and out.suffix not in SUFFIXES and not out.is_dir():
        raise BadArgument(
            f"the suffix {out.suffix!r} names no container that can be written",
            expected=", ".join(sorted(SUFFIXES)) + ", or a folder without suffix",
        )


def _folder(
    tensors: Mapping[str, Lazy],
    files: Mapping[str, object],
    out: Path,
    dialect: Dialect,
    metadata: Mapping[str, str],
    shard_size: int | None,
    durable: bool,
) -> None:
    from anyvit.containers import files as local
    from anyvit.containers import safetensors

    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {out} cannot be made ({error.strerror})") from error
    if shard_size:
        safetensors.write_sharded(tensors, out, shard_size=shard_size, metadata=metadata)
    else:
        containers.save(tensors, out / "model.safetensors", metadata=metadata, durable=durable)
    for name, content in files.items():
        with local.atomic(out / name, durable=durable) as file:
            file.write(json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")

