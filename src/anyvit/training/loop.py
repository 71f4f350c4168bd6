"""Fine-tuning: a small loop whose runs can be killed and gone on with, to the last bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anyvit.errors import AnyvitError, BadArgument, needs
from anyvit.model import ViT
from anyvit.report import Finding
from anyvit.training import data as pictures
from anyvit.training import groups as rates
from anyvit.training import pixels, state
from anyvit.training.heads import give_head
from anyvit.training.losses import Loss, accuracy, check_labels, cross_entropy
from anyvit.training.progress import Bar
from anyvit.training.result import Result

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH = 32


@dataclass
class _Run:
    """All that a run needs, decided before its first step."""

    vit: ViT
    data: pictures.Examples
    order: pictures.Order
    trained: tuple[str, ...]
    groups: tuple[rates.Group, ...]
    steps: int
    warmup: int
    loss: Loss
    augment: pictures.Augment | None
    seed: int
    clip: float | None
    accumulate: int
    workers: int
    validation: pictures.Examples | None
    out: Path | None
    save_every: int
    arguments: dict[str, Any]
    losses: list[float] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """The fraction of the learning rate that a step has: a linear rise, then half a cosine down to zero."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def finetune(
    vit: Any,
    data: Any,
    *,
    classes: int | Sequence[str] | None = None,
    validation: Any = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int = BATCH,
    accumulate: int = 1,
    lr: float = 1e-4,
    new_lr: float | None = None,
    train: str | Sequence[str] = "all",
    new: Sequence[str] | None = None,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    clip: float | None = 1.0,
    loss: Loss | None = None,
    augment: str | pictures.Augment | None = None,
    precision: str = "32-true",
    device: str = "auto",
    devices: int | str = 1,
    workers: int = 0,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    save_every: int | None = None,
    progress: bool | None = None,
    fabric: Fabric | None = None,
) -> Result:
    """Trains a model on pictures with labels: all of it, its last blocks, its head, or what is new in it.

    AdamW; the rate rises over `warmup` and falls along half a cosine to zero. Parameters with `requires_grad=False`
    stay as they are. With `out`, a run that was killed goes on where its last checkpoint was, and on one CPU process
    ends in the same bits as one that was not; the model is written there as `model.safetensors`, which `load` and
    `convert` take.

    Arguments:
        vit: a `ViT`, which is trained in place, or what `load` takes.
        data: a folder of class folders with pictures; (pixels, labels) or (pixels, labels, condition), pixels
            (N, C, H, W) normalised or uint8 (N, H, W, C), labels (N,), condition (N, inputs) cameras or (N, D)
            embedded; or a dataset with a length of (picture, label) or (picture, label, condition).
        classes: how many, or the names of the class folders in the order of the labels; None as the data has them. A
            model whose head has another number of classes gets a new one of zeros.
        validation: like data; the fraction of its pictures that are told right is measured after every epoch.
        epochs: passes over the data, 10 unless `steps` is given.
        steps: of the optimizer, instead of epochs.
        batch_size: pictures of a step, of all processes together.
        accumulate: parts that a step's pictures are computed in, to save memory.
        lr: learning rate of what is behind the blocks; each layer before has `layer_decay` times that of the next.
        new_lr: of parameters that no file has filled (head, AdaLN, registers, further channels); None: ten times lr.
        train: "all", "head", "new", "last:N" (the last N blocks, all behind them, what is new), or beginnings of names.
        new: beginnings of names that are new; None as the model's report says.
        weight_decay: of matrices.
        warmup: fraction of the steps, or a number of steps from 1 on.
        clip: longest gradient; None for any.
        loss: takes `Features` and the labels of a batch; None for cross-entropy of the logits.
        augment: "crop+flip", or a function of pixels (C, H, W) and a generator; None for none.
        precision: of the computation, in Fabric's words: "32-true", "bf16-mixed", "16-mixed", "bf16-true".
        device: "auto", "cpu", "cuda", "mps".
        devices: how many; of several processes each computes its share of a batch (start them with torchrun).
        workers: processes that read pictures.
        seed: of the order, the augmentation and the global generators, which are as before behind the call.
        out: folder for the model and for the state of the run; None writes nothing.
        resume: whether a run that is found in `out` is gone on with.
        save_every: steps between states of the run; None: an epoch.
        progress: a bar; None where a person watches.
        fabric: a `lightning_fabric.Fabric` of the caller's, launched, instead of precision, device and devices.

    Returns:
        `Result`.

    Raises:
        BadArgument: arguments that do not fit each other, the data, or the run in `out`.
        FileError: pictures or a state that cannot be read, a folder that cannot be written.
        MissingExtra: a package of `anyvit[train]` is not installed.

    Example:
        >>> from anyvit.spec import Spec
        >>> vit = ViT(Spec(embed_dim=32, depth=1, num_heads=2, mlp_dim=48, image_size=32))
        >>> tensors = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
        >>> finetune(vit, tensors, train="head", steps=2, batch_size=4, device="cpu", progress=False).steps
        2

    Source: schedule and defaults of facebookresearch/mae@efb2a80: main_finetune.py, without its mixup and drop path
    """
    began = time.monotonic()
    model = rates.model_of(vit)
    some = pictures.examples(data, model, None if isinstance(classes, int) else classes)
    findings = _prepared(model, some, classes, loss)
    fresh = rates.new_parameters(model, new)
    trained = rates.chosen(model, train, fresh)
    if still := sorted(fresh - set(trained) - set(rates.UNUSED)):
        cause = "new parameters are not trained and stay as they started"
        findings.append(Finding("frozen", tuple(still), cause, 'train="new" trains them alone, "all" with the rest'))
    grouped = rates.groups(
        model, trained, lr=lr, new=fresh, new_lr=new_lr, layer_decay=layer_decay, weight_decay=weight_decay
    )
    size = min(_positive("batch_size", batch_size), len(some))
    count = _steps(steps, epochs, len(some), size)
    run = _Run(
        vit=model, data=some, order=pictures.Order(len(some), size, seed), trained=trained, groups=grouped,
        steps=count, warmup=round(warmup if warmup >= 1 else warmup * count), loss=loss or cross_entropy,
        augment=_augment(augment), seed=seed, clip=clip, accumulate=_positive("accumulate", accumulate),
        workers=workers, validation=None if validation is None else pictures.examples(validation, model, some.classes),
        out=None if out is None else Path(out), save_every=save_every or max(1, math.ceil(len(some) / size)),
        arguments={
            "pictures": len(some), "batch_size": size, "steps": count, "lr": lr, "new_lr": new_lr, "train": str(train),
            "layer_decay": layer_decay, "weight_decay": weight_decay, "warmup": warmup, "clip": clip, "seed": seed,
            "precision": precision, "accumulate": accumulate, "classes": model.spec.num_classes,
            "trained": state.digest({n: torch.tensor(p.shape) for n, p in model.named_parameters() if n in trained}),
        },
    )  # fmt: skip
    with state.seeded(seed), rates.only(model, trained):
        first = _trained(run, fabric or _fabric(precision, device, devices), resume, progress)
    model.eval()
    return Result(
        model, tuple(run.losses), dict(run.accuracy), grouped, run.steps, first, tuple(some.classes), tuple(findings),
        run.out, time.monotonic() - began,
    )  # fmt: skip


