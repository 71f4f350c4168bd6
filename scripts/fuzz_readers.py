"""Feeds damaged and invented bytes to the readers and to the rule language; only anyvit's own errors may come out.

    python scripts/fuzz_readers.py all --seconds 60
    python scripts/fuzz_readers.py safetensors --engine atheris --seconds 600 --work fuzz

With atheris (https://github.com/google/atheris, libFuzzer for Python) the search is guided by coverage; without it,
inputs are mutated blindly. Each input goes through everything that a file goes through before a model is built
(`tests/support/fuzzing.py`): opened, listed, recognised, reported, its tensors read, its checksums compared. What fails,
takes longer than `SLOW` seconds or makes the process grow by more than `GROWTH` is written to WORK/crashes; what reaches
new code to WORK/KIND. `--keep` makes the corpus of the tests out of that.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SLOW = 25
"""Seconds after which an input counts as a hang; a busy machine takes its share."""
GROWTH = 64 << 20
"""Bytes beyond twice the input's own by which the process may grow at an input."""
KEPT = 24_000
"""Bytes of the corpus of one kind that go into the tests."""

NUMBERS = [struct.pack(form, value) for form in ("<I", "<Q", ">I", "<H") for value in (0, 1, 0xFF, 0x7FFF, 0xFFFF)]
NUMBERS += [b"\xff" * 8, struct.pack("<Q", 1 << 62), struct.pack("<i", -1), b"9" * 20, b"1e999", b"-1", b"NaN"]
TOKENS = [
    b"{", b"}", b"[", b"]", b"(", b")", b".", b"\n", b"\0", b"->", b"+", b"{i}", b"{_}", b"<a|b>", b"[q|k]", b"...", b"../",
    b"cos\nsystem\n", b"R", b"b", b"\x81", b"\x93", b"PK\1\2", b"PK\3\4", b"PK\5\6", b'"shape":', b"\x80\x05", b"t", b"q\0",
    b"dtype", b"data_offsets", b"__metadata__", b"weight_map", b"ctorch\nFloatStorage\n", b"storage", b"ustar", b"\x89Q",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"location", b"fortran_order", b"descr", b"vision_config", b"model_args",
    b"path_name", b"tensor_meta", b"as_int", b"use_pickle", b"storage_offset", b"..", b"true", b"null", b"1e400",
]  # fmt: skip


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """One input made of another one."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << draw.randrange(8)
            case 1 if out:
                out[at % len(out)] = draw.randrange(256)
            case 2:
                del out[at : at + draw.choice((1, 2, 4, 16, 256))]
            case 3:
                out[at:at] = draw.choice(TOKENS)
            case 4:
                number = draw.choice(NUMBERS)
                out[at : at + len(number)] = number
            case 5:
                length = draw.choice((1, 8, 64, 512))
                out[at:at] = out[at : at + length] * draw.choice((1, 2, 20))
            case 6:
                cut = draw.randrange(len(other) + 1)
                out[at:] = other[cut:]
            case _:
                out[at:] = b""
    return bytes(out)


class Runner:
    """Runs inputs of one kind, keeps what fails and counts.

    Arguments:
        kind: one of `fuzzing.KINDS`.
        crashes: where failing inputs are written, with their tracebacks, one for each place that failed.
    """

    def __init__(self, kind: str, crashes: Path) -> None:
        from support import fuzzing

        self.fuzzing, self.kind, self.crashes = fuzzing, kind, crashes
        if kind == "hdf5":
            from support.walkers import kept

            self.walkers = kept()
            self.walkers.__enter__()
        self.folder = Path(tempfile.mkdtemp())
        self.ends: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.slowest = 0.0
        self.began = time.monotonic()

    def __call__(self, data: bytes) -> None:
        start, before = time.monotonic(), grown()
        try:
            self.ends[self.fuzzing.one_input(self.kind, data[: self.fuzzing.LENGTH_LIMIT], self.folder)] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = "-".join(f"{Path(f.filename).stem}.{f.lineno}" for f in frames[-2:])
            self.note(f"{type(error).__name__}-{place}", data, traceback.format_exc())
        took = time.monotonic() - start
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            self.note("slow", data, f"{took} s")
        if sum(self.ends.values()) % 100 == 0:  # libFuzzer ends the process by itself
            (self.crashes.parent / f"{self.kind}.json").write_text(json.dumps(self.said()))
        if sum(self.ends.values()) > 100 and grown() - before > GROWTH + 2 * len(data):
            self.note("growth", data, f"{grown() - before} bytes")

    def note(self, what: str, data: bytes, text: str) -> None:
        self.failed[what] += 1
        if self.failed[what] == 1:
            self.crashes.mkdir(parents=True, exist_ok=True)
            (self.crashes / f"{self.kind}-{what}").write_bytes(data)
            (self.crashes / f"{self.kind}-{what}.txt").write_text(text)

    def said(self) -> dict[str, Any]:
        """The figures, for a table."""
        return {
            "kind": self.kind,
            "inputs": sum(self.ends.values()) + sum(self.failed.values()),
            "seconds": round(time.monotonic() - self.began),
            "ends": dict(self.ends.most_common()),
            "failed": dict(self.failed),
            "slowest input, s": round(self.slowest, 2),
            "peak, MB": grown() >> 20,
        }


def grown() -> int:
    """Most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def seeded(kind: str, work: Path) -> Path:
    """The folder of a kind's inputs, filled with sound ones by another process, which may need torch for it."""
    folder = work / kind
    folder.mkdir(parents=True, exist_ok=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from support import fuzzing\n"
        "for i, data in enumerate((*fuzzing.seeds(sys.argv[2]), *fuzzing.kept(sys.argv[2]))):\n"
        "    Path(sys.argv[3], f'seed{i}').write_bytes(data)"
    )
    subprocess.run([sys.executable, "-c", code, sys.path[0], kind, str(folder)], check=True)
    return folder


