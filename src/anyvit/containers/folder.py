"""A folder as a checkpoint: Hugging Face, timm, open_clip, torch DCP, Orbax, DeepSpeed, or one file in it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyvit.containers import shards, siblings, single
from anyvit.containers.files import LocalFile, unreadable
from anyvit.errors import Ambiguous, FileError
from anyvit.lazy import Checkpoint, Note

Opener = Callable[[], Checkpoint]

STANDARD = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin", "flax_model.msgpack", "flax_model.msgpack.index.json", "tf_model.h5",
    "tf_model.h5.index.json", "model.weights.h5", "model.weights.json",
)  # fmt: skip
"""The names that hubs give to weights, those opened first before the others.

Source: huggingface/transformers, src/transformers/utils/__init__.py (SAFE_WEIGHTS_NAME, WEIGHTS_NAME,
FLAX_WEIGHTS_NAME, TF2_WEIGHTS_NAME); keras-team/keras-hub, src/utils/preset_utils.py (MODEL_WEIGHTS_FILE);
mlfoundations/open_clip, src/open_clip/constants.py (HF_WEIGHTS_NAME, HF_SAFE_WEIGHTS_NAME).
"""
WEIGHTS = (
    ".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".msgpack", ".onnx", ".pth.tar", ".pt.tar", ".pkl", ".h5", ".keras",
)  # fmt: skip
"""Suffixes of files that may hold weights."""
ORBAX = ("manifest.ocdbt", "_METADATA")
"""Files that mark a folder of Orbax. Source: https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html."""
DEPTH = 2
"""How many folders are gone down where each holds just one checkpoint (`run/100/params`)."""

FOLDERS_LIMIT = 1_000
"""Most inner folders that are looked into; a folder of more is a data set or a whole disk."""

_NO_WEIGHTS = re.compile(
    r"((optim(izer)?|scheduler|scaler|training_args|random_states|rng_state|sampler)[._-]|.*optim_states).*",
    re.IGNORECASE,
)
_OTHER_MODELS = re.compile(
    r"(pytorch_)?model(_\d+|\.\w+)\.(safetensors|bin)|consolidated(\.\d+)?\.(safetensors|pth)|task\.weights\.h5"
)
"""Files of a second model, another precision or a head: Accelerate's `model_1.safetensors`, `model.fp16.safetensors`,
Mistral's own, KerasHub's `task.weights.h5`."""
_NO_MODEL = re.compile(r"optim(izer)?([._-].*)?", re.IGNORECASE)
"""Folders of an optimizer's state: Accelerate's `optimizer_0`."""
_RANK = re.compile(r"(?P<before>.*?)(?<![A-Za-z])(?P<rank>rank[_-]?\d+)(?P<after>.*)")


def read(path: str | Path) -> Checkpoint:
    """Opens the checkpoint that a folder holds, with the configuration files beside it.

    Arguments:
        path: an existing folder.

    Raises:
        FileError: nothing in it that is read, or a part of it is missing.
        Ambiguous: several checkpoints, none of which has a standard name.
    """
    folder = Path(path)
    opener = _opener(folder, DEPTH)
    if opener is None:
        raise _nothing(folder)
    return replace(opener(), path=str(path))


def read_remote(url: str) -> Checkpoint:
    """Opens the file at an address, or the weights under a standard name in the folder there.

    Raises:
        MissingExtra: fsspec, or what it needs for this scheme, is not installed.
        FileError: nothing there that is read, or a server that knows no ranges.
    """
    from anyvit.containers.remote import Address

    address: Any = Address(url)
    if address.suffix in (*WEIGHTS, ".json", ".tar") or (address.suffix and address.is_file()):
        found = single.with_notes(beside(address, single.read(address)), single.shard_note(address))
    else:
        name = next((name for name in STANDARD if (address / name).is_file()), None)
        if name is None:
            raise FileError(
                f"nothing at {url} has a standard name", expected=", ".join(STANDARD[:4]) + ", …",
                remedy="give the address of the file itself",
            )  # fmt: skip
        found = _with_siblings(address, single.read(address / name))
    cause = "read by ranges; the bytes are checked on loading only where that is asked for"
    note = Note("note", (), cause, 'check="now"')
    return replace(single.with_notes(found, (note,)), path=url)


def beside(file: Path, checkpoint: Checkpoint) -> Checkpoint:
    """A single file with the configuration beside it, where its name is one that only such folders use."""
    match = single.SHARD.fullmatch(file.name)
    plain = match["stem"] + match["suffix"] if match else file.name
    return _with_siblings(file.parent, checkpoint) if plain in STANDARD else checkpoint


def _opener(folder: Path, depth: int) -> Opener | None:
    """How to open a folder, found from names alone; None where nothing in it is known."""
    files, folders = _listing(folder)
    for find in (_dcp, _standard, _orbax, _deepspeed, _numbered, _ranks, _lone):
        if (opener := find(folder, files)) is not None:
            return lambda: _with_siblings(folder, opener())
    return _nested(folder, folders, depth) if depth else None


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            kinds = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(name for name, inner in kinds if not inner), sorted(name for name, inner in kinds if inner)


def _dcp(folder: Path, files: Sequence[str]) -> Opener | None:
    parts = [name for name in files if name.endswith(".distcp")]
    if not parts:
        return None

    def opener() -> Checkpoint:
        if ".metadata" not in files:
            raise FileError(
                f"{folder} holds parts of a distributed checkpoint, but not the list of its tensors",
                names=[str(folder / ".metadata")],
                usual="a copy that left out hidden files (cp folder/* …)",
                remedy="copy .metadata too",
            )
        from anyvit.containers import dcp

        return dcp.read(folder)

    return opener


def _standard(folder: Path, files: Sequence[str]) -> Opener | None:
    present = [name for name in STANDARD if name in files]
    if not present:
        return None
    chosen, others = present[0], tuple(present[1:])
    unread = tuple(name for name in files if name not in STANDARD and _OTHER_MODELS.fullmatch(name))

    def opener() -> Checkpoint:
        notes = shards.unlisted(folder, chosen) if chosen == "model.safetensors" else ()
        if others:
            cause = f"{chosen} was opened; the folder holds the same or other weights under more names"
            notes = (*notes, Note("preferred", others, cause, f"open {folder / others[0]} to have the other"))
        if unread:
            cause = f"{chosen} was opened; these files may hold other weights"
            notes = (*notes, Note("stray", unread, cause, f"open {folder / unread[0]} to have another"))
        return single.with_notes(single.read(folder / chosen), notes)

    return opener


def _orbax(folder: Path, files: Sequence[str]) -> Opener | None:
    if not any(name in files for name in ORBAX):
        return None

    def opener() -> Checkpoint:
        from anyvit.containers import orbax

        return orbax.read(folder)

    return opener


def _deepspeed(folder: Path, files: Sequence[str]) -> Opener | None:
    whole = [name for name in files if re.fullmatch(r"mp_rank_\d+_model_states\.pt", name)]
    parts = [
        name for name in files if re.fullmatch(r"(bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt", name)
    ]
    if not whole and not parts:
        return None

    def opener() -> Checkpoint:
        if parts:
            raise FileError(
                f"{folder} is a DeepSpeed checkpoint of ZeRO stage 3: each file holds a part of every tensor",
                names=parts,
                remedy="python zero_to_fp32.py . pytorch_model.bin in the folder above, then open that file",
            )
        if len(whole) > 1:
            raise FileError(
                f"{folder} is a DeepSpeed checkpoint of a model split over several devices",
                names=whole,
                expected="one mp_rank_00_model_states.pt",
                remedy="merge it with the training code, then open the result",
            )
        note = Note(
            "preferred", (whole[0],), "the weights as the model ran; the optimizer's 32-bit copies are not read"
        )
        return single.with_notes(single.read(folder / whole[0]), (note,))

    return opener


def _numbered(folder: Path, files: Sequence[str]) -> Opener | None:
    """Shards without an index."""
    stems: dict[tuple[str, str, str], list[str]] = {}
    for name in files:
        if (match := single.SHARD.fullmatch(name)) and match["suffix"] in WEIGHTS:
            stems.setdefault((match["stem"], match["count"], match["suffix"]), []).append(name)
    if not stems:
        return None

    def opener() -> Checkpoint:
        if len(stems) > 1:
            raise _several(folder, [names[0] for names in stems.values()])
        return shards.read_complete(folder, next(iter(stems.values())))

    return opener


def _ranks(folder: Path, files: Sequence[str]) -> Opener | None:
    """One file a process, as FSDP's sharded state dicts are saved; a single process is a plain file."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in files:
        if (match := _RANK.fullmatch(name)) and name.endswith(WEIGHTS) and not _NO_WEIGHTS.match(name):
            groups.setdefault((match["before"], match["after"]), []).append(name)
    parts = [name for names in groups.values() if len(names) > 1 for name in names]
    if not parts:
        return None

    def opener() -> Checkpoint:
        raise FileError(
            f"{folder} holds one file a process: each has a flat part of every tensor (FSDP)",
            names=parts,
            usual="training saved its local or sharded state",
            remedy="save with StateDictType.FULL_STATE_DICT or torch.distributed.checkpoint, then open that",
        )

    return opener


