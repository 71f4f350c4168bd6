"""The command line: the verbs of the package, each with `--json`.

Exit codes: 0 all is well, 1 the answer is no (a file that cannot be loaded, outputs that differ, an error), 2 the
command itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anyvit import cli_dialects, cli_options, cli_training
from anyvit.cli_options import Answer, byte_count, reading, size, style
from anyvit.errors import AnyvitError

if TYPE_CHECKING:
    from anyvit.model import Features, ViT
    from anyvit.report import Report


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Arguments:
        argv: the words behind `anyvit`; None for those of the process.

    Example:
        >>> main(["dialects", "no-such-dialect", "--json"])  # doctest: +ELLIPSIS
        {"ok": false, "error": "no dialect is called 'no-such-dialect'...
        1
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser("--json" in words).parse_args(words)
    try:
        ok, text, data = args.run(args)
        if shown := json.dumps(data, default=str) if args.json else text():
            print(shown, flush=True)
        return 0 if ok else 1
    except AnyvitError as error:
        return _refuse(error, args.json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left; a second failure while the interpreter flushes would print a warning.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _refuse(error: AnyvitError, as_json: bool) -> int:
    text = str(error)
    if as_json:
        facts = {"ok": False, "error": text, "kind": type(error).__name__, "remedy": error.remedy}
        print(json.dumps(facts), flush=True)
    else:
        head, tries, remedy = text.rpartition("\n  try: ")
        print(f"anyvit: {head}{tries}{cli_options.typed(remedy) if tries else remedy}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is JSON too where JSON was asked for."""

    def __init__(self, *args: Any, as_json: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.as_json = as_json

    def error(self, message: str) -> NoReturn:
        if self.as_json:
            print(json.dumps({"ok": False, "error": message, "kind": "usage"}), flush=True)
            raise SystemExit(2)
        super().error(message)


def parser(as_json: bool = False) -> argparse.ArgumentParser:
    """The commands and their options.

    Arguments:
        as_json: whether a wrong command is answered as JSON.
    """
    from anyvit import __version__

    kind: Any = partial(_Parser, as_json=as_json)
    top = kind(prog="anyvit", description="Any Vision Transformer checkpoint into any model: proven right, or why not.")
    top.add_argument("--version", action="version", version=f"anyvit {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=kind)

    def command(name: str, run: Callable[[argparse.Namespace], Answer], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="one JSON object on stdout, errors too")
        return made

    _inspect_options(command("inspect", _inspect, "Say what a file is, from its header alone."))
    _load_options(command("load", _load, "Load a file, run a random picture through it, print report and shapes."))
    _convert_options(
        command("convert", _convert, "Write a file in another ecosystem's names, layout, container and config.")
    )
    _verify_options(command("verify", _verify, "Compare what two files compute, layer by layer."))
    cli_training.finetune_options(
        command(
            "finetune", cli_training.finetune, "Train a file's model on a folder of pictures; a killed run goes on."
        )
    )
    cli_training.overfit_options(
        command("overfit-check", cli_training.overfit_check, "See whether a model can learn a handful of pictures.")
    )
    cli_dialects.dialects_options(
        command("dialects", cli_dialects.dialects, "List the dialects, or show the table of one.")
    )
    cli_dialects.draft_options(
        command("draft", cli_dialects.draft, "Draft a table for names that no dialect knows, from words and shapes.")
    )
    command("demo", _demo, "Inspect, load and convert a small trained model that comes with the package.")
    return top


def _inspect_options(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("file", metavar="FILE", help="a checkpoint, or the folder of one")
    add("--deep", action="store_true", help="read the values of a few blocks too, and let them speak")
    add("--weights", metavar="W", help="the weight set to look at: teacher, student, ema, …")
    cli_options.dialect(to)
    add("--check", action="store_true", help="read every byte and compare the container's checksums")


def _load_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("file", metavar="FILE", help="a checkpoint, or the folder of one")
    reading(to)
    to.add_argument("--dtype", metavar="TYPE", help="compute in float32 (default), bfloat16, float16, …")
    to.add_argument("--device", metavar="D", help="cpu, cuda, …")


def _convert_options(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("file", metavar="SRC", help="a checkpoint, or the folder of one")
    add("out", metavar="OUT", help="a file (.safetensors, .npz, .pth) or, without suffix, a folder")
    add("--to", metavar="DIALECT", required=True, help="what to write; `anyvit dialects` lists them")
    reading(to)
    add("--dtype", metavar="TYPE", help="store float32, float16, bfloat16, …; the file's by default")
    add("--shard-size", type=byte_count, metavar="SIZE", help="bytes of a shard of a folder, as in 2GB")
    add("--chunks", type=int, metavar="N", help="block chunks, for --to dinov2-chunked")
    add("--durable", action="store_true", help="flush to the disk before the file takes its place")


def _verify_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("a", metavar="A", help="a checkpoint, or the folder of one")
    to.add_argument("b", metavar="B", help="another one")
    to.add_argument("--image-size", type=size, metavar="H[,W]", help="pixels of the pictures")


def _inspect(args: argparse.Namespace) -> Answer:
    from anyvit import inspect

    report = inspect(args.file, weights=args.weights, deep=args.deep, dialect=args.dialect)
    if args.check:
        report = _checked(report, args.file)
    return report.ok, lambda: _text(report), report.as_dict()


def _checked(report: Report, file: str) -> Report:
    """The report with what checksums, record and values prove."""
    from anyvit.integrity import prove

    return report.adding(prove(file))


def _text(report: Report) -> str:
    from anyvit.show import text

    return text(report, style())


def _load(args: argparse.Namespace) -> Answer:
    from anyvit import load

    vit = load(args.file, **cli_options.asked(args), dtype=args.dtype, device=args.device)
    shape, features = _random_picture(vit)
    shapes = {name: tuple(value.shape) for name, value in vars(features).items() if hasattr(value, "shape")}
    report = vit.report
    assert report is not None
    data = {"ok": report.ok, "pixels": shape, "shapes": shapes, "grid": features.grid, "report": report.as_dict()}
    return report.ok, lambda: _text(report) + "\n\n" + _shapes(shape, shapes), data


def _random_picture(vit: ViT) -> tuple[tuple[int, ...], Features]:
    import torch

    from anyvit.spec import pair as both

    spec = vit.spec
    sides = both(spec.image_size or 224)
    height, width = (max(1, side // patch) * patch for side, patch in zip(sides, spec.patch, strict=True))
    first = next(vit.parameters())
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, spec.in_chans, height, width, generator=noise).to(first.device, first.dtype)
    condition = torch.zeros(1, 1, spec.condition_inputs) if spec.condition and spec.condition_inputs else None
    if spec.condition and condition is None:
        condition = torch.zeros(1, spec.embed_dim)
    with torch.no_grad():
        features = vit(pixels, None if condition is None else condition.to(first.device, first.dtype))
    return tuple(pixels.shape), features


def _shapes(pixels: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> str:
    from anyvit.show import table

    rows = [("  pixels", str(pixels)), *((f"  {name}", str(shape)) for name, shape in shapes.items())]
    return "\n".join([style().strong("Shapes, for one random picture"), *table(rows)])


def _convert(args: argparse.Namespace) -> Answer:
    from anyvit import convert

    asked = cli_options.asked(args)
    for name in ("dtype", "shard_size", "chunks", "durable"):
        asked[name] = getattr(args, name)
    report = convert(args.file, args.out, args.to, **asked)
    out = Path(args.out)
    files = {file.name: file.stat().st_size for file in (sorted(out.iterdir()) if out.is_dir() else (out,))}
    data = {"ok": report.ok, "out": str(out), "to": args.to, "files": files, "report": report.as_dict()}
    return report.ok, lambda: _written(report, out, args.to, files), data


def _written(report: Report, out: Path, to: str, files: dict[str, int]) -> str:
    from anyvit.show import findings, number, table

    how = style()
    rows = [(f"  {name}", f"{number(count)}B") for name, count in files.items()]
    head = f"{how.good('✓')} {how.strong(str(out))}\n  {to}, {len(report.trails)} tensors, from {report.path}"
    return "\n\n".join(filter(None, ["\n".join([head, *table(rows, right=[1])]), findings(report, how)]))


def _verify(args: argparse.Namespace) -> Answer:
    import anyvit

    result = anyvit.verify(args.a, args.b, image_size=args.image_size)
    return result.ok, lambda: str(result), {**json.loads(result.to_json()), "ok": result.ok}


def _demo(args: argparse.Namespace) -> Answer:
    from anyvit import demo

    result = demo.run() if args.json else demo.run(lambda line: print(line, flush=True), style())
    return result.ok, lambda: "", result.as_dict()
