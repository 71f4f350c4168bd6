"""From a file to a model that is ready to run, and into a model that is there already."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.files import make
from benchmarks.process import Row, python, rounds, rows

PEERS = """
import sys
try:
    import torchvision
except RuntimeError:
    import torchvision_shim
    torchvision_shim.install()
"""
END = """
ready = _t()
total = sum(float(p.sum()) for p in model.parameters())
print(json.dumps({"import": imported - start, "ready": ready - imported, "touched": _t() - ready}))
"""
OURS = (
    """
import sys
start = _t()
import torch
import anyvit
anyvit.load
import anyvit.adapt, anyvit.api, anyvit.assemble, anyvit.containers.folder, anyvit.containers.safetensors
import anyvit.containers.torch_file, anyvit.deep, anyvit.model
imported = _t()
model = anyvit.load(sys.argv[1], **json.loads(sys.argv[2]))
"""
    + END
)
TIMM = (
    PEERS
    + """
start = _t()
import timm
imported = _t()
model = timm.create_model(sys.argv[2], num_classes=0, checkpoint_path=sys.argv[1]).eval()
"""
    + END
)
TIMM_META = (
    PEERS
    + """
start = _t()
import timm, torch
from safetensors.torch import load_file
imported = _t()
with torch.device("meta"):
    model = timm.create_model(sys.argv[2], num_classes=0)
path = sys.argv[1]
state = load_file(path) if path.endswith("safetensors") else torch.load(path, mmap=True, weights_only=True)
model.load_state_dict(state, assign=True)
"""
    + END
)
TRANSFORMERS = (
    PEERS
    + """
start = _t()
from transformers import Dinov2Model
imported = _t()
model = Dinov2Model.from_pretrained(sys.argv[1])
"""
    + END
)
BARE = (
    """
import sys
start = _t()
import torch
from torch import nn
from safetensors.torch import load_file
imported = _t()

class Block(nn.Module):
    def __init__(self, d, m):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mlp, self.ls1, self.ls2 = nn.Module(), nn.Module(), nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(d, m), nn.Linear(m, d)
        self.ls1.gamma, self.ls2.gamma = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))

class Model(nn.Module):
    def __init__(self, d=1024, m=4096, depth=24, patch=14, rows=1370):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, d)), nn.Parameter(torch.zeros(1, rows, d))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, d, patch, patch)
        self.blocks, self.norm = nn.ModuleList(Block(d, m) for _ in range(depth)), nn.LayerNorm(d)

with torch.device("meta"):
    model = Model()
path = sys.argv[1]
state = load_file(path) if path.endswith("safetensors") else torch.load(path, mmap=True, weights_only=True)
model.load_state_dict(state, assign=True)
"""
    + END
)
INTO = (
    PEERS
    + """
import timm, torch
import anyvit
anyvit.load_into
import anyvit.into
model = timm.create_model(sys.argv[2], num_classes=0).eval()
start = _t()
anyvit.load_into(model, sys.argv[1], **json.loads(sys.argv[3]))
print(json.dumps({"job": _t() - start}))
"""
)
INTO_TIMM = (
    PEERS
    + """
import timm, torch
model = timm.create_model(sys.argv[2], num_classes=0).eval()
start = _t()
timm.models.load_checkpoint(model, sys.argv[1])
print(json.dumps({"job": _t() - start}))
"""
)
BUILD = (
    PEERS
    + """
import timm, torch
start = imported = _t()
import anyvit
model = anyvit.build("timm:" + sys.argv[2], sys.argv[1])
"""
    + END
)
NAME = "vit_large_patch14_dinov2"


def measure(folder: Path, count: int) -> list[Row]:
    """ViT-L/14 from .safetensors and .pth; each process reads every parameter once before it ends."""
    out = []
    for suffix in ("safetensors", "pth"):
        path = make(folder, f"l14.{suffix}")
        ways = {
            "anyvit.load": python(OURS, path, "{}"),
            "anyvit.load, check off": python(OURS, path, '{"check": "off"}'),
            "bare torch, assign": python(BARE, path),
        }
        if suffix == "pth":
            ways["timm create_model(checkpoint_path)"] = python(TIMM, path, NAME)
        else:
            ways["timm on meta, assign"] = python(TIMM_META, path, NAME)
            ways["transformers from_pretrained"] = python(TRANSFORMERS, _hugging_face(folder, path))
        out += rows(f"load ViT-L/14 .{suffix}", rounds(ways, count), "anyvit.load")
    path = make(folder, "l14.safetensors")
    ways = {
        "anyvit.load_into": python(INTO, path, NAME, "{}"),
        "anyvit.load_into, check off": python(INTO, path, NAME, '{"check": "off"}'),
        "timm load_checkpoint": python(INTO_TIMM, path, NAME),
        "anyvit.build": python(BUILD, path, NAME),
    }
    return out + rows("load_into a live timm ViT-L/14", rounds(ways, count), "anyvit.load_into")


def _hugging_face(folder: Path, source: Path) -> Path:
    """The same weights as transformers' Dinov2Model has them, written by us and opened by them."""
    import anyvit

    out = folder / "l14-hf"
    if not (out / "config.json").exists():
        anyvit.convert(source, out, "hf-dinov2", heads=16)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 24
    return out
