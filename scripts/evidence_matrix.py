"""Disguises real stacks in many dialects and asks the public verbs what they see: right, wrong or no answer.

Example: python scripts/evidence_matrix.py stacks/ --dialects timm hf-vit --out matrix.md
The folder holds files of scripts/real_stacks.py (or any with timm's names and `heads` in the metadata).
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

import anyvit
from anyvit.containers import open_checkpoint
from anyvit.errors import AnyvitError

Arrays = dict[str, np.ndarray]
DIALECTS = ("timm", "dinov2-chunked", "hf-vit", "google-npz", "openai-clip", "internvit")
TOLD = ("swapped", "transposed", "interleaved")
"""Kinds of the findings on order and layout."""


def dialect_files(path: Path, heads: int, dialects: tuple[str, ...], folder: Path) -> Iterator[tuple[str, Arrays]]:
    """One stack in several dialects, as flat mappings."""
    for dialect in dialects:
        suffix = "npz" if dialect == "google-npz" else "safetensors"
        out = folder / f"{path.stem}-{dialect}.{suffix}"
        try:
            anyvit.convert(path, out, dialect, heads=heads, check="off")
        except AnyvitError as error:
            print(f"  {path.stem} as {dialect}: {str(error).splitlines()[0]}")
            continue
        yield dialect, {n: np.array(t.read(), "float32") for n, t in open_checkpoint(out).tensors.items()}


def _numbers(tensors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    return sorted((n for n in tensors if re.search(pattern, n)), key=lambda n: [int(x) for x in re.findall(r"\d+", n)])


def _fused(tensors: Arrays) -> list[str]:
    return _numbers(tensors, r"(qkv[._]weight|in_proj_weight)$")


def _split(tensors: Arrays) -> tuple[list[str], list[str], list[str]] | None:
    for words in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj")):
        found = [_numbers(tensors, rf"{w}[./](weight|kernel)$") for w in words]
        if all(found):
            return found[0], found[1], found[2]
    return None


def _outs(tensors: Arrays) -> list[str]:
    words = r"(attn\.proj\.weight|attention\.output\.dense\.weight|out_proj\.weight|out/kernel)$"
    return _numbers(tensors, words)


def _laid(w: np.ndarray, how: str, heads: int) -> np.ndarray:
    """A fused (3·D, …) tensor laid out another way."""
    parts = w.reshape(3, heads, -1, *w.shape[1:])
    if how == "h 3 d":
        return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(w.shape)
    if how == "h d 3":
        return np.ascontiguousarray(np.moveaxis(parts, 0, 2)).reshape(w.shape)
    return np.concatenate([parts["qkv".index(c)].reshape(-1, *w.shape[1:]) for c in how])


def _relaid(how: str, heads: int) -> Callable[[Arrays, int | None], Arrays | None]:
    def change(tensors: Arrays, at: int | None) -> Arrays | None:
        out, fused, split = dict(tensors), _fused(tensors), _split(tensors)
        if fused:
            for name in fused if at is None else [fused[at]]:
                out[name] = _laid(tensors[name], how, heads)
                bias = re.sub("weight$", "bias", name)
                if bias in tensors:
                    out[bias] = _laid(tensors[bias], how, heads)
            return out
        if split is None or len(how) != 3 or how[1] == " ":
            return None
        rows = list(zip(*split, strict=True))
        for row in rows if at is None else [rows[at]]:
            for p in ("weight", "kernel", "bias"):
                names = [re.sub("(weight|kernel)$", p, n) for n in row]
                if names[0] in tensors:
                    out |= {name: tensors[names["qkv".index(c)]] for name, c in zip(names, how, strict=True)}
        return out

    return change


def _turned(part: str, width: int) -> Callable[[Arrays, int | None], Arrays | None]:
    def turn(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x.reshape(width, width).T).reshape(x.shape)

    def change(tensors: Arrays, at: int | None) -> Arrays | None:
        out, split = dict(tensors), _split(tensors)
        if part == "out":
            names = _outs(tensors)
        elif split:
            names = split["qkv".index(part)]
        else:
            for name in _fused(tensors) if at is None else [_fused(tensors)[at]]:
                three = np.split(tensors[name], 3)
                three["qkv".index(part)] = three["qkv".index(part)].T
                out[name] = np.concatenate(three)
            return out
        for name in names if at is None else [names[at]]:
            out[name] = turn(tensors[name])
        return out

    return change


def disguises(heads: int, width: int) -> Iterator[tuple[str, str, Callable[[Arrays, int | None], Arrays | None]]]:
    """Name, the word that the finding must hold, and the change."""
    for how in ("vkq", "qvk", "kvq", "vqk"):
        yield f"order {how}", f"v stands where {'qk'[how.index('v')]} is expected", _relaid(how, heads)
    yield "order kqv", "q stands where k is expected", _relaid("kqv", heads)
    yield "h 3 d", "interleaved per head", _relaid("h 3 d", heads)
    yield "h d 3", "interleaved per channel", _relaid("h d 3", heads)
    for part in ("out", "v", "q", "k"):
        yield f"{part} transposed", f"{part} is stored transposed", _turned(part, width)


def _reshaped(tensors: Arrays, wrong: int) -> Arrays:
    """google-npz with another head axis."""
    out = {}
    for name, x in tensors.items():
        if re.search(r"(query|key|value)/kernel$", name):
            x = x.reshape(x.shape[0], wrong, -1)
        elif re.search(r"(query|key|value)/bias$", name):
            x = x.reshape(wrong, -1)
        elif name.endswith("out/kernel"):
            x = x.reshape(wrong, -1, x.shape[-1])
        out[name] = x
    return out


def judge(tensors: Arrays, word: str, where: str, load: bool) -> str:
    """What the findings of a verb say of one disguise: right, none, or wrong with the text."""
    if load:
        try:
            findings = [f for f in anyvit.load(tensors, check="now").report.findings if f.kind in TOLD]
            texts = [f"{f.names} {f.cause}" for f in findings]
        except AnyvitError as error:
            texts = [f"{error.names} {text}" for text in str(error).splitlines()[0].split("; ")]
    else:
        findings = [f for f in anyvit.inspect(tensors, deep=True).findings if f.kind in TOLD]
        texts = [f"{f.names} {f.cause}" for f in findings]
    if not texts:
        return "none"
    good = [word in text and re.search(rf"{where}\b", text) is not None for text in texts]
    return "right" if all(good) else "wrong: " + " / ".join(texts)[:300]


def head_checks(dialect: str, tensors: Arrays, heads: int) -> Iterator[tuple[str, str]]:
    """Heads that nobody gave, and a wrong head count by argument (for google-npz: by the head axis)."""
    width = len(tensors[_outs(tensors)[0]].reshape(-1)) and int(np.sqrt(tensors[_outs(tensors)[0]].size))
    wrong = next(h for h in (heads * 2, heads // 2, 1) if h and width % h == 0)
    if dialect == "google-npz":
        report = anyvit.inspect(_reshaped(tensors, wrong), deep=True)
        said = [f.cause for f in report.findings if "num_heads" in f.names]
        yield "wrong head axis", "right" if any(f"show {heads}" in t for t in said) else "wrong" if said else "none"
        return
    for verb, spec in (("inspect", anyvit.inspect(tensors, deep=True).spec), ("load", anyvit.load(tensors).spec)):
        fact = spec.facts["num_heads"]
        right = fact.value == heads and fact.how == "measured"
        yield f"heads, {verb}", "right" if right else "none" if fact.how != "measured" else f"wrong: {fact}"
    report = anyvit.load(tensors, heads=wrong).report
    said = [f.cause for f in report.findings if "num_heads" in f.names and f"show {heads}" in f.cause]
    kept = report.spec.num_heads == wrong
    yield "heads= wrong", "wrong: not kept" if not kept else "right" if said else "none"


def run(path: Path, dialects: tuple[str, ...], folder: Path, load: bool) -> Iterator[tuple[str, str, str]]:
    with safe_open(path, "np") as file:
        heads = int(file.metadata()["heads"])
        width = file.get_slice("blocks.0.attn.proj.weight").get_shape()[0]
    for dialect, tensors in dialect_files(path, heads, dialects, folder):
        depth = len(_outs(tensors))
        for name, verdict in head_checks(dialect, tensors, heads):
            yield dialect, name, verdict
        for verb in ("inspect", "load") if load else ("inspect",):
            yield dialect, f"as it is, {verb}", {"none": "right"}.get(judge(tensors, "-", "-", verb == "load"), "wrong")
            for name, word, change in disguises(heads, width):
                for at in (None, depth // 2) if depth > 2 else (None,):
                    changed = change(tensors, at)
                    if changed is None:
                        continue
                    where = f"all {depth} blocks" if at is None else rf"blocks\.{at}"
                    if verb == "load" and at is None:
                        where = r"all \d+ blocks"
                    label = f"{name}, {'all' if at is None else 'one'}, {verb}"
                    yield dialect, label, judge(changed, word, where, verb == "load")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path, nargs="+")
    parser.add_argument("--dialects", nargs="*", default=DIALECTS)
    parser.add_argument("--load", action="store_true", help="ask load as well as inspect")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    paths = [p for s in args.stacks for p in (sorted(s.glob("*.s*t*")) if s.is_dir() else [s])]
    table: dict[tuple[str, str], Counter[str]] = {}
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            for dialect, label, verdict in run(path, tuple(args.dialects), Path(folder), args.load):
                word = verdict.partition(":")[0]
                table.setdefault((path.stem, label), Counter())[word] += 1
                if word == "wrong":
                    print("  WRONG", path.stem, dialect, label, verdict, flush=True)
        print(path.stem, "done", flush=True)
    lines = ["| stack | disguise | right / wrong / no answer |", "|---|---|---|"]
    for (stack, label), count in table.items():
        lines.append(f"| {stack} | {label} | {count['right']} / {count['wrong']} / {count['none']} |")
    text = "\n".join(lines)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
