"""Where a file comes from: the record that `convert` writes, read back; and the checksum over a source's tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anyvit import __version__, canon, containers
from anyvit.containers import checksums
from anyvit.lazy import Checkpoint, Lazy
from anyvit.report import Finding

if TYPE_CHECKING:
    from anyvit.reading import Reading
    from anyvit.rules import Dialect

RECORD = "anyvit.provenance"
"""Metadata key of the record."""
TOLD = ("weights", "resized", "folded", "new", "assumed", "ignored", "unsayable", "rewritten", "trained")
"""Kinds of findings that say how the tensors of a file came to be what they are."""


def record(
    found: Reading, dialect: Dialect, findings: Iterable[Finding], asked: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Metadata that says where a written file comes from: no clock, path or random id.

    Arguments:
        found: the source, understood.
        dialect: the target's.
        findings: what was resized, folded, assumed, … on the way.
        asked: the adaptations that the caller asked for, by argument.

    Returns:
        Metadata; a `integrity.Check.seal` replaces the blank source checksum in it.
    """
    assert found.match is not None and found.spec is not None
    reading = found.match.dialect
    used = {hit.item.theirs: hit.item for hit in found.match.hits.values()} if found.match.hits else {}
    assumed = {n: f.value for n, f in found.spec.facts.items() if f.how == "assumed"}
    content = {
        "anyvit": __version__,
        "source": {
            "container": found.checkpoint.container,
            "dialect": reading.name,
            "prefix": found.match.prefix,
            "lineage": found.spec.lineage,
            "tensors": len(found.tensors),
        },
        "target": {"dialect": dialect.name},
        "asked": dict(asked or {}),
        "rules": [[rule.theirs, rule.ours, rule.axes] for rule in used.values()],
        "changes": changes(findings),
        "assumed": assumed,
    }
    if earlier := _earlier(found.checkpoint):
        content["earlier"] = earlier
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return {RECORD: text, checksums.SOURCE: checksums.blank()}


def changes(findings: Iterable[Finding]) -> list[list[Any]]:
    """The findings that a record keeps, as plain values: kind, names, cause."""
    return [[f.kind, list(f.names), f.cause] for f in findings if f.kind in TOLD]


def _earlier(checkpoint: Checkpoint) -> list[Any]:
    """What was changed before the source was written, oldest first."""
    before = provenance(checkpoint)
    both = [before.get("earlier"), before.get("changes")]
    return [change for some in both if isinstance(some, list) for change in some]


def recordless(out: Path) -> tuple[Finding, ...]:
    """What to say of a target that has no place for the record.

    Example:
        >>> [f.kind for f in recordless(Path("model.npz"))], recordless(Path("model.safetensors"))
        (['note'], ())
    """
    if out.suffix.lower() != ".npz":
        return ()
    cause = "npz has no place for the record of where the tensors come from; its own CRC-32 of each array is there"
    return (Finding("note", (), cause, "write .safetensors to have the record"),)


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """The record of a file that anyvit wrote, with its source's checksum; empty for others and for one that is damaged.

    Example:
        >>> provenance(Checkpoint({}, "safetensors", metadata={"anyvit.provenance": '{"target": {"dialect": "timm"}}'}))
        {'target': {'dialect': 'timm'}}
    """
    try:
        content = json.loads(checkpoint.metadata.get(RECORD, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    digest = checkpoint.metadata.get(checksums.SOURCE, "")
    return {**content, "source_digest": digest} if digest.rpartition(":")[2].strip("0") else content


def source_digest(path: Any, weights: str | None = None) -> str:
    """The checksum over the tensors that a model is read from, as `convert` records it.

    Arguments:
        path: a file, a folder or a mapping.
        weights: the weight set, as for `load`.

    Returns:
        Algorithm, colon, hexadecimal digits; the same where names, element types, shapes and bytes are.
    """
    from anyvit.reading import Ask, understand

    found = understand(containers.open_checkpoint(path), Ask(weights))
    algorithm = checksums.preferred()
    names = sources(found.checkpoint, found.tensors)
    digests = {name: checksums.digest(found.checkpoint.tensors[name], algorithm) for name in names}
    return checksums.joined(digests, algorithm)


class Use(NamedTuple):
    """What a tensor of a file is in the model.

    Arguments:
        matrix: whether it is a weight matrix.
        kind: its canonical name without the number of its block; of the first where it is several.
        block: that number; None outside the blocks, or where it holds several.
    """

    matrix: bool
    kind: str
    block: int | None


def sources(checkpoint: Checkpoint, tensors: Mapping[str, Lazy]) -> dict[str, Use]:
    """The names in the file that canonical tensors are made of, and what each is."""
    uses: dict[str, Use] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        inside = parts[0] == "blocks" and parts[1].isdecimal()
        block, kind = (int(parts[1]), ".".join(parts[2:])) if inside else (None, name)
        for origin in tensor.origin:
            if origin in checkpoint.tensors:
                before = uses.get(origin, Use(False, kind, block))
                uses[origin] = Use(
                    before.matrix or _is_matrix(name), before.kind, block if before.block == block else None
                )
    return uses


def _is_matrix(name: str) -> bool:
    """Whether a canonical tensor is a matrix that training fills: zeros in biases, tokens and new heads are usual."""
    return name.endswith(".weight") and (canon.role(name) in ("attention", "mlp") or name == "embed.patch.weight")
