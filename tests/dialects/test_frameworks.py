"""Weights that TensorFlow, Keras and flax classes saved compute here what they computed there (fixtures/make_frameworks.py)."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="outputs are compared with torch")
pytest.importorskip("h5py", reason="HDF5 is read with h5py")

from anyvit.api import convert, inspect, load  # noqa: E402
from anyvit.dialects import ALL, get  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "frameworks"

FILES = {
    "tf-vit": ("hf-vit-tf", "tf_vi_t_for_image_classification/vit/"),
    "tf-vit-base": ("hf-vit-tf", "tf_vi_t_model/vit/"),
    "tf-deit": ("hf-deit-tf", "tf_dei_t_for_image_classification_with_teacher/deit/"),
    "tf-clip": ("hf-clip-tf", "tfclip_model/clip/vision_model/"),
    "tf-data2vec": ("hf-data2vec-vision-tf", "tf_data2_vec_vision_for_image_classification/data2vec_vision/"),
    "tf-mae": ("hf-vit-mae-tf", "tf_vi_tmae_for_pre_training/vit/"),
    "tf-sam": ("hf-sam-tf", "tf_sam_model/vision_encoder/"),
    "flax-vit": ("hf-vit-flax", "vit."),
    "flax-vit-base": ("hf-vit-flax", ""),
    "flax-clip": ("hf-clip-flax", "vision_model."),
    "flax-beit": ("hf-beit-flax", "beit."),
    "flax-dinov2": ("hf-dinov2-flax", "dinov2."),
    "vit-keras": ("vit-keras", ""),
    "vit-keras-2-h5": ("vit-keras-2", ""),
    "vit-keras-2-weights-h5": ("vit-keras-2-weights", "layers/"),
    "vit-keras-2-keras": ("vit-keras-2-weights", "layers/"),
    "keras-hub-h5": ("keras-hub-vit", ""),
    "keras-hub-weights-h5": ("keras-hub-vit-weights", "layers/vi_t_backbone_2/"),
    "keras-hub-keras": ("keras-hub-vit-weights", "layers/vi_t_backbone_1/"),
    "keras-hub-deit-h5": ("keras-hub-deit", ""),
    "keras-hub-deit-weights-h5": ("keras-hub-deit-weights", ""),
    "keras-hub-dinov2-plain": ("keras-hub-dinov2-weights", ""),
    "keras-hub-dinov2-gated": ("keras-hub-dinov2-weights", ""),
    "keras-hub-dinov2-registers": ("keras-hub-dinov2-registers-weights", ""),
}
"""Fixture → dialect and prefix."""

UNSAID: dict[str, dict[str, Any]] = {
    "vit-keras-2-weights-h5": {"heads": 2, "grid": (3, 5)}, "keras-hub-weights-h5": {"grid": (3, 5)},
}  # fmt: skip
"""What neither the weights nor a configuration beside them say."""

fixtures = pytest.mark.parametrize("name", FILES)


def opened(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file, unpacked, and what its model computed."""
    packed = next(FOLDER.glob(f"{name}.*.xz"))
    path = folder / packed.name.removesuffix(".xz")
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path, dict(np.load(FOLDER / f"{name}.npz"))


def asked(name: str) -> dict[str, Any]:
    return UNSAID.get(name, {} if "keras" in name else {"heads": 2})


def computed(vit: Any, expected: dict[str, Any]) -> dict[str, Any]:
    with torch.no_grad():
        out = vit(torch.from_numpy(expected["pixels"]))
        neck = vit.neck(out) if "neck" in expected else None
    found = {"tokens": out.tokens, "pooled": out.pooled, "logits": out.logits, "embedding": out.embedding, "neck": neck}
    return {key: value.numpy() for key, value in found.items() if value is not None}


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@fixtures
def test_they_compute_here_what_they_computed_there(name: str, tmp_path: Path) -> None:
    path, expected = opened(name, tmp_path)
    vit = load(path, **asked(name))
    found = computed(vit, expected)
    if "embedding" in expected:
        found["embedding"] = unit(found["embedding"])
    if "shuffled" in expected:  # TFViTMAE shuffles its tokens even where it masks none
        rows = np.take_along_axis(expected["shuffled"][:, 1:], expected["ids"][..., None], 1)
        expected["tokens"] = np.concatenate([expected["shuffled"][:, :1], rows], 1)
    compared = set(expected) - {"pixels", "shuffled", "ids"}
    assert compared
    for key in compared:
        assert np.abs(expected[key]).max() > 0.05
        np.testing.assert_allclose(found[key], expected[key], atol=3e-6, rtol=1e-4, err_msg=key)


