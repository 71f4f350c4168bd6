"""Rows of a config table: their key, the Spec field, a value map; readable both ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anyvit.spec import Fact, Spec, pair, single


class Unsaid(ValueError):
    """A value that a config has no words for; the text is the reason."""


class Skip(Exception):
    """A key that says nothing about its field in this config."""


@dataclass(frozen=True)
class Given:
    """What configs say.

    Arguments:
        facts: Spec field → fact, `how` "given".
        notes: values that were passed over, and contradictions, in words.
    """

    facts: Mapping[str, Fact] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def under(self, other: Given) -> Given:
        """Both, where `other` has the last word; a contradiction is noted."""
        notes = [*self.notes, *other.notes]
        for name, fact in other.facts.items():
            mine = self.facts.get(name)
            if mine is not None and mine.value != fact.value and "default" not in mine.source:
                notes.append(f"{name}: {brief(mine.value)} in {mine.source}, {brief(fact.value)} in {fact.source}")
        return Given({**self.facts, **other.facts}, tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class Values:
    """A value map.

    Arguments:
        read: (their value, their whole config) → the Spec's value; raises ValueError where it is none, Skip where it
            says nothing.
        write: (the Spec's value, the Spec) → their value; raises Unsaid, or Skip to leave the key out.
    """

    read: Callable[[Any, Mapping[str, Any]], Any]
    write: Callable[[Any, Spec], Any]


@dataclass(frozen=True)
class Row:
    """One correspondence: `key` in their config, `field` of Spec."""

    key: str
    field: str
    values: Values


def read_rows(
    rows: Iterable[Row], config: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None, of: str = ""
) -> Given:
    """The facts that a config states.

    Arguments:
        rows: the table.
        config: their keys and values; anything may be wrong in it.
        source: where the config stands, for the facts.
        defaults: what holds for keys that are left out.
        of: whose defaults these are.

    Example:
        >>> rows = [Row("width", "embed_dim", INT), Row("eps", "eps", NUMBER)]
        >>> given = read_rows(rows, {"width": 64, "eps": "x"}, "a.json")
        >>> given.facts["embed_dim"].source, given.notes
        ('a.json: width', ("a.json: eps = 'x' is no number",))
    """
    whole = {**(defaults or {}), **config}
    facts: dict[str, Fact] = {}
    notes: list[str] = []
    for row in rows:
        if whole.get(row.key) is None:
            continue
        where = f"{source}: {row.key}" if row.key in config else f"default of {of}"
        try:
            facts[row.field] = Fact(row.values.read(whole[row.key], whole), "given", where)
        except Skip:
            continue
        except (ValueError, TypeError, KeyError, OverflowError, ArithmeticError) as error:
            why = str(error) if type(error) is ValueError else "cannot be understood"
            notes.append(f"{source}: {row.key} = {brief(whole[row.key])} {why}")
    return Given(facts, tuple(notes))


def write_rows(rows: Iterable[Row], spec: Spec) -> tuple[dict[str, Any], dict[str, str]]:
    """Their keys and values for a Spec, and the fields that they cannot say with the reason.

    Example:
        >>> write_rows([Row("width", "embed_dim", INT)], Spec(embed_dim=64))
        ({'width': 64}, {})
    """
    config: dict[str, Any] = {}
    unsaid: dict[str, str] = {}
    for row in rows:
        value = getattr(spec, row.field)
        try:
            config[row.key] = row.values.write(value, spec)
        except Skip:
            continue
        except Unsaid as error:
            unsaid[row.field] = str(error)
    return config, unsaid


def brief(value: Any) -> str:
    """A value in at most 80 characters.

    Example:
        >>> brief("x" * 100)[-1]
        '…'
    """
    shown = isinstance(value, str | int | float | bool | list | tuple | type(None))
    text = repr(value) if shown else type(value).__name__
    return text if len(text) <= 80 else text[:79] + "…"


def to_int(value: Any) -> int:
    """A whole number ≥ 0 out of an int or an integral float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is no whole number")
    if value != int(value) or not 0 <= value < 2**31:
        raise ValueError("is no whole number in range")
    return int(value)


def to_float(value: Any) -> float:
    """A finite number."""
    if isinstance(value, str):
        # YAML 1.1 reads 1e-6 as text.
        try:
            value = float(value)
        except ValueError:
            raise ValueError("is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is no number")
    return float(value)


def to_size(value: Any) -> int | tuple[int, int]:
    """An int, or (height, width), of a number or a pair."""
    if isinstance(value, list | tuple):
        if len(value) == 1:
            return to_size(value[0])
        if len(value) != 2:
            raise ValueError("is no size")
        height, width = (to_int(side) for side in value)
        if not height or not width:
            raise ValueError("is no size")
        return single((height, width))
    side = to_int(value)
    if not side:
        raise ValueError("is no size")
    return side


def to_numbers(value: Any) -> tuple[float, ...]:
    """Some finite numbers, one a channel; a lone number stands for three channels."""
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("is empty")
        return tuple(to_float(number) for number in value)
    return (to_float(value),) * 3


def _positive(value: Any) -> int:
    number = to_int(value)
    if not number:
        raise ValueError("is zero")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _eps(value: Any) -> float:
    number = to_float(value)
    if not 0 <= number < 1:
        raise ValueError("is no eps")
    return number


def _write_size(value: Any, _: Spec) -> Any:
    if value is None:
        raise Skip
    height, width = pair(value)
    return height if height == width else [height, width]


def same(read: Callable[[Any], Any]) -> Values:
    """A value map that changes nothing but checks what it reads."""
    return Values(lambda value, _: read(value), lambda value, _: value)


INT = same(_positive)
COUNT = same(to_int)
NUMBER = same(to_float)
EPS = same(_eps)
BOOL = same(_boolean)
SIZE = Values(lambda value, _: to_size(value), _write_size)
NUMBERS = Values(lambda value, _: to_numbers(value), lambda value, _: list(value))


def choice(what: str, words: Mapping[Any, Any]) -> Values:
    """A value map from their words to the Spec's; the first word for a value is the one that is written.

    Example:
        >>> norm = choice("norm", {"layer_norm": "layernorm", "rms_norm": "rmsnorm"})
        >>> norm.read("rms_norm", {}), norm.write("layernorm", Spec())
        ('rmsnorm', 'layer_norm')
    """
    back: dict[Any, Any] = {}
    for theirs, ours in words.items():
        back.setdefault(ours, theirs)

    def read(value: Any, _: Mapping[str, Any]) -> Any:
        if isinstance(value, list | dict) or value not in words:
            raise ValueError(f"is no known {what}")
        return words[value]

    def write(value: Any, _: Spec) -> Any:
        if value not in back:
            raise Unsaid(f"there is no word for {what} {value}, only for {', '.join(map(str, back))}")
        return back[value]

    return Values(read, write)


def written_only(write: Callable[[Any, Spec], Any]) -> Values:
    """A value map of a row whose field another row reads."""

    def read(value: Any, config: Mapping[str, Any]) -> Any:
        raise Skip

    return Values(read, write)


def read_only(read: Callable[[Any, Mapping[str, Any]], Any]) -> Values:
    """A value map of a row whose field another row writes."""

    def write(value: Any, spec: Spec) -> Any:
        raise Skip

    return Values(read, write)


GATED = ("swiglu", "swiglu_fused", "glu_fused")
"""Gated MLPs that compute the same from the same tensors; they differ in whether the two halves are stored as one."""


def ratio(product: int, of: int) -> float:
    """A factor r with int(of · r) == product, as timm and open_clip compute an MLP's width.

    Example:
        >>> int(1152 * ratio(4304, 1152)), ratio(3072, 768)
        (4304, 4.0)
    """
    factor = product / of
    while int(of * factor) < product:
        factor = math.nextafter(factor, math.inf)
    return factor


def settle(spec: Spec, names: Iterable[str]) -> Spec:
    """The Spec with what canonical names show: biases, norms and tables that a rewrite may have added or folded.

    Arguments:
        spec: the architecture.
        names: canonical names of the tensors that are written; a few of them, or none: the Spec stays as it is.
    """
    have = set(names)
    if not have & {"embed.patch.weight", "blocks.0.attn.q.weight"}:
        return spec
    has = have.__contains__
    q, k = has("blocks.0.attn.q.bias"), has("blocks.0.attn.k.bias")
    final = {(True, True): "both", (True, False): "norm", (False, True): "fc_norm", (False, False): None}
    prefix = spec.pos_prefix or spec.num_prefix
    pooled = any(name.startswith("pool.") for name in have)
    values: dict[str, Any] = {
        "qkv_bias": q if q == k else "qv",
        "layer_scale": has("blocks.0.ls1"),
        "pre_norm": has("embed.norm.weight"),
        "patch_norm": has("embed.patch_norm.weight"),
        "patch_bias": has("embed.patch.bias"),
        "proj_bias": has("blocks.0.attn.out.bias"),
        "mlp_bias": has("blocks.0.mlp.fc1.bias") or has("blocks.0.mlp.gate.bias"),
        "attn_norm": has("blocks.0.attn.norm.weight"),
        "mlp_norm": has("blocks.0.mlp.norm.weight"),
        "dist_token": has("embed.dist"),
        "num_cls": max(spec.num_cls, 1) if has("embed.cls") else 0,
        "num_registers": spec.num_registers if has("embed.reg") else 0,
        "pos_prefix": prefix if has("embed.pos_prefix") else 0,
        "final_norm": final[has("norm.weight"), has("fc_norm.weight")],
        "num_classes": spec.num_classes if has("head.weight") else 0,
        "pool": "none" if spec.pool in ("map", "attn_pool") and not pooled else spec.pool,
    }
    return replace(spec, **values)
