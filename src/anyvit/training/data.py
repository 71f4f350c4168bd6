"""Pictures with labels: a folder of class folders, tensors, or anybody's dataset; and the order they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anyvit.errors import BadArgument, FileError, needs
from anyvit.model import ViT
from anyvit.model.features import Preprocess, check_pixels
from anyvit.spec import Spec

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
"""Files of a class folder that are read: pictures, and uint8 arrays (H, W, C) of any number of channels."""
Augment = Callable[[Tensor, torch.Generator], Tensor]


class Example(NamedTuple):
    """One picture or a batch of them.

    Arguments:
        pixels: (C, H, W) or (B, C, H, W), normalised.
        label: a number of a class or (B,), or what a loss of the caller's takes.
        condition: (D,) or (B, D) embedded, (inputs,) or (B, 1, inputs) cameras; None without conditioning.
    """

    pixels: Tensor
    label: Tensor
    condition: Tensor | None = None


class Folder:
    """The pictures of a folder of class folders, classes by name in alphabetical order.

    Arguments:
        root: the folder.
        preprocess: makes pixels of a picture.
        classes: names of the class folders, in the order of the labels; None for all that are there.

    Raises:
        FileError: no such folder, no class folders, or a class without pictures.
    """

    def __init__(self, root: Path, preprocess: Preprocess, classes: Sequence[str] | None = None) -> None:
        if not root.is_dir():
            raise FileError(f"{root} is no folder", remedy="a folder with one folder of pictures for each class")
        found = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.classes = tuple(found if classes is None else classes)
        if not self.classes:
            raise FileError(f"{root} holds no class folders", remedy="one folder of pictures for each class")
        if missing := [name for name in self.classes if name not in found]:
            raise FileError(f"{root} lacks class folders", names=missing, found=", ".join(found))
        self.files = [(f, n) for n, name in enumerate(self.classes) for f in _pictures(root / name)]
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        path, label = self.files[index]
        try:
            pixels = self.preprocess(_opened(path))[0]
        except (OSError, ValueError) as error:
            raise FileError(f"{path} cannot be read as a picture", found=str(error)) from error
        return Example(pixels, torch.tensor(label))


def _pictures(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise FileError(f"the class folder {folder} holds no pictures", expected="files " + " ".join(SUFFIXES))
    return files


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".npy":
        import numpy as np

        return np.load(path)
    try:
        from PIL import Image
    except ImportError as error:
        raise needs("train", "Pillow", "to read pictures") from error
    with Image.open(path) as picture:
        picture.load()
        return picture


class Tensors:
    """Pictures that are in memory, each with its label.

    Arguments:
        pixels: (N, C, H, W) normalised, or uint8 (N, H, W, C), which is preprocessed.
        labels: (N, …).
        condition: (N, D) embedded, (N, inputs) or (batch, views, inputs) cameras; None without conditioning.
        preprocess: makes pixels of 8-bit pictures.

    Raises:
        BadArgument: another number of labels or conditions than of pictures.
    """

    classes = ()

    def __init__(self, pixels: Any, labels: Any, condition: Any, preprocess: Preprocess) -> None:
        self.pixels, self.labels = torch.as_tensor(pixels), torch.as_tensor(labels)
        self.condition, self.preprocess = None if condition is None else torch.as_tensor(condition), preprocess
        if self.condition is not None and self.condition.ndim == 3 and len(self.condition) != len(self.pixels):
            self.condition = self.condition.flatten(0, 1)
        sizes = [len(t) for t in (self.pixels, self.labels, self.condition) if t is not None and t.ndim]
        if self.pixels.ndim != 4 or len({*sizes, len(self.pixels)}) > 1 or not self.labels.ndim or not len(self.pixels):
            shapes = [None if t is None else tuple(t.shape) for t in (self.pixels, self.labels, self.condition)]
            expected = "pixels (N, C, H, W), labels (N,), condition (N, D)"
            raise BadArgument("pixels, labels and condition belong together", found=shapes, expected=expected)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Example:
        pixels = self.pixels[index]
        pixels = self.preprocess(pixels)[0] if pixels.dtype == torch.uint8 else pixels
        return Example(pixels, self.labels[index], None if self.condition is None else self.condition[index])


class Items:
    """Anybody's dataset of (picture, label) or (picture, label, condition).

    Arguments:
        items: has a length; pictures are normalised pixels (C, H, W), PIL images or uint8 arrays (H, W, C).
        preprocess: makes pixels of pictures that are none yet.
    """

    def __init__(self, items: Any, preprocess: Preprocess) -> None:
        self.items, self.preprocess = items, preprocess
        self.classes = tuple(getattr(items, "classes", ()))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        picture, label, *rest = self.items[index]
        ready = isinstance(picture, Tensor) and picture.is_floating_point()
        condition = torch.as_tensor(rest[0]) if rest and rest[0] is not None else None
        return Example(picture if ready else self.preprocess(picture)[0], torch.as_tensor(label), condition)


Examples = Folder | Tensors | Items


def examples(data: Any, vit: ViT, classes: Sequence[str] | None = None) -> Examples:
    """What a caller gives as data, one example at a time.

    Arguments:
        data: a folder of class folders; (pixels, labels) or (pixels, labels, condition) of tensors or arrays; or a
            dataset with a length.
        vit: whose preprocessing is used.
        classes: names of class folders, in the order of the labels.

    Raises:
        BadArgument: data of another kind, or none.
        FileError: a folder without pictures.
    """
    if isinstance(data, (Folder, Tensors, Items)):
        return data
    if isinstance(data, (str, Path)):
        return Folder(Path(data), vit.preprocess, classes)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3) and all(hasattr(t, "shape") for t in data[:2]):
        return Tensors(data[0], data[1], data[2] if len(data) == 3 else None, vit.preprocess)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        expected = "a folder of class folders, (pixels, labels[, condition]), or a dataset with a length"
        raise BadArgument("no pictures with labels", found=type(data).__name__, expected=expected)
    return Items(data, vit.preprocess)


def batch(some: Sequence[Example], spec: Spec) -> Example:
    """Examples put together, cameras as (B, 1, inputs).

    Raises:
        BadArgument: pictures of other sizes than each other, or that the model cannot take.
    """
    shapes = {tuple(e.pixels.shape) for e in some}
    if len(shapes) > 1:
        raise BadArgument("pictures of one batch are of one size", found=sorted(shapes), remedy="image_size=… of load")
    pixels = torch.stack([e.pixels for e in some])
    check_pixels(spec, pixels)
    rows = [e.condition for e in some if e.condition is not None]
    condition = torch.stack(rows).float() if rows else None
    inputs = spec.condition_inputs
    if condition is not None and inputs and condition.ndim == 2 and condition.shape[1] == inputs:
        condition = condition.unsqueeze(1)
    return Example(pixels, torch.stack([e.label for e in some]), condition)


class Order:
    """Which examples make up each step: one permutation after another, without an end.

    What a step holds follows from the seed and its number alone, so a run goes on where it was.

    Arguments:
        count: examples.
        size: of a batch.
        seed: of the permutations.

    Example:
        >>> order = Order(5, 2, seed=0)
        >>> sorted(order.step(0) + order.step(1) + order.step(2)[:1])
        [0, 1, 2, 3, 4]
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed
        self._kept: tuple[int, list[int]] = (-1, [])

    def step(self, number: int) -> list[int]:
        """The examples of one step."""
        return [self._at(place) for place in range(number * self.size, (number + 1) * self.size)]

    def _at(self, place: int) -> int:
        epoch, index = divmod(place, self.count)
        if self._kept[0] != epoch:
            self._kept = (epoch, torch.randperm(self.count, generator=generator(self.seed, epoch)).tolist())
        return self._kept[1][index]


