"""Every model that timm, open_clip, torchvision and transformers can build, on meta: is it recognised, and rightly?

    python scripts/sweep_peers.py                      # all four libraries, minutes
    python scripts/sweep_peers.py timm --match 'eva'   # some names of one
    python scripts/sweep_peers.py --all                # every answer, not only those that look wrong

A Vision Transformer that the reference model can hold must be `ok`, with the architecture that the module itself
states; anything else must be `ok == False`, with words that say what it is. No weights are made: everything stands on
torch's meta device. Exits with 1 where a module that is no plain ViT is `ok`, or where the architecture is told wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "support")]

import torchvision_shim  # noqa: E402

torchvision_shim.install()

import torch  # noqa: E402
from peer_truth import HARD, SOFT, truth_of  # noqa: E402
from torch import nn  # noqa: E402

import anyvit  # noqa: E402
from anyvit.report import Report  # noqa: E402

Shapes = Mapping[str, torch.Tensor]
VITS = ("vision_transformer", "deit", "beit", "eva", "naflexvit", "vision_transformer_relpos", "vision_transformer_sam")
"""timm's modules whose models are plain ViTs; all others are not."""


@dataclass(frozen=True)
class Peer:
    """One model of a library.

    Arguments:
        name: the library and the name that it builds the model by.
        tensors: its state dict, on meta.
        truth: what the module states, by Spec field; None for a model that is no plain ViT.
    """

    name: str
    tensors: Shapes
    truth: Mapping[str, Any] | None = field(default=None)


def timm_models(match: str) -> Iterator[Peer]:
    """Every registered model of timm's ViT modules; of the others three of each module."""
    import timm
    from timm.models import _registry

    for module, names in sorted(_registry._module_to_models.items()):
        known = sorted(n for n in names if not n.endswith(("_sam", "_in21k", "_in22k", "_miil", "_dino")))
        chosen = known if module in VITS else known[:: max(1, len(known) // 3)]
        for name in (n for n in chosen if re.search(match, n)):
            with torch.device("meta"):
                model = timm.create_model(name)
            yield Peer(f"timm:{name}", model.state_dict(), truth_of(model) if module in VITS else None)


def open_clip_models(match: str) -> Iterator[Peer]:
    """Every model config of open_clip whose image tower can be built here."""
    import open_clip

    for name in (n for n in open_clip.list_models() if re.search(match, n)):
        config = open_clip.get_model_config(name)
        config["text_cfg"] = {"context_length": 7, "vocab_size": 9, "width": 64, "heads": 1, "layers": 1}
        config.pop("multimodal_cfg", None)
        kept = {k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
        with torch.device("meta"):
            model = open_clip.model.CLIP(**kept)
        yield Peer(f"open_clip:{name}", model.state_dict(), truth_of(model.visual) if _plain(model.visual) else None)


def _plain(visual: Any) -> bool:
    """Whether an image tower of open_clip is a plain ViT."""
    if hasattr(visual, "trunk"):
        stem = hasattr(getattr(visual.trunk, "patch_embed", None), "backbone")
        return type(visual.trunk).__module__.rsplit(".", 1)[-1] in VITS and not stem
    return hasattr(visual, "transformer")


def torchvision_models(match: str) -> Iterator[Peer]:
    """torchvision's ViTs and its other classifiers."""
    import torchvision

    for name in (n for n in torchvision.models.list_models(torchvision.models) if re.search(match, n)):
        try:
            with torch.device("meta"):
                model: nn.Module = torchvision.models.get_model(name)
        except NotImplementedError:  # RegNet computes its widths with tensors
            continue
        yield Peer(f"torchvision:{name}", model.state_dict(), truth_of(model) if name.startswith("vit_") else None)


LIBRARIES = {"timm": timm_models, "open_clip": open_clip_models, "torchvision": torchvision_models}


def differences(peer: Peer, report: Report) -> dict[str, tuple[Any, Any]]:
    """Field → (found, true)."""
    if peer.truth is None or report.spec is None:
        return {}
    return {n: (getattr(report.spec, n), v) for n, v in peer.truth.items() if getattr(report.spec, n) != v}


def verdict(peer: Peer, report: Report) -> str:
    """One word for a report: right, refused, wrong, assumed (only eps or activation differ), false ok, missed."""
    if peer.truth is None:
        if report.ok:
            return "false ok"
        return "nameless" if "no known Vision" in str(report.error()) else "refused"
    wrong = differences(peer, report)
    if set(wrong) & set(HARD):
        return "wrong"
    if not report.ok:
        return "missed"
    return "assumed" if set(wrong) & set(SOFT) else "right"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", default=list(LIBRARIES), help=", ".join(LIBRARIES))
    parser.add_argument("--match", default="", help="regular expression, searched in every name")
    parser.add_argument("--all", action="store_true", help="print every answer")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    spent = 0.0
    for library in asked.libraries:
        for peer in LIBRARIES[library](asked.match):
            start = time.perf_counter()
            report = anyvit.inspect(peer.tensors)
            spent += time.perf_counter() - start
            word = verdict(peer, report)
            counts[word] += 1
            if asked.all or word not in ("right", "refused"):
                said = differences(peer, report) if word in ("wrong", "assumed") else {}
                causes = [f"{f.kind}: {f.cause[:120]}" for f in report.findings if f.fatal][:1]
                dialect = report.match.dialect.name if report.match else None
                print(f"{word:9} {peer.name:55} {dialect} {said or causes}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.most_common()), f"; inspect {spent:.1f} s in all")
    return int(bool(counts["false ok"] + counts["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
