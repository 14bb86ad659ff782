"""A scan worker among fakes, and a reco that does what the pixels say."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from icestream.errors import IceStreamError, ModelFailed, UnknownReco
from icestream.physics.detector import Detector
from icestream.physics.events import Event, EventId, ModelVersion, Pulses
from icestream.ports import Answer, CallOptions, TensorModel
from icestream.runtime.deadletters import DeadLetterWriter
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER
from icestream.runtime.jetstream.scan_topology import Lane, ScanNames
from icestream.runtime.jetstream.topology import Names
from icestream.runtime.tracing import TRACEPARENT
from icestream.scan_codec import (
    PixelResult,
    PixelWork,
    decode_result,
    decode_work,
    encode_startup,
    encode_work,
)
from icestream.scans.pixels import PixelBatch, PixelFits
from icestream.scans.recos.dummy import Dummy
from icestream.scans.recos.reco import PreparedEvent, Reco
from services.scanner.worker.consumer import BatchConsumer, ConsumerLimits
from services.scanner.worker.failures import FailedBatches
from services.scanner.worker.metrics import ScanWorkerMetrics
from services.scanner.worker.prepared import PreparedScans
from services.scanner.worker.queue import WorkQueue
from services.scanner.worker.results import ResultPublisher
from services.scanner.worker.standing import Standing
from tests.support.eventually import eventually
from tests.support.fake_jetstream import FakeObjects, FakePublisher, FakePuller, Published

if TYPE_CHECKING:
    from icestream.runtime.jetstream.publisher import WindowedPublisher
    from icestream.runtime.jetstream.puller import ContinuousPuller

RESULTS = "icestream.scans.log."
WORK = "icestream.scans.work."
DEAD_LETTERS = "icestream.deadletter."
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

POISON = 66
"""The model fails for every batch that holds this pixel."""
BROKEN = 77
"""The reco raises for every batch that holds this pixel."""
SHORT = 55
"""The reco forgets a fit of every batch that holds this pixel."""
ENDLESS = 88
"""The reco never comes back from a batch that holds this pixel."""

LIMITS = ConsumerLimits(batches_at_once=2, batch_timeout_s=10.0, delivery_limit=3)
HASTY = ConsumerLimits(batches_at_once=2, batch_timeout_s=0.2, delivery_limit=3)
QUARANTINE_S = 0.3

TOY = Detector("toy", np.random.default_rng(1).uniform(-500, 500, (60, 3)), np.ones(60))
EVENT = Event(
    EventId(1, 2),
    "toy",
    1_000,
    Pulses(np.arange(3, dtype=np.uint16), np.arange(3.0), np.ones(3, np.float32), np.ones(3, np.uint8)),
)


class FakeTensorModel:
    """Implements `icestream.ports.TensorModel`: fails for the poison pixel, answers anything else.

    Attributes:
        calls: The options of every request, in order.
        failure: Raised for every request while it is set: a server that is away, or full.
    """

    def __init__(self) -> None:
        self.calls: list[CallOptions] = []
        self.failure: IceStreamError | None = None

    async def infer_tensors(
        self, model: str, inputs: Mapping[str, NDArray[Any]], options: CallOptions
    ) -> Answer:
        """See `icestream.ports.TensorModel`."""
        self.calls.append(options)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if (inputs["pixel"] == POISON).any():
            raise ModelFailed("a pixel of the batch is poison")
        return Answer(ModelVersion(model, "3"), {})


class Obedient(Dummy):
    """A reco whose fits wait for `release` while they are held, and fail for some pixels.

    Attributes:
        begun: The first pixel of each batch, in the order in which they began.
        n_prepared: How often an event was prepared.
        is_deaf: Whether an endless fit ignores its cancellation.
    """

    name = "obedient"

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.n_prepared = 0
        self.is_deaf = False
        self.failure: Exception | None = None
        self._is_released = asyncio.Event()
        self._is_released.set()

    def hold(self) -> None:
        self._is_released.clear()

    def release(self) -> None:
        self._is_released.set()

    def prepare(self, event: Event, detector: Detector) -> PreparedEvent:
        self.n_prepared += 1
        return super().prepare(event, detector)

    async def fit(
        self,
        batch: PixelBatch,
        prepared: PreparedEvent,  # noqa: ARG002
        model: TensorModel,
        options: CallOptions,
    ) -> PixelFits:
        self.begun.append(int(batch.pixel[0]))
        await self._is_released.wait()
        if self.failure is not None:
            raise self.failure
        if BROKEN in batch.pixel:
            raise RuntimeError("the reco has a mistake")
        while ENDLESS in batch.pixel:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.is_deaf:
                    raise
        await model.infer_tensors("fit", {"pixel": batch.pixel}, options)
        llh, nothing = batch.pixel.astype(np.float64) + 0.5, np.full(len(batch), np.nan)
        zeros = np.zeros(len(batch), np.int64)
        if SHORT in batch.pixel:
            llh = llh[1:]
        return PixelFits(llh, batch.seeds[:, 0, :3], nothing, zeros, zeros, nothing, nothing, nothing)


def a_batch(*pixels: int, number: int = 0) -> PixelBatch:
    n = len(pixels)
    return PixelBatch(
        number=number,
        nside=8,
        pixel=np.array(pixels),
        variation=np.arange(n),
        direction=np.tile([0.0, 0.0, 1.0], (n, 1)),
        seeds=np.ones((n, 1, 4)),
    )


class Worker:
    """A worker at work until `stop`."""

    def __init__(
        self,
        limits: ConsumerLimits = LIMITS,
        *,
        quarantine_after: int = 3,
        quarantine_s: float = QUARANTINE_S,
        heartbeat_s: float = 10.0,
    ) -> None:
        self.pullers = {lane: FakePuller() for lane in Lane}
        self.alerts, self.catalogue = self.pullers[Lane.ALERT], self.pullers[Lane.CATALOGUE]
        self.publisher = FakePublisher()
        self.objects = FakeObjects()
        self.startup = "startup"
        self.objects.stored[self.startup] = encode_startup(EVENT, TOY)
        self.reco = Obedient()
        self.model = FakeTensorModel()
        self.registry = CollectorRegistry()
        self.spans = InMemorySpanExporter()
        self.standing = Standing(quarantine_after=quarantine_after, quarantine_s=quarantine_s)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        publisher, names = cast("WindowedPublisher", self.publisher), Names()
        metrics = ScanWorkerMetrics(self.registry)
        self.queue = WorkQueue(
            cast("dict[Lane, ContinuousPuller]", self.pullers),
            publisher,
            metrics,
            delivery_limit=limits.delivery_limit,
            heartbeat_s=heartbeat_s,
        )
        tracer = provider.get_tracer("test")
        results = ResultPublisher(publisher, ScanNames(names), tracer, worker="w1")
        self.consumer = BatchConsumer(
            queue=self.queue,
            results=results,
            failed_batches=FailedBatches(
                queue=self.queue,
                publisher=publisher,
                results=results,
                dead_letters=DeadLetterWriter(publisher, names),
                metrics=metrics,
                delivery_limit=limits.delivery_limit,
            ),
            scans=PreparedScans(self.objects, self._find_reco, capacity=2),
            model=self.model,
            standing=self.standing,
            limits=limits,
            metrics=metrics,
            tracer=tracer,
        )
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self.consumer.run(self._stop))

    def ask_to_stop(self) -> None:
        self._stop.set()

    async def stop(self) -> None:
        """Stop, and wait until everything is answered for; also raises what ended it before."""
        self._stop.set()
        if self._running is not None:
            await asyncio.wait_for(self._running, 5)

    def deliver(
        self,
        *pixels: int,
        lane: Lane = Lane.CATALOGUE,
        scan_id: str = "s1",
        number: int = 0,
        part: str = "",
        first_row: int = 0,
        reco: str = "obedient",
        n_delivered: int = 1,
        traceparent: str | None = None,
    ) -> None:
        """Queue a batch of these pixels."""
        work = PixelWork(scan_id, reco, self.startup, a_batch(*pixels, number=number), part, first_row)
        headers = {MESSAGE_ID_HEADER: work.message_id}
        if traceparent:
            headers[TRACEPARENT] = traceparent
        self.pullers[lane].deliver(
            encode_work(work),
            n_delivered=n_delivered,
            headers=headers,
            subject=f"icestream.scans.work.{lane}.{scan_id}",
        )

    def pass_on_halves(self) -> None:
        """Do as the broker does: deliver each part that was published, once."""
        for message in self.halves():
            self.catalogue.deliver(
                message.payload,
                headers={MESSAGE_ID_HEADER: message.message_id, **message.headers},
                subject=message.subject,
            )
        self.publisher.published = [
            message for message in self.publisher.published if not message.subject.startswith(WORK)
        ]

    def halves(self) -> list[Published]:
        return self.publisher.on(WORK)

    def parts(self) -> list[PixelWork]:
        return [decode_work(message.payload) for message in self.halves()]

    def results(self) -> list[PixelResult]:
        return [decode_result(message.payload) for message in self.publisher.on(RESULTS)]

    async def answered(self, n: int, lane: Lane = Lane.CATALOGUE) -> dict[int, str]:
        """Kinds of answer by stream sequence, once there are n."""
        await eventually(lambda: len(self.pullers[lane].answers) >= n, timeout_s=3)
        return self.pullers[lane].kinds()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"icestream_scan_worker_{name}", labels) or 0.0

    def _find_reco(self, name: str) -> Reco:
        if name != self.reco.name:
            raise UnknownReco(name, [self.reco.name])
        return self.reco