@fixtures
def test_they_are_recognised(name: str, tmp_path: Path) -> None:
    path, _ = opened(name, tmp_path)
    report = inspect(path)
    assert (report.match.dialect.name, report.match.prefix) == FILES[name]
    assert not report.of("unexplained")
    assert report.ok == ("grid" not in asked(name))
    assert (report.spec.embed_dim, report.spec.depth, report.spec.patch_size) == (12, 2, 4)


@fixtures
def test_what_is_written_from_them_computes_the_same(name: str, tmp_path: Path) -> None:
    path, expected = opened(name, tmp_path)
    out = tmp_path / "out.safetensors"
    convert(path, out, "anyvit", **asked(name))
    one, two = computed(load(path, **asked(name)), expected), computed(load(out), expected)
    assert set(one) == set(two)
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=1e-6)


@pytest.mark.parametrize(
    "name", ["vit-keras", "vit-keras-2-h5", "vit-keras-2-keras", "keras-hub-keras", "keras-hub-h5"]
)
def test_a_configuration_says_heads_and_grid(name: str, tmp_path: Path) -> None:
    spec = inspect(opened(name, tmp_path)[0]).spec
    assert (spec.num_heads, spec.grid, spec.image_size) == (2, (3, 5), (12, 20))
    assert spec.facts["num_heads"].how in ("given", "measured")


def test_a_table_of_keras_has_a_row_for_the_class_token_always(tmp_path: Path) -> None:
    """3 × 5 and one row are 4 × 4 without it: what is likelier is not what is."""
    report = inspect(opened("vit-keras-2-weights-h5", tmp_path)[0])
    assert report.of("ambiguous") and report.spec.grid is None


def test_a_folder_of_theirs_is_read_with_its_config(tmp_path: Path) -> None:
    path, expected = opened("flax-vit", tmp_path)
    (tmp_path / "a").mkdir()
    path.rename(tmp_path / "a" / "flax_model.msgpack")
    (tmp_path / "a" / "config.json").write_text(
        '{"model_type": "vit", "num_attention_heads": 2, "layer_norm_eps": 1e-12}'
    )
    found = computed(load(tmp_path / "a"), expected)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=3e-6)


def by_the_documented_rules(name: str, array: Any, norm: tuple[str, str], separator: str) -> tuple[str, Any]:
    """torch's name and array as flax or TensorFlow keeps them, after transformers' own conversion."""
    *path, last = name.split(".")
    is_norm = "norm" in path[-1] and array.ndim == 1
    if array.ndim == 4 and last == "weight":
        last, array = "kernel", array.transpose(2, 3, 1, 0)
    elif array.ndim == 2 and last == "weight":
        last, array = "kernel", array.T
    elif is_norm:
        last = norm[last == "bias"]
    text = separator.join((*path, last))
    return (text.replace("layer/", "layer_._", 1) if separator == "/" else text), array


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize(
    ("suffix", "norm", "separator"), [("flax", ("scale", "bias"), "."), ("tf", ("gamma", "beta"), "/")]
)
def test_a_model_of_torch_by_the_documented_rules(suffix: str, norm: tuple[str, str], separator: str) -> None:
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    model = hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=5)).eval()
    import tempfile

    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        disk = load_file(Path(folder, "model.safetensors"))
    head = "tf_vi_t_for_image_classification/" if separator == "/" else ""
    theirs = dict(by_the_documented_rules(n, a, norm, separator) for n, a in disk.items())
    vit = load({head + n: np.ascontiguousarray(a) for n, a in theirs.items()}, heads=2)
    assert vit.report.match.dialect.name == f"hf-vit-{suffix}"
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(vit(pixels).logits, model(pixels).logits, atol=1e-5, rtol=1e-5)


def test_every_retold_dialect_has_the_words_of_its_model() -> None:
    for dialect in ALL:
        base, _, kind = dialect.name.rpartition("-")
        if base.startswith("hf-") and kind in ("tf", "flax"):
            assert {rule.ours and rule.ours.split(".")[0] for rule in dialect.rules} <= {
                rule.ours and rule.ours.split(".")[0] for rule in get(base).rules
            }
            assert not any(rule.theirs.endswith((".weight", ".{p}")) for rule in dialect.rules if kind == "flax")
