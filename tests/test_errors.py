"""Error texts: short whatever a file says, every part in its place, harmless to a terminal."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvit import errors
from anyvit.errors import AnyvitError, UnsafeError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AnyvitError)]
ANY = st.one_of(st.text(max_size=3000), st.sampled_from(["\x1b[2J" * 1000, "\u202e" * 5000, "a" * 100_000]))


@given(ANY, st.lists(ANY, max_size=4), ANY, ANY, ANY, ANY)
def test_no_text_is_longer_than_2000_characters(
    cause: str, names: list[str], found: str, expected: str, usual: str, remedy: str
) -> None:
    text = str(AnyvitError(cause, names=names, found=found, expected=expected, usual=usual, remedy=remedy))
    assert len(text) <= 2000
    assert not set(text) & set("\x1b\x07\r\u202e\x9b\u2066")


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_has_its_line(kind: type[AnyvitError]) -> None:
    error = kind("it is wrong", names=["a.weight"], found=1, expected=2, usual="a cut file", remedy="get it whole")
    assert str(error).splitlines() == [
        "it is wrong: a.weight", "  found: 1", "  expected: 2", "  usual cause: a cut file", "  try: get it whole",
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error)


def test_what_is_unsafe_has_a_cause_and_a_remedy_always() -> None:
    assert "usual cause" in str(UnsafeError("no")) and "\n  try: " in str(UnsafeError("no"))


def test_names_are_counted_where_they_do_not_fit() -> None:
    text = str(AnyvitError("missing", names=[f"blocks.{i}.norm1.weight" for i in range(1000)]))
    assert "(1000 in all)" in text
