"""Zip archives as byte ranges: where each member lies, its checksum, and a writer that says where each goes.

Zip is what npz and torch files are made of. The standard library's reader does not say where a stored member's bytes
begin and does not refuse overlapping members, so the directory is parsed here.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from anyvit.containers.checksums import Crc32, crc32
from anyvit.containers.files import LocalFile, write_at
from anyvit.containers.limits import check_total
from anyvit.containers.placing import Place
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Lazy, Note, Sum

STORED, DEFLATED = 0, 8
STEP = 4 << 20
"""Bytes read at a time where a member is checked or decompressed."""
AHEAD = 384
"""Bytes behind a member's own header that will be wanted too: its padding and the header of an array."""
DIRECTORY_LIMIT = 64 << 20
"""Longest central directory in bytes that is parsed; a checkpoint of half a million tensors needs that much."""

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FIXED_DATE = 0x21  # 1980-01-01, the earliest day that a zip can say: no clock in the bytes
_UTF8, _ENCRYPTED = 0x800, 0x1
_BIG, _MANY = 0xFFFFFFFF, 0xFFFF


class Member(NamedTuple):
    """One file of an archive.

    Arguments:
        name: its path inside the archive.
        offset: where its (maybe compressed) bytes begin in the archive, in bytes.
        size: its uncompressed size in bytes.
        compressed_size: its size in the archive in bytes; equals `size` where it is stored.
        crc: CRC-32 of the uncompressed bytes.
        compression: 0 stored, 8 deflated, others as in the zip format.
    """

    name: str
    offset: int
    size: int
    compressed_size: int
    crc: int
    compression: int


def members(source: LocalFile | str | Path) -> dict[str, Member]:
    """The members of an archive by name, in the order of its directory, folders left out.

    Raises:
        FileError: no zip, a cut one, or an encrypted member.
        UnsafeError: members that overlap, lie outside the file, share a name, differ from their own headers, or unpack
            to implausibly much.
    """
    file = source if isinstance(source, LocalFile) else LocalFile(source)
    start, size, count = _directory(file)
    data = file.read(start, size)
    entries = list(_entries(file, data, count))
    file.prefetch((header, _LOCAL.size + len(member.name.encode()) + AHEAD) for header, member in entries)
    claimed = sum(member.size for _, member in entries if member.compression)
    check_total(file.name, claimed, file.size, "members that unpack to many times their size")
    found: dict[str, Member] = {}
    before, previous = 0, ""
    for header, member in sorted(entries, key=lambda entry: entry[0]):
        begin = _local(file, header, member, start)
        end = begin + member.compressed_size
        if header < before or end > start:
            raise UnsafeError(
                f"members of {file.name} overlap or lie outside it",
                names=[name for name in (previous, member.name) if name],
                found=f"bytes {header} to {end}",
                expected=f"within {before} to {start}",
                usual="a damaged or a forged archive",
            )
        before, previous = end, member.name
        if member.name in found:
            raise UnsafeError(f"{file.name} holds two members of one name", names=[member.name])
        found[member.name] = member._replace(offset=begin)
    return {member.name: found[member.name] for _, member in entries if not member.name.endswith("/")}


def first_name(path: str | Path) -> tuple[str, ...]:
    """The name in the archive's first header, which tells what kind of archive it is without parsing its directory."""
    file = LocalFile(path)
    head = file.read(0, min(file.size, 1024))
    if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
        return ()
    return (head[_LOCAL.size : _LOCAL.size + _LOCAL.unpack_from(head)[9]].decode("utf-8", "replace"),)


def chunks(file: LocalFile, member: Member, step: int = STEP) -> Iterator[bytes]:
    """The uncompressed bytes of a member, piecewise, never more than its header claims; the CRC is checked at the end.

    Raises:
        FileError: a wrong CRC, more or fewer bytes than claimed, or a compression that checkpoints do not use.
    """
    crc, done, step_crc = 0, 0, crc32()
    for part in _unpacked(file, member, step):
        done += len(part)
        if done > member.size:
            raise UnsafeError(
                f"a member of {file.name} unpacks to more than its header says",
                names=[member.name],
                expected=f"{member.size} bytes",
                usual="a forged archive (a zip bomb)",
            )
        crc = step_crc(part, crc)
        yield part
    if done != member.size or crc != member.crc:
        raise FileError(
            f"a member of {file.name} is damaged",
            names=[member.name],
            found=f"{done} bytes, CRC {crc:08x}",
            expected=f"{member.size} bytes, CRC {member.crc:08x}",
            usual="a flipped bit or a copy that went wrong",
            remedy="fetch the file again",
        )


