"""Whether bytes are those that were written, and values those of weights.

Reading every byte costs more than loading a model does. So it is done at once for small files, and beside the work for
large ones: checksums of the container, checksums that `convert` recorded, and a look at the values.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anyvit import containers
from anyvit.containers import checksums
from anyvit.containers.stream import room
from anyvit.damage import told, unlike
from anyvit.errors import AnyvitError, BadArgument, FileError
from anyvit.lazy import Checkpoint, Lazy, Note, Sum
from anyvit.provenance import Use, source_digest, sources
from anyvit.report import Finding, fold
from anyvit.scan import Seen
from anyvit.side_by_side import mapped
from anyvit.witness import Witness, look

if TYPE_CHECKING:
    from threading import Thread

    from anyvit.spec import Spec

MODES = ("now", "beside", "off")
SMALL = 16 << 20
"""Bytes that are checked at once: about the time that building a model takes."""


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
    checkpoint: Checkpoint,
    tensors: Mapping[str, Lazy],
    check: str | None = None,
    spec: Spec | None = None,
    *,
    again: bool = False,
    waits: bool = False,
    reads: bool = False,
) -> Check:
    """Starts to check what a model was read from.

    Arguments:
        checkpoint: the opened file.
        tensors: canonical name → tensor; what they are made of is read.
        check: "now" checks before this returns, "beside" in a thread, "off" not at all; None: see `mode`.
        spec: the architecture, where blocks that lie otherwise than their names say are to be found as well.
        again: whether the bytes may have to be read once more (`Check.again`); the file then stays open.
        waits: whether the caller waits for the verdict anyway: then all processors work on it.
        reads: whether the caller reads the tensors itself and shows them to `Check.witness`, where there is one; only
            what it does not read is read for the check, when the verdict is asked for. One who waits for what can
            refuse the file is given none where the file has checksums.

    Returns:
        The check; `wait` and `findings` give its verdict.

    Raises:
        FileError: checked at once, and a checksum is wrong.
        BadArgument: another word.
    """
    names = sources(checkpoint, tensors)
    # What lies elsewhere would be fetched twice.
    check = "off" if check is None and "://" in checkpoint.path else check
    when = mode(check, sum(checkpoint.tensors[name].nbytes for name in names))
    running = Check(checkpoint, names, None if spec is None else (lambda spare: _odd(tensors, spec, spare)), again)
    if when == "beside" and reads and (checkpoint.verify is None or not waits):
        asked = {name: checkpoint.tensors[name] for name in names}
        running.witness = Witness(asked, checksums.preferred(), _sums(checkpoint))
    elif when == "now" or (when == "beside" and waits):
        running.run()
        running.wait()
    elif when == "beside":
        running.start()
    return running


def _odd(tensors: Mapping[str, Lazy], spec: Spec, spare: int) -> tuple[Finding, ...]:
    from anyvit.deep import odd_blocks

    return odd_blocks(tensors, spec, spare)


class Check:
    """A check that has run, runs beside, or never will.

    Arguments:
        checkpoint: the opened file.
        names: tensor to read → what it is in the model.
        more: what else to ask once the bytes are read; is given the processors to leave free.
        again: whether the bytes may have to be read once more.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Mapping[str, Use],
        more: Callable[[int], tuple[Finding, ...]] | None = None,
        again: bool = False,
    ) -> None:
        self._job: tuple[Checkpoint, Mapping[str, Use]] | None = (checkpoint, names)
        self._read = self._job if again else None
        self._more = more
        self._thread: Thread | None = None
        self._error: Exception | None = None
        self._findings: tuple[Finding, ...] = ()
        self._digest: str | None = None
        self.witness: Witness | None = None
        """What is shown the tensors by who reads them."""

    def run(self, spare: int = 0) -> None:
        """Reads every byte, by all processors but `spare`; what is wrong is kept for `wait`."""
        (job, self._job), (more, self._more) = (self._job, None), (self._more, None)
        if job is None:
            return
        try:
            self._findings, self._digest = _examined(*job, spare, self.witness.met if self.witness else {})
            self._findings += more(spare) if more else ()
        except Exception as error:  # kept, so that a thread loses nothing
            self._error = error

    def start(self) -> None:
        """Runs in a thread that the end of the process does not wait for."""
        from threading import Thread

        self._thread = Thread(target=self.run, args=(1,), name="anyvit-check", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for the verdict of a check that was started; one that was shown the tensors looks at what it was not shown.

        Raises:
            FileError: a checksum is wrong, or the file cannot be read any more.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.witness is not None:
            self.run()
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

    def again(self) -> bool | None:
        """Whether the bytes still have the checksum that the check took; None where it took none."""
        if self._digest is None or self._read is None:
            return None
        algorithm = checksums.preferred()
        tensors, names = self._read[0].tensors, self._read[1]
        return checksums.joined({n: checksums.digest(tensors[n], algorithm) for n in names}, algorithm) == self._digest

    def __deepcopy__(self, memo: Any) -> Check:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        found = self.verdict()
        return _settled, (found, self._error, self._digest)


def _settled(findings: tuple[Finding, ...], error: Exception | None, digest: str | None) -> Check:
    check = Check(Checkpoint({}, "memory"), {})
    check._job = check._read = None
    check._findings, check._error, check._digest = findings, error, digest
    return check


def _examined(
    checkpoint: Checkpoint, names: Mapping[str, Use], spare: int, met: Mapping[str, Seen]
) -> tuple[tuple[Finding, ...], str]:
    """Findings on the values of tensors, and one checksum over all of them; what was met already is not read.

    Raises:
        FileError: a checksum of the container or of the file's own record is wrong.
    """
    summed = _sums(checkpoint)
    met = {**met, **_looked(checkpoint, [n for n in names if n in summed and n not in met], summed, spare)}
    other = _compare(checkpoint, {n for n in names if n not in met or not met[n].proven})
    met |= _looked(checkpoint, [n for n in names if n not in met], summed, spare)
    met = {name: met[name] for name in names}
    digests = {name: seen.digest for name, seen in met.items()}
    findings = (
        *other,
        *told(checkpoint.tensors, met, names),
        *unlike(checkpoint.tensors, met, names, checkpoint.aliases),
    )
    return findings, checksums.joined(digests, checksums.preferred())


def _sums(checkpoint: Checkpoint) -> Mapping[str, Sum]:
    return checkpoint.sums() if checkpoint.sums is not None else {}


def _looked(
    checkpoint: Checkpoint, names: Sequence[str], summed: Mapping[str, Sum], spare: int = 0,
    wrong: dict[str, AnyvitError] | None = None,
) -> dict[str, Seen]:  # fmt: skip
    """What is met in tensors, each read once, for its values, its digest and the checksum that the file says.

    Arguments:
        wrong: takes the errors of tensors that cannot be read, which are left out then; None raises the first.
    """
    tensors, algorithm = checkpoint.tensors, checksums.preferred()
    rooms: list[memoryview] = []

    def looked(name: str) -> Seen | None:
        buffer = rooms.pop() if rooms else room(tensors[n] for n in names)
        try:
            return look(tensors[name], algorithm, summed.get(name), buffer)
        except AnyvitError as error:
            if wrong is None:
                raise
            wrong[name] = error
            return None
        finally:
            rooms.append(buffer)

    found = mapped(looked, names, sum(tensors[n].nbytes for n in names), spare)
    return {name: seen for name, seen in zip(names, found, strict=True) if seen is not None}


def _compare(checkpoint: Checkpoint, names: Container[str]) -> list[Finding]:
    """What the checksums of a file say beside that the bytes of some tensors are right.

    Raises:
        FileError: that they are not.
    """
    if checkpoint.verify is None:
        return []
    notes = list(checkpoint.verify(names.__contains__))
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


def prove(path: Any, source: Any = None) -> list[Finding]:
    """Reads every byte of a file and says what its checksums, its record and its values prove.

    Arguments:
        path: a file or a folder.
        source: what it was converted from, to be compared with the record; None to leave that out.

    Returns:
        Findings: "damaged" (fatal) for each wrong checksum, those of `damage` for values, "checked" for what agrees,
        "unchecked" where there is nothing to compare with.

    Raises:
        FileError: the file cannot be read at all.
    """
    from anyvit.reading import understand

    checkpoint = containers.open_checkpoint(path)
    uses = sources(checkpoint, understand(checkpoint).tensors)
    wrong: dict[str, AnyvitError] = {}
    met = _looked(checkpoint, list(uses or checkpoint.tensors), _sums(checkpoint), wrong=wrong)
    found = list(_proved(checkpoint, {name for name, seen in met.items() if seen.proven}))
    found += [Finding("damaged", (name,), error.cause, error.remedy, fatal=True) for name, error in wrong.items()]
    found += (*told(checkpoint.tensors, met, uses), *unlike(checkpoint.tensors, met, uses, checkpoint.aliases))
    if source is not None:
        found.append(_traced(checkpoint, source))
    return list(dict.fromkeys(found))


def _proved(checkpoint: Checkpoint, known: Container[str]) -> Iterator[Finding]:
    """What the checksums of a file say; of some tensors it is known that they agree."""
    if checkpoint.verify is None:
        cause = f"this {checkpoint.container} file holds no checksums, so its bytes can be compared with nothing"
        yield Finding("unchecked", (), cause, "files that anyvit.convert writes hold them")
        return
    notes = list(checkpoint.verify(lambda name: name not in known))
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