def _lone(folder: Path, files: Sequence[str]) -> Opener | None:
    """The only file that looks like weights, whatever its name."""
    found = [name for name in files if _may_be_weights(name)]
    if not found:
        return None

    def opener() -> Checkpoint:
        if len(found) > 1:
            raise _several(folder, found)
        return single.read(folder / found[0])

    return opener


def _may_be_weights(name: str) -> bool:
    if name.startswith(".") or _NO_WEIGHTS.match(name):
        return False
    # flax.training.checkpoints names its files checkpoint_<step>, without a suffix.
    return name.lower().endswith(WEIGHTS) or re.fullmatch(r"checkpoint(_\d+)?", name) is not None


def _nested(folder: Path, folders: Sequence[str], depth: int) -> Opener | None:
    inner: dict[str, Opener] = {}
    for name in folders if len(folders) <= FOLDERS_LIMIT else ():
        with contextlib.suppress(FileError):  # a folder that may not be listed hides no other
            if (
                not name.startswith((".", "__"))
                and not _NO_MODEL.fullmatch(name)
                and (found := _opener(folder / name, depth - 1)) is not None
            ):
                inner[name] = found
    if not inner:
        return None
    chosen = next(iter(inner)) if len(inner) == 1 else _latest(folder, inner)

    def opener() -> Checkpoint:
        if chosen is None:
            raise _several(folder, list(inner))
        note = Note("nested", (chosen,), f"opened from {folder / chosen}")
        return single.with_notes(_with_siblings(folder, inner[chosen]()), (note,))

    return opener


