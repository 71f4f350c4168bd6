"""Checksums of tensors: recorded in the metadata of what is written, compared with the bytes of what is read.

A tensor's checksum covers its element type, its shape and its bytes; so neither a flipped bit nor two swapped names
stay unseen. The metadata of the same record (the Spec, the provenance) has a checksum of its own.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

from anyvit.containers import stream
from anyvit.lazy import Hasher, Lazy, Note, Sum, every

KEY = "anyvit.checksums"
SOURCE = "anyvit.source_digest"
"""Metadata key of the checksum over the tensors that a file was made from."""
PREFIX = "anyvit."


class Crc32:
    """CRC-32 with the face of hashlib."""

    def __init__(self) -> None:
        self.value = 0
        self._step = crc32()

    def update(self, data: Any, /) -> None:
        """Takes more bytes in."""
        self.value = self._step(data, self.value)

    def hexdigest(self) -> str:
        """Eight digits."""
        return f"{self.value:08x}"


@cache
def crc32() -> Callable[[Any, int], int]:
    """The fastest CRC-32 there is: of the package isal where it is installed, else of the standard library."""
    try:
        from isal import isal_zlib  # type: ignore[import-not-found]
    except ImportError:
        return zlib.crc32
    return isal_zlib.crc32


def preferred() -> str:
    """The algorithm that is recorded: xxh3-128 where the package xxhash is installed, else crc32.

    Example:
        >>> preferred() in ALGORITHMS
        True
    """
    return "xxh3-128" if hasher("xxh3-128") is not None else "crc32"


ALGORITHMS: Mapping[str, int] = {"xxh3-128": 32, "crc32": 8}
"""Name → length in hexadecimal digits. Source: XXH3 128 bits, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md."""


def hasher(algorithm: str) -> Hasher | None:
    """A new hasher; None where its package is not installed or its name is unknown.

    Example:
        >>> made = hasher("crc32")
        >>> made.update(b"anyvit")
        >>> made.hexdigest()
        'f1742a4f'
    """
    if algorithm == "crc32":
        return Crc32()
    if algorithm != "xxh3-128":
        return None
    try:
        import xxhash  # type: ignore[import-not-found]
    except ImportError:
        return None
    return xxhash.xxh3_128()


def begun(algorithm: str, lazy: Lazy) -> Hasher:
    """A hasher that has taken in a tensor's element type and shape."""
    made = hasher(algorithm)
    assert made is not None, algorithm
    made.update(f"{lazy.dtype} {'x'.join(map(str, lazy.shape))} ".encode())
    return made


def digest(lazy: Lazy, algorithm: str, buffer: memoryview | None = None) -> str:
    """The checksum of a tensor; reads it piece by piece, into `buffer` where one is given."""
    made = begun(algorithm, lazy)
    for part in stream.chunks(lazy, buffer=buffer):
        made.update(part)
    return made.hexdigest()


def joined(digests: Mapping[str, str], algorithm: str) -> str:
    """One checksum over many, whatever their order: algorithm, colon, digits."""
    made = hasher(algorithm)
    assert made is not None, algorithm
    made.update("".join(f"{name}\n{text}\n" for name, text in sorted(digests.items())).encode())
    return f"{algorithm}:{made.hexdigest()}"


def blank(algorithm: str | None = None) -> str:
    """What stands for a joined checksum until it is known; of the same length.

    Example:
        >>> blank("crc32")
        'crc32:00000000'
    """
    algorithm = algorithm or preferred()
    return f"{algorithm}:{'0' * ALGORITHMS[algorithm]}"


