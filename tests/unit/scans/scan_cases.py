"""Scans to count on: requests, a likelihood that is known everywhere, and workers that do as they are told."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icestream.physics.directions import opening_angles_rad, unit_vectors
from icestream.physics.events import EventId
from icestream.scans.pixels import PixelBatch, PixelFits, TakenRows
from icestream.scans.progression import Progression
from icestream.scans.request import Frame, Pointing, ScanOptions, ScanRequest, Seed
from icestream.scans.state import ScanState

FloatArray = NDArray[np.float64]
Fit = Callable[[PixelBatch], PixelFits | None]

NO_OFFSETS = ((0.0, 0.0, 0.0),)
TWO_OFFSETS = ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0))
CREATED_UNIX_NS = 1_700_000_000_000_000_000
TARGET = unit_vectors(1.0, 1.2)


def make_request(
    progression: str = "2:0,4:12,8:12",
    *,
    predictive_threshold: float = 1.0,
    pointing: Pointing | None = None,
    offsets_m: tuple[tuple[float, float, float], ...] = NO_OFFSETS,
    rotates_offsets: bool = False,
    adds_fallback_seed: bool = False,
    levels_compare: bool = True,
    batch_size: int = 16,
) -> ScanRequest:
    """A request; what is not given is small."""
    return ScanRequest(
        scan_id="s1",
        event_id=EventId(1, 2, 0),
        detector="toy",
        start_unix_ns=0,
        n_pulses=10,
        options=ScanOptions("fake", Progression.parse(progression), predictive_threshold, pointing),
        frame=Frame.DETECTOR,
        seed=Seed((1.0, 2.0, 3.0), 4.0),
        offsets_m=offsets_m,
        rotates_offsets=rotates_offsets,
        adds_fallback_seed=adds_fallback_seed,
        levels_compare=levels_compare,
        batch_size=batch_size,
        created_unix_ns=CREATED_UNIX_NS,
    )


def same_frame(vectors: FloatArray) -> FloatArray:
    """For maps in detector coordinates."""
    return vectors


def make_fits(llh: ArrayLike, position_m: ArrayLike | None = None, time_ns: ArrayLike = 7.0) -> PixelFits:
    """Fits with this llh."""
    column = np.asarray(llh, np.float64)
    n = len(column)
    position = np.zeros((n, 3)) if position_m is None else np.asarray(position_m, np.float64)
    return PixelFits(
        llh=column,
        position_m=np.broadcast_to(position, (n, 3)).copy(),
        time_ns=np.broadcast_to(np.asarray(time_ns, np.float64), n).copy(),
        n_hits=np.full(n, 5),
        hypothesis=np.zeros(n, np.int64),
        rival_llh=np.full(n, np.nan),
        energy_inside_gev=np.full(n, np.nan),
        energy_total_gev=np.full(n, np.nan),
    )


def towards(target: FloatArray = TARGET) -> Callable[[PixelBatch], PixelFits]:
    """A likelihood that is best in one direction; it puts the vertex to the pixel's direction x 100 m."""

    def fit(batch: PixelBatch) -> PixelFits:
        llh = opening_angles_rad(batch.direction, target) ** 2 + 0.01 * batch.variation
        return make_fits(llh, 100 * batch.direction, batch.pixel)

    return fit


def by_level(targets: Mapping[int, FloatArray]) -> Callable[[PixelBatch], PixelFits]:
    """A likelihood that is best in another direction on each level, and always better on finer ones."""

    def fit(batch: PixelBatch) -> PixelFits:
        return make_fits(opening_angles_rad(batch.direction, targets[batch.nside]) ** 2 - batch.nside)

    return fit


def failing(_batch: PixelBatch) -> PixelFits:
    """No fit converges."""
    return make_fits(np.full(len(_batch), np.nan))


def giving_up(_batch: PixelBatch) -> None:
    """Nothing can even be tried."""


def answer(
    batch: PixelBatch, fits: PixelFits | None, *, first_row: int = 0, started_unix_ns: int = CREATED_UNIX_NS
) -> TakenRows:
    """What a worker sends for a batch, or for the part of it that begins at `first_row`."""
    return TakenRows(
        number=batch.number,
        first_row=first_row,
        nside=batch.nside,
        pixel=batch.pixel,
        variation=batch.variation,
        fits=fits,
        failure="" if fits else "crashed",
        started_unix_ns=started_unix_ns,
        worker_s=1.0,
    )


def part_of(rows: TakenRows, start: int, end: int) -> TakenRows:
    """Some rows of an answer, as a worker that splits its work sends them."""
    cut = slice(start, end)
    fits = rows.fits
    if fits is not None:
        fits = PixelFits(
            fits.llh[cut],
            fits.position_m[cut],
            fits.time_ns[cut],
            fits.n_hits[cut],
            fits.hypothesis[cut],
            fits.rival_llh[cut],
            fits.energy_inside_gev[cut],
            fits.energy_total_gev[cut],
        )
    return replace(
        rows,
        first_row=rows.first_row + start,
        pixel=rows.pixel[cut],
        variation=rows.variation[cut],
        fits=fits,
    )


at_target = towards()


def run(
    request: ScanRequest, fit: Fit = at_target, *, rng: np.random.Generator | None = None
) -> tuple[ScanState, list[PixelBatch], list[TakenRows]]:
    """Run a scan to its end, answering the oldest batch first or, with `rng`, any; all batches and answers."""
    state = ScanState(request, same_frame)
    waiting = state.begin()
    batches, answers = list(waiting), []
    while waiting:
        batch = waiting.pop(0 if rng is None else int(rng.integers(len(waiting))))
        answers.append(answer(batch, fit(batch)))
        new = state.take(answers[-1]).batches
        batches += new
        waiting += new
    return state, batches, answers


def pixels_of(batches: Iterable[PixelBatch], nside: int) -> list[int]:
    """All rows' pixels on one level."""
    return [int(pixel) for batch in batches if batch.nside == nside for pixel in batch.pixel]


def is_same_batch(first: PixelBatch, second: PixelBatch) -> bool:
    """Whether two batches ask for exactly the same."""
    names = ("pixel", "variation", "direction", "seeds")
    return (first.number, first.nside) == (second.number, second.nside) and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in names
    )
