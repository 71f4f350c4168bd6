"""What the values of a tensor say of damage: NaN, one constant, gaps of zeros, a lone value of implausible size.

A tensor is read in pieces that fit into the processor's cache. Sums of squares, a page of values each, show at the speed
of memory that most pieces hold nothing remarkable. Others are looked at as whole numbers: the bits of a float's magnitude
are ordered as the floats are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from anyvit.containers.stream import STEP, chunks
from anyvit.lazy import Lazy

if TYPE_CHECKING:
    import numpy as np

PAGE = 4096
"""Bytes of zeros in a row that make a gap; what a download leaves out is at least a page of a disk."""
HUGE = 1e12
"""Larger numbers are no weights: a flipped top bit of a float32's exponent multiplies by 2¹²⁸.

Source: measured on 918 trained tensors (DINOv2-small; PP-OCRv4, NudeNet, Silero VAD and LPIPS as their packages on PyPI
hold them): 9.8e7 at most, a running variance.
"""
ALONE = 1e3
"""How many times a lone value is larger than the next to be implausible. Source: the same tensors, 19.8 at most."""
FAR = 1e4
"""And how many times larger than the root mean square of the others. Source: the same tensors, 349 at most."""
FEW = 16
"""Tensors of fewer values have no usual size."""
LONE = 8
"""Most values of a tensor that are still called lone."""
SAMPLE = 1 << 13
"""First values of a tensor that tell its usual size and precision."""
SHARE = 1e-3
"""Share of values below the smallest normal number that is worth saying: processors are slow with them."""


class Kind(NamedTuple):
    """The bits of a floating-point type: the unsigned type of its width; then, as such numbers, the magnitude's mask,
    infinity (or NaN where there is none), the smallest normal number, and one."""

    unsigned: str
    magnitude: int
    infinite: int
    normal: int
    one: int


KINDS = {
    "float16": Kind("uint16", 0x7FFF, 0x7C00, 0x0400, 0x3C00),
    "bfloat16": Kind("uint16", 0x7FFF, 0x7F80, 0x0080, 0x3F80),
    "float32": Kind("uint32", 0x7FFFFFFF, 0x7F800000, 0x00800000, 0x3F800000),
    "float64": Kind("uint64", (1 << 63) - 1, 0x7FF << 52, 1 << 52, 0x3FF << 52),
    "float8_e4m3fn": Kind("uint8", 0x7F, 0x7F, 0x08, 0x38),
    "float8_e5m2": Kind("uint8", 0x7F, 0x7C, 0x04, 0x3C),
}
"""Source: IEEE 754-2019 table 3.5; https://arxiv.org/abs/2209.05433 table 1 for the 8-bit types."""

GLANCED = ("float32", "float64")
"""Types whose squares numpy sums at the speed of memory."""
EVERY = 61
"""Of a piece at which a glance is enough, each value of that many is looked at for those below the smallest normal number:
of a matrix of 256 × 1,024 where `SHARE` of the values are, four are met."""
KEPT = 16
"""Samples that are kept before they are looked at together."""
SHORT = ("float16", "float8_e4m3fn", "float8_e5m2")
"""Types of few exponents, where weights below the smallest normal number are usual."""


@dataclass
class Seen:
    """What was met in one tensor.

    Arguments:
        bad: how many values are NaN or infinite, the flat index of the first, and what it is.
        lone: flat index and value of each implausibly large one.
        gaps: runs of `PAGE` bytes of zeros, and the flat index of the first.
        tiny: values below the smallest normal number but not zero.
        constant: the value, where all are the same.
        size: the root mean square of the first values, NaN where one is, 0 where they are none of a floating-point type.
        negative: the share of them that is below zero.
        narrow: the narrower type that all of them fit into, "" where they do not, None where that says nothing.
        wild: what they are instead, where they have no one size and other bytes have.
        digest: the checksum of all bytes, where it was asked for.
        proven: whether they have the checksum that their file says.
    """

    bad: tuple[int, int, float] | None = None
    lone: list[tuple[int, float]] = field(default_factory=list)
    gaps: tuple[int, int] | None = None
    tiny: int = 0
    constant: float | None = None
    size: float = 0.0
    negative: float = 0.0
    narrow: str | None = None
    wild: str = ""
    digest: str = ""
    proven: bool = False


