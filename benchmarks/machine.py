"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
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
