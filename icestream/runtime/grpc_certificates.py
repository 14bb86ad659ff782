"""The certificate that a gRPC server shows; a renewed one is shown from the next connection on."""

import ssl
from _ssl import _test_decode_cert  # type: ignore[attr-defined]  # the stubs lack it
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from prometheus_client import CollectorRegistry, Gauge

from icestream.errors import Misconfigured

_log = structlog.get_logger(__name__)

_State = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a server's certificate and the key to it are, as PEM."""

    certificate: Path
    """With the certificates between it and its authority, if there are any."""
    key: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server binds its port with; the files are looked at again for each new connection.

        Raises:
            Misconfigured: The files cannot be used. Where that happens later, what they were before stays in use.
        """
        renewal = _Renewal(self)
        return grpc.dynamic_ssl_server_credentials(self._read(), renewal)  # type: ignore[arg-type]  # None is allowed

    def expires_unix_s(self) -> float:
        """Until when the certificate is good that the file holds now; 0 where it holds none."""
        try:
            # Named as one for tests, but nothing else without another package tells it of a certificate that has
            # expired, or that no authority of ours signed.
            return ssl.cert_time_to_seconds(str(_test_decode_cert(self.certificate)["notAfter"]))
        except (OSError, ValueError):
            return 0.0

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            # The password is for encrypted keys, which fail with it instead of asking the terminal for one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
            pair = self.key.read_bytes(), self.certificate.read_bytes()
        except OSError as error:
            raise Misconfigured(
                f"cannot serve TLS with the certificate {self.certificate} and the key {self.key}: "
                f"{error.strerror or error}; expected PEM files of a certificate and of its own key, not encrypted"
            ) from error
        return grpc.ssl_server_certificate_configuration([pair])

    def _state(self) -> _State | None:
        """What tells one content from another; Kubernetes changes the files behind symbolic links."""
        try:
            found = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return None
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def watched_certificate(
    files: CertificateFiles | None, registry: CollectorRegistry
) -> CertificateFiles | None:
    """The same files, and a metric that says until when their certificate is good; None where there is no TLS."""
    if files is not None:
        Gauge(
            "icestream_grpc_certificate_expiry_timestamp_seconds",
            "Until when the certificate is good that the file holds now; 0 where it holds none.",
            registry=registry,
        ).set_function(files.expires_unix_s)
    return files


class _Renewal:
    """Called by gRPC before each handshake: the certificate for it, or None for the same as before."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._state = files._state()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        # First the state: what is written in between is found the next time.
        if (state := self._files._state()) == self._state:
            return None
        self._state = state
        try:
            renewed = self._files._read()
        except Misconfigured as error:
            _log.error(
                "a changed certificate cannot be used; the former one stays in use", problem=str(error)
            )
            return None
        _log.info("a changed certificate is in use", path=str(self._files.certificate))
        return renewed
