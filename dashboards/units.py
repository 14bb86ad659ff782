"""Values with their units, as Grafana writes them."""

import math

_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_TIMES = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_SUFFIXES = {"cps": "/s", "reqps": "/s", "radian": " rad", "short": "", "none": ""}


def format_value(value: float, unit: str) -> str:
    """Three digits and a unit; `unit` is what Grafana calls it."""
    if math.isinf(value):
        return "more"
    if unit == "s":
        return _scaled(value, _TIMES) if value else "0 s"
    if unit == "bytes":
        return _scaled(value, _BYTES)
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit in ("cps", "reqps", "short"):
        return f"{_scaled(value, _SI)}{_SUFFIXES[unit]}"
    return f"{value:.3g}{_SUFFIXES[unit]}"


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    number = value / size
    text = f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{text} {name}".strip()
