"""What lies beside the weights: the small configuration files that ecosystems write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyvit.containers import sniff
from anyvit.containers.files import LocalFile
from anyvit.errors import FileError
from anyvit.lazy import Note

LIMIT = 1_000_000
"""Largest configuration file in bytes that is read."""
NAMES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json", "adapter_config.json",
    "args.json", "model_args.json", "params.json",
)  # fmt: skip
"""JSON files whose content says something of a vision model; those of tokenizers and text generation do not."""
TEXTS = ("args.yaml", "config.yaml", "config.yml", "hparams.yaml")
"""YAML files, kept as text: parsing them would need another package."""


def read(folder: Path) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The known configuration files of a folder by name, and a note for each that is damaged."""
    found: dict[str, Any] = {}
    notes: list[Note] = []
    for name in (*NAMES, *TEXTS):
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size > LIMIT:
                continue
            found[name] = _text(path) if name in TEXTS else sniff.load_json(path, LIMIT)
        except (FileError, OSError) as error:
            notes.append(Note("damaged", (name,), f"{error}; not used"))
    return found, tuple(notes)


def _text(path: Path) -> str:
    file = LocalFile(path)
    return file.read(0, file.size).decode("utf-8", "replace")
