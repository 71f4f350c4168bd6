"""Whether bytes are those that were written and values those of weights; and a record of where a file comes from.

Reading every byte costs more than loading a model does. So it is done at once for small files, and beside the work for
large ones: checksums of the container, checksums that `convert` recorded, and a look at the values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyvit import __version__, canon, containers
from anyvit.containers import checksums
from anyvit.containers.stream import room
from anyvit.errors import AnyvitError, BadArgument, FileError
from anyvit.lazy import Checkpoint, Lazy, Note
from anyvit.report import Finding, fold
from anyvit.scan import SHARE, Seen, scan
from anyvit.side_by_side import mapped

if TYPE_CHECKING:
    from threading import Thread

    from anyvit.reading import Reading
    from anyvit.rules import Dialect
    from anyvit.spec import Spec

MODES = ("now", "beside", "off")
SMALL = 16 << 20
"""Bytes that are checked at once: about the time that building a model takes."""
RECORD = "anyvit.provenance"
"""Metadata key of the record."""
TOLD = ("weights", "resized", "folded", "new", "assumed", "ignored", "unsayable", "rewritten", "trained")
"""Kinds of findings that say how the tensors of a file came to be what they are."""


def mode(check: str | None, size: int) -> str:
    """When bytes are checked.

    Arguments:
        check: "now", "beside", "off", or None for what suits the size.
        size: bytes to read.

    Raises:
        BadArgument: another word.

    Example:
        >>> mode(None, 1 << 20), mode(None, 1 << 30), mode("off", 0)
        ('now', 'beside', 'off')
    """
    if check is None:
        return "now" if size <= SMALL else "beside"
    if check not in MODES:
        raise BadArgument("check says when the bytes are looked at", found=check, expected=" or ".join(MODES))
    return check


def begin(
    checkpoint: Checkpoint, tensors: Mapping[str, Lazy], check: str | None = None, spec: Spec | None = None
) -> Check:
    """Starts to check what a model was read from.

    Arguments:
        checkpoint: the opened file.
        tensors: canonical name → tensor; what they are made of is read.
        check: "now" checks before this returns, "beside" in a thread, "off" not at all; None: see `mode`.
        spec: the architecture, where blocks that lie otherwise than their names say are to be found as well.

    Returns:
        The check; `wait` and `findings` give its verdict.

    Raises:
        FileError: checked at once, and a checksum is wrong.
        BadArgument: another word.
    """
    names = _sources(checkpoint, tensors)
    # What lies elsewhere would be fetched twice.
    check = "off" if check is None and "://" in checkpoint.path else check
    when = mode(check, sum(checkpoint.tensors[name].nbytes for name in names))
    running = Check(checkpoint, names, None if spec is None else (lambda: _odd(tensors, spec)))
    if when == "now":
        running.run()
        running.wait()
    elif when == "beside":
        running.start()
    return running


def _odd(tensors: Mapping[str, Lazy], spec: Spec) -> tuple[Finding, ...]:
    from anyvit.deep import odd_blocks

    return odd_blocks(tensors, spec)


def _sources(checkpoint: Checkpoint, tensors: Mapping[str, Lazy]) -> dict[str, bool]:
    """The names in the file that canonical tensors are made of, and whether each is a weight matrix."""
    names: dict[str, bool] = {}
    for name, tensor in tensors.items():
        for origin in tensor.origin:
            if origin in checkpoint.tensors:
                names[origin] = names.get(origin, False) or _is_matrix(name)
    return names


def _is_matrix(name: str) -> bool:
    """Whether a canonical tensor is a matrix that training fills: zeros in biases, tokens and new heads are usual."""
    return name.endswith(".weight") and (canon.role(name) in ("attention", "mlp") or name == "embed.patch.weight")


class Check:
    """A check that has run, runs beside, or never will.

    Arguments:
        checkpoint: the opened file.
        names: tensor to read → whether it is a weight matrix.
        more: what else to ask once the bytes are read.
    """

    def __init__(
        self, checkpoint: Checkpoint, names: Mapping[str, bool], more: Callable[[], tuple[Finding, ...]] | None = None
    ) -> None:
        self._job: tuple[Checkpoint, Mapping[str, bool]] | None = (checkpoint, names)
        self._more = more
        self._thread: Thread | None = None
        self._error: Exception | None = None
        self._findings: tuple[Finding, ...] = ()
        self._digest: str | None = None

    def run(self) -> None:
        """Reads every byte; what is wrong is kept for `wait`."""
        job, self._job = self._job, None
        if job is None:
            return
        try:
            self._findings, self._digest = _examined(*job)
            self._findings += self._more() if self._more else ()
        except Exception as error:  # kept, so that a thread loses nothing
            self._error = error

    def start(self) -> None:
        """Runs in a thread that the end of the process does not wait for."""
        from threading import Thread

        self._thread = Thread(target=self.run, name="anyvit-check", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for the verdict of a check that was started.

        Raises:
            FileError: a checksum is wrong, or the file cannot be read any more.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error.with_traceback(None)

    def findings(self) -> tuple[Finding, ...]:
        """What was found in the values; waits.

        Raises:
            FileError: as `wait`.
        """
        self.wait()
        return self._findings

    def verdict(self) -> tuple[Finding, ...]:
        """The same with a wrong checksum as a fatal finding; waits, raises nothing that is anyvit's own."""
        try:
            return self.findings()
        except AnyvitError as error:
            return (Finding("damaged", error.names, error.cause, error.remedy, fatal=True),)

    def seal(self) -> dict[str, str]:
        """What a writer puts into the metadata when the verdict is there: the checksum over the source; waits.

        Raises:
            FileError: as `wait`.
        """
        self.wait()
        return {checksums.SOURCE: self._digest} if self._digest else {}

    def __deepcopy__(self, memo: Any) -> Check:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        found = self.verdict()
        return _settled, (found, self._error, self._digest)


