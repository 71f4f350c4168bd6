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


PLAIN = frozenset(
    [
        "aimv2",
        "altclip",
        "aria",
        "beit",
        "blip",
        "blip_2",
        "chinese_clip",
        "chmv2",
        "clip",
        "clipseg",
        "cohere2_vision",
        "cosmos3_edge",
        "data2vec",
        "deepseek_ocr2",
        "deepseek_vl",
        "deit",
        "depth_anything",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "dpt",
        "flava",
        "gemma3",
        "git",
        "got_ocr2",
        "granite_docling",
        "idefics",
        "idefics2",
        "idefics3",
        "ijepa",
        "instructblip",
        "instructblipvideo",
        "internvl",
        "janus",
        "kosmos2",
        "lfm2_vl",
        "llava",
        "llava_next",
        "llava_onevision",
        "metaclip_2",
        "modernvbert",
        "molmo2",
        "owlv2",
        "owlvit",
        "paligemma",
        "pe_video",
        "phi4_multimodal",
        "pixio",
        "pp_formulanet",
        "prompt_depth_anything",
        "qianfan_ocr",
        "radio",
        "sam",
        "sam_hq",
        "sapiens2",
        "siglip",
        "siglip2",
        "slanext",
        "smolvlm",
        "step3p7",
        "t5gemma2",
        "tipsv2",
        "tipsv2_dpt",
        "ultravbert",
        "unlimited_ocr",
        "vipllava",
        "vision_encoder_decoder",
        "vision_text_dual_encoder",
        "vit",
        "vit_mae",
        "vit_msn",
        "zoedepth",
    ]
)
"""Folders of transformers whose image tower is a plain ViT; what they lack at default settings is told as missed."""

ALONE = {
    "transformers:paddleocr_vl:PaddleOCRVision": "its names are SigLIP's; a finding names the other reading",
    "transformers:rf_detr:RfDetrDinov2Backbone": "its names are DINOv2's; its windows stand in the config alone",
}
"""Towers that without their config cannot be told from a plain ViT: how their names begin → why."""

TEXT = re.compile(r"Text|LM|Language|Llama|Decoder|Audio|Talker|[Qq]former")


def transformers_models(match: str) -> Iterator[Peer]:
    """Every class of transformers with pictures as inputs, at its config's defaults; names on disk and in memory."""
    import importlib
    import inspect
    import pkgutil

    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    transformers.logging.set_verbosity_error()
    for folder in sorted(
        m.name for m in pkgutil.iter_modules(transformers.models.__path__) if re.search(match, m.name)
    ):
        try:
            module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
        except ImportError:
            continue
        for name, cls in sorted(vars(module).items()):
            mine = (
                inspect.isclass(cls)
                and issubclass(cls, transformers.PreTrainedModel)
                and cls.__module__ == module.__name__
            )
            if not mine or name.endswith("PreTrainedModel") or cls.main_input_name != "pixel_values":
                continue
            try:
                config = cls.config_class()
                _shrink(config)
                with torch.device("meta"):
                    model = cls(config)
                memory = model.state_dict()
                disk = revert_weight_conversion(model, dict(memory))
            except Exception as error:  # many classes need arguments that no default gives
                print(f"not built transformers:{folder}:{name}: {type(error).__name__}")
                continue
            truth = {} if folder in PLAIN else None
            yield Peer(f"transformers:{folder}:{name}", memory, truth)
            if disk.keys() != memory.keys():
                yield Peer(f"transformers:{folder}:{name} (disk)", disk, truth)


def _shrink(config: Any, depth: int = 0) -> None:
    """Two layers for language models, whose names are not looked at."""
    import transformers

    for inner in vars(config).values():
        if isinstance(inner, transformers.PretrainedConfig) and depth < 4:
            _shrink(inner, depth + 1)
    if TEXT.search(type(config).__name__):
        for key in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "num_experts"):
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, min(getattr(config, key), 2))


LIBRARIES = {
    "timm": timm_models, "open_clip": open_clip_models, "torchvision": torchvision_models, "transformers": transformers_models,
}  # fmt: skip


def differences(peer: Peer, report: Report) -> dict[str, tuple[Any, Any]]:
    """Field → (found, true)."""
    if peer.truth is None or report.spec is None:
        return {}
    return {n: (getattr(report.spec, n), v) for n, v in peer.truth.items() if getattr(report.spec, n) != v}


def verdict(peer: Peer, report: Report) -> str:
    """One word for a report: right, refused, wrong, assumed (only eps or activation differ), false ok, undecided, missed."""
    if peer.truth is None:
        if report.ok:
            return "undecided" if peer.name.startswith(tuple(ALONE)) else "false ok"
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
