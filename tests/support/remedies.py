"""Every remedy that the package can print, found in its source, and what is wrong with the code that one names."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyvit

SOURCE = Path(anyvit.__file__).parent
HOLE = "◌"
"""What stands for a value that is known at run time only."""


@cache
def remedies() -> tuple[tuple[str, str], ...]:
    """(where, text) of every remedy in the source; parts known at run time only are holes."""
    found: dict[tuple[str, str], None] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = _assigned(tree)
        for text in _texts(tree, names):
            found[f"{path.relative_to(SOURCE)}", text] = None
    return tuple(found)


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Name → the expressions that are assigned to it in a file."""
    names: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, []).append(node.value)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for one, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(one, ast.Name):
                            names.setdefault(one.id, []).append(value)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names.setdefault(node.target.id, []).append(node.value)
    return names


PLACES = {"Finding": 3, "Note": 3, "Sign": 3, "Cause": 1}
"""Calls whose argument at this place is a remedy."""


KEPT = {"mostly", "remedy", "REMEDIES", "LINES", "SPELT", "MEND"}
"""Names to which remedies are assigned."""


def _texts(tree: ast.AST, names: dict[str, list[ast.expr]]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [word.value for word in node.keywords if word.arg == "remedy"]
            place = PLACES.get(node.func.id) if isinstance(node.func, ast.Name) else None
            if place is not None and len(node.args) > place:
                given.append(node.args[place])
            for value in given:
                yield from _spelt(value, names)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and {t.id for t in targets if isinstance(t, ast.Name)} & KEPT:
            yield from _spelt(node.value, names)


def _spelt(value: ast.expr | None, names: dict[str, list[ast.expr]], depth: int = 0) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in value.values)
    elif isinstance(value, ast.Dict):
        for part in value.values:
            yield from _spelt(part, names, depth)
    elif isinstance(value, ast.IfExp):
        yield from _spelt(value.body, names, depth)
        yield from _spelt(value.orelse, names, depth)
    elif isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        for left in _spelt(value.left, names, depth):
            for right in _spelt(value.right, names, depth) or (HOLE,):
                yield left + right
    elif isinstance(value, ast.BoolOp):
        for part in value.values:
            yield from _spelt(part, names, depth)
    elif isinstance(value, ast.Name) and depth < 2:
        for part in names.get(value.id, ()):
            yield from _spelt(part, names, depth + 1)


def faults(text: str) -> list[str]:
    """What a remedy names that does not exist: attributes, keywords, commands, options, extras."""
    return [*_names(text), *_keywords(text), *_commands(text), *_extras(text)]


MODULES = ("anyvit", "timm", "torch", "numpy", "transformers", "open_clip", "dataclasses", "functools")


def _names(text: str) -> Iterator[str]:
    for found in re.finditer(rf"\b({'|'.join(MODULES)})((?:\.[A-Za-z_]\w*)+)(\()?", text):
        package, path, called = found.groups()
        try:
            value: Any = importlib.import_module(package)
        except ImportError:
            continue
        for name in path.split(".")[1:]:
            if inspect.ismodule(value) and not hasattr(value, name):
                with contextlib.suppress(ImportError):
                    importlib.import_module(f"{value.__name__}.{name}")
            if not hasattr(value, name):
                yield f"{package}{path} does not exist"
                break
            value = getattr(value, name)
        else:
            if called and package == "anyvit":
                yield from _arguments(value, f"anyvit{path}", _inside(text, found.end()))
    for name in re.findall(r"\bvit\.([a-z_]\w*)", text):
        model = anyvit.ViT(anyvit.Spec(embed_dim=4, depth=1, num_heads=1, mlp_dim=4, image_size=16))
        if not hasattr(model, name):
            yield f"vit.{name} does not exist"


def _inside(text: str, start: int) -> str:
    """What stands between an open bracket and its close."""
    depth, end = 1, start
    while end < len(text) and depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[start : end - 1]


def _arguments(call: Any, name: str, given: str) -> Iterator[str]:
    flat = re.sub(r"\([^()]*\)|\{[^{}]*\}|\"[^\"]*\"", "…", given)
    known = inspect.signature(call).parameters
    for word in re.findall(r"\b([a-z_]\w*)=", flat):
        if word not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            yield f"{name} takes no {word}="


CALLS = ("inspect", "load", "load_into", "convert", "verify", "build", "finetune", "overfit_check", "effect", "camera",
         "Channels", "AdaLN", "Resample", "Spec", "ClassMap", "Dialect")  # fmt: skip
FOREIGN = {"weights_only", "allow_pickle", "add_pooling_layer", "attn_implementation"}
"""Keywords of other libraries that remedies name."""


@cache
def _known_keywords() -> frozenset[str]:
    known = set(FOREIGN)
    for name in CALLS:
        known |= set(inspect.signature(getattr(anyvit, name)).parameters)
    return frozenset(known)


def _keywords(text: str) -> Iterator[str]:
    for word in re.findall(r"(?<![\w.\[])([a-z_]\w*)=(?=[\w\"'(\[{…◌])", re.sub(r"\b\w+(\.\w+)+\(.*", "", text)):
        if word not in _known_keywords():
            yield f"no call takes {word}="


@cache
def _commands_and_options() -> dict[str, frozenset[str]]:
    from anyvit.cli import parser

    (commands,) = (action for action in parser()._actions if hasattr(action, "choices") and action.choices)
    choices: Any = commands.choices
    return {name: frozenset(o for a in one._actions for o in a.option_strings) for name, one in choices.items()}


def _commands(text: str) -> Iterator[str]:
    known = _commands_and_options()
    for word in re.findall(r"\banyvit ([a-z][a-z-]+)", text):
        if word not in known:
            yield f"anyvit has no command {word}"
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text):
        if not any(option in options for options in known.values()):
            yield f"no command has the option {option}"


def _extras(text: str) -> Iterator[str]:
    project = (SOURCE.parent.parent / "pyproject.toml").read_text("utf-8")
    for extra in re.findall(r"anyvit\[(\w+)\]", text):
        if f"\n{extra} = [" not in project:
            yield f"there is no extra {extra}"
