"""Tries attacks and damage on the loaders that people use, in one run, and prints what each did as a table.

The payloads are harmless: they make an empty file in the temporary folder. Each tool runs in a process of its own; for
each attack it is noted whether the payload ran, whether it raised, how much memory it took, and whether the weights
that came out are those that were written.

    python scripts/attacks.py
    python scripts/attacks.py --lens VENV/bin/python     # checkpoint-lens, installed there beside torch
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SECONDS = 60
"""Time for one attempt."""
VICTIM = "blocks.1.attn.qkv.weight"
VICTIM_HF = "encoder.layer.1.attention.attention.query.weight"
TOOLS = (
    "torch.load",
    "torch.load, weights_only=False",
    "safetensors",
    "timm",
    "transformers",
    "checkpoint-lens",
    "anyvit",
)


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


State = Mapping[str, Any]
Attack = Callable[[State, Path, Path], None]
"""(sound weights, the file to write, the mark that a payload makes)"""


def torch_save(content: Any, path: Path, **options: Any) -> None:
    import torch

    torch.save(content, path, **options)


def safe_save(state: State, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(state), path, metadata={"format": "pt"})


def victim(state: State) -> str:
    return next(name for name in state if name.endswith((VICTIM, VICTIM_HF)))


def changed(state: State, change: Callable[[Any], Any]) -> dict[str, Any]:
    name = victim(state)
    return {**state, name: change(state[name].clone())}


def with_nan(tensor: Any) -> Any:
    tensor[3, 5] = float("nan")
    return tensor


def flip(path: Path, data: bytes) -> None:
    """Turns a high bit of the exponent of one weight over."""
    content = bytearray(path.read_bytes())
    at = bytes(content).index(data) + 4 * 77 + 3
    content[at] ^= 0x20
    path.write_bytes(content)


def raw(state: State) -> bytes:
    return state[victim(state)].contiguous().numpy().tobytes()


def flipped(state: State, path: Path, mark: Path) -> None:
    (safe_save if path.suffix == ".safetensors" else torch_save)(dict(state), path)
    flip(path, raw(state))


def flipped_recorded(state: State, path: Path, mark: Path) -> None:
    """The same in a file that anyvit wrote."""
    from anyvit.containers import save
    from anyvit.lazy import from_array

    save({n: from_array(t.contiguous().numpy(), n) for n, t in state.items()}, path, recorded=True)
    flip(path, raw(state))


def cut(state: State, path: Path, mark: Path) -> None:
    (safe_save if path.suffix == ".safetensors" else torch_save)(dict(state), path)
    path.write_bytes(path.read_bytes()[:-1000])


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def overlapping(state: State, path: Path, mark: Path) -> None:
    """Two names for one range of bytes."""
    safe_save(state, path)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    names = [name for name in entries if name.endswith(("norm1.weight", "layernorm_before.weight"))]
    entries[names[0]]["data_offsets"] = entries[names[1]]["data_offsets"]
    path.write_bytes(header(entries, data[8 + size :]))


def doubling(state: State, path: Path, mark: Path) -> None:
    """A list that holds itself twice, thirty levels deep: 2^30 values in 200 bytes."""
    deep: Any = []
    for _ in range(30):
        deep = [deep, deep]
    torch_save({**state, "args": deep}, path)


def repeated(state: State, path: Path, mark: Path) -> None:
    """One number that stands for a tensor of a gigabyte."""
    import torch

    torch_save({**state, "extra": torch.zeros(1).expand(1 << 28)}, path)


def bomb(state: State, path: Path, mark: Path) -> None:
    """Packed zeros: half a gigabyte in half a megabyte."""
    import numpy as np

    np.savez_compressed(path, **{"embedding/kernel": np.zeros((16, 16, 3, 175_000), "f4")})


def objects(state: State, path: Path, mark: Path) -> None:
    """A pickle inside an npz."""
    import numpy as np

    np.savez(path, **{"embedding/kernel": np.array([Call(os.system, f"touch {mark}")], dtype=object)})


def twice(state: State, path: Path, mark: Path) -> None:
    """Two members of one name: which of them is read depends on the reader."""
    import warnings

    torch_save(dict(state), path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    name, data = next((n, d) for n, d in members if d == raw(state))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for member in members:
            archive.writestr(*member)
        archive.writestr(name, bytes(len(data)))


def outside(state: State, path: Path, mark: Path) -> None:
    """A weight map that names a file elsewhere."""
    elsewhere = path.parent.parent / "elsewhere.safetensors"
    safe_save(state, elsewhere)
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, f"../{elsewhere.name}")}))


def remote_code(state: State, path: Path, mark: Path) -> None:
    """A config that names code in the folder."""
    safe_save(state, path)
    (path.parent / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Model: pass\n")
    config = path.parent / "config.json"
    content = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps({**content, "auto_map": {"AutoModel": "evil.Model"}}))


def legacy(state: State, path: Path, mark: Path) -> None:
    content = {**state, "args": Call(os.system, f"touch {mark}")}
    torch_save(content, path, _use_new_zipfile_serialization=False)


def nested(state: State, path: Path, mark: Path) -> None:
    import torch

    inner = pickle.dumps(Call(os.system, f"touch {mark}"))
    torch_save({**state, "args": Call(torch.storage._load_from_bytes, inner)}, path)


ATTACKS: dict[str, tuple[str, Attack]] = {
    "a pickle that calls os.system (zip)": (
        "pytorch_model.bin", lambda s, p, m: torch_save({**s, "args": Call(os.system, f"touch {m}")}, p)),
    "the same in torch's older layout": ("pytorch_model.bin", legacy),
    "a pickle inside a pickled storage": ("pytorch_model.bin", nested),
    "a pickle in an npz (array of objects)": ("a.npz", objects),
    "config.json that names code beside it": ("model.safetensors", remote_code),
    "weight map that leads out of its folder": ("model.safetensors.index.json", outside),
    "2^30 values in 200 bytes of pickle": ("pytorch_model.bin", doubling),
    "1 GB tensor out of 4 bytes (stride 0)": ("pytorch_model.bin", repeated),
    "npz bomb, 0.5 MB → 0.5 GB": ("a.npz", bomb),
    "header of 2^60 bytes": ("model.safetensors", lambda s, p, m: p.write_bytes(header({}, length=1 << 60)) and None),
    "overlapping tensors": ("model.safetensors", overlapping),
    "two zip members of one name": ("pytorch_model.bin", twice),
    "cut .bin": ("pytorch_model.bin", cut),
    "cut .safetensors": ("model.safetensors", cut),
    "a bit flipped in a .bin": ("pytorch_model.bin", flipped),
    "a bit flipped in a .safetensors": ("model.safetensors", flipped),
    "a bit flipped, file written by anyvit": ("model.safetensors", flipped_recorded),
    "a NaN in a matrix": (
        "model.safetensors", lambda s, p, m: safe_save(changed(s, with_nan), p)),
    "a zeroed matrix": ("model.safetensors", lambda s, p, m: safe_save(changed(s, lambda t: t.zero_()), p)),
    "int8 without scales": ("model.safetensors", lambda s, p, m: safe_save({n: (t * 20).char() for n, t in s.items()}, p)),
    "nothing (control)": ("model.safetensors", lambda s, p, m: safe_save(s, p)),
}  # fmt: skip
"""What is tried → the file that carries it, and how it is written."""


def models(folder: Path) -> tuple[State, State, State]:
    """A small ViT in timm's names and, with a config.json in `folder`, one in those that
    transformers saves and those that it has in memory."""
    import torch
    import torchvision_shim
    from tiny import timm_state

    torchvision_shim.install()
    from transformers import ViTConfig, ViTModel

    timm_weights = {name: torch.from_numpy(value) for name, value in timm_state(classes=0).items()}
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    config = ViTConfig(**sizes, image_size=16, patch_size=4)
    torch.manual_seed(0)
    model = ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    from safetensors.torch import load_file

    found = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    return timm_weights, found, model.state_dict()


def write_all(folder: Path) -> dict[str, dict[str, str]]:
    """Every attack, once in timm's names and once as a folder of transformers; attack → who reads it → path."""
    import shutil

    sound = folder / "sound"
    sound.mkdir()
    timm_weights, hf_weights, memory = models(sound)
    torch_save((dict(timm_weights), memory), folder / "sound.pt")
    paths: dict[str, dict[str, str]] = {}
    for number, (what, (name, make)) in enumerate(ATTACKS.items()):
        paths[what] = {}
        for reader, weights in (("file", timm_weights), ("folder", hf_weights)):
            home = folder / f"{number}-{reader}"
            home.mkdir()
            if reader == "folder":
                shutil.copy(sound / "config.json", home)
            (folder / "marks").mkdir(exist_ok=True)
            mark = folder / "marks" / f"{number}-{reader}"
            make(weights, home / name, mark)
            assert not mark.exists()
            paths[what][reader] = str(home / name)
    return paths