def _settled(findings: tuple[Finding, ...], error: Exception | None, digest: str | None) -> Check:
    check = Check(Checkpoint({}, "memory"), {})
    check._job, check._findings, check._error, check._digest = None, findings, error, digest
    return check


def _examined(checkpoint: Checkpoint, names: Mapping[str, bool]) -> tuple[tuple[Finding, ...], str]:
    """Findings on the values of tensors, and one checksum over all of them.

    Raises:
        FileError: a checksum of the container or of the file's own record is wrong.
    """
    other = _compare(checkpoint, names)
    algorithm = checksums.preferred()
    rooms: list[memoryview] = []

    def look(name: str) -> tuple[Seen, str]:
        buffer = rooms.pop() if rooms else room()
        made = checksums.begun(algorithm, checkpoint.tensors[name])
        seen = scan(checkpoint.tensors[name], made.update, buffer)
        rooms.append(buffer)
        return seen, made.hexdigest()

    found = mapped(look, names, sum(checkpoint.tensors[name].nbytes for name in names))
    met = {name: seen for name, (seen, _) in zip(names, found, strict=True)}
    digests = {name: made for name, (_, made) in zip(names, found, strict=True)}
    return (*other, *told(checkpoint.tensors, met, names)), checksums.joined(digests, algorithm)


def _compare(checkpoint: Checkpoint, names: Iterable[str] | None) -> list[Finding]:
    """What the checksums of a file say beside that its bytes are right.

    Raises:
        FileError: that they are not.
    """
    if checkpoint.verify is None:
        return []
    notes = list(checkpoint.verify(None if names is None else frozenset(names)))
    wrong = [note for note in notes if note.kind == "damaged"]
    if wrong:
        raise _damaged(checkpoint, wrong)
    return [Finding(note.kind, fold(note.names), note.cause, note.remedy) for note in notes]


def _damaged(checkpoint: Checkpoint, wrong: list[Note]) -> FileError:
    names = tuple(dict.fromkeys(name for note in wrong for name in note.names))
    what = "tensor is" if len(names) == 1 else "tensors are"
    return FileError(
        f"{checkpoint.path or 'the file'} is damaged: {len(names)} {what} not what was written",
        names=names,
        found=wrong[0].cause.splitlines()[0],
        usual="a flipped bit, or a download or copy that went wrong",
        remedy=next((note.remedy for note in wrong if note.remedy), "fetch the file again"),
    )


