"""What a file is, told from its first bytes and never from its name alone; and what to say of the formats not read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from anyvit.containers.files import LocalFile
from anyvit.errors import FileError

HEAD = 4096
"""Bytes looked at."""
INDEX_LIMIT = 32 << 20
"""Longest JSON weight map in bytes; the largest published ones (90,000 tensors) have 9 million."""

_PICKLE = (2, 3, 4, 5)
# Field number 2 to 20 with a wire type that a ModelProto has there; the first field is ir_version, a small number.
# Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, message ModelProto.
_ONNX_NEXT = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA}

_REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GGUF", "a GGUF file (llama.cpp), which is not supported", "open the checkpoint it was made from"),
    (0, b"lmgg", "a GGML file (llama.cpp), which is not supported", "open the checkpoint it was made from"),
    (0, b"tjgg", "a GGML file (llama.cpp), which is not supported", "open the checkpoint it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model, which is not supported", "open the checkpoint it was exported from"),
    (0, b"\x1f\x8b", "compressed with gzip", "gunzip FILE"),
    (0, b"BZh", "compressed with bzip2", "bunzip2 FILE"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unxz FILE"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd FILE"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"Rar!", "a rar archive", "unpack it"),
    (0, b"\x89PNG", "a picture", "give the checkpoint's path"),
    (0, b"\xff\xd8\xff", "a picture", "give the checkpoint's path"),
    (0, b"%PDF", "a PDF document", "give the checkpoint's path"),
)  # fmt: skip
"""Offset, magic bytes, what it is, what to do."""


def kind(path: Path) -> str:
    """The format of a file: "safetensors", "zip", "pickle", "npy", "msgpack", "onnx", "hdf5" or "json".

    Raises:
        FileError: missing, empty, or a format that holds no readable tensors; the message says which and what to do.
    """
    file = LocalFile(path)
    if not file.size:
        raise FileError(
            f"{path} is empty (0 bytes)",
            usual="a download or a training run that was stopped",
            remedy="fetch the file again",
        )
    head = file.read(0, min(HEAD, file.size))
    _refuse_text(path, head)
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if len(head) > 8 and head[8:9] == b"{" and head[7] == 0:
        return "safetensors"
    for offset, magic, what, remedy in _REFUSED:
        if head[offset : offset + len(magic)] == magic:
            raise FileError(f"{path} is {what}", remedy=remedy)
    if head[257:262] == b"ustar":
        raise _tar(path, file)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[0] == 0x80 and len(head) > 1 and head[1] in _PICKLE:
        return "pickle"
    if _is_msgpack(head):
        return "msgpack"
    if path.suffix == ".onnx" or (len(head) > 2 and head[0] == 8 and 0 < head[1] < 0x20 and head[2] in _ONNX_NEXT):
        return "onnx"
    if head.lstrip()[:1] in (b"{", b"["):
        return "json"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise _unknown(path, head)


def weight_map(path: Path) -> dict[str, object]:
    """The content of a JSON file that is a weight map of shards.

    Raises:
        FileError: no JSON, or JSON without a weight map.
    """
    value = load_json(path, INDEX_LIMIT)
    if isinstance(value, dict) and isinstance(value.get("weight_map"), dict):
        return value
    raise FileError(
        f"{path} is a JSON file, no tensors",
        usual="the path of a configuration instead of the weights",
        remedy=f"open its folder, {path.parent}",
    )


def load_json(path: Path, limit: int) -> object:
    """A parsed JSON file of at most `limit` bytes."""
    file = LocalFile(path)
    if file.size > limit:
        raise FileError(
            f"{path} is implausibly large for JSON", found=f"{file.size} bytes", expected=f"at most {limit}"
        )
    try:
        return json.loads(file.read(0, file.size).decode())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: no JSON ({str(error)[:200]})", remedy="fetch the file again") from error


def _refuse_text(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        size = re.search(rb"\nsize (\d+)", head)
        raise FileError(
            f"{path} is a git-LFS pointer, not the file itself",
            found=f"{len(head)} bytes of text",
            expected=f"{int(size[1])} bytes" if size else None,
            usual="a repository cloned without git-lfs",
            remedy="git lfs pull",
        )
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<!--")):
        raise FileError(
            f"{path} is a web page, not the file itself",
            found=head[:80].decode("utf-8", "replace"),
            usual="a download that ended at a login, an error or a confirmation page",
            remedy="open the address in a browser, then fetch the file itself",
        )


def _is_msgpack(head: bytes) -> bool:
    """A map whose first key is a plausible text. Source: https://github.com/msgpack/msgpack/blob/master/spec.md."""
    at = 1 if 0x81 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0], 0)
    if not at or len(head) <= at:
        return False
    if 0xA0 <= head[at] <= 0xBF:
        start, length = at + 1, head[at] & 0x1F
    elif head[at] in (0xD9, 0xDA):
        width = head[at] - 0xD8
        start, length = at + 1 + width, int.from_bytes(head[at + 1 : at + 1 + width], "big")
    else:
        return False
    try:
        key = head[start : start + min(length, 200)].decode()
    except UnicodeDecodeError:
        return False
    return key.isprintable() and len(head) > start + length


def _tar(path: Path, file: LocalFile) -> FileError:
    names, at = set(), 0
    while len(names) < 20 and at + 512 <= file.size:
        block = file.read(at, 512)
        digits = block[124:136].strip(b" \0")
        if not block[0] or not digits or digits.strip(b"01234567"):
            break
        names.add(block[:100].rstrip(b"\0").decode("utf-8", "replace").strip("./"))
        at += 512 + -(-int(digits, 8) // 512) * 512
    if {"pickle", "storages", "tensors"} & names:
        return FileError(
            f"{path} is a torch file in the tar format of before 2017, which is not supported",
            remedy="torch.save(torch.load(path), out) with a torch that opens it, then open that file",
        )
    return FileError(f"{path} is a tar archive", names=sorted(names)[:8], remedy="tar xf FILE, then open what it holds")


def _unknown(path: Path, head: bytes) -> FileError:
    usual, remedy = "a file that is no checkpoint, or a damaged one", None
    if re.search(r"\.data-\d{5}-of-\d{5}$|\.index$", path.name):
        usual, remedy = "a TensorFlow checkpoint, which is not supported", "save its variables with numpy.savez"
    elif not any(head):
        usual, remedy = "a download that was allotted but never filled", "fetch the file again"
    shown = "".join(chr(c) if 32 <= c < 127 else "." for c in head[:16])
    return FileError(
        f"{path} is in no format that is known",
        found=f"first bytes {head[:16].hex(' ')} ({shown})",
        expected="safetensors, torch (.pth, .pt, .bin, .ckpt, TorchScript), npz, msgpack, ONNX, HDF5, or a folder",
        usual=usual,
        remedy=remedy,
    )
