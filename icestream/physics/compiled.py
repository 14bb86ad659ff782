"""How numerical kernels are compiled: by numba, cached on disk where that is possible."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code at its first call, keeping its Python type.

    The result is cached in `__pycache__` beside the source, else in the user's cache folder, else (a
    read-only container) not at all; NUMBA_CACHE_DIR overrides all of these.
    """
    try:
        kernel: Callable[P, R] = numba.njit(cache=True)(function)
    except RuntimeError:
        # numba raises where no cache folder is writable; the code itself is fine.
        kernel = numba.njit(function)
    return kernel
