"""JetStream without a broker: what the services hand over, and what they answer for."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from icestream.errors import IceStreamError, UndecodableMessage
from icestream.runtime.jetstream.publisher import Ack
from icestream.runtime.jetstream.puller import Delivery


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """One message that was handed to the publisher."""

    subject: str
    payload: bytes
    message_id: str
    headers: Mapping[str, str]
    stored: "asyncio.Future[Ack]" = field(repr=False)

    def confirm(self, sequence: int = 1, *, is_duplicate: bool = False) -> None:
        """The broker stored it."""
        self.stored.set_result(Ack("STREAM", sequence, is_duplicate, 1))


class FakePublisher:
    """Stands in for `WindowedPublisher`; message n gets stream sequence n.

    Attributes:
        published: Everything that was handed over.
        is_confirming: While it is not, messages wait for `Published.confirm`.
        refusal: Says by its subject and message id why a message is not stored.
        raises: Whether a refused message is refused at once, not through its future.
    """

    def __init__(self, *, max_payload_bytes: int = 1 << 20) -> None:
        self.published: list[Published] = []
        self.max_payload_bytes = max_payload_bytes
        self.is_confirming = True
        self.refusal: Callable[[str, str], IceStreamError | None] = lambda *_: None
        self.raises = False

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> "asyncio.Future[Ack]":
        refusal = self.refusal(subject, message_id)
        if refusal is not None and self.raises:
            raise refusal
        stored = asyncio.get_running_loop().create_future()
        self.published.append(Published(subject, payload, message_id, dict(headers or {}), stored))
        if refusal is not None:
            stored.set_exception(refusal)
        elif self.is_confirming:
            self.published[-1].confirm(len(self.published))
        # As the real one does: acknowledgements are noticed while the next message goes out.
        await asyncio.sleep(0)
        return stored

    async def flush(self) -> None:
        """Wait until everything is settled, as the real one does."""
        await asyncio.gather(*(message.stored for message in self.published), return_exceptions=True)

    def on(self, prefix: str) -> list[Published]:
        """What went to subjects that begin so."""
        return [message for message in self.published if message.subject.startswith(prefix)]


class FakePuller:
    """Stands in for `ContinuousPuller`, and for the broker that hears its answers.

    Attributes:
        answers: By stream sequence, what the broker was told: "+ACK", "-NAK ..." or "+TERM ...".
        is_paused: Whether no messages are asked for.
        n_pauses: How often that began.
        n_signs_of_life: By stream sequence, how often the broker was told that the work goes on.
        n_left_in_stream: What the last message said is left.
    """

    def __init__(self) -> None:
        self.answers: dict[int, str] = {}
        self.n_signs_of_life: Counter[int] = Counter()
        self.n_left_in_stream = 0
        self.is_paused = False
        self.n_pauses = 0
        self._queue: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._n_deliveries = 0

    @property
    def n_queued(self) -> int:
        return len(self._queue)

    @property
    def n_received(self) -> int:
        return self._n_deliveries

    def deliver(
        self,
        payload: bytes,
        *,
        n_delivered: int = 1,
        headers: dict[str, str] | None = None,
        subject: str = "icestream.events.toy.test",
    ) -> Delivery:
        """Queue a message; its stream sequence counts from 1."""
        self._n_deliveries += 1
        delivery = Delivery(
            subject=subject,
            payload=payload,
            headers=headers,
            stream_sequence=self._n_deliveries,
            n_delivered=n_delivered,
            published_unix_ns=1_000,
            _reply=str(self._n_deliveries),
            _puller=self,  # type: ignore[arg-type]  # it has what a delivery needs
        )
        self._queue.append(delivery)
        self._arrived.set()
        return delivery

    async def next_batch(self, max_messages: int, max_wait_s: float) -> list[Delivery]:
        if not self._queue:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), max_wait_s)
        return [self._queue.popleft() for _ in range(min(max_messages, len(self._queue)))]

    async def pause(self) -> None:
        self.n_pauses += not self.is_paused
        self.is_paused = True

    async def resume(self) -> None:
        self.is_paused = False

    def kinds(self) -> dict[int, str]:
        """The answers without their arguments."""
        return {sequence: answer.split()[0] for sequence, answer in self.answers.items()}

    def _answer(self, reply: str, answer: bytes) -> None:
        assert answer == b"+WPI"
        self.n_signs_of_life[int(reply)] += 1

    async def _settle(self, reply: str, answer: bytes) -> None:
        assert int(reply) not in self.answers, "answered twice"
        self.answers[int(reply)] = answer.decode()


class FakeObjects:
    """Stands in for `PulseObjects`.

    Attributes:
        stored: By name.
        failure: Raised while it is set.
    """

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.failure: Exception | None = None

    async def put(self, payload: bytes) -> str:
        self._fail()
        name = f"object-{len(self.stored)}"
        self.stored[name] = payload
        return name

    async def get(self, name: str) -> bytes:
        self._fail()
        if name not in self.stored:
            raise UndecodableMessage(f"there is no object {name}")
        return self.stored[name]

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
