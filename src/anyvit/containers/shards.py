"""Several files that are one checkpoint: a Hugging Face weight map and its shards, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from anyvit.containers import checksums, single, sniff
from anyvit.containers.inside import inside
from anyvit.errors import FileError, UnsafeError
from anyvit.lazy import Checkpoint, Lazy, Note, every


def read_index(index: Path) -> Checkpoint:
    """Opens the shards that a weight map names, and compares both.

    A shard that is not there is noted with the names of its tensors: one tower of a large model may be whole without it.

    Arguments:
        index: the JSON file, `model.safetensors.index.json` or its like.

    Raises:
        FileError: no shard is there, or one is damaged.
        UnsafeError: the map leads out of its folder.
    """
    content = sniff.weight_map(index)
    where: Mapping[str, object] = content["weight_map"]  # type: ignore[assignment]
    if index.name.endswith(".weights.json"):
        return _keras(index, where)
    if not all(isinstance(shard, str) for shard in where.values()):
        raise UnsafeError(f"the weight map {index} does not map names to file names")
    listed = {str(name): str(shard) for name, shard in where.items()}
    shards = list(dict.fromkeys(listed[name] for name in sorted(listed, key=lambda name: listed[name])))
    paths = [inside(index.parent, shard, f"the weight map {index.name}") for shard in shards]
    absent = [shard for shard, path in zip(shards, paths, strict=True) if not path.exists()]
    if len(absent) == len(shards):
        _check_present(str(index), paths)
    there = [(shard, path) for shard, path in zip(shards, paths, strict=True) if shard not in absent]
    opened = {shard: single.read(path, index=False) for shard, path in there}
    listed = {_spelt(name, opened.get(shard)): shard for name, shard in listed.items()}
    tensors, notes = _joined(opened, {name: shard for name, shard in listed.items() if shard not in absent})
    if absent:
        lost = tuple(name for name, shard in listed.items() if shard in absent and name not in tensors)
        cause = f"{len(absent)} of {len(shards)} shards are missing: {', '.join(absent[:4])}"
        cause += f" and {len(absent) - 4} more" if len(absent) > 4 else ""
        notes.append(Note("absent", lost, cause, "fetch the missing files into the folder"))
    notes += unlisted(index.parent, shards[0], shards)
    return _checkpoint(index.parent, list(opened.values()), tensors, notes)


def _keras(index: Path, where: Mapping[str, object]) -> Checkpoint:
    """Keras' map says for each group in which files it lies, one or several.

    Source: keras-team/keras v3.15.1 keras/src/saving/saving_lib.py ShardedH5IOStore.
    """
    from anyvit.containers import hdf5

    said = [shard for shards in where.values() for shard in (shards if isinstance(shards, list) else [shards])]
    names = sorted({shard for shard in said if isinstance(shard, str)})
    if not names or not all(isinstance(shard, str) for shard in said):
        raise UnsafeError(f"the weight map {index} does not map groups to file names")
    paths = [inside(index.parent, shard, f"the weight map {index.name}") for shard in names]
    _check_present(str(index), paths)
    return hdf5.read_parts(paths, index.parent)


def _spelt(name: str, shard: Checkpoint | None) -> str:
    """A name of a weight map as its shard spells it: TensorFlow's map counts outputs and names the model, flax' has slashes."""
    if shard is None or name in shard.tensors:
        return name
    plain = name.removesuffix(":0")
    others = (plain, plain.partition("/")[2], plain.replace("/", "."))
    return next((other for other in others if other in shard.tensors), name)


def read_complete(folder: Path, names: Sequence[str]) -> Checkpoint:
    """Opens shards that lie in a folder without a weight map; all must be there.

    Arguments:
        names: file names of one stem, like `model-00001-of-00002.safetensors`.
    """
    match = single.SHARD.fullmatch(names[0])
    assert match is not None, names
    count = int(match["count"])
    paths = [
        inside(folder, f"{match['stem']}-{i:05d}-of-{count:05d}{match['suffix']}", "the folder")
        for i in range(1, min(count, 10_000) + 1)
    ]
    _check_present("the number in the file names", paths)
    opened = {path.name: single.read(path, index=False) for path in paths}
    tensors, notes = _joined(opened, {})
    notes.append(Note("shard", tuple(opened), f"{count} shards without an index file, all present"))
    return _checkpoint(folder, list(opened.values()), tensors, notes)


def _check_present(source: str, paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if len(missing) == len(paths):
        raise FileError(
            f"{source} is a JSON weight map, no tensors",
            names=[str(path) for path in missing],
            usual="the index was fetched without its shards",
            remedy="put the shards beside it",
        )
    if missing:
        raise FileError(
            f"{len(missing)} of {len(paths)} shards are missing",
            names=[str(path) for path in missing],
            expected=f"every file that {source} asks for",
            usual="a download that was cut",
            remedy="fetch the missing files into the folder",
        )


def _joined(opened: Mapping[str, Checkpoint], listed: Mapping[str, str]) -> tuple[dict[str, Lazy], list[Note]]:
    """All tensors once, and what the weight map and the shards say differently."""
    homes: dict[str, list[str]] = {}
    for shard, part in opened.items():
        for name in part.tensors:
            homes.setdefault(name, []).append(shard)
    tensors: dict[str, Lazy] = {}
    for name, shards in homes.items():
        wanted = listed.get(name)
        tensors[name] = opened[wanted if wanted in shards else shards[0]].tensors[name]
    twice = [name for name, shards in homes.items() if len(shards) > 1]
    moved = [n for n, shards in homes.items() if n in listed and listed[n] not in shards]
    stray = [name for name in homes if listed and name not in listed]
    lost = [name for name in listed if name not in homes]
    said = (
        ("duplicate", twice, "in several shards; the copy that the weight map names, else the first, is used"),
        ("misplaced", moved, "in another shard than the weight map says"),
        ("stray", stray, "in a shard, but not in the weight map"),
        ("missing", lost, "in the weight map, but in no shard"),
    )
    notes = [Note(kind, tuple(names), cause, "fetch index and shards again") for kind, names, cause in said if names]
    return tensors, notes


def unlisted(folder: Path, name: str, used: Sequence[str] = ()) -> tuple[Note, ...]:
    """A note on shards of the same stem as `name` that lie beside it and are not used."""
    match = single.SHARD.fullmatch(name)
    stem = match["stem"] + match["suffix"] if match else name
    extra = [
        path.name
        for path in sorted(folder.iterdir())
        if (other := single.SHARD.fullmatch(path.name))
        and other["stem"] + other["suffix"] == stem
        and path.name not in used
    ]
    cause = "shards that nothing names, not opened"
    return (Note("stray", tuple(extra), cause, "remove them if they are left from another save"),) if extra else ()


def _check_one_save(folder: Path, parts: Sequence[Checkpoint]) -> None:
    """Shards that anyvit wrote all repeat the same record; after a save that was killed they may not."""
    records = {
        part.path: {k: v for k, v in part.metadata.items() if k.startswith(checksums.PREFIX) and k != checksums.KEY}
        for part in parts
    }
    first = next(iter(records.values()), {})
    other = [PurePosixPath(path).name for path, record in records.items() if record != first]
    if other:
        raise FileError(
            f"the shards in {folder} are of two conversions",
            names=other,
            usual="a conversion into a folder that held another model was killed at its very end",
            remedy="convert again",
        )


def _checkpoint(folder: Path, parts: Sequence[Checkpoint], tensors: dict[str, Lazy], notes: list[Note]) -> Checkpoint:
    _check_one_save(folder, parts)
    extras = {key: value for part in reversed(parts) for key, value in part.extras.items()}
    checks = [part.verify for part in parts if part.verify is not None]
    sums = [part.sums for part in parts if part.sums is not None]
    return Checkpoint(
        tensors,
        parts[0].container if parts else "safetensors",
        str(folder),
        extras=extras,
        aliases={name: first for part in parts for name, first in part.aliases.items()},
        notes=(*notes, *(note for part in parts for note in part.notes)),
        metadata={key: value for part in reversed(parts) for key, value in part.metadata.items()},
        verify=(lambda wanted=every: _chained(checks, wanted)) if checks else None,
        sums=(lambda: {name: one for made in sums for name, one in made().items()}) if sums else None,
    )


def _chained(checks: Sequence[Callable[..., Iterator[Note]]], wanted: Callable[[str], bool]) -> Iterator[Note]:
    for check in checks:
        yield from check(wanted)
