"""Following a stream from a known place on, through restarts of the broker and of consumers.

The client library's ordered consumer notices a lost consumer only by a heartbeat that it may never get, and
swallows what goes wrong while it makes a new one. Here whatever looks like a gap (a message or a heartbeat that
counts more than arrived, silence, a reconnect) leads to a new consumer behind the last message that is there.
"""

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.stored import StoredMessage, stored_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.subscription import Subscription

_REQUEST_TIMEOUT_S = 2.0
_RETRY_S = 0.25
_FORGET_AFTER_S = 30.0
_CONTROL = "100"

_log = structlog.get_logger(__name__)


class StreamFollower:
    """Hands out what is stored under a subject, each message once and in order, for as long as it takes.

    Attributes:
        n_left: Messages that the stream had behind the last one that arrived, when it came.
        n_restarts: Consumers that were made after the first one.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        subject: str,
        after_sequence: int,
        idle_heartbeat_s: float = 0.5,
    ) -> None:
        """Prepare; nothing comes before the context is entered.

        Args:
            connection: To the broker.
            stream: Where the messages are.
            subject: May have wildcards.
            after_sequence: Begin with the message after this one.
            idle_heartbeat_s: How often the broker says that there is nothing new.
        """
        self.n_left = 0
        self.n_restarts = -1
        self._connection = connection
        self._client = connection.client
        self._stream = stream
        self._subject = subject
        self._last_sequence = after_sequence
        self._idle_heartbeat_s = idle_heartbeat_s
        # A text is where to say that everything before it was read: the broker sends no more until then.
        self._queue: deque[StoredMessage | str] = deque()
        self._arrived = asyncio.Event()
        self._must_restart = asyncio.Event()
        self._subscription: Subscription | None = None
        self._n_delivered = 0
        self._heard_at_s = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._forget_reconnects: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._forget_reconnects = self._connection.on_reconnect(self._must_restart.set)
        self._must_restart.set()
        self._watcher = asyncio.create_task(self._watch_forever(), name="follower-watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_reconnects()
        self._is_stopped = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self._drop_subscription()

    @property
    def n_queued(self) -> int:
        """Messages that arrived and were not handed out yet."""
        return len(self._queue)

    async def next_batch(self, max_messages: int, max_wait_s: float) -> list[StoredMessage]:
        """What has arrived, at once if anything has; otherwise the next to come, or nothing in time.

        Raises:
            BrokerUnavailable: The connection is closed for good.
        """
        if not self._queue:
            if self._client.is_closed:
                raise BrokerUnavailable("the connection to the broker is closed")
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max_wait_s):
                    await self._arrived.wait()
        messages: list[StoredMessage] = []
        while self._queue and len(messages) < max_messages:
            item = self._queue.popleft()
            if isinstance(item, str):
                await self._answer_flow_control(item)
            else:
                messages.append(item)
        return messages

    async def _answer_flow_control(self, reply: str) -> None:
        # Lost where the broker is away: the new consumer knows nothing of it.
        with suppress(nats_errors.Error):
            await self._client.publish(reply, b"")

    async def _watch_forever(self) -> None:
        # The flag beside the cancellation, because the client library swallows some of those.
        while not self._is_stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_heartbeat_s):
                    await self._must_restart.wait()
            is_silent = self._loop.time() - self._heard_at_s > 3 * self._idle_heartbeat_s
            if not self._client.is_connected or not (is_silent or self._must_restart.is_set()):
                continue
            self._must_restart.clear()
            try:
                await self._restart()
            except (nats_errors.Error, APIError, TimeoutError) as error:
                _log.warning("stream_not_followed", stream=self._stream, problem=repr(error))
                self._must_restart.set()
                await asyncio.sleep(_RETRY_S)

    async def _restart(self) -> None:
        self._drop_subscription()
        self._n_delivered = 0
        self.n_restarts += 1
        inbox = self._client.new_inbox()

        async def on_message(message: Msg) -> None:
            if self._subscription is subscription:
                self._on_message(message)

        # What arrives is bounded by flow control.
        subscription = await self._client.subscribe(inbox, cb=on_message, pending_bytes_limit=0)
        self._subscription = subscription
        self._heard_at_s = self._loop.time()
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._last_sequence + 1,
            filter_subject=self._subject,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            idle_heartbeat=self._idle_heartbeat_s,
            flow_control=True,
            inactive_threshold=_FORGET_AFTER_S,
            mem_storage=True,
            num_replicas=1,
        )
        await self._client.jetstream(timeout=_REQUEST_TIMEOUT_S).add_consumer(self._stream, config)

    def _drop_subscription(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        # The broker forgets a consumer that nobody listens to.
        task = asyncio.ensure_future(subscription.unsubscribe())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _on_message(self, message: Msg) -> None:
        self._heard_at_s = self._loop.time()
        headers = message.headers or {}
        if headers.get("Status") == _CONTROL and not message.data:
            self._on_control(message, headers)
            return
        metadata = message.metadata
        if metadata.sequence.consumer != self._n_delivered + 1:
            self._must_restart.set()
            return
        self._n_delivered += 1
        self._last_sequence = metadata.sequence.stream
        self.n_left = metadata.num_pending
        self._queue.append(stored_message(message))
        self._arrived.set()

    def _on_control(self, message: Msg, headers: dict[str, str]) -> None:
        if message.reply:
            self._queue.append(message.reply)
            self._arrived.set()
            return
        if int(headers.get("Nats-Last-Consumer", self._n_delivered)) != self._n_delivered:
            self._must_restart.set()
        if stalled := headers.get("Nats-Consumer-Stalled"):
            self._queue.append(stalled)
            self._arrived.set()
