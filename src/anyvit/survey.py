"""One pass over all values of a file: what was never trained, what was rounded, which blocks stand where they do not belong.

Each tensor is read once and leaves a few numbers behind, so that a model of any size is surveyed in little memory.

Source: docs/evidence.md, where the laws and their limits are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyvit import evidence_depth, evidence_initial, evidence_patch
from anyvit.errors import AnyvitError
from anyvit.evidence import Verdict
from anyvit.evidence_initial import Trace
from anyvit.evidence_values import Tally
from anyvit.lazy import Lazy
from anyvit.report import Finding, fold
from anyvit.spec import Fact

if TYPE_CHECKING:
    import numpy as np

SEQUENCE, INPUTS, STORED, NORMS = (
    "order of blocks",
    "inputs of the patch kernel",
    "stored precision",
    "gains of the norms",
)
"""Names of facts that no field of the Spec holds."""

COMPARE = "compare with the original: anyvit verify FILE ORIGINAL"


def floats(lazy: Lazy) -> np.ndarray | None:
    """The values in float32; None where they cannot be read."""
    import numpy as np

    try:
        return lazy.read().astype(np.float32, copy=False)
    except AnyvitError:
        return None


@dataclass
class Survey:
    """What one pass over the tensors leaves behind.

    Arguments:
        traces: canonical name → what it shows of its training.
        tally: which grids of numbers the tensors lie on.
        streams: block → how its tensors meet the residual stream.
        hashes: block → digests of its matrices.
        inputs: in which order the inputs of the patch kernel lie.
    """

    traces: dict[str, Trace] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    streams: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    hashes: dict[int, dict[str, bytes]] = field(default_factory=dict)
    inputs: Verdict | None = None

    def add(self, name: str, values: np.ndarray, stored: str) -> None:
        """Takes in one tensor under its canonical name."""
        self.traces[name] = Trace.of(name, values)
        self.tally.add(name, values, stored)
        if name == "embed.patch.weight":
            self.inputs = evidence_patch.input_order(values)
        if not name.startswith("blocks."):
            return
        _, number, part = name.split(".", 2)
        vector = evidence_depth.stream_vector(part, values)
        if vector is not None:
            self.streams.setdefault(int(number), {})[part] = vector
        if values.ndim == 2 and self.traces[name].constant is None:
            from hashlib import blake2b

            self.hashes.setdefault(int(number), {})[part] = blake2b(values.tobytes(), digest_size=16).digest()


def survey(tensors: Mapping[str, Lazy]) -> Survey:
    """Reads every tensor once.

    Arguments:
        tensors: canonical name → tensor.
    """
    found = Survey()
    for name, lazy in tensors.items():
        values = floats(lazy)
        if values is not None and values.size:
            found.add(name, values, lazy.dtype)
    return found


def told(found: Survey, tensors: Mapping[str, Lazy]) -> tuple[list[Finding], dict[str, Fact]]:
    """Findings and facts of a survey."""
    again = twice(found)
    findings, facts = [*fresh(found.traces), *again], {}
    if found.inputs is not None:
        facts[INPUTS] = fact(found.inputs, "c y x", found.inputs.value)
        if found.inputs.value not in (None, "c y x"):
            findings.append(_inputs(found.inputs, tensors["embed.patch.weight"].origin))
    numbers = sorted(found.streams)
    if not again:
        verdict = evidence_depth.sequence([found.streams[i] for i in numbers])
        facts[SEQUENCE] = fact(verdict, "as numbered", verdict.text if verdict.value else "as numbered")
        findings += _sequence(verdict, numbers)
    rounded = found.tally.said()
    if rounded is not None:
        findings.append(_rounded(*rounded))
        facts[STORED] = Fact(rounded[0], "measured", f"the values: {rounded[1]}")
    still = plain_norms(found.traces)
    if still:
        facts[NORMS] = Fact("all 1", "measured", still)
    return findings, facts


def fact(verdict: Verdict, named: object, value: object) -> Fact:
    """A Fact of a verdict: measured, or as named where there is no evidence."""
    if verdict.value is None:
        return Fact(named, "assumed", verdict.text)
    return Fact(value, "measured", f"the weights: {verdict.text}")


def _inputs(verdict: Verdict, names: tuple[str, ...]) -> Finding:
    cause = f"order of the patch kernel's inputs: they lie as {verdict.value}, not as c y x: {verdict.text}"
    usual = "usual cause: a linear patch embedding whose patches were cut with the channels last"
    return Finding("swapped", names, cause, f"{usual}; {COMPARE}")


def _sequence(verdict: Verdict, numbers: list[int]) -> list[Finding]:
    if not verdict.value:
        return []
    names = tuple(f"blocks.{numbers[i]}" for i in sorted({i for pair in verdict.value for i in pair}))
    usual = "usual cause: names sorted as words (0, 1, 10, 11, 2 …), or chunks that were joined in another order"
    return [Finding("order", names, f"order of blocks: {verdict.text}", f"{usual}; {COMPARE}")]


def twice(found: Survey) -> list[Finding]:
    """Blocks whose matrices are those of another block, value for value, where not all share them."""
    groups: dict[tuple[tuple[str, bytes], ...], list[int]] = {}
    for number, hashes in sorted(found.hashes.items()):
        groups.setdefault(tuple(sorted(hashes.items())), []).append(number)
    if len(groups) < 2 or len(groups) < len(found.hashes) / 2:  # shared on purpose, as in ALBERT
        return []
    return [
        Finding(
            "repeated",
            tuple(f"blocks.{i}" for i in same),
            f"blocks {', '.join(map(str, same))} hold the same matrices, value for value",
            f"usual cause: one block was written in the place of another; {COMPARE}",
        )
        for same in groups.values()
        if len(same) > 1
    ]


def _rounded(grid: str, words: str, names: Mapping[str | None, list[str]]) -> Finding:
    others = [n for g, found in names.items() if g != grid for n in found]
    shown = f"; not {', '.join(fold(others)[:3])}" if others else ""
    cause = f"{words}{shown}: they were rounded to it once"
    remedy = "full precision is only in the original"
    if grid in ("bfloat16", "float16") and not others:
        remedy = f"dtype=torch.{grid} loses nothing more and halves the memory; " + remedy
    return Finding("rounded", tuple(fold(names[grid])[:4]), cause, remedy)


def plain_norms(traces: Mapping[str, Trace]) -> str | None:
    """A sentence where every norm before a branch has gains of 1 and shifts of 0 amid trained matrices."""
    norms = [t for n, t in traces.items() if n.startswith("blocks.") and ".norm" in n]
    gains = [t for t in norms if t.name.endswith("weight")]
    shifts = [t for t in norms if t.name.endswith("bias")]
    spreads = [t.spread for n, t in traces.items() if n.startswith("blocks.") and t.spread is not None]
    if not gains or evidence_initial.frozen(gains) != 1.0 or (shifts and evidence_initial.frozen(shifts) != 0.0):
        return None
    if not spreads or sorted(spreads)[len(spreads) // 2] < evidence_initial.TRAINED:
        return None
    return "the values: every gain is 1 and every shift 0: folded into the matrices behind, or norms without parameters"


def fresh(traces: Mapping[str, Trace]) -> list[Finding]:
    """What never left its initial values: the model, some of its blocks or branches, a head, a modulation, LayerScale."""
    groups: dict[str, list[Trace]] = {}
    for name, trace in traces.items():
        if not name.startswith("embed."):
            part = "AdaLN modulation" if ".adaln." in name else "the blocks" if name.startswith("blocks.") else ""
            groups.setdefault(part or name.split(".")[0], []).append(trace)
    findings, blocks = [], groups.get("the blocks", [])
    trained = _trained(blocks)
    for group, found in groups.items():
        zero = group == "AdaLN modulation" and evidence_initial.frozen(found) == 0.0
        lone = trained and group in ("head", "proj") and _noise(found)
        verdict = evidence_initial.judge(found)
        if verdict.value or zero or lone:
            names = (group,) if " " in group else tuple(t.name for t in found)[:4]
            why = f"all {len(found)} tensors are zero, so it changes nothing" if zero else verdict.text
            why = "its matrix is independent noise, unlike those of the blocks: never trained" if lone else why
            findings.append(Finding("untrained", names, f"{group}: {why}", UNTRAINED))
    return [*findings, *(_parts(blocks) if trained else ())]


UNTRAINED = "if it was meant to be trained, the wrong thing was saved"


def _noise(found: list[Trace]) -> bool:
    """Whether the one matrix of a head is independent noise; its bias may be drawn."""
    spreads = [t.spread for t in found if t.spread is not None]
    return bool(spreads) and all(abs(z) < evidence_initial.EVEN for z in spreads)


def _trained(blocks: list[Trace]) -> bool:
    spreads = sorted(t.spread for t in blocks if t.spread is not None)
    return bool(spreads) and spreads[len(spreads) // 2] >= evidence_initial.TRAINED


def _parts(blocks: list[Trace]) -> list[Finding]:
    """Blocks, or attentions or MLPs of blocks, that never left their initial values, unlike the others."""
    findings, named = [], set()
    for part, word in (("", ""), ("attn.", "attention of "), ("mlp.", "MLP of ")):
        by_block: dict[str, list[Trace]] = {}
        for t in blocks:
            _, number, name = t.name.split(".", 2)
            if name.startswith(part) and ".adaln." not in t.name:
                by_block.setdefault(f"blocks.{number}", []).append(Trace(name, t.axes, t.constant, t.spread))
        for block, verdict in evidence_initial.stragglers(by_block).items():
            if block not in named:
                cause = f"{word}{block}: {verdict.text}, unlike in the other {len(by_block) - 1} blocks"
                findings.append(Finding("untrained", (block,), cause, UNTRAINED))
                named.add(block)
    return findings
