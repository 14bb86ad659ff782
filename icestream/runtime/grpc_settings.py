"""Settings of the services that serve gRPC."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from icestream.runtime.grpc_certificates import CertificateFiles
from icestream.runtime.settings import Port, ServiceSettings


class GrpcServiceSettings(ServiceSettings):
    """What these services share; each has a default port of its own."""

    grpc_host: str = "127.0.0.1"
    """Address on which gRPC is served."""
    grpc_port: Port
    """Port of the same; 0 takes a free one and logs it."""
    grpc_tls_certificate: Path | None = None
    """PEM file of this server's certificate, with those between it and its authority; read again when it changes.
    Without it gRPC is served without TLS."""
    grpc_tls_key: Path | None = None
    """PEM file of the private key to that certificate."""
    grpc_tokens: Path | None = None
    """File of the bearer tokens that callers need, a line `NAME SHA256HEX` each; read again when it changes. Without it
    gRPC asks nobody who is calling."""

    @model_validator(mode="after")
    def _certificate_and_key_go_together(self) -> Self:
        if (self.grpc_tls_certificate is None) != (self.grpc_tls_key is None):
            raise ValueError("--grpc-tls-certificate and --grpc-tls-key go together; one of them is missing")
        return self

    @property
    def grpc_certificate(self) -> CertificateFiles | None:
        """What the server shows; None where it speaks no TLS."""
        if self.grpc_tls_certificate is None or self.grpc_tls_key is None:
            return None
        return CertificateFiles(self.grpc_tls_certificate, self.grpc_tls_key)