def attempt(tool: str, paths: Mapping[str, str]) -> Any:
    """What a tool makes of a file: its weights by name; None where it does not read such files."""
    path, folder = Path(paths["file"]), Path(paths["folder"]).parent
    if tool.startswith("torch.load"):
        import torch

        return (
            torch.load(path, **({} if tool == "torch.load" else {"weights_only": False}))
            if path.suffix == ".bin"
            else None
        )
    if tool == "checkpoint-lens":
        from checkpoint_lens.io import load_pt_file

        if path.suffix != ".bin":
            return None
        found = load_pt_file(str(path)).object
        if found is None:
            raise ValueError("nothing was loaded")
        return found
    if tool == "safetensors":
        from safetensors.torch import load_file

        return load_file(path) if path.suffix == ".safetensors" else None
    if tool == "timm":
        import timm

        if path.suffix == ".json":
            return None
        sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 0}
        return timm.create_model("vit_base_patch16_224", checkpoint_path=str(path), **sizes).state_dict()
    if tool == "transformers":
        if path.suffix == ".npz":
            return None
        from transformers import AutoModel

        return AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    import anyvit

    return anyvit.load(path, heads=4)


def right(tool: str, found: Any, sound: tuple[State, State]) -> bool:
    """Whether the weights that came out are those that were written."""
    import torch

    if tool == "anyvit":
        for finding in found.report.findings:
            if finding.kind in ("nan", "outlier", "constant", "damaged"):
                raise Reported(f"{finding.kind}: {finding.cause}")
        import anyvit

        state, plain = found.state_dict(), anyvit.load(sound[0], heads=4).state_dict()
        return state.keys() == plain.keys() and all(torch.equal(state[name], plain[name]) for name in plain)
    expected = sound[1] if tool == "transformers" else sound[0]
    if not isinstance(found, Mapping):
        return False
    return all(name in found and torch.equal(found[name].float(), value) for name, value in expected.items())


