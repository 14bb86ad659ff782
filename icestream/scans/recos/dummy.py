"""A reco that fits nothing: for trying out everything around recos, as Skymap Scanner's dummy does."""

import asyncio
import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from icestream.errors import Misconfigured
from icestream.physics.detector import Detector
from icestream.physics.events import Event, check_event
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.reco import PreparedEvent
from icestream.scans.request import Seed

SLEEP_VARIABLE = "ICESTREAM_RECO_DUMMY_SLEEP_S"
"""Environment variable: how long a batch takes, s."""
DEFAULT_SLEEP_S = 0.05


class Dummy:
    """Sleeps, and makes llh up: always the same for the same event, nside, pixel and variation."""

    name: str = "dummy"
    hypotheses: tuple[str, ...] = ("dummy",)
    models: tuple[str, ...] = ()
    offsets_m: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    rotates_offsets = False
    adds_fallback_seed = False
    levels_compare = True
    batch_size = 32

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """The event's centre of charge, and a number made of its id.

        Raises:
            InvalidEvent: It has no pulses, or pulses that are none.
        """
        check_event(event, detector.n_sensors)
        positions_m = detector.positions_m[event.pulses.sensor_id]
        # Pulses may all have no charge.
        weights = event.pulses.charge_pe.astype(np.float64) + 1e-9
        x_m, y_m, z_m = np.average(positions_m, axis=0, weights=weights).tolist()
        seed = Seed((x_m, y_m, z_m), float(np.median(event.pulses.time_ns)))
        n_hits = len(np.unique(event.pulses.sensor_id))
        key = hashlib.sha256(f"{event.detector}/{event.id}".encode()).digest()
        # In pieces that a float32 holds exactly.
        pieces = np.frombuffer(key[:8], "<u2").astype(np.float32)
        return PreparedEvent(seed, {"key": pieces, "n_hits": np.array([n_hits], np.float32)})

    async def fit(
        self,
        batch: PixelBatch,
        prepared: PreparedEvent,
        model: TensorModel,  # noqa: ARG002 - it needs none
        options: CallOptions,  # noqa: ARG002
    ) -> PixelFits:
        """Sleep, then make llh between 0 and 1 up."""
        await asyncio.sleep(_sleep_s())
        nothing = np.full(len(batch), np.nan)
        return PixelFits(
            llh=_uniform(prepared.tensors["key"], batch),
            position_m=batch.seeds[:, 0, :3],
            time_ns=batch.seeds[:, 0, 3],
            n_hits=np.full(len(batch), int(prepared.tensors["n_hits"][0])),
            hypothesis=np.zeros(len(batch), np.int64),
            rival_llh=nothing,
            energy_inside_gev=nothing,
            energy_total_gev=nothing,
        )


def _sleep_s() -> float:
    text = os.environ.get(SLEEP_VARIABLE, str(DEFAULT_SLEEP_S))
    try:
        return float(text)
    except ValueError as error:
        raise Misconfigured(f"{SLEEP_VARIABLE} is {text!r}, which is no number of seconds") from error


def _uniform(pieces: NDArray[np.float32], batch: PixelBatch) -> NDArray[np.float64]:
    """Numbers in [0, 1) that look random and depend on nothing but the arguments; shape (n,)."""
    state = np.zeros(len(batch), np.uint64)
    words = [*pieces.astype(np.uint64), np.uint64(batch.nside)]
    for word in [*words, batch.pixel.astype(np.uint64), batch.variation.astype(np.uint64)]:
        state = _mixed(state ^ word)
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # One step of splitmix64. Source: Steele, Lea, Flood, OOPSLA 2014, fig. 17.
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


RECO = Dummy()
