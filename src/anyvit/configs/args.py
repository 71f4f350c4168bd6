"""Arguments that training code left in a pickle: argparse Namespaces, keyword tables, names of architectures.

Nothing is evaluated: a call that stands as text is parsed, and only its literals are read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from anyvit.configs import timm
from anyvit.configs.rows import (
    BOOL,
    COUNT,
    INT,
    SIZE,
    Given,
    Row,
    Skip,
    Values,
    brief,
    read_rows,
    to_float,
    to_int,
    to_size,
)
from anyvit.configs.timm_args import registered
from anyvit.lazy import Lazy
from anyvit.spec import Fact, Rope

BY_NAME = "the name "
"""How the source of a fact starts that follows from a name of an architecture alone."""


def plain(value: Any, depth: int = 0) -> Any:
    """Dicts, lists and scalars out of inert objects: a Namespace is its attributes."""
    state = getattr(value, "state", None)
    if state is not None and depth < 8 and hasattr(value, "type"):
        return plain(state, depth + 1)
    items = getattr(value, "items", None)
    if hasattr(value, "type") and isinstance(items, Mapping | list) and depth < 8:
        return plain(items, depth + 1)
    return value


def read(extras: Mapping[str, Any]) -> Given:
    """What the non-tensor leaves of a pickle say of the architecture.

    Example:
        >>> given = read({"args": {"arch": "vit_small", "patch_size": 8}})
        >>> given.facts["num_heads"].source, given.facts["patch_size"].source
        ("the name 'vit_small' (args.arch)", 'args.patch_size')
    """
    if not isinstance(extras, Mapping):
        return Given()
    args = plain(extras.get("args"))
    args = args if isinstance(args, Mapping) else {}
    given = Given()
    croco = _croco(plain(extras.get("croco_kwargs")), "croco_kwargs")
    for found in (_name(extras, args), _sizes(args), _radio(args), croco, _dust3r(args)):
        given = given.under(found)
    return given


SMALL = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16),
         "huge": (1280, 32, 16)}  # fmt: skip
"""Width, depth and heads by name.

Source: facebookresearch/dino vision_transformer.py, bytedance/ibot models/vision_transformer.py, facebookresearch/mae
models_vit.py, facebookresearch/deit models.py, microsoft/unilm beit/modeling_finetune.py.
"""
MOCO = {**SMALL, "small": (384, 12, 12)}
"""Source: facebookresearch/moco-v3 @ 1c6b717 vits.py."""
NAMED = re.compile(r"(?:^|_)(?:vit|deit|beit)_(tiny|small|base|large|huge)(?:_|$)")
PATCH = re.compile(r"patch(\d{1,3})(?:_|$)")


def _name(extras: Mapping[str, Any], args: Mapping[str, Any]) -> Given:
    """The facts of an architecture's name, wherever it stands."""
    places = {"args.arch": args.get("arch"), "args.model": args.get("model"), "args.model_name": args.get("model_name"),
              "arch": extras.get("arch")}  # fmt: skip
    for where, name in places.items():
        if isinstance(name, str) and len(name) < 100:
            # MoCo v3 leaves its arch at the top and no args; timm leaves both.
            table = MOCO if where == "arch" and not args and "version" not in extras else SMALL
            if found := _named(name, where, args, table):
                return found
    return Given()