def _prepared(vit: ViT, some: pictures.Examples, classes: Any, loss: Loss | None) -> list[Finding]:
    """The model's head made to fit the classes of the data, and what to say of it and of the pixels."""
    findings = []
    if (odd := pixels.odd([some[n].pixels for n in pixels.sample(len(some))], vit)) is not None:
        findings.append(odd)
    if loss is not None and classes is None:
        return findings
    wanted = classes if isinstance(classes, int) else len(classes or some.classes)
    if isinstance(some, pictures.Tensors) and (not wanted or isinstance(classes, int)):
        highest = int(some.labels.max()) + 1
        wanted = wanted or max(vit.spec.num_classes, highest)
        check_labels(some.labels, wanted)
    if not (wanted or vit.spec.num_classes):
        raise BadArgument("nothing says how many classes there are", remedy="classes=10")
    had = vit.spec.num_classes
    made = give_head(vit, wanted) if wanted else None
    if made is not None:
        findings.append(made)
    elif had and some.classes:
        cause = f"the model's own head of {had} classes is kept; the data's are {', '.join(some.classes[:5])}"
        findings.append(Finding("head", (), cause + (", …" if had > 5 else "")))
    return findings


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadArgument(f"{name} is a whole number from 1 on", found=value)
    return value


def _steps(steps: int | None, epochs: float | None, count: int, size: int) -> int:
    if steps is not None and epochs is not None:
        raise BadArgument("steps or epochs says how long to train, not both", found=(steps, epochs))
    if steps is not None:
        return _positive("steps", steps)
    total = 10.0 if epochs is None else epochs
    if not total > 0:
        raise BadArgument("epochs is a number above 0", found=epochs)
    return math.ceil(total * count / size)