class Look:
    """One pass over one tensor, whose bytes are handed in.

    Arguments:
        lazy: the tensor, of a type in `KINDS`; where something is suspicious it is read again.

    Example:
        >>> import numpy as np
        >>> from anyvit.lazy import from_array
        >>> values = np.array([1, np.inf, 2], "float32")
        >>> look = Look(from_array(values))
        >>> look.take(values.data.cast("B"))
        >>> look.done().bad
        (1, 1, inf)
    """

    def __init__(self, lazy: Lazy) -> None:
        import numpy as np

        from anyvit.dtypes import np_dtype

        self.lazy, self.kind, self.dtype = lazy, KINDS[lazy.dtype], np_dtype(lazy.dtype)
        self.unsigned, self.signed = np.dtype(self.kind.unsigned), np.dtype(self.kind.unsigned[1:])
        self.seen = Seen()
        self.count, self.largest, self.smallest = 0, 0, self.kind.magnitude + 1
        self.suspect = self.glanced = False
        self.samples: list[np.ndarray] = []

    def take(self, part: bytes | memoryview, glance: bool = True) -> None:
        """Looks at the next bytes, `STEP` at most; at a glance first."""
        import numpy as np

        with np.errstate(all="ignore"):  # damaged values are what is looked for
            self._take(part, glance)

    def _take(self, part: bytes | memoryview, glance: bool) -> None:
        import numpy as np

        bits = np.frombuffer(part, self.unsigned)
        if not self.count and bits.size:
            self._first(bits[:SAMPLE])
        row = PAGE // self.unsigned.itemsize
        whole = bits.size // row * row if glance and self.lazy.dtype in GLANCED else 0
        if whole and self._plain(bits[:whole].reshape(-1, row)):
            self.count, bits = self.count + whole, bits[whole:]
        if bits.size:
            self._look(bits)

    def _plain(self, rows: np.ndarray) -> bool:
        """Whether sums of squares, one for each page, show that nothing here is worth a closer look; a sample is kept.

        NaN and infinities, and values whose square is too large, make a sum that no limit holds for. A value that is too large
        for the others makes one that stands out. A page of zeros makes one of zero.

        numpy lets go of the interpreter at every step over many values, and then has to wait for it: so they are few here.
        """
        import numpy as np

        values = rows.view(self.dtype)
        sums = np.matmul(values[:, None, :], values[:, :, None])
        top, total = float(sums.max()), float(sums.sum())
        if not (sums.min() > 0 and (top < 1 or top < 0.09 * min(HUGE**2, total))):
            return False
        self.samples.append(rows.reshape(-1)[::EVERY].copy())
        if len(self.samples) == KEPT:
            self._sampled()
        return True

    def _sampled(self) -> None:
        """What the samples of glances show: the least and the largest magnitude, and whether there are tiny values."""
        import numpy as np

        sizes = np.concatenate(self.samples) & self.unsigned.type(self.kind.magnitude)
        self.samples.clear()
        self.glanced = True
        self._widen(int(sizes.min()), int(sizes.max()))
        if self.smallest < self.kind.normal:
            self.seen.tiny += self._tiny(sizes)

    def _widen(self, low: int, top: int) -> None:
        self.largest, self.smallest = max(self.largest, top), min(self.smallest, low)

    def _look(self, bits: np.ndarray) -> None:
        """Looks at values one by one."""
        import numpy as np

        low, top = self._range(bits)
        if low < self.kind.normal:
            self._small(bits, low)
        if top >= self.kind.infinite:
            self._bad(bits)
            self.suspect = True
        elif top > self.kind.one and not self.suspect:
            values = bits.view(self.dtype).astype("float32" if self.unsigned.itemsize < 8 else "float64", copy=False)
            biggest = float(np.array([top], self.unsigned).view(self.dtype)[0])
            self.suspect = not biggest * biggest < min(HUGE**2, 0.1 * float(np.dot(values, values)))
        self._widen(low, top)
        self.count += bits.size

    def _first(self, bits: np.ndarray) -> None:
        """What the first values are like."""
        import numpy as np

        from anyvit.bytewise import misplaced, narrower, tame

        seen = self.seen
        values = bits.view(self.dtype).astype("float32" if self.unsigned.itemsize < 8 else "float64", copy=False)
        seen.size = math.sqrt(float(np.dot(values, values)) / len(values))
        seen.negative = np.count_nonzero(values < 0) / len(values)
        seen.narrow = narrower(bits) if self.lazy.dtype == "float32" else None
        size = bits & self.unsigned.type(self.kind.magnitude)
        least, most = tame(self.dtype)
        if size.min() < least or size.max() > most:
            seen.wild = misplaced(bits, self.dtype, values)

    def _range(self, bits: np.ndarray) -> tuple[int, int]:
        """The least and the largest magnitude.

        As whole numbers without a sign, negative values are larger than all positive ones; with a sign, smaller. So
        four comparisons over the bits as they are find the ends of both halves, and nothing has to be computed.
        """
        whole = bits.view(self.signed)
        ends = (int(bits.min()), int(bits.max()), int(whole.min()), int(whole.max()))
        sizes = [end & self.kind.magnitude for end in ends]
        return min(sizes), max(sizes)

    def _small(self, bits: np.ndarray, low: int) -> None:
        """Notes the pages that hold nothing but zeros, and counts values below the smallest normal number."""
        row = PAGE // self.unsigned.itemsize
        for start in range(0, bits.size, 16 * row):  # few at a time: fresh memory for all costs more than looking
            size = bits[start : start + 16 * row] & self.unsigned.type(self.kind.magnitude)
            if low == 0:
                self._pages(size[: size.size // row * row].reshape(-1, row), self.count + start)
            if self.lazy.dtype not in SHORT:
                self.seen.tiny += self._tiny(size)

    def _tiny(self, sizes: np.ndarray) -> int:
        """How many magnitudes are below the smallest normal number but not zero; `sizes` is used up."""
        import numpy as np

        sizes -= self.unsigned.type(1)  # of zero this makes the largest number of the type
        return int(np.count_nonzero(sizes < self.kind.normal - 1))

    def _pages(self, rows: np.ndarray, start: int) -> None:
        import numpy as np

        empty = np.flatnonzero(rows.max(1, initial=0) == 0)
        if len(empty):
            before, first = self.seen.gaps or (0, start + int(empty[0]) * rows.shape[1])
            self.seen.gaps = (before + len(empty), first)

    def _bad(self, bits: np.ndarray) -> None:
        import numpy as np

        at = np.flatnonzero(bits & self.unsigned.type(self.kind.magnitude) >= self.kind.infinite)
        here = (0, self.count + int(at[0]), float(bits[at[0] : at[0] + 1].view(self.dtype)[0]))
        before, first, value = self.seen.bad or here
        self.seen.bad = (before + len(at), first, value)

    def done(self) -> Seen:
        """What was met; reads the tensor again where something is suspicious."""
        import numpy as np

        if self.samples:
            self._sampled()
        if self.seen.tiny and self.glanced:
            return self._again()
        with np.errstate(all="ignore"):
            return self._done()

    def _done(self) -> Seen:
        if self.count and (self.largest == 0 or (self.largest == self.smallest and self._all_equal())):
            self.seen.constant = float(self.lazy.read().reshape(-1)[0]) if self.largest else 0.0
        if self.suspect and self.count >= FEW and self.seen.constant is None:
            self.seen.lone = _lone(self.lazy.read().reshape(-1))
        return self.seen

    def _again(self) -> Seen:
        """What is met without glances: values below the smallest normal number are counted, all of them."""
        again = Look(self.lazy)
        for part in chunks(self.lazy, STEP):
            again.take(part, glance=False)
        return again.done()

    def _all_equal(self) -> bool:
        bits = self.lazy.read().reshape(-1).view(self.unsigned)
        return bool((bits == bits[0]).all())


def _lone(values: np.ndarray) -> list[tuple[int, float]]:
    """The values that are too large to belong to the others: beyond any weight, or far beyond a gap in the sizes."""
    import numpy as np

    size = np.abs(values.astype("float64"))
    size[~np.isfinite(size)] = 0
    most = np.argpartition(size, -LONE - 1)[-LONE - 1 :]
    most = most[np.argsort(-size[most])]
    count = int(np.count_nonzero(size[most] > HUGE))
    for n in range(1, min(LONE, len(most) - 1) + 1):
        last, following = float(size[most[n - 1]]), float(size[most[n]])
        if last > 1 and last > ALONE * following:
            others = np.delete(size, most[:n]) / last
            if FAR * float(np.sqrt(np.mean(np.square(others)))) < 1:
                count = max(count, n)
    return [(int(at), float(values[at])) for at in most[:count]]
