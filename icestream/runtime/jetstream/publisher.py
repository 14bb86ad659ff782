"""Publishing to JetStream with many messages in flight, without losing or doubling one.

The client library's `publish_async` loses places in its window when the broker restarts, swallows error
answers and has no deadline. Here every message keeps its place until the broker stored it or its caller
was told why not, and everything that goes out again carries the same message id.
"""

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import structlog
from nats import errors as nats_errors

from icestream.errors import BrokerUnavailable, IceStreamError, InvalidInput, MessageTooLarge, StreamFull
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.refusals import refused_publish
from icestream.runtime.jetstream.wire import header_block, one_word

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

MESSAGE_ID_HEADER = "Nats-Msg-Id"

_SWEEP_S = 0.05
_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
_ORDINARY_HEADER_BYTES = 4096
_MAX_UNSENT_BYTES = 1 << 20
_UNSENT_POLL_S = 0.002

_log = structlog.get_logger(__name__)


class WhenFull(StrEnum):
    """What to do with a message that the stream has no room for."""

    WAIT = "wait"
    """Keep it, slow down and try until there is room."""
    RAISE = "raise"
    """Fail its future with StreamFull."""


class Ack(NamedTuple):
    """The broker's word that a message is stored."""

    stream: str
    sequence: int
    is_duplicate: bool
    """A message with this id was stored before; after a retry that may have been ours."""
    n_attempts: int


@dataclass(slots=True, eq=False)
class _Pending:
    """A message that holds a place in the window."""

    token: int
    subject: str
    command: bytes
    """All that is sent, every time."""
    n_bytes: int
    """Of payload and headers, which is what the broker limits."""
    future: asyncio.Future[Ack]
    give_up_at_s: float
    due_at_s: float = 0.0
    """When it goes out again, unless an answer comes before."""
    n_attempts: int = 0
    n_refusals: int = 0
    refusal: IceStreamError | None = None
    """Why the broker did not take it the last time."""


