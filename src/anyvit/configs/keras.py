"""What Keras writes of a model: `config.json` of a `.keras` archive or a KerasHub folder, `model_config` in a `.h5`.

The configuration is a tree of layers, each with its class and arguments; those that say something of a Vision
Transformer are looked up by class.

Source: keras-team/keras v3.15.1 keras/src/saving/serialization_lib.py; keras-hub src/models/vit/*.py; vit-keras
vit_keras/{vit,layers}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from anyvit.configs.rows import INT, NUMBER, SIZE, Given, Row, Skip, Values, read_rows
from anyvit.spec import Fact

DEPTH_LIMIT, LAYERS_LIMIT = 100, 100_000
"""Deepest nesting, and most layers, that are looked at."""


def _from_shape(start: int) -> Values:
    """Height and width in pixels out of a shape whose channels come last."""

    def read(value: Any, config: Mapping[str, Any]) -> Any:
        if not isinstance(value, Sequence) or len(value) != start + 3:
            raise ValueError("is no shape of pictures")
        sides = list(value[start : start + 2])
        if None in sides:
            raise Skip
        if config.get("data_format") == "channels_first":
            raise ValueError("has its channels first, which is not understood")
        return SIZE.read(sides, config)

    return Values(read, lambda value, _: value)


POOLS = {"token": "cls", "gap": "avg"}


def _pool(value: Any, _: Mapping[str, Any]) -> str:
    if value not in POOLS:
        raise ValueError("is no pooling that is known")
    return POOLS[value]


HUB = (
    Row("num_heads", "num_heads", INT),
    Row("layer_norm_epsilon", "eps", NUMBER),
    Row("patch_size", "patch_size", SIZE),
)
PIXELS = Row("image_shape", "image_size", _from_shape(0))
POOLING = Row("pooling", "pool", Values(_pool, lambda value, _: value))
CLASSES: Mapping[str, tuple[Row, ...]] = {
    "ViTBackbone": (*HUB, PIXELS),
    "DeiTBackbone": (*HUB, PIXELS),
    # the stored table has a size of its own; that of the pictures is made from it on loading
    "DINOV2Backbone": (*HUB, Row("position_embedding_shape", "image_size", _from_shape(0))),
    "ViTImageClassifier": (POOLING,),
    "DeiTImageClassifier": (POOLING,),
    "TransformerBlock": (Row("num_heads", "num_heads", INT),),
    "AddPositionEmbs": (),
}
"""Class → what its arguments say; the last two are vit-keras'."""

INPUT: Mapping[str, tuple[Row, ...]] = {
    "InputLayer": (
        Row("batch_shape", "image_size", _from_shape(1)),
        Row("batch_input_shape", "image_size", _from_shape(1)),
    ),
    "Conv2D": (Row("kernel_size", "patch_size", SIZE),),
}
"""The same for Keras' own layers around vit-keras'; the convolution is the one called "embedding"."""


def is_keras(config: Any) -> bool:
    """Whether a parsed config.json is Keras'.

    Example:
        >>> is_keras({"class_name": "ViTBackbone", "config": {}}), is_keras({"model_type": "vit"})
        (True, False)
    """
    return isinstance(config, Mapping) and "class_name" in config and isinstance(config.get("config"), Mapping)


def read(config: Any, source: str = "config.json") -> Given:
    """What a configuration says of its Vision Transformer.

    Arguments:
        config: the parsed JSON; anything may be wrong in it.
        source: where it stands, for the facts.

    Example:
        >>> read({"class_name": "ViTBackbone", "config": {"num_heads": 3}}).facts["num_heads"].source
        'config.json: num_heads'
    """
    layers = list(islice(_layers(config, 0), LAYERS_LIMIT))
    kinds = {kind for kind, _ in layers}
    tables = {**CLASSES, **INPUT} if "AddPositionEmbs" in kinds else CLASSES
    facts: dict[str, Fact] = {}
    notes: dict[str, None] = {}
    for kind, arguments in layers:
        if kind == "Conv2D" and arguments.get("name") != "embedding":
            continue
        # the first layer of a class has the word: blocks are alike, and a model's own input comes before others
        found = read_rows(tables.get(kind, ()), arguments, source)
        facts = {**found.facts, **facts}
        notes.update(dict.fromkeys(found.notes))
    return Given(facts, tuple(notes))


def _layers(value: Any, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class, arguments) of every layer in a configuration, outer ones first."""
    if depth > DEPTH_LIMIT:
        return
    if is_keras(value):
        yield str(value["class_name"]).rpartition(">")[2], value["config"]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _layers(part, depth + 1)
