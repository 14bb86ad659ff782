"""How the numbers of several rounds are told: their middle, and how far they lie apart."""

import statistics
from collections.abc import Iterable, Sequence


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum of at least one value."""
    chosen = list(values)
    return min(chosen), statistics.median(chosen), max(chosen)


def rounded_spread(values: Sequence[float], digits: int) -> list[str]:
    """The same, for the cells of a table."""
    return [f"{value:.{digits}f}" for value in spread(values)]


def median_and_range(values: Sequence[float]) -> tuple[str, str]:
    """The median, and minimum and maximum in one, for two cells of a table."""
    low, middle, high = spread(values)
    return f"{middle:.1f}", f"{low:.1f}-{high:.1f}"


def median_and_error(values: Sequence[float]) -> tuple[float, list[list[float]]]:
    """As matplotlib wants it: the median, and how far minimum and maximum are from it."""
    low, middle, high = spread(values)
    return middle, [[middle - low], [high - middle]]