def read(file: LocalFile, member: Member, *, limit: int | None = None) -> bytes:
    """All bytes of a member, uncompressed, CRC checked.

    Arguments:
        limit: refuse members of more bytes than that.
    """
    if limit is not None and member.size > limit:
        raise UnsafeError(
            f"a member of {file.name} is implausibly large",
            names=[member.name],
            found=f"{member.size} bytes",
            expected=f"at most {limit} bytes",
        )
    return b"".join(chunks(file, member))


def damaged(file: LocalFile, archive: Iterable[Member]) -> Iterator[Note]:
    """Reads every member and yields a note for each whose bytes do not fit their CRC."""
    for member in archive:
        try:
            for _ in chunks(file, member):
                pass
        except FileError as error:
            found = f" ({error.found}; {error.expected} expected)" if error.found else ""
            yield Note("damaged", (member.name,), error.cause + found, error.remedy)


def sums(file: LocalFile, archive: Iterable[Member], tensors: Mapping[str, Lazy]) -> dict[str, Sum]:
    """The CRCs of members that hold the bytes of one tensor, as they are, maybe behind a short header."""
    ends = {member.offset + member.size: member for member in archive if not member.compression}
    found = {}
    for name, lazy in tensors.items():
        (piece,) = lazy.pieces if lazy.pieces is not None and len(lazy.pieces) == 1 else (None,)
        member = ends.get(piece.offset + piece.size) if piece is not None and piece.source is file else None
        if piece is None or member is None or not 0 <= piece.offset - member.offset <= HEAD:
            continue
        found[name] = Sum(partial(_behind, file, member.offset, piece.offset - member.offset), f"{member.crc:08x}")
    return found


HEAD = 1 << 12
"""Bytes of a member that may stand before those of its tensor."""


def _behind(file: LocalFile, offset: int, size: int) -> Crc32:
    """A CRC that has taken in what stands before a tensor."""
    made = Crc32()
    if size:
        made.update(file.read(offset, size))
    return made


@dataclass
class _Entry:
    """A member that has its place; its CRC-32 is there when all its bytes are."""

    raw: bytes
    start: int
    size: int
    extra: bytes
    crc: Crc32


