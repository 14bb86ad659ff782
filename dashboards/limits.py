"""The numbers at which alerts fire, for the colours of panels: read from the rules, so that both are the same."""

import re
from functools import cache
from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parents[1] / "deploy/prometheus/rules"


@cache
def expressions() -> dict[str, str]:
    """Of every alert what it fires on."""
    rules = [
        rule
        for path in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    return {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}


def limit(alert: str, reading: str) -> float:
    """The number that an alert compares a reading with.

    Args:
        alert: Its name.
        reading: The end of what stands left of the comparison, as the rule has it.

    Raises:
        LookupError: The alert compares nothing of that kind.
    """
    found = re.search(rf"{re.escape(reading)}\)*\s*>\s*([\d.]+)", expressions()[alert])
    if found is None:
        raise LookupError(f"alert {alert} has no {reading!r} that it compares with a number")
    return float(found[1])
