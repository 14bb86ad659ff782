"""A connection to NATS that survives the broker's restarts and says how it is."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import structlog
from nats import errors as nats_errors

from icestream.errors import BrokerUnavailable, Misconfigured
from icestream.runtime.jetstream.client import DirectClient

RECONNECT_TIME_WAIT_S = 0.25
PING_INTERVAL_S = 10
CLOSE_TIMEOUT_S = 2.0
_CANCEL_AGAIN_S = 0.1
DEFAULT_INBOX_PREFIX = "_INBOX"
NO_TLS = "the server offers no TLS"

_log = structlog.get_logger(__name__)

ReconnectCallback = Callable[[], None]
LateCallback = Callable[[BrokerUnavailable], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who we are to the broker; only what is set is used."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed_file: Path | None = None
    """The seed of an nkey user."""
    creds_file: Path | None = None
    """JWT and seed, as `nsc` writes them."""

    def as_options(self) -> dict[str, Any]:
        """The same, as the client library names them."""
        seed_file, creds_file = self.nkey_seed_file, self.creds_file
        return {
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "nkeys_seed": str(seed_file) if seed_file else None,
            "user_credentials": str(creds_file) if creds_file else None,
        }


class _Client(DirectClient):
    """One that insists on TLS: the client library's speaks in the clear to whoever asks for none."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        if initial_connection and "tls" in self.options and not info.get("tls_required"):
            raise nats_errors.Error(NO_TLS)
        await super()._process_info(info, initial_connection)


