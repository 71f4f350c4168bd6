"""Figures of one GPU: the same numbers as on a CPU, forward passes beside timm, files straight to the GPU, many sizes.

    PYTHONPATH=src python benchmarks/gpu.py                       # a CUDA device, 16 CPU cores, about five minutes
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --small  # every line of it on a CPU, in a minute or two

Needs torch, timm, safetensors; reads nothing from a network. Prints a table last; writes gpu.json and gpu.md to the
folder that OUT names, where it is set. Forward passes of each size are compiled in processes of their own, side by
side, and measured one after the other; within one, the ways take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "anyvit-inductor"))

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
Call = Callable[[], Any]


def timm() -> Any:
    """timm, also where torchvision does not fit torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.path.insert(0, str(ROOT / "tests" / "support"))
        import torchvision_shim

        torchvision_shim.install()
    import timm

    return timm


class Clock:
    """Milliseconds of calls: CUDA events on a GPU, a wall clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def once(self, call: Call, repeats: int = 1) -> float:
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) * 1e3 / repeats
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / repeats

    def compare(self, ways: dict[str, Call], seconds: float, least: int = 20) -> dict[str, float]:
        """The median of each way, taken in turns."""
        first = {name: min(self.once(call) for _ in range(3)) for name, call in ways.items()}
        repeats = {name: max(1, min(10, int(2 / max(ms, 1e-3)))) for name, ms in first.items()}
        turn = sum(first[name] * repeats[name] for name in ways) / 1e3
        rounds = max(least, min(60, int(seconds / max(turn, 1e-6))))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                times[name].append(self.once(call, repeats[name]))
        return {name: median(taken) for name, taken in times.items()}


def wall(call: Call, device: str) -> float:
    """Seconds from the call until the device has nothing left to do."""
    sync(device)
    start = time.perf_counter()
    found = call()
    sync(device)
    taken = time.perf_counter() - start
    del found
    return taken


def sync(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖; NaN where anything is not finite."""
    a, b = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((a - b).norm() / b.norm())


# ---------------------------------------------------------------- forward passes, a process for each size

MODELS = {"ViT-B/16": "vit_base_patch16_224", "ViT-L/16": "vit_large_patch16_224", "tiny": "vit_tiny_patch16_224"}
SHAPES = [(224, 1), (224, 8), (224, 64), (224, 256), (448, 1), (448, 8), (1024, 1), (1024, 8)]


def worker(job: dict[str, Any]) -> None:
    """Compiles all ways of one size, says "ready", measures when told to, prints a line of JSON."""
    device, size, batch = job["device"], job["size"], job["batch"]
    ways, errors, notes = forward_ways(job["model"], size, batch, device)
    print(json.dumps({"ready": list(ways), "errors": errors, "notes": notes}), flush=True)
    sys.stdin.readline()
    with torch.inference_mode():
        times = Clock(device).compare(ways, job["seconds"], job["least"])
    print(json.dumps({"times": times}), flush=True)


def forward_ways(
    model: str, size: int, batch: int, device: str
) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """Calls for the same weights and pictures; how far each is from timm in float32; what went wrong."""
    import anyvit

    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    fewer = {"depth": 2} if model == "tiny" else {}
    theirs = timm().create_model(MODELS[model], num_classes=0, img_size=size, **fewer).eval()
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    ours = anyvit.load(state, heads=theirs.blocks[0].attn.num_heads, device=device, dtype=torch.bfloat16, check="off")
    theirs = theirs.to(device)
    x = torch.randn(batch, 3, size, size, device=device)
    few = x[: min(batch, 2)]
    with torch.inference_mode():
        wanted = theirs.forward_features(few)
    theirs, x = theirs.bfloat16(), x.bfloat16()
    compiled = torch.compile(theirs.forward_features, dynamic=False)
    mine = torch.compile(ours, dynamic=False)
    ways: dict[str, Call] = {
        "timm": lambda: theirs.forward_features(x),
        "timm, compiled": lambda: compiled(x),
        "anyvit": lambda: ours(x).tokens,
        "anyvit, compiled": lambda: mine(x).tokens,
    }
    if batch <= 8 and size <= 448:
        graphed = torch.compile(theirs.forward_features, dynamic=False, mode="reduce-overhead")
        own = torch.compile(ours, dynamic=False, mode="reduce-overhead")
        ways["timm, compiled, graphs"] = lambda: graphed(x)
        ways["anyvit, compiled, graphs"] = lambda: own(x).tokens
    if device == "cuda":
        ways["anyvit, compiled, cuDNN attention"] = cudnn(ours, x)
    errors, notes = {}, {}
    with torch.inference_mode():
        for name in list(ways):
            try:
                for _ in range(3):
                    found = ways[name]()[: len(few)].clone()
                errors[name] = error(found, wanted)
            except Exception as failure:
                notes[name] = f"{type(failure).__name__}: {str(failure)[:300]}"
                del ways[name]
    sync(device)
    return ways, errors, notes


