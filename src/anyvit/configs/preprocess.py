"""Mean, standard deviation, crop and interpolation as ecosystems write them beside weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from anyvit.configs.rows import NUMBER, NUMBERS, Given, Row, Skip, Values, choice, read_rows, to_int, write_rows
from anyvit.spec import Fact, Spec, pair

RESAMPLE = {3: "bicubic", 2: "bilinear", 0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}
"""Numbers of PIL.Image.Resampling. Source: Pillow PIL/Image.py class Resampling."""

INTERPOLATION = choice("interpolation", {name: name for name in (*RESAMPLE.values(), "random")})

TIMM = (
    Row("mean", "mean", NUMBERS),
    Row("std", "std", NUMBERS),
    Row("interpolation", "interpolation", INTERPOLATION),
    Row("crop_pct", "crop_pct", NUMBER),
)
"""Keys of timm's pretrained_cfg. Source: timm models/_pretrained.py PretrainedCfg."""

OPEN_CLIP = TIMM[:3]
"""Keys of open_clip's preprocess_cfg. Source: open_clip transform.py PreprocessCfg."""


def _when(flag: str, values: Values) -> Values:
    def read(value: Any, config: Mapping[str, Any]) -> Any:
        if config.get(flag) is False:
            raise Skip
        return values.read(value, config)

    return Values(read, values.write)


HF = (
    Row("image_mean", "mean", _when("do_normalize", NUMBERS)),
    Row("image_std", "std", _when("do_normalize", NUMBERS)),
    Row("resample", "interpolation", _when("do_resize", choice("resampling", RESAMPLE))),
)


def read_hf(config: Any, source: str = "preprocessor_config.json") -> Given:
    """What a Hugging Face image processor's config says of mean, std, interpolation and crop.

    Example:
        >>> size = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
        >>> read_hf(size).facts["crop_pct"].value
        0.875
    """
    if not isinstance(config, Mapping):
        return Given(notes=(f"{source} is no table of keys",))
    given = read_rows(HF, config, source)
    facts = dict(given.facts)
    if config.get("do_normalize") is False:
        source_of = f"{source}: do_normalize = false"
        facts["mean"], facts["std"] = (Fact((v,) * 3, "given", source_of) for v in (0.0, 1.0))
    with suppress(Skip, ValueError, TypeError, ZeroDivisionError):
        facts["crop_pct"] = Fact(_crop_pct(config), "given", f"{source}: size, crop_size")
    return Given(facts, given.notes)


def _crop_pct(config: Mapping[str, Any]) -> float:
    edge, crop = _edge(config.get("size")), _edge(config.get("crop_size"))
    if edge is None or config.get("do_resize") is False:
        raise Skip
    if crop is None or config.get("do_center_crop") is False:
        return 1.0
    if "do_center_crop" not in config and isinstance(config.get("size"), Mapping) and "height" in config["size"]:
        return 1.0
    return crop / edge


def _edge(size: Any) -> int | None:
    """The shorter side in pixels of {"height", "width"}, {"shortest_edge"}, a pair or a number."""
    if isinstance(size, Mapping):
        sides = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key) is not None]
    else:
        sides = list(size) if isinstance(size, list | tuple) else [size]
    if not sides or any(side is None for side in sides):
        return None
    return min(to_int(side) for side in sides)


def write_hf(spec: Spec) -> dict[str, Any]:
    """A preprocessor_config.json for a Spec, of an image processor that crops where crop_pct asks for it."""
    height, width = pair(spec.image_size) if spec.image_size else (224, 224)
    config, _ = write_rows(HF, spec)
    crops = spec.crop_pct != 1.0
    shared = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    config = {"image_processor_type": "CLIPImageProcessor" if crops else "ViTImageProcessor", **shared, **config}
    if crops:
        edge = round(min(height, width) / spec.crop_pct)
        return {**config, "size": {"shortest_edge": edge}, "do_center_crop": True,
                "crop_size": {"height": height, "width": width}}  # fmt: skip
    return {**config, "size": {"height": height, "width": width}}
