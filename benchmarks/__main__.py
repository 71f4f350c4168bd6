"""The command: `python -m benchmarks`, see the package."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import conversion, forward, growth, loading, machine, startup
from benchmarks.process import ROOT
from benchmarks.table import markdown, write

JOBS = {
    "inspect": startup.measure,
    "convert": conversion.measure,
    "load": loading.measure,
    "forward": forward.measure,
    "growth": growth.measure,
}


def main() -> None:
    """Measures, prints the table, and with --write puts it and the raw figures into docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "anyvit-benchmarks")
    parser.add_argument("--write", action="store_true", help="write docs/performance.json and docs/performance.md")
    args = parser.parse_args()
    about, found = machine.describe(), {}
    for name in args.jobs or JOBS:
        before = machine.load()
        rows = JOBS[name](args.files, args.rounds)
        found[name] = {"load": [before, machine.load()], "rows": [asdict(row) for row in rows]}
        print(markdown(found[name]["rows"]), flush=True)
    print(json.dumps(about))
    if args.write:
        write(ROOT / "docs" / "performance.json", ROOT / "docs" / "performance.md", about, found)


if __name__ == "__main__":
    main()
