"""Training arguments inside pickles: read without running anything, and believed only where the tensors agree."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvit import configs
from anyvit.configs import args
from anyvit.containers.inert import Inert
from anyvit.lazy import Checkpoint, from_array


def values(extras: dict[str, Any]) -> dict[str, Any]:
    return {name: fact.value for name, fact in args.read(extras).facts.items()}


def test_dino_and_ibot_name_their_architecture() -> None:
    namespace = Inert("argparse.Namespace", state={"arch": "vit_small", "patch_size": 8, "out_dim": 65536})
    assert values({"args": namespace, "epoch": 100}) == {
        "embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536, "patch_size": 8}  # fmt: skip


def test_moco_v3s_small_has_twelve_heads() -> None:
    assert values({"arch": "vit_small", "epoch": 300})["num_heads"] == 12
    assert values({"args": {"arch": "vit_small", "patch_size": 16}})["num_heads"] == 6


@pytest.mark.parametrize(
    ("name", "width", "patch"),
    [
        ("mae_vit_large_patch16", 1024, 16),
        ("vit_huge_patch14", 1280, 14),
        ("deit_base_distilled_patch16_384", 768, 16),
        ("beit_large_patch16_512", 1024, 16),
        ("mae_vit_base_patch16_dec512d8b", 768, 16),
    ],
)
def test_names_of_finetuning_scripts(name: str, width: int, patch: int) -> None:
    facts = values({"args": {"model": name, "input_size": 224}})
    assert (facts["embed_dim"], facts["patch_size"], facts["image_size"]) == (width, patch, 224)


def test_timm_leaves_a_registered_name() -> None:
    name = "vit_so400m_patch16_siglip_384"
    facts = values({"arch": name, "version": 2, "args": {"model": name}})
    assert (facts["num_heads"], facts["mlp_dim"], facts["act"]) == (16, 4304, "gelu_tanh")


def test_a_name_that_the_tensors_contradict_is_not_believed() -> None:
    tensors = {"teacher.backbone.blocks.0.norm1.weight": from_array(np.zeros(128, "float32"))}
    checkpoint = Checkpoint(tensors, "torch", extras={"args": {"arch": "vit_small", "patch_size": 16}})
    read = configs.read(checkpoint, "dino")
    assert set(read.facts) == {"patch_size"}
    assert "other sizes" in read.notes[-1]
    right = {"module.blocks.0.norm1.weight": from_array(np.zeros(384, "float32"))}
    assert configs.read(Checkpoint(right, "torch", extras=checkpoint.extras)).facts["num_heads"].value == 6


CALL = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='PatchEmbedDust3R', img_size=(512, 512), "
    "head_type='dpt', depth_mode=('exp', -inf, inf), enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, dec=768)"
)


def test_dust3rs_model_is_a_call_in_a_text() -> None:
    facts = values({"args": Inert("argparse.Namespace", state={"model": CALL})})
    assert (facts["embed_dim"], facts["depth"], facts["num_heads"], facts["mlp_dim"]) == (1024, 24, 16, 4096)
    assert (facts["rope"].base, facts["rope"].coords, facts["mean"]) == (100.0, "index", (0.5, 0.5, 0.5))
    assert "image_size" not in facts


def test_text_is_never_evaluated(tmp_path: Any) -> None:
    target = tmp_path / "made"
    text = f"AsymmetricCroCo3DStereo(enc_depth=open({str(target)!r}, 'w').write('x'), enc_embed_dim=64)"
    facts = values({"args": {"model": text}})
    assert facts["embed_dim"] == 64 and facts["depth"] == 12
    assert not target.exists()
    assert args.literal_call("(" * 5000) == ("", {})


def test_croco_states_its_encoder() -> None:
    facts = values({"croco_kwargs": {"enc_embed_dim": 128, "enc_num_heads": 2, "pos_embed": "cosine", "img_size": 64}})
    assert (facts["num_heads"], facts["mlp_dim"], facts["rope"], facts["image_size"]) == (2, 512, None, 64)
    read = args.read({"croco_kwargs": {"pos_embed": "Fourier", "enc_num_heads": [2]}})
    assert "rope" not in read.facts and len(read.notes) == 2


RADIO = {
    "model": "vit_base_patch16_224", "model_kwargs": {"embed_dim": 128, "depth": 3, "num_heads": 2, "img_size": 64},
    "cpe_max_size": 128, "cls_token_per_teacher": True, "register_multiple": 8, "cpe_num_registers": None,
    "teachers": [{"name": "clip"}, {"name": "siglip"}, {"name": "clip"}, {"name": "sam", "use_summary": False}],
}  # fmt: skip


def test_radio_says_how_its_one_token_tensor_splits() -> None:
    facts = values({"args": Inert("argparse.Namespace", state=RADIO), "arch": "vit_base_patch16_224", "version": 2})
    assert (facts["num_cls"], facts["num_registers"], facts["summary"], facts["image_size"]) == (3, 5, (0, 1), 128)
    assert (facts["embed_dim"], facts["num_heads"], facts["mlp_dim"], facts["patch_size"]) == (128, 2, 512, 16)
    alone = values({"args": {**RADIO, "cls_token_per_teacher": False}})
    assert (alone["num_cls"], alone["num_registers"], alone["summary"]) == (1, 7, (0,))
    assert values({"args": {**RADIO, "cpe_num_registers": 3}})["num_registers"] == 3
    # A multiple that fits already gets a whole one more.
    assert values({"args": {**RADIO, "register_multiple": 3}})["num_registers"] == 3


def test_odd_radio_arguments_give_a_note() -> None:
    for broken in ({"teachers": [3]}, {"register_multiple": "x"}, {"teachers": [{"use_summary": True}]}):
        read = args.read({"args": {**RADIO, **broken}})
        assert "num_cls" not in read.facts and read.notes


TREE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "state", "enc_embed_dim", "use_summary"]), inner, max_size=3),
    ),
    max_leaves=5,
)
KEYS = ["arch", "model", "patch_size", "input_size", "teachers", "cpe_max_size", "register_multiple", "model_kwargs",
        "use_mean_pooling", "cls_token_per_teacher", "cpe_num_registers"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(arguments=st.dictionaries(st.sampled_from(KEYS), TREE), croco=TREE, named=st.booleans())
def test_no_argument_breaks_the_reader(arguments: dict[str, Any], croco: Any, named: bool) -> None:
    if named:
        arguments["model"] = "vit_base_patch16_224"
    read = args.read({"args": Inert("argparse.Namespace", state=arguments), "croco_kwargs": croco, "arch": croco})
    assert all(fact.how == "given" for fact in read.facts.values())


@needs_shared
def test_real_pickles() -> None:
    from anyvit.containers import open_checkpoint

    def facts(case: str, dialect: str) -> dict[str, Any]:
        files = sorted((SHARED / "cases" / case).iterdir())
        checkpoint = open_checkpoint(next(path for path in files if re.search(r"\.pth", path.name)))
        return {name: fact.value for name, fact in configs.read(checkpoint, dialect).facts.items()}

    croco = facts("croco-p", "croco")
    assert (croco["num_heads"], croco["rope"].base, croco["mlp_dim"]) == (2, 100.0, 512)
    radio = facts("radio-p", "radio")
    assert (radio["num_cls"], radio["num_registers"], radio["summary"], radio["num_heads"]) == (4, 4, (0, 1, 2), 2)
    assert facts("dino-c", "dino") == {"patch_size": 16}
    beit = facts("beit-p", "beit")
    assert (beit["pool"], beit["image_size"], "num_heads" in beit) == ("avg", 64, False)
    assert facts("moco_v3-p", "moco") == {}
