"""Options of the command line that several commands share: how a file is read, and what is changed in it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyvit.adaln import AdaLN
    from anyvit.channels import Channels
    from anyvit.heads import ClassMap
    from anyvit.show import Style

Answer = tuple[bool, Callable[[], str], dict[str, Any]]
"""Whether all is well, the text for a person (made only when it is printed), the data for a program."""

ASKED = (
    "image_size", "patch_size", "in_chans", "num_classes", "registers", "cls_token", "layer_scale", "fuse_norms",
    "condition", "weights", "dialect", "heads", "grid", "facts", "resample", "check",
)  # fmt: skip
"""What `load` and `convert` both take."""


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What `reading` found, as arguments of `load`."""
    return {name: getattr(args, name) for name in ASKED}


def reading(to: argparse.ArgumentParser) -> None:
    """Options of every command that loads a file."""
    add = to.add_argument
    add("--weights", metavar="W", help="the weight set to read: teacher, student, ema, …")
    dialect(to)
    add("--heads", type=int, metavar="N", help="the head count, where nothing in the file says it")
    add("--facts", type=facts, metavar="NAME=V,…", help="what else the file does not say: act=quick_gelu,eps=1e-5")
    add("--grid", type=pair, metavar="R,C", help="rows and columns of the stored position table, in patches")
    add("--check", choices=("now", "beside", "off"), help="when to look for damage that only the bytes show")
    add = to.add_argument_group("changes on purpose").add_argument
    add("--image-size", type=size, metavar="H[,W]", help="pixels of the pictures; the position table is resized")
    add("--patch-size", type=size, metavar="P[,Q]", help="pixels of a patch; the patch kernel is resized")
    add("--resample", type=resample, metavar="NAME", default="source",
        help="the recipe for position tables and kernels, or its parameters: mode=bicubic,antialias=yes")  # fmt: skip
    add("--in-chans", type=channels, metavar="C[:HOW]",
        help="channels of the pictures: 4, 13:mean, 13:zero, or the source channel of each, as in 4:2,1,0,-")  # fmt: skip
    either = to.add_mutually_exclusive_group().add_argument
    either("--num-classes", type=int, metavar="N", help="0 drops the head, another number makes a new one of zeros")
    either("--class-map", type=class_map, metavar="ROWS", dest="num_classes",
           help="classes of the new head as rows of the old one, -1 a new one: 281,282,-1, or a file of numbers")  # fmt: skip
    add("--registers", type=int, metavar="N", help="register tokens")
    add("--cls-token", type=yes, metavar="yes|no", help="whether there is a class token")
    add("--layer-scale", type=yes, metavar="yes|no", help="LayerScale of ones added, or folded into matrices; exact")
    add("--fuse-norms", action="store_true", help="scales and shifts of norms folded into matrices; exact")
    add("--condition", type=condition, metavar="SCHEME[:N]",
        help="AdaLN that changes nothing until it is trained: instantmesh or dit, on N numbers (16, a camera) or "
             ":none, on embedded vectors; off takes the file's away")  # fmt: skip


def dialect(to: argparse.ArgumentParser) -> None:
    """The option that names a file's dialect."""
    text = "the file's dialect where it is not to be recognised: a name, a JSON table, or draft (see anyvit draft)"
    to.add_argument("--dialect", metavar="NAME", help=text)


WIDEST = 110
"""Columns that text fills at most, however wide the terminal is."""


def style() -> Style:
    """How to print: as wide as the terminal up to a limit, in colour only where a person reads and has not declined."""
    from shutil import get_terminal_size

    from anyvit.show import Style

    if not sys.stdout.isatty():
        return Style(typed=typed)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Style(min(WIDEST, get_terminal_size().columns), not plain, typed)


_ARGUMENT = re.compile(r"""\b(\w+)=("[^"]*"|'[^']*'|\([^()]*\)|\{[^{}]*\}|[\w.…-]+)""")


def typed(text: str) -> str:
    """A remedy with arguments written as options; calls of Python stay.

    Example:
        >>> typed('weights="student" reads another one'), typed("grid=(3, 5), heads=…, cls_token=True")
        ('--weights student reads another one', '--grid 3,5, --heads …, --cls-token yes')
        >>> typed('facts={"act": "gelu"}'), typed("anyvit.load(path, heads=3)")
        ('--facts act=gelu', 'anyvit.load(path, heads=3)')
    """
    if "anyvit." in text:
        return text
    text = text.replace("resume=False", "--anew").replace(" out=", " --out")
    return _ARGUMENT.sub(lambda found: _option(found[1], found[2]) if found[1] in OPTIONS else found[0], text)


