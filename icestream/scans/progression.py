"""In which resolutions a scan looks at the sky, one after the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from icestream.errors import InvalidScan
from icestream.physics import healpix

MAX_EXTENSION = healpix.n_pixels(healpix.MAX_NSIDE)
"""As many pixels as the finest sky has; more cannot be meant."""

_LEVEL = re.compile(r"\s*(-?[0-9]{1,18})\s*:\s*(-?[0-9]{1,18})\s*")


@dataclass(frozen=True, slots=True)
class Progression:
    """Resolutions, coarse ones first; written as in "8:0,64:12,512:24".

    A level is an nside and an extension: how many pixels of the level before, around the best one, are looked
    at again in this resolution. The first extension is 0, and means all of the sky or of the pointing.
    """

    levels: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise InvalidScan("the progression is empty; it has at least one level, for example 8:0")
        for nside, _ in self.levels:
            _check_nside(nside)
        _check_order(self.nsides)
        _check_extensions(self.levels)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<nside>:0,<nside>:<extension>,...`.

        Raises:
            InvalidScan: The text is of another form, or breaks a rule of progressions.
        """
        parts = text.split(",") if text.strip() else []
        found = [_LEVEL.fullmatch(part) for part in parts]
        for part, match in zip(parts, found, strict=True):
            if match is None:
                raise InvalidScan(
                    f"{part.strip()!r} is not a level; write <nside>:<extension>, for example 64:12"
                )
        return cls(tuple((int(match[1]), int(match[2])) for match in found if match))

    @property
    def nsides(self) -> tuple[int, ...]:
        """The resolutions alone, ascending."""
        return tuple(nside for nside, _ in self.levels)

    def __str__(self) -> str:
        return ",".join(f"{nside}:{extension}" for nside, extension in self.levels)


def _check_nside(nside: int) -> None:
    if nside < 1 or nside & (nside - 1):
        raise InvalidScan(f"nside {nside} is not a power of two; write 1, 2, 4, 8, ...")
    if nside > healpix.MAX_NSIDE:
        raise InvalidScan(f"nside {nside} is too fine; at most {healpix.MAX_NSIDE} is possible")


def _check_order(nsides: Sequence[int]) -> None:
    for coarse, fine in pairwise(nsides):
        if coarse == fine:
            raise InvalidScan(f"nside {fine} is there twice; each level has its own")
        if coarse > fine:
            raise InvalidScan(f"nside {fine} follows {coarse}; levels ascend from coarse to fine")


def _check_extensions(levels: Sequence[tuple[int, int]]) -> None:
    (first_nside, first), *others = levels
    if first != 0:
        raise InvalidScan(
            f"the first level is {first_nside}:{first}; it extends nothing, so write {first_nside}:0"
        )
    for nside, extension in others:
        if extension < 1:
            raise InvalidScan(
                f"level {nside}:{extension} would look at no pixel; an extension is a number of pixels of the "
                "level before, at least 1"
            )
        if extension > MAX_EXTENSION:
            raise InvalidScan(
                f"level {nside}:{extension} extends more pixels than any sky has; at most {MAX_EXTENSION}"
            )


DEFAULT_PROGRESSION = Progression(((8, 0), (64, 12), (512, 24)))
"""768 pixels of 7 degrees, then about as many of 0.9 degrees, then twice as many of 0.11 degrees. Source: Skymap
Scanner."""
