"""Which reconstructions are installed: one module beside this one, or one entry point, adds one."""

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast, get_type_hints

from icestream.errors import Misconfigured, UnknownReco
from icestream.scans import recos as package
from icestream.scans.recos.reco import Reco

ENTRY_POINT_GROUP = "icestream.recos"
"""Other packages add recos in this group; each entry is a reco, or a tuple of them."""

_METHODS = ("prepare", "fit")


def available() -> list[str]:
    """Names of all recos, sorted.

    Raises:
        Misconfigured: One that is installed cannot be loaded, is no reco, or has the name of another.
    """
    return sorted(installed_recos())


def get(name: str) -> Reco:
    """The reco of this name.

    Raises:
        UnknownReco: There is none.
        Misconfigured: See `available`.
    """
    recos = installed_recos()
    if name not in recos:
        raise UnknownReco(name, sorted(recos))
    return recos[name]


@cache
def installed_recos() -> dict[str, Reco]:
    """All recos by their names; what is installed does not change while a process lives."""
    recos: dict[str, Reco] = {}
    origins: dict[str, str] = {}
    for origin, reco in _found():
        _check(reco, origin)
        if reco.name in recos:
            raise Misconfigured(f"both {origins[reco.name]} and {origin} call their reco {reco.name!r}")
        recos[reco.name], origins[reco.name] = reco, origin
    return recos


def _found() -> Iterator[tuple[str, Reco]]:
    """Each reco, and where it comes from."""
    for module_info in pkgutil.iter_modules(package.__path__):
        module = import_module(f"{package.__name__}.{module_info.name}")
        found = (*getattr(module, "RECOS", ()), *_at_most_one(getattr(module, "RECO", None)))
        yield from ((module.__name__, reco) for reco in found)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        origin = f"entry point {entry.name} = {entry.value}"
        try:
            loaded = entry.load()
        except Exception as error:
            # Somebody else's package: whatever it raises, the way out is to mend or to remove it.
            raise Misconfigured(f"{origin} cannot be loaded: {error!r}") from error
        yield from ((origin, reco) for reco in (loaded if isinstance(loaded, tuple) else (loaded,)))


def _at_most_one(reco: Reco | None) -> tuple[Reco, ...]:
    return () if reco is None else (reco,)


def _check(reco: Reco, origin: str) -> None:
    wanted = (*get_type_hints(Reco), *_METHODS)
    missing = [name for name in wanted if not hasattr(cast("object", reco), name)]
    if missing:
        raise Misconfigured(f"{origin} is no reco: it lacks {', '.join(missing)}; see {Reco.__module__}")
