"""Names of modules to build are checked before a library is asked."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytest.importorskip("torch", reason="modules need torch")

from support.peers import state

from anyvit.construct import build
from anyvit.errors import BadArgument, MissingExtra


@pytest.mark.parametrize("what", ["vit_base_patch16_224", "keras:ViT", "timm:", ""])
def test_a_module_is_named_by_its_library(what: str) -> None:
    with pytest.raises(BadArgument, match="named by its library"):
        build(what, state(), heads=2)


def test_a_name_that_timm_does_not_have(peers: Any) -> None:
    pytest.importorskip("timm", reason="the peer is not installed")
    with pytest.raises(BadArgument, match="no Vision Transformer 'resnet50'"):
        build("timm:resnet50", state(), heads=2)


@pytest.mark.parametrize(("what", "library"), [("timm:vit_base_patch16_224", "timm"), ("hf:ViTModel", "transformers")])
def test_a_library_that_is_missing_is_named(what: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=library):
        build(what, state(), heads=2)
