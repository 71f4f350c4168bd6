"""A trained model that comes with the package: inspected, run, and converted to every dialect that has words for it.

The file is a DINOv2 training checkpoint of a small Vision Transformer (scripts/train_demo.py): teacher beside student,
blocks in chunks, projection heads, arguments. The pictures are held-out handwritten digits that it was not trained on.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit.errors import AnyvitError, clip
from anyvit.lazy import Checkpoint, astype
from anyvit.show import PLAIN, Style, hang, number, text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from anyvit.model import Features, ViT
    from anyvit.report import Report
    from anyvit.rules import Dialect

DATA = Path(__file__).parent / "data"
CHECKPOINT = DATA / "digits_vit.pth"
DIGITS = DATA / "digits.npz"
"""Held-out pictures (N, 8, 8) of values 0 … 16, their labels (N,), and the accuracy that training ended with."""

PIXELS = 16
TOLERANCE = 2e-5
"""Largest difference of tokens, relative to the largest token, that rounding in float32 explains: where an identity
folds LayerScale or a position into other tensors, sums are rounded in another order."""

SUFFIX = {"torch": ".pth", "npz": ".npz"}
"""What a project's own container is called; the others are written as a folder of safetensors and configs."""

OWN = ("act", "eps")
"""What a project's own models fix, whatever the weights were trained with."""


@dataclass(frozen=True)
class Row:
    """One conversion.

    Arguments:
        dialect: what was written.
        size: bytes of what was written.
        outcome: "kept", "moved" (outputs or accuracy differ), "refused" (no words for the function) or "failed".
        delta: largest difference of a token to the source's; None where there is nothing to compare.
        accuracy: fraction of the held-out digits that are told right.
        note: why it was refused or failed; or in what the dialect's own models differ: "no classifier" (that of the
            source was put on top), an activation or epsilon of their own (the comparison is with the source's).
    """

    dialect: str
    size: int
    outcome: str
    delta: float | None
    accuracy: float | None
    note: str


