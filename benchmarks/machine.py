"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

PACKAGES = ("anyvit", "torch", "timm", "transformers", "open_clip_torch", "safetensors", "onnxruntime", "numpy")


def describe() -> dict[str, object]:
    """Processor, cores, memory, versions and load."""
    return {
        "processor": processor(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load": load(),
    }


@contextmanager
def full_cache(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives nearly all free memory to the page cache, as on a machine that has run for a while.

    A virtual machine may give free memory back to its host, and getting it again takes several times as long as writing
    into it does, in some minutes and not in others. So what is written goes into memory that was set free just before.

    Yields:
        What does it again, after much was set free.
    """
    known = Path("/proc/meminfo")
    sizes = dict(line.split(":") for line in known.read_text().splitlines()) if known.exists() else {}
    size = int(sizes.get("MemAvailable", "0 kB").split()[0]) * 1024 - SPARE
    holes = folder / "holes"

    def fill() -> None:
        with holes.open("rb") as file:
            while file.read(1 << 20):
                pass

    try:
        with holes.open("wb") as file:
            file.truncate(max(size, 0))
        fill()
        yield fill
    finally:
        holes.unlink(missing_ok=True)


SPARE = 3 << 30
"""Bytes of memory that are left to what is measured."""


def load() -> float:
    """Processes that ran or waited during the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def processor() -> str:
    """The processor's own name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instructions() -> str:
    """The vector instructions that decide how fast matrix products are."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
    flags = next((line.split() for line in _cpuinfo() if line.startswith(("flags", "Features"))), [])
    return " ".join(name for name in known if name in flags)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
