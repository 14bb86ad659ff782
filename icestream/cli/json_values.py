"""What JSON can hold of our numbers."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON has no way to write: NaN and the infinite ones."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: finite(each) for key, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value
