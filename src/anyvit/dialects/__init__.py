"""The registry: every dialect there is, in the order of preference between equals.

The package is also the verb that lists them: `anyvit.dialects()`.
"""

from __future__ import annotations

import sys
from types import ModuleType

from anyvit.dialects import (
    aimv2,
    anyvit_,
    beit,
    big_vision,
    cogvlm,
    croco,
    deit,
    dino,
    dinov2,
    dinov3,
    eva,
    google,
    hf_aimv2,
    hf_beit,
    hf_blip,
    hf_clip,
    hf_deit,
    hf_dinov2,
    hf_dinov3,
    hf_flax,
    hf_ijepa,
    hf_mae,
    hf_msn,
    hf_siglip,
    hf_tf,
    hf_vit,
    ibot,
    ijepa,
    instantmesh,
    internvit,
    keras,
    mae,
    mmpretrain,
    moco,
    molmo,
    msn,
    open_clip,
    openai_clip,
    pe,
    ports,
    radio,
    sam,
    sapiens,
    timm,
    timm_eva,
    timm_relpos,
    torchvision,
)
from anyvit.errors import BadArgument
from anyvit.rules import Dialect

ALL: tuple[Dialect, ...] = (
    *timm.DIALECTS,
    *dinov2.DIALECTS,
    *dino.DIALECTS,
    *google.DIALECTS,
    *openai_clip.DIALECTS,
    *open_clip.DIALECTS,
    *hf_vit.DIALECTS,
    *hf_dinov2.DIALECTS,
    *hf_clip.DIALECTS,
    *hf_blip.DIALECTS,
    *instantmesh.DIALECTS,
    *internvit.DIALECTS,
    *dinov3.DIALECTS,
    *hf_dinov3.DIALECTS,
    *eva.DIALECTS,
    *beit.DIALECTS,
    *hf_beit.DIALECTS,
    *mae.DIALECTS,
    *hf_mae.DIALECTS,
    *deit.DIALECTS,
    *hf_deit.DIALECTS,
    *moco.DIALECTS,
    *ibot.DIALECTS,
    *ijepa.DIALECTS,
    *hf_ijepa.DIALECTS,
    *msn.DIALECTS,
    *hf_msn.DIALECTS,
    *big_vision.DIALECTS,
    *hf_siglip.DIALECTS,
    *aimv2.DIALECTS,
    *hf_aimv2.DIALECTS,
    *pe.DIALECTS,
    *radio.DIALECTS,
    *sam.DIALECTS,
    *torchvision.DIALECTS,
    *croco.DIALECTS,
    *mmpretrain.DIALECTS,
    *timm_eva.DIALECTS,
    *cogvlm.DIALECTS,
    *timm_relpos.DIALECTS,
    *molmo.DIALECTS,
    *sapiens.DIALECTS,
    *ports.DIALECTS,
    *hf_tf.DIALECTS,
    *hf_flax.DIALECTS,
    *keras.DIALECTS,
    *anyvit_.DIALECTS,
)
"""Every dialect; where two explain a file equally well, the first is taken."""


def get(name: str) -> Dialect:
    """The dialect of a name.

    Arguments:
        name: a dialect's short name, as `anyvit dialects` lists them, or a JSON file with a table of your own.

    Returns:
        The dialect.

    Raises:
        BadArgument: where there is none; the message names those that resemble it.
        FileError: the file cannot be read.

    Example:
        >>> get("timm").title
        'timm VisionTransformer'
    """
    for dialect in ALL:
        if dialect.name == name:
            return dialect
    if name.endswith(".json"):
        from anyvit import tables_json

        return tables_json.read(name)
    from difflib import get_close_matches

    names = [dialect.name for dialect in ALL]
    close = get_close_matches(name, names, n=5, cutoff=0.4)
    raise BadArgument(f"no dialect is called {name!r}", expected=" or ".join(close or names), remedy="anyvit dialects")


class _Listing(ModuleType):
    """A package that can be called: importing it binds its name over any function of that name in its parent."""

    def __call__(self) -> tuple[Dialect, ...]:
        return ALL


sys.modules[__name__].__class__ = _Listing