def cudnn(vit: Any, x: Tensor) -> Call:
    """The compiled model with cuDNN's attention kernel first."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

    def run(pixels: Tensor) -> Tensor:
        with sdpa_kernel(order, set_priority=True):
            return vit(pixels).tokens

    mine = torch.compile(run, dynamic=False)
    return lambda: mine(x)


class Workers:
    """Processes that compile at once and measure one by one."""

    def __init__(self, jobs: list[dict[str, Any]], folder: Path) -> None:
        self.folder, self.running = folder, []
        for number, job in enumerate(jobs):
            log = (folder / f"worker{number}.log").open("w")
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(job)]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            self.running.append((job, child, Path(log.name)))

    def results(self, deadline: float) -> Iterator[dict[str, Any]]:
        """All are waited for, then each measures alone; one that is late or fails is said and left out."""
        ready = [(job, child, log, self._line(child, log, deadline)) for job, child, log in self.running]
        for job, child, log, said in ready:
            if "ready" in said and time.monotonic() < deadline + 60:
                try:
                    child.stdin.write("go\n")
                    child.stdin.flush()
                    said = {**said, **self._line(child, log, deadline + 90)}
                except OSError as failure:
                    said = {"failed": str(failure)}
            yield {**job, **said}
            child.kill()
            child.wait()

    def _line(self, child: Any, log: Path, deadline: float) -> dict[str, Any]:
        import selectors

        selector = selectors.DefaultSelector()
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(timeout=1):
                line = child.stdout.readline()
                if line.startswith("{"):
                    return json.loads(line)
                if not line:
                    return {"failed": log.read_text()[-1500:]}
        return {"failed": "not compiled in time: " + log.read_text()[-300:]}


def jobs(device: str, small: bool) -> list[dict[str, Any]]:
    """Every model at every size, the slowest to compile first."""
    if small:
        shapes, models = [(32, 2)], ["tiny"]
    else:
        shapes, models = SHAPES, ["ViT-L/16", "ViT-B/16"]
    limits = {"seconds": 0.5, "least": 3} if small else {"seconds": 2.5, "least": 20}
    return [{"model": m, "size": s, "batch": b, "device": device, **limits} for m in models for s, b in shapes]


# ---------------------------------------------------------------- the same numbers as on a CPU


def kinds() -> dict[str, Any]:
    """A small ViT of every kind of attention, by name."""
    from anyvit.spec import Rope, Spec

    base = {"embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_dim": 192, "image_size": 64}
    dinov3 = Rope(base=100.0, coords="normalized", span="head")
    parts: dict[str, dict[str, Any]] = {
        "learned positions": {"pos_prefix": 1},
        "registers, LayerScale, SwiGLU": {"num_registers": 4, "pos_prefix": 1, "layer_scale": True, "ffn": "swiglu",
                                          "act": "silu"},
        "RoPE, half (DINOv3)": {"pos_embed": "rope", "rope": dinov3, "num_registers": 4},
        "RoPE, interleaved (EVA-02)": {"pos_embed": "learned+rope", "pos_prefix": 1, "rope": Rope(layout="interleaved",
                                       coords="scaled", reference=16), "ffn": "swiglu", "act": "silu"},
        "RoPE, mixed": {"pos_embed": "rope", "rope": Rope(layout="interleaved", mixed=True)},
        "relative positions (BEiT)": {"pos_embed": "relpos", "qkv_bias": "qv", "pool": "avg", "final_norm": "fc_norm"},
        "relative positions, shared": {"pos_embed": "relpos_shared", "pool": "none"},
        "windows, decomposed (SAM)": {"num_cls": 0, "pos_embed": "learned+relpos_decomposed", "window": 3,
                                      "global_blocks": (1,), "pool": "none", "final_norm": None, "neck_dim": 12},
        "q/k norm per head": {"qk_norm": "head", "pos_prefix": 1, "norm": "rmsnorm", "norm_bias": False},
        "q/k norm, full width (InternViT)": {"qk_norm": "full", "pos_prefix": 1},
        "attention pool": {"pool": "attn_pool", "pool_heads": 4, "pool_queries": 2, "pool_norms": ("q", "kv", "mlp"),
                           "pool_mlp_dim": 40},
        "AdaLN": {"condition": "instantmesh"},
    }  # fmt: skip
    return {name: Spec(**{**base, **values}) for name, values in parts.items()}


def numerics(device: str) -> list[dict[str, Any]]:
    """Largest errors against float32 on the CPU, for two sizes of pictures, of every kind of attention."""
    from anyvit.model import ViT

    rows = []
    torch._dynamo.config.recompile_limit = 256
    for name, spec in kinds().items():
        torch.manual_seed(0)
        vit = ViT(spec).eval()
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.ndim > 1 else 0.02))
        row: dict[str, Any] = {"kind": name}
        pictures = [torch.randn(2, 3, 64, 64), torch.randn(2, 3, 48, 80)]
        condition = torch.randn(2, 128) if spec.condition else None
        with torch.inference_mode():
            wanted = [outputs(vit, x, condition) for x in pictures]
            apart = [
                t.prenorm for i in (0, 1) for t in [vit(pictures[i][:1], None if condition is None else condition[:1])]
            ]
            for title, make in variants(device).items():
                try:
                    row[title] = make(vit, pictures, condition, wanted, apart)
                except Exception as failure:
                    row[title] = f"{type(failure).__name__}: {str(failure)[:160]}"
        rows.append(row)
    return rows


def outputs(vit: Any, x: Tensor, condition: Tensor | None) -> list[Tensor]:
    found = vit(x) if condition is None else vit(x, condition)
    return [t for t in (found.tokens, found.prenorm, found.pooled) if t is not None]


def variants(device: str) -> dict[str, Any]:
    """Ways to run a small ViT on the device, each giving its largest error."""
    import copy

    def plain(dtype: torch.dtype, around: Any = nullcontext, compiled: bool = False) -> Any:
        def make(vit: Any, pictures: Any, condition: Any, wanted: Any, apart: Any) -> float:
            moved = copy.deepcopy(vit).to(device, dtype)
            call = torch.compile(moved, dynamic=False) if compiled else moved
            worst, pairs = 0.0, list(zip(pictures, wanted, strict=True))
            for x, want in pairs[:1] if compiled else pairs:
                with around():
                    given = None if condition is None else condition.to(device, dtype)
                    found = outputs(call, x.to(device, dtype), given)
                worst = max([worst, *(error(a, b) for a, b in zip(found, want, strict=True))], key=nan_last)
            return worst

        return make

    def together(dtype: torch.dtype) -> Any:
        def make(vit: Any, pictures: Any, condition: Any, wanted: Any, apart: Any) -> float:
            moved = copy.deepcopy(vit).to(device, dtype)
            given = None if condition is None else condition[:1].expand(2, -1).to(device, dtype)
            found = moved.packed([x[0].to(device, dtype) for x in pictures], given)
            return max((error(a.prenorm, b) for a, b in zip(found, apart, strict=True)), key=nan_last)

        return make

    return {
        "float32": plain(torch.float32),
        "bfloat16": plain(torch.bfloat16),
        "float16": plain(torch.float16),
        "float32, compiled": plain(torch.float32, compiled=True),
        "bfloat16, FlashAttention alone": plain(torch.bfloat16, around=flash),
        "packed, float32": together(torch.float32),
        "packed, bfloat16": together(torch.bfloat16),
    }


def nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


@contextmanager
def flash() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


def doors(folder: Path, device: str, small: bool) -> dict[str, Any]:
    """Every verb that puts weights on the device, against the CPU, bit for bit."""
    import anyvit

    name = MODELS["tiny"]
    torch.manual_seed(0)
    source = timm().create_model(name, num_classes=3).eval()
    path = folder / "door.pth"
    torch.save(source.state_dict(), path)
    cpu = anyvit.load(path)
    x = torch.randn(2, 3, 224, 224)
    found: dict[str, Any] = {}

    def note(title: str, make: Call) -> None:
        try:
            found[title] = make()
        except Exception:
            found[title] = traceback.format_exc()[-600:]

    def loaded() -> str:
        model = anyvit.load(path, device=device)
        wrong = [n for n, t in cpu.state_dict().items() if not torch.equal(model.state_dict()[n].cpu(), t)]
        assert all(p.device.type == device for p in model.parameters())
        with torch.inference_mode():
            return f"{len(wrong)} tensors differ; logits {error(model(x.to(device)).logits, cpu(x).logits):.1e}"

    def into() -> str:
        model = timm().create_model(name, num_classes=3).eval().to(device)
        anyvit.load_into(model, path)
        wrong = [n for n, t in source.state_dict().items() if not torch.equal(model.state_dict()[n].cpu(), t)]
        return f"{len(wrong)} tensors differ"

    def built() -> str:
        model = anyvit.build(f"timm:{name}", path, device=device)
        wrong = [n for n, t in source.state_dict().items() if not torch.equal(model.state_dict()[n].cpu(), t)]
        assert all(p.device.type == device for p in model.parameters())
        return f"{len(wrong)} tensors differ"

    def narrow() -> str:
        model = anyvit.load(path, device=device, dtype=torch.bfloat16)
        wrong = [n for n, t in cpu.state_dict().items() if not torch.equal(model.state_dict()[n].cpu(), t.bfloat16())]
        return f"{len(wrong)} tensors differ"

    for title, make in {"load": loaded, "load_into": into, "build": built, "load, bfloat16": narrow}.items():
        note(title, make)
    note("SDPA kernels by default", lambda: kernels(device))
    return found


def kernels(device: str) -> str:
    """The attention kernels that a bfloat16 forward pass runs."""
    from anyvit.model import ViT
    from anyvit.spec import Spec

    vit = ViT(Spec(embed_dim=256, depth=1, num_heads=4, mlp_dim=256, image_size=224, pos_prefix=1)).eval()
    vit = vit.to(device, torch.bfloat16)
    x = torch.randn(8, 3, 224, 224, device=device, dtype=torch.bfloat16)
    activity = torch.profiler.ProfilerActivity.CUDA if device == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.inference_mode(), torch.profiler.profile(activities=[activity]) as profile:
        vit(x)
        sync(device)
    names = {event.key for event in profile.key_averages()}
    return ", ".join(
        sorted(n[:60] for n in names if any(w in n.lower() for w in ("flash", "fmha", "cudnn", "attention")))
    )


# ---------------------------------------------------------------- files straight to the device


def make_files(folder: Path, small: bool) -> dict[str, dict[str, Path]]:
    """ViT-L/14 and ViT-g/14 of DINOv2 as safetensors and .pth; random values."""
    from safetensors.torch import save_file

    sizes = {"ViT-L": (1024, 24, 4096, False), "ViT-g": (1536, 40, 4096, True)}
    if small:
        sizes = {"ViT-L": (64, 3, 128, False), "ViT-g": (96, 3, 128, True)}
    found: dict[str, dict[str, Path]] = {}
    for name, (d, depth, m, gated) in sizes.items():
        state = dinov2_state(d, depth, m, gated)
        paths = {kind: folder / f"{name}.{kind}" for kind in ("safetensors", "pth")}
        save_file(state, paths["safetensors"])
        torch.save(state, paths["pth"])
        found[name] = paths
    return found


def dinov2_state(d: int, depth: int, m: int, gated: bool) -> dict[str, Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mlp = {"mlp.w12.weight": (2 * m, d), "mlp.w12.bias": (2 * m,), "mlp.w3.weight": (d, m), "mlp.w3.bias": (d,)}
    plain = {"mlp.fc1.weight": (m, d), "mlp.fc1.bias": (m,), "mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,)}
    block = {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1.gamma": (d,), "norm2.weight": (d,),
        "norm2.bias": (d,), **(mlp if gated else plain), "ls2.gamma": (d,),
    }  # fmt: skip
    shapes = {
        "cls_token": (1, 1, d), "pos_embed": (1, 1370, d), "mask_token": (1, d),
        "patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,),
        **{f"blocks.{i}.{n}": s for i in range(depth) for n, s in block.items()}, "norm.weight": (d,),
        "norm.bias": (d,),
    }  # fmt: skip
    return {n: torch.randn(s, device=device).mul_(0.02).cpu() for n, s in shapes.items()}


class HostLink:
    """Stands in for a device where there is none, so that this script can be tried on a CPU."""

    def rooms(self, count: int, size: int) -> list[Tensor]:
        return list(torch.empty(count * size, dtype=torch.uint8).split(size))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    def copy(self, pairs: list[tuple[Tensor, Tensor]]) -> HostLink:
        for there, here in pairs:
            there.copy_(here)
        return self

    def join(self, mark: HostLink) -> None:
        pass

    def synchronize(self) -> None:
        pass


def link(device: str, total: int) -> Any:
    from anyvit.staging import CudaLink

    return CudaLink(torch.device(device), total) if device == "cuda" else HostLink()


def loading(files: dict[str, dict[str, Path]], device: str, small: bool) -> dict[str, Any]:
    """GB/s of the link, of reading, of staging with several settings, and of whole loads beside other libraries."""
    from safetensors.torch import load_file

    import anyvit

    found: dict[str, Any] = {
        "link GB/s": link_speed(device, small),
        "reading GB/s": reading(files["ViT-L"]["safetensors"]),
    }
    found["sweep GB/s"] = sweep(files["ViT-L"]["safetensors"], device, small)
    found["register"] = registered(files["ViT-L"]["safetensors"], device)
    for name, paths in files.items():
        size = paths["safetensors"].stat().st_size
        count = 5 if name == "ViT-L" else 3
        ways: dict[str, Call] = {
            "anyvit, staging alone": lambda p=paths: staged(p["safetensors"], device),
            "anyvit.load .safetensors": lambda p=paths: anyvit.load(p["safetensors"], device=device, check="off"),
            "anyvit.load .pth": lambda p=paths: anyvit.load(p["pth"], device=device, check="off"),
            "anyvit.load, all in bfloat16": lambda p=paths: anyvit.load(
                p["safetensors"], device=device, dtype=torch.bfloat16, check="off"
            ),
            "anyvit.load .safetensors, to the CPU": lambda p=paths: anyvit.load(p["safetensors"], check="off"),
            "safetensors load_file": lambda p=paths: load_file(p["safetensors"], device=device),
            "torch.load": lambda p=paths: torch.load(p["pth"], map_location=device, weights_only=True),
            "torch.load, mmap": lambda p=paths: torch.load(p["pth"], map_location=device, weights_only=True, mmap=True),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        notes = {}
        for turn in range(count + 1):
            for way, call in ways.items():
                if way in notes:
                    continue
                try:
                    taken = wall(call, device)
                except Exception:
                    notes[way] = traceback.format_exc()[-600:]
                    continue
                if turn:
                    times[way].append(taken)
        free(device)
        rows = {w: {"s": median(t), "GB/s": size / median(t) / 1e9} for w, t in times.items() if t}
        found[name] = {"bytes": size, "ways": rows, "notes": notes}
    return found


def staged(path: Path, device: str, **settings: int) -> Any:
    from anyvit.containers import open_checkpoint
    from anyvit.staging import stage

    tensors = open_checkpoint(path).tensors
    return dict(stage(tensors, link(device, sum(t.nbytes for t in tensors.values())), **settings))


def link_speed(device: str, small: bool) -> float:
    """Page-locked memory to the device, in GB/s: the limit."""
    size = (4 << 20) if small else (1 << 30)
    here = torch.empty(size, dtype=torch.uint8, pin_memory=device == "cuda")
    here.random_(0, 255)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    taken = [wall(lambda: there.copy_(here, non_blocking=True), device) for _ in range(12)][2:]
    return size / median(taken) / 1e9


def reading(path: Path) -> dict[str, float]:
    """Reading the file from the page cache into memory that is there, by threads, in GB/s."""
    from concurrent.futures import ThreadPoolExecutor

    from anyvit.containers.files import LocalFile

    file, step = LocalFile(path), 8 << 20
    places = range(0, file.size - step, step) if file.size > step else [0]
    step = min(step, file.size)
    found = {}
    for threads in (1, 4, 8, 16):
        rooms = [memoryview(bytearray(step)) for _ in range(threads)]

        def job(number: int, rooms: Any = rooms, threads: int = threads) -> None:
            for at in places[number::threads]:
                file.read_into(at, rooms[number])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(job, range(threads)))
            start = time.perf_counter()
            list(pool.map(job, range(threads)))
            found[str(threads)] = len(places) * step / (time.perf_counter() - start) / 1e9
    return found


def sweep(path: Path, device: str, small: bool) -> dict[str, float]:
    """Staging with other numbers of readers, buffers and bytes."""
    size, found = path.stat().st_size, {}
    settings = [(r, n, c) for r in (4, 8, 12, 16) for n, c in ((8, 16), (16, 8), (16, 4), (32, 4), (16, 16), (32, 2))]
    for readers, rooms, chunk in settings[:2] if small else settings:
        taken = [
            wall(lambda: staged(path, device, readers=readers, rooms=rooms, chunk=chunk << 20), device)  # noqa: B023
            for _ in range(4)
        ]
        found[f"{readers} readers, {rooms} × {chunk} MiB"] = size / median(taken[1:]) / 1e9
    return found


def registered(path: Path, device: str) -> dict[str, float] | str:
    """Page-locking the mapped file itself instead of reading it: seconds to lock, to copy, to unlock."""
    if device != "cuda":
        return "no CUDA device"
    try:
        import numpy as np

        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        here = torch.from_numpy(np.frombuffer(mapped, np.uint8))
        there = torch.empty(len(here), dtype=torch.uint8, device=device)
        runtime = torch.cuda.cudart()
        start = time.perf_counter()
        code = int(runtime.cudaHostRegister(here.data_ptr(), len(here), 0))
        locked = time.perf_counter() - start
        copied = wall(lambda: there.copy_(here, non_blocking=True), device)
        start = time.perf_counter()
        runtime.cudaHostUnregister(here.data_ptr())
        return {"code": code, "lock": locked, "copy": copied, "unlock": time.perf_counter() - start}
    except Exception:
        return traceback.format_exc()[-400:]


FIRST = """
import sys, time, torch
{imports}
torch.zeros(1, device=sys.argv[2]); {sync}
start = time.perf_counter()
model = {call}
{sync}
print(time.perf_counter() - start)
"""


def first_calls(files: dict[str, dict[str, Path]], device: str) -> dict[str, float | str]:
    """Seconds of the first load in a process, after its first touch of the device."""
    done = "torch.cuda.synchronize()" if device == "cuda" else "pass"
    ours = "anyvit.api.load(sys.argv[1], device=sys.argv[2], check='off')"
    ways = {
        "anyvit.load": ("import anyvit.api, anyvit.assemble, anyvit.model, anyvit.staging", ours, "safetensors"),
        "safetensors load_file": (
            "from safetensors.torch import load_file", "load_file(sys.argv[1], device=sys.argv[2])", "safetensors",
        ),
        "torch.load": ("", "torch.load(sys.argv[1], map_location=sys.argv[2], weights_only=True)", "pth"),
    }  # fmt: skip
    found: dict[str, float | str] = {}
    for name, (imports, call, kind) in ways.items():
        script = FIRST.format(imports=imports, call=call, sync=done)
        command = [sys.executable, "-c", script, str(files["ViT-L"][kind]), device]
        child = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found[name] = float(child.stdout) if child.returncode == 0 else child.stderr[-600:]
    return found


# ---------------------------------------------------------------- pictures of many sizes


def many_sizes(device: str, small: bool) -> dict[str, Any]:
    """64 pictures of sides from 128 to 512 pixels: packed, padded to the largest, one by one, by size."""
    from anyvit.model import ViT
    from anyvit.spec import Rope, Spec

    torch.manual_seed(0)
    spec = Spec(image_size=224, pos_prefix=1)
    turning = Spec(image_size=224, pos_embed="rope", rope=Rope(base=100.0, coords="normalized", span="head"))
    count, sides = (5, (16, 64)) if small else (64, (128, 512))
    sizes = (torch.randint(sides[0] // 16, sides[1] // 16 + 1, (count, 2)) * 16).tolist()
    tokens = [h * w // 256 + 1 for h, w in sizes]
    found: dict[str, Any] = {"pictures": count, "tokens": sum(tokens), "padded tokens": count * max(tokens)}
    for name, given in {"learned positions": spec, "RoPE": turning}.items():
        if small:
            given = Spec(**{**given.values(), "embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_dim": 64})
        vit = ViT(given).eval().to(device, torch.bfloat16)
        noise = [torch.randn(3, h, w, device=device, dtype=torch.bfloat16) for h, w in sizes]
        largest = max(sizes, key=lambda size: size[0] * size[1])
        padded = torch.zeros(count, 3, *largest, device=device, dtype=torch.bfloat16)
        ways: dict[str, Call] = {
            "packed": lambda vit=vit, noise=noise: vit.packed(noise),
            "padded to the largest": lambda vit=vit, padded=padded: vit(padded),
            "one by one": lambda vit=vit, noise=noise: [vit(x[None]) for x in noise],
        }
        with torch.inference_mode():
            times = Clock(device).compare(ways, 2.0, 3 if small else 20)
            wrong = max(
                error(a.tokens, vit(x[None]).tokens) for a, x in zip(vit.packed(noise[:6]), noise[:6], strict=True)
            )
        found[name] = {"ms": times, "packed against alone": wrong}
    return found


# ---------------------------------------------------------------- the whole


def describe(device: str) -> dict[str, Any]:
    packages = {}
    for name in ("timm", "transformers", "safetensors", "numpy", "triton"):
        try:
            packages[name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except Exception:
            packages[name] = None
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {
        "card": card, "cores": os.cpu_count(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "python": sys.version.split()[0], **packages,
    }  # fmt: skip


def main() -> None:
    """Measures everything; what fails is written down and does not stop the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and files")
    parser.add_argument("--budget", type=float, default=340, help="seconds")
    parser.add_argument("--parts", default="numerics,forward,loading,sizes")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if args.worker:
        worker(json.loads(args.worker))
        return
    start = time.monotonic()
    found: dict[str, Any] = {"machine": describe(args.device), "seconds": {}}
    folder = roomy(2 << 30 if args.small else 14 << 30)
    found["machine"]["files in"] = str(folder.parent)
    try:
        measured(args, found, folder, start)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        publish(found)


