"""The command: `python -m benchmarks`, see the package."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks import conversion, forward, growth, loading, machine, startup
from benchmarks.table import markdown, write, write_gpu

JOBS = {
    "inspect": startup.measure,
    "convert": conversion.measure,
    "load": loading.measure,
    "forward": forward.measure,
    "growth": growth.measure,
}


def main() -> None:
    """Measures, prints the tables, and with --out puts them and the raw figures into docs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=benchmarks.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--files", type=Path, help="where the files are kept between calls; by default nowhere")
    parser.add_argument("--out", type=Path, help="a JSON file; the page is the .md beside it")
    parser.add_argument("--gpu", type=Path, help="what benchmarks/gpu.py wrote; nothing is measured then")
    args = parser.parse_args()
    if args.gpu:
        write_gpu(json.loads(args.gpu.read_text()), args.out, args.out.with_suffix(".md"))
        return
    folder, found = args.files or Path(tempfile.mkdtemp(prefix="anyvit-benchmarks-")), {}
    try:
        for name, measured in jobs(args.jobs or list(JOBS), folder, 1 if args.quick else args.rounds):
            found[name] = measured
            if args.out:  # after each job, so that a call that is stopped leaves what it knows
                write(args.out, args.out.with_suffix(".md"), machine.describe(), found)
    finally:
        if args.files is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(machine.describe()))


def jobs(names: list[str], folder: Path, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each job's rows, and how busy the machine was."""
    for name in names:
        before, start = machine.load(), time.monotonic()
        rows = JOBS[name](folder, count)
        measured = {"load": [before, machine.load()], "rows": [asdict(row) for row in rows]}
        print(f"{name}: {time.monotonic() - start:.0f} s\n\n{markdown(measured['rows'])}", flush=True)
        yield name, measured


if __name__ == "__main__":
    main()
