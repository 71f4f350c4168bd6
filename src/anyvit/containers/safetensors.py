"""safetensors: a length, a JSON header, raw bytes. Read and written here without the safetensors package.

Source: https://github.com/huggingface/safetensors/blob/main/README.md#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from anyvit.containers import checksums
from anyvit.containers.files import LocalFile, atomic, reserve, write_all, write_at
from anyvit.containers.placing import Place, put
from anyvit.containers.stream import Seal
from anyvit.dtypes import ITEMSIZE
from anyvit.errors import BadArgument, FileError, UnsafeError, Unsayable
from anyvit.lazy import Checkpoint, Lazy, Note, Piece, from_pieces

if TYPE_CHECKING:
    from anyvit.witness import Witness

HEADER_LIMIT = 100_000_000
"""Longest header in bytes. Source: MAX_HEADER_SIZE, huggingface/safetensors, safetensors/src/tensor.rs."""
LONG_HEADER = 16 << 20
"""Bytes of header from which the tensors must have as many; 100,000 tensors have a header of that length."""
RANK_LIMIT = 64
"""Most axes of an array. Source: NPY_MAXDIMS, numpy/_core/include/numpy/ndarraytypes.h."""

DTYPES: dict[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
"""Their element type → ours. Source: enum Dtype, huggingface/safetensors, safetensors/src/tensor.rs."""
SUB_BYTE: dict[str, int] = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits per element of the types of which several share a byte."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-[0-9]*-of-[0-9]*.safetensors")
"""Patterns of the files that a folder of weights consists of."""
_NAMES = {ours: theirs for theirs, ours in DTYPES.items()}
_LIMIT_TEXT = "the header and the tensors back to back, nothing else"


def read(path: str | Path) -> Checkpoint:
    """Opens a safetensors file; only its header is read.

    Arguments:
        path: the file.

    Returns:
        Its tensors in the order of their bytes. A tied tensor whose second name was dropped at saving and noted in
        `__metadata__` is listed under both names, the second in `aliases`.

    Raises:
        FileError: missing, cut, padded, or another format.
        UnsafeError: a header whose claims contradict each other.

    Example:
        >>> import tempfile, numpy as np
        >>> from anyvit.lazy import from_array
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write({"a": from_array(np.zeros((2, 3), "float32"))}, f"{folder}/a.safetensors")
        ...     read(f"{folder}/a.safetensors").tensors["a"].shape
        (2, 3)
    """
    file = LocalFile(path)
    header, start = _header(file)
    metadata = _metadata(file, header)
    entries = sorted(
        (_entry(file, name, value) for name, value in header.items()), key=lambda entry: (entry[3], entry[4])
    )
    _check_cover(file, entries, start)
    tensors: dict[str, Lazy] = {}
    packed: dict[str, str] = {}
    for name, dtype, shape, begin, end in entries:
        if dtype in SUB_BYTE:
            packed[name] = dtype
            tensors[name] = _packed(file, name, dtype, shape)
        else:
            pieces = [Piece(file, start + begin, end - begin)]
            tensors[name] = from_pieces(shape, DTYPES[dtype], pieces, (name,))
    aliases = {name: kept for name, kept in metadata.items() if name not in tensors and _tied(name, kept, tensors)}
    tensors.update({name: tensors[kept] for name, kept in aliases.items()})
    readable = {name: tensor for name, tensor in tensors.items() if name not in packed and name not in aliases}
    return Checkpoint(
        tensors,
        "safetensors",
        str(path),
        aliases=aliases,
        notes=tuple(_notes(packed)),
        metadata=metadata,
        verify=checksums.verifier(readable, metadata),
        sums=checksums.sums(readable, metadata),
    )


def write(
    tensors: Mapping[str, Lazy],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
    recorded: bool = False,
    seal: Seal | None = None,
    witness: Witness | None = None,
) -> None:
    """Writes a safetensors file, one tensor at a time; the same tensors give the same bytes.

    Arguments:
        tensors: name → tensor; kept in this order, wider element types first so that every tensor is aligned.
        path: the file, replaced only when all went well.
        metadata: text → text, put beside `{"format": "pt"}`, which transformers asks for.
        durable: flush to the disk before the file takes its name.
        recorded: put each tensor's checksum into the metadata.
        seal: called when all tensors are written, before the file takes its name; gives metadata that was not known
            before, each value as long as the one in `metadata` that it replaces. What it raises leaves the old file.
        witness: is shown the bytes that are read (`integrity.Check.witness`).

    Raises:
        FileError: disk full, no permission, or a source that cannot be read.
        Unsayable: a tensor name or an element type that the format does not have.
    """
    with atomic(path, durable=durable) as file:
        sealed = _fill(file, tensors, metadata, recorded, witness)
        sealed(seal() if seal else {})


def write_sharded(
    tensors: Mapping[str, Lazy],
    folder: str | Path,
    *,
    shard_size: int,
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
    recorded: bool = False,
    seal: Seal | None = None,
    witness: Witness | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Writes `model-00001-of-0000n.safetensors` and `model.safetensors.index.json` as Hugging Face does.

    Weights of an earlier call in the same folder (another number of shards, a single file) are removed once the new
    ones are complete, because readers would prefer or mix them.

    Arguments:
        tensors: name → tensor; the order is kept.
        folder: an existing folder.
        shard_size: bytes of tensors in one shard at most; a larger tensor has a shard of its own.
        metadata: as for `write`, repeated in each shard.
        durable, recorded, seal, witness: as for `write`.
        beside: file name → content of further files (config.json), which take their names together with the weights.

    Returns:
        The files written; a single `model.safetensors` without index where all fits in one shard.

    Raises:
        FileError, Unsayable: as `write`.
        BadArgument: a shard size that is not positive.
    """
    if shard_size < 1:
        raise BadArgument("shard_size is a number of bytes", found=shard_size, expected="at least 1")
    folder, groups = Path(folder), _groups(tensors, shard_size)
    if len(groups) == 1:
        paths = [folder / "model.safetensors"]
    else:
        paths = [folder / f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    index = folder / "model.safetensors.index.json"
    where = {name: path.name for group, path in zip(groups, paths, strict=True) for name in group}
    # All take their names at the end, the index last: an interrupted call leaves the folder as it was.
    with ExitStack() as stack:
        if len(groups) > 1:
            text = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
            file = stack.enter_context(atomic(index, durable=durable))
            write_all(file, (json.dumps(text, indent=2, sort_keys=True) + "\n").encode())
        filled = []
        for group, path in zip(reversed(groups), reversed(paths), strict=True):
            file = stack.enter_context(atomic(path, durable=durable))
            filled.append(_fill(file, {name: tensors[name] for name in group}, metadata, recorded, witness))
        final = seal() if seal else {}
        for sealed in filled:
            sealed(final)
        for name, content in (beside or {}).items():
            write_all(stack.enter_context(atomic(folder / name, durable=durable)), content)
    paths += [index] if len(groups) > 1 else []
    _remove_stale(folder, {path.name for path in paths})
    return paths


def _fill(
    file: IO[bytes],
    tensors: Mapping[str, Lazy],
    metadata: Mapping[str, str] | None,
    recorded: bool,
    witness: Witness | None,
) -> Callable[[Mapping[str, str]], None]:
    """Writes the tensors; gives what writes the metadata that is known only then."""
    first = {"format": "pt", **(metadata or {})}
    recorder = checksums.Recorder(tensors, first)
    order, head = _packed_header(tensors, recorder.metadata() if recorded else first)
    reserve(file, len(head) + sum(tensor.nbytes for tensor in tensors.values()))
    write_at(file, head, 0)
    places, at = [], len(head)
    for name in order:
        taker = recorder.taker(name) if recorded else None
        places.append(Place(name, tensors[name], at, taker))
        at += tensors[name].nbytes
    put(file, places, witness)

    def sealed(final: Mapping[str, str]) -> None:
        if recorded or final:
            recorder.seal(final)
            _, text = _packed_header(tensors, recorder.metadata() if recorded else {**first, **final})
            assert len(text) == len(head), (len(text), len(head))
            write_at(file, text, 0)

    return sealed


def _header(file: LocalFile) -> tuple[dict[str, Any], int]:
    """The parsed header and where the data begins."""
    if file.size < 10:
        raise _cut(file, "at least 10 bytes")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > HEADER_LIMIT:
        raise UnsafeError(
            f"{file.name} is no safetensors file, or claims an implausible header",
            found=f"a header of {length} bytes",
            expected=f"at most {HEADER_LIMIT} bytes",
        )
    if 8 + length > file.size:
        raise _cut(file, f"at least {8 + length} bytes")
    if length > LONG_HEADER and 8 + 2 * length > file.size:
        raise UnsafeError(
            f"the header of {file.name} is longer than all of its tensors",
            found=f"a header of {length} bytes",
            expected=f"at most {LONG_HEADER} bytes, or as many as the tensors have",
            usual="a forged file: parsed, a header takes up to 24 times its size",
        )
    try:
        header = json.loads(file.read(8, length).decode(), object_pairs_hook=_no_duplicates)
        if isinstance(header, dict):
            "".join(header).encode()  # an escaped lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"the header of {file.name} is damaged ({str(error)[:200]})",
            usual="a flipped bit, or a file of another format",
            remedy="fetch the file again",
        ) from error
    if not isinstance(header, dict):
        raise UnsafeError(f"the header of {file.name} is no JSON object", found=type(header).__name__)
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:200]!r} stands there twice")
        found[name] = value
    return found