class Connection:
    """One client connection, its state and its counters.

    Attributes:
        client: The client library's connection, for publishing and subscribing.
        n_reconnects: How often the broker was lost and found again.
        n_errors: Errors that the client reported, failed reconnects included.
        n_permission_violations: What the broker forbade; a forbidden publish shows up nowhere else.
    """

    def __init__(self, url: str) -> None:
        self.client: DirectClient = _Client()
        self.url = without_password(url)
        self.n_reconnects = 0
        self.n_errors = 0
        self.n_permission_violations = 0
        self._reconnect_callbacks: list[ReconnectCallback] = []
        # In the order in which they first came: a refused login is followed by a closed socket.
        self._kinds_of_error: dict[str, None] = {}
        self._lost_at_s: float | None = None
        self._is_closing = False
        self._attempts: asyncio.Task[None] | None = None
        self._lateness: asyncio.TimerHandle | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there right now."""
        return self.client.is_connected

    def problem(self) -> str | None:
        """What is wrong with the connection right now; None while the broker is there."""
        return None if self.is_connected else f"NATS at {self.url} is away"

    @property
    def is_closed(self) -> bool:
        """Whether the connection is over for good; the process must start again to get a new one."""
        return self.client.is_closed

    def on_reconnect(self, callback: ReconnectCallback) -> Callable[[], None]:
        """Call back after every reconnect, when subscriptions are in place again.

        Returns:
            What ends the calls.
        """
        self._reconnect_callbacks.append(callback)
        return lambda: self._reconnect_callbacks.remove(callback)

    async def _open(
        self, url: str, *, timeout_s: float, on_late: LateCallback | None, options: dict[str, Any]
    ) -> None:
        self._attempts = attempts = asyncio.create_task(
            self.client.connect(
                url.split(","),
                # The default gives up after 60 attempts and closes the client for good.
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_TIME_WAIT_S,  # type: ignore[arg-type]
                # A broker that is gone without a goodbye is missed after two unanswered pings.
                ping_interval=PING_INTERVAL_S,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                **options,
            )
        )
        try:
            # A URL that cannot be used is found out in the first turn.
            await asyncio.wait({attempts}, timeout=timeout_s if on_late is None else 0.0)
        except asyncio.CancelledError:
            await self._close()
            raise
        if attempts.done():
            self._check(attempts)
        elif on_late is None:
            await self._close()
            raise self._not_let_in(timeout_s)
        else:
            loop = asyncio.get_running_loop()
            self._lateness = loop.call_later(timeout_s, self._say_if_late, on_late, timeout_s)

    def _check(self, attempts: "asyncio.Task[None]") -> None:
        try:
            attempts.result()
        except nats_errors.Error as error:
            raise Misconfigured(f"cannot connect to {self.url!r}: {error}") from error
        except ModuleNotFoundError as error:
            raise Misconfigured(
                "nkey and creds files need a package: pip install 'nats-py[nkeys]'"
            ) from error

    def _say_if_late(self, on_late: LateCallback, timeout_s: float) -> None:
        assert self._attempts is not None
        if not self._attempts.done() or self._attempts.exception():
            on_late(self._not_let_in(timeout_s))

    def _not_let_in(self, timeout_s: float) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"no NATS server lets us in at {self.url} within {timeout_s:g} s "
            f"(errors: {self._errors_seen()}); start the broker (`icestream up`, or "
            "`nats-server -js`), or correct the URL or the credentials"
        )

    async def _close(self) -> None:
        self._is_closing = True
        if self._lateness is not None:
            self._lateness.cancel()
        if self._attempts is not None:
            await _end(self._attempts)
        if self.client.is_connected:
            # Acks are fire and forget: without a round trip the last ones may not arrive.
            with suppress(nats_errors.Error, TimeoutError):
                await asyncio.wait_for(self.client.flush(), CLOSE_TIMEOUT_S)
        else:
            # The client library would fail on writing what is buffered, and leave its tasks behind.
            self.client._pending.clear()
            self.client._pending_data_size = 0
        # A broker that does not read would keep us here.
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self.client.close(), CLOSE_TIMEOUT_S)

    async def _on_error(self, error: Exception) -> None:
        self.n_errors += 1
        kind = str(error) or repr(error)
        is_new = kind not in self._kinds_of_error
        self._kinds_of_error[kind] = None
        if "permissions violation" in str(error).lower():
            self.n_permission_violations += 1
            _log.warning("broker_forbids", reason=str(error))
        # While the broker is away, failed attempts come four a second: losing it is logged once, as is a refusal.
        elif (is_new or self.is_connected) and not isinstance(
            error, OSError | nats_errors.StaleConnectionError | TimeoutError
        ):
            _log.warning("broker_client_error", reason=repr(error))

    def _errors_seen(self) -> str:
        return "; ".join(self._kinds_of_error) or "none"

    async def _on_disconnected(self) -> None:
        if not self._is_closing:
            self._lost_at_s = monotonic()
            self._kinds_of_error.clear()
            _log.warning("broker_lost", url=self.url)

    async def _on_reconnected(self) -> None:
        self.n_reconnects += 1
        outage_s = monotonic() - self._lost_at_s if self._lost_at_s is not None else 0.0
        _log.info("broker_found_again", url=self.url, outage_s=round(outage_s, 3))
        for callback in tuple(self._reconnect_callbacks):
            callback()

    async def _on_closed(self) -> None:
        if not self._is_closing:
            _log.error("broker_connection_closed_for_good", url=self.url, reason=self._errors_seen())


async def _end(attempts: "asyncio.Task[None]") -> None:
    """Cancel again and again: the client library swallows a cancellation now and then, and tries for ever."""
    while not attempts.done():
        attempts.cancel()
        await asyncio.wait({attempts}, timeout=_CANCEL_AGAIN_S)


@asynccontextmanager
async def connect(
    url: str,
    *,
    name: str,
    credentials: Credentials | None = None,
    tls: ssl.SSLContext | None = None,
    inbox_prefix: str = DEFAULT_INBOX_PREFIX,
    timeout_s: float = 5.0,
    on_late: LateCallback | None = None,
) -> AsyncIterator[Connection]:
    """Connect, and stay connected for as long as the context lasts.

    Args:
        url: One `nats://` URL, or several separated by commas.
        name: What the broker's monitoring calls this connection.
        credentials: Who we are; None where the broker asks nobody.
        tls: How to verify the broker, and our certificate; a broker without TLS is then refused.
        inbox_prefix: Where answers come in; a service with least privilege has one of its own.
        timeout_s: How long to try for the first connection.
        on_late: For whoever has something to do without the broker: the connection is yielded at once, not yet
            connected, and tries for ever. This is called once where it has not succeeded by then, with what
            would have been raised.

    Raises:
        BrokerUnavailable: The first connection failed. Later the connection comes back by itself.
        Misconfigured: The URL or the credentials cannot be used.
    """
    connection = Connection(url)
    options = (credentials or Credentials()).as_options()
    options |= {"name": name, "tls": tls, "inbox_prefix": inbox_prefix}
    await connection._open(url, timeout_s=timeout_s, on_late=on_late, options=options)
    try:
        yield connection
    finally:
        await connection._close()


def without_password(url: str) -> str:
    """The URL, or the comma separated URLs, without who logs in, for messages and logs."""
    return ",".join(_without_userinfo(part) for part in url.split(","))


def _without_userinfo(url: str) -> str:
    # By hand: without a scheme, or with a password that would have to be quoted, it is no URL.
    return re.sub("^([a-z]+://)?.*@", r"\1", url)
