"""Replays the silent-wrong trials on trained weights: what timm and transformers do with such files, and what anyvit says.

Example: PYTHONPATH=tests python scripts/evidence_peers.py ../shared/real/dinov2-small-hf --heads 6
The file is loaded strictly, as users do; the figure is the error of the final tokens, rms over rms of the true ones.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from evidence_matrix import Arrays, _relaid, _turned, dialect_files
from safetensors.numpy import save_file
from support import torchvision_shim
from torch import Tensor, nn

import anyvit
from anyvit.errors import AnyvitError

SIZE = 224


def timm_tokens(state: Arrays, folder: Path) -> Tensor:
    """Final tokens of timm's DINOv2-S, filled by `load_state_dict(strict=True)`."""
    import timm

    model: nn.Module = timm.create_model("vit_small_patch14_dinov2", img_size=518, dynamic_img_size=True).eval()
    model.load_state_dict({n: torch.from_numpy(x) for n, x in state.items() if n in model.state_dict()}, strict=True)
    return model.forward_features(pixels())


def hf_tokens(state: Arrays, folder: Path) -> Tensor:
    """Final tokens of transformers' Dinov2Model, filled by `from_pretrained`."""
    from transformers import Dinov2Model

    save_file({n: np.ascontiguousarray(x) for n, x in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return Dinov2Model.from_pretrained(folder).eval()(pixels()).last_hidden_state


def pixels() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def said(state: Arrays) -> str:
    """What load says, and whether it refuses."""
    try:
        findings = anyvit.load(state).report.findings
    except AnyvitError as error:
        return "raises: " + str(error).splitlines()[0]
    texts = [f.cause for f in findings if f.kind in ("swapped", "interleaved", "transposed")]
    return "finding: " + "; ".join(texts) if texts else "nothing"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder with a DINOv2-S in transformers' names")
    parser.add_argument("--heads", type=int, default=6)
    args = parser.parse_args()
    torchvision_shim.install()
    trials: tuple[tuple[str, Callable[[Arrays, int | None], Arrays | None], int | None], ...] = (
        ("x.kqv: k, q, v in one block", _relaid("kqv", args.heads), 5),
        ("v, k, q in one block", _relaid("vkq", args.heads), 5),
        ("x.kqv_all: k, q, v in all blocks", _relaid("kqv", args.heads), None),
        ("v, q, k in all blocks", _relaid("vqk", args.heads), None),
        ("x.interleaved: h 3 d in all blocks", _relaid("h 3 d", args.heads), None),
        ("h 3 d in one block", _relaid("h 3 d", args.heads), 5),
        ("x.transposed: out of one block", _turned("out", 384), 3),
        ("out of all blocks transposed", _turned("out", 384), None),
        ("q of one block transposed", _turned("q", 384), 3),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_bytes((args.model / "config.json").read_bytes())
        print("| trial | timm | transformers | anyvit.load |\n|---|---|---|---|")
        files = dict(dialect_files(args.model, args.heads, ("timm", "hf-dinov2"), folder))
        runs = {"timm": timm_tokens, "hf-dinov2": hf_tokens}
        right = {d: runs[d](state, folder) for d, state in files.items()}
        for text, change, at in trials:
            cells, word = [], ""
            for dialect, state in files.items():
                changed = change(state, at)
                if changed is None:
                    cells.append("–")
                    continue
                off = (runs[dialect](changed, folder) - right[dialect]).square().mean().sqrt()
                cells.append(f"silent, {float(off / right[dialect].square().mean().sqrt()):.2f}")
                word = word or said(changed)
            print(f"| {text} | {' | '.join(cells)} | {word} |", flush=True)


if __name__ == "__main__":
    main()
