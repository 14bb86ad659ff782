"""Finds out which hypothesis explains an event better, and scans with that one: for events of unknown kind.

Both are fitted over a coarse sky first. At the best direction of each, the arrival times of the same hits are
compared, with the same blur and the same cap on photons: that difference of -ln L is the evidence. Full likelihoods
cannot be compared, because only the cascade's has a term for charges.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.errors import ModelFailed
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId
from icestream.ports import CallOptions, TensorModel
from icestream.scans.level_results import BestPixel
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.progression import Progression
from icestream.scans.recos import cascade, track
from icestream.scans.recos.reco import PreparedEvent, Reco
from icestream.scans.request import Frame, ScanOptions, ScanRequest
from icestream.scans.sweep import scan_in_process

TRACK: Reco = track.TRACK_MPE
CASCADE: Reco = cascade.RECO
RIVALS: tuple[Reco, ...] = (TRACK, CASCADE)
COARSE_SKY = Progression(((4, 0), (16, 6), (64, 6)))
"""What is looked at before the verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which hypothesis explains the times better."""

    winner: int
    """Index into the hypotheses."""
    evidence: float
    """By how much the other one's -ln L is larger."""


class SharedVerdict:
    """An event's verdict: the first batch that asks has it reached, and the others wait for that."""

    def __init__(self) -> None:
        self._reaching: asyncio.Task[Verdict] | None = None

    async def get(self, reach: Callable[[], Coroutine[Any, Any, Verdict]]) -> Verdict:
        """The verdict; one that could not be reached is tried again by the next that asks."""
        reaching = self._reaching
        if reaching is None:
            reaching = self._reaching = asyncio.create_task(reach())
        try:
            # A batch whose time is up does not end what others wait for.
            return await asyncio.shield(reaching)
        except BaseException:
            if self._reaching is reaching:
                self._reaching = None
            raise


@dataclass(frozen=True, slots=True, eq=False)
class PreparedForBoth(PreparedEvent):
    """The event as each hypothesis wants it."""

    parts: tuple[PreparedEvent, ...]
    verdict: SharedVerdict


class Best:
    """The hypothesis that explains the arrival times better."""

    name: str = "best"
    hypotheses: tuple[str, ...] = ("track", "cascade")
    models: tuple[str, ...] = (*TRACK.models, *CASCADE.models)
    offsets_m: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    rotates_offsets: bool = False
    adds_fallback_seed: bool = False
    levels_compare: bool = False
    batch_size: int = 128

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        """Prepare the event for each hypothesis.

        Raises:
            InvalidEvent: It has too few hits for one of them.
        """
        parts = tuple(reco.prepare(event, detector) for reco in RIVALS)
        return PreparedForBoth(parts[0].seed, {}, parts, SharedVerdict())

    async def fit(
        self, batch: PixelBatch, prepared: PreparedEvent, model: TensorModel, options: CallOptions
    ) -> PixelFits:
        """Fit all rows of a batch with the hypothesis that won for the event."""
        assert isinstance(prepared, PreparedForBoth)
        parts = prepared.parts
        verdict = await prepared.verdict.get(lambda: reach_verdict(parts, model, options))
        fits = await RIVALS[verdict.winner].fit(batch, parts[verdict.winner], model, options)
        return replace(
            fits,
            hypothesis=np.full(len(batch), verdict.winner),
            rival_llh=fits.llh + verdict.evidence,
        )


async def reach_verdict(
    parts: tuple[PreparedEvent, ...], model: TensorModel, options: CallOptions
) -> Verdict:
    """Compare the hypotheses; always the same for the same event.

    Args:
        parts: The event, prepared for each of `RIVALS`.
        model: Serves both fits.
        options: Of each call of the model.

    Raises:
        ModelFailed: No direction could be fitted with one of the hypotheses.
        IceStreamError: As `TensorModel.infer_tensors`.
    """
    bests = [await _best_pixel(reco, part, model, options) for reco, part in zip(RIVALS, parts, strict=True)]
    llhs = [
        float((await model.infer_tensors(name, question, options)).tensors["timing_llh"][0])
        for name, question in (
            (track.MODEL, _track_question(bests[0], parts)),
            (cascade.MODEL, _cascade_question(bests[1], parts[1])),
        )
    ]
    return Verdict(int(np.argmin(llhs)), max(llhs) - min(llhs))


async def _best_pixel(reco: Reco, part: PreparedEvent, model: TensorModel, options: CallOptions) -> BestPixel:
    request = ScanRequest(
        scan_id=reco.name, event_id=EventId(0, 0), detector="", start_unix_ns=0, n_pulses=0,
        options=ScanOptions(reco.name, COARSE_SKY), frame=Frame.DETECTOR, seed=part.seed,
        offsets_m=reco.offsets_m, rotates_offsets=reco.rotates_offsets,
        adds_fallback_seed=reco.adds_fallback_seed, levels_compare=reco.levels_compare,
        batch_size=reco.batch_size, created_unix_ns=0,
    )  # fmt: skip
    state = await scan_in_process(request, reco, part, model, lambda vectors: vectors, options)
    if state.best is None:
        raise ModelFailed(f"no direction could be fitted with the hypothesis {reco.hypotheses[0]!r}")
    return state.best


def _track_question(best: BestPixel, parts: tuple[PreparedEvent, ...]) -> dict[str, NDArray[Any]]:
    # The cascade's hits, of the HLC core alone: noise hardly reaches them.
    return {
        **_at(best, parts[1]),
        "hits": parts[1].tensors["hits"],
        "dark": parts[0].tensors["dark"],
        "level": np.array([track.COMPARING_STAGE], np.int32),
        "max_photons": np.array([cascade.MAX_PHOTONS], np.float32),
    }


def _cascade_question(best: BestPixel, part: PreparedEvent) -> dict[str, NDArray[Any]]:
    return {
        **_at(best, part),
        **part.tensors,
        "level": np.array([1], np.int32),
        "max_photons": np.array([cascade.MAX_PHOTONS], np.float32),
    }


def _at(best: BestPixel, part: PreparedEvent) -> dict[str, NDArray[Any]]:
    seeds = np.append(best.position_m, best.time_ns)[None, None]
    return {
        "direction": best.direction[None].astype(np.float32),
        "seeds": track.seeds_after(seeds, part.seed.time_ns),
    }


RECO = Best()
