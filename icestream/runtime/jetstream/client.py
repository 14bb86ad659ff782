"""The client library's connection, with a shorter way for what moves thousands of messages a second."""

import asyncio

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from icestream.runtime.jetstream.wire import Listener, Parser

_HIGH_WATER_BYTES = 1 << 16


class DirectClient(Client):
    """Hands messages over and takes commands without a task's turn; all else is the client library's.

    What is sent is written together at the end of the event loop's turn. While the broker reads more slowly
    than we write, the client library's flusher takes over, which waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parser = Parser(self)
        self._ps = self._parser  # type: ignore[assignment]  # it has what the client library calls
        self._is_write_due = False

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe, and hear of each message as soon as it is read.

        The listener is called in the order of the messages and must not wait. There is no limit on what it
        may hold back. When the subscription's `drain` returns, it has heard everything that the broker sent.
        """
        if self.is_closed:
            raise nats_errors.ConnectionClosedError
        self._sid += 1
        subscription = Subscription(self, self._sid, subject)
        self._subs[self._sid] = subscription
        self._parser.listeners[b"%d" % self._sid] = listener
        await self._send_subscribe(subscription)
        return subscription

    def send(self, command: bytes) -> bool:
        """Write a command soon; it must be complete and correct.

        Returns:
            Whether it was taken. While the broker is away, or does not read, what waits for it is bounded;
            over a connection that is closed nothing goes out.
        """
        n_bytes = len(command)
        if self._status == Client.CONNECTED:
            if self._pending_data_size > self._max_pending_size:
                return False
        elif self.is_closed or self._pending_data_size + n_bytes > self._max_pending_size:
            return False
        self._pending.append(command)
        self._pending_data_size += n_bytes
        if not self._is_write_due:
            self._is_write_due = True
            asyncio.get_running_loop().call_soon(self._write_due)
        return True

    async def on_listener_error(self, error: Exception) -> None:
        """Treat it as the client library treats what a subscription's callback raises."""
        await self._error_cb(error)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._parser.listeners.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _send_ping(self, future: "asyncio.Future[None] | None" = None) -> None:
        # The client library lets a ping overtake what is pending, so that its answer proves nothing: a drained
        # subscription could get another message, and a flushed acknowledgement still be here.
        self._write_pending()
        await super()._send_ping(future)

    def _write_due(self) -> None:
        self._is_write_due = False
        if not self._write_pending(_HIGH_WATER_BYTES) and self.is_connected:
            assert self._flush_queue is not None
            if self._flush_queue.empty():
                self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def _write_pending(self, max_unwritten_bytes: float = float("inf")) -> bool:
        """Hand what is pending to the socket, unless more than so much waits there already."""
        if not self.is_connected or not isinstance(self._transport, TcpTransport):
            return False
        assert self._transport._io_writer is not None
        socket = self._transport._io_writer.transport
        # On a socket that breaks just now it would be lost; where it is, it waits for the next connection.
        if socket.is_closing() or socket.get_write_buffer_size() > max_unwritten_bytes:
            return False
        if self._pending:
            # One piece: with TLS each piece would be a record of its own.
            socket.write(b"".join(self._pending))
            self._pending = []
            self._pending_data_size = 0
        return True
