"""The patch kernel for pictures of other channels: multispectral bands, grey, depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyvit.adapted import Adapted, Tensors, whole
from anyvit.errors import BadArgument
from anyvit.lazy import computed, precise
from anyvit.report import Finding
from anyvit.spec import Spec

if TYPE_CHECKING:
    import numpy as np

SCHEMES = ("repeat", "mean", "zero")


@dataclass(frozen=True)
class Channels:
    """Channels of the pictures, and what the kernel of each is made of.

    Arguments:
        count: channels of the pictures.
        scheme: "repeat" (the source's channels in order, again and again, scaled by old / new; their sum for one
            channel), "mean" (their mean, scaled by old / new), or "zero" (the source's first, the new at zero).
        bands: for each new channel the number of the source channel that starts it, from 0, or None for zeros; instead
            of a scheme. A source channel that starts several is shared out evenly between them.

    Example:
        >>> Channels(4, bands=(2, 1, 0, None)).parts(3)
        ((2,), (1,), (0,), ())
    """

    count: int
    scheme: str = "repeat"
    bands: tuple[int | None, ...] = ()

    def parts(self, old: int) -> tuple[tuple[int, ...], ...]:
        """The source channels that each new one is made of.

        Arguments:
            old: channels of the source.

        Raises:
            BadArgument: no such scheme, or bands that do not fit `count` or the source.
        """
        new = whole("in_chans", self.count, 1)
        if self.bands:
            return _mapped(tuple(self.bands), new, old)
        if self.scheme not in SCHEMES:
            raise BadArgument(f"no scheme for channels is called {self.scheme!r}", expected=", ".join(SCHEMES))
        if self.scheme == "zero":
            if new < old:
                remedy = f"anyvit.Channels({new}, bands={tuple(range(new))})"
                raise BadArgument('"zero" adds channels', found=f"{old} → {new}", remedy=remedy)
            return tuple((n,) if n < old else () for n in range(new))
        if self.scheme == "mean" or new == 1 != old:
            return (tuple(range(old)),) * new
        return tuple((n % old,) for n in range(new))


def _mapped(bands: tuple[int | None, ...], new: int, old: int) -> tuple[tuple[int, ...], ...]:
    if len(bands) != new:
        raise BadArgument("bands names the source of every channel", found=len(bands), expected=f"{new} entries")
    odd = [b for b in bands if b is not None and (not isinstance(b, int) or isinstance(b, bool) or not 0 <= b < old)]
    if odd or all(b is None for b in bands):
        usual = "bands counted from 1" if old in odd else None
        raise BadArgument(
            "no such source channel" if odd else "no channel comes from the source", found=odd or bands,
            expected=f"numbers from 0 to {old - 1}, or None", usual=usual,
        )  # fmt: skip
    return tuple(() if band is None else (band,) for band in bands)


def weights(asked: Channels, old: int) -> np.ndarray:
    """How much of each source channel a new one takes, (new, old).

    The sum is kept, so that features stay in range: all numbers add up to `old`.

    Arguments:
        asked: the channels wanted.
        old: channels of the source.

    Example:
        >>> weights(Channels(3, bands=(0, None, 1)), 2).tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]

    Source: timm 1.0.31: timm/models/_manipulate.py adapt_input_conv (sum for one channel; repeated kernels × old / new)
    """
    import numpy as np

    parts = asked.parts(old)
    out = np.zeros((len(parts), old))
    uses = Counter(s for part in parts for s in part)
    for row, part in zip(out, parts, strict=True):
        for source in part:
            row[source] = 1 / uses[source] if asked.bands else 1.0
    return out if out.sum() == old else out * (old / out.sum())


def in_chans(tensors: Tensors, spec: Spec, new: int | Channels) -> Adapted:
    """The patch kernel for other channels, its total weight kept.

    Arguments:
        tensors, spec: the model.
        new: a number of channels (one: their sum; more: repeated and scaled), or `Channels`.

    Raises:
        BadArgument: no such number, scheme or band.
    """
    kernel = tensors["embed.patch.weight"]
    old = kernel.shape[1]
    asked = new if isinstance(new, Channels) else Channels(whole("in_chans", new, 1))
    parts = asked.parts(old)
    if parts == tuple((n,) for n in range(old)):
        return Adapted(tensors, spec)

    wide = precise(kernel.dtype)

    def change(values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.einsum("ns,oshw->onhw", weights(asked, old).astype(wide), values.astype(wide))

    shape = (kernel.shape[0], asked.count, *kernel.shape[2:])
    out = {**tensors, "embed.patch.weight": computed(shape, wide, change, [kernel])}
    changes = {"mean": _statistics(spec.mean, parts), "std": _statistics(spec.std, parts)}
    cause = f"patch kernel {old} → {asked.count} channels, {_how(asked, parts, old)}"
    finding = Finding("resized", kernel.origin, cause, _remedy(parts))
    spec = spec.with_facts("given", "the argument in_chans=", in_chans=asked.count, **changes)
    return Adapted(out, spec, (finding,))


def _statistics(values: Sequence[float], parts: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Mean or standard deviation of each new channel: that of its sources, of all sources where it has none."""
    count = len(values)
    chosen = [[values[s % count] for s in part] or list(values) for part in parts]
    return tuple(sum(some) / len(some) if len(some) > 1 else some[0] for some in chosen)


def _how(asked: Channels, parts: Sequence[Sequence[int]], old: int) -> str:
    used = [s for part in parts for s in part]
    if all(len(part) < 2 for part in parts) and sorted(used) == list(range(old)):
        return "the source's own moved to their places and the rest at zero: its response to them is unchanged"
    if asked.bands:
        return f"from the source's {list(asked.bands)}, scaled to keep the response; the function changes"
    if asked.scheme == "mean":
        return f"their mean, scaled by {old}/{asked.count}; the function changes"
    if asked.count == 1:
        return "summed; the function changes"
    return f"repeated in order and scaled by {old}/{asked.count}; the function changes"


def _remedy(parts: Sequence[Sequence[int]]) -> str | None:
    if all(parts):
        return None
    return "new channels have the average mean and std of the source's: normalise by your own, and train"
