"""One forward pass of a ViT-B/16 at 224 pixels on the CPU, all ways in one process, in turns."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.files import make
from benchmarks.process import ROOT, Row

Call = Callable[[Any], Any]
FLOPS = 35.1e9
"""Of one picture: 2 × multiplications, matrix products alone."""


def measure(folder: Path, count: int, batches: tuple[int, ...] = (1, 8)) -> list[Row]:
    """timm, transformers, onnxruntime and ours, plain and accelerated; milliseconds are medians over `count` turns."""
    import torch

    path = make(folder, "b16.safetensors")
    out: list[Row] = []
    for batch in batches:
        pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        ways = _ways(path, folder, batch)
        with torch.inference_mode():
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(count + 1):
                for name, call in ways.items():
                    start = time.perf_counter()
                    call(pixels)
                    if turn:
                        times[name].append(time.perf_counter() - start)
            errors = _errors(ways, pixels)
        out += _rows(
            f"forward ViT-B/16, batch {batch}, CPU, {torch.get_num_threads()} threads", times, errors, batch, count
        )
    return out


def _rows(job: str, times: dict[str, list[float]], errors: dict[str, float], batch: int, count: int) -> list[Row]:
    base = "onnxruntime" if "onnxruntime" in times else "timm"
    out = []
    for name, taken in times.items():
        figures = {"job": median(taken), "GFLOP/s": FLOPS * batch / median(taken) / 1e9, "error": errors.get(name, 0.0)}
        if name.startswith("sgemm"):
            figures = {"job": median(taken), "GFLOP/s": 2 * GEMM**3 / median(taken) / 1e9}
        ratio = median(mine / theirs for mine, theirs in zip(taken, times[base], strict=True))
        out.append(Row(job, name, figures, {"job": ratio}, base, count))
    return out


GEMM = 2048


def _ways(path: Path, folder: Path, batch: int) -> dict[str, Call]:
    import torch

    import anyvit

    ours = anyvit.load(path, check="off")
    plain = anyvit.accelerate(copy.deepcopy(ours)).restore()
    ways: dict[str, Call] = {"anyvit": lambda x: ours(x).tokens, "anyvit, restored": lambda x: plain(x).tokens}
    for precision in ("bfloat16", "int8"):
        fast = anyvit.accelerate(copy.deepcopy(ours), precision=precision)
        print(f"anyvit.accelerate, {precision}: {fast.acceleration}", file=sys.stderr)
        if fast.acceleration.layers:
            ways[f"anyvit, accelerate({precision})"] = lambda x, fast=fast: fast(x).tokens
    half = copy.deepcopy(ours).bfloat16()
    ways["anyvit, all in bfloat16"] = lambda x: half(x.bfloat16()).tokens.float()
    ways.update(_timm(path))
    ways.update(_transformers(path))
    ways.update(_onnx(path, folder, batch))
    a = torch.randn(GEMM, GEMM)
    ways[f"sgemm {GEMM}"] = lambda x: a @ a
    return ways


def _timm(path: Path) -> dict[str, Call]:
    import anyvit

    module = _timm_module(path)
    fast = anyvit.accelerate(copy.deepcopy(module))
    return {"timm": module.forward_features, "timm, accelerate": fast.forward_features}


def _shim() -> None:
    """Makes a torchvision that does not fit torch importable, as timm and transformers want it."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.path.insert(0, str(ROOT / "tests" / "support"))
        import torchvision_shim

        torchvision_shim.install()


def _timm_module(path: Path) -> Any:
    _shim()
    import timm

    import anyvit

    module = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    anyvit.load_into(module, path, check="off")
    return module


def _transformers(path: Path) -> dict[str, Call]:
    _shim()
    import transformers

    import anyvit

    module = transformers.ViTModel(transformers.ViTConfig(layer_norm_eps=1e-6), add_pooling_layer=False).eval()
    anyvit.load_into(module, path, check="off")
    fast = anyvit.accelerate(copy.deepcopy(module))
    return {
        "transformers": lambda x: module(x).last_hidden_state,
        "transformers, accelerate": lambda x: fast(x).last_hidden_state,
    }


def _onnx(path: Path, folder: Path, batch: int) -> dict[str, Call]:
    """timm's module, exported for this batch alone, in onnxruntime with torch's number of threads."""
    try:
        import onnxruntime
    except ImportError:
        print("onnxruntime is left out: it is not installed", file=sys.stderr)
        return {}
    import torch

    file = folder / f"b16-batch{batch}.onnx"
    module = _timm_module(path)
    module.forward = module.forward_features
    torch.onnx.export(module, (torch.randn(batch, 3, 224, 224),), str(file), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {"onnxruntime": lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])}


def _errors(ways: dict[str, Call], pixels: Any) -> dict[str, float]:
    """‖way − timm‖ / ‖timm‖ over all tokens."""
    want = ways["timm"](pixels).double()
    found = {name: call(pixels).double() for name, call in ways.items() if not name.startswith("sgemm")}
    return {name: float((tokens - want).norm() / want.norm()) for name, tokens in found.items()}
