"""The reference Vision Transformer: one readable page (`vit.py`) and the parts it chooses from."""

from __future__ import annotations

from anyvit.model.features import Features, Preprocess
from anyvit.model.vit import ViT

__all__ = ["Features", "Preprocess", "ViT"]
