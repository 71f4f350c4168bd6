"""The commands that train: `finetune` and `overfit-check`."""

from __future__ import annotations

import argparse

from anyvit import cli_options
from anyvit.cli_options import Answer


def finetune_options(to: argparse.ArgumentParser) -> None:
    """Options of `finetune`."""
    add = to.add_argument
    add("file", metavar="FILE", help="a checkpoint, or the folder of one")
    add("data", metavar="FOLDER", help="a folder with one folder of pictures for each class")
    add("--out", metavar="DIR", required=True, help="folder for the model and the state of the run")
    add("--validation", metavar="FOLDER", help="pictures that are told apart after every epoch")
    add("--epochs", type=float, metavar="N", help="passes over the pictures, 10 by default")
    add("--steps", type=int, metavar="N", help="steps of the optimizer, instead of epochs")
    add("--batch-size", type=int, default=32, metavar="N", help="pictures of a step")
    add("--accumulate", type=int, default=1, metavar="N", help="parts that a step is computed in, to save memory")
    _rates(to, 1e-4)
    add(
        "--layer-decay", type=float, default=0.75, metavar="F", help="factor of the rate from a layer to the one before"
    )
    add("--weight-decay", type=float, default=0.05, metavar="F", help="of matrices")
    add("--augment", metavar="NAME", help="crop+flip")
    add("--precision", default="32-true", metavar="P", help="32-true, bf16-mixed, 16-mixed, bf16-true")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps")
    add("--devices", type=int, default=1, metavar="N", help="how many; started with torchrun")
    add("--workers", type=int, default=0, metavar="N", help="processes that read pictures")
    add("--seed", type=int, default=0, metavar="N")
    add("--save-every", type=int, metavar="N", help="steps between states of the run; an epoch by default")
    add("--anew", action="store_true", help="do not go on with the run that DIR holds")
    cli_options.reading(to)


def overfit_options(to: argparse.ArgumentParser) -> None:
    """Options of `overfit-check`."""
    add = to.add_argument
    add("file", metavar="FILE", help="a checkpoint, or the folder of one")
    add("--data", metavar="FOLDER", help="a folder with one folder of pictures for each class; made up by default")
    add("--count", type=int, default=8, metavar="N", help="pictures")
    add("--steps", type=int, default=300, metavar="N", help="at most")
    add("--seconds", type=float, default=100.0, metavar="S", help="after which no further step is begun")
    _rates(to, 3e-4)
    cli_options.reading(to)


def _rates(to: argparse.ArgumentParser, lr: float) -> None:
    add = to.add_argument
    add("--train", default="all", metavar="WHAT", help="all, head, new, last:N, or beginnings of names with commas")
    add("--lr", type=float, default=lr, metavar="F", help=f"learning rate, {lr:g} by default")
    add("--new-lr", type=float, metavar="F", help="that of new parameters; ten times the other by default")


def _what(text: str) -> str | tuple[str, ...]:
    return tuple(filter(None, text.split(","))) if "," in text or "." in text else text


def finetune(args: argparse.Namespace) -> Answer:
    """Runs `finetune`."""
    import anyvit

    vit = anyvit.load(args.file, **cli_options.asked(args))
    names = (
        "validation", "epochs", "steps", "batch_size", "accumulate", "lr", "new_lr", "layer_decay", "weight_decay",
        "augment", "precision", "device", "devices", "workers", "seed", "out", "save_every",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names}
    progress = False if args.json else None
    result = anyvit.finetune(
        vit, args.data, train=_what(args.train), resume=not args.anew, progress=progress, **options
    )
    return True, lambda: str(result), {"ok": True, **result.as_dict()}


def overfit_check(args: argparse.Namespace) -> Answer:
    """Runs `overfit-check`."""
    import anyvit

    vit = anyvit.load(args.file, **cli_options.asked(args))
    names = ("count", "steps", "seconds", "lr", "new_lr")
    verdict = anyvit.overfit_check(
        vit, args.data, train=_what(args.train), **{name: getattr(args, name) for name in names}
    )
    return verdict.ok, lambda: str(verdict), verdict.as_dict()
