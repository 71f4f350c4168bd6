"""Registers added and removed: seeded, in order, said not to be exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models are run")

from support import adapting  # noqa: E402

import anyvit  # noqa: E402
from anyvit.errors import BadArgument  # noqa: E402
from anyvit.lazy import from_array  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Rope, Spec  # noqa: E402
from anyvit.tokens import cls_token, registers  # noqa: E402

PICTURE = adapting.pixels()


def load(source: Any, **options: Any) -> Any:
    return anyvit.load(source, heads=2, dialect="timm", **options)


@pytest.mark.parametrize(("old", "new"), [(0, 4), (2, 5), (4, 1), (3, 0)])
def test_old_registers_stay_in_order_and_new_ones_follow(old: int, new: int) -> None:
    source = adapting.state(registers=old, cls_row=False)
    vit = load(source, registers=new)
    assert vit.spec.num_registers == new and vit(PICTURE).tokens.shape[1] == 1 + new + 9
    if new == 0:
        assert vit.embed.reg is None and vit(PICTURE).registers is None
        return
    kept = min(old, new)
    if kept:
        assert torch.equal(vit.embed.reg[:kept], source["reg_token"][0, :kept])
    fresh = vit.embed.reg[kept:].detach()
    if new > old:
        assert 0.01 < float(fresh.std()) < 0.03 and float(fresh.abs().max()) <= 0.04
        assert torch.equal(vit.embed.reg, load(source, registers=new).embed.reg)
        assert len({tuple(row.tolist()) for row in fresh}) == new - old


@pytest.mark.parametrize(("old", "new", "kind"), [(0, 2, "new"), (2, 0, "ignored")])
def test_the_change_is_said_and_is_one(old: int, new: int, kind: str) -> None:
    source = adapting.state(registers=old, cls_row=False)
    before, after = load(source), load(source, registers=new)
    assert any("registers" in f.cause and "the function changes" in f.cause for f in after.report.of(kind))
    with torch.no_grad():
        assert float((before(PICTURE).cls - after(PICTURE).cls).abs().max()) > 1e-5


def test_a_new_register_is_the_same_however_many_there_were() -> None:
    two, three = ({"embed.reg": from_array(np.ones((n, 6), "float32"), "reg")} for n in (2, 3))
    one, other = (registers(t, Spec(embed_dim=6, num_registers=n), 5) for t, n in ((two, 2), (three, 3)))
    np.testing.assert_array_equal(one.tensors["embed.reg"].read()[3:], other.tensors["embed.reg"].read()[3:])


def test_as_many_as_there_are_changes_nothing() -> None:
    spec = Spec(num_registers=2)
    assert registers({}, spec, 2).spec is spec


def test_rows_of_the_position_table_go_with_their_registers() -> None:
    rng = np.random.default_rng(0)
    prefix, reg = rng.standard_normal((4, 6)), rng.standard_normal((3, 6))
    tensors = {"embed.pos_prefix": from_array(prefix, "pos"), "embed.reg": from_array(reg, "reg")}
    done = registers(tensors, Spec(embed_dim=6, num_registers=3, pos_prefix=4), 1)
    np.testing.assert_array_equal(done.tensors["embed.pos_prefix"].read(), prefix[:2])
    np.testing.assert_array_equal(done.tensors["embed.reg"].read(), reg[:1])
    assert done.spec.pos_prefix == 2
    none = registers(tensors, Spec(embed_dim=6, num_registers=3, pos_prefix=4, num_cls=0), 0)
    assert "embed.pos_prefix" not in none.tensors and none.spec.pos_prefix == 0
    assert set(tensors) == {"embed.pos_prefix", "embed.reg"}


def test_new_registers_have_the_type_of_the_file() -> None:
    tensors = {"embed.cls": from_array(np.ones((1, 6), "float16"), "cls")}
    assert registers(tensors, Spec(embed_dim=6), 2).tensors["embed.reg"].read().dtype == np.float16


def test_a_converted_file_has_them(tmp_path: Path) -> None:
    source = adapting.state(layer_scale=True)
    anyvit.convert(source, tmp_path / "out", to="hf-dinov2", heads=2, registers=4)
    found = anyvit.inspect(tmp_path / "out")
    assert found.match is not None and found.match.dialect.name == "hf-dinov2-with-registers"
    want = anyvit.load(source, heads=2, registers=4)
    adapting.close(anyvit.load(tmp_path / "out")(PICTURE).tokens, want(PICTURE).tokens)


@pytest.mark.parametrize(("asked", "more", "words"), [
    (-1, {}, "at least 0"), (True, {}, "an int"), (2, {"window": 7}, "no place for registers"),
    (2, {"pos_embed": "learned+relpos"}, "no place for registers"),
])  # fmt: skip
def test_what_cannot_be_is_refused(asked: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        registers({}, Spec(**more), asked)


def test_without_the_class_token_the_mean_is_pooled_and_the_rest_stays() -> None:
    source = adapting.state(classes=5, registers=2, cls_row=False)
    before, after = load(source), load(source, cls_token=False)
    assert (after.spec.num_cls, after.spec.pool, after.embed.cls) == (0, "avg", None)
    out = after(PICTURE)
    assert out.tokens.shape[1] == 2 + 9 and out.cls is None and out.registers.shape[1] == 2
    assert torch.equal(out.pooled, out.patches.mean(1)) and torch.equal(after.head.weight, before.head.weight)
    assert torch.equal(after.embed(PICTURE)[0], before.embed(PICTURE)[0][:, 1:])
    assert any(
        "the function changes" in f.cause and "mean of the patches" in f.cause for f in after.report.of("ignored")
    )


def test_the_row_of_the_class_token_goes_with_it() -> None:
    source = adapting.state(cls_row=True)
    after = load(source, cls_token=False)
    assert after.spec.pos_prefix == 0 and after.embed.pos_prefix is None
    assert torch.equal(after.embed(PICTURE)[0], load(source).embed(PICTURE)[0][:, 1:])
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 6))
    tensors = {"embed.cls": from_array(np.ones((1, 6)), "cls"), "embed.pos_prefix": from_array(rows, "pos")}
    done = cls_token(tensors, Spec(embed_dim=6, num_registers=3, pos_prefix=4), False)
    np.testing.assert_array_equal(done.tensors["embed.pos_prefix"].read(), rows[1:])
    assert done.spec.pos_prefix == 3 and set(tensors) == {"embed.cls", "embed.pos_prefix"}


@torch.no_grad()
@pytest.mark.parametrize("pos_embed", ["learned", "relpos", "learned+relpos", "relpos_shared", "rope"])
def test_a_class_token_comes_and_goes(pos_embed: str) -> None:
    torch.manual_seed(0)
    more: dict[str, Any] = {"rope": Rope()} if pos_embed == "rope" else {}
    spec = Spec(embed_dim=16, depth=2, num_heads=2, mlp_dim=16, patch_size=4, image_size=12, num_cls=0, pool="avg",
                pos_embed=pos_embed, num_classes=3, **more)  # fmt: skip
    plain = ViT(spec).eval()
    for parameter in plain.parameters():
        parameter.normal_(std=0.3)
    added = anyvit.load(plain, cls_token=True)
    assert added.spec.num_cls == 1 and added.spec.pool == "avg" and added(PICTURE).tokens.shape[1] == 10
    assert 0.01 < float(added.embed.cls.std()) < 0.03
    assert any("avg is pooled as before" in f.cause for f in added.report.of("new"))
    assert torch.equal(anyvit.load(added, cls_token=False)(PICTURE).tokens, plain(PICTURE).tokens)
    relative = [n for n in plain.state_dict() if n.endswith("rel_pos")]
    for name in relative:
        assert len(added.state_dict()[name]) == 28 and not added.state_dict()[name][25:].any()


def test_asking_for_what_is_there_changes_nothing() -> None:
    assert cls_token({}, Spec(num_cls=1), True).spec == Spec(num_cls=1)
    assert cls_token({}, Spec(num_cls=0), False).spec == Spec(num_cls=0)


@pytest.mark.parametrize(("wanted", "more", "words"), [
    (True, {"num_cls": 0, "window": 7}, "windows"), (False, {"pool": "cls+dist", "dist_token": True}, "beside others"),
    (False, {"pool": "cls+avg"}, "num_classes=0"), (False, {"num_cls": 2, "num_classes": 3}, "beside others"),
])  # fmt: skip
def test_class_tokens_that_cannot_come_or_go(wanted: bool, more: dict[str, Any], words: str) -> None:
    head = {"head.weight": from_array(np.ones((3, 6)), "head.weight")}
    with pytest.raises(BadArgument, match=words):
        cls_token(head, Spec(**more), wanted)


def test_several_class_tokens_that_no_head_reads_go_together() -> None:
    tensors = {"embed.cls": from_array(np.ones((3, 6)), "cls")}
    done = cls_token(tensors, Spec(embed_dim=6, num_cls=3, summary=(0, 2)), False)
    assert not done.tensors and (done.spec.num_cls, done.spec.summary, done.spec.pool) == (0, None, "avg")


def test_load_into_and_convert_take_it_too(tmp_path: Path) -> None:
    source = adapting.state(layer_scale=True)
    anyvit.convert(source, tmp_path / "out.safetensors", to="timm", heads=2, cls_token=False)
    want = load(source, cls_token=False)
    assert torch.equal(anyvit.load(tmp_path / "out.safetensors")(PICTURE).tokens, want(PICTURE).tokens)
    target = anyvit.load(tmp_path / "out.safetensors", registers=2)
    report = anyvit.load_into(target, source, heads=2, cls_token=False, registers=2)
    assert any("registers are new" in f.cause for f in report.of("new"))
    adapting.close(target(PICTURE).tokens, load(source, cls_token=False, registers=2)(PICTURE).tokens)
