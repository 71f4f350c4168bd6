from __future__ import annotations

import pytest

from anyvit.errors import BadArgument
from anyvit.resample_recipes import RECIPES, Resample, formula, resolve


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_knows_its_name_its_users_and_its_source(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.used_by and resolve(name) is recipe
    assert "@" in recipe.source or recipe.source.split(":")[0].split()[-1][0].isdigit(), "a source has a version"


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        RECIPES["mine"] = Resample()  # type: ignore[index]


def test_resolve_takes_names_objects_and_fields() -> None:
    assert resolve({}) == Resample()
    assert resolve({"mode": "bicubic", "antialias": True, "offset": 0.0}) == Resample(antialias=True)
    assert resolve("Big-Vision") is RECIPES["big_vision"]
    mine = Resample(offset=0.5)
    assert resolve(mine) is mine


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("lanczos", "no resampling recipe is called 'lanczos'.*dinov2-registers"),
        ({"anti_alias": True}, "a recipe has no such field: anti_alias"),
        ({"mode": "nearest"}, "mode='nearest'"),
        ({"kind": "tf"}, "kind='tf'"),
        ({"offset": float("nan")}, "a number of patches"),
        ({"offset": "0.1"}, "a number of patches"),
        ({"antialias": True, "align_corners": True}, "exclude each other"),
        ({"kind": "zoom"}, "zoom of order 1"),
        (3, "a name, a Resample or its fields"),
    ],
)
def test_what_is_no_recipe_says_so(bad: object, message: str) -> None:
    with pytest.raises(BadArgument, match=f"(?s){message}"):
        resolve(bad)  # type: ignore[arg-type]


def test_formulas_tell_the_recipes_apart() -> None:
    by_call: dict[tuple[object, ...], set[str]] = {}
    for recipe in RECIPES.values():
        key = (recipe.mode, recipe.antialias, recipe.offset, recipe.align_corners, recipe.kind)
        by_call.setdefault(key, set()).add(formula(recipe))
    assert all(len(texts) == 1 for texts in by_call.values())
    assert len({next(iter(texts)) for texts in by_call.values()}) == len(by_call)
