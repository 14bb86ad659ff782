"""The satellite link of a test: a TCP proxy that can be cut, and that can swallow everything without a word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK_BYTES = 1 << 16


class Link:
    """Carries connections from a port of its own to a target.

    Attributes:
        port: Where to connect to.
        carried_bytes: In both directions since the start.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.carried_bytes = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    async def cut(self) -> None:
        """End every connection and refuse new ones."""
        assert self._server is not None, "the link is cut"
        self._server.close()
        self._server = None
        self.hang_up()

    async def restore(self) -> None:
        """Take connections again, on the same port."""
        assert self._server is None, "the link is there"
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Let nothing through any more, and tell nobody: both ends believe that they are connected."""
        self._passing.clear()

    def thaw(self) -> None:
        """Let everything through again, what was held back first."""
        self._passing.set()

    def hang_up(self) -> None:
        """End every connection; new ones are welcome while the link is not cut."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """End everything and wait until it has ended."""
        self.thaw()
        if self._server is not None:
            await self.cut()
        await asyncio.gather(*self._carrying)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pass(reader, far_writer))
                directions.create_task(self._pass(far_reader, writer))
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._passing.wait()
                self.carried_bytes += len(chunk)
                writer.write(chunk)
                await writer.drain()
        # One end is gone: the other is to know.
        writer.transport.abort()


@asynccontextmanager
async def linked(target_port: int) -> AsyncIterator[Link]:
    """A link for as long as the context lasts."""
    link = Link(target_port)
    await link.restore()
    try:
        yield link
    finally:
        await link.close()
