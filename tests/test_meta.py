"""Modules are built without memory, and get values of their own where a file has none."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from torch import nn  # noqa: E402

from anyvit import meta  # noqa: E402
from anyvit.errors import Incomplete  # noqa: E402


class Table(nn.Module):
    """A buffer that is not saved, computed as timm computes its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.register_buffer("table", torch.empty(4), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        self.table.copy_(torch.arange(4.0))


def test_parameters_lie_on_meta_and_buffers_do_not() -> None:
    with meta.parameters_on_meta():
        module = Table()
        norm = nn.BatchNorm1d(3)
    assert all(p.is_meta and isinstance(p, nn.Parameter) for p in module.parameters())
    assert module.table.tolist() == [0, 1, 2, 3]
    assert not norm.running_mean.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


def test_other_threads_build_as_ever() -> None:
    made: list[nn.Module] = []
    with meta.parameters_on_meta():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
    assert not made[0].weight.is_meta


def test_the_hook_goes_when_the_block_fails() -> None:
    with pytest.raises(RuntimeError), meta.parameters_on_meta():
        raise RuntimeError
    assert not nn.Linear(2, 2).weight.is_meta


def test_what_no_file_fills_gets_the_modules_own_values() -> None:
    with torch.device("meta"):
        module = Table()
    meta.unfillable(module, [])
    zeroed = meta.settle(module, ["linear.weight"])
    assert module.table.tolist() == [0, 1, 2, 3]
    assert module.linear.weight.is_meta
    assert not module.linear.bias.is_meta and zeroed == []


def test_parameters_without_initial_values_are_zero() -> None:
    module = nn.Module()
    module.token = nn.Parameter(torch.ones(2, device="meta"), requires_grad=False)
    assert meta.settle(module, []) == ["token"]
    assert module.token.tolist() == [0, 0] and not module.token.requires_grad


def test_position_ids_are_numbers_in_order() -> None:
    module = nn.Module()
    module.register_buffer("position_ids", torch.empty(1, 3, dtype=torch.long, device="meta"), persistent=False)
    meta.unfillable(module, [])
    meta.settle(module, [])
    assert module.position_ids.tolist() == [[0, 1, 2]]


def test_a_buffer_that_nothing_computes_is_named() -> None:
    module = nn.Sequential(nn.LayerNorm(2))
    module[0].register_buffer("scale", torch.ones(2, device="meta"))
    with pytest.raises(Incomplete, match=r"0\.scale"):
        meta.unfillable(module, [])
    meta.unfillable(module, ["0.scale"])


def test_tied_tensors_stay_tied() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        module[1].weight = module[0].weight
    meta.assign(module, {"0.weight": torch.ones(2, 2)})
    assert module[0].weight is module[1].weight
    assert module[1].weight.tolist() == [[1, 1], [1, 1]]
    assert module[0].bias.is_meta