def _metadata(file: LocalFile, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeError(f"__metadata__ of {file.name} is no mapping of text to text")
    return metadata


def _tied(name: str, kept: str, tensors: Mapping[str, Lazy]) -> bool:
    """Whether an entry of the metadata is a tie: safetensors.torch.save_model notes {dropped name: kept name}."""
    return kept in tensors and name.rpartition(".")[2] == kept.rpartition(".")[2]


def _entry(file: LocalFile, name: str, value: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, element type, shape, first and last byte of a tensor, checked against each other."""
    dtype, shape, (begin, end) = _fields(value)
    numbers = (*shape, begin, end)
    if not isinstance(dtype, str) or set(map(type, numbers)) != {int} or min(numbers) < 0 or len(shape) > RANK_LIMIT:
        raise UnsafeError(
            f"the header of {file.name} describes a tensor wrongly",
            names=[name],
            found=repr(value)[:200],
            expected="dtype, shape (whole numbers), data_offsets (two whole numbers)",
        )
    if dtype not in DTYPES and dtype not in SUB_BYTE:
        raise FileError(
            f"{file.name} uses an element type that is not known",
            names=[name],
            found=repr(dtype)[:80],
            expected=", ".join((*DTYPES, *SUB_BYTE)),
        )
    bits = SUB_BYTE.get(dtype) or 8 * ITEMSIZE[DTYPES[dtype]]
    if (end - begin) * 8 != prod(shape) * bits:
        raise UnsafeError(
            f"the header of {file.name} gives a tensor another size than its shape has",
            names=[name],
            found=f"{end - begin} bytes",
            expected=f"{prod(shape)} x {bits} bits",
        )
    return name, dtype, tuple(shape), begin, end


def _fields(value: Any) -> tuple[Any, list[Any], tuple[Any, Any]]:
    """Element type, shape and offsets of a tensor's description; an impossible shape where it has not these fields."""
    if isinstance(value, dict) and len(value) == 3:
        shape, offsets = value.get("shape"), value.get("data_offsets")
        if isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2:
            return value.get("dtype"), shape, (offsets[0], offsets[1])
    return None, [-1], (0, 0)


def _check_cover(file: LocalFile, entries: Sequence[tuple[str, str, tuple[int, ...], int, int]], start: int) -> None:
    """The tensors lie back to back from the end of the header to the end of the file."""
    at, before = 0, ""
    for name, _, _, begin, end in entries:
        if begin != at:
            raise UnsafeError(
                f"tensors of {file.name} " + ("overlap" if begin < at else "have a gap between them"),
                names=[other for other in (before, name) if other],
                found=f"byte {begin}",
                expected=f"byte {at}",
                usual="a damaged or a forged header",
            )
        at, before = end, name
    if start + at > file.size:
        raise _cut(file, f"{start + at} bytes")
    if start + at < file.size:
        raise FileError(
            f"{file.name} has bytes after its last tensor",
            found=f"{file.size} bytes",
            expected=f"{start + at} bytes: {_LIMIT_TEXT}",
            usual="a download or copy that was padded or joined",
            remedy="fetch the file again",
        )


def _cut(file: LocalFile, expected: str) -> FileError:
    return FileError(
        f"{file.name} is cut",
        found=f"{file.size} bytes",
        expected=f"{expected}: {_LIMIT_TEXT}",
        usual="a download or copy that was cut",
        remedy="fetch the file again",
    )


def _packed(file: LocalFile, name: str, dtype: str, shape: tuple[int, ...]) -> Lazy:
    def load() -> Any:
        raise FileError(
            f"a tensor of {file.name} is quantised to less than a byte an element",
            names=[name],
            found=dtype,
            expected="16- or 32-bit weights",
            remedy="open the file from before the quantisation",
        )

    return Lazy(shape, "uint8", load, (name,))


def _notes(packed: Mapping[str, str]) -> Iterator[Note]:
    if packed:
        kinds = ", ".join(sorted(set(packed.values())))
        yield Note("quantised", tuple(packed), f"stored as {kinds}, several elements a byte; not readable here")


def _packed_header(tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """The names in the order of their bytes, and all that stands before them."""
    for name, lazy in tensors.items():
        if name == "__metadata__" or lazy.dtype not in _NAMES:
            raise Unsayable(
                "safetensors has no such " + ("tensor name" if name == "__metadata__" else "element type"),
                names=[name],
                found=lazy.dtype,
                expected=", ".join(_NAMES),
                remedy="write .pth or .npz",
            )
    order = sorted(tensors, key=lambda name: -ITEMSIZE[tensors[name].dtype])
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        lazy = tensors[name]
        end = at + lazy.nbytes
        header[name] = {"dtype": _NAMES[lazy.dtype], "shape": list(lazy.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text


def _groups(tensors: Mapping[str, Lazy], shard_size: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for name, lazy in tensors.items():
        if groups[-1] and filled + lazy.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += lazy.nbytes
    return groups


def _remove_stale(folder: Path, kept: set[str]) -> None:
    for path in (path for name in WEIGHTS for path in folder.glob(name)):
        if path.name not in kept:
            try:
                path.unlink()
            except OSError as error:
                raise FileError(
                    f"{path} is left from an earlier model and cannot be removed ({error.strerror})",
                    usual="no permission",
                    remedy="remove it by hand; readers would prefer or mix it",
                ) from error