class Steps(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """(place in the run, example) of each of one process' batches, from a step on.

    Arguments:
        order: which examples make up a step.
        first, last: steps, the last one excluded.
        rank, world: number of this process, and of all.
    """

    def __init__(self, order: Order, first: int, last: int, rank: int = 0, world: int = 1) -> None:
        self.order, self.first, self.last, self.rank, self.world = order, first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            places = range(step * self.order.size, (step + 1) * self.order.size)
            yield list(zip(places, self.order.step(step), strict=True))[self.rank :: self.world]


class Placed(torch.utils.data.Dataset[Example]):
    """Examples by (place in the run, example), augmented by random numbers of the place alone.

    Arguments:
        some: the examples.
        augment: takes pixels (C, H, W) and a generator; None leaves them.
        seed: of the random numbers.
    """

    def __init__(self, some: Examples, augment: Augment | None, seed: int) -> None:
        self.some, self.augment, self.seed = some, augment, seed

    def __getitem__(self, at: tuple[int, int]) -> Example:
        place, index = at
        example = self.some[index]
        if self.augment is None:
            return example
        return example._replace(pixels=self.augment(example.pixels, generator(self.seed, place, 1)))


def generator(*numbers: int) -> torch.Generator:
    """A generator seeded by several numbers."""
    import numpy as np

    made = torch.Generator()
    return made.manual_seed(int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1)[0]))


def crop_and_flip(pixels: Tensor, noise: torch.Generator) -> Tensor:
    """A random part of a picture, a third of its area at least, at its own size, mirrored half of the time.

    Arguments:
        pixels: (C, H, W).
        noise: where random numbers come from.

    Source: torchvision.transforms.RandomResizedCrop (ratio 3/4 … 4/3) and RandomHorizontalFlip
    """
    height, width = pixels.shape[1:]
    area, ratio, down, right, mirror = torch.rand(5, generator=noise).tolist()
    side, skew = (1 / 3 + area * 2 / 3) ** 0.5, (4 / 3) ** (ratio - 0.5)
    rows, columns = max(1, min(height, round(height * side * skew))), max(1, min(width, round(width * side / skew)))
    top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
    part = pixels[None, :, top : top + rows, left : left + columns]
    part = F.interpolate(part, (height, width), mode="bilinear", antialias=True)[0]
    return part.flip(-1) if mirror < 0.5 else part


AUGMENTS: dict[str, Augment] = {"crop+flip": crop_and_flip}
"""Named augmentations."""