class Writer:
    """Gives stored members their places one after another; no clock, zip64 where needed.

    Arguments:
        file: a file of the system, open for writing; `close` must be called at the end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._entries: dict[str, _Entry] = {}
        self._position = 0

    def add(self, name: str, data: bytes, *, align: int = 1) -> None:
        """Writes a member whose data begins at a multiple of `align` bytes."""
        self._reserve(name, data, 0, align)

    def place(self, name: str, lazy: Lazy, *, before: bytes = b"", align: int = 1) -> Place:
        """The place of a member that consists of some bytes, which are written here, and a tensor, which is not.

        Arguments:
            name: of the member.
            lazy: the tensor.
            before: what stands before it.
            align: the data begins at a multiple of so many bytes.
        """
        entry = self._reserve(name, before, lazy.nbytes, align)
        return Place(name, lazy, self._position - lazy.nbytes, entry.crc)

    def _reserve(self, name: str, before: bytes, more: int, align: int) -> _Entry:
        if name in self._entries:
            raise ValueError(f"two members called {name!r}")
        start, raw, size = self._position, name.encode(), len(before) + more
        extra = struct.pack("<2H2Q", 1, 16, size, size) if size >= _BIG else b""
        gap = -(start + _LOCAL.size + len(raw) + len(extra)) % align
        if 0 < gap < 4:
            gap += align * -(-(4 - gap) // align)
        # The id that Android's zipalign uses for padding; readers skip ids that they do not know.
        extra += struct.pack("<2H", 0xD935, gap - 4) + bytes(gap - 4) if gap else b""
        entry = self._entries[name] = _Entry(raw, start, size, extra, Crc32())
        entry.crc.update(before)
        data = start + _LOCAL.size + len(raw) + len(extra)
        write_at(self._file, before, data)
        self._position = data + size
        return entry

    def close(self) -> None:
        """Writes the heads of all members and the directory; the bytes of all tensors must be there."""
        start, central = self._position, []
        for entry in self._entries.values():
            crc, big = entry.crc.value, entry.size >= _BIG
            sizes = (_BIG, _BIG) if big else (entry.size, entry.size)
            lengths = (len(entry.raw), len(entry.extra))
            head = _LOCAL.pack(
                b"PK\3\4", 45 if big else 20, _UTF8, STORED, 0, _FIXED_DATE, crc, *sizes, *lengths
            )  # fmt: skip
            write_at(self._file, head + entry.raw + entry.extra, entry.start)
            central.append(_central(entry.raw, entry.start, entry.size, crc))
        count, size = len(central), sum(map(len, central))
        if count >= _MANY or start >= _BIG or size >= _BIG:
            central.append(_END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
            central.append(_LOCATOR.pack(b"PK\6\7", 0, start + size, 1))
        small = min(count, _MANY)
        central.append(_END.pack(b"PK\5\6", 0, 0, small, small, min(size, _BIG), min(start, _BIG), 0))
        write_at(self._file, b"".join(central), start)


def _central(raw: bytes, start: int, size: int, crc: int) -> bytes:
    wide = ((size, size) if size >= _BIG else ()) + ((start,) if start >= _BIG else ())
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    small = min(size, _BIG)
    version = 45 if wide else 20
    fields = (version, version, _UTF8, STORED, 0, _FIXED_DATE, crc, small, small, len(raw), len(extra), 0, 0, 0, 0)
    return _ENTRY.pack(b"PK\1\2", *fields, min(start, _BIG)) + raw + extra


def _cut(file: LocalFile, what: str) -> FileError:
    return FileError(
        f"{file.name}: {what}",
        found=f"{file.size} bytes",
        usual="a download or copy that was cut",
        remedy="fetch the file again",
    )


def _directory(file: LocalFile) -> tuple[int, int, int]:
    """Offset, size in bytes and number of entries of the central directory."""
    # An archive may end with a comment of up to 64 KiB; those of checkpoints have none.
    for longest in (_END.size + 1024, _END.size + 0xFFFF):
        span = min(file.size, longest)
        tail = file.read(file.size - span, span)
        if (at := tail.rfind(b"PK\5\6")) >= 0:
            break
    if at < 0 or len(tail) - at < _END.size:
        raise _cut(file, "the end of the zip archive is missing")
    _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, at)
    end = file.size - span + at
    # torch writes the 64-bit record always, also where the fields of the plain one are not full.
    before = file.read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size + _END64.size else b""
    if before[:4] == b"PK\6\7":
        end64 = _LOCATOR.unpack(before)[2]
        if end64 + _END64.size > end - _LOCATOR.size:
            raise _cut(file, "the zip64 directory is damaged")
        sign, _, _, _, disk, _, _, count, size, start = _END64.unpack(file.read(end64, _END64.size))
        if sign != b"PK\6\6":
            raise _cut(file, "the zip64 directory is damaged")
        end = end64
    if disk or start + size != end or size > DIRECTORY_LIMIT:
        raise UnsafeError(
            f"{file.name}: the directory of the zip archive is not where its end says",
            found=f"{count} members, {size} bytes at {start}",
            expected=f"ends at byte {end}",
            usual="a damaged file, bytes put before or into the archive, or an archive in several parts",
        )
    return start, size, count


def _entries(file: LocalFile, data: bytes, count: int) -> Iterator[tuple[int, Member]]:
    """Pairs of the offset of the local header and the member, whose own offset is not known yet."""
    at = 0
    for _ in range(count):
        if len(data) - at < _ENTRY.size or data[at : at + 4] != b"PK\1\2":
            raise _cut(file, "the zip directory is damaged")
        fields = _ENTRY.unpack_from(data, at)
        flags, compression, crc, packed, size = fields[3], fields[4], *fields[7:10]
        length, extra, comment, header = fields[10], fields[11], fields[12], fields[16]
        at += _ENTRY.size
        name = _decoded(file, data[at : at + length], flags)
        if _BIG in (packed, size, header):
            packed, size, header = _wide(file, name, data[at + length : at + length + extra], packed, size, header)
        at += length + extra + comment
        if at > len(data):
            raise _cut(file, "the zip directory is damaged")
        if flags & _ENCRYPTED:
            raise FileError(f"a member of {file.name} is encrypted", names=[name])
        if compression == STORED and packed != size:
            raise UnsafeError(f"a stored member of {file.name} has two sizes", names=[name], found=(packed, size))
        yield header, Member(name, 0, size, packed, crc, compression)
    if at != len(data):
        raise _cut(file, "the zip directory holds other than it says")


def _wide(file: LocalFile, name: str, extra: bytes, packed: int, size: int, header: int) -> tuple[int, int, int]:
    """The 64-bit sizes and offset; they are present only where the 32-bit field is full, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                size, packed, header = (next(wide) if v == _BIG else v for v in (size, packed, header))
            except RuntimeError:  # a StopIteration inside the generator: fewer numbers than full fields
                break
            return packed, size, header
        at += 4 + length
    raise UnsafeError(f"a member of {file.name} lacks its 64-bit sizes", names=[name])