OPTIONS = (
    *ASKED, "to", "dtype", "device", "chunks", "shard_size", "durable", "train", "lr", "steps", "epochs", "seconds"
)  # fmt: skip
"""Arguments of the verbs that are options of a command."""


def _option(name: str, value: str) -> str:
    if value[0] == "{":
        value = (
            re.sub(r"\s*:\s*", "=", re.sub(r"[\"'{} ]", "", value)).replace("=True", "=yes").replace("=False", "=no")
        )
    elif value[0] == "(":
        value = re.sub(r"[() ]", "", value)
    elif value[0] in "\"'":
        value = shlex.quote(value[1:-1])
    return f"--{name.replace('_', '-')} {({'True': 'yes', 'False': 'no'}).get(value, value)}"


def size(text: str) -> int | tuple[int, int]:
    """A size in pixels.

    Example:
        >>> size("224"), size("224,192")
        (224, (224, 192))
    """
    numbers = [int(part) for part in re.split(r"[,x×]", text)]
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(text)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def pair(text: str) -> tuple[int, int]:
    """Rows and columns.

    Example:
        >>> pair("7,5")
        (7, 5)
    """
    numbers = size(text)
    if isinstance(numbers, int):
        raise ValueError(text)
    return numbers


def resample(text: str) -> str | dict[str, Any]:
    """A recipe's name, or its parameters.

    Example:
        >>> resample("dinov2"), resample("mode=bilinear,antialias=yes")
        ('dinov2', {'mode': 'bilinear', 'antialias': True})
    """
    return facts(text) if "=" in text else text


def facts(text: str) -> dict[str, Any]:
    """Facts that a file does not say.

    Example:
        >>> facts("act=quick_gelu,eps=1e-5,tokens_normed=no")
        {'act': 'quick_gelu', 'eps': 1e-05, 'tokens_normed': False}
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (equals and name and value):
            raise ValueError(text)
        number = re.fullmatch(r"\d*\.?\d+(e-?\d+)?", value)
        found[name.strip()] = float(value) if number else value == "yes" if value in ("yes", "no") else value.strip()
    return found


UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def byte_count(text: str) -> int:
    """A number of bytes.

    Example:
        >>> byte_count("2GB"), byte_count("500 MiB"), byte_count("4096")
        (2000000000, 524288000, 4096)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if found is None or not (count := round(float(found.group(1)) * UNITS[found.group(2)])):
        raise ValueError(text)
    return count


def yes(text: str) -> bool:
    """A choice.

    Example:
        >>> yes("yes"), yes("no")
        (True, False)
    """
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def channels(text: str) -> int | Channels:
    """Channels of the pictures, and what each is made of.

    Example:
        >>> channels("4"), channels("13:zero").scheme, channels("4:2,1,0,-").bands
        (4, 'zero', (2, 1, 0, None))
    """
    from anyvit.channels import SCHEMES, Channels

    count, colon, how = text.partition(":")
    if not colon:
        return int(count)
    if how in SCHEMES:
        return Channels(int(count), how)
    return Channels(int(count), bands=tuple(None if part in ("-", "") else int(part) for part in how.split(",")))


def class_map(text: str) -> ClassMap:
    """Rows of the old head, written out or in a file.

    Example:
        >>> class_map("281,282,-1").rows
        (281, 282, -1)
    """
    from anyvit.heads import ClassMap

    if not re.fullmatch(r"[-\d,\s]+", text):
        text = Path(text).read_text() if Path(text).is_file() else ""
    return ClassMap([int(part) for part in re.split(r"[,\s]+", text.strip())])


def condition(text: str) -> AdaLN | bool:
    """What a model is to be conditioned on.

    Example:
        >>> condition("dit:7").dim, condition("instantmesh").dim, condition("dit:none").dim, condition("off")
        (7, 16, None, False)
    """
    from anyvit.adaln import AdaLN
    from anyvit.expected import ADALN

    scheme, colon, count = text.partition(":")
    if text == "off":
        return False
    if scheme not in ADALN:
        raise ValueError(text)
    if not colon:
        return AdaLN(scheme=scheme)
    return AdaLN(None if count == "none" else int(count), scheme)
