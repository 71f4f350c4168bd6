"""Ranges of a file on a web server, whatever that server answers.

fsspec's session does the talking (aiohttp); what comes back is checked here: that it is the range that was asked for, of
the file that was opened, unpacked by nobody, no longer than asked, and in reasonable time.

Source: https://www.rfc-editor.org/rfc/rfc9110#section-14 (ranges), #section-15.3.7.3 (when parts may be combined).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from anyvit.errors import FileError

SILENCE = 30.0
"""Seconds without a byte after which a connection counts as dead."""
SLOWEST = 16 << 10
"""Bytes a second below which a server is too slow to be waited for, beyond the silence."""
TRIES = 3
"""Attempts in a row that may bring nothing."""
TOGETHER = 16
"""Ranges asked for at the same time."""
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
T = TypeVar("T")


class Refused(Exception):
    """An answer that asking again would not mend."""


class Web:
    """A file on a web server.

    Arguments:
        system: fsspec's file system of the scheme; its session, headers and credentials are used.
        url: the address, with its query.

    Raises:
        FileNotFoundError: it is not there.
        Refused: the server does not allow it, or answers something else than was asked.
        Exception: what aiohttp raises where there is no server.
    """

    def __init__(self, system: Any, url: str) -> None:
        self.system, self.url = system, url
        self.size: int | None = None
        self.ranges = True
        self.version: tuple[str, str] = ("", "")
        self._wait(asyncio.wait_for(self._look(), 2 * SILENCE))

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`; goes on where a connection broke.

        Raises:
            Refused: the server sends something else.
            Exception: what aiohttp raises where it does not come, after some tries.
        """
        return self._wait(self._fetch(start, end))

    def fetch_all(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | BaseException]:
        """Several ranges at the same time; an exception stands for each that did not come."""

        async def together() -> list[bytes | BaseException]:
            gate = asyncio.Semaphore(TOGETHER)

            async def one(start: int, end: int) -> bytes:
                async with gate:
                    return await self._fetch(start, end)

            return await asyncio.gather(*(one(*part) for part in ranges), return_exceptions=True)

        return self._wait(together())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        from fsspec.asyn import sync  # type: ignore[import-not-found]

        async def done() -> T:
            return await work

        result: Any = sync(self.system.loop, done)
        return result

    async def _look(self) -> None:
        """Asks for one byte: the answer tells length, version and whether ranges are known."""
        async with await self._ask(0, 1) as answer:
            if answer.status == 416:  # nothing can be asked of an empty file
                self.size = 0
                return
            self._permitted(answer)
            self.ranges = answer.status == 206
            self.version = _version(answer.headers)
            plain = answer.headers.get("Content-Encoding", "identity") in ("", "identity")
            if self.ranges:
                self.size = self._part(answer, 0)[1]
            elif plain and (length := answer.headers.get("Content-Length", "")).isdecimal():
                self.size = int(length)

    async def _ask(self, start: int, end: int) -> Any:
        import aiohttp  # type: ignore[import-not-found]

        session = await self.system.set_session()
        options = dict(self.system.kwargs)
        # Packed ranges cannot be put together, and a packed answer may unpack to any length.
        options["headers"] = {
            **options.get("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity",
        }  # fmt: skip
        options["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        return await session.get(self.system.encode_url(self.url), **options)

    def _permitted(self, answer: Any) -> None:
        if answer.status in (404, 410):
            raise FileNotFoundError(self.url)
        if answer.status in (401, 403, 407):
            raise Refused(f"the server does not permit it ({answer.status} {answer.reason})")
        if answer.status >= 500 or answer.status == 429:
            answer.raise_for_status()
        if answer.status not in (200, 206):
            raise Refused(f"the server answers {answer.status} {answer.reason}")

    async def _fetch(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        return await asyncio.wait_for(self._patiently(start, end), SILENCE + (end - start) / SLOWEST)

    async def _patiently(self, start: int, end: int) -> bytes:
        got, idle = bytearray(), 0
        while True:
            before = len(got)
            try:
                await self._more(got, start, end)
                return bytes(got)
            except (Refused, FileNotFoundError):
                raise
            except Exception:
                idle = 0 if len(got) > before else idle + 1
                if idle >= TRIES:
                    raise

    async def _more(self, got: bytearray, start: int, end: int) -> None:
        """Adds what is missing of a range to what is there."""
        begin = start + len(got)
        async with await self._ask(begin, end) as answer:
            self._permitted(answer)
            if (packed := answer.headers.get("Content-Encoding", "")) and packed != "identity":
                raise Refused(f"the server sends ranges packed ({packed[:20]}), though they were asked for plain")
            if changed := _changed(self.version, _version(answer.headers)):
                raise Refused(f"the file changed while it was read: {changed}")
            if answer.status == 206:
                last, total = self._part(answer, begin)
                if total is not None and self.size is not None and total != self.size:
                    raise Refused(f"the file changed while it was read: {self.size} bytes at first, now {total}")
                if last != end - 1:
                    raise Refused(f"the server sends bytes {begin} to {last} where {begin} to {end - 1} were asked for")
            elif (begin, end) != (0, self.size):
                raise Refused("the server sends the whole file, no ranges")
            async for part in answer.content.iter_any():
                got += part
                if start + len(got) > end:
                    raise Refused(f"the server sends more than the {end - begin} bytes that were asked for")
            if start + len(got) < end:
                raise ConnectionError(f"{start + len(got) - begin} of {end - begin} bytes came")

    def _part(self, answer: Any, begin: int) -> tuple[int, int | None]:
        """Which byte a part ends with, and how long the whole is."""
        said = answer.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(said.strip())
        if match is None or int(match[1]) != begin or int(match[2]) < begin:
            raise Refused(
                f"the server sends {said[:80] or 'an unnamed part'} where a range from byte {begin} was asked for"
            )
        return int(match[2]), None if match[3] == "*" else int(match[3])


def _version(headers: Mapping[str, str]) -> tuple[str, str]:
    """What tells versions of a file apart: its strong ETag, and the time of its last change."""
    tag = headers.get("ETag", "")
    return ("" if tag.startswith("W/") else tag[:200]), headers.get("Last-Modified", "")[:60]


def _changed(first: tuple[str, str], now: tuple[str, str]) -> str:
    """How two versions differ in the best that both say; empty where they do not."""
    for before, after in zip(first, now, strict=True):
        if before and after:
            return f"{before} at first, now {after}" if before != after else ""
    return ""


def refused(url: str, error: Exception) -> FileError:
    """The error of an address that does not give what it should."""
    if isinstance(error, FileNotFoundError):
        return FileError(f"{url} does not exist", remedy="check the address")
    if isinstance(error, asyncio.TimeoutError | TimeoutError):
        return FileError(f"{url} cannot be read: the server is too slow", found=f"less than {SLOWEST >> 10} kB a second",
                         remedy="download it first")  # fmt: skip
    if not isinstance(error, Refused):
        return FileError(f"{url} cannot be read", found=f"{type(error).__name__}: {error}", remedy="check the address")
    remedy = "check the address and what it needs to log in" if "permit" in str(error) else "download it first"
    return FileError(f"{url} cannot be read: {error}", remedy=remedy)