def _augment(asked: str | pictures.Augment | None) -> pictures.Augment | None:
    if isinstance(asked, str):
        if asked not in pictures.AUGMENTS:
            raise BadArgument("no augmentation is called so", found=asked, expected=", ".join(pictures.AUGMENTS))
        return pictures.AUGMENTS[asked]
    return asked


def _fabric(precision: str, device: str, devices: int | str) -> Fabric:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise needs("train", "lightning-fabric", "to train") from error
    try:
        single = devices in (1, "1")
        made = Fabric(
            accelerator=device, devices=devices, precision=precision,  # type: ignore[arg-type]
            strategy="auto" if single else "ddp_find_unused_parameters_true",
        )  # fmt: skip
        made.launch()
    except (ValueError, RuntimeError, OSError) as error:
        found = f"device={device!r}, devices={devices!r}, precision={precision!r}"
        raise BadArgument("Fabric has no such device or precision", found=found, usual=str(error)) from error
    return made


def _trained(run: _Run, fabric: Fabric, resume: bool, progress: bool | None) -> int:
    """Runs all steps that are left; gives the step that it began with."""
    if run.order.size % (fabric.world_size * run.accumulate):
        parts = f"{fabric.world_size} processes × accumulate={run.accumulate}"
        raise BadArgument("a batch is cut into parts of one size", found=f"{run.order.size} pictures", expected=parts)
    path = None if run.out is None else run.out / state.NAME
    run.vit.to(fabric.device)
    optimizer = rates.optimizer(run.vit, run.groups)
    first = _resumed(run, fabric, optimizer, path) if resume and path is not None and path.exists() else 0
    if path is not None:
        _folder(path.parent)
    model, prepared = fabric.setup(run.vit, optimizer)
    run.vit.train()
    frozen = state.digest(state.parts(run.vit, run.trained)[1]) if path is not None else 0
    done = first
    with Bar(run.steps, first, progress and fabric.is_global_zero, fabric.is_global_zero) as bar:
        try:
            for step, some in zip(range(first, run.steps), _batches(run, fabric, first), strict=True):
                value = _step(run, fabric, model, prepared, step, some)
                run.losses.append(value)
                done = step + 1
                bar.at(done, f"loss {value:.4f}")
                _after(run, fabric, optimizer, path, done, frozen, bar)
        except KeyboardInterrupt:
            _save(run, fabric, optimizer, path, done, frozen)
            raise
    if run.out is not None and fabric.is_global_zero:
        run.vit.eval()
        _deliver(run)
    fabric.barrier()
    return first