def _decoded(file: LocalFile, raw: bytes, flags: int) -> str:
    # Without the flag the format says code page 437, but torch writes UTF-8 there.
    for encoding in ("utf-8",) if flags & _UTF8 else ("utf-8", "cp437"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UnsafeError(f"a member of {file.name} has a name that is no text", found=raw[:80])


def _local(file: LocalFile, header: int, member: Member, limit: int) -> int:
    """Where the bytes of a member begin; its own header must agree with the directory."""
    name = member.name.encode()
    size = min(_LOCAL.size + len(name), limit - header)
    data = file.read(header, size) if size >= _LOCAL.size else b""
    if data[:4] == b"PK\3\4":
        fields = _LOCAL.unpack_from(data)
        length, extra = fields[9], fields[10]
        same = data[_LOCAL.size :] == name if length == len(name) else _renamed(file, header, fields, member)
        if same and fields[3] == member.compression:
            return header + _LOCAL.size + length + extra
    raise UnsafeError(
        f"a member of {file.name} is described differently in its own header",
        names=[member.name],
        usual="a damaged or a forged archive",
    )


def _renamed(file: LocalFile, header: int, fields: tuple[int, ...], member: Member) -> bool:
    """Whether the name in a member's own header is the directory's in another encoding."""
    raw = file.read(header + _LOCAL.size, fields[9])
    return _decoded(file, raw, fields[2]) == member.name


def _unpacked(file: LocalFile, member: Member, step: int) -> Iterator[bytes]:
    at, end = member.offset, member.offset + member.compressed_size
    if member.compression == STORED:
        while at < end:
            yield file.read(at, min(step, end - at))
            at += step
        return
    if member.compression != DEFLATED:
        raise FileError(
            f"a member of {file.name} is compressed in a way that checkpoints do not use",
            names=[member.name],
            found=f"method {member.compression}",
            expected="0 (stored) or 8 (deflated)",
            remedy="unpack and store it again",
        )
    machine = zlib.decompressobj(-15)
    try:
        while at < end and not machine.eof:
            waiting = file.read(at, min(step, end - at))
            at += len(waiting)
            while waiting:
                yield machine.decompress(waiting, step)
                waiting = machine.unconsumed_tail
        if rest := machine.flush():
            yield rest
    except zlib.error as error:
        raise FileError(
            f"a member of {file.name} cannot be unpacked ({error})",
            names=[member.name],
            usual="a damaged file",
            remedy="fetch the file again",
        ) from error
