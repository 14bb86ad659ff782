"""Asks the monitoring (HTTP) of every server of a broker, however many there are behind a name."""

import asyncio
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from icestream.errors import BrokerUnavailable, Misconfigured
from icestream.runtime.nats_pages import Page, server_name

_EXAMPLE = "give it like http://127.0.0.1:8222, the server's --http_port; several are separated by commas"


@dataclass(frozen=True, slots=True)
class MonitoringServer:
    """One server that answers."""

    name: str
    varz: Page
    """Its own page, /varz."""
    address: "_Address"


@dataclass(frozen=True, slots=True)
class _Url:
    text: str
    netloc: str
    host: str
    port: int
    path: str
    is_https: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            parts = urlsplit(text)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (ValueError, KeyError) as error:
            raise Misconfigured(f"NATS' monitoring at {text!r}: {_EXAMPLE}") from error
        if not parts.hostname:
            raise Misconfigured(f"NATS' monitoring at {text!r} names no host: {_EXAMPLE}")
        return cls(text, parts.netloc, parts.hostname, port, parts.path.rstrip("/"), parts.scheme == "https")


@dataclass(frozen=True, slots=True)
class _Address:
    """One of those that the host of a URL has."""

    url: _Url
    ip: str

    def __str__(self) -> str:
        return f"{self.url.text} ({self.ip})"


class Monitoring:
    """Every server of a broker, as its monitoring shows it.

    `problems` of a question gets what went wrong with it: who is to blame, and how.
    """

    def __init__(self, urls: str, *, name_timeout_s: float, timeout_s: float) -> None:
        """Prepare; nothing is asked yet.

        Args:
            urls: Of servers, for example http://127.0.0.1:8222, separated by commas. Where a host has several
                addresses, as the headless service of a cluster, a server is expected at each.
            name_timeout_s: For the addresses of a host.
            timeout_s: For each page.

        Raises:
            Misconfigured: One of them is no URL of monitoring.
        """
        self._urls = [_Url.parse(text) for text in urls.split(",")]
        self._name_timeout_s = name_timeout_s
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context() if any(url.is_https for url in self._urls) else None

    async def servers(self, problems: dict[str, str]) -> list[MonitoringServer]:
        """Those that answer now, asked all at once; each of them once, however many ways lead to it."""
        addresses = [
            address
            for found in await asyncio.gather(*(self._addresses(url, problems) for url in self._urls))
            for address in found
        ]
        answers = await asyncio.gather(*(self._server(address, problems) for address in addresses))
        return list({server.name: server for server in answers if server}.values())

    async def page(self, server: MonitoringServer, path: str) -> Page:
        """One page of a server.

        Raises:
            BrokerUnavailable: There is no such page now.
        """
        return await self._page(server.address, path)

    async def _addresses(self, url: _Url, problems: dict[str, str]) -> Sequence[_Address]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._name_timeout_s):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            problems[url.text] = f"the host has no address: {str(error) or repr(error)}"
            return ()
        ips = dict.fromkeys(str(socket_address[0]) for *_, socket_address in found)
        return [_Address(url, ip) for ip in ips]

    async def _server(self, address: _Address, problems: dict[str, str]) -> MonitoringServer | None:
        try:
            varz = await self._page(address, "/varz")
            return MonitoringServer(server_name(varz), varz, address)
        except BrokerUnavailable as error:
            problems[str(address)] = str(error)
        except (KeyError, TypeError) as error:
            problems[str(address)] = f"this is no server's /varz: {error!r}"
        return None

    async def _page(self, address: _Address, path: str) -> Page:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._get(address, path)
            head, _, body = reply.partition(b"\r\n\r\n")
            status = head.partition(b"\r\n")[0].decode("latin-1")
            if status.split(" ")[1:2] != ["200"]:
                raise BrokerUnavailable(f"{path} says {status!r}")
            page: Page = json.loads(body)
        except TimeoutError as error:
            raise BrokerUnavailable(f"{path} gave no answer within {self._timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise BrokerUnavailable(f"{path} cannot be read: {error}") from error
        return page

    async def _get(self, address: _Address, path: str) -> bytes:
        url = address.url
        tls, host = (self._tls, url.host) if url.is_https else (None, None)
        reader, writer = await asyncio.open_connection(address.ip, url.port, ssl=tls, server_hostname=host)
        try:
            # A reply in HTTP/1.0 comes in one piece and ends with the connection.
            writer.write(f"GET {url.path}{path} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.transport.abort()
