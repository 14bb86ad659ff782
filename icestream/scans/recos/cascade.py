"""Fits a point-like shower: for electron and tau neutrinos, and for all that leave no track."""

import numpy as np
from numpy.typing import NDArray

from icestream.errors import InvalidEvent, Violation
from icestream.physics.cleaning import FIRST_DEEPCORE_STRING, clean, taken
from icestream.physics.detector import Detector
from icestream.physics.events import Event, Pulses, check_event
from icestream.physics.hits import select_hits
from icestream.physics.icecube86 import MODULES_PER_STRING
from icestream.physics.seed_vertex import seed_vertex
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.recos.track import hit_table, seeds_after
from icestream.scans.request import Seed

MODEL = "pixel_fit_cascade"
FINE_NSIDE = 32
"""From this nside on, fits begin where the coarser pixel's fit ended, and need no search of their own."""
MIN_HITS = 5
"""A shower has six parameters besides its energy; one hit more than the fitted place and time."""
MAX_HITS = 150
"""Modules whose times count; the brightest are kept."""
MAX_MODULES = 300
"""Modules whose charges count, hit or dark: the nearest ones, because choosing hit ones would bias the light."""
MAX_CHARGE_PE = 1500.0
"""Brighter modules may be saturated; their charges do not count, their times do."""
MAX_PHOTONS = 20
"""A module's charge counts as so many photons at most for the arrival of the first."""
BEFORE_NS = 1500.0
"""Charges are counted from this long before the seed's time"""
AFTER_NS = 5000.0
"""to this long after it: most scattered light, and little noise."""


class Cascade:
    """A shower at a point, by the arrival of first photons and by the charges of all modules around it."""

    name: str = "cascade"
    hypotheses: tuple[str, ...] = ("cascade",)
    models: tuple[str, ...] = (MODEL,)
    offsets_m: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    rotates_offsets = False
    adds_fallback_seed = False
    levels_compare = True
    batch_size = 96

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """Clean the pulses for their times, and gather the charges around the seed vertex.

        Raises:
            InvalidEvent: Fewer than `MIN_HITS` modules are left, or none is bright.
        """
        check_event(event, detector.n_sensors)
        core = clean(event.pulses, detector)
        core = taken(core, core.is_hlc)
        hits = select_hits(core, detector, MAX_HITS)
        if len(hits) < MIN_HITS:
            problem = (
                f"{len(hits)} hit modules are left after cleaning; a cascade fit needs at least {MIN_HITS}"
            )
            raise InvalidEvent(str(event.id), [Violation("pulses", problem)])
        vertex = seed_vertex(core, detector)
        x_m, y_m, z_m = vertex.position_m.tolist()
        seed = Seed((x_m, y_m, z_m), vertex.time_ns)
        modules = module_table(event.pulses, detector, seed)
        if not modules[:, 3].any():
            problem = "no module near the event's first light has charge; a cascade fit needs some"
            raise InvalidEvent(str(event.id), [Violation("pulses", problem)])
        return PreparedEvent(seed, {"hits": hit_table(hits, seed.time_ns), "modules": modules})

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        """Fit all rows of a batch."""
        inputs = {
            "direction": batch.direction.astype(np.float32),
            "seeds": seeds_after(batch.seeds, prepared.seed.time_ns),
            **prepared.tensors,
            "level": np.array([int(batch.nside >= FINE_NSIDE)], np.int32),
            "max_photons": np.array([MAX_PHOTONS], np.float32),
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
            energy_total_gev=answer["energy_gev"].astype(np.float64),
        )


def module_table(pulses: Pulses, detector: Detector, seed: Seed) -> NDArray[np.float32]:
    """x, y, z (m), charge (p.e.) and efficiency of the modules nearest to the seed, dark ones too; shape (m, 5)."""
    is_counted = (pulses.time_ns >= seed.time_ns - BEFORE_NS) & (pulses.time_ns < seed.time_ns + AFTER_NS)
    counted = taken(pulses, is_counted)
    charge_pe = np.bincount(counted.sensor_id, counted.charge_pe, detector.n_sensors)
    # As in the cleaning: the reconstructions leave DeepCore out.
    n_used = min(detector.n_sensors, (FIRST_DEEPCORE_STRING - 1) * MODULES_PER_STRING)
    away_m = np.linalg.norm(detector.positions_m[:n_used] - np.array(seed.position_m), axis=1)
    nearest = np.argsort(away_m, kind="stable")[:MAX_MODULES]
    nearest = nearest[charge_pe[nearest] < MAX_CHARGE_PE]
    columns = (detector.positions_m, charge_pe[:, None], detector.efficiency[:, None])
    table: NDArray[np.float32] = np.concatenate(columns, axis=1)[nearest].astype(np.float32)
    return table


RECO = Cascade()