def roomy(size: int) -> Path:
    """A folder for files of that many bytes, in memory where there is room."""
    for place in ("/dev/shm", tempfile.gettempdir()):
        if Path(place).is_dir() and shutil.disk_usage(place).free > size:
            return Path(tempfile.mkdtemp(prefix="anyvit-", dir=place))
    return Path(tempfile.mkdtemp(prefix="anyvit-"))


def measured(args: Any, found: dict[str, Any], folder: Path, start: float) -> None:
    parts, device = args.parts.split(","), args.device

    def timed(name: str, call: Call) -> Any:
        begun = time.monotonic()
        found[name] = None
        try:
            found[name] = call()
            return found[name]
        except Exception:
            print(traceback.format_exc(), flush=True)
            return {"failed": traceback.format_exc()[-1500:]}
        finally:
            found["seconds"][name] = round(time.monotonic() - begun, 1)
            print(f"{time.monotonic() - start:6.1f} s  {name} done", flush=True)
            keep(found)

    workers = Workers(jobs(device, args.small), folder) if "forward" in parts else None
    if "numerics" in parts:
        found["numerics"] = timed("numerics", lambda: numerics(device))
        found["doors"] = timed("doors", lambda: doors(folder, device, args.small))
    if workers is not None:
        found["forward"] = timed("forward", lambda: list(workers.results(start + args.budget * 0.55)))
    if "sizes" in parts:
        found["sizes"] = timed("sizes", lambda: many_sizes(device, args.small))
        free(device)
    if "loading" in parts:
        files = timed("files", lambda: make_files(folder, args.small))
        if "failed" not in files:
            found["loading"] = timed("loading", lambda: loading(files, device, args.small))
            found["first calls"] = timed("first calls", lambda: first_calls(files, device))


