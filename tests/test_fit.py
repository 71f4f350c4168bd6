"""Rewrites are chosen by what a target lacks and wants, in an order that does not undo itself."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the weights are made with torch")

from support.peers import state  # noqa: E402

from anyvit import canon, containers, fit, rewrite  # noqa: E402
from anyvit.dialects import get  # noqa: E402
from anyvit.errors import Unsayable  # noqa: E402
from anyvit.reading import Ask, understand  # noqa: E402
from anyvit.spec import Spec  # noqa: E402


def canonical(**options: Any) -> fit.Fitted:
    found = understand(containers.open_checkpoint(state(**options)), Ask(heads=2))
    assert found.spec is not None
    return fit.Fitted(found.tensors, found.spec)


def fitted(held: fit.Fitted, **asked: Any) -> fit.Fitted:
    return fit.fit(held.tensors, held.spec, **asked)


def names_of_blocks(text: str, depth: int = 2) -> list[str]:
    return [text.replace("{i}", str(i)) for i in range(depth)]


def test_nothing_is_done_where_nothing_is_asked() -> None:
    held = canonical()
    assert fitted(held) == fit.Fitted(held.tensors, held.spec, ())


def test_every_step_names_canonical_tensors() -> None:
    for step in fit.STEPS:
        for name in (*step.removes, *step.adds):
            assert canon.lookup(name.replace("{i}", "0")), name
        assert set(step.changes if not callable(step.changes) else ()) <= set(Spec.__dataclass_fields__)


@pytest.mark.parametrize("step", fit.STEPS, ids=lambda step: step.text[:40])
def test_a_step_is_said_with_its_names_and_what_it_means(step: fit.Step) -> None:
    full = canonical(classes=4, layer_scale=True, registers=2)
    zero = {n: rewrite.zeros(t.shape, t.dtype) if n.endswith("bias") else t for n, t in full.tensors.items()}
    for held in (full, fit.Fitted(zero, full.spec), canonical(qkv_bias=False, patch_bias=False)):
        done = fitted(held, lacks=step.removes, wants=step.adds)
        assert all("the function is unchanged" in f.cause and f.kind == "folded" for f in done.findings)
        assert all(f.names for f in done.findings)
        assert bool(done.findings) == (dict(done.tensors) != dict(held.tensors))


def test_the_spec_follows() -> None:
    spec = fitted(canonical(layer_scale=True), lacks=names_of_blocks("blocks.{i}.ls1")).spec
    assert spec.layer_scale is False
    spec = fitted(canonical(), lacks=names_of_blocks("blocks.{i}.attn.k.bias")).spec
    assert spec.qkv_bias == "qv"
    spec = fitted(canonical(qkv_bias=False), wants=names_of_blocks("blocks.{i}.attn.q.bias")).spec
    assert spec.qkv_bias is True
    spec = fitted(canonical(), rows=0).spec
    assert spec.pos_prefix == 0 and spec.facts["pos_prefix"].how == "given"


def test_biases_that_are_not_zero_are_not_dropped() -> None:
    held = canonical()
    done = fitted(held, lacks=names_of_blocks("blocks.{i}.attn.out.bias"))
    assert done.tensors == held.tensors and not done.findings


def test_a_fused_bias_gets_its_missing_third() -> None:
    held = canonical()
    without = {n: t for n, t in held.tensors.items() if not n.endswith("attn.k.bias")}
    written = fit.express(without, held.spec, get("timm"))
    fused = written.run.tensors["blocks.0.attn.qkv.bias"].read().reshape(3, -1)
    assert not fused[1].any() and fused[0].any() and fused[2].any()


def test_what_the_function_needs_is_refused_by_its_name_in_the_file() -> None:
    held = canonical(registers=2)
    with pytest.raises(Unsayable, match="reg_token"):
        fit.express(held.tensors, held.spec, get("hf-vit"))


def test_what_the_function_does_not_need_is_left_out_and_said() -> None:
    held = canonical(classes=4)
    written = fit.express(held.tensors, held.spec, get("open_clip-timm"))
    assert written.fitted.spec.num_classes == 0
    assert [f.names for f in written.fitted.findings] == [("head.weight", "head.bias")]
    assert written.fitted.findings[0].kind == "unsayable"
    mask = fit.Fitted({**held.tensors, "embed.mask": rewrite.ones((12,), "float32")}, held.spec)
    written = fit.express(mask.tensors, mask.spec, get("timm"))
    assert [f.kind for f in written.fitted.findings] == ["ignored"]


def test_a_head_without_its_bias_is_left_out_whole() -> None:
    from dataclasses import replace

    from anyvit.rules import R, without

    held = canonical(classes=4)
    table = replace(get("timm"), rules=(*without(get("timm"), "head.{p}"), R("head.weight", "head.weight")))
    assert "head.weight" not in fit.express(held.tensors, held.spec, table).run.tensors
    zero = {**held.tensors, "head.bias": rewrite.zeros((4,), "float32")}
    assert "head.weight" in fit.express(zero, held.spec, table).run.tensors


@pytest.mark.parametrize(
    ("depth", "chunks", "expected"), [(5, 2, [0, 0, 1, 1, 2]), (4, 4, [0, 1, 2, 3]), (3, None, [0, 0, 0])]
)
def test_chunks_have_depth_over_chunks_blocks(depth: int, chunks: int | None, expected: list[int]) -> None:
    held = canonical(depth=depth)
    run = fit.express(held.tensors, held.spec, get("dinov2-chunked"), chunks=chunks).run
    found = [name.split(".")[1:3] for name in run.tensors if name.endswith("norm1.weight")]
    assert found == [[str(chunk), str(i)] for i, chunk in enumerate(expected)]


def test_findings_of_steps_are_kept_in_order() -> None:
    one = canonical()
    two = fitted(one, rows=0)
    assert one.then(two).then(fitted(two, rows=1)).findings == (*two.findings, *fitted(two, rows=1).findings)