def _named(name: str, where: str, args: Mapping[str, Any], sizes: Mapping[str, tuple[int, int, int]]) -> Given | None:
    source = f"{BY_NAME}{name!r} ({where})"
    if registered(name) is not None:
        kwargs = plain(args.get("model_kwargs"))
        kwargs = (
            {key: value for key, value in kwargs.items() if value is not None} if isinstance(kwargs, Mapping) else {}
        )
        built = timm.of_name(name, kwargs, f"{where}, model_kwargs")
        keep = ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size", "act", "eps", "norm")
        facts = {field: _because(built.facts[field], source) for field in keep if field in built.facts}
        return Given(facts, built.notes)
    match = NAMED.search(name)
    if match is None:
        return None
    width, depth, heads = sizes[match.group(1)]
    facts = {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_dim": 4 * width}
    if patch := PATCH.search(name):
        facts["patch_size"] = int(patch.group(1))
    return Given({field: Fact(value, "given", source) for field, value in facts.items()})


def _because(fact: Fact, source: str) -> Fact:
    return Fact(fact.value, "given", source) if "default" in fact.source else fact


def _read_pool(value: Any, config: Mapping[str, Any]) -> str:
    return "avg" if BOOL.read(value, config) else "cls"


def _only_read(read: Any) -> Values:
    return Values(lambda value, _: read(value), lambda value, _: value)


def _pixels(value: Any) -> Any:
    # RADIO and timm put (channels, height, width) here.
    if isinstance(value, list | tuple) and len(value) == 3:
        return to_size(list(value)[1:])
    return to_size(value)


ARGS = (
    Row("patch_size", "patch_size", SIZE),
    Row("input_size", "image_size", _only_read(_pixels)),
    Row("img_size", "image_size", _only_read(_pixels)),
    Row("use_mean_pooling", "pool", Values(_read_pool, lambda value, _: value == "avg")),
)


def _sizes(args: Mapping[str, Any]) -> Given:
    if "cpe_max_size" in args or not (
        "arch" in args or (isinstance(args.get("model"), str) and "(" not in args["model"])
    ):
        return Given()
    return _relabel(read_rows(ARGS, args, "args"), "args: ", "args.")


def _relabel(given: Given, old: str, new: str) -> Given:
    facts = {name: Fact(f.value, f.how, f.source.replace(old, new, 1)) for name, f in given.facts.items()}
    return Given(facts, tuple(note.replace(old, new, 1) for note in given.notes))


def _radio(args: Mapping[str, Any]) -> Given:
    """RADIO's class tokens (one a teacher), registers and summary.

    Source: NVlabs/RADIO @ c0f3701 hubconf.py, radio/radio_model.py create_model_from_args, radio/cls_token.py.
    """
    teachers = plain(args.get("teachers"))
    if "cpe_max_size" not in args or not isinstance(teachers, list | tuple):
        return Given()
    try:
        return Given(_radio_facts(args, [plain(teacher) for teacher in teachers]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Given(notes=(f"args.teachers or args.register_multiple cannot be understood ({type(error).__name__})",))


def _radio_facts(args: Mapping[str, Any], teachers: list[Any]) -> dict[str, Fact]:
    summary: dict[str, int] = {}
    for index, teacher in enumerate(teachers):
        if teacher.get("use_summary", True):
            summary.setdefault(teacher["name"], index)
    each = bool(args.get("cls_token_per_teacher", True))
    # DINOv2 inside keeps one class token for the summary: radio/enable_cpe_support.py _forward_cpe_dinov2
    joined = each and not str(args.get("model", "")).startswith("dinov2_")
    tokens = len({teacher["name"] for teacher in teachers}) if each else 1
    multiple, registers = args.get("register_multiple"), to_int(args.get("cpe_num_registers") or 0)
    if not registers and multiple:
        registers = to_int(multiple) - tokens % to_int(multiple)
    facts = {
        "num_cls": Fact(tokens, "given", "args.teachers, args.cls_token_per_teacher"),
        "num_registers": Fact(registers, "given", "args.register_multiple, args.cpe_num_registers"),
        "summary": Fact(tuple(sorted(summary.values())) if joined else (0,), "given", "args.teachers: use_summary"),
    }
    if args.get("cpe_max_size"):
        facts["image_size"] = Fact(to_size(args["cpe_max_size"]), "given", "args.cpe_max_size")
    return facts


def _read_ratio(value: Any, config: Mapping[str, Any]) -> int:
    return int(to_int(config["enc_embed_dim"]) * to_float(value))


def _read_croco_rope(value: Any, _: Mapping[str, Any]) -> Rope | None:
    if value == "cosine":
        return None
    match = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", value if isinstance(value, str) else "")
    if match is None or float(match.group(1)) <= 0:
        raise ValueError("is no position known here")
    return Rope(base=float(match.group(1)), layout="half", first="row", coords="index")


def _read_croco_size(value: Any, config: Mapping[str, Any]) -> Any:
    if config.get("pos_embed") != "cosine":
        raise Skip
    return to_size(value)


CROCO = (
    Row("enc_embed_dim", "embed_dim", INT),
    Row("enc_depth", "depth", COUNT),
    Row("enc_num_heads", "num_heads", INT),
    Row("patch_size", "patch_size", SIZE),
    Row("mlp_ratio", "mlp_dim", Values(_read_ratio, lambda value, spec: value / spec.embed_dim)),
    Row("pos_embed", "rope", Values(_read_croco_rope, lambda value, _: f"RoPE{value.base:g}" if value else "cosine")),
    Row("img_size", "image_size", Values(_read_croco_size, lambda value, _: value)),
)
CROCO_DEFAULTS = {"enc_embed_dim": 768, "enc_depth": 12, "enc_num_heads": 12, "patch_size": 16, "mlp_ratio": 4,
                  "img_size": 224, "pos_embed": "cosine"}  # fmt: skip
"""Source: naver/croco models/croco.py CroCoNet.__init__."""


def _croco(kwargs: Any, source: str) -> Given:
    if not isinstance(kwargs, Mapping):
        return Given()
    return read_rows(CROCO, kwargs, source, CROCO_DEFAULTS, "CroCoNet")


def _dust3r(args: Mapping[str, Any]) -> Given:
    """DUSt3R's and MASt3R's args.model: the text of a constructor call."""
    text = args.get("model")
    if not isinstance(text, str) or "(" not in text:
        return Given()
    name, kwargs = literal_call(text)
    if not name.startswith("Asymmetric") and "enc_embed_dim" not in kwargs:
        return Given(notes=(f"args.model = {brief(text)} is no call that is known here",))
    given = _croco(kwargs, "args.model")
    half = {field: Fact((0.5,) * 3, "given", f"args.model: {name} takes pixels in -1 … 1") for field in ("mean", "std")}
    return Given({**given.facts, **half}, given.notes)


def literal_call(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the literal keyword arguments of a call; what is no literal is left out, nothing is evaluated.

    Example:
        >>> literal_call("Net(width=64, depth_mode=('exp', -inf, inf), pos='RoPE100')")
        ('Net', {'width': 64, 'pos': 'RoPE100'})
    """
    if len(text) > 10_000:
        return "", {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", {}
    if not isinstance(call, ast.Call):
        return "", {}
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        try:
            if keyword.arg is not None:
                kwargs[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return (call.func.id if isinstance(call.func, ast.Name) else ""), kwargs


def believable(given: Given, tensors: Mapping[str, Lazy]) -> Given:
    """The facts without those of an architecture's name whose width no block of the file has.

    Arguments:
        given: what training arguments say.
        tensors: the file's tensors; block norms are looked for under any prefix.
    """
    width = given.facts.get("embed_dim")
    if width is None or not width.source.startswith(BY_NAME):
        return given
    widths = {t.shape[0] for name, t in tensors.items() if name.endswith(".norm1.weight") and len(t.shape) == 1}
    if not widths or width.value in widths:
        return given
    return reconcile(given, {"embed_dim": max(widths)})


def reconcile(given: Given, measured: Mapping[str, Any]) -> Given:
    """The facts without those that the tensors contradict; a name whose sizes are other ones says nothing at all.

    Arguments:
        given: what configs say.
        measured: Spec field → value that names and shapes show.

    Example:
        >>> given = read({"args": {"arch": "vit_small", "patch_size": 16}})
        >>> sorted(reconcile(given, {"embed_dim": 128}).facts)
        ['patch_size']
    """
    wrong = {name for name, fact in given.facts.items() if name in measured and measured[name] != fact.value}
    void = {given.facts[name].source for name in wrong if given.facts[name].source.startswith(BY_NAME)}
    facts, notes = {}, list(given.notes)
    for name, fact in given.facts.items():
        if fact.source in void:
            continue
        if name not in wrong:
            facts[name] = fact
        elif not fact.source.startswith("default"):
            notes.append(f"{name}: {brief(fact.value)} in {fact.source}, but the tensors show {brief(measured[name])}")
    notes += [f"{source} stands for other sizes than the tensors have; it is not used" for source in sorted(void)]
    return Given(facts, tuple(notes))
