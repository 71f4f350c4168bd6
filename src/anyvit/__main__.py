"""`python -m anyvit`."""

from __future__ import annotations

from anyvit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
