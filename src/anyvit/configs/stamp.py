"""The Spec inside files that anyvit writes: metadata key `anyvit.spec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from anyvit.configs.rows import Given, brief
from anyvit.lazy import Checkpoint
from anyvit.spec import Fact, Rope, Spec

KEY = "anyvit.spec"
_FILE_ONLY = ("dialect",)
"""Fields of the file that was read, not of the model."""


def to_json(spec: Spec) -> str:
    """The Spec's values as JSON, in a fixed order.

    Example:
        >>> read(to_json(Spec(depth=3))).facts["depth"].value
        3
    """
    values = {name: value for name, value in spec.values().items() if name not in _FILE_ONLY}
    return json.dumps(values, default=_plain, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, Rope):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def provenance(spec: Spec, match: Any, checkpoint: Checkpoint, dialect: Any) -> dict[str, str]:
    """Metadata of a written file: the Spec, and from what to what; no clock, path or random id.

    Arguments:
        spec: the architecture that is written.
        match: how the source was recognised.
        checkpoint: the source.
        dialect: the target's dialect.
    """
    origin = {"anyvit.source": match.dialect.name, "anyvit.source_prefix": match.prefix} if match is not None else {}
    origin["anyvit.source_container"] = checkpoint.container
    # transformers refuses a safetensors file without a format.
    return {"format": "pt", KEY: to_json(spec), **origin, "anyvit.dialect": dialect.name}


def read(text: str) -> Given:
    """The facts in the text that `to_json` made; nothing where it is something else."""
    source = f"metadata {KEY}"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Given(notes=(f"{source} is no JSON",))
    if not isinstance(values, dict):
        return Given(notes=(f"{source} is no table of keys",))
    facts: dict[str, Fact] = {}
    notes: list[str] = []
    for entry in fields(Spec):
        if entry.name not in values or entry.name in (*_FILE_ONLY, "facts"):
            continue
        value = _typed(entry.name, values[entry.name])
        if _fits(value, entry):
            facts[entry.name] = Fact(value, "given", source)
        else:
            notes.append(f"{source}: {entry.name} = {brief(values[entry.name])} is of another kind")
    return Given(facts, tuple(notes))


def _typed(name: str, value: Any) -> Any:
    if name == "rope" and isinstance(value, dict):
        known = {entry.name for entry in fields(Rope)}
        try:
            return Rope(**value) if value.keys() <= known else value
        except TypeError:
            return value
    return tuple(value) if isinstance(value, list) else value


_KINDS: dict[str, tuple[type, ...]] = {
    "head_dim": (int, type(None)),
    "patch_size": (int, tuple),
    "image_size": (int, tuple, type(None)),
    "qkv_bias": (bool, str),
    "qk_norm": (bool, str),
    "resample": (str, dict),
    "rope": (Rope, type(None)),
    "crop_pct": (int, float),
    "eps": (int, float),
}


def _fits(value: Any, entry: Any) -> bool:
    kinds = _KINDS.get(entry.name)
    if kinds is None:
        default = None if entry.default is MISSING else entry.default
        if default is None:
            words = {"str": str, "int": int, "tuple": tuple}
            kinds = (type(None), *(kind for word, kind in words.items() if word in str(entry.type)))
        else:
            kinds = (type(default), type(None)) if "None" in str(entry.type) else (type(default),)
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
