"""Feeds damaged and invented bytes to the readers and to the rule language; only anyvit's own errors may come out.

    python scripts/fuzz_readers.py all --seconds 60
    python scripts/fuzz_readers.py safetensors --engine atheris --seconds 600 --work fuzz

With atheris (https://github.com/google/atheris, libFuzzer for Python) the search is guided by coverage; without it,
inputs are mutated blindly. Each input goes through everything that a file goes through before a model is built
(`tests/support/fuzzing.py`): opened, listed, recognised, reported, its tensors read, its checksums compared. What fails,
takes longer than `SLOW` seconds or makes the process grow by more than `GROWTH` is written to WORK/crashes; what reaches
new code to WORK/KIND. `--keep` makes the corpus of the tests out of that.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anyvit import axes, names
from anyvit.containers import open_checkpoint, save
from anyvit.errors import AnyvitError
from anyvit.lazy import from_array
from anyvit.reading import understand
from anyvit.rules import Dialect, R, read, write

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "corpus"
READ_LIMIT = 1 << 20
"""Tensors larger than that are listed but not read."""
NAMES = {
    "safetensors": "a.safetensors", "torch": "a.pth", "legacy": "a.pth", "pickle": "a.pkl", "npz": "a.npz",
    "msgpack": "a.msgpack", "onnx": "a.onnx", "index": "model.safetensors.index.json", "dcp": ".metadata",
    "config": "config.json",
}  # fmt: skip
"""Kind → the name under which its bytes lie."""
KINDS = (*NAMES, "rules")


def tensors() -> dict[str, np.ndarray]:
    """A very small ViT in timm's names."""
    draw = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 5, 8),
        "patch_embed.proj.weight": (8, 3, 2, 2),
        "norm.weight": (8,),
    }
    shapes |= {"blocks.0.norm1.weight": (8,), "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.proj.weight": (8, 8)}
    shapes |= {"blocks.0.norm2.weight": (8,), "blocks.0.mlp.fc1.weight": (16, 8), "blocks.0.mlp.fc2.weight": (8, 16)}
    return {name: draw.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def saved(suffix: str, **options: object) -> bytes:
    """These tensors as a file of anyvit's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        save({name: from_array(value, name) for name, value in tensors().items()}, path, **options)  # type: ignore[arg-type]
        return path.read_bytes()


def seeds(kind: str) -> list[bytes]:
    """Sound inputs to begin with, and the kept corpus."""
    kept = [path.read_bytes() for path in sorted((CORPUS / kind).glob("*"))] if (CORPUS / kind).is_dir() else []
    return [*_sound(kind), *kept]


def _sound(kind: str) -> list[bytes]:
    arrays = tensors()
    if kind == "safetensors":
        return [saved(".safetensors"), saved(".safetensors", recorded=True, metadata={"anyvit.spec": '{"depth":1}'})]
    if kind == "npz":
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)
        return [saved(".npz"), packed.getvalue()]
    if kind == "torch":
        return [saved(".pth", metadata={"anyvit.spec": "{}"}), _repacked(saved(".pth"))]
    if kind == "pickle":
        nested = {"model": arrays, "args": {"arch": "vit", "epoch": 3, "set": {1, 2}, "f": 0.5, "b": b"x", "n": None}}
        return [pickle.dumps(nested, protocol) for protocol in (0, 2, 4, 5)]
    if kind == "msgpack":
        return [_msgpack({"params": {"a": arrays["norm.weight"], "b": {"c": arrays["cls_token"]}}})]
    if kind == "index":
        return [json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "a.safetensors"}}).encode()]
    if kind == "config":
        config = {"model_type": "vit", "hidden_size": 8, "num_attention_heads": 2, "patch_size": 2, "image_size": 4}
        more = {"architecture": "vit_base_patch16_224", "num_classes": 3, "model_args": {"depth": 1}}
        return [json.dumps(config).encode(), json.dumps(more).encode()]
    if kind == "rules":
        return [
            b"patch_embed.proj.{p}\nembed.patch.{p}\n", b"pos_embed\nembed.[pos_prefix|pos]\n1 (k+n) d -> k d, n d",
            b"blocks.{i}.attn.qkv.{p}\nblocks.{i}.attn.[q|k|v].{p}\n(parts o) ... -> parts o ...",
            b"blocks.{_}.{i}.<norm1|norm2>.<a|b>\nblocks.{i}.<x|y>.<scale|bias>\n", b"e[i]\nblocks.[i].w\nl ... -> l ...",
        ]  # fmt: skip
    return []


def _repacked(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def _msgpack(value: object) -> bytes:
    """As flax writes it: an array is an extension of type 1 that holds (shape, type, bytes)."""
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(_msgpack(k) + _msgpack(v) for k, v in value.items())
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    assert isinstance(value, np.ndarray)
    axes_ = bytes([0x90 | value.ndim, *value.shape])
    raw = value.tobytes()
    inner = b"\x93" + axes_ + _msgpack(value.dtype.name) + b"\xc6" + struct.pack(">I", len(raw)) + raw
    return b"\xc9" + struct.pack(">I", len(inner)) + b"\x01" + inner


def one_input(kind: str, data: bytes, folder: Path) -> None:
    """What happens to a file before a model is built from it.

    Arguments:
        kind: one of `KINDS`.
        data: the file's bytes, or lines "theirs, ours, axes".
        folder: where it may be written.
    """
    if kind == "rules":
        _rules(data)
        return
    path = folder / NAMES[kind]
    path.write_bytes(data)
    if kind == "config":
        weights = folder / "model.safetensors"
        if not weights.exists():
            weights.write_bytes(saved(".safetensors"))
    if kind == "dcp":
        (folder / "__0_0.distcp").touch()
    try:
        checkpoint = open_checkpoint(folder if kind in ("config", "dcp") else path)
        for tensor in list(checkpoint.tensors.values())[:64]:
            if tensor.nbytes <= READ_LIMIT:
                try:
                    assert tensor.read().shape == tensor.shape
                except AnyvitError:
                    continue
        report = understand(checkpoint).report()
        assert len(str(report)) < 100_000 and report.to_json()
        for note in checkpoint.verify() if checkpoint.verify else ():
            assert note.kind
        if (error := report.error()) is not None:
            assert len(str(error)) <= 2_000
    except AnyvitError as error:
        assert len(str(error)) <= 2_000, len(str(error))


def _rules(data: bytes) -> None:
    theirs, ours, pattern = [*data.decode("latin-1").split("\n"), "", "", ""][:3]
    try:
        names.parse(theirs)
        if pattern:
            axes.parse(pattern)
        dialect = Dialect("fuzz", (R(theirs, ours, pattern or None),))
        some = {name: from_array(value, name) for name, value in tensors().items()}
        found = read(some, dialect)
        back = write(found.tensors, dialect)
        for tensor in (*found.tensors.values(), *back.tensors.values()):
            if tensor.nbytes <= READ_LIMIT:
                tensor.read()
    except AnyvitError:
        return

SLOW = 25
"""Seconds after which an input counts as a hang; a busy machine takes its share."""
GROWTH = 64 << 20
"""Bytes beyond twice the input's own by which the process may grow at an input."""
KEPT = 24_000
"""Bytes of the corpus of one kind that go into the tests."""

NUMBERS = [struct.pack(form, value) for form in ("<I", "<Q", ">I", "<H") for value in (0, 1, 0xFF, 0x7FFF, 0xFFFF)]
NUMBERS += [b"\xff" * 8, struct.pack("<Q", 1 << 62), struct.pack("<i", -1), b"9" * 20, b"1e999", b"-1", b"NaN"]
TOKENS = [
    b"{", b"}", b"[", b"]", b"(", b")", b".", b"\n", b"\0", b"->", b"+", b"{i}", b"{_}", b"<a|b>", b"[q|k]", b"...", b"../",
    b"cos\nsystem\n", b"R", b"b", b"\x81", b"\x93", b"PK\1\2", b"PK\3\4", b"PK\5\6", b'"shape":', b"\x80\x05", b"t", b"q\0",
    b"dtype", b"data_offsets", b"__metadata__", b"weight_map", b"ctorch\nFloatStorage\n", b"storage", b"ustar", b"\x89Q",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"location", b"fortran_order", b"descr", b"vision_config", b"model_args",
]  # fmt: skip


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """One input made of another one."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << draw.randrange(8)
            case 1 if out:
                out[at % len(out)] = draw.randrange(256)
            case 2:
                del out[at : at + draw.choice((1, 2, 4, 16, 256))]
            case 3:
                out[at:at] = draw.choice(TOKENS)
            case 4:
                number = draw.choice(NUMBERS)
                out[at : at + len(number)] = number
            case 5:
                length = draw.choice((1, 8, 64, 512))
                out[at:at] = out[at : at + length] * draw.choice((1, 2, 20))
            case 6:
                cut = draw.randrange(len(other) + 1)
                out[at:] = other[cut:]
            case _:
                out[at:] = b""
    return bytes(out)


class Runner:
    """Runs inputs of one kind, keeps what fails and counts.

    Arguments:
        kind: one of `fuzzing.KINDS`.
        crashes: where failing inputs are written, with their tracebacks, one for each place that failed.
    """

    def __init__(self, kind: str, crashes: Path) -> None:
        from support import fuzzing

        self.fuzzing, self.kind, self.crashes = fuzzing, kind, crashes
        self.folder = Path(tempfile.mkdtemp())
        self.ends: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.slowest = 0.0
        self.began = time.monotonic()

    def __call__(self, data: bytes) -> None:
        start, before = time.monotonic(), grown()
        try:
            self.ends[self.fuzzing.one_input(self.kind, data[: self.fuzzing.LENGTH_LIMIT], self.folder)] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = "-".join(f"{Path(f.filename).stem}.{f.lineno}" for f in frames[-2:])
            self.note(f"{type(error).__name__}-{place}", data, traceback.format_exc())
        took = time.monotonic() - start
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            self.note("slow", data, f"{took} s")
        if sum(self.ends.values()) % 100 == 0:  # libFuzzer ends the process by itself
            (self.crashes.parent / f"{self.kind}.json").write_text(json.dumps(self.said()))
        if sum(self.ends.values()) > 100 and grown() - before > GROWTH + 2 * len(data):
            self.note("growth", data, f"{grown() - before} bytes")

    def note(self, what: str, data: bytes, text: str) -> None:
        self.failed[what] += 1
        if self.failed[what] == 1:
            self.crashes.mkdir(parents=True, exist_ok=True)
            (self.crashes / f"{self.kind}-{what}").write_bytes(data)
            (self.crashes / f"{self.kind}-{what}.txt").write_text(text)

    def said(self) -> dict[str, Any]:
        """The figures, for a table."""
        return {
            "kind": self.kind,
            "inputs": sum(self.ends.values()) + sum(self.failed.values()),
            "seconds": round(time.monotonic() - self.began),
            "ends": dict(self.ends.most_common()),
            "failed": dict(self.failed),
            "slowest input, s": round(self.slowest, 2),
            "peak, MB": grown() >> 20,
        }


def grown() -> int:
    """Most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def seeded(kind: str, work: Path) -> Path:
    """The folder of a kind's inputs, filled with sound ones by another process, which may need torch for it."""
    folder = work / kind
    folder.mkdir(parents=True, exist_ok=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from support import fuzzing\n"
        "for i, data in enumerate((*fuzzing.seeds(sys.argv[2]), *fuzzing.kept(sys.argv[2]))):\n"
        "    Path(sys.argv[3], f'seed{i}').write_bytes(data)"
    )
    subprocess.run([sys.executable, "-c", code, sys.path[0], kind, str(folder)], check=True)
    return folder


def blind(kind: str, seconds: float, work: Path, draw: random.Random) -> Runner:
    """Mutates until the time is up."""
    pool = [path.read_bytes() for path in sorted(seeded(kind, work).iterdir())]
    run = Runner(kind, work / "crashes")
    while time.monotonic() < run.began + seconds:
        run(mutated(draw.choice(pool), draw.choice(pool), draw))
    return run


def guided(kind: str, seconds: float, work: Path) -> None:
    """The same under atheris, which ends the process itself."""
    import importlib
    import pkgutil

    folder = Path(tempfile.mkdtemp())
    corpus = Path(tempfile.mkdtemp())
    for number, data in enumerate(seeds(kind)):
        (corpus / str(number)).write_bytes(data)
    atheris.instrument_all()
    runner: Callable[[bytes], None] = lambda data: one_input(kind, data, folder)  # noqa: E731
    crashes.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={int(seconds)}",
        "-max_len=65536",
        "-rss_limit_mb=3000",
        f"-artifact_prefix={crashes}/{kind}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], runner)
    atheris.Fuzz()


READING = (
    "axes", "canon", "causes", "configs", "conform", "containers", "diagnose", "dialects", "dtypes", "errors", "expected",
    "fit", "infer", "integrity", "lazy", "names", "reading", "recognise", "report", "rules", "scan", "show", "spec",
    "weight_sets",
)  # fmt: skip
"""Parts of anyvit that see a file before a model is built; their coverage guides the search."""


def lines_of(kind: str, data: bytes, folder: Path) -> set[tuple[str, int]]:
    """The lines of anyvit that an input reaches, and how it ends."""
    from support import fuzzing

    met: set[tuple[str, int]] = set()
    mark = str(Path("anyvit") / "")

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if mark not in frame.f_code.co_filename:
            return None
        met.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        end = fuzzing.one_input(kind, data, folder)
    finally:
        sys.settrace(None)
    return {*met, (end, 0)}


def keep(kind: str, work: Path) -> tuple[int, int, int]:
    """Makes the tests' corpus of a kind: small inputs first, each for lines that none before it reaches.

    Returns:
        How many inputs, their bytes, and how many lines they reach.
    """
    from support import fuzzing

    found = sorted({path.read_bytes() for path in seeded(kind, work).iterdir()}, key=len)
    folder = Path(tempfile.mkdtemp())
    fuzzing.one_input(kind, b"", folder)
    chosen: list[bytes] = []
    reached: set[tuple[str, int]] = set()
    for data in (data for data in found if len(data) <= fuzzing.LENGTH_LIMIT):
        met = lines_of(kind, data, folder)
        if met - reached and sum(map(len, chosen)) + len(data) <= KEPT:
            chosen.append(data)
            reached |= met
    fuzzing.keep(kind, chosen)
    return len(chosen), sum(map(len, chosen)), len(reached)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", help="one of support.fuzzing.KINDS, or all")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--engine", choices=["blind", "atheris"], default="blind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("fuzz"))
    parser.add_argument("--keep", action="store_true", help="make the tests' corpus of what was found, and end")
    args = parser.parse_args()
    (args.work / "crashes").mkdir(parents=True, exist_ok=True)
    if args.engine == "atheris":
        guided(args.kind, args.seconds, args.work)
        return 0
    from support import fuzzing

    worst = 0
    for kind in fuzzing.KINDS if args.kind == "all" else (args.kind,):
        if args.keep:
            print(kind, *keep(kind, args.work), flush=True)
            continue
        run = blind(kind, args.seconds, args.work, random.Random(args.seed))
        print(json.dumps(run.said()), flush=True)
        worst += sum(run.failed.values())
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
