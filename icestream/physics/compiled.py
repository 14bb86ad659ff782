"""How numerical kernels are compiled: by numba, cached on disk where that is possible."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code at its first call, keeping its Python type.

    Divisions by zero give infinity or NaN, as in numpy. The result is cached in `__pycache__` beside the
    source, else in the user's cache folder, else (a read-only container) not at all; NUMBA_CACHE_DIR
    overrides all of these.
    """
    return _compiled(function, forceinline=False)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """As `compiled`, and copied into its callers: for the innermost functions.

    numba counts references to an array or a list at every call that it does not see through, which costs
    more than many of these functions themselves.
    """
    return _compiled(function, forceinline=True)


def _compiled(function: Callable[P, R], *, forceinline: bool) -> Callable[P, R]:
    """See `compiled`."""
    # numba looks for changes in the function's own file only, but compiles what it calls into it: under
    # the old name, a constant changed elsewhere would be ignored.
    function.__qualname__ += f"-{_version()}"
    try:
        kernel = numba.njit(cache=True, error_model="numpy", forceinline=forceinline)(function)
    except RuntimeError:
        # numba raises where no cache folder is writable; the code itself is fine.
        kernel = numba.njit(error_model="numpy", forceinline=forceinline)(function)
    return cast("Callable[P, R]", kernel)


@cache
def _version() -> str:
    """Digest of all sources beside this one."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