def publish(found: dict[str, Any]) -> None:
    """The table, printed; both forms into the folder that OUT names."""
    text = markdown(found)
    keep(found)
    if out := os.environ.get("OUT"):
        (Path(out) / "gpu.md").write_text(text)
    print(json.dumps(found, ensure_ascii=False, default=str))
    print(text, flush=True)


def keep(found: dict[str, Any]) -> None:
    """What is known so far, in case that the rest never comes."""
    if out := os.environ.get("OUT"):
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "gpu.json").write_text(json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n")


def markdown(found: dict[str, Any]) -> str:
    """All tables."""
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [machine, ""]
    for make in (forward_table, loading_table, sizes_table, numerics_table):
        try:
            lines += [*make(found), ""]
        except Exception:
            lines += [traceback.format_exc()[-300:], ""]
    lines.append("seconds: " + ", ".join(f"{name} {value}" for name, value in found["seconds"].items()))
    return "\n".join(lines) + "\n"


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def forward_table(found: dict[str, Any]) -> list[str]:
    """Milliseconds, and how many times as fast as timm compiled."""
    rows = found.get("forward", [])
    names = list(dict.fromkeys(name for row in rows for name in row.get("times", {})))
    lines, failures = [], []
    for row in rows:
        times, base = row.get("times", {}), row.get("times", {}).get("timm, compiled")
        cells = [
            f"{times[n]:.2f}" + (f" ({base / times[n]:.2f} ×)" if base else "") if n in times else "" for n in names
        ]
        lines.append([f"{row['model']} {row['size']} px, batch {row['batch']}", *cells])
        failures += [f"{row['model']} {row['size']} {row['batch']}: {row['failed']}"] if "failed" in row else []
        failures += [f"{row['model']} {row['size']} {row['batch']} {n}: {t}" for n, t in row.get("notes", {}).items()]
    errors = [[row["errors"][n] for row in rows if n in row.get("errors", {})] for n in names]
    lines.append(["largest error against float32", *(f"{max(e, key=nan_last):.1e}" if e else "" for e in errors)])
    return [*table(["ms, bfloat16", *names], lines), *failures]


def loading_table(found: dict[str, Any]) -> list[str]:
    """GB/s and the share of the link."""
    loads = found.get("loading", {})
    speed = loads.get("link GB/s")
    lines = [f"link, page-locked memory to the device: {speed and round(speed, 1)} GB/s; reading, by threads: "
             f"{ {n: round(v, 1) for n, v in loads.get('reading GB/s', {}).items()} }; locking the mapped file: "
             f"{loads.get('register')}", ""]  # fmt: skip
    rows = []
    for name in ("ViT-L", "ViT-g"):
        for way, row in loads.get(name, {}).get("ways", {}).items():
            rows.append([name, way, f"{row['s']:.4f}", f"{row['GB/s']:.2f}", f"{row['GB/s'] / speed:.0%}"])
        lines += [f"{name}, {way}: {text}" for way, text in loads.get(name, {}).get("notes", {}).items()]
    lines += table(["file to device", "way", "s", "GB/s", "of the link"], rows)
    lines += ["", *(f"- {name}: {value:.1f} GB/s" for name, value in loads.get("sweep GB/s", {}).items())]
    return [*lines, "", f"first load in a process, ViT-L, s: {found.get('first calls')}"]


def sizes_table(found: dict[str, Any]) -> list[str]:
    sizes = found.get("sizes", {})
    rows = [[name, *(f"{v:.2f}" for v in part["ms"].values()), f"{part['packed against alone']:.1e}"]
            for name, part in sizes.items() if isinstance(part, dict)]  # fmt: skip
    names = next((list(part["ms"]) for part in sizes.values() if isinstance(part, dict)), [])
    told = ", ".join(f"{name} {value}" for name, value in sizes.items() if not isinstance(value, dict))
    return [told, "", *table(["ms, bfloat16", *names, "error"], rows)]


def numerics_table(found: dict[str, Any]) -> list[str]:
    rows = found.get("numerics", [])
    names = list(dict.fromkeys(name for row in rows for name in row if name != "kind"))
    show = lambda v: f"{v:.1e}" if isinstance(v, float) else v  # noqa: E731
    cells = [[row["kind"], *(show(row.get(name, "")) for name in names)] for row in rows]
    return [
        *table(["‖Δ‖ / ‖CPU float32‖", *names], cells),
        "",
        *(f"- {n}: {t}" for n, t in found.get("doors", {}).items()),
    ]


if __name__ == "__main__":
    main()
