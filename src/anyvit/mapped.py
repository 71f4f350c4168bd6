"""Weights that are mapped from a file: what of them is still right when that file is changed in place.

A file that is replaced by another of its name (`mv`, anyvit's writers, the hub's cache) changes nothing: the mapping holds
the old one. One that is written into shows its new bytes wherever a page was not touched yet, and one that is cut ends
the process with a bus error (SIGBUS). So its length and time are looked at before each use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from anyvit.containers.files import LocalFile
from anyvit.errors import FileError

if TYPE_CHECKING:
    import torch

    from anyvit.lazy import Lazy


class Mapped:
    """The files that a model's weights are mapped from.

    Arguments:
        files: as they were opened.
        same: whether their bytes still have the checksums that they had; None where none were taken.
    """

    def __init__(self, files: Iterable[LocalFile], same: Callable[[], bool | None] = lambda: None) -> None:
        self.files = {file: file.stamp for file in files}
        self.same = same

    def check(self, tensors: Iterable[torch.Tensor]) -> None:
        """Looks whether a file was cut or written into since it was opened; a microsecond where it was not.

        Arguments:
            tensors: the weights; where none is mapped any more, the files do not matter.

        Raises:
            FileError: it was.
        """
        other = [file for file, stamp in self.files.items() if file.now() != stamp]
        if not other or not any(map(is_mapped, tensors)):
            return
        for file in other:
            (size, _), (before, _) = file.now(), self.files[file]
            if size < before:
                raise FileError(
                    f"{file.name} was cut while weights were mapped from it", found=f"{size} bytes",
                    expected=f"{before} bytes", usual="a program that writes into files instead of replacing them",
                    remedy="write the file again and load the model again",
                )  # fmt: skip
        if self.same() is False:
            raise FileError(
                f"{other[0].name} was written into while weights were mapped from it: they are other ones now",
                usual="cp or torch.save over the file of a model that is loaded", remedy="load the model again",
            )  # fmt: skip
        self.files.update({file: file.now() for file in other})  # its time alone is another

    def __deepcopy__(self, memo: Any) -> Mapped:
        return Mapped(())  # copies of tensors are mapped from nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return Mapped, ((),)


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory is not torch's own."""
    return tensor.device.type == "cpu" and not tensor.untyped_storage().resizable()


def files_of(tensors: Mapping[str, Lazy], filled: Mapping[str, torch.Tensor]) -> set[LocalFile]:
    """The files that some tensors of a model are mapped from.

    Arguments:
        tensors: name → tensor as it lies in its file.
        filled: name → the values that were made of it.
    """
    found = set()
    for name, lazy in tensors.items():
        if lazy.pieces and filled[name].device.type == "cpu":
            source: Any = lazy.pieces[0].source
            while (whole := getattr(source, "file", None)) is not None:  # a range of a file
                source = whole
            # What was read, or fetched from an address, lies in memory of its own.
            if isinstance(source, LocalFile) and source.holds(filled[name].data_ptr()):
                found.add(source)
    return found
