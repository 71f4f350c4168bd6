"""The page of dialects and lineages is what its tables say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "ecosystems.py"))
    assert (ROOT / "docs" / "ecosystems.md").read_text() == script["page"](), "python scripts/ecosystems.py"
