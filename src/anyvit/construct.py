"""Building a module of timm or transformers that holds a file: its arguments inferred, made without memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from anyvit import adapt, api, configs, dialects, into, meta, saying
from anyvit.adapt import Adapted, Wanted
from anyvit.configs import hf, hf_types, timm, timm_args, timm_forms
from anyvit.errors import AnyvitError, BadArgument, Unsayable, needs
from anyvit.reading import Ask
from anyvit.rules import Dialect
from anyvit.target import recognise_module
from anyvit.torch_io import float_type, require_torch, usable

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(
    what: str,
    path: Any,
    *,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    num_classes: int | None = None,
    weights: str | None = None,
    dialect: str | Dialect | None = None,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    resample: Any = "source",
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> nn.Module:
    """A module of timm's or transformers', in eval mode, that computes what the file's own project computes.

    Everything that the file tells (sizes, depth, heads, registers, eps, activation) overrides what the name stands for.

    Arguments:
        what: "timm:NAME" of a registered Vision Transformer, or "hf:CLASS" of transformers.
        path: a file, a folder, or a mapping name → tensor.
        image_size, patch_size, in_chans, num_classes, weights, dialect, heads, grid, facts, resample: as for `load`.
        device: where to put the module.
        dtype: None builds it in float32.

    Returns:
        The module; its attribute `anyvit_report` is the account of the load.

    Raises:
        BadArgument: an unknown name or class.
        Unsayable: the class cannot compute what the file computes.
        MissingExtra: the library is not installed.
    """
    require_torch("to build a module")
    place, dtype = usable(device), float_type(dtype)
    library, _, name = what.partition(":")
    makers = {"timm": _timm, "hf": _hf}
    if library not in makers or not name:
        raise BadArgument("a module is named by its library", found=what, expected='"timm:NAME" or "hf:CLASS"')
    wanted = Wanted(patch_size, image_size, in_chans, num_classes, None, resample)
    pixels = {"in_chans": in_chans, "patch_size": patch_size}
    found = api._understood(path, Ask(weights, dialect, heads, grid, facts=facts, pixels=pixels), None)
    assert found.spec is not None
    state = adapt.adapt(found.tensors, found.spec, wanted)
    module = makers[library](name, state)
    report = into.fill(recognise_module(module), found, wanted, device=place)
    module = module.to(device=place, dtype=dtype)
    object.__setattr__(module, "anyvit_report", report)
    return module.eval()


def _timm(name: str, state: Adapted) -> nn.Module:
    try:
        import timm as library
    except ImportError as error:
        raise needs("timm", "timm", f"to build {name}") from error
    registered = timm_args.registered(name)
    if registered is None:
        raise BadArgument(f"timm has no Vision Transformer {name!r} that is known here", remedy="timm.list_models()")
    refusal: AnyvitError | None = None
    for dialect, form in timm_forms.FORMS.items():
        if form.cls != registered[0]:
            continue
        try:
            args = _timm_arguments(name, state, dialect)
        except Unsayable as error:
            refusal = refusal or error
            continue
        with meta.parameters_on_meta():
            return library.create_model(name, **args)
    assert refusal is not None
    raise refusal


def _timm_arguments(name: str, state: Adapted, dialect: str) -> dict[str, Any]:
    """What a registered name has to be given for a model."""
    fitted = saying.fitted(state, dialects.get(timm_forms.TABLES.get(dialect, dialect)))
    spec = timm.settle(fitted.spec, fitted.tensors)
    form = timm.form_of(spec, dialect)
    assert form is not None
    wanted, unsaid = timm.arguments(spec, form, fitted.tensors)
    _, args, wrong = timm.nearest(form, wanted, only=name.split(".")[0])
    unsaid = {**{n: why for n, why in wrong.items() if n not in ("eps", "norm", "ffn")}, **unsaid}
    if hard := [n for n in unsaid if n not in saying.SOFT]:
        raise Unsayable(f"timm's {name} cannot be this model", names=hard, usual="; ".join(unsaid[n] for n in hard))
    args.update(_callables(wanted, wrong))
    args["num_classes"] = spec.num_classes if "head.weight" in fitted.tensors else 0
    return args


def _callables(wanted: Mapping[str, Any], wrong: Mapping[str, str]) -> dict[str, Any]:
    """Classes that a registered name has otherwise."""
    from timm import layers

    made: dict[str, Any] = {}
    if {"eps", "norm"} & set(wrong):
        kind, eps = timm_args.norm_word(wanted["norm_layer"])
        made["norm_layer"] = partial(getattr(layers, {"layernorm": "LayerNorm", "rmsnorm": "RmsNorm"}[kind]), eps=eps)
    if "ffn" in wrong:
        made["mlp_layer"] = getattr(layers, wanted["mlp_layer"])
    return made


def _hf(name: str, state: Adapted) -> nn.Module:
    try:
        import transformers as library
    except ImportError as error:
        raise needs("transformers", "transformers", f"to build {name}") from error
    cls = getattr(library, name, None)
    if not inspect.isclass(cls) or getattr(cls, "config_class", None) is None:
        raise BadArgument(f"transformers has no model class {name!r}")
    refusal: AnyvitError | None = None
    for dialect in _dialects_of(cls):
        try:
            return _hf_built(cls, dialect, state)
        except Unsayable as error:
            refusal = refusal or error
    if refusal is None:
        known = sorted({t.model for t in hf_types.TYPES.values()})
        raise BadArgument(f"{name} is no image tower that is known here", expected=", ".join(known))
    raise refusal


def _dialects_of(cls: Any) -> list[Dialect]:
    """The dialects on disk of a transformers class."""
    kind = cls.config_class.model_type
    kinds = [k for k, t in hf_types.TYPES.items() if k == kind or (t.parent == kind and t.classifier == cls.__name__)]
    skipped = ("-memory", "-beside")
    return [d for d in dialects.ALL if hf.model_type(d.name) in kinds and not d.name.endswith(skipped)]


def _hf_built(cls: Any, dialect: Dialect, state: Adapted) -> nn.Module:
    said = saying.fitted(state, dialect)
    names = said.tensors
    classifies = "ForImageClassification" in cls.__name__
    if not classifies:
        names = {n: t for n, t in names.items() if not n.startswith("head")}
    config = dict(configs.write(said.spec, dialect.name, names).files["config.json"])
    config.pop("architectures", None)
    if config["model_type"] != cls.config_class.model_type:
        config = {"model_type": cls.config_class.model_type, "vision_config": config}
    extra = {}
    if "add_pooling_layer" in inspect.signature(cls.__init__).parameters:
        extra["add_pooling_layer"] = bool({"pre_logits.weight", "fc_norm.weight"} & set(names))
    with meta.parameters_on_meta():
        return cls(cls.config_class.from_dict(config), **extra)
