"""Consuming from JetStream without a pause between one fetch and the next.

The client library's `fetch` makes two requests and a timer per message, and one that is outstanding when
the broker restarts sleeps out its time. Here one inbox stays subscribed, pull requests are always on their
way, and silence for longer than two idle heartbeats means that they were lost.
"""

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from nats import errors as nats_errors
from nats.aio.subscription import Subscription

from icestream.errors import BrokerUnavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.wire import one_word, read_headers

if TYPE_CHECKING:
    from collections.abc import Callable

_ACK = b"+ACK"
_NAK = b"-NAK"
_TERM = b"+TERM"
_IN_PROGRESS = b"+WPI"

_IDLE_HEARTBEAT = "100"
_PULL_ENDED = frozenset({"404", "408"})
_PULL_FULL = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
"""How a pull with `max_bytes` ends well, under the status 409 of those that were refused."""
_MAX_PULL_BYTES = 16 << 20
"""The broker hangs up on whoever leaves more than 64 MiB unread, and redelivers only after the ack wait."""
_PAUSE_AFTER_REFUSAL_S = 0.25
_DRAIN_TIMEOUT_S = 2.0
_NS = 1_000_000_000

_log = structlog.get_logger(__name__)


class Delivery:
    """A message handed out for work; it counts as in flight until it is settled by ack, nak or term.

    Settling is fire and forget: an answer that is lost leads to another delivery.

    Attributes:
        subject: Where it was published.
        payload: What was published.
        stream_sequence: Its number in the stream.
        n_delivered: 1 for the first delivery.
        published_unix_ns: When the broker stored it.
    """

    __slots__ = (
        "_headers",
        "_is_settled",
        "_puller",
        "_reply",
        "n_delivered",
        "payload",
        "published_unix_ns",
        "stream_sequence",
        "subject",
    )

    def __init__(
        self,
        subject: str,
        payload: bytes,
        headers: bytes | dict[str, str] | None,
        stream_sequence: int,
        n_delivered: int,
        published_unix_ns: int,
        _reply: str,
        _puller: "ContinuousPuller",
    ) -> None:
        """As it came; a block of headers is read when somebody asks for one."""
        self.subject = subject
        self.payload = payload
        self.stream_sequence = stream_sequence
        self.n_delivered = n_delivered
        self.published_unix_ns = published_unix_ns
        self._headers = headers
        self._reply = _reply
        self._puller = _puller
        self._is_settled = False

    @property
    def headers(self) -> dict[str, str] | None:
        """What came with the payload; None without any."""
        if isinstance(self._headers, bytes):
            self._headers = read_headers(self._headers)
        return self._headers

    def headers_with(self, name: str) -> dict[str, str] | None:
        """All headers if this is one of them; to find that it is not costs less than to read the others."""
        if isinstance(self._headers, bytes) and name.encode() not in self._headers:
            return None
        headers = self.headers
        return headers if headers and name in headers else None

    async def ack(self) -> None:
        """The work is done; never deliver this again."""
        await self._settle(_ACK)

    async def nak(self, delay_s: float = 0.0) -> None:
        """The work failed; deliver this again after a delay."""
        delay = b' {"delay":%d}' % int(delay_s * _NS) if delay_s > 0 else b""
        await self._settle(_NAK + delay)

    async def term(self, reason: str = "") -> None:
        """The message is bad; never deliver this again, and say so in the broker's advisory."""
        await self._settle(f"{_TERM.decode()} {reason}".rstrip().encode())

    async def in_progress(self) -> None:
        """The work takes longer; the wait for the ack starts again."""
        self._puller._answer(self._reply, _IN_PROGRESS)

    async def _settle(self, answer: bytes) -> None:
        if not self._is_settled:
            self._is_settled = True
            await self._puller._settle(self._reply, answer)


@dataclass(slots=True, eq=False)
class _Inbox:
    """Where messages come in; a new one forgets every pull request of the one before."""

    subject: str
    n_requested: int = 0
    """Messages that the broker may still send for our pull requests."""
    subscription: Subscription | None = None