def _latest(folder: Path, inner: Mapping[str, Opener]) -> str | None:
    """The folder that DeepSpeed's `latest` file names."""
    path = folder / "latest"
    if not path.is_file() or path.stat().st_size > 200:
        return None
    file = LocalFile(path)
    name = file.read(0, file.size).decode("utf-8", "replace").strip()
    return name if name in inner else None


def _several(folder: Path, names: Sequence[str]) -> Ambiguous:
    ordered = sorted(names, key=single.by_number)
    likely = next((name for name in ordered if re.search(r"vision|image|visual|vit", name, re.IGNORECASE)), ordered[-1])
    return Ambiguous(
        f"{folder} holds several checkpoints",
        names=ordered,
        remedy=f"open one of them, for instance {folder / likely}",
    )


def _with_siblings(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    """The files of an inner folder win over those of an outer one."""
    found, notes = siblings.read(folder)
    return replace(checkpoint, siblings={**found, **checkpoint.siblings}, notes=(*checkpoint.notes, *notes))


def _nothing(folder: Path) -> FileError:
    files, folders = _listing(folder)
    names = [*files, *(f"{name}/" for name in folders)]
    if not names:
        return FileError(f"{folder} is an empty folder", usual="a download that was stopped, or another path was meant")
    if "saved_model.pb" in names:
        return FileError(
            f"{folder} is a TensorFlow SavedModel, which is not supported", remedy="save its variables with numpy.savez"
        )
    return FileError(
        f"{folder} holds no checkpoint that is known",
        found=", ".join(names[:12]) + (f" … ({len(names)} in all)" if len(names) > 12 else ""),
        expected="weights like model.safetensors or *.pth, a weight map and its shards, or a DCP or Orbax folder",
    )
