"""The registry: every dialect there is, in the order of preference between equals."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from anyvit.errors import BadArgument
from anyvit.rules import Dialect

MODULES = (
    "timm", "dinov2", "dino", "google", "openai_clip", "open_clip", "hf_vit", "hf_dinov2", "hf_clip", "instantmesh",
    "internvit", "anyvit_",
    "dinov3", "hf_dinov3", "eva", "beit", "hf_beit", "mae", "hf_mae", "deit", "hf_deit", "moco", "ibot", "ijepa",
    "hf_ijepa", "msn", "hf_msn", "big_vision", "siglip", "hf_siglip", "aimv2", "hf_aimv2", "pe", "radio", "sam",
    "hf_sam", "torchvision", "croco", "mmpretrain", "timm_eva", "timm_beit", "timm_relpos", "timm_sam",
    "depth_anything",
)  # fmt: skip

ALL: tuple[Dialect, ...] = tuple(
    dialect
    for name in MODULES
    if find_spec(f"{__name__}.{name}")
    for dialect in getattr(import_module(f"{__name__}.{name}"), "DIALECTS", ())
)


def get(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        BadArgument: where there is none; the message names those that resemble it.

    Example:
        >>> get("timm").title
        'timm VisionTransformer'
    """
    for dialect in ALL:
        if dialect.name == name:
            return dialect
    from difflib import get_close_matches

    close = get_close_matches(name, [dialect.name for dialect in ALL], n=3, cutoff=0.4)
    raise BadArgument(
        f"no dialect is called {name!r}",
        expected=", ".join(close) or ", ".join(dialect.name for dialect in ALL),
        remedy="anyvit dialects",
    )
