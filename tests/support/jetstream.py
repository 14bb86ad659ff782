"""Looking into a stream past the adapters under test, and taking from it through one."""

import asyncio
from dataclasses import dataclass

from nats.js.api import ConsumerInfo, StreamState

from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.puller import ContinuousPuller, Delivery


@dataclass(frozen=True)
class EventsStream:
    """A stream, a subject that it stores and the state that the broker reports."""

    connection: Connection
    name: str
    subject: str

    async def state(self) -> StreamState:
        return (await self.connection.client.jetstream().stream_info(self.name)).state

    async def n_messages(self) -> int:
        return (await self.state()).messages

    async def consumer(self, consumer: str = "router") -> ConsumerInfo:
        info: ConsumerInfo = await self.connection.client.jetstream().consumer_info(self.name, consumer)
        return info

    async def n_unacknowledged(self) -> int:
        return (await self.consumer()).num_ack_pending or 0

    async def fill(self, n: int, *, n_bytes: int = 10) -> None:
        """Store messages whose payload begins with their number."""
        js = self.connection.client.jetstream()
        for i in range(n):
            await js.publish(self.subject, str(i).encode().ljust(n_bytes, b" "))

    async def stored_payloads(self) -> list[bytes]:
        """Every payload in the stream, in order."""
        js, state = self.connection.client.jetstream(), await self.state()
        subscription = await js.pull_subscribe(self.subject, stream=self.name)
        payloads: list[bytes] = []
        while len(payloads) < state.messages:
            for message in await subscription.fetch(500, timeout=5):
                payloads.append(message.data)
                await message.ack()
        return payloads


async def take(puller: ContinuousPuller, n: int, *, timeout_s: float = 10.0) -> list[Delivery]:
    """Exactly `n` messages, not settled."""
    taken: list[Delivery] = []
    async with asyncio.timeout(timeout_s):
        while len(taken) < n:
            taken += await puller.next_batch(n - len(taken), 0.2)
    return taken