def told(tensors: Mapping[str, Lazy], met: Mapping[str, Seen], matrices: Mapping[str, bool]) -> tuple[Finding, ...]:
    """Findings for what was met in values, each with its place.

    Arguments:
        tensors: name → tensor.
        met: name → what `scan` met.
        matrices: name → whether it is a weight matrix, which is never constant.
    """
    bad, lone, constant, gaps, tiny = [], [], [], [], []
    for name, seen in met.items():
        shape = tensors[name].shape
        count = prod(shape)
        if seen.bad:
            many, first, value = seen.bad
            bad.append((name, f"{place(name, shape, first)} = {value} ({many} of {count} values)"))
        for at, value in seen.lone:
            lone.append((name, f"{place(name, shape, at)} = {value:.3g}"))
        if matrices.get(name) and seen.constant is not None and count > 1:
            constant.append((name, f"all {count} values of {name} are {seen.constant:g}"))
        elif matrices.get(name) and seen.gaps:
            gaps.append((name, f"{seen.gaps[0]} pages of zeros from {place(name, shape, seen.gaps[1])}"))
        if seen.tiny > SHARE * count:
            tiny.append((name, f"{seen.tiny} of {count} values of {name}"))
    again = "compare with the original: a damaged copy, or training that diverged"
    cut = "compare with the original: part of the file was never filled, or the weights were set to zero on purpose"
    slow = "torch.set_flush_denormal(True) where the processor is slow"
    return tuple(
        Finding(kind, fold(dict.fromkeys(name for name, _ in found)), f"{what}: {_listed(found)}", remedy)
        for kind, found, what, remedy in (
            ("nan", bad, "NaN or infinite values", again),
            ("outlier", lone, "a lone value of implausible magnitude, as a flipped bit makes it", again),
            ("constant", constant, "a weight matrix that is constant", cut),
            ("constant", gaps, "gaps in a weight matrix", cut),
            ("denormal", tiny, "values below the smallest normal number", slow),
        )
        if found
    )


def _listed(found: list[tuple[str, str]]) -> str:
    more = f", and {len(found) - 4} more" if len(found) > 4 else ""
    return "; ".join(text for _, text in found[:4]) + more


def place(name: str, shape: tuple[int, ...], flat: int) -> str:
    """Where a value lies.

    Example:
        >>> place("a.weight", (2, 3), 4)
        'a.weight[1, 1]'
    """
    at = []
    for size in reversed(shape):
        flat, index = divmod(flat, size)
        at.append(str(index))
    return f"{name}[{', '.join(reversed(at))}]" if at else name