@dataclass(frozen=True)
class Demo:
    """What the demonstration measured.

    Arguments:
        report: of the packaged file.
        accuracy: fraction of the held-out digits that the loaded model tells right.
        trained: the same as it was measured after training.
        digits: how many held-out digits there are.
        rows: the conversions.
        seconds: the time all of it took.
    """

    report: Report
    accuracy: float
    trained: float
    digits: int
    rows: tuple[Row, ...]
    seconds: float

    def of(self, *outcomes: str) -> list[Row]:
        """The conversions that ended so."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def ok(self) -> bool:
        """Whether the file loads as it was trained and every conversion keeps accuracy and outputs."""
        good = self.report.ok and abs(self.accuracy - self.trained) < 0.5 / self.digits
        return good and bool(self.of("kept")) and not self.of("moved", "failed")

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "ok": self.ok,
            "accuracy": self.accuracy,
            "trained": self.trained,
            "digits": self.digits,
            "conversions": [vars(row) for row in self.rows],
            "seconds": self.seconds,
            "report": self.report.as_dict(),
        }


def run(say: Callable[[str], None] = lambda line: None, style: Style = PLAIN) -> Demo:
    """Runs the demonstration; needs torch, no network and half a minute.

    Arguments:
        say: gets each line as soon as it is known.
        style: how lines are printed.
    """
    from anyvit import load
    from anyvit.containers import open_checkpoint

    start = time.perf_counter()
    vit = load(CHECKPOINT, check="off")
    report = vit.report
    assert report is not None
    say(text(report, style) + "\n")
    digits, labels, trained = held_out()
    x = pixels(digits, vit.preprocess.mean, vit.preprocess.std)
    truth = see(vit, x)
    right = accuracy(_logits(vit, truth), labels)
    for line in _seen(digits, labels, _logits(vit, truth), right, trained, style):
        say(line)
    rows = tuple(_conversions(_wide(open_checkpoint(CHECKPOINT)), vit, x, truth, labels, say))
    done = Demo(report, right, trained, len(labels), rows, time.perf_counter() - start)
    for line in _verdict(done, style):
        say(line)
    return done


def held_out() -> tuple[np.ndarray, np.ndarray, float]:
    """Pictures (N, 8, 8), labels (N,) and the accuracy that training ended with."""
    import numpy as np

    with np.load(DIGITS) as file:
        return file["digits"], file["labels"], float(file["accuracy"])


def pixels(digits: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pixels (N, 3, 16, 16) of digits (N, 8, 8) of values 0 … 16."""
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(digits).float().unsqueeze(1) / 16
    x = F.interpolate(x, (PIXELS, PIXELS), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def accuracy(logits: Tensor, labels: np.ndarray) -> float:
    """The fraction of logits (N, C) that are largest at their label (N,)."""
    return float((logits.argmax(1).numpy() == labels).mean())


def see(vit: ViT, x: Tensor) -> Features:
    """All features, without gradients."""
    import torch

    with torch.no_grad():
        return vit(x)


def _logits(vit: ViT, features: Features) -> Tensor:
    """Logits by the packaged file's head, where the features have none of their own."""
    if features.logits is not None:
        return features.logits
    assert vit.head is not None and features.cls is not None
    return vit.head(features.cls).detach()


def _wide(source: Checkpoint) -> Checkpoint:
    """The file in float32, so that identities which multiply tensors are not rounded to float16."""
    return replace(source, tensors={name: astype(t, "float32") for name, t in source.tensors.items()})


def _conversions(
    source: Checkpoint, vit: ViT, x: Tensor, truth: Features, labels: np.ndarray, say: Callable[[str], None]
) -> list[Row]:
    from anyvit.dialects import ALL

    rows = []
    say("")
    say(f"  {'written as':<26} {'size':>9}  {'max |Δ|':>8}  {'accuracy':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for dialect in ALL:
            if dialect.name.endswith("-memory"):
                continue
            row = _convert(source, vit, x, truth, labels, dialect, Path(folder))
            rows.append(row)
            if row.outcome != "refused":
                say(_line(row))
    return rows


def _convert(
    source: Checkpoint, vit: ViT, x: Tensor, truth: Features, labels: np.ndarray, dialect: Dialect, folder: Path
) -> Row:
    """One conversion, read back and compared."""
    from anyvit import convert, load

    out = folder / (dialect.name + SUFFIX.get(dialect.container, ""))
    try:
        convert(source, out, dialect.name, check="off")
    except AnyvitError as error:
        return Row(dialect.name, 0, "refused", None, None, _reason(error))
    size = sum(file.stat().st_size for file in (out.iterdir() if out.is_dir() else [out]))
    try:
        back = load(out, check="off")
        moved = {name: getattr(back.spec, name) for name in OWN if getattr(back.spec, name) != getattr(vit.spec, name)}
        delta, right = _compare(back, vit, x, truth, labels)
        note = "" if back.head is not None else "no classifier"
        if moved:
            own = ", ".join(f"{name} {value}" for name, value in moved.items())
            note = ", ".join(filter(None, [f"{own} moves tokens by {delta:.0e}", note]))
            delta, right = _compare(_as_trained(out, vit), vit, x, truth, labels)
    except AnyvitError as error:
        return Row(dialect.name, size, "failed", None, None, "cannot be read back: " + _reason(error))
    near = delta <= TOLERANCE * max(1.0, float(truth.tokens.abs().max()))
    same = near and right == accuracy(_logits(vit, truth), labels)
    return Row(dialect.name, size, "kept" if same else "moved", delta, right, note)


def _compare(back: ViT, vit: ViT, x: Tensor, truth: Features, labels: np.ndarray) -> tuple[float, float]:
    found = see(back, x)
    if found.tokens.shape != truth.tokens.shape:
        return float("inf"), 0.0
    return float((found.tokens - truth.tokens).abs().max()), accuracy(_logits(vit, found), labels)


def _as_trained(out: Path, vit: ViT) -> ViT:
    """What was written, computed with the activation and epsilon that it was trained with."""
    from anyvit.assemble import build_vit
    from anyvit.containers import open_checkpoint
    from anyvit.reading import understand

    found = understand(open_checkpoint(out))
    assert found.spec is not None
    spec = found.spec.with_facts("given", "the source", **{name: getattr(vit.spec, name) for name in OWN})
    return build_vit(found.tensors, spec, found.report())


def _reason(error: AnyvitError) -> str:
    """Why, in one line: the parts that a dialect has no words for, what its models always have, or the message."""
    cause = error.cause.splitlines()[0].removeprefix(f"{CHECKPOINT}: ")
    if "has no words for" in cause:
        parts = dict.fromkeys(PART.sub("", name) for name in error.names)
        return clip(f"no words for {', '.join(parts)}", 90)
    return clip(f"{error.usual}" if "cannot say this model" in cause and error.usual else cause, 90)


PART = re.compile(r"^.*backbone\.|blocks(\.\d+)+\.|blocks\.\{[^}]*\}\.|\.(weight|bias)$")
"""What is left out of a name to tell a part of the model: the tower, the block, weight or bias."""


def _line(row: Row) -> str:
    delta = "—" if row.delta is None else "0" if row.delta == 0 else f"{row.delta:.0e}"
    right = "—" if row.accuracy is None else f"{row.accuracy:.2%}"
    mark = "" if row.outcome == "kept" else f"  ✗ {row.outcome}"
    note = f"  {row.note}" if row.note else ""
    return f"  {row.dialect:<26} {number(row.size) + 'B':>9}  {delta:>8}  {right:>8}{mark}{note}"


SHOWN = 6
INK = 0.45
"""From where on a pixel is drawn where there are no greys."""


def _seen(
    digits: np.ndarray, labels: np.ndarray, logits: Tensor, right: float, trained: float, style: Style
) -> list[str]:
    """Some digits as the model sees them, with what it takes them for; a wrong one too where there is one."""
    told = logits.argmax(1).numpy()
    wrong = [n for n in range(len(labels)) if told[n] != labels[n]][:1]
    first = {int(labels[n]): n for n in reversed(range(len(labels))) if told[n] == labels[n]}
    chosen = [first[label] for label in sorted(first)][: SHOWN - len(wrong)] + wrong
    pictures = [_picture(digits[n], style) for n in chosen]
    words = [f"{told[n]}" if told[n] == labels[n] else f"{told[n]}, but it is {labels[n]}" for n in chosen]
    head = f"{right:.2%} of {len(labels)} held-out digits are told right (after training: {trained:.2%}):"
    lines = [style.strong(head)]
    lines += ["  ".join(parts).rstrip() for parts in zip(*pictures, strict=True)]
    return [*lines, "  ".join(f"{word:^{PIXELS - 2}}" for word in words).rstrip()]


def _picture(digit: np.ndarray, style: Style) -> list[str]:
    """A digit in half blocks, two pixels a character: seven lines of 14, without the margin."""
    x = pixels(digit[None], (0.0,) * 3, (1.0,) * 3)[0, 0, 1:-1, 1:-1].tolist()
    rows = zip(x[::2], x[1::2], strict=True)
    return ["".join(_half(*both, style) for both in zip(*row, strict=True)) for row in rows]


def _half(upper: float, lower: float, style: Style) -> str:
    """Two pixels of values 0 … 1 in one character; in greys where the terminal has colours."""
    if style.colour:
        return f"\033[38;5;{232 + round(23 * upper)};48;5;{232 + round(23 * lower)}m▀\033[0m"
    return " ▀▄█"[(upper > INK) + 2 * (lower > INK)]


def _legend(demo: Demo) -> list[str]:
    lines = []
    if any("moves tokens" in row.note for row in demo.rows):
        lines.append("  moves tokens: models of that project fix another activation or eps; |Δ| is with the source's")
    if any("no classifier" in row.note for row in demo.rows):
        lines.append("  no classifier: there is no place for one, so accuracy is measured with the source's")
    return ["", *lines] if lines else []


def _verdict(demo: Demo, style: Style) -> list[str]:
    refused = demo.of("refused")
    lines = [*_legend(demo), "", style.strong(f"{len(refused)} dialects have no words for this model, and say so")]
    reasons = dict.fromkeys(row.note for row in refused)
    for reason in reasons:
        names = ", ".join(row.dialect for row in refused if row.note == reason)
        lines += hang(names, f"  {reason}: ", style, 6)
    return [*lines, "", *_last(demo, style), f"  {demo.seconds:.0f} s"]


def _last(demo: Demo, style: Style) -> list[str]:
    kept, bad = demo.of("kept"), demo.of("moved", "failed")
    if demo.ok:
        exact = sum(row.delta == 0 for row in kept)
        how = f"{exact} to the last bit, {len(kept) - exact} but for rounding"
        if other := sum("moves tokens" in row.note for row in kept):
            how += f"; {other} with the source's activation and eps instead of their project's"
        return [f"{style.good('✓')} all {len(kept)} conversions keep accuracy and outputs ({how})"]
    if bad:
        text = f"{len(bad)} of {len(kept) + len(bad)} conversions do not keep accuracy and outputs: "
        lines = hang(text + ", ".join(row.dialect for row in bad), "  ", style)
        return [style.bad("✗") + lines[0][1:], *lines[1:]]
    text = f"the model tells {demo.accuracy:.2%} right, and {demo.trained:.2%} after training"
    return [f"{style.bad('✗')} {text}"]
