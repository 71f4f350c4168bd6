"""One way of doing a job, in a fresh process: its wall time, CPU time, peak memory, and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PEAK = """
import atexit, os
def _peak():
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM")), 0.0)
def _tell():
    with open(os.environ["ANYVIT_PEAK"], "w") as file:
        file.write(str(_peak()))
if os.path.exists("/proc/self/status"):
    atexit.register(_tell)
"""
"""Leaves a process's own peak behind; the one that the system gives to its parent is at least the parent's size."""
CLOCK = PEAK + "import time, json; _t = time.perf_counter\n"
"""What a script of `python` may use: `_t()` is a clock, `_peak()` the largest resident size so far in megabytes; the
last line that it prints may be a JSON object of figures."""
COMMAND = PEAK + "import sys\nfrom anyvit.cli import main\nsys.exit(main())"


@dataclass(frozen=True)
class Sample:
    """One run.

    Arguments:
        wall: seconds from start to exit.
        cpu: seconds of processor time, user and system.
        peak: largest resident size in megabytes (10⁶ bytes); None of commands that are not ours to ask.
        inside: what the process measured itself, by name.
    """

    wall: float
    cpu: float
    peak: float | None
    inside: Mapping[str, float] = field(default_factory=dict)


Way = Callable[[], Sample]


def run(command: Sequence[str]) -> Sample:
    """Runs a command to its end.

    Raises:
        RuntimeError: it fails; with the end of what it printed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "tests" / "support")])
    left = Path(tempfile.gettempdir()) / f"anyvit-peak-{os.getpid()}"
    environment["ANYVIT_PEAK"] = str(left)
    left.unlink(missing_ok=True)
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as child:
        assert child.stdout is not None
        text = child.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}\n{text[-2000:]}")
    last = text.strip().rpartition("\n")[2]
    inside = json.loads(last) if last.startswith("{") else {}
    peak = float(left.read_text()) if left.exists() else None
    left.unlink(missing_ok=True)
    return Sample(wall, usage.ru_utime + usage.ru_stime, peak, inside)


def python(script: str, *arguments: object) -> Way:
    """A way that runs a script."""
    command = [sys.executable, "-c", CLOCK + script, *map(str, arguments)]
    return lambda: run(command)


def anyvit(*words: object) -> Way:
    """A way that runs the command line."""
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    return lambda: run(command)


def rounds(
    ways: Mapping[str, Way], count: int, before: Callable[[], None] = lambda: None, warm: int = 1
) -> dict[str, list[Sample]]:
    """Every way once in every round; one round more comes first and is not counted (page cache, compiled modules).

    Arguments:
        ways: name → way.
        count: rounds that are counted.
        before: called before each run.
        warm: rounds that come first.

    Returns:
        Name → samples; a way that fails is left out, and said on stderr.
    """
    found: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(count + warm):
        for name, way in ways.items():
            if name not in found:
                continue
            before()
            try:
                sample = way()
            except RuntimeError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                del found[name]
                continue
            if number >= warm:
                found[name].append(sample)
    return found


@dataclass(frozen=True)
class Row:
    """One way in the table.

    Arguments:
        job: what is done.
        way: by what.
        figures: name of a figure → its median, in seconds or megabytes.
        ratios: name of a figure → the median of this way's figure over the reference's in the same round.
        reference: the way that ratios refer to.
        rounds: how many.
    """

    job: str
    way: str
    figures: Mapping[str, float]
    ratios: Mapping[str, float]
    reference: str
    rounds: int


def rows(job: str, found: Mapping[str, Sequence[Sample]], reference: str) -> list[Row]:
    """The medians of each way."""
    flat = {way: [_flat(sample) for sample in samples] for way, samples in found.items()}
    base = flat.get(reference, [])
    out = []
    for way, samples in flat.items():
        names = [name for name in samples[0] if all(name in sample for sample in samples)]
        figures = {name: median(sample[name] for sample in samples) for name in names}
        shared = [name for name in names if base and name in base[0]]
        ratios = {
            name: median(sample[name] / max(other[name], 1e-9) for sample, other in zip(samples, base, strict=True))
            for name in shared
        }
        out.append(Row(job, way, figures, ratios, reference, len(samples)))
    return out


def _flat(sample: Sample) -> dict[str, float]:
    peak = {} if sample.peak is None else {"peak": sample.peak}
    return {"wall": sample.wall, "cpu": sample.cpu, **peak, **sample.inside}