def record(
    found: Reading, dialect: Dialect, findings: Iterable[Finding], asked: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Metadata that says where a written file comes from: no clock, path or random id.

    Arguments:
        found: the source, understood.
        dialect: the target's.
        findings: what was resized, folded, assumed, … on the way.
        asked: the adaptations that the caller asked for, by argument.

    Returns:
        Metadata; a `Check.seal` replaces the blank source checksum in it.
    """
    assert found.match is not None and found.spec is not None
    reading = found.match.dialect
    used = {hit.item.theirs: hit.item for hit in found.match.hits.values()} if found.match.hits else {}
    assumed = {n: f.value for n, f in found.spec.facts.items() if f.how == "assumed"}
    content = {
        "anyvit": __version__,
        "source": {
            "container": found.checkpoint.container,
            "dialect": reading.name,
            "prefix": found.match.prefix,
            "lineage": found.spec.lineage,
            "tensors": len(found.tensors),
        },
        "target": {"dialect": dialect.name},
        "asked": dict(asked or {}),
        "rules": [[rule.theirs, rule.ours, rule.axes] for rule in used.values()],
        "changes": changes(findings),
        "assumed": assumed,
    }
    if earlier := _earlier(found.checkpoint):
        content["earlier"] = earlier
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return {RECORD: text, checksums.SOURCE: checksums.blank()}


def changes(findings: Iterable[Finding]) -> list[list[Any]]:
    """The findings that a record keeps, as plain values: kind, names, cause."""
    return [[f.kind, list(f.names), f.cause] for f in findings if f.kind in TOLD]


def _earlier(checkpoint: Checkpoint) -> list[Any]:
    """What was changed before the source was written, oldest first."""
    before = provenance(checkpoint)
    both = [before.get("earlier"), before.get("changes")]
    return [change for some in both if isinstance(some, list) for change in some]


def recordless(out: Path) -> tuple[Finding, ...]:
    """What to say of a target that has no place for the record.

    Example:
        >>> [f.kind for f in recordless(Path("model.npz"))], recordless(Path("model.safetensors"))
        (['note'], ())
    """
    if out.suffix.lower() != ".npz":
        return ()
    cause = "npz has no place for the record of where the tensors come from; its own CRC-32 of each array is there"
    return (Finding("note", (), cause, "write .safetensors to have the record"),)


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """The record of a file that anyvit wrote, with its source's checksum; empty for others and for one that is damaged.

    Example:
        >>> provenance(Checkpoint({}, "safetensors", metadata={"anyvit.provenance": '{"target": {"dialect": "timm"}}'}))
        {'target': {'dialect': 'timm'}}
    """
    try:
        content = json.loads(checkpoint.metadata.get(RECORD, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    digest = checkpoint.metadata.get(checksums.SOURCE, "")
    return {**content, "source_digest": digest} if digest.rpartition(":")[2].strip("0") else content


def source_digest(path: Any, weights: str | None = None) -> str:
    """The checksum over the tensors that a model is read from, as `convert` records it.

    Arguments:
        path: a file, a folder or a mapping.
        weights: the weight set, as for `load`.

    Returns:
        Algorithm, colon, hexadecimal digits; the same where names, element types, shapes and bytes are.
    """
    from anyvit.reading import Ask, understand

    found = understand(containers.open_checkpoint(path), Ask(weights))
    algorithm = checksums.preferred()
    names = _sources(found.checkpoint, found.tensors)
    digests = {name: checksums.digest(found.checkpoint.tensors[name], algorithm) for name in names}
    return checksums.joined(digests, algorithm)


def prove(path: Any, source: Any = None) -> list[Finding]:
    """Reads every byte of a file and says what its checksums, its record and its values prove.

    Arguments:
        path: a file or a folder.
        source: what it was converted from, to be compared with the record; None to leave that out.

    Returns:
        Findings: "damaged" (fatal) for each wrong checksum, "nan", "outlier", "constant" and "denormal" for values,
        "checked" for what agrees, "unchecked" where there is nothing to compare with.

    Raises:
        FileError: the file cannot be read at all.
    """
    from anyvit.reading import understand

    checkpoint = containers.open_checkpoint(path)
    found = list(_proved(checkpoint))
    matrices = _sources(checkpoint, understand(checkpoint).tensors)
    met: dict[str, Seen] = {}
    buffer = room()
    for name in matrices or checkpoint.tensors:
        try:
            met[name] = scan(checkpoint.tensors[name], buffer=buffer)
        except AnyvitError as error:
            found.append(Finding("damaged", (name,), error.cause, error.remedy, fatal=True))
    found += told(checkpoint.tensors, met, matrices)
    if source is not None:
        found.append(_traced(checkpoint, source))
    return list(dict.fromkeys(found))


def _proved(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.verify is None:
        cause = f"this {checkpoint.container} file holds no checksums, so its bytes can be compared with nothing"
        yield Finding("unchecked", (), cause, "files that anyvit.convert writes hold them")
        return
    notes = list(checkpoint.verify())
    for note in notes:
        yield Finding(note.kind, fold(note.names), note.cause, note.remedy, fatal=note.kind == "damaged")
    if not notes:
        recorded = checksums.KEY in checkpoint.metadata
        what = "of each tensor, recorded when it was written," if recorded else f"of the {checkpoint.container} file"
        yield Finding("checked", (), f"every byte was read; the checksums {what} agree")


def _traced(checkpoint: Checkpoint, source: Any) -> Finding:
    """Whether a file was made from a source."""
    said = checkpoint.metadata.get(checksums.SOURCE)
    if said is None or not said.rpartition(":")[2].strip("0"):
        return Finding("unchecked", (), "the file records no checksum of its source")
    found = source_digest(source)
    if found == said:
        return Finding("checked", (), f"made from the tensors of this source ({said})")
    return Finding("damaged", (), f"made from other tensors: {said} recorded, {found} in this source", None, fatal=True)
