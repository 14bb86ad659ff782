import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icestream.errors import InvalidScan
from icestream.scans.progression import DEFAULT_PROGRESSION, Progression

exponents = st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True).map(sorted)


@given(exponents, st.data())
def test_a_progression_reads_back_what_it_writes(powers: list[int], data: st.DataObject) -> None:
    extensions = [0, *(data.draw(st.integers(1, 10_000)) for _ in powers[1:])]
    progression = Progression(tuple((1 << power, n) for power, n in zip(powers, extensions, strict=True)))
    assert Progression.parse(str(progression)) == progression


def test_the_default_is_that_of_skymap_scanner() -> None:
    assert str(DEFAULT_PROGRESSION) == "8:0,64:12,512:24"
    assert DEFAULT_PROGRESSION.nsides == (8, 64, 512)


def test_spaces_do_not_matter() -> None:
    assert Progression.parse(" 1:0, 2 : 12 ") == Progression(((1, 0), (2, 12)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("8", "'8' is not a level; write <nside>:<extension>"),
        ("8:0,", "'' is not a level"),
        ("8:0;64:12", "is not a level"),
        ("8:0:0", "is not a level"),
        ("8:x", "is not a level"),
        ("8.0:0", "is not a level"),
        ("1_6:0", "is not a level"),
        ("8:0,64:" + "9" * 5000, "is not a level"),
        ("0:0", "nside 0 is not a power of two"),
        ("-8:0", "nside -8 is not a power of two"),
        ("6:0", "nside 6 is not a power of two"),
        ("2097152:0", "nside 2097152 is too fine; at most 1048576"),
        ("8:0,8:12", "nside 8 is there twice"),
        ("64:0,8:12", "nside 8 follows 64; levels ascend"),
        ("8:12", "the first level is 8:12; it extends nothing, so write 8:0"),
        ("8:-1", "the first level is 8:-1"),
        ("8:0,64:0", "level 64:0 would look at no pixel"),
        ("8:0,64:-12", "level 64:-12 would look at no pixel"),
        ("8:0,64:99999999999999999", "extends more pixels than any sky has"),
    ],
)
def test_what_is_wrong_with_a_progression_is_said(text: str, reason: str) -> None:
    with pytest.raises(InvalidScan, match=re.escape(reason)):
        Progression.parse(text)


def test_a_progression_that_is_not_valid_cannot_be_made_either() -> None:
    with pytest.raises(InvalidScan, match="is empty"):
        Progression(())
    with pytest.raises(InvalidScan, match="not a power of two"):
        Progression(((8, 0), (12, 1)))
