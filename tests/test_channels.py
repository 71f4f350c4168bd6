"""Channels: what each new one is made of, the response kept, the source's own bands unchanged to the last bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit.adapted import Adapted
from anyvit.channels import Channels, in_chans, weights
from anyvit.errors import BadArgument
from anyvit.lazy import from_array
from anyvit.spec import Spec

RGB = Spec(embed_dim=5, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))


def kernel(channels: int = 3, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.standard_normal((5, channels, 4, 2)).astype(dtype)


def changed(asked: Any, values: np.ndarray | None = None, spec: Spec = RGB) -> Adapted:
    values = kernel() if values is None else values
    return in_chans({"embed.patch.weight": from_array(values, "patch.weight")}, spec, asked)


def read(done: Adapted) -> np.ndarray:
    return done.tensors["embed.patch.weight"].read()


@pytest.mark.parametrize("count", [1, 4, 12, 13])
@pytest.mark.parametrize("old", [1, 3, 4])
@pytest.mark.parametrize("scheme", ["repeat", "mean", "zero"])
def test_the_kernel_and_the_spec_have_the_channels_asked_for(count: int, old: int, scheme: str) -> None:
    spec = Spec(embed_dim=5, in_chans=old, mean=(0.5,) * old, std=(0.25,) * old)
    if scheme == "zero" and count < old:
        with pytest.raises(BadArgument, match="adds channels"):
            changed(Channels(count, scheme), kernel(old), spec)
        return
    done = changed(Channels(count, scheme), kernel(old), spec)
    assert read(done).shape == (5, count, 4, 2) == done.tensors["embed.patch.weight"].shape
    if count != old:
        assert done.spec.in_chans == len(done.spec.mean) == len(done.spec.std) == count
        assert done.spec.mean == (0.5,) * count


@pytest.mark.parametrize("asked", [1, 4, Channels(12, "mean"), Channels(13, "zero"), Channels(2, bands=(0, 0)),
                                   Channels(4, bands=(2, None, 2, 0)), Channels(1, bands=(1,))])  # fmt: skip
def test_energy_is_kept_where_all_source_channels_are_alike(asked: Any) -> None:
    same = np.repeat(kernel(1), 3, 1)
    done = changed(asked, same)
    np.testing.assert_allclose(read(done).sum(1), same.sum(1), atol=1e-5)


def test_the_sum_and_the_repetition_are_those_of_timm() -> None:
    values = kernel()
    np.testing.assert_allclose(read(changed(1)), values.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(read(changed(4)), values[:, [0, 1, 2, 0]] * np.float32(0.75))


def test_the_mean_is_shared_by_all() -> None:
    values = kernel()
    wanted = np.repeat(values.mean(1, keepdims=True), 12, 1) * 3 / 12
    np.testing.assert_allclose(read(changed(Channels(12, "mean"))), wanted, atol=1e-6)


@pytest.mark.parametrize("asked", [Channels(13, "zero"), Channels(13, bands=(0, 1, 2, *(None,) * 10)),
                                   Channels(4, bands=(2, None, 0, 1))])  # fmt: skip
def test_new_bands_at_zero_leave_the_own_bands_to_the_last_bit(asked: Channels) -> None:
    values, done = kernel(), changed(asked)
    for place, part in enumerate(asked.parts(3)):
        wanted = values[:, part[0]] if part else np.zeros((5, 4, 2))
        np.testing.assert_array_equal(read(done)[:, place], wanted)
    assert "its response to them is unchanged" in done.findings[0].cause
    assert "normalise by your own" in str(done.findings[0].remedy)


def test_statistics_follow_the_bands() -> None:
    done = changed(Channels(4, bands=(2, None, 0, 1)))
    assert done.spec.mean == pytest.approx((0.3, 0.2, 0.1, 0.2))
    assert done.spec.std == (3.0, 2.0, 1.0, 2.0)
    assert changed(1).spec.mean == pytest.approx((0.2,))


def test_a_permutation_is_no_identity_and_an_identity_changes_nothing() -> None:
    values = kernel()
    np.testing.assert_array_equal(read(changed(Channels(3, bands=(2, 1, 0)))), values[:, ::-1])
    for same in (3, Channels(3), Channels(3, bands=(0, 1, 2)), Channels(3, "zero")):
        done = changed(same)
        assert done.findings == () and done.spec is RGB


def test_a_band_that_starts_two_is_shared_out() -> None:
    assert weights(Channels(4, bands=(0, 0, 1, 2)), 3)[:, 0].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert weights(Channels(1, bands=(1,)), 3).tolist() == [[0.0, 3.0, 0.0]]


def maps(old: int) -> st.SearchStrategy[tuple[int, list[int | None]]]:
    """Channels of a source, and bands that take at least one of them."""
    some = st.lists(st.one_of(st.none(), st.integers(0, old - 1)), min_size=1, max_size=14)
    return st.tuples(st.just(old), some.filter(lambda bands: any(band is not None for band in bands)))


@given(st.integers(1, 6).flatmap(maps))
def test_all_weights_add_up_to_the_old_channels(case: tuple[int, list[int | None]]) -> None:
    old, bands = case
    for asked in (Channels(len(bands), bands=tuple(bands)), Channels(len(bands)), Channels(len(bands), "mean")):
        assert weights(asked, old).sum() == pytest.approx(old)


def test_half_precision_is_not_rounded_twice() -> None:
    narrow = kernel(dtype="float16")
    found = read(changed(4, narrow))
    assert found.dtype == np.float32
    assert np.array_equal(found, read(changed(4, narrow.astype("float32"))))


@pytest.mark.parametrize(("asked", "words"), [
    (0, "at least 1"), (True, "an int"), ("4", "an int"), (Channels(0), "at least 1"),
    (Channels(4, "copy"), "repeat, mean, zero"), (Channels(2, bands=(0, 1, 2)), "2 entries"),
    (Channels(2, bands=(3, 0)), "counted from 1"), (Channels(2, bands=(-1, 0)), "no such source channel"),
    (Channels(2, bands=(None, None)), "no channel comes from the source"),
    (Channels(2, "zero"), re.escape("bands=(0, 1)")),
])  # fmt: skip
def test_what_cannot_be_is_refused(asked: Any, words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        changed(asked)