class ContinuousPuller:
    """Keeps pull requests of a durable consumer outstanding and queues what arrives.

    At most `max_in_flight` messages are requested, queued or being worked on at a time, so memory is
    bounded by that times the message size.

    Attributes:
        n_received: Messages that arrived.
        n_redelivered: Of these, the ones that somebody was given before.
        n_stalls: Times that the broker was silent and all pull requests were made anew.
        n_refused_pulls: Pull requests that the broker refused; the consumer may be missing.
        n_lost_answers: Acks and the like that could not be sent because the broker was away.
        n_left_in_stream: Messages that the consumer had not delivered yet, when the last one came.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        consumer: str,
        batch: int = 256,
        max_in_flight: int = 1024,
        idle_heartbeat_s: float = 0.5,
        pull_expires_s: float = 10.0,
    ) -> None:
        """Prepare; nothing is pulled before the context is entered.

        Args:
            connection: To the broker.
            stream: Where the messages are.
            consumer: The durable pull consumer.
            batch: Messages per pull request; the next one goes out at half.
            max_in_flight: Bound on messages requested, queued or not settled yet.
            idle_heartbeat_s: How often the broker says that it has nothing for us.
            pull_expires_s: For how long one pull request lasts; at least two heartbeats.

        Raises:
            InvalidInput: There can be no such stream or consumer.
        """
        self.n_received = 0
        self.n_redelivered = 0
        self.n_stalls = 0
        self.n_refused_pulls = 0
        self.n_lost_answers = 0
        self.n_left_in_stream = 0
        self._connection = connection
        self._client = connection.client
        self._next_subject = one_word(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
        self._batch = min(batch, max_in_flight)
        self._half_batch = (self._batch + 1) // 2
        self._max_in_flight = max_in_flight
        self._idle_heartbeat_s = idle_heartbeat_s
        self._pull_expires_s = max(pull_expires_s, 2 * idle_heartbeat_s)
        self._queue: deque[Delivery] = deque()
        self._in_flight = 0
        self._arrived = asyncio.Event()
        self._inbox: _Inbox | None = None
        self._changing_inbox = asyncio.Lock()
        self._heard_at_s = 0.0
        self._no_pull_before_s = 0.0
        self._lost_connection = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._forget_reconnects: Callable[[], None] = lambda: None
        self._is_stopped = False

    @property
    def in_flight(self) -> int:
        """Messages that arrived and are not settled yet, queued ones included."""
        return self._in_flight

    @property
    def n_queued(self) -> int:
        """Messages that arrived and were not handed out yet."""
        return len(self._queue)

    @property
    def is_paused(self) -> bool:
        """Whether no messages are asked for."""
        return self._inbox is None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._forget_reconnects = self._connection.on_reconnect(self._lost_connection.set)
        await self.resume()
        self._watcher = asyncio.create_task(self._watch_forever(), name="puller-watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def next_batch(self, max_messages: int, max_wait_s: float) -> list[Delivery]:
        """What is queued, at once if anything is; otherwise the next to come, or nothing in time.

        Raises:
            BrokerUnavailable: The connection is closed for good and nothing is queued.
        """
        if not self._queue:
            await self._wait_for_arrival(max_wait_s)
        n = min(max_messages, len(self._queue))
        return [self._queue.popleft() for _ in range(n)]

    async def pause(self) -> None:
        """Stop the intake; when this returns nothing more arrives, and what is queued stays queued."""
        async with self._changing_inbox:
            await self._close_inbox()

    async def resume(self) -> None:
        """Ask for messages again."""
        async with self._changing_inbox:
            if self._inbox is None and not self._is_stopped:
                await self._open_inbox()

    async def stop(self) -> None:
        """Stop for good and give back what was never handed out; harmless to repeat.

        Messages that were handed out can still be settled for as long as the connection lasts.
        """
        self._is_stopped = True
        self._forget_reconnects()
        self._forget_reconnects = lambda: None
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self.pause()
        while self._queue:
            await self._queue.popleft().nak()
        self._arrived.set()

    async def _wait_for_arrival(self, max_wait_s: float) -> None:
        if self._client.is_closed:
            raise BrokerUnavailable("the connection to the broker is closed")
        if self._is_stopped:
            return
        if self._inbox is not None and self._inbox.n_requested == 0:
            # Below half a batch of room nothing was asked for; now somebody has nothing else to do.
            self._pull(self._inbox, at_least=1)
        with suppress(TimeoutError):
            async with asyncio.timeout(max_wait_s):
                while not self._queue and not self._is_stopped:
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _open_inbox(self) -> None:
        inbox = _Inbox(self._client.new_inbox())
        inbox.subscription = await self._client.listen(f"{inbox.subject}.*", partial(self._on_message, inbox))
        self._inbox = inbox
        self._heard_at_s = self._loop.time()
        self._pull(inbox, at_least=1)

    async def _close_inbox(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is None or inbox.subscription is None:
            return
        # Draining takes everything that the broker had sent for this inbox; without a listener the broker
        # then forgets the pull requests and gives whatever it was about to send to the next one.
        try:
            drained = inbox.subscription.drain()  # type: ignore[no-untyped-call]
            await asyncio.wait_for(drained, _DRAIN_TIMEOUT_S)
        except (nats_errors.Error, TimeoutError):
            # The client library keeps a subscription that it could not drain for ever.
            self._client._remove_sub(inbox.subscription._id)

    def _on_message(
        self, inbox: _Inbox, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        self._heard_at_s = self._loop.time()
        if not reply:
            self._on_status(inbox, subject, headers)
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<ns>.<left>; with a
        # domain there are two tokens more before the stream's and maybe one more at the end.
        answer_to = reply.decode()
        tokens = answer_to.split(".")
        first = 4 if len(tokens) == 9 else 6
        n_delivered = int(tokens[first])
        delivery = Delivery(
            subject.decode(),
            payload,
            headers,
            int(tokens[first + 1]),
            n_delivered,
            int(tokens[first + 3]),
            answer_to,
            self,
        )
        if not self._queue:
            self._arrived.set()
        self._queue.append(delivery)
        self._in_flight += 1
        self.n_received += 1
        if n_delivered > 1:
            self.n_redelivered += 1
        self.n_left_in_stream = int(tokens[first + 4])
        inbox.n_requested -= 1
        if inbox.n_requested <= self._half_batch:
            self._pull(inbox, at_least=self._half_batch)

    def _on_status(self, inbox: _Inbox, subject: bytes, header_block: bytes) -> None:
        headers = read_headers(header_block) or {}
        status = headers.get("Status", "")
        if status == _IDLE_HEARTBEAT:
            return
        # The reply subject says how many were asked for; a request that was served in part says what is left.
        n_asked = subject.rpartition(b".")[2]
        inbox.n_requested = max(0, inbox.n_requested - int(headers.get("Nats-Pending-Messages", n_asked)))
        if status not in _PULL_ENDED and headers.get("Description") not in _PULL_FULL:
            self.n_refused_pulls += 1
            self._no_pull_before_s = self._loop.time() + _PAUSE_AFTER_REFUSAL_S
            _log.warning("pull_refused", status=status, reason=headers.get("Description", ""))
        self._pull(inbox, at_least=self._half_batch if inbox.n_requested else 1)

    def _pull(self, inbox: _Inbox, *, at_least: int) -> None:
        """Ask for as many messages as there is room for, unless that is fewer than `at_least`."""
        room = self._max_in_flight - self._in_flight - inbox.n_requested
        n = min(self._batch - inbox.n_requested, room)
        if n < at_least or inbox is not self._inbox or not self._client.is_connected:
            return
        if self._loop.time() < self._no_pull_before_s:
            return
        # What could not be sent the watcher asks for again.
        if self._client.send(self._pull_request(n, f"{inbox.subject}.{n}")):
            inbox.n_requested += n

    def _pull_request(self, n: int, reply: str) -> bytes:
        request = {
            "batch": n,
            # Less than one message would never be delivered.
            "max_bytes": max(_MAX_PULL_BYTES, 2 * self._client.max_payload),
            "expires": int(self._pull_expires_s * _NS),
            "idle_heartbeat": int(self._idle_heartbeat_s * _NS),
        }
        body = json.dumps(request)
        return f"PUB {self._next_subject} {reply} {len(body)}\r\n{body}\r\n".encode()

    async def _watch_forever(self) -> None:
        """Make pull requests anew after a reconnect, and when the broker forgot them."""
        tick_s = self._idle_heartbeat_s / 2
        while not self._is_stopped:
            slept_since_s = self._loop.time()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost_connection.wait(), tick_s)
            if self._loop.time() - slept_since_s > 2 * tick_s:
                # We were too busy to listen, which is not the broker's silence.
                self._heard_at_s = self._loop.time()
            was_lost = self._lost_connection.is_set()
            self._lost_connection.clear()
            await self._watch(was_lost=was_lost)

    async def _watch(self, *, was_lost: bool) -> None:
        inbox = self._inbox
        if inbox is None or not self._client.is_connected:
            return
        if was_lost:
            await self._reopen_inbox()
        elif self._is_stalled(inbox):
            self.n_stalls += 1
            _log.warning("pull_stalled", n_requested=inbox.n_requested)
            await self._reopen_inbox()
        elif inbox.n_requested == 0:
            self._pull(inbox, at_least=1)

    def _is_stalled(self, inbox: _Inbox) -> bool:
        silence_s = self._loop.time() - self._heard_at_s
        return inbox.n_requested > 0 and silence_s > 2 * self._idle_heartbeat_s

    async def _reopen_inbox(self) -> None:
        async with self._changing_inbox:
            if self._inbox is not None and not self._client.is_closed:
                await self._close_inbox()
                await self._open_inbox()

    async def _settle(self, reply: str, answer: bytes) -> None:
        self._in_flight -= 1
        self._answer(reply, answer)
        inbox = self._inbox
        if inbox is not None and inbox.n_requested <= self._half_batch:
            self._pull(inbox, at_least=self._half_batch)

    def _answer(self, reply: str, answer: bytes) -> None:
        # Nothing to repair: without the answer the message is delivered again.
        if not self._client.send(f"PUB {reply} {len(answer)}\r\n".encode() + answer + b"\r\n"):
            self.n_lost_answers += 1
