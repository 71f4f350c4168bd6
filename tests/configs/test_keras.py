"""Keras' configurations: what the layers of a Vision Transformer say, whatever stands around them."""

from __future__ import annotations

from typing import Any

import pytest

from anyvit.configs.keras import is_keras, read


def layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": config}


def values(config: Any) -> dict[str, Any]:
    return {name: fact.value for name, fact in read(config).facts.items()}


def test_a_backbone_inside_a_task() -> None:
    backbone = layer(
        "ViTBackbone", num_heads=3, layer_norm_epsilon=1e-5, image_shape=[32, 48, 3], patch_size=[8, 8], num_layers=2
    )
    said = values(layer("ViTImageClassifier", backbone=backbone, pooling="gap", preprocessor=None))
    assert said == {"num_heads": 3, "eps": 1e-5, "image_size": (32, 48), "patch_size": 8, "pool": "avg"}


def test_the_table_of_dinov2_has_a_size_of_its_own() -> None:
    said = values(layer("DINOV2Backbone", image_shape=[224, 224, 3], position_embedding_shape=[518, 518, 3]))
    assert said == {"image_size": 518}


def test_layers_of_keras_speak_beside_those_of_vit_keras_alone() -> None:
    blocks = [layer("InputLayer", batch_shape=[None, 32, 48, 3]), layer("Conv2D", name="embedding", kernel_size=[8, 8]),
              layer("Conv2D", name="other", kernel_size=[3, 3])]  # fmt: skip
    assert values(layer("Functional", layers=blocks)) == {}
    own = [layer("Custom>AddPositionEmbs"), layer("vit_keras>TransformerBlock", num_heads=2)]
    assert values(layer("Functional", layers=[*blocks, *own])) == {
        "image_size": (32, 48),
        "patch_size": 8,
        "num_heads": 2,
    }
    unsized = [layer("InputLayer", batch_shape=[None, None, None, 3]), *own]
    assert values(layer("Functional", layers=unsized)) == {"num_heads": 2}


@pytest.mark.parametrize("wrong", [{"num_heads": "two"}, {"num_heads": 0}, {"image_shape": [3, 4]}, {"image_shape": 7},
                                   {"image_shape": [32, 32, 3], "data_format": "channels_first"}])  # fmt: skip
def test_what_is_wrong_is_noted_and_not_used(wrong: dict[str, Any]) -> None:
    given = read(layer("ViTBackbone", **wrong))
    assert not given.facts and len(given.notes) == 1


def test_whatever_json_holds() -> None:
    deep: Any = {}
    for _ in range(500):
        deep = {"config": deep, "class_name": "Functional"}
    assert not read(deep).facts
    for thing in (None, 3, [], {"class_name": "ViTBackbone"}, {"config": {}}, {"class_name": 7, "config": {"a": [1]}}):
        assert not read(thing).facts
    assert not is_keras(None)
