"""Where the shared truth cases lie, and a skip with its reason where they are absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ANYVIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "cases").is_dir(), reason=f"no truth cases at {SHARED}; set ANYVIT_SHARED to their folder"
)


@pytest.fixture(scope="session")
def peers() -> None:
    """Makes torchvision (and with it timm and open_clip) importable beside a CPU-only torch."""
    sys.path.insert(0, str(Path(__file__).parent / "support"))
    import torchvision_shim

    torchvision_shim.install()
