"""Whether canonical tensors make one Vision Transformer: nothing missing, nothing of another width, nothing transposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from anyvit import canon
from anyvit.canon import B
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold, ranges

SPELT = 'where these are parts of a plain ViT spelt otherwise: dialect="draft" reads them by words and shapes'
"""What to do about names that are not known."""

REQUIRED = (
    B + "norm1.weight",
    B + "attn.q.weight",
    B + "attn.k.weight",
    B + "attn.v.weight",
    B + "attn.out.weight",
    B + "norm2.weight",
)
"""Canonical names that no block can do without."""
MLPS = (("mlp.fc1.weight", "mlp.fc2.weight"), ("mlp.gate.weight", "mlp.up.weight", "mlp.down.weight"))
Spell = Callable[[str], str]
"""Canonical name → the name that the file would use."""


def check(
    tensors: Mapping[str, Lazy],
    spell: Spell,
    blocks: Sequence[int] = (),
    source: Mapping[str, Lazy] | None = None,
    *,
    one_norm: bool = False,
) -> list[Finding]:
    """Everything that keeps these tensors from being one Vision Transformer.

    Arguments:
        tensors: canonical name → tensor.
        spell: canonical name → name in the file's own words, for messages.
        blocks: block numbers that the file names, if more than `tensors` shows.
        source: the file's own tensors, whose shapes messages quote.
        one_norm: whether attention and MLP are known to stand side by side behind one norm.
    """
    return _missing(tensors, spell, blocks, one_norm or parallel(tensors)) + _shapes(tensors, source or {})


def width_of(tensors: Mapping[str, Lazy]) -> int:
    """The width that most norms and square matrices agree on; 0 where there are none."""
    return _width(_rows(tensors))


Row = tuple[str, Lazy, canon.Name, list[str]]
"""A canonical name, its tensor, its entry in the vocabulary and its axes."""


def _rows(tensors: Mapping[str, Lazy]) -> list[Row]:
    known = ((name, tensor, canon.lookup(name)) for name, tensor in tensors.items())
    return [(name, tensor, found[0], found[1].split()) for name, tensor, found in known if found]


def _width(rows: Sequence[Row]) -> int:
    votes = Counter(tensor.shape[0] for _, tensor, _, axes in rows if axes == ["d"] and len(tensor.shape) == 1)
    return votes.most_common(1)[0][0] if votes else 0


def lacks_axes(name: str, tensor: Lazy) -> bool:
    """Whether a tensor has fewer axes than its name in the vocabulary, so that its sizes say nothing."""
    found = canon.lookup(name)
    return found is not None and len(tensor.shape) < len(found[1].split())


def depth_of(tensors: Mapping[str, Lazy]) -> list[int]:
    """The block numbers that are present."""
    return sorted({number for name in tensors if (number := canon.block_of(name)) is not None})


def _missing(tensors: Mapping[str, Lazy], spell: Spell, blocks: Sequence[int], one_norm: bool) -> list[Finding]:
    present = sorted({*depth_of(tensors), *blocks})
    if not present:
        return [Finding("missing", (), "there are no transformer blocks", fatal=True)]
    findings = []
    if "embed.patch.weight" not in tensors:
        name = spell("embed.patch.weight")
        findings.append(Finding("missing", (name,), "there is no patch embedding: patch size and channels are unknown",
                                "use the checkpoint of the whole model, not one that was filtered", True))  # fmt: skip
    gaps = sorted(set(range(present[-1] + 1)) - set(present))
    if gaps:
        which = f"block {gaps[0]} is" if len(gaps) == 1 else f"blocks {ranges(gaps)} are"
        cause = f"{which} missing: the file names blocks {ranges(present)}"
        names = fold(spell(REQUIRED[0].format(i=n)) for n in gaps)
        findings.append(Finding("missing", names, cause, "the file was cut or filtered; get it whole", True))
    return findings + _uneven(tensors, present, spell, one_norm)


def _uneven(tensors: Mapping[str, Lazy], present: Sequence[int], spell: Spell, one_norm: bool) -> list[Finding]:
    """Names that some blocks have and others lack, and names that no block can do without."""
    by_name: dict[str, set[int]] = {}
    for name in tensors:
        if (number := canon.block_of(name)) is not None:
            by_name.setdefault(name.split(".", 2)[2], set()).add(number)
    lacking: dict[tuple[int, ...], list[str]] = {}
    for name, those in by_name.items():
        missing = tuple(n for n in present if n not in those)
        if missing and not name.startswith("attn.rel_pos"):
            few = len(those) * 2 < len(present) and not _needed(name)
            blocks = tuple(sorted(those)) if few else missing
            lacking.setdefault((*blocks, -1) if few else blocks, []).append(name)
    findings = []
    for blocks, names in lacking.items():
        extra = blocks[-1] == -1
        numbers = [n for n in blocks if n >= 0]
        spelt = list(dict.fromkeys(spell(f"blocks.{n}.{name}") for name in names for n in numbers))
        listed, count = fold(spelt), max(1, len(spelt) // len(numbers))
        one = count == 1
        verb = ("stands in" if one else "stand in") if extra else ("is missing from" if one else "are missing from")
        other = f"the other blocks {'lack' if extra else 'have'} {'it' if one else 'them'}"
        what = f"{count} tensor{'s' * (not one)} {verb} block{'s' * (len(numbers) > 1)} {ranges(numbers)}"
        cause = f"{what}; {other}"
        findings.append(Finding("missing", listed, cause, "the file was cut or edited; get it whole", True))
    return findings + _required(by_name, spell, one_norm)


def parallel(tensors: Mapping[str, Lazy]) -> bool:
    """Whether attention and MLP stand side by side behind one norm, which one matrix for both shows."""
    query, first = (tensors.get(B.format(i=0) + name) for name in ("attn.q.weight", "mlp.fc1.weight"))
    return query is not None and first is not None and bool(set(query.origin) & set(first.origin))


def _needed(name: str) -> bool:
    return any(B + name == r for r in REQUIRED) or any(name in mlp for mlp in MLPS)


def _required(by_name: Mapping[str, set[int]], spell: Spell, one_norm: bool) -> list[Finding]:
    missing = [name for name in REQUIRED if name.removeprefix(B) not in by_name]
    missing = [name for name in missing if not (one_norm and name.endswith("norm2.weight"))]
    if not any(all(name in by_name for name in mlp) for mlp in MLPS):
        gated = any(name.startswith("mlp.gate") for name in by_name)
        missing += [B + name for name in MLPS[int(gated)] if name not in by_name]
    if not missing:
        return []
    names = tuple(dict.fromkeys(spell(name.replace("{i}", "0")).replace(".0.", ".N.", 1) for name in missing))
    return [Finding("missing", names, "every block lacks what attention or MLP cannot do without",
                    SPELT, True)]  # fmt: skip


def _shapes(tensors: Mapping[str, Lazy], source: Mapping[str, Lazy]) -> list[Finding]:
    rows = _rows(tensors)
    width = _width(rows)
    sizes = {"d": width, "m": _mode(rows, "m", width), "c": _mode(rows, "c", width)}
    wrong: dict[str, list[tuple[str, str, str]]] = {}
    for name, tensor, entry, axes in rows:
        if entry.role in ("head", "neck", "pool") or name.startswith("fc_norm."):
            continue  # these may have a width of their own; `expected` compares them
        kind, want = _compare(axes, tensor.shape, sizes)
        if kind:
            origin = tensor.origin[0] if tensor.origin else name
            stored = source[origin].shape if origin in source else tensor.shape
            fused = bool(tensor.shape) and stored[::-1] == (*tensor.shape[1:], 3 * tensor.shape[0])
            want = str((3 * sizes["d"], sizes["d"])) if fused and kind == "transposed" else want
            wrong.setdefault(kind, []).append((origin, str(stored), want))
    return [_shape_finding(kind, rows) for kind, rows in wrong.items()]


def is_turned(fused: Lazy) -> bool:
    """Whether a fused q/k/v matrix is stored as (in, out), so that its rows are no three parts."""
    return len(fused.shape) == 2 and fused.shape[1] == 3 * fused.shape[0]


def turned(names: Sequence[str], source: Mapping[str, Lazy]) -> list[Finding]:
    """What to say of fused q/k/v matrices that are stored as (in, out)."""
    shapes = [source[name].shape for name in names]
    rows = [(name, str(shape), str(shape[::-1])) for name, shape in zip(names, shapes, strict=True)]
    return [_shape_finding("transposed", rows)] if rows else []


def _mode(rows: Sequence[Row], letter: str, width: int) -> int:
    votes: Counter[int] = Counter()
    for _, tensor, entry, axes in rows:
        if letter in axes and entry.pattern.startswith(B):
            if axes == [letter] == axes[: len(tensor.shape)]:
                votes[tensor.shape[0]] += 2
            elif len(axes) == len(tensor.shape) == 2 and width in tensor.shape:
                votes[tensor.shape[axes.index(letter)]] += 1
    return votes.most_common(1)[0][0] if votes else 0


def _compare(letters: Sequence[str], shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[str, str]:
    if len(letters) != len(shape):
        if len(letters) == 4 and len(shape) == 5:
            return "video", str(shape)
        return "axes", " ".join(letters)
    want = tuple(
        sizes.get(letter, size) if sizes.get(letter) else size for letter, size in zip(letters, shape, strict=True)
    )
    if want == shape:
        return "", ""
    text = str(want)
    if len(shape) == 2 and letters != ["d", "d"]:
        turned = tuple(sizes.get(x) or s for x, s in zip(letters, shape[::-1], strict=True))
        if turned == shape[::-1] or (sizes["d"] and shape[letters.index("d") ^ 1] == sizes["d"]):
            return "transposed", text
    if len(shape) == 2 and shape[0] * 3 == sizes["d"] and shape[1] % 3 == 0:
        return "transposed", text
    return "width", text


def _shape_finding(kind: str, rows: Sequence[tuple[str, str, str]]) -> Finding:
    names = fold(dict.fromkeys(name for name, _, _ in rows))
    found = ", ".join(dict.fromkeys(shape for _, shape, _ in rows[:3]))
    want = ", ".join(dict.fromkeys(shape for _, _, shape in rows[:3]))
    if kind == "video":
        cause = f"the patch kernel has five axes {found}: a 3-D (video) patch embedding that a 2-D ViT cannot take"
        return Finding("shape", names, cause, None, True)
    if kind == "transposed":
        cause = f"stored as (in, out) instead of (out, in), transposed: found {found}, expected {want}"
        return Finding("shape", names, cause, "transpose these matrices, or name the project that wrote them", True)
    word = "another width than the rest of the model" if kind == "width" else "another number of axes than expected"
    return Finding("shape", names, f"{word}: found {found}, expected {want}",
                   "the file mixes two models, or was pruned; a uniform ViT cannot hold it", True)  # fmt: skip
