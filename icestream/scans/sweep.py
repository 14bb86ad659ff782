"""A whole scan in one process, without a broker: for a command line and for benchmarks."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing

from icestream.errors import ModelFailed
from icestream.ports import CallOptions, TensorModel
from icestream.scans.pixels import PixelBatch, PixelFits, TakenRows
from icestream.scans.progress import ScanProgress, progress_at
from icestream.scans.recos.reco import PreparedEvent, Reco
from icestream.scans.request import ScanRequest
from icestream.scans.state import ScanState, ToDetector

_AHEAD = 4
"""Batches begun for each that may be in work: some wait for an older one, and leave their place to others."""


async def scan_in_process(
    request: ScanRequest,
    reco: Reco,
    prepared: PreparedEvent,
    model: TensorModel,
    to_detector: ToDetector,
    options: CallOptions,
    on_progress: Callable[[ScanState, ScanProgress], object] | None = None,
    *,
    n_at_once: int = 1,
    clock_ns: Callable[[], int] = time.time_ns,
) -> ScanState:
    """Fit batch after batch until the scan has ended; a batch that the model cannot fit is given up.

    Results are taken in the order of the batches, however many are in work: the map is always the same.

    Args:
        request: What to scan.
        reco: Fits the pixels.
        prepared: The event, by the same reco.
        model: Answers the reco.
        to_detector: As of `ScanState`.
        options: Of each call of the model.
        on_progress: Told after each batch; the state is not to be changed.
        n_at_once: Batches in work at the same time.
        clock_ns: Unix time.

    Raises:
        InvalidScan: As of `ScanState`.
        IceStreamError: The model does not answer at all; as `TensorModel.infer_tensors`.
    """
    state = ScanState(request, to_detector)
    waiting = deque(state.begin())
    places = asyncio.Semaphore(n_at_once)

    async def fit(batch: PixelBatch) -> TakenRows:
        async with places:
            started_unix_ns = clock_ns()
            fits: PixelFits | None
            try:
                fits, failure = await reco.fit(batch, prepared, model, options), ""
            except ModelFailed as error:
                fits, failure = None, str(error)
            return _taken(batch, fits, failure, started_unix_ns, (clock_ns() - started_unix_ns) / 1e9)

    async with aclosing(_in_order(waiting, fit, n_at_once * _AHEAD)) as results:
        async for taken in results:
            waiting += state.take(taken).batches
            if on_progress is not None:
                on_progress(state, progress_at(state, clock_ns()))
    return state


async def _in_order(
    waiting: deque[PixelBatch], fit: Callable[[PixelBatch], Coroutine[None, None, TakenRows]], n_begun: int
) -> AsyncGenerator[TakenRows, None]:
    """The results of all that waits, and of what is added meanwhile, in its order."""
    begun = deque[asyncio.Task[TakenRows]]()
    try:
        while waiting or begun:
            while waiting and len(begun) < n_begun:
                begun.append(asyncio.create_task(fit(waiting.popleft())))
            yield await begun[0]
            begun.popleft()
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


def _taken(
    batch: PixelBatch, fits: PixelFits | None, failure: str, started_unix_ns: int, worker_s: float
) -> TakenRows:
    return TakenRows(
        number=batch.number,
        first_row=0,
        nside=batch.nside,
        pixel=batch.pixel,
        variation=batch.variation,
        fits=fits,
        failure=failure,
        started_unix_ns=started_unix_ns,
        worker_s=worker_s,
    )