class WindowedPublisher:
    """Publishes with at most `window` unconfirmed messages.

    Messages are stored in the order of their `publish`, except those that had to go out again.
    Use one publisher per stream: a full stream fills the window.

    Attributes:
        n_published: Messages that the broker confirmed.
        n_duplicates: Of these, the ones whose id it had stored before.
        n_retries: Messages sent again, for want of an answer, after a refusal or a reconnect.
        n_refused: Answers that said no, a full stream included.
        n_failed: Messages whose future got an error.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        window: int = 256,
        retry_after_s: float = 2.0,
        deadline_s: float = 60.0,
        unready_patience_s: float = 15.0,
        when_full: WhenFull = WhenFull.WAIT,
        on_stream_full: Callable[[StreamFull], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; nothing is sent before the context is entered.

        Args:
            connection: To the broker.
            window: How many messages may be unconfirmed at a time.
            retry_after_s: Send again when no answer came for so long.
            deadline_s: Give up on a message after so long without any answer. Must be well below the
                stream's duplicate window, or a late retry is stored a second time.
            unready_patience_s: Give up when the broker says for so long that no stream takes the subject
                or that JetStream is not ready.
            when_full: What to do with messages that a full stream refuses.
            on_stream_full: Told when a stream turns full, once until it takes messages again.
            rng: Spreads the retries of many publishers.
        """
        self.window = window
        self.n_published = 0
        self.n_duplicates = 0
        self.n_retries = 0
        self.n_refused = 0
        self.n_failed = 0
        self._connection = connection
        self._client = connection.client
        self._retry_after_s = retry_after_s
        self._deadline_s = deadline_s
        self._unready_patience_s = unready_patience_s
        self._when_full = when_full
        self._on_stream_full = on_stream_full
        self._rng = rng or random.Random()  # noqa: S311
        # Once the window is full it must drain by a quarter before anybody goes on. Without that, each
        # confirmation would wake one caller for one message, and each message would be one write.
        self._room_at = window - max(1, window // 4)
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._pending: dict[int, _Pending] = {}
        self._held_by_full: dict[int, _Pending] = {}
        self._is_stream_full = False
        self._last_token = 0
        self._known_answers: dict[bytes, str] = {}
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._forget_reconnects: Callable[[], None] = lambda: None
        self._is_closed = False
        self._is_released = False

    @property
    def in_flight(self) -> int:
        """Messages that wait for their confirmation."""
        return len(self._pending)

    @property
    def is_stream_full(self) -> bool:
        """Whether messages are kept here because the stream has no room for them."""
        return self._is_stream_full

    @property
    def max_payload_bytes(self) -> int:
        """What surely fits into a message beside ordinary headers; larger goes through the object store."""
        return self._client.max_payload - _ORDINARY_HEADER_BYTES

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._inbox = self._client.new_inbox() + "."
        self._subscription = await self._client.listen(f"{self._inbox}*", self._on_answer)
        self._forget_reconnects = self._connection.on_reconnect(self._resend_everything)
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="publisher-sweeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Ack]:
        """Send a message; awaiting this waits only for a place in the window.

        Args:
            subject: Where to; a stream must store it.
            payload: The message.
            message_id: The same id is stored only once within the stream's duplicate window.
            headers: Sent along.

        Returns:
            Resolves to the Ack, or raises StreamFull (only with `WhenFull.RAISE`), BrokerUnavailable,
            MessageTooLarge, InvalidInput (a subject or header that NATS does not know) or Misconfigured.

        Raises:
            MessageTooLarge: The broker would close the connection for a message of this size.
            BrokerUnavailable: The publisher, or the connection, is closed.
        """
        future: asyncio.Future[Ack] = self._loop.create_future()
        try:
            block = header_block({MESSAGE_ID_HEADER: message_id, **(headers or {})})
            one_word(subject)
        except InvalidInput as error:
            self.n_failed += 1
            future.set_exception(error)
            return future
        n_bytes = len(block) + len(payload)
        # The broker counts headers too and, unlike the client library, closes the connection for good.
        if n_bytes > self._client.max_payload:
            raise MessageTooLarge(n_bytes, self._client.max_payload, subject=subject)
        while not self._is_closed and (not self._has_room.is_set() or self._is_clogged):
            await self._wait_for_room()
        if self._is_closed or self._client.is_closed:
            raise BrokerUnavailable("the publisher is closed")
        self._last_token = token = self._last_token + 1
        control = f"HPUB {subject} {self._inbox}{token} {len(block)} {n_bytes}\r\n".encode()
        command = b"".join((control, block, payload, b"\r\n"))
        now_s = self._loop.time()
        pending = _Pending(token, subject, command, n_bytes, future, now_s + self._deadline_s)
        self._pending[token] = pending
        if len(self._pending) >= self.window:
            self._has_room.clear()
        self._send(pending, now_s)
        return future

    async def flush(self) -> None:
        """Wait until everything published so far is confirmed or failed."""
        futures = [pending.future for pending in self._pending.values()]
        if futures:
            await asyncio.wait(futures)

    async def close(self, *, timeout_s: float = 5.0) -> None:
        """Wait for what is in flight, then fail what is not confirmed; harmless to repeat."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.flush(), timeout_s)
        finally:
            self._fail_everything("the publisher closed before the broker confirmed the message")
            await self._release_resources()

    async def _release_resources(self) -> None:
        self._is_released = True
        self._forget_reconnects()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        if self._subscription is not None:
            with suppress(nats_errors.Error):
                await self._subscription.unsubscribe()

    @property
    def _is_clogged(self) -> bool:
        """Whether the broker reads more slowly than we write.

        Beyond 2 MiB the connection takes nothing more; so we never let it come to that.
        """
        return self._client.pending_data_size > _MAX_UNSENT_BYTES and self._client.is_connected

    async def _wait_for_room(self) -> None:
        if not self._has_room.is_set():
            await self._has_room.wait()
            return
        # What is written in one turn of the event loop goes to the socket at its end.
        await asyncio.sleep(0)
        if self._is_clogged:
            await asyncio.sleep(_UNSENT_POLL_S)

    def _send(self, pending: _Pending, now_s: float) -> None:
        pending.due_at_s = now_s + self._retry_after_s
        if not self._client.is_connected:
            # The reconnect sends it; the client library's own buffer is small and would double it.
            return
        if self._held_by_full:
            self._held_by_full.pop(pending.token, None)
        if pending.n_bytes > self._client.max_payload:
            # Another broker than before the reconnect may take less.
            too_large = MessageTooLarge(pending.n_bytes, self._client.max_payload, subject=pending.subject)
            self._fail(pending, too_large)
            return
        pending.n_attempts += 1
        # What is not taken stays pending: the reconnect sends it, or the sweeper sees that there is none.
        self._client.send(pending.command)

    def _on_answer(self, subject: bytes, _reply: bytes, _headers: bytes, payload: bytes) -> None:
        pending = self._pending.get(int(subject[len(self._inbox) :]))
        if pending is None:
            # An earlier attempt's answer settled it.
            return
        # A stream's answers differ in the number at the end, unless there is more to say.
        head, _, number = payload[:-1].rpartition(b":")
        stream = self._known_answers.get(head)
        if stream is not None and number.isdigit():
            self._on_stored(pending, stream, int(number), is_duplicate=False)
        elif payload:
            self._on_long_answer(pending, json.loads(payload), head)
        else:
            # "No responders": nobody listens on the subject.
            self._on_refusal(pending, BrokerUnavailable(f"no stream stores {pending.subject}; was it made?"))

    def _on_long_answer(self, pending: _Pending, answer: Mapping[str, Any], head: bytes) -> None:
        if "error" in answer:
            n_bytes = pending.n_bytes
            self._on_refusal(pending, refused_publish(answer, subject=pending.subject, size_bytes=n_bytes))
            return
        stream, sequence, is_duplicate = answer["stream"], answer["seq"], answer.get("duplicate", False)
        if list(answer)[-1] == "seq" and not is_duplicate:
            self._known_answers[head] = stream
        self._on_stored(pending, stream, sequence, is_duplicate=is_duplicate)

    def _on_stored(self, pending: _Pending, stream: str, sequence: int, *, is_duplicate: bool) -> None:
        self.n_published += 1
        self.n_duplicates += is_duplicate
        self._take_out(pending)
        if self._is_stream_full:
            self._on_room()
        if not pending.future.done():
            pending.future.set_result(Ack(stream, sequence, is_duplicate, pending.n_attempts))

    def _on_refusal(self, pending: _Pending, refusal: IceStreamError) -> None:
        self.n_refused += 1
        if isinstance(refusal, StreamFull):
            self._on_full(pending, refusal)
        elif isinstance(refusal, BrokerUnavailable):
            self._on_unready(pending, refusal)
        else:
            self._fail(pending, refusal)

    def _on_full(self, pending: _Pending, refusal: StreamFull) -> None:
        is_news, self._is_stream_full = not self._is_stream_full, True
        if is_news and self._on_stream_full is not None:
            self._on_stream_full(refusal)
        if self._when_full is WhenFull.RAISE:
            self._fail(pending, refusal)
            return
        self._held_by_full[pending.token] = pending
        # A refusal proves that the broker is there and stored nothing, so the deadline starts again.
        pending.give_up_at_s = self._loop.time() + self._deadline_s
        self._hold(pending, refusal)

    def _on_unready(self, pending: _Pending, refusal: BrokerUnavailable) -> None:
        if not isinstance(pending.refusal, BrokerUnavailable):
            pending.give_up_at_s = self._loop.time() + self._unready_patience_s
        self._hold(pending, refusal)

    def _hold(self, pending: _Pending, refusal: IceStreamError) -> None:
        pending.refusal = refusal
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(pending.n_refusals, 10))
        pending.n_refusals += 1
        pending.due_at_s = self._loop.time() + backoff_s * self._rng.uniform(0.5, 1.5)

    def _on_room(self) -> None:
        """Send two of the messages that a full stream refused.

        Each success brings two forward, so the pace doubles per round trip once there is room; a refusal
        brings none, so a stream that stays full costs little.
        """
        self._is_stream_full = bool(self._held_by_full)
        for held in islice(self._held_by_full.values(), 2):
            held.due_at_s = 0.0
        self._wake.set()

    def _resend_everything(self) -> None:
        """After a reconnect: answers to what was sent before are lost."""
        now_s = self._loop.time()
        for pending in self._pending.values():
            pending.due_at_s = now_s
        self._wake.set()

    async def _sweep_forever(self) -> None:
        # The flag beside the cancellation, because the client library swallows some of those.
        while not self._is_released:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SWEEP_S)
            self._wake.clear()
            self._sweep()

    def _sweep(self) -> None:
        if self._client.is_closed:
            self._fail_everything("the connection to the broker is closed")
            return
        now_s = self._loop.time()
        # A full pass: 256 comparisons 20 times a second are cheaper than keeping messages in order.
        for pending in tuple(self._pending.values()):
            if pending.token not in self._pending:
                continue
            if pending.give_up_at_s <= now_s:
                self._give_up(pending)
            elif pending.due_at_s <= now_s:
                self._send_again(pending, now_s)

    def _send_again(self, pending: _Pending, now_s: float) -> None:
        if self._is_clogged:
            # What is due stays due until the broker has read what was sent before.
            self._loop.call_later(_UNSENT_POLL_S, self._wake.set)
            return
        self.n_retries += pending.n_attempts > 0
        self._send(pending, now_s)

    def _give_up(self, pending: _Pending) -> None:
        silence = f"the broker did not confirm a message for {pending.subject} within {self._deadline_s:g} s"
        refusal = pending.refusal if isinstance(pending.refusal, BrokerUnavailable) else None
        self._fail(pending, refusal or BrokerUnavailable(silence))

    def _fail_everything(self, reason: str) -> None:
        for pending in tuple(self._pending.values()):
            self._fail(pending, BrokerUnavailable(f"{reason} ({pending.subject})"))

    def _fail(self, pending: _Pending, error: IceStreamError) -> None:
        if not self._take_out(pending):
            return
        self.n_failed += 1
        if not pending.future.done():
            pending.future.set_exception(error)

    def _take_out(self, pending: _Pending) -> bool:
        """Free the message's place, which is nothing else than being in `_pending`."""
        if self._pending.pop(pending.token, None) is None:
            return False
        if self._held_by_full:
            self._held_by_full.pop(pending.token, None)
        if len(self._pending) <= self._room_at:
            self._has_room.set()
        return True
