"""Pictures, labels and the order they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models are trained")
Image = pytest.importorskip("PIL.Image", reason="pictures are read by Pillow")

from anyvit.errors import BadArgument, FileError  # noqa: E402
from anyvit.model import ViT  # noqa: E402
from anyvit.spec import Spec  # noqa: E402
from anyvit.training import data  # noqa: E402

SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, "patch_size": 4, "image_size": 8}


def vit(**options: Any) -> ViT:
    return ViT(Spec(**SMALL, **options)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, of two pictures and one; a hidden folder and a text beside them."""
    for name, count in (("cat", 2), ("ant", 1)):
        (tmp_path / name / "inner").mkdir(parents=True)
        for n in range(count):
            picture = np.full((10, 12, 3), 40 * n + 10 * len(name), np.uint8)
            Image.fromarray(picture).save(tmp_path / name / "inner" / f"{n}.png")
        (tmp_path / name / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_a_folder_has_its_classes_in_order(folder: Path) -> None:
    model = vit()
    some = data.examples(folder, model)
    assert isinstance(some, data.Folder) and some.classes == ("ant", "cat")
    assert len(some) == 3 and [int(some[n].label) for n in range(3)] == [0, 1, 1]
    want = model.preprocess(Image.open(folder / "cat" / "inner" / "1.png"))[0]
    assert torch.equal(some[2].pixels, want)
    assert [int(data.examples(str(folder), model, ["cat", "ant"])[n].label) for n in range(3)] == [0, 0, 1]


def test_arrays_of_many_bands_are_pictures_too(tmp_path: Path) -> None:
    (tmp_path / "field").mkdir()
    np.save(tmp_path / "field" / "a.npy", np.random.default_rng(0).integers(0, 255, (8, 8, 13), np.uint8))
    model = vit(in_chans=13, mean=(0.5,) * 13, std=(0.2,) * 13)
    assert data.examples(tmp_path, model)[0].pixels.shape == (13, 8, 8)


@pytest.mark.parametrize(("names", "classes", "words"), [
    ([], None, "no class folders"), (["a"], None, "holds no pictures"), (["a"], ["a", "b"], "lacks class folders: b"),
])  # fmt: skip
def test_folders_without_pictures(tmp_path: Path, names: list[str], classes: Any, words: str) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(FileError, match=words):
        data.examples(tmp_path, vit(), classes)
    with pytest.raises(FileError, match="is no folder"):
        data.examples(tmp_path / "nowhere", vit())


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"broken\.png"):
        data.examples(tmp_path, vit())[0]


def test_tensors_and_datasets_give_the_same_batch() -> None:
    model = vit(condition="instantmesh", condition_inputs=5)
    x, y, c = torch.randn(4, 3, 8, 8), torch.arange(4), torch.randn(4, 5)
    kinds = [(x, y, c), (x.numpy(), y.numpy(), c.numpy()), list(zip(x, y, c, strict=True)), (x, y, c.view(2, 2, 5))]
    for some in kinds:
        found = data.examples(some, model)
        made = data.batch([found[n] for n in (2, 0)], model.spec)
        assert torch.equal(made.pixels, x[[2, 0]]) and made.label.tolist() == [2, 0]
        assert made.condition is not None and torch.equal(made.condition[:, 0], c[[2, 0]])
        assert model(made.pixels, made.condition).tokens.shape == (2, 5, 16)


def test_bytes_are_preprocessed() -> None:
    model = vit()
    x = torch.randint(0, 255, (2, 9, 9, 3), dtype=torch.uint8)
    for some in ((x, torch.arange(2)), [(x[n], n) for n in range(2)]):
        assert torch.equal(data.examples(some, model)[1].pixels, model.preprocess(x[1])[0])


@pytest.mark.parametrize("some", [
    7, [], (torch.zeros(2, 3, 8, 8), torch.zeros(3)), (torch.zeros(2, 3, 8), torch.zeros(2)),
    (torch.zeros(2, 3, 8, 8), torch.zeros(())), (torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.zeros(3, 5)),
])  # fmt: skip
def test_what_is_no_data_is_refused(some: Any) -> None:
    with pytest.raises(BadArgument):
        data.examples(some, vit())


def test_pictures_of_two_sizes_make_no_batch() -> None:
    some = [data.Example(torch.zeros(3, side, side), torch.tensor(0)) for side in (8, 12)]
    with pytest.raises(BadArgument, match="one size"):
        data.batch(some, vit().spec)


def test_every_epoch_has_every_example_once_and_another_order() -> None:
    order = data.Order(7, 3, seed=5)
    seen = [n for step in range(14) for n in order.step(step)]
    epochs = [seen[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert data.Order(7, 3, seed=5).step(9) == order.step(9) != data.Order(7, 3, seed=6).step(9)


def test_processes_share_a_step() -> None:
    order = data.Order(8, 4, seed=0)
    shares = [list(data.Steps(order, 2, 4, rank, 2)) for rank in (0, 1)]
    for n, step in enumerate((2, 3)):
        both = [index for share in shares for _, index in share[n]]
        assert sorted(both) == sorted(order.step(step))


def test_augmentation_depends_on_the_place_alone() -> None:
    some = data.Tensors(torch.randn(3, 3, 8, 8), torch.arange(3), None, vit().preprocess)
    one, two = (data.Placed(some, data.crop_and_flip, seed=1) for _ in range(2))
    late = two[9, 1].pixels
    assert torch.equal(one[9, 1].pixels, late) and not torch.equal(one[4, 1].pixels, late)
    assert one[4, 1].pixels.shape == (3, 8, 8)
    assert torch.equal(data.Placed(some, None, 1)[4, 1].pixels, some.pixels[1])


def test_crops_keep_size_and_range_and_flips_happen() -> None:
    ramp = torch.arange(16.0).expand(1, 12, 16)
    made = [data.crop_and_flip(ramp, data.generator(0, n)) for n in range(40)]
    assert all(m.shape == (1, 12, 16) and float(m.min()) >= 0 and float(m.max()) <= 15 for m in made)
    rising = sum(bool(m[0, 0, -1] > m[0, 0, 0]) for m in made)
    assert 8 < rising < 32
