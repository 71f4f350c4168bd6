"""Checkpoints to measure with: the shapes of real models, random values, or none at all where only headers are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

from anyvit import containers
from anyvit.containers import npz, safetensors, torch_write
from anyvit.lazy import Lazy, Piece, from_array, from_pieces

NOTHING = bytes(4 << 20)
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """A ViT: width, depth, inputs of the last MLP matrix, patch in pixels, rows of the position table."""

    width: int
    depth: int
    hidden: int
    patch: int
    rows: int
    gated: bool = False
    scaled: bool = True


SEVEN = Size(4096, 40, 8192, 16, 0, gated=True)
"""DINOv3's ViT-7B/16. Source: huggingface.co/facebook/dinov3-vit7b16-pretrain-lvd1689m config.json."""
SIZES = {
    "b16": Size(768, 12, 3072, 16, 197, scaled=False),
    "l16": Size(1024, 24, 4096, 16, 197, scaled=False),
    "l14": Size(1024, 24, 4096, 14, 1370),
    "g14": Size(1536, 40, 4096, 14, 1370, gated=True),
}
"""ViT-B/16 and ViT-L/16 as Google trained them, ViT-L/14 and ViT-g/14 of DINOv2 without registers."""


def shapes(size: Size, depth: int | None = None) -> Shapes:
    """Names and shapes as timm has them."""
    d, m = size.width, size.hidden
    block: Shapes = {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1.gamma": (d,), "norm2.weight": (d,), "norm2.bias": (d,),
        "mlp.fc1.weight": ((1 + size.gated) * m, d), "mlp.fc1.bias": ((1 + size.gated) * m,),
        "mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,), "ls2.gamma": (d,),
    }  # fmt: skip
    names = [name for name in block if size.scaled or "ls" not in name]
    return {
        "cls_token": (1, 1, d), "pos_embed": (1, size.rows, d),
        "patch_embed.proj.weight": (d, 3, size.patch, size.patch), "patch_embed.proj.bias": (d,),
        **{f"blocks.{i}.{name}": block[name] for i in range(depth or size.depth) for name in names},
        "norm.weight": (d,), "norm.bias": (d,),
    }  # fmt: skip


def dinov3_shapes(size: Size = SEVEN) -> Shapes:
    """Names and shapes of Meta's own DINOv3 files.

    Source: github.com/facebookresearch/dinov3@6876159:dinov3/models/vision_transformer.py, dinov3/layers/ffn_layers.py
    """
    d, m = size.width, size.hidden
    block: Shapes = {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d),
        "attn.proj.bias": (d,), "ls1.gamma": (d,), "norm2.weight": (d,), "norm2.bias": (d,), "mlp.w1.weight": (m, d),
        "mlp.w1.bias": (m,), "mlp.w2.weight": (m, d), "mlp.w2.bias": (m,), "mlp.w3.weight": (d, m),
        "mlp.w3.bias": (d,), "ls2.gamma": (d,),
    }  # fmt: skip
    return {
        "cls_token": (1, 1, d), "storage_tokens": (1, 4, d), "mask_token": (1, d),
        "patch_embed.proj.weight": (d, 3, size.patch, size.patch), "patch_embed.proj.bias": (d,),
        "rope_embed.periods": (d // 32 // 4,),
        **{f"blocks.{i}.{name}": shape for i in range(size.depth) for name, shape in block.items()},
        "norm.weight": (d,), "norm.bias": (d,),
    }  # fmt: skip


def filled(named: Shapes) -> dict[str, Lazy]:
    """Tensors of random values of the usual magnitude, made when they are written."""

    def values(number: int, name: str, shape: tuple[int, ...]) -> Any:
        import numpy as np

        noise = np.random.default_rng(number).standard_normal(shape, np.float32)
        return noise * np.float32(0.02) + np.float32("norm" in name and name.endswith("weight"))

    return {
        name: Lazy(shape, "float32", lambda n=n, name=name, shape=shape: values(n, name, shape), (name,))
        for n, (name, shape) in enumerate(named.items())
    }


class Nothing:
    """A source of zeros, all of the same memory."""

    name = "nothing"

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(NOTHING)[:size]

    def view(self, offset: int, size: int) -> None:
        return None


def hollow(named: Shapes, dtype: str = "float32") -> dict[str, Lazy]:
    """Tensors whose bytes are never written: see `sparse`."""
    source, itemsize = Nothing(), 2 if dtype == "bfloat16" else 4
    tensors = {}
    for name, shape in named.items():
        count = itemsize
        for side in shape:
            count *= side
        tensors[name] = from_pieces(shape, dtype, [Piece(source, 0, count)], (name,))  # type: ignore[list-item]
    return tensors


class _Holes:
    """A file that leaves a hole where `NOTHING` would be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        if isinstance(data, memoryview) and data.obj is NOTHING:
            self.file.seek(len(data), 1)
            return len(data)
        return self.file.write(data)

    def seek(self, *where: int) -> int:
        return self.file.seek(*where)

    def tell(self) -> int:
        return self.file.tell()

    def fileno(self) -> int:
        return self.file.fileno()


@contextlib.contextmanager
def sparse() -> Iterator[None]:
    """Within it our writers leave holes for `hollow` tensors: files of any size that take no room on the disk."""

    @contextlib.contextmanager
    def holes(path: str | Path, *, durable: bool = False) -> Iterator[Any]:
        with Path(path).open("wb", buffering=0) as file:
            yield _Holes(file)
            file.truncate(max(file.seek(0, 1), file.seek(0, 2)))

    with contextlib.ExitStack() as stack:
        for module in (torch_write, safetensors, npz):
            stack.enter_context(mock.patch.object(module, "atomic", holes))
            stack.enter_context(mock.patch.object(module, "reserve", lambda file, size: None))
        yield


def _periods(count: int) -> Lazy:
    """The periods of DINOv3's rotary embedding, which a conversion reads to see that they follow from their base."""
    import ml_dtypes
    import numpy as np

    values = (100 ** (np.arange(count) / count)).astype(ml_dtypes.bfloat16)
    return from_array(values, "rope_embed.periods")


def _gains(named: Shapes) -> dict[str, Lazy]:
    """Norm gains as training leaves them: where all are one, a load reads whole blocks to see whether it ever happened."""
    import numpy as np

    draw = np.random.default_rng(0)
    gains = [name for name in named if name.endswith("norm1.weight")]
    return {name: from_array(draw.uniform(0.5, 1.5, named[name]).astype("float32"), name) for name in gains}


def make(folder: Path, name: str) -> Path:
    """A file of the benchmarks, made unless it is there.

    Arguments:
        folder: where.
        name: size and container, "l14.safetensors"; those of "g14" and "dinov3-7b-shards" hold no bytes, only holes,
            but "g14-full.safetensors" does.
    """
    path = folder / name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    size = SIZES.get(name[:3], SEVEN)
    if not name.startswith(("g14", "dinov3")) or "full" in name:
        containers.save(filled(shapes(size)), path)
        return path
    with sparse():
        if name.startswith("dinov3"):
            path.mkdir()
            tensors = hollow(dinov3_shapes(), "bfloat16")
            tensors["rope_embed.periods"] = _periods(tensors["rope_embed.periods"].shape[0])
            safetensors.write_sharded(tensors, path, shard_size=5_000_000_000)
        elif name.endswith("shards"):
            path.mkdir()
            safetensors.write_sharded(hollow(shapes(size)), path, shard_size=500_000_000)
        else:
            containers.save({**hollow(shapes(size)), **_gains(shapes(size))}, path)
    return path
