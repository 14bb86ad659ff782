"""Who we are to the services and to NATS, and whom we trust: options of `icestream` itself, for every command."""

import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_status import rpc_status

from icestream.errors import IceStreamError, Misconfigured, Unavailable
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.login import logged_in, tls_to
from icestream.runtime.tokens import read_token

NATS_USER = "operator"
"""Whose inboxes answers of NATS come into."""

_CA_SETTING = "--ca-file (or ICESTREAM_CA_FILE)"
_TOKEN_SETTING = "--token-file (or ICESTREAM_TOKEN_FILE)"  # noqa: S105 - the name of an option
_SEED_SETTING = "--nats-seed-file (or ICESTREAM_NATS_SEED_FILE)"

# What gRPC says without TLS of a server that wants it, and of one that dies.
_HUNG_UP = "Socket closed"


@dataclass(frozen=True, slots=True)
class Access:
    """What gets a command into a deployment; by default into one that asks for nothing, as the local stack."""

    ca_file: Path | None = None
    """PEM file of the authority that signed the certificates of the services and of NATS."""
    tls: bool = False
    """TLS without `ca_file`: public authorities signed them."""
    token_file: Path | None = None
    """Holds the bearer token for gRPC."""
    nats_seed_file: Path | None = None
    """Holds the seed of the nkey of a NATS user."""

    @property
    def has_tls(self) -> bool:
        """Whether servers must prove who they are."""
        return self.tls or self.ca_file is not None

    def channel(self, address: str, options: Sequence[tuple[str, object]] = ()) -> grpc.aio.Channel:
        """A channel to a gRPC service, which is not connected yet.

        Args:
            address: host:port.
            options: Of gRPC.

        Raises:
            Misconfigured: A file cannot be used, or the token would be sent without TLS.
        """
        if not self.has_tls:
            if self.token_file is not None:
                raise Misconfigured(
                    f"the token in {self.token_file} is sent over TLS alone: give {_CA_SETTING}, or --tls where a "
                    "public authority signed the service's certificate"
                )
            return grpc.aio.insecure_channel(address, list(options))
        credentials = grpc.ssl_channel_credentials(self._ca_pem())
        if self.token_file is not None:
            token = grpc.access_token_call_credentials(read_token(self.token_file))
            credentials = grpc.composite_channel_credentials(credentials, token)
        return grpc.aio.secure_channel(address, credentials, list(options))

    def nats(self, url: str, *, name: str, timeout_s: float = 5.0) -> AbstractAsyncContextManager[Connection]:
        """A connection to NATS for as long as the context lasts; see `logged_in`.

        Raises:
            Misconfigured: A file cannot be used.
        """
        return logged_in(
            url,
            name=name,
            user=NATS_USER,
            seed=self.nats_seed_file,
            tls=self._tls_context() if self.has_tls else tls_to(url, None, _CA_SETTING),
            seed_setting=_SEED_SETTING,
            ca_setting=_CA_SETTING,
            timeout_s=timeout_s,
        )

    def refusal(self, error: grpc.aio.AioRpcError, address: str) -> IceStreamError | None:
        """What a status means that other credentials may help against; None for any other status."""
        problem = error.details() or ""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            if self.token_file is None:
                return Misconfigured(
                    f"the service at {address} asks who is calling: give {_TOKEN_SETTING} with the token that its "
                    "operator made for you"
                )
            return Misconfigured(
                f"the service at {address} does not take the token in {self.token_file} ({problem}); ask its "
                "operator for a new one"
            )
        # A service that answers may tell of another one, behind it, that it cannot reach.
        is_answer = rpc_status.from_call(error) is not None  # type: ignore[arg-type]
        if error.code() is grpc.StatusCode.UNAVAILABLE and not is_answer:
            if not self.has_tls and _HUNG_UP in problem:
                return Unavailable(
                    f"the service at {address} hangs up ({problem}); where it talks TLS, give {_CA_SETTING}, or --tls"
                )
            for sign, meaning in self._signs_of_handshakes().items():
                if sign in problem:
                    return Misconfigured(f"the service at {address} {meaning} ({problem})")
        return None

    def _signs_of_handshakes(self) -> Mapping[str, str]:
        """What gRPC says where a handshake fails, and what it means."""
        signer = "a public authority" if self.ca_file is None else f"the authority in {self.ca_file}"
        return {
            "WRONG_VERSION_NUMBER": "speaks no TLS: leave out --ca-file and --tls, and unset ICESTREAM_CA_FILE and "
            "ICESTREAM_TLS where they are set",
            "CERTIFICATE_VERIFY_FAILED": f"shows a certificate that {signer} did not sign, or that has expired: "
            f"give {_CA_SETTING} with the certificate of the authority that did",
            "Hostname Verification Check failed": "shows a certificate of another host: call it by a name that the "
            "certificate has, or have one issued for this name",
        }

    def _ca_pem(self) -> bytes | None:
        if self.ca_file is None:
            return None
        # gRPC takes any bytes, and says later and elsewhere that they are no certificate.
        self._tls_context()
        return self.ca_file.read_bytes()

    def _tls_context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise Misconfigured(
                f"--ca-file: {self.ca_file} cannot be used ({error.strerror or error}); expected a PEM file with the "
                "certificate of an authority"
            ) from error


# Commands of Typer know their own options alone; this reaches them through every call and task below.
_current: ContextVar[Access] = ContextVar("access")


def access() -> Access:
    """What the options of `icestream` or the environment said."""
    return _current.get(Access())


def access_options(
    context: typer.Context,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ICESTREAM_CA_FILE",
            help="Talk TLS to the services and to NATS; a PEM file of the authority that signed their certificates.",
            show_default=False,
        ),
    ] = None,
    tls: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--tls", envvar="ICESTREAM_TLS", help="Talk TLS; public authorities signed the certificates."
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ICESTREAM_TOKEN_FILE",
            help="File with the bearer token that gRPC services ask for; sent over TLS alone.",
            show_default=False,
        ),
    ] = None,
    nats_seed_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ICESTREAM_NATS_SEED_FILE",
            help="File with the seed of your nkey, where NATS asks who you are.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Remember the credentials for the command that follows."""
    before = _current.set(Access(ca_file, tls, token_file, nats_seed_file))
    context.call_on_close(lambda: _current.reset(before))
