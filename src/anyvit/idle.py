"""Parts that a file holds and its own model never uses."""

from __future__ import annotations

from dataclasses import replace

from anyvit.rules import Run

POOL = "the attention pool is not used: the classifier takes the mean of the tokens"
"""Source: transformers models/siglip/modeling_siglip.py, SiglipForImageClassification.forward."""


def set_aside(run: Run, dialect: str) -> Run:
    """A reading without the tensors that the model of its dialect never uses; they count as ignored.

    Arguments:
        run: what became of every name.
        dialect: the dialect's name.

    Example:
        >>> from anyvit.lazy import Lazy
        >>> weight = Lazy((2, 3), "float32", bytes, ("a",))
        >>> run = Run({"head.weight": weight}, {}, {}, {}, (), (), {}, {})
        >>> list(set_aside(run, "hf-siglip").tensors)
        ['head.weight']
    """
    if not (dialect.startswith("hf-siglip") and "head.weight" in run.tensors):
        return run
    pool = {name for name in run.tensors if name.startswith("pool.")}
    sources = {source: POOL for name in pool for source in run.tensors[name].origin}
    return replace(
        run,
        tensors={name: tensor for name, tensor in run.tensors.items() if name not in pool},
        used={name: rule for name, rule in run.used.items() if name not in sources},
        ignored={**run.ignored, **{name: why for name, why in sources.items() if name in run.used}},
    )