def _resumed(run: _Run, fabric: Fabric, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """The run on disk put into model, optimizer, gradient scaler and generators; gives its step."""
    kept = state.load(path)
    state.agree(path, kept["arguments"], run.arguments)
    mine, rest = state.parts(run.vit, run.trained)
    if kept["frozen"] != state.digest(rest):
        cause = f"{path} holds a run whose frozen parts have other values than this model's"
        raise BadArgument(cause, usual="another file was loaded", remedy="resume=False starts anew, or another out=")
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(kept["model"][name])
    optimizer.load_state_dict(kept["optimizer"])
    if kept.get("precision"):  # the scale that "16-mixed" has found
        fabric.strategy.precision.load_state_dict(kept["precision"])
    state.restore(kept["generators"])
    run.losses[:], run.accuracy = kept["losses"], dict(kept["accuracy"])
    return kept["step"]


def _folder(path: Path) -> None:
    from anyvit.errors import FileError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {path} cannot be made ({error.strerror})") from error


def _batches(run: _Run, fabric: Fabric, first: int) -> Iterator[pictures.Example]:
    """One batch of this process for each step from `first` on."""
    steps = pictures.Steps(run.order, first, run.steps, fabric.global_rank, fabric.world_size)
    # a loader without a generator of its own draws from the global one, which a resumed run would do once more
    own = torch.Generator().manual_seed(run.seed)
    loader = torch.utils.data.DataLoader(
        pictures.Placed(run.data, run.augment, run.seed), batch_sampler=steps, num_workers=run.workers, generator=own,
        collate_fn=partial(pictures.batch, spec=run.vit.spec), pin_memory=fabric.device.type == "cuda",
    )  # fmt: skip
    return iter(loader)


def _step(run: _Run, fabric: Fabric, model: Any, optimizer: Any, step: int, some: pictures.Example) -> float:
    """One step of the optimizer; gives its loss, the mean over all processes."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * run.rate(step)
    total, parts = 0.0, run.accumulate
    for n in range(parts):
        x, labels = (fabric.to_device(t.chunk(parts)[n]) for t in some[:2])  # type: ignore[union-attr]
        condition = None if some.condition is None else fabric.to_device(some.condition.chunk(parts)[n])
        with fabric.no_backward_sync(model, enabled=n < parts - 1):
            value = run.loss(model(x, condition), labels) / parts
            fabric.backward(value)
        total += float(fabric.all_reduce(value.detach(), reduce_op="mean"))  # type: ignore[arg-type]
    if not math.isfinite(total):
        cause = f"the loss is {total} at step {step}"
        raise AnyvitError(cause, usual="a learning rate that is too high, or NaN in the file or the pictures",
                          remedy="anyvit.overfit_check(vit, data) says which")  # fmt: skip
    if run.clip is not None:
        fabric.clip_gradients(model, optimizer, max_norm=run.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _after(run: _Run, fabric: Fabric, optimizer: Any, path: Path | None, done: int, frozen: int, bar: Bar) -> None:
    """Validation behind each epoch, the state of the run at its intervals and at the end."""
    epoch = math.ceil(run.order.count / run.order.size)
    if run.validation is not None and (done % epoch == 0 or done == run.steps):
        run.accuracy[done] = accuracy(run.vit, run.validation, run.order.size, fabric.device, fabric.autocast)
        bar.say(f"step {done}: accuracy {run.accuracy[done]:.2%} on {len(run.validation)} validation pictures")
    if done % run.save_every == 0 or done == run.steps:
        _save(run, fabric, optimizer, path, done, frozen)


def _save(run: _Run, fabric: Fabric, optimizer: Any, path: Path | None, done: int, frozen: int) -> None:
    if path is not None and fabric.is_global_zero:
        content = {
            "step": done, "model": state.parts(run.vit, run.trained)[0], "optimizer": optimizer.state_dict(),
            "generators": state.generators(), "losses": list(run.losses), "accuracy": dict(run.accuracy),
            "arguments": run.arguments, "frozen": frozen, "precision": fabric.strategy.precision.state_dict(),
        }  # fmt: skip
        state.save(path, content)
    fabric.barrier()


def _deliver(run: _Run) -> None:
    """The trained model as a file that says where it comes from."""
    from anyvit.api import convert

    assert run.out is not None
    vit = run.vit
    to = "anyvit-dit" if vit.spec.condition == "dit" else "anyvit"
    cause = f"fine-tuned for {run.steps} steps, {len(run.trained)} of {len(list(vit.parameters()))} tensors"
    if (report := vit.report) is not None:
        vit._report = replace(report.adding([Finding("trained", (), cause)]), spec=vit.spec)
    convert(vit, run.out / "model.safetensors", to=to, check="off")