def outcome(what: str, good: bool) -> str:
    if "leads out" in what and good:
        return "**follows it**"
    return "loads, right" if good else "**loads wrong weights**"


class Reported(Exception):
    """It loads, and says what is wrong."""


def peak() -> int:
    """Most memory since the last reset, in bytes (Linux)."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def run_tool(tool: str, folder: Path, paths: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Attack → what the tool did."""
    import torch
    import torchvision_shim

    torchvision_shim.install()
    sound = torch.load(folder / "sound.pt")
    attempt(tool, paths["nothing (control)"])  # imports
    said = {}
    for number, (what, places) in enumerate(paths.items()):
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak(), time.monotonic()
        signal.alarm(SECONDS)
        try:
            found = attempt(tool, places)
            result = "–" if found is None else outcome(what, right(tool, found, sound))
        except Reported as error:
            result = f"loads, names {str(error)[:60]}"
        except TimeoutError:
            result = f"**hangs** (> {SECONDS} s)"
        except Exception as error:
            result = f"refuses: {type(error).__name__}"
        finally:
            signal.alarm(0)
        if any((folder / "marks").glob(f"{number}-*")):
            result = f"**PAYLOAD RAN**, {result}"
            for mark in (folder / "marks").glob(f"{number}-*"):
                mark.unlink()
        grown, took = (peak() - before) >> 20, time.monotonic() - start
        said[what] = result + (f", **{grown} MB**" if grown > 200 else "") + (f", {took:.0f} s" if took > 5 else "")
    return said


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["| attack | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for what in ATTACKS:
        lines.append(f"| {what} | " + " | ".join(said.get(what, "?") for said in found.values()) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lens", help="the interpreter of an environment with checkpoint-lens")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tool:
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
        said = run_tool(args.tool, args.folder, json.loads((args.folder / "paths.json").read_text()))
        (args.folder / "said.json").write_text(json.dumps(said))
        return 0
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "paths.json").write_text(json.dumps(write_all(folder)))
        for tool in TOOLS:
            python = args.lens if tool == "checkpoint-lens" else sys.executable
            if python:
                (folder / "said.json").unlink(missing_ok=True)
                command = [python, __file__, "--tool", tool, "--folder", name]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(tool, done.stderr[-2000:], file=sys.stderr)
                    continue
                found[tool] = json.loads((folder / "said.json").read_text())
    print(table(found))
    ran = [
        what for what, said in found.get("anyvit", {}).items() if "RAN" in said or "wrong" in said or "hangs" in said
    ]
    return int(bool(ran))


if __name__ == "__main__":
    sys.exit(main())