class Recorder:
    """Takes the checksums of tensors as their bytes are written.

    Arguments:
        tensors: what is written, by name.
        metadata: what stands beside it.
    """

    def __init__(self, tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> None:
        self.algorithm = preferred()
        self._tensors = tensors
        self._metadata = dict(metadata)
        self._made: dict[str, Hasher] = {}

    def seal(self, final: Mapping[str, str]) -> None:
        """Takes metadata that was known last; each value is as long as the one that stood for it."""
        assert all(len(value) == len(self._metadata[key]) for key, value in final.items()), sorted(final)
        self._metadata.update(final)

    def metadata(self) -> dict[str, str]:
        """The metadata with the record; its length is the same before and after the tensors were written."""
        blank = "0" * ALGORITHMS[self.algorithm]
        digests = {name: self._made[name].hexdigest() if name in self._made else blank for name in self._tensors}
        own = _of_metadata(self._metadata, self.algorithm)
        record = {"algorithm": self.algorithm, "metadata": own, "tensors": digests}
        return {**self._metadata, KEY: json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)}

    def taker(self, name: str) -> Hasher:
        """What is to be given the bytes of a tensor as they are written."""
        made = self._made[name] = begun(self.algorithm, self._tensors[name])
        return made


def verifier(tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> Callable[..., Iterator[Note]] | None:
    """What compares tensors with the record in their file's metadata; None where there is no record.

    Returns:
        A function of which names are wanted (all, where it is given none) that yields a note "damaged" for each tensor
        whose bytes are others than were written, and "unchecked" for what the record does not say.
    """
    if KEY not in metadata:
        return None
    return lambda wanted=every: _compared(tensors, metadata, wanted)


def sums(tensors: Mapping[str, Lazy], metadata: Mapping[str, str]) -> Callable[[], dict[str, Sum]] | None:
    """What gives the checksums in the record of a file's metadata; None where there is no record."""
    if KEY not in metadata:
        return None

    def recorded() -> dict[str, Sum]:
        record = _record(metadata[KEY]) or {"tensors": {}, "algorithm": ""}
        algorithm, said = str(record["algorithm"]), record["tensors"]
        if hasher(algorithm) is None:
            return {}
        return {n: Sum(partial(begun, algorithm, t), str(said[n])) for n, t in tensors.items() if n in said}

    return recorded


def _compared(
    tensors: Mapping[str, Lazy], metadata: Mapping[str, str], wanted: Callable[[str], bool]
) -> Iterator[Note]:
    record = _record(metadata[KEY])
    if record is None:
        yield Note("damaged", ("__metadata__",), f"the record of checksums ({KEY}) cannot be read", REMEDY)
        return
    algorithm = str(record["algorithm"])
    if hasher(algorithm) is None:
        remedy = "pip install xxhash" if algorithm in ALGORITHMS else "a newer anyvit"
        yield Note("unchecked", (), f"the checksums of the file are {algorithm}, which is not installed here", remedy)
        return
    if record["metadata"] != _of_metadata(metadata, algorithm):
        yield Note("damaged", ("__metadata__",), "the metadata is another than was written", REMEDY)
    said: Mapping[str, object] = record["tensors"]
    buffer = stream.room(tensors.values())
    unknown = [name for name in tensors if name not in said and wanted(name)]
    if unknown:
        yield Note("unchecked", tuple(unknown), "the file's record of checksums does not name them")
    for name, expected in said.items():
        if name in tensors and wanted(name):
            found = digest(tensors[name], algorithm, buffer)
            if found != expected:
                cause = f"{algorithm} is {found}, {str(expected)[:64]} when it was written"
                yield Note("damaged", (name,), cause, REMEDY)
    lost = [name for name in said if name not in tensors]
    if lost:
        yield Note("unchecked", tuple(lost), "recorded when the file was written, but no longer in it")


REMEDY = "fetch the file again; where a tool has edited the weights on purpose: check='off'"


def _record(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("tensors"), dict):
        return None
    return record if {"algorithm", "metadata"} <= set(record) else None


def _of_metadata(metadata: Mapping[str, str], algorithm: str) -> str:
    """The checksum of what anyvit wrote into the metadata; keys of others may come and go."""
    made = hasher(algorithm)
    assert made is not None, algorithm
    own = {key: value for key, value in metadata.items() if key.startswith(PREFIX) and key != KEY}
    made.update(json.dumps(own, sort_keys=True).encode())
    return made.hexdigest()
