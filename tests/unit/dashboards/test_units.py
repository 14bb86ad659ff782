import math

import pytest

from dashboards.units import format_value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.0125, "s", "12.5 ms"),
        (90.0, "s", "1.5 min"),
        (3 * 2**20, "bytes", "3 MiB"),
        (0, "bytes", "0 B"),
        (0.975, "percentunit", "97.5 %"),
        (1234.0, "short", "1.23 k"),
        (0.5, "short", "0.5"),
        (81.66, "cps", "81.7/s"),
        (1500.0, "reqps", "1.5 k/s"),
        (0.0174533, "radian", "0.0175 rad"),
        (3.0, "none", "3"),
        (math.inf, "s", "more"),
    ],
)
def test_a_value_has_three_digits_and_its_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text
