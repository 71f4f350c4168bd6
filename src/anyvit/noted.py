"""What containers note of a file and what a graph computes, as findings; and which of several findings say the cause."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anyvit import diagnose
from anyvit.lazy import Checkpoint, Lazy, Note
from anyvit.recognise import Match
from anyvit.report import Finding, fold
from anyvit.spec import Spec

FATAL = ("damaged", "quantised", "fused")
"""Kinds of a container's notes that forbid a load."""
INSTEAD = ("not a ViT", "quantised", "fused", "factored")
"""Kinds of findings that say what a file is instead, from which the others follow."""
UNREAD = ("object", "unsupported", "unread")
"""Kinds of notes on tensors that a container lists and does not read."""
RUNS = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|importlib|runpy|pty|ctypes|webbrowser|pickle|_pickle|marshal|pip)\.|"
    r"(builtins|__builtin__)\.(eval|exec|compile|open|__import__|breakpoint|input)\b|_?io\.open\b"
)
"""Functions that no checkpoint needs and that do something when they are called while unpickling."""
REGISTERS = re.compile(r"(^|[._])(reg|register|registers|storage)(_tokens?)?$")


def finding(note: Note) -> Finding:
    """What a container noted, as a finding; a function that only an attack needs is called one."""
    if note.kind == "inert" and RUNS.match(note.cause):
        cause = f"{note.cause}: whoever unpickles this file otherwise (torch.load with weights_only=False) runs it"
        remedy = "trust nothing in this file; anyvit convert writes its tensors without it"
        return Finding(note.kind, fold(note.names), cause, remedy)
    return Finding(note.kind, fold(note.names), note.cause, note.remedy, note.kind in FATAL)


def unknown(tensors: Mapping[str, Lazy], checkpoint: Checkpoint, notes: list[Finding]) -> tuple[Finding, ...]:
    """What to say of a file in which nothing was recognised; what was not read of it comes first."""
    notes = [replace(note, fatal=note.fatal or note.kind in UNREAD) for note in notes]
    if any(note.fatal and note.kind in INSTEAD for note in notes):
        return tuple(notes)
    return tuple(causes([*(n for n in notes if n.fatal), *diagnose.unknown(tensors, checkpoint.extras), *notes]))


def absent(checkpoint: Checkpoint, match: Match | None) -> list[Finding]:
    """Shards that are not there: fatal where a tensor of the tower lies in one of them, by the names in the weight map."""
    found = []
    for note in (note for note in checkpoint.notes if note.kind == "absent"):
        mine = note.names
        if match is not None:
            hits = {name: match.dialect.find(name, match.prefix) for name in note.names}
            mine = tuple(name for name, rules in hits.items() if any(hit.item.ours for hit in rules))
        whole = "" if mine else "; none of them holds a tensor of this tower"
        kind = "missing" if mine else "outside"
        found.append(Finding(kind, fold(mine)[:8], note.cause + whole, note.remedy if mine else None, bool(mine)))
    return found


def causes(findings: list[Finding]) -> list[Finding]:
    """Without what only follows from what the file is: another architecture, or weights that a tool has changed."""
    known = any(finding.kind in INSTEAD and finding.fatal for finding in findings)
    kept = (*INSTEAD, *FATAL, *UNREAD)
    return [f for f in findings if not f.fatal or f.kind in kept] if known else findings


def filled(tensors: Mapping[str, Lazy], notes: list[Finding]) -> tuple[Mapping[str, Lazy], list[Finding]]:
    """The tensors without registers of length zero, which transformers writes where there are none."""
    empty = tuple(name for name, tensor in tensors.items() if 0 in tensor.shape and REGISTERS.search(name))
    if not empty:
        return tensors, notes
    found = Finding("ignored", fold(empty), "registers of length zero: there are none")
    return {name: tensor for name, tensor in tensors.items() if name not in empty}, [*notes, found]


def against_graph(spec: Spec | None, checkpoint: Checkpoint) -> list[Finding]:
    """Where an ONNX graph computes with positions otherwise than the layout that its names speak of."""
    if spec is None or checkpoint.container != "onnx":
        return []
    said: Mapping[str, tuple[Any, str]] = checkpoint.extras["graph"]
    rotates, biased = (said.get(key, (None, ""))[0] for key in ("rotates", "biased"))
    causes = []
    if rotates and spec.rope is None:
        causes.append("the graph rotates queries and keys by their positions, which this layout does not")
    if rotates is False and spec.rope is not None:
        causes.append("this layout rotates queries and keys by their positions, which the graph does not")
    if biased and "relpos" not in spec.pos_embed:
        causes.append("the graph adds something to the attention scores (relative positions, a mask) that has no name")
    remedy = "load the checkpoint that it was exported from"
    return [Finding("unexplained", (), cause, remedy, True) for cause in causes]
