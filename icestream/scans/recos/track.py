"""Fits an infinite muon track: for muons that cross the detector."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidEvent, Violation
from icestream.physics.cleaning import FIRST_DEEPCORE_STRING, clean, taken
from icestream.physics.detector import Detector
from icestream.physics.events import Event, Pulses, check_event
from icestream.physics.hits import Hits, select_hits
from icestream.physics.icecube86 import MODULES_PER_STRING
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.request import Seed

MODEL = "pixel_fit_track"
FINE_NSIDES = (32, 256)
"""From these nsides on the fit uses its middle and its fine stage: less blur of the arrival times."""
COMPARING_STAGE = 3
"""Of the model: answers with the blur with which other hypotheses end, whatever the pixel's size."""
MIN_HITS = 5
"""A track has five parameters."""
MAX_HITS = 200
"""The brightest modules are kept: more of them cost time and move the answer less than a pixel."""
MAX_PHOTONS = 5
"""A module's charge counts as so many photons at most: more come from showers along the track, which the
hypothesis does not know."""
DARK_STRIDE = 4
"""Every so many-th module of a string stands for those beside it that stayed dark: their spacing of 17 m is small
against how far light goes."""
MAX_SEED_CHARGE_PE = 5.0
"""A module weighs so much at most in the event's centre, so that one shower does not become the centre."""


@dataclass(slots=True, eq=False)
class Track:
    """An infinite track, by the arrival of first photons."""

    name: str
    max_photons: int
    """On the fine stage; coarse stages look at one photon of each module, which is smoother."""
    hypotheses: tuple[str, ...] = ("track",)
    models: tuple[str, ...] = (MODEL,)
    offsets_m: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    rotates_offsets: bool = True
    adds_fallback_seed: bool = False
    levels_compare: bool = False
    batch_size: int = 192

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """Clean the pulses; the coarse stage sees the HLC core, the others all light around it.

        Raises:
            InvalidEvent: Fewer than `MIN_HITS` modules are left.
        """
        check_event(event, detector.n_sensors)
        core = clean(event.pulses, detector)
        core_hits = select_hits(taken(core, core.is_hlc), detector, MAX_HITS)
        if len(core_hits) < MIN_HITS:
            problem = (
                f"{len(core_hits)} hit modules are left after cleaning; a track fit needs at least {MIN_HITS}"
            )
            raise InvalidEvent(str(event.id), [Violation("pulses", problem)])
        all_hits = select_hits(clean(event.pulses, detector, strings_below=None), detector, MAX_HITS)
        seed = centre_of(core_hits)
        tensors = {"hits": hit_table(all_hits, seed.time_ns), "dark": dark_table(event.pulses, detector)}
        return PreparedEvent(seed, tensors)

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        """Fit all rows of a batch."""
        stage = stage_of(batch.nside)
        inputs = {
            "direction": batch.direction.astype(np.float32),
            "seeds": seeds_after(batch.seeds, prepared.seed.time_ns),
            **prepared.tensors,
            "level": np.array([stage], np.int32),
            "max_photons": np.array([self.max_photons if stage == len(FINE_NSIDES) else 1], np.float32),
        }
        answer = (await model.infer_tensors(MODEL, inputs, options)).tensors
        nothing = np.full(len(batch), np.nan)
        return PixelFits(
            llh=answer["llh"].astype(np.float64),
            position_m=answer["position"].astype(np.float64),
            time_ns=answer["time"].astype(np.float64) + prepared.seed.time_ns,
            n_hits=np.full(len(batch), len(prepared.tensors["hits"])),
            hypothesis=np.zeros(len(batch), np.int64),
            rival_llh=nothing,
            energy_inside_gev=nothing,
            energy_total_gev=nothing,
        )


def stage_of(nside: int) -> int:
    """0 for coarse, 1 for middle and 2 for fine pixels."""
    return int(np.searchsorted(FINE_NSIDES, nside, side="right"))


def centre_of(hits: Hits) -> Seed:
    """Mean place and time of the hits, bright ones counting more."""
    weights = np.clip(hits.charge_pe, 0.1, MAX_SEED_CHARGE_PE)
    x_m, y_m, z_m = np.average(hits.position_m, axis=0, weights=weights).tolist()
    return Seed((x_m, y_m, z_m), float(np.average(hits.time_ns, weights=weights)))


def hit_table(hits: Hits, origin_ns: float) -> NDArray[np.float32]:
    """x, y, z (m), t (ns after the origin), q (p.e.); shape (n, 5). Times are subtracted in float64."""
    columns = (hits.position_m, hits.time_ns[:, None] - origin_ns, hits.charge_pe[:, None])
    table: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    return table


def dark_table(pulses: Pulses, detector: Detector) -> NDArray[np.float32]:
    """x, y, z (m), efficiency of modules without any pulse, and how many others each stands for; shape (m, 5)."""
    is_dark = np.ones(detector.n_sensors, np.bool_)
    is_dark[pulses.sensor_id] = False
    # As in the cleaning: the reconstructions leave DeepCore out. Strings begin at different depths of the pattern.
    rows = np.arange(min(detector.n_sensors, (FIRST_DEEPCORE_STRING - 1) * MODULES_PER_STRING))
    string, om = np.divmod(rows, MODULES_PER_STRING)
    chosen = rows[((om + string) % DARK_STRIDE == 0) & is_dark[rows]]
    columns = (
        detector.positions_m[chosen],
        detector.efficiency[chosen, None],
        np.full((len(chosen), 1), DARK_STRIDE),
    )
    table: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    return table


def seeds_after(seeds: NDArray[np.float64], origin_ns: float) -> NDArray[np.float32]:
    """Seeds (n, k, 4) with times after the origin."""
    after: NDArray[np.float32] = (seeds - np.array((0.0, 0.0, 0.0, origin_ns))).astype(np.float32)
    return after


TRACK_SPE = Track("track_spe", max_photons=1)
TRACK_MPE = Track("track_mpe", max_photons=MAX_PHOTONS)
RECOS = (TRACK_SPE, TRACK_MPE)