def blind(kind: str, seconds: float, work: Path, draw: random.Random) -> Runner:
    """Mutates until the time is up."""
    pool = [path.read_bytes() for path in sorted(seeded(kind, work).iterdir())]
    run = Runner(kind, work / "crashes")
    while time.monotonic() < run.began + seconds:
        run(mutated(draw.choice(pool), draw.choice(pool), draw))
    return run


def guided(kind: str, seconds: float, work: Path) -> None:
    """The same under atheris, which ends the process itself."""
    import importlib
    import pkgutil

    import atheris

    guides = [f"anyvit.{name}" for name in GUIDES.get(kind, READERS)] if kind != "rules" else ["anyvit"]
    with atheris.instrument_imports(include=[*guides, "support.fuzzing"], enable_loader_override=False):
        import anyvit

        for module in pkgutil.walk_packages(anyvit.__path__, "anyvit."):
            if module.name.split(".")[1] in READING:
                importlib.import_module(module.name)
        run = Runner(kind, work / "crashes")
    words = work / f"{kind}.dict"
    words.write_text("".join('"' + "".join(f"\\x{b:02x}" for b in word) + '"\n' for word in (*TOKENS, *NUMBERS)))
    options = [f"-max_total_time={int(seconds)}", f"-max_len={run.fuzzing.LENGTH_LIMIT}", f"-timeout={SLOW}"]
    options += [
        "-rss_limit_mb=2000",
        f"-artifact_prefix={work}/crashes/{kind}-",
        f"-dict={words}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(seeded(kind, work))], run)
    atheris.Fuzz()


READING = (
    "axes", "canon", "causes", "configs", "conform", "containers", "diagnose", "dialects", "dtypes", "errors", "expected",
    "fit", "infer", "integrity", "lazy", "names", "provenance", "reading", "recognise", "report", "rules", "scan", "show", "spec",
    "weight_sets",
)  # fmt: skip
"""Parts of anyvit that see a file before a model is built."""
READERS = ("containers", "damage", "integrity", "noted", "reading", "reparametrized")
GUIDES = {"config": ("configs", "containers.siblings", "containers.sniff", "infer", "reading", "spec")}
"""Parts whose coverage guides the search, for a kind. Counting makes Python many times slower, so recognition, which
a file's bytes reach through nothing but names and shapes, is run and not counted."""


def lines_of(kind: str, data: bytes, folder: Path) -> set[tuple[str, int]]:
    """The lines of anyvit that an input reaches, and how it ends."""
    from support import fuzzing

    met: set[tuple[str, int]] = set()
    mark = str(Path("anyvit") / "")

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if mark not in frame.f_code.co_filename:
            return None
        met.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        end = fuzzing.one_input(kind, data, folder)
    finally:
        sys.settrace(None)
    return {*met, (end, 0)}


def keep(kind: str, work: Path) -> tuple[int, int, int]:
    """Makes the tests' corpus of a kind: small inputs first, each for lines that none before it reaches.

    Returns:
        How many inputs, their bytes, and how many lines they reach.
    """
    from support import fuzzing

    found = sorted({path.read_bytes() for path in seeded(kind, work).iterdir()}, key=len)
    folder = Path(tempfile.mkdtemp())
    fuzzing.one_input(kind, b"", folder)
    chosen: list[bytes] = []
    reached: set[tuple[str, int]] = set()
    for data in (data for data in found if len(data) <= fuzzing.LENGTH_LIMIT):
        met = lines_of(kind, data, folder)
        if met - reached and sum(map(len, chosen)) + len(data) <= KEPT:
            chosen.append(data)
            reached |= met
    fuzzing.keep(kind, chosen)
    return len(chosen), sum(map(len, chosen)), len(reached)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", help="one of support.fuzzing.KINDS, or all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engine", choices=["blind", "atheris"], default="blind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("fuzz"))
    parser.add_argument("--keep", action="store_true", help="make the tests' corpus of what was found, and end")
    args = parser.parse_args()
    (args.work / "crashes").mkdir(parents=True, exist_ok=True)
    if args.engine == "atheris":
        guided(args.kind, args.seconds, args.work)
        return 0
    from support import fuzzing

    worst = 0
    for kind in fuzzing.KINDS if args.kind == "all" else (args.kind,):
        if args.keep:
            print(kind, *keep(kind, args.work), flush=True)
            continue
        run = blind(kind, args.seconds, args.work, random.Random(args.seed))
        print(json.dumps(run.said()), flush=True)
        worst += sum(run.failed.values())
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
