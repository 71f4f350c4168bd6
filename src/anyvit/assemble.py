"""Canonical tensors into our reference ViT: built without memory, filled by mapping, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anyvit import dialects, expected, fit, integrity, mapped, meta
from anyvit.errors import Incomplete
from anyvit.lazy import Checkpoint, Lazy, from_array
from anyvit.report import Finding, Report, fold
from anyvit.rewrite import zeros
from anyvit.spec import Spec
from anyvit.torch_io import to_torch, widened

if TYPE_CHECKING:
    import torch

    from anyvit.model import ViT

IGNORED = ("local_cls_norm.weight", "local_cls_norm.bias")
"""Canonical tensors that the reference ViT never uses."""


def build_vit(
    tensors: Mapping[str, Lazy],
    spec: Spec,
    report: Report,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    check: str | None = None,
    source: Checkpoint | None = None,
) -> ViT:
    """The reference ViT of a Spec, filled and in eval mode.

    Arguments:
        check: when the bytes of `source` are checked, see `integrity.mode`.
        source: the file that the tensors come from; None where there is nothing to check.

    Raises:
        Incomplete: a parameter of the model would stay unfilled, or a tensor has no place in it.
        FileError: a checksum of the source is wrong.
    """
    import torch

    from anyvit.model import ViT

    with torch.device("meta"):
        model = ViT(spec)
    dialect = dialects.get("anyvit-dit" if spec.condition == "dit" else "anyvit")
    wanted = model.state_dict()
    needs = [f"blocks.{i}.attn.k.bias" for i in range(spec.depth) if f"blocks.{i}.attn.qkv.bias" in wanted]
    tensors = {**tensors, **{n: _zero_bias(tensors, n) for n in expected.zero_biases(tensors)}}
    written = fit.express(tensors, spec, dialect, requires=[n for n in needs if n not in tensors])
    given = {n: t for n, t in written.run.tensors.items() if n not in IGNORED}
    given = {**_computed(wanted, spec), **given}
    _account(given, wanted)
    filled = _filled(given, device, dtype, own=report.container == "memory")
    meta.assign(model, filled)
    model.register_state_dict_pre_hook(owned)
    if spec.condition and not tensors["blocks.0.adaln.shift1.weight"].origin:
        report = report.adding([_measured(model)])
    model._report = report
    found = mapped.files_of(given, filled)
    model._check = None if source is None else integrity.begin(source, tensors, check, spec, again=bool(found))
    if found:
        model._mapped = mapped.Mapped(found, *(() if model._check is None else (model._check.again,)))
    model._packs = True
    return model.eval()


def _filled(
    given: Mapping[str, Lazy], device: torch.device | str | None, dtype: torch.dtype | None, own: bool
) -> dict[str, torch.Tensor]:
    """The values: mapped from the file on the CPU, staged to a CUDA device; `own` copies what is in memory already."""
    import torch

    place = None if device is None else torch.device(device)
    if place is not None and place.type == "cuda":
        from anyvit.staging import to_cuda

        staged = {n: t.to(widened(given[n].dtype, dtype) or t.dtype) for n, t in to_cuda(given, place)}
        return {name: staged[name] for name in given}
    filled = {}
    for name, lazy in given.items():
        tensor = to_torch(lazy, widened(lazy.dtype, dtype))
        tensor = tensor.clone() if own and lazy.origin else tensor
        filled[name] = tensor if place is None else tensor.to(place)
    return filled


def _measured(model: ViT) -> Finding:
    """How much new conditioning changes before it is trained, on the model itself."""
    from anyvit.effects import conditioning

    depth = model.spec.depth
    cause = f"measured under a random condition: max |Δ| {conditioning(model):.3g}"
    return Finding("new", (), f"{cause} (modulation of all {depth} blocks, tokens after the first)")


def _zero_bias(tensors: Mapping[str, Lazy], name: str) -> Lazy:
    return zeros(tensors[name.replace("bias", "weight")].shape[:1], "float32")


def owned(model: torch.nn.Module, prefix: str = "", keep_vars: bool = False) -> None:
    """Copies weights that are mapped from a file into memory of their own, before somebody saves them.

    `torch.save(vit.state_dict(), path)` empties the file before it reads the weights; where they are mapped from that
    very file, the process dies of a bus error and the file is lost.

    Arguments:
        model: the model whose state dict is asked for.
        prefix: given by torch.
        keep_vars: whether the parameters themselves are asked for, which no one saves.
    """
    if keep_vars:
        return
    watched = getattr(model, "_mapped", None)
    if watched is not None:
        watched.check((*model.parameters(), *model.buffers()))
    for tensor in (*model.parameters(), *model.buffers()):
        if mapped.is_mapped(tensor):
            tensor.data = tensor.data.clone()


def _computed(wanted: Mapping[str, torch.Tensor], spec: Spec) -> dict[str, Lazy]:
    """Tensors of the model that follow from the Spec: the periods of a rotary embedding."""
    if "rope.periods" not in wanted or spec.rope is None:
        return {}
    from anyvit.model.rope import periods

    return {"rope.periods": from_array(periods(spec.rope.base, wanted["rope.periods"].shape[0]).numpy())}


def _account(given: Mapping[str, Lazy], wanted: Mapping[str, torch.Tensor]) -> None:
    missing = [n for n in wanted if n not in given]
    surplus = [n for n in given if n not in wanted]
    wrong = [n for n in given if n in wanted and tuple(wanted[n].shape) != given[n].shape]
    if missing:
        raise Incomplete(f"{len(missing)} tensors of the model are not in the file", names=fold(missing))
    if surplus:
        raise Incomplete(f"{len(surplus)} tensors of the file have no place in the model", names=fold(surplus))
    if wrong:
        name = wrong[0]
        raise Incomplete(
            "tensors do not fit the model",
            names=fold(wrong),
            found=given[name].shape,
            expected=tuple(wanted[name].shape),
        )
