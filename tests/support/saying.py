"""Models ready to be said in a dialect."""

from __future__ import annotations

from typing import Any

from support.peers import state

from anyvit import containers
from anyvit.adapt import Adapted, Wanted, adapt
from anyvit.lazy import Checkpoint
from anyvit.reading import Ask, understand


def adapted(source: Any, **ask: Any) -> Adapted:
    checkpoint = source if isinstance(source, Checkpoint) else containers.open_checkpoint(source)
    found = understand(checkpoint, Ask(**ask))
    assert found.spec is not None, found.findings
    return adapt(found.tensors, found.spec, Wanted())


def rotary() -> Adapted:
    """A DINOv3 without a position table."""
    weights = {n: t for n, t in state(layer_scale=True, qkv_bias=False).items() if n != "pos_embed"}
    return adapted(weights, dialect="dinov3", heads=3)
