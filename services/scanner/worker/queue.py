"""The batches that a worker holds: alerts first, and none of them forgotten by the broker."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from icestream.errors import IceStreamError
from icestream.runtime.jetstream.publisher import MESSAGE_ID_HEADER, WindowedPublisher
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery
from icestream.runtime.jetstream.scan_topology import Lane
from services.scanner.worker.faults import postponement_s
from services.scanner.worker.metrics import ScanWorkerMetrics

_LOOK_S = 0.25
_ALERT_ON_ITS_WAY_S = 0.1
_BETWEEN_LEVELS_S = 0.25
"""After an alert's batch, nothing of the catalogue is begun for so long: as others finish their part of the alert's
level, its next one comes, and must not wait for batches that were begun in the meantime."""


class WorkQueue:
    """Takes batches from both lanes, keeps them alive and gives back what is not worked on."""

    def __init__(
        self,
        pullers: Mapping[Lane, ContinuousPuller],
        publisher: WindowedPublisher,
        metrics: ScanWorkerMetrics,
        *,
        delivery_limit: int,
        heartbeat_s: float,
    ) -> None:
        """Prepare; the pullers' contexts belong to the caller.

        Args:
            pullers: One for each lane, that prefetch little.
            publisher: For copies of what is given back.
            metrics: Of the worker.
            delivery_limit: Of batches; what is given back never comes closer to it than one.
            heartbeat_s: How often the broker is told that a batch is still held; below half of its wait.
        """
        self._pullers = pullers
        self._publisher = publisher
        self._metrics = metrics
        self._delivery_limit = delivery_limit
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[Lane, deque[Delivery]] = {lane: deque() for lane in Lane}
        # Kept from one look to the next, because the client library swallows some cancellations.
        self._looks: dict[Lane, asyncio.Task[list[Delivery]]] = {}
        self._in_work: dict[Delivery, Lane] = {}
        self._n_alerts_waited_for = -1
        self._alert_seen_s = -math.inf

    @property
    def n_held(self) -> int:
        """Batches in work or waiting here."""
        return len(self._held)

    async def next(self) -> tuple[Lane, Delivery] | None:
        """The next batch to begin, an alert's if there is any; None where there is nothing for the moment."""
        await self._collect()
        if self._is_alert_on_its_way():
            await self._look([Lane.ALERT], _ALERT_ON_ITS_WAY_S)
        if (wait_s := self._alert_seen_s + _BETWEEN_LEVELS_S - time.monotonic()) > 0:
            await self._look([Lane.ALERT], wait_s)
        if not any(self._waiting.values()):
            await self._look(list(Lane), _LOOK_S)
        for lane in Lane:
            if self._waiting[lane]:
                delivery = self._waiting[lane].popleft()
                self._in_work[delivery] = lane
                self._see(lane)
                return lane, delivery
        return None

    def done(self, delivery: Delivery) -> None:
        """A batch was answered for."""
        if (lane := self._in_work.pop(delivery, None)) is not None:
            self._see(lane)

    async def pause(self) -> None:
        """Take nothing more, and give back what waits here."""
        for puller in self._pullers.values():
            await puller.pause()
        await self._collect()
        for waiting in self._waiting.values():
            while waiting:
                await self.give_back(waiting.popleft(), delay_s=0.0)

    async def close(self) -> None:
        """Wait for what still looks for batches; comes after `pause`."""
        await asyncio.gather(*self._looks.values(), return_exceptions=True)

    async def resume(self) -> None:
        """Take batches again."""
        for puller in self._pullers.values():
            await puller.resume()

    async def give_back(self, delivery: Delivery, *, delay_s: float | None = None) -> None:
        """Let somebody do this later, without a word against the batch.

        Args:
            delivery: The batch.
            delay_s: When it may be handed out again; by default later each time.
        """
        self._metrics.postponed.inc()
        if delivery.n_delivered >= self._delivery_limit and await self._copied(delivery):
            await delivery.ack()
        else:
            await delivery.nak(postponement_s(delivery.n_delivered) if delay_s is None else delay_s)

    async def keep_alive(self, stopped: asyncio.Event) -> None:
        """Tell the broker of each batch that is held for longer than a heartbeat, until `stopped` is set."""
        seen: set[Delivery] = set()
        while not stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), self._heartbeat_s)
            await self._collect()
            held = self._held
            for delivery in held & seen:
                await delivery.in_progress()
            seen = held

    @property
    def _held(self) -> set[Delivery]:
        return set(self._in_work).union(*self._waiting.values())

    def _see(self, lane: Lane) -> None:
        if lane is Lane.ALERT:
            self._alert_seen_s = time.monotonic()

    async def _collect(self) -> None:
        """Take over what has arrived."""
        for lane, puller in self._pullers.items():
            if lane in self._looks and self._looks[lane].done():
                self._waiting[lane].extend(self._looks.pop(lane).result())
            if puller.n_queued:
                self._waiting[lane].extend(await puller.next_batch(puller.n_queued, 0.0))

    def _is_alert_on_its_way(self) -> bool:
        alerts = self._pullers[Lane.ALERT]
        if self._waiting[Lane.ALERT] or alerts.n_left_in_stream == 0:
            return False
        # What is left may be somebody else's by now: one look is enough until the next alert comes.
        is_news = alerts.n_received != self._n_alerts_waited_for
        self._n_alerts_waited_for = alerts.n_received
        return is_news

    async def _look(self, lanes: Sequence[Lane], max_wait_s: float) -> None:
        """Wait until something comes on one of the lanes."""
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + max_wait_s
        # A look that began earlier ends earlier.
        while not any(self._waiting[lane] for lane in lanes) and loop.time() < give_up_at_s:
            for lane in lanes:
                if lane not in self._looks:
                    self._looks[lane] = asyncio.create_task(self._pullers[lane].next_batch(1, _LOOK_S))
            looks = [self._looks[lane] for lane in lanes]
            wait_s = give_up_at_s - loop.time()
            await asyncio.wait(looks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            await self._collect()

    async def _copied(self, delivery: Delivery) -> bool:
        """Queue the batch anew, so that its deliveries are counted from the start.

        The broker counts every delivery, whether it was the batch's fault or not.
        """
        headers = dict(delivery.headers or {})
        # The id of the original, were this a copy itself.
        original_id = headers.pop(MESSAGE_ID_HEADER, "").partition("@")[0]
        try:
            stored = await self._publisher.publish(
                delivery.subject,
                delivery.payload,
                message_id=f"{original_id}@{delivery.stream_sequence}",
                headers=headers,
            )
            await stored
        except IceStreamError:
            return False
        return True
