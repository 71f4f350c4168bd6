"""Names of Keras' weights: the model's own, and never two of one name."""

from __future__ import annotations

import pytest

from anyvit.containers.hdf5_names import spelt


def test_layers_whose_names_hold_slashes() -> None:
    layers = {"model_weights": ("Transformer/encoderblock_0", "Transformer/encoderblock_1", "head")}
    paths = [
        f"model_weights/Transformer/encoderblock_{i}/Transformer/encoderblock_{i}/Dense_0/kernel:0" for i in (0, 1)
    ]
    names = spelt([*paths, "optimizer_weights/m:0"], layers, {})
    assert [names[path] for path in paths] == [f"Transformer/encoderblock_{i}/Dense_0/kernel" for i in (0, 1)]
    assert names["optimizer_weights/m:0"] == "optimizer_weights/m"


def test_where_two_layers_share_a_name_both_keep_their_own() -> None:
    names = spelt(["a/x/w", "b/x/w", "b/y/w", "c/z/w"], {"": ("a", "b", "c")}, {})
    assert list(names.values()) == ["a/x/w", "b/x/w", "b/y/w", "z/w"]


@pytest.mark.parametrize("titles", [{"layers/dense": "b", "layers/b": "b"}, {"layers/dense": "a", "layers/b": "a"}])
def test_titles_that_clash_are_not_used(titles: dict[str, str]) -> None:
    paths = ["layers/dense/vars/0", "layers/b/vars/0"]
    assert list(spelt(paths, {}, titles).values()) == paths


def test_only_members_of_a_list_of_layers_have_titles() -> None:
    titles = {"layers/block_1": "encoder_1", "layers/block_1/att": "other", "layers/block_1/mlp/layers/dense": "fc1"}
    names = spelt(["layers/block_1/att/vars/0", "layers/block_1/mlp/layers/dense/vars/1"], {}, titles)
    assert list(names.values()) == ["layers/encoder_1/att/vars/0", "layers/encoder_1/mlp/layers/fc1/vars/1"]
